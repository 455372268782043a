"""Options of all trees: weights of train rows by the uniqueness and the age of their labels, and monotone effects."""

from dataclasses import replace

import catboost as cb
import numpy as np
import pandas as pd
import pytest

from pipeline.models.base import Signature, list_hyperparameters
from pipeline.models.trees import lightgbm
from pipeline.models.trees.engine import device
from pipeline.models.trees.engine.forest import BoostedTrees
from pipeline.models.trees.engine.sample_weights import decay_by_age, make_sample_weights, measure_uniqueness
from tests.data import BAR_MS, OUTPUTS, TEST, TRAIN, VALID, plant_samples
from tests.test_trees import PLUGINS, build_unfitted

ONE_SEGMENT = np.zeros(6, dtype=np.int32)


def count_slowly(rows: np.ndarray, time: np.ndarray, label_end: np.ndarray, segment: np.ndarray) -> list[float]:
    """The average uniqueness of AFML 4.1 and 4.2, bar by bar and label by label."""
    bars = list(zip(segment.tolist(), time.tolist(), strict=True))
    labels = [(segment[row], time[row], end) for row, end in zip(rows, label_end, strict=True)]
    found = []
    for own, begin, end in labels:
        counts = []
        for place, bar in bars:
            if place == own and begin <= bar <= end:
                counts.append(sum(s == place and first <= bar <= last for s, first, last in labels))
        found.append(sum(1 / count for count in counts) / len(counts))
    return found


def decay_slowly(uniqueness: np.ndarray, last_weight: float) -> np.ndarray:
    """Snippet 4.11 of AFML, `getTimeDecay`, as it is printed."""
    weight = pd.Series(uniqueness).cumsum()
    slope = (1.0 - last_weight) / weight.iloc[-1] if last_weight >= 0 else 1.0 / ((last_weight + 1) * weight.iloc[-1])
    constant = 1.0 - slope * weight.iloc[-1]
    weight = constant + slope * weight
    weight[weight < 0] = 0
    return weight.to_numpy()


def test_uniqueness_is_the_mean_share_of_a_label_in_the_bars_of_its_span() -> None:
    # bar:         0  1  2  3  4  5
    # label of 0:  x  x  x
    # label of 2:        x  x
    # label of 4:              x  x
    found = measure_uniqueness(
        np.array([0, 2, 4]), time=np.arange(6), label_end=np.array([2, 3, 5]), segment=ONE_SEGMENT
    )
    assert found == pytest.approx([(1 + 1 + 1 / 2) / 3, (1 / 2 + 1) / 2, 1.0])


@pytest.mark.parametrize("seed", range(5))
def test_uniqueness_equals_a_slow_count_of_concurrent_labels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    segment = np.sort(rng.integers(3, size=40)).astype(np.int32)
    time = np.concatenate([np.sort(rng.choice(200, (segment == s).sum(), replace=False)) for s in np.unique(segment)])
    rows = np.sort(rng.choice(40, 25, replace=False))
    label_end = time[rows] + rng.integers(0, 60, size=25)  # some end between two bars, some after their segment
    found = measure_uniqueness(rows, time=time, label_end=label_end, segment=segment)
    assert found == pytest.approx(count_slowly(rows, time, label_end, segment))


def test_labels_of_two_segments_share_no_bar() -> None:
    segment = np.array([0, 0, 0, 1, 1, 1])
    time, rows = np.array([0, 1, 2, 0, 1, 2]), np.array([0, 3])
    assert measure_uniqueness(rows, time=time, label_end=np.array([9, 2]), segment=segment).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("time_decay", [1.0, 0.5, 0.0, -0.25, -0.9])
def test_the_decay_is_that_of_the_book(time_decay: float) -> None:
    uniqueness = np.random.default_rng(1).uniform(0.05, 1.0, size=30)
    found = decay_by_age(uniqueness, np.arange(30) * 60_000, time_decay=time_decay)
    assert found == pytest.approx(decay_slowly(uniqueness, time_decay))


def test_the_decay_follows_time_and_not_the_order_of_rows() -> None:
    time = np.array([0, 1, 2, 0, 1, 2])  # of two symbols
    found = decay_by_age(np.ones(6), time, time_decay=0.0)
    assert found == pytest.approx([1 / 3, 2 / 3, 1.0] * 2)


def test_weights_have_mean_one_and_multiply_uniqueness_by_the_decay() -> None:
    samples = plant_samples("return", seed=1)
    rows = np.array([0, 1, 100, 200])  # the labels of 6 bars of the first two rows overlap on 5
    assert make_sample_weights(samples, rows, label_uniqueness=False, time_decay=1.0) is None
    found = make_sample_weights(samples, rows, label_uniqueness=True, time_decay=0.5)
    assert found is not None
    first = (1 + 5 / 2) / 6
    decay = 0.5 + 0.5 * np.cumsum([first, first, 1.0, 1.0]) / (2 * first + 2)
    expected = np.array([first, first, 1.0, 1.0]) * decay
    assert found == pytest.approx(expected / expected.mean())
    assert samples.label_end[0] - samples.time[0] == 5 * BAR_MS


@PLUGINS
@pytest.mark.parametrize("kind", ["return", "direction", "barrier"])
def test_rows_whose_weight_has_decayed_to_zero_do_not_matter(plugin: str, kind: str) -> None:
    samples = plant_samples(kind, seed=3)
    old = TRAIN[: int(0.45 * len(TRAIN))]
    y = samples.y.copy()
    y[old] = y[old][::-1] if OUTPUTS[kind].is_classification else y[old] + 5
    predictions = []
    for given in (samples, replace(samples, y=y)):
        model = build_unfitted(plugin, kind, samples.columns, time_decay=-0.5, learning_rate=0.3)
        model.num_boost_round = 5
        model.fit(given, TRAIN, VALID)
        predictions.append(model.predict_rows(samples, TEST))
    assert np.array_equal(*predictions)


@PLUGINS
def test_crowded_labels_count_less(plugin: str) -> None:
    samples = plant_samples("return", seed=3)
    crowded = TRAIN[:2000]
    end = samples.label_end.copy()
    end[TRAIN[2000:]] = samples.time[TRAIN[2000:]]  # spans of one bar, whose uniqueness is 1
    moved = replace(samples, label_end=end, y=np.where(np.isin(np.arange(len(end)), crowded), 1.0, 0.0).astype("f4"))
    model = build_unfitted(plugin, "return", samples.columns, label_uniqueness=True)
    model.num_boost_round = 1
    model.fit(moved, TRAIN, VALID)
    crowded_weight = 2000 / 6  # but for the first five rows, whose bars hold fewer labels
    assert model.offset[0] == pytest.approx(crowded_weight / (crowded_weight + len(TRAIN) - 2000), rel=0.01)


def sweep(model: BoostedTrees, x: np.ndarray, column: int) -> np.ndarray:
    """The predictions of rows (n) with the column at 40 rising values, (40, n)."""
    rows = np.repeat(x[None], 40, axis=0)
    rows[:, :, column] = np.linspace(-3, 3, 40, dtype=np.float32)[:, None]
    return model.predict(rows.reshape(-1, x.shape[1]))[:, -1].reshape(40, -1)


@PLUGINS
@pytest.mark.parametrize("kind", ["return", "direction"])
def test_a_monotone_column_moves_the_prediction_in_one_direction_alone(plugin: str, kind: str) -> None:
    samples = plant_samples(kind, seed=3)
    changes = {"free": {}, "up": {"monotone_constraints": {"column_0": 1}}}
    changes["down"] = {"monotone_constraints": {"column_1": 1, "column_0": -1}}
    steps = {}
    for name, change in changes.items():
        model = build_unfitted(plugin, kind, samples.columns, **change)
        model.num_boost_round = 30
        model.fit(samples, TRAIN, VALID)
        steps[name] = np.diff(sweep(model, samples.x[TEST[:50]], 0), axis=0)
    assert steps["free"].min() < 0 < steps["free"].max()  # otherwise nothing is shown
    assert 0 <= steps["up"].min() < steps["up"].max()
    assert steps["down"].max() <= 0


@PLUGINS
def test_a_monotone_effect_that_cannot_hold_or_has_no_column_is_refused(plugin: str) -> None:
    sign = {"monotone_constraints": {"a": 1}}
    with pytest.raises(ValueError, match="monotone_constraints cannot hold with more than two classes"):
        build_unfitted(plugin, "barrier", ("a",), **sign)
    with pytest.raises(ValueError, match="monotone_constraints cannot hold with the loss l1, whose leaves are medians"):
        build_unfitted(plugin, "return", ("a",), loss="l1", **sign)
    with pytest.raises(ValueError, match=r"monotone_constraints has \['a'\]; the model's columns are b, c"):
        build_unfitted(plugin, "return", ("b", "c"), **sign)
    with pytest.raises(ValueError, match="monotone_constraints.a is 2; it must be"):
        build_unfitted(plugin, "return", ("a",), monotone_constraints={"a": 2})


def test_every_bar_of_a_whole_window_has_the_sign_of_its_column() -> None:
    changes = {"window": 2, "flatten": "flatten", "monotone_constraints": {"b": -1}}
    model = build_unfitted("lightgbm", "return", ("a", "b", "c"), **changes)
    assert model.monotone_signs == [0, -1, 0, 0, -1, 0]
    assert model.signature == Signature(("a", "b", "c"), OUTPUTS["return"])


@PLUGINS
def test_a_monotone_column_of_a_whole_window_moves_the_prediction_in_one_direction_at_every_bar(plugin: str) -> None:
    samples = plant_samples("return", seed=3, held_rows=2)  # so that both bars show the signal
    steps = {}
    for name, constraints in {"free": {}, "up": {"column_0": 1}}.items():
        changes = {"window": 2, "flatten": "flatten", "monotone_constraints": constraints}
        model = build_unfitted(plugin, "return", samples.columns, **changes)
        model.num_boost_round = 30
        model.fit(samples, TRAIN, VALID)
        windows = np.repeat(model.inputs(samples, TEST[:20])[None], 40, axis=0)  # (40, 20, 2, F)
        for bar in (0, 1):
            moved = windows.copy()
            moved[:, :, bar, 0] = np.linspace(-3, 3, 40, dtype=np.float32)[:, None]
            predicted = model.predict(moved.reshape(-1, *windows.shape[2:]))[:, 0].reshape(40, -1)
            steps[name, bar] = np.diff(predicted, axis=0)
    for bar in (0, 1):
        assert steps["free", bar].min() < 0  # otherwise nothing is shown
        assert 0 <= steps["up", bar].min() < steps["up", bar].max()


OF_A_GPU = {
    "lightgbm": {"device_type": "cuda"},
    "xgboost": {"device": "cuda"},
    "catboost": {"task_type": "GPU", "devices": "0"},
}


def build_for(plugin: str, name: str, **changes: object) -> BoostedTrees:
    own = {"rsm": 1.0} if plugin == "catboost" else {}
    return build_unfitted(plugin, "return", ("a", "b"), device=name, **own | changes)


@PLUGINS
def test_trees_are_grown_on_a_cpu_unless_a_device_is_given(plugin: str) -> None:
    model = build_unfitted(plugin, "return", ("a", "b"))
    assert (model.device, model.fit_device, model.needs_sequential_fits) == ("cpu", "cpu", False)
    assert not set(OF_A_GPU[plugin]) & set(model._make_parameters())
    assert "device" not in list_hyperparameters(model)  # so that saved models are those of before


@PLUGINS
def test_each_library_gets_its_own_name_of_a_gpu(plugin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "count_gpus", lambda: 1)
    monkeypatch.setattr(lightgbm, "has_cuda", lambda: True)
    on_cpu = build_for(plugin, "cpu")._make_parameters()
    for name in ("auto", "cuda"):
        model = build_for(plugin, name)
        assert (model.fit_device, model.needs_sequential_fits) == ("cuda", True)
        assert model._make_parameters() == on_cpu | OF_A_GPU[plugin]
    monkeypatch.setattr(device, "count_gpus", lambda: 0)
    assert build_for(plugin, "auto")._make_parameters() == on_cpu


@pytest.mark.parametrize(
    ("plugin", "changes", "message"),
    [
        ("lightgbm", {}, "this build of LightGBM has no CUDA: its pip wheel has none"),
        ("catboost", {"rsm": 0.5}, "rsm is 0.5, and CatBoost draws columns on a CPU alone: set rsm to 1.0"),
        ("catboost", {"monotone_constraints": {"a": 1}}, "CatBoost has monotone_constraints on a CPU alone"),
        ("catboost", {"border_count": 256}, "border_count is 256, and CatBoost has at most 255 borders on a GPU"),
    ],
)
def test_what_a_gpu_cannot_grow_is_refused_for_cuda_and_grown_on_a_cpu_for_auto(
    plugin: str, changes: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "count_gpus", lambda: 1)
    with pytest.raises(ValueError, match=f"device is cuda, but {message}.*; set cpu, or auto"):
        _ = build_for(plugin, "cuda", **changes).fit_device
    assert build_for(plugin, "auto", **changes).fit_device == "cpu"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rsm": 0.5}, "rsm on GPU is supported for pairwise modes only"),
        ({"monotone_constraints": [1, 0]}, "monotone_constraints is unimplemented for task type GPU"),
    ],
)
def test_catboost_itself_refuses_on_a_gpu_what_is_refused_here(changes: dict[str, object], message: str) -> None:
    parameters = {"task_type": "GPU", "iterations": 1, "allow_writing_files": False, "logging_level": "Silent"}
    with pytest.raises(cb.CatBoostError, match=message):
        cb.CatBoost(parameters | changes).fit(cb.Pool(np.zeros((4, 2)), np.arange(4.0)))


def test_cuda_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "DRIVER", "libcuda_that_does_not_exist.so")
    device.count_gpus.cache_clear()
    with pytest.raises(ValueError, match="device is cuda, but NVIDIA's driver finds no GPU; set cpu, or auto"):
        _ = build_for("xgboost", "cuda").fit_device
    device.count_gpus.cache_clear()
