"""Measure how fast agents step, learn and roll out: `python benchmarks/agents.py`; medians of several rounds.

Steps: the vectorized environment and the Gymnasium environment in turn, with the same random actions on a table of
noise as large as 90 days of one-minute bars; a finished episode restarts at a random row. Updates: of actors, critic
and target networks, by the blocks of params.yaml. Rows: rollouts in the compiled loop, and with one call of torch for
each bar. One thread.
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

from pipeline.fills import Fills
from pipeline.labels import KINDS
from pipeline.models.agents.engine.agent import Agent
from pipeline.models.agents.engine.hyperparameters import EnvironmentConfig
from pipeline.models.agents.engine.learner import Learner
from pipeline.models.agents.engine.market_env import MarketEnv
from pipeline.models.agents.engine.replay import ReplayBatch
from pipeline.models.agents.engine.rollout import roll_out
from pipeline.models.agents.environments.gymnasium_env import TradingEnv
from pipeline.models.base import Signature
from pipeline.models.plugins import build
from pipeline.samples import Samples
from pipeline.trading_rules import list_terms, read_costs, read_rules

PARAMS = yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text(encoding="utf-8"))
ROWS, COLUMNS, EPISODE_BARS = 129_600, 44, 720
MARKET = list_terms(read_rules(PARAMS), read_costs(PARAMS, "klines"))


def simulate_noise() -> Samples:
    """Return noise in one segment."""
    rng = np.random.default_rng(0)
    time_ms, columns = 60_000 * np.arange(ROWS, dtype=np.int64), tuple(f"column_{i}" for i in range(COLUMNS))
    x, move = rng.standard_normal((ROWS, COLUMNS), dtype=np.float32), 1e-3 * rng.standard_normal(ROWS)
    nothing, volume, outcome = np.zeros(ROWS), np.full(ROWS, 1e12), np.zeros(ROWS, np.int8)
    fills = Fills(move, nothing, volume, outcome, np.zeros(ROWS, bool))
    return Samples(time_ms, time_ms, np.zeros(ROWS, np.int32), x, columns, move.astype(np.float32), fills=fills)


def step_vectorized(market: MarketEnv, *, num_envs: int, steps: int) -> int:
    """Step all episodes at once; return the number of single steps."""
    rng = np.random.default_rng(0)
    state = market.sample_episodes(num_envs, rng=rng)
    for target in rng.uniform(-1, 1, size=(steps, num_envs)):
        market.observe(state)
        step = market.step(state, target)
        is_over = step.terminated | step.truncated
        state = step.state
        if is_over.any():
            state = state.replace_where(is_over, market.sample_episodes(num_envs, rng=rng))
    return steps * num_envs


def step_gymnasium(market: MarketEnv, *, steps: int) -> int:
    """Step one episode of the Gymnasium environment after another; return the number of steps."""
    env = TradingEnv(market)
    env.reset(seed=0)
    for target in np.random.default_rng(0).uniform(-1, 1, size=(steps, 1)):
        _, _, terminated, truncated, _ = env.step(target)
        if terminated or truncated:
            env.reset()
    return steps


def build_agent(name: str, samples: Samples) -> Agent:
    """Return the unfitted model of a block."""
    signature = Signature(columns=samples.columns, output=KINDS["position"].output)
    model = build("agents", PARAMS["models"]["agents"][name], signature, shared=PARAMS["agents"], market=MARKET, seed=1)
    assert isinstance(model, Agent)
    return model


def prepare_updates(model: Agent, *, device: torch.device, updates: int) -> Callable[[], int]:
    """Return a function that makes `updates` updates from random transitions."""
    rng, batch_size, num_actors = np.random.default_rng(0), model.training_config.batch_size, model.policy.num_actors
    learner = Learner(model.policy, model.critic, config=model.learner_config, device=device)
    fields = {
        "observation": rng.standard_normal((batch_size, len(model.input_columns)), dtype=np.float32),
        "next_observation": rng.standard_normal((batch_size, len(model.input_columns)), dtype=np.float32),
        "actions": rng.uniform(-1, 1, (batch_size, num_actors)).astype(np.float32),
        "reward": rng.standard_normal((batch_size, num_actors), dtype=np.float32),
        "discount": np.full(batch_size, 0.8, np.float32),
    }
    batch = ReplayBatch(np.arange(batch_size), np.ones(batch_size, np.float32), fields)

    def run() -> int:
        for _ in range(updates):
            learner.update(batch, tail=None)
        return updates

    return run


def roll_out_compiled(model: Agent, market: MarketEnv) -> int:
    """Roll out over all rows in the compiled loop; return their number."""
    roll_out(model.policy, market)
    return len(market.rows)


@torch.no_grad()
def roll_out_by_torch(model: Agent, market: MarketEnv, *, rows: int) -> int:
    """Roll out over the first rows with one call of torch for each; return their number."""
    state = market.start_episodes(market.rows[:1])
    for _ in range(rows):
        state = market.step(state, model.policy(torch.from_numpy(market.observe(state)))[:, 0].numpy()).state
    return rows


def measure_rate(run: Callable[[], int]) -> float:
    """Return what `run` counts, per second."""
    start = time.perf_counter()
    return run() / (time.perf_counter() - start)


def measure_agent(model: Agent, market: MarketEnv, *, rounds: int) -> str:
    """Return updates per second, and rows per second of both rollouts, as a line."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    runs = (
        prepare_updates(model, device=device, updates=200),
        partial(roll_out_compiled, model, market),
        partial(roll_out_by_torch, model, market, rows=2_000),
    )
    roll_out_compiled(model, market)  # compiles
    updates, rows, one = (statistics.median(measure_rate(run) for _ in range(rounds)) for run in runs)
    return (
        f"{updates:,.0f} updates/s on {device.type}; rollout {rows:,.0f} rows/s, by torch {one:,.0f}, "
        f"ratio {rows / one:.1f}"
    )


def main() -> None:
    """Print the rates and their ratios."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-envs", type=int, nargs="+", default=[16, 64, 256, 1024])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rules = MARKET | {"no_trade_band": 0.0, "risk_penalty": 0.0, "max_drawdown": 0.5}
    market = MarketEnv(simulate_noise(), np.arange(ROWS), config=EnvironmentConfig(**rules), episode_bars=EPISODE_BARS)
    found: dict[int, list[tuple[float, float]]] = {num_envs: [] for num_envs in options.num_envs}
    for _ in range(options.rounds):
        for num_envs in options.num_envs:
            single = measure_rate(lambda: step_gymnasium(market, steps=4_000))
            many = measure_rate(partial(step_vectorized, market, num_envs=num_envs, steps=1_000))
            found[num_envs].append((many, single))
    for num_envs, pairs in found.items():
        many, single = (statistics.median(each) for each in zip(*pairs, strict=True))
        ratio = statistics.median(many / single for many, single in pairs)
        print(f"{num_envs:5} at once: {many:12,.0f} steps/s, one by one {single:8,.0f}, ratio {ratio:6.1f}")
    for name in ("d4pg", "marl"):
        print(name, measure_agent(build_agent(name, market.samples), market, rounds=options.rounds))


if __name__ == "__main__":
    main()
