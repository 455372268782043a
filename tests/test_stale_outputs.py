"""Outputs of stages that the pipeline no longer has do not stay beside those of the present one."""

import hashlib
import json
import logging
from pathlib import Path

import pytest
import yaml

from pipeline.evaluation import experiments
from pipeline.evaluation.stale_outputs import find_stale_outputs, is_cached, remove_stale_outputs

STAGES = {
    "evaluate_nets": {"foreach": "${models.nets}", "do": {}},
    "train_agents": {"foreach": "${models.agents}", "do": {}},
    "holdout": {"foreach": "${holdout.models}", "do": {}},
    "report": {"cmd": "true"},
}
PARAMS = {"models": {"nets": {"cnn": {}}, "agents": None}, "holdout": {"models": ["nets.cnn"]}}


def lock(**outputs: str) -> dict:
    names = {"cnn": "evaluate_nets@cnn", "lstm": "evaluate_nets@lstm", "marl": "train_agents@marl"}
    names |= {"report": "report", "old": "deleted", "look": "holdout@nets.lstm", "opened": "holdout@nets.cnn"}
    return {names[key]: {"outs": [{"path": path} for path in paths.split()]} for key, paths in outputs.items()}


def test_stale_are_the_outputs_of_stages_whose_model_or_template_is_gone():
    locked = lock(
        cnn="trained/plots/cnn",
        lstm="trained/plots/lstm trained/onnx/lstm",
        marl="trained/models/marl",
        report="trained/reports/all.json",
        old="data/old",
        look="trained/plots/holdout/nets.lstm",
        opened="trained/plots/holdout/nets.cnn",
    )
    assert find_stale_outputs(locked, STAGES, PARAMS) == [
        "data/old",
        "trained/models/marl",
        "trained/onnx/lstm",
        "trained/plots/holdout/nets.lstm",
        "trained/plots/lstm",
    ]


def test_an_output_of_a_present_stage_a_path_elsewhere_and_the_record_of_a_look_are_never_stale():
    locked = lock(
        cnn="trained/plots/cnn",
        lstm="trained/plots/cnn notes.md data/../pipeline /etc/hosts",
        look="trained/looks/nets.lstm.jsonl",
    )
    assert find_stale_outputs(locked, STAGES, PARAMS) == []


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A repository with results of two nets, of which params have one, and a cache with the results of both."""
    cache, written = tmp_path / "cache", tmp_path / "root"
    monkeypatch.setattr(experiments, "find_cache", lambda _: cache)
    for model in ("cnn", "lstm"):
        for name in (f"reports/evaluate/{model}.json", f"plots/{model}/equity.png", f"plots/{model}/pbo.png"):
            file = written / "trained" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(name)
            digest = hashlib.md5(name.encode()).hexdigest()
            (cache / digest[:2]).mkdir(parents=True, exist_ok=True)
            (cache / digest[:2] / digest[2:]).write_text(name)
    outputs = {model: f"trained/reports/evaluate/{model}.json trained/plots/{model}" for model in ("cnn", "lstm")}
    (written / "dvc.lock").write_text(yaml.safe_dump({"stages": lock(**outputs)}))
    (written / "dvc.yaml").write_text(json.dumps({"stages": STAGES}))
    return written


def list_files(root: Path) -> list[str]:
    return sorted(str(file.relative_to(root / "trained")) for file in (root / "trained").rglob("*.*"))


CNN = ["plots/cnn/equity.png", "plots/cnn/pbo.png", "reports/evaluate/cnn.json"]


def test_reports_and_pictures_of_a_model_that_is_off_are_removed(root):
    remove_stale_outputs(root, PARAMS)
    assert list_files(root) == CNN
    remove_stale_outputs(root, PARAMS)
    assert list_files(root) == CNN


def test_what_the_cache_does_not_hold_stays_with_a_warning(root, caplog):
    (root / "trained/plots/lstm/by_hand.png").write_text("mine")
    with caplog.at_level(logging.WARNING):
        remove_stale_outputs(root, PARAMS)
    lstm = ["plots/lstm/by_hand.png", "plots/lstm/equity.png", "plots/lstm/pbo.png"]
    assert list_files(root) == sorted([*CNN, *lstm])
    assert (
        "no longer has: trained/plots/lstm; they are not in DVC's cache: remove them, or move them away" in caplog.text
    )


def test_a_linked_output_is_unlinked_and_the_cache_stays(root, tmp_path):
    file = root / "trained/reports/evaluate/lstm.json"
    digest = hashlib.md5(file.read_bytes()).hexdigest()
    cached = tmp_path / "cache" / digest[:2] / digest[2:]
    file.unlink()
    file.symlink_to(cached)
    assert is_cached(file, tmp_path / "cache")
    remove_stale_outputs(root, PARAMS)
    assert cached.is_file()
    assert not file.is_symlink()


def test_nothing_is_removed_without_a_lock_file_and_an_incomplete_one_is_one_line(root):
    before = list_files(root)
    (root / "dvc.lock").write_text("")
    with pytest.raises(
        ValueError, match="dvc.lock is incomplete, as after a kill: restore it by `git checkout dvc.lock`"
    ):
        remove_stale_outputs(root, PARAMS)
    (root / "dvc.lock").unlink()
    remove_stale_outputs(root, PARAMS)
    assert list_files(root) == before
