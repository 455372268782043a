"""A policy rolled out over many bars, in a compiled loop: each position depends on all decisions before it.

Such a chain cannot be batched, and one call of torch takes longer than a small policy's arithmetic. The loop computes
the layers itself; it agrees with torch up to the last bits.
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

from pipeline import fills, trading
from pipeline.models.agents.engine.market_env import POSITION_COLUMNS, MarketEnv
from pipeline.models.agents.engine.networks import RELU, TANH, Policy, PolicyLayer
from pipeline.models.base import split_into_batches
from pipeline.models.torch_runtime.device import use_one_thread


@dataclass(frozen=True, eq=False)
class Rollout:
    """A policy's targets at a market's rows, in their order; each run of consecutive bars starts flat."""

    target: np.ndarray  # (n,) float32, target positions
    account: np.ndarray  # (n, 3) float32, the observation's position columns


@torch.no_grad()
def roll_out(policy: Policy, env: MarketEnv, *, ablated: int | None = None) -> Rollout:
    """Return the rollout of a policy over all rows of `env`, optionally with one of its actors ablated."""
    first, *others = policy.list_layers(ablated)
    high, low, inverse = (part[-len(POSITION_COLUMNS) :].cpu().numpy() for part in policy.standardize.constants)
    starts = np.zeros(len(env.rows), dtype=bool)
    starts[np.searchsorted(env.rows, env.runs[:, 0])] = True
    target, account = _run_loop(
        _apply_first_layer(policy, first, env),
        _to_contiguous(first.weight[:, -len(POSITION_COLUMNS) :].T),
        tuple(_to_contiguous(layer.weight) for layer in others),
        tuple(_find_nonzero_range(layer.weight) for layer in others),
        tuple(layer.bias.cpu().numpy() for layer in others),
        (
            np.array([layer.activation == RELU for layer in (first, *others)]),
            np.array([layer.activation == TANH for layer in (first, *others)]),
            np.array([layer.is_skip for layer in (first, *others)]),
        ),
        (high, low, inverse, np.float32(policy.standardize.clip_sigma)),
        policy.limiting_actor,
        np.float32(policy.min_position_limit),
        starts,
        tuple(each[env.rows] for each in env.fills.list_arrays()),
        (env.fills.lag[env.rows], env.fills.mark[env.rows]),
        env.terms,
    )
    return Rollout(target, account)


def _to_contiguous(weight: Tensor) -> np.ndarray:
    """Return (out, in), row by row."""
    return np.ascontiguousarray(weight.cpu().numpy())


def _find_nonzero_range(weight: Tensor) -> np.ndarray:
    """Return (out, 2) the first and one beyond the last input with a nonzero weight, for an (out, in) weight."""
    is_nonzero = (weight != 0).cpu().numpy()
    return np.stack([is_nonzero.argmax(axis=1), is_nonzero.shape[1] - is_nonzero[:, ::-1].argmax(axis=1)], axis=1)


def _apply_first_layer(policy: Policy, first: PolicyLayer, env: MarketEnv) -> np.ndarray:
    """Return (n, units) float32: the first layer's units without the position columns' part."""
    device = first.weight.device
    parts = []
    with use_one_thread(device):
        for rows in split_into_batches(env.rows):
            x: Tensor = torch.from_numpy(env.samples.x[rows]).to(device)
            nothing = torch.zeros(len(rows), len(POSITION_COLUMNS), device=device)
            seen = policy.standardize(torch.cat([x, nothing], dim=1))
            parts.append(torch.addmm(first.bias, seen, first.weight.T).cpu().numpy())
    return np.concatenate(parts)


@njit(cache=True, fastmath={"reassoc", "contract"})
def _apply_layer(units: np.ndarray, weight: np.ndarray, reach: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Apply an (out, in) weight to (in,) units within each output's nonzero range: most of a team's weights are 0."""
    total = np.empty_like(bias)
    for i in range(len(total)):
        row, part, found = weight[i, reach[i, 0] : reach[i, 1]], units[reach[i, 0] : reach[i, 1]], bias[i]
        for j in range(len(row)):
            found += row[j] * part[j]
        total[i] = found
    return total


@njit(cache=True)
def _activate(units: np.ndarray, is_relu: bool, is_tanh: bool) -> None:
    """Apply ReLU, tanh or nothing to the units in place."""
    if is_relu:
        for k in range(len(units)):
            units[k] = max(units[k], np.float32(0))
    elif is_tanh:
        for k in range(len(units)):
            units[k] = math.tanh(units[k])


@njit(cache=True)
def _decide(
    units: np.ndarray,
    weights: tuple[np.ndarray, ...],
    ranges: tuple[np.ndarray, ...],
    biases: tuple[np.ndarray, ...],
    kinds: tuple[np.ndarray, np.ndarray, np.ndarray],
    limiting_actor: int,
    least: np.float32,
) -> np.float32:
    """Return the target position from the (units,) preactivations of the first layer.

    `kinds` say of each layer whether it applies ReLU, tanh, and whether its units join those before it.
    """
    is_relu, is_tanh, is_skip = kinds
    _activate(units, is_relu[0], is_tanh[0])
    for layer in range(len(weights)):
        total = _apply_layer(units, weights[layer], ranges[layer], biases[layer])
        _activate(total, is_relu[layer + 1], is_tanh[layer + 1])
        units = np.concatenate((units, total)) if is_skip[layer + 1] else total
    target = units[-1]
    if limiting_actor >= 0:
        target *= least + (1 - least) * np.float32(0.5) * (1 + units[limiting_actor])
    return np.float32(target)


@njit(cache=True)
def _add_account(
    known: np.ndarray,
    account: np.ndarray,
    weight: np.ndarray,
    scale: tuple[np.ndarray, np.ndarray, np.ndarray, np.float32],
) -> np.ndarray:
    """Return the (units,) preactivations with the share of the (3,) standardized columns of the position."""
    high, low, inverse, clip = scale
    units = known.copy()
    for j in range(3):
        value = min(max(((account[j] - high[j]) - low[j]) * inverse[j], -clip), clip)
        for k in range(len(units)):
            units[k] += value * weight[j, k]
    return units


def _compile_loop() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Return the compiled loop, cached on disk under a key that includes the sources of trading and fills.

    numba's own key covers this file alone, so it would reuse older trading rules; it does include closure variables.
    """
    text = b"".join(Path(str(module.__file__)).read_bytes() for module in (fills, trading))
    sources = int(hashlib.sha256(text).hexdigest()[:12], 16)

    @njit(cache=True)
    def run_loop(
        known: np.ndarray,
        account_weight: np.ndarray,
        weights: tuple[np.ndarray, ...],
        ranges: tuple[np.ndarray, ...],
        biases: tuple[np.ndarray, ...],
        kinds: tuple[np.ndarray, np.ndarray, np.ndarray],
        scale: tuple[np.ndarray, np.ndarray, np.ndarray, np.float32],
        limiting_actor: int,
        least: np.float32,
        starts: np.ndarray,
        filling: fills.FillArrays,
        marks: tuple[np.ndarray, np.ndarray],
        terms: trading.Terms,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (n,) target positions and the (n, 3) position columns observed."""
        _ = sources
        move, years, volume, outcome, half_spread = filling
        lag, mark = marks
        filled, before, first = np.empty(len(known)), [(0.0, 0.0, 0)] * len(known), 0
        target, account = np.empty(len(known), np.float32), np.empty((len(known), 3), np.float32)
        position, unrealized, since = 0.0, 0.0, 0
        for i in range(len(known)):
            if starts[i]:
                position, unrealized, since = 0.0, 0.0, 0
                first = i
            at, weight, earned, age = i - lag[i], 0.0, 0.0, 0
            if at >= first:
                weight, earned, age = trading.mark_account(filled[at], before[at], mark[i], terms, half_spread[at])
            account[i, 0], account[i, 1], account[i, 2] = weight, earned, np.log1p(age)
            units = _add_account(known[i], account[i], account_weight, scale)
            target[i] = _decide(units, weights, ranges, biases, kinds, limiting_actor, least)
            before[i] = (position, unrealized, since)
            fill = (move[i], years[i], volume[i], outcome[i])
            step, position, unrealized, since = trading.step_account(
                float(target[i]), position, unrealized, since, fill, False, terms, half_spread[i]
            )
            filled[i] = step.position
        return target, account

    return cast("Callable[..., tuple[np.ndarray, np.ndarray]]", run_loop)


_run_loop = _compile_loop()
