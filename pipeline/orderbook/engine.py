"""The columns of an order book, in bulk or event by event: one compiled update for both, with the same bits.

`compute` takes a table of events, `compute_parts` a table or a file one part after another, `Stream` event after event.
Every event is a sample. The state begins anew with each segment.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

import numba
import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.features import rolling
from pipeline.features.engine import Features
from pipeline.features.rolling import Floats, Floats32, Integers, borrow
from pipeline.orderbook import state as cells
from pipeline.orderbook.columns import COLUMNS, GATES, GROUP_OF, PRESETS
from pipeline.orderbook.compiling import announce_compilation, digest_code
from pipeline.orderbook.event_table import AMOUNT_NAMES, NUMBER_NAMES, find_segments, read_events
from pipeline.orderbook.lookback import list_lookbacks
from pipeline.orderbook.settings import Settings, read_settings
from pipeline.orderbook.state import COUNT_NAMES, State
from pipeline.orderbook.update import ACTION, AMOUNTS, NUMBERS, SIDE, SIZE, TIME_NS, update_event
from pipeline.row_groups import TableFile

CHUNK_EVENTS = 512  # whose columns are in memory as float64; no value depends on it
PART_EVENTS = 1 << 16  # of a part of a table in memory
COMPILED = ("engine", "columns", "state", "completed", "orders", "events", "book_columns", "flow_columns", "update")
FILES = [*(Path(__file__).parent / f"{name}.py" for name in COMPILED), Path(rolling.__file__)]  # of the compiled update
WHAT = "the columns of order books"  # for the log

Advance = Callable[[Integers, Floats, Integers, Floats, Integers, Integers, Floats, int, int, Floats], int]


@rolling.inline_kernel
def is_acceptable(s: State, numbers: Integers, amounts: Floats) -> bool:
    """Return whether an event may follow the last one."""
    is_known = cells.ADD <= numbers[ACTION] <= cells.HALT
    has_side = numbers[ACTION] > cells.EXECUTE_HIDDEN or abs(numbers[SIDE]) == 1
    is_next = numbers[TIME_NS] >= s.ints[cells.TIME_NS]
    return bool(is_known and has_side and is_next and 0.0 <= amounts[SIZE] < np.inf)


def _compile_advance() -> Advance:
    """Return the compiled update, cached on disk under a key that includes every file of code that it runs."""
    sources = digest_code(FILES)

    @numba.njit(cache=True, error_model="numpy")
    def advance(
        ints: Integers,
        floats: Floats,
        order_ints: Integers,
        order_floats: Floats,
        table: Integers,
        numbers: Integers,
        amounts: Floats,
        start: int,
        count: int,
        out: Floats,
    ) -> int:
        _ = sources
        s = State(borrow(ints), borrow(floats), borrow(order_ints), borrow(order_floats), borrow(table))
        numbers, amounts, out = borrow(numbers), borrow(amounts), borrow(out)
        for i in range(count):
            if s.ints[cells.ORDERS] == order_ints.shape[1]:
                return i
            if not is_acceptable(s, numbers[start + i], amounts[start + i]):
                return i
            update_event(s, numbers[start + i], amounts[start + i], out[i])
        return count

    return cast(Advance, advance)


advance = _compile_advance()
"""advance(*state, numbers, amounts, start, count, out) fills out[:count] (float64) with the columns of events.

`numbers` (N, 4) and `amounts` (N, 42) are those of `event_table.read_events`. It returns the number of events done:
fewer than `count` where the state has no room for another order (then `state.grow`), or an event is not acceptable.
"""


@dataclass(frozen=True)
class BookFeatures(Features):
    """The columns of every event that passes the gates, and what they need beyond the features of bars.

    `warm_up_bars` is the number of events at a segment's start that never have columns; more are lost by the gates.
    """

    orders_by_segment: dict[int, dict[str, int]] = field(default_factory=dict)  # of these rows, by COUNT_NAMES


def compute_parts(events: pd.DataFrame | TableFile, **params: Any) -> Iterator[BookFeatures]:
    """Yield the columns of consecutive events of a clean table, or of a file: together those of `compute`.

    `events` are sorted by segment and event, with the columns of `event_table` and `segment`. The keyword arguments
    are those of `read_settings`.

    Raises:
        ParamsError: a parameter is not allowed.
        ValueError: a column is missing, or an event cannot follow the one before it.
    """
    bulk, start = BulkColumns(events, read_settings(**params)), 0
    for stop in bulk.part_stops:
        yield bulk.compute(start, stop)
        start = stop


def compute(events: pd.DataFrame, **params: Any) -> BookFeatures:
    """Return the columns of a clean table of events; the keyword arguments are those of `read_settings`."""
    bulk = BulkColumns(events, read_settings(**params))
    return bulk.compute(0, len(events))


class BulkColumns:
    """The columns of a table of events, by consecutive ranges of its rows: each goes on where the one before ended."""

    def __init__(self, events: pd.DataFrame | TableFile, settings: Settings) -> None:
        """Find the segments of a table in memory, or of one in a file."""
        announce_compilation(advance, files=FILES, what=WHAT)
        self._read: Callable[[int, int], pd.DataFrame]
        if isinstance(events, TableFile):
            keys, self.part_stops = events.read(["segment"]), events.group_stops.tolist()
            names = [*NUMBER_NAMES, *AMOUNT_NAMES]
            self._read = lambda start, stop: events.read(names, start=start, stop=stop)
        else:
            keys, self.part_stops = events, [*range(PART_EVENTS, len(events), PART_EVENTS), len(events)]
            self._read = lambda start, stop: events.iloc[start:stop]
        self.settings, self.segment, self.starts = settings, *find_segments(keys)
        self._first_state = cells.allocate(settings)
        self._state = self._first_state
        self._places = np.array([COLUMNS.index(name) for name in settings.columns])
        self._out = np.empty((CHUNK_EVENTS, len(COLUMNS)))

    def compute(self, start: int, stop: int) -> BookFeatures:
        """Return the columns of the next events, rows `start` to `stop` of the table."""
        numbers, amounts = read_events(self._read(start, stop))
        edges = np.append(self.starts[(self.starts > start) & (self.starts < stop)], stop).tolist()
        x, rows = list[Floats32](), list[Integers]()
        lost, orders = dict[int, int](), dict[int, dict[str, int]]()
        first = start
        for end in edges if stop > start else ():
            place = int(np.searchsorted(self.starts, first, side="right")) - 1
            if self.starts[place] == first:
                self._state = cells.copy_state(self._first_state)
            before = self._count_orders()
            counted = [self._fill(numbers, amounts, row, min(row + CHUNK_EVENTS, end), start, x)
                       for row in range(first, end, CHUNK_EVENTS)]  # fmt: skip
            rows += counted
            segment = int(self.segment[place])
            lost[segment] = end - first - sum(map(len, counted))
            orders[segment] = dict(zip(COUNT_NAMES, (self._count_orders() - before).tolist(), strict=True))
            first = end
        lookbacks = list_lookbacks(self.settings)
        return BookFeatures(
            columns=self.settings.columns,
            x=np.concatenate([np.empty((0, len(self._places)), np.float32), *x]),
            rows=np.concatenate([np.arange(0), *rows]),
            warm_up_bars=dict.fromkeys(self.settings.columns, self.settings.ready_events),
            lost_by_segment=lost,
            groups={name: GROUP_OF[name] for name in self.settings.columns},
            presets={name: known for name, known in PRESETS.items() if set(known) <= set(self.settings.columns)},
            lookback_bars={name: lookbacks[name] for name in self.settings.columns},
            orders_by_segment=orders,
        )

    def _count_orders(self) -> Integers:
        return self._state.ints[cells.COUNTS : cells.COUNTS + len(COUNT_NAMES)].copy()

    def _fill(
        self, numbers: Integers, amounts: Floats, first: int, stop: int, start: int, x: list[Floats32]
    ) -> Integers:
        """Append the columns of rows `first` to `stop` that pass the gates to `x`; return these rows."""
        out = self._out[: stop - first]
        self._state = advance_all(self._state, (numbers, amounts), first - start, out, row=first)
        passes = find_passing(out)
        x.append(out[passes][:, self._places].astype(np.float32))
        return first + np.flatnonzero(passes)


def find_passing(columns: Floats) -> npt.NDArray[np.bool_]:
    """Return a mask (n,) of the rows (n, 98) that count: those that pass every gate."""
    passes = np.ones(len(columns), np.bool_)
    for place, value in GATES.items():
        passes &= columns[:, place] == value
    return passes


def advance_all(state: State, events: tuple[Integers, Floats], start: int, out: Floats, *, row: int = 0) -> State:
    """Fill `out` (n, 98) with the columns of the n events from `start` on; return the state, which may have grown.

    `row` is that of the first event in the table, for the error.
    """
    done, count = 0, len(out)
    while (done := done + advance(*state, *events, start + done, count - done, out[done:])) < count:
        capacity = state.order_ints.shape[1]
        if state.ints[cells.ORDERS] < capacity:
            raise ValueError(f"events: row {row + done}: {_describe_fault(state, events, start + done)}")
        state = cells.grow(state, 2 * capacity)
    return state


def _describe_fault(state: State, events: tuple[Integers, Floats], row: int) -> str:
    """Return why an event cannot follow the last one."""
    numbers, size = events[0][row], float(events[1][row, SIZE])
    if numbers[TIME_NS] < state.ints[cells.TIME_NS]:
        return f"time_ns is {numbers[TIME_NS]}, before the last event at {state.ints[cells.TIME_NS]}; sort them"
    return (
        f"action {numbers[ACTION]}, side {numbers[SIDE]}, size {size}; allowed are actions 1 to 7, sides 1 and -1, and "
        "a finite size of 0 or more"
    )


class Event(NamedTuple):
    """One event as arrays."""

    numbers: Integers  # (4,) time in ns, order id, action, side
    amounts: Floats  # (42,) size, price, and columns 0 to 39 of the book after the event


class Stream:
    """The columns event by event: the values of `compute` for the same events, bit for bit."""

    def __init__(self, **params: Any) -> None:
        """Begin a segment; the keyword arguments are those of `read_settings`."""
        announce_compilation(advance, files=FILES, what=WHAT)
        self.settings = read_settings(**params)
        self._first_state = cells.allocate(self.settings)
        self._numbers = np.zeros((1, NUMBERS), dtype=np.int64)
        self._amounts, self._out = np.zeros((1, AMOUNTS)), np.zeros((1, len(COLUMNS)))
        places = [COLUMNS.index(name) for name in self.settings.columns]
        self._places = None if self.settings.columns == COLUMNS else np.array(places)
        self.restart()

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns, in the order of `update`."""
        return self.settings.columns

    def restart(self) -> None:
        """Begin a new segment: another day, another symbol, or trading after a halt."""
        self._state = cells.copy_state(self._first_state)

    def update(self, event: Event | tuple[Integers, Floats]) -> Floats32:
        """Return the columns (F,) after an event, those of rows that do not pass the gates too: see `passes_gates`."""
        self._numbers[0], self._amounts[0] = event
        if advance(*self._state, self._numbers, self._amounts, 0, 1, self._out) == 0:
            self._state = advance_all(self._state, (self._numbers, self._amounts), 0, self._out)
        values: Floats = self._out[0] if self._places is None else self._out[0, self._places]
        return values.astype(np.float32)

    @property
    def passes_gates(self) -> bool:
        """Whether the last event's row counts: `compute` returns such rows alone."""
        return bool(find_passing(self._out)[0])


def make_event(values: Mapping[str, Any]) -> Event:
    """Return one event of a mapping with the columns of `event_table`."""
    numbers = np.array([values[name] for name in NUMBER_NAMES], dtype=np.int64)
    return Event(numbers, np.array([values[name] for name in AMOUNT_NAMES], dtype=np.float64))
