import numpy as np
import pandas as pd
import pytest

from pipeline.evaluation import predictions
from pipeline.models.predictions import make_predictions
from tests.data import make_target

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
    record = make_predictions(-1, KEYS, np.array([7]), prediction=prediction, target=target).iloc[0].to_dict()
    key = {name: record.pop(name) for name in ("split", "row", "time", "symbol", "target", "horizon")}
    assert key == {"split": -1, "row": 7, "time": 700, "symbol": "BBB", "target": "up_5", "horizon": 5}
    assert record == pytest.approx({"down": 0.2, "up": 0.8, "score": 0.6})


def test_predictions_without_a_direction_have_no_score():
    target = make_target("volatility")
    table = make_predictions(0, KEYS, np.array([1, 2]), prediction=np.ones((2, 1)), target=target)
    assert list(table.columns) == ["split", "row", "time", "symbol", "target", "horizon", "volatility"]
