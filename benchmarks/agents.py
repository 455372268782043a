"""Steps a second of the market as an environment: `python benchmarks/agents.py`, many episodes at once and one by one.

The same random decisions on a table of noise as large as 90 days of one-minute bars; medians of several rounds in which
the ways take turns. An episode that is over begins anew at a random row, as in training.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from pipeline.models.agents.engine.gym import TradingEnv
from pipeline.models.agents.engine.market import Market
from pipeline.samples import Samples

ROWS, COLUMNS, EPISODE_BARS = 129_600, 44, 720


def table() -> Samples:
    """Noise in one segment."""
    rng = np.random.default_rng(0)
    time_ms, columns = 60_000 * np.arange(ROWS, dtype=np.int64), tuple(f"column_{i}" for i in range(COLUMNS))
    x, move = rng.standard_normal((ROWS, COLUMNS), dtype=np.float32), 1e-3 * rng.standard_normal(ROWS)
    return Samples(time_ms, time_ms, np.zeros(ROWS, np.int32), x, columns, move.astype(np.float32), move)


def at_once(market: Market, *, episodes: int, steps: int) -> int:
    """All episodes step together."""
    rng = np.random.default_rng(0)
    state = market.drawn(episodes, rng=rng)
    for target in rng.uniform(-1, 1, size=(steps, episodes)):
        market.observe(state)
        done = market.step(state, target)
        is_over = done.terminated | done.truncated
        state = done.state.where(is_over, market.drawn(episodes, rng=rng)) if is_over.any() else done.state
    return steps * episodes


def one_by_one(market: Market, *, steps: int) -> int:
    """One episode of the Gymnasium environment after another."""
    env = TradingEnv(market)
    env.reset(seed=0)
    for target in np.random.default_rng(0).uniform(-1, 1, size=(steps, 1)):
        _, _, terminated, truncated, _ = env.step(target)
        if terminated or truncated:
            env.reset()
    return steps


def rate(run: Callable[[], int]) -> float:
    """Steps a second."""
    start = time.perf_counter()
    return run() / (time.perf_counter() - start)


def main() -> None:
    """Print the rates and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, nargs="+", default=[16, 64, 256, 1024])
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    market = Market(
        table(),
        np.arange(ROWS),
        fee_bps=1.0,
        slippage_bps=0.5,
        risk_penalty=0.0,
        drawdown_limit=0.5,
        episode_bars=EPISODE_BARS,
    )
    found: dict[int, list[tuple[float, float]]] = {episodes: [] for episodes in asked.episodes}
    for _ in range(asked.rounds):
        for episodes in asked.episodes:
            single = rate(lambda: one_by_one(market, steps=4_000))
            many = rate(lambda episodes=episodes: at_once(market, episodes=episodes, steps=1_000))
            found[episodes].append((many, single))
    for episodes, pairs in found.items():
        many, single = (statistics.median(each) for each in zip(*pairs, strict=True))
        ratio = statistics.median(many / single for many, single in pairs)
        print(f"{episodes:5} at once: {many:12,.0f} steps/s, one by one {single:8,.0f}, ratio {ratio:6.1f}")


if __name__ == "__main__":
    main()
