"""Parity checks of agents: observations on which graphs often differ, and trades that a graph decides otherwise."""

from pathlib import Path

import numpy as np

from pipeline.models.agents.engine.agent import Agent
from pipeline.models.agents.engine.market_env import POSITION_COLUMNS
from pipeline.models.base import split_into_batches
from pipeline.models.onnx_session import open_session
from pipeline.models.parity_checks import base
from pipeline.trading import UNLIMITED, choose_position

DECISIONS = "positions"


def make_edge_cases(model: Agent, inputs: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """Return the generic edge cases, raw extremes, and observations at the edges of the clip, (n, F + 3)."""
    at_clip = base.make_clip_edge_cases(model.policy.standardize, inputs, rng=rng)
    return np.concatenate([base.make_edge_cases(model, inputs, rng=rng), at_clip])


def count_flips(model: Agent, inputs: np.ndarray, file: Path) -> np.ndarray:
    """Return (B,) int64: 1 where a position is flipped.

    Only one of policy and graph trades, or they trade in opposite directions.
    """
    graph, held = open_session(file), np.clip(inputs[:, -len(POSITION_COLUMNS)].astype(np.float64), -1.0, 1.0)
    parts = [graph.run(["answer"], {"inputs": part})[0][:, 0] for part in split_into_batches(inputs)]
    targets, terms = (model.predict(inputs)[:, 0], np.concatenate(parts)), model.environment_config.make_terms()
    choices = (
        [choose_position(float(wanted), weight, terms, UNLIMITED) for wanted, weight in zip(each, held, strict=True)]
        for each in targets
    )
    trades = [np.sign(np.array(chosen) - held) for chosen in choices]
    return np.asarray(trades[0] != trades[1], dtype=np.int64)
