"""Guards of fits: a model has learnt from its train rows alone, and what was tried is counted."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

from pipeline.leakage.findings import Finding, verdict
from pipeline.leakage.spans import meets


class _Samples(Protocol):
    """What the guards ask of `pipeline.samples.Samples`, a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def time(self) -> np.ndarray: ...
    @property
    def label_end(self) -> np.ndarray: ...
    @property
    def segment(self) -> np.ndarray: ...
    @property
    def x(self) -> np.ndarray: ...
    @property
    def y(self) -> np.ndarray: ...
    @property
    def move(self) -> np.ndarray: ...


Samples = TypeVar("Samples", bound=_Samples)

ROUNDING, FLOAT32_ROUNDING = 1e-4, 1e-6  # what float32 sums may miss of a mean: in scales, and of the mean itself
ORDER_ROUNDING = 1e-5  # of the range of answers: nets differ in the last bits with the batch that a row stands in
MOST_FOREIGN_ROWS = 500
STRETCH = 0.3  # standard deviation of the log factor that a column of altered rows is scaled by


def normalization(statistics: tuple[np.ndarray, np.ndarray] | None, x_train: np.ndarray) -> Finding:
    """Critical where the (mean, scale), each (F,), that a model standardises with are not those of its train rows.

    `None` says that the model standardises nothing. The scale of a column that is constant in train may be anything.
    """
    if statistics is None:
        return Finding("normalization", "ok", "the model standardises nothing", {"columns": 0, "differing": 0})
    columns = (column.astype(np.float64) for column in x_train.T)  # one at a time
    mean, scale = np.array([(column.mean(), column.std()) for column in columns]).T
    allowed = ROUNDING * scale + FLOAT32_ROUNDING * np.abs(mean)
    is_constant = scale <= FLOAT32_ROUNDING * np.abs(mean)
    mean_off, scale_off = np.abs(statistics[0] - mean), np.abs(statistics[1] - scale)
    is_fit = (mean_off <= allowed) & (is_constant | (scale_off <= allowed))
    problems = [
        f"column {j} is standardised by mean {statistics[0][j]:.6g} and scale {statistics[1][j]:.6g}, its "
        f"{len(x_train)} train rows have {mean[j]:.6g} and {scale[j]:.6g}: fit them on train rows alone"
        for j in np.flatnonzero(~is_fit)
    ]
    figures = {"columns": len(mean), "differing": int((~is_fit).sum())}
    return verdict("normalization", problems, f"mean and scale of {len(mean)} columns are those of train", figures)


def fit_rows(
    train: np.ndarray, valid: np.ndarray, test: np.ndarray, *, time: np.ndarray, label_end: np.ndarray
) -> Finding:
    """Critical where a fit has seen a test row or a label span that meets one, or stops by rows it learns from.

    `train`, `valid` and `test` are rows; `time` and `label_end`, both (N,) in ms, are of all rows. Train labels must
    have ended before the valid part begins.
    """
    seen = np.concatenate([train, valid])
    first_valid_ms = time[valid].min() if valid.size else np.iinfo(np.int64).max
    wrong = {
        "are both seen and tested": seen[np.isin(seen, test)],
        "are seen and have a label span that meets one tested": seen[
            meets(time, label_end, rows=seen, others=test, reach_ms=0)
        ],
        "are learnt from, with labels that end when the valid part has begun": train[
            label_end[train] >= first_valid_ms
        ],
    }
    problems = [
        f"{len(rows)} rows, first row {rows[0]} at {time[rows[0]]}, {what}: keep train, valid and test apart"
        for what, rows in wrong.items()
        if rows.size
    ]
    figures = {"train": len(train), "valid": len(valid), "test": len(test)}
    fine = f"{len(seen)} rows seen, {len(test)} tested, and no label span stands on both sides"
    return verdict("fit_rows", problems, fine, {**figures, **{what: len(rows) for what, rows in wrong.items()}})


def unseen_rows(
    samples: Samples,
    seen: np.ndarray,
    refit: Callable[[Samples], np.ndarray],
    *,
    reach_bars: int,
    seed: int,
) -> Finding:
    """Critical where a model fitted on `seen` rows answers otherwise, by a bit, when other rows are altered.

    `refit` fits anew on the samples given and answers the same inputs each time. Altered are y and move of every row
    not seen, and x of those that no seen row's window of `reach_bars` bars before its own reaches.
    """
    answers, others = refit(samples), refit(altered(samples, seen, reach_bars=reach_bars, seed=seed))
    unlike = np.ascontiguousarray(answers).view(np.uint8) != np.ascontiguousarray(others).view(np.uint8)
    differing = int(unlike.reshape(len(answers), -1).any(axis=1).sum())
    problem = (
        f"{differing} of {len(answers)} answers change when y, move and x of {len(samples.time) - len(seen)} rows "
        f"outside train and valid are altered: fit on the rows given alone"
    )
    figures = {"answers": len(answers), "differing": differing, "unseen": len(samples.time) - len(seen)}
    fine = f"{len(answers)} answers stay the same to the bit when the unseen rows are altered"
    return verdict("unseen_rows", [problem] if differing else [], fine, figures)


def altered(samples: Samples, seen: np.ndarray, *, reach_bars: int, seed: int) -> Samples:
    """Samples that say something else, as plausible, wherever a fit on `seen` rows must not look.

    Rows of x are exchanged and its columns stretched, so that statistics over all rows change as well as single rows.
    """
    rng = np.random.default_rng(seed)
    is_unseen = np.ones(len(samples.time), dtype=bool)
    is_unseen[seen] = False
    unseen, free = np.flatnonzero(is_unseen), _unreached(samples.segment, seen, reach_bars)
    x, y, move = samples.x.copy(), samples.y.copy(), samples.move.copy()
    stretch = np.exp(rng.normal(0.0, STRETCH, size=x.shape[1])).astype(x.dtype)
    x[free] = x[rng.permutation(free)] * stretch
    y[unseen] = _other_values(y, unseen, rng)
    move[unseen] = -move[rng.permutation(unseen)]
    return replace(samples, x=x, y=y, move=move)


def _other_values(y: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Other values that exist in y: another class for each row; numbers turned about their middle and exchanged."""
    if np.issubdtype(y.dtype, np.integer):
        codes, place = np.unique(y, return_inverse=True)
        further = rng.integers(1, max(len(codes), 2), size=len(rows))
        return np.asarray(codes[(place[rows] + further) % len(codes)])
    return np.asarray(y.min() + y.max() - y[rng.permutation(rows)])


def _unreached(segment: np.ndarray, seen: np.ndarray, reach_bars: int) -> np.ndarray:
    """The rows that neither are `seen` nor stand up to `reach_bars` before one that is, in its segment."""
    ordered, rows = np.sort(seen), np.arange(len(segment))
    following = np.searchsorted(ordered, rows)
    nearest = ordered[np.minimum(following, len(ordered) - 1)]
    is_reached = (nearest >= rows) & (nearest - rows <= reach_bars) & (segment[nearest] == segment)
    return np.flatnonzero(~is_reached)


def row_order(
    answer: Callable[[Samples, np.ndarray], np.ndarray], samples: Samples, rows: np.ndarray, *, seed: int
) -> Finding:
    """Critical where `answer(samples, rows)`, (n, outputs), depends on the order or on the numbers of the rows.

    The rows are asked for in another order, and in a table that has other rows before and after them. Differences up
    to ORDER_ROUNDING of the answers' range, or the last digits of float32, are sums taken in another order.
    """
    rng = np.random.default_rng(seed)
    known, order = answer(samples, rows), rng.permutation(len(rows))
    foreign = int(rng.integers(1, min(len(samples.time), MOST_FOREIGN_ROWS) + 1))
    allowed = max(ORDER_ROUNDING * np.ptp(known), FLOAT32_ROUNDING * np.abs(known).max())
    changed = {
        "in another order": answer(samples, rows[order]) - known[order],
        "at other places of the table": answer(_surrounded(samples, foreign), rows + foreign) - known,
    }
    counts = {where: int((~(np.abs(off) <= allowed)).any(axis=1).sum()) for where, off in changed.items()}
    problems = [
        f"{count} of {len(rows)} answers differ when their rows stand {where}: answer from the inputs alone"
        for where, count in counts.items()
        if count
    ]
    fine = f"{len(rows)} answers do not depend on the order or the places of their rows"
    return verdict("row_order", problems, fine, {"rows": len(rows), "allowed": float(allowed), **counts})


def _surrounded(samples: Samples, count: int) -> Samples:
    """The same rows between two segments of `count` foreign ones, copies of the first rows."""
    shift_ms = int(np.ptp(samples.time)) + 1
    last = int(samples.segment.max())
    foreign = np.arange(count)

    def around(values: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        return np.concatenate([before, values, after])

    return replace(
        samples,
        time=around(samples.time, samples.time[foreign] - shift_ms, samples.time[foreign] + shift_ms),
        label_end=around(
            samples.label_end, samples.label_end[foreign] - shift_ms, samples.label_end[foreign] + shift_ms
        ),
        segment=around(samples.segment, np.full(count, last + 1, np.int32), np.full(count, last + 2, np.int32)),
        x=around(samples.x, samples.x[foreign], samples.x[foreign]),
        y=around(samples.y, samples.y[foreign], samples.y[foreign]),
        move=around(samples.move, samples.move[foreign], samples.move[foreign]),
    )


def data_snooping(models: Sequence[str], targets: Sequence[str], *, trials: int) -> Finding:
    """How much was tried, for whoever reads a Sharpe ratio: never critical."""
    figures = {"models": len(models), "targets": len(targets), "trials": trials}
    message = f"{trials} trials: {len(models)} models of {len(targets)} targets, and those tried before: deflate by all"
    return Finding("data_snooping", "ok", message, figures)
