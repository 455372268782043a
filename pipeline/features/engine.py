"""Features of bars, in bulk or bar by bar: one compiled update for a long chunk of bars or for a single one.

`compute` takes a table of bars, `compute_parts` a table or a file one part after another, `Stream` bar after bar.
All pass them to `advance`, so that streamed and bulk values agree in every bit, across segments and restarts too.
Compiled callers use `advance` themselves.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numba
import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.features import chunks, cross_section, registry, symbol_flags
from pipeline.features.bar_table import find_segments, join_ranges, list_absent_fields, read_matrix
from pipeline.features.catalogue import PRESETS, Layout, add_owners, make_layout, select_indicators
from pipeline.features.pandas_file import PandasFile, compute_columns
from pipeline.features.params import FeatureParams, expand_params, refuse_in_stream
from pipeline.features.registry import GROUPS
from pipeline.features.rolling import Floats, Floats32, Integers, borrow
from pipeline.market import checks
from pipeline.market.bar_reader import BarReader
from pipeline.market.stream_clock import CONTINUES, RESTARTS, UNKNOWN, StreamClock
from pipeline.row_groups import TableFile

CHUNK_BARS = 512  # so that a chunk stays in the processor's cache; no value depends on it
PART_BARS = 1 << 16  # of a part of a table in memory
KEYS = ["segment", "open_time"]

Advance = Callable[[tuple[Integers, ...], Floats, Floats, Floats, int, int, Floats32, int], int]
update_groups = registry.chain_updates()


def _compile_advance() -> Advance:
    """Return the compiled update, cached on disk under a key that includes every file of code that it runs."""
    sources = registry.hash_sources()

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
    absent_fields: tuple[str, ...] = ()  # optional fields of bars that the table lacks
    left_out: dict[str, str] = field(default_factory=dict)  # column that is not computed: the field that it needs
    presets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # names for several groups or columns together
    lookback_bars: dict[str, int] = field(default_factory=dict)  # column: bars before its own that it reads


@expand_params
def compute(bars: pd.DataFrame, params: FeatureParams) -> Features:
    """Return every column of every bar after its segment's warm-up; segments are `bars.segment`, or else found.

    The keyword-only arguments are the keys of a features block. Raises ValueError on a parameter that is not allowed,
    a missing column, an invalid price or amount, and bars out of order. Columns that need an optional field which the
    table lacks, or `absent_fields` names, are left out.
    """
    return BulkFeatures(bars, params).compute(0, len(bars))


@expand_params
def compute_parts(bars: pd.DataFrame | TableFile, params: FeatureParams) -> Iterator[Features]:
    """Yield the features of consecutive bars of a table, or of a file with `segment`: together those of `compute`.

    A part has PART_BARS bars of a table, or those of one row group of a file, which alone are in memory; where columns
    in pandas need it, those of one segment are as well.
    """
    bulk, start = BulkFeatures(bars, params), 0
    for stop in bulk.part_stops:
        yield bulk.compute(start, stop)
        start = stop


class BulkFeatures:
    """The features of a table of bars, by consecutive ranges of its rows: each goes on where the one before ended."""

    def __init__(self, bars: pd.DataFrame | TableFile, params: FeatureParams) -> None:
        """Lay out the columns of a table in memory, or of one in a file."""
        self._read: Callable[[int, int], pd.DataFrame]
        if isinstance(bars, TableFile):
            keys, columns, self.part_stops = bars.read(KEYS), bars.schema.names, bars.group_stops.tolist()
            wanted = None if params.in_pandas else chunks.FIELDS
            self._read = lambda start, stop: bars.read(wanted, start=start, stop=stop)
        else:
            keys, columns = bars, list(bars.columns)
            self.part_stops = [*range(PART_BARS, len(bars), PART_BARS), len(bars)]
            self._read = lambda start, stop: bars.iloc[start:stop]
        self.files, self.absent = params.in_pandas, list_absent_fields(columns, params.absent_fields)
        self.layout, self.left_out = _make_layout(params, self.absent)
        self.segment, self.starts, self.stops = find_segments(keys)
        self._symbols = symbol_flags.list_symbols(self.layout, bars, self.starts)
        self._across = cross_section.BulkColumns(params.cross_section, bars, keys, segment_starts=self.starts)
        of_files = (file.warm_up_bars for file in self.files)
        warm_up_bars = max(self.layout.warm_up_bars, *of_files, *self._across.warm_up_bars.values(), 0)
        self.warm = np.minimum(self.starts + warm_up_bars, self.stops)  # the first row of each segment with values
        self._memory = self.layout.memory.copy()
        self._chunk = chunks.allocate_chunk(CHUNK_BARS, self.layout.lookback_bars)
        self._unused = np.empty((len(self.layout.columns), CHUNK_BARS), dtype=np.float32)
        self._in_pandas: dict[str, tuple[int, pd.DataFrame]] = {}  # by file: a segment's place, and its columns

    def compute(self, start: int, stop: int) -> Features:
        """Return the features of the next bars, rows `start` to `stop` of the table.

        `rows` are those of the table; `lost_by_segment` has the segments of these bars, and counts their rows alone.
        """
        bars = self._read(start, stop)
        matrix = read_matrix(bars, absent=self.absent, start=start)
        within = (self.stops > start) & (self.starts < stop)
        first, warm, end = (np.clip(each[within], start, stop) for each in (self.starts, self.warm, self.stops))
        rows, places = join_ranges(warm, end), np.flatnonzero(within & (self.warm < self.stops)).tolist()
        out, out_start = np.empty((len(self.layout.columns), len(rows)), dtype=np.float32), 0
        for place in places:
            out_start += self._fill_segment(place, matrix, start=start, out=out, out_start=out_start)
        features = Features(
            columns=tuple(column.name for column in self.layout.columns),
            x=out.T,
            rows=rows,
            warm_up_bars={column.name: column.warm_up_bars for column in self.layout.columns},
            lost_by_segment=dict(zip(self.segment[within].tolist(), (warm - first).tolist(), strict=True)),
            groups=self.layout.groups,
            absent_fields=self.absent,
            left_out=self.left_out,
            presets=PRESETS,
        )
        known = self._across.warm_up_bars
        features = _append_columns(features, self._across.take(rows), warm_up_bars=known, owner=cross_section.GROUP)
        for file in self.files if places else ():
            tables = [self._compute_in_pandas(file, place, bars, start=start) for place in places]
            values = np.concatenate([table.to_numpy().T for table in tables], axis=1)
            of_file = dict.fromkeys(tables[0].columns, file.warm_up_bars)
            features = _append_columns(features, values, warm_up_bars=of_file, owner=file.name)
        return features

    def _fill_segment(self, place: int, matrix: Floats, *, start: int, out: Floats32, out_start: int) -> int:
        """Fill `out` with the columns of the bars of one segment that `matrix` has; return the number of them.

        `matrix` (fields, N) begins at row `start` of the table.
        """
        if self.starts[place] >= start:
            symbol_flags.fill_memory(self._memory, self.layout, self._symbols[place])
        segment = (self.starts[place], self.warm[place], self.stops[place])
        first, warm, stop = (min(max(int(row) - start, 0), matrix.shape[1]) for row in segment)
        for bar in range(first, warm, CHUNK_BARS):
            self._advance(matrix, bar, min(CHUNK_BARS, warm - bar), self._unused, 0)
        for bar in range(warm, stop, CHUNK_BARS):
            self._advance(matrix, bar, min(CHUNK_BARS, stop - bar), out, out_start + bar - warm)
        return int(stop - warm)

    def _advance(self, matrix: Floats, bar: int, count: int, out: Floats32, out_start: int) -> None:
        advance(self.layout.plans, self._memory, self._chunk, matrix, bar, count, out, out_start)

    def _compute_in_pandas(self, file: PandasFile, place: int, bars: pd.DataFrame, *, start: int) -> pd.DataFrame:
        """Return a file's columns of those bars of one segment that `bars`, from row `start` on, has with values.

        The columns of the last segment stay, for the bars that follow.
        """
        known, table = self._in_pandas.get(file.name, (-1, None))
        if table is None or known != place:
            first, stop = int(self.starts[place]), int(self.stops[place])
            is_within = first >= start and stop <= start + len(bars)
            segment = bars.iloc[first - start : stop - start] if is_within else self._read(first, stop)
            warm = int(self.warm[place]) - first
            table = compute_columns(file, segment, warm=warm, names=None if table is None else list(table.columns))
            self._in_pandas[file.name] = (place, table)
        from_row, to_row = (max(row - int(self.warm[place]), 0) for row in (start, start + len(bars)))
        return table.iloc[from_row:to_row]


def _append_columns(features: Features, values: Floats32, *, warm_up_bars: dict[str, int], owner: str) -> Features:
    """Return the features with columns, `values` (C, N) by the names in `warm_up_bars`, that `Stream` lacks."""
    names, groups = list(warm_up_bars), dict(features.groups)
    add_owners(groups, names, owner=owner)
    return replace(
        features,
        columns=(*features.columns, *names),
        x=np.concatenate([features.x.T, values]).T if names else features.x,
        warm_up_bars=features.warm_up_bars | warm_up_bars,
        groups=groups,
        in_pandas=(*features.in_pandas, *names),
    )


def _make_layout(params: FeatureParams, absent: Sequence[str]) -> tuple[Layout, dict[str, str]]:
    """Return the layout of all indicators, one plan per group in the order in which `advance` takes them.

    The plan of a group that is switched off has no rows. Returned too are the columns left out because a field is
    absent, and that field.
    """
    on = params.groups
    listed = {name: group.list_indicators(on[name]) if name in on else () for name, group in GROUPS.items()}
    indicators, left_out = select_indicators(listed, absent)
    if left_out and not any(indicators.values()):
        raise ValueError(
            f"features: all columns need {', '.join(absent)}, which the bars lack; add a group such as price to "
            "features.groups, or use bars that have these fields"
        )
    return make_layout(indicators, head_cells=chunks.HEAD_CELLS), left_out


class Stream:
    """Features bar by bar: the values of `compute` for the same bars, bit for bit, as soon as each bar has closed."""

    @expand_params
    def __init__(
        self,
        params: FeatureParams,
        *,
        interval_ms: int | None = None,
        symbols: Sequence[str] | None = None,
        calendar: Mapping[str, Any] | None = None,
    ) -> None:
        """Lay out the columns; the keyword-only arguments are those of `compute`, and three more.

        `interval_ms` is the length of a bar; without it, it is inferred: see `update`. `symbols` are those whose bars
        are accepted; a stream has the bars of one of them, that of the first bar. `calendar` has `exchange`, `features`
        and `positions` of that section of params; null: the market never closes. Raises ValueError on a parameter that
        is not allowed, and on columns in pandas or among symbols.
        """
        refuse_in_stream(params)
        self.layout, self.left_out = _make_layout(params, params.absent_fields)
        self._reader = BarReader(absent_fields=params.absent_fields, symbols=symbols)
        symbol_flags.check_symbols(self.layout, symbols or ())
        self._warm_up_bars = self.layout.warm_up_bars
        self.clock = StreamClock(interval_ms=interval_ms, calendar=calendar, warm_up_bars=self._warm_up_bars)
        self._memory, self._chunk = self.layout.memory.copy(), chunks.allocate_chunk(1, self.layout.lookback_bars)
        self._bar, self._next = np.zeros((len(checks.FIELDS), 1)), np.zeros((len(checks.FIELDS), 1))
        self._numbers, self._next_numbers = self._bar[:, 0], self._next[:, 0]
        self._out = np.zeros((len(self.layout.columns), 1), dtype=np.float32)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns, in the order of `update`."""
        return tuple(column.name for column in self.layout.columns)

    @property
    def last_bar(self) -> Floats:
        """The numbers (11,) of the last bar, `checks.FIELDS`: not a copy, and another array after the next bar."""
        return self._numbers

    @property
    def segment_bars(self) -> int:
        """The number of bars of the present segment so far."""
        return int(self._memory[chunks.BARS_SEEN])

    def update(self, bar: Mapping[str, Any], *, now_ms: float | None = None) -> Floats32 | None:
        """Return the columns (F,) now that `bar` has closed; None while its segment warms up.

        A segment ends where `bar["segment"]` changes; where bars have none, it ends where bars are missing. With a
        calendar those are the bars of its sessions, as `ingest` numbers them. Without `interval_ms` the length of a bar
        is the shortest step so far: a shorter one shows that the steps before it were gaps. `now_ms` is the time at
        which the bar is received. Missing bars, longer bars and stale ones are logged as warnings.

        Raises ValueError, with nothing changed, on a bar that breaks a rule of `market/checks.py`, that is not later
        than the last of its segment, lies off the grid or outside of the sessions, is longer than a bar, is of another
        symbol, or is not closed: one of `bar_reader.CLOSED` is false, or close_time is not before `now_ms`.
        """
        return self.take(bar, self.check(bar, now_ms=now_ms))

    def check(self, bar: Mapping[str, Any], *, now_ms: float | None = None) -> int:
        """Return what `bar` changes, see `StreamClock.find_change`: nothing so far. It raises as `update` does."""
        clock, numbers = self.clock, self._next_numbers
        last = numbers if clock.time_ms == UNKNOWN else self._numbers
        times = self._reader.read(bar, into=numbers, last=last)
        change = clock.find_change(bar, times, now_ms=now_ms)
        if change != CONTINUES:
            symbol_flags.check_symbols(self.layout, [bar.get("symbol")])
        return change

    def take(self, bar: Mapping[str, Any], change: int) -> Floats32 | None:
        """Return the columns (F,) of the bar that `check` has passed last, with what it changes, as `update` does."""
        if change != CONTINUES:
            symbol_flags.fill_memory(self._memory, self.layout, bar.get("symbol"))
        if change == RESTARTS:
            self._advance()  # the last bar once more, as the first of its segment
        self.clock.advance()
        self._reader.symbol = bar.get("symbol")
        self._bar, self._next = self._next, self._bar
        self._numbers, self._next_numbers = self._next_numbers, self._numbers
        return self._out[:, 0].copy() if self._advance() > self._warm_up_bars else None

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return a copy of all that the next bar's columns depend on; `restore` resumes from it."""
        return {
            "memory": self._memory.copy(),
            "bar": self._bar.copy(),
            "clock": self.clock.pack(),
            "symbol": np.array([self._reader.symbol or ""]),
        }

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Resume from the `state` of a Stream with the same parameters.

        Raises ValueError, with nothing changed, if it had other windows, another interval or another symbol.
        """
        if missing := [name for name in ("memory", "bar", "clock", "symbol") if name not in state]:
            raise ValueError(f"state: {missing} are missing; restore what `state` of a Stream of this version returned")
        if state["memory"].shape != self._memory.shape or state["bar"].shape != self._bar.shape:
            raise ValueError(
                f"state: memory has {state['memory'].size} cells; this stream's has {self._memory.size}; "
                "restore into a Stream with the features block that the state was made with"
            )
        symbol, clock = str(state["symbol"][0]) or None, self.clock.unpack(state["clock"])
        if clock.time_ms != UNKNOWN:
            self._reader.check_symbol(symbol, has_bars=self.clock.time_ms != UNKNOWN and symbol != self._reader.symbol)
        self._memory[:], self._bar[:] = state["memory"], state["bar"]
        self.clock, self._reader.symbol = clock, symbol

    def _advance(self) -> int:
        return advance(self.layout.plans, self._memory, self._chunk, self._bar, 0, 1, self._out, 0)
