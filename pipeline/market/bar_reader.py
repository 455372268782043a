"""One bar of a live feed: a mapping with the kline fields becomes checked numbers, or an error names its fault."""

import re
import struct
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from operator import itemgetter
from typing import Any

import numpy as np

from pipeline.market import checks
from pipeline.market.checks import FIELDS, OPTIONAL, Floats

READ = FIELDS[: FIELDS.index("open_time") + 1]  # that a bar must have; the others are checked where it has them
PLAIN = frozenset({float, int, np.float64, np.float32, np.int64, np.int32})  # types that need no look at the value
DECIMAL = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")
JUMPS = 1 << checks.JUMP
CLOSED = ("is_closed", "isClosed", "is_final", "isFinal", "final", "closed", "confirm", "x")  # a closed bar has one
FLAGS = frozenset({*CLOSED, "k"})  # k: the bar in a message of Binance's websocket
FALSE = ("", "0", "false", "none", "null")
Times = tuple[float, float, bool]  # of a bar: open_time, close_time, and whether its price jumps from the bar before


class BarReader:
    """Reads bars of one symbol: that of the first bar, or one of `symbols`."""

    def __init__(self, *, absent_fields: Collection[str] = (), symbols: Sequence[str] | None = None) -> None:
        """Read bars that lack `absent_fields`, of OPTIONAL. Raises ValueError on a wrong field or symbol."""
        if unknown := [name for name in absent_fields if name not in OPTIONAL]:
            raise ValueError(f"absent_fields has {unknown}; a bar may lack {', '.join(OPTIONAL)}")
        if symbols is not None and not (symbols and all(isinstance(name, str) and name.strip() for name in symbols)):
            raise ValueError(f"symbols is {symbols!r}; it must be null or a list of names, at least one")
        if isinstance(symbols, str):
            raise ValueError(f"symbols is {symbols!r}; it must be a list: [{symbols!r}]")
        self.symbols = None if symbols is None else tuple(symbols)
        self.symbol: str | None = None  # of the bars so far
        self.absent = [place for place, name in enumerate(READ) if name in absent_fields]
        self._names = tuple(name for name in READ if name not in absent_fields)
        self._take = itemgetter(*self._names)
        self._pack = struct.Struct("".join("8x" if name in absent_fields else "d" for name in READ) + "2d").pack_into
        self._rules = checks.mask_rules(absent_fields)

    def read(self, bar: Mapping[str, Any], *, into: Floats, last: Floats) -> Times:
        """Fill `into` (11,) with the FIELDS of a bar, absent ones NaN; return its times, and whether it jumps.

        `close_time` and `taker_buy_quote` are checked where the bar has them. Raises ValueError on a field that is
        missing or invalid, another symbol, and a bar that is not closed.
        """
        try:
            get, has_flags = bar.get, not FLAGS.isdisjoint(bar.keys())
            values = self._take(bar)
        except (KeyError, IndexError, TypeError, AttributeError):
            raise ValueError(self._describe_missing(bar)) from None
        values = (*values, get("taker_buy_quote", 0.0), get("close_time", values[-1]))
        if not PLAIN.issuperset(map(type, values)):
            names = (*self._names, "taker_buy_quote", "close_time" if "close_time" in bar else "open_time")
            values = tuple(map(_parse_number, names, values))
        try:
            self._pack(into, 0, *values)  # type: ignore[arg-type]
        except (OverflowError, struct.error):
            raise ValueError("bar: a whole number is too large; allowed are finite numbers") from None
        broken = checks.find_broken_rules(into, last) & self._rules
        if broken & ~JUMPS:
            time = describe_time(values[len(self._names) - 1])
            raise ValueError(f"bar at open_time {time}: {self._describe(broken, into)}")
        if has_flags:
            check_closed(bar)
        symbol = get("symbol")
        if symbol is not self.symbol and not (isinstance(symbol, str) and symbol == self.symbol):
            self.check_symbol(symbol, has_bars=last is not into)
        for place in self.absent:
            into[place] = np.nan
        return values[-3], values[-1], broken != 0

    def check_symbol(self, symbol: object, *, has_bars: bool) -> None:
        """Raise ValueError where a bar's symbol is not that of the bars so far, or not one of `symbols`."""
        if has_bars:
            raise ValueError(
                f"bar: symbol is {symbol!r}; the bars so far have {self.symbol!r}: make one Stream for each symbol"
            )
        if symbol is None and self.symbols is None:
            return
        if not isinstance(symbol, str) or not symbol or symbol != symbol.strip():
            raise ValueError(f"bar: symbol is {symbol!r}; allowed is a name without blanks around it")
        if self.symbols is not None and symbol not in self.symbols:
            raise ValueError(f"bar: symbol is {symbol!r}; this stream is for {', '.join(self.symbols)}")

    def _describe_missing(self, bar: Any) -> str:
        """Return what is wrong with a bar that is no mapping, or lacks fields: all of them."""
        if not hasattr(bar, "get") or not hasattr(bar, "keys"):
            return f"bar is {bar!r:.40} ({type(bar).__name__}); allowed is a mapping with the fields {self._names}"
        missing = [name for name in self._names if name not in bar]
        fault = (
            f"bar: {', '.join(map(repr, missing))} {'are' if missing[1:] else 'is'} missing; needed are {self._names}"
        )
        if not (optional := [name for name in missing if name in OPTIONAL]):
            return fault
        absent = [READ[place] for place in self.absent] + optional
        return f"{fault}; for bars of a market without {', '.join(optional)}: Stream(absent_fields={absent})"

    def _describe(self, broken: int, bar: Floats) -> str:
        """Return what is wrong with a bar, naming a single field's value where one is at fault."""
        place = (broken & -broken).bit_length() - 1
        if place < len(FIELDS):
            value = "missing or NaN" if np.isnan(bar[place]) else bar[place]
            return f"{FIELDS[place]} is {value}; allowed is a finite number"
        signs = {checks.NOT_ABOVE_ZERO: (checks.PRICES, "above 0"), checks.NEGATIVE: (checks.AMOUNTS, "0 or more")}
        for name in signs[place][0] if place in signs else ():
            value = bar[FIELDS.index(name)]
            if value < 0 or (value == 0 and place == checks.NOT_ABOVE_ZERO):
                return f"{name} is {value}; allowed is a finite number, {signs[place][1]}"
        return checks.describe_broken(broken, bar)


def check_closed(bar: Mapping[str, Any]) -> None:
    """Raise ValueError where a bar's feed marks it as still forming, under any of the names CLOSED, or as `k.x`."""
    flags = {name: bar[name] for name in CLOSED if name in bar}
    if isinstance(message := bar.get("k"), Mapping) and "x" in message:
        flags["k.x"] = message["x"]
    for name, value in flags.items():
        if value is None or value == 0 or (isinstance(value, str) and value.strip().lower() in FALSE):
            raise ValueError(
                f"bar at open_time {describe_time(bar['open_time'])}: {name} is {value!r}: the bar is still forming; "
                "feed it when it is closed"
            )


def describe_time(time_ms: object) -> str:
    """Return a time in ms as it is, and where it is one of the years 1990 to 2100 as a date too."""
    if not isinstance(time_ms, (int, float, np.integer, np.floating)) or not checks.MIN_MS <= time_ms < checks.MAX_MS:
        return str(time_ms)
    text = datetime.fromtimestamp(float(time_ms) / 1000, UTC).isoformat(" ", "seconds").removesuffix("+00:00")
    return f"{time_ms:.15g} ({text} UTC)"


def _parse_number(name: str, value: object) -> float:
    """Return a field's value as a number; decimal text is read, as exchanges send it. ValueError names the field."""
    try:
        if isinstance(value, (int, float, np.integer, np.floating, Decimal)) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, str) and DECIMAL.fullmatch(value):
            return float(value)
    except OverflowError:
        raise ValueError(f"bar: {name} is {value!r:.20}…; allowed is a finite number") from None
    fault = f"bar: {name} is {value!r} ({type(value).__name__})"
    if isinstance(value, (date, np.datetime64)):
        raise ValueError(f"{fault}; allowed are milliseconds since 1970, UTC: round(time.timestamp() * 1000) of it")
    raise ValueError(f"{fault}; allowed is a finite number, or its decimal text")
