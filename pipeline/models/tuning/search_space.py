"""Search spaces: hyperparameters of params.yaml with ranges and choices in the place of some values.

`{low: 0.01, high: 0.3, log: true}` is a range, of whole numbers where both bounds are; `{choices: [...]}` is one of
several values. A choice may be a section with ranges and choices of its own, which are searched where it is chosen.
"""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from annotated_types import MinLen
from pydantic import PositiveFloat

from pipeline import config

DIGITS = 6  # of a value that is not whole: what is tried is what a report can hold


class Suggester(Protocol):
    """A trial of Optuna, or a corner of a search space: either chooses the values of what is searched."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        """Return a whole number of a range."""

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float:
        """Return a number of a range."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return one of the choices."""


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, both included; `is_whole`: of whole numbers."""

    low: float
    high: float
    log: bool
    step: float | None
    is_whole: bool


@dataclass(frozen=True)
class Choices:
    """One of several values, by the label of each."""

    values: Mapping[str | float | bool | None, Any]


def declare_range(*, low: float, high: float, log: bool = False, step: PositiveFloat | None = None) -> None:
    """Declare the keys of a range and their types."""


def declare_choices(*, choices: Annotated[list[Any], MinLen(2)]) -> None:
    """Declare the key of choices and its type."""


def parse_space(block: Mapping[str, Any], *, name: str) -> dict[str, Any]:
    """Return the hyperparameters of a block with a `Range` or `Choices` for each value that is searched.

    Raises:
        ParamsError: a range or choice is not allowed, or nothing is searched; names it.
    """
    space = {key: _parse(value, name=f"{name}.{key}") for key, value in block.items()}
    if not list_searched(space):
        raise config.ParamsError(
            f"{name} has nothing to search; give a value as {{low: 0.01, high: 0.3, log: true}} or {{choices: [8, 16]}}"
        )
    return space


def _parse(value: Any, *, name: str) -> Any:
    if not isinstance(value, Mapping):
        return value
    if "choices" in value:
        return _parse_choices(value, name=name)
    if "low" in value or "high" in value:
        return _parse_range(value, name=name)
    return {key: _parse(inner, name=f"{name}.{key}") for key, inner in value.items()}


def _parse_range(value: Mapping[str, Any], *, name: str) -> Range:
    config.check_section(declare_range, value, name=name)
    low, high, log, step = value["low"], value["high"], value.get("log", False), value.get("step")
    is_whole = all(isinstance(each, int) for each in (low, high))
    faults = {
        "low is not below high": low >= high,
        "log needs a low above 0": log and low <= 0,
        "log and step exclude each other": log and step is not None,
        "the step of a range of whole numbers is whole": is_whole and not isinstance(step, int | None),
    }
    if found := [fault for fault, is_true in faults.items() if is_true]:
        raise config.ParamsError(f"{name} is {dict(value)}; {found[0]}")
    return Range(low, high, log, step, is_whole)


def _parse_choices(value: Mapping[str, Any], *, name: str) -> Choices:
    config.check_section(declare_choices, value, name=name)
    labels = [label_choice(each) for each in value["choices"]]
    if len(set(labels)) < len(labels):
        raise config.ParamsError(f"{name}.choices has a value twice; give each once, sections under distinct names")
    parsed = [_parse(each, name=f"{name}.{label}") for label, each in zip(labels, value["choices"], strict=True)]
    return Choices(dict(zip(labels, parsed, strict=True)))


def label_choice(value: Any) -> str | float | bool | None:
    """Return the label of a choice: the value itself, the `name` of a section, or the text of a list or section."""
    if isinstance(value, Mapping) and isinstance(value.get("name"), str):
        return str(value["name"])
    is_scalar = value is None or isinstance(value, str | int | float | bool)
    return value if is_scalar else json.dumps(value, sort_keys=True)


def suggest(space: Any, trial: Suggester, *, path: str = "") -> Any:
    """Return hyperparameters with a value of `trial` for each that is searched; `path` is the name of the section."""
    if isinstance(space, Range):
        return _suggest_number(space, trial, path=path)
    if isinstance(space, Choices):
        label = trial.suggest_categorical(path, list(space.values))
        return suggest(space.values[label], trial, path=f"{path}.{label}")
    if isinstance(space, Mapping):
        return {key: suggest(inner, trial, path=f"{path}.{key}" if path else key) for key, inner in space.items()}
    return space


def _suggest_number(space: Range, trial: Suggester, *, path: str) -> float:
    if space.is_whole:
        step = 1 if space.step is None else int(space.step)
        return trial.suggest_int(path, int(space.low), int(space.high), step=step, log=space.log)
    value = trial.suggest_float(path, space.low, space.high, step=space.step, log=space.log)
    return min(max(float(f"{value:.{DIGITS}g}"), space.low), space.high)


def list_searched(space: Any, *, path: str = "") -> dict[str, Range | Choices]:
    """Return what is searched by its dotted name, parts of choices with the label of the choice in their names."""
    if isinstance(space, Range):
        return {path: space}
    own: dict[str, Range | Choices] = {path: space} if isinstance(space, Choices) else {}
    inner = space.values if isinstance(space, Choices) else space
    if not isinstance(inner, Mapping):
        return own
    parts = [list_searched(each, path=f"{path}.{key}" if path else str(key)) for key, each in inner.items()]
    return own | dict(itertools.chain.from_iterable(part.items() for part in parts))


def describe_space(space: Any) -> dict[str, dict[str, Any]]:
    """Return what is searched, as reports hold it: the bounds and the scale of a range, the labels of choices."""
    return {
        name: {"choices": list(found.values)}
        if isinstance(found, Choices)
        else {"low": found.low, "high": found.high, "log": found.log}
        for name, found in list_searched(space).items()
    }


@dataclass(frozen=True)
class Corner:
    """A corner of a search space: the low or the high end of every range, and the choice of one number."""

    is_high: bool
    choice: int

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        """Return the highest or lowest value that a search can reach."""
        return low + (high - low) // step * step if self.is_high else low

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float:
        """Return the high or low end of the range."""
        return high if self.is_high else low

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return the choice of this corner's number, the last one of fewer."""
        return choices[min(self.choice, len(choices) - 1)]

    def __str__(self) -> str:
        """Return which corner this is."""
        return f"at the {'high' if self.is_high else 'low'} end of every range, with choice {self.choice + 1}"


def list_corners(space: Any) -> Iterator[Corner]:
    """Yield corners that have the ends of every range and every choice among them."""
    sizes = [len(found.values) for found in list_searched(space).values() if isinstance(found, Choices)]
    for choice, is_high in itertools.product(range(max(sizes, default=1)), (False, True)):
        yield Corner(is_high, choice)
