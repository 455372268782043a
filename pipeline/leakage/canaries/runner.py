"""The runner of all canaries: it checks every leak and every clean counterpart with the guards of its kind."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pipeline.leakage.canaries import columns, external_columns, features, fits, folds, labels, segments
from pipeline.leakage.canaries.canary import Canary, Outcome, Side
from pipeline.leakage.canaries.canary_market import CanaryMarket
from pipeline.leakage.findings import Finding

Market = TypeVar("Market")
Findings = dict[str, list[Finding]]  # by name of the side


@dataclass(frozen=True)
class Kind(Generic[Side]):
    """The canaries of one kind, and the guards that check every side of that kind."""

    guards: tuple[str, ...]
    canaries: tuple[Canary[Side], ...]
    run_guards: Callable[[Mapping[str, Side], Any], Findings]  # of sides by name, and their market


def run_separately(
    run_guards: Callable[[Side, Market], list[Finding]],
) -> Callable[[Mapping[str, Side], Market], Findings]:
    """Return a function that runs the guards on one side after another."""

    def run(sides: Mapping[str, Side], market: Market) -> Findings:
        return {name: run_guards(side, market) for name, side in sides.items()}

    return run


KINDS: dict[str, Kind[Any]] = {  # by the kind of thing that the guards check
    "columns": Kind(columns.GUARDS, (*features.CANARIES, *external_columns.CANARIES), columns.run_guards),
    "labels": Kind(labels.GUARDS, labels.CANARIES, run_separately(labels.run_guards)),
    "rows": Kind(segments.GUARDS, segments.CANARIES, run_separately(segments.run_guards)),
    "folds": Kind(folds.GUARDS, folds.CANARIES, run_separately(folds.run_guards)),
    "fits": Kind(fits.GUARDS, fits.CANARIES, run_separately(fits.run_guards)),
}
NAMES = tuple(canary.name for kind in KINDS.values() for canary in kind.canaries)
GUARDS = tuple(guard for kind in KINDS.values() for guard in kind.guards)


def run_canaries(market: CanaryMarket) -> Iterator[Outcome]:
    """Yield the outcome of every canary, kind by kind."""
    for kind in KINDS.values():
        yield from run_kind(kind, market)


def run_kind(kind: Kind[Any], market: Any) -> Iterator[Outcome]:
    """Yield the outcome of every canary of a kind; a counterpart that several canaries share is checked once."""
    names = {canary.clean: canary.name for canary in reversed(kind.canaries)}  # by counterpart: its first canary
    leaks = kind.run_guards({canary.name: canary.leak for canary in kind.canaries}, market)
    counterparts = {canary.name: canary.clean for canary in kind.canaries if names[canary.clean] == canary.name}
    clean = kind.run_guards(counterparts, market)
    for canary in kind.canaries:
        yield canary.make_outcome(leaks[canary.name], clean[names[canary.clean]])
