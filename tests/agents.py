"""A market whose truth is known and small agents, for tests that let one trade in the other."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.signal import lfilter

from pipeline.models.agents.engine.market import Market
from pipeline.models.agents.engine.promise import Agent
from pipeline.models.base import Shape, build
from pipeline.samples import Samples

PARAMS = yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text(encoding="utf-8"))
FEE_BPS, HALF_LIFE, UNIT, BAND = 5.0, 10, 1e-3, 0.2
COSTS = {"fee_bps": FEE_BPS, "slippage_bps": 0.0, "band": BAND}
TRAIN, VALID, TEST = np.arange(12_000), np.arange(12_000, 14_000), np.arange(14_000, 20_000)
FEW = {"episodes": 20, "rounds": 2, "warm_up": 500, "memory": 5_000}  # steps, of a fit that learns next to nothing


def world(*, signal: float, seed: int) -> tuple[Samples, np.ndarray]:
    """Bars of which `signal` is the predictable share of the variance, told by column 0; and (N,) expected moves."""
    rng, persistence = np.random.default_rng(seed), 0.5 ** (1 / HALF_LIFE)
    flow = lfilter([np.sqrt(1 - persistence**2)], [1, -persistence], rng.normal(size=20_000))
    expected = UNIT * np.sqrt(signal) * flow
    move = expected + UNIT * np.sqrt(1 - signal) * rng.normal(size=20_000)
    x, time = rng.normal(size=(20_000, 3)).astype(np.float32), 60_000 * np.arange(20_000, dtype=np.int64)
    x[:, 0] = flow
    segment = np.zeros(20_000, np.int32)
    return Samples(time, time + 60_000, segment, x, ("a", "b", "c"), move.astype(np.float32), move), expected


def market(samples: Samples, rows: np.ndarray, **changes: float) -> Market:
    """The rows as a market with the costs of this module."""
    easy = {"risk_penalty": 0.0, "drawdown_limit": 1.0, "episode_bars": 200}
    return Market(samples, rows, **COSTS | easy | changes)


def agent(name: str, samples: Samples, *, seed: int = 1, **changes: Any) -> Agent:
    """The model of a default block, unfitted, with these costs; `changes` are of its build or of its family."""
    block, shared = PARAMS["models"][name], PARAMS["agents"] | COSTS
    built = block["build"] | {key: value for key, value in changes.items() if key in block["build"]}
    shared |= {key: value for key, value in changes.items() if key in shared}
    assert changes.keys() <= built.keys() | shared.keys()
    shape = Shape(columns=samples.columns, outputs=("position",))
    model = build(block | {"build": built}, shape, shared=shared, seed=seed)
    assert isinstance(model, Agent)
    return model
