"""DVC as tools call it: the commands of its extension of VS Code, and files as DVCLive writes them."""

import json
import re
from pathlib import Path

import pytest
from dvc.cli import main

from pipeline.tracking.runs import collect_runs, list_revisions
from tests.small_repository import ROOT, command, commit

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # of pygtrie, which DVC uses
PAGE = (ROOT / "pipeline/tracking/README.md").read_text().split("## Tools that read DVC's files")[1]
COMMANDS = re.findall(r"`(dvc [^`]+)`", PAGE.replace("\n  ", " "))
STAGES = """\
stages:
  train:
    cmd: mkdir -p dvclive/plots/metrics trained/history && cp live.json dvclive/metrics.json &&
      cp loss.tsv dvclive/plots/metrics/loss.tsv && cp history.csv trained/history/lstm.csv
    deps: [live.json, loss.tsv, history.csv]
    params: [leaves]
    outs: [dvclive/plots]
    metrics: [{dvclive/metrics.json: {cache: false}}]
    plots: [{trained/history/lstm.csv: {x: iteration, y: valid_loss}}]
plots:
- dvclive/plots/metrics: {x: step}
"""


def write_results(root: Path, *, leaves: int, loss: float) -> None:
    """Write what `Live.log_metric` and `next_step` of DVCLive write, and a history as `train` writes it."""
    (root / "params.yaml").write_text(f"leaves: {leaves}\n")
    (root / "live.json").write_text(json.dumps({"step": 1, "valid": {"loss": loss}}))
    (root / "loss.tsv").write_text(f"step\tloss\n0\t1.0\n1\t{loss}\n")
    (root / "history.csv").write_text(
        f"seed,split,iteration,train_loss,valid_loss\n42,0,1,0.5,1.0\n42,0,2,0.25,{loss}\n"
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a commit of one run, and another run in the work tree."""
    root = tmp_path_factory.mktemp("tools")
    command(root, "git", "init", "--quiet", "--initial-branch", "main")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(root)
        for line in ("init --quiet", "config core.analytics false"):
            assert main(line.split()) == 0
        (root / "dvc.yaml").write_text(STAGES)
        for leaves, loss in ((31, 0.75), (63, 0.5)):
            write_results(root, leaves=leaves, loss=loss)
            assert main(["repro", "--quiet"]) == 0
            if leaves == 31:
                commit(root, "31 leaves")
    return root


def read_json(line: str, root: Path):
    """Return what a command of the page prints."""
    assert line in COMMANDS
    return json.loads(command(root, *line.split()))


def test_tools_read_runs_and_plots_of_dvclive_and_histories_of_the_pipeline(root: Path):
    here, before = read_json("dvc exp show --json", root)
    for state, leaves, loss in ((here, 63, 0.5), (before, 31, 0.75)):
        assert state["data"]["params"] == {"params.yaml": {"data": {"leaves": leaves}}}
        assert state["data"]["metrics"]["dvclive/metrics.json"]["data"] == {"step": 1, "valid": {"loss": loss}}
        assert "history.csv" in state["data"]["deps"]
    assert (here["rev"], before["name"]) == ("workspace", "main")
    status = read_json("dvc data status --granular --unchanged --json", root)
    assert {"trained/history/lstm.csv", "dvclive/plots/metrics/loss.tsv"} < set(status["committed"]["modified"])
    plots = read_json("dvc plots diff --split --json", root)["data"]
    drawn = {
        "dvclive/plots/metrics/loss.tsv": ("step", "loss"),
        "trained/history/lstm.csv": ("iteration", "valid_loss"),
    }
    for file, (x, y) in drawn.items():
        (figure,) = plots[file]
        points = figure["anchor_definitions"]["<DVC_METRIC_DATA>"]
        assert figure["revisions"] == ["workspace", "HEAD"]
        assert [float(each[y]) for each in points] == [1.0, 0.5, 1.0, 0.75]
        assert len({each[x] for each in points}) == 2


def test_the_mirror_has_the_metrics_of_dvclive_by_their_file(root: Path):
    (run,) = collect_runs(root, list_revisions(root))
    assert run.metrics == {"dvclive/metrics": {"step": 1, "valid": {"loss": 0.75}}}
