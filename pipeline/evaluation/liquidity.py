"""Liquidity of bars: the bid-ask spread that prices imply, by symbol and month, and whether costs cover half of it.

The spread of a month is the larger of its tick and its bounce. The bounce is 2 · mean |ln open - ln previous close|
over consecutive traded bars: two trades so close in time differ by the spread, or by nothing, with equal chance where
sides are independent [1, 2]. Two estimates stand beside it as second opinions. Roll's covariance of closes [1] is
blurred by volatility: a market of volatility σ and no spread shows about 2 √(σ²/√n). Corwin and Schultz's [3] adds
about a fifth of σ to the spread of a liquid market, and sees little of it in bars with few trades.
[1] Roll 1984, "A Simple Implicit Measure of the Effective Bid-Ask Spread in an Efficient Market". [2] Thompson & Waller
1987, "The Execution Cost of Trading in Commodity Futures Markets": the mean absolute change of consecutive trades.
[3] Corwin & Schultz 2012, "A Simple Way to Estimate Bid-Ask Spreads from Daily High and Low Prices".
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.fills import take_quote_volume
from pipeline.market.bars import number_segments

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

PRICES = ["open", "high", "low", "close"]
COLUMNS = ("symbol", "segment", "open_time", *PRICES, "volume")  # of the bars that are measured
BPS, NAN = 1e4, float("nan")
MIN_PAIRS = 100  # of consecutive traded bars: the bounce then has a relative error of 10 %
SAME_PRICE = 1e-9  # relative: a smaller difference is one of rounding
MIN_GAP_SHARE = 0.02  # of pairs whose open differs from the close before; real markets have about a half
MIN_ROLL_ERRORS = 3.0  # standard errors of the covariance, below which Roll's estimate may be chance
LOW_QUANTILE = 0.05  # of the quote volume


class Estimates(NamedTuple):
    """The estimates of a spread in one period, in bps of the price; NaN where undefined."""

    tick_bps: float = NAN
    bounce_bps: float = NAN
    roll_bps: float = NAN
    corwin_schultz_bps: float = NAN
    spread_bps: float = NAN
    reason: str | None = None  # of what is NaN


def find_missing_columns(clean: pd.DataFrame) -> list[str]:
    """Return the columns of bars that a clean table lacks; without them its liquidity cannot be measured."""
    return [name for name in COLUMNS if name not in clean.columns]


def measure_liquidity(clean: pd.DataFrame) -> pd.DataFrame:
    """Return the liquidity of a clean table of bars, one row for each symbol and calendar month (UTC).

    Columns: `symbol`, `period` such as 2024-01, `start_ms` and `end_ms` (exclusive), `bars`, `idle_share` of bars
    without volume, `quote_volume_median` and `quote_volume_low` (5th percentile) of a bar, the fields of Estimates, and
    `half_spread_bps`, what one side of a trade costs. A month with fewer than MIN_PAIRS pairs of consecutive traded
    bars has NaN estimates and a `reason`.

    Raises:
        ValueError: a column is missing.
    """
    if missing := find_missing_columns(clean):
        raise ValueError(f"liquidity: the table lacks {', '.join(missing)}; bars have {', '.join(COLUMNS)}")
    if "bar_number" in clean.columns:  # the move over a closing is no bounce
        clean = clean.assign(segment=number_segments(clean, at_closings=True))
    period = pd.to_datetime(clean["open_time"], unit="ms").dt.strftime("%Y-%m")
    parts = clean.groupby([clean["symbol"].astype("str"), period], sort=True)
    rows = [_measure_part(part, symbol=str(symbol), period=str(month)) for (symbol, month), part in parts]
    return pd.DataFrame(rows)


def find_half_spread(table: pd.DataFrame, *, symbol: str, time_ms: npt.NDArray[np.int64]) -> Floats:
    """Return (N,) half the implied spread in bps at instants `time_ms` (N,), from the table of `measure_liquidity`.

    It is that of the whole month, and NaN in a month in which the spread is undefined.

    Raises:
        ValueError: the table has no such symbol, or no month of one of the instants.
    """
    own = table[table["symbol"] == symbol].sort_values("start_ms")
    if not len(own):
        known = ", ".join(table["symbol"].unique())
        raise ValueError(f"liquidity: symbol {symbol!r} was not measured; the table has {known}")
    row = np.searchsorted(own["start_ms"].to_numpy(), time_ms, side="right") - 1
    outside = (row < 0) | (time_ms >= own["end_ms"].to_numpy()[row])
    if outside.any():
        first = pd.Timestamp(int(time_ms[outside][0]), unit="ms")
        raise ValueError(
            f"liquidity: {symbol} at {first} lies in no measured month; measure the bars that are evaluated"
        )
    return np.asarray(own["half_spread_bps"].to_numpy(np.float64)[row])


def find_uncovered(table: pd.DataFrame, *, slippage_bps: float) -> pd.DataFrame:
    """Return the rows of a liquidity table whose half spread exceeds the slippage that is charged."""
    return table[table["half_spread_bps"] > slippage_bps]  # NaN exceeds nothing


def estimate_roll(log_price: Floats, segment: npt.NDArray[np.integer[Any]]) -> tuple[float, float]:
    """Return Roll's spread 2 √-cov(Δp, previous Δp) of log prices (N,), and its distance from 0 in standard errors.

    A pair of changes lies within one segment. The spread is 0 where the covariance is not negative; the distance is
    that of the covariance. Both are NaN for fewer than two pairs.

    Example:
        >>> estimate_roll(np.array([0.0, 0.1, 0.0, 0.1, 0.0]), np.zeros(5, int))[0].round(4)
        np.float64(0.1886)
    """
    change, is_within = np.diff(log_price), np.diff(segment) == 0
    is_pair = is_within[1:] & is_within[:-1]
    later, earlier = change[1:][is_pair], change[:-1][is_pair]
    if len(later) < 2:
        return NAN, NAN
    product = (later - later.mean()) * (earlier - earlier.mean())
    covariance, error = product.mean(), product.std() / np.sqrt(len(product))
    return 2 * np.sqrt(max(-covariance, 0.0)), -covariance / error if error > 0 else NAN


def estimate_corwin_schultz(high: Floats, low: Floats, is_pair: Mask) -> float:
    """Return the mean of the two-bar spreads of Corwin & Schultz (2012, eq. 14 and 18), negative ones as 0.

    `high` and `low` are prices (N,); `is_pair` (N - 1,) marks the bars that follow the one before. No pair spans
    closed hours, so that no overnight correction is made. NaN without a pair.
    """
    squared = np.log(high / low) ** 2
    beta = squared[1:] + squared[:-1]
    gamma = np.log(np.maximum(high[1:], high[:-1]) / np.minimum(low[1:], low[:-1])) ** 2
    root = 3 - 2 * np.sqrt(2)
    alpha = (np.sqrt(2 * beta) - np.sqrt(beta)) / root - np.sqrt(gamma / root)
    spread = np.tanh(np.maximum(alpha, 0.0) / 2) * 2  # 2 (e^α - 1) / (e^α + 1)
    return float(spread[is_pair].mean()) if is_pair.any() else NAN


def find_tick(prices: Floats) -> float:
    """Return the smallest difference between two of the prices; NaN where all are the same."""
    values = np.unique(prices)
    steps = np.diff(values)
    steps = steps[steps > SAME_PRICE * values[1:]]
    return float(steps.min()) if len(steps) else NAN


def _measure_part(part: pd.DataFrame, *, symbol: str, period: str) -> dict[str, Any]:
    month = pd.Period(period, freq="M")
    quote = take_quote_volume(part)
    estimates = _estimate_spread(part)
    return {
        "symbol": symbol,
        "period": period,
        "start_ms": month.start_time.value // 1_000_000,
        "end_ms": (month + 1).start_time.value // 1_000_000,
        "bars": len(part),
        "idle_share": float((part["volume"].to_numpy() == 0).mean()),
        "quote_volume_median": float(np.median(quote)),
        "quote_volume_low": float(np.quantile(quote, LOW_QUANTILE)),
        **estimates._asdict(),
        "half_spread_bps": estimates.spread_bps / 2,
    }


def _estimate_spread(part: pd.DataFrame) -> Estimates:
    """Return the estimates of the bars of one symbol and month, in the order of time."""
    rows = np.flatnonzero(part["volume"].to_numpy() > 0)
    traded = part.iloc[rows]
    segment = traded["segment"].to_numpy()
    is_pair = (np.diff(rows) == 1) & (np.diff(segment) == 0)
    if is_pair.sum() < MIN_PAIRS:
        count = int(is_pair.sum())
        return Estimates(reason=f"{count} pairs of consecutive traded bars; {MIN_PAIRS} are needed: take longer data")
    prices = traded[PRICES].to_numpy()
    tick = find_tick(prices)
    if np.isnan(tick):
        return Estimates(reason="the price never changes; restore the source")
    opens, high, low, close = prices.T
    gap = np.abs(np.log(opens[1:] / close[:-1]))[is_pair]
    has_opens = (gap > SAME_PRICE).mean() >= MIN_GAP_SHARE
    roll, distance = estimate_roll(np.log(close), segment)
    bounce = 2 * float(gap.mean()) if has_opens else NAN
    tick /= float(np.median(close))
    fallback = roll if distance > MIN_ROLL_ERRORS else 0.0
    return Estimates(
        tick_bps=BPS * tick,
        bounce_bps=BPS * bounce,
        roll_bps=BPS * roll,
        corwin_schultz_bps=BPS * estimate_corwin_schultz(high, low, is_pair),
        spread_bps=BPS * max(tick, bounce if has_opens else fallback),
        reason=None
        if has_opens
        else "bounce: opens repeat the closes before; Roll's spread replaces it if distinct from 0",
    )
