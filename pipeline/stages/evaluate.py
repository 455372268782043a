"""evaluate <model>: measure its out-of-sample predictions, backtest them net of costs, and draw the plots."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from pipeline import artifacts, cli, config
from pipeline.datasets import kinds
from pipeline.evaluation import forecast, performance, returns
from pipeline.evaluation.fit_diagnosis import diagnose_fit
from pipeline.evaluation.path_metrics import (
    EvaluationData,
    ModelResult,
    PathResult,
    bin_calibration,
    compare_in_and_out_of_sample,
    divide_in_by_out,
    fill_missing_bars,
    measure_predictions,
    select_path,
    trade_symbols,
)
from pipeline.models.predictions import FINAL
from pipeline.reporting import learning_curves, plots, position_chart
from pipeline.reporting.position_chart import PositionHistory
from pipeline.samples import read_labels
from pipeline.targets import Target
from pipeline.validation.folds import Folds

CALIBRATION_BINS = 10


def main(model: str) -> None:
    """Measure and backtest a model's predictions beside the baselines'."""
    params = config.load_params()
    block = config.find_model(params, model).block
    folds, rows = Folds.load(artifacts.FOLDS / f"{block['dataset']}.parquet")
    predictions = pd.read_parquet(artifacts.OOS / f"{model}.parquet")
    data = read_evaluation_data(params, block, rows, symbols=list(predictions["symbol"].unique()))
    development, holdout = split_off_holdout(predictions)
    result = measure_predictions(development, holdout, data, folds)
    simple = pd.read_parquet(artifacts.BASELINES / block["dataset"] / f"{block['target']}.parquet")
    baselines = {
        str(name): measure_predictions(*split_off_holdout(part), data, folds)
        for name, part in simple[data.is_included[simple["row"]]].groupby("baseline", observed=True)
    }
    in_sample, _ = split_off_holdout(pd.read_parquet(artifacts.IN_SAMPLE / f"{model}.parquet"))
    history, training = read_history(model), artifacts.read_json(artifacts.report_path("train/details", model))
    diagnoses = diagnose_fits(history, training)
    headline = make_forecast_headline(result, baselines["linear"])
    details = collect_model_details(result, baselines)
    if data.output.no_score_reason:
        headline |= {"not_traded": data.output.no_score_reason}
        headline |= {name: average_paths(result, name) for name in ("r2", "mae") if name in result.paths[0].forecast}
    else:
        splits = compare_in_and_out_of_sample(in_sample, development, data)
        headline |= make_trading_headline(result, splits)
        details |= summarize_in_and_out_of_sample(splits)
        draw_trading(model, result, holdout, data)
    write_returns(model, result)
    artifacts.write_json(artifacts.report_path("evaluate", model), headline | summarize_diagnoses(diagnoses))
    artifacts.write_json(artifacts.report_path("evaluate/details", model), details | {"fit_diagnoses": diagnoses})
    draw_confusion(model, result, data)
    draw_calibration(model, select_path(development, data, folds, path=0), data)
    draw_training(model, history, training["importances"])


def write_returns(model: str, result: ModelResult) -> None:
    """Write the net returns of every path and of the holdout; no row where predictions have no score."""
    holdout = (result.holdout.time, result.holdout.net)
    table = returns.make_table([(path.time, path.net) for path in result.paths], holdout)
    artifacts.write_table(artifacts.RETURNS / f"{model}.parquet", table)


def read_evaluation_data(
    params: config.Block, block: config.Block, rows: pd.DataFrame, *, symbols: Sequence[str]
) -> EvaluationData:
    """Return the labels, prices and costs of the target that a model block names; `symbols` are those it predicts."""
    dataset, file = block["dataset"], artifacts.LABELS / block["dataset"] / f"{block['target']}.parquet"
    labels = read_labels(file, rows=rows)
    clock = kinds.import_part(params, dataset, "clock")
    clean = pd.read_parquet(artifacts.CLEAN / f"{dataset}.parquet", columns=[*clock.COLUMNS, "close"])
    return EvaluationData(
        rows=rows,
        clean=clean.rename(columns={clock.TIME: "time"}),
        y=labels["y"],
        move=labels["move"],
        output=Target.load(file).output,
        is_included=rows["symbol"].isin(symbols).to_numpy(),
        symbols=len(symbols),
        bar_ms=clock.find_step(clean),
        bars_per_year=clock.count_rows_per_year(clean),
        costs=config.look_up(params, "trading"),
        to_ms=partial(clock.to_ms, clean),
    )


def split_off_holdout(predictions: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the predictions of the development part, and those of the final fit for the holdout."""
    is_final = predictions["split"] == FINAL
    return predictions[~is_final], predictions[is_final]


def read_history(model: str) -> dict[str, list[dict[str, float]]]:
    """Return the history of each fit by the name of its split, without the fields that an entry lacks."""
    table = pd.read_csv(artifacts.HISTORY / f"{model}.csv", dtype={"split": str})
    return {
        str(split): [{str(name): value for name, value in row.dropna().items()} for _, row in part.iterrows()]
        for split, part in table.set_index("split").groupby(level="split", sort=False)
    }


def diagnose_fits(history: dict[str, list[dict[str, float]]], training: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the diagnosis of each fit that early stopping reports on, by the name of its split."""
    stopping = {fit["split"]: fit.get("fit_report", {}).get("early_stopping") for fit in training["fits"]}
    return {
        split: diagnose_fit(
            history[split], best_epoch=report["best_epoch"], reached_last_epoch=report["reached_last_epoch"]
        )
        for split, report in stopping.items()
        if report
    }


def summarize_diagnoses(diagnoses: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Return the share of fits whose diagnosis is "healthy"; nothing for a family without diagnoses."""
    verdicts = [diagnosis["verdict"] for diagnosis in diagnoses.values()]
    return {"healthy_fit_share": verdicts.count("healthy") / len(verdicts)} if verdicts else {}


def make_forecast_headline(result: ModelResult, linear: ModelResult) -> dict[str, object]:
    """Return the metrics of forecasts that `dvc metrics` shows."""
    shown = {"accuracy": "hit_rate", "directional_accuracy": "hit_rate", "pinball_loss": "pinball_loss"}
    known = [name for name in shown if name in result.paths[0].forecast]
    return {
        "ic": average_paths(result, "ic"),
        "rank_ic": average_paths(result, "rank_ic"),
        **{shown[name]: average_paths(result, name) for name in known},
        "ic_minus_linear": average_paths(result, "ic") - average_paths(linear, "ic"),
        "holdout": {"ic": result.holdout.forecast["ic"]},
        "reason": explain_undefined(result) or None,
    }


def make_trading_headline(result: ModelResult, splits: pd.DataFrame) -> dict[str, object]:
    """Return the metrics of trading that `dvc metrics` shows; a path that never trades has no Sharpe ratio."""
    sharpes = np.array([path.trading["sharpe"] for path in result.paths])
    holdout = result.holdout
    reasons = [explain_undefined(result), explain_undefined_sharpes(result, splits)]
    return {
        "sharpe": float(sharpes[performance.find_median_path(sharpes)]),
        "sharpe_worst": float(np.sort(sharpes)[0]),
        "sharpe_std": float(np.nanstd(sharpes, ddof=1)) if np.isfinite(sharpes).sum() > 1 else float("nan"),
        "in_to_out_of_sample_sharpe": divide_in_by_out(splits)[0],
        "turnover": float(np.mean([path.trading["turnover"] for path in result.paths])),
        "holdout": {
            "ic": holdout.forecast["ic"],
            **{name: holdout.trading[name] for name in ("sharpe", "max_drawdown", "net_return")},
        },
        "reason": "; ".join(reason for reason in reasons if reason) or None,
    }


def explain_undefined(result: ModelResult) -> str:
    """Return why metrics of paths and of the holdout are undefined, where some are."""
    paths = [*((f"path {number}", path) for number, path in enumerate(result.paths)), ("holdout", result.holdout)]
    return "; ".join(f"{name}: no {metric}, {path.reasons[metric]}" for name, path in paths for metric in path.reasons)


def explain_undefined_sharpes(result: ModelResult, splits: pd.DataFrame) -> str:
    """Return why metrics that need several paths or splits are undefined, where some are."""
    reasons = []
    if np.isfinite([path.trading["sharpe"] for path in result.paths]).sum() < 2:
        reasons.append("no sharpe_std, fewer than two paths trade")
    if ratio := divide_in_by_out(splits)[1]:
        reasons.append(f"no in_to_out_of_sample_sharpe, {ratio}")
    return "; ".join(reasons)


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


def collect_paths(result: ModelResult) -> dict[str, object]:
    """Return the metrics of each path and of the holdout."""
    return {"paths": [collect_path(path) for path in result.paths], "holdout": collect_path(result.holdout)}


def collect_path(path: PathResult) -> dict[str, object]:
    """Return all metrics of one path, and why some are undefined."""
    counts = {"bars": len(path.net), "confusion": path.confusion}
    return {**counts, **path.forecast, **path.trading, "undefined": path.reasons}


def draw_trading(model: str, result: ModelResult, holdout: pd.DataFrame, data: EvaluationData) -> None:
    """Draw the equity curves of a model, and its positions on the holdout."""
    equity = plots.plot_equity(
        data.to_ms(result.paths[0].time),
        np.stack([performance.compound_equity(path.net) for path in result.paths]),
        holdout_time=data.to_ms(result.holdout.time),
        holdout=performance.compound_equity(result.holdout.net),
        title=f"{model}: equity net of costs",
    )
    artifacts.write_figure(artifacts.PLOTS / model / "equity.png", equity)
    draw_positions(model, holdout, data)


def draw_confusion(model: str, result: ModelResult, data: EvaluationData) -> None:
    """Draw the confusion of the first path, where predictions have a direction."""
    if (counts := result.paths[0].confusion) is None:
        return
    names = data.output.names if data.output.is_classification else ("down", "up")
    figure = plots.plot_confusion(counts, names, title=f"{model}: predicted against actual class")
    artifacts.write_figure(artifacts.PLOTS / model / "confusion.png", figure)


def draw_calibration(model: str, path: pd.DataFrame, data: EvaluationData) -> None:
    """Draw how well the predictions of one path are calibrated."""
    output, y = data.output, data.y[path["row"]]
    predicted = path[list(output.names)].to_numpy(np.float64)
    if output.kind == "quantiles":
        coverage = (np.asarray(output.levels), *forecast.measure_coverage(y, predicted))
        curves, unit = {"coverage": coverage}, "probability"
    else:
        actual = y[:, None] == np.arange(len(output.names)) if output.is_classification else y[:, None]  # (n, outputs)
        curves = {
            name: bin_calibration(predicted[:, i], actual[:, i], bins=CALIBRATION_BINS)
            for i, name in enumerate(output.names)
        }
        unit = "probability" if output.is_classification else output.names[0]
    figure = plots.plot_calibration(curves, title=f"{model}: calibration", unit=unit)
    artifacts.write_figure(artifacts.PLOTS / model / "calibration.png", figure)


def draw_positions(model: str, holdout: pd.DataFrame, data: EvaluationData) -> None:
    """Draw the positions of a model over the price of the first symbol on the holdout."""
    symbol, shown = trace_positions(holdout, data)
    figure = position_chart.plot_positions(shown, title=f"{model} on the holdout, {symbol}")
    artifacts.write_figure(artifacts.PLOTS / model / "positions.png", figure)


def trace_positions(predictions: pd.DataFrame, data: EvaluationData) -> tuple[str, PositionHistory]:
    """Return the first symbol of the predictions, and its positions bar by bar; in a gap its last price stands."""
    symbols = predictions["symbol"].to_numpy()
    own, prices = predictions[symbols == symbols[0]], data.clean[data.clean["symbol"] == symbols[0]]
    result, times = trade_symbols(own, data), data.rows["time"].to_numpy()[own["row"]]
    time, net, position = fill_missing_bars(times, result.net, result.position, bar_ms=data.bar_ms)
    end = time[-1] + data.bar_ms if data.bar_ms else prices["time"][prices["time"] > time[-1]].iloc[0]
    instants = np.append(time, end)
    price = prices.set_index("time")["close"].reindex(instants, method="ffill").to_numpy()
    return symbols[0], PositionHistory.from_returns(data.to_ms(instants), price=price, position=position, net=net)


def draw_training(
    model: str, history: dict[str, list[dict[str, float]]], importances: dict[str, dict[str, float]] | None
) -> None:
    """Draw the learning curves of all fits, and the importances of the final one."""
    title = f"{model}: learning curves, {len(history)} fits"
    curves = learning_curves.plot_learning_curves(list(history.values()), title=title)
    kind, gain = next(iter(importances.items())) if importances else ("undefined", {})
    bars_figure = plots.plot_importances(gain, title=f"{model}: importance by {kind}")
    artifacts.write_figure(artifacts.PLOTS / model / "learning_curves.png", curves)
    artifacts.write_figure(artifacts.PLOTS / model / "importances.png", bars_figure)


if __name__ == "__main__":
    cli.run(main)
