"""Files between stages carry digests: one flipped bit, a cut or a missing file is one error that says what to do."""

import json
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline import artifacts, digests, remedies
from pipeline.digests import ArtifactError, verify
from pipeline.models.onnx_session import load_self_contained, open_session

ROOT = Path(__file__).parents[1]
TABLE = pd.DataFrame({"time": np.arange(5), "y": [0.1, 0.2, 0.3, np.nan, 0.5]})
TABLE.attrs["target"] = {"name": "return_5"}


@pytest.fixture
def files(tmp_path, monkeypatch) -> dict[str, Path]:
    """One small file of each form, outside a repository."""
    monkeypatch.chdir(tmp_path)
    table, record, folder = Path("table.parquet"), Path("record.jsonl"), Path("model")
    artifacts.write_table(table, TABLE)
    artifacts.write_report("guard", "klines", {"findings": [{"guard": "segments", "value": None}]})
    artifacts.write_record(record, '{"kind":"trial"}\n')
    (folder / "deep").mkdir(parents=True)
    (folder / "model.json").write_text("{}\n")
    (folder / "deep/weights.npz").write_bytes(bytes(range(40)))
    digests.write_sums(folder)
    return {"table": table, "report": artifacts.report_path("guard", "klines"), "record": record, "folder": folder}


def flip(file: Path, byte: int, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[byte] ^= 1 << bit
    file.write_bytes(content)


@pytest.mark.parametrize("form", ["report", "record", "folder"])
def test_every_bit_of_a_text_and_of_a_folder_is_covered(files, form):
    path = verify(files[form])
    parts = [part for part in sorted(path.rglob("*")) if part.is_file()] if path.is_dir() else [path]
    for part in parts:
        for byte in range(part.stat().st_size):
            flip(part, byte, byte % 8)
            with pytest.raises(ArtifactError, match=f"^{path} is damaged"):
                verify(path)
            flip(part, byte, byte % 8)
    verify(path)


def test_every_part_of_a_table_is_covered_its_footer_and_its_digest_too(files):
    size = files["table"].stat().st_size
    for byte in (*range(0, size - 200, 7), *range(size - 200, size)):
        flip(files["table"], byte, byte % 8)
        with pytest.raises(ArtifactError, match=r"^table\.parquet is damaged, or not written by a stage: "):
            verify(files["table"])
        flip(files["table"], byte, byte % 8)
    verify(files["table"])


@pytest.mark.parametrize("form", ["table", "report", "record"])
def test_a_file_that_is_cut_anywhere_is_refused(files, form):
    content = files[form].read_bytes()
    for size in range(0, len(content), 5):
        files[form].write_bytes(content[:size])
        with pytest.raises(ArtifactError, match="is damaged"):
            verify(files[form])


def test_a_table_with_a_digest_is_a_parquet_file_as_before(files):
    read = pd.read_parquet(files["table"])
    pd.testing.assert_frame_equal(read, TABLE)
    assert read.attrs == TABLE.attrs
    assert pq.ParquetFile(files["table"]).metadata.num_rows == 5


def test_the_digest_of_a_table_is_the_sha256_of_the_file_without_it(files):
    content = files["table"].read_bytes()
    TABLE.to_parquet("plain.parquet", index=False, compression="zstd")
    before, _, after = content.partition(b"sha256:")
    assert before + after[64:] == Path("plain.parquet").read_bytes()
    assert after[:64].decode() == digests.hash_file(Path("plain.parquet"))
    with pytest.raises(ArtifactError, match=r"plain\.parquet is damaged, or not written by a stage: it has no digest"):
        artifacts.read_table(Path("plain.parquet"))


def test_a_report_is_json_with_its_digest_as_the_last_key(files):
    content = json.loads(files["report"].read_text())
    assert list(content) == ["findings", "sha256"]
    assert artifacts.read_report("guard", "klines") == {"findings": [{"guard": "segments", "value": None}]}
    assert digests.remove_record_digest(files["record"].read_text()) == '{"kind":"trial"}\n'


def test_a_folder_is_verified_by_coreutils_as_well(files):
    check = ["sha256sum", "--check", "--quiet", "SHA256SUMS"]
    assert subprocess.run(check, cwd="model", check=False).returncode == 0
    flip(files["folder"] / "deep/weights.npz", 20, 3)
    assert subprocess.run(check, cwd="model", check=False, capture_output=True).returncode == 1
    with pytest.raises(ArtifactError, match=r"differ in 'deep/weights\.npz'"):
        verify(files["folder"])


@pytest.mark.parametrize("change", ["missing", "additional"])
def test_a_folder_has_the_files_of_its_sums_and_no_others(files, change):
    name = "model.json" if change == "missing" else "weights.bin"
    file = files["folder"] / name
    file.unlink() if change == "missing" else file.touch()
    with pytest.raises(ArtifactError, match=f"differ in '{name}'"):
        verify(files["folder"])


def test_a_file_that_sums_do_not_list_is_allowed_by_pattern_alone(files):
    (files["folder"] / "model.onnx").touch()
    with pytest.raises(ArtifactError, match=r"differ in 'model\.onnx'"):
        verify(files["folder"])
    verify(files["folder"], unlisted="*.onnx")
    (files["folder"] / "weights.bin").touch()
    with pytest.raises(ArtifactError, match=r"differ in 'weights\.bin'"):
        verify(files["folder"], unlisted="*.onnx")
    (files["folder"] / "weights.bin").unlink()
    digests.write_sums(files["folder"])  # which lists the graph
    (files["folder"] / "model.onnx").write_text("another")
    with pytest.raises(ArtifactError, match=r"differ in 'model\.onnx'"):
        verify(files["folder"], unlisted="*.onnx")


def test_a_file_of_another_run_is_refused(files):
    with pytest.raises(ArtifactError, match=r"table\.parquet has sha256 .*, and report\.json records 00: one of them"):
        digests.verify_digest(files["table"], "00", source=Path("report.json"))


def list_stages() -> list[tuple[str, str, bool]]:
    """The stages of dvc.yaml by what they write, as DVC itself resolves them: path, name, cached or not."""
    from dvc.repo import Repo

    with Repo(str(ROOT)) as repo:
        return [(out.def_path, stage.addressing, out.use_cache) for stage in repo.index.stages for out in stage.outs]


def test_the_stage_that_writes_a_file_is_the_one_of_dvc(monkeypatch):
    monkeypatch.chdir(ROOT)
    written = list_stages()
    assert len(written) > 100
    params = remedies.config.load_params()
    monkeypatch.setattr(remedies.config, "load_params", lambda: params)
    for path, stage, is_cached in written:
        assert remedies.find_writer(Path(path)) == (stage, is_cached)
        assert remedies.find_writer(Path(path) / "inner") == (stage, is_cached)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("data/folds/klines.parquet", "does not exist; run `dvc repro split@klines`, the stage that writes it"),
        ("trained/models/lstm", "does not exist; run `dvc repro train_nets@lstm`, the stage that writes it"),
        ("trained/models/gru", "does not exist; no stage of dvc.yaml writes it: correct the name"),
    ],
)
def test_a_missing_input_names_the_stage_that_writes_it(path, message, tmp_path, monkeypatch):
    for file in ("dvc.yaml", "params.yaml"):
        (tmp_path / file).write_bytes((ROOT / file).read_bytes())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError) as refused:
        verify(Path(path))
    assert str(refused.value) == f"{path} {message}"


@pytest.mark.parametrize(("path", "command"), [("data/clean", "dvc checkout --force"), ("trained/x", "")])
def test_a_damaged_file_names_the_commands_that_restore_it(path, command, tmp_path, monkeypatch):
    (tmp_path / "dvc.yaml").write_text("stages:\n  ingest:\n    cmd: a\n    outs: [data/clean]\n")
    (tmp_path / "params.yaml").write_text("a: 1\n")
    monkeypatch.chdir(tmp_path)
    file = Path(path) / "klines.parquet"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"PAR1")
    with pytest.raises(ArtifactError) as refused:
        verify(file)
    advice = f"{command} {file}`, or `dvc repro --single-item --force ingest`" if command else "write it again"
    assert advice in str(refused.value)


def make_graph(*, nested: bool, location: str) -> onnx.ModelProto:
    """A graph whose weights, its own or those of a branch, lie in another file."""
    weight = numpy_helper.from_array(np.ones((2, 2), np.float32), "weight")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in ("inputs", "answer")]
    if not nested:
        node = helper.make_node("MatMul", ["inputs", "weight"], ["answer"])
        return helper.make_model(helper.make_graph([node], "g", value[:1], value[1:], [weight]))
    constant = helper.make_node("Constant", [], ["answer"], value=weight)
    branch = helper.make_graph([constant], "branch", [], value[1:])
    node = helper.make_node("If", ["condition"], ["answer"], then_branch=branch, else_branch=branch)
    return helper.make_model(helper.make_graph([node], "g", value[:1], value[1:]))


@pytest.mark.parametrize("location", ["weights.bin", "../../etc/passwd", "/etc/passwd"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_graph_with_weights_in_another_file_is_refused(nested, location, tmp_path):
    (tmp_path / "model.onnx").write_bytes(make_graph(nested=nested, location=location).SerializeToString())
    for read in (load_self_contained, open_session):
        with pytest.raises(ValueError, match="takes the weights 'weight' from other files"):
            read(tmp_path / "model.onnx")


def test_a_file_that_is_no_graph_is_refused(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(ValueError, match=r"model\.onnx is no ONNX graph"):
        open_session(tmp_path / "model.onnx")
