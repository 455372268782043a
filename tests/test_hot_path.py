"""A hot path predictions, bar by bar, what the pipeline computes in bulk."""

import json
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline import digests
from pipeline.deployment import bulk, contract, replay
from pipeline.deployment.hot_path import HotPath
from pipeline.evaluation.voting import count_rows_so_far
from pipeline.models.onnx_session import open_session
from pipeline.trading import make_terms
from tests import bundles
from tests.bundles import SYMBOL, WINDOW, list_bars, make_bars

NO_TERMS = ("full_position_std", "delay_bars")
TERMS = make_terms(**{name: value for name, value in bundles.TRADING.items() if name not in NO_TERMS})
BARS = make_bars(420, missing=(200, 201, 330))


@pytest.fixture(scope="module", params=[0, 2])
def folder(request, tmp_path_factory):
    return bundles.write_bundle(tmp_path_factory.mktemp("bundle"), bundles.describe(delay_bars=request.param))


class GraphModel:
    """In place of a trained model: its own graph."""

    def __init__(self, session, part):
        self.session, self.part = session, part
        self.signature = SimpleNamespace(columns=tuple(part.columns))

    def inputs(self, samples, rows):
        if self.part.window is None:
            return samples.x[rows]
        first = np.array([np.flatnonzero(samples.segment == samples.segment[row])[0] for row in rows])
        places = np.maximum(rows[:, None] + np.arange(1 - self.part.window, 1), first[:, None])
        return samples.x[places]

    def predict_rows(self, samples, rows):
        if not self.part.account_columns:
            return self.predict(self.inputs(samples, rows))
        targets = np.zeros(len(rows))  # each depends on those before
        starts, fills = count_rows_so_far(samples.segment)[rows] == 1, samples.fills.take(rows)
        for i, row in enumerate(rows):
            seen = bulk.follow_account(targets[: i + 1], starts, fills.take(np.arange(i + 1)), TERMS)[i]
            targets[i] = self.predict(np.append(samples.x[row], seen)[None].astype(np.float32))[0, 0]
        return targets[:, None].astype(np.float32)

    def predict(self, inputs):
        return self.session.run(["answer"], {"inputs": inputs})[0]


def make_reference(folder) -> replay.Reference:
    parts = contract.read_contract(folder).models
    sessions = {name: open_session(folder / part.graph) for name, part in parts.items()}
    models = {name: GraphModel(sessions[name], part) for name, part in parts.items()}
    return replay.Reference(models, sessions, mean_abs=1e-6, max_abs=1e-5, max_relative=1e-4)


def replay_bars(folder, **changes):
    hot_path = HotPath.load(folder)
    stretch = bulk.compute_stretch(BARS, hot_path.contract)
    restarts = BARS["open_time"].iloc[[90, 205, 370]].tolist()
    (record, lane) = replay.play(partial(HotPath.load, folder), {SYMBOL: stretch}, restarts=restarts)[SYMBOL]
    for name, change in changes.items():
        change(getattr(record, name))
    return replay.compare(record, lane, stretch, make_reference(folder), hot_path=hot_path)


def test_features_predictions_targets_and_positions_are_those_in_bulk_over_gaps_and_restarts(folder):
    found = replay_bars(folder)
    warm_up = contract.read_contract(folder).warm_up_bars
    bundle = contract.read_contract(folder)
    numbers = sum(len(model.output.names) for model in bundle.models.values())
    accounts, delay_bars = len(bundle.models) + 1, bundle.trading.delay_bars
    assert found.bars == len(BARS) and found.rows == len(BARS) - 3 * warm_up
    assert found.compared == {
        "features": found.rows * len(bundle.columns),
        "predictions": found.rows * numbers,
        "targets": found.rows * accounts,
        "positions": (len(BARS) - 3 * (1 + delay_bars)) * accounts,  # of each segment the last orders lapse
    }
    assert {name: each["positions_different_from_model"] for name, each in found.measured.items()} == dict.fromkeys(
        [*bundles.describe()["models"], "voting"], 0
    )


def add(row: int, column: int = 0):
    def change(array):
        array[row, column] += np.float32(1e-3)

    return change


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("x", add(100, 3), r"feature \w+: 1 of .* first at bar 100 of BTCUSDT, open_time"),
        ("targets", add(150), "the target of value differs at 1 of .* bars, first at bar 150"),
        ("filled", add(160, -1), "the position of voting differs at 1 of .* first at bar 1(59|57)"),
        ("seen", lambda seen: seen.__setitem__((170, -2, 0), 0.123), "the account of agent differs"),
        ("x", lambda x: x.__setitem__(100, np.nan), "features: there are some"),
    ],
)
def test_a_difference_is_named(folder, part, change, message):
    with pytest.raises(replay.ReplayError, match=message):
        replay_bars(folder, **{part: change})


def test_a_signal_is_a_json_object_and_none_while_features_warm_up(folder):
    hot_path, bars = HotPath.load(folder), list_bars(make_bars(40))
    warm_up = hot_path.contract.warm_up_bars
    signals = [hot_path.update(bar) for bar in bars]
    assert [signal is None for signal in signals] == [i < warm_up for i in range(len(bars))]
    last = json.loads(json.dumps(signals[-1].to_dict()))
    assert last["model"] == "voting" and last["open_time"] == bars[-1]["open_time"] and last["missing_bars"] == 0
    assert last["models"]["volatility"]["score"] is None and last["models"]["volatility"]["target"] is None
    assert -1 <= last["target"] <= 1 and last["trades"] == (abs(last["target"] - last["position"]) > 0.3)
    assert hot_path.counts == {"bars": 40, "signals": 40 - warm_up, "missing_bars": 0, "given_positions": 0}


def test_a_model_counts_nothing_in_the_ensemble_until_its_window_is_full(folder):
    hot_path = HotPath.load(folder)
    signals = [signal for bar in list_bars(make_bars(40)) if (signal := hot_path.update(bar))]
    weights = hot_path.contract.ensemble.weights
    for place, signal in enumerate(signals):
        is_full = place + 1 >= WINDOW
        assert signal.models["window"].is_full == is_full and signal.models["value"].is_full
        counted = {name: weight for name, weight in weights.items() if is_full or name != "window"}
        assert signal.target == pytest.approx(sum(w * signal.models[name].target for name, w in counted.items()))


def test_scores_of_every_kind_of_prediction_are_those_of_their_targets(folder):
    hot_path = HotPath.load(folder)
    *_, signal = (hot_path.update(bar) for bar in list_bars(make_bars(40)))
    for name, part in hot_path.contract.models.items():
        output, prediction = part.make_output(), np.array([signal.models[name].prediction], np.float32)
        if output.no_score_reason is None:
            assert np.float32(signal.models[name].score) == output.to_score(prediction)[0]


def describe(signal):
    return signal and signal.to_dict()


def test_a_refused_bar_changes_nothing(folder):
    bars = list_bars(make_bars(60))
    hot_path, other = HotPath.load(folder), HotPath.load(folder)
    refused = [
        (bars[20] | {"high": 1.0}, "high"),
        (bars[19], "already processed"),
        (bars[10], "allowed is one after the last"),
        (bars[20] | {"symbol": "ETHUSDT"}, "this bundle is for BTCUSDT"),
        (bars[20] | {"segment": 3}, "leave it out"),
        (bars[20] | {"x": False}, "still forming"),
        (bars[20] | {"open_time": bars[20]["open_time"] + 1}, "multiples"),
        (None, "allowed is a mapping"),
    ]
    for place, bar in enumerate(bars):
        if place == 20:
            for wrong, message in refused:
                with pytest.raises(ValueError, match=message):
                    hot_path.update(wrong)
        assert describe(hot_path.update(bar)) == describe(other.update(bar))


def test_a_state_is_refused_by_another_bundle_and_survives_a_file(folder, tmp_path):
    bars = list_bars(make_bars(60))
    hot_path = HotPath.load(folder)
    for bar in bars[:40]:
        hot_path.update(bar)
    np.savez(tmp_path / "state.npz", **hot_path.state())
    resumed = HotPath.load(folder)
    with np.load(tmp_path / "state.npz") as state:
        resumed.restore(state)
    for bar in bars[40:]:
        assert describe(resumed.update(bar)) == describe(hot_path.update(bar))
    other = HotPath.load(bundles.write_bundle(tmp_path / "other", bundles.describe(no_trade_band=0.1)))
    with pytest.raises(ValueError, match="another bundle"):
        other.restore(hot_path.state())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": "4.0"}, "schema_version is '4.0'; this code reads 1.0, 2.0, 3.0"),
        ({"signal": "nobody"}, "signal: 'nobody' is none of"),
        ({"ensemble": {"name": "voting", "weights": {"nobody": 1.0}}}, "no model 'nobody'"),
        ({"warm_up_bars": "many"}, "warm_up_bars: Input should be a valid integer"),
        ({"surplus": 1}, "surplus: Extra inputs are not permitted"),
        ({"columns": ["a"]}, "are no columns of the stream"),
    ],
)
def test_a_contract_that_does_not_fit_is_one_line(tmp_path, change, message):
    folder = bundles.write_bundle(tmp_path, bundles.describe() | change)
    with pytest.raises(ValueError, match=message) as error:
        HotPath.load(folder)
    assert "\n" not in str(error.value)


def test_a_graph_of_another_shape_and_a_damaged_one_are_refused(tmp_path):
    described = bundles.describe()
    folder = bundles.write_bundle(tmp_path, described)
    described["models"]["window"]["window"] = 3
    (folder / contract.CONTRACT).write_text(json.dumps(described))
    digests.write_sums(folder)
    with pytest.raises(ValueError, match=r"window.onnx: its input and prediction are .*4.*models.window says"):
        HotPath.load(folder)
    (folder / "value.onnx").write_bytes((folder / "value.onnx").read_bytes()[:-1])
    with pytest.raises(digests.ArtifactError, match="value.onnx"):
        HotPath.load(folder)


def test_the_digest_of_the_code_is_of_all_modules_that_a_hot_path_imports():
    code = (
        "import sys; from pathlib import Path; read = Path.read_bytes; seen = []\n"
        "import pipeline.deployment.hot_path; from pipeline.deployment import contract\n"
        "Path.read_bytes = lambda file: (seen.append(file), read(file))[1]\n"
        "contract.hash_code()\n"
        "own = {m.__file__ for n, m in sys.modules.items() if n.startswith('pipeline.') and m.__file__}\n"
        "own = {f for f in own if Path(f).stat().st_size}\n"
        "print(sorted(own - {str(file) for file in seen}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
