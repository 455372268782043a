"""Columns of volume and of the taker's side: activity, order flow, VPIN.

Signed volume is 2 · taker_buy_base - volume: the exchange reports the taker's side, nothing is inferred from prices.
Bars without volume or trades are ordinary input; each column defines its value there.
"""

import math
from dataclasses import dataclass

from pipeline import config
from pipeline.features.catalogue import Column, Indicator
from pipeline.features.chunks import (
    BARS_SEEN,
    CLOSE,
    OPEN_TIME,
    SCRATCH,
    SIGNED_VOLUME,
    TAKER_BUY,
    TRADES,
    VOLUME,
    view_current,
    view_previous,
)
from pipeline.features.elementary import fill_log
from pipeline.features.rolling import (
    Floats,
    Floats32,
    Integers,
    compile_kernel,
    copy_to_end,
    count_window_cells,
    rolling_sum,
)
from pipeline.features.windows import Window

ACTIVITY, VOLUME_ACTIVITY, ORDER_FLOW, OBV, TAKER_BUY_RATIO, VPIN = range(6)
BUCKET_HEAD = 3
VPIN_HEAD = 5
DAY_MS = 86_400_000.0


@dataclass(frozen=True, kw_only=True)
class Params:
    """The windows of this file's columns, in bars, and VPIN's buckets."""

    volume_window: Window
    baseline_window: Window
    flow_window: Window
    vpin_buckets: Window
    vpin_bucket_bars: Window

    def __post_init__(self) -> None:
        """Raise ParamsError where the two windows of volume do not fit each other."""
        if self.baseline_window <= self.volume_window:
            raise config.ParamsError(
                f"features.baseline_window is {self.baseline_window}; it must be above volume_window, "
                f"{self.volume_window}"
            )


@compile_kernel
def fill_volume_activity(
    memory: Floats, cell: int, chunk: Floats, level: Floats32, ratio: Floats32, n: int, baseline: int
) -> Floats:
    """Fill mean volume of n bars over that of `baseline` bars, and volume over its mean of n; 1 without volume.

    Return the sums of volume over n bars.
    """
    count = len(level)
    volume = view_current(chunk, VOLUME, count)
    short = rolling_sum(memory, cell, n, volume, chunk[SCRATCH + 2 :])
    long = rolling_sum(memory, cell + count_window_cells(n), baseline, volume, chunk[SCRATCH + 4 :])
    scale = baseline / n
    for i in range(count):
        level[i] = short[i] * scale / long[i] if long[i] > 0.0 else 1.0
    for i in range(count):
        ratio[i] = volume[i] * n / short[i] if short[i] > 0.0 else 1.0
    return short


@compile_kernel
def fill_trade_activity(
    memory: Floats, cell: int, chunk: Floats, short: Floats, intensity: Floats32, size: Floats32, n: int
) -> None:
    """Fill trades over their mean of n bars, 1 without trades, and the trade size, 0 without volume or trades.

    The size is ln of this bar's volume per trade over that of n bars, whose volume is `short`.
    """
    count = len(intensity)
    volume, trades = view_current(chunk, VOLUME, count), view_current(chunk, TRADES, count)
    relative, log_relative = view_current(chunk, SCRATCH, count), view_current(chunk, SCRATCH + 1, count)
    traded = rolling_sum(memory, cell, n, trades, chunk[SCRATCH + 6 :])
    for i in range(count):
        intensity[i] = trades[i] * n / traded[i] if traded[i] > 0.0 else 1.0
    for i in range(count):
        has_size = (volume[i] > 0.0) & (trades[i] > 0.0)
        relative[i] = volume[i] * traded[i] / (trades[i] * short[i]) if has_size else 1.0
    fill_log(relative, log_relative)
    copy_to_end(log_relative, size)


@compile_kernel
def on_balance_volume(memory: Floats, cell: int, chunk: Floats, out: Floats32, n: int) -> Floats:
    """Fill `out` with on-balance volume of n bars over their volume, 0 without volume; return the sums of volume."""
    count = len(out)
    close, last = view_current(chunk, CLOSE, count), view_previous(chunk, CLOSE, count)
    volume, balance = view_current(chunk, VOLUME, count), view_current(chunk, SCRATCH, count)
    for i in range(count):
        balance[i] = volume[i] if close[i] > last[i] else -volume[i] if close[i] < last[i] else 0.0
    balances = rolling_sum(memory, cell, n, balance, chunk[SCRATCH + 1 :])
    volumes = rolling_sum(memory, cell + count_window_cells(n), n, volume, chunk[SCRATCH + 3 :])
    for i in range(count):
        out[i] = balances[i] / volumes[i] if volumes[i] > 0.0 else 0.0
    return volumes


@compile_kernel
def order_flow_imbalance(memory: Floats, cell: int, chunk: Floats, volumes: Floats, out: Floats32, n: int) -> None:
    """Fill `out` with signed volume of n bars over their volume `volumes`; 0 without volume."""
    count = len(out)
    imbalances = rolling_sum(memory, cell, n, view_current(chunk, SIGNED_VOLUME, count), chunk[SCRATCH + 5 :])
    for i in range(count):
        out[i] = imbalances[i] / volumes[i] if volumes[i] > 0.0 else 0.0


@compile_kernel
def taker_buy_ratio(chunk: Floats, out: Floats32) -> None:
    """Fill `out` with the fraction of the bar's volume that takers bought; ½ without volume."""
    count = len(out)
    volume, bought = view_current(chunk, VOLUME, count), view_current(chunk, TAKER_BUY, count)
    for i in range(count):
        out[i] = bought[i] / volume[i] if volume[i] > 0.0 else 0.5


@compile_kernel
def push_bucket(memory: Floats, cell: int, n: int, imbalance: float, volume: float) -> float:
    """Add a full bucket; return Σ imbalance / Σ volume of the last n buckets (of all, while there are fewer).

    Buckets come one by one and form blocks of n. The window is the suffix of the block before, summed up once when
    that was full, plus the prefix of the block that is filling. Nothing is ever subtracted.
    """
    position = int(memory[cell])
    imbalances, volumes = memory[cell + 1] + imbalance, memory[cell + 2] + volume
    ring = memory[cell + BUCKET_HEAD : cell + BUCKET_HEAD + 2 * n]
    ring[2 * position], ring[2 * position + 1] = imbalance, volume
    position += 1
    memory[cell], memory[cell + 1], memory[cell + 2] = position, imbalances, volumes
    if position < n:
        return float((imbalances + ring[2 * position]) / (volumes + ring[2 * position + 1]))
    memory[cell] = memory[cell + 1] = memory[cell + 2] = 0.0
    for slot in range(2 * n - 3, -1, -1):
        ring[slot] += ring[slot + 2]
    return float(imbalances / volumes)


@compile_kernel
def fill_bucket_inputs(chunk: Floats, imbalance_rate: Floats, days_passed: Floats) -> None:
    """Fill signed volume per volume (0 without volume), and the number of UTC midnights since the previous bar."""
    count = len(imbalance_rate)
    volume, signed = view_current(chunk, VOLUME, count), view_current(chunk, SIGNED_VOLUME, count)
    time_ms, last_ms = view_current(chunk, OPEN_TIME, count), view_previous(chunk, OPEN_TIME, count)
    for i in range(count):
        imbalance_rate[i] = signed[i] / volume[i] if volume[i] > 0.0 else 0.0
    for i in range(count):
        days_passed[i] = math.floor(time_ms[i] / DAY_MS) - math.floor(last_ms[i] / DAY_MS)


@compile_kernel
def vpin(
    memory: Floats, cell: int, chunk: Floats, out: Floats32, buckets: int, bucket_bars: int, baseline: int
) -> None:
    """Fill `out` with Σ|bought - sold| / Σ volume of the last `buckets` full buckets; 0 before the first is full.

    The volume of a new bucket is `bucket_bars` times the mean volume of the `baseline` bars before this one. A bar that
    fills several buckets is split among them pro rata. Each UTC day begins with a new bucket and drops the unfinished
    one, so that the bucket borders do not depend on the first bar for ever.
    """
    count, volume = len(out), view_current(chunk, VOLUME, len(out))
    rate, days_passed = view_current(chunk, SCRATCH, count), view_current(chunk, SCRATCH + 3, count)
    seen, past = int(memory[BARS_SEEN]), memory[cell]
    size, filled, imbalance = memory[cell + 1], memory[cell + 2], memory[cell + 3]
    value, past_bars = memory[cell + 4], 1.0 / baseline * bucket_bars
    mean = rolling_sum(memory, cell + VPIN_HEAD, baseline, volume, chunk[SCRATCH + 1 :])
    ring = cell + VPIN_HEAD + count_window_cells(baseline)
    fill_bucket_inputs(chunk, rate, days_passed)
    for i in range(count):
        if days_passed[i] != 0.0:
            size = filled = imbalance = 0.0
        rest = volume[i] if seen + i >= baseline else 0.0
        while rest > 0.0:
            if size == 0.0:
                size = past * past_bars
                if size == 0.0:  # no volume in the whole baseline window: no scale for this bar
                    break
                if rest > (buckets + 1.0) * size:  # only the last `buckets` count
                    rest = buckets * size + rest % size
            free = size - filled
            if rest < free:
                filled, imbalance = filled + rest, imbalance + rest * rate[i]
                break
            rest, imbalance = rest - free, imbalance + free * rate[i]
            value = push_bucket(memory, ring, buckets, min(abs(imbalance), size), size)
            size = filled = imbalance = 0.0
        past = mean[i]
        out[i] = value
    memory[cell], memory[cell + 1], memory[cell + 2] = past, size, filled
    memory[cell + 3], memory[cell + 4] = imbalance, value


@compile_kernel
def update(plan: Integers, memory: Floats, chunk: Floats, out: Floats32, start: int, count: int) -> None:
    """Fill `out[:, start:start + count]` (F, N) with the columns of every row of `plan`, as Layout describes them."""
    for row in range(len(plan)):
        kernel, cell, column, n = plan[row, 0], plan[row, 1], plan[row, 2], plan[row, 3]
        first = out[column, start : start + count]
        cells = count_window_cells(n)
        if kernel in (ACTIVITY, VOLUME_ACTIVITY):
            baseline, second = plan[row, 4], out[column + 1, start : start + count]
            short = fill_volume_activity(memory, cell, chunk, first, second, n, baseline)
            if kernel == ACTIVITY:
                cell += cells + count_window_cells(baseline)
                third = out[column + 2, start : start + count]
                fourth = out[column + 3, start : start + count]
                fill_trade_activity(memory, cell, chunk, short, third, fourth, n)
        elif kernel in (ORDER_FLOW, OBV):
            volumes = on_balance_volume(memory, cell, chunk, first, n)
            if kernel == ORDER_FLOW:
                second = out[column + 1, start : start + count]
                order_flow_imbalance(memory, cell + 2 * cells, chunk, volumes, second, n)
        elif kernel == TAKER_BUY_RATIO:
            taker_buy_ratio(chunk, first)
        elif kernel == VPIN:
            vpin(memory, cell, chunk, first, n, plan[row, 4], plan[row, 5])


def list_indicators(params: Params) -> tuple[Indicator, ...]:
    """Return the catalogue's entries on volume and order flow."""
    return (
        _make_activity(params.volume_window, params.baseline_window),
        _make_order_flow(params.flow_window),
        _make_taker_buy_ratio(),
        _make_vpin(params.vpin_buckets, bucket_bars=params.vpin_bucket_bars, baseline=params.baseline_window),
    )


def _make_activity(n: int, baseline: int) -> Indicator:
    of_volume = (
        Column(f"volume_sma_{n}", f"mean volume of {n} bars over that of {baseline}; 1 without volume", baseline - 1),
        Column("volume_ratio", f"volume over its mean of {n} bars, this one included; 1 without volume", n - 1),
    )
    of_trades = (
        Column("trade_intensity", f"trades over their mean of {n} bars, this one included; 1 without trades", n - 1),
        Column("avg_trade_size", f"ln(volume per trade / that of the last {n} bars); 0 without trades", n - 1),
    )
    cells, windows = count_window_cells(n) + count_window_cells(baseline), (n, baseline)
    fallback = Indicator(VOLUME_ACTIVITY, windows, of_volume, cells)
    columns, cells = (*of_volume, *of_trades), cells + count_window_cells(n)
    return Indicator(ACTIVITY, windows, columns, cells, fields=("trades",), fallback=fallback)


def _make_order_flow(n: int) -> Indicator:
    obv = f"Σ sign(close - previous close) · volume over Σ volume, {n} bars; 0 without volume (Granville)"
    imbalance = f"Σ signed volume over Σ volume, {n} bars; 0 without volume"
    columns = (Column("obv", obv, n), Column("order_flow_imbalance", imbalance, n - 1))
    fallback = Indicator(OBV, (n,), columns[:1], 2 * count_window_cells(n))
    cells = 3 * count_window_cells(n)
    return Indicator(ORDER_FLOW, (n,), columns, cells, fields=("taker_buy_base",), fallback=fallback)


def _make_taker_buy_ratio() -> Indicator:
    column = Column("taker_buy_ratio", "taker_buy_base over volume of this bar; 0.5 without volume", 0)
    return Indicator(TAKER_BUY_RATIO, (), (column,), 0, fields=("taker_buy_base",))


def _make_vpin(buckets: int, *, bucket_bars: int, baseline: int) -> Indicator:
    meaning = (
        f"Σ|bought - sold| over Σ volume of the last {buckets} full buckets (of all, while fewer are full; 0 before "
        f"the first). A bucket holds {bucket_bars} times the mean volume of the {baseline} bars before it; each UTC "
        "day starts a new one (Easley, López de Prado & O'Hara 2012)"
    )
    cells = VPIN_HEAD + count_window_cells(baseline) + BUCKET_HEAD + 2 * buckets
    column = Column("vpin", meaning, baseline + buckets * bucket_bars - 1)
    return Indicator(VPIN, (buckets, bucket_bars, baseline), (column,), cells, fields=("taker_buy_base",))
