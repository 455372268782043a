"""What labels of an order book measure along the mids: smoothed moves, α as it is known, crossings and excursions."""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from annotated_types import Interval
from numba import njit
from pydantic import AfterValidator, ConfigDict, PositiveFloat, PositiveInt, with_config
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from pipeline.labels import DOWN, FLAT, UP
from pipeline.scale import ROUNDING

Window = Annotated[int, Interval(ge=1, le=1_000_000)]
Unit = Literal["half_spreads", "bps", "price"]  # half spreads or bps of the mid at the row, or in the price
Conflict = Literal["first", "larger"]
RULES = ("half_spreads", "share", "mean")  # of α, of which a target has one


@with_config(ConfigDict(strict=True, extra="forbid"))
class AlphaRule(TypedDict, total=False):
    """How α follows from what is known at a row: by exactly one of the first three keys."""

    half_spreads: PositiveFloat  # that many half spreads at the row
    share: Annotated[float, Interval(gt=0, lt=1)]  # of flat labels: α is that quantile of |l|
    mean: PositiveFloat  # times the mean of |l|; TLOB has half of it, of all labels of a set
    least_known: PositiveInt  # labels of the symbol that are known before the first α; of `share` and `mean` alone


def check_alpha(alpha: AlphaRule) -> AlphaRule:
    """Return the rule; an error of pydantic where it has not one of the first three keys, with what that needs."""
    given = [name for name in RULES if name in alpha]
    if len(given) != 1 or ("least_known" in alpha) == (given == ["half_spreads"]):
        raise PydanticCustomError("alpha", "half_spreads alone, or least_known with one of share and mean")
    return alpha


Alpha = Annotated[AlphaRule, AfterValidator(check_alpha)]


@dataclass(frozen=True)
class Sizes:
    """The distances of two barriers from the mid of each row, in the price."""

    up: np.ndarray  # (n,)
    down: np.ndarray  # (n,)

    @classmethod
    def measure(cls, clean: pd.DataFrame, row: np.ndarray, *, up: float, down: float, unit: Unit) -> "Sizes":
        """Return the distances of barriers that are `up` and `down` units away from the mids of rows (n,)."""
        mid = clean["close"].to_numpy(np.float64)[row]
        if unit == "price":
            one = np.ones(len(row))
        else:
            one = mid * (1e-4 if unit == "bps" else clean["half_spread"].to_numpy(np.float64)[row])
        return cls(up * one, down * one)


@njit(cache=True)
def measure_moves(mid: np.ndarray, window: int, horizon: int) -> np.ndarray:
    """Return (N,) the relative move between the means of `window` mids that end `horizon` rows apart; NaN without."""
    mean, move = np.full(len(mid), np.nan), np.full(len(mid), np.nan)
    for row in range(window - 1, len(mid)):  # each sum anew: a running one would carry its rounding along
        total = 0.0
        for i in range(row - window + 1, row + 1):
            total += mid[i]
        mean[row] = total / window
    for row in range(window - 1, len(mid) - horizon):
        found = (mean[row + horizon] - mean[row]) / mean[row]
        move[row] = 0.0 if abs(found) <= ROUNDING else found
    return move


def estimate_alpha(clean: pd.DataFrame, row: np.ndarray, move: np.ndarray, *, alpha: Alpha, horizon: int) -> np.ndarray:
    """Return (n,) α at each of `row` (n,), whose smoothed moves are `move` (n,); NaN where too few are known.

    It uses the moves of the row's symbol that are known at the row, of earlier segments too, and none after it.
    """
    if "half_spreads" in alpha:
        return np.asarray(alpha["half_spreads"] * clean["half_spread"].to_numpy(np.float64)[row])
    found, size = np.full(len(row), np.nan), np.abs(move)
    symbol = pd.factorize(clean["symbol"])[0][row]
    for one in np.unique(symbol):
        own = np.flatnonzero(symbol == one)
        if "share" in alpha:
            rank = np.argsort(np.argsort(size[own], kind="stable"), kind="stable")
            arguments = (np.sort(size[own]), rank, alpha["share"])
            found[own] = _follow_quantile(row[own], horizon, *arguments, alpha["least_known"])
        else:
            found[own] = alpha["mean"] * _follow_mean(row[own], horizon, size[own], alpha["least_known"])
    return found


@njit(cache=True)
def _follow_mean(row: np.ndarray, horizon: int, size: np.ndarray, least: int) -> np.ndarray:
    """Return (n,) the mean of the sizes that are known at each row: those of rows at least `horizon` before it."""
    found, total, known = np.full(len(row), np.nan), 0.0, 0
    for i in range(len(row)):
        while row[known] + horizon <= row[i]:
            total += size[known]
            known += 1
        if known >= least:
            found[i] = total / known
    return found


@njit(cache=True)
def _follow_quantile(
    row: np.ndarray, horizon: int, ascending: np.ndarray, rank: np.ndarray, share: float, least: int
) -> np.ndarray:
    """Return (n,) the least of the known sizes that a `share` of them does not exceed, by a Fenwick tree of ranks."""
    count = len(row)
    found, tree, known, top = np.full(count, np.nan), np.zeros(count + 1, np.int64), 0, 1
    while 2 * top <= count:
        top *= 2
    for i in range(count):
        while row[known] + horizon <= row[i]:
            place = rank[known] + 1
            while place <= count:
                tree[place] += 1
                place += place & -place
            known += 1
        if known >= least:
            wanted, place, step = int(np.ceil(share * known)), 0, top
            while step:
                if place + step <= count and tree[place + step] < wanted:
                    place += step
                    wanted -= tree[place]
                step //= 2
            found[i] = ascending[place]
    return found


@njit(cache=True)
def find_first_crossing(
    mid: np.ndarray, row: np.ndarray, up: np.ndarray, down: np.ndarray, horizon: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return (n,) the row at which each label ends, (n,) its class code, and the number of exact touches.

    A mid that is `up` above or `down` below that of the row touches a barrier, but for rounding.
    """
    end, code, exact = row + horizon, np.full(len(row), FLAT, np.int32), 0
    for i in range(len(row)):
        start = mid[row[i]]
        margin = ROUNDING * start
        for at in range(row[i] + 1, row[i] + horizon + 1):
            above, below = mid[at] - start - up[i], start - mid[at] - down[i]
            if above >= -margin or below >= -margin:
                end[i], code[i] = at, UP if above >= -margin else DOWN
                exact += abs(above) <= margin or abs(below) <= margin
                break
    return end, code, exact


@njit(cache=True)
def compare_excursions(
    mid: np.ndarray, row: np.ndarray, up: np.ndarray, down: np.ndarray, horizon: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return (n,) the row at which each label ends, (n,) the side of the larger excursion, and the number of ties.

    The excursions are the highest and the lowest mid of the horizon, from that of the row. One counts where it reaches
    `up` or `down`; where both do and are equal, the class is flat, and the label a tie.
    """
    end, code, ties = row + horizon, np.full(len(row), FLAT, np.int32), 0
    for i in range(len(row)):
        start = mid[row[i]]
        margin, highest, lowest = ROUNDING * start, start, start
        for at in range(row[i] + 1, row[i] + horizon + 1):
            highest, lowest = max(highest, mid[at]), min(lowest, mid[at])
        is_up, is_down = highest - start - up[i] >= -margin, start - lowest - down[i] >= -margin
        larger = (highest - start) - (start - lowest)
        if is_up and is_down and abs(larger) <= margin:
            ties += 1
        elif is_up and (larger > 0 or not is_down):
            code[i] = UP
        elif is_down:
            code[i] = DOWN
    return end, code, ties
