"""The Sharpe ratio of one series of returns with its evidence, and the probabilities that follow from both."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from pipeline.evaluation import overfitting

MIN_OBSERVATIONS = 30  # independent traded ones; with fewer, PSR, DSR and MinTRL are undefined
NORMAL_KURTOSIS = 3.0


class Moments(TypedDict):
    """The moments of returns, as the functions of `overfitting` take them."""

    sharpe: float
    n: float
    skew: float
    kurtosis: float


@dataclass(frozen=True)
class SharpeSample:
    """The Sharpe ratio of a series of returns per bar, and how much evidence there is for it."""

    sharpe: float  # per bar; it and the next three are as `overfitting.estimate_moments` returns them
    n: float
    skew: float
    kurtosis: float
    bars: int
    observations: float  # independent traded ones

    @property
    def moments(self) -> Moments:
        """The arguments of `overfitting.probabilistic_sharpe`."""
        return Moments(sharpe=self.sharpe, n=self.n, skew=self.skew, kurtosis=self.kurtosis)

    @property
    def error(self) -> float:
        """The standard error of a Sharpe ratio of 0 in a sample of this length; NaN for one bar."""
        return float(1 / np.sqrt(self.n - 1)) if self.n > 1 else np.nan

    @property
    def is_sufficient(self) -> bool:
        """Whether there are observations enough for a probability."""
        return self.observations >= MIN_OBSERVATIONS


def measure_sharpe(returns: np.ndarray) -> SharpeSample:
    """Return the Sharpe ratio of (T,) returns and its evidence; all but `bars` are NaN where it is undefined.

    Bars without a gain or a loss are no observations, and many small ones beside a few large are few: 3T / kurtosis is
    the number of Normal ones with the same fourth moment. Dependence divides the number as it divides `n`.
    """
    moments = overfitting.estimate_moments(returns)
    if np.isnan(moments["sharpe"]):
        return SharpeSample(**moments, bars=len(returns), observations=np.nan)
    traded = min(float(np.count_nonzero(returns)), NORMAL_KURTOSIS * len(returns) / moments["kurtosis"])
    share = moments["n"] / max(len(returns), 1)
    return SharpeSample(**moments, bars=len(returns), observations=traded * share)


def assess_sharpe(
    sample: SharpeSample,
    *,
    trial_sharpes: np.ndarray,
    trial_errors: np.ndarray,
    trials: Mapping[str, float],
    confidence: float,
) -> dict[str, float]:
    """Return PSR, a deflated Sharpe ratio for each of `trials`, what it is made of, and MinTRL.

    Args:
        sample: from `measure_sharpe`.
        trial_sharpes, trial_errors: see `overfitting.deflate`.
        trials: the number of trials by the name of the deflated Sharpe ratio to return; the first is N.
        confidence: of the minimum track record, which is against a Sharpe ratio of 0.

    `trial_variance` is V and `expected_max_sharpe` SR0 of the first of `trials`; `luck_dsr` is that with V = 1/(n - 1),
    as if no trial had skill. `excess_over_expected_max` is the Sharpe ratio less SR0. Everything is NaN where the
    Sharpe ratio is, or with fewer than `MIN_OBSERVATIONS`.
    """
    names = (
        "psr",
        *trials,
        "luck_dsr",
        "expected_max_sharpe",
        "trial_variance",
        "excess_over_expected_max",
        "min_track_record_bars",
    )
    if not sample.is_sufficient:
        return dict.fromkeys(names, np.nan)
    deflated = {
        name: overfitting.deflate(
            **sample.moments, trial_sharpes=trial_sharpes, trial_errors=trial_errors, trials=count
        )
        for name, count in trials.items()
    }
    first = next(iter(deflated.values()))
    shape = {"skew": sample.skew, "kurtosis": sample.kurtosis}
    needed = overfitting.min_track_record(sample.sharpe, benchmark=0.0, confidence=confidence, **shape)
    luck = overfitting.deflated_sharpe(**sample.moments, variance=sample.error**2, trials=first.trials)
    metrics = (luck, first.sr0, first.variance, sample.sharpe - first.sr0, needed * sample.bars / sample.n)
    deflated_sharpes = {name: found.dsr for name, found in deflated.items()}
    psr = overfitting.probabilistic_sharpe(**sample.moments)
    return {"psr": psr, **deflated_sharpes, **dict(zip(names[-5:], metrics, strict=True))}
