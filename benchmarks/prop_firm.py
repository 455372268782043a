"""Speed of the prop-firm engine: `python benchmarks/prop_firm.py`; medians of several single-threaded runs.

Five random paths of 90 days of minutes, with limits that none of them breaks, so that every bar is walked; then
challenges of resampled days under FTMO's rules. Compiling is not measured.
"""

import time
from collections.abc import Callable

import numpy as np

from pipeline.evaluation.prop_firm import PropFirmRules, estimate_daily_volatility, make_bars, simulate
from pipeline.evaluation.prop_firm_odds import ChallengeSettings, measure_odds, simulate_many

PATHS, BARS, MINUTE_MS, START_MS = 5, 129_600, 60_000, 1_704_067_200_000
REPEATS = 5
RULES = PropFirmRules(
    initial_balance=100_000.0,
    daily_loss=0.05,
    max_loss=0.1,
    targets=[0.1, 0.05],
    min_days=4,
    trailing=False,
    timezone="Europe/Prague",
    fee_bps=3.25,
    max_leverage=3.3,
    lot_size=0.01,
    challenge_fee=540.0,
    profit_split=0.8,
    payout_days=14,
)
SETTINGS = ChallengeSettings(
    risks=[0.0025, 0.005, 0.01, 0.02],
    evaluation_days=180,
    funded_days=90,
    block_days=5.0,
    resamples=50,
    confidence=0.95,
    models=[],
)


def measure_seconds(call: Callable[[], object]) -> tuple[float, float]:
    """Return the median time of a call after a first one, and its median CPU time."""
    call()
    seconds = []
    for _ in range(REPEATS):
        start, cpu = time.perf_counter(), time.process_time()
        call()
        seconds.append((time.perf_counter() - start, time.process_time() - cpu))
    elapsed, cpu = np.median(seconds, axis=0)
    return float(elapsed), float(cpu)


def main() -> None:
    """Print the times."""
    rng = np.random.default_rng(1)
    time_ms = START_MS + MINUTE_MS * np.arange(BARS)
    close = 40_000 * np.exp(np.cumsum(rng.normal(0.0, 0.0007, BARS)))
    low, high = close * (1 - rng.exponential(0.0004, BARS)), close * (1 + rng.exponential(0.0004, BARS))
    sides = rng.choice([-1.0, 0.0, 1.0], size=(PATHS, BARS // 720))
    positions = np.repeat(sides, 720, axis=1)  # at most two orders a day

    def run_paths() -> None:
        for position in positions:
            result = simulate(
                time_ms,
                high,
                low,
                close,
                0.1 * position,
                initial_balance=100_000.0,
                daily_loss=0.9,
                max_loss=0.9,
                target=np.inf,
                min_days=4,
                trailing=True,
                fee_bps=3.25,
                timezone="Europe/Prague",
            )
            assert result.breached is None

    elapsed, cpu = measure_seconds(run_paths)
    print(f"{PATHS} paths of {BARS:,} bars: {elapsed:.3f} s, CPU {cpu:.3f} s")
    prices = {"high": high, "low": low, "close": close}
    paths = [make_bars(time_ms, **prices, position=position, timezone=RULES.timezone) for position in positions]
    volatility = estimate_daily_volatility(time_ms, close, timezone=RULES.timezone)
    cpu = time.process_time()
    challenges = simulate_many(paths, rules=RULES, settings=SETTINGS, daily_volatility=volatility, seed=1)
    cpu = time.process_time() - cpu
    print(f"{len(challenges):,} challenges: CPU {cpu:.2f} s, {1e3 * cpu / len(challenges):.2f} ms each")
    odds = measure_odds(challenges, phases=len(RULES.targets), confidence=SETTINGS.confidence)
    columns = ["pass_1", "pass_2", "daily_breach", "max_breach", "undecided", "ruin", "payout"]
    print(odds.groupby("risk")[columns].mean().round(3).to_string())


if __name__ == "__main__":
    main()
