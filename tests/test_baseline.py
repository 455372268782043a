import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from pipeline.samples import Samples
from pipeline.stages import baseline


def samples(y, label_end, segment=None, x=None):
    count = len(y)
    return Samples(
        time=np.arange(count, dtype=np.int64),
        label_end=np.array(label_end, dtype=np.int64),
        segment=np.array(segment if segment is not None else [0] * count, dtype=np.int32),
        x=np.zeros((count, 1), np.float32) if x is None else x,
        columns=("a",) if x is None else tuple("abc"),
        y=np.array(y),
        move=np.zeros(count),
    )


def test_the_previous_label_is_the_latest_that_had_come_true_when_the_bar_closed():
    known = baseline.previous_labels(samples([1.0, 2.0, 3.0, 4.0, 5.0], [2, 3, 4, 5, 6]))
    assert np.array_equal(known, [np.nan, np.nan, 1.0, 2.0, 3.0], equal_nan=True)


def test_no_previous_label_comes_from_another_segment():
    known = baseline.previous_labels(samples([1.0, 2.0, 3.0, 4.0], [1, 2, 3, 4], segment=[0, 0, 1, 1]))
    assert np.array_equal(known, [np.nan, 1.0, np.nan, 3.0], equal_nan=True)


def test_a_label_that_ends_late_holds_back_those_after_it_until_all_are_known():
    known = baseline.previous_labels(samples([1.0, 2.0, 3.0, 4.0], [3, 2, 3, 4]))
    assert np.array_equal(known, [np.nan, np.nan, np.nan, 3.0], equal_nan=True)


def test_the_constant_is_the_mean_or_the_share_of_each_class():
    assert baseline.constant_answer(np.float32([1, 2, 6]), classes=1).tolist() == [3.0]
    assert baseline.constant_answer(np.int32([0, 2, 2, 2]), classes=3).tolist() == [0.25, 0.0, 0.75]


def test_a_previous_class_is_called_with_certainty_and_the_constant_stands_where_there_is_none():
    answer = baseline.previous_answer(np.array([np.nan, 2.0]), np.array([0.2, 0.3, 0.5]))
    assert answer.tolist() == [[0.2, 0.3, 0.5], [0.0, 0.0, 1.0]]


def test_the_linear_answer_is_the_ridge_that_the_normal_equations_give():
    rng = np.random.default_rng(0)
    x = rng.normal(2.0, 3.0, size=(300, 3)).astype(np.float32)
    y = (x @ [1.0, -2.0, 0.5] + rng.normal(size=300)).astype(np.float32)
    train, test = np.arange(200), np.arange(200, 300)
    answer = baseline.linear_answer(samples(y, range(300), x=x), train=train, test=test, classes=1, l2=0.1)
    mean, scale = x[train].astype(float).mean(axis=0), x[train].astype(float).std(axis=0)
    z, centred = (x - mean) / scale, y[train] - y[train].mean(dtype=float)
    slope = np.linalg.solve(z[train].T @ z[train] + 0.1 * 200 * np.eye(3), z[train].T @ centred)
    assert answer[:, 0] == pytest.approx(z[test] @ slope + y[train].mean(dtype=float), abs=1e-5)


def test_a_class_that_train_never_saw_keeps_its_column():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 3)).astype(np.float32)
    y = np.where(x[:, 0] > 0, 2, 0).astype(np.int32)
    answer = baseline.linear_answer(
        samples(y, range(100), x=x), train=np.arange(80), test=np.arange(80, 100), classes=3, l2=0.01
    )
    assert answer[:, 1].tolist() == [0.0] * 20
    standard = (x - x[:80].astype(float).mean(axis=0)) / x[:80].astype(float).std(axis=0)
    expected = LogisticRegression(C=1 / 0.8, max_iter=500).fit(standard[:80], y[:80]).predict_proba(standard[80:])
    assert answer[:, [0, 2]] == pytest.approx(expected, abs=1e-6)
