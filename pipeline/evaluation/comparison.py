"""The comparison of all models of a dataset: leaderboard, pairwise tests, PBO and trials."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from annotated_types import Ge, Interval, MultipleOf
from pydantic import NonNegativeInt, PositiveInt

from pipeline.evaluation import bootstrap, overfitting
from pipeline.evaluation.returns import Returns

NAN = float("nan")


@dataclass(frozen=True)
class Comparison:
    """The leaderboard, best first, and the statistics that say how much of its order is luck."""

    leaderboard: dict[str, dict[str, object]]
    cscv: overfitting.CscvResult | None  # of the choice among the models that trade; None with fewer than two
    intervals: dict[str, tuple[float, float]]  # of the annualized Sharpe of the median path, of the models that trade
    pairs: list[bootstrap.PairComparison]  # of the models that trade, annualized, the better first
    block_bars: float
    trials: int
    effective_trials: float


def compare_models(
    models: Mapping[str, Returns],
    bars_per_year: float,
    tried: int,
    seed: int,
    *,
    blocks: Annotated[int, Ge(2), MultipleOf(2)],
    confidence: Annotated[float, Interval(gt=0, lt=1)],
    resamples: PositiveInt,
    earlier_trials: NonNegativeInt,
) -> Comparison:
    """Return the models ranked and compared in pairs, and PBO of the mean of each model's paths.

    In the mean of paths every bar counts once. A model that never trades is left out of PBO: it would rank last and
    raise the rank of every model that loses. Among the trials it counts in full, as do trials whose returns are not
    known. `tried` is the number of traded models in params, of all datasets; `earlier_trials` were dropped before.
    """
    trades = [name for name, model in models.items() if model.paths.any()]
    sharpes = bootstrap.compare_sharpes(
        {name: models[name].paths for name in trades},
        {name: models[name].median_path for name in trades},
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )
    year = float(np.sqrt(bars_per_year))
    intervals = {name: (low * year, high * year) for name, (low, high) in sharpes.intervals.items()}
    means = np.array([models[name].paths.mean(axis=1) for name in trades]).T  # (T, models)
    known = overfitting.count_effective_trials(overfitting.correlate_trials(means)) if trades else 0.0
    trials = {"dsr": float(tried + earlier_trials), "dsr_effective": tried + earlier_trials - len(trades) + known}
    return Comparison(
        leaderboard=rank_models(models, intervals, bars_per_year=bars_per_year, trials=trials, confidence=confidence),
        cscv=overfitting.pbo(means, blocks=blocks) if len(trades) > 1 else None,
        intervals=intervals,
        pairs=[orient_pair(pair, year=year) for pair in sharpes.pairs],
        block_bars=sharpes.block_bars,
        trials=tried + earlier_trials,
        effective_trials=trials["dsr_effective"],
    )


def orient_pair(pair: bootstrap.PairComparison, *, year: float) -> bootstrap.PairComparison:
    """Return the pair with the better model first, annualized by the factor `year`."""
    difference, low, high = pair.difference * year, pair.low * year, pair.high * year
    if difference < 0:
        return replace(pair, a=pair.b, b=pair.a, difference=-difference, low=-high, high=-low)
    return replace(pair, difference=difference, low=low, high=high)


def rank_models(
    models: Mapping[str, Returns],
    intervals: Mapping[str, tuple[float, float]],
    *,
    bars_per_year: float,
    trials: Mapping[str, float],
    confidence: float,
) -> dict[str, dict[str, object]]:
    """Return the leaderboard: every model's metrics, the best median Sharpe first, models that never trade last.

    `trials` is the number of trials by the name of the deflated Sharpe ratio.
    """
    moments = {name: overfitting.estimate_moments(model.paths[:, model.median_path]) for name, model in models.items()}
    ratios = np.array([moment["sharpe"] for moment in moments.values()])
    variance = float(np.nanvar(ratios, ddof=1)) if np.isfinite(ratios).sum() > 1 else NAN
    year = np.sqrt(bars_per_year)
    rows: dict[str, dict[str, object]] = {}
    for i in np.argsort(-ratios, kind="stable"):  # NaN stands last
        name = list(models)[i]
        low, high = intervals.get(name, (NAN, NAN))  # annualized
        metrics = overfitting.assess_sharpe(moments[name], variance=variance, trials=trials, confidence=confidence)
        rows[name] = {
            **{("sharpe_per_bar" if key == "sharpe" else key): value for key, value in moments[name].items()},
            **metrics,
            "reason": explain_undefined(
                ratios[i], is_deflated=not np.isnan(metrics["dsr"]), has_interval=not np.isnan(low)
            ),
            "sharpe": ratios[i] * year,
            "sharpe_low": low,
            "sharpe_high": high,
            "min_backtest_years": find_min_backtest(ratios[i] * year, trials=trials["dsr"]),
            "path_sharpes": models[name].sharpes * year,
            **assess_holdout(models[name].holdout, bars_per_year=bars_per_year, confidence=confidence),
        }
    return rows


def explain_undefined(ratio: float, *, is_deflated: bool, has_interval: bool) -> str | None:
    """Return why metrics of a model are null; None where none is."""
    if np.isnan(ratio):
        return "no trade"
    reasons = [
        None if ratio > 0 else "no minimum track record: the Sharpe is not positive",
        None if is_deflated else "no DSR: one model that trades gives no variance across trials",
        None if has_interval else "no interval: too few trades, many resamples have none",
    ]
    return "; ".join(reason for reason in reasons if reason) or None


def find_min_backtest(sharpe: float, *, trials: float) -> float:
    """Return MinBTL of an annual Sharpe in years; NaN where it is undefined or not positive."""
    return NAN if np.isnan(sharpe) else overfitting.min_backtest_years(sharpe, trials=trials)


def assess_holdout(net: np.ndarray, *, bars_per_year: float, confidence: float) -> dict[str, float]:
    """Return the holdout's annualized Sharpe and its PSR; NaN where it never trades."""
    moments = overfitting.estimate_moments(net)
    metrics = overfitting.assess_sharpe(moments, variance=NAN, trials={}, confidence=confidence)
    return {"holdout_sharpe": moments["sharpe"] * np.sqrt(bars_per_year), "holdout_psr": metrics["psr"]}
