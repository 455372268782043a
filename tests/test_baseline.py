"""Baselines: known previous labels, constants, and linear models against independent solutions."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from pipeline.models import linear_in_chunks
from pipeline.samples import Samples
from pipeline.stages import baseline
from pipeline.targets import Output, Target
from tests.data import OUTPUTS, make_dataset


def make_samples(y, label_end, segment=None, x=None):
    count = len(y)
    return Samples(
        time=np.arange(count, dtype=np.int64),
        label_end=np.array(label_end, dtype=np.int64),
        segment=np.array(segment if segment is not None else [0] * count, dtype=np.int32),
        x=np.zeros((count, 1), np.float32) if x is None else x,
        columns=("a",) if x is None else tuple("abc"),
        y=np.array(y),
    )


def test_the_previous_label_is_the_latest_that_was_known_when_the_bar_closed():
    known = baseline.find_previous_labels(make_samples([1.0, 2.0, 3.0, 4.0, 5.0], [2, 3, 4, 5, 6]))
    assert np.array_equal(known, [np.nan, np.nan, 1.0, 2.0, 3.0], equal_nan=True)


def test_no_previous_label_comes_from_another_segment():
    known = baseline.find_previous_labels(make_samples([1.0, 2.0, 3.0, 4.0], [1, 2, 3, 4], segment=[0, 0, 1, 1]))
    assert np.array_equal(known, [np.nan, 1.0, np.nan, 3.0], equal_nan=True)


def test_a_label_with_a_later_end_delays_those_after_it_until_all_are_known():
    known = baseline.find_previous_labels(make_samples([1.0, 2.0, 3.0, 4.0], [3, 2, 3, 4]))
    assert np.array_equal(known, [np.nan, np.nan, np.nan, 3.0], equal_nan=True)


def test_the_constant_is_the_mean_or_the_share_of_each_class():
    assert baseline.predict_constant(np.float32([1, 2, 6]), OUTPUTS["return"]).tolist() == [3.0]
    assert baseline.predict_constant(np.int32([0, 2, 2, 2]), OUTPUTS["barrier"]).tolist() == [0.25, 0.0, 0.75]


def test_a_previous_class_has_probability_one_and_the_constant_replaces_a_missing_label():
    prediction = baseline.predict_previous(np.array([np.nan, 2.0]), np.array([0.2, 0.3, 0.5]), OUTPUTS["barrier"])
    assert prediction.tolist() == [[0.2, 0.3, 0.5], [0.0, 0.0, 1.0]]


def test_the_linear_prediction_is_the_ridge_solution_of_the_normal_equations():
    rng = np.random.default_rng(0)
    x = rng.normal(2.0, 3.0, size=(300, 3)).astype(np.float32)
    y = (x @ [1.0, -2.0, 0.5] + rng.normal(size=300)).astype(np.float32)
    train, test = np.arange(200), np.arange(200, 300)
    prediction = baseline.predict_linear(
        make_samples(y, range(300), x=x), train=train, test=test, output=OUTPUTS["return"], l2=0.1
    )
    mean, scale = x[train].astype(float).mean(axis=0), x[train].astype(float).std(axis=0)
    z, centered = (x - mean) / scale, y[train] - y[train].mean(dtype=float)
    slope = np.linalg.solve(z[train].T @ z[train] + 0.1 * 200 * np.eye(3), z[train].T @ centered)
    assert prediction[:, 0] == pytest.approx(z[test] @ slope + y[train].mean(dtype=float), abs=1e-5)


def test_a_class_absent_from_train_has_its_column():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 3)).astype(np.float32)
    y = np.where(x[:, 0] > 0, 2, 0).astype(np.int32)
    prediction = baseline.predict_linear(
        make_samples(y, range(100), x=x),
        train=np.arange(80),
        test=np.arange(80, 100),
        output=OUTPUTS["barrier"],
        l2=0.01,
    )
    assert prediction[:, 1].tolist() == [0.0] * 20
    standard = (x - x[:80].astype(float).mean(axis=0)) / x[:80].astype(float).std(axis=0)
    expected = LogisticRegression(C=1 / 0.8, max_iter=500).fit(standard[:80], y[:80]).predict_proba(standard[80:])
    assert prediction[:, [0, 2]] == pytest.approx(expected, abs=1e-6)


def test_baselines_of_several_horizons_are_those_of_each():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(300, 3)).astype(np.float32), rng.normal(size=(300, 2)).astype(np.float32)
    y[295:] = np.nan
    alone = [make_samples(each, np.arange(2, 302), x=x) for each in y.T]
    alone = [replace(each, is_labeled=np.arange(300) < 295) for each in alone]
    samples = replace(alone[-1], y_by_horizon=y)
    train, predicted = np.arange(200), np.arange(220, 300)
    output = Output(kind="horizons", names=("return_ahead_1", "return_ahead_2"), horizons=(1, 2))
    tables = [
        baseline.predict_fold(
            0,
            replace(make_dataset(each, kind="return"), target=Target(name="a", horizon_bars=2, output=own)),
            baseline.find_previous_labels(each),
            train=train,
            predicted=predicted,
            l2=0.01,
        )
        for each, own in ((samples, output), *((each, OUTPUTS["return"]) for each in alone))
    ]
    for place, name in enumerate(output.names):
        of_one = tables[1 + place]
        assert tables[0][name].to_numpy() == pytest.approx(of_one["return"].to_numpy(), abs=1e-6)
    assert tables[0]["score_std"].to_numpy() == pytest.approx(of_one["score_std"].to_numpy(), rel=1e-6, nan_ok=True)


@pytest.mark.parametrize("kind", ["return", "barrier", "direction", "quantiles", "horizons"])
def test_rows_by_chunks_give_the_prediction_of_all_rows_together(kind, monkeypatch):
    rng = np.random.default_rng(7)
    x = (rng.normal(2.0, 3.0, size=(400, 3)) * [1.0, 100.0, 0.0]).astype(np.float32)  # the last never varies
    output = replace(OUTPUTS["return"], kind="quantiles", names=("q10", "q90"), levels=(0.1, 0.9))
    output = output if kind == "quantiles" else OUTPUTS["return" if kind == "horizons" else kind]
    y = x[:, 0] / 3 + rng.normal(size=400)
    y = np.digitize(y, [0.0, 1.0][: len(output.names) - 1]).astype(np.int32) if output.is_classification else y
    rows = {"train": np.arange(0, 300), "test": np.arange(250, 400)}
    samples = make_samples(y if output.is_classification else y.astype(np.float32), range(400), x=x)
    if kind == "horizons":
        samples = replace(samples, y_by_horizon=np.column_stack([x[:, 1] / 999, y]).astype(np.float32))
    whole = baseline.predict_linear(samples, **rows, output=output, l2=0.01)
    monkeypatch.setattr(baseline, "MAX_ROWS_IN_MEMORY", 100)
    monkeypatch.setattr(linear_in_chunks, "CHUNK_ROWS", 64)
    by_chunks = baseline.predict_linear(samples, **rows, output=output, l2=0.01)
    assert by_chunks == pytest.approx(whole, abs=1e-4 if output.is_classification else 2e-6)


@pytest.mark.parametrize("kind", ["return", "barrier"])
def test_the_linear_prediction_depends_on_train_rows_and_inputs_alone(kind):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3)).astype(np.float32)
    y = rng.integers(0, 3, 300).astype(np.int32 if kind == "barrier" else np.float32)
    train, test = np.arange(200), np.arange(200, 250)
    others = np.concatenate([x[:250], 100 * x[250:]]), np.concatenate([y[:200], 2 - y[200:]])
    first, second = (
        baseline.predict_linear(
            make_samples(label, range(300), x=inputs), train=train, test=test, output=OUTPUTS[kind], l2=0.01
        )
        for inputs, label in ((x, y), others)
    )
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(("kind", "missing"), [("return", np.nan), ("barrier", -1)])
def test_baselines_predict_rows_without_a_label_in_units_of_their_own_train_scores(kind, missing):
    rng, output = np.random.default_rng(0), OUTPUTS[kind]
    x, code = rng.normal(size=(300, 3)).astype(np.float32), rng.integers(0, 3, 300)
    y = code.astype(np.int32) if kind == "barrier" else np.float32(code - 1) / 2
    y[295:] = missing
    samples = replace(make_samples(y, np.arange(1, 301), x=x), is_labeled=np.arange(300) < 295)
    train, predicted = np.arange(200), np.arange(220, 300)
    table = baseline.predict_fold(
        0,
        make_dataset(samples, kind=kind),
        baseline.find_previous_labels(samples),
        train=train,
        predicted=predicted,
        l2=0.01,
    ).set_index("baseline")
    assert table.loc["linear", "row"].tolist() == predicted.tolist()
    assert table["score"].notna().all()
    assert table.groupby(level=0, observed=True)["score_std"].nunique().tolist() == [0, 1, 1]  # NaN of the constant
    of_label = (code - 1) / (1 if kind == "barrier" else 2)
    known = [of_label[:200].mean(), *of_label[:199]]  # the mean where no label is known yet, at row 0
    assert table.loc["previous", "score_std"].iloc[0] == pytest.approx(np.std(known), rel=1e-6)
    linear = baseline.predict_linear(samples, train=train, test=train, output=output, l2=0.01)
    assert table.loc["linear", "score_std"].iloc[0] == pytest.approx(output.to_score(linear).std())


def test_the_only_class_of_train_has_probability_one():
    x = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    samples = make_samples(np.array([1] * 8 + [0, 2], dtype=np.int32), range(10), x=x)
    for name, classes in (("barrier", 3), ("direction", 2)):
        prediction = baseline.predict_linear(
            samples, train=np.arange(8), test=np.arange(8, 10), output=OUTPUTS[name], l2=0.01
        )
        assert np.array_equal(prediction, np.tile(np.eye(classes)[1], (2, 1)))
