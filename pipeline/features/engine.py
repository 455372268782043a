"""Features of bars, in bulk or bar by bar: one compiled update, over a long stretch of bars or over a single one.

`compute` takes a table of bars, `Stream` one bar after the other; both hand them to `advance`, so that streamed and
bulk values agree in every bit, over segment borders and restarts too. Compiled callers use `advance` themselves.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numba
import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline import bars as klines
from pipeline.features import flow, liquidity, momentum, price, tape
from pipeline.features.catalogue import Layout, lay_out
from pipeline.features.rolling import Floats, Floats32, Integers, borrowed
from pipeline.features.tape import PRICES

UNKNOWN = np.iinfo(np.int64).min  # a time, step or segment not seen yet
STRETCH_BARS = 512  # so that a stretch's tape stays in the processor's cache; no value depends on it

Advance = Callable[[tuple[Integers, ...], Floats, Floats, Floats, int, int, Floats32, int], int]


def _compiled() -> Advance:
    """The compiled update, cached on disk under a key that every file of this folder is part of.

    numba itself looks at this file alone, and would go on using what it compiled from an older `price.py`; it does
    include the values that a function closes over, hence `sources`.
    """
    files = sorted(Path(__file__).parent.glob("*.py"))
    sources = int(hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12], 16)

    @numba.njit(cache=True, error_model="numpy")
    def advance(
        plans: tuple[Integers, ...],
        memory: Floats,
        work: Floats,
        bars: Floats,
        start: int,
        count: int,
        out: Floats32,
        to: int,
    ) -> int:
        _ = sources
        memory, work, bars, out = borrowed(memory), borrowed(work), borrowed(bars), borrowed(out)
        tape.observe(memory, work, bars, start, count)
        price.update(plans[0], memory, work, out, to, count)
        momentum.update(plans[1], memory, work, out, to, count)
        flow.update(plans[2], memory, work, out, to, count)
        liquidity.update(plans[3], memory, work, out, to, count)
        tape.remember(memory, work, count)
        return int(memory[tape.AGE])

    return cast(Advance, advance)


advance = _compiled()
"""advance(plans, memory, work, bars, start, count, out, to): `out[:, to:to + count]` (F × ...) holds the columns of
bars `start` to `start + count` of `bars` (tape.FIELDS × N, checked by the caller); the segment's number of bars so far
is returned, and columns are defined once it is above `Layout.warm_up`. `memory` is a copy of `Layout.memory` where a
segment starts, `work` a `tape.blank(at least count, Layout.past)`. May be called from compiled code."""


@dataclass(frozen=True)
class Features:
    """Every column of every bar after warm-up. Row i of `x` is known when bar `rows[i]` closes."""

    columns: tuple[str, ...]
    x: Floats32  # (N, F)
    rows: Integers  # (N,) positions in the table of bars
    warm_up: dict[str, int]  # column: bars of a segment that pass before it is defined
    dropped: dict[int, int]  # segment: rows lost to the longest warm-up


def compute(
    bars: pd.DataFrame,
    *,
    return_windows: Sequence[int],
    volatility_windows: Sequence[int],
    range_window: int,
    sma_windows: Sequence[int],
    ema_windows: Sequence[int],
    bollinger_window: int,
    bollinger_deviations: float,
    rsi_windows: Sequence[int],
    macd_windows: Sequence[int],
    momentum_windows: Sequence[int],
    stochastic_window: int,
    trend_window: int,
    volume_window: int,
    baseline_window: int,
    flow_window: int,
    liquidity_window: int,
    vpin_buckets: int,
    vpin_bucket_bars: int,
) -> Features:
    """Every column of every bar of `bars` whose segment has warmed up; segments are `bars.segment`, or else found.

    Raises ValueError on a parameter that is not allowed, a missing column, a value that is no price or amount, and
    bars out of order.
    """
    layout = Stream(
        return_windows=return_windows,
        volatility_windows=volatility_windows,
        range_window=range_window,
        sma_windows=sma_windows,
        ema_windows=ema_windows,
        bollinger_window=bollinger_window,
        bollinger_deviations=bollinger_deviations,
        rsi_windows=rsi_windows,
        macd_windows=macd_windows,
        momentum_windows=momentum_windows,
        stochastic_window=stochastic_window,
        trend_window=trend_window,
        volume_window=volume_window,
        baseline_window=baseline_window,
        flow_window=flow_window,
        liquidity_window=liquidity_window,
        vpin_buckets=vpin_buckets,
        vpin_bucket_bars=vpin_bucket_bars,
    ).layout
    matrix, (segment, starts, stops) = _matrix(bars), _runs(bars)
    lengths = stops - starts
    rows = _after(starts + np.minimum(lengths, layout.warm_up), stops)
    out = np.empty((len(layout.columns), len(rows)), dtype=np.float32)
    to = 0
    for start, stop in zip(starts, stops, strict=True):
        if stop - start > layout.warm_up:
            _run(layout, matrix, start=start, stop=stop, out=out, to=to)
            to += stop - start - layout.warm_up
    return Features(
        columns=tuple(column.name for column in layout.columns),
        x=out.T,
        rows=rows,
        warm_up={column.name: column.warm_up for column in layout.columns},
        dropped=dict(zip(segment.tolist(), np.minimum(lengths, layout.warm_up).tolist(), strict=True)),
    )


def _after(firsts: Integers, stops: Integers) -> Integers:
    """Each run's positions, one run after the other."""
    runs = [np.arange(first, stop) for first, stop in zip(firsts, stops, strict=True)]
    return np.concatenate([np.arange(0), *runs])


def _run(layout: Layout, matrix: Floats, *, start: int, stop: int, out: Floats32, to: int) -> None:
    """One segment's bars after warm-up stand in `out` from `to` on."""
    memory, work = layout.memory.copy(), tape.blank(STRETCH_BARS, layout.past)
    warming = np.empty((len(layout.columns), STRETCH_BARS), dtype=np.float32)
    warm = start + layout.warm_up
    for first in range(start, warm, STRETCH_BARS):
        advance(layout.plans, memory, work, matrix, first, min(STRETCH_BARS, warm - first), warming, 0)
    for first in range(warm, stop, STRETCH_BARS):
        advance(layout.plans, memory, work, matrix, first, min(STRETCH_BARS, stop - first), out, to + first - warm)


def _matrix(bars: pd.DataFrame) -> Floats:
    """(fields, N) of valid prices and amounts."""
    missing = [name for name in tape.FIELDS if name not in bars.columns]
    if missing:
        raise ValueError(f"bars: columns {missing} are missing; there are {list(bars.columns)}")
    matrix, lows, highs = np.empty((len(tape.FIELDS), len(bars))), list[float](), list[float]()
    for row, name in zip(matrix, tape.FIELDS, strict=True):
        row[:] = bars[name].to_numpy(dtype=np.float64)
        lows.append(row.min(initial=math.inf))  # at once, while the row is in the processor's cache
        highs.append(row.max(initial=-math.inf))
    if not (
        all(low > 0.0 for low in lows[:PRICES])
        and all(low >= 0.0 for low in lows)
        and all(high < math.inf for high in highs)
    ):
        bad = int(np.flatnonzero(~_is_valid(matrix).all(axis=0))[0])
        raise ValueError(f"bars: row {bad}: {_invalid(matrix[:, bad])}")
    return matrix


def _is_valid(values: Floats) -> npt.NDArray[np.bool_]:
    """Of the fields on the first axis, prices are finite and above 0, amounts are finite and not negative."""
    valid = np.isfinite(values)
    valid[:PRICES] &= values[:PRICES] > 0.0
    valid[PRICES:] &= values[PRICES:] >= 0.0
    return valid


def _invalid(values: Floats) -> str:
    """What is wrong with one bar's fields."""
    field = int(np.flatnonzero(~_is_valid(values))[0])
    allowed = "above 0" if field < PRICES else "0 or more"
    return f"{tape.FIELDS[field]} is {values[field]}; allowed is a finite number, {allowed}"


def _runs(bars: pd.DataFrame) -> tuple[Integers, Integers, Integers]:
    """Each segment's number, first row and end row. Raises ValueError where a segment is torn or goes back in time."""
    segment = (bars["segment"] if "segment" in bars.columns else pd.Series(klines.segments(bars))).to_numpy(np.int64)
    time_ms = bars["open_time"].to_numpy(np.int64)
    is_border = segment[1:] != segment[:-1]
    starts = np.flatnonzero(np.concatenate([np.ones(min(len(bars), 1), dtype=np.bool_), is_border]))
    back = np.flatnonzero((time_ms[1:] <= time_ms[:-1]) & ~is_border)
    if back.size:
        raise ValueError(f"bars: row {back[0] + 1} does not follow row {back[0]} in time within its segment; sort them")
    numbers, places = np.unique(segment[starts], return_counts=True)
    if (places > 1).any():
        torn = numbers[places > 1][0]
        raise ValueError(
            f"bars: the rows of segment {torn} do not stand together; sort them by segment, then open_time"
        )
    return segment[starts], starts, np.append(starts[1:], len(bars)) if len(bars) else starts


class Stream:
    """Features bar by bar: what `compute` gives for the same bars, bit for bit, as soon as each bar has closed."""

    def __init__(
        self,
        *,
        return_windows: Sequence[int],
        volatility_windows: Sequence[int],
        range_window: int,
        sma_windows: Sequence[int],
        ema_windows: Sequence[int],
        bollinger_window: int,
        bollinger_deviations: float,
        rsi_windows: Sequence[int],
        macd_windows: Sequence[int],
        momentum_windows: Sequence[int],
        stochastic_window: int,
        trend_window: int,
        volume_window: int,
        baseline_window: int,
        flow_window: int,
        liquidity_window: int,
        vpin_buckets: int,
        vpin_bucket_bars: int,
    ) -> None:
        """The columns of a features block, before the first bar. Raises ValueError on a parameter not allowed."""
        levels = price.families(
            return_windows=return_windows,
            volatility_windows=volatility_windows,
            range_window=range_window,
            sma_windows=sma_windows,
            ema_windows=ema_windows,
            bollinger_window=bollinger_window,
            bollinger_deviations=bollinger_deviations,
        )
        moves = momentum.families(
            rsi_windows=rsi_windows,
            macd_windows=macd_windows,
            momentum_windows=momentum_windows,
            stochastic_window=stochastic_window,
            trend_window=trend_window,
        )
        flows = flow.families(
            volume_window=volume_window,
            baseline_window=baseline_window,
            flow_window=flow_window,
            vpin_buckets=vpin_buckets,
            vpin_bucket_bars=vpin_bucket_bars,
        )
        self.layout = lay_out(
            [levels, moves, flows, liquidity.families(liquidity_window=liquidity_window)], head_cells=tape.HEAD_CELLS
        )
        self._warm_up = self.layout.warm_up
        self._memory, self._work = self.layout.memory.copy(), tape.blank(1, self.layout.past)
        self._bar = np.zeros((len(tape.FIELDS), 1))
        self._out = np.zeros((len(self.layout.columns), 1), dtype=np.float32)
        self._time_ms, self._step_ms, self._segment = UNKNOWN, UNKNOWN, UNKNOWN

    def update(self, bar: Mapping[str, Any]) -> Floats32 | None:
        """The columns (F,) now that `bar` has closed; None while its segment warms up.

        A segment ends where `bar["segment"]` changes; where bars have none, it ends where more than a bar's length
        passes. The length is the shortest step so far: a shorter one shows that what lay before it were holes.

        Raises ValueError, with nothing changed, on a field that is missing or invalid and on a bar that is not later
        than the last of its segment.
        """
        values, time_ms = _fields(bar)
        segment = int(bar["segment"]) if "segment" in bar else UNKNOWN
        if self._time_ms == UNKNOWN or segment != self._segment:
            self._restart()
        elif time_ms <= self._time_ms:
            raise ValueError(f"bar: open_time is {time_ms}; allowed is one after the last bar's, {self._time_ms}")
        elif segment == UNKNOWN:
            self._look_for_hole(time_ms - self._time_ms)
        self._time_ms, self._segment = time_ms, segment
        self._bar[:, 0] = values
        return self._out[:, 0].copy() if self._advance() > self._warm_up else None

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """All that the next bar's columns depend on; `restore` of a Stream with the same block goes on from it."""
        clock = np.array([self._time_ms, self._step_ms, self._segment])
        return {"memory": self._memory.copy(), "bar": self._bar.copy(), "clock": clock}

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """The stream goes on where the one that gave `state` was. Raises ValueError if that had other windows."""
        if state["memory"].shape != self._memory.shape:
            raise ValueError(
                f"state: memory has {state['memory'].size} cells; this stream's has {self._memory.size}; "
                "restore into a Stream with the features block that the state was made with"
            )
        self._memory[:], self._bar[:] = state["memory"], state["bar"]
        self._time_ms, self._step_ms, self._segment = map(int, state["clock"])

    def _look_for_hole(self, step_ms: int) -> None:
        if self._step_ms == UNKNOWN or step_ms < self._step_ms:
            self._step_ms = step_ms
            self._restart()
            self._advance()  # the last bar once more, as the first of its segment
        elif step_ms > self._step_ms:
            self._restart()

    def _restart(self) -> None:
        self._memory[:] = self.layout.memory

    def _advance(self) -> int:
        return advance(self.layout.plans, self._memory, self._work, self._bar, 0, 1, self._out, 0)


def _fields(bar: Mapping[str, Any]) -> tuple[list[float], int]:
    """The bar's valid prices and amounts, and its open_time."""
    try:
        values, time_ms = [float(bar[name]) for name in tape.FIELDS], int(bar["open_time"])
    except KeyError as missing:
        raise ValueError(f"bar: {missing} is missing; needed are {tape.FIELDS}") from missing
    if not (math.isfinite(sum(values)) and min(values[:PRICES]) > 0.0 and min(values[PRICES:]) >= 0.0):
        raise ValueError(f"bar at open_time {time_ms}: {_invalid(np.array(values))}")
    return values, time_ms
