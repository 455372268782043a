"""The contract of models, for every block under `models:` and `disabled_models:` of params.yaml.

A plugin is accepted where each of its blocks keeps all of the following, whatever its family:

- It can learn: its score on unseen rows correlates with a planted signal. A block is not judged by its tuning: one that
  has not learned the signal from 4600 rows, such as a net with few updates, gets ten times as many.
- Its history has an entry for each iteration, one where it is fitted in one step, with finite losses on both parts.
- A fit depends on its seed and the rows of train and valid alone: the same give the same bytes, saved and exported.
- It refuses other columns, predicts a finite column for each output, and a row alone as in a batch.
- A standardization, where it has one, comes from the train rows; a class that train lacks keeps its column.
- A loaded model is the saved one.
- Its ONNX graph is valid, takes float32 "inputs" with a free batch axis, and returns "answer": what the model predicts,
  to `parity` of params.yaml, on ordinary inputs and on the edge cases of its family. No decision is flipped.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest

from pipeline.models.base import HISTORY, Model, Signature
from pipeline.models.parity_checks.base import find_parity_checks
from pipeline.models.plugins import build, list_families, list_plugins, load
from pipeline.samples import Samples
from tests.data import (
    MORE_ROWS,
    OUTPUTS,
    TEST,
    TRAIN,
    VALID,
    corrupt_unseen,
    plant_signal,
    select_parts,
)
from tests.params import BLOCKS, PARAMS, SHORT, build_model, output_of, plant_samples_of


def unfitted(name: str, samples: Samples, *, changes: Mapping[str, Any] | None = None) -> Model:
    signature = Signature(columns=samples.columns, output=output_of(name))
    return build_model(name, signature, seed=7, changes=changes)


def written(model: Model, folder: Path) -> dict[str, bytes]:
    model.save(folder)
    model.to_onnx(folder / "model.onnx")
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run_graph(file: Path, inputs: np.ndarray, *, batch: int) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # others would spin on the CPUs of other tests
    session = onnxruntime.InferenceSession(file, options)
    parts = [inputs[i : i + batch] for i in range(0, len(inputs), batch)]
    return np.concatenate([session.run(["answer"], {"inputs": part})[0] for part in parts])


class Fitted(NamedTuple):
    name: str
    samples: Samples
    model: Model
    history: list[dict[str, float]]
    folder: Path
    bytes: dict[str, bytes]


@pytest.fixture(scope="module", params=BLOCKS)
def fitted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    samples = plant_samples_of(request.param)
    model = unfitted(request.param, samples)
    history = model.fit(samples, TRAIN, VALID)
    folder = tmp_path_factory.mktemp(request.param)
    return Fitted(request.param, samples, model, history, folder, written(model, folder))


def has_learned(model: Model, samples: Samples, rows: np.ndarray) -> bool:
    """Whether the score follows the planted signal; the correlation of shuffled labels is within ±0.1."""
    score = model.score(samples, rows)
    return bool(score.std() > 0 and np.corrcoef(score, plant_signal(samples.x[rows]))[0, 1] > 0.6)


def learns_from_more_rows(name: str) -> bool:
    """Whether a model learns the signal from ten times as many rows: its epochs hold ten times as many updates."""
    samples = plant_samples_of(name, rows=MORE_ROWS)
    train, valid, test = select_parts(MORE_ROWS)
    model = unfitted(name, samples)
    model.fit(samples, train, valid)
    return has_learned(model, samples, test)


def test_a_planted_signal_is_learned(fitted: Fitted) -> None:
    is_learned = has_learned(fitted.model, fitted.samples, TEST) or learns_from_more_rows(fitted.name)
    assert is_learned, f"{fitted.name} finds no signal, neither in 4600 rows nor in ten times as many"


def test_the_history_has_both_losses_of_every_iteration(fitted: Fitted) -> None:
    assert fitted.history
    for entry in fitted.history:
        assert set(HISTORY) <= entry.keys() <= set(fitted.model.history_fields)
        assert np.isfinite([entry["train_loss"], entry["valid_loss"]]).all()
    iterations = [entry["iteration"] for entry in fitted.history]
    assert iterations == sorted(set(iterations))


def test_the_same_seed_gives_the_same_bytes_whatever_the_rows_outside_train_and_valid(
    fitted: Fitted, tmp_path: Path
) -> None:
    found = []
    for name, samples in (("seen", fitted.samples), ("altered", corrupt_unseen(fitted.samples))):
        model = unfitted(fitted.name, fitted.samples, changes=SHORT.get(BLOCKS[fitted.name][0]))
        model.fit(samples, TRAIN, VALID)
        found.append(written(model, tmp_path / name))
    assert found[0] == found[1]


def test_a_loaded_model_predicts_what_the_saved_one_does(fitted: Fitted, tmp_path: Path) -> None:
    loaded = load(fitted.folder)
    inputs = fitted.model.inputs(fitted.samples, TEST)
    assert type(loaded) is type(fitted.model)
    assert np.array_equal(loaded.predict(inputs), fitted.model.predict(inputs))
    assert loaded.measure_importances() == fitted.model.measure_importances()
    assert written(loaded, tmp_path) == fitted.bytes


def test_a_prediction_has_one_finite_column_for_each_output_and_classes_sum_to_one(fitted: Fitted) -> None:
    prediction = fitted.model.predict(fitted.model.inputs(fitted.samples, TEST))
    assert prediction.shape == (len(TEST), len(fitted.model.outputs))
    assert np.isfinite(prediction).all()
    if fitted.model.signature.is_classification:
        assert (prediction >= 0).all()
        assert prediction.sum(axis=1) == pytest.approx(1.0)


def test_the_score_lies_within_one_unit(fitted: Fitted) -> None:
    score = fitted.model.score(fitted.samples, TEST)
    assert score.shape == (len(TEST),)
    assert np.abs(score).max() <= 1


def test_other_columns_are_refused(fitted: Fitted) -> None:
    turned = replace(fitted.samples, columns=fitted.samples.columns[::-1])
    with pytest.raises(ValueError, match="columns"):
        fitted.model.score(turned, TEST)
    with pytest.raises(ValueError, match="columns"):
        unfitted(fitted.name, fitted.samples).fit(turned, TRAIN, VALID)


def test_a_row_has_the_same_prediction_alone_and_in_a_batch(fitted: Fitted) -> None:
    inputs = fitted.model.inputs(fitted.samples, TEST[:37])
    alone = np.concatenate([fitted.model.predict(inputs[i : i + 1]) for i in range(len(inputs))])
    assert alone == pytest.approx(fitted.model.predict(inputs), abs=PARAMS["parity"]["max_abs"])


def test_standardization_comes_from_train_rows(fitted: Fitted) -> None:
    found = fitted.model.standardization
    if found is not None:
        x = fitted.samples.x[TRAIN].astype(np.float64)
        assert found[0] == pytest.approx(x.mean(axis=0), rel=1e-4, abs=1e-4)
        assert found[1] == pytest.approx(x.std(axis=0), rel=1e-3)


def test_the_graph_is_valid_and_leaves_the_batch_free(fitted: Fitted) -> None:
    graph = onnx.load(fitted.folder / "model.onnx")
    onnx.checker.check_model(graph, full_check=True)
    (given,), (output,) = graph.graph.input, graph.graph.output
    assert (given.name, output.name) == ("inputs", "answer")
    assert given.type.tensor_type.elem_type == output.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert all(value.type.tensor_type.shape.dim[0].WhichOneof("value") != "dim_value" for value in (given, output))
    assert output.type.tensor_type.shape.dim[1].dim_value == len(fitted.model.outputs)


@pytest.mark.parametrize("batch", [1, 2, 37, 100_000])
def test_the_graph_predicts_what_the_model_does(fitted: Fitted, batch: int) -> None:
    ordinary = fitted.model.inputs(fitted.samples, TEST)
    edge_cases = find_parity_checks(BLOCKS[fitted.name][0]).make_edge_cases(
        fitted.model, ordinary, rng=np.random.default_rng(2)
    )
    spread = fitted.model.predict(ordinary).std(axis=0)
    for inputs in (ordinary, edge_cases[:2000] if batch < 37 else edge_cases):
        prediction = run_graph(fitted.folder / "model.onnx", inputs, batch=batch)
        apart = np.abs(prediction.astype(np.float64) - fitted.model.predict(inputs))
        for error in (apart, apart / spread):
            assert error.mean() < PARAMS["parity"]["mean_abs"]
            assert error.max() < PARAMS["parity"]["max_abs"]


def test_hard_inputs_are_reproducible_finite_inputs_and_flip_no_decision(fitted: Fitted) -> None:
    ordinary = fitted.model.inputs(fitted.samples, TEST)
    before = ordinary.copy()
    edge_cases = find_parity_checks(BLOCKS[fitted.name][0]).make_edge_cases(
        fitted.model, ordinary, rng=np.random.default_rng(2)
    )
    assert edge_cases.dtype == np.float32
    assert np.isfinite(edge_cases).all()
    assert edge_cases.shape[1:] == ordinary.shape[1:]
    assert np.array_equal(
        edge_cases,
        find_parity_checks(BLOCKS[fitted.name][0]).make_edge_cases(
            fitted.model, ordinary, rng=np.random.default_rng(2)
        ),
    )
    assert np.array_equal(ordinary, before)
    for inputs in (ordinary, edge_cases):
        flips = find_parity_checks(BLOCKS[fitted.name][0]).count_flips(
            fitted.model, inputs, fitted.folder / "model.onnx"
        )
        assert flips.shape == (len(inputs),)
        assert not flips.any()


@pytest.mark.parametrize("name", [name for name in BLOCKS if output_of(name).is_classification])
def test_a_class_that_train_has_not_seen_keeps_its_column_and_is_the_rarest(name: str) -> None:
    samples = plant_samples_of(name)
    absent = len(output_of(name).names) // 2  # flat among three, up among two
    train = TRAIN[samples.y[TRAIN] != absent]
    model = unfitted(name, samples)
    model.fit(samples, train, VALID)
    mean = model.predict(model.inputs(samples, TEST)).mean(axis=0)
    assert mean.shape == (len(model.outputs),)
    assert mean.argmin() == absent


FAMILY, BLOCK = next(iter(BLOCKS.values()))
SHAPE = Signature(columns=("a",), output=OUTPUTS["return"])


def test_an_unknown_family_or_plugin_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match=r"unknown family 'forests'; there are \[.*'trees'"):
        build("forests", BLOCK, SHAPE, shared={}, seed=1)
    with pytest.raises(ValueError, match=r"unknown plugin 'engine' .*\['catboost', 'lightgbm', 'xgboost'\]"):
        build("trees", BLOCK | {"plugin": "engine"}, SHAPE, shared={}, seed=1)


def test_a_family_is_a_package_with_plugins_and_not_what_families_share() -> None:
    assert {"agents", "nets", "trees"} <= set(list_families())
    assert {"parity_checks", "torch_runtime"}.isdisjoint(list_families())
    assert list_plugins("trees") == ["catboost", "lightgbm", "xgboost"]


def test_a_misspelled_missing_or_doubled_key_is_named() -> None:
    shared, given = PARAMS[FAMILY], BLOCK["hyperparameters"]
    first = sorted(given)[0]
    without = {key: value for key, value in given.items() if key != first}
    cases = {
        r"hyperparameters: unknown key 'num_leafs'; its keys are ": ({**given, "num_leafs": 3}, shared),
        rf"key '{first}' is missing": (without, shared),
        rf"\['{sorted(shared)[0]}'\] stands both": ({**given, **shared}, {sorted(shared)[0]: 1}),
    }
    for message, (hyperparameters, of_family) in cases.items():
        with pytest.raises(ValueError, match=message):
            build(FAMILY, BLOCK | {"hyperparameters": hyperparameters}, SHAPE, shared=of_family, seed=1)
    with pytest.raises(ValueError, match="models.trees.<model>: unknown key 'hyperparams'"):
        build(FAMILY, BLOCK | {"hyperparams": {}}, SHAPE, shared=shared, seed=1)
