"""Formulas of features in two variants: one that reads bars after its own, and one that does not."""

from functools import partial
from typing import Literal

import numpy as np
import pandas as pd
from scipy import signal

from pipeline.leakage.canaries.canary_market import HORIZON_BARS
from pipeline.leakage.canaries.columns import DAY_BARS, HOUR_BARS, apply_by

WINDOW_BARS, LONG_WINDOW_BARS = 21, 240
TAILS = (0.01, 0.99)  # quantiles
BUCKET_BARS, BUCKETS = 5, 50  # VPIN: the usual bars in a bucket, and how many buckets it looks back on
LOW_PASS = signal.butter(2, 0.05)
LOW_FREQUENCIES = 0.05  # fraction of the spectrum

Direction = Literal["backward", "nearest"]


def log_close(bars: pd.DataFrame) -> pd.Series:
    """Return the (N,) log close."""
    return pd.Series(np.log(bars["close"]))


def log_return(bars: pd.DataFrame) -> pd.Series:
    """Return the (N,) log return of each bar; undefined for the first of a segment."""
    return pd.Series(log_close(bars).groupby(bars["segment"]).diff())


def take_forward_return(bars: pd.DataFrame) -> pd.Series:
    """Return the (N,) log return over the next HORIZON_BARS of the segment, undefined at its end, as in the target."""
    return -pd.Series(log_close(bars).groupby(bars["segment"]).diff(-HORIZON_BARS))


def log_volume(bars: pd.DataFrame) -> pd.Series:
    """Return (N,) log(1 + volume)."""
    return pd.Series(np.log1p(bars["volume"]))


def log_vwap_over_close(bars: pd.DataFrame) -> pd.Series:
    """Return the (N,) log of the volume-weighted price over the close; undefined in bars without volume.

    Where bars have no quote volume, the price is the mean of high, low and close.
    """
    typical = (bars["high"] + bars["low"] + bars["close"]) / 3
    price = bars["quote_volume"] / bars["volume"] if "quote_volume" in bars else typical.where(bars["volume"] > 0)
    return pd.Series(np.log(price / bars["close"]))


def lag_return(bars: pd.DataFrame, *, window: int, lag: int) -> pd.Series:
    """Return the log return over `window` bars, shifted by `lag` bars."""
    return log_close(bars).diff(window).shift(lag)


def subtract_mean(bars: pd.DataFrame, *, window: int = WINDOW_BARS, center: bool) -> pd.Series:
    """Return the log close less its rolling mean; the window is centered on the bar or ends at it."""
    price = log_close(bars)
    return price - price.rolling(window, center=center).mean()


def subtract_line(bars: pd.DataFrame) -> pd.Series:
    """Return the log close less the straight line fitted to all of it."""
    return pd.Series(signal.detrend(log_close(bars)))


def subtract_ema(bars: pd.DataFrame) -> pd.Series:
    """Return the log close less its exponential moving average."""
    price = log_close(bars)
    return price - price.ewm(span=WINDOW_BARS).mean()


def scale_by_past_volatility(bars: pd.DataFrame) -> pd.Series:
    """Return the log return over its standard deviation in the last HOUR_BARS."""
    change = log_return(bars)
    return change / change.rolling(HOUR_BARS).std().replace(0.0, np.nan)


def resample_bars(bars: pd.DataFrame, *, length: int) -> pd.DataFrame:
    """Return bars of `length` bars, with the clock at which each opens and closes."""
    number = (bars["clock"] // length).to_numpy()
    close = bars["close"].groupby(number).last()
    opens = close.index.to_numpy() * length
    start = bars["open"].groupby(number).first()
    return pd.DataFrame({"opens": opens, "closes": opens + length, "close": close, "body": np.log(close / start)})


def join_resampled(bars: pd.DataFrame, *, length: int, value: str, at: str, direction: Direction) -> pd.Series:
    """Return the longer bar's `value` at the bars whose close is at or after (or nearest to) the clock `at`."""
    longer = resample_bars(bars, length=length)
    known_at = bars["clock"] + (0 if at == "opens" else 1)  # a bar that ends with the longer one does know it
    key = pd.DataFrame({at: known_at.to_numpy()})
    found = pd.merge_asof(key, longer, on=at, direction=direction)[value].to_numpy()
    return pd.Series(np.log(found / bars["close"].to_numpy()) if value == "close" else found)


def project_on_component(bars: pd.DataFrame, *, fitted_bars: int | None) -> pd.Series:
    """Return the first principal component of four columns, fitted on all bars, or on the first ones and used after."""
    change, span = log_return(bars).fillna(0.0), np.log(bars["high"] / bars["low"])
    table = np.column_stack([change, change.abs(), span, log_volume(bars) / 100])
    fitted = table[:fitted_bars]
    if fitted_bars and len(table) < fitted_bars:
        return pd.Series(np.full(len(table), np.nan))
    centered = fitted - fitted.mean(axis=0)
    _, vectors = np.linalg.eigh(np.einsum("ij,ik->jk", centered, centered))
    weights = vectors[:, -1] * np.sign(vectors[np.abs(vectors[:, -1]).argmax(), -1])
    component = (table * weights).sum(axis=1)
    return pd.Series(np.where(np.arange(len(table)) >= (fitted_bars or 0), component, np.nan))


def encode_hour(bars: pd.DataFrame) -> pd.Series:
    """Return the mean of the target over all rows of the same hour of day."""
    return pd.Series(take_forward_return(bars).groupby(take_hour(bars)).transform("mean"))


def encode_hour_so_far(bars: pd.DataFrame) -> pd.Series:
    """Return the mean of the target over the rows of the same hour of day whose labels had ended."""
    hour, segment = take_hour(bars), bars["segment"].to_numpy()
    ended = take_forward_return(bars).groupby(segment).shift(HORIZON_BARS).to_numpy()
    hour_of_ended = pd.Series(hour).groupby(segment).shift(HORIZON_BARS).to_numpy()
    is_in = (hour_of_ended == np.arange(DAY_BARS // HOUR_BARS)[:, None]) & np.isfinite(ended)  # (24, N)
    rows = np.arange(len(bars))
    sums = np.cumsum(np.where(is_in, ended, 0.0), axis=1)[hour, rows]
    counts = np.cumsum(is_in, axis=1)[hour, rows]
    return pd.Series(np.divide(sums, counts, out=np.full(len(rows), np.nan), where=counts > 0))


def take_hour(bars: pd.DataFrame) -> np.ndarray:
    """Return the (N,) hour of day, 0 to 23, of one-minute bars."""
    return np.asarray(bars["clock"]) // HOUR_BARS % (DAY_BARS // HOUR_BARS)


def estimate_vpin_of_file(bars: pd.DataFrame) -> pd.Series:
    """Return VPIN of each segment, its buckets sized by the mean volume of all bars."""
    size = BUCKET_BARS * bars["volume"].mean()
    return pd.Series(apply_by("segment", partial(vpin, size=size))(bars))


def vpin(bars: pd.DataFrame, *, size: float | None = None) -> pd.Series:
    """Return Σ|bought - sold| over Σ volume of the last BUCKETS full buckets.

    Without a `size`, a bucket is sized by the bars before. A bar belongs whole to the bucket in which it begins. Where
    bars lack the takers' volume, a bar's volume has the sign of its move.
    """
    volume = bars["volume"].reset_index(drop=True)
    usual = size if size else (BUCKET_BARS * volume.expanding().mean()).shift().fillna(np.inf)
    bucket = np.floor((volume / usual).cumsum().to_numpy())
    if "taker_buy_base" in bars:
        signed = 2 * bars["taker_buy_base"] - bars["volume"]
    else:
        signed = np.sign(bars["close"] - bars["open"]) * bars["volume"]
    flow = signed.groupby(bucket).sum().abs()
    full = flow.rolling(BUCKETS).sum() / volume.groupby(bucket).sum().rolling(BUCKETS).sum()
    return pd.Series(full.shift().reindex(bucket).to_numpy())


def divide_high_by_close(bars: pd.DataFrame, *, so_far: bool) -> pd.Series:
    """Return the log of the day's high over the close; the high of the whole day or of the day so far."""
    high = bars["high"].groupby(bars["clock"] // DAY_BARS)
    highest = high.cummax() if so_far else high.transform("max")
    return pd.Series(np.log(highest / bars["close"]))


def divide_by_day_volume(bars: pd.DataFrame, *, so_far: bool) -> pd.Series:
    """Return the volume over that of its day; the whole day's or the day's so far."""
    volume = bars["volume"].groupby(bars["clock"] // DAY_BARS)
    return bars["volume"] / (volume.cumsum() if so_far else volume.transform("sum"))


def filter_both_ways(bars: pd.DataFrame) -> pd.Series:
    """Return the log close less itself filtered forward and backward, so without phase."""
    price = log_close(bars)
    return price - pd.Series(signal.filtfilt(*LOW_PASS, price, padtype=None), index=price.index)


def filter_forward(bars: pd.DataFrame) -> pd.Series:
    """Return the log close less itself filtered forward."""
    moved = log_close(bars) - log_close(bars).iloc[0]
    return pd.Series(moved - signal.lfilter(*LOW_PASS, moved))


def subtract_low_frequencies(bars: pd.DataFrame) -> pd.Series:
    """Return the log close less its lowest frequencies in the Fourier transform of all bars."""
    price = log_close(bars)
    spectrum = np.fft.rfft(price)
    spectrum[int(LOW_FREQUENCIES * len(spectrum)) + 1 :] = 0
    return price - np.fft.irfft(spectrum, len(price))


def sum_market_return(bars: pd.DataFrame, *, bars_ahead: int) -> pd.Series:
    """Return the summed log return of all symbols in the bar that opens `bars_ahead` bars after this one."""
    market = log_return(bars).groupby(bars["clock"].to_numpy()).sum()
    return (bars["clock"] + bars_ahead).map(market)


def standardize(values: pd.Series, *, over: str) -> pd.Series:
    """Return the values less their mean, over their deviation: those of the file, or of the values so far."""
    known = values.expanding(2) if over == "so far" else values
    return (values - known.mean()) / known.std()


def clip_in_file(values: pd.Series) -> pd.Series:
    """Return the values clipped at quantiles of the file."""
    low, high = (float(values.quantile(tail)) for tail in TAILS)
    return values.clip(low, high)


def clip_so_far(values: pd.Series) -> pd.Series:
    """Return the values clipped at three deviations from their mean so far."""
    known = values.expanding(2)
    return values.clip(known.mean() - 3 * known.std(), known.mean() + 3 * known.std())


def impute(values: pd.Series, *, over: str) -> pd.Series:
    """Return the values, and where undefined their mean: that of the file, or of the values so far."""
    return values.fillna(values.expanding().mean() if over == "so far" else values.mean())
