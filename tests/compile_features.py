"""Run as a program before the tests: compile the features once, for all processes that then read numba's cache.

It takes a minute. Test processes that start together would each compile them, and so would each small repository.
"""

from pipeline.features.engine import compute
from pipeline.market import bars, simulated
from tests.params import PARAMS

if __name__ == "__main__":
    market = {key: value for key, value in PARAMS["sources"]["simulated"].items() if key != "kind"}
    raw, _ = simulated.load(**market | {"days": 1})
    compute(bars.clean(raw)[0], **PARAMS["datasets"]["klines"]["features"])
