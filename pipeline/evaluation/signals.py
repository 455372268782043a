"""Signals: how each feature correlates with each target, how stable that is, and how the feature itself behaves.

The information coefficient (IC) is Pearson's correlation of a feature with the label, the rank IC is Spearman's, both
in time and over the rows of all symbols [1].
[1] Grinold & Kahn 1999, "Active Portfolio Management", ch. 6. [2] Qian, Sorensen & Hua 2007, "Information Horizon,
Portfolio Turnover, and Optimal Alpha Models".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.special import ndtr
from threadpoolctl import threadpool_limits

from pipeline.evaluation.bootstrap import TINY, adjust_holm
from pipeline.evaluation.correlations import (
    MIN_INDEPENDENT_ROWS,
    MIN_ROWS,
    Variable,
    correlate,
    correlate_variables,
    describe,
    estimate_error,
    find_influence,
    find_rank_influence,
    standardize,
)
from pipeline.feature_file import Matrix
from pipeline.scale import RESOLUTION, is_constant

NAN = float("nan")
MAX_POSITION = 1.0  # of a feature read as a score, in its standard deviations
NO_VARIATION = "never varies"


@dataclass(frozen=True)
class Association:
    """One correlation of a feature with a target, its error, and the same within every group; NaN where undefined."""

    value: float
    error: float = NAN
    p_value: float = NAN  # two-sided, of the hypothesis that the true value is 0
    p_adjusted: float = NAN  # among all features of the target
    independent_rows: float = NAN  # the number of independent rows with the same standard error
    groups: tuple[float, ...] = ()

    @property
    def known_groups(self) -> np.ndarray:
        """The values of the groups where it is defined."""
        return np.array([value for value in self.groups if not np.isnan(value)])

    @property
    def mean(self) -> float:
        """The mean over the groups."""
        return float(self.known_groups.mean()) if len(self.known_groups) else NAN

    @property
    def std(self) -> float:
        """The standard deviation (ddof=1) over the groups."""
        return float(self.known_groups.std(ddof=1)) if len(self.known_groups) > 1 else NAN

    @property
    def information_ratio(self) -> float:
        """The mean over the groups, divided by their standard deviation."""
        return self.mean / self.std if self.std > TINY else NAN

    @property
    def sign_share(self) -> float:
        """The share of the groups whose correlation has the sign of the whole."""
        if np.isnan(self.value) or not len(self.known_groups):
            return NAN
        return float((np.sign(self.known_groups) == np.sign(self.value)).mean())


@dataclass(frozen=True)
class FeatureBehavior:
    """The behavior of a feature from row to row, whatever the target; NaN where undefined."""

    autocorrelation: float
    turnover: float
    constant_share: float


@dataclass(frozen=True)
class Signal:
    """A feature measured against one target."""

    ic: Association
    rank_ic: Association
    behavior: FeatureBehavior
    rows: int
    reasons: dict[str, str] = field(default_factory=dict)  # of what is NaN

    def tabulate(self) -> dict[str, object]:
        """Return every metric by its name in the reports."""
        associations = {"ic": self.ic, "rank_ic": self.rank_ic}
        return {
            "rows": self.rows,
            **{name: value for prefix, each in associations.items() for name, value in _tabulate(prefix, each)},
            **vars(self.behavior),
            "undefined": self.reasons,
        }


@dataclass(frozen=True)
class Grid:
    """Where rows stand: their instants, the pairs of consecutive rows, and the rows of each group."""

    instant: np.ndarray  # (n,) the number of the instant in time order
    later: np.ndarray  # (pairs,) rows whose predecessor in the segment is the row before
    groups: tuple[np.ndarray, ...]  # positions of each group's rows

    @classmethod
    def from_rows(cls, time: np.ndarray, segment: np.ndarray, group: np.ndarray) -> "Grid":
        """Return the grid of rows by segment; a segment is a run of consecutive rows."""
        _, instant = np.unique(time, return_inverse=True)
        later = np.flatnonzero(np.diff(segment) == 0) + 1
        return cls(instant, later, tuple(np.flatnonzero(group == number) for number in np.unique(group)))


def measure_signals(
    x: Matrix,
    targets: Mapping[str, np.ndarray],
    *,
    columns: Sequence[str],
    time: np.ndarray,
    segment: np.ndarray,
    group: np.ndarray,
) -> dict[str, dict[str, Signal]]:
    """Return the signal of every column of x (n, F), read one by one, for every target's y (n,), by target and column.

    `segment` numbers runs of consecutive rows, `group` the parts whose correlations show the stability. Targets with
    classes are measured by the class code. Raises ValueError for a value that is not finite.
    """
    for name, labels in targets.items():
        _require_finite(name, labels)
    grid = Grid.from_rows(time, segment, group)
    found: dict[str, dict[str, Signal]] = {name: {} for name in targets}
    with threadpool_limits(limits=1):  # more threads add up in another order
        ys = [_describe_parts(y.astype(np.float64), grid) for y in targets.values()]
        for number, column in enumerate(columns):
            values = x[:, number].astype(np.float64)
            _require_finite(column, values)
            parts, behavior = _describe_parts(values, grid), measure_behavior(values, grid)
            for target, y in zip(targets, ys, strict=True):
                found[target][column] = _measure_signal(parts, y, behavior, grid)
    return {target: _adjust(signals) for target, signals in found.items()}


def measure_behavior(values: np.ndarray, grid: Grid) -> FeatureBehavior:
    """Return the autocorrelation, the turnover and the share of repeated values over pairs of consecutive rows.

    A value repeats the one before where they differ by at most float32's resolution at the larger of both, or at the
    standard deviation. The turnover is the mean absolute change a row of the position that the feature stands for, its
    standard score within ±1; it grows with √(1 − autocorrelation) ([2]).
    """
    if not len(grid.later):
        return FeatureBehavior(NAN, NAN, NAN)
    now, before = values[grid.later], values[grid.later - 1]
    scale = np.maximum(np.maximum(np.abs(now), np.abs(before)), values.std())
    constant_share = float((np.abs(now - before) <= RESOLUTION * scale).mean())
    if is_constant(values):
        return FeatureBehavior(NAN, NAN, constant_share)
    position = np.clip(standardize(values), -MAX_POSITION, MAX_POSITION)
    turnover = float(np.abs(position[grid.later] - position[grid.later - 1]).mean())
    is_correlated = len(now) >= MIN_ROWS and not (is_constant(now) or is_constant(before))
    autocorrelation = correlate(standardize(now), standardize(before)) if is_correlated else NAN
    return FeatureBehavior(autocorrelation, turnover, constant_share)


def _require_finite(name: str, values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise ValueError(f"{name}: a value in row {np.argwhere(~np.isfinite(values))[0, 0]} is not finite")


def _describe_parts(values: np.ndarray, grid: Grid) -> list[Variable | None]:
    """Return a variable over all rows and over those of each group; None where it has too few rows or never varies."""
    return [describe(values), *(describe(values[rows]) for rows in grid.groups)]


def _measure_signal(
    feature: Sequence[Variable | None], y: Sequence[Variable | None], behavior: FeatureBehavior, grid: Grid
) -> Signal:
    """Return the signal of a feature; both variables are over all rows, then over each group's."""
    whole, *groups = (correlate_variables(a, b) for a, b in zip(feature, y, strict=True))
    by_group = np.array(groups).T.tolist()
    ic, rank_ic = (Association(value, groups=tuple(each)) for value, each in zip(whole.tolist(), by_group, strict=True))
    if feature[0] is not None and y[0] is not None:
        ic = _add_error(ic, find_influence(feature[0], y[0], ic.value), grid)
        rank_ic = _add_error(rank_ic, find_rank_influence(feature[0], y[0], rank_ic.value), grid)
    rows = len(grid.instant)
    signal = Signal(ic, rank_ic, behavior, rows)
    return replace(signal, reasons=_explain(signal, has_feature=feature[0] is not None, has_y=y[0] is not None))


def _add_error(association: Association, influence: np.ndarray, grid: Grid) -> Association:
    error, independent_rows = estimate_error(influence, grid.instant)
    statistic = abs(association.value) / error if error > 0 else NAN if np.isnan(error) else np.inf
    p_value = float(2.0 * ndtr(-statistic))
    return replace(association, error=float(error), p_value=p_value, independent_rows=independent_rows)


def _explain(signal: Signal, *, has_feature: bool, has_y: bool) -> dict[str, str]:
    """Return why metrics are undefined, where some are; those of the rank IC share the reasons of the IC."""
    reasons = {}
    if not has_feature or not has_y:
        which = "y" if has_feature else "the feature"
        reasons["ic"] = f"fewer than {MIN_ROWS} rows" if signal.rows < MIN_ROWS else f"{which} {NO_VARIATION}"
    elif np.isnan(signal.ic.error) or np.isnan(signal.rank_ic.error):
        reasons["ic_error"] = f"fewer than {MIN_INDEPENDENT_ROWS} independent rows"
    missing = [number for number, value in enumerate(signal.ic.groups) if np.isnan(value)]
    if missing and "ic" not in reasons:
        reasons["ic_groups"] = f"fewer than {MIN_ROWS} rows or no variation in groups {', '.join(map(str, missing))}"
    has_pairs = not np.isnan(signal.behavior.constant_share)
    for name, value in vars(signal.behavior).items():
        if np.isnan(value):
            reasons[name] = "too few rows follow another" if has_feature or not has_pairs else reasons["ic"]
    return reasons


def _adjust(signals: dict[str, Signal]) -> dict[str, Signal]:
    """Return the signals of a target with p-values adjusted for the number of features."""
    ic, rank_ic = (
        adjust_holm(np.array([getattr(signal, name).p_value for signal in signals.values()]))
        for name in ("ic", "rank_ic")
    )
    return {
        column: replace(
            signal,
            ic=replace(signal.ic, p_adjusted=float(ic[number])),
            rank_ic=replace(signal.rank_ic, p_adjusted=float(rank_ic[number])),
        )
        for number, (column, signal) in enumerate(signals.items())
    }


def _tabulate(name: str, association: Association) -> list[tuple[str, object]]:
    return [
        (name, association.value),
        (f"{name}_error", association.error),
        (f"{name}_p_value", association.p_value),
        (f"{name}_p_adjusted", association.p_adjusted),
        (f"{name}_independent_rows", association.independent_rows),
        (f"{name}_mean", association.mean),
        (f"{name}_std", association.std),
        (f"{name}_information_ratio", association.information_ratio),
        (f"{name}_sign_share", association.sign_share),
        (f"{name}_groups", association.groups),
    ]
