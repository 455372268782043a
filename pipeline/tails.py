"""The far tail of losses: peaks over a threshold, value at risk and expected shortfall, and whether they came true.

McNeil & Frey 2000; Grimshaw 1993 for the likelihood as a function of one number; Kupiec 1995; Christoffersen 1998.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import xlogy
from scipy.stats import chi2

GRID = 200  # places where the profile likelihood is looked at before its maximum is refined
STEEPEST = 1e3  # of the profiled number, in units of one over the mean excess
EXPONENTIAL = 1e-8  # a shape closer to 0 than this is the exponential distribution's
SHAPES = (-0.5, 0.95)  # below, maximum likelihood has no usual law (Smith 1985); from 1 on there is no mean


class TooFewError(ValueError):
    """There are too few exceedances for a tail to be fitted."""


@dataclass(frozen=True)
class Tail:
    """Losses beyond `threshold` exceed it by what a generalised Pareto distribution GPD(shape, scale) says."""

    threshold: float
    shape: float  # ξ
    scale: float  # β
    exceedances: int
    observations: int

    @property
    def share(self) -> float:
        """Of the observations, those beyond the threshold."""
        return self.exceedances / self.observations

    def value_at_risk(self, level: float) -> float:
        """The loss that is not passed with probability `level`: u + (β/ξ)[((n/N_u)(1-q))^-ξ - 1]."""
        if not 1 - self.share <= level < 1:
            raise ValueError(
                f"level is {level}; this tail of {self.share:.2%} of the losses knows levels from {1 - self.share:.4g} "
                "on, below 1"
            )
        ratio = (1 - level) / self.share
        if abs(self.shape) < EXPONENTIAL:
            return float(self.threshold - self.scale * np.log(ratio))
        return float(self.threshold + self.scale / self.shape * (ratio**-self.shape - 1))

    def expected_shortfall(self, level: float) -> float:
        """The mean of the losses beyond the value at risk: VaR/(1-ξ) + (β - ξu)/(1-ξ)."""
        var = self.value_at_risk(level)
        return (var + self.scale - self.shape * self.threshold) / (1 - self.shape)

    def errors(self) -> tuple[float, float]:
        """Asymptotic standard errors of shape and scale (Smith 1985); they hold for shapes above -½."""
        spread = 1 + self.shape
        return spread / self.exceedances**0.5, self.scale * (2 * spread / self.exceedances) ** 0.5


def fit(losses: np.ndarray, *, share: float, fewest: int) -> Tail:
    """The tail of the largest `share` of (n,) losses, by maximum likelihood.

    Raises:
        TooFewError: fewer than `fewest` losses lie beyond the threshold.
    """
    if not 0 < share < 1:
        raise ValueError(f"share is {share}; a part of the losses is wanted, above 0 and below 1, as 0.1")
    threshold = float(np.quantile(losses, 1 - share)) if len(losses) else float("nan")
    excess = losses[losses > threshold] - threshold
    if len(excess) < fewest:
        raise TooFewError(
            f"{len(excess)} of {len(losses)} losses exceed {threshold:.6g}; a tail wants {fewest} of them"
        )
    shape, scale = pareto(excess)
    return Tail(threshold, shape, scale, exceedances=len(excess), observations=len(losses))


def pareto(excess: np.ndarray) -> tuple[float, float]:
    """Shape and scale of the GPD that makes (n,) positive excesses most likely, the shape within `SHAPES`.

    With θ = ξ/β the best shape is mean(ln(1 + θy)), so that one number is left to be searched (Grimshaw 1993).
    """
    mean = float(excess.mean())
    lowest = -mean / float(excess.max())
    below = lowest * (1 - np.geomspace(1e-9, 0.99, GRID))  # from the pole towards 0, around which all is flat
    above = np.geomspace(-0.01 * lowest, STEEPEST, GRID)
    places = np.concatenate([below, above])
    values = np.array([_cost(place, excess / mean) for place in places])
    best = int(np.argmin(values))
    around = places[[max(best - 1, 0), min(best + 1, len(places) - 1)]]
    found = minimize_scalar(
        _cost, bounds=tuple(around), args=(excess / mean,), method="bounded", options={"xatol": 1e-12}
    )
    theta = float(found.x) if found.fun < values[best] else float(places[best])
    shape = float(np.log1p(theta * excess / mean).mean())
    return (shape, mean * shape / theta) if abs(shape) > EXPONENTIAL else (0.0, mean)


def _cost(theta: float, excess: np.ndarray) -> float:
    """The negative log likelihood of a mean excess, profiled; infinite where the shape is not allowed."""
    shape = float(np.log1p(theta * excess).mean())
    if not SHAPES[0] <= shape <= SHAPES[1]:
        return float("inf")
    scale = shape / theta if abs(theta) > EXPONENTIAL else float(excess.mean())
    return float(np.log(scale) + shape + 1)


@dataclass(frozen=True)
class Backtest:
    """How often a forecast of the value at risk was passed, and two tests of it."""

    observations: int
    violations: int
    rate: float
    kupiec_p: float  # of as many violations as the level says
    independence_p: float  # of violations that do not follow one another
    joint_p: float  # of both; of the first where no second one can be made


def violations(is_beyond: np.ndarray, *, level: float) -> Backtest:
    """What (n,) violations, in the order of time, say of a value at risk (Kupiec 1995; Christoffersen 1998)."""
    hits = is_beyond.astype(np.int64)
    n, count = len(hits), int(hits.sum())
    expected, rate = 1 - level, count / n if n else float("nan")
    coverage = 2 * (_bernoulli(count, n, rate) - _bernoulli(count, n, expected)) if n else float("nan")
    independence = _independence(hits)
    return Backtest(
        observations=n,
        violations=count,
        rate=rate,
        kupiec_p=float(chi2.sf(coverage, 1)),
        independence_p=float(chi2.sf(independence, 1)),
        joint_p=float(chi2.sf(coverage, 1) if np.isnan(independence) else chi2.sf(coverage + independence, 2)),
    )


def _bernoulli(count: int, n: int, probability: float) -> float:
    """The log likelihood of `count` of `n`."""
    return float(xlogy(count, probability) + xlogy(n - count, 1 - probability))


def _independence(hits: np.ndarray) -> float:
    """Twice the log likelihood ratio of a first-order Markov chain to independence; nan where no hit has a next bar."""
    moves = np.bincount(2 * hits[:-1] + hits[1:], minlength=4).reshape(2, 2)  # from, to
    froms = moves.sum(axis=1)
    if not froms.all():
        return float("nan")
    together = moves[:, 1].sum() / moves.sum()
    apart = sum(_bernoulli(moves[i, 1], froms[i], moves[i, 1] / froms[i]) for i in (0, 1))
    return 2 * (apart - _bernoulli(int(moves[:, 1].sum()), int(moves.sum()), together))
