"""Where the order of each row is filled, and what a position earns from that instant to the next row's.

An order that is decided when bar i closes fills at the open of bar i + 1 + delay_bars. A bar without trades fills
nothing: the order waits, and the next row's replaces it. What is held meanwhile is valued at the last close. Where bars
go missing, orders that wait lapse; what is held is held through the gap. The order of the first bar after it closes,
whatever its target. At the end of a symbol's bars what is held is closed at the last close.

Closed hours of a calendar are no missing bars: what is held earns the move over them. An order decided at a session's
last bar fills at the next session's first open. At a bar that `closes_positions` an order closes, whatever its target;
where that bar does not trade, what is held is held over the closing.

When bar i closes, the price of that fill is not known yet: an account is then seen as of the latest known fill.
"""

from dataclasses import dataclass, field, fields

import numpy as np
import pandas as pd

YEAR_MS = 365 * 24 * 3600 * 1000
COLUMNS = ["symbol", "segment", "open_time", "open", "close", "volume"]  # that `find_fills` needs
OPTIONAL_COLUMNS = ["quote_volume", "bar_number", "closes_positions"]  # that it uses where they are there
FILLS, WAITS, CLOSES = range(3)  # outcomes of an order

FillArrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class Fills:
    """The outcome of the order of each row, and what its position earns from its instant to that of the next row."""

    move: np.ndarray  # (N,) float64, simple return of the price from this instant to the next
    years: np.ndarray  # (N,) float64, of 365 days, from this instant to the next
    quote_volume: np.ndarray  # (N,) float64, of the bar that fills; 0 where none does
    outcome: np.ndarray  # (N,) int8: FILLS; WAITS, nothing is traded; CLOSES, whatever the target
    crosses_gap: np.ndarray  # (N,) bool, whether bars are missing between this instant and the next
    # (N,) int64, rows back to the latest order whose fill is known when the row's bar closes; not given: 1
    lag: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    # (N,) float64, simple return of the price from that fill to the row's close; not given: 0
    mark: np.ndarray = field(default_factory=lambda: np.empty(0))
    # (N,) float64, of the quotes at the fill, relative to their mid: a market order pays it; not given: 0
    half_spread: np.ndarray = field(default_factory=lambda: np.empty(0))

    def __post_init__(self) -> None:
        """Take fills as known one row later, the price as unchanged since, and no spread, where nothing is given."""
        if len(self.lag) != len(self.move):
            object.__setattr__(self, "lag", np.ones(self.move.shape, np.int64))
        for name in ("mark", "half_spread"):
            if len(getattr(self, name)) != len(self.move):
                object.__setattr__(self, name, np.zeros(self.move.shape))

    def take(self, rows: np.ndarray) -> "Fills":
        """Return the fills of these rows."""
        return Fills(**{each.name: getattr(self, each.name)[rows] for each in fields(self)})

    def list_arrays(self) -> FillArrays:
        """Return move, years, quote_volume, outcome and half_spread, as compiled loops take them."""
        return self.move, self.years, self.quote_volume, self.outcome, self.half_spread


def find_fills(bars: pd.DataFrame, *, delay_bars: int) -> Fills:
    """Return the fills of orders decided at the close of each bar of a clean table, (N,) arrays in its order.

    `bars` have COLUMNS, sorted by symbol and time; `segment` numbers runs without missing bars. `open_time` is in ms.
    Without a column `quote_volume`, it is volume times close. The other OPTIONAL_COLUMNS are those of a market with
    sessions.

    Raises:
        ValueError: `delay_bars` is no whole number or negative, or bars are missing columns, sorting or valid values.
    """
    check_bars(bars)
    if isinstance(delay_bars, bool) or not isinstance(delay_bars, int | np.integer) or delay_bars < 0:
        raise ValueError(f"delay_bars: {delay_bars!r}; it must be a whole number, at least 0")
    symbol = pd.factorize(bars["symbol"])[0]
    segment, closes_positions = _join_sessions(bars, symbol)
    rows, count = np.arange(len(bars)), len(bars)
    segment_ends, symbol_ends = _find_ends(segment, symbol), _find_ends(symbol)
    place = np.minimum(rows + 1 + min(delay_bars, count), segment_ends)  # the bar at whose open an order can fill
    is_inside = place < segment_ends
    place = np.where(is_inside, place, segment_ends - 1)
    is_filled = is_inside & (bars["volume"].to_numpy() > 0)[place]
    price = np.where(is_filled, bars["open"].to_numpy()[place], bars["close"].to_numpy()[place])
    time = bars["open_time"].to_numpy()[place]
    is_last = rows == symbol_ends - 1
    is_after_gap = np.append(False, (np.diff(segment) != 0) & (np.diff(symbol) == 0))[:count]
    following = np.where(is_last, rows, rows + 1)
    latest = np.maximum(rows - 1 - delay_bars, _find_starts(segment, symbol) - 1)  # whose instant is known at the close
    mark = np.where(latest >= _find_starts(segment, symbol), bars["close"].to_numpy() / price[np.maximum(latest, 0)], 1)
    is_closing = is_after_gap | closes_positions[place]
    outcome = np.where(is_filled, np.where(is_closing, CLOSES, FILLS), np.where(is_last, CLOSES, WAITS))
    return Fills(
        move=price[following] / price - 1,
        years=(time[following] - time) / YEAR_MS,
        quote_volume=np.where(is_filled, take_quote_volume(bars)[place], 0.0),
        outcome=outcome.astype(np.int8),
        crosses_gap=segment[following] != segment,
        lag=rows - latest,
        mark=mark - 1,
    )


def take_quote_volume(bars: pd.DataFrame) -> np.ndarray:
    """Return (N,) the quote volume of bars: their own, or volume times close where they have no such column."""
    if "quote_volume" in bars.columns:
        return np.asarray(bars["quote_volume"].to_numpy(np.float64))
    return np.asarray(bars["volume"].to_numpy(np.float64) * bars["close"].to_numpy(np.float64))


def check_bars(bars: pd.DataFrame) -> None:
    """Raise ValueError where bars cannot fill orders: names what is wrong, and the first row."""
    if missing := [name for name in COLUMNS if name not in bars.columns]:
        raise ValueError(f"bars lack {', '.join(missing)}; orders fill by {', '.join(COLUMNS)}")
    if not len(bars):
        raise ValueError("bars: no rows; give at least one bar")
    for name in ("open", "close"):
        price = bars[name].to_numpy(np.float64)
        if (bad := ~(np.isfinite(price) & (price > 0))).any():
            row = int(np.argmax(bad))
            raise ValueError(f"bars: {name} is {price[row]} at row {row}; a price must be finite and above 0")
    for name, amount in (("volume", bars["volume"].to_numpy(np.float64)), ("quote_volume", take_quote_volume(bars))):
        if (bad := ~(np.isfinite(amount) & (amount >= 0))).any():
            row = int(np.argmax(bad))
            raise ValueError(f"bars: {name} is {amount[row]} at row {row}; it must be finite and at least 0")
    symbol, time = pd.factorize(bars["symbol"])[0], bars["open_time"].to_numpy()
    starts = np.append(True, np.diff(symbol) != 0)
    is_unsorted = np.append(False, np.diff(time) <= 0) & ~starts
    if is_unsorted.any() or starts.sum() > symbol.max() + 1:
        row = int(np.argmax(is_unsorted))
        raise ValueError(f"bars: not sorted by symbol and open_time, without repeats (first row {row}); sort them")


def _join_sessions(bars: pd.DataFrame, symbol: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (N,) numbers of the runs without missing bars, whatever is closed between them, and `closes_positions`.

    A segment may end at a closing, where the features restart; no bar is missing there.
    """
    if "bar_number" not in bars.columns:
        return bars["segment"].to_numpy(), np.zeros(len(bars), dtype=bool)
    is_border = (np.diff(symbol) != 0) | (np.diff(bars["bar_number"]) != 1)
    return np.append(0, np.cumsum(is_border))[: len(bars)], bars["closes_positions"].to_numpy(bool)


def _find_ends(*codes: np.ndarray) -> np.ndarray:
    """Return (N,) one beyond the last row of the run of equal codes that each row is in."""
    count = len(codes[0])
    is_last = np.append(np.any([np.diff(each) != 0 for each in codes], axis=0), True)
    places = np.where(is_last, np.arange(count) + 1, count)
    return np.asarray(np.minimum.accumulate(places[::-1])[::-1])


def _find_starts(*codes: np.ndarray) -> np.ndarray:
    """Return (N,) the first row of the run of equal codes that each row is in."""
    count = len(codes[0])
    is_first = np.append(True, np.any([np.diff(each) != 0 for each in codes], axis=0))
    return np.asarray(np.maximum.accumulate(np.where(is_first, np.arange(count), 0)))
