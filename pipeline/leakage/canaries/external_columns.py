"""Canaries of features without code at hand: delivered from outside, or edited in the stored table."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd

from pipeline.leakage.canaries.canary import Canary
from pipeline.leakage.canaries.canary_market import HORIZON_BARS, CanaryMarket
from pipeline.leakage.canaries.columns import ColumnMaker, apply_by, define_computed, define_edited, define_external
from pipeline.leakage.canaries.formulas import WINDOW_BARS, log_return

NOISE = 0.1  # standard deviation, relative

Disguise = Callable[[pd.Series, np.random.Generator], pd.Series]


def lag(values: pd.Series, market: CanaryMarket, *, lag_bars: int) -> pd.Series:
    """Return the (N,) values of `lag_bars` bars ago, within each segment."""
    return values.groupby(market.bars["segment"]).shift(lag_bars)


def add_noise(values: pd.Series, rng: np.random.Generator, *, deviation: float) -> pd.Series:
    """Return the values, each times 1 plus noise."""
    return values * (1 + deviation * rng.normal(size=len(values)))


def spread_target(market: CanaryMarket) -> pd.Series:
    """Return the (N,) labels by bar, undefined at bars that have none."""
    return pd.Series(market.samples.y.astype(np.float64), index=market.rows).reindex(range(len(market.bars)))


def define_disguised_target(disguise: Disguise, *, lag_bars: int) -> ColumnMaker:
    """Return the maker of an external column that is a function of the target, lagged."""
    return define_external(lambda market, rng: lag(disguise(spread_target(market), rng), market, lag_bars=lag_bars))


def define_external_return(*, lag_bars: int) -> ColumnMaker:
    """Return the maker of an external column that is the return of one bar, lagged."""
    return define_external(lambda market, _: lag(log_return(market.bars), market, lag_bars=lag_bars))


def define_external_volatility(*, lag_bars: int) -> ColumnMaker:
    """Return the maker of an external column that is the volatility of HORIZON_BARS returns, lagged."""

    def make_values(market: CanaryMarket, _: np.random.Generator) -> pd.Series:
        by_segment = log_return(market.bars).groupby(market.bars["segment"])
        volatility = by_segment.transform(lambda part: part.rolling(HORIZON_BARS).std())
        return lag(volatility, market, lag_bars=lag_bars)

    return define_external(make_values)


def make_target_canary(name: str, disguise: Disguise, *, form: str) -> Canary[ColumnMaker]:
    """Return a canary whose leak is a function of the target, which `target_leakage` has to recognize."""
    return Canary(
        name,
        "target_leakage",
        define_disguised_target(disguise, lag_bars=0),
        define_disguised_target(disguise, lag_bars=HORIZON_BARS + 1),
        f"an external column is the target itself, {form}",
        "the target is that of h + 1 bars ago, which has ended",
    )


define_noisy_target = partial(define_disguised_target, partial(add_noise, deviation=NOISE))

WRONG_TIME = (
    Canary(
        "target_lagged_wrongly",
        "look_ahead",
        define_noisy_target(lag_bars=1),
        define_noisy_target(lag_bars=HORIZON_BARS),
        "the label times noise is a feature, lagged by one bar although it ends after h bars",
        "it is lagged by h",
    ),
    Canary(
        "delivery_stamped_at_open",
        "look_ahead",
        define_external_return(lag_bars=-1),
        define_external_return(lag_bars=0),
        "a vendor stamps a bar's return with the bar's open, which is taken for the time at which it is known",
        "it is stamped with the close",
    ),
    Canary(
        "volatility_stamped_at_window_start",
        "look_ahead",
        define_external_volatility(lag_bars=-HORIZON_BARS),
        define_external_volatility(lag_bars=0),
        "a vendor stamps a volatility with the start of its window",
        "it is stamped with the end",
    ),
)

DISGUISED = (
    make_target_canary("target_times_noise", lambda y, rng: add_noise(y, rng, deviation=NOISE), form="times noise"),
    make_target_canary("target_ranked", lambda y, _: y.rank(), form="ranked"),
    make_target_canary("target_squared", lambda y, _: y**2, form="squared"),
    make_target_canary("target_sign", lambda y, _: pd.Series(np.sign(y)), form="as a sign"),
)

EDITED = (
    Canary(
        "shifted_after_computing",
        "truncation",
        define_edited(apply_by("segment", log_return), lambda column: column.shift(-1)),
        define_computed(apply_by("segment", log_return)),
        "a column of the stored table is shifted by -1; its code is correct",
        "it is stored as computed",
    ),
    Canary(
        "smoothed_after_computing",
        "truncation",
        define_edited(apply_by("segment", log_return), lambda column: column.rolling(WINDOW_BARS, center=True).mean()),
        define_computed(apply_by("segment", log_return)),
        "a column of the stored table is smoothed by a centered mean; its code is correct",
        "it is stored as computed",
    ),
)

CANARIES = (*WRONG_TIME, *DISGUISED, *EDITED)
