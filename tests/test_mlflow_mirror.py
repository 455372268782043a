"""The mirror in MLflow: each run once, with the values of `dvc exp show`, read back by MLflow's own client."""

import json
import sqlite3
import sys
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from dvc.repo import Repo

from pipeline.deployment import registry
from pipeline.evaluation.run_index import flatten
from pipeline.tracking import mlflow_mirror
from pipeline.tracking.mlflow_mirror import hold_lock, mirror, open_store
from pipeline.tracking.runs import Revision
from tests import registry_repository
from tests.registry_repository import make_repository, train, write_params
from tests.small_repository import command

STAGE = """\
  evaluate:
    cmd: >-
      mkdir -p trained/metrics trained/history && cp sources/metrics.json trained/metrics/tree.json &&
      cp sources/history.csv trained/history/tree.csv
    deps:
    - sources/metrics.json
    - sources/history.csv
    outs:
    - trained/history/tree.csv
    metrics:
    - trained/metrics/tree.json:
        cache: false
"""
HISTORY = """\
seed,split,iteration,train_loss,valid_loss
42,-1,1,0.5,
42,-1,2,0.25,0.75
42,0,1,1.5,2.5
"""
pytestmark = [
    pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning"),  # of pygtrie, which DVC uses
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),  # of SQLAlchemy, which MLflow uses
]


def write_results(root: Path, *, leaves: int, ic: float, history: str = HISTORY) -> None:
    block = {"dataset": "tiny", "leaves": leaves, "columns": ["a", "b"], "window": None, "rate": 0.001}
    write_params(root, models={"trees": {"tree": block}, "nets": None})
    (root / "sources/metrics.json").write_text(json.dumps({"ic": ic, "sharpe": None, "parts": {"up": 1}}))
    (root / "sources/history.csv").write_text(history)


def add_experiment(root: Path, name: str) -> str:
    """Commit a run as DVC records experiments; return its commit."""
    start = command(root, "git", "rev-parse", "HEAD").strip()
    command(root, "git", "checkout", "--quiet", "--detach")
    write_results(root, leaves=63, ic=0.5)
    train(root, "dvc: commit experiment", graph="experiment")
    commit = command(root, "git", "rev-parse", "HEAD").strip()
    command(root, "git", "update-ref", f"refs/exps/{start[:2]}/{start[2:]}/{name}", commit)
    command(root, "git", "checkout", "--quiet", "main")
    return commit


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A commit without metrics, one with metrics, which is promoted, and an experiment; one first pass that failed."""
    folder = tmp_path_factory.mktemp("mirror")
    root = make_repository(folder / "repository", url=str(folder / "remote"))
    (root / "dvc.yaml").write_text(registry_repository.STAGES + STAGE)
    write_results(root, leaves=31, ic=0.25)
    train(root, "Metrics of the tree", graph="second")
    registry.promote(root)
    add_experiment(root, "leaves63")
    store = open_store(f"sqlite:///{folder}/mlflow.db", "pipeline")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(store), "_write_tags", stop)
        with pytest.raises(KeyboardInterrupt):
            run_mirror(root)
    return root


def stop(*_: object) -> None:
    raise KeyboardInterrupt


def run_mirror(root: Path) -> str:
    return str(mirror(root, store=f"sqlite:///{root.parent}/mlflow.db", experiment="pipeline"))


def dump(root: Path) -> list[str]:
    """Every row of every table of the store."""
    with sqlite3.connect(root.parent / "mlflow.db") as database:
        return sorted(database.iterdump())


def find_run(root: Path, key: str):
    run = open_store(f"sqlite:///{root.parent}/mlflow.db", "pipeline").find_run(key)
    assert run is not None
    return run


def show_experiments(root: Path) -> dict[str, dict]:
    """The data of `dvc exp show` on each commit and experiment, by commit."""
    shown = json.loads(command(root, "dvc", "exp", "show", "--json", "--all-commits"))
    states = [*shown, *(state for each in shown for group in each["experiments"] or () for state in group["revs"])]
    return {state["rev"]: state["data"] for state in states if state["rev"] != "workspace"}


def test_a_pass_after_one_that_was_stopped_writes_all_runs_and_the_next_one_changes_nothing(root):
    assert run_mirror(root).startswith("3 runs: 3 written, 0 with other names")
    before = dump(root)
    assert run_mirror(root).startswith("3 runs: 0 written, 0 with other names, tags or stages; 0 changes")
    assert dump(root) == before
    assert sum(line.startswith('INSERT INTO "runs"') for line in before) == 3 + 2  # two versions of the tree


def test_params_metrics_and_digests_are_those_of_dvc_exp_show(root):
    run_mirror(root)
    shown = show_experiments(root)
    assert len(shown) == 3
    for commit, data in shown.items():
        stored = find_run(root, commit)
        expected = dict(flatten(data["params"]["params.yaml"]["data"]))
        assert {key: value if isinstance(value, str) else json.dumps(value) for key, value in expected.items()} == (
            stored.data.params
        )
        files = {Path(file).stem: each["data"] for file, each in data["metrics"].items()}
        numbers = {f"{name}/{key}": value for name, each in files.items() for key, value in flatten(each)}
        assert {key: value for key, value in numbers.items() if value is not None} == stored.data.metrics
        digests = {f"md5/{path}": out["hash"] for path, out in data["outs"].items()}
        assert digests.items() <= stored.data.tags.items() and digests


def test_a_history_is_stored_by_iteration_below_the_first_run_that_has_the_model(root):
    run_mirror(root)
    head = command(root, "git", "rev-parse", "main").strip()
    client = open_store(f"sqlite:///{root.parent}/mlflow.db", "pipeline").client
    child = find_run(root, head).data.tags["model/tree"]
    assert client.get_run(child).data.tags["mlflow.parentRunId"] == find_run(root, head).info.run_id
    found = {
        name: [(each.step, each.value) for each in client.get_metric_history(child, name)]
        for name in ("train_loss/final", "valid_loss/final", "train_loss/split_0", "valid_loss/split_0", "ic")
    }
    assert found == {
        "train_loss/final": [(1, 0.5), (2, 0.25)],
        "valid_loss/final": [(2, 0.75)],
        "train_loss/split_0": [(1, 1.5)],
        "valid_loss/split_0": [(1, 2.5)],
        "ic": [(0, 0.25)],
    }
    assert client.get_run(child).data.params["columns"] == '["a", "b"]'


def test_a_history_of_several_seeds_is_named_by_seed_and_split():
    from pipeline.tracking.mlflow_store import list_history  # needs the extra

    rows = [(seed, split, 1, 0.5) for seed in (1, 2) for split in (-1, 0)]
    history = pd.DataFrame(rows, columns=["seed", "split", "iteration", "train_loss"])
    names = [each.key for each in list_history(history, Revision("c0ffee", 1, "A run"))]
    assert names == [f"train_loss/seed_{seed}/{split}" for seed in (1, 2) for split in ("final", "split_0")]


def test_a_rollback_moves_the_alias_and_an_experiment_that_was_removed_stays(root):
    run_mirror(root)
    client = open_store(f"sqlite:///{root.parent}/mlflow.db", "pipeline").client
    first = command(root, "git", "rev-parse", "HEAD").strip()
    assert client.get_model_version_by_alias("model", "prod").tags["pipeline.version"] == "v1.0.0"
    assert find_run(root, first).data.tags["pipeline.stage"] == "model#prod"
    write_results(root, leaves=15, ic=0.125)
    train(root, "Fewer leaves", graph="third")
    registry.promote(root)
    assert run_mirror(root).startswith("4 runs: 1 written, 1 with other names, tags or stages; 2 changes")
    second = client.get_model_version_by_alias("model", "prod")
    assert second.tags["pipeline.version"] == "v1.1.0"
    assert client.get_run(second.run_id).data.tags["pipeline.commit"] == second.tags["pipeline.commit"] != first
    assert "pipeline.stage" not in find_run(root, first).data.tags
    registry.rollback(root)
    (ref,) = command(root, "git", "for-each-ref", "--format=%(refname)", "refs/exps/*/*/leaves63").split()
    gone = command(root, "git", "rev-parse", ref).strip()
    command(root, "git", "update-ref", "-d", ref)
    assert run_mirror(root).startswith("3 runs: 0 written, 2 with other names, tags or stages; 1 changes")
    assert client.get_model_version_by_alias("model", "prod").tags["pipeline.version"] == "v1.0.0"
    assert find_run(root, gone).data.tags["pipeline.experiment"] == "leaves63"
    before = dump(root)
    run_mirror(root)
    assert dump(root) == before


def test_a_history_that_the_cache_lacks_is_named_and_written_once_it_is_there(root):
    history = HISTORY.replace("0.5", "0.125")
    write_results(root, leaves=7, ic=0.75, history=history)
    train(root, "Seven leaves", graph="fourth")
    with Repo(str(root)) as repository:
        (out,) = [out for out in repository.index.outs if str(out).endswith("tree.csv")]
        file = Path(out.cache_path)
    file.rename(root.parent / "aside")
    assert run_mirror(root).endswith(
        "DVC's cache lacks 1 histories: run `dvc fetch --all-commits trained/history`, then mirror again"
    )
    head = command(root, "git", "rev-parse", "HEAD").strip()
    assert find_run(root, head).data.tags["pipeline.missing_histories"] == "tree"
    (root.parent / "aside").rename(file)
    run_mirror(root)
    stored = find_run(root, head)
    assert "pipeline.missing_histories" not in stored.data.tags
    client = open_store(f"sqlite:///{root.parent}/mlflow.db", "pipeline").client
    found = client.get_metric_history(stored.data.tags["model/tree"], "train_loss/final")
    assert [each.value for each in found] == pd.read_csv(StringIO(history))["train_loss"].tolist()[:2]


def test_a_folder_a_second_mirror_and_an_absent_mlflow_are_refused_with_what_to_do(root, monkeypatch, capsys):
    with pytest.raises(ValueError, match="the store ./mlruns is a folder, which MLflow refuses; give a database"):
        mirror(root, store="./mlruns", experiment="pipeline")
    for uri in (f"sqlite:///{root.parent}/absent/mlflow.db", "sqlite:///absent/mlflow.db"):
        with pytest.raises(ValueError, match=f"^the store {uri} is a file in .*absent, which is no folder; make"):
            open_store(uri, "pipeline")
    assert not (root.parent / "absent").exists()
    assert not Path("absent").exists()
    with hold_lock(root), pytest.raises(ValueError, match="another mirror of this repository is running"):
        run_mirror(root)
    monkeypatch.delitem(sys.modules, "pipeline.tracking.mlflow_store")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.chdir(root)
    monkeypatch.setattr("sys.argv", ["mlflow_mirror"])
    with pytest.raises(SystemExit, match=r"^mlflow_mirror: the mirror needs mlflow; run `pip install .*\[mlflow\]'`$"):
        mlflow_mirror.main()
