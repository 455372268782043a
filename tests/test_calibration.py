import numpy as np
import pytest
import statsmodels.api as sm
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from pipeline.evaluation import calibration
from tests.data import OUTPUTS


def draw_events(rows=2000, *, slope=0.6, intercept=0.3, seed=0):
    """Probabilities of events that are overconfident and too low."""
    rng = np.random.default_rng(seed)
    stated = rng.uniform(0.05, 0.95, size=rows)
    true = 1 / (1 + np.exp(-(intercept + slope * np.log(stated / (1 - stated)))))
    return stated, rng.random(rows) < true


def test_slope_and_intercept_are_those_of_an_unpenalized_logistic_regression():
    stated, happened = draw_events()
    x = np.log(stated / (1 - stated))[:, None]
    fitted = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(x, happened)
    slope, intercept, reason = calibration.recalibrate(stated, happened)
    assert slope == pytest.approx(fitted.coef_[0, 0], abs=1e-5)
    assert intercept == pytest.approx(fitted.intercept_[0], abs=1e-5)
    assert reason is None


def test_brier_and_calibration_error_are_those_of_scikit_learn():
    stated, happened = draw_events()
    metrics, reasons = calibration.measure_probability(stated, happened, bins=10)
    assert metrics["brier"] == pytest.approx(brier_score_loss(happened, stated))
    share, mean = calibration_curve(happened, stated, n_bins=10, strategy="quantile")  # 200 rows a bin
    assert metrics["ece"] == pytest.approx(np.abs(share - mean).mean(), abs=1e-12)
    assert reasons == {}


@pytest.mark.parametrize(("stated", "share"), [(0.9, 0.5), (0.95, 0.55), (0.99, 0.6)])
def test_the_slope_of_a_probability_that_is_far_too_sure_is_that_of_scikit_learn(stated, share):
    right = np.arange(400) % 200 < share * 200
    probability = np.repeat([1.0 - stated, stated], 200)
    happened = right == (probability > 0.5)
    metrics, reasons = calibration.measure_probability(probability, happened, bins=2)
    logits = np.log(probability / (1.0 - probability))[:, None]
    fitted = LogisticRegression(C=np.inf, tol=1e-10).fit(logits, happened)
    assert metrics["slope"] == pytest.approx(fitted.coef_[0, 0], abs=1e-5)
    assert reasons == {}


@pytest.mark.parametrize(
    ("stated", "happened", "why"),
    [
        ([0.2, 0.8, 0.6], [1, 1, 1], "always happens"),
        ([0.2, 0.8, 0.6], [0, 0, 0], "never happens"),
        ([0.5, 0.5, 0.5], [0, 1, 1], "never varies"),
        ([0.2, 0.8, 0.6], [0, 1, 1], "separates the events"),
    ],
)
def test_a_slope_that_is_not_defined_is_nan_with_its_reason(stated, happened, why):
    metrics, reasons = calibration.measure_probability(np.array(stated), np.array(happened, bool), bins=2)
    assert np.isnan(metrics["slope"])
    assert why in reasons["slope"]


def test_the_calibration_of_classes_has_each_class_and_the_direction():
    output = OUTPUTS["barrier"]
    rng = np.random.default_rng(1)
    probabilities = rng.dirichlet([2.0, 2.0, 2.0], size=600)
    codes = np.array([rng.choice(3, p=row) for row in probabilities])
    instant = np.arange(600)
    metrics, _ = calibration.measure_calibration(codes, probabilities, instant, output=output, bins=5)
    by_class = [calibration.measure_ece(probabilities[:, i], codes == i, bins=5) for i in range(3)]
    assert metrics["ece"] == pytest.approx(np.mean(by_class))
    decisive = codes != 1
    up = probabilities[decisive, 2] / (1 - probabilities[decisive, 1])
    assert metrics["brier_direction"] == pytest.approx(np.mean((up - (codes[decisive] == 2)) ** 2))
    assert 0.7 < metrics["slope_direction"] < 1.3  # it is calibrated


def test_a_number_is_regressed_on_its_forecast_with_errors_of_dependent_rows():
    rng = np.random.default_rng(2)
    forecast = np.convolve(rng.normal(size=3004), np.ones(5), "valid")
    y = 0.1 + 0.5 * forecast + np.convolve(rng.normal(size=3004), np.ones(5), "valid")
    metrics, reasons = calibration.regress_on_forecast(y, forecast, np.arange(3000))
    robust = sm.OLS(y, sm.add_constant(forecast)).fit(cov_type="HAC", cov_kwds={"maxlags": 10})
    assert [metrics["intercept"], metrics["slope"]] == pytest.approx(robust.params)
    assert [metrics["intercept_error"], metrics["slope_error"]] == pytest.approx(robust.bse, rel=0.15)
    assert metrics["bias_share"] == pytest.approx((forecast - y).mean() / y.std())
    assert reasons == {}


def test_a_forecast_that_never_varies_has_no_slope_and_a_position_no_calibration():
    metrics, reasons = calibration.regress_on_forecast(np.array([1.0, 2.0]), np.array([0.5, 0.5]), np.arange(2))
    assert np.isnan(metrics["slope"])
    assert reasons["slope"] == "the forecast never varies"
    assert metrics["bias_share"] == pytest.approx(-2.0)
    y = np.array([1.0, -1.0])
    metrics, reasons = calibration.measure_calibration(y, y[:, None], np.arange(2), output=OUTPUTS["position"], bins=2)
    assert np.isnan(metrics["slope"])
    assert reasons == {"slope": "a position forecasts no value"}


def test_quantiles_are_calibrated_where_their_coverage_is_their_level():
    from pipeline.targets import Output

    output = Output(kind="quantiles", names=("q25", "q75"), levels=(0.25, 0.75))
    y = np.arange(8.0)
    quantiles = np.column_stack([y * 0 + 1.0, y * 0 + 7.0 + np.arange(8) * 1e-3])  # 2 of 8 below, all below
    metrics, _ = calibration.measure_calibration(y, quantiles, np.arange(8), output=output, bins=2)
    assert metrics["ece"] == pytest.approx((0.0 + 0.25) / 2)
