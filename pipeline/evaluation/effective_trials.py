"""The number of independent trials that many correlated ones amount to, by several estimators.

[1] Bailey & López de Prado 2014, "The Deflated Sharpe Ratio". [2] López de Prado & Lewis 2019, "Detection of False
Investment Strategies Using Unsupervised Learning Methods". [3] Kaufman & Rousseeuw 1990, "Finding Groups in Data".
[4] Galwey 2009, "A New Measure of the Effective Number of Tests". [5] Li & Ji 2005, Heredity 95:221. [6] Bretherton et
al. 1999, "The Effective Number of Spatial Degrees of Freedom of a Time-Varying Field".
"""

import numpy as np
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform
from sklearn.metrics import silhouette_samples
from threadpoolctl import threadpool_limits

from pipeline.evaluation.performance import require_finite
from pipeline.scale import is_constant

TIE = 1e-12  # correlations that differ from 1 by less differ by rounding alone
MIN_SILHOUETTE = 0.25  # up to this mean silhouette a clustering has found no substantial structure ([3])


def correlate_trials(returns: np.ndarray) -> np.ndarray:
    """Return the (trials, trials) Pearson correlations of (T, trials) returns; NaN for a trial that never varies."""
    returns = require_finite("returns", returns)
    varies = ~is_constant(returns, axis=0)
    deviations = returns[:, varies]
    deviations -= deviations.mean(axis=0)
    with threadpool_limits(limits=1):  # more threads add up in another order
        products = deviations.T @ deviations
    scale = np.sqrt(np.diag(products))
    correlation = np.full((returns.shape[1], returns.shape[1]), np.nan)
    correlation[np.ix_(varies, varies)] = np.clip(products / np.outer(scale, scale), -1.0, 1.0)
    return correlation


def count_effective_trials(correlation: np.ndarray) -> float:
    """Return the number of independent trials that (trials, trials) correlations amount to, from 1 to trials.

    A cluster of n trials counts as 1 + (n - 1)(1 - ρ), with ρ its mean pairwise correlation where positive ([1],
    appendix): n where its trials are uncorrelated, 1 where they are the same. Correlation between clusters is not
    counted. A trial that never varies (NaN) counts as one: it was tried.
    """
    varies = np.flatnonzero(~np.isnan(np.diag(_check_correlation(correlation))))
    known = correlation[np.ix_(varies, varies)]
    cluster = cluster_trials(known)
    counts = [_count_independent(known[np.ix_(cluster == one, cluster == one)]) for one in np.unique(cluster)]
    return float(len(correlation) - len(varies) + sum(counts))


def cluster_trials(correlation: np.ndarray) -> np.ndarray:
    """Return the (trials,) cluster of each trial, by average linkage over the distance √((1 - ρ)/2) ([2], adapted).

    Candidates are the cuts of the tree whose mean silhouette is above `MIN_SILHOUETTE`. The cut with the highest
    quality, mean over standard deviation of the silhouettes, is chosen. Without a candidate all trials are one cluster.
    [2] seeds k-means at random and clusters the clusters again; the tree is deterministic.
    """
    trials = len(correlation)
    distance = np.sqrt(np.where(correlation > 1 - TIE, 0.0, (1 - correlation) / 2))
    np.fill_diagonal(distance, 0.0)
    best, highest = np.zeros(trials, dtype=np.int64), 0.0
    if trials < 3:
        return best  # a silhouette needs two clusters, one of them with two members
    tree = hierarchy.linkage(squareform(distance, checks=False), method="average")
    for cluster in hierarchy.cut_tree(tree, n_clusters=range(2, trials)).T:
        silhouette = silhouette_samples(distance, cluster, metric="precomputed")
        quality = silhouette.mean() / max(silhouette.std(), TIE)  # equal silhouettes differ by rounding alone
        if silhouette.mean() > MIN_SILHOUETTE and quality > highest:
            best, highest = cluster, quality
    return best


def _count_independent(correlation: np.ndarray) -> float:
    """Return the number of independent trials that one cluster amounts to."""
    others = len(correlation) - 1
    if not others:
        return 1.0
    mean = (correlation.sum() - np.trace(correlation)) / (len(correlation) * others)
    return float(1 + others * (1 - np.clip(mean, 0.0, 1.0)))


def _check_correlation(correlation: np.ndarray) -> np.ndarray:
    shape = correlation.shape
    if len(shape) != 2 or shape[0] != shape[1] or not shape[0]:
        raise ValueError(f"correlation: shape {shape}; give (trials, trials) of at least one trial")
    if (np.abs(correlation) > 1).any() or not np.array_equal(correlation, correlation.T, equal_nan=True):
        raise ValueError("correlation: it must be symmetric and lie between -1 and 1; give Pearson correlations")
    return correlation


def estimate_effective_trials(correlation: np.ndarray) -> dict[str, float]:
    """Return the effective number of trials of (trials, trials) correlations by estimator, each from 1 to trials.

    `clusters` is `count_effective_trials`; `mean_correlation` is ρ + (1 - ρ)·trials, with ρ the mean correlation where
    positive ([1], appendix); the others use the eigenvalues λ: (Σ√λ)² / Σλ (`galwey`, [4]), Σ of 1{λ ≥ 1} + λ - ⌊λ⌋
    (`li_ji`, [5]) and (Σλ)² / Σλ² (`participation`, [6]). A trial that never varies (NaN) counts as one in all.
    """
    varies = np.flatnonzero(~np.isnan(np.diag(_check_correlation(correlation))))
    known, idle = correlation[np.ix_(varies, varies)], len(correlation) - len(varies)
    if len(varies) < 2:
        return dict.fromkeys(
            ("clusters", "mean_correlation", "galwey", "li_ji", "participation"), float(len(correlation))
        )
    with threadpool_limits(limits=1):  # more threads add up in another order
        spectrum = np.linalg.eigvalsh(known)
    spectrum = np.where(spectrum > TIE * len(varies), spectrum, 0.0)
    near_one = np.where(np.abs(spectrum - np.rint(spectrum)) < 1e-9, np.rint(spectrum), spectrum)  # rounding alone
    counts = {
        "clusters": count_effective_trials(known),
        "mean_correlation": _count_independent(known),
        "galwey": np.sqrt(spectrum).sum() ** 2 / spectrum.sum(),
        "li_ji": ((near_one >= 1) + near_one - np.floor(near_one)).sum(),
        "participation": spectrum.sum() ** 2 / (spectrum**2).sum(),
    }
    return {name: float(np.clip(count, 1.0, len(varies)) + idle) for name, count in counts.items()}
