"""Read params.yaml, the only module that does, check its sections, and turn them into keyword arguments."""

import dataclasses
import functools
import inspect
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NotRequired, TypeVar

import numpy as np
import yaml
from annotated_types import Interval, MinLen
from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError, with_config
from pydantic_core import ErrorDetails, PydanticCustomError
from typing_extensions import TypedDict

T = TypeVar("T")
Block = Mapping[str, Any]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")  # of a dataset, a target or a model: it becomes a file's name
CLOCK = re.compile(r"\d{1,2}(:[0-5]\d){1,2}$")  # which YAML 1.1 reads as a number to the base 60
PREFIX = "params.yaml: "  # of every message
WORDS = {  # patterns in pydantic's messages, and the words of params.yaml for them
    r"List should have (.*) items? after validation, not \d+": r"a list of \1",
    r"Dictionary should have (.*) items? after validation, not \d+": r"a section of \1",
    "Input should be ": "",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid string": "text",
    "a valid boolean": "true or false",
    "a valid array": "a list",
    "an object": "a section of keys and values",
    "greater than or equal to ": "at least ",
    "less than or equal to ": "at most ",
    "greater than ": "above ",
    "less than ": "below ",
}
UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")
PRECEDENCE = {**dict.fromkeys(UNKNOWN_KEY, 0), "missing": 1}  # of errors: keys before values, which they explain


def check_distinct(values: list[int]) -> list[int]:
    """Return the values; an error of pydantic where one is there twice."""
    if len(set(values)) < len(values):
        raise PydanticCustomError("distinct", "a list of distinct numbers")
    return values


Seed = Annotated[int, Interval(ge=0, le=2**63 - 1)]  # as large as tables hold
DistinctSeeds = Annotated[list[Seed], AfterValidator(check_distinct)]


class ParamsError(ValueError):
    """A value of params.yaml that is not allowed; the message names it, what it is and what is allowed."""

    def __init__(self, message: str) -> None:
        """`message` may be that of another ParamsError, which has the file's name in front already."""
        super().__init__(PREFIX + message.removeprefix(PREFIX))


class _Loader(yaml.SafeLoader):
    """Reads params as YAML 1.2, as DVC does: 5e-05 is a number, 13:00 is text; so is a date, as JSON has none."""


_Loader.yaml_implicit_resolvers = {
    first: [("tag:yaml.org,2002:str", CLOCK), *[each for each in known if each[0] != "tag:yaml.org,2002:timestamp"]]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)[eE][-+]?\d+$"), list("-+.0123456789")
)


class ModelBlock(NamedTuple):
    """One entry of `models` in params.yaml: the family that it stands under, its content, and its name."""

    family: str
    block: Block
    name: str = "<model>"


def load_params() -> dict[str, Any]:
    """Return the sections of params.yaml."""
    try:
        params = yaml.load(Path("params.yaml").read_text(encoding="utf-8"), Loader=_Loader)
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        where = f"line {place.line + 1}" if place else "some line"
        raise ParamsError(f"{where} is not YAML ({getattr(error, 'problem', error)}); correct it") from error
    if not isinstance(params, dict):
        raise ParamsError(f"the file is {params!r}; it must have sections of keys and values")
    if seeds := {name: params[name] for name in ("seed", "seeds") if name in params}:
        check_section(_declare_seeds, seeds, name="", keys=tuple(seeds))
    _check_names(params)
    return params


def _check_names(params: Block) -> None:
    """Raise ParamsError where a dataset, a target, a source or a model has a name that no file can have."""
    for owner in ("datasets", "datasets.*.targets", "sources", "models", "models.*"):
        sections: dict[str, Any] = {"": params}
        for key in owner.split("."):
            found = {name: section for name, section in sections.items() if isinstance(section, Mapping)}
            sections = {
                _join([name, inner]): section[inner]
                for name, section in found.items()
                for inner in (section if key == "*" else (key,))
                if inner in section
            }
        for name, section in sections.items():
            for inner in section if isinstance(section, Mapping) else ():
                check_name(inner, owner=name)


def _declare_seeds(*, seed: Seed, seeds: DistinctSeeds) -> None:
    """Declare the types of the only values that stand outside of all sections."""


def list_seeds(params: Block) -> list[int]:
    """Return the seeds of the fits: `seeds`, or `seed` alone where there are none."""
    return list(params.get("seeds") or [params["seed"]])


def look_up(params: Block, path: str) -> Any:
    """Return the value at a dotted path of params, such as `datasets.klines.source`; ParamsError names what exists."""
    value: Any = params
    done: list[str] = []
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            known = ", ".join(map(str, value)) if isinstance(value, Mapping) else repr(value)
            raise ParamsError(f"there is no {path}; {'.'.join(done) or 'the file'} has {known}")
        value, done = value[key], [*done, key]
    return value


def find_model(params: Block, model: str) -> ModelBlock:
    """Return the entry `models.<family>.<model>`; ParamsError where no family has the model, or several have it."""
    families = look_up(params, "models")
    found = [family for family, models in families.items() if models and model in models]
    if len(found) != 1:
        names = ", ".join(f"{family}.{name}" for family, models in families.items() for name in models or ())
        fault = f"stands in {', '.join(found)}; rename all but one" if found else f"is not there; models has {names}"
        raise ParamsError(f"model {model} {fault}")
    check_name(model, owner=f"models.{found[0]}")
    entry = families[found[0]][model]
    check_section(declare_model, entry, name=f"models.{found[0]}.{model}")
    try:
        look_up(params, f"datasets.{entry['dataset']}.targets.{entry['target']}")
    except ParamsError as error:
        raise ParamsError(f"models.{found[0]}.{model}: {str(error).removeprefix(PREFIX)}") from None
    return ModelBlock(found[0], entry, model)


def declare_model(
    *,
    dataset: str,
    target: str,
    plugin: str,
    hyperparameters: dict[str, Any],
    columns: Annotated[list[str], MinLen(1)] | None = None,
    include_symbols: Annotated[list[str], MinLen(1)] | None = None,
    exclude_neutrals: bool = False,
) -> None:
    """Declare the keys of a model and their types; those with a default may be left out.

    `columns` are names of features, or of groups of them, that it sees. `include_symbols` are the only symbols that it
    learns from and predicts. With `exclude_neutrals` it learns from no row whose class is neutral.
    """


def check_name(name: object, *, owner: str) -> None:
    """Raise ParamsError where a name cannot be that of a file."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ParamsError(
            f"{owner}: {name!r} cannot be a name; allowed are letters, digits, _ and -, the first a letter or digit"
        )


def call_with(function: Callable[..., T], *args: Any, block: Block, name: str) -> T:
    """Return `function(*args, **block)`: the keys of a section are the function's keyword-only arguments.

    Raises:
        ParamsError: see `check_section`.
    """
    check_section(function, block, name=name)
    return function(*args, **block)


def check_section(
    function: Callable[..., Any], block: object, *, name: str, keys: tuple[str, ...] | None = None
) -> None:
    """Check a section of params.yaml by the annotations of a function's keyword-only arguments, or of those in `keys`.

    Types are strict: text is never read as a number, a number never as true or false, a fraction never as an integer.

    Raises:
        ParamsError: a key is unknown or missing, or a value is not allowed; names it, and what is allowed.
    """
    if not isinstance(block, Mapping):
        raise ParamsError(f"{name} is {block!r}; it must be a section of keys and values")
    keys = list_keys(function) if keys is None else keys
    if errors := _find_errors(function, block, keys):
        found = min(errors, key=lambda each: (PRECEDENCE.get(each["type"], 2), -len(each["loc"])))
        path = _find_path(block, found["loc"])
        if found["type"] in PRECEDENCE:
            raise ParamsError(_describe_key_error(found, path, name=name, keys=keys))
        demands = [translate(each["msg"]) for each in errors if _find_path(block, each["loc"]) == path]
        with_null = _replace(block, path, None)
        if all(_find_path(with_null, each["loc"]) != path for each in _find_errors(function, with_null, keys)):
            demands.append("null")
        allowed = ", or ".join(dict.fromkeys(demands))
        raise ParamsError(f"{_join([name, *path])} is {found['input']!r}; it must be {allowed}")


def _find_errors(function: Callable[..., Any], block: Block, keys: tuple[str, ...]) -> list[ErrorDetails]:
    """Return the errors of a section, one for each alternative of a value that none of them allows."""
    try:
        _make_schema(function, keys).validate_json(json.dumps(dict(block), default=str))  # JSON has YAML's types
    except ValidationError as error:
        return error.errors()
    return []


def _replace(part: Any, path: Sequence[int | str], value: object) -> Any:
    """Return a copy of a part of params with another value at a place of it."""
    if not path:
        return value
    items = enumerate(part) if isinstance(part, list) else part.items()
    changed = {key: _replace(each, path[1:], value) if key == path[0] else each for key, each in items}
    return list(changed.values()) if isinstance(part, list) else changed


def check_fields(owner: Any, *, name: str) -> None:
    """Check the fields of a dataclass by their own annotations, as `check_section` does."""
    check_section(type(owner), {each.name: getattr(owner, each.name) for each in dataclasses.fields(owner)}, name=name)


def list_keys(function: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of a function's keyword-only arguments."""
    return tuple(p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY)


@functools.cache
def _make_schema(function: Callable[..., Any], keys: tuple[str, ...]) -> TypeAdapter[Any]:
    parameters = inspect.signature(function).parameters
    types = {key: _find_type(parameters[key]) for key in keys}
    section = TypedDict("section", types)  # type: ignore[misc]
    return TypeAdapter(with_config(ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))(section))


def _find_type(parameter: inspect.Parameter) -> Any:
    """Return the type of a key; a parameter with a default makes its key optional."""
    annotation = Any if parameter.annotation is parameter.empty else parameter.annotation
    return annotation if parameter.default is parameter.empty else NotRequired[annotation]


def _describe_key_error(found: ErrorDetails, path: list[int | str], *, name: str, keys: tuple[str, ...]) -> str:
    """Return the error of a key that is unknown or missing; `path` is its place in the section."""
    if found["type"] in UNKNOWN_KEY:
        *path, key = path
        fault = f": unknown key {key!r}"
    else:
        fault = f": key {found['loc'][-1]!r} is missing"
    known = f"; its keys are {', '.join(keys)}" if not path else ""
    return _join([name, *path]) + fault + known


def translate(message: str) -> str:
    """Return what a message of pydantic demands, in the words of params.yaml."""
    return functools.reduce(lambda text, pair: re.sub(pair[0], pair[1], text), WORDS.items(), message)


def _join(path: Iterable[int | str]) -> str:
    return ".".join(str(part) for part in path if part != "")


def _find_path(block: Any, loc: tuple[int | str, ...]) -> list[int | str]:
    """Return the keys of a place in a section: pydantic adds the names of alternatives, which are no keys."""
    path: list[int | str] = []
    for part in loc:
        keys = range(len(block)) if isinstance(block, list) else block if isinstance(block, Mapping) else ()
        if part in keys:
            block = block[part]
            path.append(part)
    return path


def count_workers() -> int:
    """Return how many fits run at once: PIPELINE_WORKERS, else the CPUs of this process. It never changes a result."""
    given = os.environ.get("PIPELINE_WORKERS") or str(len(os.sched_getaffinity(0)))
    if not given.isdecimal() or int(given) < 1:
        raise ValueError(f"PIPELINE_WORKERS is {given!r}; it is a number of processes, 1 or more")
    return int(given)


def derive_seed(seed: int, model: str, fold: int) -> int:
    """Return the seed of one fit: a different one for each (seed, model, fold), the same on every machine."""
    sequence = np.random.SeedSequence([seed, zlib.crc32(model.encode()), fold + 1])
    return int(sequence.generate_state(1)[0] >> 1)
