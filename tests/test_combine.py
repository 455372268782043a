"""The stage that makes an ensemble, on the predictions of a small market's models."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from pipeline import artifacts
from pipeline.evaluation.members import MemberPredictions, join_final_fits
from pipeline.evaluation.voting import Ensemble, Member
from pipeline.models.predictions import FINAL
from pipeline.stages import combine
from tests.small_repository import ENSEMBLE

KEY = ["seed", "split", "row"]
WEIGHTS = {"lightgbm": 0.3, "xgboost_barrier": 0.3, "lstm": 0.4}
WINDOW = 4  # of lstm


@pytest.fixture
def folder(ran: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the stage reads, in a folder of a test's own, the current one."""
    for part in ("trained/oos", "trained/in_sample", "trained/reports", "data/folds", "data/features", "data/labels"):
        shutil.copytree(ran / part, tmp_path / part)
    shutil.copy(ran / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read_positions(root: Path, part: str, model: str) -> pd.Series:
    """Return the target positions of a fitted model by KEY, of a final fit without its seed."""
    table = pd.read_parquet(root / f"trained/{part}/{model}.parquet")
    full = table["score_std"] * yaml.safe_load((root / "params.yaml").read_text())["trading"]["full_position_std"]
    position = (table["score"].astype(np.float64) / full).clip(-1, 1)
    position[full.isna()] = 0.0  # of a fit whose scores never vary
    return pd.Series(position.to_numpy(), table[KEY].apply(tuple, axis=1))


@pytest.mark.parametrize("part", ["oos", "in_sample"])
def test_the_pipeline_has_the_weighted_sum_of_its_trees_and_its_net(ran: Path, part: str) -> None:
    table = pd.read_parquet(ran / f"trained/ensembles/{ENSEMBLE}/{part}.parquet")
    rows = pd.read_parquet(ran / "data/folds/klines.parquet")
    so_far = rows.groupby("segment").cumcount().to_numpy() + 1
    keys = table[KEY].apply(tuple, axis=1)
    expected = np.zeros(len(table))
    for model, weight in WEIGHTS.items():
        position = read_positions(ran, part, model).loc[keys].to_numpy()
        counts = so_far[table["row"]] >= (WINDOW if model == "lstm" else 1)
        expected += weight * np.where(counts, position, 0.0)
    np.testing.assert_allclose(table["score"], expected, rtol=1e-12, atol=1e-15)
    assert sorted(keys) == sorted(read_positions(ran, part, "lightgbm").index)
    assert table["score_std"].isna().all()
    assert FINAL in set(table["split"])


def test_its_table_has_the_columns_of_a_training_and_float64_positions(ran: Path) -> None:
    ensemble, model = (
        pd.read_parquet(ran / f"trained/{name}.parquet") for name in ("ensembles/voting/oos", "oos/marl")
    )
    assert list(ensemble.columns) == list(model.columns)
    assert ensemble["score"].dtype == ensemble["position"].dtype == np.float64
    assert ensemble.drop(columns=["position", "score"]).dtypes.equals(model.drop(columns=["position", "score"]).dtypes)


def test_it_is_a_row_of_the_leaderboard_and_a_trial_and_its_report_has_the_weights(ran: Path) -> None:
    report = json.loads((ran / f"trained/reports/combine/{ENSEMBLE}.json").read_text())
    assert report["weights"] == pytest.approx(WEIGHTS)
    assert list(report["weights"]) == list(WEIGHTS)
    assert report["counted_share"]["lightgbm"] == 1.0
    assert 0.9 < report["counted_share"]["lstm"] < 1.0
    board = json.loads((ran / "trained/reports/compare/details/klines.json").read_text())["leaderboard"]
    assert ENSEMBLE in board
    trial, _ = map(json.loads, (ran / f"trained/trials/{ENSEMBLE}.jsonl").read_text().splitlines())
    assert (trial["model"], trial["target"], trial["inner_trials"]) == (ENSEMBLE, "position", 1)


def test_a_member_that_is_disabled_leaves_a_working_ensemble(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    del params["models"]["nets"]["lstm"]
    Path("params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    combine.main(ENSEMBLE)
    report = artifacts.read_json(artifacts.report_path("combine", ENSEMBLE))
    assert report["weights"] == {"lightgbm": 0.5, "xgboost_barrier": 0.5}
    assert report["left_out"] == ["nets has no enabled model of klines with a score"]
    assert "models.ensembles.voting: nets has no enabled model of klines with a score: it is left out" in caplog.text
    assert not list(Path("trained").rglob("lstm.parquet"))  # else DVC would hash it with the folder
    assert sorted(file.stem for file in artifacts.OOS.iterdir()) == ["lightgbm", "marl", "xgboost_barrier"]


def test_other_parameters_of_a_member_or_other_weights_are_another_trial(folder: Path) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())

    def list_parameters(*weights: float) -> dict:
        members = (Member(name, weight, "return_5", 1, None) for name, weight in zip("ab", weights, strict=True))
        return combine.list_parameters(params, ENSEMBLE, Ensemble(tuple(members), ()))

    for name, rounds, seeds in (("a", 10, [5]), ("b", 20, [5])):
        artifacts.write_report("train/details", name, {"parameters": {"model": name, "rounds": rounds, "seeds": seeds}})
    first = list_parameters(0.5, 0.5)
    labels = params["datasets"]["klines"]["targets"]["return_5"]
    assert first["weights"] == {"a": 0.5, "b": 0.5}
    assert first["members"]["b"] == {"model": "b", "rounds": 20, "labels": labels}
    assert first["seeds"] == [5]
    assert list_parameters(0.25, 0.75) != first
    artifacts.write_report("train/details", "b", {"parameters": {"model": "b", "rounds": 30, "seeds": [5]}})
    assert list_parameters(0.5, 0.5) != first
    artifacts.write_report("train/details", "b", {"parameters": {"model": "b", "rounds": 20, "seeds": [5, 6]}})
    with pytest.raises(
        ValueError, match=r"^voting: its members a and b were fitted with the seeds \[5\] and \[5, 6\]; "
    ):
        list_parameters(0.5, 0.5)


def test_of_the_final_fits_those_that_are_deployed_are_joined_under_the_lowest_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In sample every seed has a final fit; the deployed one, of another seed for each member, stays."""
    monkeypatch.chdir(tmp_path)

    def make_member(name: str, deployed: int) -> MemberPredictions:
        artifacts.write_json(artifacts.report_path("train", name), {"deployed_seed": deployed})
        table = pd.DataFrame({"seed": [4, 9, 4, 9], "split": [0, 0, FINAL, FINAL], "row": [1, 1, 2, 2]})
        table = table.assign(score=[0.0, 1.0, 2.0, 3.0])
        return MemberPredictions(
            Member(name, 0.5, "return_5", 1, None), "value", table, ranks=table["score"].to_numpy()
        )

    joined = join_final_fits([make_member("a", 9), make_member("b", 4)], final=FINAL)
    assert [each.table["seed"].tolist() for each in joined] == [[4, 9, 4]] * 2
    assert [each.table["score"].tolist() for each in joined] == [[0.0, 1.0, 3.0], [0.0, 1.0, 2.0]]
    for each in joined:
        assert each.ranks is not None
        assert each.ranks.tolist() == each.table["score"].tolist()
