"""The Sharpe ratios of several models: their confidence intervals, and their comparison in pairs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from pipeline.evaluation import bootstrap
from pipeline.scale import is_constant

UNDECIDED = "not distinguishable"


@dataclass(frozen=True)
class PairComparison:
    """The difference of the Sharpe ratios of two models, in the mean over the paths on which both trade."""

    a: str
    b: str
    difference: float  # of a over b
    low: float  # of the interval of this difference alone
    high: float
    p_value: float  # two-sided, of this pair alone
    p_adjusted: float  # among all pairs
    verdict: str
    reason: str | None  # of a metric that is undefined, or of a verdict that is impossible


@dataclass(frozen=True)
class SharpeComparison:
    """The confidence intervals of the Sharpe ratios of several models, and their pairwise comparison."""

    intervals: dict[str, tuple[float, float]]  # of the median path; NaN where it trades too little
    pairs: list[PairComparison]
    block_bars: float  # mean block length; NaN without a model


@dataclass(frozen=True)
class SeedSpread:
    """The spread of the Sharpe ratios of one model that differ by the seed of its fits alone."""

    seeds: int  # whose paths the returns of the model hold
    std: float  # of the Sharpe ratio of one seed

    @property
    def mean_variance(self) -> float:
        """The variance of the mean over the seeds."""
        return self.std**2 / self.seeds


def compare_sharpes(
    paths: Mapping[str, np.ndarray],
    median_path: Mapping[str, int],
    *,
    confidence: float,
    resamples: int,
    seed: int,
    seed_spread: Mapping[str, SeedSpread] | None = None,
) -> SharpeComparison:
    """Return the interval of each model's median path, and each two models compared on the mean of paths both trade.

    `paths` are the (T, P) returns of each model at the same times; path p of one is compared with path p of the others.
    `median_path` is a path number for each model. `seed_spread` adds the luck of the seed to intervals and tests.
    """
    if not paths:
        return SharpeComparison({}, [], np.nan)
    names, returns = list(paths), np.stack(list(paths.values()), axis=1)  # (T, models, P)
    trades = ~is_constant(returns, axis=0)  # (models, P)
    couples = list(combinations(range(len(names)), 2))
    single = [_weight_path(trades, model, path=median_path[name]) for model, name in enumerate(names)]
    weights = np.stack([*single, *(_weight_pair(trades, a, b) for a, b in couples)], axis=-1)  # (models, P, statistics)
    result = bootstrap.bootstrap_sharpes(
        returns.reshape(len(returns), -1), weights.reshape(trades.size, -1), resamples=resamples, seed=seed
    )
    spread = [(seed_spread or {}).get(name, SeedSpread(1, 0.0)) for name in names]
    luck = [one.std**2 for one in spread] + [spread[a].mean_variance + spread[b].mean_variance for a, b in couples]
    result = result.widen(np.array(luck))
    limits = result.make_intervals(confidence=confidence)
    limits = np.where(np.isfinite(limits), limits, np.nan).tolist()
    p_values, differences = result.p_values[len(names) :], result.estimate[len(names) :]
    columns = zip(couples, differences, limits[len(names) :], p_values, bootstrap.adjust_holm(p_values), strict=True)
    pairs = [
        PairComparison(names[a], names[b], float(difference), low, high, float(p), float(adjusted), UNDECIDED, None)
        for (a, b), difference, (low, high), p, adjusted in columns
    ]
    return SharpeComparison(
        intervals={name: (low, high) for name, (low, high) in zip(names, limits[: len(names)], strict=True)},
        pairs=[_judge_pair(pair, confidence=confidence, min_p=len(couples) / (resamples + 1)) for pair in pairs],
        block_bars=result.block_bars,
    )


def _weight_path(trades: np.ndarray, model: int, *, path: int) -> np.ndarray:
    """Return (models, P) weights of one path of one model."""
    weights = np.zeros(trades.shape)
    weights[model, path] = 1.0
    return weights


def _weight_pair(trades: np.ndarray, a: int, b: int) -> np.ndarray:
    """Return (models, P) weights of the mean of `a` less that of `b` on the paths that both trade; 0 without one."""
    both, weights = trades[a] & trades[b], np.zeros(trades.shape)
    weights[a, both], weights[b, both] = 1.0 / max(both.sum(), 1), -1.0 / max(both.sum(), 1)
    return weights


def _judge_pair(pair: PairComparison, *, confidence: float, min_p: float) -> PairComparison:
    """Return the pair with its verdict; `min_p` is the lowest adjusted p-value that resampling can give."""
    if np.isnan(pair.p_value):
        return replace(pair, reason="there is no path on which both trade")
    if pair.p_adjusted <= 1 - confidence:
        better, worse = (pair.a, pair.b) if pair.difference > 0 else (pair.b, pair.a)
        return replace(pair, verdict=f"{better} better than {worse}")
    if min_p > 1 - confidence:
        factor = min_p / (1 - confidence)
        return replace(pair, reason=f"no difference can be significant: multiply compare.resamples by {factor:.1f}")
    return replace(pair, reason="they trade too little" if np.isnan(pair.low) else None)
