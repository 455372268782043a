"""The compiled feature files: each file of `groups/` is one group of columns, and its name is the registry."""

import hashlib
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, cast

from pipeline import config
from pipeline.features.catalogue import FIRST_GROUPS, Indicator
from pipeline.features.rolling import Floats, Floats32, Integers, compile_kernel

FOLDER = Path(__file__).parent / "groups"
Plans = tuple[Integers, ...]
Update = Callable[[Integers, Floats, Floats, Floats32, int, int], None]  # (plan, memory, chunk, out, start, count)
UpdateAll = Callable[[Plans, Floats, Floats, Floats32, int, int], None]


def hash_sources() -> int:
    """Return a number that stands for every file of code that compiled functions of this package run.

    numba's cache looks at the file of a function alone, and would reuse what it compiled from an older `price.py`. It
    does include the values that a function closes over, such as this number. Files of `in_pandas/` are not compiled.
    """
    files = [file for folder in (Path(__file__).parent, FOLDER) for file in sorted(folder.glob("*.py"))]
    content = b"".join(file.name.encode() + file.read_bytes() for file in files)
    return int(hashlib.sha256(content).hexdigest()[:12], 16)


class Group(Protocol):
    """A file of `groups/`."""

    Params: type[Any]  # a frozen, keyword-only dataclass; its fields are keys of the features block
    update: Update

    def list_indicators(self, params: Any) -> tuple[Indicator, ...]:
        """Return the catalogue's entries."""


def list_files(folder: Path) -> list[str]:
    """Return the names of a folder's files: FIRST_GROUPS in their order, then the others by alphabet."""
    names = {file.stem for file in folder.glob("[!_]*.py")}
    return [*(name for name in FIRST_GROUPS if name in names), *sorted(names - set(FIRST_GROUPS))]


def _import_groups() -> dict[str, Group]:
    """Return every file of `groups/`; ValueError where two of them declare the same key."""
    groups = {name: importlib.import_module(f"pipeline.features.groups.{name}") for name in list_files(FOLDER)}
    owners: dict[str, str] = {}
    for name, group in groups.items():
        for key in config.list_keys(group.Params):
            if owners.setdefault(key, name) != name:
                raise ValueError(f"pipeline/features/groups: {owners[key]}.py and {name}.py declare {key}; rename one")
    return cast(dict[str, Group], groups)


GROUPS = _import_groups()


def list_parameters(names: tuple[str, ...]) -> list[inspect.Parameter]:
    """Return the keys that these groups declare, as keyword-only parameters."""
    return [p for name in names for p in inspect.signature(GROUPS[name].Params).parameters.values()]


@compile_kernel
def _update_none(plans: Plans, memory: Floats, chunk: Floats, out: Floats32, start: int, count: int) -> None:
    """Fill nothing: the first of the chain of updates."""


def chain_updates() -> UpdateAll:
    """Return one compiled function that runs the update of every group on its plan; plans are in the groups' order."""
    chain: UpdateAll = _update_none
    for position, group in enumerate(GROUPS.values()):
        chain = _append_update(chain, group.update, position)
    return chain


def _append_update(update_before: UpdateAll, update: Update, position: int) -> UpdateAll:
    """Return the compiled function that runs `update_before`, then the update of the group at `position`."""

    @compile_kernel
    def update_all(plans: Plans, memory: Floats, chunk: Floats, out: Floats32, start: int, count: int) -> None:
        update_before(plans, memory, chunk, out, start, count)
        update(plans[position], memory, chunk, out, start, count)

    return update_all
