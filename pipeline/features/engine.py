"""Features of bars, in bulk or bar by bar: one compiled update for a long chunk of bars or for a single one.

`compute` takes a table of bars, `Stream` one bar after the other. Both pass them to `advance`, so that streamed and
bulk values agree in every bit, across segments and restarts too. Compiled callers use `advance` themselves.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numba
import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.features import chunks, registry
from pipeline.features.catalogue import Layout, add_owners, make_layout
from pipeline.features.chunks import N_PRICES
from pipeline.features.pandas_file import PandasFile, compute_columns
from pipeline.features.params import FeatureParams, expand_params
from pipeline.features.registry import GROUPS
from pipeline.features.rolling import Floats, Floats32, Integers, borrow
from pipeline.market import bars as klines

UNKNOWN = np.iinfo(np.int64).min  # a time, step or segment not seen yet
CHUNK_BARS = 512  # so that a chunk stays in the processor's cache; no value depends on it

Advance = Callable[[tuple[Integers, ...], Floats, Floats, Floats, int, int, Floats32, int], int]
update_groups = registry.chain_updates()


def _compile_advance() -> Advance:
    """Return the compiled update, cached on disk under a key that includes every file of code that it runs.

    numba itself looks at this file alone, and would reuse what it compiled from an older `price.py`. It does include
    the values that a function closes over, hence `sources`. Files of `in_pandas/` are not compiled.
    """
    files = [file for folder in (Path(__file__).parent, registry.FOLDER) for file in sorted(folder.glob("*.py"))]
    content = b"".join(file.name.encode() + file.read_bytes() for file in files)
    sources = int(hashlib.sha256(content).hexdigest()[:12], 16)

    @numba.njit(cache=True, error_model="numpy")
    def advance(
        plans: tuple[Integers, ...],
        memory: Floats,
        chunk: Floats,
        bars: Floats,
        start: int,
        count: int,
        out: Floats32,
        out_start: int,
    ) -> int:
        _ = sources
        memory, chunk, bars, out = borrow(memory), borrow(chunk), borrow(bars), borrow(out)
        chunks.fill_chunk(memory, chunk, bars, start, count)
        update_groups(plans, memory, chunk, out, out_start, count)
        chunks.store_last_bar(memory, chunk, count)
        return int(memory[chunks.BARS_SEEN])

    return cast(Advance, advance)


advance = _compile_advance()
"""advance(plans, memory, chunk, bars, start, count, out, out_start) fills `out[:, out_start:out_start + count]`.

Its columns are those of bars `start` to `start + count` of `bars` (chunks.FIELDS, N), which the caller has checked. It
returns the segment's number of bars so far; all columns are defined once that is above `Layout.warm_up_bars`. `memory`
is a copy of `Layout.memory` where a segment starts, `chunk` is `allocate_chunk(at least count, Layout.lookback_bars)`.
It may be called from compiled code.
"""


@dataclass(frozen=True)
class Features:
    """Every column of every bar after warm-up. Row i of `x` is known when bar `rows[i]` closes."""

    columns: tuple[str, ...]
    x: Floats32  # (N, F)
    rows: Integers  # (N,) positions in the table of bars
    warm_up_bars: dict[str, int]  # column: number of bars at a segment's start without a value
    lost_by_segment: dict[int, int]  # segment: number of rows lost to the longest warm-up
    groups: dict[str, str]  # column: its group, the name of its file
    in_pandas: tuple[str, ...] = ()  # the columns that `Stream` cannot compute


@expand_params
def compute(bars: pd.DataFrame, params: FeatureParams) -> Features:
    """Return every column of every bar after its segment's warm-up; segments are `bars.segment`, or else found.

    The keyword-only arguments are the keys of a features block. Raises ValueError on a parameter that is not allowed,
    a missing column, an invalid price or amount, and bars out of order.
    """
    layout = _make_layout(params)
    warm_up_bars = max(layout.warm_up_bars, *(file.warm_up_bars for file in params.in_pandas), 0)
    matrix, (segment, starts, stops) = _read_matrix(bars), _find_segments(bars)
    lost = np.minimum(stops - starts, warm_up_bars)
    ranges = [(int(a), int(b)) for a, b in zip(starts, stops, strict=True) if b - a > warm_up_bars]
    rows = _join_ranges(starts + lost, stops)
    out, out_start = np.empty((len(layout.columns), len(rows)), dtype=np.float32), 0
    for start, stop in ranges:
        warm = start + warm_up_bars
        _fill_segment(layout, matrix, start=start, warm=warm, stop=stop, out=out, out_start=out_start)
        out_start += stop - warm
    features = Features(
        columns=tuple(column.name for column in layout.columns),
        x=out.T,
        rows=rows,
        warm_up_bars={column.name: column.warm_up_bars for column in layout.columns},
        lost_by_segment=dict(zip(segment.tolist(), lost.tolist(), strict=True)),
        groups=layout.groups,
    )
    for file in params.in_pandas:
        features = _append_columns(features, file, bars, ranges, warm_up_bars=warm_up_bars)
    return features


def _append_columns(
    features: Features, file: PandasFile, bars: pd.DataFrame, ranges: Sequence[tuple[int, int]], *, warm_up_bars: int
) -> Features:
    """Return the features with the columns of a file in pandas behind them."""
    names, values = compute_columns(file, bars, ranges, warm_up_bars=warm_up_bars)
    groups = dict(features.groups)
    add_owners(groups, names, owner=file.name)
    return replace(
        features,
        columns=(*features.columns, *names),
        x=np.concatenate([features.x.T, values]).T if names else features.x,
        warm_up_bars=features.warm_up_bars | dict.fromkeys(names, file.warm_up_bars),
        groups=groups,
        in_pandas=(*features.in_pandas, *names),
    )


def _make_layout(params: FeatureParams) -> Layout:
    """Return the layout of all indicators, one plan per group in the order in which `advance` takes them.

    The plan of a group that is switched off has no rows.
    """
    on = params.groups
    indicators = {name: group.list_indicators(on[name]) if name in on else () for name, group in GROUPS.items()}
    return make_layout(indicators, head_cells=chunks.HEAD_CELLS)


def _join_ranges(starts: Integers, stops: Integers) -> Integers:
    """Return the positions from each start to its stop, one range after the other."""
    ranges = [np.arange(start, stop) for start, stop in zip(starts, stops, strict=True)]
    return np.concatenate([np.arange(0), *ranges])


def _fill_segment(
    layout: Layout, matrix: Floats, *, start: int, warm: int, stop: int, out: Floats32, out_start: int
) -> None:
    """Fill `out` from `out_start` on with the columns of one segment's bars from `warm` on."""
    memory, chunk = layout.memory.copy(), chunks.allocate_chunk(CHUNK_BARS, layout.lookback_bars)
    unused = np.empty((len(layout.columns), CHUNK_BARS), dtype=np.float32)
    for first in range(start, warm, CHUNK_BARS):
        advance(layout.plans, memory, chunk, matrix, first, min(CHUNK_BARS, warm - first), unused, 0)
    for first in range(warm, stop, CHUNK_BARS):
        count = min(CHUNK_BARS, stop - first)
        advance(layout.plans, memory, chunk, matrix, first, count, out, out_start + first - warm)


def _read_matrix(bars: pd.DataFrame) -> Floats:
    """Return valid prices and amounts (fields, N) of a table of bars."""
    missing = [name for name in chunks.FIELDS if name not in bars.columns]
    if missing:
        raise ValueError(f"bars: columns {missing} are missing; there are {list(bars.columns)}")
    matrix, lows, highs = np.empty((len(chunks.FIELDS), len(bars))), list[float](), list[float]()
    for row, name in zip(matrix, chunks.FIELDS, strict=True):
        row[:] = bars[name].to_numpy(dtype=np.float64)
        lows.append(row.min(initial=math.inf))  # now, while the row is in the processor's cache
        highs.append(row.max(initial=-math.inf))
    if not (
        all(low > 0.0 for low in lows[:N_PRICES])
        and all(low >= 0.0 for low in lows)
        and all(high < math.inf for high in highs)
    ):
        bad = int(np.flatnonzero(~_is_valid(matrix).all(axis=0))[0])
        raise ValueError(f"bars: row {bad}: {_describe_fault(matrix[:, bad])}")
    return matrix


def _is_valid(values: Floats) -> npt.NDArray[np.bool_]:
    """Return a mask: prices (first axis) are finite and above 0, amounts are finite and not negative."""
    valid = np.isfinite(values)
    valid[:N_PRICES] &= values[:N_PRICES] > 0.0
    valid[N_PRICES:] &= values[N_PRICES:] >= 0.0
    return valid


def _describe_fault(values: Floats) -> str:
    """Return what is wrong with one bar's fields."""
    field = int(np.flatnonzero(~_is_valid(values))[0])
    allowed = "above 0" if field < N_PRICES else "0 or more"
    return f"{chunks.FIELDS[field]} is {values[field]}; allowed is a finite number, {allowed}"


def _find_segments(bars: pd.DataFrame) -> tuple[Integers, Integers, Integers]:
    """Return each segment's number, first row and end row.

    Raises ValueError where a segment's rows are apart or not in time order.
    """
    numbers = bars["segment"] if "segment" in bars.columns else pd.Series(klines.number_segments(bars))
    segment, time_ms = numbers.to_numpy(np.int64), bars["open_time"].to_numpy(np.int64)
    is_border = segment[1:] != segment[:-1]
    starts = np.flatnonzero(np.concatenate([np.ones(min(len(bars), 1), dtype=np.bool_), is_border]))
    back = np.flatnonzero((time_ms[1:] <= time_ms[:-1]) & ~is_border)
    if back.size:
        raise ValueError(f"bars: row {back[0] + 1} does not follow row {back[0]} in time within its segment; sort them")
    unique, runs = np.unique(segment[starts], return_counts=True)
    if (runs > 1).any():
        raise ValueError(
            f"bars: the rows of segment {unique[runs > 1][0]} are not adjacent; sort them by segment, then open_time"
        )
    return segment[starts], starts, np.append(starts[1:], len(bars)) if len(bars) else starts


class Stream:
    """Features bar by bar: the values of `compute` for the same bars, bit for bit, as soon as each bar has closed."""

    @expand_params
    def __init__(self, params: FeatureParams) -> None:
        """Lay out the columns; the keyword-only arguments are those of `compute`.

        Raises ValueError on a parameter that is not allowed, and on columns in pandas.
        """
        if params.in_pandas:
            raise ValueError(
                f"features.in_pandas has {', '.join(file.name for file in params.in_pandas)}: columns in pandas cannot "
                "be streamed; leave them out, or write them as a compiled file of pipeline/features/groups"
            )
        self.layout = _make_layout(params)
        self._warm_up_bars = self.layout.warm_up_bars
        self._memory, self._chunk = self.layout.memory.copy(), chunks.allocate_chunk(1, self.layout.lookback_bars)
        self._bar = np.zeros((len(chunks.FIELDS), 1))
        self._out = np.zeros((len(self.layout.columns), 1), dtype=np.float32)
        self._time_ms, self._step_ms, self._segment = UNKNOWN, UNKNOWN, UNKNOWN

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns, in the order of `update`."""
        return tuple(column.name for column in self.layout.columns)

    def update(self, bar: Mapping[str, Any]) -> Floats32 | None:
        """Return the columns (F,) now that `bar` has closed; None while its segment warms up.

        A segment ends where `bar["segment"]` changes; where bars have none, it ends where more than a bar's length
        passes. The length is the shortest step so far: a shorter one shows that the steps before it were gaps.

        Raises ValueError, with nothing changed, on a field that is missing or invalid and on a bar that is not later
        than the last of its segment.
        """
        values, time_ms = _read_fields(bar)
        segment = int(bar["segment"]) if "segment" in bar else UNKNOWN
        if self._time_ms == UNKNOWN or segment != self._segment:
            self._start_segment()
        elif time_ms <= self._time_ms:
            raise ValueError(f"bar: open_time is {time_ms}; allowed is one after the last bar's, {self._time_ms}")
        elif segment == UNKNOWN:
            self._check_gap(time_ms - self._time_ms)
        self._time_ms, self._segment = time_ms, segment
        self._bar[:, 0] = values
        return self._out[:, 0].copy() if self._advance() > self._warm_up_bars else None

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return a copy of all that the next bar's columns depend on; `restore` resumes from it."""
        clock = np.array([self._time_ms, self._step_ms, self._segment])
        return {"memory": self._memory.copy(), "bar": self._bar.copy(), "clock": clock}

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Resume from the `state` of a Stream with the same parameters. Raises ValueError if it had other windows."""
        if state["memory"].shape != self._memory.shape:
            raise ValueError(
                f"state: memory has {state['memory'].size} cells; this stream's has {self._memory.size}; "
                "restore into a Stream with the features block that the state was made with"
            )
        self._memory[:], self._bar[:] = state["memory"], state["bar"]
        self._time_ms, self._step_ms, self._segment = map(int, state["clock"])

    def _check_gap(self, step_ms: int) -> None:
        """Start a segment where the step is longer than a bar, or shows that the steps before it were."""
        if self._step_ms == UNKNOWN or step_ms < self._step_ms:
            self._step_ms = step_ms
            self._start_segment()
            self._advance()  # the last bar once more, as the first of its segment
        elif step_ms > self._step_ms:
            self._start_segment()

    def _start_segment(self) -> None:
        self._memory[:] = self.layout.memory

    def _advance(self) -> int:
        return advance(self.layout.plans, self._memory, self._chunk, self._bar, 0, 1, self._out, 0)


def _read_fields(bar: Mapping[str, Any]) -> tuple[list[float], int]:
    """Return the bar's valid prices and amounts, and its open_time."""
    try:
        values, time_ms = [float(bar[name]) for name in chunks.FIELDS], int(bar["open_time"])
    except KeyError as missing:
        raise ValueError(f"bar: {missing} is missing; needed are {chunks.FIELDS}") from missing
    if not (math.isfinite(sum(values)) and min(values[:N_PRICES]) > 0.0 and min(values[N_PRICES:]) >= 0.0):
        raise ValueError(f"bar at open_time {time_ms}: {_describe_fault(np.array(values))}")
    return values, time_ms
