"""The bootstrap against arch, against resampling row by row, and against simulations whose Sharpe ratio is known."""

import numpy as np
import pytest
from arch.bootstrap import optimal_block_length
from scipy import signal, stats
from threadpoolctl import threadpool_limits

from pipeline.evaluation import bootstrap, overfitting, pairwise, performance


def simulate_ar1(phi: float, *, bars: int, rng: np.random.Generator, columns: int = 1) -> np.ndarray:
    """Return (bars, columns) of an AR(1) with deviation 1."""
    shocks = rng.normal(size=(bars + 200, columns)) * np.sqrt(1 - phi**2)
    return signal.lfilter([1.0], [1.0, -phi], shocks, axis=0)[200:]


def bootstrap_one(returns: np.ndarray, *, resamples: int, seed: int = 0) -> bootstrap.BootstrapResult:
    """Return the bootstrap of the Sharpe ratio of (T,) returns."""
    return bootstrap.bootstrap_sharpes(returns[:, None], np.ones((1, 1)), resamples=resamples, seed=seed)


def compare(
    models: dict[str, np.ndarray], *, resamples: int = 399, seed: int = 0, confidence: float = 0.95
) -> pairwise.SharpeComparison:
    return pairwise.compare_sharpes(
        models, dict.fromkeys(models, 0), confidence=confidence, resamples=resamples, seed=seed
    )


@pytest.mark.parametrize("bars", [11, 12, 30, 200, 5000, 50_000])
@pytest.mark.parametrize("phi", [-0.8, 0.0, 0.3, 0.9, 0.99])
def test_the_block_length_is_that_of_an_independent_library(bars: int, phi: float) -> None:
    series = simulate_ar1(phi, bars=bars, rng=np.random.default_rng(bars))[:, 0]
    expected = optimal_block_length(series)["stationary"].iloc[0]
    assert bootstrap.estimate_dependence(series).block_bars == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("phi", [-0.5, 0.0, 0.5, 0.8])
def test_the_long_run_variance_is_that_of_the_process(phi: float) -> None:
    rng = np.random.default_rng(1)
    found = [
        bootstrap.estimate_dependence(column).variance for column in simulate_ar1(phi, bars=5000, rng=rng, columns=40).T
    ]
    assert np.mean(found) == pytest.approx((1 + phi) / (1 - phi), rel=0.1)


def test_blocks_have_geometric_lengths_uniform_starts_and_all_the_bars() -> None:
    rng = np.random.default_rng(2)
    start, length = bootstrap.draw_blocks(rng, bars=200_000, block_bars=20.0)
    assert length.sum() == 200_000
    assert length.min() >= 1
    shares = np.bincount(length[:-1], minlength=4)[1:4] / len(length)
    np.testing.assert_allclose(shares, 0.05 * 0.95 ** np.arange(3), atol=0.01)
    assert length.mean() == pytest.approx(20, rel=0.05)
    assert stats.kstest(start / 200_000, "uniform").pvalue > 0.01


def test_blocks_of_one_bar_are_the_ordinary_bootstrap() -> None:
    start, length = bootstrap.draw_blocks(np.random.default_rng(3), bars=50, block_bars=1.0)
    assert length.tolist() == [1] * 50
    assert len(start) == 50


def test_every_resample_is_what_gathering_its_rows_one_by_one_gives() -> None:
    """Sharpe ratios of the gathered rows by `performance.sharpe`, errors from the influence of each row."""
    rng, bars, resamples = np.random.default_rng(4), 60, 25
    returns = rng.standard_t(4, size=(bars, 3)) * [1.0, 1e-4, 30.0] + 0.2
    weights = np.array([[1.0, 0.5], [0.0, 0.5], [0.0, -1.0]])
    found = bootstrap.bootstrap_sharpes(returns, weights, resamples=resamples, seed=7)
    again, t_statistics = np.random.default_rng(7), []
    for _ in range(resamples):
        start, length = bootstrap.draw_blocks(again, bars=bars, block_bars=found.block_bars)
        runs = [(first + np.arange(n)) % bars for first, n in zip(start, length, strict=True)]
        rows = returns[np.concatenate(runs)]
        ratio, mean, deviation = performance.sharpe(rows), rows.mean(axis=0), rows.std(axis=0, ddof=1)
        sums = []
        for run in runs:
            z = (returns[run] - mean) / deviation
            sums.append((z - ratio / 2 * (z**2 - 1)).sum(axis=0) @ weights)
        error = np.sqrt((np.array(sums) ** 2).sum(axis=0)) / bars
        t_statistics.append(np.abs((ratio - performance.sharpe(returns)) @ weights) / error)
    np.testing.assert_allclose(found.t_statistics, np.sort(t_statistics, axis=0), rtol=1e-9)
    np.testing.assert_allclose(found.estimate, performance.sharpe(returns) @ weights, rtol=1e-12)


def test_the_error_of_independent_returns_is_that_of_the_formula() -> None:
    returns = np.random.default_rng(5).exponential(1.0, 100_000) - 0.5
    moments = overfitting.estimate_moments(returns)
    ratio, skew, kurtosis = moments["sharpe"], moments["skew"], moments["kurtosis"]
    formula = np.sqrt((1 - skew * ratio + (kurtosis - 1) / 4 * ratio**2) / (len(returns) - 1))
    assert bootstrap_one(returns, resamples=20).error[0] == pytest.approx(formula, rel=0.05)


@pytest.mark.parametrize(("phi", "naive"), [(0.0, 1.0), (0.6, 0.82)])
def test_the_interval_covers_the_true_sharpe_as_often_as_it_says(phi: float, naive: float) -> None:
    """200 simulations of 2,000 bars; without blocks, that of autocorrelated returns covers far less often."""
    true, rng, hits = 0.1, np.random.default_rng(6), []
    for simulation, returns in enumerate(simulate_ar1(phi, bars=2000, rng=rng, columns=200).T + true):
        found = bootstrap_one(returns, resamples=199, seed=simulation)
        ratio, error = found.estimate[0], np.sqrt((1 + true**2 / 2) / len(returns))
        low, high = found.make_intervals(confidence=0.95)[0]
        hits.append((low <= true <= high, abs(ratio - true) < 1.96 * error))
    covered, without = np.mean(hits, axis=0)
    assert 0.91 <= covered <= 0.985
    assert without <= naive


def test_equally_good_models_are_called_different_at_about_the_nominal_rate() -> None:
    """Two models of two paths each that share most of their returns, all of them autocorrelated, in 200 simulations."""
    rng, p_values = np.random.default_rng(8), []
    for simulation in range(200):
        common, own = (simulate_ar1(0.4, bars=800, rng=rng, columns=n) for n in (1, 4))
        returns = 0.8 * common + 0.6 * own + 0.05
        models = {"a": returns[:, :2], "b": 3.0 * returns[:, 2:]}
        p_values.append(compare(models, resamples=199, seed=simulation).pairs[0].p_value)
    rejected = np.mean(np.array(p_values) <= 0.05)
    assert 0.01 <= rejected <= 0.1
    assert stats.kstest(p_values, "uniform").pvalue > 0.001


def test_a_better_model_is_found_though_both_are_correlated() -> None:
    rng = np.random.default_rng(9)
    common = rng.normal(size=(2000, 1))
    models = {name: common + 0.3 * rng.normal(size=(2000, 3)) + mean for name, mean in (("poor", 0.0), ("good", 0.05))}
    pair = compare(models).pairs[0]
    assert pair.verdict == "good better than poor"
    assert pair.low < pair.difference < pair.high < 0
    apart = compare({name: rng.permutation(paths) for name, paths in models.items()}).pairs[0]
    assert apart.verdict == "not distinguishable"  # the same returns without their correlation
    assert apart.high - apart.low > 2 * (pair.high - pair.low)


def test_the_comparison_is_symmetric_and_independent_of_the_size_of_the_positions() -> None:
    rng = np.random.default_rng(10)
    a, b = rng.normal(0.05, 1, (500, 2)), rng.normal(0.0, 1, (500, 2))
    one, other = compare({"a": a, "b": b}).pairs[0], compare({"b": 1e-3 * b, "a": 50.0 * a}).pairs[0]
    assert (other.a, other.b, other.verdict) == ("b", "a", one.verdict)
    np.testing.assert_allclose(
        [other.difference, other.low, other.high, other.p_value], [-one.difference, -one.high, -one.low, one.p_value]
    )


def test_the_same_seed_gives_the_same_bytes_on_any_number_of_threads() -> None:
    returns = np.random.default_rng(11).normal(0.1, 1, (20_000, 6))
    models, found = {"a": returns[:, :3], "b": returns[:, 3:]}, []
    for threads in (1, 2):
        with threadpool_limits(limits=threads):
            found.append(compare(models, resamples=50))
    assert found[0] == found[1]
    assert compare(models, resamples=50, seed=1) != found[0]


def test_zero_is_outside_the_interval_exactly_where_the_p_value_is_small() -> None:
    rng = np.random.default_rng(12)
    returns = rng.normal(0, 1, (300, 40)) + np.linspace(-0.3, 0.3, 40)
    found = bootstrap.bootstrap_sharpes(returns, np.eye(40), resamples=99, seed=0)
    low, high = found.make_intervals(confidence=0.95).T
    is_outside = (low > 0) | (high < 0)
    np.testing.assert_array_equal(is_outside, found.p_values <= 0.05)
    assert 0 < is_outside.sum() < 40


def test_blocks_are_as_long_as_dependence_requires_and_never_shorter_than_the_cube_root() -> None:
    rng = np.random.default_rng(13)
    assert bootstrap_one(rng.normal(size=8000), resamples=20).block_bars == pytest.approx(20)
    series = simulate_ar1(0.95, bars=8000, rng=rng)[:, 0]
    longer = bootstrap_one(series, resamples=20).block_bars
    assert longer > 60
    both = bootstrap.bootstrap_sharpes(
        np.column_stack([rng.normal(size=8000), series]), np.eye(2), resamples=20, seed=0
    )
    assert both.block_bars == pytest.approx(longer)


@pytest.mark.parametrize("size", [1.0, 3.0])
def test_models_that_always_earn_alike_are_not_distinguishable(size: float) -> None:
    returns = np.random.default_rng(14).normal(0.1, 1, (400, 3))
    pair = compare({"a": returns, "b": size * returns}).pairs[0]
    assert (pair.p_value, pair.p_adjusted, pair.verdict) == (1.0, 1.0, "not distinguishable")
    np.testing.assert_allclose([pair.difference, pair.low, pair.high], 0.0, atol=1e-12)


def test_a_model_with_a_handful_of_trades_has_no_interval() -> None:
    returns = np.zeros((1000, 1))
    returns[[100, 500]] = 1.0
    other = np.random.default_rng(15).normal(0.1, 1, (1000, 1))
    found = compare({"rare": returns, "usual": other})
    assert np.isnan(found.intervals["rare"]).all()
    assert np.isfinite(found.intervals["usual"]).all()
    pair = found.pairs[0]
    assert np.isnan([pair.low, pair.high]).all()
    assert (pair.verdict, pair.reason) == ("not distinguishable", "they trade too little")


def test_only_paths_that_both_trade_are_compared() -> None:
    rng = np.random.default_rng(16)
    a, b = rng.normal(0.1, 1, (500, 3)), rng.normal(0.0, 1, (500, 3))
    a[:, 2] = 0.0
    pair = compare({"a": a, "b": b}).pairs[0]
    assert pair.difference == pytest.approx(np.mean(performance.sharpe(a[:, :2]) - performance.sharpe(b[:, :2])))
    b[:, :2] = 0.0
    none = compare({"a": a, "b": b}).pairs[0]
    assert np.isnan([none.difference, none.low, none.high, none.p_value, none.p_adjusted]).all()
    assert (none.verdict, none.reason) == ("not distinguishable", "there is no path on which both trade")


def test_the_interval_is_that_of_the_given_path() -> None:
    returns = np.random.default_rng(17).normal([0.0, 0.2, 0.4], 1, (500, 3))
    found = pairwise.compare_sharpes({"a": returns}, {"a": 1}, confidence=0.9, resamples=99, seed=0)
    low, high = found.intervals["a"]
    assert (low + high) / 2 == pytest.approx(performance.sharpe(returns[:, 1]))
    assert found.pairs == []


def test_holm_by_hand() -> None:
    found = bootstrap.adjust_holm(np.array([0.01, 0.04, np.nan, 0.03, 0.005]))
    np.testing.assert_allclose(found, [0.03, 0.06, np.nan, 0.06, 0.02])
    np.testing.assert_allclose(bootstrap.adjust_holm(np.array([0.9, 0.8])), [1.0, 1.0])
    assert len(bootstrap.adjust_holm(np.zeros(0))) == 0


def test_the_best_of_many_equal_models_is_not_called_better() -> None:
    """Ten models, 45 pairs: some p-value is small by itself, none among all."""
    rng = np.random.default_rng(24)
    found = compare({str(i): rng.normal(0, 1, (500, 1)) for i in range(10)}, resamples=1999)
    assert min(pair.p_value for pair in found.pairs) < 0.05
    assert {pair.verdict for pair in found.pairs} == {"not distinguishable"}


def test_too_few_resamples_for_so_many_pairs_are_named() -> None:
    rng = np.random.default_rng(19)
    found = compare({str(i): rng.normal(0, 1, (100, 1)) for i in range(4)}, resamples=39)
    assert {pair.reason for pair in found.pairs} == {
        "no difference can be significant: multiply compare.resamples by 3.0"
    }


def test_without_a_model_there_is_no_comparison() -> None:
    found = compare({})
    assert (found.intervals, found.pairs) == ({}, [])
    assert np.isnan(found.block_bars)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_one(np.ones(10), resamples=20), "at least 11"),
        (lambda: bootstrap_one(np.append(np.arange(20.0), np.nan), resamples=20), "all finite: False"),
        (lambda: bootstrap.estimate_dependence(np.ones(20)), "never vary"),
        (lambda: bootstrap_one(np.arange(20.0), resamples=18).make_intervals(confidence=0.95), "19 for 0.95"),
        (lambda: bootstrap_one(np.arange(20.0), resamples=20).make_intervals(confidence=0.0), "above 0"),
    ],
)
def test_impossible_input_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
