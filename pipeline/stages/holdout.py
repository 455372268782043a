"""holdout <family.model>: open the holdout for one model, and measure and trade its final fit there."""

import re
from pathlib import Path

import pandas as pd

from pipeline import artifacts, cli, config, digests
from pipeline.datasets import kinds
from pipeline.evaluation import experiments, performance, voting
from pipeline.evaluation.evaluation_data import EvaluationData, load_evaluation_data
from pipeline.evaluation.headline import name_metrics_file, select_model_figures
from pipeline.evaluation.holdout import collect_metrics
from pipeline.evaluation.ledger import Ledger, read_lines
from pipeline.evaluation.path_metrics import PathResult, measure_path
from pipeline.evaluation.record import collect_parameters, describe_market, record_path
from pipeline.evaluation.trials import render_lines
from pipeline.models.predictions import FINAL
from pipeline.reporting import plots, position_chart
from pipeline.validation.folds import Folds


def main(model: str) -> None:
    """Measure and trade the final fit of `<family>.<model>` on the holdout; every look counts."""
    params = config.load_params()
    config.call_with(check_names, block=config.look_up(params, "holdout"), name="holdout")
    config.look_up(params, f"models.{model}")
    voting.check_is_fitted(model, section="holdout.models")
    _, block, name = config.find_model(params, model.partition(".")[2])
    folds, rows = Folds.load(digests.verify(artifacts.FOLDS / f"{block['dataset']}.parquet"))
    predictions = artifacts.read_table(artifacts.OOS / f"{name}.parquet").query(f"split == {FINAL}")
    symbols, clock = list(predictions["symbol"].unique()), kinds.import_part(params, block["dataset"], "clock")
    fills = kinds.import_part(params, block["dataset"], "fills")
    data = load_evaluation_data(params, block, rows, symbols=symbols, clock=clock, fills=fills)
    check_is_traded(model, data)
    result = measure_path(predictions, data)
    market = describe_market(data, first=int(result.time[0]))
    look = record_path("look", collect_parameters(params, name, folds), data, result, market)
    ledger = Ledger.from_lines(read_lines(artifacts.LEDGER))
    check_is_harvested(ledger, listed=[name, *(each.partition(".")[2] for each in params["holdout"]["models"])])
    others = ledger.list_looks([look])
    metrics = collect_metrics(result, look, others, listed=len(params["holdout"]["models"]))
    artifacts.write_record(artifacts.LOOKS / f"{model}.jsonl", render_lines([look.make_line()]))
    artifacts.write_json(artifacts.report_path("holdout", model), metrics)
    artifacts.write_json(name_metrics_file(f"holdout_{model}"), select_model_figures(metrics))
    draw_equity(model, result, data)
    draw_positions(model, predictions, data)


def check_names(*, models: list[str]) -> None:
    """Raise ParamsError where the holdout is to be opened for something that is no `<family>.<model>`."""
    for name in models:
        if not re.fullmatch(r"[^.]+\.[^.]+", name):
            raise config.ParamsError(f"holdout.models has {name!r}; it must be <family>.<model>, such as nets.lstm")


def check_is_traded(model: str, data: EvaluationData) -> None:
    """Raise ParamsError where the predictions of a model have no score that could be traded."""
    if reason := data.output.no_score_reason:
        raise config.ParamsError(f"holdout.models has {model}, which is not traded: {reason}; take it out")


def check_is_harvested(ledger: Ledger, *, listed: list[str]) -> None:
    """Raise ValueError where the ledger lacks looks at models that are not `listed` now: too few would be counted."""
    found = ledger.find_unknown(experiments.find_records(Path.cwd()))
    if unknown := [line for line in found if line["kind"] == "look" and line["model"] not in listed]:
        raise ValueError(
            f"{artifacts.LEDGER} lacks {len(unknown)} earlier looks, such as that at {unknown[0]['model']}; run "
            "`python -m pipeline.evaluation.ledger harvest` first"
        )


def draw_equity(model: str, result: PathResult, data: EvaluationData) -> None:
    """Draw the equity of the final fit on the holdout."""
    equity = performance.compound_equity(result.net)[None]  # (1, T)
    title = f"{model}: equity of the final fit on the holdout"
    figure = plots.plot_equity(data.to_ms(result.time), equity, title=title, label="final fit")
    artifacts.write_figure(artifacts.PLOTS / "holdout" / model / "equity.png", figure)


def draw_positions(model: str, predictions: pd.DataFrame, data: EvaluationData) -> None:
    """Draw the positions of the final fit on the holdout over the price of the first symbol."""
    symbol, history = position_chart.trace_positions(predictions, data)
    title = f"{model}: positions of the final fit on the holdout, {symbol}"
    figure = position_chart.plot_positions(history, title=title)
    artifacts.write_figure(artifacts.PLOTS / "holdout" / model / "positions.png", figure)


if __name__ == "__main__":
    cli.run(main)
