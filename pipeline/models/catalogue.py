"""The catalogue of models, read from the code: what each plugin predicts, sees and needs, and its hyperparameters."""

import ast
import inspect
import textwrap
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import config
from pipeline.models import base, plugins
from pipeline.models.allowed_values import Key, list_allowed_values
from pipeline.models.base import Model

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
WIDTH = 100  # columns


@dataclass(frozen=True)
class Entry:
    """One plugin of the catalogue."""

    family: str
    plugin: str
    summary: str  # the first line of its docstring
    facts: tuple[str, ...]  # such as "predicts value" and "sees one bar"
    own: tuple[Key, ...] = ()  # hyperparameters that each model gives
    shared: tuple[Key, ...] = ()  # those that stand in the family's section
    models: tuple[str, ...] = ()  # of params.yaml, enabled or not

    @property
    def name(self) -> str:
        """The name with its family, such as trees.lightgbm."""
        return f"{self.family}.{self.plugin}"


def list_entries(params: config.Block) -> list[Entry]:
    """Return every plugin of every family; `params` say what a family shares and which models a plugin has."""
    return [
        describe_plugin(family, plugin, params)
        for family in plugins.list_families()
        for plugin in plugins.list_plugins(family)
    ]


def describe_plugin(family: str, plugin: str, params: config.Block) -> Entry:
    """Return the entry of one plugin; one whose module cannot be imported says why, or which package it needs."""
    try:
        found = plugins.find_plugin(family, plugin)
    except SyntaxError as error:
        return Entry(family, plugin, f"{plugin}.py", (f"line {error.lineno} is no Python: {error.msg}",))
    except ImportError as error:
        if not error.name or error.name.split(".")[0] == "pipeline":
            return Entry(family, plugin, _read_summary(family, plugin), (f"cannot be imported: {error}",))
        return Entry(family, plugin, _read_summary(family, plugin), (_name_missing_package(error.name),))
    shared = params.get(family) or {}
    keys = list(_list_hyperparameters(found))
    return Entry(
        family,
        plugin,
        (inspect.getdoc(found) or _read_summary(family, plugin)).splitlines()[0],
        tuple(_list_facts(found)),
        own=tuple(key for key in keys if key.name.split(".")[0] not in shared),
        shared=tuple(key for key in keys if key.name.split(".")[0] in shared),
        models=tuple(_list_models(family, plugin, params)),
    )


def select_entries(entries: Sequence[Entry], plugin: str) -> list[Entry]:
    """Return the entries of a plugin, named alone or with its family; ValueError names those that exist."""
    found = [entry for entry in entries if plugin in (entry.plugin, entry.name)]
    if not found:
        raise ValueError(f"unknown plugin {plugin!r}; there are {', '.join(entry.name for entry in entries)}")
    return found


def format_overview(entries: Iterable[Entry]) -> str:
    """Return all entries as text: what a family shares stands once, before its plugins."""
    parts, families = [], set()
    for entry in entries:
        if entry.shared and entry.family not in families:
            families.add(entry.family)
            heading = f"{entry.family}: shared by all of its models, under `{entry.family}` of params.yaml"
            parts.append(heading + "\n" + _format_keys(entry.shared))
        parts.append(_format_heading(entry) + _format_keys(entry.own))
    return "\n".join(parts)


def format_details(entry: Entry) -> str:
    """Return one entry as text, with all of its hyperparameters and the models that have them."""
    parts = [_format_heading(entry)]
    if entry.models:
        parts.append(_wrap(f"models of params.yaml: {', '.join(entry.models)}"))
    if entry.own:
        parts.append("\n  hyperparameters of each model\n" + _format_keys(entry.own))
    if entry.shared:
        parts.append(f"\n  shared by the family, under `{entry.family}`\n" + _format_keys(entry.shared))
    return "".join(parts)


def _list_hyperparameters(plugin: type[Model]) -> Iterator[Key]:
    keys = tuple(key for key in base.list_arguments(plugin) if key not in plugin.market_arguments)
    yield from list_allowed_values(plugin, keys, sections=plugin.sections)


def _list_facts(plugin: type[Model]) -> Iterator[str]:
    """Yield what a plugin predicts, what it sees and where it runs."""
    yield f"predicts {', '.join(plugin.output_kinds)}"
    sees_windows = plugin.lookback_bars is not Model.lookback_bars
    adds_columns = plugin.input_columns is not Model.input_columns
    yield f"sees {'windows of bars' if sees_windows else 'one bar'}{' and columns of its own' if adds_columns else ''}"
    yield "GPU optional" if "device" in base.list_arguments(plugin) else "no GPU"


def _list_models(family: str, plugin: str, params: config.Block) -> Iterator[str]:
    """Yield the names of a plugin's models, and which of them are disabled."""
    for section, remark in (("models", ""), ("disabled_models", " (disabled)")):
        blocks: Mapping[str, Any] = (params.get(section) or {}).get(family) or {}
        yield from (f"{name}{remark}" for name, block in blocks.items() if block.get("plugin") == plugin)


def _read_summary(family: str, plugin: str) -> str:
    """Return the first line of the docstring of a plugin's module, which is not imported."""
    text = (plugins.MODELS / family / f"{plugin}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text)) or plugin).splitlines()[0]


def _name_missing_package(module: str) -> str:
    """Return which package a plugin needs, and the extra of pyproject.toml that installs it, where one does."""
    package = module.split(".")[0]
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"] if PYPROJECT.exists() else {}
    extras: dict[str, list[str]] = project.get("optional-dependencies", {})
    for extra, requirements in sorted(extras.items(), key=lambda each: each[0] == "dev"):  # which has them all, last
        if any(_normalize(each).startswith(_normalize(package)) for each in requirements):
            return f"needs {package}: pip install -e '.[{extra}]'"
    return f"needs {package}"


def _normalize(package: str) -> str:
    return package.lower().replace("-", "_")


def _format_heading(entry: Entry) -> str:
    return entry.name + "\n" + _wrap(entry.summary) + _wrap("; ".join(entry.facts))


def _format_keys(keys: Sequence[Key]) -> str:
    """Return a line for each key, with aligned descriptions."""
    width = max((len(key.name) for key in keys), default=0) + 2
    return "".join(_wrap(f"{key.name:<{width}}{key.allowed}", indent=4, hanging=4 + width) for key in keys)


def _wrap(text: str, *, indent: int = 2, hanging: int = 2) -> str:
    lines = textwrap.wrap(
        text,
        WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines) + "\n"
