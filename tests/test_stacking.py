"""The stacking ensemble: weights of each split from its own train rows, and a bundle with those of the final fits."""

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from pipeline import artifacts
from pipeline.config import ParamsError
from pipeline.evaluation import stacking, voting
from pipeline.evaluation.stacked_weights import fit_weights
from pipeline.evaluation.voting import Ensemble, Member
from pipeline.models.predictions import FINAL
from pipeline.stages import bundle, combine
from pipeline.validation.folds import Folds
from tests.params import PARAMS
from tests.test_combine import KEY, read_positions
from tests.test_voting import TARGETS, make_params

MEMBERS = ["lightgbm", "xgboost_barrier", "lstm"]
STACKING = PARAMS["disabled_models"]["ensembles"]["stacking"]


def search_weights(targets: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Non-negative least squares by a search of all subsets of the members."""
    best, found = np.square(y).sum(), np.zeros(targets.shape[1])
    for size in range(1, targets.shape[1] + 1):
        for chosen in map(list, itertools.combinations(range(targets.shape[1]), size)):
            weights = np.linalg.lstsq(targets[:, chosen], y)[0]
            loss = np.square(targets[:, chosen] @ weights - y).sum()
            if (weights >= 0).all() and loss < best:
                best, found = loss, np.zeros(targets.shape[1])
                found[chosen] = weights
    return found / max(found.sum(), np.finfo(float).tiny)


@pytest.mark.parametrize("seed", range(6))
def test_weights_are_those_of_a_search_over_all_subsets(seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets = rng.normal(size=(60, 4))
    y = targets @ rng.normal(size=4) + rng.normal(size=60)
    found = fit_weights(targets, y)
    assert found == pytest.approx(search_weights(targets, y))
    assert found.min() >= 0
    assert found.sum() == pytest.approx(1.0)


def test_members_without_a_positive_relation_weigh_nothing() -> None:
    targets = np.array([[1.0, 2.0], [-1.0, -2.0]])
    assert fit_weights(targets, np.array([-1.0, 1.0])).tolist() == [0.0, 0.0]


def test_each_row_has_the_weights_of_its_seed_and_split() -> None:
    keys = pd.DataFrame({"seed": [4, 4, 9], "split": [0, FINAL, 0], "row": [5, 6, 5]})
    weights = {(4, 0): np.array([1.0, 0.0]), (4, FINAL): np.array([0.5, 0.5]), (9, 0): np.array([0.25, 0.75])}
    assert stacking.spread_weights(weights, keys).tolist() == [[1.0, 0.5, 0.25], [0.0, 0.5, 0.75]]
    assert stacking.choose_deployed(weights, final=FINAL).tolist() == [0.5, 0.5]


def test_wrong_members_are_one_line() -> None:
    params = make_params({"trees": 1})
    params["models"]["ensembles"]["voting"] = {**STACKING, "hyperparameters": {"members": ["trees", "forests"]}}
    with pytest.raises(ParamsError, match=r"hyperparameters.members has 'forests'; allowed are the families"):
        voting.resolve_weights(params, "voting", TARGETS)
    params["models"]["ensembles"]["voting"] = {**STACKING, "hyperparameters": {"members": ["trees", "trees"]}}
    with pytest.raises(ParamsError, match=r"members is \['trees', 'trees'\]; it must be a list that names each once"):
        voting.resolve_weights(params, "voting", TARGETS)
    params["models"]["ensembles"]["voting"]["hyperparameters"] = {"weights": {"trees": 1.0}}
    with pytest.raises(ParamsError, match=r"hyperparameters: unknown key 'weights'; its keys are members"):
        voting.resolve_weights(params, "voting", TARGETS)


@pytest.fixture(scope="module")
def folder(ran: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The small market whose pipeline has run, as the current folder, with an ensemble that is stacked."""
    own = tmp_path_factory.mktemp("stacking")
    for part in ("trained/oos", "trained/in_sample", "trained/reports", "trained/onnx", "data"):
        shutil.copytree(ran / part, own / part)
    params = yaml.safe_load((ran / "params.yaml").read_text())
    params["models"]["ensembles"]["stacking"] = STACKING
    (own / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(own)
        combine.main("stacking")
        yield own


def fit_all() -> dict[stacking.Fit, np.ndarray]:
    params = yaml.safe_load(Path("params.yaml").read_text())
    block = params["models"]["ensembles"]["stacking"]
    targets = combine.load_targets("klines", [block, *dict(voting.list_fitted(params)).values()])
    ensemble = voting.resolve_weights(params, "stacking", {name: each.output for name, each in targets.items()})
    assert list(ensemble.weights) == MEMBERS
    return stacking.fit_all_weights(params, "stacking", ensemble=ensemble, targets=targets, final=FINAL)


def select_valid(folds: Folds, split: int) -> np.ndarray:
    rows = folds.development() if split == FINAL else folds.train(split)
    return folds.split_validation(rows, PARAMS["train"]["valid_pct"])[1]


def read_y(rows: pd.DataFrame) -> np.ndarray:
    labels = pd.read_parquet("data/labels/klines/position.parquet")
    return rows.merge(labels, on=["segment", "time"], how="left")["y"].to_numpy()


@pytest.mark.parametrize("split", [0, 3, FINAL])
def test_a_split_is_predicted_with_weights_fitted_on_its_own_valid_rows(folder: Path, split: int) -> None:
    folds, rows = Folds.load(Path("data/folds/klines.parquet"))
    valid, y, so_far = select_valid(folds, split), read_y(rows), rows.groupby("segment").cumcount().to_numpy() + 1

    def read_targets(part: str, keys: list[tuple[int, int, int]]) -> np.ndarray:
        positions = np.stack([read_positions(folder, part, name).loc[keys].to_numpy() for name in MEMBERS], axis=1)
        positions[so_far[[row for *_, row in keys]] < 4, 2] = 0.0  # the window of lstm
        return positions

    table = pd.read_parquet("trained/ensembles/stacking/oos.parquet").query(f"split == {split}")
    seed = int(table["seed"].iloc[0])
    weights = search_weights(read_targets("in_sample", [(seed, split, row) for row in valid.tolist()]), y[valid])
    expected = read_targets("oos", table[KEY].apply(tuple, axis=1).tolist()) @ weights
    assert table["score"].to_numpy() == pytest.approx(expected, abs=1e-9)
    assert fit_all()[seed, split] == pytest.approx(weights)


def test_the_deployed_weights_are_fitted_on_the_fits_that_are_deployed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every member has two seeds; of one of them the second is deployed, whose scores have the other sign."""
    before, read_table, read_json = fit_all(), artifacts.read_table, artifacts.read_json
    ((seed, _),) = (fit for fit in before if fit[1] == FINAL)

    def add_seed(file: Path, columns: list[str]) -> pd.DataFrame:
        table = read_table(file, columns=columns)
        return pd.concat([table, table.assign(seed=seed + 1, score=-table["score"])], ignore_index=True)

    def deploy(file: Path) -> dict[str, Any]:
        return read_json(file) | ({"deployed_seed": seed + 1} if file.stem == deployed else {})

    monkeypatch.setattr(artifacts, "read_table", add_seed)
    monkeypatch.setattr(artifacts, "read_json", deploy)
    deployed = "nobody"
    assert np.array_equal(stacking.choose_deployed(fit_all(), final=FINAL), before[seed, FINAL])
    deployed = MEMBERS[int(before[seed, FINAL].argmax())]
    found = stacking.choose_deployed(fit_all(), final=FINAL)
    assert found[MEMBERS.index(deployed)] == 0.0


def test_labels_and_predictions_beyond_a_splits_own_train_rows_do_not_matter(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folds, rows = Folds.load(Path("data/folds/klines.parquet"))
    before, is_train = fit_all(), np.isin(np.arange(len(rows)), folds.train(0))
    read_table, read = artifacts.read_table, stacking._read_y

    def alter_others(file: Path, columns: list[str]) -> pd.DataFrame:
        table = read_table(file, columns=columns)
        return table.assign(score=table["score"].where(table["split"] == 0, -table["score"]))

    monkeypatch.setattr(artifacts, "read_table", alter_others)
    monkeypatch.setattr(stacking, "_read_y", lambda *given: np.where(is_train, read(*given), 7.0))
    after = fit_all()
    (seed, _), *_ = before
    assert np.array_equal(after[seed, 0], before[seed, 0])
    assert not np.array_equal(after[seed, FINAL], before[seed, FINAL])


def test_the_bundle_has_the_weights_of_the_final_fits(folder: Path) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    exported = {
        name: artifacts.read_json(Path(f"trained/onnx/{name}/contract.json"))
        for name in bundle.list_models(params, "klines")
    }
    described = bundle.describe_ensemble(params, "klines", exported, signal="stacking")
    report = artifacts.read_json(artifacts.report_path("combine", "stacking"))
    assert described is not None
    assert described["name"] == "stacking"
    assert described["weights"] == pytest.approx(report["weights"])
    assert list(report["weights"]) == list(report["weight_ranges"]) == MEMBERS
    assert sum(report["weights"].values()) == pytest.approx(1.0)


def test_fitted_weights_are_no_parameter_of_a_trial(folder: Path) -> None:
    parameters = artifacts.read_report("combine/details", "stacking")["parameters"]
    assert "weights" not in parameters
    assert list(parameters["members"]) == MEMBERS
    ensemble = Ensemble((Member("a", 1.0, "return_5", 1, None),), ())
    assert ensemble.replace_weights(np.array([0.5])).weights == {"a": 0.5}
