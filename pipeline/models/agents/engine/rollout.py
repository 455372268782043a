"""What a policy does bar after bar: what is held when a bar begins depends on all that was decided before it.

Such a chain has no batches, and a call of torch takes longer than a small policy: a compiled loop computes the layers,
to the last bits as torch does.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numba import njit
from torch import Tensor

from pipeline import trading
from pipeline.models.agents.engine.market import OWN, Market
from pipeline.models.agents.engine.networks import RELU, TANH, Layer, Policy
from pipeline.models.base import in_parts
from pipeline.models.neural.device import one_thread


@dataclass(frozen=True, eq=False)
class Rollout:
    """What a policy did at each of a market's rows, in their order; each run of consecutive bars begins flat."""

    target: np.ndarray  # (n,) float32 the position wanted
    own: np.ndarray  # (n, 3) float32 what the observation told of the agent itself


@torch.no_grad()
def rolled(policy: Policy, market: Market, *, silent: int | None = None) -> Rollout:
    """What a policy does on a market, or would do if one of its actors were silent."""
    first, *others = policy.layers(silent)
    high, low, inverse = (part[-len(OWN) :].cpu().numpy() for part in policy.standardise.parts())
    starts = np.zeros(len(market.rows), dtype=bool)
    starts[np.searchsorted(market.rows, market.runs[:, 0])] = True
    target, own = _walked(
        _known(policy, first, market),
        _plain(first.weight[:, -len(OWN) :].T),
        tuple(_plain(layer.weight) for layer in others),
        tuple(_reach(layer.weight) for layer in others),
        tuple(layer.bias.cpu().numpy() for layer in others),
        np.array([layer.kind == RELU for layer in (first, *others)]),
        np.array([layer.kind == TANH for layer in (first, *others)]),
        np.array([layer.keeps for layer in (first, *others)]),
        (high, low, inverse, np.float32(policy.standardise.clip)),
        policy.limiter,
        np.float32(policy.floor),
        starts,
        market.samples.move[market.rows],
        market.band,
    )
    return Rollout(target, own)


def _plain(weight: Tensor) -> np.ndarray:
    """(out, in), row by row."""
    return np.ascontiguousarray(weight.cpu().numpy())


def _reach(weight: Tensor) -> np.ndarray:
    """(out, 2) the first and one beyond the last input that reaches each unit of an (out, in) weight."""
    is_there = (weight != 0).cpu().numpy()
    return np.stack([is_there.argmax(axis=1), is_there.shape[1] - is_there[:, ::-1].argmax(axis=1)], axis=1)


def _known(policy: Policy, first: Layer, market: Market) -> np.ndarray:
    """(n, units) float32 what the columns alone bring to the units of the first layer."""
    device = first.weight.device
    parts = []
    with one_thread(device):
        for rows in in_parts(market.rows):
            x: Tensor = torch.from_numpy(market.samples.x[rows]).to(device)
            nothing = torch.zeros(len(rows), len(OWN), device=device)
            seen = policy.standardise(torch.cat([x, nothing], dim=1))
            parts.append(torch.addmm(first.bias, seen, first.weight.T).cpu().numpy())
    return np.concatenate(parts)


@njit(cache=True, fastmath={"reassoc", "contract"})
def _applied(units: np.ndarray, weight: np.ndarray, reach: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """(in,) units through an (out, in) weight; most of a team's weights are zeros, beyond what a unit is reached by."""
    total = np.empty_like(bias)
    for i in range(len(total)):
        row, part, found = weight[i, reach[i, 0] : reach[i, 1]], units[reach[i, 0] : reach[i, 1]], bias[i]
        for j in range(len(row)):
            found += row[j] * part[j]
        total[i] = found
    return total


@njit(cache=True)
def _activate(units: np.ndarray, is_rectified: bool, is_squashed: bool) -> None:
    """Rectified, squashed into (-1, 1), or as they are."""
    if is_rectified:
        for k in range(len(units)):
            units[k] = max(units[k], np.float32(0))
    elif is_squashed:
        for k in range(len(units)):
            units[k] = math.tanh(units[k])


def _compiled() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """The compiled loop, cached on disk under a key that the rules of trading are part of.

    numba itself looks at this file alone, and would go on with older rules; it includes what a function closes over.
    """
    sources = int(hashlib.sha256(Path(trading.__file__).read_bytes()).hexdigest()[:12], 16)

    @njit(cache=True)
    def walked(
        known: np.ndarray,
        own_weight: np.ndarray,
        weights: tuple[np.ndarray, ...],
        reaches: tuple[np.ndarray, ...],
        biases: tuple[np.ndarray, ...],
        rectified: np.ndarray,
        squashed: np.ndarray,
        keeps: np.ndarray,
        scale: tuple[np.ndarray, np.ndarray, np.ndarray, np.float32],
        limiter: int,
        floor: np.float32,
        starts: np.ndarray,
        move: np.ndarray,
        band: float,
    ) -> tuple[np.ndarray, np.ndarray]:
        """(n,) positions wanted and (n, 3) what was observed of the agent itself."""
        _ = sources
        high, low, inverse, clip = scale
        target, own = np.empty(len(known), np.float32), np.empty((len(known), 3), np.float32)
        position, unrealised, since = 0.0, 0.0, 0
        for i in range(len(known)):
            if starts[i]:
                position, unrealised, since = 0.0, 0.0, 0
            own[i, 0], own[i, 1], own[i, 2] = position, unrealised, np.log1p(since)
            units = known[i].copy()
            for j in range(3):
                value = min(max(((own[i, j] - high[j]) - low[j]) * inverse[j], -clip), clip)
                for k in range(len(units)):
                    units[k] += value * own_weight[j, k]
            _activate(units, rectified[0], squashed[0])
            for layer in range(len(weights)):
                total = _applied(units, weights[layer], reaches[layer], biases[layer])
                _activate(total, rectified[layer + 1], squashed[layer + 1])
                units = np.concatenate((units, total)) if keeps[layer + 1] else total
            target[i] = units[-1]
            if limiter >= 0:
                target[i] *= floor + (1 - floor) * np.float32(0.5) * (1 + units[limiter])
            position, unrealised, since = trading.after(target[i], position, unrealised, since, move[i], band)
        return target, own

    return cast("Callable[..., tuple[np.ndarray, np.ndarray]]", walked)


_walked = _compiled()
