"""The voting ensemble: whose positions it sums, with which weights, and on which rows."""

import copy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from pipeline.config import ParamsError
from pipeline.evaluation import voting
from pipeline.evaluation.members import MemberPredictions, find_common_rows
from pipeline.evaluation.voting import Member, combine_targets, count_rows_so_far, resolve_weights
from pipeline.stages import holdout, quantize
from pipeline.targets import Output
from tests.data import OUTPUTS
from tests.params import PARAMS

KINDS = {"return_5": "return", "barrier_20": "barrier", "position": "position", "spread": "volatility"}
TARGETS: dict[str, Output] = {name: OUTPUTS[kind] for name, kind in KINDS.items()}
WEIGHTS = "models.ensembles.voting.hyperparameters.weights"


def make_params(weights: object, **changes: object) -> dict:
    """Return the repository's params with these weights, and other `<family>.<model>` blocks; None removes one."""
    params = copy.deepcopy({name: PARAMS[name] for name in ("seed", "trees", "nets", "datasets", "models", "trading")})
    params["models"]["ensembles"]["voting"]["hyperparameters"]["weights"] = weights
    for name, block in changes.items():
        family, _, model = name.partition("__")
        if block is None:
            del params["models"][family][model]
        else:
            params["models"][family][model] = block
    return params


def make_block(target: str = "return_5", dataset: str = "klines", **keys: object) -> dict:
    return {"dataset": dataset, "target": target, "plugin": "lightgbm", "hyperparameters": {}, **keys}


def resolve(params: dict) -> voting.Ensemble:
    return resolve_weights(params, "voting", TARGETS)


def test_a_family_shares_its_weight_equally_in_the_order_of_params():
    ensemble = resolve(make_params({"trees": 0.6, "nets": 0.4}))
    assert list(ensemble.weights) == ["lightgbm", "xgboost", "lightgbm_barrier", "xgboost_barrier", "lstm", "cnn"]
    assert list(ensemble.weights.values()) == pytest.approx([0.15] * 4 + [0.2] * 2)
    assert [member.window for member in ensemble.members] == [1, 1, 1, 1, 8, 9]
    assert [member.target for member in ensemble.members[3:5]] == ["barrier_20", "return_5"]
    assert ensemble.left_out == ()


def test_a_model_has_a_weight_of_its_own_and_weights_have_sum_one():
    ensemble = resolve(make_params({"agents.marl": 3, "nets": 1.0, "trees": 0}))
    assert ensemble.weights == {"marl": 0.75, "lstm": 0.125, "cnn": 0.125}  # a weight of 0 leaves the trees out


def test_a_family_without_an_enabled_model_is_left_out_and_the_rest_is_normalized():
    ensemble = resolve(make_params({"trees.xgboost": 0.3, "nets": 0.4}, nets__lstm=None, nets__cnn=None))
    assert ensemble.weights == {"xgboost": 1.0}
    assert ensemble.left_out == ("nets has no enabled model of klines with a score",)
    assert resolve(make_params({"trees": 0.6, "nets": 0.4}, nets__lstm=None)).weights["cnn"] == pytest.approx(0.4)


def test_models_of_other_datasets_and_without_a_score_are_left_out_of_a_family():
    params = make_params({"nets": 1}, nets__other=make_block(dataset="ticks"), nets__spread=make_block("spread"))
    assert list(resolve(params).weights) == ["lstm", "cnn"]


def test_a_window_that_a_family_shares_is_that_of_its_members():
    params = make_params({"trees": 1})
    params["trees"]["window"] = 5
    assert {member.window for member in resolve(params).members} == {5}


def test_the_window_of_a_composite_is_that_of_its_primary_and_of_a_tuned_model_its_own():
    primary = {"family": "nets", "plugin": "recurrent", "hyperparameters": {"window": 7}}
    composite = make_block() | {"plugin": "meta_label", "hyperparameters": {"primary": primary}}
    searched = make_block() | {"plugin": "nets.recurrent", "hyperparameters": {"window": 6}}
    params = make_params({"composites": 1, "tuned": 1}, composites__meta=composite, tuned__net=searched)
    assert [member.window for member in resolve(params).members] == [7, 6]
    primary["hyperparameters"]["window"] = {"low": 2, "high": 9}
    params["models"]["composites"], searched["plugin"] = {}, "composites.meta_label"
    searched["hyperparameters"] = {"primary": primary}
    with pytest.raises(ParamsError, match="models.tuned.net.hyperparameters.window is searched"):
        resolve(params)


@pytest.mark.parametrize(
    ("weights", "changes", "message"),
    [
        (
            {"tree": 1},
            {},
            "has 'tree'; allowed are the families and enabled models trees, nets, agents, pretrained, ",
        ),
        ({"nets.gru": 1}, {}, "has 'nets.gru'; allowed are the families and enabled models trees, "),
        ({"ensembles": 1}, {}, "has 'ensembles'; allowed are"),
        ({"trees.lightgbm": 0.1, "trees": 0.9}, {}, "names lightgbm twice, the second time by trees; name it once"),
        (
            {"trees.t": 1},
            {"trees__t": make_block(dataset="ticks")},
            "has trees.t, which is of dataset ticks, not of klines",
        ),
        ({"trees.t": 1}, {"trees__t": make_block("spread")}, "has trees.t, which is not traded: a prediction of"),
    ],
)
def test_a_wrong_name_is_one_line(weights, changes, message):
    with pytest.raises(ParamsError) as refused:
        resolve(make_params(weights, **changes))
    assert str(refused.value).startswith(f"params.yaml: {WEIGHTS} {message}")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"trees": -0.1}, ".trees is -0.1; it must be at least 0"),
        ({"trees": "0.5"}, ".trees is '0.5'; it must be a number"),
        ({}, " is {}; it must be a section of at least 1"),
        (0.5, " is 0.5; it must be a section of keys and values"),
        (
            {"trees": 0.0},
            ": none of trees has both a weight above 0 and an enabled model of klines with a score; enable",
        ),
    ],
)
def test_a_wrong_weight_is_one_line(weights, message):
    with pytest.raises(ParamsError) as refused:
        resolve(make_params(weights))
    assert str(refused.value).startswith(f"params.yaml: {WEIGHTS}{message}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"plugin": "bagging"},
            "unknown plugin 'bagging' of family 'ensembles'; there are voting, stacking, best_member",
        ),
        ({"target": "return_5"}, "its target return_5 asks for value; choose one of kind position"),
        ({"columns": ["rsi_14"]}, "has columns, which is of models that are fitted; remove it"),
    ],
)
def test_a_wrong_block_is_one_line(changes, message):
    params = make_params({"trees": 1})
    params["models"]["ensembles"]["voting"] |= changes
    with pytest.raises(ParamsError, match=message):
        resolve(params)


def test_an_ensemble_in_a_section_of_fitted_models_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump({**PARAMS, "holdout": {"models": ["ensembles.voting"]}}))
    for stage, section in ((holdout, "holdout.models"), (quantize, "quantize.models")):
        with pytest.raises(ParamsError) as refused:
            stage.main("ensembles.voting")
        assert str(refused.value) == (
            f"params.yaml: {section} has ensembles.voting, an ensemble: it has neither a fit nor a graph of its own; "
            "name its members"
        )


def test_rows_of_a_segment_are_counted_from_its_first():
    assert count_rows_so_far(np.int32([3, 3, 5, 5, 5, 3])).tolist() == [1, 2, 1, 2, 3, 1]
    assert count_rows_so_far(np.empty(0, np.int32)).tolist() == []


def test_the_sum_is_made_from_left_to_right_and_a_window_that_is_not_full_counts_zero():
    rng = np.random.default_rng(1)
    targets, is_full, weights = rng.uniform(-1, 1, (50, 7)), rng.random((50, 7)) < 0.7, rng.dirichlet(np.ones(7))
    expected = []
    for target, full in zip(targets.tolist(), is_full.tolist(), strict=True):
        total = 0.0
        for member in range(7):
            total += float(weights[member]) * (target[member] if full[member] else 0.0)
        expected.append(min(max(total, -1.0), 1.0))
    assert combine_targets(np.where(is_full, targets, np.nan), is_full, weights).tolist() == expected
    assert combine_targets(np.array([[1.0, 1.0]]), np.ones((1, 2), bool), np.array([0.75, 0.5])).tolist() == [1.0]


def predict(member: Member, kind: str, scores: dict[int, float], *, score_std: float = np.nan, seed: int = 7):
    """Return the predictions of a member for rows of split 0, in descending order."""
    rows = sorted(scores, reverse=True)
    table = {"seed": seed, "split": 0, "row": np.int32(rows), "score": np.float32([scores[row] for row in rows])}
    return MemberPredictions(member, OUTPUTS[kind].kind, pd.DataFrame(table).assign(score_std=score_std))


def test_three_members_are_combined_as_by_hand():
    """Rows 0 to 3 are bars of AAA, then one is missing; rows 4 to 6 are bars of BBB."""
    tree = predict(
        Member("tree", 0.5, "return_5", 1, None),
        "return",
        {0: 0.25, 1: -0.5, 2: 1.0, 3: 0.125, 4: 0.5, 5: -0.25, 6: 0.75},
        score_std=0.25,  # with full_position_std 2: a score of 0.5 is a full position
    )
    net = predict(
        Member("net", 0.25, "barrier_20", 2, None),
        "barrier",
        {0: 0.5, 1: 0.5, 2: -0.25, 3: 0.0, 4: -0.5, 5: 0.25, 6: -1.0},
        score_std=0.5,
    )
    agent = predict(Member("agent", 0.25, "position", 1, ("AAA",)), "position", {0: -1.0, 1: 1.0, 2: 0.5, 3: -0.5})
    common = find_common_rows(
        [tree, net, agent],
        symbol=np.array(["AAA"] * 4 + ["BBB"] * 3),
        rows_so_far=count_rows_so_far(np.int32([0, 0, 0, 0, 1, 1, 1])),
        full_position_std=2.0,
    )
    assert common.keys.to_dict("list") == {"seed": [7] * 7, "split": [0] * 7, "row": [0, 1, 2, 3, 4, 5, 6]}
    assert common.combine([0.5, 0.25, 0.25]).tolist() == [
        0.5 * 0.5 + 0.25 * -1.0,  # the net's window of 2 bars is not full at the first row of a segment
        0.5 * -1.0 + 0.25 * 0.5 + 0.25 * 1.0,
        0.5 * 1.0 + 0.25 * -0.25 + 0.25 * 0.5,
        0.5 * 0.25 + 0.25 * 0.0 + 0.25 * -0.5,
        0.5 * 1.0,  # the agent does not trade BBB; the net's window begins anew
        0.5 * -0.5 + 0.25 * 0.25,
        0.5 * 1.0 + 0.25 * -1.0,
    ]


def test_a_row_that_one_member_of_its_symbol_does_not_predict_is_left_out():
    everywhere, never_varies = Member("a", 0.5, "return_5", 1, None), Member("b", 0.5, "return_5", 1, None)
    common = find_common_rows(
        [
            predict(everywhere, "return", {0: 0.5, 1: 0.5, 2: 0.5}, score_std=1.0),
            predict(never_varies, "return", {0: 0.5, 2: 0.5}, score_std=np.nan),  # its target is 0
        ],
        symbol=np.array(["AAA"] * 3),
        rows_so_far=np.arange(1, 4),
        full_position_std=1.0,
    )
    assert common.keys["row"].tolist() == [0, 2]
    assert common.combine([0.5, 0.5]).tolist() == [0.25, 0.25]
