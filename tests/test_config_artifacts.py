"""Blocks of params as keyword arguments, seeds, and atomic writes."""

import json

import numpy as np
import pytest

from pipeline import artifacts, config
from pipeline.datasets.klines import ingest
from pipeline.market import file
from pipeline.models.nets.tft import TFT
from pipeline.validation.folds import make_folds


def label_bars(bars, *, horizon, profit):
    return bars, horizon, profit


def test_the_keys_of_a_block_are_keyword_only_arguments():
    assert config.call_with(label_bars, "bars", block={"horizon": 5, "profit": 2.0}, name="target") == ("bars", 5, 2.0)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"horizon": 5, "profti": 2.0}, "target: unknown key 'profti'; its keys are horizon, profit"),
        ({"horizon": 5}, "target: key 'profit' is missing; its keys are horizon, profit"),
    ],
)
def test_a_wrong_key_is_named_with_the_keys_that_exist(block, message):
    with pytest.raises(ValueError, match=message):
        config.call_with(label_bars, "bars", block=block, name="target")


@pytest.mark.parametrize(
    ("function", "key", "value", "words"),
    [
        (file.load, "path", 5, " is 5; it must be text, or a list, or null"),
        (file.load, "path", ["a", 5], r"\.1 is 5; it must be text"),
        (file.load, "columns", "a", " is 'a'; it must be a section of keys and values, or null"),
        (ingest.clean, "exchange", [], r" is \[\]; it must be text, or a section of keys and values, or null"),
        (ingest.clean, "features", None, " is None; it must be 'continue' or 'restart'"),
        (make_folds, "embargo_bars", -1, " is -1; it must be at least 0, or null"),
        (TFT, "known_columns", "future", " is 'future'; it must be 'ahead', or a list"),
        (TFT, "dropout", "a", " is 'a'; it must be a number"),
    ],
)
def test_a_wrong_value_is_followed_by_all_kinds_that_are_allowed(function, key, value, words):
    with pytest.raises(config.ParamsError, match=rf"^params\.yaml: section\.{key}{words}$"):
        config.check_section(function, {key: value}, name="section", keys=(key,))


def test_an_unknown_entry_is_named_with_the_entries_that_exist():
    with pytest.raises(ValueError, match=r"there is no datasets\.lob; datasets has klines"):
        config.look_up({"datasets": {"klines": {}}}, "datasets.lob")


def test_an_interrupted_write_leaves_the_old_file_and_no_draft(tmp_path):
    file = tmp_path / "report.json"
    artifacts.write_json(file, {"rows": 1})
    with pytest.raises(RuntimeError), artifacts.replace_atomically(file) as draft:
        draft.write_text("half")
        raise RuntimeError
    assert json.loads(file.read_text()) == {"rows": 1}
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    folder = tmp_path / "model"
    for name in ("old", "new"):
        with artifacts.replace_atomically(folder) as draft:
            draft.mkdir()
            (draft / name).touch()
    assert [file.name for file in folder.iterdir()] == ["new"]


def test_undefined_is_null_in_json_and_infinity_is_refused(tmp_path):
    artifacts.write_json(tmp_path / "a.json", {"x": np.float64("nan"), "y": [np.int64(3)], "z": np.array([0.5])})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": None, "y": [3], "z": [0.5]}
    with pytest.raises(ValueError, match="Out of range"):
        artifacts.write_json(tmp_path / "b.json", {"x": float("inf")})
    assert not (tmp_path / "b.json").exists()


def test_every_fit_has_its_own_seed():
    seeds = {config.derive_seed(seed, model, fold) for seed in (0, 1) for model in "ab" for fold in range(-1, 15)}
    assert len(seeds) == 2 * 2 * 16
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_numbers_are_read_as_dvc_writes_them(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_text("a: 5e-05\nb: 1E6\nc: 1.5e-3\nd: 0.1\ne: e5\nf: 2024-01-01e\n")
    monkeypatch.chdir(tmp_path)
    assert config.load_params() == {"a": 5e-5, "b": 1e6, "c": 1.5e-3, "d": 0.1, "e": "e5", "f": "2024-01-01e"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\nb: 2\n", "params.yaml: line 2 is not YAML"),
        ("", "params.yaml: the file is None; it must have sections"),
        ("seed: x\n", "params.yaml: seed is 'x'; it must be a whole number"),
    ],
)
def test_a_file_that_is_no_params_is_refused(text, message, tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(config.ParamsError, match=message):
        config.load_params()


@pytest.mark.parametrize("block", [None, 3, "1"])
def test_a_block_that_is_no_mapping_is_refused(block):
    with pytest.raises(ValueError, match="trading is .*; it must be a section of keys and values"):
        config.call_with(label_bars, 1, block=block, name="trading")


def test_a_number_of_workers_that_is_no_integer_is_refused(monkeypatch):
    monkeypatch.setenv("PIPELINE_WORKERS", "two")
    with pytest.raises(ValueError, match="PIPELINE_WORKERS is 'two'"):
        config.count_workers()


def test_a_model_is_found_under_its_family_and_an_unknown_one_is_named_with_all_models():
    entry = {"dataset": "klines", "target": "up", "plugin": "lightgbm", "hyperparameters": {}}
    params = {"models": {"trees": {"lightgbm": entry}, "nets": None}, "datasets": {"klines": {"targets": {"up": {}}}}}
    assert config.find_model(params, "lightgbm") == ("trees", entry, "lightgbm")
    with pytest.raises(ValueError, match=r"model lstm is not there; models has trees\.lightgbm"):
        config.find_model(params, "lstm")


def test_a_model_of_two_families_is_refused():
    with pytest.raises(ValueError, match="model mlp stands in nets, agents; rename all but one"):
        config.find_model({"models": {"nets": {"mlp": {}}, "agents": {"mlp": {}}}}, "mlp")


def test_dates_and_times_of_day_are_text_as_in_yaml_1_2(tmp_path, monkeypatch):
    text = "a: [2024-07-04, 13:00, 9:30, 2024-07-04 09:30:00]\nb: {2024-07-03: 13:00}\nc: [130, 1.5]\n"
    (tmp_path / "params.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    params = config.load_params()
    assert params["a"] == ["2024-07-04", "13:00", "9:30", "2024-07-04 09:30:00"]
    assert params["b"] == {"2024-07-03": "13:00"}
    assert params["c"] == [130, 1.5]
