"""Inputs that could run code, reach other files, or are missing: each is refused by one message."""

import hashlib
import io
import os
import pickle
import sys
import zipfile
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from pipeline import cli, config, digests
from pipeline.config import ParamsError
from pipeline.digests import ArtifactError
from pipeline.models import plugins
from pipeline.models.measurements import FitMeter
from pipeline.models.torch_runtime.checkpoint import Checkpoint, CheckpointError

ROOT = Path(__file__).parents[1]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
NAMES = ["../evil", "/etc/passwd", "a/b", "a b", "", "a\n", "a\0b", ".hidden", "-x", "..", 5, None]
STAGES = {  # and the stage that writes the first input of each
    "ingest klines": "fetch@klines",
    **{f"{stage} klines": "ingest@klines" for stage in ("liquidity", "featurize", "label", "canary")},
    "guard klines": "featurize@klines",
    "split klines": "featurize@klines",
    "signals klines": "split@klines",
    "baseline klines": "split@klines",
    "sensitivity klines": "label@klines",
    "compare klines": "evaluate_trees@lightgbm",
    "train lstm": "split@klines",
    "train lightgbm": "split@klines",
    "train marl": "split@klines",
    "audit lstm": "split@klines",
    "tune lightgbm_tuned": "split@klines",
    "combine voting": "label@klines",
    "evaluate lstm": "train_nets@lstm",
    "report klines": "ingest@klines",
    "export lstm": "train_nets@lstm",
    "parity lstm": "train_nets@lstm",
    "export_with_parity lstm": "train_nets@lstm",
    "bundle klines": "export_trees@lightgbm",
    "prop_firm klines": "bundle@klines",
    "gate klines": "bundle@klines",
    "evidence klines": "bundle@klines",
    "latency klines": "bundle@klines",
    "quantize nets.lstm": "export_nets@lstm",
    "holdout nets.lstm": "split@klines",
}


class Evil:
    """Runs a command where it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch unpickled",)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty folder with the params and the stages of this repository, and nothing that a stage wrote."""
    (tmp_path / "dvc.yaml").write_bytes((ROOT / "dvc.yaml").read_bytes())
    models = PARAMS["models"] | {"tuned": PARAMS["disabled_models"]["tuned"]}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(PARAMS | {"models": models}, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", STAGES)
def test_a_stage_without_its_inputs_names_the_stage_to_run(command, folder):
    stage, key = command.split()
    with pytest.raises(ArtifactError, match=f"does not exist; run `dvc repro {STAGES[command]}`, the stage that"):
        import_module(f"pipeline.stages.{stage}").main(key)


def test_every_stage_that_reads_a_file_is_in_the_table():
    stages = {file.stem for file in (ROOT / "pipeline/stages").glob("[!_]*.py")}
    assert stages - {command.split()[0] for command in STAGES} == {"fetch", "validate_export"}  # of no stage's files


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system ['touch unpickled']", "!!python/name:os.system"])
def test_a_tag_of_python_in_params_is_refused(tag, folder):
    (folder / "params.yaml").write_text(f"seed: {tag}\n")
    with pytest.raises(ParamsError, match="line 1 is not YAML .*could not determine a constructor"):
        config.load_params()
    assert not (folder / "unpickled").exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_no_file_can_have_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for owner in ("datasets", "datasets.klines.targets", "sources", "models", "models.trees"):
        params = {"datasets": {"klines": {"targets": {}}}, "sources": {}, "models": {"trees": {}}}
        section = params
        for key in owner.split("."):
            section = section[key]
        section[name] = {}
        Path("params.yaml").write_text(yaml.safe_dump(params))
        with pytest.raises(ParamsError) as refused:
            config.load_params()
        assert str(refused.value).startswith(f"params.yaml: {owner}: {name!r} cannot be a name; allowed are letters")


@pytest.mark.parametrize("argument", ["../klines", "/etc/passwd", "a\0b", "klines\n", " ", "", ".", "nets..lstm"])
def test_an_argument_that_is_no_name_is_refused_before_a_stage_reads_anything(argument, monkeypatch):
    def stage(dataset):
        pytest.fail("the stage must not run")

    monkeypatch.setattr(sys, "argv", ["ingest", argument])
    with pytest.raises(SystemExit) as refused:
        cli.run(stage)
    message = f"ingest {argument}: params.yaml: there is no dataset {argument!r}: "
    assert str(refused.value).startswith(message)
    assert "cannot be a name; allowed are letters" in str(refused.value)


def pickle_into_npz(names: list[str]) -> bytes:
    """An npz whose arrays are pickles that run a command."""
    array = np.empty(1, object)
    array[0] = Evil()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            content = io.BytesIO()
            np.lib.format.write_array(content, array, allow_pickle=True)
            archive.writestr(f"{name}.npy", content.getvalue())
    return stream.getvalue()


def test_a_pickle_in_the_weights_of_a_model_is_refused(tmp_path, monkeypatch):
    from pipeline.models.base import Signature
    from tests.data import OUTPUTS

    monkeypatch.chdir(tmp_path)
    signature = Signature(columns=("a", "b"), output=OUTPUTS["return"])
    model = plugins.build("nets", PARAMS["models"]["nets"]["lstm"], signature, shared=PARAMS["nets"], seed=0)
    names = list(model.net.state_dict())
    model.save(tmp_path / "model")
    (tmp_path / "model/weights.npz").write_bytes(pickle_into_npz(names))
    with pytest.raises(ArtifactError, match=r"differ in 'weights\.npz'"):
        plugins.load(tmp_path / "model")
    digests.write_sums(tmp_path / "model")  # as someone would who wants it to be read
    with pytest.raises(ValueError, match="allow_pickle=False"):
        plugins.load(tmp_path / "model")
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize(
    "save", [torch.save, lambda content, file: file.write_bytes(pickle.dumps(content, protocol=2))]
)
def test_a_pickle_in_a_checkpoint_is_refused(save, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save({"fingerprint": "a", "state": Evil(), "measured": {}}, tmp_path / "fit.pt")
    content = (tmp_path / "fit.pt").read_bytes()
    (tmp_path / "fit.pt").write_bytes(content + hashlib.sha256(content).digest())  # as someone would who wants it read
    checkpoint = Checkpoint(tmp_path / "fit.pt", fingerprint="a", interval_seconds=1.0, meter=FitMeter())
    with pytest.raises(CheckpointError, match=r"damaged or incomplete checkpoint \(UnpicklingError\); delete"):
        checkpoint.read()
    assert not (tmp_path / "unpickled").exists()
