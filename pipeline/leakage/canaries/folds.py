"""Canaries of folds: train rows share information with test rows."""

from collections.abc import Callable
from functools import partial

from pipeline.leakage.canaries import fold_tables, purge_rules
from pipeline.leakage.canaries.canary import Canary
from pipeline.leakage.canaries.canary_market import CanaryMarket
from pipeline.leakage.canaries.fold_tables import DropRule, FoldTable, divide, divide_by_rule
from pipeline.leakage.findings import Finding
from pipeline.leakage.folds import duplicates, embargo, label_overlap, temporal_order

GUARDS = ("temporal_order", "label_overlap", "embargo", "duplicates")
LONG_LABEL_BARS = 60  # where ten rows are purged by count

Divider = Callable[[CanaryMarket], FoldTable]


def run_guards(divide_market: Divider, market: CanaryMarket) -> list[Finding]:
    """Return the findings about a way to divide the rows."""
    folds, x, segment = divide_market(market)
    return [
        temporal_order(folds),
        label_overlap(folds),
        embargo(folds, market.warm_up_bars),
        duplicates(x, segment, folds),
    ]


def make_rule_canary(name: str, guard: str, drop: DropRule, *, mistake: str, correction: str) -> Canary[Divider]:
    """Return a canary whose splits drop train rows by another rule than the pipeline's."""
    return Canary(name, guard, partial(divide_by_rule, drop=drop), divide, mistake, correction)


CANARIES: tuple[Canary[Divider], ...] = (
    make_rule_canary(
        "no_purge",
        "label_overlap",
        purge_rules.mark_embargoed,
        mistake="nothing is purged, so that train labels extend into the test",
        correction="rows are purged by the end of their labels",
    ),
    make_rule_canary(
        "purge_off_by_one",
        "label_overlap",
        purge_rules.purge_all_but_one_bar,
        mistake="a row stays in train although its label ends with the first bar tested",
        correction="it is purged: spans are closed intervals",
    ),
    make_rule_canary(
        "purge_at_outer_edges_only",
        "label_overlap",
        purge_rules.purge_outer_edges,
        mistake="of several test ranges only the first one's start and the last one's end are purged",
        correction="both edges of every range are purged",
    ),
    Canary(
        "purge_by_row_count",
        "label_overlap",
        partial(divide_by_rule, drop=purge_rules.purge_by_count, label_bars=LONG_LABEL_BARS),
        partial(divide, label_bars=LONG_LABEL_BARS),
        "ten rows are purged on each side of a test range, although labels are sixty bars long",
        "rows are purged by the end of their labels",
    ),
    Canary(
        "groups_cut_by_symbol",
        "label_overlap",
        partial(fold_tables.delay_listing, divides_by_symbol=True),
        partial(fold_tables.delay_listing, divides_by_symbol=False),
        "each symbol's rows are divided into groups separately, although one was listed later than the other",
        "all symbols share the group boundaries in time",
    ),
    Canary(
        "shuffled_k_fold",
        "label_overlap",
        fold_tables.shuffle_rows,
        partial(divide, method="purged_kfold"),
        "rows are assigned to the folds at random",
        "a fold is a range of time, purged and embargoed",
    ),
    make_rule_canary(
        "embargo_before_test",
        "embargo",
        purge_rules.embargo_before_tests,
        mistake="the embargo precedes the test instead of following it",
        correction="it follows the test",
    ),
    make_rule_canary(
        "embargo_after_last_run_only",
        "embargo",
        purge_rules.embargo_last_test,
        mistake="of several test ranges only the last is followed by an embargo",
        correction="every range is",
    ),
    Canary(
        "holdout_at_once",
        "temporal_order",
        fold_tables.hold_out_at_once,
        divide,
        "the holdout begins with the next bar, while labels before it have not ended",
        "it begins when they have ended, and after an embargo",
    ),
    Canary(
        "walk_forward_learns_later_rows",
        "temporal_order",
        partial(divide_by_rule, drop=purge_rules.purge_and_embargo, method="walk_forward_expanding"),
        partial(divide, method="walk_forward_expanding"),
        "a walk-forward also trains on rows after its test, although they are purged and embargoed",
        "it trains on the past only",
    ),
    Canary(
        "rows_copied_to_both_sides",
        "duplicates",
        fold_tables.copy_rows_across_groups,
        divide,
        "missing rows are replaced by rows of another group",
        "no row is a copy",
    ),
    Canary(
        "bars_twice",
        "duplicates",
        fold_tables.repeat_bars,
        divide,
        "two files that overlap are concatenated",
        "every bar occurs once",
    ),
)
