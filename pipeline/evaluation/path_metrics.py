"""Measure and trade a table of predictions: on every path of the development part, or on rows of the holdout."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.evaluation import forecast, performance
from pipeline.evaluation.evaluation_data import EvaluationData
from pipeline.evaluation.portfolio import PortfolioResult, explain_idleness, trade_predictions
from pipeline.evaluation.predictions import locate_on_paths, select_labeled
from pipeline.evaluation.round_trips import list_round_trips, summarize_round_trips
from pipeline.targets import Output
from pipeline.validation.folds import Folds


@dataclass(frozen=True)
class PathResult:
    """Predictions of one path or of the holdout: their metrics, and the portfolio's net return bar by bar."""

    forecast: dict[str, float]
    confusion: np.ndarray | None  # (classes, classes) counts, true by predicted; of a number: below and above neutral
    trading: dict[str, float]  # empty where predictions have no score
    reasons: dict[str, str]  # of metrics that are undefined
    time: np.ndarray
    net: np.ndarray
    round_trips: pd.DataFrame  # see `list_round_trips`; empty where predictions have no score


@dataclass(frozen=True)
class ModelResult:
    """One set of predictions on every path of the development part, those of the first seed first."""

    paths: list[PathResult]
    seeds: np.ndarray  # (paths,) the seed of the fits of each

    def select_seed(self, seed: int) -> "ModelResult":
        """Return the paths of one seed."""
        own = self.seeds == seed
        return ModelResult([path for path, is_own in zip(self.paths, own, strict=True) if is_own], self.seeds[own])

    @property
    def sharpes(self) -> np.ndarray:
        """(paths,) annualized Sharpe ratios; NaN for a path that never trades."""
        return np.array([path.trading["sharpe"] for path in self.paths])

    @property
    def median_path(self) -> int:
        """The number of the path of median Sharpe."""
        return performance.find_median_path(self.sharpes)


def select_path(predictions: pd.DataFrame, data: EvaluationData, folds: Folds, path: int) -> pd.DataFrame:
    """Return the development part's predictions along one path of `ModelResult`, in the order of their rows."""
    own = predictions[list_seeds(predictions) == np.unique(list_seeds(predictions))[path // folds.n_paths]]
    rows, numbers = select_predicted(data, folds), folds.paths[[path % folds.n_paths]]
    selected: pd.DataFrame = own.iloc[
        locate_on_paths(own, paths=numbers, group=folds.number_all_groups()[rows], rows=rows)[0]
    ]
    return selected


def select_same_path(
    tables: Mapping[str, pd.DataFrame], data: EvaluationData, folds: Folds, *, path: int
) -> dict[str, pd.DataFrame]:
    """Return one path of each of several tables of predictions, which have the same splits and rows in one order."""
    first = next(iter(tables.values()))
    places = select_path(first.assign(place=np.arange(len(first))), data, folds, path=path)["place"].to_numpy()
    return {name: table.iloc[places] for name, table in tables.items()}


def list_seeds(predictions: pd.DataFrame) -> np.ndarray:
    """Return (N,) the seed of the fit that made each prediction; 0 for baselines, which have none."""
    return np.asarray(predictions.get("seed", np.zeros(len(predictions), np.int64)))


def select_predicted(data: EvaluationData, folds: Folds) -> np.ndarray:
    """Return the rows, ascending, labeled or not, that any split predicts, of the symbols that the model predicts."""
    rows = folds.select_predicted()
    return np.asarray(rows[data.is_included[rows]])


def measure_predictions(predictions: pd.DataFrame, data: EvaluationData, folds: Folds) -> ModelResult:
    """Return the metrics of the splits' predictions on every path of every seed."""
    rows, seeds = select_predicted(data, folds), np.unique(list_seeds(predictions))
    paths = []
    for seed in seeds:
        own = predictions[list_seeds(predictions) == seed]
        places = locate_on_paths(own, paths=folds.paths, group=folds.number_all_groups()[rows], rows=rows)
        paths += [measure_path(own.iloc[place], data) for place in places]
    return ModelResult(paths=paths, seeds=np.repeat(seeds, folds.n_paths))


def measure_path(predictions: pd.DataFrame, data: EvaluationData) -> PathResult:
    """Return the metrics of predictions in the order of their rows; a bar without a row, as after a gap, earns 0."""
    labeled = select_labeled(predictions, data.is_labeled)
    y, predicted = data.y[labeled["row"]], labeled[list(data.output.names)].to_numpy(np.float64)
    actual = y if data.y_by_horizon is None else data.y_by_horizon[labeled["row"]]
    forecasts, reasons = forecast.measure_forecast(actual, predicted, data.output)
    confusion = count_confusion(y, predicted, data.output)
    if "score" not in predictions:
        nothing = np.empty(0)
        return PathResult(forecasts, confusion, {}, reasons, nothing.astype(np.int64), nothing, pd.DataFrame())
    result = trade_predictions(predictions, data)
    traded, undefined = performance.measure_trading(
        data.to_ms(result.time),
        result.backtest.net,
        result.turnover,
        bars_per_year=data.bars_per_year,
        risk_free_rate=data.risk_free_rate,
    )
    amounts, missing = measure_amounts(result)
    trips = list_round_trips(result, to_ms=data.to_ms)
    by_trip, no_trips = summarize_round_trips(trips)
    if not result.turnover.any():
        undefined["sharpe"] = explain_idleness(predictions, data)
    return PathResult(
        forecasts,
        confusion,
        traded | amounts | by_trip,
        reasons | undefined | missing | no_trips,
        result.time,
        result.backtest.net,
        trips,
    )


def measure_amounts(result: PortfolioResult) -> tuple[dict[str, float], dict[str, str]]:
    """Return what a portfolio earns in all and in gaps, what it is charged, and its break-even cost in bps.

    The break-even cost is the gross return, less interest, over the turnover. All but it and the exposure are sums over
    the bars, as shares of the capital.
    """
    totals = dict(result.totals)
    turnover = totals.pop("turnover")
    earned = totals["gross_return"] - totals["interest"]
    break_even = 1e4 * earned / turnover if turnover > 0 else np.nan
    reasons = {} if turnover > 0 else {"break_even_bps": "no trade"}
    return {"break_even_bps": break_even, "exposure": result.exposure, **totals}, reasons


def count_confusion(y: np.ndarray, predicted: np.ndarray, output: Output) -> np.ndarray | None:
    """Return the confusion matrix of classes, or of the sides of neutral; None where y has no direction."""
    if output.is_classification:
        return forecast.count_confusion(y, predicted)
    if not output.has_direction:
        return None
    is_up = output.take_center(predicted) > output.neutral
    return forecast.count_confusion((y > output.neutral).astype(np.int64), np.column_stack([~is_up, is_up]))


def compare_in_and_out_of_sample(
    in_sample: pd.DataFrame, out_of_sample: pd.DataFrame, data: EvaluationData
) -> pd.DataFrame:
    """Return the annualized net Sharpe of every split on its own train rows and on its test rows."""
    sharpes = {
        name: {
            split: measure_sharpe(trade_rows(rows, data), data)
            for split, rows in predictions.groupby([list_seeds(predictions), predictions["split"]])
        }
        for name, predictions in (("in_sample", in_sample), ("out_of_sample", out_of_sample))
    }
    return pd.DataFrame(sharpes)


def trade_rows(predictions: pd.DataFrame, data: EvaluationData) -> np.ndarray:
    """Return the (T,) net returns of the bars that have a prediction or a position."""
    result = trade_predictions(predictions, data)
    return np.asarray(result.backtest.net[result.is_active])


def measure_sharpe(net: np.ndarray, data: EvaluationData) -> float:
    """Return the annualized Sharpe ratio of net returns (T,) in excess of the risk-free rate."""
    year = {"bars_per_year": data.bars_per_year}
    excess = performance.subtract_risk_free(net, risk_free_rate=data.risk_free_rate, **year)
    return float(performance.sharpe(excess, **year))


def measure_stationarity(splits: pd.DataFrame) -> tuple[float, str | None]:
    """Return the coefficient of variation of the Sharpe out of sample over the splits that trade.

    NaN with a reason where it is undefined.
    """
    sharpes = splits["out_of_sample"].dropna().to_numpy(np.float64)
    if len(sharpes) < 2:
        return float("nan"), "fewer than two splits trade"
    if sharpes.mean() <= 0:
        return float("nan"), f"out of sample the mean Sharpe is not positive: {sharpes.mean():.3g}"
    return float(sharpes.std(ddof=1) / sharpes.mean()), None


def divide_in_by_out(splits: pd.DataFrame) -> tuple[float, str | None]:
    """Return the mean Sharpe in sample over that out of sample, of the splits that trade in both; NaN with a reason."""
    traded = splits.dropna()
    if traded.empty:
        return float("nan"), "no split trades"
    inside, outside = traded["in_sample"].mean(), traded["out_of_sample"].mean()
    if outside <= 0:
        return float("nan"), f"out of sample the mean Sharpe is not positive: {outside:.3g}"
    return float(inside / outside), None


def bin_forecasts(
    y: np.ndarray, prediction: np.ndarray, output: Output, *, bins: int
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return the calibration curves of predictions (N, outputs) of y (N,): predicted, actual, and its standard error.

    Each class has one, the quantiles have that of their coverage, and numbers that of the one compared with y.
    """
    if output.kind == "quantiles":
        return {"coverage": (np.asarray(output.levels), *forecast.measure_coverage(y, prediction))}
    if output.is_classification:
        events = ((name, prediction[:, code], y == code) for code, name in enumerate(output.names))
        return {name: bin_calibration(predicted, happened, bins=bins) for name, predicted, happened in events}
    return {output.names[-1]: bin_calibration(output.take_center(prediction), y, bins=bins)}


def bin_calibration(
    predicted: np.ndarray, actual: np.ndarray, *, bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean prediction, mean outcome and its standard error in bins of equally many rows by prediction."""
    order = np.array_split(np.argsort(predicted, kind="stable"), bins)
    cells = [np.asarray(actual[rows], np.float64) for rows in order if len(rows)]
    errors = [cell.std() / np.sqrt(len(cell)) for cell in cells]
    return (
        np.array([predicted[rows].mean() for rows in order if len(rows)]),
        np.array([cell.mean() for cell in cells]),
        np.array(errors),
    )
