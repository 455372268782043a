"""Canaries of features that are data: what made them is not at hand, or what was made of it has been changed since."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd

from pipeline.canaries.canary import Canary
from pipeline.canaries.columns import Planting, by, computed, delivered, edited, log_return
from pipeline.canaries.formulas import WINDOW_BARS
from pipeline.canaries.ground import HORIZON_BARS, Ground

NOISE = 0.1  # standard deviation, relative

Disguise = Callable[[pd.Series, np.random.Generator], pd.Series]


def late(values: pd.Series, ground: Ground, *, bars_late: int) -> pd.Series:
    """(N,) the values of so many bars ago, within each segment."""
    return values.groupby(ground.bars["segment"]).shift(bars_late)


def noisy(values: pd.Series, rng: np.random.Generator, *, deviation: float) -> pd.Series:
    """The values, each times 1 and some noise."""
    return values * (1 + deviation * rng.normal(size=len(values)))


def target(ground: Ground) -> pd.Series:
    """(N,) the labels; undefined at bars without."""
    return pd.Series(ground.samples.y.astype(np.float64), index=ground.rows).reindex(range(len(ground.bars)))


def disguised(disguise: Disguise, *, bars_late: int) -> Planting:
    """A delivered function of the target, so many bars late."""
    return delivered(lambda ground, rng: late(disguise(target(ground), rng), ground, bars_late=bars_late))


def stamped(*, bars_late: int) -> Planting:
    """A delivered return of one bar, so many bars late."""
    return delivered(lambda ground, _: late(log_return(ground.bars), ground, bars_late=bars_late))


def volatility(*, bars_late: int) -> Planting:
    """A delivered deviation of the returns of a window, so many bars late."""

    def values(ground: Ground, _: np.random.Generator) -> pd.Series:
        by_segment = log_return(ground.bars).groupby(ground.bars["segment"])
        return late(by_segment.transform(lambda part: part.rolling(HORIZON_BARS).std()), ground, bars_late=bars_late)

    return delivered(values)


def of_target(name: str, disguise: Disguise, *, what: str) -> Canary[Planting]:
    """A canary that is a function of the target, which `feature_target` has to see through."""
    return Canary(
        name,
        "feature_target",
        disguised(disguise, bars_late=0),
        disguised(disguise, bars_late=HORIZON_BARS + 1),
        f"a delivered column is the target itself, {what}",
        "it is that of the target of h + 1 bars ago, which had ended",
    )


forecast = partial(disguised, partial(noisy, deviation=NOISE))

FORESEEN = (
    Canary(
        "target_lagged_wrongly",
        "look_ahead",
        forecast(bars_late=1),
        forecast(bars_late=HORIZON_BARS),
        "the last label, times noise, is a feature, lagged by one bar where its h bars are not over",
        "it is lagged by h",
    ),
    Canary(
        "delivery_stamped_at_open",
        "look_ahead",
        stamped(bars_late=-1),
        stamped(bars_late=0),
        "a vendor stamps a bar's return with the bar's open, which is taken for the time it is known",
        "it is stamped with the close",
    ),
    Canary(
        "volatility_stamped_at_window_start",
        "look_ahead",
        volatility(bars_late=-HORIZON_BARS),
        volatility(bars_late=0),
        "a vendor stamps a volatility with the start of its window",
        "with the end",
    ),
)

DISGUISED = (
    of_target("target_times_noise", lambda y, rng: noisy(y, rng, deviation=NOISE), what="times noise"),
    of_target("target_ranked", lambda y, _: y.rank(), what="ranked"),
    of_target("target_squared", lambda y, _: y**2, what="squared"),
    of_target("target_sign", lambda y, _: pd.Series(np.sign(y)), what="as a sign"),
)

EDITED = (
    Canary(
        "shifted_after_computing",
        "truncation",
        edited(by("segment", log_return), lambda column: column.shift(-1)),
        computed(by("segment", log_return)),
        "a column of the written table is shifted by -1, the code that made it is honest",
        "it stands as it was computed",
    ),
    Canary(
        "smoothed_after_computing",
        "truncation",
        edited(by("segment", log_return), lambda column: column.rolling(WINDOW_BARS, center=True).mean()),
        computed(by("segment", log_return)),
        "a column of the written table is smoothed by a centred mean, the code that made it is honest",
        "it stands as it was computed",
    ),
)

CANARIES = (*FORESEEN, *DISGUISED, *EDITED)
