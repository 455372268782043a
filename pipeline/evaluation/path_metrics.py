"""Measure and trade a table of predictions: on every path of the development part, and on the holdout."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline import config, trading
from pipeline.evaluation import forecast, performance
from pipeline.evaluation.predictions import locate_on_paths
from pipeline.samples import number_runs
from pipeline.validation.folds import Folds


@dataclass(frozen=True)
class Targets:
    """The labels of every row of a dataset, its prices, and the costs of trading it."""

    rows: pd.DataFrame  # segment, time
    clean: pd.DataFrame  # symbol, segment, open_time, close of every bar
    y: np.ndarray
    move: np.ndarray
    outputs: tuple[str, ...]
    neutral: float  # the y that is neither up nor down; NaN where y is a class
    symbols: int
    bar_ms: int
    bars_per_year: float
    costs: Mapping[str, Any]


@dataclass(frozen=True)
class PathResult:
    """Predictions of one path or of the holdout: their metrics, and the portfolio's net return bar by bar."""

    forecast: dict[str, float]
    confusion: np.ndarray  # (classes, classes) counts, true by predicted; of a number: below and above neutral
    trading: dict[str, float]
    reasons: dict[str, str]  # of metrics that are undefined
    time: np.ndarray
    net: np.ndarray


@dataclass(frozen=True)
class ModelResult:
    """One set of predictions on every path and on the holdout."""

    paths: list[PathResult]
    holdout: PathResult


def select_path(predictions: pd.DataFrame, folds: Folds, path: int) -> pd.DataFrame:
    """Return the development part's predictions along one path, in the order of their rows."""
    rows = folds.select_tested()
    place = locate_on_paths(predictions, paths=folds.paths[[path]], group=folds.number_groups()[rows], rows=rows)[0]
    selected: pd.DataFrame = predictions.iloc[place]
    return selected


def measure_predictions(
    development: pd.DataFrame, holdout: pd.DataFrame, targets: Targets, folds: Folds
) -> ModelResult:
    """Return the metrics of predictions on every path and on the holdout."""
    rows = folds.select_tested()
    places = locate_on_paths(development, paths=folds.paths, group=folds.number_groups()[rows], rows=rows)
    return ModelResult(
        paths=[measure_path(development.iloc[place], targets) for place in places],
        holdout=measure_path(holdout, targets),
    )


def measure_path(predictions: pd.DataFrame, targets: Targets) -> PathResult:
    """Return the metrics of predictions in the order of their rows; a bar without a row, as after a gap, earns 0."""
    time, net, turnover = fill_missing_bars(*trade_portfolio(predictions, targets), bar_ms=targets.bar_ms)
    traded, undefined = performance.measure_trading(net, turnover, bars_per_year=targets.bars_per_year)
    y, predicted = targets.y[predictions["row"]], predictions[list(targets.outputs)].to_numpy(np.float64)
    if len(targets.outputs) > 1:
        forecasts, reasons = forecast.measure_classification(y, predicted, names=targets.outputs)
        counts = forecast.count_confusion(y, predicted)
    else:
        forecasts, reasons = forecast.measure_regression(y, predicted[:, 0], neutral=targets.neutral)
        is_up = predicted > targets.neutral  # (n, 1)
        counts = forecast.count_confusion((y > targets.neutral).astype(np.int64), np.hstack([~is_up, is_up]))
    return PathResult(forecasts, counts, traded, reasons | undefined, time, net)


def fill_missing_bars(time: np.ndarray, *series: np.ndarray, bar_ms: int) -> tuple[np.ndarray, ...]:
    """Return times and series with the bars that have no row added: nothing is held there, nothing earned."""
    place = (time - time[0]) // bar_ms
    bars = place[-1] + 1
    filled = np.zeros((len(series), bars))
    filled[:, place] = series
    return time[0] + bar_ms * np.arange(bars), *filled


def trade_portfolio(predictions: pd.DataFrame, targets: Targets) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return distinct times, and at each the portfolio's net return and turnover."""
    result = trade_symbols(predictions, targets)
    time = targets.rows["time"].to_numpy()[predictions["row"]]
    times, net = trading.average_symbols(time, result.net, symbols=targets.symbols)
    return times, net, trading.average_symbols(time, result.turnover, symbols=targets.symbols)[1]


def trade_symbols(predictions: pd.DataFrame, targets: Targets) -> trading.Backtest:
    """Return the backtest of the rows' scores, every symbol with a capital of its own."""
    rows = predictions["row"].to_numpy()
    segment, score = number_runs(targets.rows.iloc[rows]), predictions["score"].to_numpy()
    return config.call_with(
        trading.run_backtest, score, segment, targets.move[rows], block=targets.costs, name="trading"
    )


def compare_in_and_out_of_sample(
    in_sample: pd.DataFrame, out_of_sample: pd.DataFrame, targets: Targets
) -> pd.DataFrame:
    """Return the annualized net Sharpe of every split on its own train rows and on its test rows."""
    sharpes = {
        name: {
            split: performance.sharpe(trade_portfolio(rows, targets)[1], bars_per_year=targets.bars_per_year)
            for split, rows in predictions.groupby("split")
        }
        for name, predictions in (("in_sample", in_sample), ("out_of_sample", out_of_sample))
    }
    return pd.DataFrame(sharpes)


def divide_in_by_out(splits: pd.DataFrame) -> tuple[float, str | None]:
    """Return the mean Sharpe of the splits in sample over that out of sample; NaN with a reason where undefined."""
    inside, outside = splits["in_sample"].mean(skipna=False), splits["out_of_sample"].mean(skipna=False)
    if np.isnan(inside) or np.isnan(outside):
        return float("nan"), "a split never trades"
    if outside <= 0:
        return float("nan"), f"out of sample the mean Sharpe is not positive: {outside:.3g}"
    return float(inside / outside), None


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
