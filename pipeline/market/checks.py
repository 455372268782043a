"""The rules for a bar, written once and compiled: tables and streams are checked by the same function.

`find_broken_rules` maps the numbers of a bar, and those of the bar before, to a bitmask: bit i is rule i of RULES. A
bar that breaks one rule is not checked by those that build on it, so that one fault is reported once. Bounds:

- Prices lie within 1e-12 and 1e12, amounts are 0 or within 1e-24 and 1e18. The cheapest quoted tokens cost about 1e-10,
  and no market trades 1e18 units in a bar. Beyond, squares and logarithms lose their precision.
- Open and close times lie in the years 1990 to 2100; other units of time are named by their magnitude.
- quote_volume / volume is the mean price of a bar, so it lies within low and high: in all 815,306 traded bars measured
  (BTCUSDT, ARBUSDT, 2017 to 2025) by 5e-16. ROUNDED leaves 1 % for amounts that were rounded before.
- A bar whose whole range lies more than a factor MAX_JUMP beyond the range of the bar before is in other units: trades
  bridge a real move. Measured opens differ from the close before by 7 % at most; the usual errors are factors of 100
  and more; stock splits up to 20 for 1 pass. Where bars are missing in between it is a warning.
"""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import NamedTuple, cast

import numba
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.int64]

FIELDS = (
    *("open", "high", "low", "close", "volume", "quote_volume", "trades", "taker_buy_base", "open_time"),
    *("taker_buy_quote", "close_time"),
)  # of a bar, in the order in which the rules take them
OPTIONAL = ("quote_volume", "trades", "taker_buy_base", "taker_buy_quote")  # a bar may lack these
PRICES = ["open", "high", "low", "close"]
AMOUNTS = ["volume", "quote_volume", "trades", "taker_buy_base", "taker_buy_quote"]
OPEN, HIGH, LOW, CLOSE, VOLUME, QUOTE_VOLUME, TRADES, TAKER_BASE, OPEN_TIME, TAKER_QUOTE, CLOSE_TIME = range(11)

MIN_PRICE, MAX_PRICE = 1e-12, 1e12
MIN_AMOUNT, MAX_AMOUNT = 1e-24, 1e18
ROUNDING = 1e-9  # relative: a taker amount and its total are rounded separately
ROUNDED = 0.01  # relative: by which amounts may have been rounded before
MAX_JUMP = 20.0
MIN_MS, MAX_MS = 631_152_000_000.0, 4_133_980_800_000.0  # the first instants of 1990 and of 2101
MS_PER_UNIT = {"seconds": 1e3, "minutes": 6e4, "days": 8.64e7, "microseconds": 1e-3, "nanoseconds": 1e-6}
REMEDIES = {
    "seconds": "multiply by 1,000",
    "minutes": "multiply by 60,000",
    "days": "multiply by 86,400,000",
    "microseconds": "divide by 1,000",
    "nanoseconds": "divide by 1,000,000",
    "digits of a date (YYYYMMDD)": "read them as dates",
}
UNITS = tuple(REMEDIES)
DATE, OUTSIDE = len(UNITS) - 1, len(UNITS)  # places among the rules of a time


class Rule(NamedTuple):
    """A rule for a bar: its name, the columns that it reads beside open_time, and what to do where it is broken."""

    name: str
    columns: tuple[str, ...]
    remedy: str


def _list_time_rules(column: str) -> list[Rule]:
    """Return the rules of a time: one for each other unit, in the order of UNITS, and the years."""
    units = [Rule(f"{column} in {unit}", (column,), f"convert to milliseconds: {REMEDIES[unit]}") for unit in UNITS]
    years = Rule(f"{column} outside the years 1990 to 2100", (column,), "restore it: times are milliseconds, UTC")
    return [*units, years]


RULES = (
    *(
        Rule(
            f"{c} is missing or not finite",
            (c,),
            "drop or restore these rows" + (", or remove the column" if c in OPTIONAL else ""),
        )
        for c in FIELDS
    ),
    Rule("price not above zero", (*PRICES,), "drop or restore these bars"),
    Rule("price outside 1e-12 to 1e12", (*PRICES,), "restore these bars, or quote them in other units"),
    Rule("negative volume or trades", (*AMOUNTS,), "restore these bars"),
    Rule("amount outside 1e-24 to 1e18", (*AMOUNTS,), "restore these bars, or count them in other units"),
    Rule("high and low do not bound open and close", (*PRICES,), "restore these bars"),
    Rule("taker_buy_base above volume", ("taker_buy_base", "volume"), "restore the part or its total"),
    Rule("taker_buy_quote above quote_volume", ("taker_buy_quote", "quote_volume"), "restore the part or its total"),
    Rule("volume without trades", ("volume", "trades"), "restore trades, or drop the column"),
    Rule("trades without volume", ("volume", "trades"), "restore volume, or drop the column trades"),
    Rule("volume without quote_volume", ("volume", "quote_volume"), "restore quote_volume, or drop the column"),
    Rule(
        "quote_volume outside low and high times volume",
        ("low", "high", "volume", "quote_volume"),
        "restore the amounts: quote_volume is the sum of price times volume of the bar's trades",
    ),
    *_list_time_rules("open_time"),
    *_list_time_rules("close_time"),
    Rule("close_time before open_time", ("close_time",), "restore these bars"),
    Rule(
        "price jumps by more than a factor 20 from the bar before",
        (*PRICES,),
        "restore the bars on one side: other units, or another instrument",
    ),
)
NAMES = {rule.name: place for place, rule in enumerate(RULES)}
NOT_ABOVE_ZERO = NAMES["price not above zero"]  # the first of the rules in this order:
PRICE_OUTSIDE, NEGATIVE, AMOUNT_OUTSIDE, UNBOUNDED, BASE_ABOVE, QUOTE_ABOVE = range(
    NOT_ABOVE_ZERO + 1, NOT_ABOVE_ZERO + 7
)
NO_TRADES, NO_VOLUME, NO_QUOTE, QUOTE_OUTSIDE = range(NOT_ABOVE_ZERO + 7, NOT_ABOVE_ZERO + 11)
FIRST_OPEN_TIME = QUOTE_OUTSIDE + 1
FIRST_CLOSE_TIME = FIRST_OPEN_TIME + OUTSIDE + 1
CLOSED_EARLY, JUMP = FIRST_CLOSE_TIME + OUTSIDE + 1, FIRST_CLOSE_TIME + OUTSIDE + 2
UNIT_RULES = ((1 << CLOSED_EARLY) - 1) & ~((1 << FIRST_OPEN_TIME) - 1)
TIME_RULES = UNIT_RULES | 1 << CLOSED_EARLY
VALUE_RULES = (1 << FIRST_OPEN_TIME) - 1
FACTORS = np.array(list(MS_PER_UNIT.values()))
BLOCK_BARS = 1 << 15  # that are checked at once; no result depends on it


@numba.njit(cache=True, error_model="numpy")
def _name_unit(time: float) -> int:
    """Return the place of the unit among the rules of a time, of one that lies outside the years in milliseconds."""
    day, month = time % 100.0, time // 100.0 % 100.0
    if 19_900_101.0 <= time <= 21_001_231.0 and 1.0 <= day <= 31.0 and 1.0 <= month <= 12.0:
        return DATE
    for unit in range(len(FACTORS)):
        if MIN_MS <= time * FACTORS[unit] < MAX_MS:
            return unit
    return OUTSIDE


@numba.njit(cache=True, error_model="numpy")
def _check_times(bar: Floats) -> int:
    """Return the broken rules of the two times."""
    broken, opened, closed = 0, bar[OPEN_TIME], bar[CLOSE_TIME]
    if not MIN_MS <= opened < MAX_MS:
        broken |= 1 << (FIRST_OPEN_TIME + _name_unit(opened))
    if not MIN_MS <= closed < MAX_MS:
        broken |= 1 << (FIRST_CLOSE_TIME + _name_unit(closed))
    if broken == 0 and closed < opened:
        broken = 1 << CLOSED_EARLY
    return broken


@numba.njit(cache=True, error_model="numpy")
def _check_ranges(bar: Floats) -> int:
    """Return the broken rules of prices and amounts, each by itself."""
    broken = 0
    for field in range(CLOSE + 1):
        price = bar[field]
        if not price > 0.0:
            broken |= 1 << NOT_ABOVE_ZERO
        elif not MIN_PRICE <= price <= MAX_PRICE:
            broken |= 1 << PRICE_OUTSIDE
    for field in (VOLUME, QUOTE_VOLUME, TRADES, TAKER_BASE, TAKER_QUOTE):
        amount = bar[field]
        if amount < 0.0:
            broken |= 1 << NEGATIVE
        elif amount > MAX_AMOUNT or 0.0 < amount < MIN_AMOUNT:
            broken |= 1 << AMOUNT_OUTSIDE
    return broken


@numba.njit(cache=True, error_model="numpy")
def _check_amounts(bar: Floats) -> int:
    """Return the broken rules of amounts beside each other."""
    broken, volume, quote, trades = 0, bar[VOLUME], bar[QUOTE_VOLUME], bar[TRADES]
    if bar[TAKER_BASE] > volume * (1.0 + ROUNDING):
        broken |= 1 << BASE_ABOVE
    if bar[TAKER_QUOTE] > quote * (1.0 + ROUNDING):
        broken |= 1 << QUOTE_ABOVE
    if volume > 0.0 and trades == 0.0:
        broken |= 1 << NO_TRADES
    if volume == 0.0 and trades > 0.0:
        broken |= 1 << NO_VOLUME
    if volume > 0.0 and quote == 0.0:
        broken |= 1 << NO_QUOTE
    elif quote > bar[HIGH] * volume * (1.0 + ROUNDED) or quote < bar[LOW] * volume * (1.0 - ROUNDED):
        broken |= 1 << QUOTE_OUTSIDE
    return broken


@numba.njit(cache=True, error_model="numpy")
def find_broken_rules(bar: Floats, last: Floats) -> int:
    """Return the bitmask of the rules that a bar breaks; 0 for a valid one. Compiled code may call it.

    `bar` and `last`, the bar before, have FIELDS (11,); without a bar before, `last` is the bar itself. A field that
    the bar lacks is 0; the rules on it do not hold: see `mask_rules`.
    """
    broken = 0
    for field in range(len(bar)):
        if not np.isfinite(bar[field]):
            broken |= 1 << field
    if broken != 0:
        return broken
    broken = _check_ranges(bar)
    times = _check_times(bar)
    if broken != 0:
        return broken | times
    low, high = bar[LOW], bar[HIGH]
    if high < max(bar[OPEN], bar[CLOSE]) or low > min(bar[OPEN], bar[CLOSE]):
        return times | 1 << UNBOUNDED
    broken = times | _check_amounts(bar)
    if 0.0 < last[LOW] <= last[HIGH] <= MAX_PRICE and (low > MAX_JUMP * last[HIGH] or high * MAX_JUMP < last[LOW]):
        broken |= 1 << JUMP
    return broken


@numba.njit(cache=True, error_model="numpy")
def _check_rows(bars: Floats, broken: Codes) -> None:
    """Fill `broken` (N,) with the rules that each of the bars (N, 11) breaks."""
    for row in range(len(bars)):
        broken[row] = find_broken_rules(bars[row], bars[max(row - 1, 0)])


def mask_rules(absent_fields: Collection[str]) -> int:
    """Return the bitmask of the rules that hold for bars without these fields: those that read none of them.

    A rule that is about each amount by itself holds for the others; absent fields are then given as 0.
    """
    cross = [place for place, rule in enumerate(RULES) if place not in (NEGATIVE, AMOUNT_OUTSIDE)]
    return (1 << NEGATIVE | 1 << AMOUNT_OUTSIDE) | sum(
        1 << place for place in cross if not set(RULES[place].columns) & set(absent_fields)
    )


def check_columns(columns: Mapping[str, npt.NDArray[np.generic]]) -> Codes:
    """Return (N,) the bitmasks of the rules that each bar breaks, by the columns (N,) of FIELDS; some may be absent."""
    count = len(columns["open_time"])
    broken, block = np.zeros(count, dtype=np.int64), np.zeros((min(count, BLOCK_BARS), len(FIELDS)))
    for start in range(0, count, BLOCK_BARS - 1):  # a block begins with the last bar of the one before
        rows = slice(start, start + BLOCK_BARS)
        bars, found = block[: count - start], broken[rows]
        for place, name in enumerate(FIELDS):
            if name in columns:
                bars[:, place] = columns[name][rows]
        first = found[0]
        _check_rows(bars, found)
        found[0] = first if start else found[0]
    broken &= mask_rules([name for name in OPTIONAL if name not in columns])
    return cast(Codes, broken)


def format_time(time_ms: int) -> str:
    """Return a time as ISO 8601 text."""
    return datetime.fromtimestamp(time_ms / 1000, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def describe_broken(broken: int, bar: Floats) -> str:
    """Return in words the first rule that a bar (11,) breaks, with its values and the remedy."""
    rule = RULES[(broken & -broken).bit_length() - 1]
    values = ", ".join(f"{name} is {bar[FIELDS.index(name)]:.17g}" for name in rule.columns)
    return f"{rule.name} ({values}): {rule.remedy}"
