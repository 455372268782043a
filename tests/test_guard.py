"""Tests of the guard stage on the files of a small market, as the stages before it write them."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from pipeline import artifacts
from pipeline.leakage.findings import LeakageError
from pipeline.stages import featurize, fetch, guard, ingest, label

PARAMS = Path(__file__).parents[1] / "params.yaml"
TARGETS = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))["datasets"]["klines"]["targets"]
FEATURES, RETURN = Path("data/features/klines.parquet"), Path("data/labels/klines/return_5.parquet")


@pytest.fixture
def market(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a folder with the bars, features and labels of two simulated days."""
    params = yaml.safe_load(PARAMS.read_text())
    params["sources"]["simulated"]["days"] = 2
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(params))
    for stage in (fetch, ingest, featurize, label):
        stage.main("klines")


def edit_table(file: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    artifacts.write_table(file, change(pd.read_parquet(file)))


def read_severities() -> dict[str, list[str]]:
    """Return the severities in the report, by guard."""
    severities: dict[str, list[str]] = {}
    for found in artifacts.read_json(artifacts.report_path("guard", "klines"))["findings"]:
        severities.setdefault(found["guard"], []).append(found["severity"])
    return severities


@pytest.mark.usefixtures("market")
def test_every_guard_of_columns_labels_and_segments_runs_for_every_target():
    guard.main("klines")
    assert read_severities() == {
        "truncation": ["ok"],
        "look_ahead": ["ok"],
        "target_leakage": ["ok"] * len(TARGETS),
        "label_end": ["ok"] * len(TARGETS),
        "label_timing": ["ok"] * len(TARGETS),
        "segments": ["ok", "ok"],
    }


def triple_labels_from(start_ms: int) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Return the change of a table of labels that triples labels that are numbers, and reverses classes."""

    def triple(table: pd.DataFrame) -> pd.DataFrame:
        sealed, y = table["time"] >= start_ms, table["y"]
        return table.assign(y=y.where(~sealed, 3 * y if y.dtype.kind == "f" else y.max() - y))

    return triple


def read_correlations() -> list[dict]:
    """Return the findings of the guards that correlate columns with labels."""
    findings = artifacts.read_json(artifacts.report_path("guard", "klines"))["findings"]
    return [found for found in findings if found["guard"] in ("look_ahead", "target_leakage")]


@pytest.mark.usefixtures("market")
def test_no_column_is_correlated_with_a_label_of_the_holdout():
    guard.main("klines")
    before, files = read_correlations(), sorted(RETURN.parent.iterdir())
    rows = guard.list_labeled(FEATURES, files)
    start = rows["time"].iloc[-math.ceil(0.15 * len(rows))]  # one symbol without gaps: each row has a time of its own
    for file in files:
        edit_table(file, triple_labels_from(start))
    guard.main("klines")
    assert read_correlations() == before
    for file in files:
        edit_table(file, triple_labels_from(start - 300 * 60_000))
    guard.main("klines")
    assert read_correlations() != before


@pytest.mark.usefixtures("market")
def test_a_column_that_is_the_label_over_a_shorter_horizon_alone_is_found():
    drawn = np.random.default_rng(0).normal(size=len(pd.read_parquet(FEATURES, columns=["time"])))
    edit_table(FEATURES, lambda table: table.assign(rsi_14=drawn.astype(np.float32)))
    known = pd.read_parquet(FEATURES, columns=["segment", "time", "rsi_14"]).set_index(["segment", "time"])["rsi_14"]
    edit_table(
        RETURN, lambda table: table.assign(y_1=known.reindex(pd.MultiIndex.from_frame(table[known.index.names])).array)
    )
    with pytest.raises(LeakageError):
        guard.main("klines")
    leaking = [found for found in read_correlations() if found["severity"] == "critical"]
    assert [(found["guard"], found["measurements"]["target"]) for found in leaking] == [
        ("target_leakage", f"{RETURN.stem}.y_1")
    ]


def smooth_one_value(table: pd.DataFrame) -> pd.DataFrame:
    values = table["rsi_14"].to_numpy().copy()
    values[500] = (values[499] + values[501]) / 2
    return table.assign(rsi_14=values)


def end_by_own_bar(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(label_end=table["time"])


@pytest.mark.usefixtures("market")
@pytest.mark.parametrize(
    ("file", "change", "named", "message"),
    [
        (FEATURES, smooth_one_value, "truncation", "rsi_14, bar at .* not reproduced from the bars"),
        (RETURN, end_by_own_bar, "label_timing", "labels end by their own bar"),
    ],
)
def test_a_table_edited_after_it_was_computed_stops_the_pipeline_and_is_in_the_report(
    file: Path, change: Callable[[pd.DataFrame], pd.DataFrame], named: str, message: str
):
    edit_table(file, change)
    with pytest.raises(LeakageError, match=rf"^{named}: .*{message}"):
        guard.main("klines")
    assert [name for name, severities in read_severities().items() if "critical" in severities] == [named]
