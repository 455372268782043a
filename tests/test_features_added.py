"""A feature is added as the features README words it: one file and its block of params, in a copy of the repository."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.small_repository import command, commit, copy, surroundings

ROOT = Path(__file__).parents[1]
README = (ROOT / "pipeline/features/README.md").read_text(encoding="utf-8")
COMPILED, IDEA = Path("pipeline/features/groups/efficiency.py"), Path("pipeline/features/in_pandas/median_gap.py")
STREAM = """
import json, sys
import pandas as pd
from pipeline.features.engine import Stream
from pipeline.stages.guard import load_stored_features, locate_bars
from pathlib import Path

block = json.loads(Path("trained/reports/featurize/klines.json").read_text())["params"]
bars = pd.read_parquet("data/clean/klines.parquet")[:600]
try:
    Stream(**block)
except ValueError as error:
    print(error)
stream = Stream(**block | {"in_pandas": {}})
streamed = [stream.update(bar) for bar in bars.to_dict("records")]
stored = pd.read_parquet("data/features/klines.parquet")
names = [column.name for column in stream.layout.columns]
rows = [i for i, values in enumerate(streamed) if values is not None]
print(len(rows), all(streamed[i].tobytes() == stored[names].iloc[k].to_numpy().tobytes() for k, i in enumerate(rows)))
"""


def take_blocks(section: str) -> tuple[str, str]:
    """Return the code and the lines of params that a section of the README shows."""
    text = README.split(f"## {section}\n")[1].split("\n## ")[0]
    code, params = (re.findall(rf"```{kind}\n(.*?)```", text, flags=re.DOTALL) for kind in ("python", "yaml"))
    assert (len(code), len(params)) == (1, 1)
    return code[0], params[0]


def add_feature(folder: Path, file: Path, section: str) -> None:
    """Write the file and the lines of params that a section of the README shows, and commit them."""
    code, lines = take_blocks(section)
    (folder / file).write_text(code)
    params = (folder / "params.yaml").read_text()
    assert params.partition("\ndisabled_datasets:")[0].count("\n    features:\n") == 1
    (folder / "params.yaml").write_text(params.replace("\n    features:\n", f"\n    features:\n{lines}", 1))
    commit(folder, section)


def run_stage(folder: Path, stage: str) -> str:
    return command(folder, "python", "-m", f"pipeline.stages.{stage}", "klines")


def list_compiled(folder: Path) -> set[str]:
    return {file.name for file in (folder / "pipeline/features/__pycache__").glob("engine.advance*.nbc")}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory, quick_python: None) -> Path:
    """A copy of the repository with both features, whose features and labels are made; it compiles them once."""
    folder = copy(tmp_path_factory.mktemp("features") / "repo")
    add_feature(folder, COMPILED, "Adding a feature")
    add_feature(folder, IDEA, "Trying an idea in pandas")
    for stage in ("fetch", "ingest", "label", "featurize"):
        run_stage(folder, stage)
    return folder


def count_added_lines(folder: Path, subject: str) -> dict[str, str]:
    """Return the number of lines that a commit added to each file; none was removed."""
    shown = command(folder, "git", "log", f"--grep={subject}", "--format=", "--numstat").split()
    assert set(shown[1::3]) == {"0"}
    return dict(zip(shown[2::3], shown[::3], strict=True))


def test_a_compiled_feature_is_one_file_and_one_line_of_params(clone):
    lines = len(take_blocks("Adding a feature")[0].splitlines())
    assert count_added_lines(clone, "Adding a feature") == {str(COMPILED): str(lines), "params.yaml": "1"}
    assert lines < 50


def test_an_idea_in_pandas_is_one_file_and_one_block_of_params(clone):
    lines = len(take_blocks("Trying an idea in pandas")[0].splitlines())
    assert count_added_lines(clone, "Trying an idea in pandas") == {str(IDEA): str(lines), "params.yaml": "2"}
    assert lines < 20


def test_no_line_of_dvc_yaml_changes(clone):
    command(clone, sys.executable, ".ci/update_deps", "--check")


def test_their_columns_stand_behind_the_others_with_their_groups(clone):
    table = pd.read_parquet(clone / "data/features/klines.parquet")
    assert list(table.columns[-3:]) == ["signed_volume_autocorr", "efficiency_30", "median_gap_30"]
    report = json.loads((clone / "trained/reports/featurize/klines.json").read_text())
    assert {name: column["group"] for name, column in report["columns"].items()} == table.attrs["groups"]
    assert table.attrs["groups"]["efficiency_30"] == "efficiency"
    assert table.attrs["groups"]["median_gap_30"] == "median_gap"
    assert [name for name, column in report["columns"].items() if not column["streamable"]] == ["median_gap_30"]
    assert report["params"]["groups"] == ["price", "momentum", "flow", "liquidity", "efficiency"]


def test_their_values_are_those_of_a_second_method(clone):
    bars = pd.read_parquet(clone / "data/clean/klines.parquet")
    table = pd.read_parquet(clone / "data/features/klines.parquet")
    first = len(bars) - len(table)
    steps = bars["close"].transform("log").diff()
    efficiency = steps.rolling(30).sum() / steps.abs().rolling(30).sum()
    assert (table["efficiency_30"] - efficiency[first:].to_numpy()).abs().max() < 1e-6
    gap = (bars["close"] / bars["close"].rolling(30).median()).transform("log")
    assert (table["median_gap_30"] - gap[first:].to_numpy()).abs().max() < 1e-6


def test_the_stream_has_the_bytes_of_the_table_and_refuses_the_idea_in_pandas(clone):
    refused, streamed = command(clone, "python", "-c", STREAM).splitlines()
    assert "features.in_pandas has median_gap: columns in pandas cannot be streamed; leave them out" in refused
    assert streamed == "151 True"


def test_the_guard_passes_both_and_stops_the_pipeline_where_the_idea_looks_ahead_and_nothing_is_compiled_again(clone):
    compiled = list_compiled(clone)
    run_stage(clone, "guard")
    code = (clone / IDEA).read_text()
    (clone / IDEA).write_text(code.replace(".median()", ".median().shift(-1).ffill()"))
    run_stage(clone, "featurize")
    words = ["python", "-m", "pipeline.stages.guard", "klines"]
    done = subprocess.run(words, cwd=clone, env=surroundings({}), capture_output=True, text=True, check=False)
    (clone / IDEA).write_text(code)
    assert done.returncode == 1
    assert "truncation: median_gap_30, bar at " in done.stderr
    assert list_compiled(clone) == compiled
