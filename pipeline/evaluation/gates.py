"""Gates: named limits on measurements, which reports compare with and which stop nothing."""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated

import numpy as np
from annotated_types import Interval
from pydantic import PositiveFloat, PositiveInt

Fraction = Annotated[float, Interval(gt=0, lt=1)]

HOLDS = "holds"  # the metadata of a gate: the comparison of its measurement with its limit that must hold
SIGNS: dict[Callable[[float, float], bool], str] = {operator.gt: ">", operator.lt: "<", operator.ge: "≥"}


@dataclass(frozen=True, kw_only=True)
class Gates:
    """The limits of the section `gates` of params.yaml; a new gate is one more field here and one more line there."""

    signal_ic: Fraction = field(metadata={HOLDS: operator.gt})
    signal_correlation: Fraction = field(metadata={HOLDS: operator.gt})
    signal_turnover: Annotated[float, Interval(gt=0, le=2)] = field(metadata={HOLDS: operator.lt})
    signal_p_value: Fraction = field(metadata={HOLDS: operator.lt})
    stationarity: PositiveFloat = field(metadata={HOLDS: operator.lt})
    seeds: PositiveInt = field(metadata={HOLDS: operator.ge})


@dataclass(frozen=True)
class GateResult:
    """A measurement beside its limit."""

    value: float  # NaN where undefined
    limit: float
    passes: bool | None  # None where the value is undefined


def judge_gates(measurements: Mapping[str, float], gates: Gates) -> dict[str, GateResult]:
    """Return the result of the gate of each measurement, by its name.

    >>> signals = {"signal_ic": 0.05, "signal_correlation": 0.1, "signal_turnover": 0.2, "signal_p_value": 0.05}
    >>> judge_gates({"signal_ic": 0.07, "seeds": 1}, Gates(**signals, stationarity=0.5, seeds=3))["signal_ic"]
    GateResult(value=0.07, limit=0.05, passes=True)

    Raises:
        ValueError: there is no gate of that name.
    """
    return {name: _judge_gate(name, value, gates) for name, value in measurements.items()}


def describe_gate(name: str, gates: Gates) -> str:
    """Return the condition of a gate, such as `signal_ic > 0.05`."""
    return f"{name} {SIGNS[_find_comparison(name)]} {getattr(gates, name):g}"


def _judge_gate(name: str, value: float, gates: Gates) -> GateResult:
    holds, limit = _find_comparison(name), getattr(gates, name)
    return GateResult(value, limit, None if np.isnan(value) else bool(holds(value, limit)))


def _find_comparison(name: str) -> Callable[[float, float], bool]:
    known: dict[str, Callable[[float, float], bool]] = {each.name: each.metadata[HOLDS] for each in fields(Gates)}
    if name not in known:
        raise ValueError(f"there is no gate {name}; there are {', '.join(known)}")
    return known[name]
