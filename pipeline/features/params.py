"""The parameters of the features, block `datasets.<dataset>.features` of params.yaml, as the files declare them."""

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Concatenate, Literal, TypeVar

from annotated_types import MinLen

from pipeline import config
from pipeline.features.cross_section import GROUP, CrossSection
from pipeline.features.pandas_file import PandasFile, load_pandas_file
from pipeline.features.registry import GROUPS, list_parameters

First = TypeVar("First")
Result = TypeVar("Result")


@dataclass(frozen=True)
class FeatureParams:
    """The parameters of all features that are switched on."""

    groups: dict[str, Any]  # compiled group: its Params
    in_pandas: tuple[PandasFile, ...]
    absent_fields: tuple[str, ...] = ()  # optional fields that bars lack
    cross_section: CrossSection | None = None  # columns among all symbols


def _declare_switches(
    *,
    groups: Annotated[list[str], MinLen(1)] | None = None,  # None: all
    in_pandas: dict[str, dict[str, Any]] | None = None,
    absent_fields: list[Literal["quote_volume", "trades", "taker_buy_base", "taker_buy_quote"]] | None = None,
    cross_section: dict[str, Any] | None = None,  # None: no columns among symbols
) -> None:
    """Declare the keys that switch features on, and `absent_fields`, which bars lack: columns of them are left out."""


SWITCHES = tuple(inspect.signature(_declare_switches).parameters.values())


def read_block(block: config.Block) -> FeatureParams:
    """Return the parameters of a features block. Keys of groups that are switched off are not read, and may be absent.

    Raises ParamsError, which names the key, where a value is not allowed, alone or beside another.
    """
    switches = {p.name: block[p.name] for p in SWITCHES if p.name in block}
    config.check_section(_declare_switches, switches, name="features")
    names = _select_groups(switches.get("groups"))
    keys = _declare_keys(names)
    values = {key: block[key] for key in config.list_keys(keys) if key in block}
    config.check_section(keys, values, name="features")
    _check_windows_differ(values)
    groups = {name: _make_params(GROUPS[name].Params, values) for name in names}
    _check_columns(groups, chosen=switches.get("groups") or ())
    files = switches.get("in_pandas") or {}
    in_pandas = tuple(load_pandas_file(name, own) for name, own in files.items())
    absent = tuple(switches.get("absent_fields") or ())
    return FeatureParams(groups, in_pandas, absent, _read_cross_section(switches.get("cross_section")))


def _read_cross_section(block: config.Block | None) -> CrossSection | None:
    """Return the windows of the columns among symbols; None where there are none."""
    if block is None:
        return None
    params = config.call_with(CrossSection, block=block, name="features.cross_section")
    _check_windows_differ({"cross_section.windows": params.windows})
    return params


def separate_cross_section(block: config.Block) -> tuple[dict[str, Any], CrossSection | None]:
    """Return a features block without the columns among symbols, and the windows of these; None: there are none.

    The first are arguments of `engine.Stream`, one for each symbol, the second one of `cross_section.Stream`.
    """
    own = {key: value for key, value in block.items() if key != GROUP}
    return own, _read_cross_section(block.get(GROUP))


def refuse_in_stream(params: FeatureParams) -> None:
    """Raise ValueError where some columns cannot be computed from one symbol's bars, one after another."""
    if params.in_pandas:
        raise ValueError(
            f"features.in_pandas has {', '.join(file.name for file in params.in_pandas)}: columns in pandas cannot be "
            "streamed; leave them out, or write them as a compiled file of pipeline/features/groups"
        )
    if params.cross_section:
        raise ValueError(
            f"features.cross_section has {', '.join(params.cross_section.warm_up_bars)}: they need the bars of all "
            "symbols, and a stream has those of one; set it to null, or use HotPath.update_together of a bundle"
        )


def _select_groups(chosen: list[str] | None) -> tuple[str, ...]:
    """Return the groups that are on, in the order of their columns."""
    if unknown := [name for name in chosen or () if name not in GROUPS]:
        has = ", ".join(GROUPS)
        raise config.ParamsError(f"features.groups: there is no {unknown[0]!r}; pipeline/features/groups has {has}")
    return tuple(name for name in GROUPS if chosen is None or name in chosen)


@functools.cache
def _declare_keys(names: tuple[str, ...]) -> Callable[..., None]:
    """Return a function whose keyword-only arguments are the keys of these groups."""

    def declare() -> None: ...

    vars(declare)["__signature__"] = inspect.Signature(list_parameters(names))
    return declare


def _make_params(declared: type[Any], values: config.Block) -> Any:
    return declared(**{key: values[key] for key in config.list_keys(declared) if key in values})


def _check_columns(groups: dict[str, Any], *, chosen: Sequence[str]) -> None:
    """Raise ParamsError where a group that is chosen by its name has no columns, since its optional keys are absent."""
    for name in chosen:
        if not GROUPS[name].list_indicators(groups[name]):
            keys = ", ".join(config.list_keys(GROUPS[name].Params))
            raise config.ParamsError(f"features.groups has {name}, which has no columns without {keys}; add it")


def _check_windows_differ(values: config.Block) -> None:
    """Raise ParamsError, naming the key, where a list of windows has one of them twice."""
    for key, windows in values.items():
        if isinstance(windows, list | tuple) and len(set(windows)) < len(windows):
            raise config.ParamsError(f"features.{key} is {windows}; its values must differ")


def expand_params(
    function: Callable[Concatenate[First, FeatureParams, ...], Result],
) -> Callable[Concatenate[First, ...], Result]:
    """Return `function` with the keys of a features block as keyword-only arguments, in place of its FeatureParams.

    `inspect.signature` (so `config.call_with` too) lists them. All are optional, since a group may be switched off.
    Further keyword-only arguments of the function stay.
    """
    first, _, *own = inspect.signature(function).parameters.values()
    keys = [p.replace(default=None) if p.default is p.empty else p for p in list_parameters(tuple(GROUPS))]
    signature = inspect.signature(function).replace(parameters=[first, *SWITCHES, *keys, *own])

    @functools.wraps(function)
    def call(first: First, /, **block: Any) -> Result:
        signature.bind(first, **block)  # raises TypeError on an unknown key
        further = {p.name: block.pop(p.name) for p in own if p.name in block}
        return function(first, read_block(block), **further)

    vars(call)["__signature__"] = signature
    return call
