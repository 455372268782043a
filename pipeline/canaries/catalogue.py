"""Every canary, and what the guards say of all of them on one ground."""

from collections.abc import Iterator

from pipeline.canaries import columns, deliveries, features, fits, folds, labels, segments
from pipeline.canaries.canary import Outcome
from pipeline.canaries.ground import Ground

COLUMNS = (*features.CANARIES, *deliveries.CANARIES)
NAMES = tuple(
    canary.name
    for room in (COLUMNS, labels.CANARIES, segments.CANARIES, folds.CANARIES, fits.CANARIES)
    for canary in room
)
GUARDS = {  # by what is questioned: all that the line asks of such a thing
    "columns": ("truncation", "look_ahead", "feature_target"),
    "labels": ("label_end", "known_at"),
    "rows": ("segments",),
    "folds": ("temporal_order", "label_overlap", "embargo", "duplicates"),
    "fits": ("normalization", "fit_rows", "unseen_rows", "row_order"),
}


def questioned(ground: Ground) -> Iterator[Outcome]:
    """What the guards say of every canary and its twin, in the order of the catalogue."""
    leaks = columns.asked({canary.name: canary.leak for canary in COLUMNS}, ground)
    twins = columns.asked({canary.name: canary.twin for canary in COLUMNS}, ground)
    yield from (canary.outcome(leaks[canary.name], twins[canary.name]) for canary in COLUMNS)
    for room in (labels, segments, folds, fits):
        yield from room.questioned(ground)
