"""The probability of backtest overfitting against its definition: in fractions, by brute force and by hand."""

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from pipeline.evaluation import overfitting, performance


def find_logits_by_brute_force(returns: np.ndarray, *, blocks: int) -> list[float]:
    """Return the logits of CSCV as the paper defines it, with lists, loops and scipy's ranks."""
    size = len(returns) // blocks
    runs = [list(range(b * size, (b + 1) * size)) for b in range(blocks)]
    logits = []
    for inside in combinations(range(blocks), blocks // 2):
        rows_in = [row for b in inside for row in runs[b]]
        rows_out = [row for b in range(blocks) if b not in inside for row in runs[b]]
        ratio_in, ratio_out = (
            [np.mean(r) / np.std(r, ddof=1) for r in returns[rows].T] for rows in (rows_in, rows_out)
        )
        rank = stats.rankdata(np.round(ratio_out, 12))[int(np.argmax(np.round(ratio_in, 12)))]
        relative = rank / (returns.shape[1] + 1)
        logits.append(np.log(relative / (1 - relative)))
    return logits


@pytest.mark.parametrize(("blocks", "rows", "strategies"), [(2, 20, 3), (4, 43, 5), (6, 60, 2), (8, 100, 7)])
def test_pbo_is_what_brute_force_gives(blocks: int, rows: int, strategies: int) -> None:
    returns = np.random.default_rng(rows).normal(0.01, 1, (rows, strategies))
    logits = find_logits_by_brute_force(returns, blocks=blocks)
    result = overfitting.pbo(returns, blocks=blocks)
    np.testing.assert_allclose(result.logits, logits, atol=1e-12)
    assert result.pbo == np.mean(np.array(logits) <= 0)


def run_exact_cscv(grid: np.ndarray, *, blocks: int) -> dict[str, np.ndarray]:
    """Return CSCV of whole-numbered returns in fractions: ties are ties, and nothing is rounded before the end."""
    size, strategies = len(grid) // blocks, grid.shape[1]
    found = {"chosen": [], "in_sample": [], "out_of_sample": [], "logits": []}
    for inside in combinations(range(blocks), blocks // 2):
        rows = {True: [], False: []}
        for row in range(size * blocks):
            rows[row // size in inside].append(row)
        keys = {
            side: [order_by_sharpe([int(grid[row, s]) for row in rows[side]]) for s in range(strategies)]
            for side in rows
        }
        known = [(-1, Fraction(0)) if key is None else (0, key) for key in keys[True]]
        best = known.index(max(known))
        outside = [(-1, Fraction(0)) if key is None else (0, key) for key in keys[False]]
        rank = sum(key < outside[best] for key in outside) + (sum(key == outside[best] for key in outside) + 1) / 2
        relative = rank / (strategies + 1)
        found["chosen"].append(best)
        found["logits"].append(np.nan if max(known)[0] < 0 else np.log(relative / (1 - relative)))
        for side, name in ((True, "in_sample"), (False, "out_of_sample")):
            key = keys[side][best]
            found[name].append(np.nan if key is None else float(np.copysign(np.sqrt(float(abs(key))), float(key))))
    return {name: np.array(values) for name, values in found.items()}


def order_by_sharpe(returns: list[int]) -> Fraction | None:
    """Return the square of the Sharpe ratio with the sign of the mean: it has the same order; None if constant."""
    mean = Fraction(sum(returns), len(returns))
    variance = sum((value - mean) ** 2 for value in returns) / Fraction(max(len(returns) - 1, 1))
    return None if variance == 0 else mean * abs(mean) / variance


def assert_exact(grid: np.ndarray, *, blocks: int, scale: float) -> None:
    result, exact = overfitting.pbo(grid * scale, blocks=blocks), run_exact_cscv(grid, blocks=blocks)
    decided = ~np.isnan(exact["logits"])
    np.testing.assert_array_equal(result.chosen[decided], exact["chosen"][decided])
    for name in ("logits", "in_sample", "out_of_sample"):
        np.testing.assert_allclose(getattr(result, name), exact[name], rtol=1e-12, atol=1e-12, err_msg=name)
    if decided.any():
        assert result.pbo == np.mean(exact["logits"][decided] <= 0)
        assert result.loss_probability == np.mean(exact["out_of_sample"][decided] < 0)
    defined = np.isfinite(exact["in_sample"]) & np.isfinite(exact["out_of_sample"])
    x, y = exact["in_sample"][defined], exact["out_of_sample"][defined]
    if len(x) > 1 and np.ptp(x) > 1e-9 * max(1.0, np.abs(x).max()):
        np.testing.assert_allclose(result.slope, np.cov(x, y, ddof=0)[0, 1] / np.var(x), rtol=1e-9, atol=1e-9)
    else:
        assert np.isnan(result.slope)


@settings(max_examples=150, deadline=None)
@given(
    grid=arrays(np.int64, st.tuples(st.integers(4, 26), st.integers(2, 6)), elements=st.integers(-3, 3)),
    blocks=st.sampled_from([2, 4]),
    level=st.sampled_from([0, 100]),
    scale=st.sampled_from([1.0, 0.1, 1e-4, 1e-4 / 3, 7e5]),
)
def test_block_sums_are_the_exact_definition_of_coarse_returns(
    grid: np.ndarray, blocks: int, level: int, scale: float
) -> None:
    assert_exact(grid + level, blocks=blocks, scale=scale)


def test_sharpes_that_differ_by_rounding_alone_have_no_slope() -> None:
    """Two bars of one strategy stand out: ratios near 200 differ in their last digits alone."""
    grid = np.full((20, 3), -3)
    grid[[0, 18], 0] = -1
    result = overfitting.pbo((grid + 100) * (1e-4 / 3), blocks=4)
    assert np.isnan(result.slope)
    assert_exact(grid + 100, blocks=4, scale=1e-4 / 3)


@pytest.mark.parametrize("seed", range(40))
def test_block_sums_are_the_exact_definition_with_duplicates_multiples_and_constant_columns(seed: int) -> None:
    """Duplicates, a multiple, a mirror image, a column that trades once, and one that never does."""
    rng = np.random.default_rng(seed)
    grid = rng.integers(-50, 51, (30, 8))
    grid[:, 1], grid[:, 2], grid[:, 3] = grid[:, 0], 3 * grid[:, 0], -grid[:, 0]
    grid[:, 4], grid[:, 5] = 7, 0
    grid[rng.integers(30), 5] = 1
    grid[:, 6] = np.concatenate([rng.permutation(run) for run in grid[:, 0].reshape(6, 5)])  # equal in every choice
    assert_exact(grid[:, rng.permutation(8)], blocks=6, scale=10.0 ** -rng.integers(0, 9) / 3)


def test_ties_are_ties_where_every_sharpe_is_next_to_nothing() -> None:
    """Means of 1e-9 deviations: the rounding error of equal ratios is then more than 1e-12 of the largest."""
    rng = np.random.default_rng(3)
    half = rng.normal(0, 1, (500, 1))
    base = np.concatenate([half, -half]) + 1e-9
    returns = np.vstack([rng.permutation(base)] * 4) * np.array([1.0, 3.0, 0.7, 11.0, 1e-4])
    result = overfitting.pbo(returns, blocks=4)
    assert (result.chosen == 0).all()
    np.testing.assert_array_equal(result.logits, 0.0)  # all five share the middle rank


def test_another_metric_gets_the_rows_in_time_order() -> None:
    """The largest rise from a low of the running sum depends on the order of the rows, as no block sum does."""

    def find_largest_rise(rows: np.ndarray) -> np.ndarray:
        total = rows.cumsum(axis=0)
        return (total - np.minimum.accumulate(total, axis=0)).max(axis=0)

    returns, blocks = np.random.default_rng(12).normal(0, 1, (36, 4)), 6
    result = overfitting.pbo(returns, blocks=blocks, metric=find_largest_rise)
    for choice, inside in enumerate(combinations(range(blocks), blocks // 2)):
        rows = [row for row in range(36) if row // 6 in inside]
        values = [
            max(sum(returns[row, s] for row in rows[i:j]) for i in range(1, 18) for j in range(i, 19)) for s in range(4)
        ]
        assert result.chosen[choice] == np.argmax(values)
        assert result.in_sample[choice] == pytest.approx(max(values))


def test_sortino_is_measured_on_the_rows_and_ranks_as_its_definition_does() -> None:
    returns = np.random.default_rng(13).normal(0.1, 1, (40, 5))

    def measure_sortinos(rows: np.ndarray) -> np.ndarray:
        return np.array([performance.sortino(column) for column in rows.T])

    result = overfitting.pbo(returns, blocks=4, metric=measure_sortinos)
    for choice, inside in enumerate(combinations(range(4), 2)):
        is_in = np.isin(np.arange(40) // 10, inside)
        ratio_in, ratio_out = (
            returns[side].mean(axis=0) / np.sqrt((np.minimum(returns[side], 0) ** 2).mean(axis=0))
            for side in (is_in, ~is_in)
        )
        rank = stats.rankdata(ratio_out)[ratio_in.argmax()]
        assert result.logits[choice] == pytest.approx(np.log(rank / (6 - rank)))


def test_pbo_by_hand_on_two_blocks() -> None:
    """Strategy 0 wins the first half and is last in the second; strategy 1 wins the second, second in the first."""
    returns = np.array([[3.0, 1.0, 0.0], [5.0, 1.0, 0.0], [0.0, 4.0, 1.0], [-2.0, 4.0, 1.0]])
    result = overfitting.pbo(returns, blocks=2, metric=lambda rows: rows.mean(axis=0))
    np.testing.assert_array_equal(result.chosen, [0, 1])
    np.testing.assert_array_equal(result.in_sample, [4.0, 4.0])
    np.testing.assert_array_equal(result.out_of_sample, [-1.0, 1.0])
    np.testing.assert_allclose(result.logits, [np.log((1 / 4) / (3 / 4)), 0.0])  # ranks 1 and 2 of 3
    assert result.pbo == 1.0  # a logit of 0 counts
    assert result.loss_probability == 0.5
    assert np.isnan(result.slope)  # both were 4 in sample


def test_duplicates_share_their_rank() -> None:
    best = np.random.default_rng(2).normal(1.0, 0.1, 40)
    result = overfitting.pbo(np.column_stack([best, best, -best]), blocks=4)
    np.testing.assert_allclose(result.logits, np.log((2.5 / 4) / (1.5 / 4)))
    assert (result.chosen == 0).all()


def test_the_last_rows_beyond_equal_blocks_are_dropped() -> None:
    returns = np.random.default_rng(8).normal(0, 1, (43, 4))
    np.testing.assert_array_equal(
        overfitting.pbo(returns, blocks=4).in_sample, overfitting.pbo(returns[:40], blocks=4).in_sample
    )


def test_rows_of_a_choice_are_in_time_order() -> None:
    returns = np.column_stack([np.arange(12.0), -np.arange(12.0)])
    seen = []
    overfitting.pbo(returns, blocks=4, metric=lambda rows: [seen.append(rows[:, 0].tolist()), rows.mean(axis=0)][1])
    assert seen[0] == [0, 1, 2, 3, 4, 5]
    assert seen[1] == [0, 1, 2, 6, 7, 8]
    assert all(rows == sorted(rows) for rows in seen)


def test_a_strategy_that_never_varies_ranks_last() -> None:
    returns = np.random.default_rng(6).normal(-1, 1, (40, 3))
    returns[:, 0] = 0.0
    result = overfitting.pbo(returns, blocks=4)
    assert (result.chosen != 0).all()
    assert result.logits.min() >= np.log((2 / 4) / (2 / 4))  # never last
    assert np.isfinite(result.in_sample).all()


def test_a_constant_return_has_no_sharpe_from_block_sums_either() -> None:
    returns = np.random.default_rng(11).normal(0, 1, (28, 3))
    returns[:, 0] = 0.1  # the mean of seven of these is not 0.1
    assert (overfitting.pbo(returns, blocks=4).chosen != 0).all()


def test_strategies_that_never_vary_have_no_pbo() -> None:
    result = overfitting.pbo(np.zeros((8, 2)), blocks=4)
    assert np.isnan([result.pbo, result.slope, result.loss_probability]).all()
    assert np.isnan(result.logits).all()


def test_one_truly_better_strategy_is_not_overfitted() -> None:
    returns = np.random.default_rng(7).normal(0, 1, (1000, 20))
    returns[:, 3] += 0.5
    result = overfitting.pbo(returns, blocks=10)
    assert result.pbo == 0.0
    assert (result.chosen == 3).all()


def test_luck_alone_has_a_pbo_around_one_half_or_above() -> None:
    rng = np.random.default_rng(9)
    found = [overfitting.pbo(rng.normal(0, 1, (240, 10)), blocks=8).pbo for _ in range(60)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.1)
    assert overfitting.pbo(rng.normal(0, 1, (240, 10)), blocks=8).slope < 0  # in and out of sample share one total


def test_slope_is_the_regression_of_out_of_sample_on_in_sample() -> None:
    result = overfitting.pbo(np.random.default_rng(10).normal(0, 1, (60, 5)), blocks=6)
    assert result.slope == pytest.approx(np.polyfit(result.in_sample, result.out_of_sample, 1)[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: overfitting.pbo(np.zeros((8, 2)), blocks=3), "even"),
        (lambda: overfitting.pbo(np.zeros((8, 2)), blocks=0), "at least 2"),
        (lambda: overfitting.pbo(np.zeros((8, 2)), blocks=10), "at most the 8 rows"),
        (lambda: overfitting.pbo(np.zeros((8, 1)), blocks=2), "at least 2 strategies"),
        (lambda: overfitting.pbo(np.zeros(8), blocks=2), "at least 2 strategies"),
        (lambda: overfitting.pbo(np.array([[0.0, 1.0], [np.nan, 1.0]]), blocks=2), "index \\(1, 0\\)"),
        (lambda: overfitting.pbo(np.zeros((8, 2)), blocks=2, metric=lambda r: r.mean()), "one finite or NaN"),
        (lambda: overfitting.pbo(np.zeros((8, 2)), blocks=2, metric=lambda r: np.full(2, np.inf)), "one finite or NaN"),
    ],
)
def test_impossible_input_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
