"""Canaries of order books, which the stage `canary` plants in a dataset's own events; see `kinds`."""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from pipeline import config
from pipeline.datasets.orderbook.featurize import compute_parts
from pipeline.leakage.canaries.canary import Outcome
from pipeline.leakage.canaries.orderbook import columns, labels
from pipeline.leakage.canaries.orderbook.market import make_market
from pipeline.leakage.canaries.runner import Kind, run_kind, run_separately
from pipeline.leakage.settings import GuardSettings

KINDS: Mapping[str, Kind[Any]] = {  # by the kind of thing that the guards check
    "columns": Kind(columns.GUARDS, columns.CANARIES, columns.run_guards),
    "gates": Kind(columns.GUARDS, columns.GATE_CANARIES, run_separately(columns.run_gate_guards)),
    "labels": Kind(labels.GUARDS, labels.CANARIES, run_separately(labels.run_guards)),
    "folds": Kind(labels.FOLD_GUARDS, labels.FOLD_CANARIES, run_separately(labels.run_fold_guards)),
    "rows": Kind(labels.ROW_GUARDS, labels.ROW_CANARIES, run_separately(labels.run_row_guards)),
}
NAMES = tuple(canary.name for kind in KINDS.values() for canary in kind.canaries)
GUARDS = tuple(dict.fromkeys(guard for kind in KINDS.values() for guard in kind.guards))


def run_canaries(events: pd.DataFrame, block: config.Block, *, settings: GuardSettings, seed: int) -> Iterator[Outcome]:
    """Yield the outcome of every canary, planted in events of a clean table; `block` is the section of features."""

    def compute(part: pd.DataFrame) -> Any:
        return config.call_with(compute_parts, part, block=block, name="features")

    market = make_market(events, compute, settings=settings, seed=seed)
    for kind in KINDS.values():
        yield from run_kind(kind, market)
