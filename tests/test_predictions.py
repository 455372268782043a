import numpy as np
import pandas as pd
import pytest

from pipeline import predictions

PATHS = np.array([[0, 0, 1], [1, 2, 2]])  # the splits of 3 groups by 2: {01}, {02}, {12}


def answered(split, rows):
    answer = np.full((len(rows), 1), split, np.float32)
    return predictions.record(split, np.array(rows), answer=answer, outputs=("return",), score=answer[:, 0] / 10)


def test_on_each_path_the_right_split_answers_for_every_row():
    rows, group = np.array([0, 1, 4, 5]), np.array([0, 0, 1, 2])
    records = pd.concat([answered(2, [4, 5]), answered(0, [0, 1, 4]), answered(1, [5, 0, 1])])
    places = predictions.on_paths(records, paths=PATHS, group=group, rows=rows)
    taken = records.iloc[places.ravel()]
    assert taken["row"].tolist() == [0, 1, 4, 5] * 2
    assert taken["split"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2]


def test_a_missing_answer_is_named():
    records = pd.concat([answered(0, [0, 1]), answered(1, [0])])
    with pytest.raises(ValueError, match="split 1 has no answer for row 1"):
        predictions.on_paths(records, paths=np.array([[0], [1]]), group=np.array([0, 0]), rows=np.array([0, 1]))


def test_a_record_keeps_the_answers_by_name():
    record = predictions.record(
        -1, np.array([7]), answer=np.array([[0.2, 0.8]]), outputs=("down", "up"), score=np.array([0.6])
    )
    assert record.iloc[0].to_dict() == pytest.approx({"split": -1, "row": 7, "down": 0.2, "up": 0.8, "score": 0.6})
