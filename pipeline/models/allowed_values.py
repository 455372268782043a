"""Describe in plain words what params.yaml may give, from the annotations by which `config.check_section` checks it."""

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, get_origin

from pydantic import TypeAdapter

from pipeline import config

TYPES = {  # of JSON schema: the words in pydantic's messages
    "integer": "a valid integer",
    "number": "a valid number",
    "string": "a valid string",
    "boolean": "a valid boolean",
    "array": "a valid array",
    "object": "an object",
}
BOUNDS = {
    "exclusiveMinimum": "greater than ",
    "minimum": "greater than or equal to ",
    "exclusiveMaximum": "less than ",
    "maximum": "less than or equal to ",
}


class Key(NamedTuple):
    """A key of params.yaml, dotted where it stands in a section, and what its value must be."""

    name: str
    allowed: str


Checks = Callable[..., Any] | Mapping[str, Callable[..., Any]]  # see `Model.sections`


def list_allowed_values(
    function: Callable[..., Any], keys: tuple[str, ...], *, sections: Mapping[str, Checks], prefix: str = ""
) -> Iterator[Key]:
    """Yield the keys that feed arguments of a function; a section among them is expanded into its own keys.

    `sections` has what checks a section, where its annotation does not say it. Names begin with `prefix`.
    """
    for key in keys:
        parameter = inspect.signature(function).parameters[key]
        own: Any = parameter.annotation if dataclasses.is_dataclass(parameter.annotation) else None
        checks = sections.get(key, own)
        if checks is None:
            yield Key(prefix + key, describe_parameter(parameter))
        elif isinstance(checks, Mapping):
            yield from _list_alternatives(checks, prefix=f"{prefix}{key}.")
        else:
            yield from list_allowed_values(checks, config.list_keys(checks), sections={}, prefix=f"{prefix}{key}.")


def _list_alternatives(checks: Mapping[str, Callable[..., Any]], *, prefix: str) -> Iterator[Key]:
    """Yield the key `name` of a section that it chooses the other keys of, and these with the name they belong to."""
    yield Key(f"{prefix}name", f"one of {', '.join(checks)}")
    for name, function in checks.items():
        for key in list_allowed_values(function, config.list_keys(function), sections={}, prefix=prefix):
            yield Key(key.name, f"{key.allowed} (of {name})")


def describe_parameter(parameter: inspect.Parameter) -> str:
    """Return what a parameter allows, and its default where it has one, which makes its key optional."""
    allowed = "any value" if parameter.annotation is parameter.empty else describe_type(parameter.annotation)
    if parameter.default is parameter.empty:
        return allowed
    is_made = repr(parameter.default) == "<factory>"  # as the signature of a dataclass shows an empty list or section
    empty = {} if get_origin(parameter.annotation) is dict else []
    return f"{allowed}; {empty if is_made else parameter.default!r} by default"


def describe_type(annotation: Any) -> str:
    """Return what an annotation allows, such as "whole number, at least 1" or "one of auto, cpu, cuda"."""
    return _describe_schema(TypeAdapter(annotation).json_schema()).removeprefix("a ")


def _describe_schema(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return ", or ".join(map(_describe_schema, schema["anyOf"]))
    if "enum" in schema:
        return f"one of {', '.join(map(str, schema['enum']))}"
    if "const" in schema:
        return str(schema["const"])
    kind = schema.get("type", "any value")
    name = config.translate(TYPES.get(kind, kind))
    return _describe_list(name, schema) if kind == "array" else _describe_range(name, schema)


def _describe_list(name: str, schema: Mapping[str, Any]) -> str:
    """Return the words for a list, its length and its items, such as "a list of at least 1, each a whole number"."""
    shortest, longest = schema.get("minItems", 0), schema.get("maxItems")
    if shortest == longest:
        length = f" of {shortest}"
    else:
        bounds = [f"at least {shortest}"] * bool(shortest) + [f"at most {longest}"] * (longest is not None)
        length = f" of {' and '.join(bounds)}" if bounds else ""
    return f"{name}{length}, each {_describe_schema(schema.get('items', {}))}"


def _describe_range(name: str, schema: Mapping[str, Any]) -> str:
    """Return the words for a number and its range; a whole number above 0 is at least 1."""
    bounds = {key: schema[key] for key in BOUNDS if key in schema}
    if schema.get("type") == "integer":
        for exclusive, inclusive, step in (("exclusiveMinimum", "minimum", 1), ("exclusiveMaximum", "maximum", -1)):
            if exclusive in bounds:
                bounds[inclusive] = bounds.pop(exclusive) + step
    words = [config.translate(f"{BOUNDS[key]}{bounds[key]}") for key in BOUNDS if key in bounds]
    if not words:
        return name
    return name + (" " if words[0].startswith(("above", "below")) else ", ") + " and ".join(words)
