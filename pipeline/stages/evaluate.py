"""evaluate <model>: measure its out-of-sample predictions, backtest them net of costs, and draw the plots."""

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from pipeline import artifacts, cli, config, digests
from pipeline.datasets import kinds
from pipeline.evaluation import performance, returns
from pipeline.evaluation.capacity import Capacity, measure_capacity, read_capacity_settings, summarize_capacity
from pipeline.evaluation.evaluation_data import EvaluationData, load_evaluation_data
from pipeline.evaluation.execution import Execution, ExecutionSettings, average_half_spread, measure_execution
from pipeline.evaluation.forecast_report import describe_forecasts, read_settings
from pipeline.evaluation.gates import Gates, judge_gates
from pipeline.evaluation.headline import name_metrics_file, select_model_figures
from pipeline.evaluation.model_findings import ModelBands, describe_model
from pipeline.evaluation.path_metrics import (
    ModelResult,
    PathResult,
    bin_forecasts,
    compare_in_and_out_of_sample,
    divide_in_by_out,
    measure_predictions,
    measure_stationarity,
    select_path,
    select_same_path,
)
from pipeline.evaluation.prediction_sets import describe_coverage
from pipeline.evaluation.predictions import select_labeled
from pipeline.evaluation.record import collect_parameters, describe_market, record_path
from pipeline.evaluation.trainings import Training, load_training, summarize_diagnoses
from pipeline.evaluation.trials import render_lines
from pipeline.models.predictions import FINAL
from pipeline.reporting import execution_plots, forecast_page, learning_curves, plots, position_chart, tuning_plots
from pipeline.validation.folds import Folds

log = logging.getLogger(__name__)

CALIBRATION_BINS = 10
LAST_SHARE = 0.15  # of the development part, whose positions are drawn: all of it would show no single trade


def main(model: str) -> None:
    """Measure and backtest a model's predictions beside the baselines'."""
    params = config.load_params()
    entry = config.find_model(params, model)
    block, training = entry.block, load_training(entry)
    folds, rows = Folds.load(digests.verify(artifacts.FOLDS / f"{block['dataset']}.parquet"))
    predictions = drop_final_fit(training.out_of_sample)
    symbols, clock = list(predictions["symbol"].unique()), kinds.import_part(params, block["dataset"], "clock")
    fills = kinds.import_part(params, block["dataset"], "fills")
    data = load_evaluation_data(params, block, rows, symbols=symbols, clock=clock, fills=fills)
    result = measure_predictions(predictions, data, folds)
    simple = artifacts.read_table(artifacts.BASELINES / block["dataset"] / f"{block['target']}.parquet")
    tables = {
        str(name): part for name, part in simple[data.is_included[simple["row"]]].groupby("baseline", observed=True)
    }
    baselines = {name: measure_predictions(part, data, folds) for name, part in tables.items()}
    settings, paths = read_settings(params), len(result.paths)
    coverage, details = describe_coverage(predictions, data, folds, fits=training.fits, paths=paths, settings=settings)
    headline: dict[str, Any] = make_forecast_headline(result, baselines["linear"]) | coverage
    number = 0 if data.output.no_score_reason else result.median_path
    path = select_path(predictions, data, folds, path=number)
    others = select_same_path(tables, data, folds, path=number % folds.n_paths)
    details |= collect_model_details(result, baselines) | {
        "forecasts": describe_forecasts(path, others, data, settings=settings, seed=params["seed"]) | {"path": number},
        "model_findings": find_model_findings(params, training),
    }
    if data.output.no_score_reason:
        headline |= {"not_traded": data.output.no_score_reason}
        headline |= {name: average_paths(result, name) for name in ("r2", "mae") if name in result.paths[0].forecast}
    else:
        splits = compare_in_and_out_of_sample(drop_final_fit(training.in_sample), predictions, data)
        headline |= make_trading_headline(result, splits)
        details |= summarize_in_and_out_of_sample(splits) | judge_model(params, result, splits)
        execution, capacity = judge_execution(params, path, data)
        details |= {"execution": asdict(execution), "capacity": asdict(capacity)}
        headline |= {"executable": execution.executability.is_executable, "capacity": summarize_capacity(capacity)}
        draw_equity(model, result, data)
        draw_execution(model, execution, data)
        draw_positions(model, path, data, number=number)
    write_returns(model, result)
    write_round_trips(model, result)
    write_record(model, result, data, collect_parameters(params, model, folds))
    headline |= summarize_diagnoses(training.diagnoses)
    write_reports(model, headline, details | {"fit_diagnoses": training.diagnoses})
    draw_confusion(model, result, data)
    draw_calibration(model, path, data, number=number)
    draw_training(model, training)


def write_reports(model: str, headline: Mapping[str, Any], details: Mapping[str, Any]) -> None:
    """Write the report of a model, its headline figures, all details, and the page of its forecasts."""
    artifacts.write_report("evaluate", model, headline)
    artifacts.write_json(name_metrics_file(model), select_model_figures(headline))
    artifacts.write_report("evaluate/details", model, details)
    page = forecast_page.render_page(model, details)
    artifacts.write_text(artifacts.report_path("evaluate", model).with_suffix(".md"), page)


def write_returns(model: str, result: ModelResult) -> None:
    """Write the net returns of every path; no row where predictions have no score."""
    table = returns.make_table([(path.time, path.net) for path in result.paths], result.seeds)
    artifacts.write_table(artifacts.RETURNS / f"{model}.parquet", table)


def write_round_trips(model: str, result: ModelResult) -> None:
    """Write the round trips of every path; no row where predictions have no score."""
    tables = [
        path.round_trips.assign(path=np.int16(number), seed=np.int64(seed))
        for number, (seed, path) in enumerate(zip(result.seeds, result.paths, strict=True))
    ]
    artifacts.write_table(artifacts.ROUND_TRIPS / f"{model}.parquet", pd.concat(tables, ignore_index=True))


def write_record(model: str, result: ModelResult, data: EvaluationData, parameters: Mapping[str, Any]) -> None:
    """Write the trial that the median path is; no line where predictions have no score."""
    lines = []
    if not data.output.no_score_reason:
        path = result.paths[result.median_path]
        lines = [record_path("trial", parameters, data, path, describe_market(data)).make_line()]
    artifacts.write_record(artifacts.TRIALS / f"{model}.jsonl", render_lines(lines))


def drop_final_fit(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the predictions of the splits; those of the final fit are for the holdout, which stays closed."""
    return predictions[predictions["split"] != FINAL]


def make_forecast_headline(result: ModelResult, linear: ModelResult) -> dict[str, Any]:
    """Return the metrics of forecasts in the report of a model."""
    shown = {"accuracy": "hit_rate", "directional_accuracy": "hit_rate", "pinball_loss": "pinball_loss"}
    known = [name for name in shown if name in result.paths[0].forecast]
    return {
        "ic": average_paths(result, "ic"),
        "rank_ic": average_paths(result, "rank_ic"),
        **{shown[name]: average_paths(result, name) for name in known},
        "ic_minus_linear": average_paths(result, "ic") - average_paths(linear, "ic"),
        "reason": explain_undefined(result) or None,
    }


def make_trading_headline(result: ModelResult, splits: pd.DataFrame) -> dict[str, object]:
    """Return the metrics of trading in the report of a model; a path that never trades has no Sharpe ratio."""
    sharpes, median = result.sharpes, result.paths[result.median_path].trading
    reasons = [explain_undefined(result), explain_undefined_sharpes(result, splits)]
    return {
        "sharpe_daily": median["sharpe_daily"],
        "sharpe": median["sharpe"],
        "sharpe_worst": float(np.sort(sharpes)[0]),
        "sharpe_std": float(np.nanstd(sharpes, ddof=1)) if np.isfinite(sharpes).sum() > 1 else float("nan"),
        "in_to_out_of_sample_sharpe": divide_in_by_out(splits)[0],
        "stationarity": measure_stationarity(splits)[0],
        "turnover": float(np.mean([path.trading["turnover"] for path in result.paths])),
        **{name: median[name] for name in ("break_even_bps", "round_trips", "gap_return")},
        "idle_paths": int(np.isnan(sharpes).sum()),
        **measure_seeds(result),
        "reason": "; ".join(reason for reason in reasons if reason) or None,
    }


def explain_undefined(result: ModelResult) -> str:
    """Return why metrics of paths are undefined, where some are."""
    return "; ".join(
        f"path {number}: no {metric}, {path.reasons[metric]}"
        for number, path in enumerate(result.paths)
        for metric in path.reasons
    )


def explain_undefined_sharpes(result: ModelResult, splits: pd.DataFrame) -> str:
    """Return why metrics that need several paths or splits are undefined, where some are."""
    reasons = []
    if np.isfinite(result.sharpes).sum() < 2:
        reasons.append("no sharpe_std, fewer than two paths trade")
    if ratio := divide_in_by_out(splits)[1]:
        reasons.append(f"no in_to_out_of_sample_sharpe, {ratio}")
    if variation := measure_stationarity(splits)[1]:
        reasons.append(f"no stationarity, {variation}")
    return "; ".join(reasons)


def measure_seeds(result: ModelResult) -> dict[str, object]:
    """Return the number of seeds and the standard deviation between them of the metrics that stand beside it.

    A seed's Sharpe ratios and net return are of its median path, its IC is the mean over its paths.
    """
    seeds = np.unique(result.seeds)
    alone = [result.select_seed(seed) for seed in seeds]
    medians = [own.paths[own.median_path].trading for own in alone]
    values = {name: [median[name] for median in medians] for name in ("sharpe_daily", "sharpe", "net_return")}
    values["ic"] = [average_paths(own, "ic") for own in alone]
    spread = {f"{name}_std": float(np.std(found, ddof=1)) for name, found in values.items()} if len(seeds) > 1 else {}
    return {"seeds": {"count": len(seeds), **spread}}


def average_paths(result: ModelResult, name: str) -> float:
    """Return a forecast metric's mean over the paths."""
    return float(np.mean([path.forecast[name] for path in result.paths]))


def collect_model_details(result: ModelResult, baselines: dict[str, ModelResult]) -> dict[str, object]:
    """Return every metric of the model and of the baselines; NaN with its reason."""
    found = {name: collect_paths(baseline) for name, baseline in baselines.items()}
    return {"model": collect_paths(result), "baselines": found}


def summarize_in_and_out_of_sample(splits: pd.DataFrame) -> dict[str, object]:
    """Return the Sharpe ratios of the splits in and out of sample, and the ratio of their means."""
    ratio, reason = divide_in_by_out(splits)
    in_and_out = {"in_to_out_of_sample_sharpe": ratio, "reason": reason, "splits": splits.to_dict("list")}
    return {"sharpe_in_sample_and_out": in_and_out}


def judge_model(params: config.Block, result: ModelResult, splits: pd.DataFrame) -> dict[str, object]:
    """Return which gates of params a model passes."""
    gates = config.call_with(Gates, block=config.look_up(params, "gates"), name="gates")
    measurements = {"stationarity": measure_stationarity(splits)[0], "seeds": len(np.unique(result.seeds))}
    return {"gates": {name: asdict(found) for name, found in judge_gates(measurements, gates).items()}}


def find_model_findings(params: config.Block, training: Training) -> dict[str, Any]:
    """Return the measurements of a fitted model beside their bands; empty for one that is not fitted."""
    bands = config.call_with(ModelBands, block=config.look_up(params, "model_bands"), name="model_bands")
    return describe_model(training.fits, training.history, training.importances, training.audit, bands)


def judge_execution(params: config.Block, path: pd.DataFrame, data: EvaluationData) -> tuple[Execution, Capacity]:
    """Return what the predictions of a path earn with other terms, and their capacity; log what is suspicious."""
    block = config.look_up(params, "execution")
    settings = config.call_with(ExecutionSettings, block=block, name="execution")
    half_spread_bps = average_half_spread(path, data)
    execution = measure_execution(path, data, settings=settings, half_spread_bps=half_spread_bps)
    for warning in execution.warnings:
        log.warning("%s", warning)
    impact = read_capacity_settings(params)
    return execution, measure_capacity(path, data, settings=impact, capitals=settings.capitals)


def collect_paths(result: ModelResult) -> dict[str, object]:
    """Return the metrics of each path."""
    return {"paths": [collect_path(path) for path in result.paths]}


def collect_path(path: PathResult) -> dict[str, object]:
    """Return all metrics of one path, and why some are undefined."""
    counts = {"bars": len(path.net), "confusion": path.confusion}
    return {**counts, **path.forecast, **path.trading, "undefined": path.reasons}


def draw_equity(model: str, result: ModelResult, data: EvaluationData) -> None:
    """Draw the equity of a model on every path."""
    equity = plots.plot_equity(
        data.to_ms(result.paths[0].time),
        np.stack([performance.compound_equity(path.net) for path in result.paths]),
        title=f"{model}: equity on the paths of the development part",
        median_path=result.median_path,
    )
    artifacts.write_figure(artifacts.PLOTS / model / "equity.png", equity)


def draw_execution(model: str, execution: Execution, data: EvaluationData) -> None:
    """Draw the results of a model's median path against delay, cost and capital."""
    figure = execution_plots.plot_execution(
        execution,
        title=f"{model}: the median path with other terms of trading",
        delay_bars=data.rules.delay_bars,
        capital=data.rules.capital,
        fee_bps=data.costs.fee_bps,
    )
    artifacts.write_figure(artifacts.PLOTS / model / "execution.png", figure)


def draw_confusion(model: str, result: ModelResult, data: EvaluationData) -> None:
    """Draw the confusion of the first path, where predictions have a direction."""
    if (counts := result.paths[0].confusion) is None:
        return
    names = data.output.names if data.output.is_classification else ("down", "up")
    figure = plots.plot_confusion(counts, names, title=f"{model}: predicted against actual class on path 0")
    artifacts.write_figure(artifacts.PLOTS / model / "confusion.png", figure)


def draw_calibration(model: str, path: pd.DataFrame, data: EvaluationData, *, number: int) -> None:
    """Draw how well the predictions of one path are calibrated; a position, which forecasts no value, is not."""
    if data.output.kind == "position":
        figure = plots.plot_message(f"{model}: no calibration: the score is a position, which forecasts no value")
        artifacts.write_figure(artifacts.PLOTS / model / "calibration.png", figure)
        return
    labeled = select_labeled(path, data.is_labeled)
    output, y = data.output, data.y[labeled["row"]]
    predicted = labeled[list(output.names)].to_numpy(np.float64)
    curves = bin_forecasts(y, predicted, output, bins=CALIBRATION_BINS)
    unit = "probability" if output.is_classification or output.kind == "quantiles" else output.names[-1]
    figure = plots.plot_calibration(curves, title=f"{model}: calibration on path {number}", unit=unit)
    artifacts.write_figure(artifacts.PLOTS / model / "calibration.png", figure)


def draw_positions(model: str, path: pd.DataFrame, data: EvaluationData, *, number: int) -> None:
    """Draw the last positions of a model on one path, the median one, over the price of the first symbol."""
    symbol, history = position_chart.trace_positions(path, data)
    part = f"last {LAST_SHARE:.0%} of its bars in the development part"
    title = f"{model}: positions on the median path (path {number}), {part}, {symbol}"
    figure = position_chart.plot_positions(history.take_last(LAST_SHARE), title=title)
    artifacts.write_figure(artifacts.PLOTS / model / "positions.png", figure)


def draw_training(model: str, training: Training) -> None:
    """Draw the learning curves of all fits, and the importances by each kind, or why there are none."""
    if training.not_fitted:
        message = plots.plot_message(f"{model}: undefined: {training.not_fitted}")
        curves, bars_figure = message, message
    else:
        title = f"{model}: learning curves, {len(training.history)} fits"
        history = list(training.history.values())
        curves = learning_curves.plot_learning_curves(history, title=title, targets=training.targets)
        bars_figure = plots.plot_importances(list_importances(training), title=f"{model}: importance")
    artifacts.write_figure(artifacts.PLOTS / model / "learning_curves.png", curves)
    artifacts.write_figure(artifacts.PLOTS / model / "importances.png", bars_figure)
    for name, figure in tuning_plots.plot_search(training.tuning, title=f"{model}: the final search").items():
        artifacts.write_figure(artifacts.PLOTS / model / f"search_{name}.png", figure)


def list_importances(training: Training) -> dict[str, Mapping[str, float]]:
    """Return the importances by kind: the first that the final model has of its own, and that by permutation."""
    own = dict(list((training.importances or {}).items())[:1])
    permuted = training.audit["permutation_importance"]
    return own | ({f"permutation ({permuted['loss']})": permuted["importances"]} if permuted else {})


if __name__ == "__main__":
    cli.run(main)
