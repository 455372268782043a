"""TimesFM with tiny random weights: forecasts are upstream's, as a model and as columns."""

import copy
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from pipeline import config, digests
from pipeline.features import engine
from pipeline.features.pandas_file import load_pandas_file
from pipeline.features.pretrained import timesfm
from pipeline.features.pretrained.fixed_batches import FixedBatches
from pipeline.leakage.features import truncation
from pipeline.models import catalogue, plugins
from pipeline.models.base import Model, Signature
from pipeline.models.cross_fit import make_spec
from pipeline.models.parity_checks.base import find_parity_checks
from pipeline.models.pretrained import timesfm as pretrained
from pipeline.samples import Samples
from pipeline.targets import Output, Target
from pipeline.volatility import estimate_volatility
from tests import test_models
from tests.data import BAR_MS, OUTPUTS
from tests.params import PARAMS
from tests.test_features import SHORT
from tests.test_features_groups import draw_bars
from tests.tiny_timesfm import HORIZON, PATCH, TinyWeights, write_tiny_weights

ROOT = Path(__file__).parents[1]
CONTEXT, VOLATILITY = 4 * PATCH, 20
BLOCK = PARAMS["disabled_models"]["pretrained"]["timesfm"]
HORIZONS = Output(kind="horizons", names=("return_ahead_1", "return_ahead_5"), horizons=(1, 5))
QUANTILES = Output(kind="quantiles", names=("q10", "q50", "q90"), levels=(0.1, 0.5, 0.9))
ROWS, SEGMENT = 300, 200  # SEGMENT is the first row of the second of two segments
TRAIN, VALID, TEST = np.arange(40, 120), np.arange(140, 160), np.arange(SEGMENT, ROWS)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyWeights:
    return write_tiny_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def bars() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    close = 42_000 * np.exp(np.cumsum(rng.normal(0, 5e-4, ROWS + 1)))
    return pd.DataFrame({"segment": 0, "open_time": np.arange(ROWS + 1) * BAR_MS, "close": close})


def make_samples(bars: pd.DataFrame) -> Samples:
    """The returns of the bars after the first, in two segments."""
    returns = np.diff(np.log(bars["close"].to_numpy())).astype(np.float32)
    time = np.arange(ROWS, dtype=np.int64) * BAR_MS
    return Samples(
        time=time,
        label_end=time + 5 * BAR_MS,
        segment=(np.arange(ROWS) >= SEGMENT).astype(np.int32),
        x=returns[:, None],
        columns=("return_1",),
        y=np.random.default_rng(4).normal(size=ROWS).astype(np.float32),
    )


def build(tiny: TinyWeights, output: Output = OUTPUTS["return"], **changes: Any) -> Model:
    own = {"weights": str(tiny.folder), "sha256": tiny.sha256, "window": CONTEXT, "volatility_window": VOLATILITY}
    block = BLOCK | {"hyperparameters": {**BLOCK["hyperparameters"], **own, "device": "cpu", **changes}}
    return plugins.build("pretrained", block, Signature(("return_1",), output), shared={}, seed=7, name="timesfm")


@pytest.fixture(scope="module", params=[OUTPUTS["return"], QUANTILES, HORIZONS], ids=lambda output: output.kind)
def fitted(
    request: pytest.FixtureRequest, tiny: TinyWeights, bars: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory
) -> test_models.Fitted:
    samples, model = make_samples(bars), build(tiny, request.param)
    if request.param == HORIZONS:
        samples = replace(samples, y_by_horizon=np.column_stack([-samples.y / 2, samples.y]))
    history, folder = model.fit(samples, TRAIN, VALID), tmp_path_factory.mktemp("fitted")
    content = test_models.written(model, folder)
    return test_models.Fitted("timesfm", samples, model, history, folder, content)


@pytest.mark.parametrize("flips", [True, False])
@pytest.mark.parametrize("bars_seen", [CONTEXT, CONTEXT - PATCH - 3])
def test_forecasts_are_those_of_upstream_for_whole_and_for_shorter_windows(
    tiny: TinyWeights, flips: bool, bars_seen: int
) -> None:
    windows = np.random.default_rng(0).normal(size=(3, CONTEXT)).cumsum(axis=1).astype(np.float32)
    masked = np.broadcast_to(np.arange(CONTEXT) < CONTEXT - bars_seen, windows.shape)
    forecaster = timesfm.load_forecaster(str(tiny.folder), sha256=tiny.sha256, force_flip_invariance=flips)
    found = forecaster(torch.from_numpy(np.where(masked, 0, windows)), torch.from_numpy(masked.copy())).numpy()
    expected = tiny.forecast(list(windows[:, -bars_seen:]), context=CONTEXT, flips=flips)
    assert found.shape == (3, HORIZON, 10)
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-5 * float(np.abs(expected).max()))
    assert (np.diff(found[:, :, 1:], axis=2) >= 0).all()  # the quantiles ascend


def test_the_sizes_of_the_published_weights_are_read_from_their_tensors() -> None:
    with torch.device("meta"):
        published = timesfm.TimesFM_2p5_200M_torch_module()
    tensors = published.state_dict()
    assert sum(each.numel() for each in tensors.values()) == 231_289_280  # 925 MB of float32
    assert timesfm._read_definition(tensors) == timesfm.TimesFM_2p5_200M_Definition()


def test_a_row_has_the_same_bits_whatever_it_is_computed_with(tiny: TinyWeights) -> None:
    forecaster = timesfm.load_forecaster(str(tiny.folder), sha256=tiny.sha256, force_flip_invariance=True)

    def forecast(windows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        module = torch.nn.Sequential(_Unmasked(forecaster), torch.nn.Flatten())
        return FixedBatches(module, batch_size=4, device=torch.device("cpu"))(windows, numbers)

    windows, numbers = np.random.default_rng(1).normal(size=(7, CONTEXT)).astype(np.float32), np.arange(7)
    found = forecast(windows, numbers)
    assert np.array_equal(forecast(windows[::-1], numbers[::-1]), found[::-1])
    assert all(np.array_equal(forecast(windows[i : i + 1], numbers[i : i + 1])[0], found[i]) for i in range(7))


class _Unmasked(torch.nn.Module):
    def __init__(self, forecaster: timesfm.Forecaster) -> None:
        super().__init__()
        self.forecaster = forecaster

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return self.forecaster(windows, torch.zeros_like(windows, dtype=torch.bool))


def test_no_row_is_computed_twice_at_its_place_and_each_batch_has_the_same_size() -> None:
    batches = []

    class Doubling(torch.nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            batches.append(rows[:, 0].tolist())
            return 2 * rows

    double = FixedBatches(Doubling(), batch_size=3, device=torch.device("cpu"))
    rows, numbers = np.arange(4, dtype=np.float32)[:, None], np.array([0, 1, 2, 3])
    assert np.array_equal(double(rows, numbers), 2 * rows)
    assert np.array_equal(double(rows[::-1], numbers[::-1]), 2 * rows[::-1])
    assert batches == [[0, 1, 2], [3, 3, 3]]
    assert np.array_equal(double(rows[:1], np.array([4])), 2 * rows[:1])  # at another place
    assert batches[2:] == [[0, 0, 0]]


# --- the model ---


def test_a_prediction_is_the_forecast_move_of_the_log_price_in_units_of_the_target(
    fitted: test_models.Fitted, tiny: TinyWeights, bars: pd.DataFrame
) -> None:
    row = 150
    log_price = np.log(bars["close"].to_numpy())[: row + 2]  # return i is that of bar i + 1
    sigma = estimate_volatility(bars, window=VOLATILITY)[row + 1]
    window = (log_price[-CONTEXT:] - log_price[-1]) / sigma
    path = tiny.forecast([window], context=CONTEXT)[0]
    expected = {"quantiles": path[4, [1, 5, 9]] / np.sqrt(5), "horizons": path[[0, 4], 5] / np.sqrt([1, 5])}
    found = fitted.model.predict_rows(fitted.samples, np.array([row]))[0]
    ahead = expected.get(fitted.model.signature.output.kind, path[4, [5]] / np.sqrt(5))
    assert found == pytest.approx(ahead, rel=1e-3, abs=1e-4)


def test_a_window_that_begins_before_its_segment_is_a_shorter_series(
    fitted: test_models.Fitted, tiny: TinyWeights
) -> None:
    returns = fitted.samples.x[SEGMENT : SEGMENT + 21, 0].astype(np.float64)  # 21 of a segment
    path = np.cumsum(returns)
    window = (path - path[-1]) / returns[-VOLATILITY:].std(ddof=1)
    forecast = tiny.forecast([window], context=CONTEXT)[0, 4, 5]
    found = fitted.model.predict_rows(fitted.samples, np.array([SEGMENT + 20]))[0, len(fitted.model.outputs) // 2]
    assert found == pytest.approx(forecast / np.sqrt(5), rel=1e-3, abs=1e-4)


def test_nothing_is_learned_and_the_history_has_one_entry_with_both_losses(fitted: test_models.Fitted) -> None:
    (entry,) = fitted.history
    error = fitted.samples.learned[VALID].reshape(len(VALID), -1) - fitted.model.predict_rows(fitted.samples, VALID)
    levels = np.array(fitted.model.signature.output.levels)
    expected = np.maximum(levels * error, (levels - 1) * error).mean() if len(levels) else (error**2).mean()
    assert entry["iteration"] == 1
    assert entry["valid_loss"] == pytest.approx(expected)
    assert np.isfinite(entry["train_loss"])


def test_a_loaded_model_needs_nothing_but_its_folder(
    fitted: test_models.Fitted, tiny: TinyWeights, tmp_path: Path
) -> None:
    loaded = plugins.load(fitted.folder)
    assert test_models.written(loaded, tmp_path) == fitted.bytes
    loaded.weights = str(tmp_path / "moved away")
    assert np.array_equal(loaded.predict_rows(fitted.samples, TEST), fitted.model.predict_rows(fitted.samples, TEST))


def test_a_fit_depends_on_no_row_outside_the_windows_of_train_and_valid(
    fitted: test_models.Fitted, tiny: TinyWeights, tmp_path: Path
) -> None:
    x, y = fitted.samples.x.copy(), fitted.samples.y.copy()
    x[VALID[-1] + 1 :], y[np.setdiff1d(np.arange(ROWS), np.concatenate([TRAIN, VALID]))] = np.nan, np.nan
    again = build(tiny, fitted.model.signature.output)
    assert again.fit(replace(fitted.samples, x=x, y=y), TRAIN, VALID) == fitted.history
    assert test_models.written(again, tmp_path) == fitted.bytes


def test_predictions_are_finite_and_the_same_alone_as_in_a_batch(fitted: test_models.Fitted) -> None:
    inputs = fitted.model.inputs(fitted.samples, TEST[:20])
    found = fitted.model.predict(inputs)
    assert (found.shape, found.dtype) == ((20, len(fitted.model.outputs)), np.float32)
    assert np.isfinite(found).all()
    pretrained._open_forecasts.cache_clear()  # no forecast is held any more
    alone = np.concatenate([fitted.model.predict(each[None]) for each in inputs])
    assert alone == pytest.approx(found, abs=PARAMS["parity"]["max_abs"])
    by_row = [fitted.model.predict_rows(fitted.samples, TEST[i : i + 1]) for i in range(20)]
    assert np.array_equal(np.concatenate(by_row), fitted.model.predict_rows(fitted.samples, TEST[:20]))


def test_the_graph_predicts_what_the_model_does_on_ordinary_and_on_hard_inputs(fitted: test_models.Fitted) -> None:
    ordinary, rng = fitted.model.inputs(fitted.samples, TEST), np.random.default_rng(2)
    hard = find_parity_checks("pretrained").make_edge_cases(fitted.model, ordinary, rng=rng)
    spread = fitted.model.predict(ordinary).std(axis=0)
    for inputs, batch in ((ordinary[:20], 1), (ordinary, 37), (hard, len(hard))):
        prediction = test_models.run_graph(fitted.folder / "model.onnx", inputs, batch=batch)
        apart = np.abs(prediction.astype(np.float64) - fitted.model.predict(inputs))
        for error in (apart, apart / spread):
            assert error.mean() < PARAMS["parity"]["mean_abs"]
            assert error.max() < PARAMS["parity"]["max_abs"]


test_the_graph_is_valid = test_models.test_the_graph_is_valid_and_leaves_the_batch_free


def test_other_columns_are_refused(fitted: test_models.Fitted) -> None:
    with pytest.raises(ValueError, match="columns"):
        fitted.model.score(replace(fitted.samples, columns=("return_5",)), TEST)


def test_a_single_column_is_refused_where_it_is_not_the_return(tiny: TinyWeights) -> None:
    block = BLOCK | {"hyperparameters": {**BLOCK["hyperparameters"], "sha256": tiny.sha256}}
    with pytest.raises(config.ParamsError, match="reads the column return_1; it sees rsi_14: set columns"):
        plugins.build("pretrained", block, Signature(("rsi_14",), OUTPUTS["return"]), shared={}, seed=7, name="timesfm")


@pytest.mark.parametrize(
    ("output", "changes", "message"),
    [
        (OUTPUTS["volatility"], {}, "has no direction: choose a return"),
        (OUTPUTS["barrier"], {}, "predicts value, quantiles, horizons; its target asks for classes"),
        (Output(kind="quantiles", names=("q5",), levels=(0.05,)), {}, r"asks for \[0.05\]"),
        (OUTPUTS["return"], {"volatility_window": 33}, "volatility_window is 33, above window, which is 32"),
    ],
)
def test_what_it_cannot_forecast_is_refused(
    tiny: TinyWeights, output: Output, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(config.ParamsError, match=message):
        build(tiny, output, **changes)


@pytest.mark.parametrize("key", ["horizon", "volatility_window"])
def test_a_horizon_or_volatility_window_that_is_not_the_targets_is_refused_by_both_names(key: str) -> None:
    params = copy.deepcopy(PARAMS)
    params["models"]["pretrained"] = {"timesfm": copy.deepcopy(BLOCK)}
    target = Target(name="return_5", horizon_bars=5, output=QUANTILES)
    folds = SimpleNamespace(embargo_bars=0)
    data = SimpleNamespace(samples=SimpleNamespace(columns=("return_1",)), target=target, folds=folds)
    assert make_spec(params, "timesfm", data=cast(Any, data)).model.name == "timesfm"
    params["models"]["pretrained"]["timesfm"]["hyperparameters"][key] = 15
    own = PARAMS["datasets"]["klines"]["targets"]["return_5"][key]
    message = (
        f"models.pretrained.timesfm.hyperparameters.{key} is 15, and {key} of datasets.klines.targets.return_5 is "
        f"{own}: they must be equal, .*; set the first to {own}"
    )
    with pytest.raises(config.ParamsError, match=message):
        make_spec(params, "timesfm", data=cast(Any, data))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 30, "volatility_window": 20}, "a window of 30 bars is no multiple of TimesFM's patches of 8 bars"),
        ({"horizon": 17}, "a horizon of 17 bars is above 16"),
    ],
)
def test_lengths_that_the_weights_cannot_take_are_refused(
    tiny: TinyWeights, bars: pd.DataFrame, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build(tiny, **changes).fit(make_samples(bars), TRAIN, VALID)


# --- the columns ---

SERIES = ("close", "volume", "range")


@pytest.fixture
def block(tiny: TinyWeights) -> dict[str, Any]:
    own: dict[str, Any] = {"weights": str(tiny.folder), "sha256": tiny.sha256, "series": list(SERIES)}
    own |= {"context": CONTEXT, "horizons": [1, 5], "every": 3, "batch_size": 4, "force_flip_invariance": True}
    return SHORT | {"groups": ["price"], "in_pandas": {"timesfm": own}}


NAMES = [f"timesfm_{series}_{horizon}{end}" for series in SERIES for horizon in (1, 5) for end in ("", "_spread")]


def test_columns_are_upstreams_median_and_gap_of_deciles_and_hold_until_the_next_forecast(
    tiny: TinyWeights, block: dict[str, Any]
) -> None:
    bars = draw_bars(60)
    bars["high"] *= np.random.default_rng(6).uniform(1, 1.01, 60)
    features = engine.compute(bars, **block)
    own = pd.DataFrame(features.x, columns=features.columns, index=features.rows)[NAMES]
    origin = CONTEXT - 1 + 2 * 3  # the third forecast; it holds for 3 bars
    seen = bars.iloc[origin - CONTEXT + 1 : origin + 1]
    series = {
        "close": np.log(seen["close"]),
        "volume": np.log1p(seen["volume"] / seen["volume"].mean()),
        "range": np.log(seen["high"] / seen["low"]),
    }
    for name, values in series.items():
        moves = values.to_numpy() - values.iloc[-1]
        forecast = tiny.forecast([moves / moves.std()], context=CONTEXT)[0] * moves.std()
        for horizon in (1, 5):
            median, gap = forecast[horizon - 1, 5], forecast[horizon - 1, 9] - forecast[horizon - 1, 1]
            found = own.loc[origin, [f"timesfm_{name}_{horizon}", f"timesfm_{name}_{horizon}_spread"]]
            assert found.to_numpy() == pytest.approx([median, gap], rel=1e-4, abs=1e-5)
    assert (own.loc[origin : origin + 2] == own.loc[origin]).all(axis=None)
    assert (own.loc[origin + 3] != own.loc[origin]).all()
    assert features.rows[0] == CONTEXT - 1
    assert set(features.in_pandas) == set(NAMES)


def test_no_column_changes_where_later_bars_are_removed(block: dict[str, Any]) -> None:
    bars = draw_bars(90).assign(segment=np.repeat(np.arange(2, dtype=np.int32), 45))
    whole = engine.compute(bars, **block)

    def recompute(cut: pd.DataFrame) -> list[tuple[np.ndarray, np.ndarray]]:
        timesfm._load_cached.cache_clear()  # and with it every forecast that is held
        features = engine.compute(cut, **block)
        return [(features.rows, features.x)]

    finding = truncation(bars, recompute, (whole.rows, whole.x), whole.columns, cuts=6, seed=1)
    assert finding.severity == "ok", finding.message


def test_series_that_stand_still_are_forecast_to_do_so(block: dict[str, Any]) -> None:
    bars = draw_bars(40).assign(open=10.0, high=10.0, low=10.0, close=10.0, volume=0.0, taker_buy_base=0.0)
    features = engine.compute(bars, **block)
    own = pd.DataFrame(features.x, columns=features.columns)[NAMES]
    assert (own == 0).all(axis=None)


def test_the_readme_shows_a_block_that_is_accepted() -> None:
    text = (ROOT / "pipeline/models/pretrained/README.md").read_text()
    shown = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert load_pandas_file("timesfm", shown["in_pandas"]["timesfm"]).warm_up_bars == 511


def test_a_stream_refuses_the_columns(block: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="in_pandas has timesfm: columns in pandas cannot be streamed; leave them out"):
        engine.Stream(**block)


# --- the weights ---


def test_absent_weights_are_named_with_their_source_and_nothing_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: dict[str, Any]
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    absent = {"timesfm": block["in_pandas"]["timesfm"] | {"weights": str(tmp_path)}}
    message = (
        rf"weights is '{tmp_path}', and {tmp_path}/model.safetensors does not exist; no stage downloads weights: get "
        r"model.safetensors of google/timesfm-2.5-200m-pytorch of Hugging Face \(Apache-2.0, 925 MB"
    )
    with pytest.raises(ValueError, match=message):
        engine.compute(draw_bars(40), **block | {"in_pandas": absent})


@pytest.mark.parametrize(
    ("pinned", "said"), [(None, "is empty"), ("0" * 64, f"is '{'0' * 64}'")], ids=["none", "another"]
)
def test_weights_that_are_not_pinned_are_refused_with_their_sha256(
    tiny: TinyWeights, bars: pd.DataFrame, pinned: str | None, said: str
) -> None:
    message = f"has sha256 {tiny.sha256}, and the key sha256 beside weights {said}; .* set sha256 to {tiny.sha256}"
    with pytest.raises(ValueError, match=message):
        build(tiny, sha256=pinned).fit(make_samples(bars), TRAIN, VALID)


CHANGES: dict[str, tuple[Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], str]] = {
    "other tensors": (lambda found: {"w": torch.zeros(1)}, r"there is no tensor tokenizer.hidden_layer.weight"),
    "a tensor is missing": (
        lambda found: {name: each for name, each in found.items() if name != "stacked_xf.1.ff1.weight"},
        r"Missing key.* \"stacked_xf.1.ff1.weight\"",
    ),
    "a tensor too many": (lambda found: found | {"w": torch.zeros(1)}, r"Unexpected key.* \"w\""),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_weights_of_another_model_are_refused(tiny: TinyWeights, tmp_path: Path, change: str) -> None:
    alter, message = CHANGES[change]
    save_file(alter(load_file(tiny.folder / "model.safetensors")), tmp_path / "model.safetensors")
    sha256 = digests.hash_file(tmp_path / "model.safetensors")
    with pytest.raises(
        ValueError, match=rf"not the weights of TimesFM 2.5 .*{message}.*supported is model.safetensors"
    ):
        timesfm.load_forecaster(str(tmp_path), sha256=sha256, force_flip_invariance=True)


def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ValueError, match=r"model.safetensors is no file of safetensors .*; download it again"):
        timesfm.load_forecaster(str(tmp_path), sha256=digests.hash_file(file), force_flip_invariance=True)


def test_a_missing_package_is_named_with_the_extra_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    own = ("pipeline.features.pretrained.timesfm", "pipeline.models.pretrained.timesfm")
    loaded = [name for name in sys.modules if name.split(".")[0] == "timesfm"]
    for name in (*own, *loaded):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "timesfm", None)
    message = r"need the package timesfm; run `pip install -c .ci/constraints.txt -e '.\[timesfm\]'`$"
    with pytest.raises(config.ParamsError, match=f"models.pretrained.timesfm: forecasts of TimesFM {message}"):
        plugins.find_plugin_of(config.ModelBlock("pretrained", BLOCK, "timesfm"))
    entry = catalogue.describe_plugin("pretrained", "timesfm", PARAMS)
    assert entry.facts == ("needs timesfm: pip install -e '.[timesfm]'",)
