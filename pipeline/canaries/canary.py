"""A canary: a leak as people make it, the same without it, and the one guard that has to tell them apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from pipeline.leakage.findings import Finding

Side = TypeVar("Side")

REMEDIES = {  # what makes a guard more watchful, and what calms it
    "truncation": ("raise guard.cuts", "mend pipeline/leakage/features.py"),
    "look_ahead": (
        "lower guard.look_ahead_floor or guard.look_ahead_ratio",
        "raise guard.look_ahead_floor or guard.look_ahead_ratio",
    ),
    "feature_target": ("lower guard.correlation_threshold", "raise guard.correlation_threshold"),
    "label_end": ("raise guard.cuts", "mend pipeline/leakage/labels.py"),
}
NO_THRESHOLD = "it has no threshold, so mend the guard itself in pipeline/leakage"


@dataclass(frozen=True)
class Canary(Generic[Side]):
    """A planted leak and its clean twin: two things of the same kind, questioned by the same guards."""

    name: str
    guard: str  # that has to find it: a catch by another counts as missed
    leak: Side
    twin: Side
    mistake: str  # what is done wrong, as a clause
    instead: str  # what the twin does, as a clause

    def outcome(self, leak: list[Finding], twin: list[Finding]) -> "Outcome":
        """What came of it: the findings of the leak and of the twin."""
        return Outcome(self.name, self.guard, self.mistake, self.instead, leak, twin)


@dataclass(frozen=True)
class Outcome:
    """What every guard that was asked said of a canary's leak and of its twin."""

    name: str
    guard: str
    mistake: str
    instead: str
    leak: list[Finding]
    twin: list[Finding]

    @property
    def caught(self) -> bool:
        """The named guard calls the leak critical."""
        return self.guard in critical(self.leak)

    def complaints(self) -> list[str]:
        """What is wrong with the guards: which canary, which guard, what it found and what to do; empty if nothing."""
        wrong = [self._unfounded(finding) for finding in self.twin if finding.severity == "critical"]
        return wrong if self.caught else [self._missed(), *wrong]

    def _missed(self) -> str:
        said = "; ".join(f"{found.severity}: {found.message}" for found in self.leak if found.guard == self.guard)
        others = f" ({', '.join(critical(self.leak))} does, which does not count)" if critical(self.leak) else ""
        remedy, _ = REMEDIES.get(self.guard, (NO_THRESHOLD, ""))
        return f"canary {self.name}: {self.guard} does not catch it{others}; it says {said or 'nothing'}: {remedy}"

    def _unfounded(self, finding: Finding) -> str:
        _, remedy = REMEDIES.get(finding.guard, ("", NO_THRESHOLD))
        return (
            f"canary {self.name}: {finding.guard} accuses its clean twin ({self.instead}): {finding.message}: {remedy}"
        )


def critical(findings: Sequence[Finding]) -> list[str]:
    """The names of the guards that call something critical, each once, in the order they were asked."""
    return list(dict.fromkeys(finding.guard for finding in findings if finding.severity == "critical"))
