"""Rows divided into folds, by the pipeline and in the wrong ways of the canaries."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from pipeline.leakage.canaries.canary_market import CanaryMarket
from pipeline.leakage.canaries.purge_rules import mark_tested
from pipeline.validation.folds import Folds, TimeRange, make_folds
from pipeline.validation.scheme import Method

GROUPS, TEST_GROUPS, HOLDOUT_PCT = 4, 2, 0.15
LISTING_QUANTILE = 0.3  # fraction of the first symbol's rows that come before the second symbol is listed
COPIED_ROWS = 200


@dataclass(frozen=True)
class ListedFolds:
    """Folds with their rows listed split by split, so that any row can be in any of them."""

    time: np.ndarray  # (N,) ms
    label_end: np.ndarray  # (N,) ms
    embargo_bars: int
    embargo_ms: int
    is_walk_forward: bool
    train_rows: tuple[np.ndarray, ...]  # by split
    test_rows: tuple[np.ndarray, ...]
    development_rows: np.ndarray
    holdout_rows: np.ndarray

    @property
    def n_splits(self) -> int:
        """The number of splits."""
        return len(self.train_rows)

    def train(self, split: int) -> np.ndarray:
        """Return the train rows of a split."""
        return self.train_rows[split]

    def test(self, split: int) -> np.ndarray:
        """Return the test rows of a split."""
        return self.test_rows[split]

    def development(self) -> np.ndarray:
        """Return the rows before the holdout."""
        return self.development_rows

    def holdout(self) -> np.ndarray:
        """Return the rows that no split uses."""
        return self.holdout_rows


class FoldTable(NamedTuple):
    """A table of rows, and how it is divided into folds."""

    folds: Folds | ListedFolds
    x: np.ndarray  # (N, F)
    segment: np.ndarray  # (N,)


DropRule = Callable[[Folds, list[TimeRange]], np.ndarray]  # (N,) rows that a split must not train on


def list_folds(folds: Folds) -> ListedFolds:
    """Return the same folds, with their rows listed."""
    splits = range(folds.n_splits)
    return ListedFolds(
        time=folds.time,
        label_end=folds.label_end,
        embargo_bars=folds.embargo_bars,
        embargo_ms=folds.embargo_ms,
        is_walk_forward=folds.is_walk_forward,
        train_rows=tuple(folds.train(split) for split in splits),
        test_rows=tuple(folds.test(split) for split in splits),
        development_rows=folds.development(),
        holdout_rows=folds.holdout(),
    )


def divide_span(
    time: np.ndarray, label_end: np.ndarray, market: CanaryMarket, *, method: Method, holdout_pct: float = HOLDOUT_PCT
) -> Folds:
    """Return the pipeline's folds of rows with these spans, with an embargo as long as the longest warm-up."""
    return make_folds(
        time,
        label_end,
        method=method,
        groups=GROUPS,
        test_groups=TEST_GROUPS,
        train_groups=1,
        embargo_bars=market.warm_up_bars,
        holdout_pct=holdout_pct,
    )


def divide_rows(market: CanaryMarket, *, method: Method, label_bars: int | None = None) -> Folds:
    """Return the pipeline's folds of the market's rows, with labels of another length where `label_bars` is given."""
    time = market.samples.time
    label_end = time + label_bars * market.bar_ms if label_bars else market.samples.label_end
    return divide_span(time, label_end, market, method=method)


def divide(market: CanaryMarket, *, method: Method = "cpcv", label_bars: int | None = None) -> FoldTable:
    """Return the rows divided as by the pipeline."""
    folds = divide_rows(market, method=method, label_bars=label_bars)
    return FoldTable(folds, market.samples.x, market.samples.segment)


def divide_by_rule(
    market: CanaryMarket, *, drop: DropRule, method: Method = "cpcv", label_bars: int | None = None
) -> FoldTable:
    """Return the rows with the pipeline's tests, and the train rows that are left by the rule `drop`."""
    folds = divide_rows(market, method=method, label_bars=label_bars)
    in_development = np.isin(np.arange(len(folds.time)), folds.development())
    tests = [folds.find_test_ranges(split) for split in range(folds.n_splits)]
    rows = tuple(np.flatnonzero(in_development & ~mark_tested(folds, test) & ~drop(folds, test)) for test in tests)
    return FoldTable(replace(list_folds(folds), train_rows=rows), market.samples.x, market.samples.segment)


def shuffle_rows(market: CanaryMarket) -> FoldTable:
    """Return the rows dealt to the groups at random."""
    folds = divide_rows(market, method="purged_kfold")
    development = folds.development()
    parts = np.array_split(np.random.default_rng(market.seed).permutation(development), GROUPS)
    test_rows = tuple(np.sort(part) for part in parts)
    train_rows = tuple(np.setdiff1d(development, test) for test in test_rows)
    shuffled = replace(list_folds(folds), test_rows=test_rows, train_rows=train_rows)
    return FoldTable(shuffled, market.samples.x, market.samples.segment)


def hold_out_at_once(market: CanaryMarket) -> FoldTable:
    """Return the rows with a holdout that begins with the bar after the development part."""
    folds = divide_rows(market, method="cpcv")
    rest = np.setdiff1d(np.arange(len(folds.time)), folds.development())
    return FoldTable(replace(list_folds(folds), holdout_rows=rest), market.samples.x, market.samples.segment)


def delay_listing(market: CanaryMarket, *, divides_by_symbol: bool) -> FoldTable:
    """Return rows where all symbols but the first are listed later, divided in common time or by each symbol."""
    samples = market.samples
    symbol = market.bars["symbol"].to_numpy()[market.rows]
    listed_ms = np.quantile(samples.time, LISTING_QUANTILE)
    rows = np.flatnonzero((symbol == symbol[0]) | (samples.time >= listed_ms))
    time, label_end, x, segment = (part[rows] for part in (samples.time, samples.label_end, samples.x, samples.segment))
    folds = divide_span(time, label_end, market, method="purged_kfold")
    if not divides_by_symbol:
        return FoldTable(folds, x, segment)
    development = folds.development()
    parts = [development[symbol[rows[development]] == name] for name in dict.fromkeys(symbol)]
    by_symbol = [
        divide_span(time[part], label_end[part], market, method="purged_kfold", holdout_pct=0.0) for part in parts
    ]
    train_rows, test_rows = (
        tuple(
            np.concatenate([part[select(own, split)] for part, own in zip(parts, by_symbol, strict=True)])
            for split in range(GROUPS)
        )
        for select in (Folds.train, Folds.test)
    )
    return FoldTable(replace(list_folds(folds), train_rows=train_rows, test_rows=test_rows), x, segment)


def copy_rows_across_groups(market: CanaryMarket) -> FoldTable:
    """Return the rows with a part of the third group replaced by a copy of rows of the first."""
    folds, x = divide_rows(market, method="cpcv"), market.samples.x.copy()
    source, target = (np.flatnonzero(folds.number_groups() == number)[:COPIED_ROWS] for number in (0, 2))
    x[target] = x[source]
    return FoldTable(folds, x, market.samples.segment)


def repeat_bars(market: CanaryMarket) -> FoldTable:
    """Return the rows of two overlapping files, one after the other."""
    samples = market.samples
    rows = np.append(np.arange(len(samples.time)), np.arange(COPIED_ROWS))
    folds = divide_span(samples.time[rows], samples.label_end[rows], market, method="cpcv")
    return FoldTable(folds, samples.x[rows], samples.segment[rows])
