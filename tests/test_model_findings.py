"""Measurements of fitted models beside their bands, and the figures that `dvc metrics show` prints."""

import numpy as np
import pytest
from dvc.compare import show_metrics
from scipy.stats import spearmanr

from pipeline.evaluation import headline, model_findings
from tests.params import PARAMS

BANDS = model_findings.ModelBands(**PARAMS["model_bands"])
NOTHING = {"permutation_importance": None, "diagnosis": None}


def describe(*, fits=(), history=None, importances=None, audit=NOTHING):
    return model_findings.describe_model(fits, history or {}, importances, audit, BANDS)


def test_the_gini_coefficient_is_the_mean_difference_over_twice_the_mean():
    values = np.array([0.0, 1.0, 2.0, 5.0])
    differences = np.abs(values[:, None] - values).mean()
    assert model_findings.measure_gini(values) == (pytest.approx(differences / (2 * values.mean())), None)
    assert model_findings.measure_gini([-1.0, 0.0])[1] == "no column has a positive importance"


def test_rank_agreement_is_the_mean_spearman_correlation_of_all_pairs():
    fits = [[3.0, 1.0, 2.0, 0.0], [2.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0]]
    pairs = [spearmanr(fits[i], fits[j]).statistic for i, j in ((0, 1), (0, 2), (1, 2))]
    assert model_findings.measure_rank_agreement(fits) == (pytest.approx(np.mean(pairs)), None)
    assert "fewer than two fits" in model_findings.measure_rank_agreement([[1.0, 1.0], [1.0, 2.0]])[1]


def test_a_tree_has_its_own_measurements_and_its_importances_are_its_own():
    fits = [
        {"fit_report": {"trees": {"mean_leaf_depth": depth, "mean_absolute_shap": {"a": 1.0, "b": 2.0 * depth}}}}
        for depth in (4.0, 5.0)
    ]
    audit = NOTHING | {"permutation_importance": {"importances": {"a": 1.0, "b": 1.0}}}
    bands = describe(fits=fits, importances={"gain": {"a": 0.0, "b": 1.0}}, audit=audit)["bands"]
    assert list(bands) == ["importance_gini", "shap_stability", "leaf_depth"]
    assert bands["importance_gini"]["value"] == 0.5
    assert bands["shap_stability"] == {
        "value": pytest.approx(1.0),
        "low": 0.9,
        "high": 1.0,
        "is_within": True,
        "reason": None,
    }
    assert (bands["leaf_depth"]["value"], bands["leaf_depth"]["is_within"]) == (4.5, False)


def test_a_net_has_the_median_of_its_gradient_norms_and_its_attention_or_why_it_has_none():
    history = {"0": [{"grad_norm": 0.2}, {"grad_norm": 0.4}], "1": [{"grad_norm": 20.0}]}
    audit = NOTHING | {"diagnosis": {"attention_entropy": None, "reason": "the net has no attention"}}
    bands = describe(history=history, audit=audit)["bands"]
    assert bands["gradient_norm"]["value"] == 0.4
    assert bands["attention_entropy"]["is_within"] is None
    assert bands["attention_entropy"]["reason"] == "the net has no attention"


def test_an_agent_has_the_variation_of_its_value_and_the_entropy_of_its_critic():
    values = [9.0, 9.0, 1.0, 2.0]
    audit = NOTHING | {
        "diagnosis": {
            "critic_entropy": 2.0,
            "action_dispersion": 0.3,
            "policy_entropy": None,
            "reason": "deterministic",
        }
    }
    fits = [{"own_forecasts": {"var_violation_rate": rate}} for rate in (0.02, 0.06, 0.07)]
    found = describe(fits=fits, history={"0": [{"value": value} for value in values]}, audit=audit)
    assert found["measurements"] == {"critic_entropy": 2.0, "action_dispersion": 0.3}
    assert found["bands"]["value_variation"]["value"] == pytest.approx(np.std([1.0, 2.0], ddof=1) / 1.5)
    assert found["bands"]["var_violation_rate"]["is_within"] is False
    assert found["bands"]["policy_entropy"]["reason"] == "deterministic"
    assert "attention_entropy" not in found["bands"]


def test_a_model_that_is_not_fitted_has_no_findings():
    assert describe() == {"bands": {}, "measurements": {}}


def test_the_metrics_of_all_models_fit_120_characters(capsys):
    longest = max((name for models in PARAMS["models"].values() for name in models), key=len)
    report = dict.fromkeys(headline.OF_MODELS, -123.456789) | {"ic": -0.123456, "reason": None, "hit_rate": 0.54321}
    compared = {"best_sharpe_daily": 20.12345, "best_sharpe": 22.12345, "best_dsr": 0.99999, "pbo": 0.00077}
    files = {
        str(headline.name_metrics_file(longest)): headline.select_model_figures(report),
        str(headline.name_metrics_file("compare_klines")): headline.select_comparison_figures(compared),
    }
    show_metrics({"": {"data": {file: {"data": figures} for file, figures in files.items()}}}, round_digits=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert len(lines[0].split()) <= 13
    assert max(map(len, lines)) <= 120
    assert "reason" not in lines[0]
