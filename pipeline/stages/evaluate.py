"""evaluate <model>: measure its out-of-sample predictions, backtest them net of costs, and draw the plots."""

from typing import Any

import numpy as np
import pandas as pd

from pipeline import artifacts, cli, config, labels
from pipeline.evaluation import performance, returns
from pipeline.evaluation.fit_diagnosis import diagnose_fit
from pipeline.evaluation.path_metrics import (
    ModelResult,
    PathResult,
    Targets,
    bin_calibration,
    compare_in_and_out_of_sample,
    divide_in_by_out,
    fill_missing_bars,
    measure_predictions,
    select_path,
    trade_symbols,
)
from pipeline.market import bars
from pipeline.models.predictions import FINAL
from pipeline.reporting import learning_curves, plots, position_chart
from pipeline.reporting.position_chart import PositionHistory
from pipeline.samples import align, make_keys
from pipeline.validation.folds import Folds

CALIBRATION_BINS = 10


def main(model: str) -> None:
    """Measure and backtest a model's predictions beside the baselines'."""
    params = config.load_params()
    block = config.find_model(params, model).block
    folds, segment = Folds.load(artifacts.FOLDS / f"{block['dataset']}.parquet")
    targets = read_targets(params, block, make_keys(segment, folds.time))
    predictions = pd.read_parquet(artifacts.OOS / f"{model}.parquet")
    development, holdout = split_off_holdout(predictions)
    result = measure_predictions(development, holdout, targets, folds)
    simple = pd.read_parquet(artifacts.BASELINES / block["dataset"] / f"{block['target']}.parquet")
    baselines = {
        str(name): measure_predictions(*split_off_holdout(part), targets, folds)
        for name, part in simple.groupby("baseline", observed=True)
    }
    in_sample, _ = split_off_holdout(pd.read_parquet(artifacts.IN_SAMPLE / f"{model}.parquet"))
    splits = compare_in_and_out_of_sample(in_sample, development, targets)
    history, training = read_history(model), artifacts.read_json(artifacts.report_path("train/details", model))
    diagnoses = diagnose_fits(history, training)
    holdout_series = (result.holdout.time, result.holdout.net)
    table = returns.make_table([(path.time, path.net) for path in result.paths], holdout_series)
    artifacts.write_table(artifacts.RETURNS / f"{model}.parquet", table)
    headline = make_model_headline(result, baselines["linear"], splits) | summarize_diagnoses(diagnoses)
    artifacts.write_json(artifacts.report_path("evaluate", model), headline)
    details = collect_model_details(result, baselines, splits) | {"fit_diagnoses": diagnoses}
    artifacts.write_json(artifacts.report_path("evaluate/details", model), details)
    draw_result(model, result, targets)
    draw_calibration(model, select_path(development, folds, path=0), targets)
    draw_positions(model, holdout, targets)
    draw_training(model, history, training["importances"])


def read_targets(params: config.Block, block: config.Block, rows: pd.DataFrame) -> Targets:
    """Return the labels, prices and costs of the target that a model block names."""
    dataset, target = block["dataset"], block["target"]
    labeled = align(pd.read_parquet(artifacts.LABELS / dataset / f"{target}.parquet"), rows, name=target)
    clean = pd.read_parquet(artifacts.CLEAN / f"{dataset}.parquet", columns=["symbol", "segment", "open_time", "close"])
    kind = config.look_up(params, f"datasets.{dataset}.targets.{target}.kind")
    return Targets(
        rows=rows,
        clean=clean,
        y=labeled["y"].to_numpy(),
        move=labeled["move"].to_numpy(),
        outputs=labels.OUTPUTS[kind],
        neutral=labels.NEUTRAL[kind] if kind in labels.NEUTRAL else float("nan"),
        symbols=clean["symbol"].nunique(),
        bar_ms=bars.find_interval_ms(clean),
        bars_per_year=bars.count_bars_per_year(clean),
        costs=config.look_up(params, "trading"),
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


def make_model_headline(result: ModelResult, linear: ModelResult, splits: pd.DataFrame) -> dict[str, object]:
    """Return the dozen metrics that `dvc metrics` shows; a path that never trades has no Sharpe ratio."""
    sharpes = np.array([path.trading["sharpe"] for path in result.paths])
    hit_rate = "accuracy" if "accuracy" in result.paths[0].forecast else "directional_accuracy"
    holdout = result.holdout
    return {
        "ic": average_paths(result, "ic"),
        "rank_ic": average_paths(result, "rank_ic"),
        "hit_rate": average_paths(result, hit_rate),
        "ic_minus_linear": average_paths(result, "ic") - average_paths(linear, "ic"),
        "sharpe": float(sharpes[performance.find_median_path(sharpes)]),
        "sharpe_worst": float(np.sort(sharpes)[0]),
        "sharpe_std": float(np.nanstd(sharpes, ddof=1)) if np.isfinite(sharpes).sum() > 1 else float("nan"),
        "in_to_out_of_sample_sharpe": divide_in_by_out(splits)[0],
        "turnover": float(np.mean([path.trading["turnover"] for path in result.paths])),
        "holdout": {
            "ic": holdout.forecast["ic"],
            **{name: holdout.trading[name] for name in ("sharpe", "max_drawdown", "net_return")},
        },
        "reason": explain_undefined_figures(result, splits) or None,
    }


def explain_undefined_figures(result: ModelResult, splits: pd.DataFrame) -> str:
    """Return why metrics of the headline are undefined, where some are."""
    paths = [*((f"path {number}", path) for number, path in enumerate(result.paths)), ("holdout", result.holdout)]
    reasons = [f"{name}: no {metric}, {path.reasons[metric]}" for name, path in paths for metric in path.reasons]
    if np.isfinite([path.trading["sharpe"] for path in result.paths]).sum() < 2:
        reasons.append("no sharpe_std, fewer than two paths trade")
    if ratio := divide_in_by_out(splits)[1]:
        reasons.append(f"no in_to_out_of_sample_sharpe, {ratio}")
    return "; ".join(reasons)


def average_paths(result: ModelResult, name: str) -> float:
    """Return a forecast metric's mean over the paths."""
    return float(np.mean([path.forecast[name] for path in result.paths]))


def collect_model_details(
    result: ModelResult, baselines: dict[str, ModelResult], splits: pd.DataFrame
) -> dict[str, object]:
    """Return every metric of the model and of the baselines; NaN with its reason."""
    ratio, reason = divide_in_by_out(splits)
    in_and_out = {"in_to_out_of_sample_sharpe": ratio, "reason": reason, "splits": splits.to_dict("list")}
    return {
        "model": collect_paths(result),
        "baselines": {name: collect_paths(baseline) for name, baseline in baselines.items()},
        "sharpe_in_sample_and_out": in_and_out,
    }


def collect_paths(result: ModelResult) -> dict[str, object]:
    """Return the metrics of each path and of the holdout."""
    return {"paths": [collect_path(path) for path in result.paths], "holdout": collect_path(result.holdout)}


def collect_path(path: PathResult) -> dict[str, object]:
    """Return all metrics of one path, and why some are undefined."""
    counts = {"bars": len(path.net), "confusion": path.confusion}
    return {**counts, **path.forecast, **path.trading, "undefined": path.reasons}


def draw_result(model: str, result: ModelResult, targets: Targets) -> None:
    """Draw the equity curves of a model, and the confusion of its first path."""
    equity = plots.plot_equity(
        result.paths[0].time,
        np.stack([performance.compound_equity(path.net) for path in result.paths]),
        holdout_time=result.holdout.time,
        holdout=performance.compound_equity(result.holdout.net),
        title=f"{model}: equity net of costs",
    )
    names = targets.outputs if len(targets.outputs) > 1 else ("down", "up")
    confusion = plots.plot_confusion(result.paths[0].confusion, names, title=f"{model}: predicted against actual class")
    artifacts.write_figure(artifacts.PLOTS / model / "equity.png", equity)
    artifacts.write_figure(artifacts.PLOTS / model / "confusion.png", confusion)


def draw_calibration(model: str, path: pd.DataFrame, targets: Targets) -> None:
    """Draw how well the predictions of one path are calibrated."""
    predicted, y = path[list(targets.outputs)].to_numpy(np.float64), targets.y[path["row"]]
    actual = y[:, None] if len(targets.outputs) == 1 else y[:, None] == np.arange(len(targets.outputs))  # (n, outputs)
    curves = {
        name: bin_calibration(predicted[:, i], actual[:, i], bins=CALIBRATION_BINS)
        for i, name in enumerate(targets.outputs)
    }
    unit = "probability" if len(targets.outputs) > 1 else targets.outputs[0]
    figure = plots.plot_calibration(curves, title=f"{model}: calibration", unit=unit)
    artifacts.write_figure(artifacts.PLOTS / model / "calibration.png", figure)


def draw_positions(model: str, holdout: pd.DataFrame, targets: Targets) -> None:
    """Draw the positions of a model over the price of the first symbol on the holdout."""
    symbol, shown = trace_positions(holdout, targets)
    figure = position_chart.plot_positions(shown, title=f"{model} on the holdout, {symbol}")
    artifacts.write_figure(artifacts.PLOTS / model / "positions.png", figure)


def trace_positions(predictions: pd.DataFrame, targets: Targets) -> tuple[str, PositionHistory]:
    """Return the first symbol of the predictions, and its positions bar by bar; in a gap its last price stands."""
    symbol_of = targets.clean.drop_duplicates("segment").set_index("segment")["symbol"]
    symbols = symbol_of.loc[targets.rows["segment"].to_numpy()[predictions["row"]]].to_numpy()
    own, prices = predictions[symbols == symbols[0]], targets.clean[targets.clean["symbol"] == symbols[0]]
    result, times = trade_symbols(own, targets), targets.rows["time"].to_numpy()[own["row"]]
    time, net, position = fill_missing_bars(times, result.net, result.position, bar_ms=targets.bar_ms)
    instants = np.append(time, time[-1] + targets.bar_ms)
    price = prices.set_index("open_time")["close"].reindex(instants, method="ffill").to_numpy()
    return symbols[0], PositionHistory.from_returns(instants, price=price, position=position, net=net)


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
