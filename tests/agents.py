"""A market whose truth is known, and small agents, for tests in which an agent trades it."""

from typing import Any

import numpy as np

from benchmarks import agents_learning
from pipeline.models.agents.engine.agent import Agent
from pipeline.models.agents.engine.hyperparameters import EnvironmentConfig
from pipeline.models.agents.engine.market_env import MarketEnv
from pipeline.models.base import Signature
from pipeline.samples import Samples
from pipeline.trading import make_terms
from tests.data import OUTPUTS
from tests.params import build_model

FEE_BPS, BAND = 5.0, 0.2
COSTS = {"fee_bps": FEE_BPS, "slippage_bps": 0.0, "no_trade_band": BAND}
FREE = {"borrow_rate": 0.0, "long_only": False, "capital": 1.0, "max_participation": 1.0}
TERMS = make_terms(**COSTS, **FREE)
ROWS = 20_000
TRAIN, VALID, TEST = np.split(np.arange(ROWS), [12_000, 14_000])
SHORT = {
    "num_episodes": 20,
    "num_evaluations": 2,
    "learning_starts": 500,
    "buffer_size": 5_000,
    "batch_size": 128,
}  # learns next to nothing


def simulate_market(*, signal: float, seed: int) -> tuple[Samples, np.ndarray]:
    """Return the benchmark's market, smaller: the signal is column 0 of three."""
    return agents_learning.simulate_market(signal=signal, rows=ROWS, columns=3, seed=seed)


def make_market(samples: Samples, rows: np.ndarray, *, episode_bars: int = 200, **changes: float) -> MarketEnv:
    """Return the rows as a market with the costs of this module and without risk rules."""
    config = EnvironmentConfig(**COSTS | FREE | {"risk_penalty": 0.0, "max_drawdown": 1.0} | changes)
    return MarketEnv(samples, rows, config=config, episode_bars=episode_bars)


def build_agent(name: str, samples: Samples, *, seed: int = 1, **changes: Any) -> Agent:
    """Return the unfitted model of a block with these costs; `changes` are of its hyperparameters or its family's."""
    signature = Signature(columns=samples.columns, output=OUTPUTS["position"])
    model = build_model(name, signature, seed=seed, changes=COSTS | FREE | {"num_envs": 64} | changes)
    assert isinstance(model, Agent)
    return model
