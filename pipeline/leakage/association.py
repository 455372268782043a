"""How strongly columns go with moves to come and gone by, and with a target: correlations, ranks, exact functions.

One column is looked at after the other: besides its arguments no function holds more than twenty vectors of N numbers.
"""

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from threadpoolctl import threadpool_limits

BARS_AHEAD = 64  # how far a column is compared with the moves to come, bar by bar
HORIZONS = 2 ** np.arange(7)  # bars, up to BARS_AHEAD, that are also taken together as one move
WINSOR = [0.001, 0.999]  # quantiles
FILLED_SHARE = 0.9  # a column that changes in fewer rows than these is judged on the rows where it changes, too
FEWEST_ROWS = 200  # with fewer, a correlation of 0.3 among the hundreds that are tried is chance
ROUNDING = 1e-4  # a residual below this share of its column is what float32 rounding left
BINS, FEWEST_IN_BIN = 100, 20
TILES_AT_ONCE = 1024  # of BARS_AHEAD rows each: float32 sums no longer than that are added up in float64


class Moves(NamedTuple):
    """The moves of all bars in one view: as they are or ranked, with their sign or their size alone."""

    own: np.ndarray  # (n,) float64, of each row's bar itself, the last one known
    plain: np.ndarray  # (N,) float32, winsorised and centred
    total: np.ndarray  # (N + 1,) float64, the sum of `plain` before each bar
    spread: "Spread"  # over all rows


class Spread(NamedTuple):
    """The norms of the moves around some rows, less their means."""

    ahead: np.ndarray  # (BARS_AHEAD + horizons,) of each next move, and of the next h together
    behind: np.ndarray  # (horizons,) of the last h together


def surrounded(segment: np.ndarray) -> np.ndarray:
    """The rows whose segment goes on for BARS_AHEAD bars on both sides."""
    width = 2 * BARS_AHEAD
    inside = segment[:-width] == segment[width:] if len(segment) > width else np.zeros(0, dtype=bool)
    return np.flatnonzero(inside) + BARS_AHEAD


def with_moves(x: np.ndarray, move: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each (4, F): the strongest |correlation| of what is new in a column with moves to come, and with moves gone by.

    The four: Pearson and Spearman, each with the move and with its size. What is new is the residual of x_i on x_{i-1}:
    a slow signal that is honestly predictive then does not look like a leak, and a centred window shows the one bar
    that has just entered it. Against moves to come the bar's own move is taken out as well. Compared are each of the
    next BARS_AHEAD moves, and the next and last 1, 2, 4 … 64 together; over all `rows` and, for a column that seldom
    changes because something filled it, over those where it does.
    """
    future, past = np.zeros((2, 4, x.shape[1]))
    with threadpool_limits(limits=1):  # sums in one order, whatever the machine
        for v, view in enumerate((_plain, ranked)):
            sizes = [_seen(view(size), rows) for size in (move, np.abs(move))]
            for column in range(x.shape[1]):
                pairs = _strongest(view(x[:, column]), sizes, rows)
                future[2 * v : 2 * v + 2, column], past[2 * v : 2 * v + 2, column] = zip(*pairs, strict=True)
    return future, past


def with_target(x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Each (F,), in [0, 1]: |Pearson|, |Spearman|, how far a column determines y, and how far y determines it.

    The last two are correlation ratios of ranks over bins of ranks, corrected for the number of bins: 1 for any exact
    function (square, sign, class), monotone or not, whatever the tails.
    """
    target, target_rank = _plain(y), ranked(y)
    target_unit, target_rank_unit = _unit(target), _unit(target_rank)
    found = np.zeros((4, x.shape[1]))
    for column in range(x.shape[1]):
        values = _plain(x[:, column])
        rank = ranked(values)
        found[0, column] = abs(_dot(_unit(values), target_unit))
        found[1, column] = abs(_dot(_unit(rank), target_rank_unit))
        found[2, column] = _correlation_ratio(target_rank, rank)
        found[3, column] = _correlation_ratio(rank, target_rank)
    return dict(zip(("pearson", "spearman", "determines", "determined"), found, strict=True))


def ranked(values: np.ndarray) -> np.ndarray:
    """(N,) float64 ranks from 1 on; equals share the mean of theirs."""
    order = np.argsort(values)
    ordered = values[order]
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))  # of each run of equals
    count = np.diff(first, append=len(values))
    ranks = np.empty(len(values))
    ranks[order] = np.repeat(first + (count + 1) / 2, count)
    return ranks


def _plain(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float64)


def _seen(moves: np.ndarray, rows: np.ndarray) -> Moves:
    clipped = _winsorised(moves)
    plain = (clipped - clipped.mean()).astype(np.float32)
    total = np.append(0.0, np.cumsum(plain, dtype=np.float64))
    return Moves(moves[rows - 1], plain, total, _spread(plain, total, rows))


def _strongest(values: np.ndarray, sizes: list[Moves], rows: np.ndarray) -> list[tuple[float, float]]:
    """(future, past) for each size: over all rows or, where the future is stronger there, those where it changes."""
    found = _correlations(values, sizes, rows)
    changed = np.flatnonzero(values[rows] != values[rows - 1])
    if FEWEST_ROWS <= len(changed) < FILLED_SHARE * len(rows):
        there = rows[changed]
        parts = [
            Moves(moves.own[changed], moves.plain, moves.total, _spread(moves.plain, moves.total, there))
            for moves in sizes
        ]
        found = [max(pair) for pair in zip(found, _correlations(values, parts, there), strict=True)]
    return found


def _correlations(values: np.ndarray, sizes: list[Moves], rows: np.ndarray) -> list[tuple[float, float]]:
    """For each size the largest |correlation| of what is new with any move to come, and with any gone by."""
    now, before = _centred(values[rows]), _centred(values[rows - 1])
    new = _without(now, before)
    least = ROUNDING * _dot(now, now) ** 0.5
    del now
    beside_past, found = _at(rows, new, sizes[0].plain, least=least), []
    for moves in sizes:
        unforced = _without(new, _without(_centred(moves.own), before))
        each = _lagged(_at(rows, unforced, moves.plain, least=least), moves.plain, first=0)
        ahead = np.append(each, _together(each)) / moves.spread.ahead
        behind = _together(_lagged(beside_past, moves.plain, first=-BARS_AHEAD)[::-1]) / moves.spread.behind
        found.append((float(np.abs(ahead).max()), float(np.abs(behind).max())))
    return found


def _at(rows: np.ndarray, residual: np.ndarray, moves: np.ndarray, *, least: float) -> np.ndarray:
    """(N,) float32: the residual, winsorised, as a unit vector at its rows; 0 elsewhere, and for a norm <= `least`."""
    everywhere = np.zeros(len(moves), dtype=np.float32)
    if _dot(residual, residual) ** 0.5 > least:
        everywhere[rows] = _unit(_winsorised(residual))
    return everywhere


def _spread(plain: np.ndarray, total: np.ndarray, rows: np.ndarray) -> Spread:
    """What products of unit vectors with moves around `rows` are divided by; infinite where all moves are the same."""
    counts = np.zeros(len(plain), dtype=np.float32)
    counts[rows] = 1.0
    squares = [[np.square(total[rows + h] - total[rows]).sum() for h in side] for side in (HORIZONS, -HORIZONS)]
    each = _lagged(counts, np.square(plain), first=0)
    ahead, behind = (_lagged(counts, plain, first=first) for first in (0, -BARS_AHEAD))
    return Spread(
        _norms(np.append(each, squares[0]), np.append(ahead, _together(ahead)), len(rows)),
        _norms(np.array(squares[1]), _together(behind[::-1]), len(rows)),
    )


def _norms(square: np.ndarray, total: np.ndarray, count: int) -> np.ndarray:
    centred = square - total**2 / count
    return np.where(centred > ROUNDING**2 * square, np.sqrt(np.maximum(centred, 0.0)), np.inf)


def _together(each: np.ndarray) -> np.ndarray:
    """Sums over the nearest 1, 2, 4 … 64 of what is given for each bar away."""
    return np.asarray(np.cumsum(each)[HORIZONS - 1])


def _lagged(values: np.ndarray, moves: np.ndarray, *, first: int) -> np.ndarray:
    """(BARS_AHEAD,) float64: Σ_i values_i · moves_{i + first + k} for k = 0, 1 …; both (N,) float32.

    As matrix products: tile the values (tiles, 64) beside the moves that any of a tile's rows meets (tiles, 128); the
    products summed over tiles are G, and the sum at distance k is the k-th diagonal of G.
    """
    tile = BARS_AHEAD
    count = -(-len(values) // tile)
    tiles, met = np.zeros(count * tile, dtype=np.float32), np.zeros((count + 1) * tile, dtype=np.float32)
    tiles[: len(values)] = values
    shifted = moves[max(first, 0) :]
    met[max(-first, 0) :][: len(shifted)] = shifted[: len(met) - max(-first, 0)]
    left, right = tiles.reshape(count, tile), sliding_window_view(met, 2 * tile)[::tile]
    products = np.zeros((tile, 2 * tile))
    for start in range(0, count, TILES_AT_ONCE):
        block = slice(start, start + TILES_AT_ONCE)
        products += left[block].T @ np.ascontiguousarray(right[block])
    return np.array([np.trace(products, offset=k) for k in range(tile)])


def _centred(values: np.ndarray) -> np.ndarray:
    return np.asarray(values - values.mean())


def _without(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """`values` less what `known` explains of them linearly; both are centred."""
    square = _dot(known, known)
    return values - known * (_dot(known, values) / square) if square > 0 else values


def _dot(left: np.ndarray, right: np.ndarray) -> float:
    """Not `@`, whose threads add in another order on another machine, and wait for each other on a busy one."""
    return float(np.einsum("i,i->", left, right))


def _winsorised(values: np.ndarray) -> np.ndarray:
    """`values` without the extremes, so that one crash does not speak for the whole market."""
    return np.asarray(np.clip(values, *np.quantile(values, WINSOR)))


def _unit(values: np.ndarray) -> np.ndarray:
    """The values centred, with norm 1; 0 where all are the same."""
    centred = _centred(values)
    norm = _dot(centred, centred) ** 0.5
    centred /= norm if norm > 0 else 1.0
    return centred


def _correlation_ratio(ranks: np.ndarray, given: np.ndarray) -> float:
    """√ of the share of the variance of `ranks` that bins of the ranks `given` explain (ε², Kelley 1935)."""
    count = len(ranks)
    bins = int(np.clip(count // FEWEST_IN_BIN, 1, BINS))
    number = ((given - 0.5) * bins / count).astype(np.int64)
    size = np.bincount(number, minlength=bins)
    mean = np.bincount(number, weights=ranks, minlength=bins) / np.maximum(size, 1)
    total = float(np.square(ranks - ranks.mean()).sum())
    within = float(np.square(ranks - mean[number]).sum())
    freedom = count - np.count_nonzero(size)
    explained = 1 - (within / freedom) / (total / (count - 1)) if total > 0 and freedom > 0 else 0.0
    return float(np.sqrt(max(explained, 0.0)))
