"""Results that clones share by a remote on S3, by the commands of the README."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from dvc.cli import main

from tests.s3_server import MARKS, refuse_keys, serve_bucket
from tests.small_repository import command, commit

pytestmark = MARKS
STAGES = """\
artifacts:
  model:
    path: model.txt
    type: model
stages:
  featurize:
    cmd: echo featurize >> $RUNS && tr a-z A-Z < bars.csv > features.csv
    deps: [bars.csv]
    outs: [features.csv]
  train:
    cmd: echo train >> $RUNS && cat features.csv params.yaml > model.txt
    deps: [features.csv]
    params: [leaves]
    outs: [model.txt]
  report:
    cmd: echo report >> $RUNS && grep leaves model.txt > report.txt
    deps: [model.txt]
    outs: [{report.txt: {cache: false}}]
metrics: [metrics.yaml]
"""


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of S3; the stages have run in the clone `first`, the present folder, and are pushed."""
    first = tmp_path / "first"
    monkeypatch.setenv("RUNS", str(tmp_path / "runs"))
    first.mkdir()
    monkeypatch.chdir(first)
    files = {
        "bars.csv": "close\n1\n",
        "params.yaml": "leaves: 31\n",
        "metrics.yaml": "leaves: 31\n",
        "dvc.yaml": STAGES,
    }
    for name, text in files.items():
        Path(name).write_text(text)
    command(first, "git", "init", "--quiet", "--initial-branch", "main")
    with serve_bucket(monkeypatch) as address:
        run_dvc("init", "--quiet")
        run_dvc("config", "core.analytics", "false")
        run_dvc("remote", "add", "-d", "store", "s3://store/pipeline")
        run_dvc("remote", "modify", "store", "endpointurl", address)
        run_dvc("repro")
        run_dvc("push", "--run-cache")
        commit(first, "The stages have run")
        for tag in ("model@v0.0.1", "model#prod#1"):  # as GTO, and `registry promote`, make them
            command(first, "git", "tag", "--annotate", "--message", tag, tag)
        yield address


def run_dvc(*words: str) -> None:
    """Run a command of DVC in this process; it must succeed."""
    assert main(list(words)) == 0, words


def read_runs() -> list[str]:
    return Path("../runs").read_text().split()


def clone(monkeypatch: pytest.MonkeyPatch, name: str) -> Path:
    """Return a fresh clone, without data, which is the present folder from now on."""
    command(Path(), "git", "clone", "--quiet", "../first", f"../{name}")
    monkeypatch.chdir(f"../{name}")
    return Path.cwd()


def test_clones_get_results_from_s3_and_run_no_stage_again(remote: str, tmp_path: Path, monkeypatch, capsys):
    first = {name: (tmp_path / "first" / name).read_bytes() for name in ("features.csv", "model.txt")}
    clone(monkeypatch, "pulled")
    run_dvc("pull")
    assert {name: Path(name).read_bytes() for name in first} == first
    clone(monkeypatch, "reproduced")
    run_dvc("repro", "--pull")
    assert {name: Path(name).read_bytes() for name in first} == first
    run_dvc("artifacts", "get", "../first", "model", "--stage", "prod", "--out", "got.txt")
    assert Path("got.txt").read_bytes() == first["model.txt"]
    assert read_runs() == ["featurize", "train", "report"]
    capsys.readouterr()
    Path("metrics.yaml").write_text("leaves: 63\n")
    run_dvc("metrics", "diff", "--md", "main")
    assert "| metrics.yaml | leaves   | 31     | 63          | 32       |" in capsys.readouterr().out


def test_of_a_run_that_is_pushed_but_not_committed_only_stages_without_cache_are_repeated(remote: str, monkeypatch):
    Path("params.yaml").write_text("leaves: 63\n")
    run_dvc("repro")
    run_dvc("push", "--run-cache")
    model = Path("model.txt").read_bytes()
    assert read_runs() == (runs := ["featurize", "train", "report", "train", "report"])
    clone(monkeypatch, "second")  # of the commit before
    Path("params.yaml").write_text("leaves: 63\n")
    run_dvc("repro", "--pull")
    assert Path("model.txt").read_bytes() == model
    assert read_runs() == [*runs, "report"]
    assert Path("report.txt").read_text() == "leaves: 63\n"


def test_a_wrong_key_of_s3_is_named(remote: str, monkeypatch, caplog):
    clone(monkeypatch, "refused")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAWRONG")
    with refuse_keys(remote):
        assert main(["pull"]) != 0
    assert "failed to connect to s3 (store/pipeline/files/md5)" in caplog.text
    assert "Forbidden" in caplog.text
    assert not Path("model.txt").exists()
