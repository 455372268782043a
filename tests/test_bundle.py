"""The bundle of a small market is verified, and every kind of damage is one line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import digests
from pipeline.config import ParamsError
from pipeline.deployment import contract, ensemble_graph
from pipeline.deployment.hot_path import HotPath
from pipeline.deployment.verify import verify
from pipeline.market.bars import list_columns
from pipeline.models.onnx_session import open_session
from pipeline.stages import bundle
from tests.small_repository import MODELS


@pytest.fixture
def folder(ran, tmp_path) -> Path:
    return shutil.copytree(ran / "trained/bundles/klines", tmp_path / "bundle")


def rewrite(folder: Path, name: str, **changes: object) -> None:
    """Change keys of a JSON file, and list its new digest."""
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(content | changes))
    digests.write_sums(folder)


def test_a_bundle_has_all_models_and_verifies_without_dvc_and_data(folder):
    described = contract.read_contract(folder)
    assert set(described.models) == set(MODELS) and described.signal == "voting"
    assert verify(folder) == 60
    done = subprocess.run(["sha256sum", "--check", "--quiet", digests.SUMS], cwd=folder, check=False)
    assert done.returncode == 0


def test_the_ensemble_as_one_graph_has_the_bits_of_the_hot_path(folder, monkeypatch):
    file, golden = folder.with_name("ensemble.onnx"), pd.read_parquet(folder / contract.GOLDEN)
    monkeypatch.setattr("sys.argv", ["ensemble_graph", "--bundle", str(folder), "--out", str(file)])
    ensemble_graph.main()
    hot_path, session = HotPath.load(folder), open_session(file)
    lane, members, found = hot_path.lanes["BTCUSDT"], contract.read_contract(folder).ensemble.weights, []
    for bar, expected in zip(golden[list_columns(golden)].to_dict("records"), golden["voting.target"], strict=True):
        if (signal := hot_path.update(bar)) is not None:
            given = {f"{name}/inputs": lane.find_places()[name][0] for name in members}
            (target,) = session.run(["target"], given | {"rows": np.array([lane.rows])})
            assert target.tolist() == [signal.target]
            found.append([signal.target, expected])
    targets, by_models = np.transpose(found)
    assert len(found) == 60 and np.std(targets) > 0.02
    assert targets == pytest.approx(by_models, abs=1e-4)  # what the trained models themselves want


def test_the_certificate_covers_what_params_ask_for_and_names_its_contract(folder, ran):
    certificate = json.loads((folder / contract.CERTIFICATE).read_text())
    assert certificate["contract_sha256"] == contract.hash_contract(folder)
    recorded, holes = certificate["recorded"]["BTCUSDT"], certificate["holes"]["BTCUSDT"]
    assert recorded["bars"] == recorded["bars_with_features"] == 400 and len(recorded["restarts_at"]) == 1
    assert holes["segments"] == 2 and min([*recorded["compared"].values(), *holes["compared"].values()]) > 0
    report = json.loads((ran / "trained/reports/bundle/klines.json").read_text())
    assert report.pop("sha256") and report == certificate


def test_the_command_verifies_and_says_in_one_line_what_is_wrong(folder):
    def run() -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "pipeline.deployment.verify", str(folder)]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    done = run()
    assert done.returncode == 0 and "60 golden rows" in done.stdout
    file = folder / "lstm.onnx"
    file.write_bytes(file.read_bytes()[:100] + b"x" + file.read_bytes()[101:])
    done = run()
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "lstm.onnx" in done.stderr


def test_another_certificate_and_other_golden_rows_are_found(folder):
    golden = pd.read_parquet(folder / contract.GOLDEN)
    for column, message in (
        ("return_1", "return_1 is"),
        ("lstm.prediction.return", "the graph of lstm predicts"),
        ("marl.position", "marl.position is"),
    ):
        changed = golden.copy()
        changed.loc[len(golden) - 5, column] += 0.01
        changed.to_parquet(folder / contract.GOLDEN)
        digests.write_sums(folder)
        with pytest.raises(ValueError, match=f"golden row {len(golden) - 5}, .*: {message}"):
            verify(folder)
    golden.to_parquet(folder / contract.GOLDEN)
    text = (folder / contract.GOLDEN_TEXT).read_text()
    (folder / contract.GOLDEN_TEXT).write_text(text.removesuffix("\n") + "1\n")
    digests.write_sums(folder)
    with pytest.raises(ValueError, match=r"golden\.csv has other rows than golden\.parquet"):
        verify(folder)
    (folder / contract.GOLDEN_TEXT).write_text(text)
    rewrite(folder, contract.CONTRACT, signal="lstm")
    with pytest.raises(ValueError, match="is of another contract"):
        verify(folder)


@pytest.mark.parametrize("bars", [None, {"symbols": ["SIM"], "time_unit": "ns"}])
def test_rows_that_are_no_bars_have_no_bundle(bars):
    with pytest.raises(ParamsError, match="deployment.datasets has book, whose rows are no bars.*replay_events"):
        bundle.check_bars("book", {"tree": {"bars": bars}})
    bundle.check_bars("klines", {"tree": {"bars": {"interval_ms": 60_000}}})
