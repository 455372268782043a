"""Canaries of features that are code: the bars of later say something else, and so does the feature of now."""

from functools import partial

import numpy as np
import pandas as pd
from scipy import signal

from pipeline.canaries import formulas
from pipeline.canaries.canary import Canary
from pipeline.canaries.columns import (
    DAY_BARS,
    HOUR_BARS,
    Formula,
    Planting,
    by,
    computed,
    in_file,
    log_close,
    log_return,
    log_volume,
    paid_over_close,
)
from pipeline.canaries.formulas import LONG_WINDOW_BARS, WINDOW_BARS
from pipeline.canaries.ground import HORIZON_BARS

LONGER_BARS = 5  # bars of the table in a bar of the table that is joined to it


def canary(name: str, leak: Formula, twin: Formula, *, mistake: str, instead: str) -> Canary[Planting]:
    """A canary of two formulas, which `truncation` has to tell apart."""
    return Canary(name, "truncation", computed(leak), computed(twin), mistake, instead)


filled_forward = by("segment", lambda bars: paid_over_close(bars).ffill())
lagged = partial(formulas.lagged, window=1)
lagged_by_horizon = partial(formulas.lagged, window=HORIZON_BARS)
hour = partial(formulas.joined, length=HOUR_BARS, value="close")
five_bars = partial(formulas.joined, length=LONGER_BARS, value="body")


def detrended(bars: pd.DataFrame) -> pd.Series:
    """The log close less the straight line through all of it."""
    return pd.Series(signal.detrend(log_close(bars)))


def from_long_mean(bars: pd.DataFrame) -> pd.Series:
    """The log close less its mean over the last bars."""
    price = log_close(bars)
    return price - price.rolling(LONG_WINDOW_BARS).mean()


def from_slow_mean(bars: pd.DataFrame) -> pd.Series:
    """The log close less its exponential mean."""
    price = log_close(bars)
    return price - price.ewm(span=WINDOW_BARS).mean()


def in_deviations(bars: pd.DataFrame) -> pd.Series:
    """The log return over its deviation in the last bars."""
    change = log_return(bars)
    return change / change.rolling(HOUR_BARS).std().replace(0.0, np.nan)


SHIFTED = (
    canary(
        "return_shifted_back",
        by("segment", partial(lagged, lag=-1)),
        by("segment", partial(lagged, lag=1)),
        mistake="a return is shifted by -1, so that each bar has the next one's",
        instead="it is shifted by +1",
    ),
    canary(
        "horizon_shifted_back",
        by("segment", partial(lagged_by_horizon, lag=-HORIZON_BARS)),
        by("segment", partial(lagged_by_horizon, lag=HORIZON_BARS)),
        mistake="a return over h bars is shifted by -h: it is the label",
        instead="it is shifted by +h",
    ),
    canary(
        "centred_rolling_mean",
        by("segment", partial(formulas.from_mean, center=True)),
        by("segment", partial(formulas.from_mean, center=False)),
        mistake="a rolling mean is centred on its bar",
        instead="the window ends at the bar",
    ),
    canary(
        "backward_fill_over_hole",
        in_file(lambda bars: paid_over_close(bars).bfill()),
        filled_forward,
        mistake="a price undefined in bars without volume is filled backwards, over the hole that follows a halt",
        instead="it is filled forwards within its segment",
    ),
    canary(
        "linear_interpolation",
        in_file(lambda bars: paid_over_close(bars).interpolate()),
        filled_forward,
        mistake="undefined values are interpolated between the defined ones before and after",
        instead="they are filled forwards",
    ),
    canary(
        "imputed_by_mean_of_file",
        in_file(lambda bars: formulas.imputed(paid_over_close(bars), over="file")),
        by("symbol", lambda bars: formulas.imputed(paid_over_close(bars), over="so far")),
        mistake="undefined values are replaced by the column's mean over the whole file",
        instead="by its mean so far",
    ),
)

JOINED = (
    canary(
        "hour_labelled_left",
        by("symbol", partial(hour, at="opens", direction="backward")),
        by("symbol", partial(hour, at="closes", direction="backward")),
        mistake="bars are resampled to hours labelled left, so that an hour's last close stands at its first minute",
        instead="hours are labelled right and joined backwards once they have closed",
    ),
    canary(
        "longer_bars_joined_at_open",
        by("symbol", partial(five_bars, at="opens", direction="backward")),
        by("symbol", partial(five_bars, at="closes", direction="backward")),
        mistake="bars of five minutes are joined at the time they open, taken for the time they are known",
        instead="at the time they close",
    ),
    canary(
        "longer_bars_joined_to_nearest",
        by("symbol", partial(five_bars, at="closes", direction="nearest")),
        by("symbol", partial(five_bars, at="closes", direction="backward")),
        mistake="bars of five minutes are joined to the nearest close, before or after",
        instead="to the last close before",
    ),
    canary(
        "market_joined_at_open",
        in_file(partial(formulas.market_return, bars_late=1)),
        in_file(partial(formulas.market_return, bars_late=0)),
        mistake="all symbols' return is joined where its bar opens as this one closes: an open taken for a close",
        instead="where both close",
    ),
    canary(
        "high_of_day",
        by("symbol", partial(formulas.high_over_close, so_far=False)),
        by("symbol", partial(formulas.high_over_close, so_far=True)),
        mistake="the day's high is known from the day's first bar",
        instead="the high of the day so far",
    ),
    canary(
        "volume_over_day_total",
        by("symbol", partial(formulas.share_of_day, so_far=False)),
        by("symbol", partial(formulas.share_of_day, so_far=True)),
        mistake="volume is divided by the total of its day",
        instead="by the total of the day so far",
    ),
)

FITTED = (
    canary(
        "standardised_over_file",
        in_file(lambda bars: formulas.standardised(log_volume(bars), over="file")),
        by("symbol", lambda bars: formulas.standardised(log_volume(bars), over="so far")),
        mistake="a scaler's mean and deviation are those of the whole file",
        instead="they expand with the bars",
    ),
    canary(
        "quantile_rank_in_file",
        in_file(lambda bars: log_volume(bars).rank(pct=True)),
        by("symbol", lambda bars: log_volume(bars).rolling(LONG_WINDOW_BARS).rank(pct=True)),
        mistake="a value is replaced by its quantile in the whole file",
        instead="by its quantile in the last bars",
    ),
    canary(
        "pca_of_file",
        in_file(partial(formulas.first_component, fitted_bars=None)),
        by("symbol", partial(formulas.first_component, fitted_bars=DAY_BARS)),
        mistake="a principal component is fitted on all rows",
        instead="on the first day's, and applied to those after it",
    ),
    canary(
        "volatility_of_file",
        in_file(lambda bars: log_return(bars) / log_return(bars).std()),
        by("segment", in_deviations),
        mistake="returns are scaled by the volatility of the whole file",
        instead="by that of the last bars",
    ),
    canary(
        "clipped_at_quantiles_of_file",
        in_file(lambda bars: formulas.clipped_in_file(log_volume(bars))),
        by("symbol", lambda bars: formulas.clipped_so_far(log_volume(bars))),
        mistake="outliers are clipped at quantiles of the whole file",
        instead="at three deviations of the mean so far",
    ),
    canary(
        "target_encoded_by_hour",
        in_file(formulas.encoded_by_hour),
        by("symbol", formulas.encoded_by_hour_so_far),
        mistake="the hour of day is replaced by the mean of the target in it, over all rows",
        instead="over the labels that had ended before",
    ),
    canary(
        "vpin_bucket_of_file",
        in_file(formulas.vpin_of_file),
        by("segment", formulas.vpin),
        mistake="VPIN's buckets are sized by the mean volume of the whole file",
        instead="by that of the bars before",
    ),
    canary(
        "detrended_over_file",
        by("symbol", detrended),
        by("segment", from_long_mean),
        mistake="the straight line through the whole file is taken out of the price",
        instead="the mean of the last bars is",
    ),
    canary(
        "filtered_both_ways",
        by("segment", formulas.zero_phase),
        by("segment", formulas.causal_phase),
        mistake="a filter runs forwards and backwards, so that it has no lag",
        instead="it runs forwards",
    ),
    canary(
        "smoothed_by_fourier",
        by("symbol", formulas.low_frequencies),
        by("segment", from_slow_mean),
        mistake="noise is taken out by the Fourier transform of the whole file",
        instead="by an exponential mean",
    ),
)

CANARIES = (*SHIFTED, *JOINED, *FITTED)
