"""A market whose truth is known and small agents, for tests that let one trade in the other."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks import agents_learning
from pipeline.models.agents.engine.market import Market
from pipeline.models.agents.engine.promise import Agent
from pipeline.models.base import Shape, build
from pipeline.samples import Samples

PARAMS = yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text(encoding="utf-8"))
FEE_BPS, BAND = 5.0, 0.2
COSTS = {"fee_bps": FEE_BPS, "slippage_bps": 0.0, "band": BAND}
ROWS = 20_000
TRAIN, VALID, TEST = np.split(np.arange(ROWS), [12_000, 14_000])
FEW = {"episodes": 20, "rounds": 2, "warm_up": 500, "memory": 5_000}  # steps, of a fit that learns next to nothing


def world(*, signal: float, seed: int) -> tuple[Samples, np.ndarray]:
    """The world of the benchmark, smaller: told by column 0 of three."""
    return agents_learning.world(signal=signal, rows=ROWS, columns=3, seed=seed)


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
