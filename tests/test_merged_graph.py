"""Graphs of several models run by one call, with the bits of each by itself; caches are warmed beside the state."""

from types import SimpleNamespace

import numpy as np
import onnx
import pandas as pd
import pytest
from onnx import helper

from pipeline.deployment import cache_warming, replay
from pipeline.deployment.hot_path import HotPath
from pipeline.deployment.merged_graph import bind_graphs, merge_graphs, open_graph
from tests import bundles
from tests.bundles import SYMBOL, list_bars, make_bars, make_graph

SHAPES = {"a": (1, 3), "b": (1, 4, 3), "c": (1, 3), "d": (1, 3)}


def make_graphs() -> dict[str, onnx.ModelProto]:
    """Four graphs of three versions of operators, one with operators of another domain."""
    graphs = {
        name: make_graph(3, 2, window=shape[1] if len(shape) > 2 else None, seed=seed)
        for seed, (name, shape) in enumerate(SHAPES.items())
    }
    graphs["c"].opset_import[0].version = 15
    graphs["d"].opset_import[0].version = 13
    graphs["d"].opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    return graphs


def run_each(graphs: dict[str, onnx.ModelProto], inputs: dict[str, np.ndarray]) -> dict[str, bytes]:
    return {
        name: open_graph(graph).run(["answer"], {"inputs": inputs[name]})[0].tobytes() for name, graph in graphs.items()
    }


def make_places() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(1)
    return {
        name: (rng.normal(size=shape).astype(np.float32), np.zeros((1, 2), np.float32))
        for name, shape in SHAPES.items()
    }


def test_one_call_gives_the_bits_of_every_graph_by_itself():
    graphs, places = make_graphs(), make_places()
    (run,) = bind_graphs(graphs)(places)
    for _ in range(3):
        run()
        expected = run_each(graphs, {name: inputs for name, (inputs, _) in places.items()})
        assert {name: prediction.tobytes() for name, (_, prediction) in places.items()} == expected
        for inputs, _ in places.values():
            inputs += np.float32(0.1)


def test_a_merged_graph_is_valid_and_names_its_models():
    ((names, merged),) = merge_graphs(make_graphs())
    assert names == list(SHAPES)
    onnx.checker.check_model(merged, full_check=True)
    assert [each.name for each in merged.graph.input] == [f"{name}/inputs" for name in SHAPES]
    assert {each.domain: each.version for each in merged.opset_import} == {"": 17, "ai.onnx.ml": 3}


def add_functions(graph: onnx.ModelProto) -> None:
    node, opset = helper.make_node("Abs", ["x"], ["y"]), helper.make_opsetid("", 17)
    graph.functions.append(helper.make_function("own", "f", ["x"], ["y"], [node], [opset]))


def take_other_operators(graph: onnx.ModelProto) -> None:
    graph.opset_import.append(helper.make_opsetid("ai.onnx.ml", 4))


def take_what_no_version_has(graph: onnx.ModelProto) -> None:
    graph.opset_import[0].version = 15
    graph.graph.node.append(helper.make_node("Unknown", ["inputs"], ["answer2"]))


@pytest.mark.parametrize("change", [add_functions, take_other_operators, take_what_no_version_has])
def test_a_graph_that_cannot_be_merged_stays_alone(change):
    graphs = make_graphs()
    change(graphs["b"])
    found = [names for names, _ in merge_graphs({name: graphs[name] for name in ("a", "d", "b", "c")})]
    assert found == [["a", "d", "c"], ["b"]]


def test_symbols_with_the_same_models_share_the_session_of_their_merged_graph():
    bind = bind_graphs(make_graphs())
    one, other = (bind(make_places())[0] for _ in range(2))
    assert one.func.__self__ is other.func.__self__ and one.args[0] is not other.args[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return bundles.write_bundle(tmp_path_factory.mktemp("bundle"), bundles.describe())


def test_a_hot_path_runs_all_graphs_by_one_call(folder):
    assert len(HotPath.load(folder).lanes[SYMBOL].runs) == 1


def test_warming_caches_changes_no_bit_of_state_and_signals(folder, monkeypatch):
    monkeypatch.setattr(cache_warming, "CYCLE_BARS", 8)
    warmed, other = HotPath.load(folder), HotPath.load(folder)
    for bar in list_bars(make_bars(60)):
        for _ in range(3):
            warmed.warm_caches()
        expected, found = other.update(bar), warmed.update(bar)
        assert (found and found.to_dict()) == (expected and expected.to_dict())
    ours, theirs = warmed.state(), other.state()
    assert all(np.array_equal(ours[key], theirs[key], equal_nan=ours[key].dtype.kind == "f") for key in theirs)


def test_caches_of_a_market_with_sessions_are_warmed_by_all_of_its_models(tmp_path):
    described = bundles.describe()
    described["bars"]["calendar"] = {"exchange": "XNYS", "features": "restart", "positions": "close"}
    described["bars"]["symbols"] = [SYMBOL, "ARBUSDT", "ETHUSDT"]
    for name in ("value", "window"):
        described["models"][name]["symbols"] = [SYMBOL, "ARBUSDT"]
    for name in ("classes", "agent"):
        described["models"][name]["symbols"] = [SYMBOL, "ARBUSDT", "ETHUSDT"]
    hot_path = HotPath.load(bundles.write_bundle(tmp_path, described))
    hot_path.warm_caches()
    symbols = [lane.symbol for lane in hot_path._warmer._lanes]
    assert len(symbols) == 3 and len({tuple(lane.models) for lane in hot_path._warmer._lanes}) == 3
    assert all(np.isfinite(lane.predictions).any() for lane in hot_path._warmer._lanes)


class Rounding:
    """A session whose predictions are the sums of its inputs, and a rounding more."""

    def __init__(self, error: float) -> None:
        self.error = np.float32(error)

    def run(self, _: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [self.predict(feeds["inputs"]) + self.error]

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        return inputs.sum(axis=1, keepdims=True)


def test_a_replay_takes_the_bits_of_a_session_whose_batch_is_fixed_as_the_graphs_own():
    """An optimizer that knows the batch fuses other nodes: a prediction of the hot path is rounded as it rounds."""
    inputs, rows = np.linspace(0, 1, 8, dtype=np.float32)[:, None], np.arange(8)
    ordinary, fixed = Rounding(0.0), Rounding(2.0**-22)
    predictions, bars = inputs + fixed.error, pd.DataFrame({"symbol": "A", "open_time": rows})
    assert (predictions != inputs).any()
    stretch = SimpleNamespace(place=rows, bars=bars)
    given = {"models": {"a": ordinary}, "sessions": {"a": ordinary}, "mean_abs": 1e-6, "max_abs": 1e-5}
    given["max_relative"] = 1e-4

    def compare(**changes: object) -> dict:
        return replay._compare_predictions("a", predictions, inputs, replay.Reference(**given | changes), stretch, rows)

    assert compare(single_sessions={"a": fixed})["rows_rounded_otherwise_in_batches"] == (predictions != inputs).sum()
    with pytest.raises(replay.ReplayError, match="the prediction of a differs at"):
        compare()
    with pytest.raises(replay.ReplayError, match="the prediction of a differs at"):
        compare(single_sessions={"a": Rounding(2.0**-21)})
