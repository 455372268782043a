"""Formulas of features that come in two kinds: one that sees bars after its own, and one that does not."""

from functools import partial
from typing import Literal

import numpy as np
import pandas as pd
from scipy import signal

from pipeline.canaries.columns import DAY_BARS, HOUR_BARS, by, log_close, log_return, log_volume, return_ahead
from pipeline.canaries.ground import HORIZON_BARS

WINDOW_BARS, LONG_WINDOW_BARS = 21, 240
TAILS = (0.01, 0.99)  # quantiles
BUCKET_BARS, BUCKETS = 5, 50  # VPIN: the usual bars in a bucket, and how many buckets it looks back on
LOW_PASS = signal.butter(2, 0.05)
KEPT_FREQUENCIES = 0.05

Direction = Literal["backward", "nearest"]


def lagged(bars: pd.DataFrame, *, window: int, lag: int) -> pd.Series:
    """The log return over `window` bars, `lag` bars late."""
    return log_close(bars).diff(window).shift(lag)


def from_mean(bars: pd.DataFrame, *, center: bool) -> pd.Series:
    """The log close less its mean over a window, centred or ending at the bar."""
    price = log_close(bars)
    return price - price.rolling(WINDOW_BARS, center=center).mean()


def longer_bars(bars: pd.DataFrame, *, length: int) -> pd.DataFrame:
    """Bars of `length` bars, with the clock at which each opens and closes."""
    number = (bars["clock"] // length).to_numpy()
    close = bars["close"].groupby(number).last()
    opens = close.index.to_numpy() * length
    start = bars["open"].groupby(number).first()
    return pd.DataFrame({"opens": opens, "closes": opens + length, "close": close, "body": np.log(close / start)})


def joined(bars: pd.DataFrame, *, length: int, value: str, at: str, direction: Direction) -> pd.Series:
    """The longer bar's `value` at the bars whose close is at or after (or nearest to) the clock `at`."""
    longer = longer_bars(bars, length=length)
    known_at = bars["clock"] + (0 if at == "opens" else 1)  # a bar that ends with the longer one does know it
    key = pd.DataFrame({at: known_at.to_numpy()})
    found = pd.merge_asof(key, longer, on=at, direction=direction)[value].to_numpy()
    return pd.Series(np.log(found / bars["close"].to_numpy()) if value == "close" else found)


def first_component(bars: pd.DataFrame, *, fitted_bars: int | None) -> pd.Series:
    """The first principal component of four columns, fitted on all bars, or on the first ones and applied after."""
    change, span = log_return(bars).fillna(0.0), np.log(bars["high"] / bars["low"])
    table = np.column_stack([change, change.abs(), span, log_volume(bars) / 100])
    fitted = table[:fitted_bars]
    if fitted_bars and len(table) < fitted_bars:
        return pd.Series(np.full(len(table), np.nan))
    centred = fitted - fitted.mean(axis=0)
    _, vectors = np.linalg.eigh(np.einsum("ij,ik->jk", centred, centred))
    weights = vectors[:, -1] * np.sign(vectors[np.abs(vectors[:, -1]).argmax(), -1])
    component = (table * weights).sum(axis=1)
    return pd.Series(np.where(np.arange(len(table)) >= (fitted_bars or 0), component, np.nan))


def encoded_by_hour(bars: pd.DataFrame) -> pd.Series:
    """The mean of the target over all rows of the same hour of day."""
    return pd.Series(return_ahead(bars).groupby(hour_of_day(bars)).transform("mean"))


def encoded_by_hour_so_far(bars: pd.DataFrame) -> pd.Series:
    """The mean of the target over the rows of the same hour of day whose labels had ended."""
    hour, segment = hour_of_day(bars), bars["segment"].to_numpy()
    ended = return_ahead(bars).groupby(segment).shift(HORIZON_BARS).to_numpy()
    of_ended = pd.Series(hour).groupby(segment).shift(HORIZON_BARS).to_numpy()
    is_in = (of_ended == np.arange(DAY_BARS // HOUR_BARS)[:, None]) & np.isfinite(ended)  # (24, N)
    rows = np.arange(len(bars))
    sums = np.cumsum(np.where(is_in, ended, 0.0), axis=1)[hour, rows]
    counts = np.cumsum(is_in, axis=1)[hour, rows]
    return pd.Series(np.divide(sums, counts, out=np.full(len(rows), np.nan), where=counts > 0))


def hour_of_day(bars: pd.DataFrame) -> np.ndarray:
    """(N,) 0 to 23, of one-minute bars."""
    return np.asarray(bars["clock"]) // HOUR_BARS % (DAY_BARS // HOUR_BARS)


def vpin_of_file(bars: pd.DataFrame) -> pd.Series:
    """VPIN of each segment, its buckets sized by the mean volume of all bars."""
    size = BUCKET_BARS * bars["volume"].mean()
    return pd.Series(by("segment", partial(vpin, size=size))(bars))


def vpin(bars: pd.DataFrame, *, size: float | None = None) -> pd.Series:
    """Σ|bought - sold| over Σ volume of the last BUCKETS full buckets; sized by the bars before where no size is given.

    A bar falls whole into the bucket in which it begins.
    """
    volume = bars["volume"].reset_index(drop=True)
    usual = size if size else (BUCKET_BARS * volume.expanding().mean()).shift().fillna(np.inf)
    bucket = np.floor((volume / usual).cumsum().to_numpy())
    flow = (2 * bars["taker_buy_base"] - bars["volume"]).groupby(bucket).sum().abs()
    full = flow.rolling(BUCKETS).sum() / volume.groupby(bucket).sum().rolling(BUCKETS).sum()
    return pd.Series(full.shift().reindex(bucket).to_numpy())


def high_over_close(bars: pd.DataFrame, *, so_far: bool) -> pd.Series:
    """The log of the day's high over the close, of the whole day or of it so far."""
    high = bars["high"].groupby(bars["clock"] // DAY_BARS)
    highest = high.cummax() if so_far else high.transform("max")
    return pd.Series(np.log(highest / bars["close"]))


def share_of_day(bars: pd.DataFrame, *, so_far: bool) -> pd.Series:
    """The volume over that of the day, the whole day's or the day's so far."""
    volume = bars["volume"].groupby(bars["clock"] // DAY_BARS)
    return bars["volume"] / (volume.cumsum() if so_far else volume.transform("sum"))


def zero_phase(bars: pd.DataFrame) -> pd.Series:
    """The log close less itself filtered forwards and backwards."""
    price = log_close(bars)
    return price - pd.Series(signal.filtfilt(*LOW_PASS, price, padtype=None), index=price.index)


def causal_phase(bars: pd.DataFrame) -> pd.Series:
    """The log close less itself filtered forwards."""
    moved = log_close(bars) - log_close(bars).iloc[0]
    return pd.Series(moved - signal.lfilter(*LOW_PASS, moved))


def low_frequencies(bars: pd.DataFrame) -> pd.Series:
    """The log close less its lowest frequencies, of the Fourier transform of all bars."""
    price = log_close(bars)
    spectrum = np.fft.rfft(price)
    spectrum[int(KEPT_FREQUENCIES * len(spectrum)) + 1 :] = 0
    return price - np.fft.irfft(spectrum, len(price))


def market_return(bars: pd.DataFrame, *, bars_late: int) -> pd.Series:
    """The log return of all symbols together in the bar that opens `bars_late` bars after this one."""
    market = log_return(bars).groupby(bars["clock"].to_numpy()).sum()
    return (bars["clock"] + bars_late).map(market)


def standardised(values: pd.Series, *, over: str) -> pd.Series:
    """The values in deviations from their mean: over the file, or over those so far."""
    known = values.expanding(2) if over == "so far" else values
    return (values - known.mean()) / known.std()


def clipped_in_file(values: pd.Series) -> pd.Series:
    """The values within their tails over the file."""
    low, high = (float(values.quantile(tail)) for tail in TAILS)
    return values.clip(low, high)


def clipped_so_far(values: pd.Series) -> pd.Series:
    """The values within three deviations of their mean so far."""
    known = values.expanding(2)
    return values.clip(known.mean() - 3 * known.std(), known.mean() + 3 * known.std())


def imputed(values: pd.Series, *, over: str) -> pd.Series:
    """The values, and where undefined their mean: over the file, or over those so far."""
    return values.fillna(values.expanding().mean() if over == "so far" else values.mean())
