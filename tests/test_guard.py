"""The guard stage, asked about the files of a small market as the stages before it write them."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml

from pipeline import workspace
from pipeline.leakage.findings import LeakageError
from pipeline.stages import featurize, fetch, guard, ingest, label

PARAMS = Path(__file__).parents[1] / "params.yaml"
TARGETS = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))["datasets"]["klines"]["targets"]
FEATURES, RETURN = Path("data/features/klines.parquet"), Path("data/labels/klines/return_5.parquet")


@pytest.fixture
def market(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the bars, features and labels of two simulated days."""
    params = yaml.safe_load(PARAMS.read_text())
    params["sources"]["simulated"]["days"] = 2
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(params))
    for stage in (fetch, ingest, featurize, label):
        stage.main("klines")


def edit(file: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(pd.read_parquet(file)).to_parquet(file)


def reported() -> dict[str, list[str]]:
    """The severities that stand in the report, by guard."""
    severities: dict[str, list[str]] = {}
    for found in workspace.read_json(workspace.report("guard", "klines"))["guards"]:
        severities.setdefault(found["guard"], []).append(found["severity"])
    return severities


@pytest.mark.usefixtures("market")
def test_every_guard_of_columns_labels_and_segments_is_asked_for_every_target():
    guard.main("klines")
    assert reported() == {
        "truncation": ["ok"],
        "look_ahead": ["ok"],
        "feature_target": ["ok"] * len(TARGETS),
        "label_end": ["ok"] * len(TARGETS),
        "known_at": ["ok"] * len(TARGETS),
        "segments": ["ok", "ok"],
    }


def with_one_value_smoothed(table: pd.DataFrame) -> pd.DataFrame:
    values = table["rsi_14"].to_numpy().copy()
    values[500] = (values[499] + values[501]) / 2
    return table.assign(rsi_14=values)


def ending_by_their_own_bar(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(label_end=table["time"])


def moving_a_bar_late(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(move=table["move"].shift(1, fill_value=0.0))


@pytest.mark.usefixtures("market")
@pytest.mark.parametrize(
    ("file", "change", "named", "message"),
    [
        (FEATURES, with_one_value_smoothed, "truncation", "rsi_14 of the bar at .* is not what its bars give"),
        (RETURN, ending_by_their_own_bar, "known_at", "labels end by the bar they belong to"),
        (RETURN, moving_a_bar_late, "known_at", "moves are not close"),
    ],
)
def test_a_table_edited_after_it_was_computed_stops_the_line_and_stands_in_the_report(
    file: Path, change: Callable[[pd.DataFrame], pd.DataFrame], named: str, message: str
):
    edit(file, change)
    with pytest.raises(LeakageError, match=rf"^{named}: .*{message}"):
        guard.main("klines")
    assert [name for name, severities in reported().items() if "critical" in severities] == [named]
