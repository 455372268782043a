"""Kinds of targets: how each labels the rows of a table, and what a model predicts for it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import pandas as pd
from annotated_types import Interval, MinLen
from pydantic import PositiveInt

from pipeline import config
from pipeline.targets import SHORTER, Output, Target

Level = Annotated[float, Interval(gt=0, lt=1)]
COLUMNS_OF_VALUES = ("quantiles", "horizons")  # keys by which a target of values has several numbers; one at a time


@dataclass(frozen=True)
class Labels:
    """The labels of a table of bars, and the count of bars without one by cause: both add up to all bars."""

    table: pd.DataFrame  # row, segment, time, label_end, y, raw; one row for each labeled bar
    lost: dict[str, int]  # bars without a label, by cause; each bar counts once
    ties: int  # labels decided by a convention: see each kind
    clipped: int = 0  # labels whose |y| was above clip_sigma
    largest: float | None = None  # |y| before the clip; None where the kind has no clip, or no bar has a label


@dataclass(frozen=True)
class TargetKind:
    """A kind of target: the function that labels bars, and what a model predicts for it."""

    make: Callable[..., Labels]
    output: Output
    horizon_bars: int | None = None  # that of the kind itself; None where the target gives `horizon`
    starts_at_fill: bool = False  # whether its y begins where an order fills, so that it depends on the delay


def find_kind(block: Mapping[str, Any], kinds: Mapping[str, TargetKind], *, name: str) -> TargetKind:
    """Return the kind of a target among those of its dataset's kind; ParamsError where it is none of them."""
    if block.get("kind") not in kinds:
        raise config.ParamsError(
            f"params.yaml: {name}.kind is {block.get('kind')!r}; it must be one of {', '.join(kinds)}"
        )
    return kinds[block["kind"]]


def select_arguments(block: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a target that its kind's function takes."""
    return {key: value for key, value in block.items() if key not in ("kind", *COLUMNS_OF_VALUES)}


def label_horizons(
    table: pd.DataFrame, block: Mapping[str, Any], kinds: Mapping[str, TargetKind], *, name: str
) -> Labels:
    """Return the labels that a target, one of `kinds`, gives `table`; errors name it by `name`.

    With `horizons`, such as [1, 5], the table has the columns y_1 … with the y of each but the last, which is `horizon`
    and whose y is `y`. Only rows with the longest have labels, which end there.

    Raises:
        ParamsError: a wrong key or value.
    """
    kind, arguments = find_kind(block, kinds, name=name), select_arguments(block)
    labels: Labels = config.call_with(kind.make, table, block=arguments, name=name)
    horizons = read_horizons(block, kinds, path=name)
    rows, shorter = labels.table["row"].to_numpy(), {}
    for horizon in horizons[:-1]:
        own = config.call_with(kind.make, table, block=arguments | {"horizon": horizon}, name=name).table
        is_wanted = np.isin(own["row"].to_numpy(), rows)  # each is there: it needs fewer bars
        shorter[f"{SHORTER}{horizon}"] = own["y"].to_numpy()[is_wanted]
    if not shorter:
        return labels
    table = pd.concat([labels.table, pd.DataFrame(shorter, index=labels.table.index)], axis=1)
    return replace(labels, table=table)


def clip_labels(labels: Labels, clip_sigma: float | None) -> Labels:
    """Return the labels with y within ± clip_sigma, the count of those beyond, and the largest |y| before."""
    y = labels.table["y"].to_numpy()
    largest = float(np.abs(y).max()) if len(y) else None
    if clip_sigma is None:
        return replace(labels, largest=largest)
    clipped = int(np.count_nonzero(np.abs(y) > clip_sigma))
    table = labels.table.assign(y=np.clip(y, -clip_sigma, clip_sigma))
    return replace(labels, table=table, clipped=clipped, largest=largest)


def describe_target(block: Mapping[str, Any], *, name: str, path: str, kinds: Mapping[str, TargetKind]) -> Target:
    """Return what a target of one of `kinds` is; errors name it by `path`.

    With `quantiles`, such as [0.1, 0.5, 0.9], models predict these of its y; with `horizons`, such as [1, 3, 5], its y
    over each of so many bars.

    Raises:
        ParamsError: an unknown kind, both keys, numbers that do not ascend, or a kind whose y is no plain value.
    """
    kind = find_kind(block, kinds, name=path)
    output = kind.output
    if "quantiles" in block:
        levels = _read_ascending(block, "quantiles", _declare_quantiles, path=path)
        _check_values(block, "quantiles", kinds, path=path)
        output = replace(output, kind="quantiles", names=tuple(f"q{100 * each:g}" for each in levels), levels=levels)
    if "horizons" in block:
        horizons = read_horizons(block, kinds, path=path)
        names = tuple(f"{output.names[0]}_ahead_{each}" for each in horizons)  # return_5 is a column of the past
        output = replace(output, kind="horizons", names=names, horizons=horizons)
    horizon_bars = block["horizon"] if kind.horizon_bars is None else kind.horizon_bars
    return Target(name=name, horizon_bars=horizon_bars, output=output)


def read_horizons(block: Mapping[str, Any], kinds: Mapping[str, TargetKind], *, path: str) -> tuple[int, ...]:
    """Return the horizons of a target in bars, ascending; none where it has one alone, which is `horizon`.

    Raises:
        ParamsError: see `describe_target`; also where the last of them is not `horizon`.
    """
    if "horizons" not in block:
        return ()
    horizons = _read_ascending(block, "horizons", _declare_horizons, path=path)
    _check_values(block, "horizons", kinds, path=path)
    if "quantiles" in block:
        raise config.ParamsError(f"{path} has quantiles and horizons; a target has one of them: make two targets")
    if len(horizons) == 1:
        raise config.ParamsError(f"{path}.horizons is {list(horizons)}; a target with one has `horizon` alone")
    if horizons[-1] != block.get("horizon"):
        raise config.ParamsError(
            f"{path}.horizons is {list(horizons)}, and its horizon is {block.get('horizon')!r}; the last of horizons "
            f"must be the horizon, which is traded: set horizon to {horizons[-1]}, or end horizons with it"
        )
    return horizons


def _read_ascending(block: Mapping[str, Any], key: str, declare: Callable[..., None], *, path: str) -> tuple[Any, ...]:
    """Return the numbers under a key of a target, of the type that `declare` has for it; ParamsError for others."""
    config.check_section(declare, {key: block[key]}, name=path)
    if block[key] != sorted(set(block[key])):
        example = "[0.1, 0.5, 0.9]" if key == "quantiles" else "[1, 3, 5]"
        raise config.ParamsError(f"{path}.{key} is {block[key]!r}; its numbers must ascend, such as {example}")
    return tuple(block[key])


def _check_values(block: Mapping[str, Any], key: str, kinds: Mapping[str, TargetKind], *, path: str) -> None:
    """Raise ParamsError where the y of a target's kind is no plain value, of which alone there are several numbers."""
    if kinds[block["kind"]].output.kind != "value":
        allowed = ", ".join(name for name, each in kinds.items() if each.output.kind == "value")
        raise config.ParamsError(
            f"{path}.{key} is {block[key]!r}; a target of kind {block['kind']} has none, only those of kind {allowed}"
        )


def _declare_quantiles(*, quantiles: Annotated[list[Level], MinLen(1)]) -> None:
    """Declare the type of the key that any target of values may have."""


def _declare_horizons(*, horizons: Annotated[list[PositiveInt], MinLen(1)]) -> None:
    """Declare the type of the key that any target of values may have."""
