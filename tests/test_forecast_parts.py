import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import (
    accuracy_score,
    brier_score_loss,
    log_loss,
    precision_recall_fscore_support,
    precision_score,
    recall_score,
)

from pipeline.evaluation import forecast, forecast_gains, forecast_parts
from pipeline.evaluation.forecast_report import ForecastSettings, describe_forecasts
from tests.data import OUTPUTS
from tests.test_evaluate import known, predict

HOUR = forecast_parts.HOUR_MS


def test_the_tiers_of_scores_have_the_precision_and_recall_of_scikit_learn():
    rng = np.random.default_rng(0)
    score, side = rng.normal(size=400), rng.choice([-1, 0, 1], size=400)
    tiers = forecast_parts.measure_tiers(score, side, quantiles=[0.5, 0.9])
    assert [tier["rows"] for tier in tiers] == [200, 160, 40]
    top = np.abs(score) >= np.quantile(np.abs(score), 0.9)
    up, predicted = side == 1, top & (score > 0)
    assert tiers[2]["precision_up"] == pytest.approx(precision_score(up, predicted))
    assert tiers[2]["recall_up"] == pytest.approx(recall_score(up, predicted))
    assert sum(tier["recall_down"] for tier in tiers) == pytest.approx(recall_score(side == -1, score < 0))
    assert tiers[2]["hit_rate"] == pytest.approx(np.mean((np.sign(score) == side)[top & (side != 0)]))


def test_a_tier_without_a_prediction_says_so():
    lowest, highest = forecast_parts.measure_tiers(np.array([0.1, 0.9]), np.array([1, 0]), quantiles=[0.5])
    assert lowest["undefined"] == {"precision_down": "the tier never predicts down", "recall_down": "y never goes down"}
    assert highest["undefined"]["hit_rate"] == "no row of the tier has a direction"
    assert np.isnan(highest["hit_rate"])


def test_sessions_overlap_pass_midnight_and_add_up():
    sessions = {"asia": [0.0, 9.0], "europe": [7.0, 16.0], "late_us": [22.0, 2.0]}
    named = forecast_parts.name_sessions(np.array([1, 5, 8, 12, 18, 23]) * HOUR, sessions)
    assert named.tolist() == ["asia_and_late_us", "asia", "asia_and_europe", "europe", "off_hours", "late_us"]
    session = np.array(["a", "a", "b", "b", "b"])
    score, side = np.array([1.0, -1.0, 1.0, 1.0, 1.0]), np.array([1, 1, 0, 1, -1])
    found = forecast_parts.measure_sessions(session, score, side)
    assert {name: (entry["rows"], entry["hit_rate"]) for name, entry in found.items()} == {"a": (2, 0.5), "b": (3, 0.5)}
    assert found["a"]["error"] == pytest.approx(np.sqrt(0.25 / 2))


def test_the_signals_of_classes_are_counted_by_hand():
    codes = np.array([2, 1, 0, 0, 1, 2])
    likeliest = np.array([2, 2, 0, 2, 1, 1])  # right, neutral, right, wrong side; then two rows without a signal
    metrics = forecast_parts.measure_signals(codes, np.eye(3)[likeliest], OUTPUTS["barrier"])
    assert metrics["signal_rate"] == pytest.approx(4 / 6)
    assert metrics["predicted_trade_win_rate"] == pytest.approx(2 / 4)
    assert metrics["decisive_rate"] == pytest.approx(3 / 4)
    assert metrics["directional_accuracy"] == pytest.approx(2 / 3)
    never = forecast_parts.measure_signals(codes, np.eye(3)[[1] * 6], OUTPUTS["barrier"])
    assert never["undefined"]["decisive_rate"] == "no row is predicted up or down"


def make_forecasts(rows=1500, *, skill, seed=0):
    rng = np.random.default_rng(seed)
    predictable = rng.normal(size=rows)
    y = skill * predictable + rng.normal(size=rows)
    return y, (skill * predictable)[:, None], np.zeros((rows, 1)) + 0.01


def measure(y, model, baseline, *, kind="return"):
    settings = {"output": OUTPUTS[kind], "confidence": 0.95, "resamples": 400, "seed": 1}
    return forecast_gains.measure_gains(y, model, {"other": baseline}, np.arange(len(y)), **settings)["other"]


def test_a_skilled_model_beats_the_baseline_and_an_equal_one_does_not():
    y, model, constant = make_forecasts(skill=0.5)
    gains = measure(y, model, constant)
    assert gains["loss"]["value"] == pytest.approx(1 - np.mean((y - model[:, 0]) ** 2) / np.mean((y - 0.01) ** 2))
    assert gains["loss"]["beats"] is gains["hit_rate"]["beats"] is True
    assert gains["hit_rate"]["value"] == pytest.approx(np.mean(np.sign(model[:, 0]) == np.sign(y)) - np.mean(y > 0))
    assert gains["ic"]["reason"] == "y, the model or the baseline never varies"
    same = measure(y, model, model)
    assert same["loss"] == {"value": 0.0, "low": 0.0, "high": 0.0, "beats": None, "reason": None}
    reverse = measure(y, -model, model)
    assert reverse["ic"]["beats"] is False
    assert reverse["ic"]["value"] == pytest.approx(-2 * np.corrcoef(y, model[:, 0])[0, 1])


def test_the_interval_of_a_gain_is_as_wide_as_independent_worlds_say():
    worlds = [make_forecasts(skill=0.3, seed=seed) for seed in range(1, 60)]
    losses = [1 - np.mean((y - model[:, 0]) ** 2) / np.mean((y - 0.01) ** 2) for y, model, _ in worlds]
    gain = measure(*worlds[0])["loss"]
    assert gain["high"] - gain["low"] == pytest.approx(2 * 1.96 * np.std(losses, ddof=1), rel=0.35)


def test_a_position_has_no_loss_and_classes_are_measured_by_their_brier_score():
    y, model, constant = make_forecasts(rows=100, skill=1.0)
    gains = measure(y, model, constant, kind="position")
    assert gains["loss"]["reason"] == "a position forecasts no value"
    codes, sure = np.array([0, 2, 1, 0] * 5), np.eye(3)[[0, 2, 1, 0] * 5]
    even = np.full((20, 3), 1 / 3)
    assert measure(codes, sure, even, kind="barrier")["loss"]["value"] == pytest.approx(1.0)


def test_the_forecasts_of_a_path_are_described_by_what_applies_to_their_target():
    settings = ForecastSettings(
        calibration_bins=2,
        tiers=[0.5],
        sessions={"asia": [0.0, 9.0]},
        confidence=0.9,
        resamples=100,
        interval_blocks=2,
        adaptive_gamma=0.01,
        adaptive_window=100,
    )
    data = known(np.random.default_rng(0).normal(size=40), [0.0] * 40)
    table = predict(0.1 * data.y, data)
    found = describe_forecasts(table, {"constant": table}, data, settings=settings, seed=0)
    assert found["calibration"]["slope"] == pytest.approx(10.0, rel=1e-5)
    assert [tier["hit_rate"] for tier in found["tiers"]] == [1.0, 1.0]
    assert list(found["sessions"]) == ["asia"]
    assert found["signals"] is None
    assert found["gains"]["constant"]["loss"]["value"] == 0.0
    unscored = pd.DataFrame(table).drop(columns="score")
    assert describe_forecasts(unscored, {}, data, settings=settings, seed=0)["tiers"] is None


def test_the_metrics_of_classes_are_those_of_scikit_learn():
    rng = np.random.default_rng(3)
    probabilities, codes = rng.dirichlet([1.0, 1.0, 1.0], size=500), rng.integers(0, 3, size=500)
    names = ("down", "flat", "up")
    metrics, reasons = forecast.measure_classification(codes, probabilities, names=names)
    precision, recall, f1, _ = precision_recall_fscore_support(codes, probabilities.argmax(axis=1))
    for values, metric in ((precision, "precision"), (recall, "recall"), (f1, "f1")):
        assert [metrics[f"{metric}_{name}"] for name in names] == pytest.approx(values)
    assert metrics["brier"] == pytest.approx(brier_score_loss(codes, probabilities))
    assert metrics["log_loss"] == pytest.approx(log_loss(codes, probabilities))
    assert metrics["accuracy"] == accuracy_score(codes, probabilities.argmax(axis=1))
    assert reasons == {}
