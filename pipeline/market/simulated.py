"""A simulated market in the kline schema, whose true conditional moments and predictability are known.

A bar's return is volatility x (√signal · flow + √(1-signal) · shock). The flow is an AR(1) that is observed with noise
in the taker-buy share of the bar before. The volatility is known one bar ahead; the shock is symmetric and independent
of the past. At signal 0 simple returns are therefore a martingale difference: size is predictable, sign is not.

With the predictor "order" the flow is white noise. The next bar then depends on the flow of the last 20 bars, with
weight +1 on the five latest and five earliest, and -1 on the ten between. Sums of the latest flow hardly predict it.

These are the returns of the mid price. Trades are made at mid · (1 ± spread/2), as in Roll's model [1]: the first and
the last trade of a bar are a buy or a sell by chance, the highest one a buy, the lowest one a sell.
[1] Roll 1984, "A Simple Implicit Measure of the Effective Bid-Ask Spread in an Efficient Market".
"""

from datetime import date
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from annotated_types import Interval, MinLen
from joblib import delayed
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat

from pipeline.by_symbol import run_by_symbol
from pipeline.market.bars import Days, concat_tables, repeat_symbol
from pipeline.market.simulated_moves import (
    DAY_MS,
    FLOW_CORRELATION,
    Array,
    MarketFactors,
    MarketSettings,
    Moves,
    draw_factors,
    draw_moves,
    make_rng,
)

QUOTE_PER_TRADE = 1_000.0
START_PRICES = {"BTCUSDT": 42_000.0, "ETHUSDT": 2_300.0}  # other symbols draw theirs
START_PRICE_RANGE = [0.2, 2_000.0]
PRICE_DIGITS, MIN_PRICE_DECIMALS = 5, 2  # decimals of the tick: 2 from 1,000 on, one more for each digit below
VOLUME_DECIMALS = 5
MAX_SPREAD_BPS = 2_000.0  # keeps prices positive


class Market(NamedTuple):
    """The bars and factors that all symbols of a simulated market share."""

    time_ms: npt.NDArray[np.int64]  # (N + 1,) at which bars open, one more than the table has
    bar_ms: int
    factors: MarketFactors


def load(
    *,
    symbols: Annotated[list[str], MinLen(1)],
    interval: str,
    start: str,
    days: Days,
    signal: Annotated[float, Interval(ge=0, lt=1)],
    predictor: Literal["flow", "order"],
    half_life_bars: PositiveFloat,
    spread_bps: Annotated[NonNegativeFloat, Interval(le=MAX_SPREAD_BPS)],
    idle_share: Annotated[float, Interval(ge=0, lt=1)],
    seed: NonNegativeInt,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the simulated klines of all symbols, concatenated, and an empty report. See `simulate`."""
    settings = MarketSettings(
        signal=signal,
        predictor=predictor,
        half_life_bars=half_life_bars,
        spread_bps=spread_bps,
        idle_share=idle_share,
        seed=seed,
    )
    market = _draw_market(settings, symbols=symbols, interval=interval, start=start, days=days)
    jobs = [delayed(_simulate_table)(symbol, settings, market) for symbol in symbols]
    return concat_tables(list(run_by_symbol(jobs, rows=len(symbols) * len(market.time_ms)))), {}


def simulate(
    settings: MarketSettings, *, symbols: list[str], interval: str, start: str, days: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return klines from midnight UTC of `start` on, and the true moments of each row's next bar.

    `signal` in [0, 1) is the predictable share of the next return's variance. `predictor` names the predictor: the
    "flow" observed in the taker-buy share, whose autocorrelation halves in `half_life_bars`, or the "order" of the
    last 20 bars, without a half-life. `spread_bps` is the bid-ask spread, 0 for trades at the mid. `idle_share` in
    [0, 1) is the share of bars without a trade: flat at the last close, while the mid moves on. In up to 0.05 % of all
    bars the idle market is a halt, and the mid stands still.

    The second table has the columns symbol, open_time, `expected_return` and `volatility`. These are the true mean and
    standard deviation of the mid's next simple return, conditional on the simulator's state when the row's bar closes.
    A symbol's bars depend only on its name, the settings and the shared factors; a longer simulation begins with the
    shorter one.

    Raises:
        ValueError: an argument is out of range; names it, its value and what is allowed.
    """
    market = _draw_market(settings, symbols=symbols, interval=interval, start=start, days=days)
    tables, truths = list[pd.DataFrame](), list[pd.DataFrame]()
    for symbol in symbols:
        table, moves = _simulate_symbol(symbol, settings, market)
        truth = {"expected_return": moves.expected[1:], "volatility": moves.volatility[1:]}
        tables.append(table)
        truths.append(pd.DataFrame({"symbol": symbol, "open_time": market.time_ms[:-1], **truth}))
    return concat_tables(tables), pd.concat(truths, ignore_index=True)


def _draw_market(settings: MarketSettings, *, symbols: list[str], interval: str, start: str, days: int) -> Market:
    """Return what all symbols share; ValueError where an argument is out of range."""
    bar_ms = _parse_interval_ms(interval)
    _check(settings, symbols=symbols, days=days)
    time_ms = _parse_midnight_ms(start) + bar_ms * np.arange(days * DAY_MS // bar_ms + 1, dtype=np.int64)
    return Market(time_ms, bar_ms, draw_factors(time_ms, bar_ms=bar_ms, seed=settings.seed))


def _check(settings: MarketSettings, *, symbols: list[str], days: int) -> None:
    if not symbols or len(set(symbols)) != len(symbols):
        raise ValueError(f"simulated: symbols is {symbols}; give a list of at least one name, without repeats")
    if days < 1:
        raise ValueError(f"simulated: days is {days}; at least 1 is allowed")
    if not 0 <= settings.signal < 1:
        raise ValueError(
            f"simulated: signal is {settings.signal}; a share of variance in [0, 1) is allowed, 0 for no signal"
        )
    if settings.predictor not in FLOW_CORRELATION:
        raise ValueError(f"simulated: predictor is {settings.predictor!r}; allowed are {list(FLOW_CORRELATION)}")
    if not 0 < settings.half_life_bars < np.inf:
        raise ValueError(f"simulated: half_life_bars is {settings.half_life_bars}; a number of bars above 0 is allowed")
    if not 0 <= settings.spread_bps <= MAX_SPREAD_BPS:
        raise ValueError(
            f"simulated: spread_bps is {settings.spread_bps}; 0 to {MAX_SPREAD_BPS:g} is allowed, 0 for no spread"
        )
    if not 0 <= settings.idle_share < 1:
        raise ValueError(f"simulated: idle_share is {settings.idle_share}; a share of bars in [0, 1) is allowed")


def _parse_interval_ms(interval: str) -> int:
    """Return the bar length in ms; ValueError where a day is not a whole number of bars."""
    count, unit = interval[:-1], interval[-1:]
    unit_ms = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": DAY_MS}.get(unit, 0)
    bar_ms = int(count) * unit_ms if count.isdecimal() else 0
    if not bar_ms or DAY_MS % bar_ms:
        raise ValueError(
            f"simulated: interval is {interval!r}; allowed are whole fractions of a day such as 1s, 1m, 15m, 4h, 1d"
        )
    return bar_ms


def _parse_midnight_ms(start: str) -> int:
    day = date.fromisoformat(str(start))
    return (day - date(1970, 1, 1)).days * DAY_MS


def _simulate_table(symbol: str, settings: MarketSettings, market: Market) -> pd.DataFrame:
    """Return the bars of one symbol."""
    return _simulate_symbol(symbol, settings, market)[0]


def _simulate_symbol(symbol: str, settings: MarketSettings, market: Market) -> tuple[pd.DataFrame, Moves]:
    """Return the bars and the moves of one symbol; the last simulated bar only supplies the previous one's."""
    moves = draw_moves(market.factors, settings, symbol=symbol, bar_ms=market.bar_ms)
    prices = _draw_prices(moves, symbol=symbol, spread_bps=settings.spread_bps, seed=settings.seed)
    amounts = _draw_amounts(moves, prices, symbol=symbol, seed=settings.seed)
    closing = {"volume": amounts.pop("volume"), "close_time": market.time_ms + market.bar_ms - 1}
    columns = {"open_time": market.time_ms, **prices, **closing, **amounts}
    names = {"symbol": repeat_symbol(symbol, len(market.time_ms))}
    return pd.DataFrame({**names, **columns}, copy=False).iloc[:-1], moves


def _draw_prices(moves: Moves, *, symbol: str, spread_bps: float, seed: int) -> dict[str, Array]:
    """Return open, high, low, close of trades, on the tick grid.

    The mid's extremes are those of a Brownian bridge from its open to its close. Trades lie half a spread beside it.
    """
    drawn = float(np.exp(make_rng(seed, symbol, "price").uniform(*np.log(START_PRICE_RANGE))))
    start = START_PRICES.get(symbol, drawn)
    decimals = max(MIN_PRICE_DECIMALS, PRICE_DIGITS - int(np.floor(np.log10(start))))
    mid = np.round(start * np.cumprod(1 + moves.returns), decimals)  # (N,) at the close
    mid_open = np.concatenate([[np.round(start, decimals)], mid[:-1]])
    log_move, half = np.log(mid / mid_open), spread_bps / 2e4
    opens = np.round(mid_open * (1 + half * _draw_sides(len(mid), make_rng(seed, symbol, "open side"))), decimals)
    close = np.round(mid * (1 + half * _draw_sides(len(mid), make_rng(seed, symbol, "close side"))), decimals)
    last = _find_last_close(close, moves.is_traded, first=mid_open[0])
    up = _draw_bridge_maximum(log_move, moves.path, make_rng(seed, symbol, "high"))
    high = np.round(mid_open * np.exp(up, out=up) * (1 + half), decimals)
    down = _draw_bridge_maximum(np.negative(log_move, out=log_move), moves.path, make_rng(seed, symbol, "low"))
    low = np.round(mid_open * np.exp(np.negative(down, out=down), out=down) * (1 - half), decimals)
    high = np.maximum(high, np.maximum(opens, close), out=high)
    low = np.minimum(low, np.minimum(opens, close), out=low)
    prices = {"open": opens, "high": high, "low": low, "close": close}
    for price in prices.values():
        np.copyto(price, last, where=~moves.is_traded)
    return prices


def _draw_sides(bars: int, rng: np.random.Generator) -> Array:
    """Return (N,) sides of independent trades: 1 for a buy at the ask, -1 for a sell at the bid."""
    return np.where(rng.random(bars) < 0.5, 1.0, -1.0)


def _find_last_close(close: Array, is_traded: npt.NDArray[np.bool_], *, first: float) -> Array:
    """Return (N,) the close of the latest traded bar, the bar itself included; `first` before there is one."""
    latest = np.maximum.accumulate(np.where(is_traded, np.arange(len(close)), -1))
    return np.where(latest >= 0, close[latest], first)


def _draw_bridge_maximum(end: Array, deviation: Array, rng: np.random.Generator) -> Array:
    """Return (N,) maxima of Brownian bridges from 0 to `end` with this standard deviation, from their exact law."""
    return np.asarray((end + np.sqrt(end**2 - 2 * deviation**2 * np.log1p(-rng.random(len(end))))) / 2)


def _draw_amounts(moves: Moves, prices: dict[str, Array], *, symbol: str, seed: int) -> dict[str, Array]:
    """Return volumes, trades and taker amounts; the bar's average price converts base into quote units."""
    low, high = prices["low"], prices["high"]
    mean_price = np.clip((prices["open"] + high + low + prices["close"]) / 4, low, high)
    smallest = 10.0**-VOLUME_DECIMALS
    traded = np.maximum(np.round(moves.turnover / mean_price, VOLUME_DECIMALS), smallest)
    volume = np.where(moves.is_traded, traded, 0.0)
    bought = np.round(volume * (1 + moves.imbalance) / 2, VOLUME_DECIMALS)
    further_trades = make_rng(seed, symbol, "trades").poisson(volume * mean_price / QUOTE_PER_TRADE)
    return {
        "volume": volume,
        "quote_volume": volume * mean_price,
        "trades": np.where(moves.is_traded, 1 + further_trades, 0).astype(np.int64),
        "taker_buy_base": bought,
        "taker_buy_quote": bought * mean_price,
    }
