"""Counts of what a feed received, took and refused, by kind; of each kind of refusal some are logged."""

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

log = logging.getLogger(__name__)

LOGGED_EVERY = 1_000  # refusals of one kind: the first and every thousandth is logged


class Tally:
    """Counts by kind: `refused` is input with a fault, `ignored` is valid input that is no closed bar."""

    def __init__(self) -> None:
        """Begin with nothing counted."""
        self.bars = self.signals = 0  # taken by the hot path; written
        self.refused: Counter[str] = Counter()
        self.ignored: Counter[str] = Counter()
        self.connection: Counter[str] = Counter()  # events of a connection, such as opened, dropped and stale
        self.hot_path: Mapping[str, int] = {}  # counts of the hot path, since its state began

    def refuse(self, kind: str, message: str) -> None:
        """Count one refusal of a kind; log its message where it is the first of its kind, or every thousandth."""
        self.refused[kind] += 1
        count = self.refused[kind]
        if count == 1 or count % LOGGED_EVERY == 0:
            log.warning(f"refused as {kind} ({count:,}): {message}")

    def summarize(self) -> dict[str, Any]:
        """Return all counts as one mapping that JSON can hold."""
        return {
            "bars": self.bars,
            "signals": self.signals,
            "refused": dict(sorted(self.refused.items())),
            "ignored": dict(sorted(self.ignored.items())),
            "connection": dict(sorted(self.connection.items())),
            "hot_path": dict(self.hot_path),
        }
