"""Ensembles against the best of their members, chosen with and without the test rows."""

import numpy as np
import pytest

from pipeline.evaluation.best_members import compare_with_best_members
from pipeline.evaluation.pairwise import UNDECIDED, PairComparison
from pipeline.evaluation.stacked_weights import choose_member
from pipeline.evaluation.voting import name_members
from pipeline.reporting.comparison_page import render_best_members
from tests.test_voting import make_params, resolve

MEMBERS = {"voting": ["tree", "net"], "chosen": ["net", "tree"], "other": ["tree"]}


def make_pair(a: str, b: str, difference: float) -> PairComparison:
    return PairComparison(a, b, difference, difference - 2, difference + 1, 0.01, 0.25, UNDECIDED, None)


@pytest.mark.parametrize("seed", range(4))
def test_the_member_with_the_least_squares_is_chosen(seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets, y = rng.normal(size=(50, 5)) * rng.uniform(0.1, 9, 5), rng.normal(size=50)
    targets[:, 3] = 0.0
    losses = []
    for own in targets.T:
        weight = max(np.linalg.lstsq(own[:, None], y)[0][0], 0.0)
        losses.append(np.square(weight * own - y).sum())
    assert choose_member(targets, y).tolist() == (np.arange(5) == np.argmin(losses)).tolist()
    assert choose_member(np.stack([-y, np.zeros(50)], axis=1), y).tolist() == [0.0, 0.0]


def test_an_ensemble_is_compared_with_the_best_of_its_own_members_alone() -> None:
    pairs = [
        make_pair("tree", "voting", 3.0),
        make_pair("voting", "net", 1.0),
        make_pair("voting", "chosen", 0.5),
        make_pair("tree", "other", 0.1),
    ]
    ranking = ["stranger", "tree", "voting", "chosen", "net", "other"]
    found = compare_with_best_members(ranking, pairs, MEMBERS, choosers=["chosen"])
    assert [(each.ensemble, each.member, each.is_in_hindsight) for each in found] == [
        ("voting", "tree", True),
        ("voting", "chosen", False),
        ("other", "tree", True),
    ]
    assert (found[0].difference, found[0].low, found[0].high) == (-3.0, -4.0, -1.0)
    assert (found[1].difference, found[1].low, found[1].high) == (0.5, -1.5, 1.5)
    assert compare_with_best_members(["voting"], [], MEMBERS, choosers=[]) == []


def test_the_page_says_which_choice_favors_the_member() -> None:
    pairs = [make_pair("tree", "voting", 3.0), make_pair("voting", "chosen", 0.5)]
    page = render_best_members(compare_with_best_members(["tree"], pairs, MEMBERS, choosers=["chosen"]))
    _, _, hindsight, beforehand = page.splitlines()
    assert hindsight == (
        "- voting less tree (its best member on these test rows: a choice in hindsight, which favors tree): "
        "-3 [-4, -1], not distinguishable (p 0.25, of this pair alone 0.01)"
    )
    assert "chosen (in each split the member that is best on valid rows: no test row chooses it): 0.5" in beforehand


def test_members_are_named_by_families_and_models_of_the_leaderboard() -> None:
    params = make_params({"trees": 0.5, "agents.marl": 0.1, "nets": 0.0})
    traded = ["lstm", "lightgbm", "xgboost", "marl", "d4pg"]
    assert name_members(params, "voting", traded=traded) == ["lightgbm", "xgboost", "marl"]
    params["models"]["ensembles"]["voting"] |= {"plugin": "stacking", "hyperparameters": {"members": ["nets"]}}
    assert name_members(params, "voting", traded=traded) == ["lstm"]


@pytest.mark.parametrize("weights", [{"trees": 0.5, "agents.marl": 0.1, "nets": 0.0}, {"nets.cnn": 1.0, "trees": 2.0}])
def test_the_names_are_those_of_the_members_whose_weights_are_resolved(weights: dict[str, float]) -> None:
    params = make_params(weights)
    names = [name for family in params["models"].values() for name in family]
    assert name_members(params, "voting", traded=names) == list(resolve(params).weights)
