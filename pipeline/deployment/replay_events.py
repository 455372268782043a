"""Replay an order book through the event path of a model, and compare it with what the pipeline computed in bulk.

`python -m pipeline.deployment.replay_events MODEL [--events N]` takes the last N events, or all. Columns and target
positions must have the same bits; predictions lie within the limits of the section `parity`. The report, with the time
that an event takes, is `trained/measured/replay_events/<model>.json`.
"""

import argparse
import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline import artifacts, cli, config, digests
from pipeline.deployment.event_path import EventPath
from pipeline.models import plugins
from pipeline.models.dataset import load_dataset
from pipeline.orderbook.event_table import find_segments, read_events
from pipeline.samples import Samples

log = logging.getLogger(__name__)


class ReplayError(ValueError):
    """Something streamed event by event is not what the pipeline computed."""


@dataclass(frozen=True, eq=False)
class Record:
    """The results of an event path for each of N events."""

    has_row: np.ndarray  # (N,) bool, whether the event's row passes the gates
    x: np.ndarray  # (N, F) float32, the columns of the stream
    prediction: np.ndarray  # (N, outputs) float32; NaN without a signal
    target: np.ndarray  # (N,) float64; NaN without a signal
    duration_us: np.ndarray  # (N,) of the update


def record_events(path: EventPath, events: pd.DataFrame) -> Record:
    """Return what a path computes for a clean table, event by event; it restarts at each segment."""
    numbers, amounts = read_events(events)
    starts = set(find_segments(events)[1].tolist())
    day, symbol = (pd.factorize(events[name])[0] for name in ("day", "symbol"))
    shape = (len(events), len(path.stream.columns))
    record = Record(
        has_row=np.zeros(len(events), bool),
        x=np.full(shape, np.nan, np.float32),
        prediction=np.full((len(events), len(path.output.names)), np.nan, np.float32),
        target=np.full(len(events), np.nan),
        duration_us=np.zeros(len(events)),
    )
    for i in range(len(events)):
        if i in starts:
            path.restart(starts_day=day[i] != day[i - 1], starts_symbol=i == 0 or symbol[i] != symbol[i - 1])
        started = time.perf_counter()
        signal = path.update((numbers[i], amounts[i]))
        record.duration_us[i] = 1e6 * (time.perf_counter() - started)
        if path.row is not None:
            record.has_row[i], record.x[i] = True, path.row
        if signal is not None:
            record.prediction[i], record.target[i] = signal.prediction, signal.target
    return record


def select_last(clean: pd.DataFrame, events: int | None, *, normalization: Mapping[str, Any] | None) -> pd.DataFrame:
    """Return the last `events` rows of a clean table, None: all, with the rows before them on which they depend.

    These begin with their segment; with a causal standardization, which depends on earlier days, with their symbol.
    """
    if events is None:
        return clean
    key = "segment" if normalization is None else "symbol"
    place = pd.factorize(clean[key])[0]
    last: pd.DataFrame = clean[place >= place[max(len(clean) - events, 0)]].reset_index(drop=True)
    return last


def compare_columns(
    record: Record, samples: Samples, rows: np.ndarray, *, event: np.ndarray, columns: tuple[str, ...]
) -> np.ndarray:
    """Return (n,) the places in the record of these rows of the samples; ReplayError where rows or columns differ."""
    order = np.argsort(event, kind="stable")  # events are numbered across symbols, by which the table is sorted
    place = order[np.searchsorted(event, samples.time[rows], sorter=order)]
    if not np.array_equal(np.flatnonzero(record.has_row), place):
        different = np.setxor1d(np.flatnonzero(record.has_row), place)
        raise ReplayError(
            f"event {event[different[0]]:,} has a row streamed or in bulk alone, the first of {len(different):,}"
        )
    streamed = record.x[np.ix_(place, [columns.index(name) for name in samples.columns])]
    differs = streamed.view(np.int32) != np.ascontiguousarray(samples.x[rows]).view(np.int32)
    if differs.any():
        row, column = np.argwhere(differs)[0]
        raise ReplayError(
            f"{samples.columns[column]}: {differs.sum():,} of {differs.size:,} values differ, first at event "
            f"{samples.time[rows[row]]:,}"
        )
    return np.asarray(place)


def compare_predictions(found: np.ndarray, expected: np.ndarray, *, limits: Mapping[str, float]) -> dict[str, float]:
    """Return the differences of predictions (n, outputs); ReplayError beyond `mean_abs`, `max_abs`, `max_relative`."""
    expected = expected.astype(np.float64)
    difference = np.abs(found - expected)
    floor = limits["mean_abs"] / limits["max_relative"]
    measured = {
        "mean_abs": float(difference.mean()),
        "max_abs": float(difference.max()),
        "max_relative": float((difference / np.maximum(np.abs(expected), floor)).max()),
    }
    for name, value in measured.items():
        if not value <= limits[name]:
            raise ReplayError(f"predictions: {name} is {value:.3g}, above parity.{name} of {limits[name]:g}")
    return measured


def replay(model: str, params: config.Block, *, events: int | None) -> dict[str, Any]:
    """Return the report of replaying the last `events` events of a model's dataset, or all of them.

    All events of the replay are compared, from the start of a segment or of a symbol on, see `select_last`.

    Raises:
        ReplayError: a column, a row, a prediction or a target is not that of the pipeline.
    """
    block = config.find_model(params, model).block
    path = EventPath.load(artifacts.ONNX / model)
    fitted = plugins.load(artifacts.MODELS / model)
    clean = artifacts.read_table(digests.verify(artifacts.CLEAN / f"{block['dataset']}.parquet"))
    samples = load_dataset(block["dataset"], block["target"]).samples
    clean = select_last(clean, events, normalization=path.normalization)
    record, event = record_events(path, clean), clean["event"].to_numpy()
    rows = np.flatnonzero(np.isin(samples.time, event))
    place = compare_columns(record, samples, rows, event=event, columns=path.stream.columns)
    own = samples.select_columns(fitted.signature.columns)
    has_signal = ~np.isnan(record.target[place])
    if not has_signal.any():
        raise ReplayError(f"{model}: no event has a full window of {path.window} rows; replay more events")
    predicted = fitted.predict_rows(own, rows[has_signal])
    found = record.prediction[place][has_signal]
    measured = compare_predictions(found, predicted, limits=config.look_up(params, "parity"))
    targets = path.size_targets(found)
    if not np.array_equal(targets, record.target[place][has_signal]):
        raise ReplayError(f"{model}: targets differ from those of its predictions in bulk")
    from_model = path.size_targets(predicted)
    p50, p99 = np.quantile(record.duration_us[place[has_signal]], [0.5, 0.99])
    return {
        "events": len(clean),
        "rows": len(rows),
        "signals": int(has_signal.sum()),
        "columns": len(path.stream.columns),
        "values_compared": len(rows) * len(samples.columns),
        "from_trained_model": measured,
        "largest_target_difference": float(np.abs(targets - from_model).max()),
        "update_us": {"p50": float(p50), "p99": float(p99)},
    }


def main() -> None:
    """Replay the events that the command line names; exit 1 with one line where something differs."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="of a dataset of kind orderbook")
    parser.add_argument(
        "--events",
        type=int,
        help="the last ones, from the start of their segment, or of their symbol with a standardization; default: all",
    )
    arguments = parser.parse_args()
    try:
        report = replay(arguments.model, config.load_params(), events=arguments.events)
    except (ValueError, OSError) as error:
        sys.exit(" ".join(cli.describe_error(error).split()))
    artifacts.write_json(artifacts.MEASURED / "replay_events" / f"{arguments.model}.json", report)
    log.info(
        "%s: %s events replayed, %s signals; columns and targets are equal bit for bit, predictions differ by at most "
        "%.2g",
        arguments.model,
        f"{report['events']:,}",
        f"{report['signals']:,}",
        report["from_trained_model"]["max_abs"],
    )


if __name__ == "__main__":
    main()
