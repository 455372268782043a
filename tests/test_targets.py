"""Targets: scores of every kind of prediction, and the description that files carry."""

import json

import numpy as np
import pandas as pd
import pytest

from pipeline import artifacts
from pipeline.labels import describe_target
from pipeline.targets import Output, Target
from tests.data import OUTPUTS, make_target

HORIZONS = Output(kind="horizons", names=("return_ahead_1", "return_ahead_5"), horizons=(1, 5))


def make_quantiles(*levels: float) -> Output:
    names = tuple(f"q{100 * level:g}" for level in levels)
    return Output(kind="quantiles", names=names, levels=levels)


@pytest.mark.parametrize(
    ("output", "prediction", "score"),
    [
        (OUTPUTS["return"], [[0.25], [-3.0]], [0.25, -1.0]),
        (OUTPUTS["position"], [[0.25], [-3.0]], [0.25, -1.0]),
        (OUTPUTS["trend"], [[0.25], [1.5]], [-0.5, 1.0]),
        (OUTPUTS["barrier"], [[0.25, 0.5, 0.25], [0.0, 0.25, 0.75]], [0.0, 0.75]),
        (make_quantiles(0.1, 0.5, 0.9), [[-0.5, 0.25, 3.0]], [0.25]),
        (make_quantiles(0.25, 0.75), [[0.0, 0.5]], [0.25]),  # not the difference of two classes
        (make_quantiles(0.5), [[0.5]], [0.5]),
        (HORIZONS, [[0.5, -0.25], [0.5, 3.0]], [-0.25, 1.0]),
    ],
)
def test_the_score_follows_the_kind_of_a_prediction(output, prediction, score):
    assert output.to_score(np.array(prediction)).tolist() == score


@pytest.mark.parametrize(
    ("output", "why"),
    [(OUTPUTS["volatility"], "has no direction"), (make_quantiles(0.01, 0.05), "do not enclose the median")],
)
def test_a_prediction_without_a_score_says_why(output, why):
    with pytest.raises(ValueError, match=why):
        output.to_score(np.zeros((1, len(output.names))))


@pytest.mark.parametrize("output", [make_quantiles(0.1, 0.9), HORIZONS], ids=lambda output: output.kind)
def test_a_table_of_labels_says_what_its_target_is(output, tmp_path):
    table = pd.DataFrame({"y": [1.0]})
    target = Target(name="a", horizon_bars=3, output=output)
    table.attrs = target.attributes
    artifacts.write_table(tmp_path / "a.parquet", table)
    assert Target.load(tmp_path / "a.parquet") == target
    table.attrs = {}
    artifacts.write_table(tmp_path / "b.parquet", table)
    with pytest.raises(ValueError, match="does not say what its target is; run `dvc repro label`"):
        Target.load(tmp_path / "b.parquet")


@pytest.mark.parametrize("output", [*OUTPUTS.values(), HORIZONS], ids=lambda output: output.names[0])
def test_an_output_is_the_same_after_json(output):
    described = output.describe()
    assert Output.from_description(json.loads(json.dumps(described))) == output
    assert ("horizons" in described) == (output is HORIZONS)


def test_horizons_of_a_value_are_described():
    block = {"kind": "return", "horizon": 5, "volatility_window": 60, "horizons": [1, 5]}
    assert describe_target(block, name="a", path="targets.a") == Target(name="a", horizon_bars=5, output=HORIZONS)


def test_quantiles_of_a_value_are_described():
    block = {"kind": "return", "horizon": 5, "volatility_window": 60, "quantiles": [0.1, 0.5, 0.925]}
    target = describe_target(block, name="a", path="targets.a")
    assert (target.horizon_bars, target.output.kind) == (5, "quantiles")
    assert target.output.names == ("q10", "q50", "q92.5")


@pytest.mark.parametrize(
    ("kind", "quantiles", "message"),
    [
        ("return", [0.9, 0.1], "its numbers must ascend"),
        ("return", [0.5, 0.5], "its numbers must ascend"),
        ("barrier", [0.1, 0.9], "a target of kind barrier has none, only those of kind return, volatility, range"),
    ],
)
def test_quantiles_that_do_not_ascend_or_of_classes_are_refused(kind, quantiles, message):
    with pytest.raises(ValueError, match=message):
        describe_target({"kind": kind, "horizon": 5, "quantiles": quantiles}, name="a", path="targets.a")


def test_the_horizon_is_that_of_the_target_or_of_its_kind():
    assert describe_target({"kind": "barrier", "horizon": 20}, name="a", path="a").horizon_bars == 20
    assert describe_target({"kind": "position"}, name="a", path="a").horizon_bars == 1
    assert make_target("return").horizon_bars == 5
