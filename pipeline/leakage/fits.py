"""Guards of fits: a model learns from its train rows alone, and trials are counted."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from pipeline.fills import Fills
from pipeline.leakage.findings import Finding, make_finding
from pipeline.leakage.spans import overlaps
from pipeline.samples import Samples

ROUNDING, FLOAT32_ROUNDING = 1e-4, 1e-6  # error of a mean from float32 sums: in scales, and relative to the mean
ORDER_ROUNDING = 1e-5  # of the range of predictions: a net's last bits depend on the batch that a row is in
MAX_PADDING_ROWS = 500
STRETCH_LOG_SD = 0.3  # standard deviation of the log factor that scales a column of altered rows


def normalization(
    statistics: tuple[np.ndarray, np.ndarray] | None, x_train: np.ndarray, *, unscaled: Sequence[int] = ()
) -> Finding:
    """Return a critical finding where a model's scaler, (mean, scale) each (F,), is not that of its train rows.

    `None` means that the model standardizes nothing. The scale of a column that is constant in train may be anything.
    Columns that the model declares `unscaled`, by their places, must have a mean of 0 and a scale of 1.
    """
    if statistics is None:
        return Finding("normalization", "ok", "the model standardizes nothing", {"columns": 0, "differing": 0})
    columns = (column.astype(np.float64) for column in x_train.T)  # one at a time
    mean, scale = np.array([(column.mean(), column.std()) for column in columns]).T
    tolerance = ROUNDING * scale + FLOAT32_ROUNDING * np.abs(mean)
    is_constant = scale <= FLOAT32_ROUNDING * np.abs(mean)
    is_unscaled = np.isin(np.arange(len(mean)), unscaled)
    mean[is_unscaled], scale[is_unscaled], tolerance[is_unscaled], is_constant[is_unscaled] = 0.0, 1.0, 0.0, False
    mean_error, scale_error = np.abs(statistics[0] - mean), np.abs(statistics[1] - scale)
    is_equal = (mean_error <= tolerance) & (is_constant | (scale_error <= tolerance))
    problems = [
        f"column {j} is standardized by mean {statistics[0][j]:.6g} and scale {statistics[1][j]:.6g}, "
        + (
            "but is declared unscaled, which is mean 0 and scale 1: leave it as it is, or standardize it openly"
            if is_unscaled[j]
            else f"its {len(x_train)} train rows have {mean[j]:.6g} and {scale[j]:.6g}: fit the scaler on train rows "
            "alone"
        )
        for j in np.flatnonzero(~is_equal)
    ]
    count = int(is_unscaled.sum())
    return make_finding(
        "normalization",
        problems,
        ok_message=f"mean and scale of {len(mean) - count} columns are those of the train rows"
        + (f"; {count} are unscaled, as declared" if count else ""),
        measurements={
            "columns": len(mean),
            "differing": int((~is_equal).sum()),
            **({"unscaled": count} if count else {}),
        },
    )


def fit_rows(
    train: np.ndarray, valid: np.ndarray, test: np.ndarray, *, time: np.ndarray, label_end: np.ndarray
) -> Finding:
    """Return a critical finding where train, valid and test rows of a fit are not disjoint in time.

    `train`, `valid` and `test` are rows; `time` and `label_end`, both (N,) in ms, are of all rows. No train or valid
    span may overlap a test span. Train labels must have ended before the valid rows begin.
    """
    seen = np.concatenate([train, valid])
    first_valid_ms = time[valid].min() if valid.size else np.iinfo(np.int64).max
    wrong = {
        "seen_and_tested": ("are in train or valid, and in test", seen[np.isin(seen, test)]),
        "overlapping_test": (
            "of train or valid have a span that overlaps a test span",
            seen[overlaps(time, label_end, rows=seen, others=test, extension_ms=0)],
        ),
        "unfinished_before_valid": (
            "of train have labels that have not ended when the valid rows begin",
            train[label_end[train] >= first_valid_ms],
        ),
    }
    problems = [
        f"{len(rows)} rows, first row {rows[0]} at {time[rows[0]]}, {what}: purge train, valid and test of each other"
        for what, rows in wrong.values()
        if rows.size
    ]
    counts = {name: len(rows) for name, (_, rows) in wrong.items()}
    return make_finding(
        "fit_rows",
        problems,
        ok_message=f"no span of {len(seen)} train and valid rows overlaps one of {len(test)} test rows",
        measurements={"train": len(train), "valid": len(valid), "test": len(test), **counts},
    )


def unseen_rows(
    samples: Samples,
    seen: np.ndarray,
    refit: Callable[[Samples], np.ndarray],
    *,
    lookback_bars: int,
    seed: int,
) -> Finding:
    """Return a critical finding where a model fitted on `seen` rows changes, by a bit, when other rows are altered.

    `refit` fits anew on the samples given, and predicts the same inputs each time. Altered are y and fills of every row
    that is not seen, and x of those that no seen row's window, of `lookback_bars` bars before its own, contains.
    """
    expected = refit(samples)
    predictions = refit(alter_unseen_rows(samples, seen, lookback_bars=lookback_bars, seed=seed))
    is_unlike = np.ascontiguousarray(expected).view(np.uint8) != np.ascontiguousarray(predictions).view(np.uint8)
    differing, unseen = int(is_unlike.reshape(len(expected), -1).any(axis=1).sum()), len(samples.time) - len(seen)
    problem = (
        f"{differing} of {len(expected)} predictions change when y, fills and x of {unseen} rows "
        f"outside train and valid are altered: fit on the rows given alone"
    )
    return make_finding(
        "unseen_rows",
        [problem] if differing else [],
        ok_message=f"{len(expected)} predictions stay the same to the bit when the unseen rows are altered",
        measurements={"predictions": len(expected), "differing": differing, "unseen_rows": unseen},
    )


def alter_unseen_rows(samples: Samples, seen: np.ndarray, *, lookback_bars: int, seed: int) -> Samples:
    """Return samples with other, equally plausible values wherever a fit on `seen` rows must not look.

    Rows of x are permuted and its columns scaled, so that statistics over all rows change as well as single rows.
    """
    rng = np.random.default_rng(seed)
    is_unseen = np.ones(len(samples.time), dtype=bool)
    is_unseen[seen] = False
    unseen, unread = np.flatnonzero(is_unseen), _find_unread_rows(samples.segment, seen, lookback_bars=lookback_bars)
    x, labeled = samples.x.copy(), unseen[samples.is_labeled[unseen]]
    stretch = np.exp(rng.normal(0.0, STRETCH_LOG_SD, size=x.shape[1])).astype(x.dtype)
    x[unread] = x[rng.permutation(unread)] * stretch

    def alter(y: np.ndarray) -> np.ndarray:
        altered = y.copy()
        altered[labeled] = _draw_other_labels(y, labeled, of=y[samples.is_labeled], rng=rng)
        return altered

    y, several = alter(samples.y), samples.y_by_horizon
    fills = None if samples.fills is None else _alter_fills(samples.fills, unseen, rng=rng)
    several = None if several is None else np.column_stack([*(alter(shorter) for shorter in several.T[:-1]), y])
    return replace(samples, x=x, y=y, fills=fills, y_by_horizon=several)


def _alter_fills(fills: Fills, rows: np.ndarray, *, rng: np.random.Generator) -> Fills:
    """Return the fills with those of `rows` permuted, and their moves reversed."""
    order = np.arange(len(fills.move))
    order[rows] = rng.permutation(rows)
    altered = fills.take(order)
    altered.move[rows] *= -1
    return altered


def _draw_other_labels(y: np.ndarray, rows: np.ndarray, *, of: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return other labels in the range `of` all: another class for each row; numbers mirrored and permuted."""
    if np.issubdtype(y.dtype, np.integer):
        codes = np.unique(of)
        shift = rng.integers(1, max(len(codes), 2), size=len(rows))
        return np.asarray(codes[(np.searchsorted(codes, y[rows]) + shift) % len(codes)])
    return np.asarray(of.min() + of.max() - y[rng.permutation(rows)])


def _find_unread_rows(segment: np.ndarray, seen: np.ndarray, *, lookback_bars: int) -> np.ndarray:
    """Return the rows that are neither `seen` nor within `lookback_bars` before one that is, in its segment."""
    ordered, rows = np.sort(seen), np.arange(len(segment))
    following = np.searchsorted(ordered, rows)
    nearest = ordered[np.minimum(following, len(ordered) - 1)]
    is_read = (nearest >= rows) & (nearest - rows <= lookback_bars) & (segment[nearest] == segment)
    return np.flatnonzero(~is_read)


def row_order(
    predict_rows: Callable[[Samples, np.ndarray], np.ndarray], samples: Samples, rows: np.ndarray, *, seed: int
) -> Finding:
    """Return a critical finding where `predict_rows(samples, rows)`, (n, outputs), depends on row order or numbers.

    The rows are predicted in another order, and in a table with other rows before and after them. Differences up to
    ORDER_ROUNDING of the predictions' range, or in the last digits of float32, are sums taken in another order.
    """
    rng = np.random.default_rng(seed)
    expected, order = predict_rows(samples, rows), rng.permutation(len(rows))
    padding = int(rng.integers(1, min(len(samples.time), MAX_PADDING_ROWS) + 1))
    tolerance = max(ORDER_ROUNDING * np.ptp(expected), FLOAT32_ROUNDING * np.abs(expected).max())
    errors = {
        "in another order": predict_rows(samples, rows[order]) - expected[order],
        "at other positions of the table": predict_rows(_pad_samples(samples, padding), rows + padding) - expected,
    }
    counts = {where: int((~(np.abs(error) <= tolerance)).any(axis=1).sum()) for where, error in errors.items()}
    problems = [
        f"{count} of {len(rows)} predictions differ when their rows are {where}: predict from the inputs alone"
        for where, count in counts.items()
        if count
    ]
    by_order, by_position = counts.values()
    return make_finding(
        "row_order",
        problems,
        ok_message=f"{len(rows)} predictions do not depend on the order or the position of their rows",
        measurements={
            "rows": len(rows),
            "tolerance": float(tolerance),
            "differing_by_order": by_order,
            "differing_by_position": by_position,
        },
    )


def _pad_samples(samples: Samples, count: int) -> Samples:
    """Return the same rows between two segments of `count` other ones, copies of the first rows."""
    shift_ms = int(np.ptp(samples.time)) + 1
    last = int(samples.segment.max())
    copied, several = np.arange(count), samples.y_by_horizon

    def pad(values: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        return np.concatenate([before, values, after])

    return replace(
        samples,
        time=pad(samples.time, samples.time[copied] - shift_ms, samples.time[copied] + shift_ms),
        label_end=pad(samples.label_end, samples.label_end[copied] - shift_ms, samples.label_end[copied] + shift_ms),
        segment=pad(samples.segment, np.full(count, last + 1, np.int32), np.full(count, last + 2, np.int32)),
        x=pad(samples.x, samples.x[copied], samples.x[copied]),
        y=pad(samples.y, samples.y[copied], samples.y[copied]),
        is_labeled=pad(samples.is_labeled, samples.is_labeled[copied], samples.is_labeled[copied]),
        fills=samples.fills and samples.fills.take(pad(np.arange(len(samples.time)), copied, copied)),
        y_by_horizon=None if several is None else pad(several, several[copied], several[copied]),
    )


def data_snooping(models: Sequence[str], targets: Sequence[str], *, trials: int) -> Finding:
    """Return how much was tried, by which a Sharpe ratio has to be deflated; never critical."""
    return Finding(
        "data_snooping",
        "ok",
        f"{trials} trials, by which Sharpe ratios are deflated; {len(models)} of them are models of this dataset, with "
        f"{len(targets)} targets",
        {"models": len(models), "targets": len(targets), "trials": trials},
    )
