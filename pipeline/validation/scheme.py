"""Which groups of time each split tests and may train on: combinatorial, k-fold or walk-forward (AFML 7 and 12)."""

import math
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, combinations
from typing import Annotated, Literal, get_args

import numpy as np
from annotated_types import Interval

Method = Literal["cpcv", "purged_kfold", "walk_forward_expanding", "walk_forward_rolling"]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True)
class Scheme:
    """The arguments of `make_folds`; with the spans of the rows they determine the folds."""

    method: Method
    groups: int
    test_groups: int
    train_groups: int
    embargo_pct: float
    holdout_pct: float


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
    check_fraction("embargo_pct", scheme.embargo_pct)
    check_fraction("holdout_pct", scheme.holdout_pct)


def check_fraction(name: str, value: float) -> None:
    """Raise ValueError where the share `name` is outside [0, 1)."""
    if not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"folds: {name} is {value!r}; give a share of the distinct times, in [0, 1)")
