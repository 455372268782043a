"""Ranks of scores among those that a fit has seen: learned without test rows, the same bits in every deployment."""

import copy
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
from scipy.stats import percentileofscore

from pipeline import artifacts
from pipeline.config import ParamsError
from pipeline.deployment import ensemble_graph
from pipeline.deployment.contract import read_contract
from pipeline.deployment.hot_path import HotPath
from pipeline.evaluation import members, voting
from pipeline.evaluation.ranking import learn_reference, rank_scores
from pipeline.evaluation.voting import Ensemble, Member
from pipeline.models.onnx_session import open_session
from pipeline.models.predictions import FINAL
from tests import bundles
from tests.test_voting import TARGETS, make_params, resolve

WEIGHTS = {"window": 0.3, "value": 0.25, "classes": 0.125, "probability": 0.125, "quantiles": 0.1, "agent": 0.1}


def test_a_reference_has_the_middle_of_equal_parts_of_the_scores() -> None:
    scores = np.random.default_rng(1).permutation(np.arange(1000))
    assert learn_reference(scores, quantiles=4).tolist() == [125.0, 375.0, 625.0, 875.0]
    assert learn_reference(np.float32([2.0, 1.0]), quantiles=4).tolist() == [1.0, 1.0, 2.0, 2.0]
    assert learn_reference(scores, quantiles=1).tolist() == [500.0]


def test_a_rank_is_the_mean_percentile_of_scipy() -> None:
    rng = np.random.default_rng(2)
    scores, reference = rng.integers(-9, 9, 60) / 4, np.sort(rng.integers(-6, 6, 37) / 4)
    expected = [percentileofscore(reference, score, kind="mean") / 50 - 1 for score in scores]
    assert rank_scores(scores, reference) == pytest.approx(expected, abs=1e-12)
    assert rank_scores(np.float32([0.5, np.nan]), np.full(9, 0.5)).tolist()[0] == 0.0  # a score that never varied
    assert np.isnan(rank_scores(np.float32([np.nan]), reference)).all()


def test_a_rank_does_not_depend_on_the_unit_of_a_score() -> None:
    rng = np.random.default_rng(3)
    seen, scores = rng.normal(size=(300, 1))[:, 0], rng.normal(size=50)
    ranks = rank_scores(scores, learn_reference(seen, quantiles=50))
    assert np.array_equal(rank_scores(8 * scores, learn_reference(8 * seen, quantiles=50)), ranks)
    assert np.array_equal(rank_scores(scores**3, learn_reference(seen**3, quantiles=50)), ranks)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the predictions of a member `a`: two splits, and two seeds of the final fit."""
    monkeypatch.chdir(tmp_path)
    write_predictions(seen=1.0, test=1.0)
    return tmp_path


def write_predictions(*, seen: float, test: float) -> None:
    """Write predictions whose scores in split 1 are multiplied by `seen`, and those out of sample by `test`."""
    rng = np.random.default_rng(4)
    fits = [(7, 0), (7, 1), (7, FINAL), (9, FINAL)]
    for folder, rows, factor in ((artifacts.IN_SAMPLE, 40, seen), (artifacts.OOS, 10, test)):
        tables = []
        for seed, split in fits if folder == artifacts.IN_SAMPLE else [*fits[:2], fits[3]]:
            score = rng.normal(size=rows).astype(np.float32)
            score *= np.float32(factor if folder == artifacts.OOS or split == 1 else 1.0)
            table = {"seed": seed, "split": split, "row": np.arange(rows), "score": score, "score_std": 1.0}
            tables.append(pd.DataFrame(table))
        artifacts.write_table(folder / "a.parquet", pd.concat(tables))
    artifacts.write_json(artifacts.report_path("train", "a"), {"deployed_seed": 9})


def read_ranks() -> pd.DataFrame:
    ensemble = Ensemble((Member("a", 1.0, "return_5", 1, None),), (), rank_quantiles=8)
    (found,) = members.read_members(artifacts.OOS, ensemble, TARGETS_BY_NAME)
    return found.table.assign(rank=found.find_targets(full_position_std=2.0))


class _Target:
    output = TARGETS["return_5"]


TARGETS_BY_NAME = {"return_5": _Target()}


def test_a_split_is_ranked_among_the_scores_of_its_own_fit(folder: Path) -> None:
    found, seen = read_ranks(), pd.read_parquet(artifacts.IN_SAMPLE / "a.parquet")
    for (seed, split), part in found.groupby(["seed", "split"]):
        own = np.sort(seen.query(f"seed == {seed} and split == {split}")["score"].to_numpy(np.float64))
        expected = [percentileofscore(own[2::5], score, kind="mean") / 50 - 1 for score in part["score"]]
        assert part["rank"].to_numpy() == pytest.approx(expected, abs=1e-12)  # 40 scores: of 8 parts of 5 the third


def test_scores_of_test_rows_and_of_other_splits_do_not_matter_to_a_reference(folder: Path) -> None:
    before, references = read_ranks(), members.learn_references("a", quantiles=8)
    write_predictions(seen=100.0, test=3.0)
    after = members.learn_references("a", quantiles=8)
    assert {fit for fit in after if not np.array_equal(after[fit], references[fit])} == {(7, 1)}
    assert (read_ranks().query("split == 0")["rank"] >= before.query("split == 0")["rank"])[before["score"] > 0].all()


def test_a_bundle_has_the_reference_of_the_seed_that_is_deployed(folder: Path) -> None:
    ensemble = Ensemble((Member("a", 1.0, "return_5", 1, None),), (), rank_quantiles=8)
    found = members.find_deployed_references(ensemble, final=FINAL)
    references = members.learn_references("a", quantiles=8)
    assert found == {"a": references[9, FINAL].tolist()}
    artifacts.write_json(artifacts.report_path("train", "a"), {"deployed_seed": 7})  # also where there is no holdout
    assert members.find_deployed_references(ensemble, final=FINAL) == {"a": references[7, FINAL].tolist()}


def test_ranks_are_an_option_of_voting_alone() -> None:
    params = make_params({"trees": 1})
    assert resolve(params).rank_quantiles is None
    params["models"]["ensembles"]["voting"]["hyperparameters"]["rank_quantiles"] = 200
    assert resolve(params).rank_quantiles == 200
    wrong = copy.deepcopy(params)
    wrong["models"]["ensembles"]["voting"]["hyperparameters"]["rank_quantiles"] = 0
    with pytest.raises(ParamsError, match=r"voting.hyperparameters.rank_quantiles is 0; it must be "):
        resolve(wrong)
    wrong["models"]["ensembles"]["voting"] |= {"plugin": "stacking", "hyperparameters": {"members": ["trees"]}}
    wrong["models"]["ensembles"]["voting"]["hyperparameters"]["rank_quantiles"] = 200
    with pytest.raises(ParamsError, match="unknown key 'rank_quantiles'"):
        voting.resolve_weights(wrong, "voting", TARGETS)


def describe(*, is_ranked: bool) -> dict:
    """A bundle whose ensemble has a member of every kind of prediction, with a window, and an agent."""
    described = bundles.describe()
    described["ensemble"] = {"name": "voting", "weights": WEIGHTS}
    if is_ranked:
        rng = np.random.default_rng(5)
        described["schema_version"] = "2.0"
        described["ensemble"]["references"] = {
            name: learn_reference(rng.normal(size=400, scale=0.5).astype(np.float32), quantiles=64).tolist()
            for name in WEIGHTS
        }
    return described


def run_command(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr("sys.argv", ["ensemble_graph", *words])
    ensemble_graph.main()


@pytest.mark.parametrize("is_ranked", [False, True], ids=["positions", "ranks"])
def test_hot_path_and_graph_have_the_bits_of_the_sum_in_numpy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_ranked: bool
) -> None:
    folder = bundles.write_bundle(tmp_path / "bundle", describe(is_ranked=is_ranked))
    hot_path, contract = HotPath.load(folder), read_contract(folder)
    run_command(monkeypatch, "--bundle", str(folder), "--out", str(tmp_path / "ensemble.onnx"))
    session, lane = open_session(tmp_path / "ensemble.onnx"), hot_path.lanes[bundles.SYMBOL]
    onnx.checker.check_model(onnx.load(tmp_path / "ensemble.onnx"), full_check=True)
    places, found = lane.find_places(), []
    for bar in bundles.list_bars(bundles.make_bars(60, missing=(40,))):
        signal = hot_path.update(bar)
        if signal is None:
            continue
        total = 0.0
        for name, weight in WEIGHTS.items():
            score, vote = signal.models[name].score, signal.models[name].target
            if is_ranked:
                reference = np.array(contract.ensemble.references[name])
                vote = rank_scores(np.float32([score]), reference)[0]
            total += weight * (vote if signal.models[name].is_full else 0.0)
        assert signal.target == min(max(total, -1.0), 1.0)
        given = {f"{name}/inputs": places[name][0] for name in WEIGHTS} | {"rows": np.array([lane.rows])}
        assert session.run(["target"], given)[0].tolist() == [signal.target]
        found.append(signal.target)
    assert len(found) > 30 and np.std(found) > 0.05


def test_a_bundle_without_such_an_ensemble_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = bundles.write_bundle(tmp_path / "bundle", describe(is_ranked=False))
    alone = bundles.write_bundle(tmp_path / "alone", bundles.describe() | {"ensemble": None, "signal": "value"})
    for words, message in (
        ((str(folder), "--symbol", "ETHUSDT"), "no member of voting predicts 'ETHUSDT'; the bundle has BTCUSDT"),
        ((str(alone),), "the bundle of klines has no ensemble; enable one"),
        ((str(tmp_path / "missing"),), "missing does not exist; no stage of dvc.yaml writes it"),
    ):
        with pytest.raises(SystemExit):
            run_command(monkeypatch, "--bundle", *words, "--out", str(tmp_path / "ensemble.onnx"))
        assert message in capsys.readouterr().err.splitlines()[-1]


def test_faulty_references_are_one_line(tmp_path: Path) -> None:
    described = describe(is_ranked=True)
    del described["ensemble"]["references"]["agent"]
    with pytest.raises(ValueError, match="ensemble.references: each model of weights, and no other, must have one"):
        HotPath.load(bundles.write_bundle(tmp_path / "missing", described))
    described = describe(is_ranked=True)
    described["ensemble"]["references"]["agent"].reverse()
    with pytest.raises(ValueError, match="ensemble.references.agent does not ascend; make the bundle again"):
        HotPath.load(bundles.write_bundle(tmp_path / "descending", described))
    described = describe(is_ranked=True) | {"schema_version": "1.0"}  # whose readers would sum positions
    with pytest.raises(ValueError, match="schema_version is '1.0'; with ensemble.references it must be 2.0"):
        HotPath.load(bundles.write_bundle(tmp_path / "older", described))
