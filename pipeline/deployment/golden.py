"""Golden rows of a bundle: bars with their features, and what every model says, by the trained models themselves.

The predictions of trained models have the same bytes on every CPU; those of their graphs may differ in the last bits.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from pipeline import artifacts
from pipeline.deployment import bulk, contract, kernels
from pipeline.deployment.bulk import compute_stretch
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
    predictions, scores, targets and positions; README.md lists the columns.
    """
    symbol = bundle.bars.symbols[0]
    own = bars[bars["symbol"] == symbol].tail(bundle.warm_up_bars + rows).reset_index(drop=True)
    stretch = compute_stretch(own, bundle)
    predictions = {  # all at once; an agent's depend on those before
        name: iter(bulk.predict_in_batches(models[name], bulk.make_inputs(models[name], stretch, None)))
        for name, model in bundle.models.items()
        if not model.account_columns
    }
    hot_path = HotPath(bundle, bind_models(models, predictions))
    lane, records = hot_path.lanes[symbol], []
    table = own[list_columns(own)]
    for bar in cast(list[dict[str, Any]], table.to_dict("records")):
        records.append(list_values(lane) if hot_path.update(bar) is not None else [])
    names, types = list_names(lane)
    empty = [np.nan] * len(names)
    values = np.array([record or empty for record in records])
    columns = {name: values[:, k].astype(types[k]) for k, name in enumerate(names)}
    return pd.concat([table.astype({"symbol": "str"}), pd.DataFrame(columns)], axis=1)


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
    names, types = list(lane.stream.columns), ["f4"] * len(lane.stream.columns)
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
