"""A canary: a planted leak and its clean counterpart, which one guard has to distinguish."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from pipeline.leakage.findings import Finding

Side = TypeVar("Side")

REMEDIES = {  # by guard: what to do after a missed leak, and after a false alarm
    "truncation": ("raise guard.cuts", "fix pipeline/leakage/features.py"),
    "look_ahead": (
        "lower guard.look_ahead_floor or guard.look_ahead_ratio",
        "raise guard.look_ahead_floor or guard.look_ahead_ratio",
    ),
    "target_leakage": ("lower guard.correlation_threshold", "raise guard.correlation_threshold"),
    "label_end": ("raise guard.cuts", "fix pipeline/leakage/labels.py"),
}
NO_THRESHOLD = "it has no threshold, so fix the guard itself in pipeline/leakage"


@dataclass(frozen=True)
class Canary(Generic[Side]):
    """A planted leak and its clean counterpart: two sides of the same kind, checked by the same guards."""

    name: str
    guard: str  # that has to catch the leak: a catch by another guard counts as a miss
    leak: Side
    clean: Side
    mistake: str  # what the leak does wrong, as a clause
    correction: str  # what the clean counterpart does, as a clause

    def make_outcome(self, leak: list[Finding], clean: list[Finding]) -> "Outcome":
        """Return the outcome, given the findings about either side."""
        return Outcome(self.name, self.guard, self.mistake, self.correction, leak, clean)


@dataclass(frozen=True)
class Outcome:
    """The findings of every guard about a canary's leak and about its clean counterpart."""

    name: str
    guard: str
    mistake: str
    correction: str
    leak: list[Finding]
    clean: list[Finding]

    @property
    def is_caught(self) -> bool:
        """True where the named guard calls the leak critical."""
        return self.guard in list_critical_guards(self.leak)

    @property
    def is_false_alarm(self) -> bool:
        """True where any guard calls the clean counterpart critical."""
        return bool(list_critical_guards(self.clean))

    def list_failures(self) -> list[str]:
        """Return one message for a missed leak and for each false alarm: canary, guard, its finding and the remedy."""
        false_alarms = [self._describe_false_alarm(found) for found in self.clean if found.severity == "critical"]
        return false_alarms if self.is_caught else [self._describe_miss(), *false_alarms]

    def _describe_miss(self) -> str:
        """Return the message for a leak that the named guard does not call critical."""
        findings = [f"{found.severity}: {found.message}" for found in self.leak if found.guard == self.guard]
        others = list_critical_guards(self.leak)
        by_others = f" ({', '.join(others)} catches it, which does not count)" if others else ""
        remedy, _ = REMEDIES.get(self.guard, (NO_THRESHOLD, ""))
        reported = "; ".join(findings) or "nothing"
        return f"canary {self.name}: {self.guard} misses the leak{by_others}; it reports {reported}: {remedy}"

    def _describe_false_alarm(self, finding: Finding) -> str:
        """Return the message for a critical finding about the clean counterpart."""
        _, remedy = REMEDIES.get(finding.guard, ("", NO_THRESHOLD))
        return (
            f"canary {self.name}: {finding.guard} raises a false alarm on the clean counterpart ({self.correction}): "
            f"{finding.message}: {remedy}"
        )


def list_critical_guards(findings: Sequence[Finding]) -> list[str]:
    """Return the names of the guards with a critical finding, each once, in the order of the findings."""
    return list(dict.fromkeys(finding.guard for finding in findings if finding.severity == "critical"))
