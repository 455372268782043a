"""What agents learn where the truth is known: `python benchmarks/agents_learning.py`, medians over several seeds.

The blocks of params.yaml on bars of which a known share of the variance can be foreseen, with fees. The best achievable
net return is that of one who knows every expected move: dynamic programming over the positions -1, 0 and 1, better than
which is nothing, since gains and costs are linear. Jumps make the tails of the last world; there the price of caution
is shown.
"""

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from joblib import Parallel, delayed
from scipy.signal import lfilter

from pipeline.models.agents.engine.trial import shortfall
from pipeline.models.base import Shape, build
from pipeline.samples import Samples
from pipeline.trading import backtest

PARAMS = yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text(encoding="utf-8"))
UNIT, HALF_LIFE = 1e-3, 10
ROWS = 40_000
TRAIN, VALID, TEST = np.split(np.arange(ROWS), [24_000, 28_000])
COSTS = {"fee_bps": 4.0, "slippage_bps": 1.0}
JUMPS = {"share": 0.01, "size": 6.0}  # of the bars, and in deviations of a bar's move


def world(*, signal: float, rows: int, columns: int, seed: int, jumps: bool = False) -> tuple[Samples, np.ndarray]:
    """Bars of which `signal` is the predictable share of the variance, told by the first column; and (N,) expected."""
    rng, persistence = np.random.default_rng(seed), 0.5 ** (1 / HALF_LIFE)
    flow = lfilter([np.sqrt(1 - persistence**2)], [1, -persistence], rng.normal(size=rows))
    expected = UNIT * np.sqrt(signal) * flow
    move = expected + UNIT * np.sqrt(1 - signal) * rng.normal(size=rows)
    x = rng.normal(size=(rows, columns)).astype(np.float32)
    x[:, 0] = flow
    if jumps:  # the second column tells where they are likely; they go either way
        is_likely = rng.random(rows) < 10 * JUMPS["share"]
        x[:, 1] = is_likely
        move += is_likely * (rng.random(rows) < 0.1) * rng.choice([-1, 1], rows) * JUMPS["size"] * UNIT
    time, names = 60_000 * np.arange(rows, dtype=np.int64), tuple(f"column_{i}" for i in range(columns))
    segment = np.zeros(rows, np.int32)
    return Samples(time, time + 60_000, segment, x, names, move.astype(np.float32), move), expected


def best(expected: np.ndarray, *, cost: float) -> np.ndarray:
    """(n,) positions that earn the most in expectation by one who knows all expected moves: dynamic programming.

    `cost` is paid on what is traded. It and gains are linear in the position: nothing between -1, 0 and 1 is better
    than the best of them.
    """
    held = np.array([-1.0, 0.0, 1.0])
    value, choice = -cost * np.abs(held), np.empty((len(expected), 3), dtype=np.int64)
    for row in range(len(expected) - 1, -1, -1):
        worth = held * expected[row] - cost * np.abs(held[:, None] - held) + value  # (from, to)
        choice[row], value = worth.argmax(axis=1), worth.max(axis=1)
    positions, at = np.empty(len(expected)), 1
    for row, options in enumerate(choice):
        at = options[at]
        positions[row] = held[at]
    return positions


def learnt(name: str, seed: int, *, signal: float, jumps: bool = False, **changes: Any) -> dict[str, Any]:
    """How a model's default block does on test rows of a world."""
    samples, expected = world(signal=signal, rows=ROWS, columns=8, seed=seed, jumps=jumps)
    block = PARAMS["models"][name]
    block = block | {"build": block["build"] | changes}
    shape = Shape(columns=samples.columns, outputs=("position",))
    model = build(block, shape, shared=PARAMS["agents"] | COSTS, seed=seed)
    history = model.fit(samples, TRAIN, VALID)
    segment, move = samples.segment[TEST], samples.move[TEST]
    own = backtest(model.score(samples, TEST), segment, move, **COSTS, band=PARAMS["agents"]["band"])
    most = backtest(best(expected[TEST], cost=sum(COSTS.values()) / 1e4), segment, move, **COSTS, band=0.0)
    examined = model.examined(samples, TEST)
    return {
        "share": own.net.sum() / most.net.sum() if signal else float("nan"),
        "net_bps": own.net.mean() * 1e4,
        "turnover": own.turnover.mean(),
        "shortfall_bps": shortfall(own.net, level=0.95) * 1e4,
        "var_rate": examined["var_rate"],
        "curve": [-entry["valid"] for entry in history],
    }


def worlds() -> Iterator[tuple[str, dict[str, Any]]]:
    """What is shown: a strong signal, none, and jumps at several aversions to risk."""
    for name in ("d4pg", "marl"):
        yield f"{name}, signal 0.3", {"name": name, "signal": 0.3}
        yield f"{name}, null", {"name": name, "signal": 0.0}
    for aversion in (0.0, 0.1, 0.3, 1.0):
        yield (
            f"d4pg, jumps, risk_aversion {aversion}",
            {
                "name": "d4pg",
                "signal": 0.1,
                "jumps": True,
                "risk_aversion": aversion,
            },
        )


def main() -> None:
    """Print a line for every world, and the curve of the valid part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", default="", help="worlds whose name has this in it")
    asked = parser.parse_args()
    for named, given in worlds():
        if asked.only not in named:
            continue
        found = Parallel(n_jobs=2)(delayed(learnt)(seed=seed, **given) for seed in range(1, asked.seeds + 1))
        told = {key: statistics.median(each[key] for each in found) for key in found[0] if key != "curve"}
        curve = [statistics.median(each["curve"][i] for each in found) for i in range(len(found[0]["curve"]))]
        print(named, {key: round(float(value), 4) for key, value in told.items()}, "shares", end=" ")
        print([round(float(each["share"]), 3) for each in found], "curve", [round(value, 3) for value in curve])


if __name__ == "__main__":
    main()
