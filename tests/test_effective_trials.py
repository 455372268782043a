"""The effective number of trials: constructed correlations, simulated clusters, and the estimators' definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.evaluation import effective_trials


def make_block(correlation: float, trials: int) -> np.ndarray:
    return np.full((trials, trials), correlation) + (1 - correlation) * np.eye(trials)


def join_blocks(*blocks: np.ndarray, between: float = 0.0) -> np.ndarray:
    """Return the correlations of clusters; each pair of trials of different clusters has the correlation `between`."""
    size = sum(len(one) for one in blocks)
    whole, at = np.full((size, size), between), 0
    for one in blocks:
        whole[at : at + len(one), at : at + len(one)] = one
        at += len(one)
    return whole


@pytest.mark.parametrize(
    ("correlation", "trials"),
    [
        (np.eye(1), 1.0),
        (make_block(1.0, 7), 1.0),
        (np.eye(40), 40.0),
        (make_block(0.5, 11), 1 + 10 * 0.5),  # the interpolation for one cluster
        (make_block(0.9, 2), 1.1),
        (make_block(-1.0, 2), 2.0),  # the better of a bet and its opposite: two tries
        (join_blocks(make_block(1.0, 5), make_block(1.0, 5)), 2.0),
        (join_blocks(make_block(0.95, 5), make_block(0.95, 5)), 2 * (1 + 4 * 0.05)),
        (join_blocks(make_block(0.9, 4), make_block(0.8, 3), make_block(0.99, 6), between=0.1), 1.3 + 1.4 + 1.05),
        (join_blocks(make_block(1.0, 2), make_block(1.0, 1)), 2.0),
    ],
)
def test_the_effective_number_of_constructed_trials_is_known(correlation: np.ndarray, trials: float) -> None:
    assert effective_trials.count_effective_trials(correlation) == pytest.approx(trials)


def test_clusters_are_found_in_simulated_returns_in_any_order() -> None:
    rng = np.random.default_rng(30)
    common = rng.normal(size=(2000, 4))
    cluster = np.array([0, 1, 2, 3, 0, 0, 1, 2, 2, 2, 3, 1])
    returns = common[:, cluster] + 0.3 * rng.normal(size=(2000, len(cluster)))
    found = effective_trials.cluster_trials(effective_trials.correlate_trials(returns))
    assert {(a, b) for a in range(12) for b in range(12) if found[a] == found[b]} == {
        (a, b) for a in range(12) for b in range(12) if cluster[a] == cluster[b]
    }
    order = rng.permutation(12)
    trials = effective_trials.count_effective_trials(effective_trials.correlate_trials(returns))
    assert effective_trials.count_effective_trials(
        effective_trials.correlate_trials(returns[:, order])
    ) == pytest.approx(trials)
    assert trials == pytest.approx(4 + 8 * (1 - 1 / 1.09), abs=0.1)


def test_noise_does_not_split_one_cluster() -> None:
    rng = np.random.default_rng(36)
    returns = rng.normal(size=(300, 1)) + rng.normal(size=(300, 10)) / 3  # correlations around 0.9
    correlation = effective_trials.correlate_trials(returns)
    assert len(np.unique(effective_trials.cluster_trials(correlation))) == 1
    mean = correlation[~np.eye(10, dtype=bool)].mean()
    assert effective_trials.count_effective_trials(correlation) == pytest.approx(1 + 9 * (1 - mean))


def test_uncorrelated_trials_count_in_full() -> None:
    correlation = effective_trials.correlate_trials(np.random.default_rng(31).normal(size=(5000, 60)))
    assert effective_trials.count_effective_trials(correlation) == pytest.approx(60, rel=0.02)


def test_a_trial_that_never_trades_counts_as_one() -> None:
    returns = np.random.default_rng(32).normal(size=(200, 1)) @ np.ones((1, 4))
    returns[:, 2] = 0.0
    returns[:, 3] = 0.1
    assert effective_trials.count_effective_trials(effective_trials.correlate_trials(returns)) == pytest.approx(3.0)
    assert effective_trials.count_effective_trials(effective_trials.correlate_trials(np.zeros((9, 5)))) == 5.0


def test_copies_of_a_trial_at_other_sizes_are_the_same_trial() -> None:
    returns = np.random.default_rng(33).normal(size=(500, 1)) * np.array([1.0, 3.0, 0.1, 1e-6, 7.7])
    assert effective_trials.count_effective_trials(effective_trials.correlate_trials(returns)) == pytest.approx(1.0)


@settings(max_examples=100, deadline=None)
@given(
    returns=arrays(np.float64, st.tuples(st.integers(2, 12), st.integers(1, 9)), elements=st.integers(-2, 2).map(float))
)
def test_the_effective_number_of_trials_is_between_one_and_the_count(returns: np.ndarray) -> None:
    assert (
        1
        <= effective_trials.count_effective_trials(effective_trials.correlate_trials(returns))
        <= returns.shape[1] + 1e-9
    )


def test_correlations_are_those_of_numpy() -> None:
    returns = np.random.default_rng(34).normal(size=(50, 6))
    np.testing.assert_allclose(effective_trials.correlate_trials(returns), np.corrcoef(returns.T), atol=1e-12)


@pytest.mark.parametrize(
    ("correlation", "message"),
    [
        (np.ones((2, 3)), "give \\(trials, trials\\)"),
        (np.ones((0, 0)), "at least one trial"),
        (2 * np.ones((2, 2)), "between -1 and 1"),
        (np.array([[1.0, 0.5], [0.2, 1.0]]), "symmetric"),
    ],
)
def test_a_matrix_that_holds_no_correlations_is_refused(correlation: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        effective_trials.count_effective_trials(correlation)


@pytest.mark.parametrize("correlation", [0.0, 1.0])
def test_all_estimators_agree_where_trials_are_the_same_or_unrelated(correlation: float) -> None:
    found = effective_trials.estimate_effective_trials(make_block(correlation, 12))
    assert list(found) == ["clusters", "mean_correlation", "galwey", "li_ji", "participation"]
    assert list(found.values()) == pytest.approx([12 if correlation == 0 else 1] * 5, abs=1e-6)


def test_the_estimators_are_their_definitions() -> None:
    """Equal correlations of 0.6 among 10 trials: one eigenvalue of 6.4, nine of 0.4."""
    found = effective_trials.estimate_effective_trials(make_block(0.6, 10))
    assert found["mean_correlation"] == pytest.approx(0.6 + 0.4 * 10)
    assert found["galwey"] == pytest.approx((6.4**0.5 + 9 * 0.4**0.5) ** 2 / 10)
    assert found["li_ji"] == pytest.approx((1 + 0.4) + 9 * 0.4)
    assert found["participation"] == pytest.approx(100 / (6.4**2 + 9 * 0.4**2))


def test_a_trial_that_never_varies_counts_as_one_for_every_estimator() -> None:
    correlation = np.full((4, 4), np.nan)
    correlation[:3, :3] = make_block(1.0, 3)
    found = effective_trials.estimate_effective_trials(correlation)
    assert list(found.values()) == pytest.approx([2.0] * 5, abs=1e-6)
