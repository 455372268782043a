"""probe <dataset>: the score of a model that memorises, against the embargo: where it falls, neighbours tell labels."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from tqdm import tqdm

from pipeline import labels, workspace
from pipeline.dataset import load
from pipeline.folds import Folds, cut
from pipeline.leakage.findings import Finding
from pipeline.models import base
from pipeline.samples import Samples

GUARD = "embargo_sensitivity"
FOLDS = 4  # each tests every fourth group, so that tests end at many places, far from one another
ROOM = (
    1.2  # a group is longer than the longest embargo and label: three between tests hold both twice, and rows far away
)
MOST_GROUPS = 64
SHIFTS = 4  # the groups are cut anew, a quarter of a group later each time: as many more places where tests end
BLOCK_EMBARGOES = 2  # length of the blocks of time that are resampled
FEWEST_BLOCKS = 10  # with fewer, resampling them says little of how a score varies
INTERVAL = [0.025, 0.975]  # quantiles of the resampled figures that are shown


@dataclass(frozen=True)
class Task:
    """What is tested, and the rows to learn from after each embargo, always as many."""

    test: np.ndarray  # (n,) rows of the samples
    trains: list[np.ndarray]  # one for each factor
    near: np.ndarray  # (n,) whether an embargo removes the neighbours of a row
    seed: int


@dataclass(frozen=True)
class Foretold:
    """Every tested row and its score after each embargo."""

    rows: np.ndarray  # (n,) rows of the samples; one may stand here several times
    score: np.ndarray  # (n, factors)
    near: np.ndarray  # (n,) whether it lies within an embargo before a test's end


@dataclass(frozen=True)
class Curve:
    """Information coefficients (Pearson) against the embargo."""

    ic: np.ndarray  # (factors,) of all tested rows
    edge_ic: np.ndarray  # (factors,) of those near a test's end
    resampled: np.ndarray  # (resamples, factors) the latter, where other blocks of time might have come


def main(dataset: str) -> None:
    """Score a memoriser against the embargo on the first target of a dataset."""
    blocks = workspace.params()
    target, described = next(iter(workspace.entry(blocks, f"datasets.{dataset}.targets").items()))
    samples, folds = load(dataset, target)
    shape = base.Shape(columns=samples.columns, outputs=labels.OUTPUTS[described["kind"]])
    block = workspace.entry(blocks, "probe")
    found = workspace.feed(probed, samples, folds, shape, blocks["seed"], block=block, named="probe")
    workspace.write_json(workspace.report("probe", dataset), {"target": target, **found})


def probed(
    samples: Samples,
    folds: Folds,
    shape: base.Shape,
    seed: int,
    *,
    family: str,
    plugin: str,
    build: Mapping[str, Any],
    factors: Sequence[float],
    resamples: int,
    significance: float,
    smallest_fall: float,
) -> dict[str, Any]:
    """The report: scores at `factors` times the embargo of `folds`, and whether they fall by more than chance.

    `build` has every argument of the plugin, those of its family too. A fall of the IC is a finding where it is larger
    than `smallest_fall` and its one-sided p-value is below `significance`.
    Raises ValueError for factors that do not ascend from 0.
    """
    if len(factors) < 2 or factors[0] != 0 or not np.all(np.diff(factors) > 0):
        raise ValueError(f"probe.factors is {list(factors)}; give 0 and then rising multiples of the embargo")
    if not folds.embargo_bars:
        return undefined("split.embargo_pct is 0, which has no multiples; give the folds an embargo")
    block = {"dataset": None, "target": None, "family": family, "plugin": plugin, "build": build}
    planned = [task for shift in range(SHIFTS) for task in tasks(folds, factors, shift=shift, seed=seed)]
    told = foretold(samples, planned, block, shape)
    number = blocks_of_time(folds, told)
    if number.max() + 1 < FEWEST_BLOCKS:
        return undefined(f"{number.max() + 1} blocks of time lie near a test's end, {FEWEST_BLOCKS} are needed")
    scores = curve(told, samples.y[told.rows], number, rng=np.random.default_rng(seed), resamples=resamples)
    if np.isnan(scores.edge_ic).any():
        return undefined("answers or labels near a test's end never vary")
    embargo_bars = lengths(folds, factors)
    finding = verdict(scores, factors, embargo_bars, significance=significance, smallest_fall=smallest_fall)
    low, high = np.quantile(scores.resampled, INTERVAL, axis=0)
    return {
        "factors": list(factors),
        "embargo_bars": embargo_bars,
        "rows": {"tested": len(told.rows), "near_the_end": len(number), "blocks": number.max() + 1},
        "ic": scores.ic,
        "edge_ic": scores.edge_ic,
        "edge_ic_low": low,
        "edge_ic_high": high,
        "why": None,
        "guard": asdict(finding),
    }


def undefined(why: str) -> dict[str, Any]:
    """The report where there is nothing to be seen."""
    return {"why": why, "guard": asdict(Finding(GUARD, "ok", f"not probed: {why}", {}))}


def tasks(folds: Folds, factors: Sequence[float], *, shift: int, seed: int) -> Iterator[Task]:
    """The FOLDS tasks that test each development row once, but for the first ones, which a `shift` leaves out."""
    rows = folds.development()
    times = np.unique(folds.time[rows])
    groups = group_count(folds, len(times), longest_embargo_bars=lengths(folds, factors)[-1])
    rows = rows[folds.time[rows] >= times[len(times) * shift // (SHIFTS * groups)]]
    cuts = [purged(folds, rows, groups=groups, embargo_bars=bars) for bars in lengths(folds, factors)]
    for fold in range(FOLDS):
        tested = range(fold, groups, FOLDS)
        test = np.sort(np.concatenate([cuts[0].test(group) for group in tested]))
        trains = [learnt(each, tested) for each in cuts]
        far = far_from_tests(cuts[-1], tested, trains[-1])
        equal = equalised(trains, far=far, rng=np.random.default_rng([seed, shift, fold]))
        near = before_ends(cuts[0], tested, test, within_ms=folds.embargo_ms)
        fit_seed = workspace.seed_for(seed, "probe", FOLDS * shift + fold)
        yield Task(rows[test], [rows[train] for train in equal], near, fit_seed)


def group_count(folds: Folds, times: int, *, longest_embargo_bars: int) -> int:
    """How many groups there are; ValueError where the longest embargo leaves no rows far from all tests."""
    longest_label_bars = int((folds.label_end - folds.time).max()) * folds.embargo_bars / folds.embargo_ms
    shortest_group = ROOM * (longest_embargo_bars + longest_label_bars)
    groups = min(MOST_GROUPS, FOLDS * int(times / (FOLDS * shortest_group)))
    if not groups:
        raise ValueError(
            f"probe: {times} times cannot hold {FOLDS} groups of {shortest_group:.0f}, for the longest embargo has "
            f"{longest_embargo_bars} bars; lower the last of probe.factors, or split.embargo_pct"
        )
    return groups


def lengths(folds: Folds, factors: Sequence[float]) -> list[int]:
    """The embargoes in bars, rounded up."""
    return [int(np.ceil(factor * folds.embargo_bars)) for factor in factors]


def purged(folds: Folds, rows: np.ndarray, *, groups: int, embargo_bars: int) -> Folds:
    """Purged K-folds of `rows`, which they count from 0, with another embargo."""
    half_a_bar_less = max(embargo_bars - 0.5, 0.0)  # a share is rounded up to whole bars
    return cut(
        folds.time[rows],
        folds.label_end[rows],
        method="purged_kfold",
        groups=groups,
        test_groups=1,
        train_groups=1,
        embargo_pct=half_a_bar_less / len(np.unique(folds.time[rows])),
        holdout_pct=0.0,
    )


def learnt(folds: Folds, tested: Sequence[int]) -> np.ndarray:
    """The rows that may be learnt from where several groups, no two of them adjacent, are tested at once."""
    votes = np.zeros(len(folds.time), dtype=np.int64)
    for group in tested:
        votes[folds.train(group)] += 1
    return np.flatnonzero(votes == len(tested))


def far_from_tests(folds: Folds, tested: Sequence[int], train: np.ndarray) -> np.ndarray:
    """The rows of `train` that end more than an embargo before the next test too, in order of time."""
    for group in tested:
        first_ms = folds.intervals[group].first_ms
        train = train[(folds.label_end[train] + folds.embargo_ms < first_ms) | (folds.time[train] > first_ms)]
    return train[np.argsort(folds.time[train], kind="stable")]


def equalised(trains: Sequence[np.ndarray], *, far: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Each of `trains`, which shrink, with as many rows as the last: what is too much is given up among `far` ones.

    Rows near a test are thus exchanged for as many far away, and less data cannot pass for less leakage. What is given
    up is one stretch of time from a random place on: rows thinned out would still be told by their neighbours.
    """
    fewest, surplus = len(trains[-1]), len(trains[0]) - len(trains[-1])
    if surplus > len(far):
        raise ValueError(
            f"probe: the longest embargo removes {surplus} rows, and only {len(far)} lie far from all tests to be "
            f"exchanged for them; lower the last of probe.factors, or split.embargo_pct"
        )
    given_up = np.roll(far, -int(rng.integers(max(len(far), 1))))
    return [np.setdiff1d(train, given_up[: len(train) - fewest]) for train in trains]


def before_ends(folds: Folds, tested: Sequence[int], test: np.ndarray, *, within_ms: int) -> np.ndarray:
    """(n,) whether a `test` row begins less than `within_ms` before its group ends, and rows follow the group."""
    last_ms = np.array([folds.intervals[group].last_ms for group in tested])
    time_ms = folds.time[test]
    end_ms = last_ms[np.searchsorted(last_ms, time_ms)]
    return np.asarray((end_ms - time_ms < within_ms) & (end_ms < folds.intervals[-1].last_ms))


def foretold(samples: Samples, planned: Sequence[Task], block: workspace.Block, shape: base.Shape) -> Foretold:
    """What a fit for every task and embargo answers."""
    jobs = [
        delayed(scored)(samples, train, task.test, block=block, shape=shape, seed=task.seed)
        for task in planned
        for train in task.trains
    ]
    pool = Parallel(n_jobs=workspace.workers(), return_as="generator")
    scores = iter(tqdm(pool(jobs), total=len(jobs), desc="probe", unit="fit"))
    return Foretold(
        rows=np.concatenate([task.test for task in planned]),
        score=np.concatenate([np.column_stack([next(scores) for _ in task.trains]) for task in planned]),
        near=np.concatenate([task.near for task in planned]),
    )


def scored(
    samples: Samples, train: np.ndarray, test: np.ndarray, *, block: workspace.Block, shape: base.Shape, seed: int
) -> np.ndarray:
    """(n,) scores of a model that has learnt `train` by heart: its valid rows are train's, and never stop it."""
    model = base.build(block, shape, shared={}, seed=seed)
    model.fit(samples, train, train)
    return model.score(samples, test)


def blocks_of_time(folds: Folds, told: Foretold) -> np.ndarray:
    """(near rows,) the numbers, from 0, of their blocks of time: longer than an embargo and than the longest label."""
    longest_label_ms = int((folds.label_end - folds.time).max())
    block_ms = max(BLOCK_EMBARGOES * folds.embargo_ms, longest_label_ms)
    return np.unique(folds.time[told.rows[told.near]] // block_ms, return_inverse=True)[1]


def curve(told: Foretold, y: np.ndarray, number: np.ndarray, *, rng: np.random.Generator, resamples: int) -> Curve:
    """The ICs with (n,) `y`, and a block bootstrap of those of near rows, which lie in the blocks `number`.

    Whole blocks are drawn, the same ones for every embargo, so that falls are of the same rows. Two rows that foretell
    each other count in two blocks, which are then not independent: the variance is up to twice that of the resamples
    (Bengio & Grandvalet 2004 on cross-validation), and strays are widened by the root of that, and for few blocks.
    """
    moments = cross_moments(told.score.astype(np.float64), y.astype(np.float64))
    blocks = int(number.max()) + 1
    sums = np.zeros((blocks, moments.shape[1]))
    np.add.at(sums, number, moments[told.near])
    drawn = rng.multinomial(blocks, np.full(blocks, 1 / blocks), size=resamples)  # (resamples, blocks)
    edge_ic = correlations(sums.sum(axis=0))
    strays = correlations(np.einsum("rb,bm->rm", drawn, sums)) - edge_ic
    return Curve(correlations(moments.sum(axis=0)), edge_ic, edge_ic + strays * np.sqrt(2 * blocks / (blocks - 1)))


def cross_moments(score: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n, 3 + 3·factors) what adds up to the correlations of (n, factors) scores with (n,) y."""
    score, y = score - score.mean(axis=0), y - y.mean()
    return np.column_stack([np.ones_like(y), y, y**2, score, score**2, score * y[:, None]])


def correlations(sums: np.ndarray) -> np.ndarray:
    """(…, factors) Pearson's correlations from (…, 3 + 3·factors) sums of cross moments; nan where nothing varies."""
    n, y, yy = np.moveaxis(sums[..., :3, None], -2, 0)  # (…, 1) each
    p, pp, py = np.split(sums[..., 3:], 3, axis=-1)  # (…, factors) each
    spread = np.sqrt(np.maximum(pp - p**2 / n, 0.0) * np.maximum(yy - y**2 / n, 0.0))
    return np.asarray(np.divide(py - p * y / n, spread, out=np.full(p.shape, np.nan), where=spread > 0))


def verdict(
    scores: Curve, factors: Sequence[float], embargo_bars: Sequence[int], *, significance: float, smallest_fall: float
) -> Finding:
    """A warning where the score near a test's end falls from no embargo to the longest, and not by chance."""
    falls = scores.edge_ic - scores.edge_ic[-1]  # (factors,)
    strays = scores.resampled - scores.resampled[:, -1:] - falls  # (resamples, factors)
    p_values = (1 + (strays >= falls).sum(axis=0)) / (1 + len(strays))
    named = [f"{factor:g}" for factor in factors[:-1]]
    figures = {
        "fall": dict(zip(named, falls.tolist(), strict=False)),
        "p_value": dict(zip(named, p_values.tolist(), strict=False)),
    }
    measured = (
        f"near a test's end the IC is {scores.edge_ic[0]:.3f} without an embargo and {scores.edge_ic[-1]:.3f} after "
        f"{embargo_bars[-1]} bars (p {p_values[0]:.2g})"
    )
    if falls[0] <= smallest_fall or p_values[0] >= significance:
        return Finding(GUARD, "ok", f"the score does not fall as the embargo grows: {measured}", figures)
    enough = embargo_bars[1 + int(np.flatnonzero(p_values < significance)[-1])]
    remedy = f"from {enough} bars on no fall is sure: take an embargo no shorter, or drop features that tell the time"
    return Finding(GUARD, "warning", f"suspected leakage, the score falls: {measured}; {remedy}", figures)


if __name__ == "__main__":
    workspace.run(main)
