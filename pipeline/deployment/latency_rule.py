"""The latency rule of a promotion: the section `promote` of params.yaml against what the stage `latency` measured.

Latency is a fact about a machine and a moment. So it is no rule of the stage `gate`, whose result DVC caches.
"""

import platform
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pydantic import PositiveFloat

from pipeline import artifacts, read_cpu

REPORTS = artifacts.MEASURED / "latency"  # of this machine: neither cached by DVC nor in git
THROUGHPUT = "bars_per_second"  # the only limit that a measurement must not be below
UNITS = {"p50_us": "µs", "p99_us": "µs", THROUGHPUT: "bars a second", "memory_mb": "MB"}
OFF = "latency is not judged: promote in params.yaml sets no limit"


@dataclass(frozen=True, kw_only=True)
class LatencyRule:
    """The section `promote` of params.yaml: the limits of the hot path of a bundle; None: a limit is off."""

    selection: str  # of `latency.models`
    p50_us: PositiveFloat | None
    p99_us: PositiveFloat | None
    bars_per_second: PositiveFloat | None  # at saturation
    memory_mb: PositiveFloat | None  # peak of the resident memory

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set, by figure."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "selection"}
        return {name: value for name, value in values.items() if value is not None}


def check_latency(root: Path, bundle: str, *, contract_sha256: str, rule: LatencyRule) -> dict[str, Any] | None:
    """Return the measurement by which the hot path of a bundle passes a rule; None where no limit is set.

    Raises:
        ValueError: the latency of this very contract was not measured on this machine, or a limit is broken.
    """
    if not rule.limits:
        return None
    dataset = Path(bundle).name
    path = REPORTS / f"{dataset}.json"
    remedy = f"run `python -m pipeline.stages.latency {dataset}`, then promote"
    if not (root / path).exists():
        names = ", ".join(f"promote.{name}" for name in rule.limits)
        raise ValueError(f"{path} does not exist, and params.yaml sets {names}; {remedy}")
    report = artifacts.read_json(root / path)
    host = describe_host()
    for key, expected in {"contract_sha256": contract_sha256, "host": host}.items():
        if (found := report.get(key)) != expected:
            raise ValueError(f"{path} is not of this {key}: it has {found}, expected is {expected}; {remedy}")
    if (measured := report["selections"].get(rule.selection)) is None:
        known = ", ".join(report["selections"])
        raise ValueError(f"promote.selection is {rule.selection!r}; {path} has {known}; choose one, or {remedy}")
    figures = {name: float(measured["figures"][name]) for name in rule.limits}
    if broken := find_broken(figures, rule.limits):
        raise ValueError(
            f"the hot path of {rule.selection!r} is beyond its limits: {'; '.join(broken)}; {path} has all figures: "
            "measure again where the machine was busy, or change promote in params.yaml and commit"
        )
    return {"selection": rule.selection, "models": measured["models"], "figures": figures, "host": host}


def find_broken(figures: Mapping[str, float], limits: Mapping[str, float]) -> list[str]:
    """Return a text for each figure that is beyond its limit: a throughput below it, any other figure above it."""
    broken = []
    for name, limit in limits.items():
        value, is_throughput = figures[name], name == THROUGHPUT
        if not (value >= limit if is_throughput else value <= limit):
            side = "below" if is_throughput else "above"
            broken.append(f"{name} is {value:,.1f} {UNITS[name]}, {side} {limit:,.1f}")
    return broken


def describe_host() -> dict[str, str | None]:
    """Return the name of this machine and the model of its CPU; None where /proc does not say it."""
    return {"name": platform.node(), "cpu": read_cpu().get("model name")}


def render_latency(measured: Mapping[str, Any] | None) -> str:
    """Return what a promotion says of latency: the figures that pass, or that none is judged."""
    if measured is None:
        return OFF
    figures = ", ".join(f"{name} {value:,.1f} {UNITS[name]}" for name, value in measured["figures"].items())
    return f"latency of {measured['selection']!r} on {measured['host']['name']}: {figures}"
