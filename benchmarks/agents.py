"""How fast agents step, learn and are rolled forward: `python benchmarks/agents.py`; medians of several rounds.

Steps: the market as an environment, many episodes at once and one by one, taking turns; the same random decisions on a
table of noise as large as 90 days of one-minute bars, and an episode that is over begins anew at a random row. Updates:
one of actors, critic and their targets, by the blocks of params.yaml. Rows: a policy rolled forward bar by bar, as when
its answers are asked for, in the compiled loop and by a call of torch for each bar. One thread.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import yaml

from pipeline.models.agents.engine.learner import Learner, Plan
from pipeline.models.agents.engine.market import Market
from pipeline.models.agents.engine.promise import Agent
from pipeline.models.agents.engine.replay import Batch
from pipeline.models.agents.engine.rollout import rolled
from pipeline.models.agents.environments.gym import TradingEnv
from pipeline.models.base import Shape, build
from pipeline.samples import Samples

PARAMS = yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text(encoding="utf-8"))
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


def agent(name: str, samples: Samples) -> Agent:
    """The model of a default block, unfitted."""
    shape = Shape(columns=samples.columns, outputs=("position",))
    made = build(PARAMS["models"][name], shape, shared=PARAMS["agents"], seed=1)
    assert isinstance(made, Agent)
    return made


def learning(model: Agent, *, device: torch.device, updates: int) -> Callable[[], int]:
    """So many updates by random transitions."""
    rng, batch = np.random.default_rng(0), model.batch
    plan = Plan(**{name: getattr(model, name) for name in Plan.__dataclass_fields__})
    learner = Learner(model.policy, model.critic, plan=plan, device=device)
    fields = {
        "observation": rng.standard_normal((batch, len(model.input_columns)), dtype=np.float32),
        "next_observation": rng.standard_normal((batch, len(model.input_columns)), dtype=np.float32),
        "actions": rng.uniform(-1, 1, (batch, model.policy.agents)).astype(np.float32),
        "reward": rng.standard_normal((batch, model.policy.agents), dtype=np.float32),
        "discount": np.full(batch, 0.8, np.float32),
    }
    drawn = Batch(np.arange(batch), np.ones(batch, np.float32), fields)

    def run() -> int:
        for _ in range(updates):
            learner.learn(drawn, tail=None)
        return updates

    return run


def rolling(model: Agent, market: Market) -> int:
    """The compiled loop over all rows."""
    rolled(model.policy, market)
    return len(market.rows)


@torch.no_grad()
def rolling_by_torch(model: Agent, market: Market, *, rows: int) -> int:
    """A call of torch for each of the first rows."""
    state = market.begin(market.rows[:1])
    for _ in range(rows):
        state = market.step(state, model.policy(torch.from_numpy(market.observe(state)))[:, 0].numpy()).state
    return rows


def rate(run: Callable[[], int]) -> float:
    """Steps a second."""
    start = time.perf_counter()
    return run() / (time.perf_counter() - start)


def learnt_and_rolled(model: Agent, market: Market, *, rounds: int) -> str:
    """Updates a second, and rows a second by both ways."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    runs = (
        learning(model, device=device, updates=200),
        partial(rolling, model, market),
        partial(rolling_by_torch, model, market, rows=2_000),
    )
    rolling(model, market)  # compiles
    updates, rows, one = (statistics.median(rate(run) for _ in range(rounds)) for run in runs)
    return (
        f"{updates:,.0f} updates/s on {device.type}; rolled {rows:,.0f} rows/s, by torch {one:,.0f}, "
        f"ratio {rows / one:.1f}"
    )


def main() -> None:
    """Print the rates and their ratios."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, nargs="+", default=[16, 64, 256, 1024])
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    market = Market(
        table(),
        np.arange(ROWS),
        fee_bps=1.0,
        slippage_bps=0.5,
        band=0.0,
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
    for name in ("d4pg", "marl"):
        print(name, learnt_and_rolled(agent(name, market.samples), market, rounds=asked.rounds))


if __name__ == "__main__":
    main()
