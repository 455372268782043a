"""Ensembles against the best of their members: by how much, and whether that is distinguishable from luck."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.evaluation.pairwise import PairComparison


@dataclass(frozen=True)
class BestMemberComparison:
    """The Sharpe ratio of an ensemble less that of its best member, annualized, in the mean over the paths."""

    ensemble: str
    member: str  # the best of its members, or the ensemble that chose one in each split
    is_in_hindsight: bool  # whether the member is known to be the best by the test rows alone, which favors it
    difference: float
    low: float  # of the interval of this difference alone
    high: float
    p_value: float
    p_adjusted: float
    verdict: str
    reason: str | None


def compare_with_best_members(
    ranking: Sequence[str],
    pairs: Sequence[PairComparison],
    members: Mapping[str, Sequence[str]],
    *,
    choosers: Sequence[str],
) -> list[BestMemberComparison]:
    """Return the comparisons of every ensemble with the best of its members; none where that does not trade.

    Args:
        ranking: models and ensembles, the best first.
        pairs: of those that trade.
        members: of each ensemble.
        choosers: ensembles that hold in each split the member that was the best without its test rows.
    """
    by_names = {frozenset((pair.a, pair.b)): pair for pair in pairs}
    found = []
    for ensemble, own in members.items():
        if ensemble in choosers:
            continue
        best = [name for name in ranking if name in own][:1]
        others = [name for name in choosers if set(members[name]) == set(own)]
        for name, is_in_hindsight in [*((name, True) for name in best), *((name, False) for name in others)]:
            if pair := by_names.get(frozenset((ensemble, name))):
                found.append(_orient(pair, ensemble, name, is_in_hindsight=is_in_hindsight))
    return found


def _orient(pair: PairComparison, ensemble: str, member: str, *, is_in_hindsight: bool) -> BestMemberComparison:
    """Return a pair as a difference of the ensemble over the member."""
    difference, low, high = pair.difference, pair.low, pair.high
    if pair.a != ensemble:
        difference, low, high = -difference, -high, -low
    tests = {name: getattr(pair, name) for name in ("p_value", "p_adjusted", "verdict", "reason")}
    return BestMemberComparison(ensemble, member, is_in_hindsight, difference, low, high, **tests)
