"""The doctor: the first stage whose inputs agree and whose outputs differ, and how far they are apart."""

import hashlib
import json
import platform
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
import yaml
from dvc.repo import Repo
from onnx import helper

from pipeline.tracking import doctor, snapshot
from pipeline.tracking.differences import Level, Tolerance, compare_parts
from pipeline.tracking.logical import digest_parts, open_parts
from pipeline.tracking.sides import Side, hash_folder, open_side

TABLE = pd.DataFrame({"time": [1, 2, 3], "score": [0.5, np.nan, -0.25], "symbol": ["A", "B", None]})
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # of pygtrie, which DVC uses


def write_table(table: pd.DataFrame = TABLE, **options: object) -> bytes:
    stream = BytesIO()
    table.to_parquet(stream, index=False, **options)
    return stream.getvalue()


def write_json(**content: object) -> bytes:
    return json.dumps(content).encode()


FILES = {
    "data/raw.parquet": write_table(),
    "trained/models/tree/model.json": write_json(leaves=[1.0, 2.0], seed=7),
    "trained/models/tree/SHA256SUMS": b"0" * 64 + b"  model.json\n",
    "trained/report.json": write_json(ic=0.125, sha256="a" * 64),
}
STAGES = {  # in another order than that of the pipeline
    "evaluate": (("code.py", "trained/models/tree"), {}, ("trained/report.json",)),
    "fetch": (("code.py",), {"days": 3, "symbols": ["A", "B"]}, ("data/raw.parquet",)),
    "train": (("data/raw.parquet", "train.py"), {"rate": 0.1}, ("trained/models/tree",)),
}


def hash_bytes(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def write_clone(folder: Path, changes: dict[str, bytes | None] | None = None, **params: object) -> Path:
    """Write a repository of DVC whose cache has the outputs of three stages; None is a file that the cache lacks."""
    folder.mkdir()
    with Repo.init(str(folder), no_scm=True):
        pass
    given = changes or {}
    files = FILES | {name: content for name, content in given.items() if content is not None}
    md5s = {"code.py": "1" * 32, "train.py": hash_bytes(files.get("train.py", b""))}
    for name, content in files.items():
        md5s[name] = hash_bytes(content)
        add_to_cache(folder, content, "" if given.get(name, b"") is not None else "absent")
    model = {name: md5s[name] for name in files if name.startswith("trained/models/tree/")}
    md5s["trained/models/tree"] = hash_folder("trained/models/tree", model)
    listed = [{"md5": md5, "relpath": Path(name).name} for name, md5 in sorted(model.items())]
    add_to_cache(folder, json.dumps(listed, sort_keys=True).encode(), ".dir")
    stages = {
        name: {
            "cmd": f"run {name}",
            "deps": [{"path": path, "md5": md5s[path]} for path in inputs],
            "params": {"params.yaml": {key: params.get(key, value) for key, value in own.items()}},
            "outs": [{"path": path, "md5": md5s[path]} for path in outputs],
        }
        for name, (inputs, own, outputs) in STAGES.items()
    }
    (folder / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
    return folder


def add_to_cache(folder: Path, content: bytes, suffix: str) -> None:
    md5 = hash_bytes(content)
    file = folder / ".dvc/cache/files/md5" / md5[:2] / f"{md5[2:]}{suffix}"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def diagnose(a: Path | Side, b: Path | Side) -> tuple[list[str], bool]:
    sides = [each if isinstance(each, Side) else open_side(str(each), Path()) for each in (a, b)]
    report, is_explained = doctor.diagnose(*sides, Tolerance())
    return [line.strip() for line in report.splitlines()], is_explained


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    return write_clone(tmp_path_factory.mktemp("clones") / "a")


def test_a_copy_is_identical(clone, tmp_path):
    lines, is_explained = diagnose(clone, shutil.copytree(clone, tmp_path / "b"))
    assert lines[2] == "3 stages: identical" and is_explained


def test_other_params_are_named_and_what_follows_from_them_is_no_fault(clone, tmp_path):
    changes = {
        "data/raw.parquet": write_table(TABLE.assign(time=[1, 2, 4])),
        "trained/models/tree/model.json": write_json(leaves=[1.0, 3.0], seed=7),
    }
    lines, is_explained = diagnose(clone, write_clone(tmp_path / "b", changes, days=4))
    assert lines[3:8] == [
        "",
        "other inputs of their own, no fault: first fetch",
        "params: params.yaml.days: 3 → 4",
        "data/raw.parquet: other values",
        "time: 1 of 3 differ, by 1 at most, relative 0.25",
    ]
    assert "follow from these: train" in lines and is_explained


def test_other_code_is_named(clone, tmp_path):
    changes = {"train.py": b"edited", "trained/models/tree/model.json": write_json(leaves=[1.0, 3.0], seed=7)}
    lines, is_explained = diagnose(clone, write_clone(tmp_path / "b", changes))
    place = lines.index("other inputs of their own, no fault: first train")
    assert lines[place + 1] == "file: train.py" and is_explained


def test_the_same_values_in_other_bytes_are_no_other_data(clone, tmp_path):
    changes = {
        "data/raw.parquet": write_table(compression="gzip", row_group_size=1),
        "trained/models/tree/SHA256SUMS": b"1" * 64 + b"  model.json\n",
        "trained/report.json": b'{"sha256": "' + b"b" * 64 + b'",\n  "ic": 0.125}',
    }
    lines, is_explained = diagnose(clone, write_clone(tmp_path / "b", changes))
    assert lines[2] == "3 stages: 3 the same values, in other bytes" and is_explained
    assert lines[4:7] == [
        "same inputs, same values in other bytes: first fetch",
        "data/raw.parquet: same values, other bytes",
        "then train, evaluate",
    ]


@pytest.mark.parametrize(("shift", "is_rounding"), [(1e-9, True), (1e-3, False)])
def test_the_first_stage_that_differs_is_named_with_the_largest_difference(shift, is_rounding, clone, tmp_path):
    changes = {
        "data/raw.parquet": write_table(compression="gzip"),
        "trained/models/tree/model.json": write_json(leaves=[1.0, 2.0 + shift], seed=7),
        "trained/report.json": write_json(ic=0.5, sha256="a" * 64),
    }
    lines, is_explained = diagnose(clone, write_clone(tmp_path / "b", changes))
    start = lines.index("same inputs, other outputs: first train")
    level = "values within the tolerance" if is_rounding else "other values"
    assert lines[start + 1] == f"trained/models/tree/model.json: {level}"
    assert lines[start + 2] == f"leaves: 1 of 2 differ, by {shift:.3g} at most, relative {shift / (2 + shift):.3g}"
    assert "follow from these: evaluate" in lines
    assert is_explained == is_rounding


def test_a_changed_key_of_json_is_named(clone, tmp_path):
    changes = {"trained/report.json": write_json(rank_ic=0.125, sha256="a" * 64)}
    lines, is_explained = diagnose(clone, write_clone(tmp_path / "b", changes))
    start = lines.index("same inputs, other outputs: first evaluate")
    assert lines[start + 2 : start + 4] == ["ic: only in a", "rank_ic: only in b"] and not is_explained


def test_files_that_a_clone_lacks_are_named_with_the_command_that_gets_them(clone, tmp_path):
    other = write_clone(tmp_path / "b", {"data/raw.parquet": write_table(compression="gzip")})
    shutil.rmtree(other / ".dvc/cache")
    lines, is_explained = diagnose(clone, other)
    expected = f"b lacks data/raw.parquet as dvc.lock records it: run `dvc fetch data/raw.parquet` in {other}"
    assert expected in "\n".join(lines) and not is_explained


def test_a_damaged_file_of_the_cache_is_a_missing_one(clone, tmp_path):
    changed = write_table(compression="gzip")
    other = write_clone(tmp_path / "b", {"data/raw.parquet": changed})
    md5 = hash_bytes(changed)
    (other / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).write_bytes(write_table(TABLE.assign(time=[1, 2, 9])))
    lines, is_explained = diagnose(clone, other)
    assert "b lacks data/raw.parquet as dvc.lock records it" in "\n".join(lines) and not is_explained


def test_a_lock_alone_shows_which_bytes_differ(clone, tmp_path):
    other = write_clone(tmp_path / "b", {"data/raw.parquet": write_table(compression="gzip")})
    lines, is_explained = diagnose(clone, other / "dvc.lock")
    assert lines[4] == "same inputs, other outputs: first fetch" and not is_explained
    assert lines[5].startswith("data/raw.parquet: other bytes; values unknown: ")
    assert lines[5].endswith("give the clone, or a snapshot (`python -m pipeline.tracking.snapshot`)")


def test_a_snapshot_of_another_machine_says_which_columns_and_libraries_differ(clone, tmp_path, monkeypatch, capsys):
    changes = {
        "data/raw.parquet": write_table(TABLE.assign(score=[0.5, np.nan, 0.25])),
        "trained/report.json": b'{"ic": 0.125,  "sha256": "' + b"a" * 64 + b'"}',
    }
    monkeypatch.chdir(write_clone(tmp_path / "b", changes))
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setattr("sys.argv", ["snapshot"])
    snapshot.main()
    assert capsys.readouterr().out.startswith("trained/measured/snapshot.json: 4 files, ")
    copied = tmp_path / "machine.json"
    content = json.loads(Path("trained/measured/snapshot.json").read_text())
    libraries, machine = content["facts"]["libraries"], content["facts"]["machine"]
    assert libraries["numpy"] == np.__version__
    assert machine["python"] == platform.python_version()
    libraries["numpy"] = "1.26.0"
    here = dict(machine)
    machine.update(python="3.12.1", cpu="AMD EPYC 7763", cpu_features="avx2 fma", gpu_driver="580.65")
    copied.write_text(json.dumps(content))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(clone)
    monkeypatch.setattr("sys.argv", ["doctor", ".", str(copied)])
    with pytest.raises(SystemExit) as stopped:
        doctor.main()
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert stopped.value.code == 1
    assert lines[4:7] == [
        "same inputs, other outputs: first fetch",
        "data/raw.parquet: other values",
        "score: values differ",
    ]
    assert "same inputs, same values in other bytes: first evaluate" in lines
    assert "settings: OMP_NUM_THREADS: 1 → 7" in lines
    assert f"libraries: numpy: {np.__version__} → 1.26.0" in lines
    assert [line for line in lines if line.startswith("machine: ")] == [
        f"machine: {name}: {here[name]} → {machine[name]}" for name in ("python", "cpu", "cpu_features", "gpu_driver")
    ]


def test_what_is_no_side_is_refused_with_what_to_give(clone, tmp_path):
    (tmp_path / "machine.json").write_text("{}")
    (tmp_path / "notes.lock").write_text("nothing")
    (tmp_path / "bars.parquet").write_bytes(b"PAR1\xff")
    for name, message in (
        ("machine.json", "machine.json is no snapshot; `python -m pipeline.tracking.snapshot machine.json` writes one"),
        ("notes.lock", "notes.lock is no dvc.lock"),
        ("bars.parquet", "bars.parquet is no text; give a dvc.lock, a snapshot, a clone or a revision"),
        (".", ". has no dvc.lock; give a clone in which the pipeline has run"),
        ("nowhere", "there is no revision or experiment 'nowhere'"),
    ):
        with pytest.raises(ValueError, match=message):
            open_side(name, tmp_path)


def test_a_snapshot_to_a_folder_is_refused_before_it_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["snapshot", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"is a folder; name a file in it, such as .*/snapshot\.json$"):
        snapshot.main()


@pytest.mark.parametrize("text", ["-1", "nan", "small"])
def test_a_tolerance_must_be_a_number_of_at_least_0(text, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["doctor", "main", "--rtol", text])
    with pytest.raises(SystemExit):
        doctor.main()
    assert f"argument --rtol: it is {text!r}; it must be a number of at least 0" in capsys.readouterr().err


def make_graph(weights: list[float], *, producer: str) -> bytes:
    tensor = helper.make_tensor("w", onnx.TensorProto.FLOAT, [len(weights)], weights)
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [len(weights)])
    result = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [len(weights)])
    node = helper.make_node("Add", ["x", "w"], ["y"], name="sum")
    graph = helper.make_graph([node], "g", [value], [result], [tensor])
    return helper.make_model(graph, producer_name=producer).SerializeToString()


def make_arrays(compress: Callable[..., None], scale: float) -> bytes:
    stream = BytesIO()
    compress(stream, a=np.float32([1, 2]) * np.float32(scale), b=np.array([True, False]))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "a", "same", "other", "part"),
    [
        ("w.npz", make_arrays(np.savez, 1), make_arrays(np.savez_compressed, 1), make_arrays(np.savez, 2), "a"),
        ("m.onnx", make_graph([1], producer="a"), make_graph([1], producer="b"), make_graph([3], producer="a"), "w"),
        ("h.csv", b"loss,step\n0.5,1\n", b"loss,step\n0.50,1\n", b"loss,step\n0.25,1\n", "loss"),
        ("t.jsonl", b'{"a":1,"b":2}\n', b'{"b": 2, "a": 1}\n', b'{"a":1,"b":3}\n', "[0].b"),
        ("forest.txt", b"leaf=0.5 1e-3\n", b"leaf=0.50 0.001\n", b"leaf=0.5 2e-3\n", "numbers"),
        (
            "t.parquet",
            write_table(),
            write_table(use_dictionary=False),
            write_table(TABLE.assign(symbol=["A", "B", "C"])),
            "symbol",
        ),
    ],
)
def test_values_of_each_kind_of_file_are_compared_whatever_its_bytes(name, a, same, other, part):
    first, second, third = (open_parts(name, content) for content in (a, same, other))
    assert a != same and compare_parts(first, second, Tolerance()) == []
    assert digest_parts(first) == digest_parts(second) != digest_parts(third)
    found = compare_parts(first, third, Tolerance())
    assert part in [each.name for each in found] and {each.level for each in found} == {Level.DIFFERENT}


def test_types_are_values_and_a_nan_agrees_with_nan_alone():
    a, b = np.array([1.0, np.nan]), np.array([np.nan, np.nan])
    assert [each.text for each in compare_parts({"x": a}, {"x": b}, Tolerance())] == [
        "1 of 2 differ, by nan at most, relative nan; 1 are finite in one alone"
    ]
    (found,) = compare_parts({"x": np.float32([1])}, {"x": np.float64([1])}, Tolerance())
    assert found.text == "float32[1] → float64[1]"


@pytest.mark.parametrize("kind", [np.array, lambda values: values[0]], ids=["a column", "a key of JSON"])
def test_a_time_that_is_a_minute_later_is_no_rounding(kind):
    before, after = 1_700_000_000_000, 1_700_000_060_000  # milliseconds: they differ by less than 1e-6 of their size
    for convert, level in ((int, Level.DIFFERENT), (float, Level.WITHIN_TOLERANCE)):
        (found,) = compare_parts({"x": kind([convert(before)])}, {"x": kind([convert(after)])}, Tolerance())
        assert found.level == level


def test_a_file_of_another_kind_than_its_name_is_named():
    with pytest.raises(ValueError, match=r"^w.parquet cannot be read as .parquet: "):
        open_parts("w.parquet", b"damaged")
