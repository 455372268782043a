"""Results that clones share by a remote on S3, by the commands of the README as it prints them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from dvc.cli import main

from tests.s3_server import MARKS, serve_bucket
from tests.small_repository import ROOT, command, commit

pytestmark = MARKS
SHARING, CI = (ROOT / "pipeline/cluster/README.md").read_text().split("\n## Sharing by S3\n")[1].split("\n## CI\n")
*ADD_REMOTE, PUSH = re.findall("^dvc .*", SHARING, re.MULTILINE)  # of its block
PULL, REPRODUCE, GET = re.findall("^- `(dvc [^`]+)`", SHARING, re.MULTILINE)
WORKFLOW = yaml.safe_load(CI.split("```yaml\n")[1].split("```")[0])
SCRIPT = WORKFLOW["jobs"]["metrics"]["steps"][-1]["run"].replace("${{ github.base_ref }}", "main").splitlines()
EXAMPLE = "https://s3.example.org"
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
        run_dvc("dvc init --quiet")
        run_dvc("dvc config core.analytics false")
        for line in ADD_REMOTE:
            run_dvc(line.replace("s3://bucket/folder", "s3://store/pipeline").replace(EXAMPLE, address))
        run_dvc("dvc repro")
        run_dvc(PUSH)
        commit(first, "The stages have run")
        for tag in ("model@v0.0.1", "model#prod#1"):  # as GTO, and `registry promote`, make them
            command(first, "git", "tag", "--annotate", "--message", tag, tag)
        yield address


def run_dvc(line: str) -> None:
    """Run a line of a shell, a command of DVC, in this process; it must succeed. Its output goes where it did."""
    _, *words = shlex.split(line.split(">")[0], comments=True)
    assert main(words) == 0, line


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
    run_dvc(PULL)
    assert {name: Path(name).read_bytes() for name in first} == first
    run_dvc(GET.replace("<repository>", "../first") + " --out got.txt")
    assert Path("got.txt").read_bytes() == first["model.txt"]
    clone(monkeypatch, "runner")
    Path("metrics.yaml").write_text("leaves: 63\n")
    for line in SCRIPT:
        if line.startswith("dvc"):
            capsys.readouterr()
            run_dvc(line)
    assert re.search(r"metrics.yaml +\| leaves +\| 31 +\| 63 +\| 32 ", capsys.readouterr().out)
    assert {name: Path(name).read_bytes() for name in first} == first
    assert read_runs() == ["featurize", "train", "report"]


def test_the_workflow_of_the_page_is_one_of_github_and_its_script_ends_with_a_comment():
    assert WORKFLOW[True] == "pull_request"  # the key `on`, which YAML 1.1 reads as a truth value
    assert [line.split()[0] for line in SCRIPT] == [".", "dvc", "dvc", "dvc", "gh"]
    assert (ROOT / SCRIPT[0].split()[1]).is_file()
    assert SCRIPT[3].endswith("> metrics.md") and SCRIPT[4].endswith("--body-file metrics.md")
    assert {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "PIPELINE_TORCH"} < WORKFLOW["jobs"]["metrics"]["env"].keys()


def test_of_a_run_that_is_pushed_but_not_committed_only_stages_without_cache_are_repeated(remote: str, monkeypatch):
    Path("params.yaml").write_text("leaves: 63\n")
    run_dvc("dvc repro")
    run_dvc(PUSH)
    model = Path("model.txt").read_bytes()
    assert read_runs() == (runs := ["featurize", "train", "report", "train", "report"])
    clone(monkeypatch, "second")  # of the commit before
    Path("params.yaml").write_text("leaves: 63\n")
    run_dvc(REPRODUCE)
    assert Path("model.txt").read_bytes() == model
    assert read_runs() == [*runs, "report"]
    assert Path("report.txt").read_text() == "leaves: 63\n"


def test_a_wrong_key_of_s3_is_named_and_the_right_one_pulls(remote: str, monkeypatch, caplog):
    clone(monkeypatch, "refused")
    address, _ = re.findall("`(failed to [^`]+)`", SHARING)
    for name in re.findall("`(AWS_[A-Z_]+)`", SHARING):
        with monkeypatch.context() as wrong:
            wrong.setenv(name, "AKIAWRONG")
            assert main(["pull"]) != 0
        (error,) = [each for each in caplog.records if each.message.startswith("failed to connect")]
        assert error.message == address.replace("bucket/folder", "store/pipeline")
        assert str(error.exc_info[1]) == "Forbidden"
        assert not Path("model.txt").exists()
        caplog.clear()
    run_dvc(PULL)
    assert Path("model.txt").exists()
