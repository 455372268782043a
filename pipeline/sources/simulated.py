"""A simulated market with known truth, in the kline schema; how much of the next return is predictable is an argument.

A bar's return is volatility x (√signal · flow + √(1-signal) · shock). The flow is an AR(1) that shows, noisily, in the
taker-buy share of the bar before; the volatility is known one bar ahead; the shock is symmetric and independent of the
past. At signal 0 simple returns are therefore a martingale difference: their size can be foreseen, their sign cannot.

With the predictor "order" the flow is white, and what moves the next bar is the flow of the last 20 bars, the five
latest and the five earliest of them less the ten between: in what order it came tells, sums of the latest hardly do.
"""

import zlib
from datetime import date
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.signal import lfilter

Array = npt.NDArray[np.float64]

DAY_MS = 86_400_000
DAILY_VOLATILITY = 0.020  # in a calm regime; the long-run level lies above it
LARGEST_MOVE = 0.5  # of one bar, either way; keeps prices positive
DEGREES_OF_FREEDOM = 4.0  # of the Student-t shocks
MARKET_SHARE = 0.5  # of a symbol's shock variance that the whole market shares
CLUSTERING = [(0.97, 0.055), (0.9985, 0.012)]  # (persistence, reaction) of the fast and the slow volatility component
REGIMES = [-0.5, 0.0, 0.7]  # log volatility
REGIME_DAYS = 1.5  # mean time until the regime is drawn anew
SEASON_VOLATILITY, SEASON_VOLUME = 0.2, 0.45  # log amplitude of the U over the UTC day
FLOW_HALF_LIFE_BARS = 5.0
FLOW_SHARE = {"flow": 0.6, "order": 0.85}  # by predictor, the correlation of the unsquashed imbalance with the flow
DIRECTION_SHARE = 0.45  # and with the bar's move
IMBALANCE_SLOPE = 0.45
ORDER = [1.0] * 5 + [-1.0] * 10 + [1.0] * 5  # weights of the flow of the last 20 bars, the latest first
ZERO_VOLUME_SHARE = 0.0005
QUOTE_PER_DAY, QUOTE_PER_TRADE = 1.5e9, 1_000.0
VOLUME_PERSISTENCE, VOLUME_NOISE = 0.9, 0.45  # of the log volume that volatility does not explain
START_PRICES = {"BTCUSDT": 42_000.0, "ETHUSDT": 2_300.0}  # others draw theirs
START_RANGE = [0.2, 2_000.0]
PRICE_DIGITS, MOST_DECIMALS_ABOVE = 5, 2  # decimals of the tick: 2 from 1,000 on, one more for each digit below
VOLUME_DECIMALS = 5


class Shocks(NamedTuple):
    """Student-t shocks of unit variance, taken apart: normal · √activity."""

    normal: Array  # (N,)
    activity: Array  # (N,) mean 1; what makes a bar lively moves its price, its range and its volume

    @property
    def value(self) -> Array:
        """(N,) the shocks themselves."""
        return np.asarray(self.normal * np.sqrt(self.activity))


class Market(NamedTuple):
    """What all symbols share."""

    shocks: Shocks
    regime: Array  # (N,) log volatility
    season: Array  # (N,) in [-1, 1], highest where the UTC day begins and ends


class Moves(NamedTuple):
    """One symbol's returns and what is behind them, bar by bar."""

    returns: Array  # (N,) simple; 0 where nothing is traded
    expected: Array  # (N,) simple, known one bar ahead
    volatility: Array  # (N,) known one bar ahead
    path: Array  # (N,) standard deviation of the path within the bar
    imbalance: Array  # (N,) in (-1, 1): taker buys less taker sells, over all
    turnover: Array  # (N,) in quote units
    is_traded: npt.NDArray[np.bool_]


def load(
    *, symbols: list[str], interval: str, start: str, days: int, signal: float, predictor: str, seed: int
) -> pd.DataFrame:
    """The simulated klines of every symbol, one after another. See `simulate`."""
    table, _ = simulate(
        symbols=symbols, interval=interval, start=start, days=days, signal=signal, predictor=predictor, seed=seed
    )
    return table


def simulate(
    *, symbols: list[str], interval: str, start: str, days: int, signal: float, predictor: str, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Klines from midnight UTC of `start` on, and row by row the truth about the bar that follows.

    `signal` in [0, 1) is the share of the next return's variance that is predictable, by what `predictor` names: the
    "flow" that the taker-buy share shows, or the "order" of the last 20 bars. The truth has the columns symbol,
    open_time, `expected_return` and `volatility`: mean and standard deviation of the next bar's simple return as a
    reader of the simulator's mind knows them when the row's bar closes. A symbol's bars depend on nothing but its own
    name, the seed and the market that all share; a longer run begins with the shorter one.
    """
    bar_ms = _interval_ms(interval)
    _check(symbols=symbols, days=days, signal=signal, predictor=predictor)
    time_ms = _midnight_ms(start) + bar_ms * np.arange(days * DAY_MS // bar_ms + 1, dtype=np.int64)
    market = _market(time_ms, bar_ms=bar_ms, seed=seed)
    parts = [_symbol(s, time_ms, market, bar_ms=bar_ms, signal=signal, predictor=predictor, seed=seed) for s in symbols]
    tables, truths = zip(*parts, strict=True)
    return pd.concat(tables, ignore_index=True), pd.concat(truths, ignore_index=True)


def _check(*, symbols: list[str], days: int, signal: float, predictor: str) -> None:
    if not symbols or len(set(symbols)) != len(symbols):
        raise ValueError(f"simulated: symbols is {symbols}; give a list of at least one name, each once")
    if days < 1:
        raise ValueError(f"simulated: days is {days}; at least 1 is wanted")
    if not 0 <= signal < 1:
        raise ValueError(f"simulated: signal is {signal}; a share of variance in [0, 1) is wanted, 0 for a null world")
    if predictor not in FLOW_SHARE:
        raise ValueError(f"simulated: predictor is {predictor!r}; one of {list(FLOW_SHARE)} is wanted")


def _interval_ms(interval: str) -> int:
    """The bar length in ms, which has to fill the day in whole bars."""
    count, unit = interval[:-1], interval[-1:]
    unit_ms = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": DAY_MS}.get(unit, 0)
    bar_ms = int(count) * unit_ms if count.isdecimal() else 0
    if not bar_ms or DAY_MS % bar_ms:
        raise ValueError(
            f"simulated: interval is {interval!r}; a whole part of a day such as 1s, 1m, 15m, 4h, 1d is wanted"
        )
    return bar_ms


def _midnight_ms(start: str) -> int:
    day = date.fromisoformat(str(start))
    return (day - date(1970, 1, 1)).days * DAY_MS


def _stream(seed: int, symbol: str, quantity: str) -> np.random.Generator:
    """A random stream for one quantity of one symbol ("" is the market): a longer draw begins with the shorter one."""
    return np.random.default_rng([seed, zlib.crc32(symbol.encode()), zlib.crc32(quantity.encode())])


def _market(time_ms: npt.NDArray[np.int64], *, bar_ms: int, seed: int) -> Market:
    bars = len(time_ms)
    is_switch = _stream(seed, "", "switches").random(bars) < bar_ms / (REGIME_DAYS * DAY_MS)
    drawn = _stream(seed, "", "regimes").choice(REGIMES, size=bars)
    regime = drawn[np.maximum.accumulate(np.where(is_switch, np.arange(bars), 0))]
    middle = (time_ms % DAY_MS + bar_ms / 2) / DAY_MS
    season = np.cos(2 * np.pi * middle) * np.sinc(bar_ms / DAY_MS)  # the mean of the wave over the bar
    return Market(_shocks(seed, "", bars), regime, season)


def _shocks(seed: int, symbol: str, bars: int) -> Shocks:
    chi_square = _stream(seed, symbol, "activity").chisquare(DEGREES_OF_FREEDOM, size=bars)
    return Shocks(_stream(seed, symbol, "shocks").standard_normal(bars), (DEGREES_OF_FREEDOM - 2) / chi_square)


def _clustering(shock: Array) -> Array:
    """(N,) log volatility that answers to earlier shocks: a two-component Beta-t-EGARCH (Harvey 2013, ch. 4)."""
    nu = DEGREES_OF_FREEDOM
    score = (nu + 1) * shock**2 / (nu - 2 + shock**2) - 1  # mean 0, bounded: one crash does not blow volatility up
    parts = [lfilter([0.0, reaction], [1.0, -persistence], score) for persistence, reaction in CLUSTERING]
    return np.asarray(np.sum(parts, axis=0))


def _autoregression(noise: Array, persistence: float) -> Array:
    """(N,) a stationary AR(1) of unit variance driven by unit noise."""
    innovation = np.concatenate([noise[:1], noise[1:] * np.sqrt(1 - persistence**2)])
    return np.asarray(lfilter([1.0], [1.0, -persistence], innovation))


def _mix(first: Array, second: Array) -> Array:
    """The market's part and the symbol's own, weighted so that unit variances stay one."""
    return np.asarray(np.sqrt(MARKET_SHARE) * first + np.sqrt(1 - MARKET_SHARE) * second)


def _moves(market: Market, *, symbol: str, bar_ms: int, signal: float, predictor: str, seed: int) -> Moves:
    bars, day_share = len(market.season), bar_ms / DAY_MS
    own = _shocks(seed, symbol, bars)
    shock = _mix(market.shocks.value, own.value)
    activity = MARKET_SHARE * market.shocks.activity + (1 - MARKET_SHARE) * own.activity
    level = market.regime + _mix(_clustering(market.shocks.value), _clustering(own.value))
    volatility = DAILY_VOLATILITY * np.sqrt(day_share) * np.exp(level + SEASON_VOLATILITY * market.season)

    flow, told = _flow(_stream(seed, symbol, "flow").standard_normal(bars), predictor=predictor)
    expected = np.concatenate([[0.0], volatility[1:] * np.sqrt(signal) * told[:-1]])
    surprise = volatility * np.sqrt(1 - signal) * shock
    is_traded = _stream(seed, symbol, "zero volume").random(bars) >= ZERO_VOLUME_SHARE
    return Moves(
        returns=np.where(is_traded, np.clip(expected + surprise, -LARGEST_MOVE, LARGEST_MOVE), 0.0),
        expected=expected * (1 - ZERO_VOLUME_SHARE),
        volatility=volatility,
        path=volatility * np.sqrt((1 - signal) * activity),
        imbalance=_imbalance(
            flow, shock / np.sqrt(activity), _stream(seed, symbol, "imbalance"), flow_share=FLOW_SHARE[predictor]
        ),
        turnover=QUOTE_PER_DAY * day_share * np.exp(_log_activity(market, level, activity, seed=seed, symbol=symbol)),
        is_traded=is_traded,
    )


def _flow(noise: Array, *, predictor: str) -> tuple[Array, Array]:
    """Both (N,) of unit variance: the flow that shows in the taker-buy share, and what it tells of the next bar."""
    if predictor == "order":
        return noise, np.asarray(lfilter(ORDER, [1.0], noise) / np.linalg.norm(ORDER))
    flow = _autoregression(noise, 0.5 ** (1 / FLOW_HALF_LIFE_BARS))
    return flow, flow


def _imbalance(flow: Array, direction: Array, rng: np.random.Generator, *, flow_share: float) -> Array:
    """(N,) what takers bought less what they sold, as a share: the flow, the bar's own direction, and noise."""
    rest = np.sqrt(1 - flow_share**2 - DIRECTION_SHARE**2)
    latent = flow_share * flow + DIRECTION_SHARE * direction + rest * rng.standard_normal(len(flow))
    return np.asarray(np.tanh(IMBALANCE_SLOPE * latent))


def _log_activity(market: Market, level: Array, activity: Array, *, seed: int, symbol: str) -> Array:
    """(N,) log turnover about its mean: what moves the price moves the volume (Clark 1973), and a persistent rest."""
    rest = _autoregression(_stream(seed, symbol, "volume").standard_normal(len(level)), VOLUME_PERSISTENCE)
    return np.asarray(SEASON_VOLUME * market.season + level + 0.5 * np.log(activity) + VOLUME_NOISE * rest)


def _symbol(
    symbol: str,
    time_ms: npt.NDArray[np.int64],
    market: Market,
    *,
    bar_ms: int,
    signal: float,
    predictor: str,
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The bars and the truth of one symbol; the last simulated bar only serves as the truth of the one before."""
    moves = _moves(market, symbol=symbol, bar_ms=bar_ms, signal=signal, predictor=predictor, seed=seed)
    prices = _prices(moves, symbol=symbol, seed=seed)
    amounts = _amounts(moves, prices, symbol=symbol, seed=seed)
    closing = {"volume": amounts.pop("volume"), "close_time": time_ms + bar_ms - 1}
    table = pd.DataFrame({"symbol": symbol, "open_time": time_ms, **prices, **closing, **amounts})
    truth = {"expected_return": moves.expected[1:], "volatility": moves.volatility[1:]}
    return table.iloc[:-1], pd.DataFrame({"symbol": symbol, "open_time": time_ms[:-1], **truth})


def _prices(moves: Moves, *, symbol: str, seed: int) -> dict[str, Array]:
    """Open, high, low, close on the tick grid: extremes of a Brownian bridge from the open to the close."""
    drawn = float(np.exp(_stream(seed, symbol, "price").uniform(*np.log(START_RANGE))))
    start = START_PRICES.get(symbol, drawn)
    decimals = max(MOST_DECIMALS_ABOVE, PRICE_DIGITS - int(np.floor(np.log10(start))))
    close = np.round(start * np.cumprod(1 + moves.returns), decimals)
    opens = np.concatenate([[np.round(start, decimals)], close[:-1]])
    log_move = np.log(close / opens)
    up = _bridge_maximum(log_move, moves.path, _stream(seed, symbol, "high"))
    down = _bridge_maximum(-log_move, moves.path, _stream(seed, symbol, "low"))
    high = np.maximum(np.round(opens * np.exp(up), decimals), np.maximum(opens, close))
    low = np.minimum(np.round(opens * np.exp(-down), decimals), np.minimum(opens, close))
    return {
        "open": opens,
        "high": np.where(moves.is_traded, high, opens),
        "low": np.where(moves.is_traded, low, opens),
        "close": close,
    }


def _bridge_maximum(end: Array, deviation: Array, rng: np.random.Generator) -> Array:
    """(N,) the highest point, by its exact law, of Brownian paths from 0 to `end` with that standard deviation."""
    return np.asarray((end + np.sqrt(end**2 - 2 * deviation**2 * np.log1p(-rng.random(len(end))))) / 2)


def _amounts(moves: Moves, prices: dict[str, Array], *, symbol: str, seed: int) -> dict[str, Array]:
    """Volumes, trades and the takers' part; one average price within the bar turns base into quote units."""
    low, high = prices["low"], prices["high"]
    mean_price = np.clip((prices["open"] + high + low + prices["close"]) / 4, low, high)
    smallest = 10.0**-VOLUME_DECIMALS
    traded = np.maximum(np.round(moves.turnover / mean_price, VOLUME_DECIMALS), smallest)
    volume = np.where(moves.is_traded, traded, 0.0)
    bought = np.round(volume * (1 + moves.imbalance) / 2, VOLUME_DECIMALS)
    further_trades = _stream(seed, symbol, "trades").poisson(volume * mean_price / QUOTE_PER_TRADE)
    return {
        "volume": volume,
        "quote_volume": volume * mean_price,
        "trades": np.where(moves.is_traded, 1 + further_trades, 0).astype(np.int64),
        "taker_buy_base": bought,
        "taker_buy_quote": bought * mean_price,
    }
