"""A simulated market in the kline schema, whose true conditional moments and predictability are known.

A bar's return is volatility x (√signal · flow + √(1-signal) · shock). The flow is an AR(1) that is observed with noise
in the taker-buy share of the bar before. The volatility is known one bar ahead; the shock is symmetric and independent
of the past. At signal 0 simple returns are therefore a martingale difference: size is predictable, sign is not.

With the predictor "order" the flow is white noise. The next bar then depends on the flow of the last 20 bars, with
weight +1 on the five latest and five earliest, and -1 on the ten between. Sums of the latest flow hardly predict it.
"""

import zlib
from datetime import date
from typing import Annotated, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from annotated_types import Interval, MinLen
from pydantic import NonNegativeInt
from scipy.signal import lfilter

from pipeline.market.bars import Days

Array = npt.NDArray[np.float64]

DAY_MS = 86_400_000
DAILY_VOLATILITY = 0.020  # in a calm regime; the long-run level lies above it
MAX_MOVE = 0.5  # of one bar, in either direction; keeps prices positive
DEGREES_OF_FREEDOM = 4.0  # of the Student-t shocks
MARKET_SHARE = 0.5  # of a symbol's shock variance that the whole market shares
CLUSTERING = [(0.97, 0.055), (0.9985, 0.012)]  # (persistence, reaction) of the fast and the slow volatility component
REGIMES = [-0.5, 0.0, 0.7]  # log volatility
REGIME_DAYS = 1.5  # mean time until a new regime is drawn
SEASON_VOLATILITY, SEASON_VOLUME = 0.2, 0.45  # log amplitude of the U shape over the UTC day
FLOW_HALF_LIFE_BARS = 5.0
FLOW_CORRELATION = {"flow": 0.6, "order": 0.85}  # of the latent imbalance with the flow, by predictor
DIRECTION_CORRELATION = 0.45  # of the latent imbalance with the bar's move
IMBALANCE_SLOPE = 0.45
ORDER_WEIGHTS = [1.0] * 5 + [-1.0] * 10 + [1.0] * 5  # of the flow of the last 20 bars, the latest first
ZERO_VOLUME_SHARE = 0.0005
QUOTE_PER_DAY, QUOTE_PER_TRADE = 1.5e9, 1_000.0
VOLUME_PERSISTENCE, VOLUME_NOISE = 0.9, 0.45  # of the residual log volume, given volatility
START_PRICES = {"BTCUSDT": 42_000.0, "ETHUSDT": 2_300.0}  # other symbols draw theirs
START_PRICE_RANGE = [0.2, 2_000.0]
PRICE_DIGITS, MIN_PRICE_DECIMALS = 5, 2  # decimals of the tick: 2 from 1,000 on, one more for each digit below
VOLUME_DECIMALS = 5


class Shocks(NamedTuple):
    """Student-t shocks of unit variance, as the product normal · √activity."""

    normal: Array  # (N,)
    activity: Array  # (N,) mean 1; scales the bar's price move, range and volume

    @property
    def value(self) -> Array:
        """(N,) shocks of unit variance."""
        return np.asarray(self.normal * np.sqrt(self.activity))


class MarketFactors(NamedTuple):
    """The factors that all symbols share."""

    shocks: Shocks
    regime: Array  # (N,) log volatility
    season: Array  # (N,) in [-1, 1], highest where the UTC day begins and ends


class Moves(NamedTuple):
    """One symbol's returns and their components, by bar."""

    returns: Array  # (N,) simple; 0 where nothing is traded
    expected: Array  # (N,) simple, known one bar ahead
    volatility: Array  # (N,) known one bar ahead
    path: Array  # (N,) standard deviation of the path within the bar
    imbalance: Array  # (N,) in (-1, 1): (taker buys - taker sells) / volume
    turnover: Array  # (N,) in quote units
    is_traded: npt.NDArray[np.bool_]


def load(
    *,
    symbols: Annotated[list[str], MinLen(1)],
    interval: str,
    start: str,
    days: Days,
    signal: Annotated[float, Interval(ge=0, lt=1)],
    predictor: Literal["flow", "order"],
    seed: NonNegativeInt,
) -> pd.DataFrame:
    """Return the simulated klines of all symbols, concatenated. See `simulate`."""
    table, _ = simulate(
        symbols=symbols, interval=interval, start=start, days=days, signal=signal, predictor=predictor, seed=seed
    )
    return table


def simulate(
    *, symbols: list[str], interval: str, start: str, days: int, signal: float, predictor: str, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return klines from midnight UTC of `start` on, and the true moments of each row's next bar.

    `signal` in [0, 1) is the predictable share of the next return's variance. `predictor` names the predictor: the
    "flow" observed in the taker-buy share, or the "order" of the last 20 bars. The second table has the columns symbol,
    open_time, `expected_return` and `volatility`. These are the true mean and standard deviation of the next bar's
    simple return, conditional on the simulator's state when the row's bar closes. A symbol's bars depend only on its
    name, the seed and the shared factors; a longer simulation begins with the shorter one.

    Raises:
        ValueError: an argument is out of range; names it, its value and what is allowed.
    """
    bar_ms = _parse_interval_ms(interval)
    _check(symbols=symbols, days=days, signal=signal, predictor=predictor)
    time_ms = _parse_midnight_ms(start) + bar_ms * np.arange(days * DAY_MS // bar_ms + 1, dtype=np.int64)
    factors = _draw_factors(time_ms, bar_ms=bar_ms, seed=seed)
    parts = [
        _simulate_symbol(s, time_ms, factors, bar_ms=bar_ms, signal=signal, predictor=predictor, seed=seed)
        for s in symbols
    ]
    tables, truths = zip(*parts, strict=True)
    return pd.concat(tables, ignore_index=True), pd.concat(truths, ignore_index=True)


def _check(*, symbols: list[str], days: int, signal: float, predictor: str) -> None:
    if not symbols or len(set(symbols)) != len(symbols):
        raise ValueError(f"simulated: symbols is {symbols}; give a list of at least one name, without repeats")
    if days < 1:
        raise ValueError(f"simulated: days is {days}; at least 1 is allowed")
    if not 0 <= signal < 1:
        raise ValueError(f"simulated: signal is {signal}; a share of variance in [0, 1) is allowed, 0 for no signal")
    if predictor not in FLOW_CORRELATION:
        raise ValueError(f"simulated: predictor is {predictor!r}; allowed are {list(FLOW_CORRELATION)}")


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


def _make_rng(seed: int, symbol: str, quantity: str) -> np.random.Generator:
    """Return the generator of one quantity of one symbol ("" is the market): a longer draw begins with the shorter."""
    return np.random.default_rng([seed, zlib.crc32(symbol.encode()), zlib.crc32(quantity.encode())])


def _draw_factors(time_ms: npt.NDArray[np.int64], *, bar_ms: int, seed: int) -> MarketFactors:
    bars = len(time_ms)
    is_switch = _make_rng(seed, "", "switches").random(bars) < bar_ms / (REGIME_DAYS * DAY_MS)
    drawn = _make_rng(seed, "", "regimes").choice(REGIMES, size=bars)
    regime = drawn[np.maximum.accumulate(np.where(is_switch, np.arange(bars), 0))]
    middle = (time_ms % DAY_MS + bar_ms / 2) / DAY_MS
    season = np.cos(2 * np.pi * middle) * np.sinc(bar_ms / DAY_MS)  # the mean of the cosine over the bar
    return MarketFactors(_draw_shocks(seed, "", bars), regime, season)


def _draw_shocks(seed: int, symbol: str, bars: int) -> Shocks:
    chi_square = _make_rng(seed, symbol, "activity").chisquare(DEGREES_OF_FREEDOM, size=bars)
    return Shocks(_make_rng(seed, symbol, "shocks").standard_normal(bars), (DEGREES_OF_FREEDOM - 2) / chi_square)


def _cluster_volatility(shock: Array) -> Array:
    """Return (N,) log volatility driven by past shocks: a two-component Beta-t-EGARCH (Harvey 2013, ch. 4)."""
    nu = DEGREES_OF_FREEDOM
    score = (nu + 1) * shock**2 / (
        nu - 2 + shock**2
    ) - 1  # mean 0, and bounded: one crash does not make volatility explode
    parts = [lfilter([0.0, reaction], [1.0, -persistence], score) for persistence, reaction in CLUSTERING]
    return np.asarray(np.sum(parts, axis=0))


def _filter_ar1(noise: Array, persistence: float) -> Array:
    """Return (N,) a stationary AR(1) of unit variance, driven by noise of unit variance."""
    innovation = np.concatenate([noise[:1], noise[1:] * np.sqrt(1 - persistence**2)])
    return np.asarray(lfilter([1.0], [1.0, -persistence], innovation))


def _mix_shocks(first: Array, second: Array) -> Array:
    """Return the weighted sum of the market's and the symbol's own part, of unit variance where both have it."""
    return np.asarray(np.sqrt(MARKET_SHARE) * first + np.sqrt(1 - MARKET_SHARE) * second)


def _draw_moves(factors: MarketFactors, *, symbol: str, bar_ms: int, signal: float, predictor: str, seed: int) -> Moves:
    bars, day_share = len(factors.season), bar_ms / DAY_MS
    own = _draw_shocks(seed, symbol, bars)
    shock = _mix_shocks(factors.shocks.value, own.value)
    activity = MARKET_SHARE * factors.shocks.activity + (1 - MARKET_SHARE) * own.activity
    level = factors.regime + _mix_shocks(_cluster_volatility(factors.shocks.value), _cluster_volatility(own.value))
    volatility = DAILY_VOLATILITY * np.sqrt(day_share) * np.exp(level + SEASON_VOLATILITY * factors.season)

    flow, predictor_value = _filter_flow(_make_rng(seed, symbol, "flow").standard_normal(bars), predictor=predictor)
    expected = np.concatenate([[0.0], volatility[1:] * np.sqrt(signal) * predictor_value[:-1]])
    surprise = volatility * np.sqrt(1 - signal) * shock
    is_traded = _make_rng(seed, symbol, "zero volume").random(bars) >= ZERO_VOLUME_SHARE
    return Moves(
        returns=np.where(is_traded, np.clip(expected + surprise, -MAX_MOVE, MAX_MOVE), 0.0),
        expected=expected * (1 - ZERO_VOLUME_SHARE),
        volatility=volatility,
        path=volatility * np.sqrt((1 - signal) * activity),
        imbalance=_draw_imbalance(
            flow,
            shock / np.sqrt(activity),
            _make_rng(seed, symbol, "imbalance"),
            flow_correlation=FLOW_CORRELATION[predictor],
        ),
        turnover=QUOTE_PER_DAY
        * day_share
        * np.exp(_draw_log_turnover(factors, level, activity, seed=seed, symbol=symbol)),
        is_traded=is_traded,
    )


def _filter_flow(noise: Array, *, predictor: str) -> tuple[Array, Array]:
    """Return (N,) the flow observed in the taker-buy share, and (N,) the predictor of the next bar; unit variances."""
    if predictor == "order":
        return noise, np.asarray(lfilter(ORDER_WEIGHTS, [1.0], noise) / np.linalg.norm(ORDER_WEIGHTS))
    flow = _filter_ar1(noise, 0.5 ** (1 / FLOW_HALF_LIFE_BARS))
    return flow, flow


def _draw_imbalance(flow: Array, direction: Array, rng: np.random.Generator, *, flow_correlation: float) -> Array:
    """Return (N,) the taker imbalance in (-1, 1): a squashed sum of flow, the bar's own direction and noise."""
    residual = np.sqrt(1 - flow_correlation**2 - DIRECTION_CORRELATION**2)
    latent = flow_correlation * flow + DIRECTION_CORRELATION * direction + residual * rng.standard_normal(len(flow))
    return np.asarray(np.tanh(IMBALANCE_SLOPE * latent))


def _draw_log_turnover(factors: MarketFactors, level: Array, activity: Array, *, seed: int, symbol: str) -> Array:
    """Return (N,) centered log turnover: price activity drives volume (Clark 1973), plus a persistent residual."""
    residual = _filter_ar1(_make_rng(seed, symbol, "volume").standard_normal(len(level)), VOLUME_PERSISTENCE)
    return np.asarray(SEASON_VOLUME * factors.season + level + 0.5 * np.log(activity) + VOLUME_NOISE * residual)


def _simulate_symbol(
    symbol: str,
    time_ms: npt.NDArray[np.int64],
    factors: MarketFactors,
    *,
    bar_ms: int,
    signal: float,
    predictor: str,
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the bars and true moments of one symbol; the last simulated bar only supplies the previous one's."""
    moves = _draw_moves(factors, symbol=symbol, bar_ms=bar_ms, signal=signal, predictor=predictor, seed=seed)
    prices = _draw_prices(moves, symbol=symbol, seed=seed)
    amounts = _draw_amounts(moves, prices, symbol=symbol, seed=seed)
    closing = {"volume": amounts.pop("volume"), "close_time": time_ms + bar_ms - 1}
    table = pd.DataFrame({"symbol": symbol, "open_time": time_ms, **prices, **closing, **amounts})
    truth = {"expected_return": moves.expected[1:], "volatility": moves.volatility[1:]}
    return table.iloc[:-1], pd.DataFrame({"symbol": symbol, "open_time": time_ms[:-1], **truth})


def _draw_prices(moves: Moves, *, symbol: str, seed: int) -> dict[str, Array]:
    """Return open, high, low, close on the tick grid: extremes of a Brownian bridge from open to close."""
    drawn = float(np.exp(_make_rng(seed, symbol, "price").uniform(*np.log(START_PRICE_RANGE))))
    start = START_PRICES.get(symbol, drawn)
    decimals = max(MIN_PRICE_DECIMALS, PRICE_DIGITS - int(np.floor(np.log10(start))))
    close = np.round(start * np.cumprod(1 + moves.returns), decimals)
    opens = np.concatenate([[np.round(start, decimals)], close[:-1]])
    log_move = np.log(close / opens)
    up = _draw_bridge_maximum(log_move, moves.path, _make_rng(seed, symbol, "high"))
    down = _draw_bridge_maximum(-log_move, moves.path, _make_rng(seed, symbol, "low"))
    high = np.maximum(np.round(opens * np.exp(up), decimals), np.maximum(opens, close))
    low = np.minimum(np.round(opens * np.exp(-down), decimals), np.minimum(opens, close))
    return {
        "open": opens,
        "high": np.where(moves.is_traded, high, opens),
        "low": np.where(moves.is_traded, low, opens),
        "close": close,
    }


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
    further_trades = _make_rng(seed, symbol, "trades").poisson(volume * mean_price / QUOTE_PER_TRADE)
    return {
        "volume": volume,
        "quote_volume": volume * mean_price,
        "trades": np.where(moves.is_traded, 1 + further_trades, 0).astype(np.int64),
        "taker_buy_base": bought,
        "taker_buy_quote": bought * mean_price,
    }
