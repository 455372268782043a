"""Canaries of features that are code: a feature changes when later bars do."""

from functools import partial

from pipeline.leakage.canaries import formulas
from pipeline.leakage.canaries.canary import Canary
from pipeline.leakage.canaries.canary_market import HORIZON_BARS
from pipeline.leakage.canaries.columns import (
    DAY_BARS,
    HOUR_BARS,
    ColumnMaker,
    Formula,
    apply_by,
    apply_to_file,
    define_computed,
)
from pipeline.leakage.canaries.formulas import LONG_WINDOW_BARS, log_return, log_volume, log_vwap_over_close

LONG_BAR_BARS = 5  # bars in one bar of the coarser table that is joined


def make_canary(name: str, leak: Formula, clean: Formula, *, mistake: str, correction: str) -> Canary[ColumnMaker]:
    """Return a canary of two formulas, which `truncation` has to distinguish."""
    return Canary(name, "truncation", define_computed(leak), define_computed(clean), mistake, correction)


fill_forward = apply_by("segment", lambda bars: log_vwap_over_close(bars).ffill())
lag_return = partial(formulas.lag_return, window=1)
lag_horizon_return = partial(formulas.lag_return, window=HORIZON_BARS)
join_hours = partial(formulas.join_resampled, length=HOUR_BARS, value="close")
join_long_bars = partial(formulas.join_resampled, length=LONG_BAR_BARS, value="body")

SHIFTED = (
    make_canary(
        "return_shifted_back",
        apply_by("segment", partial(lag_return, lag=-1)),
        apply_by("segment", partial(lag_return, lag=1)),
        mistake="a return is shifted by -1, so that each bar has the next bar's return",
        correction="it is shifted by +1",
    ),
    make_canary(
        "horizon_shifted_back",
        apply_by("segment", partial(lag_horizon_return, lag=-HORIZON_BARS)),
        apply_by("segment", partial(lag_horizon_return, lag=HORIZON_BARS)),
        mistake="a return over h bars is shifted by -h, so that it is the label",
        correction="it is shifted by +h",
    ),
    make_canary(
        "centered_rolling_mean",
        apply_by("segment", partial(formulas.subtract_mean, center=True)),
        apply_by("segment", partial(formulas.subtract_mean, center=False)),
        mistake="a rolling mean is centered on its bar",
        correction="the window ends at the bar",
    ),
    make_canary(
        "backward_fill_over_gap",
        apply_to_file(lambda bars: log_vwap_over_close(bars).bfill()),
        fill_forward,
        mistake="a price undefined in bars without volume is filled backward, over the gap that follows a halt",
        correction="it is filled forward within its segment",
    ),
    make_canary(
        "linear_interpolation",
        apply_to_file(lambda bars: log_vwap_over_close(bars).interpolate()),
        fill_forward,
        mistake="undefined values are interpolated between the defined ones before and after",
        correction="they are filled forward",
    ),
    make_canary(
        "imputed_by_mean_of_file",
        apply_to_file(lambda bars: formulas.impute(log_vwap_over_close(bars), over="file")),
        apply_by("symbol", lambda bars: formulas.impute(log_vwap_over_close(bars), over="so far")),
        mistake="undefined values are replaced by the column's mean over the whole file",
        correction="they are replaced by its mean so far",
    ),
)

JOINED = (
    make_canary(
        "hour_labeled_left",
        apply_by("symbol", partial(join_hours, at="opens", direction="backward")),
        apply_by("symbol", partial(join_hours, at="closes", direction="backward")),
        mistake="bars are resampled to hours labeled left, so that an hour's last close stands at its first minute",
        correction="hours are labeled right and joined backward once they have closed",
    ),
    make_canary(
        "longer_bars_joined_at_open",
        apply_by("symbol", partial(join_long_bars, at="opens", direction="backward")),
        apply_by("symbol", partial(join_long_bars, at="closes", direction="backward")),
        mistake="five-minute bars are joined at their open, which is taken for the time at which they are known",
        correction="they are joined at their close",
    ),
    make_canary(
        "longer_bars_joined_to_nearest",
        apply_by("symbol", partial(join_long_bars, at="closes", direction="nearest")),
        apply_by("symbol", partial(join_long_bars, at="closes", direction="backward")),
        mistake="five-minute bars are joined to the nearest close, before or after",
        correction="they are joined to the last close before",
    ),
    make_canary(
        "market_joined_at_open",
        apply_to_file(partial(formulas.sum_market_return, bars_ahead=1)),
        apply_to_file(partial(formulas.sum_market_return, bars_ahead=0)),
        mistake="the return of all symbols is joined by the open of its bar to the close of this one: one bar early",
        correction="it is joined where both bars close",
    ),
    make_canary(
        "high_of_day",
        apply_by("symbol", partial(formulas.divide_high_by_close, so_far=False)),
        apply_by("symbol", partial(formulas.divide_high_by_close, so_far=True)),
        mistake="the high of the whole day is used from the day's first bar on",
        correction="the high of the day so far is used",
    ),
    make_canary(
        "volume_over_day_total",
        apply_by("symbol", partial(formulas.divide_by_day_volume, so_far=False)),
        apply_by("symbol", partial(formulas.divide_by_day_volume, so_far=True)),
        mistake="volume is divided by the total of its day",
        correction="it is divided by the total of the day so far",
    ),
)

FITTED = (
    make_canary(
        "standardized_over_file",
        apply_to_file(lambda bars: formulas.standardize(log_volume(bars), over="file")),
        apply_by("symbol", lambda bars: formulas.standardize(log_volume(bars), over="so far")),
        mistake="a scaler's mean and deviation are those of the whole file",
        correction="they are those of an expanding window",
    ),
    make_canary(
        "quantile_rank_in_file",
        apply_to_file(lambda bars: log_volume(bars).rank(pct=True)),
        apply_by("symbol", lambda bars: log_volume(bars).rolling(LONG_WINDOW_BARS).rank(pct=True)),
        mistake="a value is replaced by its quantile in the whole file",
        correction="it is replaced by its quantile in a rolling window",
    ),
    make_canary(
        "pca_of_file",
        apply_to_file(partial(formulas.project_on_component, fitted_bars=None)),
        apply_by("symbol", partial(formulas.project_on_component, fitted_bars=DAY_BARS)),
        mistake="a principal component is fitted on all rows",
        correction="it is fitted on those of the first day, and applied to the later ones",
    ),
    make_canary(
        "volatility_of_file",
        apply_to_file(lambda bars: log_return(bars) / log_return(bars).std()),
        apply_by("segment", formulas.scale_by_past_volatility),
        mistake="returns are scaled by the volatility of the whole file",
        correction="they are scaled by that of a rolling window",
    ),
    make_canary(
        "clipped_at_quantiles_of_file",
        apply_to_file(lambda bars: formulas.clip_in_file(log_volume(bars))),
        apply_by("symbol", lambda bars: formulas.clip_so_far(log_volume(bars))),
        mistake="outliers are clipped at quantiles of the whole file",
        correction="they are clipped at three deviations from the mean so far",
    ),
    make_canary(
        "target_encoded_by_hour",
        apply_to_file(formulas.encode_hour),
        apply_by("symbol", formulas.encode_hour_so_far),
        mistake="the hour of day is replaced by the mean of the target in it, over all rows",
        correction="the mean is over the labels that have ended before",
    ),
    make_canary(
        "vpin_bucket_of_file",
        apply_to_file(formulas.estimate_vpin_of_file),
        apply_by("segment", formulas.vpin),
        mistake="VPIN's buckets are sized by the mean volume of the whole file",
        correction="they are sized by that of the bars before",
    ),
    make_canary(
        "detrended_over_file",
        apply_by("symbol", formulas.subtract_line),
        apply_by("segment", partial(formulas.subtract_mean, window=LONG_WINDOW_BARS, center=False)),
        mistake="the straight line fitted to the whole file is subtracted from the price",
        correction="the mean of a rolling window is subtracted",
    ),
    make_canary(
        "filtered_both_ways",
        apply_by("segment", formulas.filter_both_ways),
        apply_by("segment", formulas.filter_forward),
        mistake="a filter runs forward and backward, so that it has no lag",
        correction="it runs forward only",
    ),
    make_canary(
        "smoothed_by_fourier",
        apply_by("symbol", formulas.subtract_low_frequencies),
        apply_by("segment", formulas.subtract_ema),
        mistake="noise is removed by the Fourier transform of the whole file",
        correction="it is removed by an exponential moving average",
    ),
)

CANARIES = (*SHIFTED, *JOINED, *FITTED)
