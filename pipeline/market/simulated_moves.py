"""The hidden part of the simulated market: shocks, volatility, order flow, and the moves of the mid price.

The description of the model is that of `simulated.py`.
"""

import zlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter

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
FLOW_CORRELATION = {"flow": 0.6, "order": 0.85}  # of the latent imbalance with the flow, by predictor
DIRECTION_CORRELATION = 0.45  # of the latent imbalance with the bar's move
IMBALANCE_SLOPE = 0.45
ORDER_WEIGHTS = [1.0] * 5 + [-1.0] * 10 + [1.0] * 5  # of the flow of the last 20 bars, the latest first
HALT_SHARE = 0.0005  # of all bars, at most: idle bars in which the mid stands still
QUOTE_PER_DAY = 1.5e9
VOLUME_PERSISTENCE, VOLUME_NOISE = 0.9, 0.45  # of the residual log volume, given volatility


@dataclass(frozen=True, kw_only=True)
class MarketSettings:
    """The settings that every symbol of a simulated market shares; `simulated.simulate` describes them."""

    signal: float
    predictor: str
    half_life_bars: float
    spread_bps: float
    idle_share: float
    seed: int

    @property
    def halt_share(self) -> float:
        """The share of bars in which neither a trade happens nor the mid moves."""
        return min(self.idle_share, HALT_SHARE)


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

    returns: Array  # (N,) simple, of the mid; 0 in a halt
    expected: Array  # (N,) simple, of the mid, known one bar ahead
    volatility: Array  # (N,) known one bar ahead
    path: Array  # (N,) standard deviation of the path within the bar
    imbalance: Array  # (N,) in (-1, 1): (taker buys - taker sells) / volume
    turnover: Array  # (N,) in quote units
    is_traded: npt.NDArray[np.bool_]


def make_rng(seed: int, symbol: str, quantity: str) -> np.random.Generator:
    """Return the generator of one quantity of one symbol ("" is the market): a longer draw begins with the shorter."""
    return np.random.default_rng([seed, zlib.crc32(symbol.encode()), zlib.crc32(quantity.encode())])


def draw_factors(time_ms: npt.NDArray[np.int64], *, bar_ms: int, seed: int) -> MarketFactors:
    """Return the factors of bars that open at `time_ms` (N,)."""
    bars = len(time_ms)
    is_switch = make_rng(seed, "", "switches").random(bars) < bar_ms / (REGIME_DAYS * DAY_MS)
    drawn = make_rng(seed, "", "regimes").choice(REGIMES, size=bars)
    regime = drawn[np.maximum.accumulate(np.where(is_switch, np.arange(bars), 0))]
    middle = (time_ms % DAY_MS + bar_ms / 2) / DAY_MS
    season = np.cos(2 * np.pi * middle) * np.sinc(bar_ms / DAY_MS)  # the mean of the cosine over the bar
    return MarketFactors(_draw_shocks(seed, "", bars), regime, season)


def _draw_shocks(seed: int, symbol: str, bars: int) -> Shocks:
    chi_square = make_rng(seed, symbol, "activity").chisquare(DEGREES_OF_FREEDOM, size=bars)
    return Shocks(make_rng(seed, symbol, "shocks").standard_normal(bars), (DEGREES_OF_FREEDOM - 2) / chi_square)


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


def draw_moves(factors: MarketFactors, settings: MarketSettings, *, symbol: str, bar_ms: int) -> Moves:
    """Return one symbol's moves; the last is that of a bar after the table's last one."""
    seed, signal = settings.seed, settings.signal
    bars, day_share = len(factors.season), bar_ms / DAY_MS
    own = _draw_shocks(seed, symbol, bars)
    shock = _mix_shocks(factors.shocks.value, own.value)
    activity = MARKET_SHARE * factors.shocks.activity + (1 - MARKET_SHARE) * own.activity
    level = factors.regime + _mix_shocks(_cluster_volatility(factors.shocks.value), _cluster_volatility(own.value))
    volatility = DAILY_VOLATILITY * np.sqrt(day_share) * np.exp(level + SEASON_VOLATILITY * factors.season)

    flow, predictor_value = _filter_flow(make_rng(seed, symbol, "flow").standard_normal(bars), settings)
    expected = np.concatenate([[0.0], volatility[1:] * np.sqrt(signal) * predictor_value[:-1]])
    surprise = volatility * np.sqrt(1 - signal) * shock
    idleness = make_rng(seed, symbol, "zero volume").random(bars)
    return Moves(
        returns=np.where(idleness >= settings.halt_share, np.clip(expected + surprise, -MAX_MOVE, MAX_MOVE), 0.0),
        expected=expected * (1 - settings.halt_share),
        volatility=volatility,
        path=volatility * np.sqrt((1 - signal) * activity),
        imbalance=_draw_imbalance(
            flow,
            shock / np.sqrt(activity),
            make_rng(seed, symbol, "imbalance"),
            flow_correlation=FLOW_CORRELATION[settings.predictor],
        ),
        turnover=QUOTE_PER_DAY
        * day_share
        * np.exp(_draw_log_turnover(factors, level, activity, seed=seed, symbol=symbol)),
        is_traded=idleness >= settings.idle_share,
    )


def _filter_flow(noise: Array, settings: MarketSettings) -> tuple[Array, Array]:
    """Return (N,) the flow observed in the taker-buy share, and (N,) the predictor of the next bar; unit variances."""
    if settings.predictor == "order":
        return noise, np.asarray(lfilter(ORDER_WEIGHTS, [1.0], noise) / np.linalg.norm(ORDER_WEIGHTS))
    flow = _filter_ar1(noise, 0.5 ** (1 / settings.half_life_bars))
    return flow, flow


def _draw_imbalance(flow: Array, direction: Array, rng: np.random.Generator, *, flow_correlation: float) -> Array:
    """Return (N,) the taker imbalance in (-1, 1): a squashed sum of flow, the bar's own direction and noise."""
    residual = np.sqrt(1 - flow_correlation**2 - DIRECTION_CORRELATION**2)
    latent = flow_correlation * flow + DIRECTION_CORRELATION * direction + residual * rng.standard_normal(len(flow))
    return np.asarray(np.tanh(IMBALANCE_SLOPE * latent))


def _draw_log_turnover(factors: MarketFactors, level: Array, activity: Array, *, seed: int, symbol: str) -> Array:
    """Return (N,) centered log turnover: price activity drives volume (Clark 1973), plus a persistent residual."""
    residual = _filter_ar1(make_rng(seed, symbol, "volume").standard_normal(len(level)), VOLUME_PERSISTENCE)
    return np.asarray(SEASON_VOLUME * factors.season + level + 0.5 * np.log(activity) + VOLUME_NOISE * residual)
