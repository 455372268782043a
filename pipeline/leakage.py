"""The guards against leakage: arrays in, findings out. Each guard is a function that answers with one `Finding`."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd

from pipeline import association

Recompute = Callable[[pd.DataFrame], tuple[np.ndarray, np.ndarray]]

ROUNDING, FLOAT32_ROUNDING = 1e-4, 1e-6  # what float32 sums may miss of a mean: in scales, and of the mean itself
CHANCE_FACTOR = 3.0  # as many times the duplicates that chance explains are still called chance
SHOWN = 5  # of many problems


class LeakageError(ValueError):
    """A guard has found something critical."""


@dataclass(frozen=True)
class Finding:
    """What a guard has to say: what, where, how much and what to do, and the figures behind it (JSON-able)."""

    guard: str
    severity: Literal["ok", "warning", "critical"]
    message: str
    figures: dict[str, Any]


class _Folds(Protocol):
    """What the guards ask of `pipeline.folds.Folds`."""

    @property
    def time(self) -> np.ndarray: ...
    @property
    def label_end(self) -> np.ndarray: ...
    @property
    def embargo_bars(self) -> int: ...
    @property
    def embargo_ms(self) -> int: ...
    @property
    def n_splits(self) -> int: ...
    def train(self, split: int) -> np.ndarray: ...
    def test(self, split: int) -> np.ndarray: ...
    def development(self) -> np.ndarray: ...
    def holdout(self) -> np.ndarray: ...


def raise_if_critical(findings: Iterable[Finding]) -> None:
    """Raises LeakageError, naming every critical guard and what it found, if there is any."""
    critical = [finding for finding in findings if finding.severity == "critical"]
    if critical:
        raise LeakageError("\n".join(f"{finding.guard}: {finding.message}" for finding in critical))


def truncation(bars: pd.DataFrame, recompute: Recompute, columns: Sequence[str], *, cuts: int, seed: int) -> Finding:
    """Critical where a feature changes, by a single bit, when the bars after an instant are cut off.

    `bars` is the clean table; `recompute` answers with the positions of the rows it keeps and their float32 features.
    Half of the `cuts` instants are random; the others stand at the borders of segments and of warm-ups. The features
    are computed `cuts` times more: the cost is linear in rows.
    """
    time, segment = bars["open_time"].to_numpy(), bars["segment"].to_numpy()
    rows, x = recompute(bars)
    if x.dtype != np.float32 or not (time[rows] < time.max()).any():
        raise ValueError(f"truncation: {len(rows)} rows of {x.dtype}; float32 rows that end before the bars are wanted")
    instants = _instants(time, segment, rows, cuts=cuts, rng=np.random.default_rng(seed))
    changes: dict[str, dict[str, Any]] = {}
    for instant in instants:
        position = np.flatnonzero(time <= instant)
        kept, cut_x = recompute(bars.iloc[position].reset_index(drop=True))
        is_before = time[rows] <= instant
        for name, row in _changes(rows[is_before], x[is_before], position[kept], cut_x, columns=columns):
            changes.setdefault(name, {"cut_after_ms": int(instant), "row": row, "time_ms": int(time[row])})
    problems = [
        f"{name} of the bar at {change['time_ms']} (row {change['row']}) changes when the bars after "
        f"{change['cut_after_ms']} are cut off: compute it from bars up to its own"
        for name, change in changes.items()
    ]
    figures = {"cuts": len(instants), "cut_after_ms": instants.tolist(), "changed": changes}
    fine = f"{len(columns)} columns stay the same to the bit at {len(instants)} cuts"
    return _verdict("truncation", problems, fine, figures)


def _instants(
    time: np.ndarray, segment: np.ndarray, rows: np.ndarray, *, cuts: int, rng: np.random.Generator
) -> np.ndarray:
    """Times to cut after, at random and at borders, that leave a feature before and a bar after."""
    first = np.flatnonzero(np.diff(segment, prepend=segment[:1] - 1))
    last = np.append(first[1:], len(segment)) - 1
    warm = rows[np.flatnonzero(np.diff(segment[rows], prepend=segment[rows][:1] - 1))]
    near = np.concatenate([first - 1, first, first + 1, last - 1, last, warm, warm + 1])
    border = np.unique(time[near[(near >= 0) & (near < len(time))]])
    anywhere = np.unique(time)
    picks = []
    for candidates, count in ((border, cuts - cuts // 2), (anywhere, cuts // 2)):
        allowed = candidates[(candidates >= time[rows].min()) & (candidates < time.max())]
        picks.append(rng.choice(allowed, size=min(count, len(allowed)), replace=False))
    return np.unique(np.concatenate(picks))


def _changes(
    rows: np.ndarray, x: np.ndarray, cut_rows: np.ndarray, cut_x: np.ndarray, *, columns: Sequence[str]
) -> Iterator[tuple[str, int]]:
    """The columns that differ, each with its first row; "rows kept" where the rows themselves differ."""
    differing = np.setxor1d(rows, cut_rows)
    if differing.size:
        yield "rows kept", int(differing[0])
        return
    changed = x.view(np.uint32) != cut_x.view(np.uint32)
    for column in np.flatnonzero(changed.any(axis=0)).tolist():
        yield columns[column], int(rows[np.argmax(changed[:, column])])


def look_ahead(
    x: np.ndarray, columns: Sequence[str], move: np.ndarray, segment: np.ndarray, *, ratio: float, floor: float
) -> Finding:
    """Critical where what is new in a column goes with moves still to come, nearly as it does with moves gone by.

    That is: a correlation with the future (see `association.with_moves`) above `floor` and above `ratio` times the one
    with the past. A column known in time stays below √R² of the best forecast of one bar, 0.45 where a fifth of the
    next move's variance can be foreseen. Leaks of a few rows are for `truncation` to find.
    """
    _check_finite(x, columns)
    _check_finite(move[:, None], ["move"])
    rows = association.surrounded(segment)
    if len(rows) < association.FEWEST_ROWS:
        message = f"{len(rows)} rows have {association.BARS_AHEAD} bars on both sides, too few to judge: give more bars"
        return Finding("look_ahead", "warning", message, {"rows": len(rows)})
    future, past = association.with_moves(x, move, rows)  # (views, F)
    strongest = np.argmax(future, axis=0), np.arange(len(columns))
    ahead, behind = future[strongest], past[strongest]  # (F,)
    problems = [
        f"{columns[j]} goes with moves to come (correlation {ahead[j]:.2f}; {behind[j]:.2f} with those gone by): "
        f"compute it from bars up to its own"
        for j in np.flatnonzero((ahead > floor) & (ahead > ratio * behind)).tolist()
    ]
    figures = {"rows": len(rows), "future": _by_column(columns, ahead), "past": _by_column(columns, behind)}
    fine = f"no column goes with moves to come; nearest is {columns[int(ahead.argmax())]}, {ahead.max():.2f} of {floor}"
    return _verdict("look_ahead", problems, fine, figures)


def feature_target(x: np.ndarray, columns: Sequence[str], y: np.ndarray, target: str, *, threshold: float) -> Finding:
    """Critical where a column is the `target` in disguise: an association (`association.with_target`) > `threshold`."""
    _check_finite(x, columns)
    _check_finite(y[:, None], [target])
    found = association.with_target(x, y)
    measures, values = list(found), np.array(list(found.values()))  # (measures, F)
    strongest, largest = values.argmax(axis=0).tolist(), values.max(axis=0)
    problems = [
        f"{columns[j]} is {target} in disguise ({measures[strongest[j]]} {largest[j]:.3f}): drop it"
        for j in np.flatnonzero(largest > threshold).tolist()
    ]
    figures = {"target": target, "rows": len(y), **{name: _by_column(columns, found[name]) for name in measures}}
    nearest = columns[int(largest.argmax())]
    fine = f"no column is {target} in disguise; nearest is {nearest}, {largest.max():.2f} of {threshold}"
    return _verdict("feature_target", problems, fine, figures)


def temporal_order(folds: _Folds) -> Finding:
    """Critical where a holdout row begins before all labels of the development part have ended, and the embargo."""
    holdout = folds.holdout()
    if not holdout.size:
        message = "there is no holdout: nothing is left that no fold has seen; raise holdout_pct"
        return Finding("temporal_order", "warning", message, {"holdout_rows": 0})
    known_ms = int(folds.label_end[folds.development()].max())
    first_ms = int(folds.time[holdout].min())
    early = int((folds.time[holdout] <= known_ms + folds.embargo_ms).sum())
    measured = f"the holdout begins at {first_ms}, the last label before it ends at {known_ms}"
    problem = f"{measured}: begin the holdout over {folds.embargo_ms} ms later than that ({early} rows too early)"
    figures = {"label_end_ms": known_ms, "embargo_ms": folds.embargo_ms, "holdout_begins_ms": first_ms}
    return _verdict("temporal_order", [problem] if early else [], measured, {**figures, "early_rows": early})


def label_overlap(folds: _Folds) -> Finding:
    """Critical where, in any split, the span [time, label_end] of a train row meets that of a test row.

    Also where a train row begins within the embargo after a test label. Spans are compared with each other, not with
    groups, so the check owes nothing to the way the folds were cut.
    """
    overlaps, embargoed = {}, {}
    for split in range(folds.n_splits):
        train, test = folds.train(split), folds.test(split)
        meets = _meets(folds, train, test, reach_ms=0)
        overlaps[split] = train[meets]
        embargoed[split] = train[_meets(folds, train, test, reach_ms=folds.embargo_ms) & ~meets]
    problems = [
        f"split {split}: {len(rows)} train rows, first row {rows[0]} at {folds.time[rows[0]]}, {what}: {remedy}"
        for found, what, remedy in (
            (overlaps, "have a span that meets a test span", "purge by label_end at every edge of every test run"),
            (embargoed, "begin within the embargo after a test label", "drop them after every test run"),
        )
        for split, rows in found.items()
        if rows.size
    ]
    counts = {"overlapping_rows": sum(map(len, overlaps.values())), "embargoed_rows": sum(map(len, embargoed.values()))}
    fine = f"no train span meets a test span or its embargo in {folds.n_splits} splits"
    return _verdict("label_overlap", problems, fine, {"splits": folds.n_splits, **counts})


def _meets(folds: _Folds, train: np.ndarray, test: np.ndarray, *, reach_ms: int) -> np.ndarray:
    """(train,) whether a row's span meets the span of any test row, prolonged by `reach_ms`."""
    order = test[np.argsort(folds.time[test])]
    latest = np.maximum.accumulate(folds.label_end[order])  # of all test spans that begin no later
    begun = np.searchsorted(folds.time[order], folds.label_end[train], side="right")
    return np.asarray((begun > 0) & (latest[begun - 1] + reach_ms >= folds.time[train]))


def duplicates(x: np.ndarray, segment: np.ndarray, folds: _Folds) -> Finding:
    """Critical where a bar stands twice in the table, or more test rows have a twin in train than chance explains.

    Twins have the same features. A row that equals its neighbour in time is a flat market, not a twin. Chance: the
    rows, times the share of values that are not alone in their column, over all columns.
    """
    repeated = np.flatnonzero(pd.DataFrame({"segment": segment, "time": folds.time}).duplicated())
    lively = np.flatnonzero(~_is_flat(x, segment))
    identity = pd.util.hash_pandas_object(pd.DataFrame(x), index=False).to_numpy()
    twins = lively[pd.Series(identity[lively]).duplicated(keep=False)]
    crossing = _twins_across(identity, twins, folds)
    chance = _twins_by_chance(x[lively]) if crossing.size else 0.0
    problems = [f"the bar at {folds.time[row]} stands twice (row {row}): keep one" for row in repeated]
    if len(crossing) > CHANCE_FACTOR * chance:
        problems.append(
            f"{len(crossing)} test rows, first row {crossing[0]} at {folds.time[crossing[0]]}, have the features of a "
            f"train row ({chance:.1f} by chance): drop the copies"
        )
    figures = {"repeated_bars": len(repeated), "flat_rows": len(x) - len(lively), "twins_across": len(crossing)}
    fine = f"no more rows stand on both sides than chance explains ({len(crossing)} of {len(x)})"
    return _verdict("duplicates", problems, fine, {**figures, "twins_by_chance": chance})


def _is_flat(x: np.ndarray, segment: np.ndarray) -> np.ndarray:
    """(N,) whether a row equals the one before or after it in its segment."""
    as_before = (x[1:] == x[:-1]).all(axis=1) & (segment[1:] == segment[:-1])
    return np.asarray(np.append(as_before, False) | np.append(False, as_before))


def _twins_across(identity: np.ndarray, twins: np.ndarray, folds: _Folds) -> np.ndarray:
    """The rows of any test or of the holdout that have a twin in the train that goes with it."""
    if not twins.size:
        return twins
    sides = [(folds.train(split), folds.test(split)) for split in range(folds.n_splits)]
    found = []
    for train, test in [*sides, (folds.development(), folds.holdout())]:
        learnt, asked = np.intersect1d(twins, train), np.intersect1d(twins, test)
        found.append(asked[np.isin(identity[asked], identity[learnt])])
    return np.unique(np.concatenate(found))


def _twins_by_chance(x: np.ndarray) -> float:
    """How many rows would share all their values with another if the columns were independent."""
    shared = [pd.Series(column).duplicated(keep=False).mean() for column in x.T]
    return float(len(x) * np.prod(shared))


def segments(
    time: np.ndarray, label_end: np.ndarray, segment: np.ndarray, *, bars: pd.DataFrame, bar_ms: int, warm_up_bars: int
) -> Finding:
    """Critical where a bar, a row, a label or a warm-up reaches over a hole or into another symbol.

    `bars` is the clean table (open_time, segment); the other arrays are the rows that have features and a label, which
    need not be all: a flat market has no volatility to scale a label by.
    """
    extent = bars.groupby("segment")["open_time"].agg(["min", "max"])
    if missing := sorted(set(segment.tolist()) - set(extent.index)):
        raise ValueError(f"segments: rows stand in segments {missing[:SHOWN]} that the bars do not have; relabel them")
    first, last = (extent.loc[segment, side].to_numpy() for side in ("min", "max"))
    step, bar_step = np.diff(time), np.diff(bars["open_time"])
    wrong = {
        "bars do not follow the one before": _misplaced(bars["segment"].to_numpy(), bar_step == bar_ms),
        "rows are out of order or off the grid": _misplaced(segment, (step > 0) & (step % bar_ms == 0)),
        "labels end outside their segment": np.flatnonzero((label_end > last) | (label_end < time)),
        "rows use bars before their segment": np.flatnonzero(time < first + warm_up_bars * bar_ms),
    }
    problems = [f"{len(rows)} {what}, first row {rows[0]}: cut at holes" for what, rows in wrong.items() if rows.size]
    figures = {"segments": len(extent), "rows": len(time), **{what: len(rows) for what, rows in wrong.items()}}
    return _verdict("segments", problems, f"nothing crosses a border of {len(extent)} segments", figures)


def windows(time: np.ndarray, segment: np.ndarray, run: np.ndarray, *, bar_ms: int) -> Finding:
    """Critical where a run, within which any window may be cut, is not of consecutive bars of one segment."""
    broken = _misplaced(run, (np.diff(time) == bar_ms) & (np.diff(segment) == 0))
    problems = [f"windows cross a hole or a border at row {row}: begin a run there" for row in broken]
    figures = {"runs": len(np.unique(run)), "rows": len(time), "broken": len(broken)}
    return _verdict("segments", problems, "every run is of consecutive bars of one segment", figures)


def _misplaced(part: np.ndarray, is_next: np.ndarray) -> np.ndarray:
    """The rows that neither are next to the row before them, in its part, nor begin a part never seen before."""
    begins = ~pd.Series(part).duplicated().to_numpy()
    return np.flatnonzero(~begins[1:] & ~((np.diff(part) == 0) & is_next)) + 1


def normalization(statistics: tuple[np.ndarray, np.ndarray] | None, x_train: np.ndarray) -> Finding:
    """Critical where the (mean, scale), each (F,), that a model standardises with are not those of its train rows.

    `None` says that the model standardises nothing. The scale of a column that is constant in train may be anything.
    """
    if statistics is None:
        return Finding("normalization", "ok", "the model standardises nothing", {"columns": 0, "differing": 0})
    x = x_train.astype(np.float64)
    mean, scale = x.mean(axis=0), x.std(axis=0)
    allowed = ROUNDING * scale + FLOAT32_ROUNDING * np.abs(mean)
    is_constant = scale <= FLOAT32_ROUNDING * np.abs(mean)
    mean_off, scale_off = np.abs(statistics[0] - mean), np.abs(statistics[1] - scale)
    is_fit = (mean_off <= allowed) & (is_constant | (scale_off <= allowed))
    problems = [
        f"column {j} is standardised by mean {statistics[0][j]:.6g} and scale {statistics[1][j]:.6g}, its {len(x)} "
        f"train rows have {mean[j]:.6g} and {scale[j]:.6g}: fit them on train rows alone"
        for j in np.flatnonzero(~is_fit)
    ]
    figures = {"columns": len(mean), "differing": int((~is_fit).sum())}
    return _verdict("normalization", problems, f"mean and scale of {len(mean)} columns are those of train", figures)


def embargo(folds: _Folds, lookback_bars: int) -> Finding:
    """A warning where the embargo is shorter than the longest look-back of a feature."""
    figures = {"embargo_bars": folds.embargo_bars, "lookback_bars": lookback_bars}
    measured = f"the embargo has {folds.embargo_bars} bars, the longest look-back {lookback_bars}"
    if folds.embargo_bars >= lookback_bars:
        return Finding("embargo", "ok", measured, figures)
    return Finding("embargo", "warning", f"{measured}: train rows see bars of a test; raise embargo_pct", figures)


def data_snooping(models: Sequence[str], targets: Sequence[str], *, trials: int) -> Finding:
    """How much was tried, for whoever reads a Sharpe ratio: never critical."""
    figures = {"models": len(models), "targets": len(targets), "trials": trials}
    message = f"{trials} trials: {len(models)} models of {len(targets)} targets, and those tried before: deflate by all"
    return Finding("data_snooping", "ok", message, figures)


def _verdict(guard: str, problems: Sequence[str], fine: str, figures: dict[str, Any]) -> Finding:
    """Critical if there are problems, with the first of them."""
    more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    message = "; ".join([*problems[:SHOWN], *more]) or fine
    return Finding(guard, "critical" if problems else "ok", message, figures)


def _by_column(columns: Sequence[str], values: np.ndarray) -> dict[str, float]:
    return {name: round(float(value), 4) for name, value in zip(columns, values, strict=True)}


def _check_finite(values: np.ndarray, columns: Sequence[str]) -> None:
    bad = np.argwhere(~np.isfinite(values))
    if bad.size:
        row, column = bad[0]
        raise ValueError(f"{columns[column]}: not finite in row {row}, one of {len(bad)} such values; drop such rows")
