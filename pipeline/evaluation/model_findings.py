"""Measurements of a fitted model beside their usual bands: a value outside of its band is a finding, no gate.

They come from what `train` and `audit` have recorded, so that no model is loaded. Each is left out of a family that
cannot have it, and NaN with a reason where it is undefined.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any

import numpy as np
import pandas as pd
from annotated_types import Len

from pipeline.evaluation.trainings import History

Band = Annotated[list[float], Len(2, 2)]
Measurement = tuple[float, str | None]  # NaN with the reason
Report = Mapping[str, Any]
NAN = float("nan")
LAST_SHARE = 0.5  # of a fit's evaluations, over which the critic's value should be stable


@dataclass(frozen=True, kw_only=True)
class ModelBands:
    """The section `model_bands` of params.yaml: the lowest and the highest usual value of each measurement."""

    importance_gini: Band
    shap_stability: Band
    leaf_depth: Band
    gradient_norm: Band
    attention_entropy: Band
    policy_entropy: Band
    value_variation: Band
    var_violation_rate: Band


@dataclass(frozen=True)
class BandResult:
    """A measurement beside its band."""

    value: float  # NaN where undefined
    low: float
    high: float
    is_within: bool | None  # None where the value is undefined
    reason: str | None


def describe_model(
    fits: Sequence[Report],
    history: History,
    importances: Mapping[str, Mapping[str, float]] | None,
    audit: Report,
    bands: ModelBands,
) -> dict[str, Any]:
    """Return `bands`, each measurement of a model that has one, and `measurements` that have none, JSON-able.

    Args:
        fits: the entries of the fits in the report of `train`.
        history: of each fit.
        importances: of the final model, by kind; None for a family that has none of its own.
        audit: the report of `audit`.
        bands: see `ModelBands`.
    """
    diagnosis = audit["diagnosis"] or {}
    found = measure_model(fits, history, importances, audit)
    limits = {each.name: getattr(bands, each.name) for each in fields(bands)}
    named = {name: value for name, value in diagnosis.items() if name not in (*limits, "reason")}
    return {
        "bands": {name: asdict(judge_band(*found[name], band=limits[name])) for name in limits if name in found},
        "measurements": named,
    }


def measure_model(
    fits: Sequence[Report],
    history: History,
    importances: Mapping[str, Mapping[str, float]] | None,
    audit: Report,
) -> dict[str, Measurement]:
    """Return every measurement with a band that the family of a model has; see `describe_model`."""
    found: dict[str, Measurement] = {}
    permuted = audit["permutation_importance"]
    if kinds := importances or (permuted and {"permutation": permuted["importances"]}):
        found["importance_gini"] = measure_gini(list(next(iter(kinds.values())).values()))
    if trees := [fit["fit_report"]["trees"] for fit in fits if "trees" in fit.get("fit_report", {})]:
        found["leaf_depth"] = float(np.mean([each["mean_leaf_depth"] for each in trees])), None
        found["shap_stability"] = measure_rank_agreement([list(each["mean_absolute_shap"].values()) for each in trees])
    entries = [entry for part in history.values() for entry in part]
    if norms := [entry["grad_norm"] for entry in entries if "grad_norm" in entry]:
        found["gradient_norm"] = float(np.median(norms)), None
    if any("value" in entry for entry in entries):
        found["value_variation"] = measure_value_variation(history)
    rates = [fit["own_forecasts"]["var_violation_rate"] for fit in fits if fit.get("own_forecasts")]
    if known := [rate for rate in rates if rate is not None]:
        found["var_violation_rate"] = float(np.median(known)), None
    diagnosis = audit["diagnosis"] or {}
    for name in ("attention_entropy", "policy_entropy"):
        if name in diagnosis:
            value = diagnosis[name]
            found[name] = (NAN, diagnosis["reason"]) if value is None else (value, None)
    return found


def judge_band(value: float, reason: str | None, *, band: Sequence[float]) -> BandResult:
    """Return a measurement beside its band; the ends belong to it."""
    low, high = band
    return BandResult(value, low, high, None if np.isnan(value) else bool(low <= value <= high), reason)


def measure_gini(importances: Sequence[float]) -> Measurement:
    """Return the Gini coefficient of importances, negative ones as 0: 0 if all are equal, near 1 if one has all.

    >>> measure_gini([1.0, 1.0]), measure_gini([0.0, 1.0])
    ((0.0, None), (0.5, None))
    """
    ordered = np.sort(np.maximum(importances, 0.0))
    count, total = len(ordered), float(ordered.sum())
    if not total > 0:
        return NAN, "no column has a positive importance"
    weights = 2.0 * np.arange(1, count + 1) - count - 1.0
    return float(weights @ ordered / (count * total)), None


def measure_rank_agreement(importances: Sequence[Sequence[float]]) -> Measurement:
    """Return the mean over pairs of fits of Spearman's correlation of their importances (fits, columns).

    Fits whose importances are all equal are left out.
    """
    ranks = pd.DataFrame(importances).rank(axis=1).to_numpy()  # averages of ties
    varying = ranks[np.ptp(ranks, axis=1) > 0]
    if len(varying) < 2:
        return NAN, "fewer than two fits whose importances differ"
    correlations = np.corrcoef(varying)
    return min(float(correlations[np.triu_indices(len(varying), 1)].mean()), 1.0), None  # rounding may exceed 1


def measure_value_variation(history: History) -> Measurement:
    """Return the median over fits of the coefficient of variation of the critic's mean value.

    It is taken over the last half of a fit's evaluations: their standard deviation over the size of their mean.
    """
    variations = []
    for entries in history.values():
        values = np.array([entry["value"] for entry in entries if "value" in entry])
        last = values[int(len(values) * (1.0 - LAST_SHARE)) :]
        if len(last) > 1 and last.mean() != 0:
            variations.append(float(last.std(ddof=1) / abs(last.mean())))
    return (float(np.median(variations)), None) if variations else (NAN, "fewer than two evaluations of a fit")
