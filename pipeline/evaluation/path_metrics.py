"""Measure and trade a table of predictions: on every path of the development part, or on rows of the holdout."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline import config, trading
from pipeline.evaluation import forecast, performance
from pipeline.evaluation.evaluation_data import EvaluationData
from pipeline.evaluation.predictions import locate_on_paths
from pipeline.samples import number_runs
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
        locate_on_paths(own, paths=numbers, group=folds.number_groups()[rows], rows=rows)[0]
    ]
    return selected


def list_seeds(predictions: pd.DataFrame) -> np.ndarray:
    """Return (N,) the seed of the fit that made each prediction; 0 for baselines, which have none."""
    return np.asarray(predictions.get("seed", np.zeros(len(predictions), np.int64)))


def select_predicted(data: EvaluationData, folds: Folds) -> np.ndarray:
    """Return the rows, ascending, that any split tests, of the symbols that the model predicts."""
    rows = folds.select_tested()
    return np.asarray(rows[data.is_included[rows]])


def measure_predictions(predictions: pd.DataFrame, data: EvaluationData, folds: Folds) -> ModelResult:
    """Return the metrics of the splits' predictions on every path of every seed."""
    rows, seeds = select_predicted(data, folds), np.unique(list_seeds(predictions))
    paths = []
    for seed in seeds:
        own = predictions[list_seeds(predictions) == seed]
        places = locate_on_paths(own, paths=folds.paths, group=folds.number_groups()[rows], rows=rows)
        paths += [measure_path(own.iloc[place], data) for place in places]
    return ModelResult(paths=paths, seeds=np.repeat(seeds, folds.n_paths))


def measure_path(predictions: pd.DataFrame, data: EvaluationData) -> PathResult:
    """Return the metrics of predictions in the order of their rows; a bar without a row, as after a gap, earns 0."""
    y, predicted = data.y[predictions["row"]], predictions[list(data.output.names)].to_numpy(np.float64)
    forecasts, reasons = forecast.measure_forecast(y, predicted, data.output)
    confusion = count_confusion(y, predicted, data.output)
    if "score" not in predictions:
        return PathResult(forecasts, confusion, {}, reasons, np.empty(0, np.int64), np.empty(0))
    time, net, turnover = fill_missing_bars(*trade_portfolio(predictions, data), bar_ms=data.bar_ms)
    traded, undefined = performance.measure_trading(
        data.to_ms(time), net, turnover, bars_per_year=data.bars_per_year, risk_free_rate=data.risk_free_rate
    )
    return PathResult(forecasts, confusion, traded, reasons | undefined, time, net)


def count_confusion(y: np.ndarray, predicted: np.ndarray, output: Output) -> np.ndarray | None:
    """Return the confusion matrix of classes, or of the sides of neutral; None where y has no direction."""
    if output.is_classification:
        return forecast.count_confusion(y, predicted)
    if not output.has_direction:
        return None
    is_up = output.take_center(predicted) > output.neutral
    return forecast.count_confusion((y > output.neutral).astype(np.int64), np.column_stack([~is_up, is_up]))


def fill_missing_bars(time: np.ndarray, *series: np.ndarray, bar_ms: int | None) -> tuple[np.ndarray, ...]:
    """Return times and series with the bars that have no row added: nothing is held there, nothing earned."""
    if not bar_ms:
        return time, *series
    place = (time - time[0]) // bar_ms
    bars = place[-1] + 1
    filled = np.zeros((len(series), bars))
    filled[:, place] = series
    return time[0] + bar_ms * np.arange(bars), *filled


def trade_portfolio(predictions: pd.DataFrame, data: EvaluationData) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return distinct times, and at each the portfolio's net return and turnover."""
    result = trade_symbols(predictions, data)
    time = data.rows["time"].to_numpy()[predictions["row"]]
    times, net = trading.average_symbols(time, result.net, symbols=data.symbols)
    return times, net, trading.average_symbols(time, result.turnover, symbols=data.symbols)[1]


def trade_symbols(predictions: pd.DataFrame, data: EvaluationData) -> trading.Backtest:
    """Return the backtest of the rows' scores, every symbol with a capital of its own."""
    rows = predictions["row"].to_numpy()
    segment = number_runs(data.rows["segment"].to_numpy()[rows], rows)
    score = predictions["score"].to_numpy()
    return config.call_with(trading.run_backtest, score, segment, data.move[rows], block=data.costs, name="trading")


def compare_in_and_out_of_sample(
    in_sample: pd.DataFrame, out_of_sample: pd.DataFrame, data: EvaluationData
) -> pd.DataFrame:
    """Return the annualized net Sharpe of every split on its own train rows and on its test rows."""
    sharpes = {
        name: {
            split: measure_sharpe(trade_portfolio(rows, data)[1], data)
            for split, rows in predictions.groupby([list_seeds(predictions), predictions["split"]])
        }
        for name, predictions in (("in_sample", in_sample), ("out_of_sample", out_of_sample))
    }
    return pd.DataFrame(sharpes)


def measure_sharpe(net: np.ndarray, data: EvaluationData) -> float:
    """Return the annualized Sharpe ratio of net returns (T,) in excess of the risk-free rate."""
    year = {"bars_per_year": data.bars_per_year}
    excess = performance.subtract_risk_free(net, risk_free_rate=data.risk_free_rate, **year)
    return float(performance.sharpe(excess, **year))


def measure_stationarity(splits: pd.DataFrame) -> tuple[float, str | None]:
    """Return the coefficient of variation of the splits' Sharpe out of sample; NaN with a reason where undefined."""
    sharpes = splits["out_of_sample"].to_numpy(np.float64)
    if np.isnan(sharpes).any():
        return float("nan"), "a split never trades"
    if len(sharpes) < 2:
        return float("nan"), "there is one split"
    if sharpes.mean() <= 0:
        return float("nan"), f"out of sample the mean Sharpe is not positive: {sharpes.mean():.3g}"
    return float(sharpes.std(ddof=1) / sharpes.mean()), None


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
