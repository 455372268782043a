"""Association of columns with moves (next-bar returns) and with a target: correlations, ranks, correlation ratios.

Columns are measured one after the other: beside its arguments no function holds more than twenty vectors of N numbers.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from threadpoolctl import threadpool_limits

from pipeline.feature_file import Matrix

MAX_LAG_BARS = 64  # a column is correlated with the moves of so many bars, one by one
HORIZONS = 2 ** np.arange(7)  # bars, up to MAX_LAG_BARS, whose moves are also summed to one
WINSOR_QUANTILES = [0.001, 0.999]
FILLED_FRACTION = 0.9  # a column that changes in a smaller fraction of rows is also judged on the rows where it changes
MIN_ROWS = 200  # with fewer, chance alone reaches a correlation of 0.3 among the hundreds that are tried
ROUNDING = 1e-4  # a residual below this fraction of its column is float32 rounding
BINS, MIN_ROWS_PER_BIN = 100, 20
MEASURES = ("pearson", "spearman", "column_determines_target", "target_determines_column")  # of association
CHUNK_TILES = 1024  # of MAX_LAG_BARS rows each: float32 sums no longer than that are added up in float64


class Ranks(NamedTuple):
    """The ranks of values, doubled and centered so that they are whole, and their bins: five bytes a row."""

    doubled: np.ndarray  # (N,) int32, twice the rank less N + 1; their sum is 0
    bins: np.ndarray  # (N,) uint8, the number of the bin
    square: float  # the sum of the squares of `doubled`, 0 where all values are the same


class MoveView(NamedTuple):
    """The moves of all bars in one view: raw or ranked, signed or absolute."""

    last: np.ndarray  # (n,) float64, of each row's own bar: the last move that is known at the row
    centered: np.ndarray  # (N,) float32, winsorized and centered
    cumulative: np.ndarray  # (N + 1,) float64, the sum of `centered` before each bar
    norms: "MoveNorms"  # over all rows


class MoveNorms(NamedTuple):
    """Norms of the centered moves around some rows."""

    future: np.ndarray  # (MAX_LAG_BARS + horizons,) of each next move, and of the sum of the next h
    past: np.ndarray  # (horizons,) of the sum of the last h


def find_inner_rows(segment: np.ndarray) -> np.ndarray:
    """Return the rows that have MAX_LAG_BARS bars of their own segment on both sides."""
    width = 2 * MAX_LAG_BARS
    inside = segment[:-width] == segment[width:] if len(segment) > width else np.zeros(0, dtype=bool)
    return np.flatnonzero(inside) + MAX_LAG_BARS


def correlate_with_moves(x: Matrix, move: np.ndarray, *, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the strongest |correlation| of each column's innovation with future and with past moves, each (4, F).

    The four are Pearson and Spearman, each with the move and with its absolute value. The innovation is the residual of
    x_i on x_{i-1}. A slow signal with real predictive power then does not look like a leak, and a centered window
    shows the one bar that has just entered it. Before the correlation with future moves, the bar's own move is
    regressed out as well.

    Compared are each of the next MAX_LAG_BARS moves, and the sums of the next and last 1, 2, 4 … 64. This is done over
    all `rows`. For a column that seldom changes, because something filled it, also over the rows where it changes.
    """
    future, past = np.zeros((2, 4, x.shape[1]))
    with threadpool_limits(limits=1):  # sums in one order, whatever the machine
        for v, view in enumerate((_to_float64, rank_values)):
            moves = [_make_move_view(view(each), rows) for each in (move, np.abs(move))]
            for column in range(x.shape[1]):
                pairs = _find_strongest(view(x[:, column]), moves, rows=rows)
                future[2 * v : 2 * v + 2, column], past[2 * v : 2 * v + 2, column] = zip(*pairs, strict=True)
    return future, past


def measure_target_association(x: Matrix, targets: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Return by target, of which each is (N,), four measures of association of each column with it, (F,) in [0, 1].

    They are |Pearson|, |Spearman| and the correlation ratio in both directions: how far the column determines the
    target, and how far the target determines the column. The ratios are of ranks over bins of ranks, corrected for the
    number of bins. They are 1 for any exact function (square, sign, class), monotone or not, whatever the tails.
    """
    ranked = {name: _rank_and_bin(y) for name, y in targets.items()}
    measured = {name: np.zeros((len(MEASURES), x.shape[1])) for name in targets}
    for j in range(x.shape[1]):
        values = x[:, j]
        unit, column = _scale_to_unit(_to_float64(values)), _rank_and_bin(values)  # once for all targets
        for name, y in targets.items():
            target = ranked[name]
            measured[name][:, j] = (
                abs(_dot(unit, _scale_to_unit(_to_float64(y)))),
                _correlate_ranks(column, target),
                _correlation_ratio(target, column.bins),
                _correlation_ratio(column, target.bins),
            )
    return {name: dict(zip(MEASURES, values, strict=True)) for name, values in measured.items()}


def rank_values(values: np.ndarray) -> np.ndarray:
    """Return (N,) float64 ranks from 1 on; ties share their mean rank.

    >>> rank_values(np.array([3.0, 1.0, 3.0])).tolist()
    [2.5, 1.0, 2.5]
    """
    order, ordered = _sort_values(values)
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))  # of each group of ties
    del ordered
    count = np.diff(first, append=len(values))
    ranks = np.empty(len(values))
    ranks[order] = np.repeat(first + (count + 1) / 2, count)
    return ranks


def _sort_values(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (N,) the places of ascending values, and keys in that order that are equal where the values are.

    A float32 and its place fit into one integer, and integers are sorted in a third of the time of an argsort.
    """
    if values.dtype != np.float32:
        order = np.argsort(values)
        return order, values[order]
    bits = (values + np.float32(0)).view(np.int32)  # -0.0 becomes 0.0
    bits ^= (bits >> 31) & 0x7FFFFFFF  # so that they ascend as the values do
    keys = bits.astype(np.int64)
    keys <<= 32
    keys |= np.arange(len(values))
    keys.sort()
    order = keys & 0xFFFFFFFF
    keys >>= 32
    return order, keys


def _rank_and_bin(values: np.ndarray) -> Ranks:
    ranks = rank_values(values)
    count = len(ranks)
    bins = ((ranks - 0.5) * int(np.clip(count // MIN_ROWS_PER_BIN, 1, BINS)) / count).astype(np.uint8)
    doubled = (2 * ranks - (count + 1)).astype(np.int32)
    return Ranks(doubled, bins, _dot(doubled, doubled))


def _to_float64(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float64)


def _make_move_view(moves: np.ndarray, rows: np.ndarray) -> MoveView:
    clipped = _winsorize(moves)
    centered = (clipped - clipped.mean()).astype(np.float32)
    cumulative = np.append(0.0, np.cumsum(centered, dtype=np.float64))
    return MoveView(moves[rows - 1], centered, cumulative, _measure_norms(centered, cumulative, rows=rows))


def _find_strongest(values: np.ndarray, moves: list[MoveView], *, rows: np.ndarray) -> list[tuple[float, float]]:
    """Return (future, past) for each view of the moves, from the set of rows with the stronger future correlation.

    The sets are all rows and, for a column that seldom changes, the rows where it changes.
    """
    strongest = _correlate(values, moves, rows=rows)
    changed = np.flatnonzero(values[rows] != values[rows - 1])
    if MIN_ROWS <= len(changed) < FILLED_FRACTION * len(rows):
        some = rows[changed]
        parts = [
            MoveView(
                view.last[changed],
                view.centered,
                view.cumulative,
                _measure_norms(view.centered, view.cumulative, rows=some),
            )
            for view in moves
        ]
        strongest = [max(pair) for pair in zip(strongest, _correlate(values, parts, rows=some), strict=True)]
    return strongest


def _correlate(values: np.ndarray, moves: list[MoveView], *, rows: np.ndarray) -> list[tuple[float, float]]:
    """Return for each view the largest |correlation| of the innovation with any future and with any past move."""
    now, before = _center(values[rows]), _center(values[rows - 1])
    innovation = _regress_out(now, before)
    min_norm = ROUNDING * _dot(now, now) ** 0.5
    del now
    for_past, strongest = _scatter_unit(innovation, moves[0].centered, rows=rows, min_norm=min_norm), []
    for view in moves:
        residual = _regress_out(innovation, _regress_out(_center(view.last), before))
        for_future = _scatter_unit(residual, view.centered, rows=rows, min_norm=min_norm)
        each = _sum_lagged_products(for_future, view.centered, first_lag=0)
        future = np.append(each, _sum_over_horizons(each)) / view.norms.future
        lagged = _sum_lagged_products(for_past, view.centered, first_lag=-MAX_LAG_BARS)
        past = _sum_over_horizons(lagged[::-1]) / view.norms.past
        strongest.append((float(np.abs(future).max()), float(np.abs(past).max())))
    return strongest


def _scatter_unit(residual: np.ndarray, moves: np.ndarray, *, rows: np.ndarray, min_norm: float) -> np.ndarray:
    """Return (N,) float32: the winsorized residual as a unit vector at `rows`, 0 elsewhere and below `min_norm`."""
    everywhere = np.zeros(len(moves), dtype=np.float32)
    if _dot(residual, residual) ** 0.5 > min_norm:
        everywhere[rows] = _scale_to_unit(_winsorize(residual))
    return everywhere


def _measure_norms(centered: np.ndarray, cumulative: np.ndarray, *, rows: np.ndarray) -> MoveNorms:
    """Return the divisors of products of unit vectors with moves around `rows`; infinite where moves are constant."""
    counts = np.zeros(len(centered), dtype=np.float32)
    counts[rows] = 1.0
    squares = [
        [_sum_squared_moves(cumulative, rows, lag=lag) for lag in side.tolist()] for side in (HORIZONS, -HORIZONS)
    ]
    each = _sum_lagged_products(counts, np.square(centered), first_lag=0)
    future, past = (_sum_lagged_products(counts, centered, first_lag=lag) for lag in (0, -MAX_LAG_BARS))
    return MoveNorms(
        _take_norms(np.append(each, squares[0]), np.append(future, _sum_over_horizons(future)), count=len(rows)),
        _take_norms(np.array(squares[1]), _sum_over_horizons(past[::-1]), count=len(rows)),
    )


def _sum_squared_moves(cumulative: np.ndarray, rows: np.ndarray, *, lag: int) -> float:
    """Return the sum of the squared differences of `cumulative` between each of the rows and `lag` bars after it."""
    ahead, here = (cumulative[lag:], cumulative) if lag > 0 else (cumulative, cumulative[-lag:])
    first = rows if lag > 0 else rows + lag
    move = ahead[first]
    move -= here[first]
    return float(np.square(move, out=move).sum())


def _take_norms(square: np.ndarray, total: np.ndarray, *, count: int) -> np.ndarray:
    centered = square - total**2 / count
    return np.where(centered > ROUNDING**2 * square, np.sqrt(np.maximum(centered, 0.0)), np.inf)


def _sum_over_horizons(each: np.ndarray) -> np.ndarray:
    """Return the sums over the nearest 1, 2, 4 … 64 of the values at each lag."""
    return np.asarray(np.cumsum(each)[HORIZONS - 1])


def _sum_lagged_products(values: np.ndarray, moves: np.ndarray, *, first_lag: int) -> np.ndarray:
    """Return (MAX_LAG_BARS,) float64 Σ_i values_i · moves_{i + first_lag + k} for k = 0, 1 …; both are (N,) float32.

    This is done by matrix products. The values are tiled, (tiles, 64), beside the moves that any row of a tile needs,
    (tiles, 128). The products summed over tiles are G, and the sum at lag k is the k-th diagonal of G.
    """
    tile = MAX_LAG_BARS
    count = -(-len(values) // tile)
    tiles, needed = np.zeros(count * tile, dtype=np.float32), np.zeros((count + 1) * tile, dtype=np.float32)
    tiles[: len(values)] = values
    shifted = moves[max(first_lag, 0) :]
    needed[max(-first_lag, 0) :][: len(shifted)] = shifted[: len(needed) - max(-first_lag, 0)]
    left, right = tiles.reshape(count, tile), sliding_window_view(needed, 2 * tile)[::tile]
    products = np.zeros((tile, 2 * tile))
    for start in range(0, count, CHUNK_TILES):
        chunk = slice(start, start + CHUNK_TILES)
        products += left[chunk].T @ np.ascontiguousarray(right[chunk])
    return np.array([np.trace(products, offset=k) for k in range(tile)])


def _center(values: np.ndarray) -> np.ndarray:
    return np.asarray(values - values.mean())


def _regress_out(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the residual of the linear regression of `values` on `known`; both are centered."""
    square = _dot(known, known)
    return values - known * (_dot(known, values) / square) if square > 0 else values


def _dot(left: np.ndarray, right: np.ndarray) -> float:
    """Return the dot product. Not by `@`, whose threads add in another order on another machine."""
    return float(np.einsum("i,i->", left, right, dtype=np.float64))


def _winsorize(values: np.ndarray) -> np.ndarray:
    """Return `values` clipped at extreme quantiles, so that one crash does not dominate the correlation."""
    return np.asarray(np.clip(values, *np.quantile(values, WINSOR_QUANTILES)))


def _scale_to_unit(values: np.ndarray) -> np.ndarray:
    """Return the values centered, with norm 1; 0 where all are the same."""
    centered = _center(values)
    norm = _dot(centered, centered) ** 0.5
    centered /= norm if norm > 0 else 1.0
    return centered


def _correlate_ranks(left: Ranks, right: Ranks) -> float:
    """Return Spearman's |correlation|; 0 where all values of one are the same."""
    norm = (left.square * right.square) ** 0.5
    return abs(_dot(left.doubled, right.doubled)) / norm if norm > 0 else 0.0


def _correlation_ratio(ranks: Ranks, bins: np.ndarray) -> float:
    """Return √ of the share of the variance of `ranks` that `bins`, (N,), explain (ε², Kelley 1935)."""
    count, size = len(bins), np.bincount(bins)
    total, sums = ranks.square, np.bincount(bins, weights=ranks.doubled)
    within = total - float((np.square(sums) / np.maximum(size, 1)).sum())
    freedom = count - np.count_nonzero(size)
    explained = 1 - (within / freedom) / (total / (count - 1)) if total > 0 and freedom > 0 else 0.0
    return float(np.sqrt(max(explained, 0.0)))
