"""Columns that nets and agents leave as they are, and what the rest of the pipeline makes of them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config import ModelBlock, ParamsError
from pipeline.models import plugins
from pipeline.models.base import Model, Signature
from pipeline.models.cross_fit import FitTask, ModelSpec, fit_fold
from pipeline.models.onnx_session import open_session
from pipeline.models.parity_checks.base import find_parity_checks
from pipeline.models.predictions import FINAL
from pipeline.models.torch_runtime.standardize import Standardize
from pipeline.samples import Samples
from pipeline.stages import audit
from tests.data import OUTPUTS, TEST, TRAIN, VALID, make_dataset, plant_samples
from tests.params import BLOCKS, PARAMS, kind_of, read_market

NAMES = ["mlp", "cnn", "d4pg", "marl"]
SHORT: dict[str, dict[str, int]] = {
    "trees": {},
    "nets": {"epochs": 1},
    "agents": {"num_evaluations": 1, "learning_starts": 500, "num_episodes": 20},
}
UNSCALED = ["column_6", "column_2"]  # not in the order of the columns
PLACES = [2, 6]
TASK = FitTask(FINAL, TRAIN, VALID, TEST, seed=7, fit_seed=7)


def make_samples(name: str) -> Samples:
    """Return samples of which column 2 has its mean and its scale far from 0 and 1, and column 6 is a flag."""
    samples = plant_samples(kind_of(name), seed=1)
    x = samples.x.copy()
    x[:, 2] = 0.5 + 0.1 * x[:, 2]
    x[:, 6] = x[:, 6] > 1
    return replace(samples, x=x)


def make_spec(name: str, **hyperparameters: Any) -> ModelSpec:
    """Return the spec of a short fit, with keys added to the hyperparameters of its block."""
    family, block = BLOCKS[name]
    own = {key: SHORT[family].get(key, value) for key, value in block["hyperparameters"].items()} | hyperparameters
    shared = {key: SHORT[family].get(key, value) for key, value in PARAMS[family].items()}
    columns = tuple(f"column_{i}" for i in range(8))
    signature = Signature(columns=columns, output=OUTPUTS[kind_of(name)])
    return ModelSpec(ModelBlock(family, block | {"hyperparameters": own}, name), signature, shared, read_market(name))


def list_layers(model: Model) -> list[Standardize]:
    nets = [each for each in vars(model).values() if isinstance(each, torch.nn.Module)]
    return [layer for net in nets for layer in net.modules() if isinstance(layer, Standardize)]


@pytest.mark.parametrize("name", NAMES)
def test_an_unscaled_column_passes_the_first_layers_unchanged_and_the_audit(name: str, tmp_path: Path) -> None:
    samples, spec = make_samples(name), make_spec(name, unscaled_columns=UNSCALED)
    fit = fit_fold(TASK, spec, make_dataset(samples, kind=kind_of(name)), folder=tmp_path)
    model = plugins.load(tmp_path)
    mean, scale = model.standardization
    scaled = [0, 1, 3, 4, 5, 7]
    assert (mean[PLACES].tolist(), scale[PLACES].tolist()) == ([0.0, 0.0], [1.0, 1.0])
    assert mean[scaled] == pytest.approx(samples.x[TRAIN][:, scaled].mean(axis=0), abs=1e-4)
    layers = list_layers(model)
    assert layers
    x = torch.zeros(len(TEST), len(layers[0].mean_high))
    x[:, :8] = torch.from_numpy(samples.x[TEST])
    for layer in layers:
        assert torch.equal(layer(x)[:, PLACES], x[:, PLACES])
    table = fit.standardization.set_index("column")
    assert table.loc[UNSCALED, ["mean", "scale"]].to_numpy().tolist() == [[0.0, 1.0], [0.0, 1.0]]
    found = audit.check_fit(TASK, samples, fit.standardization, unscaled=model.list_unscaled())
    assert [finding.severity for finding in found] == ["ok", "ok"]
    undeclared, _ = audit.check_fit(TASK, samples, fit.standardization)
    assert (undeclared.severity, undeclared.measurements["differing"]) == ("critical", 2)
    wrong, _ = audit.check_fit(TASK, samples, fit.standardization, unscaled=["column_2", "column_3", "column_6"])
    assert (wrong.severity, wrong.measurements["differing"]) == ("critical", 1)


@pytest.mark.parametrize("name", ["mlp", "d4pg"])
def test_a_graph_with_unscaled_columns_predicts_what_the_model_does(name: str, tmp_path: Path) -> None:
    samples, spec = make_samples(name), make_spec(name, unscaled_columns=UNSCALED)
    model = spec.build(7)
    model.fit(samples, TRAIN, VALID)
    model.to_onnx(tmp_path / "model.onnx")
    ordinary = model.inputs(samples, TEST)
    checks = find_parity_checks(BLOCKS[name][0])
    edge_cases = checks.make_edge_cases(model, ordinary, rng=np.random.default_rng(2))
    for inputs in (ordinary, edge_cases):
        (graph,) = open_session(tmp_path / "model.onnx").run(["answer"], {"inputs": inputs})
        assert np.abs(graph - model.predict(inputs)).max() < PARAMS["parity"]["max_abs"]


@pytest.mark.parametrize("name", ["mlp", "d4pg"])
def test_an_empty_list_is_the_same_as_none_and_is_not_saved(name: str, tmp_path: Path) -> None:
    samples, saved = make_samples(name), []
    for number, given in enumerate([{}, {"unscaled_columns": []}]):
        model = make_spec(name, **given).build(7)
        model.fit(samples, TRAIN[:600], VALID[:200])
        model.save(tmp_path / str(number))
        saved.append({file.name: file.read_bytes() for file in (tmp_path / str(number)).iterdir()})
    assert saved[0] == saved[1]
    assert "unscaled_columns" not in json.loads(saved[0]["model.json"])["hyperparameters"]
    assert plugins.load(tmp_path / "0").list_unscaled() == ()


def test_the_list_is_given_for_a_family_or_for_one_model_and_is_saved(tmp_path: Path) -> None:
    of_model = make_spec("mlp", unscaled_columns=UNSCALED)
    of_family = make_spec("mlp")
    of_family = replace(of_family, shared={**of_family.shared, "unscaled_columns": UNSCALED})
    for spec in (of_model, of_family):
        model = spec.build(7)
        model.save(tmp_path)
        assert plugins.load(tmp_path).list_unscaled() == tuple(UNSCALED)
        assert plugins.build_like(tmp_path, seed=1).list_unscaled() == tuple(UNSCALED)
    assert make_spec("lightgbm").build(7).list_unscaled() == ()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["rsi"], r"params.yaml: models\.\w+\.\w+: unscaled_columns has \['rsi'\], which the model does not see; its"),
        ("column_1", r"params.yaml: .*\.unscaled_columns is 'column_1'; it must be a list"),
        ([1], r"params.yaml: .*\.unscaled_columns\.0 is 1; it must be text"),
    ],
)
def test_a_column_that_is_not_there_is_named_in_one_line(name: str, given: object, message: str) -> None:
    with pytest.raises(ParamsError, match=message) as raised:
        make_spec(name, unscaled_columns=given).build(7)
    assert "\n" not in str(raised.value)


def test_trees_have_no_unscaled_columns() -> None:
    with pytest.raises(ParamsError, match="unknown key 'unscaled_columns'"):
        make_spec("lightgbm", unscaled_columns=["column_1"]).build(7)


@pytest.mark.parametrize("name", ["mlp", "d4pg"])
def test_an_unscaled_column_that_the_clip_would_cut_off_is_refused(name: str) -> None:
    samples = make_samples(name)
    x = samples.x.copy()
    x[:, 6] *= 100
    model = make_spec(name, unscaled_columns=UNSCALED).build(7)
    with pytest.raises(ValueError, match=r"column_6, of which 1\d% of the train rows lie beyond ± clip_sigma \(5.0\)"):
        model.fit(replace(samples, x=x), TRAIN, VALID)
