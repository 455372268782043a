"""The comparison of all models of a dataset: leaderboard, pairwise tests, PBO, and the trials that were made."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Interval, MultipleOf
from pydantic import PositiveInt

from pipeline.evaluation import bootstrap, multiple_testing, overfitting, pairwise, performance
from pipeline.evaluation.multiple_testing import SuperiorityTest
from pipeline.evaluation.population import MIN_DAYS, Population
from pipeline.evaluation.returns import Returns
from pipeline.evaluation.sharpe_sample import MIN_OBSERVATIONS, SharpeSample, assess_sharpe
from pipeline.scale import is_constant

NAN = float("nan")
MIN_BLOCK_DAYS = 2  # of the PBO over daily returns
EFFECTIVE = "clusters"  # the estimator of the effective number of trials that `dsr_effective` uses


@dataclass(frozen=True)
class Comparison:
    """The leaderboard, best first, and the statistics that say how much of its order is luck."""

    leaderboard: dict[str, dict[str, Any]]
    path_pbo: list[overfitting.CscvResult]  # of the choice among the models that trade, path by path
    ledger_pbo: float  # of the choice among all trials with daily returns; NaN where there are too few
    superiority: SuperiorityTest | None  # of all trials with daily returns; None where there are too few days
    intervals: dict[str, tuple[float, float]]  # of the annualized Sharpe of the median path, of the models that trade
    pairs: list[pairwise.PairComparison]  # of the models that trade, annualized, the better first
    block_bars: float
    trials: int
    effective_trials: dict[str, float]  # by estimator

    @property
    def missing(self) -> list[str]:
        """The reasons of what is undefined for want of days or of trials with returns on them."""
        pbo = f"no PBO of the ledger: fewer than two trials that trade, or fewer than {MIN_BLOCK_DAYS} days a block"
        reasons = {
            f"no effective number of trials: fewer than {MIN_DAYS} days in common": not self.effective_trials,
            f"no SPA, no Reality Check: no trade, or fewer than {bootstrap.MIN_BARS} days": self.superiority is None,
            pbo: np.isnan(self.ledger_pbo),
        }
        return [reason for reason, is_missing in reasons.items() if is_missing]

    @property
    def cscv(self) -> overfitting.CscvResult | None:
        """The path with the median PBO, the lower of two; None with fewer than two models that trade."""
        ranked = sorted(self.path_pbo, key=lambda result: result.pbo)
        return ranked[(len(ranked) - 1) // 2] if ranked else None


@dataclass(frozen=True)
class TimeScale:
    """The bars and the UTC days of a year, and the instants of the bars that are compared."""

    time_ms: np.ndarray  # (T,)
    bars_per_year: float

    @property
    def year(self) -> float:
        """The factor that annualizes a Sharpe ratio per bar."""
        return float(np.sqrt(self.bars_per_year))

    @property
    def days_per_year(self) -> float:
        """The days of a year that have bars."""
        return performance.count_days_per_year(self.time_ms, bars_per_year=self.bars_per_year)


def compare_models(
    models: Mapping[str, Returns],
    population: Population,
    scale: TimeScale,
    seed: int,
    *,
    blocks: Annotated[int, Ge(2), MultipleOf(2)],
    confidence: Annotated[float, Interval(gt=0, lt=1)],
    resamples: PositiveInt,
) -> Comparison:
    """Return the models ranked and compared in pairs, PBO, and the tests over all trials of their market.

    `models` are returns in excess of the risk-free rate. A model that never trades is left out of PBO: it would rank
    last and raise the rank of every model that loses. Among the trials it counts in full.
    """
    trades = [name for name, model in models.items() if model.paths.any()]
    spread = {name: measure_seed_spread(model, population, name) for name, model in models.items()}
    sharpes = pairwise.compare_sharpes(
        {name: models[name].paths for name in trades},
        {name: models[name].median_path for name in trades},
        confidence=confidence,
        resamples=resamples,
        seed=seed,
        seed_spread={name: replace(found, std=np.nan_to_num(found.std)) for name, found in spread.items()},
    )
    intervals = {name: (low * scale.year, high * scale.year) for name, (low, high) in sharpes.intervals.items()}
    daily = measure_daily_sharpes(models, scale, confidence=confidence, resamples=resamples, seed=seed)
    effective = population.estimate_effective_trials()
    leaderboard = rank_models(population, effective, scale=scale, confidence=confidence)
    for name, row in leaderboard.items():
        low, high = intervals.get(name, (NAN, NAN))
        row |= daily[name] | {"sharpe_low": low, "sharpe_high": high, "path_sharpes": models[name].sharpes * scale.year}
        row |= {"seeds": spread[name].seeds, "seed_std": spread[name].std * scale.year}
        row["reason"] = explain_undefined(population.own[name].sample, has_interval=not np.isnan(low))
    return Comparison(
        leaderboard=leaderboard,
        path_pbo=estimate_path_pbo({name: models[name] for name in trades}, blocks=blocks),
        ledger_pbo=estimate_ledger_pbo(population, blocks=blocks),
        superiority=assess_population(population, resamples=resamples, seed=seed),
        intervals=intervals,
        pairs=[orient_pair(pair, year=scale.year) for pair in sharpes.pairs],
        block_bars=sharpes.block_bars,
        trials=len(population.trials),
        effective_trials=effective,
    )


def orient_pair(pair: pairwise.PairComparison, *, year: float) -> pairwise.PairComparison:
    """Return the pair with the better model first, annualized by the factor `year`."""
    difference, low, high = pair.difference * year, pair.low * year, pair.high * year
    if difference < 0:
        return replace(pair, a=pair.b, b=pair.a, difference=-difference, low=-high, high=-low)
    return replace(pair, difference=difference, low=low, high=high)


def measure_daily_sharpes(
    models: Mapping[str, Returns], scale: TimeScale, *, confidence: float, resamples: int, seed: int
) -> dict[str, dict[str, float]]:
    """Return the annualized Sharpe ratio of each model's daily returns on its median path, with its interval."""
    if not models:
        return {}
    median = np.stack([model.paths[:, model.median_path] for model in models.values()], axis=1)  # (T, models)
    _, daily = performance.aggregate_days(scale.time_ms, median)  # (D, models)
    year = np.sqrt(scale.days_per_year)
    sharpes, limits = performance.sharpe(daily) * year, np.full((len(models), 2), NAN)
    if len(daily) >= bootstrap.MIN_BARS:
        result = bootstrap.bootstrap_sharpes(daily, np.eye(len(models)), resamples=resamples, seed=seed)
        limits = result.make_intervals(confidence=confidence) * year
    limits[~np.isfinite(limits).all(axis=1)] = NAN
    names = ("sharpe_daily", "sharpe_daily_low", "sharpe_daily_high")
    rows = np.column_stack([np.asarray(sharpes), limits]).tolist()
    return {model: dict(zip(names, row, strict=True)) for model, row in zip(models, rows, strict=True)}


def rank_models(
    population: Population, effective: Mapping[str, float], *, scale: TimeScale, confidence: float
) -> dict[str, dict[str, Any]]:
    """Return the leaderboard: every model's metrics, the best median Sharpe first, models that never trade last.

    `effective` is the effective number of trials by estimator.
    """
    count = len(population.trials)
    trials = {"dsr": float(count), **{f"dsr_{name}": found for name, found in effective.items()}}
    haircuts = multiple_testing.haircut_sharpes(population.sharpes, population.errors, trials=count)
    rows: dict[str, dict[str, Any]] = {}
    names = list(population.own)
    for i in np.argsort(-population.sharpes[: len(names)], kind="stable"):  # NaN stands last
        sample = population.own[names[i]].sample
        metrics = assess_sharpe(
            sample,
            trial_sharpes=population.sharpes,
            trial_errors=population.errors,
            trials=trials,
            confidence=confidence,
        )
        annual = sample.sharpe * scale.year
        rows[names[i]] = {
            "sharpe_per_bar": sample.sharpe,
            **{name: getattr(sample, name) for name in ("n", "skew", "kurtosis", "bars", "observations")},
            **metrics,
            "dsr_effective": metrics.get(f"dsr_{EFFECTIVE}", NAN),
            "trials": count,
            "effective_trials": effective.get(EFFECTIVE, NAN),
            "sharpe": annual,
            "min_backtest_years": NAN if np.isnan(annual) else overfitting.min_backtest_years(annual, trials=count),
            **{f"sharpe_after_{name}": found[i] * scale.year for name, found in haircuts.items()},
        }
    return rows


def measure_seed_spread(model: Returns, population: Population, name: str) -> pairwise.SeedSpread:
    """Return the spread of a model's Sharpe ratio per bar between seeds; its std is NaN where there is one seed.

    It is that of the seeds of its own fits. With one seed it is that of the trials that differ in the seed alone.
    """
    own = model.median_sharpe_by_seed
    known = own if len(own) > 1 else np.array([trial.sample.sharpe for trial in population.find_seeds(name)])
    known = known[np.isfinite(known)]
    return pairwise.SeedSpread(len(own), float(known.std(ddof=1)) if len(known) > 1 else NAN)


def explain_undefined(sample: SharpeSample, *, has_interval: bool) -> str | None:
    """Return why metrics of a model are null; None where none is."""
    if np.isnan(sample.sharpe):
        return "no trade"
    few = f"no PSR, DSR, MinTRL: {sample.observations:.1f} independent traded observations, {MIN_OBSERVATIONS} needed"
    reasons = [
        None if sample.is_sufficient else few,
        None if sample.sharpe > 0 else "no MinTRL and no Sharpe after a haircut: the Sharpe is not positive",
        None if has_interval else "no interval: too few trades, many resamples have none",
    ]
    return "; ".join(reason for reason in reasons if reason) or None


def estimate_path_pbo(models: Mapping[str, Returns], *, blocks: int) -> list[overfitting.CscvResult]:
    """Return CSCV on each path among the models that trade there; none where fewer than two do.

    A path is one fit, as is what gets deployed. The mean of the paths would be steadier than either.
    """
    results = []
    for path in range(min((model.paths.shape[1] for model in models.values()), default=0)):
        returns = np.stack([model.paths[:, path] for model in models.values()], axis=1)  # (T, models)
        traded = returns[:, returns.any(axis=0)]
        if traded.shape[1] > 1:
            results.append(overfitting.pbo(traded, blocks=blocks))
    return results


def estimate_ledger_pbo(population: Population, *, blocks: int) -> float:
    """Return PBO of the choice among all trials with daily returns; NaN with fewer than two, or too few days."""
    daily = population.daily
    traded = daily[:, daily.any(axis=0)] if daily.size else daily
    if traded.shape[1] < 2 or len(traded) < blocks * MIN_BLOCK_DAYS:
        return NAN
    return overfitting.pbo(traded, blocks=blocks).pbo


def assess_population(population: Population, *, resamples: int, seed: int) -> SuperiorityTest | None:
    """Return the tests of superior predictive ability over all trials with daily returns; None where undefined."""
    daily = population.daily
    if len(daily) < bootstrap.MIN_BARS or is_constant(daily, axis=0).all():
        return None
    return multiple_testing.assess_superiority(daily, resamples=resamples, seed=seed)
