"""Which groups of time each split tests and may train on: combinatorial, k-fold or walk-forward (AFML 7 and 12)."""

import math
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import chain, combinations
from typing import Annotated, Any, Literal, get_args

import numpy as np
from annotated_types import Ge, Interval
from pydantic import AfterValidator, NonNegativeFloat, NonNegativeInt
from pydantic_core import PydanticCustomError

Method = Literal["cpcv", "purged_kfold", "walk_forward_expanding", "walk_forward_rolling"]
METHODS: tuple[Method, ...] = get_args(Method)
EMBARGO_KEYS = ("embargo_pct", "embargo_bars", "embargo_hours")  # of which a scheme has one
HOUR_MS = 3_600_000


def check_share(value: float) -> float:
    """Return the share; an error of pydantic from 1 on, where bars or hours may be meant."""
    if value >= 1:
        raise PydanticCustomError("share", "below 1, a share of the times (embargo_bars and embargo_hours are lengths)")
    return value


EmbargoShare = Annotated[float, Ge(0), AfterValidator(check_share)] | None
EmbargoBars = NonNegativeInt | None
EmbargoHours = NonNegativeFloat | None


@dataclass(frozen=True)
class Scheme:
    """The arguments of `make_folds`; with the spans of the rows they determine the folds."""

    method: Method
    groups: int
    test_groups: int
    train_groups: int
    embargo_pct: float | None
    holdout_pct: float
    embargo_bars: int | None = None
    embargo_hours: float | None = None

    def list_settings(self) -> dict[str, Any]:
        """Return the arguments that are set."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def describe_embargo(self) -> str:
        """Return the key of the embargo, and its value, such as `embargo_bars (20)`."""
        return ", ".join(f"{name} ({value:g})" for name, value in self.list_embargoes().items())

    def list_embargoes(self) -> dict[str, Any]:
        """Return those of EMBARGO_KEYS that are set, with their values: one, once the scheme is checked."""
        return {name: value for name, value in self.list_settings().items() if name in EMBARGO_KEYS}


def choose_groups(scheme: Scheme) -> tuple[np.ndarray, np.ndarray]:
    """Return (n_splits, k) the groups that each split tests, and (n_splits, groups) whether it may train on each."""
    first = scheme.train_groups if scheme.method.startswith("walk_forward") else 0
    size = scheme.test_groups if scheme.method == "cpcv" else 1
    chosen = chain.from_iterable(combinations(range(first, scheme.groups), size))
    splits = np.fromiter(chosen, np.int64).reshape(-1, size)
    group = np.arange(scheme.groups)
    if scheme.method == "walk_forward_expanding":
        return splits, group < splits
    if scheme.method == "walk_forward_rolling":
        return splits, (group < splits) & (group >= splits - scheme.train_groups)
    return splits, ~(splits[:, :, None] == group).any(axis=1)


def number_paths(splits: np.ndarray, groups: int) -> np.ndarray:
    """Return (n_paths, groups): path p tests group g in the p-th split that tests g (AFML 12.4.1); -1 without one."""
    testing = [np.flatnonzero((splits == group).any(axis=1)) for group in range(groups)]
    n_paths = max(map(len, testing))
    return np.array([numbers if len(numbers) else np.full(n_paths, -1) for numbers in testing]).T


def count_share(pct: float, count: int) -> int:
    """Return `pct` of `count`, rounded up, in decimal arithmetic: 0.07 of 100 is 7, while 0.07 * 100 exceeds 7."""
    return math.ceil(Fraction(str(float(pct))) * count)


def count_embargo_bars(scheme: Scheme, *, times: int, bar_ms: int) -> int:
    """Return the embargo of a checked scheme in bars of `bar_ms`, rounded up; a share is one of `times`."""
    ((name, value),) = scheme.list_embargoes().items()
    if name == "embargo_pct":
        return count_share(value, times)
    return int(value) if name == "embargo_bars" else math.ceil(Fraction(str(float(value))) * HOUR_MS / bar_ms)


def find_bar_ms(times: np.ndarray) -> int:
    """Return the most common step between ascending distinct times, the shortest of several."""
    steps, counts = np.unique(np.diff(times), return_counts=True)
    return int(steps[np.argmax(counts)])


def find_holdout_start(time: np.ndarray, *, holdout_pct: Annotated[float, Interval(ge=0, lt=1)]) -> int:
    """Return the first of the last `holdout_pct` of the distinct times; one after the last where that is none."""
    times = np.unique(time)
    sealed = count_share(holdout_pct, len(times))
    return int(times[-sealed] if sealed else times[-1] + 1)


def check_scheme(scheme: Scheme) -> None:
    """Raise ValueError where a part of the scheme is not allowed."""
    if scheme.method not in METHODS:
        raise ValueError(f"folds: method is {scheme.method!r}; allowed are {', '.join(METHODS)}")
    for name in ("groups", "test_groups", "train_groups"):
        value = getattr(scheme, name)
        if not isinstance(value, int):
            raise ValueError(f"folds: {name} is {value!r}; give an integer number of groups")
        if name != "groups" and not 1 <= value < scheme.groups:
            raise ValueError(f"folds: {name} is {value} of {scheme.groups} groups; give 1 to groups - 1")
    check_fraction("holdout_pct", scheme.holdout_pct)
    _check_embargo(scheme)


def check_fraction(name: str, value: float) -> None:
    """Raise ValueError where the share `name` is outside [0, 1)."""
    if not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"folds: {name} is {value!r}; give a share of the distinct times, in [0, 1)")


def _check_embargo(scheme: Scheme) -> None:
    """Raise ValueError unless a scheme has one embargo that is none below zero."""
    found = scheme.list_embargoes()
    if len(found) != 1:
        which = " and ".join(f"{name}: {value}" for name, value in found.items()) or "none"
        raise ValueError(f"folds: of {', '.join(EMBARGO_KEYS)} there is {which}; set one, and the others to null")
    if scheme.embargo_pct is not None:
        check_fraction("embargo_pct", scheme.embargo_pct)
    bars, hours = scheme.embargo_bars, scheme.embargo_hours
    if bars is not None and (isinstance(bars, bool) or not isinstance(bars, int | np.integer) or bars < 0):
        raise ValueError(f"folds: embargo_bars is {bars!r}; give a whole number of bars, at least 0")
    if hours is not None and (not isinstance(hours, int | float) or not 0 <= hours < math.inf):
        raise ValueError(f"folds: embargo_hours is {hours!r}; give a finite number of hours, at least 0")
