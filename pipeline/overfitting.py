"""How likely a Sharpe ratio is luck: PSR, DSR, MinTRL, MinBTL, the effective number of trials, PBO.

Sharpe ratios are per observation, not annualised, except where the name says years. Kurtosis is not excess: Normal = 3.
[1] Bailey & López de Prado 2012, "The Sharpe Ratio Efficient Frontier". [2] the same 2014, "The Deflated Sharpe Ratio".
[3] Bailey, Borwein, López de Prado & Zhu 2014, "Pseudo-Mathematics and Financial Charlatanism". [4] the same 2017, "The
Probability of Backtest Overfitting". [5] López de Prado & Lewis 2019, "Detection of False Investment Strategies Using
Unsupervised Learning Methods". [6] Kaufman & Rousseeuw 1990, "Finding Groups in Data".
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import stats
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform
from sklearn.metrics import silhouette_samples
from threadpoolctl import threadpool_limits

from pipeline.metrics import finite, sharpe

TIE = 1e-12  # figures nearer than this, relative to their size, differ by rounding alone
STRUCTURE = 0.25  # mean silhouette up to which a clustering has found no substantial structure ([6])


def sharpe_moments(returns: np.ndarray) -> dict[str, float]:
    """`sharpe`, `n`, `skew` and `kurtosis` of (T,) returns, as the functions below take them.

    All but `n` are nan where the Sharpe ratio is undefined (fewer than 2 bars, or returns that never vary).
    """
    ratio = float(sharpe(returns))
    if np.isnan(ratio):
        return {"sharpe": ratio, "n": len(returns), "skew": np.nan, "kurtosis": np.nan}
    skew, kurtosis = stats.skew(returns), stats.kurtosis(returns, fisher=False)
    return {"sharpe": ratio, "n": len(returns), "skew": float(skew), "kurtosis": float(kurtosis)}


def probabilistic_sharpe(sharpe: float, *, n: float, skew: float, kurtosis: float, benchmark: float = 0.0) -> float:
    """Probability that the true Sharpe ratio is above `benchmark`, given `n` observations ([1] eq. 9).

    nan where the standard error is 0. Raises ValueError for n < 2 or a kurtosis that no distribution has.
    """
    _check_finite({"sharpe": sharpe, "n": n, "benchmark": benchmark})
    if n < 2:
        raise ValueError(f"n: {n} observations; a Sharpe ratio's error needs at least 2")
    variance = _sharpe_variance(sharpe, skew=skew, kurtosis=kurtosis) / (n - 1)
    return float(stats.norm.cdf((sharpe - benchmark) / np.sqrt(variance))) if variance > 0 else np.nan


def expected_max_sharpe(*, variance: float, trials: float) -> float:
    """Sharpe ratio that the best of `trials` without skill is expected to show ([2] eq. 1).

    `variance` is that of the Sharpe ratio across trials. 0 for one trial; an effective number need not be whole.
    """
    _check_finite({"variance": variance, "trials": trials})
    if trials < 1 or variance < 0:
        raise ValueError(f"trials: {trials}, variance: {variance}; at least 1 trial and a variance of at least 0")
    if trials == 1:
        return 0.0
    quantile, scaled = stats.norm.isf([1 / trials, 1 / (trials * np.e)])
    standard = (1 - np.euler_gamma) * quantile + np.euler_gamma * scaled
    return float(np.sqrt(variance) * max(standard, 0.0))  # between 1 and 2 trials the approximation falls below 0


def deflated_sharpe(sharpe: float, *, n: float, skew: float, kurtosis: float, variance: float, trials: float) -> float:
    """Probability that the true Sharpe ratio is above what the best of `trials` shows by luck ([2] eq. 2)."""
    benchmark = expected_max_sharpe(variance=variance, trials=trials)
    return probabilistic_sharpe(sharpe, n=n, skew=skew, kurtosis=kurtosis, benchmark=benchmark)


def min_track_record(sharpe: float, *, skew: float, kurtosis: float, benchmark: float, confidence: float) -> float:
    """Observations needed before the true Sharpe ratio is above `benchmark` with `confidence` ([1] eq. 11).

    nan where the Sharpe ratio is not above the benchmark: no number is enough.
    """
    _check_finite({"sharpe": sharpe, "benchmark": benchmark, "confidence": confidence})
    if not 0.5 <= confidence < 1:
        raise ValueError(f"confidence: {confidence}; it must be at least 0.5 and below 1, for example 0.95")
    variance = _sharpe_variance(sharpe, skew=skew, kurtosis=kurtosis)
    if sharpe <= benchmark:
        return np.nan
    return float(1 + variance * (stats.norm.ppf(confidence) / (sharpe - benchmark)) ** 2)


def min_backtest_years(sharpe: float, *, trials: float) -> float:
    """Years below which the best of `trials` without skill is expected to show the annual `sharpe` ([3] theorem 2).

    nan where the Sharpe ratio is not positive.
    """
    _check_finite({"sharpe": sharpe})
    expected = expected_max_sharpe(variance=1.0, trials=trials)
    return (expected / sharpe) ** 2 if sharpe > 0 else np.nan


def standing(
    moments: dict[str, float], *, variance: float, trials: Mapping[str, float], confidence: float
) -> dict[str, float]:
    """What the Sharpe ratio of these `moments` is worth: `psr`, a figure for each of `trials`, and what follows.

    `trials` names deflated Sharpe ratios and says by how many trials, whose Sharpe ratios have the `variance`; the
    `haircut` is the Sharpe ratio less what the best of the most trials shows by luck; `min_track_record_bars` is
    against 0. nan where the ratio is, and where a variance that is needed is.
    """
    ratio, n, skew, kurtosis = (moments[name] for name in ("sharpe", "n", "skew", "kurtosis"))
    luck = {
        name: expected_max_sharpe(variance=0.0 if count == 1 else variance, trials=count)
        for name, count in trials.items()
        if count == 1 or not np.isnan(variance)
    }
    figures = dict.fromkeys(("psr", *trials, "haircut", "min_track_record_bars"), np.nan)
    if np.isnan(ratio):
        return figures
    shape = {"n": n, "skew": skew, "kurtosis": kurtosis}
    for name, above in {"psr": 0.0, **luck}.items():
        figures[name] = probabilistic_sharpe(ratio, **shape, benchmark=above)
    if trials and len(luck) == len(trials):
        figures["haircut"] = ratio - max(luck.values())
    figures["min_track_record_bars"] = min_track_record(
        ratio, skew=skew, kurtosis=kurtosis, benchmark=0.0, confidence=confidence
    )
    return figures


def _sharpe_variance(sharpe: float, *, skew: float, kurtosis: float) -> float:
    """Variance of the estimated Sharpe ratio times n - 1 ([1] eq. 8); 0 at the least, where kurtosis = 1 + skew²."""
    _check_finite({"skew": skew, "kurtosis": kurtosis})
    if kurtosis < (1 + skew**2) * (1 - 1e-9):
        raise ValueError(
            f"kurtosis: {kurtosis} with skew {skew}; no distribution has less than 1 + skew² = {1 + skew**2:.6g}. "
            "Give the kurtosis that is 3 for a Normal, not the excess"
        )
    return 1 - skew * sharpe + (kurtosis - 1) / 4 * sharpe**2


def _check_finite(numbers: dict[str, float]) -> None:
    for name, number in numbers.items():
        if not np.isfinite(number):
            raise ValueError(f"{name}: {number}; only a finite number is allowed")


def correlation(returns: np.ndarray) -> np.ndarray:
    """(trials, trials) Pearson correlations of (T, trials) returns; nan for a trial whose returns never vary."""
    returns = finite("returns", returns)
    moving = np.ptp(returns, axis=0) > 0
    deviations = returns[:, moving]
    deviations -= deviations.mean(axis=0)
    with threadpool_limits(limits=1):  # more threads add up in another order
        products = deviations.T @ deviations
    scale = np.sqrt(np.diag(products))
    known = np.full((returns.shape[1], returns.shape[1]), np.nan)
    known[np.ix_(moving, moving)] = np.clip(products / np.outer(scale, scale), -1.0, 1.0)
    return known


def effective_trials(correlation: np.ndarray) -> float:
    """How many independent trials (trials, trials) correlations amount to: from 1 to the number of trials.

    A family of n trials counts as 1 + (n - 1)(1 - ρ), ρ its mean pairwise correlation where positive ([2], appendix):
    n where its trials have nothing in common, 1 where they are the same. What families have in common is not counted. A
    trial that never varies (nan) goes with no other and counts as one: it was tried.
    """
    varies = np.flatnonzero(~np.isnan(np.diag(_checked(correlation))))
    known = correlation[np.ix_(varies, varies)]
    family = families(known)
    counts = [_independent(known[np.ix_(family == one, family == one)]) for one in np.unique(family)]
    return float(len(correlation) - len(varies) + sum(counts))


def families(correlation: np.ndarray) -> np.ndarray:
    """(trials,) the family of each trial, by average linkage over the distance √((1 - ρ)/2) ([5], adapted).

    Of all cuts of the tree whose mean silhouette is above `STRUCTURE`, the one with the highest quality stands, mean
    over standard deviation of the silhouettes; where there is none, all trials are one family. Where [5] seeds k-means
    at random and clusters families again, the tree has one answer.
    """
    trials = len(correlation)
    distance = np.sqrt(np.where(correlation > 1 - TIE, 0.0, (1 - correlation) / 2))
    np.fill_diagonal(distance, 0.0)
    best, highest = np.zeros(trials, dtype=np.int64), 0.0
    if trials < 3:
        return best  # a silhouette needs two families, one of them with two members
    tree = hierarchy.linkage(squareform(distance, checks=False), method="average")
    for family in hierarchy.cut_tree(tree, n_clusters=range(2, trials)).T:
        fit = silhouette_samples(distance, family, metric="precomputed")
        quality = fit.mean() / max(fit.std(), TIE)  # equal silhouettes differ by rounding alone
        if fit.mean() > STRUCTURE and quality > highest:
            best, highest = family, quality
    return best


def _independent(correlation: np.ndarray) -> float:
    """How many independent trials one family of them amounts to."""
    others = len(correlation) - 1
    if not others:
        return 1.0
    mean = (correlation.sum() - np.trace(correlation)) / (len(correlation) * others)
    return float(1 + others * (1 - np.clip(mean, 0.0, 1.0)))


def _checked(correlation: np.ndarray) -> np.ndarray:
    shape = correlation.shape
    if len(shape) != 2 or shape[0] != shape[1] or not shape[0]:
        raise ValueError(f"correlation: shape {shape}; give (trials, trials) of at least one trial")
    if (np.abs(correlation) > 1).any() or not np.array_equal(correlation, correlation.T, equal_nan=True):
        raise ValueError("correlation: it must be symmetric and lie between -1 and 1; give Pearson correlations")
    return correlation


@dataclass(frozen=True)
class Overfitting:
    """What happened to the strategy that was best in sample, for each choice of half of the blocks, in order."""

    chosen: np.ndarray  # (choices,) int64: the column that was best in sample
    in_sample: np.ndarray  # (choices,) its figure there
    out_of_sample: np.ndarray  # (choices,) its figure on the other blocks; nan where undefined
    logits: np.ndarray  # (choices,) of its relative rank out of sample; nan where no strategy has a figure in sample
    pbo: float  # share of logits <= 0: the best in sample is no better than the median out of sample
    slope: float  # of out_of_sample on in_sample by least squares; nan where in_sample never varies
    loss_probability: float  # share of choices with a negative figure out of sample


def pbo(
    returns: np.ndarray, *, blocks: int, metric: Callable[[np.ndarray], np.ndarray | float] = sharpe
) -> Overfitting:
    """Probability of backtest overfitting of (T, strategies) returns, by symmetric cross-validation ([4] 2.2).

    The rows are cut into `blocks` equal runs; the last T mod `blocks` rows are dropped. Each half of the blocks, rows
    in time order, chooses the strategy that `metric` ((rows, strategies) -> (strategies,), more is better) puts first,
    the leftmost among equals; its rank on the other half, average among equals, gives the logit. A strategy whose
    figure is nan stands behind all others. The Sharpe ratio comes from block sums, other metrics from the rows. Figures
    that rounding alone may tell apart are equal.
    Raises ValueError for nan, one strategy, an odd number of blocks, or more blocks than rows.
    """
    returns = finite("returns", returns)
    if returns.ndim != 2 or returns.shape[1] < 2:
        raise ValueError(f"returns: shape {returns.shape}; ranks need (T, strategies) with at least 2 strategies")
    if blocks < 2 or blocks % 2 or blocks > len(returns):
        raise ValueError(f"blocks: {blocks}; it must be even, at least 2 and at most the {len(returns)} rows")
    cut = returns[: len(returns) // blocks * blocks].reshape(blocks, -1, returns.shape[1])  # (blocks, rows, strategies)
    choices = np.array(list(combinations(range(blocks), blocks // 2)))  # (choices, blocks/2), lexicographic
    if metric is sharpe:
        return _validated(_sharpes(cut, choices), unit=1.0)  # of standardised returns, however small their mean
    figures = _figures(cut, choices, metric=metric)
    return _validated(figures, unit=np.nanmax(np.abs(figures), initial=0.0))


def _validated(figures: np.ndarray, *, unit: float) -> Overfitting:
    """CSCV of (choices, strategies) figures; in lexicographic order, choice i complements the i-th from the end.

    Rounding is `TIE` times the figure, or times `unit` where that is larger.
    """
    every, strategies = np.arange(len(figures)), figures.shape[1]
    inside = np.where(np.isnan(figures), -np.inf, figures)
    best = inside.max(axis=1, keepdims=True)
    chosen = (inside >= best - _rounding(best, unit=unit)).argmax(axis=1)  # (choices,)
    outside = inside[::-1]
    own = outside[every, chosen][:, None]
    tie = _rounding(own, unit=unit)
    behind, ahead = (outside < own - tie).sum(axis=1), (outside > own + tie).sum(axis=1)
    rank = (behind + strategies - ahead + 1) / 2  # the average over those that are equal
    logits = np.where(best[:, 0] > -np.inf, np.log(rank / (strategies + 1 - rank)), np.nan)
    in_sample, out_of_sample = figures[every, chosen], figures[::-1][every, chosen]
    decided = ~np.isnan(logits)
    return Overfitting(
        chosen=chosen,
        in_sample=in_sample,
        out_of_sample=out_of_sample,
        logits=logits,
        pbo=_share((logits <= 0)[decided]),
        slope=_slope(in_sample, out_of_sample, unit=unit),
        loss_probability=_share((out_of_sample < -TIE * unit)[decided]),
    )


def _rounding(figures: np.ndarray, *, unit: float) -> np.ndarray:
    return np.asarray(TIE * np.maximum(unit, np.where(np.isfinite(figures), np.abs(figures), 0.0)))


def _share(facts: np.ndarray) -> float:
    return float(facts.mean()) if len(facts) else np.nan


def _slope(x: np.ndarray, y: np.ndarray, *, unit: float) -> float:
    defined = np.isfinite(x) & np.isfinite(y)
    x, y = x[defined], y[defined]
    varies = len(x) > 1 and np.ptp(x) > _rounding(x, unit=unit).max()
    return float(stats.linregress(x, y).slope) if varies else np.nan


def _figures(cut: np.ndarray, choices: np.ndarray, *, metric: Callable[[np.ndarray], np.ndarray | float]) -> np.ndarray:
    """(choices, strategies) figures of `metric` on the rows of the chosen blocks."""
    strategies = cut.shape[2]
    figures = np.stack([metric(cut[choice].reshape(-1, strategies)) for choice in choices])
    if figures.shape != (len(choices), strategies) or np.isinf(figures).any():
        raise ValueError(f"metric: gave {figures.shape[1:]} figures; it must give one finite or nan for each strategy")
    return figures


def _sharpes(cut: np.ndarray, choices: np.ndarray) -> np.ndarray:
    """(choices, strategies) Sharpe ratios from each block's mean and squared deviations, without touching rows again.

    Deviations add up by Chan's formula around the first chosen block, so that returns which never vary give exactly 0.
    """
    rows, half = cut.shape[1], choices.shape[1]
    mean, squares = cut.mean(axis=1), np.stack([((block - block.mean(axis=0)) ** 2).sum(axis=0) for block in cut])
    still = cut.min(axis=1) == cut.max(axis=1)  # (blocks, strategies)
    mean, squares = np.where(still, cut[:, 0], mean), np.where(still, 0.0, squares)
    first = mean[choices[:, 0]]
    shift = sum(mean[block] - first for block in choices.T) / half  # (choices, strategies)
    total = sum(squares[block] + rows * (mean[block] - first - shift) ** 2 for block in choices.T)
    deviation = np.sqrt(np.asarray(total) / max(rows * half - 1, 1))
    ratio = np.full(deviation.shape, np.nan)
    np.divide(first + shift, deviation, out=ratio, where=deviation > 0)
    return ratio
