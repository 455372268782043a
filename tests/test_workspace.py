import json

import numpy as np
import pytest

from pipeline import workspace


def fed(bars, *, horizon, profit):
    return bars, horizon, profit


def test_a_block_feeds_keyword_only_arguments():
    assert workspace.feed(fed, "bars", block={"horizon": 5, "profit": 2.0}, named="target") == ("bars", 5, 2.0)


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        ({"horizon": 5, "profti": 2.0}, "target: unknown key 'profti'; its keys are horizon, profit"),
        ({"horizon": 5}, "target: key 'profit' is missing; its keys are horizon, profit"),
    ],
)
def test_a_wrong_key_is_named_with_those_that_exist(block, complaint):
    with pytest.raises(ValueError, match=complaint):
        workspace.feed(fed, "bars", block=block, named="target")


def test_an_unknown_entry_names_what_stands_there_instead():
    with pytest.raises(ValueError, match=r"there is no datasets\.lob; datasets has klines"):
        workspace.entry({"datasets": {"klines": {}}}, "datasets.lob")


def test_an_interrupted_write_leaves_what_stood_there_and_no_draft(tmp_path):
    file = tmp_path / "report.json"
    workspace.write_json(file, {"kept": 1})
    with pytest.raises(RuntimeError), workspace.replacing(file) as draft:
        draft.write_text("half")
        raise RuntimeError
    assert json.loads(file.read_text()) == {"kept": 1}
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_is_replaced_whole(tmp_path):
    folder = tmp_path / "model"
    for name in ("old", "new"):
        with workspace.replacing(folder) as draft:
            draft.mkdir()
            (draft / name).touch()
    assert [file.name for file in folder.iterdir()] == ["new"]


def test_undefined_is_null_in_json_and_infinity_is_refused(tmp_path):
    workspace.write_json(tmp_path / "a.json", {"x": np.float64("nan"), "y": [np.int64(3)], "z": np.array([0.5])})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": None, "y": [3], "z": [0.5]}
    with pytest.raises(ValueError, match="Out of range"):
        workspace.write_json(tmp_path / "b.json", {"x": float("inf")})
    assert not (tmp_path / "b.json").exists()


def test_every_fit_has_a_seed_of_its_own():
    seeds = {workspace.seed_for(seed, model, fold) for seed in (0, 1) for model in "ab" for fold in range(-1, 15)}
    assert len(seeds) == 2 * 2 * 16
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_numbers_are_read_as_dvc_writes_them(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_text("a: 5e-05\nb: 1E6\nc: 1.5e-3\nd: 0.1\ne: e5\nf: 2024-01-01e\n")
    monkeypatch.chdir(tmp_path)
    assert workspace.params() == {"a": 5e-5, "b": 1e6, "c": 1.5e-3, "d": 0.1, "e": "e5", "f": "2024-01-01e"}


@pytest.mark.parametrize("block", [None, 3, "1"])
def test_what_is_no_block_is_refused(block):
    with pytest.raises(ValueError, match="trading: is .*; it is a block of keys and values"):
        workspace.feed(fed, 1, block=block, named="trading")


def test_a_number_of_workers_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("PIPELINE_WORKERS", "two")
    with pytest.raises(ValueError, match="PIPELINE_WORKERS is 'two'"):
        workspace.workers()
