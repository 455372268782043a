"""The labels of an export, as they are in its files: none is computed."""

from typing import Any

import numpy as np
import pandas as pd

from pipeline import config
from pipeline.labels import Horizon
from pipeline.orderbook.exports.manifest import CLASSES
from pipeline.orderbook.exports.sequences import UNLABELED
from pipeline.orderbook.sources.export import MAX_HORIZONS
from pipeline.target_kinds import Labels
from pipeline.targets import Output, Target

COLUMNS = ["segment", "event", "close", "passes_gates", *(f"label_{i}" for i in range(MAX_HORIZONS))]


def make_labels(clean: pd.DataFrame, block: dict[str, Any], *, name: str = "target", delay_bars: int = 0) -> Labels:
    """Return the labels of one horizon of the export, `horizon` of the target; see `pipeline.labels.make_labels`.

    A label ends at the last row that it may use, as the manifest says: its reach after its own. `raw` is the log return
    of the mid until there. Rows that no sequence ends with have no label, nor have rows that do not pass the gates.

    Raises:
        ParamsError: the export has no such horizon; names those that it has.
    """
    return config.call_with(_take_labels, clean, name, block=block, name=name)


def describe_target(block: dict[str, Any], *, name: str, path: str) -> Target:
    """Return what a target of an export is: down, flat or up, with metrics of calls, whose terms no manifest has."""
    return Target(
        name=name,
        horizon_bars=block["horizon"],
        output=Output(kind="classes", names=CLASSES, neutral_class="flat"),
        strategy={"kind": "exported"},
    )


def _take_labels(clean: pd.DataFrame, name: str, *, horizon: Horizon) -> Labels:
    export = clean.attrs["export"]
    if horizon not in export["horizons"]:
        raise config.ParamsError(f"{name}.horizon is {horizon}; the export has {export['horizons']}")
    place = export["horizons"].index(horizon)
    reach, y = export["reach"][place], clean[f"label_{place}"].to_numpy()
    left = clean.groupby("segment").cumcount(ascending=False).to_numpy()
    causes = {
        "not_exported": y == UNLABELED,
        "gates": ~clean["passes_gates"].to_numpy(),
        "label_horizon": left < reach,
    }
    remaining, lost = np.ones(len(clean), dtype=bool), {}
    for cause, applies in causes.items():
        lost[cause] = int((remaining & applies).sum())
        remaining &= ~applies
    row = np.flatnonzero(remaining)
    event, close = clean["event"].to_numpy(), clean["close"].to_numpy()
    table = {
        "row": row,
        "segment": clean["segment"].to_numpy()[row],
        "time": event[row],
        "label_end": event[row + reach],
        "y": y[row].astype(np.int32),
        "raw": np.log(close[row + reach] / close[row]),
    }
    return Labels(pd.DataFrame(table), lost, 0)
