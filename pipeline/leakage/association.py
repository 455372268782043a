"""How strongly columns go with moves to come and gone by, and with a target: correlations, ranks, exact functions."""

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.stats import rankdata

BARS_AHEAD = 64  # how far a column is compared with the moves to come, bar by bar
HORIZONS = 2 ** np.arange(7)  # bars, up to BARS_AHEAD, that are also taken together as one move
WINSOR = [0.001, 0.999]  # quantiles
FILLED_SHARE = 0.9  # a column that changes in fewer rows than these is judged on the rows where it changes, too
FEWEST_ROWS = 200  # with fewer, a correlation of 0.3 among the hundreds that are tried is chance
ROUNDING = 1e-4  # a residual below this share of its column is what float32 rounding left
BINS, FEWEST_IN_BIN = 100, 20


class Moves(NamedTuple):
    """The moves around each row, as they are or ranked."""

    own: np.ndarray  # (n,) float64, of the bar itself, the last one known
    ahead: np.ndarray  # (n, BARS_AHEAD + horizons) float32, unit columns: each next move, and the next h together
    behind: np.ndarray  # (n, horizons) float32, unit columns: the last h together


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
    for v, view in enumerate((_plain, rankdata)):
        sizes = [_around(rows, view(size)) for size in (move, np.abs(move))]
        for column in range(x.shape[1]):
            values = view(x[:, column])
            for s, moves in enumerate(sizes):
                found = _strongest_anywhere(values[rows], values[rows - 1], moves)
                future[2 * v + s, column], past[2 * v + s, column] = found
    return future, past


def with_target(x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Each (F,), in [0, 1]: |Pearson|, |Spearman|, how far a column determines y, and how far y determines it.

    The last two are correlation ratios of ranks over bins of ranks, corrected for the number of bins: 1 for any exact
    function (square, sign, class), monotone or not, whatever the tails.
    """
    target, target_rank = _plain(y), rankdata(y)
    found = np.zeros((4, x.shape[1]))
    for column in range(x.shape[1]):
        values = _plain(x[:, column])
        rank = rankdata(values)
        found[0, column] = abs(_dot(_unit(values), _unit(target)))
        found[1, column] = abs(_dot(_unit(rank), _unit(target_rank)))
        found[2, column] = _correlation_ratio(target_rank, rank)
        found[3, column] = _correlation_ratio(rank, target_rank)
    return dict(zip(("pearson", "spearman", "determines", "determined"), found, strict=True))


def _plain(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float64)


def _around(rows: np.ndarray, moves: np.ndarray) -> Moves:
    windows = sliding_window_view(_winsorised(moves).astype(np.float32), BARS_AHEAD)
    ahead, behind = windows[rows], windows[rows - BARS_AHEAD][:, ::-1]
    next_h, last_h = (np.cumsum(part, axis=1)[:, HORIZONS - 1] for part in (ahead, behind))
    return Moves(moves[rows - 1], _unit(np.hstack([ahead, next_h])), _unit(last_h))


def _strongest_anywhere(now: np.ndarray, before: np.ndarray, moves: Moves) -> tuple[float, float]:
    """(future, past), over all rows or over those where the column changes, where the future is stronger."""
    found = [_strongest(now, before, moves)]
    changed = np.flatnonzero(now != before)
    if FEWEST_ROWS <= len(changed) < FILLED_SHARE * len(now):
        part = Moves(moves.own[changed], _unit(moves.ahead[changed]), _unit(moves.behind[changed]))
        found.append(_strongest(now[changed], before[changed], part))
    return max(found)


def _strongest(now: np.ndarray, before: np.ndarray, moves: Moves) -> tuple[float, float]:
    now, before, own = (values - values.mean() for values in (now, before, moves.own))
    new = _without(now, before)
    unforced = _without(new, _without(own, before))
    least = ROUNDING * _dot(now, now) ** 0.5
    return _largest(unforced, moves.ahead, least=least), _largest(new, moves.behind, least=least)


def _without(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """`values` less what `known` explains of them linearly; both are centred."""
    square = _dot(known, known)
    return values - known * (_dot(known, values) / square) if square > 0 else values


def _dot(left: np.ndarray, right: np.ndarray) -> float:
    """Not `@`, whose threads add in another order on another machine, and wait for each other on a busy one."""
    return float(np.einsum("i,i->", left, right))


def _largest(residual: np.ndarray, moves: np.ndarray, *, least: float) -> float:
    """The largest |correlation| with a column of `moves`; 0 for a residual below the norm `least`."""
    if _dot(residual, residual) ** 0.5 <= least:
        return 0.0
    unit = _unit(_winsorised(residual)).astype(np.float32)
    return float(np.abs(np.einsum("i,ij->j", unit, moves)).max())


def _winsorised(values: np.ndarray) -> np.ndarray:
    """`values` without the extremes, so that one crash does not speak for the whole market."""
    return np.asarray(np.clip(values, *np.quantile(values, WINSOR)))


def _unit(values: np.ndarray) -> np.ndarray:
    """The columns centred, with norm 1; a constant column is 0."""
    centred = np.asarray(values - values.mean(axis=0))
    norm = np.sqrt(np.einsum("i...,i...->...", centred, centred))
    np.divide(centred, norm, out=centred, where=norm > 0)
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
