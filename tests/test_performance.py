"""The Sharpe family and the forecast metrics, worked by hand or against scipy and scikit-learn."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from pipeline.evaluation import forecast, performance

HAND = np.array([0.10, -0.05, 0.0, 0.20, -0.10])  # equity 1.1, 1.045, 1.045, 1.254, 1.1286
NAMES = ("down", "flat", "up")


@pytest.fixture
def returns() -> np.ndarray:
    return np.random.default_rng(3).normal(1e-4, 1e-3, 500)


def test_sharpe_is_mean_over_sample_deviation() -> None:
    assert performance.sharpe(np.array([0.01, 0.03])) == pytest.approx(0.02 / np.sqrt(0.0002))  # deviations ±0.01


def test_sharpe_is_the_t_statistic_over_the_root_of_n(returns: np.ndarray) -> None:
    assert performance.sharpe(returns) == pytest.approx(stats.ttest_1samp(returns, 0).statistic / np.sqrt(len(returns)))


def test_sharpe_annualizes_by_the_root_of_the_bars_per_year(returns: np.ndarray) -> None:
    assert performance.sharpe(returns, bars_per_year=252) == pytest.approx(performance.sharpe(returns) * np.sqrt(252))
    assert performance.sortino(returns, bars_per_year=252) == pytest.approx(performance.sortino(returns) * np.sqrt(252))


def test_sharpe_of_a_matrix_is_one_value_for_each_strategy(returns: np.ndarray) -> None:
    table = returns.reshape(100, 5)
    np.testing.assert_allclose(
        performance.sharpe(table), [performance.sharpe(column) for column in table.T], rtol=1e-12
    )


def test_sharpe_of_returns_that_never_vary_is_nan() -> None:
    assert np.isnan(performance.sharpe(np.full(7, 0.1)))  # numpy's deviation of these is 1.5e-17, not 0
    mixed = performance.sharpe(np.column_stack([np.full(7, 0.1), np.arange(7.0)]))
    assert np.isnan(mixed[0]) and np.isfinite(mixed[1])
    assert np.isnan(performance.sharpe(np.array([0.1])))


def test_sortino_divides_by_the_downside_over_all_bars() -> None:
    assert performance.sortino(HAND) == pytest.approx(0.03 / np.sqrt((0.05**2 + 0.10**2) / 5))


def test_max_drawdown_is_the_largest_fall_from_a_peak() -> None:
    assert performance.max_drawdown(HAND) == pytest.approx(1 - 1.1286 / 1.254)


def test_max_drawdown_counts_a_loss_from_the_start() -> None:
    assert performance.max_drawdown(np.array([-0.2, 0.1])) == pytest.approx(0.2)


def test_a_bar_that_loses_everything_ends_the_equity() -> None:
    ruin = np.array([0.5, -1.5, 0.5])
    np.testing.assert_array_equal(performance.compound_equity(ruin), [1.5, 0.0, 0.0])
    assert performance.max_drawdown(ruin) == 1.0
    assert performance.calmar(ruin) == -1.0


def test_calmar_is_the_compound_return_a_year_over_the_drawdown() -> None:
    drawdown = 1 - 1.1286 / 1.254
    assert performance.calmar(HAND, bars_per_year=10) == pytest.approx(
        (1.1286**2 - 1) / drawdown
    )  # 5 bars: half a year


def test_profit_factor_win_rate_and_recovery_factor_by_hand() -> None:
    assert performance.profit_factor(HAND) == pytest.approx(0.30 / 0.15)
    assert performance.win_rate(HAND) == pytest.approx(2 / 4)  # the bar without a return does not count
    assert performance.recovery_factor(HAND) == pytest.approx(0.1286 / (1 - 1.1286 / 1.254))


def test_only_losses_give_zero_and_no_nan() -> None:
    losses = np.array([-0.1, -0.2])
    assert performance.profit_factor(losses) == 0.0
    assert performance.win_rate(losses) == 0.0


@pytest.mark.parametrize(
    "name", ["sharpe", "sortino", "calmar", "max_drawdown", "profit_factor", "win_rate", "recovery_factor"]
)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_return_that_is_not_finite_is_refused_by_its_index(name: str, bad: float) -> None:
    with pytest.raises(ValueError, match="index \\(2,\\)"):
        getattr(performance, name)(np.array([0.1, -0.1, bad, 0.2]))


def test_a_matrix_is_refused_where_one_series_is_required() -> None:
    with pytest.raises(ValueError, match="one strategy"):
        performance.sortino(np.zeros((3, 2)))


def test_trading_metrics_are_the_single_metrics() -> None:
    days = performance.DAY_MS * np.arange(5)
    turnover, rest = np.array([1.0, 0.5, 0.0, 0.5, 1.0]), {"bars_per_year": 10, "risk_free_rate": 0.0}
    metrics, reasons = performance.measure_trading(days, HAND, turnover, **rest)
    assert reasons == {}
    assert metrics["sharpe_daily"] == pytest.approx(metrics["sharpe"])
    assert metrics["sharpe"] == performance.sharpe(HAND, bars_per_year=10)
    assert metrics["calmar"] == performance.calmar(HAND, bars_per_year=10)
    assert metrics["net_return"] == pytest.approx(0.1286)
    assert metrics["turnover"] == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("returns", "turnover", "expected"),
    [
        ([], [], {"sharpe": "no bars", "max_drawdown": "no bars", "turnover": "no bars"}),
        ([0.0, 0.0], [0.0, 0.0], {"sharpe": "no trade", "win_rate": "no trade", "calmar": "no trade"}),
        ([0.1], [1.0], {"sharpe": "fewer than 2 bars", "sortino": "no losing bar"}),
        ([0.1, 0.2], [1.0, 1.0], {"sharpe_daily": "fewer than 2 days"}),
        ([0.1, 0.1], [1.0, 1.0], {"sharpe": "the return never varies", "profit_factor": "no losing bar"}),
        ([0.0, 0.0], [1.0, 1.0], {"win_rate": "no bar with a gain or a loss", "recovery_factor": "no drawdown"}),
        ([0.5, -0.1], [1.0, 1.0], {"calmar": "the annualized return is beyond a float's range"}),
    ],
)
def test_each_undefined_trading_metric_has_its_reason(
    returns: list[float], turnover: list[float], expected: dict[str, str]
) -> None:
    metrics, reasons = performance.measure_trading(
        60_000 * np.arange(len(returns)),
        np.array(returns),
        np.array(turnover),
        bars_per_year=525_600,
        risk_free_rate=0.0,
    )
    assert set(reasons) == {name for name, value in metrics.items() if np.isnan(value)}
    assert expected.items() <= reasons.items()


def test_days_compound_their_bars_and_the_daily_sharpe_is_annualized_by_days() -> None:
    time = performance.DAY_MS // 2 * np.arange(6) + 5
    net = np.array([0.1, 0.2, -0.1, 0.05, 0.0, 0.02])
    days, daily = performance.aggregate_days(time, net)
    assert days.tolist() == [0, 1, 2]
    assert daily == pytest.approx([1.1 * 1.2 - 1, 0.9 * 1.05 - 1, 0.02])
    expected = daily.mean() / daily.std(ddof=1) * np.sqrt(365)
    assert performance.measure_daily_sharpe(time, net, bars_per_year=730) == pytest.approx(expected)
    assert performance.aggregate_days(time, np.column_stack([net, net]))[1].shape == (3, 2)


def test_the_risk_free_rate_is_earned_on_bars_without_a_gain_or_a_loss() -> None:
    excess = performance.subtract_risk_free(np.array([0.01, 0.0, -0.02]), risk_free_rate=0.05, bars_per_year=10)
    assert excess == pytest.approx([0.005, 0.0, -0.025])
    time, net = performance.DAY_MS * np.arange(5), HAND
    found, _ = performance.measure_trading(time, net, net, bars_per_year=365, risk_free_rate=0.1)
    own = net - np.where(net != 0, 0.1 / 365, 0)
    assert found["sharpe"] == pytest.approx(own.mean() / own.std(ddof=1) * np.sqrt(365))
    assert found["net_return"] == pytest.approx(0.1286)


def test_regression_metrics_agree_with_scipy_and_scikit_learn(returns: np.ndarray) -> None:
    y = np.round(returns, 3)  # with ties
    prediction = np.round(0.3 * returns + np.random.default_rng(4).normal(0, 1e-3, 500), 3)
    metrics, reasons = forecast.measure_regression(y.astype(np.float32), prediction.astype(np.float32))
    assert reasons == {}
    assert metrics["ic"] == pytest.approx(stats.pearsonr(y, prediction).statistic, abs=1e-6)
    assert metrics["rank_ic"] == pytest.approx(stats.spearmanr(y, prediction).statistic, abs=1e-9)
    assert metrics["r2"] == pytest.approx(sklearn_metrics.r2_score(y, prediction), rel=1e-6)
    assert metrics["mae"] == pytest.approx(sklearn_metrics.mean_absolute_error(y, prediction), rel=1e-6)


def test_directional_accuracy_leaves_out_neutral_targets_and_counts_neutral_predictions_as_wrong() -> None:
    y, prediction = np.array([1.0, -1.0, 0.0, 2.0, 3.0]), np.array([0.1, -0.1, 5.0, -0.1, 0.0])
    assert forecast.measure_regression(y, prediction)[0]["directional_accuracy"] == 2 / 4
    assert forecast.measure_regression(y + 0.5, prediction + 0.5, neutral=0.5)[0]["directional_accuracy"] == 2 / 4


def test_a_constant_prediction_has_no_correlation_and_says_why() -> None:
    metrics, reasons = forecast.measure_regression(np.array([1.0, 2.0, 4.0]), np.full(3, 2.0))
    assert np.isnan(metrics["ic"]) and np.isnan(metrics["rank_ic"])
    assert reasons == {"ic": "the prediction never varies", "rank_ic": "the prediction never varies"}
    assert metrics["mae"] == pytest.approx(1.0)


def test_a_target_that_is_always_zero_leaves_only_the_error() -> None:
    metrics, reasons = forecast.measure_regression(np.zeros(3), np.array([1.0, 2.0, 3.0]))
    assert set(reasons) == {"ic", "rank_ic", "r2", "directional_accuracy"}
    assert metrics["mae"] == 2.0


def test_one_row_has_an_error_and_no_correlation() -> None:
    metrics, reasons = forecast.measure_regression(np.array([1.0]), np.array([0.5]))
    assert metrics["mae"] == 0.5
    assert reasons["ic"] == "fewer than 2 rows"


@pytest.mark.parametrize(("y", "message"), [([1.0, np.nan, 2.0], "row 1"), ([1.0], "same number"), ([], "same number")])
def test_rows_that_cannot_be_scored_are_refused(y: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        forecast.measure_regression(np.array(y), np.zeros(3 if y else 0))


def test_classification_metrics_by_hand() -> None:
    codes = np.array([0, 0, 1, 2, 2])
    probabilities = np.array([[0.8, 0.1, 0.1], [0.1, 0.2, 0.7], [0.2, 0.5, 0.3], [0.0, 0.4, 0.6], [0.3, 0.3, 0.4]])
    metrics, reasons = forecast.measure_classification(codes, probabilities, names=NAMES)  # predicted: 0, 2, 1, 2, 2
    assert reasons == {}
    assert metrics["accuracy"] == pytest.approx(4 / 5)
    assert [metrics[f"precision_{name}"] for name in NAMES] == pytest.approx([1, 1, 2 / 3])
    assert [metrics[f"recall_{name}"] for name in NAMES] == pytest.approx([1 / 2, 1, 1])
    assert [metrics[f"f1_{name}"] for name in NAMES] == pytest.approx([2 / 3, 1, 4 / 5])
    assert metrics["macro_f1"] == pytest.approx((2 / 3 + 1 + 4 / 5) / 3)
    squares = (
        0.2**2 + 2 * 0.1**2 + 0.9**2 + 0.2**2 + 0.7**2 + 0.2**2 + 0.5**2 + 0.3**2 + 2 * 0.4**2 + 2 * 0.3**2 + 0.6**2
    )
    assert metrics["brier"] == pytest.approx(squares / 5)
    assert metrics["log_loss"] == pytest.approx(-np.log([0.8, 0.1, 0.5, 0.6, 0.4]).mean())
    lean = [-0.7, 0.6, 0.1, 0.6, 0.1]
    assert metrics["ic"] == pytest.approx(stats.pearsonr(codes, lean).statistic)
    np.testing.assert_array_equal(forecast.count_confusion(codes, probabilities), [[1, 0, 1], [0, 1, 0], [0, 0, 2]])


def test_two_classes_have_the_customary_brier_score() -> None:
    metrics, _ = forecast.measure_classification(
        np.array([0, 1]), np.array([[0.9, 0.1], [0.4, 0.6]]), names=("down", "up")
    )
    assert metrics["brier"] == pytest.approx((0.1**2 + 0.4**2) / 2)


def test_a_class_that_is_never_predicted_has_no_precision() -> None:
    probabilities = np.array([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8], [0.6, 0.2, 0.2]])
    metrics, reasons = forecast.measure_classification(np.array([0, 2, 0]), probabilities, names=NAMES)
    assert reasons == {
        "precision_flat": "flat is never predicted",
        "recall_flat": "flat never occurs",
        "f1_flat": "flat neither occurs nor is predicted",
    }
    assert metrics["macro_f1"] == 1.0  # over the two classes that occur


def test_float32_probabilities_are_scored_without_a_warning() -> None:
    raw = np.random.default_rng(0).dirichlet([1, 1, 1], 1000).astype(np.float32)
    metrics, _ = forecast.measure_classification(np.arange(1000) % 3, raw, names=NAMES)
    assert np.isfinite(list(metrics.values())).all()


@pytest.mark.parametrize(
    ("codes", "probabilities", "message"),
    [
        ([0, 3], [[0.5, 0.2, 0.3]] * 2, "3 at row 1"),
        ([0, 1], [[0.5, 0.2, 0.3], [0.5, 0.5, 0.5]], "row 1.*sum to 1"),
        ([0, 1], [[0.5, 0.2, 0.3], [-0.5, 1.0, 0.5]], "row 1.*at least 0"),
        ([0, 1], [[0.5, 0.5]] * 2, "one column each"),
    ],
)
def test_what_is_no_class_probability_is_refused(
    codes: list[int], probabilities: list[list[float]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        forecast.measure_classification(np.array(codes), np.array(probabilities), names=NAMES)
