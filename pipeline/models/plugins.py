"""Plugins: which files are models, and how a block of params, or a saved model, becomes one."""

import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import config
from pipeline.models.base import Model, Signature, list_arguments, read_description

MODELS = Path(__file__).parent
NO_FAMILIES = ("parity_checks", "torch_runtime", "tuning")  # packages beside the families, for several of them


def build(
    family: str,
    block: Mapping[str, Any],
    signature: Signature,
    *,
    shared: Mapping[str, Any],
    seed: int,
    market: Mapping[str, Any] | None = None,
    name: str = "<model>",
) -> Model:
    """Return the unfitted model of one entry `name` of params' `models.<family>`; `shared` is the family's own section.

    `market` are the arguments that other sections give, see `Model.read_market`.

    Raises:
        ParamsError: a key is unknown, missing or in both sections, or a value is not allowed; names it.
    """
    entry = f"models.{family}.{name}"
    config.check_section(config.declare_model, block, name=entry)
    own = block["hyperparameters"]
    if doubled := sorted(set(own) & set(shared)):
        raise config.ParamsError(
            f"{doubled} stands both under {entry}.hyperparameters and under {family}; give it once"
        )
    plugin = find_plugin_of(config.ModelBlock(family, block, name))
    known = [key for key in list_arguments(plugin) if key not in plugin.market_arguments]
    config.check_section(plugin, shared, name=family, keys=tuple(key for key in known if key in shared))
    keys = tuple(key for key in known if key not in shared)
    config.check_section(plugin, own, name=f"{entry}.hyperparameters", keys=keys)
    try:
        return plugin(signature=signature, seed=seed, **own, **shared, **(market or {}))
    except ValueError as error:
        fault = str(error).removeprefix(config.PREFIX)
        raise config.ParamsError(f"{entry}: {fault}") from error


def build_plugin(
    family: str, plugin: str, signature: Signature, *, hyperparameters: Mapping[str, Any], seed: int, name: str
) -> Model:
    """Return an unfitted model that is no entry of `models`; the section `name` of params has all its hyperparameters.

    Raises:
        ParamsError: a key is unknown or missing, or a value is not allowed; names it.
    """
    found = find_plugin(family, plugin)
    config.check_section(found, hyperparameters, name=f"{name}.hyperparameters", keys=list_arguments(found))
    return found(signature=signature, seed=seed, **hyperparameters)


def load(folder: Path) -> Model:
    """Return the model saved in `folder`, of whatever family."""
    return _find_saved(folder, read_description(folder)).load(folder)


def build_like(folder: Path, *, seed: int, hyperparameters: Mapping[str, Any] | None = None) -> Model:
    """Return an unfitted model like the one saved in `folder`, with another seed, and these hyperparameters changed."""
    described = read_description(folder)
    described["hyperparameters"] |= hyperparameters or {}
    return _find_saved(folder, described).from_description(described, seed=seed)


def _find_saved(folder: Path, described: Mapping[str, Any]) -> type[Model]:
    """Return the plugin of a saved model; ValueError, which names its folder, where it or its library is missing."""
    try:
        return find_plugin(described["family"], described["plugin"])
    except (ValueError, ModuleNotFoundError) as error:
        raise ValueError(f"{folder}: {error}") from error


def find_plugin_of(entry: config.ModelBlock, *, section: str | None = None) -> type[Model]:
    """Return the plugin of an entry of params' `models`; ParamsError where none has that name, or a library is missing.

    `section` of `models` is where the entry stands, if not under its family.
    """
    try:
        return find_plugin(entry.family, entry.block["plugin"])
    except (ValueError, ModuleNotFoundError) as error:
        raise config.ParamsError(f"models.{section or entry.family}.{entry.name}: {error}") from error


def list_families() -> list[str]:
    """Return the names of the model families: each package of `pipeline/models` with plugins is one."""
    return sorted(file.parent.name for file in MODELS.glob("*/__init__.py") if file.parent.name not in NO_FAMILIES)


def list_plugins(family: str) -> list[str]:
    """Return the names of a family's plugins: each public module of its package is one."""
    return sorted(file.stem for file in (MODELS / family).glob("[!_]*.py"))


def find_plugin(family: str, plugin: str) -> type[Model]:
    """Return the one subclass of `Model` in `pipeline/models/<family>/<plugin>.py`: the file name is the registry.

    A file without one, such as that of a net, has one public class; `make_model_class` of the family's `engine/net.py`
    makes it a model. A family without such an engine has subclasses of `Model` alone.
    """
    if family not in (families := list_families()):
        raise ValueError(f"unknown family {family!r}; there are {families}")
    if plugin not in (plugins := list_plugins(family)):
        raise ValueError(f"unknown plugin {plugin!r} of family {family!r}; there are {plugins}")
    module = importlib.import_module(f"pipeline.models.{family}.{plugin}")
    public = [
        c
        for name, c in vars(module).items()
        if inspect.isclass(c) and c.__module__ == module.__name__ and not name.startswith("_")
    ]
    found = [c for c in public if issubclass(c, Model)]
    if not found and (MODELS / family / "engine/net.py").exists():
        engine = importlib.import_module(f"pipeline.models.{family}.engine.net")
        found = [engine.make_model_class(c) for c in public]
    if len(found) != 1:
        raise ValueError(
            f"pipeline/models/{family}/{plugin}.py has the public classes {[c.__name__ for c in public]}; exactly one "
            "must be a model, other classes can begin with an underscore"
        )
    return found[0]
