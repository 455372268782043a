"""Permutation importance of every family, and what only a family can measure of its fitted models."""

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator
from sklearn.inspection import permutation_importance

from pipeline.models import permutation_importance as own
from pipeline.models.base import Signature
from pipeline.models.diagnostics import diagnose_model
from pipeline.models.trees.engine.forest import measure_leaf_depths
from pipeline.models.trees.engine.forest_graph import LEAF, Tree
from tests.agents import build_agent
from tests.data import COLUMNS, OUTPUTS, TEST, plant_samples
from tests.params import build_model
from tests.test_trees import PLUGINS, fit_model


class Fitted(BaseEstimator):
    """A fitted model as scikit-learn sees one."""

    def __init__(self, model):
        self.model = model

    def fit(self, x, y):
        return self

    def predict(self, x):
        return self.model.predict(x)[:, 0]


@pytest.fixture(scope="module")
def tree():
    samples = plant_samples("return", seed=3)
    return samples, fit_model("lightgbm", samples, "return")


def test_importances_are_those_of_scikit_learn(tree):
    samples, model = tree
    test = TEST[:600]
    found = own.measure_permutation_importance(model, samples, test, 0, rows=600, repeats=20)
    x, y = model.inputs(samples, test), samples.y[test]
    known = permutation_importance(
        Fitted(model), x, y, scoring="neg_mean_squared_error", n_repeats=20, random_state=1, n_jobs=1
    )
    error = np.hypot(known.importances_std, known.importances_std) / np.sqrt(20)
    assert found["loss"] == "squared_error"
    assert found["loss_unpermuted"] == pytest.approx(np.mean((y - model.predict(x)[:, 0]) ** 2))
    assert (np.abs(list(found["importances"].values()) - known.importances_mean) <= 4 * error + 1e-12).all()
    assert max(found["importances"], key=found["importances"].__getitem__) in ("column_0", "column_1")
    assert all(error >= 0 for error in found["errors"].values())


def test_the_same_seed_gives_the_same_importances(tree):
    samples, model = tree
    first, second, other = (
        own.measure_permutation_importance(model, samples, TEST, seed, rows=100, repeats=1) for seed in (1, 1, 2)
    )
    assert first == second != other
    assert first["rows"] == 80  # 40 stretches of 2


def test_stretches_are_consecutive_rows_evenly_spread_over_the_test_rows():
    chosen = own.select_stretches(np.arange(1000, 5000), count=400)
    assert len(chosen) == 400
    assert chosen[:11].tolist() == [*range(1000, 1010), 1100]
    assert own.select_stretches(np.arange(5), count=10).tolist() == [0, 1, 2, 3, 4]


def test_losses_are_those_that_each_kind_of_prediction_is_judged_by():
    y = np.array([0.0, 2.0])
    losses, name = own.measure_losses(y, np.array([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]]), OUTPUTS["barrier"])
    assert losses == pytest.approx(-np.log([0.5, 0.6]))
    assert name == "log_loss"
    assert own.measure_losses(y, np.array([[1.0], [-0.5]]), OUTPUTS["position"])[0].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("name", ["lstm", "cnn", "d4pg", "marl"])
def test_every_column_of_an_input_has_an_importance_whatever_the_family(name):
    kind = {"cnn": "barrier", "lstm": "return"}.get(name, "position")
    samples = plant_samples(kind, seed=1)
    model = build_model(name, Signature(columns=samples.columns, output=OUTPUTS[kind]), seed=1)  # untrained
    found = own.measure_permutation_importance(model, samples, TEST, 0, rows=80, repeats=1)
    assert list(found["importances"]) == list(model.input_columns)
    assert np.isfinite(list(found["importances"].values())).all()


@PLUGINS
@pytest.mark.parametrize("kind", ["return", "barrier"])
def test_shap_values_add_up_to_the_differences_of_margins(plugin, kind):
    samples = plant_samples(kind, seed=2)
    model = fit_model(plugin, samples, kind)
    x = model.inputs(samples, TEST[:20])
    values = model.explain_margins(x)
    margins = model.predict_margins(x)
    assert values.shape == (20, margins.shape[1], COLUMNS)
    difference = values.sum(axis=2) - margins
    np.testing.assert_allclose(difference, np.broadcast_to(difference[:1], difference.shape), atol=2e-5)
    described = model.fit_report["trees"]
    assert described["count"] == len(model.trees)
    assert list(described["mean_absolute_shap"]) == list(samples.columns)
    depths = [depth for tree in model.trees for depth in measure_leaf_depths(tree)]
    assert described["mean_leaf_depth"] == pytest.approx(np.mean(depths))


def test_the_depths_of_leaves_are_counted_by_hand():
    nodes = {"feature": [0, LEAF, 1, LEAF, LEAF], "left": [1, 0, 3, 0, 0], "right": [2, 0, 4, 0, 0]}
    tree = Tree(threshold=np.zeros(5), **{name: np.array(values) for name, values in nodes.items()})
    assert measure_leaf_depths(tree).tolist() == [1, 2, 2]
    assert measure_leaf_depths(Tree(np.array([LEAF]), np.zeros(1), np.zeros(1, int), np.zeros(1, int))).tolist() == [0]


def test_the_entropy_of_attention_is_that_of_its_weights():
    samples = plant_samples("return", seed=1)
    signature = Signature(columns=samples.columns, output=OUTPUTS["return"])
    model = build_model("transformer", signature, seed=1)
    model.net.eval()
    inputs = model.inputs(samples, TEST[:5])
    found = diagnose_model(model, inputs, family="nets")
    with torch.no_grad():
        weights = model.net.body.attend(model.net.standardize(torch.from_numpy(inputs))).numpy()  # (5, heads, 1, T)
    assert weights.sum(axis=-1) == pytest.approx(np.ones(weights.shape[:-1]), rel=1e-5)
    assert found["attention_entropy"] == pytest.approx(-np.mean((weights * np.log(weights)).sum(axis=-1)), rel=1e-5)
    without = diagnose_model(build_model("lstm", signature, seed=1), inputs, family="nets")
    assert without["attention_entropy"] is None
    assert without["reason"] == "recurrent: attention is false, so there are no attention weights; set attention: true"
    assert diagnose_model(model, inputs, family="trees") == {}


def test_a_critic_of_even_atoms_has_the_entropy_of_their_number():
    samples = plant_samples("position", seed=1)
    agent = build_agent("d4pg", samples)
    inputs = agent.inputs(samples, TEST[:50])
    with torch.no_grad():
        agent.critic.body[-1].weight.zero_()
        agent.critic.body[-1].bias.zero_()
        agent.policy.body[-1].weight.mul_(1e6)  # an untrained policy hardly moves
    found = diagnose_model(agent, inputs, family="agents")
    assert found["critic_entropy"] == pytest.approx(np.log(agent.n_atoms))
    assert found["action_dispersion"] == pytest.approx(agent.predict(inputs).std(dtype=np.float64), rel=1e-5)
    assert found["policy_entropy"] is None
    assert "deterministic" in found["reason"]
