"""A kind of dataset is a package of pipeline/datasets: one whose clock counts events, from an export, runs through."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from pipeline import artifacts, config
from pipeline.config import ParamsError
from pipeline.datasets import kinds
from pipeline.leakage.segments import segments
from pipeline.stages import guard
from pipeline.validation.folds import Folds
from tests import events_kind
from tests.params import PARAMS
from tests.small_repository import command, commit, copy

STAGES = "fetch ingest featurize label guard canary split baseline train audit evaluate sensitivity compare export"
RUN = """
import sys
from importlib import import_module
for word in sys.argv[1].split():
    of_model = word in ("train", "audit", "evaluate", "export")
    import_module(f"pipeline.stages.{word}").main("tree" if of_model else "ticks")
"""
NOT_CHECKED = "not checked: rows come from an export and cannot be recomputed"


def add_kind(repo: Path) -> None:
    """Add the kind `events` to a copy of the repository, and params with one dataset and one model of it."""
    for path, text in events_kind.FILES.items():
        (repo / "pipeline/datasets/events" / path).parent.mkdir(exist_ok=True)
        (repo / "pipeline/datasets/events" / path).write_text(text)
    params = yaml.safe_load((repo / "params.yaml").read_text())
    params["sources"]["export"] = {"kind": "npz", "path": "export.npz"}
    params["costs"]["export"] = {"fee_bps": 0.1, "slippage_bps": 0.1, "borrow_rate": 0.0}
    params["datasets"]["ticks"] = {
        "kind": "events",
        "source": "export",
        "calendar": {},
        "features": {},
        "targets": {"move_2": {"horizon": 2}},
    }
    tree = params["models"]["trees"]["lightgbm"]
    tree["hyperparameters"] |= {"min_data_in_leaf": 50, "learning_rate": 0.2}
    params["models"] |= {
        "trees": {"tree": tree | {"dataset": "ticks", "target": "move_2"}},
        "nets": {},
        "agents": {},
        "ensembles": {},
    }
    params["split"]["holdout_pct"] = 0.2
    (repo / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory, quick_python: None) -> Path:
    """A copy of the repository with the kind, after its stages have run in one process."""
    repo = copy(tmp_path_factory.mktemp("kinds") / "repo")
    add_kind(repo)
    np.savez(repo / "export.npz", **events_kind.draw_export(days=3, rows=1200, seed=1))
    command(repo, sys.executable, ".ci/update_deps")
    commit(repo, "A kind of dataset")
    command(repo, "python", "-c", RUN, STAGES, PIPELINE_WORKERS="1")
    return repo


def read_report(repo: Path, stage: str, name: str = "ticks") -> dict:
    return json.loads((repo / f"trained/reports/{stage}/{name}.json").read_text())


def test_the_export_has_several_rows_at_one_instant_and_their_events_differ(repo):
    clean = pd.read_parquet(repo / "data/clean/ticks.parquet")
    assert clean["time_ms"].duplicated().any()
    assert (np.diff(clean["event"]) > 0).all()
    assert len(np.unique(np.diff(clean["event"]))) > 2


def test_the_guard_report_says_what_was_not_checked(repo):
    found = {finding["guard"]: finding for finding in read_report(repo, "guard")["findings"]}
    assert {name for name, finding in found.items() if finding["message"] == NOT_CHECKED} == {"truncation", "label_end"}
    assert {"look_ahead", "target_leakage", "label_timing", "segments"} <= found.keys()
    assert {finding["severity"] for finding in found.values()} == {"ok"}


def test_canaries_are_not_planted_in_an_export_and_the_page_says_so(repo):
    assert read_report(repo, "canary")["reason"] == "rows come from an export and cannot be recomputed"
    assert "no canary planted" in (repo / "trained/reports/canary/ticks.md").read_text()


def test_folds_are_cut_by_the_number_of_the_event_and_no_gap_is_reported(repo):
    report = read_report(repo, "split")
    assert {tuple(group) for group in report["groups"]} == {("rows", "first_events", "last_events")}
    assert "gaps_across_groups" not in report
    assert "no grid" in report["no_gaps_reason"]


def test_lengths_are_in_the_unit_of_the_clock(repo):
    assert read_report(repo, "label")["move_2"]["mean_length_events"] > 4  # two rows of three events each


def test_no_row_is_added_between_events_and_the_sharpe_ratio_is_annualized_by_rows_per_year(repo):
    details = read_report(repo, "evaluate/details", "tree")["model"]["paths"][0]
    folds, _ = Folds.load(repo / "data/folds/ticks.parquet")
    returns = pd.read_parquet(repo / "trained/returns/tree.parquet").query("path == 0")["net"]
    assert details["bars"] == len(returns) == len(folds.select_predicted())
    clean = pd.read_parquet(repo / "data/clean/ticks.parquet")
    span_ms = sum(np.ptp(part["time_ms"]) for _, part in clean.groupby("segment"))
    rows_per_year = events_kind.TRADED_MS_PER_YEAR * len(clean) / span_ms
    assert details["sharpe"] == pytest.approx(returns.mean() / returns.std(ddof=1) * np.sqrt(rows_per_year), rel=1e-3)


def test_the_tree_learns_the_signal_of_the_export(repo):
    assert read_report(repo, "evaluate", "tree")["ic"] > 0.2
    assert list(read_report(repo, "compare/details")["leaderboard"]) == ["tree"]


def test_the_contract_of_a_kind_without_bars_says_so(repo):
    contract = json.loads((repo / "trained/onnx/tree/contract.json").read_text())
    assert contract["bars"] is None
    assert contract["trading"]["delay_bars"] == 0


def test_a_kind_is_the_files_of_its_package_and_what_update_deps_writes(repo):
    stages = yaml.safe_load((repo / "dvc.yaml").read_text())["stages"]
    parts = [f"{kind}/{part}" for kind in ("events", "klines") for part in ("clock", "fills")]
    assert {f"pipeline/datasets/{part}.py" for part in parts} <= set(stages["evaluate_trees"]["do"]["deps"])
    assert ".ci/kinds/${item.kind}/fetch" in stages["fetch"]["do"]["deps"]
    assert list_linked(repo, "events/fetch") == {f"events/{file}.py" for file in ("fetch", "sources/npz")}
    assert list_linked(repo, "klines/split") == {"klines/clock.py", "klines/words.py"}


def list_linked(repo: Path, folder: str) -> set[str]:
    """The modules of kinds that the links of a kind and stage point to."""
    datasets = (repo / "pipeline/datasets").resolve()
    return {link.resolve().relative_to(datasets).as_posix() for link in (repo / ".ci/kinds" / folder).iterdir()}


@pytest.mark.parametrize("kind", ["books", "../evil", 5, None, ["klines"]])
def test_an_unknown_kind_is_refused_with_those_that_exist(kind):
    message = f"params.yaml: datasets.klines.kind is {kind!r}; it must be one of klines, orderbook, orderbook_export"
    with pytest.raises(config.ParamsError) as refused:
        kinds.import_part({"datasets": {"klines": {"kind": kind}}}, "klines", "clock")
    assert str(refused.value) == message


def test_a_dataset_without_a_kind_is_refused():
    described = {key: value for key, value in PARAMS["datasets"]["klines"].items() if key != "kind"}
    match = r"there is no datasets\.d\.kind; datasets\.d has source, calendar, features, targets"
    with pytest.raises(ParamsError, match=match):
        kinds.find_kind({"datasets": {"d": described}}, "d")


def check_events(event: list[int], rows: list[int], *, ends: list[int] | None = None, segment: list[int] | None = None):
    """Return what the guard finds of rows, by position, of a table whose clock is no grid; warm-ups have one row."""
    segment = segment or [0] * len(event)
    bars = pd.DataFrame({"open_time": event, "segment": segment})
    time = np.array(event)[rows]
    ends = time if ends is None else np.array(ends)
    return segments(time, ends, np.array(segment)[rows], bars=bars, bar_ms=None, warm_up_bars=1)


def test_without_a_grid_rows_need_only_ascend_within_their_segment():
    assert check_events([3, 4, 9, 10, 40], [1, 2, 4]).severity == "ok"
    assert check_events([3, 4, 9, 10, 40], [1, 4, 2]).measurements["misplaced_rows"] == 1
    assert check_events([3, 4, 4, 10, 40], [1, 3]).measurements["gaps_within_segments"] == 1


def test_without_a_grid_labels_and_warm_ups_stay_within_their_segment():
    assert check_events([3, 4, 9], [1], ends=[10]).measurements["labels_outside_segment"] == 1
    assert check_events([3, 4, 9, 11], [1, 2, 3], segment=[0, 0, 1, 1]).measurements["warm_ups_outside_segment"] == 1
    assert check_events([3, 4, 9], [1, 2], segment=[0, 0, 1]).measurements["warm_ups_outside_segment"] == 1


def test_a_row_of_the_export_that_has_no_features_breaks_a_window(repo, tmp_path, monkeypatch):
    shutil.copytree(repo / "data", tmp_path / "data")
    file = tmp_path / "data/features/ticks.parquet"
    artifacts.write_table(file, pd.read_parquet(file).drop(index=500))
    monkeypatch.chdir(tmp_path)
    bars = pd.read_parquet("data/clean/ticks.parquet").rename(columns={"event": "open_time"})
    files = sorted(Path("data/labels/ticks").glob("*.parquet"))
    found = list(guard.check_segments(bars, file, files, step=None, number_times=lambda _: None, warm_up_bars=0))
    assert [finding.severity for finding in found] == ["ok", "critical"]
    assert "windows cross a gap or a border at row 500" in found[1].message
