"""Read params.yaml, the only module that does, and turn its blocks into keyword arguments."""

import inspect
import os
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import yaml

T = TypeVar("T")
Block = Mapping[str, Any]


class _Loader(yaml.SafeLoader):
    """Reads numbers as DVC writes them, by YAML 1.2: 5e-05 is a number, where PyYAML alone reads a string."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)[eE][-+]?\d+$"), list("-+.0123456789")
)


class ModelBlock(NamedTuple):
    """One entry of `models` in params.yaml, and the family that it stands under."""

    family: str
    block: Block


def load_params() -> dict[str, Any]:
    """Return the blocks of params.yaml."""
    with Path("params.yaml").open() as stream:
        params: dict[str, Any] = yaml.load(stream, Loader=_Loader)
    return params


def look_up(params: Block, path: str) -> Any:
    """Return the value at a dotted path of params, such as `datasets.klines.source`; ValueError names what exists."""
    value: Any = params
    done: list[str] = []
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            known = ", ".join(value) if isinstance(value, Mapping) else "nothing"
            raise ValueError(f"params.yaml: there is no {path}; {'.'.join(done) or 'the file'} has {known}")
        value, done = value[key], [*done, key]
    return value


def find_model(params: Block, model: str) -> ModelBlock:
    """Return the block `models.<family>.<model>`; ValueError where no family has the model, or several have it."""
    families = look_up(params, "models")
    found = [family for family, models in families.items() if models and model in models]
    if len(found) != 1:
        names = ", ".join(f"{family}.{name}" for family, models in families.items() for name in models or ())
        fault = f"stands in {', '.join(found)}; rename all but one" if found else f"is not there; models has {names}"
        raise ValueError(f"params.yaml: model {model} {fault}")
    return ModelBlock(found[0], families[found[0]][model])


def call_with(function: Callable[..., T], *args: Any, block: Block, name: str) -> T:
    """Return `function(*args, **block)`: the keys of a params block are its keyword-only arguments.

    Raises:
        ValueError: a key is misspelt or missing; names it, the block and the keys that exist.
    """
    if not isinstance(block, Mapping):
        raise ValueError(f"{name}: is {block!r}; it is a block of keys and values")
    allowed = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for key in block:
        if key not in allowed:
            raise ValueError(f"{name}: unknown key {key!r}; its keys are {', '.join(allowed)}")
    for key in allowed:
        if key not in block:
            raise ValueError(f"{name}: key {key!r} is missing; its keys are {', '.join(allowed)}")
    return function(*args, **block)


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
