"""Columns from volume and the taker's side: activity, order flow, VPIN.

Signed volume is 2 · taker_buy_base - volume: the exchange says who took, nothing is inferred from the price. Bars
without volume or trades are ordinary; each column says what it is then.
"""

import math

from pipeline.features import tape as on
from pipeline.features.catalogue import Column, Family, window
from pipeline.features.elementary import ln
from pipeline.features.rolling import (
    Floats,
    Floats32,
    Integers,
    copied,
    kernel,
    rolling_sum,
    window_cells,
)
from pipeline.features.tape import before, now

ACTIVITY, FLOW, BUYERS, VPIN = range(4)
BUCKET_HEAD = 3
DAY_MS = 86_400_000.0


@kernel
def activity(
    memory: Floats,
    at: int,
    tape: Floats,
    level: Floats32,
    ratio: Floats32,
    intensity: Floats32,
    size: Floats32,
    n: int,
    base: int,
) -> None:
    """Mean volume of n bars over that of `base` bars, volume and trades over their means of n bars, trade size.

    The size is ln of this bar's volume a trade over that of n bars. Without volume or trades a
    column is 1, the size 0.
    """
    count = len(level)
    volume, trades = now(tape, on.VOLUME, count), now(tape, on.TRADES, count)
    relative, distance = now(tape, on.WORK, count), now(tape, on.WORK + 1, count)
    short = rolling_sum(memory, at, n, volume, tape[on.WORK + 2 :])
    traded = rolling_sum(memory, at + window_cells(n), n, trades, tape[on.WORK + 4 :])
    long = rolling_sum(memory, at + 2 * window_cells(n), base, volume, tape[on.WORK + 6 :])
    share = base / n
    for i in range(count):
        level[i] = short[i] * share / long[i] if long[i] > 0.0 else 1.0
    for i in range(count):
        ratio[i] = volume[i] * n / short[i] if short[i] > 0.0 else 1.0
    for i in range(count):
        intensity[i] = trades[i] * n / traded[i] if traded[i] > 0.0 else 1.0
    for i in range(count):
        has_size = (volume[i] > 0.0) & (trades[i] > 0.0)
        relative[i] = volume[i] * traded[i] / (trades[i] * short[i]) if has_size else 1.0
    ln(relative, distance)
    copied(distance, size)


@kernel
def order_flow(memory: Floats, at: int, tape: Floats, obv: Floats32, flow: Floats32, n: int) -> None:
    """On-balance volume of n bars, and the signed volume of n bars, both over their volume; 0 without any."""
    count = len(obv)
    volume, close, last = now(tape, on.VOLUME, count), now(tape, on.CLOSE, count), before(tape, on.CLOSE, count)
    balance, signed = now(tape, on.WORK, count), now(tape, on.SIGNED, count)
    for i in range(count):
        balance[i] = volume[i] if close[i] > last[i] else -volume[i] if close[i] < last[i] else 0.0
    balances = rolling_sum(memory, at, n, balance, tape[on.WORK + 1 :])
    imbalances = rolling_sum(memory, at + window_cells(n), n, signed, tape[on.WORK + 3 :])
    volumes = rolling_sum(memory, at + 2 * window_cells(n), n, volume, tape[on.WORK + 5 :])
    for i in range(count):
        obv[i] = balances[i] / volumes[i] if volumes[i] > 0.0 else 0.0
    for i in range(count):
        flow[i] = imbalances[i] / volumes[i] if volumes[i] > 0.0 else 0.0


@kernel
def buyers(tape: Floats, out: Floats32) -> None:
    """The share of the bar's volume that takers bought; ½ without volume."""
    count = len(out)
    volume, bought = now(tape, on.VOLUME, count), now(tape, on.BUY, count)
    for i in range(count):
        out[i] = bought[i] / volume[i] if volume[i] > 0.0 else 0.5


@kernel
def imbalance_of_buckets(memory: Floats, at: int, n: int, imbalance: float, volume: float) -> float:
    """Σ imbalance / Σ volume of the last n buckets, of which this is the newest (of all, while there are fewer).

    Buckets come one by one: they are cut into blocks of n, and the window is the suffix of the block before, summed up
    once when that was full, plus the prefix of the block that is filling. Nothing is ever subtracted.
    """
    place = int(memory[at])
    imbalances, volumes = memory[at + 1] + imbalance, memory[at + 2] + volume
    ring = memory[at + BUCKET_HEAD : at + BUCKET_HEAD + 2 * n]
    ring[2 * place], ring[2 * place + 1] = imbalance, volume
    place += 1
    memory[at], memory[at + 1], memory[at + 2] = place, imbalances, volumes
    if place < n:
        return float((imbalances + ring[2 * place]) / (volumes + ring[2 * place + 1]))
    memory[at] = memory[at + 1] = memory[at + 2] = 0.0
    for cell in range(2 * n - 3, -1, -1):
        ring[cell] += ring[cell + 2]
    return float(imbalances / volumes)


@kernel
def informed_trading(
    memory: Floats, at: int, tape: Floats, out: Floats32, buckets: int, bucket_bars: int, base: int
) -> None:
    """Σ|bought - sold| / Σ volume over the last `buckets` full volume buckets (VPIN); 0 before the first is full.

    A bucket, when it is opened, is given `bucket_bars` times the mean volume of the `base` bars before this one. A bar
    that fills several is split among them pro rata. Each UTC day begins with a new bucket, and what is left in the last
    one is dropped: so that where buckets end does not depend, for ever, on where the first bar was.
    """
    count = len(out)
    volume, signed, rate = now(tape, on.VOLUME, count), now(tape, on.SIGNED, count), now(tape, on.WORK, count)
    time_ms, last_ms = now(tape, on.TIME, count), before(tape, on.TIME, count)
    days_passed = now(tape, on.WORK + 3, count)
    age, past = int(memory[on.AGE]), memory[at]
    size, filled, imbalance = memory[at + 1], memory[at + 2], memory[at + 3]
    vpin, past_bars = memory[at + 4], 1.0 / base * bucket_bars
    mean = rolling_sum(memory, at + 5, base, volume, tape[on.WORK + 1 :])
    ring = at + 5 + window_cells(base)
    for i in range(count):
        rate[i] = signed[i] / volume[i] if volume[i] > 0.0 else 0.0
    for i in range(count):
        days_passed[i] = math.floor(time_ms[i] / DAY_MS) - math.floor(last_ms[i] / DAY_MS)
    for i in range(count):
        if days_passed[i] != 0.0:
            size = filled = imbalance = 0.0
        rest = volume[i] if age + i >= base else 0.0
        while rest > 0.0:
            if size == 0.0:
                size = past * past_bars
                if size == 0.0:  # no volume in the whole past window: nothing to measure this bar with
                    break
                if rest > (buckets + 1.0) * size:  # only the last `buckets` count
                    rest = buckets * size + rest % size
            room = size - filled
            if rest < room:
                filled, imbalance = filled + rest, imbalance + rest * rate[i]
                break
            rest, imbalance = rest - room, imbalance + room * rate[i]
            vpin = imbalance_of_buckets(memory, ring, buckets, min(abs(imbalance), size), size)
            size = filled = imbalance = 0.0
        past = mean[i]
        out[i] = vpin
    memory[at], memory[at + 1], memory[at + 2], memory[at + 3], memory[at + 4] = past, size, filled, imbalance, vpin


@kernel
def update(plan: Integers, memory: Floats, tape: Floats, out: Floats32, start: int, count: int) -> None:
    """`out[:, start:start + count]` (F, N) holds the columns of every family of `plan`, whose rows Layout describes."""
    for row in range(len(plan)):
        family, at, column, n = plan[row, 0], plan[row, 1], plan[row, 2], plan[row, 3]
        first = out[column, start : start + count]
        if family == ACTIVITY:
            second = out[column + 1, start : start + count]
            third = out[column + 2, start : start + count]
            fourth = out[column + 3, start : start + count]
            activity(memory, at, tape, first, second, third, fourth, n, plan[row, 4])
        elif family == FLOW:
            second = out[column + 1, start : start + count]
            order_flow(memory, at, tape, first, second, n)
        elif family == BUYERS:
            buyers(tape, first)
        elif family == VPIN:
            informed_trading(memory, at, tape, first, n, plan[row, 4], plan[row, 5])


def families(
    *,
    volume_window: int,
    baseline_window: int,
    flow_window: int,
    vpin_buckets: int,
    vpin_bucket_bars: int,
) -> tuple[Family, ...]:
    """The catalogue's entries on volume and flow. Raises ValueError on a parameter that is not allowed."""
    window("volume_window", volume_window)
    window("baseline_window", baseline_window, least=volume_window + 1)
    window("flow_window", flow_window)
    window("vpin_buckets", vpin_buckets)
    window("vpin_bucket_bars", vpin_bucket_bars)
    return (
        _activity(n=volume_window, base=baseline_window),
        *_flow(n=flow_window),
        _vpin(buckets=vpin_buckets, bucket_bars=vpin_bucket_bars, base=baseline_window),
    )


def _activity(*, n: int, base: int) -> Family:
    columns = (
        Column(f"volume_sma_{n}", f"mean volume of {n} bars over that of {base} bars; 1 without volume", base - 1),
        Column("volume_ratio", f"volume over its mean of {n} bars, this one included; 1 without volume", n - 1),
        Column("trade_intensity", f"trades over their mean of {n} bars, this one included; 1 without trades", n - 1),
        Column("avg_trade_size", f"ln(volume a trade / that of the last {n} bars together); 0 without trades", n - 1),
    )
    return Family(ACTIVITY, (n, base), columns, 2 * window_cells(n) + window_cells(base))


def _flow(*, n: int) -> tuple[Family, ...]:
    flow = (
        Column("obv", f"Σ sign(close - last close) · volume over Σ volume, {n} bars; 0 without volume (Granville)", n),
        Column("order_flow_imbalance", f"Σ signed volume over Σ volume, {n} bars; 0 without volume", n - 1),
    )
    share = (Column("taker_buy_ratio", "taker_buy_base over volume of this bar; 0.5 without volume", 0),)
    return Family(FLOW, (n,), flow, 3 * window_cells(n)), Family(BUYERS, (), share, 0)


def _vpin(*, buckets: int, bucket_bars: int, base: int) -> Family:
    meaning = (
        f"Σ|bought - sold| over Σ volume of the last {buckets} full buckets, each given {bucket_bars} times the mean "
        f"volume of the {base} bars before, a new one each UTC day; while fewer are full, of those; while none is, 0 "
        "(Easley, López de Prado & O'Hara 2012)"
    )
    cells = 5 + window_cells(base) + BUCKET_HEAD + 2 * buckets
    column = Column("vpin", meaning, base + buckets * bucket_bars - 1)
    return Family(VPIN, (buckets, bucket_bars, base), (column,), cells)
