from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.evaluation import predictions
from pipeline.models.predictions import make_predictions, measure_score_std, read_score_std, save_score_std
from tests.data import OUTPUTS, make_target

KEYS = pd.DataFrame({"time": 100 * np.arange(10), "symbol": pd.Categorical(["AAA"] * 5 + ["BBB"] * 5)})
PATHS = np.array([[0, 0, 1], [1, 2, 2]])  # the splits of 3 groups by 2: {01}, {02}, {12}


def predict_number_of(split, rows):
    """Return the predictions of a split for `rows`: its own number."""
    prediction = np.full((len(rows), 1), split, np.float32)
    return make_predictions(split, KEYS, np.array(rows), prediction=prediction, target=make_target("return"))


def test_on_each_path_every_row_has_the_prediction_of_the_split_that_tests_it():
    rows, group = np.array([0, 1, 4, 5]), np.array([0, 0, 1, 2])
    table = pd.concat([predict_number_of(2, [4, 5]), predict_number_of(0, [0, 1, 4]), predict_number_of(1, [5, 0, 1])])
    positions = predictions.locate_on_paths(table, paths=PATHS, group=group, rows=rows)
    located = table.iloc[positions.ravel()]
    assert located["row"].tolist() == [0, 1, 4, 5] * 2
    assert located["split"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2]


def test_a_missing_prediction_is_named():
    table = pd.concat([predict_number_of(0, [0, 1]), predict_number_of(1, [0])])
    with pytest.raises(ValueError, match="split 1 has no prediction for row 1"):
        predictions.locate_on_paths(table, paths=np.array([[0], [1]]), group=np.array([0, 0]), rows=np.array([0, 1]))


def test_a_record_holds_the_predictions_by_name():
    prediction = np.array([[0.2, 0.8]])
    target = make_target("direction", name="up_5")
    table = make_predictions(-1, KEYS, np.array([7]), prediction=prediction, target=target, score_std=0.25)
    assert table["score_std"].dtype == np.float64
    record = table.iloc[0].to_dict()
    key = {name: record.pop(name) for name in ("split", "row", "time", "symbol", "target", "horizon")}
    assert key == {"split": -1, "row": 7, "time": 700, "symbol": "BBB", "target": "up_5", "horizon": 5}
    assert record == pytest.approx({"down": 0.2, "up": 0.8, "score": 0.6, "score_std": 0.25})


def test_predictions_without_a_direction_have_no_score():
    target = make_target("volatility")
    table = make_predictions(0, KEYS, np.array([1, 2]), prediction=np.ones((2, 1)), target=target)
    assert list(table.columns) == ["split", "row", "time", "symbol", "target", "horizon", "volatility", "score_std"]
    assert table["score_std"].isna().all()


def test_rows_with_a_label_are_selected_in_the_order_of_the_predictions():
    is_labeled = ~np.isin(np.arange(10), [4, 8])
    table = pd.concat([predict_number_of(0, [3, 4]), predict_number_of(1, [9, 8, 2])])
    assert predictions.select_labeled(table, is_labeled)["row"].tolist() == [3, 9, 2]


def test_the_spread_of_scores_is_their_standard_deviation_in_units_of_the_score():
    of_returns = np.array([[0.5], [-0.5], [3.0], [-3.0]])  # clipped: 0.5, -0.5, 1, -1
    assert measure_score_std(of_returns, OUTPUTS["return"]) == pytest.approx(np.sqrt(2.5 / 4))
    of_classes = np.array([[0.2, 0.3, 0.5], [0.5, 0.5, 0.0]])  # 0.3 and -0.5
    assert measure_score_std(of_classes, OUTPUTS["barrier"]) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("prediction", "kind"),
    [
        ([[0.1], [0.9]], "volatility"),  # no score
        ([[0.1], [0.1 + 1e-14], [0.1]], "return"),  # constant within rounding
        ([[0.0], [0.0]], "return"),
        (np.empty((0, 1)), "return"),
    ],
)
def test_the_spread_of_scores_is_nan_where_it_is_undefined(prediction: list, kind: str):
    assert np.isnan(measure_score_std(np.array(prediction), OUTPUTS[kind]))


def test_the_spread_of_scores_is_nan_where_the_score_is_a_position():
    positions = replace(OUTPUTS["position"], kind="position", names=("position",))
    assert np.isnan(measure_score_std(np.array([[0.1], [0.9]]), positions))


@pytest.mark.parametrize(("std", "found"), [(0.0625, 0.0625), (float("nan"), None)])
def test_the_spread_of_a_final_fit_is_saved_with_its_model(std: float, found: float | None, tmp_path: Path):
    save_score_std(tmp_path, std)
    assert read_score_std(tmp_path) == found
