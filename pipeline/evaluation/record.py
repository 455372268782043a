"""The record of one trial or look: what its parameters were, on which market, and how it did."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

from pipeline import artifacts, config
from pipeline.evaluation import trainings, trials
from pipeline.evaluation.evaluation_data import EvaluationData
from pipeline.evaluation.path_metrics import PathResult
from pipeline.evaluation.trials import Market, Trial
from pipeline.trading_rules import read_costs
from pipeline.validation.folds import Folds

Parameters = Mapping[str, Any]


def collect_parameters(params: config.Block, model: str, folds: Folds) -> dict[str, Any]:
    """Return everything but the bars that the result of a model depends on: another value makes another trial."""
    entry = config.find_model(params, model)
    dataset, target = entry.block["dataset"], entry.block["target"]
    return {
        **trainings.read_parameters(entry),
        "features": artifacts.read_report("featurize", dataset).get("params"),
        "labels": config.look_up(params, f"datasets.{dataset}.targets.{target}"),
        "split": folds.scheme.list_settings(),
        "trading": config.look_up(params, "trading"),
        "costs": asdict(read_costs(params, dataset)),
        "performance": config.look_up(params, "performance"),
    }


def record_path(
    kind: Literal["trial", "look"], parameters: Parameters, data: EvaluationData, path: PathResult, market: Market
) -> Trial:
    """Return the trial or look that a path is."""
    return trials.make_trial(
        kind,
        parameters,
        market,
        target=data.target,
        time_ms=data.to_ms(path.time),
        net=path.net,
        bars_per_year=data.bars_per_year,
        risk_free_rate=data.risk_free_rate,
    )


def describe_market(data: EvaluationData, *, first: int | None = None) -> Market:
    """Return the market of the symbols that a model predicts: of all bars, or of those from the time `first` on."""
    bars = data.clean[data.clean["symbol"].isin(data.rows["symbol"][data.is_included].unique())]
    bars = bars if first is None else bars[bars[data.time_column] >= first]
    symbol, time, close = (bars[name].to_numpy() for name in ("symbol", data.time_column, "close"))
    return trials.describe_market(symbol, data.to_ms(time), close)
