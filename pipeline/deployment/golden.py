"""Golden rows of a bundle: bars with their features, and what every model says, by the trained models themselves.

The predictions of trained models have the same bytes on every CPU; those of their graphs may differ in the last bits.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from pipeline import artifacts
from pipeline.deployment import bulk, contract, kernels
from pipeline.deployment.bulk import compute_stretches
from pipeline.deployment.contract import Contract
from pipeline.deployment.hot_path import HotPath
from pipeline.deployment.lane import Bind, Lane, Places
from pipeline.market.bars import list_columns
from pipeline.models.base import Model


def bind_models(models: Mapping[str, Model], predictions: Mapping[str, Iterator[np.ndarray]]) -> Bind:
    """Return what binds trained models in place of graphs; one with `predictions` takes the next of them instead."""

    def predict(places: Places) -> None:
        for name, (inputs, prediction) in places.items():
            prediction[:] = next(predictions[name]) if name in predictions else models[name].predict(inputs)

    return lambda places: [partial(predict, places)]


def make_golden(bundle: Contract, models: Mapping[str, Model], bars: pd.DataFrame, *, rows: int) -> pd.DataFrame:
    """Return the last `rows` bars of the first symbol, and those that warm up before them, with features and signals.

    `bars` are clean, of all symbols. A hot path that starts with the first of these bars has these features,
    predictions, scores, targets and positions; README.md lists the columns. With columns among symbols the bars of the
    others in this time stand there too, without values.
    """
    symbol = bundle.bars.symbols[0]
    own = bars[bars["symbol"] == symbol].tail(bundle.warm_up_bars + rows)
    if part := bundle.cross_section:
        is_within = bars["open_time"].between(own["open_time"].iloc[0], own["open_time"].iloc[-1])
        own = bars[is_within & bars["symbol"].isin(part.symbols)]
    stretch = compute_stretches(own, bundle)[symbol]
    predictions = {  # all at once; an agent's depend on those before
        name: iter(bulk.predict_in_batches(models[name], bulk.make_inputs(models[name], stretch, None)))
        for name, model in bundle.models.items()
        if not model.account_columns
    }
    hot_path = HotPath(bundle, lambda places: [])  # other symbols predict nothing
    lane, names = hot_path.lanes[symbol], list_columns(own)
    lane.runs = bind_models(models, predictions)(lane.find_places())
    table = own[names].sort_values("open_time", kind="stable", ignore_index=True)
    columns, types = list_names(lane)
    values = np.full((len(table), len(columns)), np.nan)
    for row, together in group_rows(table, bundle):
        if update(hot_path, together, symbol=symbol):
            values[find_row(row, together, symbol=symbol)] = list_values(lane)
    of_symbol = {name: values[:, k].astype(types[k]) for k, name in enumerate(columns)}
    return pd.concat([table.astype({"symbol": "str"}), pd.DataFrame(of_symbol)], axis=1)


def group_rows(table: pd.DataFrame, bundle: Contract) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Yield the bars that go in together, and the row of the first: all with one open time, or else each by itself."""
    bars = cast(list[dict[str, Any]], table.to_dict("records"))
    rows = enumerate(bars)
    groups = groupby(rows, key=lambda each: each[1]["open_time"] if bundle.cross_section else each[0])
    for _, group in groups:
        (row, first), *others = group
        yield row, [first, *(bar for _, bar in others)]


def update(hot_path: HotPath, bars: Sequence[Mapping[str, Any]], *, symbol: str) -> bool:
    """Update a hot path by the bars that go in together; return whether a symbol has a signal."""
    if hot_path.contract.cross_section:
        return symbol in hot_path.update_together(bars)
    return all([hot_path.update(bar) is not None for bar in bars])


def find_row(row: int, bars: Sequence[Mapping[str, Any]], *, symbol: str) -> int | None:
    """Return the row of a symbol's bar among bars that go in together, the first of which has `row`; None without."""
    return next((row + k for k, bar in enumerate(bars) if bar["symbol"] == symbol), None)


def write_golden(golden: pd.DataFrame, folder: Path) -> None:
    """Write golden rows as a table, and as text whose numbers read back to the same bits."""
    artifacts.write_table(folder / contract.GOLDEN, golden)
    (folder / contract.GOLDEN_TEXT).write_bytes(format_text(golden).encode())


def format_text(golden: pd.DataFrame) -> str:
    """Return golden rows as the text of `golden.csv`."""
    text = pd.DataFrame({name: _format(golden[name]) for name in golden})
    return str(text.to_csv(index=False, lineterminator="\n"))


def _format(column: pd.Series) -> list[str]:
    if not pd.api.types.is_float_dtype(column):
        return [str(value) for value in column]
    write = repr if column.dtype == np.float64 else str  # the shortest digits that read back to the same bits
    return [
        "" if np.isnan(value) else write(value) for value in (column.tolist() if write is repr else column.to_numpy())
    ]


def list_names(lane: Lane) -> tuple[list[str], list[str]]:
    """Return the names and the types of the columns behind the bars."""
    names, types = list(lane.columns), ["f4"] * len(lane.columns)
    for name, model in lane.models.items():
        predictions = [f"{name}.prediction.{each}" for each in model.output.names]
        accounts = [f"{name}.account.{each}" for each in model.account_columns]
        names += [*predictions, f"{name}.score", f"{name}.target", f"{name}.is_full", f"{name}.position", *accounts]
        types += ["f4"] * len(predictions) + ["f4", "f8", "f8", "f8"] + ["f4"] * len(accounts)
    for name in lane.names[len(lane.models) :]:
        names, types = [*names, f"{name}.target", f"{name}.position"], [*types, "f8", "f8"]
    return names, types


def list_values(lane: Lane) -> list[float]:
    """Return the values of these columns at the last bar of a lane."""
    assert lane.x is not None
    values: list[float] = [*lane.x.tolist()]
    for m, (name, start, stop, window) in enumerate(lane.predictions_by_model):
        values += lane.predictions[start:stop].tolist()
        values += [lane.scores[m].item(), lane.targets[m].item(), float(lane.rows >= window), lane.seen[m, 0].item()]
        if lane.models[name].account_columns:
            plan = lane.plan[m]
            end = plan[kernels.INPUT] + plan[kernels.COLUMNS] + plan[kernels.ACCOUNT]
            values += lane.inputs[end - plan[kernels.ACCOUNT] : end].tolist()
    for a in range(len(lane.models), len(lane.names)):
        values += [lane.targets[a].item(), lane.seen[a, 0].item()]
    return values
