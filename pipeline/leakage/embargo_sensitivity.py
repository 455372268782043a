"""Sensitivity of a model's IC to the embargo: what is fitted and tested, and the guard that judges the scores.

A model that memorizes its train rows is fitted after several embargoes, always on as many rows. Rows just before the
end of a test are the ones whose labels later train rows can betray. Their IC falls with the embargo where they do.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline import config
from pipeline.leakage.findings import Finding
from pipeline.scale import ROUNDING
from pipeline.validation.folds import Folds
from pipeline.validation.kfolds import make_kfolds

GUARD = "embargo_sensitivity"
SEED_NAME = "probe"  # fits derive their seeds from it: another name changes every score
FOLDS = 4  # each tests every fourth group, so that tests end at many places, far from one another
GROUP_MARGIN = 1.2  # a group, over the longest embargo plus label: three between tests hold both twice and far rows
MAX_GROUPS = 64
SHIFTS = 4  # the groups are cut again, a quarter of a group later each time: as many more places where tests end
BLOCK_EMBARGOES = 2  # length of the blocks of time that are resampled
MIN_BLOCKS = 10  # fewer give a poor estimate of how a score varies


@dataclass(frozen=True)
class EmbargoTask:
    """Test rows, and the train rows of each embargo, always as many."""

    test: np.ndarray  # (n,) rows of the samples
    trains: list[np.ndarray]  # one for each factor
    is_boundary: np.ndarray  # (n,) whether an embargo removes the neighbors of a test row
    seed: int


@dataclass(frozen=True)
class EmbargoScores:
    """Every tested row and its score after each embargo."""

    rows: np.ndarray  # (n,) rows of the samples; one may occur several times
    score: np.ndarray  # (n, factors)
    is_boundary: np.ndarray  # (n,) whether it lies within an embargo before a test's end


@dataclass(frozen=True)
class IcCurve:
    """Information coefficients (Pearson) against the embargo."""

    ic: np.ndarray  # (factors,) of all tested rows
    boundary_ic: np.ndarray  # (factors,) of those near a test's end
    resampled: np.ndarray  # (resamples, factors) the latter, for resampled blocks of time


def plan_tasks(folds: Folds, embargo_factors: Sequence[float], *, shift: int, seed: int) -> Iterator[EmbargoTask]:
    """Yield the `FOLDS` tasks that test each development row once, but for the first ones, which `shift` leaves out."""
    rows, all_bars = folds.development(), scale_embargo(folds, embargo_factors)
    times = np.unique(folds.time[rows])
    groups = count_groups(folds, times, longest_embargo_bars=all_bars[-1])
    rows = rows[folds.time[rows] >= times[len(times) * shift // (SHIFTS * groups)]]
    spans = folds.time[rows], folds.label_end[rows]
    cuts = [make_kfolds(*spans, groups=groups, embargo_bars=bars) for bars in all_bars]
    for fold in range(FOLDS):
        tested = range(fold, groups, FOLDS)
        test = np.sort(np.concatenate([cuts[0].test(group) for group in tested]))
        trains = [intersect_trains(each, tested) for each in cuts]
        far = select_far_rows(cuts[-1], tested, trains[-1])
        equal = equalize_sizes(trains, far=far, rng=np.random.default_rng([seed, shift, fold]))
        is_boundary = find_boundary_rows(cuts[0], tested, test, within_ms=folds.embargo_ms)
        fit_seed = config.derive_seed(seed, SEED_NAME, FOLDS * shift + fold)
        yield EmbargoTask(rows[test], [rows[train] for train in equal], is_boundary, fit_seed)


def scale_embargo(folds: Folds, embargo_factors: Sequence[float]) -> list[int]:
    """Return the multiples of the embargo in bars, rounded up."""
    return [int(np.ceil(factor * folds.embargo_bars)) for factor in embargo_factors]


def count_groups(folds: Folds, times: np.ndarray, *, longest_embargo_bars: int) -> int:
    """Return how many groups to cut the distinct, ascending `times` into.

    Raises:
        ValueError: the longest embargo leaves no rows far from all tests.
    """
    bar_ms = folds.embargo_ms // folds.embargo_bars
    longest_ms = longest_embargo_bars * bar_ms + int((folds.label_end - folds.time).max())
    shortest_group = GROUP_MARGIN * count_times_within(times, longest_ms)
    groups = min(MAX_GROUPS, FOLDS * int(len(times) / (FOLDS * shortest_group)))
    if not groups:
        raise ValueError(
            f"embargo_sensitivity: {len(times)} times cannot hold {FOLDS} groups of {shortest_group:.0f}, for the "
            f"longest embargo has {longest_embargo_bars} bars; lower the last of "
            f"embargo_sensitivity.embargo_factors, or split.{folds.scheme.describe_embargo()}"
        )
    return groups


def count_times_within(times: np.ndarray, span_ms: int) -> int:
    """Return how many of the distinct, ascending times at most lie within `span_ms` after one of them.

    On a grid that is the span in bars; the closed hours of a market with sessions have no times.
    """
    return int((np.searchsorted(times, times + span_ms, side="right") - np.arange(len(times))).max()) - 1


def intersect_trains(folds: Folds, tested: Sequence[int]) -> np.ndarray:
    """Return the train rows where several groups, no two of them adjacent, are tested at once."""
    votes = np.zeros(len(folds.time), dtype=np.int64)
    for group in tested:
        votes[folds.train(group)] += 1
    return np.flatnonzero(votes == len(tested))


def select_far_rows(folds: Folds, tested: Sequence[int], train: np.ndarray) -> np.ndarray:
    """Return the rows of `train` that also end more than an embargo before the next test, in order of time."""
    for group in tested:
        first_ms = folds.group_ranges[group].first_ms
        train = train[(folds.label_end[train] + folds.embargo_ms < first_ms) | (folds.time[train] > first_ms)]
    return train[np.argsort(folds.time[train], kind="stable")]


def equalize_sizes(trains: Sequence[np.ndarray], *, far: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Return each of `trains`, which shrink, with as many rows as the last; the surplus is dropped from `far` rows.

    Rows near a test are thus exchanged for as many far away, so that less data cannot look like less leakage. The
    dropped rows are contiguous in time from a random place on: neighbors would replace rows that are thinned out.
    """
    fewest, surplus = len(trains[-1]), len(trains[0]) - len(trains[-1])
    if surplus > len(far):
        raise ValueError(
            f"embargo_sensitivity: the longest embargo removes {surplus} rows, and only {len(far)} lie far from all "
            "tests to be exchanged for them; lower the last of embargo_sensitivity.embargo_factors, or the embargo of "
            "split"
        )
    dropped = np.roll(far, -int(rng.integers(max(len(far), 1))))
    return [np.setdiff1d(train, dropped[: len(train) - fewest]) for train in trains]


def find_boundary_rows(folds: Folds, tested: Sequence[int], test: np.ndarray, *, within_ms: int) -> np.ndarray:
    """Return (n,) whether a `test` row begins less than `within_ms` before its group ends.

    Rows of the last group do not count: no train rows follow them.
    """
    last_ms = np.array([folds.group_ranges[group].last_ms for group in tested])
    time_ms = folds.time[test]
    end_ms = last_ms[np.searchsorted(last_ms, time_ms)]
    return np.asarray((end_ms - time_ms < within_ms) & (end_ms < folds.group_ranges[-1].last_ms))


def number_time_blocks(folds: Folds, scores: EmbargoScores) -> np.ndarray:
    """Return (boundary rows,) the numbers, from 0, of their blocks of time.

    A block is longer than an embargo and than the longest label.
    """
    longest_label_ms = int((folds.label_end - folds.time).max())
    block_ms = max(BLOCK_EMBARGOES * folds.embargo_ms, longest_label_ms)
    return np.unique(folds.time[scores.rows[scores.is_boundary]] // block_ms, return_inverse=True)[1]


def bootstrap_ic(
    scores: EmbargoScores, y: np.ndarray, block: np.ndarray, *, rng: np.random.Generator, resamples: int
) -> IcCurve:
    """Return the ICs with (n,) `y`, and a block bootstrap of those of boundary rows, which lie in the blocks `block`.

    Whole blocks are drawn, the same ones for every embargo, so that drops of the IC are of the same rows. Two rows that
    predict each other count in two blocks, which are then not independent: the variance is up to twice that of the
    resamples (Bengio & Grandvalet 2004 on cross-validation). Deviations are widened by the root of 2, and for few
    blocks.
    """
    moments = multiply_moments(scores.score.astype(np.float64), y.astype(np.float64))
    blocks = int(block.max()) + 1
    sums = np.zeros((blocks, moments.shape[1]))
    np.add.at(sums, block, moments[scores.is_boundary])
    drawn = rng.multinomial(blocks, np.full(blocks, 1 / blocks), size=resamples)  # (resamples, blocks)
    boundary_ic = correlate_sums(sums.sum(axis=0))
    deviations = correlate_sums(np.einsum("rb,bm->rm", drawn, sums)) - boundary_ic
    resampled = boundary_ic + deviations * np.sqrt(2 * blocks / (blocks - 1))
    return IcCurve(correlate_sums(moments.sum(axis=0)), boundary_ic, resampled)


def multiply_moments(score: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return (n, 3 + 3·factors) moments whose sums give the correlations of (n, factors) scores with (n,) y."""
    score, y = score - score.mean(axis=0), y - y.mean()
    return np.column_stack([np.ones_like(y), y, y**2, score, score**2, score * y[:, None]])


def correlate_sums(sums: np.ndarray) -> np.ndarray:
    """Return (…, factors) Pearson correlations from (…, 3 + 3·factors) sums of moments; NaN where nothing varies."""
    n, y, yy = np.moveaxis(sums[..., :3, None], -2, 0)  # (…, 1) each
    p, pp, py = np.split(sums[..., 3:], 3, axis=-1)  # (…, factors) each
    score_square, y_square = pp - p**2 / n, yy - y**2 / n
    varies = (score_square > ROUNDING * pp) & (y_square > ROUNDING * yy)
    spread = np.sqrt(np.where(varies, score_square * y_square, 1.0))
    return np.asarray(np.divide(py - p * y / n, spread, out=np.full(p.shape, np.nan), where=varies))


def check_ic_drop(
    curve: IcCurve,
    *,
    embargo_factors: Sequence[float],
    embargo_bars: Sequence[int],
    significance: float,
    min_ic_drop: float,
) -> Finding:
    """Return a warning where the boundary IC drops significantly from no embargo to the longest one."""
    drops = curve.boundary_ic - curve.boundary_ic[-1]  # (factors,)
    deviations = curve.resampled - curve.resampled[:, -1:] - drops  # (resamples, factors)
    p_values = (1 + (deviations >= drops).sum(axis=0)) / (1 + len(deviations))
    names = [f"{factor:g}" for factor in embargo_factors[:-1]]
    measurements = {
        "ic_drop": dict(zip(names, drops.tolist(), strict=False)),
        "p_value": dict(zip(names, p_values.tolist(), strict=False)),
    }
    measured = (
        f"in the last embargo length of each test range it is {curve.boundary_ic[0]:.3f} without an embargo and "
        f"{curve.boundary_ic[-1]:.3f} with one of {embargo_bars[-1]} bars (p {p_values[0]:.2g})"
    )
    if drops[0] <= min_ic_drop or p_values[0] >= significance:
        return Finding(GUARD, "ok", f"no significant fall of the IC with the embargo: {measured}", measurements)
    enough = embargo_bars[1 + int(np.flatnonzero(p_values < significance)[-1])]
    remedy = (
        f"from {enough} bars on no drop is significant: use at least that embargo, or drop features that encode time"
    )
    return Finding(
        GUARD, "warning", f"suspected leakage, the IC falls with the embargo: {measured}; {remedy}", measurements
    )
