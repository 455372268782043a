"""Metrics of strategies: by hand, beside what calls earn at the quotes, and in the report of a model."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pipeline.evaluation import strategy_metrics
from pipeline.evaluation.evaluation_data import EvaluationData
from pipeline.evaluation.forecast_report import ForecastSettings, describe_forecasts
from pipeline.fills import FILLS, Fills
from pipeline.orderbook.executable import measure_executable
from pipeline.orderbook.labels import KINDS
from pipeline.reporting.forecast_page import render_page
from pipeline.targets import Output
from pipeline.trading_rules import Costs, Rules

SIDES = KINDS["barrier"].output
CODES = np.array([2, 2, 1, 0, 0, 1, 2, 0])
CALLED = np.array([2, 0, 2, 0, 2, 1, 2, 1])  # six calls: three right, one of a flat label
BARRIER = {"kind": "barrier", "profit": 3.0, "stop": 1.0}
SETTINGS = ForecastSettings(
    calibration_bins=5,
    tiers=[0.5],
    sessions={"us": [14.5, 21.0]},
    confidence=0.9,
    resamples=100,
    interval_blocks=2,
    adaptive_gamma=0.01,
    adaptive_window=100,
)


def to_probabilities(codes, classes=3, sure=0.8) -> np.ndarray:
    rest = (1 - sure) / (classes - 1)
    return np.where(np.eye(classes)[codes] > 0, sure, rest)


def measure(strategy, *, output=SIDES, y=CODES, called=CALLED) -> dict:
    found = strategy_metrics.measure_calls(y, to_probabilities(called, len(output.names)), strategy, output)
    return {key: value for key, value in found.items() if key != "undefined"}


def test_the_metrics_of_smoothed_labels_count_a_flat_label_as_a_wrong_call():
    assert measure({"kind": "smoothed"}) == pytest.approx({"signal_rate": 6 / 8, "directional_accuracy": 3 / 6})


def test_an_opportunity_has_a_prediction_rate():
    assert measure({"kind": "opportunity"}) == pytest.approx({"prediction_rate": 6 / 8, "directional_accuracy": 3 / 6})


def test_the_break_even_rate_of_barriers_follows_from_their_distances_and_the_calls():
    found = measure(BARRIER)
    expected = {"signal_rate": 6 / 8, "win_rate": 3 / 6, "decisive_rate": 5 / 6, "win_rate_of_decisive": 3 / 5}
    assert found == pytest.approx(expected | {"break_even_rate": (4 * 1 / 4 + 2 * 3 / 4) / 6})


def test_a_large_move_has_precision_and_recall():
    found = measure(
        {"kind": "large_move"},
        output=KINDS["large_move"].output,
        y=np.array([1, 1, 0, 0]),
        called=np.array([1, 0, 1, 1]),
    )
    assert found == pytest.approx({"prediction_rate": 3 / 4, "precision": 1 / 3, "recall": 1 / 2})


def test_a_predicted_return_is_a_call_to_its_side():
    output = Output(kind="value", names=("return",))
    found = strategy_metrics.measure_calls(
        np.array([1.0, -2.0, 0.5]), np.array([[0.1], [0.2], [0.0]]), {"kind": "return"}, output
    )
    assert (found["signal_rate"], found["directional_accuracy"]) == pytest.approx((2 / 3, 1 / 2))


def test_without_a_call_the_metrics_are_undefined_and_say_why():
    found = strategy_metrics.measure_calls(CODES, to_probabilities(np.ones(8, int)), {"kind": "smoothed"}, SIDES)
    assert found["signal_rate"] == 0 and np.isnan(found["directional_accuracy"])
    assert found["undefined"] == {"directional_accuracy": "no row is called up or down"}


def test_the_improvement_over_a_baseline_is_that_of_the_accuracy_with_its_interval():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 3000)
    codes = np.where(rng.random(3000) < 0.3, y, rng.integers(0, 3, 3000))
    others = {"constant": to_probabilities(np.ones(3000, int)), "previous": to_probabilities(codes)}
    settings = {"confidence": 0.9, "resamples": 100, "seed": 0}
    model, instant = to_probabilities(codes), np.arange(3000)
    found = strategy_metrics.compare_accuracy(y, model, others, instant, **settings)
    assert found["constant"]["value"] == pytest.approx(np.mean(codes == y) - np.mean(y == 1))
    assert found["constant"]["low"] < found["constant"]["value"] < found["constant"]["high"]
    assert found["constant"]["beats"] is True and found["previous"]["beats"] is None


def test_the_earnings_of_calls_stand_beside_their_accuracy():
    called, side = np.array([1, 1, -1, 0, -1]), np.array([1, 0, -1, 1, 1])
    earned = SimpleNamespace(
        long=np.array([3e-4, -1e-4, 0, 0, 0]),
        short=np.array([0, 0, 1e-4, 0, np.nan]),
        move=np.array([5e-4, 1e-4, -3e-4, 0, np.nan]),
        half_spread=np.array([1e-4, 1e-4, 1e-4, 1e-4, np.nan]),
    )
    conviction = np.array([0.9, 0.1, 0.9, 0.0, 0.2])
    found = strategy_metrics.measure_earnings(called, side, earned, conviction, quantiles=[0.5], cost_bps=0.5)
    assert (found["all"]["calls"], found["all"]["traded"]) == (4, 3)
    assert found["all"]["accuracy"] == pytest.approx(2 / 3)
    assert found["all"]["net_return_bps"] == pytest.approx(1.0)
    assert found["all"]["profitable"] == pytest.approx(2 / 3)
    assert found["all"]["move_bps"] == pytest.approx(3.0)
    assert found["all"]["break_even_half_spread_bps"] == pytest.approx(3.0 / 2 - 0.5)
    assert found["up"]["net_return_bps"] == pytest.approx(1.0) and found["down"]["traded"] == 1
    assert [tier["traded"] for tier in found["tiers"]] == [1, 2]


@pytest.fixture(scope="module")
def data() -> EvaluationData:
    """A book whose mid moves by 2 half spreads with each event, up or down; the label is the side of the next move."""
    rng, count = np.random.default_rng(1), 1200
    side = rng.integers(0, 2, count) * 2 - 1
    mid = 1000 * np.exp(np.append(0, 2e-4 * side[:-1].cumsum()))
    event = np.arange(count) * 2
    clean = pd.DataFrame({"symbol": "A", "segment": np.int32(0), "event": event, "close": mid, "half_spread": 1e-4})
    clean = clean.assign(ask_price_1=mid * (1 + 1e-4), bid_price_1=mid * (1 - 1e-4))

    def find_fills(clean: pd.DataFrame, *, delay_bars: int) -> Fills:
        place = np.minimum(np.arange(len(clean)) + 1 + delay_bars, len(clean) - 1)
        price, zeros = clean["close"].to_numpy(), np.zeros(len(clean))
        move = price[np.append(place[1:], place[-1:])] / price[place] - 1
        half_spread = clean["half_spread"].to_numpy()[place]
        return Fills(
            move, zeros, zeros + np.inf, np.full(len(clean), FILLS, np.int8), zeros > 0, half_spread=half_spread
        )

    return EvaluationData(
        rows=pd.DataFrame({"segment": np.int32(0), "time": event, "symbol": "A"}),
        clean=clean,
        y=np.append(side[1:] + 1, 1).astype(np.int32),  # of the move between the next event and the one after it
        output=SIDES,
        target="smoothed_1",
        is_included=np.ones(count, bool),
        symbols=("A",),
        bar_ms=None,
        bars_per_year=1e6,
        rules=Rules(
            delay_bars=0, full_position_std=1.0, no_trade_band=0.0, long_only=False, capital=1e4, max_participation=1.0
        ),
        costs=Costs(fee_bps=0.25, slippage_bps=0.0, borrow_rate=0.0),
        to_ms=lambda time: time * 1000,
        time_column="event",
        find_fills=find_fills,
        strategy={"kind": "smoothed"},
        label_end=np.minimum(event + 2, event[-1]),
        measure_executable=measure_executable,
    )


def predict(data: EvaluationData, codes: np.ndarray) -> pd.DataFrame:
    probabilities = to_probabilities(codes)
    columns = dict(zip(data.output.names, probabilities.T, strict=True))
    score = probabilities[:, 2] - probabilities[:, 0]
    own = {"split": 0, "row": np.arange(len(codes)), "time": data.rows["time"], "score": score, "score_std": 0.6}
    return pd.DataFrame(own | columns)


@pytest.fixture(scope="module")
def forecasts(data) -> dict:
    rng = np.random.default_rng(2)
    right = np.where(rng.random(1200) < 0.75, data.y, 2 - data.y)
    others = {"constant": predict(data, np.full(1200, 2)), "previous": predict(data, np.append(1, data.y[:-1]))}
    return describe_forecasts(predict(data, right), others, data, settings=SETTINGS, seed=0)


def test_a_report_has_the_score_on_labels_and_on_executable_returns_side_by_side(forecasts):
    found = forecasts["strategy"]
    assert found["metrics"]["directional_accuracy"] == pytest.approx(0.75, abs=0.04)
    assert found["beats_prior"] is True and found["beats_previous"] is True and "beats_linear" not in found
    executed = found["executable"]["all"]
    assert executed["accuracy"] == pytest.approx(found["metrics"]["directional_accuracy"], abs=0.002)
    assert executed["half_spread_bps"] == pytest.approx(1.0)
    move = 2 * (2 * executed["accuracy"] - 1)  # bps; the trade crosses the spread twice, and pays two fees
    assert executed["move_bps"] == pytest.approx(move, rel=1e-2)
    assert executed["net_return_bps"] == pytest.approx(move - 2 - 0.5, abs=0.02)
    assert executed["break_even_half_spread_bps"] == pytest.approx(move / 2 - 0.25, rel=1e-2)


def test_the_net_returns_by_events_and_by_time_add_up_to_those_of_the_portfolio(data, forecasts):
    parts = forecasts["strategy"]["net_returns"]
    for rows in parts.values():
        assert sum(part["events"] for part in rows) == 1200 and len(rows) == strategy_metrics.PARTS
        total = {name: sum(part[name] for part in rows) for name in ("net_return", "gross_return", "costs")}
        assert total["net_return"] == pytest.approx(total["gross_return"] - total["costs"])
    net = [sum(part["net_return"] for part in rows) for rows in parts.values()]
    assert net[0] == pytest.approx(net[1]) and net[0] < 0


def test_a_page_has_the_strategy_and_one_without_it_has_not(data, forecasts):
    findings = {"model_findings": {"bands": {}, "measurements": {}}}
    page = render_page("deeplob", {"forecasts": forecasts | {"path": 0}, **findings})
    assert "Strategy: smoothed" in page and "| break_even_half_spread_bps |" in page and "| up | " in page
    assert "Net returns by time" in page
    plain = describe_forecasts(
        predict(data, np.arange(1200) % 3), {}, replace(data, strategy=None), settings=SETTINGS, seed=0
    )
    assert "strategy" not in plain
    assert "Strategy" not in render_page("lstm", {"forecasts": plain | {"path": 0}, **findings})
