"""Conformal sets of classes: the definition by ranks, coverage by time, and what is saved, exported and reported."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.deployment.contract import ModelPart
from pipeline.evaluation.prediction_sets import describe_coverage, describe_sets, read_rules, summarize_sets
from pipeline.models import plugins
from pipeline.models.base import Signature
from pipeline.models.composites.conformal_sets import ConformalSets
from pipeline.prediction_sets import PredictionSet, read_rule
from pipeline.reporting.forecast_page import render_sets
from pipeline.samples import Samples
from pipeline.stages import bundle
from pipeline.validation.folds import cpcv
from tests.data import OUTPUTS, TEST, TRAIN, VALID, plant_samples
from tests.params import BLOCKS
from tests.test_evaluate import known
from tests.test_intervals import SETTINGS

TREE = BLOCKS["class_sets"][1]["hyperparameters"]["primary"]
SHORT = TREE | {"hyperparameters": TREE["hyperparameters"] | {"num_boost_round": 20, "min_data_in_leaf": 50}}
CLASSES = OUTPUTS["barrier"]


def build(samples: Samples, **hyperparameters: Any) -> ConformalSets:
    given = {"coverage": 0.9, "primary": SHORT} | hyperparameters
    block = {"dataset": "klines", "target": "y", "plugin": "conformal_sets", "hyperparameters": given}
    model = plugins.build("composites", block, Signature(samples.columns, CLASSES), shared={}, seed=3)
    assert isinstance(model, ConformalSets)
    return model


@pytest.fixture(scope="module")
def fitted() -> tuple[Samples, ConformalSets]:
    samples = plant_samples("barrier", seed=1)
    model = build(samples)
    model.fit(samples, TRAIN, VALID)
    return samples, model


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95])
def test_a_set_has_the_classes_whose_p_value_is_above_the_miscoverage(
    fitted: tuple[Samples, ConformalSets], coverage: float
) -> None:
    """The definition of a conformal predictor (Vovk et al. 2005, 2.2): the rank of a class among calibration rows.

    The p-value of a class is the share of rows, the new one among them, whose score 1 - p is at least its own.
    """
    samples, first = fitted
    model = build(samples, coverage=coverage)
    model.fit(samples, TRAIN, VALID)
    alone = plugins.build_plugin(
        TREE["family"],
        TREE["plugin"],
        Signature(samples.columns, CLASSES),
        hyperparameters=SHORT["hyperparameters"],
        seed=3,
        name="alone",
    )
    alone.fit(samples, TRAIN, VALID)
    probability = {name: alone.predict_rows(samples, rows) for name, rows in (("valid", VALID), ("test", TEST[:200]))}
    assert np.array_equal(model.predict_rows(samples, TEST[:200]), probability["test"])
    scores = [-row[code] for row, code in zip(probability["valid"], samples.y[VALID], strict=True)]
    expected = [
        [(1 + sum(score >= -p for score in scores)) / (len(scores) + 1) > 1 - coverage + 1e-12 for p in row]
        for row in probability["test"]
    ]
    assert model.find_sets(probability["test"]).tolist() == expected
    assert first.rule.threshold <= model.rule.threshold or coverage > 0.9


@pytest.mark.parametrize("calibration_rows", ["valid", "later_half"])
def test_sets_hold_their_coverage_on_later_rows_and_on_each_third_of_them(calibration_rows: str) -> None:
    samples = plant_samples("barrier", seed=1)
    model = build(samples, calibration_rows=calibration_rows)
    model.fit(samples, TRAIN, VALID)
    covered = model.find_sets(model.predict_rows(samples, TEST))[np.arange(len(TEST)), samples.y[TEST]]
    assert samples.time[VALID].max() < samples.time[TEST].min()
    for part in (covered, *np.array_split(covered, 3)):
        error = np.sqrt(0.09 * (1 / len(part) + 1 / model.report["rows"]))
        assert part.mean() == pytest.approx(0.9, abs=3.5 * error)


def test_too_few_calibration_rows_are_refused() -> None:
    samples = plant_samples("barrier", seed=1)
    with pytest.raises(ValueError, match="8 calibration rows are too few for a coverage of 0.9; raise train.valid_pct"):
        build(samples).fit(samples, TRAIN, VALID[:8])


def test_the_threshold_is_saved_and_stands_in_the_contract_of_a_model_with_sets_alone(
    fitted: tuple[Samples, ConformalSets], tmp_path: Path
) -> None:
    _, model = fitted
    model.save(tmp_path / "model")
    assert read_rule(tmp_path / "model") == model.rule == plugins.load(tmp_path / "model").rule
    assert read_rule(tmp_path) is None
    assert model.fit_report["prediction_set"] == {
        "rows": len(VALID),
        "coverage": 0.9,
        "threshold": model.rule.threshold,
    }
    exported = {"columns": ["a"], "graph": {"inputs": [None, 1]}, "bars": {"symbols": ["A"]}, "output": {}}
    exported |= {"model_spec": {"family": "trees", "plugin": "lightgbm"}, "target": {}, "score_std": 1.0}
    assert "prediction_set" not in bundle.describe_model("a", exported)
    rule = {"coverage": 0.9, "threshold": 0.25}
    described = bundle.describe_model("a", exported | {"prediction_set": rule})
    output = {"kind": "classes", "names": ["x", "y"], "levels": [], "neutral_class": None, "has_direction": True}
    part = ModelPart.model_validate(described | {"output": output})
    assert part.prediction_set is not None
    assert part.prediction_set.model_dump() == rule


def test_coverage_and_size_are_those_of_each_fits_own_threshold() -> None:
    """Six rows in three groups of two, each tested by two splits; every fit has another threshold."""
    probability = np.array([[0.6, 0.3, 0.1]] * 6, np.float32)
    data = replace(known([0, 1, 2, 0, 1, 2], [0.0] * 6, kind="barrier"), y=np.array([0, 1, 2, 0, 1, 2]))
    time = data.rows["time"].to_numpy()
    folds = cpcv(time, time, groups=3, test_groups=2, embargo_pct=0.0, holdout_pct=0.0)
    tables = []
    for split in range(folds.n_splits):
        rows = folds.test(split)
        own = dict(zip(CLASSES.names, probability[rows].T, strict=True))
        tables.append(data.rows.iloc[rows].assign(seed=1, split=np.int16(split), row=rows, **own))
    predictions, thresholds = pd.concat(tables), (0.25, 0.05, 0.7)
    fits = [
        {"seed": 1, "split": str(split), "fit_report": {"prediction_set": {"coverage": 0.9, "threshold": threshold}}}
        for split, threshold in enumerate(thresholds)
    ]
    found = describe_sets(predictions, data, folds, rules=read_rules(fits), paths=folds.n_paths, settings=SETTINGS)
    sizes = {0.25: 2, 0.05: 3, 0.7: 0}
    for path, splits in enumerate(folds.paths):
        of_groups = [thresholds[split] for split in splits]
        is_covered = [y < sizes[of_groups[row // 2]] for row, y in enumerate([0, 1, 2, 0, 1, 2])]
        own = found["paths"][path]
        assert own["coverage"] == pytest.approx(np.mean(is_covered))
        assert own["size"] == pytest.approx(np.mean([sizes[each] for each in of_groups]))
        assert own["empty"] == pytest.approx(np.mean([sizes[each] == 0 for each in of_groups]))
        assert [block["coverage"] for block in own["blocks"]] == [np.mean(is_covered[i : i + 2]) for i in (0, 2, 4)]
        assert own["by_class"] == {
            name: np.mean([is_covered[code], is_covered[code + 3]]) for code, name in enumerate(CLASSES.names)
        }
    headline, details = describe_coverage(predictions, data, folds, fits=fits, paths=folds.n_paths, settings=SETTINGS)
    assert headline == summarize_sets(found)
    assert list(details) == ["prediction_sets"]
    assert headline["coverage_nominal"] == 0.9
    page = render_sets(found)
    assert page.startswith("Prediction sets of classes, nominal coverage 90%")
    assert "not known: too few independent rows" in page
    without = [{"seed": 1, "split": "0", "fit_report": {}}]
    assert describe_coverage(predictions, data, folds, fits=without, paths=1, settings=SETTINGS) == ({}, {})
    assert render_sets(None) == ""


def test_a_rule_names_classes_of_exactly_the_threshold(fitted: tuple[Samples, ConformalSets]) -> None:
    model = build(fitted[0])
    model.rule = PredictionSet(0.9, float(np.float32(0.3)))
    assert model.find_sets(np.array([[0.3, 0.29999998, 0.4]], np.float32)).tolist() == [[True, False, True]]
