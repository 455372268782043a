"""Exports of order books in npy: written, read in other extractors' spellings, refused and reported by name."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from pipeline import artifacts, config
from pipeline.datasets.orderbook_export import fills, label
from pipeline.leakage.labels import label_timing
from pipeline.orderbook import write_export as writer
from pipeline.orderbook.columns import COLUMNS
from pipeline.orderbook.exports.manifest import read_manifest
from pipeline.orderbook.exports.records import Run
from pipeline.orderbook.exports.sequences import join_sequences
from pipeline.orderbook.sources import export
from pipeline.orderbook.validate_export import validate_export
from pipeline.row_groups import TableFile
from pipeline.stages import validate_export as stage
from tests.orderbook_exports import (
    CALENDAR,
    CODES,
    DAYS,
    HORIZONS,
    LENGTH,
    ROWS,
    STRIDE,
    draw_book,
    run_kind,
    whole_book,
    write_dataset,
    write_foreign,
)
from tests.small_repository import command, commit, copy

SIZES = {"sequence_length": LENGTH, "stride": STRIDE}
TRAIN, VAL = "train/2012-06-19", "val/2012-06-20"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a dataset, its export, that export as a dataset again, and the export of that."""
    folder = tmp_path_factory.mktemp("exports")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_dataset(draw_book(), "book")
        writer.write_export("book", Path("first"), **SIZES)
        run_kind(Path("first"), "again")
        writer.write_export("again", Path("second"), **SIZES)
        write_foreign(Path("foreign"), whole_book())
    return folder


@pytest.fixture
def first(home, tmp_path, monkeypatch):
    """A copy of the export that a test may damage."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(home / "first", tmp_path / "first")


def rewrite(folder: Path, change) -> None:
    """Change the manifest of an export, and drop the digests, so that other faults come to light."""
    file = folder / "dataset_manifest.json"
    manifest = json.loads(file.read_text())
    for entry in manifest["files"].values():
        del entry["sha256"]
    change(manifest)
    file.write_text(json.dumps(manifest))


def alter(file: Path, change) -> None:
    """Change the array of a file, in place or to what `change` returns."""
    array = np.load(file)
    changed = change(array)
    np.save(file, array if changed is None else changed)


def test_an_export_read_as_a_dataset_and_written_again_has_the_same_bytes(home):
    files = sorted(file.relative_to(home / "first") for file in (home / "first").rglob("*") if file.is_file())
    assert len(files) == 7
    for file in files:
        assert (home / "first" / file).read_bytes() == (home / "second" / file).read_bytes(), file


def test_sequences_are_consecutive_rows_that_pass_the_gates_and_end_with_a_labeled_one(home):
    book, found = draw_book(), dict[str, list]()
    passes = (book.x[:, 92] == 1) & (book.x[:, 94] == 1)
    start = end = 0
    while start < len(book.x):  # a second, slower way: one row after another
        end = start
        while end < len(book.x) and passes[end] and book.segment[end] == book.segment[start]:
            end += 1
        for first in range(start, end - LENGTH + 1, STRIDE):
            if (book.y[first + LENGTH - 1] >= 0).all():
                found.setdefault(book.day[first], []).append(first)
        start = max(end, start + 1)
    for day, split in zip(DAYS, ("train", "val", "test"), strict=True):
        sequences, labels = (np.load(home / f"first/{split}/{day}_{name}.npy") for name in ("sequences", "labels"))
        assert (sequences.dtype, labels.dtype) == (np.float32, np.int8)
        np.testing.assert_array_equal(sequences, [book.x[start : start + LENGTH] for start in found[day]])
        np.testing.assert_array_equal(labels, [book.y[start + LENGTH - 1] - 1 for start in found[day]])


def test_the_manifest_records_digests_shapes_and_where_sequences_do_not_follow(home):
    manifest = json.loads((home / "first/dataset_manifest.json").read_text())
    assert manifest["schema_version"] == "2.2"
    assert manifest["columns"] == list(COLUMNS)
    assert manifest["labeling"]["codes"] == {"-1": "down", "0": "flat", "1": "up"}
    sums = command(home / "first", "sha256sum", *manifest["files"]).splitlines()
    assert [line.split()[0] for line in sums] == [entry["sha256"] for entry in manifest["files"].values()]
    entry = manifest["files"][f"{VAL}_sequences.npy"]
    assert [run["segment"] for run in entry["runs"]] == [0, 1, 1, 1]  # a halt, an invalid row, rows without a label
    assert entry["shape"] == [35, LENGTH, 98]


def test_labels_of_an_export_end_where_they_did_in_the_dataset_that_it_was_made_of(home):
    clean = pd.read_parquet(home / "data/clean/again.parquet")
    assert list(clean.groupby("day", sort=False)["segment"].nunique()) == [1, 2, 1]
    for horizon in HORIZONS:
        labels = pd.read_parquet(home / f"data/labels/again/horizon_{horizon}.parquet")
        assert (labels["label_end"] - labels["time"] == horizon).all()
        bars = clean.rename(columns={"event": "open_time"})
        place = np.searchsorted(bars["open_time"], labels["time"])
        assert label_timing(bars, place, labels["label_end"].to_numpy()).severity == "ok"


def test_rows_that_no_sequence_has_are_no_valid_rows_and_have_no_label(home):
    clean = pd.read_parquet(home / "data/clean/again.parquet")
    filler = clean[~clean["is_exported"]]
    assert len(filler)
    assert (filler["book_valid"] == 0).all()
    assert (filler["label_0"] == -1).all()
    assert not filler["passes_gates"].any()


@pytest.mark.parametrize(
    ("changes", "reach"),
    [
        ({}, [9, 14]),
        ({"dtype": np.float64}, [9, 14]),
        ({"is_flat": True}, [9, 14]),
        ({"codes": {"0": "down", "1": "stationary", "2": "up"}.copy() | {"1": "stable"}}, [9, 14]),
        ({"label_strategy": "opportunity"}, [5, 10]),
        ({"label_strategy": "Triple-Barrier"}, [5, 10]),
    ],
    ids=["signed", "float64", "flat", "class_index", "opportunity", "triple_barrier"],
)
def test_exports_of_other_extractors_give_the_rows_and_labels_that_they_were_made_of(
    changes, reach, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    book = whole_book()
    write_foreign(tmp_path / "foreign", book, **changes)
    report = run_kind(tmp_path / "foreign", "foreign")
    assert report["fetch"]["reach"] == reach
    clean, step = report["clean"], 1 if changes.get("is_flat") else STRIDE
    for day in DAYS:
        own, x = clean[clean["day"] == day], book.x[book.day == day]
        first = LENGTH - 1 if changes.get("is_flat") else 0
        rows = x[first : ROWS - max(HORIZONS)][: int(own["is_exported"].sum())]
        np.testing.assert_array_equal(own.loc[own["is_exported"], list(COLUMNS)], rows)
        labels = report["labels"][HORIZONS[1]].table.query("segment == @own['segment'].iloc[0]")
        expected = book.y[book.day == day][LENGTH - 1 : ROWS - max(HORIZONS) : step, 1]
        np.testing.assert_array_equal(labels["y"], expected)


def test_the_time_of_a_row_is_midnight_and_the_sum_of_dt_seconds(home):
    clean = pd.read_parquet(home / "data/clean/again.parquet").query("day == '2012-06-21'")
    midnight = pd.Timestamp("2012-06-21", tz="UTC").value
    seconds = np.cumsum(clean["dt_seconds"].astype(np.float64))
    np.testing.assert_allclose(clean["time_ns"] - midnight, seconds * 1e9, atol=1)
    assert list(np.diff(clean["event"])) == [1] * (len(clean) - 1)


def test_rows_of_an_export_that_do_not_pass_the_gates_have_neither_features_nor_labels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    book = whole_book()
    book.x[LENGTH - 1 : LENGTH + 60, 96] = 1  # rows 19 to 79, of which sequences end with 13
    book.x[LENGTH + 30, 5] = np.nan
    write_foreign(tmp_path / "foreign", book)
    report = run_kind(tmp_path / "foreign", "foreign")
    assert report["ingest"]["gated"] == {"book_valid": 0, "mbo_ready": 0, "invalidity_delta": 61}
    features = pd.read_parquet("data/features/foreign.parquet")
    times = set(features["time"][features["segment"] == 0])
    assert times == set(range(290)) - set(range(19, 80))  # 290 rows are exported, and the others have no sequence
    labels = report["labels"][HORIZONS[0]]
    assert labels.lost["gates"] == 13
    assert set(labels.table["time"][labels.table["segment"] == 0]) <= times
    checked = validate_export(tmp_path / "foreign")
    assert checked["splits"]["train"]["gates_share"] == pytest.approx(1 - 61 / 290)
    assert len(checked["faults"]) == 1


def test_a_label_of_an_upside_down_encoding_is_read_by_its_name(tmp_path):
    write_foreign(tmp_path / "foreign", whole_book(), codes={"0": "Up", "1": "Stable", "2": "Down"})
    assert read_manifest(tmp_path / "foreign").codes == {0: 2, 1: 1, 2: 0}


def test_sequences_further_apart_than_they_are_long_leave_rows_out():
    sequences = np.arange(6, dtype=np.float32).reshape(2, 3, 1) * np.ones(98, np.float32)
    rows = join_sequences(sequences, [], stride=5, extra_rows=2, name="f")
    assert rows.is_exported.tolist() == [True] * 3 + [False] * 2 + [True] * 3 + [False] * 2
    assert rows.x[:, 0].tolist() == [0, 1, 2, 2, 2, 3, 4, 5, 5, 5]
    assert rows.last.tolist() == [2, 7]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": "2.1"}, r"schema_version is 2\.1; it must be 2\.2"),
        ({"label_strategy": "magic"}, "strategy is 'magic'; it must be one of tlob, triple_barrier, opportunity"),
        ({"labeling": {"horizons": [5, 10]}}, r"codes is missing.*sources\.export\.manifest\.codes"),
        ({"labeling": {"horizons": [5, 5], "codes": CODES}}, "horizons are .*once"),
        ({"labeling": {"horizons": [0], "codes": CODES}}, "horizons is .*from 1 to 20000000"),
        ({"labeling": {"horizons": [5], "codes": {"0": "down", "1": "up"}}}, "they must name a code for each of"),
        ({"normalization": {"strategy": "per_feature_zscore", "applied": True}}, "columns are normalized"),
        ({"n_features": 40, "columns": ["a"] * 40}, "its 40 columns are not the 98"),
    ],
)
def test_a_manifest_that_lacks_a_fact_is_refused_by_its_name(change, message, tmp_path):
    write_foreign(tmp_path / "foreign", whole_book(), **change)
    with pytest.raises(ValueError, match=message):
        read_manifest(tmp_path / "foreign")
    assert len(validate_export(tmp_path / "foreign")["faults"]) == 1


def test_facts_of_params_count_before_those_of_the_manifest_and_unknown_ones_are_refused(home):
    given = {"symbol": "NVDA", "horizons": [7, 9], "codes": {"1": "down", "0": "flat", "-1": "up"}, "reach": [8, 9]}
    found = read_manifest(home / "foreign", given=given)
    assert (found.symbol, found.horizons, found.reach) == ("NVDA", (7, 9), (8, 9))
    assert found.codes == {1: 0, 0: 1, -1: 2}
    with pytest.raises(ValueError, match=r"there are no facts \['strid'\]"):
        read_manifest(home / "foreign", given={"strid": 3})


FAULTS = {  # what is done to a file, and the fault that names it
    "nan": (
        f"{TRAIN}_sequences.npy",
        lambda x: x.__setitem__((slice(-1, None), -1, 56), np.nan),
        "net_trade_flow is NaN",
    ),
    "overlap": (
        f"{TRAIN}_sequences.npy",
        lambda x: x.__setitem__((3, 2, 0), 1.0),
        "sequences 2 and 3 differ in the 15",
    ),
    "category": (f"{TRAIN}_sequences.npy", lambda x: x.__setitem__((..., 93), 7.0), r"time_regime has \[7\.0\]"),
    "schema": (f"{TRAIN}_sequences.npy", lambda x: x.__setitem__((..., 97), 2.1), r"schema_version has \[2\.0999"),
    "gates": (
        f"{TRAIN}_sequences.npy",
        lambda x: x.__setitem__((..., 94), 0.0),
        "no row passes the gates book_valid 1",
    ),
    "dt": (f"{TRAIN}_sequences.npy", lambda x: x.__setitem__((..., 95), -1.0), "dt_seconds is negative in 290 rows"),
    "columns": (f"{TRAIN}_sequences.npy", lambda x: x[..., :40], r"shape \(55, 20, 40\); it must be \(N, 20, 98\)"),
    "length": (f"{TRAIN}_sequences.npy", lambda x: x[:, :10], r"shape \(55, 10, 98\); it must be"),
    "type": (f"{TRAIN}_sequences.npy", lambda x: x.astype(np.int32), "is of int32; it must be of float32 or float64"),
    "alignment": (f"{TRAIN}_labels.npy", lambda y: y[1:], "has 54 labels for 2012-06-19_sequences.npy"),
    "horizons": (f"{TRAIN}_labels.npy", lambda y: y[:, :1], "the manifest has 2 horizons"),
    "code": (f"{TRAIN}_labels.npy", lambda y: y.__setitem__((0, 0), 2), r"has labels \[2\]; .*-1 down, 0 flat, 1 up"),
    "values": (f"{TRAIN}_labels.npy", lambda y: y.astype(np.float32), "it must be of whole numbers"),
    "class": (f"{VAL}_labels.npy", lambda y: y.__setitem__((y == 0, ...), 1), "none of 35 labels of horizon 5 is flat"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_a_file_is_one_line_that_names_it(fault, first):
    name, change, message = FAULTS[fault]
    rewrite(first, lambda manifest: [entry.pop("shape") for entry in manifest["files"].values()])
    alter(first / name, change)
    faults = validate_export(first)["faults"]
    matching = [line for line in faults if pd.Series([line]).str.contains(message).item()]
    assert len(matching) >= 1, faults
    assert all("\n" not in line for line in faults)


def test_a_flipped_byte_is_found_by_the_digest_and_refused_by_the_source(first):
    alter(first / f"{TRAIN}_labels.npy", lambda y: y.__setitem__((0, 0), -y[0, 0] if y[0, 0] else 1))
    (fault,) = validate_export(first)["faults"]
    assert fault.startswith(f"{first}/{TRAIN}_labels.npy: has sha256")
    with pytest.raises(ValueError, match="has sha256"):
        export.load(path=str(first), manifest={})


def test_shapes_are_those_of_the_manifest(first):
    rewrite(first, lambda manifest: manifest["files"][f"{TRAIN}_labels.npy"].update(shape=[3, 2]))
    (fault,) = validate_export(first)["faults"]
    assert "has shape (55, 2), and the manifest (3, 2)" in fault


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda f: (f / f"{TRAIN}_labels.npy").unlink(), "has no 2012-06-19_labels.npy beside it"),
        (lambda f: (f / f"{TRAIN}_sequences.npy").unlink(), "2012-06-19_labels.npy: has no rows beside it"),
        (lambda f: (f / f"{TRAIN}_labels.npy").write_bytes(b"\x93NUMPY"), "is no array in npy"),
        (lambda f: shutil.copytree(f / "val", f / "valid"), "has val and valid; one folder is allowed for val"),
        (lambda f: shutil.rmtree(f / "train"), "train: has no day that can be read"),
        (lambda f: [(f / split).rename(f / f"_{split}") for split in ("train", "val", "test")], "has no day in train"),
        (lambda f: rename_day(f, "2012-06-40"), "'2012-06-40' is no date"),
        (lambda f: rename_day(f, "2012-06-20"), "2012-06-20 stands in .*train/2012-06-20_sequences.npy too"),
        (lambda f: rename_day(f, "2012-06-25"), "train ends with 2012-06-25, and val begins with 2012-06-20"),
        (lambda f: rename_day(f, "2012-06-18"), "2012-06-19_sequences.npy: does not exist, and the manifest has it"),
        (lambda f: rename_day(f, "2012-06-18"), "2012-06-18_labels.npy: is not in the manifest"),
        (lambda f: (f / "dataset_manifest.json").write_text("{"), "is no JSON"),
        (lambda f: replace_text(f, '"GOOG"', '"GOOF"'), "is not as it was written"),
        (lambda f: (f / f"{TRAIN}_labels.npy").write_bytes(UNCLOSED), "is no array in npy"),
        (
            lambda f: rewrite(f, lambda m: m["splits"].update(train=["2012-06-18"])),
            "train has 1 days, and the manifest oth",
        ),
        (lambda f: (f / "dataset_manifest.json").unlink(), "has no dataset_manifest.json"),
    ],
)
def test_each_fault_of_the_files_of_a_folder_is_named_and_the_source_refuses_it(action, message, first):
    action(first)
    faults = validate_export(first)["faults"]
    assert any(pd.Series([line]).str.contains(message).item() for line in faults), faults
    with pytest.raises(ValueError, match=r"\w"):
        export.load(path=str(first), manifest={})


UNCLOSED = b"\x93NUMPY\x01\x00\x46\x00{'shape': (3,".ljust(80)  # numpy reads this header as code without an end
RUN = {"segment": 0, "first_sequence": 0, "first_row": 0}


def replace_text(folder: Path, old: str, new: str) -> None:
    """Change the text of a manifest as a flipped bit does."""
    file = folder / "dataset_manifest.json"
    file.write_text(file.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("files", 5, "files is 5; it must have sha256 and shape"),
        ("shape", 5, "shape is 5; it must be a list of whole numbers"),
        ("sha256", 5, "sha256 is 5; it must be a text"),
        ("runs", 3, "runs has 3; each run has segment, first_sequence, first_row"),
        ("runs", [{"segment": 0}], "runs has .*; each run has segment"),
        ("runs", [None], "runs has None; each run has segment"),
        ("runs", [RUN | {"first_row": -5}], "runs has .*-5"),
        ("runs", [RUN | {"first_row": 0.5}], r"runs has .*0\.5"),
        ("runs", [RUN | {"first_row": 20_000_000}], "has 20,000,300 rows by stride 5"),
        ("columns", 5, "columns is 5; it must be a list of 98 names"),
        ("columns", "x" * 98, "columns is 'x+; it must be a list of 98 names"),
        ("stride", 10**30, "stride is 1.*; it must be one or more whole numbers from 1 to 20000000"),
        ("stride", 10**7, r"has 540,000,\d+ rows by stride 10000000"),
        ("symbol", "", "symbol is ''"),
        ("symbol", {"a": 1}, "symbol is .'a': 1."),
        ("dtype", "float64", "has dtype float32, and the manifest float64"),
        ("dtype", "<f8", "has dtype float32, and the manifest float64"),
        ("dtype", "float", "has dtype float32, and the manifest float64"),
        ("dtype", "real", "dtype is 'real'; it must be a type of numpy, such as float32"),
    ],
)
def test_a_wrong_value_of_a_manifest_is_one_line_that_names_it(place, value, message, first):
    def change(manifest):
        entry = manifest["files"][f"{TRAIN}_sequences.npy"]
        (entry if place in ("shape", "sha256", "runs", "dtype") else manifest).update({place: value})

    rewrite(first, change)
    faults = validate_export(first)["faults"]
    assert any(pd.Series([line]).str.contains(message).item() for line in faults), faults
    assert all("\n" not in line for line in faults)


@pytest.mark.parametrize("splits", [{"train": ["monday"]}, {"training": ["2012-06-19"]}])
def test_types_and_splits_that_a_manifest_writes_in_another_form_are_no_faults(splits, first):
    def change(manifest):
        manifest["files"][f"{TRAIN}_sequences.npy"]["dtype"] = "<f4"
        manifest["splits"] = splits

    rewrite(first, change)
    assert validate_export(first)["faults"] == []


def test_files_without_a_digest_are_a_warning(first):
    warnings = validate_export(first)["warnings"]
    rewrite(first, lambda manifest: None)
    unpinned = "6 files have no sha256 in the manifest; not all damage of them can be found"
    assert validate_export(first)["warnings"] == [*warnings, unpinned]


def test_times_beyond_a_day_are_refused(first):
    rewrite(first, lambda manifest: None)
    alter(first / f"{TRAIN}_sequences.npy", lambda x: x.__setitem__((..., 95), 1e13))
    with pytest.raises(ValueError, match="dt_seconds adds up to .* a day has 86,400"):
        export.load(path=str(first), manifest={})


def test_a_folder_that_is_no_export_is_not_replaced(home, tmp_path, monkeypatch):
    monkeypatch.chdir(home)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is no export, and would be removed as a whole; name another by --folder"):
        writer.write_export("book", tmp_path / "mine", **SIZES)
    assert (tmp_path / "mine/notes.txt").read_text() == "mine"
    (tmp_path / "mine/notes.txt").unlink()
    for _ in range(2):  # an empty folder, and an export
        writer.write_export("book", tmp_path / "mine", **SIZES)
    assert validate_export(tmp_path / "mine")["faults"] == []


def rename_day(folder: Path, day: str) -> None:
    for name in ("sequences", "labels"):
        (folder / f"{TRAIN}_{name}.npy").rename(folder / f"train/{day}_{name}.npy")


def test_runs_that_go_back_or_lack_sequences_are_refused():
    sequences = np.zeros((3, 4, 98), np.float32)
    for runs, message in (
        ([Run(0, 1, 0)], r"runs begin at sequences \[1\] of 3"),
        ([Run(0, 0, 0), Run(0, 5, 40)], r"runs begin at sequences \[0, 5\] of 3"),
        ([Run(0, 0, 50), Run(0, 2, 0)], "its runs go back to earlier rows"),
    ):
        with pytest.raises(ValueError, match=message):
            join_sequences(sequences, runs, stride=2, extra_rows=0, name="f")


def test_the_report_has_class_shares_and_gates_by_split_and_warns_of_drift_and_constants(home, first):
    report = validate_export(home / "first")
    assert report["faults"] == []
    labels = np.load(home / f"first/{TRAIN}_labels.npy")
    assert report["splits"]["train"]["class_shares"]["10"]["up"] == pytest.approx((labels[:, 1] == 1).mean())
    assert report["splits"]["val"]["gates_share"] == 1
    assert report["warnings"] == ["spread: one value in all rows; models learn nothing from it"]
    rewrite(first, lambda manifest: None)
    alter(first / f"{VAL}_labels.npy", lambda y: y.__setitem__((slice(3, None), 0), 1))
    warning = validate_export(first)["warnings"][0]
    assert "of the labels of horizon 5 are" in warning
    assert "in train" in warning


def test_a_market_whose_mid_never_moves_is_a_fault(first):
    rewrite(first, lambda manifest: None)
    for file in first.rglob("*_sequences.npy"):
        alter(file, lambda x: x.__setitem__((..., 40), 570.0))
    assert validate_export(first)["faults"] == [
        "mid_price: has one value in all rows; export the book after each event"
    ]


def test_the_stage_writes_a_report_and_stops_where_there_are_faults(first):
    shutil.copytree(first, "data/exports/good")
    stage.main("good")
    assert artifacts.read_json(artifacts.report_path("validate_export", "good"))["faults"] == []
    Path(f"data/exports/good/{TRAIN}_labels.npy").unlink()
    with pytest.raises(stage.ExportError, match="faults; the first is data/exports/good/train"):
        stage.main("good")
    assert len(artifacts.read_json(artifacts.report_path("validate_export", "good"))["faults"]) > 1


def test_the_commands_write_an_export_and_check_it(home, tmp_path):
    root, folder = Path(__file__).parents[1], tmp_path / "out"
    arguments = ["--sequence-length", "20", "--stride", "5", "--targets", "move_5", "--folder", str(folder)]
    run = {"cwd": home, "capture_output": True, "text": True, "env": {"PYTHONPATH": str(root)}, "check": False}
    done = subprocess.run([sys.executable, "-m", "pipeline.orderbook.write_export", "book", *arguments], **run)
    assert done.stdout == f"{folder}: days: 1 in train, 1 in val, 1 in test\n", done.stderr
    assert np.load(folder / f"{TRAIN}_labels.npy").ndim == 1
    rewrite(folder, lambda manifest: manifest.update(stride=4))
    done = subprocess.run([sys.executable, "-m", "pipeline.orderbook.validate_export", str(folder)], **run)
    assert done.returncode == 1
    assert len(json.loads(done.stdout)["faults"]) == done.stderr.count("fault: ") > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": ["nothing"]}, "there are no nothing; there are move_5, move_10"),
        ({"symbol": "AAPL"}, "symbol is AAPL; an export has one of GOOG"),
        ({"stride": 0}, "stride 0: both must be at least 1"),
        ({"sequence_length": 400}, "no sequence of 400 rows ends with a row that has every label"),
    ],
)
def test_what_cannot_be_exported_is_refused(changes, message, home, monkeypatch, tmp_path):
    monkeypatch.chdir(home)
    with pytest.raises(ValueError, match=message):
        writer.write_export("book", tmp_path / "out", **SIZES | changes)
    assert not (tmp_path / "out").exists()


def test_targets_of_several_strategies_are_refused(home, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    targets = {"a": {"kind": "smoothed", "horizon": 5, "window": 4}, "b": {"kind": "barrier", "horizon": 9}}
    Path("params.yaml").write_text(yaml.safe_dump({"datasets": {"book": {"targets": targets}}}))
    with pytest.raises(config.ParamsError, match="a, b are not of one strategy"):
        writer.choose_labeling("book", (), exported=None)
    assert writer.choose_labeling("book", ["b"], exported=None).strategy == "triple_barrier"


@pytest.mark.parametrize(("days", "sizes"), [(1, [1, 0, 0]), (2, [1, 0, 1]), (3, [1, 1, 1]), (20, [14, 3, 3])])
def test_the_last_days_are_test_and_those_before_them_val(days, sizes):
    named = [f"2012-06-{day:02}" for day in range(1, days + 1)]
    splits = writer.split_days(pd.DataFrame({"day": named}))
    assert [list(splits.values()).count(name) for name in ("train", "val", "test")] == sizes
    assert list(splits) == named


def test_an_unknown_horizon_is_refused_with_those_of_the_export(home, monkeypatch):
    clean = TableFile(home / "data/clean/again.parquet").read()
    with pytest.raises(config.ParamsError, match=r"t\.horizon is 7; the export has \[5, 10\]"):
        label.make_labels(clean, {"horizon": 7}, name="t")


def test_reports_of_an_export_have_metrics_of_calls_and_what_they_earn_at_the_quotes(home):
    assert label.describe_target({"horizon": 5}, name="t", path="t").strategy == {"kind": "exported"}
    clean = TableFile(home / "data/clean/again.parquet").read()
    labels = pd.read_parquet(home / "data/labels/again/horizon_5.parquet")[["segment", "time", "label_end"]]
    keys = {name: column.to_numpy() for name, column in labels.items()}
    earned = fills.measure_executable(clean[[*fills.COLUMNS, "event"]], **keys, delay_bars=0, cost_bps=0.0)
    place = np.searchsorted(clean["event"], keys["time"][0])
    ask, bid = (clean[name].to_numpy() for name in ("ask_price_1", "bid_price_1"))
    assert earned.long[0] == pytest.approx(bid[place + 6] / ask[place + 1] - 1)


RUN = """
import sys
from importlib import import_module
for word in "fetch ingest featurize label guard split train".split():
    import_module(f"pipeline.stages.{word}").main("tree" if word == "train" else "exported")
"""


def test_a_tree_is_trained_from_an_export_through_the_stages(home, tmp_path, quick_python):
    repo = copy(tmp_path / "repo")
    params = yaml.safe_load((repo / "params.yaml").read_text())
    params["sources"]["export"]["path"] = str(home / "foreign")
    params["datasets"]["exported"] = params["disabled_datasets"]["orderbook_export"] | {
        "calendar": CALENDAR,
        "targets": {"move": {"horizon": 10}},
    }
    tree = params["models"]["trees"]["lightgbm"]
    tree["hyperparameters"] |= {"loss": "log", "min_data_in_leaf": 5, "learning_rate": 0.2}
    params["models"] = {"trees": {"tree": tree | {"dataset": "exported", "target": "move"}}, "nets": {}, "agents": {}}
    params["trees"]["num_boost_round"] = 2
    params["split"] |= {"groups": 3, "test_groups": 1, "embargo_bars": 0}
    (repo / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    commit(repo, "An export")
    command(repo, "python", "-c", RUN, PIPELINE_WORKERS="1")
    findings = json.loads((repo / "trained/reports/guard/exported.json").read_text())["findings"]
    assert {finding["severity"] for finding in findings} <= {"ok", "warning"}
    predicted = pd.read_parquet(next((repo / "trained/oos").rglob("*.parquet")))
    assert len(predicted)
