"""The event path of a model: its predictions, event by event, are those of its graph on the columns in bulk."""

import json
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline import digests
from pipeline.datasets.orderbook.featurize import compute_parts as featurize
from pipeline.deployment import replay_events
from pipeline.deployment.event_path import EventPath
from pipeline.deployment.replay_events import (
    ReplayError,
    compare_columns,
    compare_predictions,
    record_events,
    select_last,
)
from pipeline.orderbook.engine import compute
from pipeline.orderbook.normalization import UNSCALED, standardize_causally
from pipeline.samples import Samples
from tests.orderbook_events import draw_events

WINDOW = 4
PRESET = "signals_full"


@pytest.fixture(scope="module")
def events() -> pd.DataFrame:
    """Two segments of one day and one of the next, of 400 events each."""
    parts = [draw_events(400, seed=seed, segment=seed).assign(day=f"2012-06-2{seed // 2}") for seed in (0, 1, 2)]
    table = pd.concat(parts, ignore_index=True)
    return table.assign(event=np.arange(len(table)), symbol="A")


def write_model(folder: Path, *, columns: list[str], features: dict) -> Path:
    """Write the sum of the last WINDOW rows, scaled down, as a graph with the contract of the stage export."""
    shape = [None, WINDOW, len(columns)]
    weights = numpy_helper.from_array(np.full((WINDOW * len(columns), 1), 1e-3, np.float32), "weights")
    nodes = [
        helper.make_node("Flatten", ["inputs"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "weights"], ["answer"]),
    ]
    values = [
        helper.make_tensor_value_info(*each)
        for each in (("inputs", TensorProto.FLOAT, shape), ("answer", TensorProto.FLOAT, [None, 1]))
    ]
    graph = helper.make_graph(nodes, "sum", values[:1], values[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folder.mkdir()
    onnx.save(model, folder / "model.onnx")
    output = {"kind": "value", "names": ["return"], "levels": [], "neutral_class": None, "has_direction": True}
    contract = {
        "model": "sum",
        "graph": {"inputs": shape, "answer": [None, 1]},
        "columns": columns,
        "output": output,
        "score_std": 0.5,
        "features": features,
        "bars": None,
        "trading": {"full_position_std": 2.0},
    }
    (folder / "contract.json").write_text(json.dumps(contract))
    digests.write_sums(folder)
    return folder


def make_samples(events: pd.DataFrame, rows: np.ndarray, x: np.ndarray, columns: tuple[str, ...]) -> Samples:
    time = events["event"].to_numpy()[rows]
    return Samples(time, time, events["segment"].to_numpy(np.int32)[rows], x, columns, np.zeros(len(x), np.float32))


def test_columns_and_predictions_are_those_in_bulk(events, tmp_path):
    bulk = compute(events, columns=PRESET)
    names = list(bulk.columns[:3])
    path = EventPath.load(write_model(tmp_path / "sum", columns=names, features={"columns": PRESET, "groups": []}))
    record = record_events(path, events)
    samples = make_samples(events, bulk.rows, bulk.x, bulk.columns)
    place = compare_columns(
        record, samples, np.arange(len(bulk.rows)), event=events["event"].to_numpy(), columns=path.stream.columns
    )
    segment = samples.segment
    full = np.flatnonzero(np.append(np.zeros(3, bool), segment[3:] == segment[:-3]))
    assert np.array_equal(np.flatnonzero(np.isfinite(record.target)), place[full])
    x = bulk.x[:, :3].astype(np.float64)
    expected = 1e-3 * np.array([x[row - 3 : row + 1].sum() for row in full])
    assert record.prediction[place[full], 0] == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert record.target[place[full]] == pytest.approx(expected.clip(-1, 1), rel=1e-5, abs=1e-7)


def test_a_causal_standardization_is_that_of_the_features(events, tmp_path):
    features = {"columns": PRESET, "normalization": {"method": "running", "window": 100}}
    path = EventPath.load(write_model(tmp_path / "sum", columns=["book_valid"], features=features))
    record = record_events(path, events)
    bulk = compute(events, columns=PRESET)
    excluded = [place for place, name in enumerate(bulk.columns) if name in UNSCALED]
    day = pd.factorize(events["day"].to_numpy()[bulk.rows])[0]
    rows, x = standardize_causally(bulk.x, day, method="running", window=100, excluded=excluded)
    assert np.array_equal(np.flatnonzero(record.has_row), bulk.rows[rows])
    assert np.array_equal(record.x[bulk.rows[rows]].view(np.int32), x.view(np.int32))


@pytest.mark.parametrize("method", ["running", "previous_day"])
def test_symbols_whose_events_alternate_are_replayed_each_with_its_own_statistics(events, tmp_path, method):
    symbol = np.where(events["segment"] < 2, "A", "B")
    alternating = np.argsort(np.argsort(np.arange(len(events)) % 800, kind="stable"), kind="stable")
    book = events.assign(symbol=symbol, event=alternating, day=[f"2012-06-2{n % 2}" for n in events["segment"]])
    features = {"columns": PRESET, "ready_events": 5, "normalization": {"method": method}}
    path = EventPath.load(write_model(tmp_path / "sum", columns=["book_valid"], features=features))
    (bulk,) = featurize(book, **features)
    samples = make_samples(book, bulk.rows, bulk.x, bulk.columns)
    rows, event = np.arange(len(bulk.rows)), book["event"].to_numpy()
    place = compare_columns(record_events(path, book), samples, rows, event=event, columns=path.stream.columns)
    assert place.tolist() == bulk.rows.tolist()
    assert set(symbol[place]) == ({"A", "B"} if method == "running" else {"A"})


def test_the_last_events_are_replayed_with_the_rows_on_which_they_depend(events):
    assert select_last(events, None, normalization=None) is events
    assert len(select_last(events, 401, normalization=None)) == 800
    assert len(select_last(events, 401, normalization={"method": "previous_day"})) == 1200


def test_a_column_that_differs_in_bulk_is_named_with_its_event(events, tmp_path):
    bulk = compute(events, columns=PRESET)
    path = EventPath.load(write_model(tmp_path / "sum", columns=list(bulk.columns[:3]), features={"columns": PRESET}))
    x = bulk.x.copy()
    x[5, 2] += 1
    samples = make_samples(events, bulk.rows, x, bulk.columns)
    with pytest.raises(ReplayError, match=f"{bulk.columns[2]}: 1 of .* values differ, first at event {bulk.rows[5]}"):
        compare_columns(
            record_events(path, events), samples, np.arange(len(x)), event=events["event"], columns=path.stream.columns
        )


def test_predictions_beyond_the_limits_of_parity_are_refused():
    limits = {"mean_abs": 1e-6, "max_abs": 1e-5, "max_relative": 1e-4}
    expected = np.array([[0.5], [0.25]], np.float32)
    assert compare_predictions(expected, expected, limits=limits)["max_abs"] == 0
    with pytest.raises(ReplayError, match=r"mean_abs is 0.001, above parity.mean_abs of 1e-06"):
        compare_predictions(expected + np.float32(1e-3), expected, limits=limits)


def test_a_model_of_bars_is_refused(tmp_path):
    folder = write_model(tmp_path / "sum", columns=["return_1"], features={"columns": PRESET})
    described = json.loads((folder / "contract.json").read_text()) | {"bars": {"interval_ms": 60_000}}
    with pytest.raises(ValueError, match="its dataset has bars and no events"):
        EventPath(described, folder / "model.onnx")
    with pytest.raises(ValueError, match="return_1: no columns of the stream"):
        EventPath.load(folder)


def test_the_command_names_a_model_that_is_missing(monkeypatch):
    monkeypatch.setattr("sys.argv", ["replay_events", "nobody"])
    with pytest.raises(SystemExit, match="nobody"):
        replay_events.main()
