"""Prediction sets of classes: their coverage and size by path, by time and by class.

A set has the classes whose probability is at least the threshold of the fit that predicts the row. The interval of a
coverage is that of `intervals`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.evaluation.evaluation_data import EvaluationData
from pipeline.evaluation.forecast_report import ForecastSettings
from pipeline.evaluation.intervals import describe_intervals, measure_coverage, summarize_intervals
from pipeline.evaluation.path_metrics import select_path
from pipeline.evaluation.predictions import select_labeled
from pipeline.prediction_sets import select_classes
from pipeline.validation.folds import Folds

KEY = "prediction_set"  # of the report of a fit
Rules = Mapping[tuple[int, str], Mapping[str, float]]  # coverage and threshold by seed and split


def describe_coverage(
    predictions: pd.DataFrame,
    data: EvaluationData,
    folds: Folds,
    *,
    fits: Sequence[Mapping[str, Any]],
    paths: int,
    settings: ForecastSettings,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the headline and the details of a model's intervals and sets; empty for one that predicts neither.

    `fits` are the entries of its train report.
    """
    intervals = describe_intervals(predictions, data, folds, paths=paths, settings=settings)
    sets = describe_sets(predictions, data, folds, rules=read_rules(fits), paths=paths, settings=settings)
    details = {"intervals": intervals, "prediction_sets": sets}
    return summarize_intervals(intervals) | summarize_sets(sets), {key: each for key, each in details.items() if each}


def read_rules(fits: Sequence[Mapping[str, Any]]) -> Rules:
    """Return the rules of a model's sets from the entries of its train report; empty for a model without sets."""
    rules = {(each["seed"], str(each["split"])): each.get("fit_report", {}).get(KEY) for each in fits}
    return {fit: rule for fit, rule in rules.items() if rule}


def describe_sets(
    predictions: pd.DataFrame,
    data: EvaluationData,
    folds: Folds,
    *,
    rules: Rules,
    paths: int,
    settings: ForecastSettings,
) -> dict[str, Any]:
    """Return coverage and size of the sets on every path of every seed, JSON-able; empty for a model without sets.

    The result has the `nominal` coverage and `paths`: of each path its rows, `coverage` from `low` to `high` and a
    `verdict`, the mean number of classes (`size`), the shares of rows whose set is `empty`, or has a `single` class,
    and the coverage `by_class`. `blocks` are the same of equal parts of its times.
    """
    if not rules:
        return {}
    nominal, found = float(next(iter(rules.values()))["coverage"]), []
    for path in range(paths):
        table = select_labeled(select_path(predictions, data, folds, path), data.is_labeled)
        table = table.sort_values(["time", "row"], kind="stable")
        keys = zip(table["seed"].tolist(), table["split"].tolist(), strict=True)
        threshold = np.array([rules[seed, str(split)]["threshold"] for seed, split in keys])
        is_in_set = select_classes(table[list(data.output.names)].to_numpy(), threshold)
        found.append(describe_path(is_in_set, table, data, nominal=nominal, settings=settings))
    return {"nominal": nominal, "paths": found}


def describe_path(
    is_in_set: np.ndarray, table: pd.DataFrame, data: EvaluationData, *, nominal: float, settings: ForecastSettings
) -> dict[str, Any]:
    """Return coverage and size along a path: of all its rows, by class, and by time."""
    time, y = table["time"].to_numpy(), data.y[table["row"].to_numpy()].astype(np.int64)
    instant = np.unique(time, return_inverse=True)[1]
    known = {"nominal": nominal, "confidence": settings.confidence}
    blocks = np.array_split(np.arange(instant[-1] + 1), settings.interval_blocks)
    parts = [np.isin(instant, block) for block in blocks if len(block)]
    by_class = {name: is_in_set[y == code, code] for code, name in enumerate(data.output.names)}
    return {
        **measure_sets(is_in_set, y, instant, **known),
        "by_class": {name: float(own.mean()) for name, own in by_class.items() if len(own)},
        "blocks": [
            {"first_ms": int(data.to_ms(time[part][:1])[0])}
            | measure_sets(is_in_set[part], y[part], instant[part] - instant[part][0], **known)
            for part in parts
        ],
    }


def measure_sets(
    is_in_set: np.ndarray, y: np.ndarray, instant: np.ndarray, *, nominal: float, confidence: float
) -> dict[str, Any]:
    """Return coverage and size of sets, see `describe_sets`, but for the coverage of each class.

    Args:
        is_in_set: (n, classes) bool, whether a class is in the set of a row.
        y: (n,) class codes.
        instant: (n,) codes of the rows' times, ascending.
        nominal: the coverage that sets should have.
        confidence: of the interval of the coverage.
    """
    is_covered, size = is_in_set[np.arange(len(y)), y], is_in_set.sum(axis=1)
    return measure_coverage(is_covered, instant, nominal=nominal, confidence=confidence) | {
        "size": float(size.mean()),
        "empty": float((size == 0).mean()),
        "single": float((size == 1).mean()),
    }


def summarize_sets(sets: Mapping[str, Any]) -> dict[str, float]:
    """Return the headline: means over the paths; empty without sets."""
    if not sets:
        return {}
    means = {name: float(np.mean([path[name] for path in sets["paths"]])) for name in ("coverage", "size")}
    return {"coverage": means["coverage"], "set_size": means["size"], "coverage_nominal": sets["nominal"]}
