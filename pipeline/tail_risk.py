"""The tail of losses: peaks over threshold, value at risk and expected shortfall, and the backtest of a value at risk.

McNeil & Frey 2000; Grimshaw 1993 for the profile likelihood; Kupiec 1995 and Christoffersen 1998 for the backtest.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import chdtrc, xlogy

GRID = 200  # values of θ at which the profile likelihood is evaluated before its maximum is refined
MAX_THETA = 1e3  # in units of one over the mean excess
EXPONENTIAL = 1e-8  # a shape closer to 0 than this is the exponential distribution's
SHAPES = (-0.5, 0.95)  # below, maximum likelihood is irregular (Smith 1985); from 1 on the mean is infinite


class TooFewExceedancesError(ValueError):
    """There are too few exceedances for a tail to be fitted."""


@dataclass(frozen=True)
class GpdTail:
    """A tail: losses above `threshold` exceed it by a generalized Pareto distribution GPD(shape, scale)."""

    threshold: float  # u
    shape: float  # ξ
    scale: float  # β
    exceedances: int  # N_u
    observations: int  # n

    @property
    def tail_fraction(self) -> float:
        """The fraction of the observations above the threshold, N_u/n."""
        return self.exceedances / self.observations

    def value_at_risk(self, level: float) -> float:
        """Return the loss exceeded with probability 1 - level: u + (β/ξ)[((n/N_u)(1-q))^-ξ - 1].

        Raises ValueError for a level below 1 - tail_fraction: the tail does not describe losses under its threshold.
        """
        if not 1 - self.tail_fraction <= level < 1:
            raise ValueError(
                f"level is {level}; this tail of {self.tail_fraction:.2%} of the losses covers levels from "
                f"{1 - self.tail_fraction:.4g} on, below 1"
            )
        ratio = (1 - level) / self.tail_fraction
        if abs(self.shape) < EXPONENTIAL:
            return float(self.threshold - self.scale * np.log(ratio))
        return float(self.threshold + self.scale / self.shape * (ratio**-self.shape - 1))

    def expected_shortfall(self, level: float) -> float:
        """Return the mean of the losses beyond the value at risk: VaR/(1-ξ) + (β - ξu)/(1-ξ)."""
        var = self.value_at_risk(level)
        return (var + self.scale - self.shape * self.threshold) / (1 - self.shape)

    @property
    def standard_errors(self) -> tuple[float, float]:
        """Asymptotic standard errors of shape and scale (Smith 1985), valid for shapes above -½."""
        spread = 1 + self.shape
        return spread / self.exceedances**0.5, self.scale * (2 * spread / self.exceedances) ** 0.5


def fit_tail(losses: np.ndarray, *, tail_fraction: float, min_exceedances: int) -> GpdTail:
    """Return the tail of the largest `tail_fraction` of losses (n,), fitted by maximum likelihood.

    Raises:
        TooFewExceedancesError: fewer than `min_exceedances` losses lie above the threshold.
    """
    if not 0 < tail_fraction < 1:
        raise ValueError(f"tail_fraction is {tail_fraction}; it must be above 0 and below 1, such as 0.1")
    threshold = float(np.quantile(losses, 1 - tail_fraction)) if len(losses) else float("nan")
    excess = losses[losses > threshold] - threshold
    if len(excess) < min_exceedances:
        raise TooFewExceedancesError(
            f"{len(excess)} of {len(losses)} losses exceed {threshold:.6g}; a tail needs {min_exceedances} exceedances"
        )
    shape, scale = fit_gpd(excess)
    return GpdTail(threshold, shape, scale, exceedances=len(excess), observations=len(losses))


def fit_gpd(excess: np.ndarray) -> tuple[float, float]:
    """Return shape ξ and scale β of the GPD fitted to positive excesses (n,), the shape within `SHAPES`.

    With θ = ξ/β the likelihood is maximal at ξ = mean(ln(1 + θy)): only θ is searched (Grimshaw 1993).
    """
    mean = float(excess.mean())
    lowest = -mean / float(excess.max())
    below = lowest * (1 - np.geomspace(1e-9, 0.99, GRID))  # from the pole towards 0, around which all is flat
    above = np.geomspace(-0.01 * lowest, MAX_THETA, GRID)
    thetas = np.concatenate([below, above])
    values = np.array([_evaluate_profile_likelihood(theta, excess / mean) for theta in thetas])
    best = int(np.argmin(values))
    around = thetas[[max(best - 1, 0), min(best + 1, len(thetas) - 1)]]
    worst = float(values[np.isfinite(values)].max())  # where a shape is not allowed: the search takes no infinities
    found = minimize_scalar(
        lambda theta: min(_evaluate_profile_likelihood(theta, excess / mean), worst),
        bounds=tuple(around),
        method="bounded",
        options={"xatol": 1e-12},
    )
    theta = float(found.x) if found.fun < values[best] else float(thetas[best])
    shape = float(np.log1p(theta * excess / mean).mean())
    return (shape, mean * shape / theta) if abs(shape) > EXPONENTIAL else (0.0, mean)


def _evaluate_profile_likelihood(theta: float, excess: np.ndarray) -> float:
    """Return the mean negative log likelihood at θ with its best shape; infinite where that shape is not allowed."""
    shape = float(np.log1p(theta * excess).mean())
    if not SHAPES[0] <= shape <= SHAPES[1]:
        return float("inf")
    scale = shape / theta if abs(theta) > EXPONENTIAL else float(excess.mean())
    return float(np.log(scale) + shape + 1)


@dataclass(frozen=True)
class VarBacktest:
    """The exceedances of a forecast value at risk, and two tests of the forecast."""

    observations: int
    violations: int
    violation_rate: float
    kupiec_p: float  # H0: violations have the rate 1 - level
    independence_p: float  # H0: violations do not cluster; NaN where no violation is followed by an observation
    joint_p: float  # H0: both (conditional coverage); Kupiec's alone where independence_p is NaN


def backtest_var(is_violation: np.ndarray, *, level: float) -> VarBacktest:
    """Return the backtest of a value at risk from violations (n,), bool and in time order.

    Kupiec 1995 (coverage) and Christoffersen 1998 (independence).
    """
    hits = is_violation.astype(np.int64)
    n, count = len(hits), int(hits.sum())
    expected, rate = 1 - level, count / n if n else float("nan")
    coverage = (
        2 * (_sum_log_likelihood(count, n, rate) - _sum_log_likelihood(count, n, expected)) if n else float("nan")
    )
    independence = _test_independence(hits)
    return VarBacktest(
        observations=n,
        violations=count,
        violation_rate=rate,
        kupiec_p=_find_p_value(coverage, 1),
        independence_p=_find_p_value(independence, 1),
        joint_p=_find_p_value(coverage, 1) if np.isnan(independence) else _find_p_value(coverage + independence, 2),
    )


def _find_p_value(statistic: float, degrees: int) -> float:
    """Return the probability that a χ² variable of so many degrees of freedom is larger than the statistic."""
    return float(chdtrc(degrees, np.maximum(statistic, 0.0)))


def _sum_log_likelihood(count: int, n: int, probability: float) -> float:
    """Return the Bernoulli log likelihood of `count` hits among `n`."""
    return float(xlogy(count, probability) + xlogy(n - count, 1 - probability))


def _test_independence(hits: np.ndarray) -> float:
    """Return the likelihood ratio statistic of a first-order Markov chain against independence.

    It is NaN where no violation is followed by an observation.
    """
    transitions = np.bincount(2 * hits[:-1] + hits[1:], minlength=4).reshape(2, 2)  # from, to
    totals = transitions.sum(axis=1)
    if not totals.all():
        return float("nan")
    pooled = transitions[:, 1].sum() / transitions.sum()
    separate = sum(_sum_log_likelihood(transitions[i, 1], totals[i], transitions[i, 1] / totals[i]) for i in (0, 1))
    return 2 * (separate - _sum_log_likelihood(int(transitions[:, 1].sum()), int(transitions.sum()), pooled))
