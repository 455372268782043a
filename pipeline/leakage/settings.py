"""The settings of the guards that params.yaml has."""

from dataclasses import dataclass

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt


@dataclass(frozen=True, kw_only=True)
class GuardSettings:
    """The section `guard` of params.yaml."""

    cuts: PositiveInt
    look_ahead_ratio: PositiveFloat
    look_ahead_floor: NonNegativeFloat
    correlation_threshold: PositiveFloat
