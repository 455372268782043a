"""The index of runs: which revision a run stands at, and which rows a command line selects."""

import json
from pathlib import Path

import pandas as pd
import pytest

from pipeline.evaluation import run_index
from pipeline.evaluation.run_index import Revision, collect_runs, make_index, select_rows, sort_rows
from tests.small_repository import command, commit

REPORTS, COMPARISON = Path("trained/reports/evaluate"), Path("trained/reports/compare/details/klines.json")


def write_run(root: Path, *, leaves: int, sharpes: dict[str, float | None]) -> None:
    """Write params, and the reports of models."""
    block = {"dataset": "klines", "target": "return_5", "plugin": "lightgbm", "leaves": leaves}
    (root / "params.yaml").write_text(json.dumps({"models": {"trees": dict.fromkeys(sharpes, block)}}))
    for path in (REPORTS / "details", COMPARISON.parent):
        (root / path).mkdir(parents=True, exist_ok=True)
    for model, sharpe in sharpes.items():
        report = {"ic": 0.1, "sharpe_daily": sharpe, "seeds": {"count": 1}}
        (root / REPORTS / f"{model}.json").write_text(json.dumps(report))
        (root / REPORTS / "details" / f"{model}.json").write_text("no headline")
    leaderboard = {model: {"dsr": 0.5} for model in sharpes}
    (root / COMPARISON).write_text(json.dumps({"leaderboard": leaderboard}))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Two runs of `a` on main, the second with a tag, one in an experiment, and one in the work tree; one of `b`."""
    root = tmp_path_factory.mktemp("runs")
    command(root, "git", "init", "--quiet", "--initial-branch", "main")
    write_run(root, leaves=3, sharpes={"a": 1.5, "b": None})
    commit(root, "The first run")
    first = command(root, "git", "rev-parse", "HEAD").strip()
    write_run(root, leaves=7, sharpes={"a": 9.0, "b": None})
    command(root, "git", "checkout", "--quiet", "--detach")
    commit(root, "An experiment")
    command(root, "git", "update-ref", f"refs/exps/{first[:2]}/{first[2:]}/leaves7", "HEAD")
    command(root, "git", "update-ref", "refs/exps/exec/EXEC_HEAD", first)
    command(root, "git", "checkout", "--quiet", "main")
    write_run(root, leaves=15, sharpes={"a": 2.5, "b": None})
    commit(root, "The second run")
    (root / "README.md").write_text("a change of no report")
    commit(root, "A page")
    command(root, "git", "tag", "--annotate", "--message", "x", "model@v1.0.0")
    write_run(root, leaves=15, sharpes={"a": 4.0, "b": None})
    return root


def test_each_version_of_a_report_is_a_run_at_the_first_revision_that_has_it(root):
    rows = make_index(root)
    found = [[row[key] for key in ("model", "sharpe_daily", "branch", "experiment", "tags")] for row in rows]
    assert sorted(found, key=str) == sorted(
        [
            ["a", 1.5, "main", "", ""],
            ["a", 9.0, "", "leaves7", ""],
            ["a", 2.5, "main", "", "model@v1.0.0"],
            ["a", 4.0, "", "", ""],
            ["b", None, "main", "", "model@v1.0.0"],
        ],
        key=str,
    )
    by_sharpe = {row["sharpe_daily"]: row for row in rows}
    assert by_sharpe[1.5]["revision"] == command(root, "git", "rev-parse", "main~2").strip()
    assert by_sharpe[4.0]["revision"] == "work tree"
    assert (by_sharpe[9.0]["family"], by_sharpe[9.0]["dsr"], by_sharpe[9.0]["seeds.count"]) == ("trees", 0.5, 1)
    assert by_sharpe[2.5]["params_digest"] == by_sharpe[4.0]["params_digest"] != by_sharpe[1.5]["params_digest"]


def test_the_command_writes_all_runs_and_prints_the_selected_ones(root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    options = ["--model", "a", "--filter", "sharpe_daily>2", "--sort", "sharpe_daily"]
    monkeypatch.setattr("sys.argv", ["run_index", *options])
    run_index.main()
    head, *lines, last = capsys.readouterr().out.splitlines()
    assert [line.split()[-2] for line in lines] == ["9", "4", "2.5"]
    assert head.split()[-2:] == ["sharpe_daily", "dsr"] and last == "3 of 5 runs; all are in trained/run_index.csv"
    assert len(pd.read_csv(root / "trained/run_index.csv")) == 5
    monkeypatch.setattr("sys.argv", ["run_index", "--sort", "sharp"])
    with pytest.raises(SystemExit, match="^run_index: the index has no column sharp; it has revision, date, "):
        run_index.main()


ROWS = [
    {"model": "lstm", "tags": "model@v1.0.0 model#prod#1", "ic": 0.2},
    {"model": "lightgbm", "tags": "", "ic": None},
    {"model": "lightgbm_barrier", "tags": "model@v1.1.0", "ic": -0.1},
]


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ([], [0, 1, 2]),
        (["model=lightgbm"], [1]),
        (["model=lightgbm*"], [1, 2]),
        (["tags=model@v1.*"], [0, 2]),
        (["tags=model#prod#1"], [0]),
        (["ic>-0.5"], [0, 2]),
        (["ic<=0.2", "model=l*m"], [0]),
        (["ic=0.2"], [0]),
        (["ic >= 0.3"], []),
    ],
)
def test_conditions_select_rows_and_an_undefined_value_meets_none(conditions, expected):
    assert select_rows(ROWS, conditions) == [ROWS[place] for place in expected]


def test_a_wrong_condition_is_refused():
    with pytest.raises(ValueError, match="the index has no column family; it has model, tags, ic"):
        select_rows(ROWS, ["family=trees"])
    with pytest.raises(ValueError, match="'lightgbm' is no condition; write KEY=VALUE"):
        select_rows(ROWS, ["lightgbm"])
    with pytest.raises(ValueError, match="ic>many compares numbers; many is none"):
        select_rows(ROWS, ["ic>many"])


def test_rows_are_sorted_by_a_metric_with_undefined_ones_last():
    assert sort_rows(ROWS, "ic", ascending=False) == [ROWS[0], ROWS[2], ROWS[1]]
    assert sort_rows(ROWS, "ic", ascending=True) == [ROWS[2], ROWS[0], ROWS[1]]
    assert sort_rows(ROWS, "model", ascending=True) == [ROWS[1], ROWS[2], ROWS[0]]


def test_a_report_of_another_kind_is_left_out_with_a_warning(caplog):
    objects = {"params.yaml": "1", str(REPORTS / "a.json"): "2"}
    assert collect_runs([Revision("abc", 0, objects)], {"1": "models: {}", "2": "damaged"}) == []
    assert "a at abc is not in the index" in caplog.text
