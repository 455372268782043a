"""Columns of an order book in units of what was known before: of the same day so far, or of the day before.

A row is never standardized by itself, by a later row or by a whole day that it is part of. The update is compiled, and
the same for one row as for many, so that streamed and bulk values agree in every bit.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import numba
import numpy as np
import numpy.typing as npt
import pandas as pd
from annotated_types import Interval

from pipeline import config
from pipeline.orderbook.columns import CATEGORICAL, COLUMNS
from pipeline.orderbook.engine import BookFeatures
from pipeline.row_groups import TableFile

Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Method = Literal["running", "previous_day"]

UNSCALED = tuple(COLUMNS[place] for place in CATEGORICAL)  # they are categories
MIN_ROWS = 100  # before a standardized one, as a book counts as ready after 100 changes
CONSTANT_SHARE = 1e-6  # a deviation below this share of the mean is float32 rounding of a constant
KEYS = ["segment", "symbol", "day"]
SHIFT, TOTAL, SQUARES, MEAN, SCALE = range(5)  # cells of a column


@numba.njit(cache=True, error_model="numpy")
def _summarize(count: int, shift: float, total: float, squares: float) -> tuple[float, float]:
    """Return the mean and 1 / deviation of `count` values, 0 where they do not vary; sums are of value - shift."""
    mean = total / count
    variance = squares / count - mean * mean
    deviation = np.sqrt(variance) if variance > 0.0 else 0.0
    return shift + mean, 1.0 / deviation if deviation > CONSTANT_SHARE * abs(shift + mean) else 0.0


@numba.njit(cache=True, error_model="numpy")
def _add_row(cells: Floats, ring: Floats, row: Floats32, count: int) -> None:
    """Add a row to the sums; with a ring, the row that leaves its window is subtracted.

    Whenever the ring is full, the sums are added up anew: rounding errors do not accumulate over a day.
    """
    window = ring.shape[0]
    for j in range(row.shape[0]):
        cell, value = cells[j], np.float64(row[j])
        if count == 0:
            cell[SHIFT], cell[TOTAL], cell[SQUARES] = value, 0.0, 0.0
        value -= cell[SHIFT]
        if window == 0:
            cell[TOTAL] += value
            cell[SQUARES] += value * value
            continue
        place = count % window
        leaving = ring[place, j] if count >= window else 0.0
        ring[place, j] = value
        if place == window - 1:
            cell[TOTAL] = cell[SQUARES] = 0.0
            for i in range(window):
                cell[TOTAL] += ring[i, j]
                cell[SQUARES] += ring[i, j] * ring[i, j]
        else:
            cell[TOTAL] += value - leaving
            cell[SQUARES] += value * value - leaving * leaving


@numba.njit(cache=True, error_model="numpy")
def _advance(
    cells: Floats,
    ring: Floats,
    counts: Integers,
    is_scaled: npt.NDArray[np.bool_],
    starts: Integers,
    is_running: bool,
    x: Floats32,
    out: Floats32,
    has_statistics: npt.NDArray[np.bool_],
) -> None:
    """Standardize rows (N, F) one by one; `starts` is 1 at the first row of a day and 2 at that of a symbol.

    `counts` are the rows of this day so far, and whether the day before has statistics.
    """
    window = ring.shape[0]
    for i in range(x.shape[0]):
        if starts[i] > 0:
            counts[1] = 1 if starts[i] == 1 and counts[0] >= MIN_ROWS else 0
            if counts[1] == 1 and not is_running:
                for j in range(x.shape[1]):
                    cells[j, MEAN], cells[j, SCALE] = _summarize(
                        counts[0], cells[j, SHIFT], cells[j, TOTAL], cells[j, SQUARES]
                    )
            counts[0] = 0
        has_statistics[i] = counts[0] >= MIN_ROWS if is_running else counts[1] == 1
        if has_statistics[i]:
            used = min(counts[0], window) if window > 0 else counts[0]
            for j in range(x.shape[1]):
                if not is_scaled[j]:
                    out[i, j] = x[i, j]
                    continue
                if is_running:
                    cells[j, MEAN], cells[j, SCALE] = _summarize(
                        used, cells[j, SHIFT], cells[j, TOTAL], cells[j, SQUARES]
                    )
                out[i, j] = np.float32((np.float64(x[i, j]) - cells[j, MEAN]) * cells[j, SCALE])
        _add_row(cells, ring, x[i], counts[0])
        counts[0] += 1


class Normalizer:
    """The state of a causal standardization, which rows pass one after another, in parts of any length."""

    def __init__(self, columns: int, *, method: Method, window: int | None, excluded: Sequence[int] = ()) -> None:
        """Begin before the first row.

        Args:
            columns: number of columns of a row.
            method: running, by the rows before in the same day; previous_day, by all rows of the symbol's day before.
            window: of `running`: at most so many rows before; None: all of the day.
            excluded: places of columns that stay as they are.

        Raises:
            ValueError: previous_day has a window, or a window is shorter than MIN_ROWS.
        """
        check_window(method, window)
        self.is_running = method == "running"
        self._cells = np.zeros((columns, SCALE + 1))
        self._ring = np.zeros((window or 0, columns))
        self._counts = np.zeros(2, np.int64)
        self._is_scaled = np.ones(columns, bool)
        self._is_scaled[list(excluded)] = False

    def advance(self, x: Floats32, starts: Integers) -> tuple[Floats32, npt.NDArray[np.bool_]]:
        """Return the next rows (N, F) standardized, and whether enough rows were before each; the others are 0.

        `starts` (N,) is 1 at the first row of a day, 2 at that of a symbol, and else 0.
        """
        x = np.ascontiguousarray(x, np.float32)
        out, has_statistics = np.zeros_like(x), np.zeros(len(x), bool)
        state = self._cells, self._ring, self._counts, self._is_scaled
        _advance(*state, np.asarray(starts, np.int64), self.is_running, x, out, has_statistics)
        return out, has_statistics


def standardize_causally(
    x: Floats32,
    segment: Integers,
    *,
    method: Method,
    window: int | None,
    excluded: Sequence[int] = (),
    symbol: npt.NDArray[Any] | None = None,
) -> tuple[Integers, Floats32]:
    """Return the rows (n,) before which there are enough rows, and their standardized columns (n, F).

    A row's mean and deviation are those of the rows before it in its segment, or those of the segment before: at least
    MIN_ROWS, without the row itself. A column that does not vary there becomes 0. Whatever follows a row has no effect.

    Args:
        x: (N, F), in time order within a segment.
        segment: (N,) the number of each row's day.
        method: see Normalizer, as of `window` and `excluded`.
        window: at most so many rows.
        excluded: places of columns that stay as they are.
        symbol: (N,) of each row: no statistics pass from one to another; None: there is one.

    >>> x = np.arange(104, dtype=np.float32)[:, None]
    >>> rows, scaled = standardize_causally(x, np.zeros(104, np.int64), method="running", window=100)
    >>> rows, scaled[:, 0].round(3)  # the deviation of 100 consecutive numbers is 28.866
    (array([100, 101, 102, 103]), array([1.749, 1.749, 1.749, 1.749], dtype=float32))
    """
    normalizer = Normalizer(x.shape[1], method=method, window=window, excluded=excluded)
    symbols = np.zeros(len(x), np.int64) if symbol is None else pd.factorize(symbol)[0]
    out, has_statistics = normalizer.advance(x, _find_starts(np.asarray(segment), symbols, last=None))
    return np.flatnonzero(has_statistics), out[has_statistics]


def check_window(method: Method, window: int | None) -> None:
    """Raise ParamsError where a method cannot have a window."""
    if method == "previous_day" and window is not None:
        raise config.ParamsError(
            f"window is {window}; of previous_day it must be null, as it takes the whole day before"
        )
    if window is not None and window < MIN_ROWS:
        raise config.ParamsError(
            f"window is {window}; it must be null, for all rows of the day, or at least {MIN_ROWS}"
        )


def read_normalization(
    *, method: Method, window: Annotated[int, Interval(ge=MIN_ROWS)] | None = None
) -> dict[str, Any]:
    """Return the section `normalization` of an order book's features as keyword arguments of Normalizer."""
    check_window(method, window)
    return {"method": method, "window": window}


def normalize_parts(
    parts: Iterable[BookFeatures], clean: TableFile | pd.DataFrame, normalization: config.Block | None
) -> Iterator[BookFeatures]:
    """Yield parts of features standardized causally; as they are where `normalization` is null.

    Rows with too few rows before them are left out and counted as lost. Columns that are categories stay as they are.
    The others look back further, by the window. A whole day has no such bound: each of its rows weighs little in its
    mean, and MIN_ROWS stand for it.

    Args:
        parts: features of consecutive rows of `clean`.
        clean: the clean table, with `segment`, `symbol` and `day`.
        normalization: {method: running, window: 5000} or {method: previous_day}.

    Raises:
        ParamsError: a key or value of `normalization` is not allowed.
    """
    if normalization is None:
        yield from parts
        return
    arguments = config.call_with(read_normalization, block=normalization, name="normalization")
    keys = clean.read(KEYS) if isinstance(clean, TableFile) else clean[KEYS]
    symbol, day = (pd.factorize(keys[name])[0].astype(np.int64) for name in ("symbol", "day"))
    segment, normalizer = keys["segment"].to_numpy(), None
    last: tuple[int, int] | None = None
    for part in parts:
        if normalizer is None:
            excluded = [place for place, name in enumerate(part.columns) if name in UNSCALED]
            normalizer = Normalizer(len(part.columns), excluded=excluded, **arguments)
        days, symbols = day[part.rows], symbol[part.rows]
        x, has_statistics = normalizer.advance(part.x, _find_starts(days, symbols, last=last))
        last = (int(days[-1]), int(symbols[-1])) if len(days) else last
        yield _select_rows(part, x, has_statistics, segment=segment, lookback=arguments["window"] or MIN_ROWS)


def _select_rows(
    part: BookFeatures, x: Floats32, is_selected: npt.NDArray[np.bool_], *, segment: Integers, lookback: int
) -> BookFeatures:
    """Return a part with other columns of some of its rows, which look back further; the other rows are lost."""
    lost = dict(part.lost_by_segment)
    for number, count in zip(*np.unique(segment[part.rows[~is_selected]], return_counts=True), strict=True):
        lost[int(number)] = lost.get(int(number), 0) + int(count)
    lookbacks = {name: bars + (0 if name in UNSCALED else lookback) for name, bars in part.lookback_bars.items()}
    rows = part.rows[is_selected]
    return replace(part, x=x[is_selected], rows=rows, lost_by_segment=lost, lookback_bars=lookbacks)


def _find_starts(day: Integers, symbol: Integers, *, last: tuple[int, int] | None) -> Integers:
    """Return (N,) 2 where a symbol begins, 1 where a day does, else 0; `last` are day and symbol of the row before."""
    before = (-1, -1) if last is None else last
    is_day, is_symbol = (np.diff(codes, prepend=code) != 0 for codes, code in zip((day, symbol), before, strict=True))
    return np.where(is_symbol, 2, is_day.astype(np.int64))
