"""Results by delay, cost and capital, and the verdict: on bars by hand, a bid-ask bounce, and an honest signal."""

from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest

from pipeline import config, fills, trading
from pipeline.artifacts import read_json, write_json
from pipeline.evaluation import performance
from pipeline.evaluation.evaluation_data import EvaluationData
from pipeline.evaluation.execution import (
    Executability,
    Execution,
    ExecutionSettings,
    average_half_spread,
    judge_executability,
    measure_execution,
)
from pipeline.evaluation.liquidity import measure_liquidity
from pipeline.evaluation.portfolio import trade_predictions
from pipeline.reporting.execution_page import render_execution
from pipeline.reporting.execution_plots import plot_execution
from pipeline.reporting.position_chart import trace_positions
from pipeline.targets import Output
from pipeline.trading_rules import Costs, Rules, list_terms

MINUTE_MS = 60_000
SETTINGS = ExecutionSettings(delay_bars=[0, 1, 3], cost_factors=[0, 1, 4], capitals=[1e3, 1e9], max_sharpe_daily=15.0)
FREE = Costs(fee_bps=0.0, slippage_bps=0.0, borrow_rate=0.0)
HALF_SPREAD = 1e-4  # of the planted bounce


def make_data(opens, closes, *, costs: Costs = FREE, volume=None) -> EvaluationData:
    """Return one symbol's bars, one minute each, with a quote volume of 1e6, traded at any change of the target."""
    rows = len(opens)
    time = MINUTE_MS * np.arange(rows, dtype=np.int64)
    bars = pd.DataFrame({"symbol": "BTCUSDT", "segment": 0, "open_time": time, "open": opens, "close": closes})
    bars = bars.assign(
        high=bars[["open", "close"]].max(axis=1),
        low=bars[["open", "close"]].min(axis=1),
        quote_volume=1e6,
        volume=1.0 if volume is None else volume,
    )
    rules = Rules(
        delay_bars=0, full_position_std=2.0, no_trade_band=0.0, long_only=False, capital=1e3, max_participation=0.05
    )
    return EvaluationData(
        rows=pd.DataFrame({"segment": 0, "time": time, "symbol": "BTCUSDT"}),
        clean=bars,
        y=np.zeros(rows, np.float32),
        output=Output(kind="position", names=("position",)),
        target="position",
        is_included=np.ones(rows, bool),
        symbols=("BTCUSDT",),
        bar_ms=MINUTE_MS,
        bars_per_year=525_600.0,
        rules=rules,
        costs=costs,
    )


def make_predictions(score) -> pd.DataFrame:
    return pd.DataFrame({"row": np.arange(len(score)), "score": np.asarray(score, float), "score_std": np.nan})


def make_bounce(*, rows: int = 6000) -> tuple[pd.DataFrame, EvaluationData]:
    """Return a random walk whose trades alternate between bid and ask at random, and a score that fades its last move.

    A bar opens where the last one closed. Nothing of the mid is predictable.
    """
    rng = np.random.default_rng(3)
    mid = 100.0 * np.exp(np.cumsum(rng.normal(0, 0.5e-4, rows)))
    close = mid * (1.0 + HALF_SPREAD * rng.choice([-1.0, 1.0], rows))
    opens = np.append(close[0], close[:-1])
    costs = Costs(fee_bps=0.1, slippage_bps=0.1, borrow_rate=0.0)
    return make_predictions(-np.sign(close - opens)), make_data(opens, close, costs=costs)


def make_trend(*, rows: int = 6000) -> tuple[pd.DataFrame, EvaluationData]:
    """Return a price whose drift of 2 bps a bar keeps its sign for 100 bars, and a score that knows that sign."""
    rng = np.random.default_rng(4)
    sign = np.repeat(rng.choice([-1.0, 1.0], rows // 100), 100)
    open_ = 100.0 * np.exp(np.cumsum(np.append(0.0, 2e-4 * sign[:-1] + rng.normal(0, 2e-4, rows - 1))))
    costs = Costs(fee_bps=5.0, slippage_bps=0.5, borrow_rate=0.05)
    return make_predictions(sign), make_data(open_, np.append(open_[1:], open_[-1]), costs=costs)


def trade_directly(predictions: pd.DataFrame, data: EvaluationData, **change) -> trading.Backtest:
    terms = {"delay_bars": 0, **list_terms(data.rules, data.costs), **change}
    return trading.backtest(predictions["score"].to_numpy(), data.clean, **terms)


def compound(net) -> float:
    return float(performance.compound_equity(net)[-1] - 1)


def test_the_break_even_cost_is_the_gross_return_over_the_turnover_by_hand() -> None:
    # Bought at 100 in bar 1, sold at 101 in bar 2: 1 is bought and 1.01 of the first capital is sold.
    data = make_data([100.0, 100.0, 101.0, 101.0], [100.0, 101.0, 101.0, 101.0])
    found = measure_execution(make_predictions([1, 0, 0, 0]), data, settings=SETTINGS, half_spread_bps=0.0)
    assert found.round_trips == 1
    assert found.break_even_bps == pytest.approx(1e4 * 0.01 / 2)  # 1.01 is the whole capital then: a weight of 1
    assert found.by_delay.net_return == pytest.approx((0.01, 0.0, 0.0))
    assert found.executability == Executability(False, ("net 0.00% with a delay of 1 bar",))


def test_a_curve_is_the_backtest_at_each_delay_cost_and_capital() -> None:
    predictions, data = make_trend(rows=1000)
    found = measure_execution(predictions, data, settings=SETTINGS, half_spread_bps=0.5)
    for delay, net, turnover in zip((0, 1, 3), found.by_delay.net_return, found.by_delay.turnover, strict=True):
        direct = trade_directly(predictions, data, delay_bars=delay)
        assert net == pytest.approx(compound(direct.net))
        assert turnover == pytest.approx(direct.turnover.mean())
    for factor, cost, net in zip((0, 1, 4), found.by_cost.values, found.by_cost.net_return, strict=True):
        assert cost == 5.5 * factor
        direct = trade_directly(predictions, data, fee_bps=cost, slippage_bps=0.0)
        assert net == pytest.approx(compound(direct.net))
    for capital, net in zip((1e3, 1e9), found.by_capital.net_return, strict=True):
        assert net == pytest.approx(compound(trade_directly(predictions, data, capital=capital).net))


def test_a_capital_beyond_the_volume_of_the_bars_earns_a_smaller_share() -> None:
    found = measure_execution(*make_trend(), settings=SETTINGS, half_spread_bps=0.5)
    small, large = found.by_capital.net_return
    assert small > 100 * large > 0  # 5 % of 1e6 are 5e-5 of 1e9


def test_at_the_break_even_cost_nothing_is_earned() -> None:
    predictions, data = make_bounce()
    found = measure_execution(predictions, data, settings=SETTINGS, half_spread_bps=0.5)
    net = trade_directly(predictions, data, fee_bps=found.break_even_bps, slippage_bps=0.0).net
    assert abs(net.sum()) < 0.001 * trade_directly(predictions, data).gross.sum()


def add_spread(data: EvaluationData, half_spread: float) -> EvaluationData:
    def find_fills(bars: pd.DataFrame, *, delay_bars: int) -> fills.Fills:
        found = fills.find_fills(bars, delay_bars=delay_bars)
        return replace(found, half_spread=np.full(len(bars), half_spread))

    return replace(data, find_fills=find_fills)


def test_half_spreads_of_fills_are_charged_multiplied_and_part_of_the_break_even_cost() -> None:
    predictions, plain = make_trend(rows=600)
    data = add_spread(plain, 2e-4)
    found = measure_execution(
        predictions, data, settings=SETTINGS, half_spread_bps=average_half_spread(predictions, data)
    )
    assert found.half_spread_bps == pytest.approx(2.0) and found.charged_bps == pytest.approx(5.5 + 2.0)
    assert found.by_cost.values == pytest.approx((0.0, 7.5, 30.0))
    for cost, earned in zip(found.by_cost.values, found.by_cost.net_return, strict=True):
        direct = trade_predictions(predictions, plain, cost_bps=cost).backtest.net
        assert earned == pytest.approx(compound(direct), rel=1e-9)  # a constant half spread is a fee of its size
    charged = trade_predictions(predictions, data, cost_bps=found.break_even_bps - 2.0).backtest
    assert found.break_even_bps > found.charged_bps and abs(charged.net.sum()) < 0.05 * charged.gross.sum()
    assert not any("as slippage" in reason for reason in found.executability.reasons)
    history = trace_positions(predictions, data)[1]
    dear = trade_predictions(predictions, data).backtest
    assert history.equity[-1] == pytest.approx(1 + compound(dear.net))


def test_a_signal_that_lasts_is_executable() -> None:
    found = measure_execution(*make_trend(), settings=SETTINGS, half_spread_bps=2.0)
    assert found.executability == Executability(True, ())


def test_a_bid_ask_bounce_is_not_executable_although_it_is_positive_as_charged() -> None:
    predictions, data = make_bounce()
    found = measure_execution(predictions, data, settings=SETTINGS, half_spread_bps=HALF_SPREAD * 1e4)
    assert trade_directly(predictions, data).net.sum() > 0
    assert found.executability.is_executable is False
    spread, delay = found.executability.reasons
    assert "with half the spread that the data imply, 1 bps, as slippage in place of 0.1 bps" in spread
    assert "with a delay of 1 bar" in delay
    assert any("the bid-ask bounce" in warning for warning in found.warnings)


def test_the_half_spread_of_the_bars_is_weighted_by_turnover() -> None:
    (score, first), (_, second) = make_bounce(), make_trend()
    later = 31 * 24 * 60  # the second month has a price that does not bounce
    time = second.clean["open_time"] + MINUTE_MS * later
    clean = second.clean.assign(open_time=time)
    clean = pd.concat([first.clean, clean], ignore_index=True)
    data = replace(first, clean=clean, rows=clean[["segment", "symbol"]].assign(time=clean["open_time"]))
    both = pd.concat([score, score.assign(row=score["row"] + len(score))])
    before, whole = (trade_predictions(each, data).turnover.sum() for each in (score, both))
    bouncing, smooth = measure_liquidity(clean)["half_spread_bps"]
    expected = (bouncing * before + smooth * (whole - before)) / whole
    assert average_half_spread(both, data) == pytest.approx(expected, rel=1e-3)
    assert average_half_spread(score, data) == pytest.approx(bouncing) == pytest.approx(HALF_SPREAD * 1e4, rel=0.1)


def test_predictions_that_never_trade_have_no_half_spread() -> None:
    predictions, data = make_bounce()
    assert np.isnan(average_half_spread(predictions.assign(score=0.0), data))


def test_the_half_spread_depends_on_no_bar_after_the_last_prediction() -> None:
    predictions, data = make_bounce()
    jumps = np.where(np.arange(6000) > 4000, np.arange(6000), 0)
    altered = replace(data, clean=data.clean.assign(close=data.clean["close"] + jumps))
    first = predictions[:3000]
    assert average_half_spread(first, altered) == average_half_spread(first, data)


def test_a_slippage_of_the_half_spread_replaces_no_larger_one() -> None:
    predictions, data = make_trend()
    dear = replace(data, costs=Costs(fee_bps=0.0, slippage_bps=60.0, borrow_rate=0.0))
    assert judge_executability(predictions, dear, half_spread_bps=50.0).is_executable
    cheap = replace(data, costs=Costs(fee_bps=50.0, slippage_bps=10.0, borrow_rate=0.0))
    assert not judge_executability(predictions, cheap, half_spread_bps=150.0).is_executable


def test_a_result_that_earns_nothing_has_no_verdict() -> None:
    predictions, data = make_trend()
    verdict = judge_executability(predictions.assign(score=-predictions["score"]), data, half_spread_bps=1.0)
    assert verdict.is_executable is None
    assert "it earns nothing at the costs charged: net -" in verdict.reasons[0]


def test_predictions_that_never_trade_have_neither_break_even_nor_verdict() -> None:
    predictions, data = make_trend()
    found = measure_execution(predictions.assign(score=0.0), data, settings=SETTINGS, half_spread_bps=np.nan)
    assert found.executability == Executability(None, ("no trade",))
    assert np.isnan([found.break_even_bps, *found.by_delay.sharpe_daily]).all()
    assert found.reason == "no break_even_bps, no trade; no half_spread_bps, no trade"
    assert "no sharpe_daily at 0, no trade" in str(found.by_delay.reason)


def test_bars_without_trades_are_a_warning() -> None:
    predictions, data = make_trend(rows=1000)
    idle = replace(data, clean=data.clean.assign(volume=np.arange(1000) % 10 > 0))
    found = measure_execution(predictions, idle, settings=SETTINGS, half_spread_bps=0.5)
    assert "10% of the bars have no trades: their prices are stale, and orders wait" in found.warnings


def test_a_return_over_missing_bars_is_a_warning() -> None:
    opens = np.array([100.0, 100.0, 100.0, 110.0, 110.0, 110.0])
    data = make_data(opens, opens)
    time = MINUTE_MS * np.array([0, 1, 2, 30, 31, 32])
    segment = np.array([0, 0, 0, 1, 1, 1])
    gap = replace(
        data,
        clean=data.clean.assign(open_time=time, segment=segment),
        rows=data.rows.assign(time=time, segment=segment),
    )
    found = measure_execution(make_predictions(np.ones(6)), gap, settings=SETTINGS, half_spread_bps=0.5)
    warning = "100% of the gross return is earned while bars are missing, when nothing can be traded"
    assert warning in found.warnings


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"delay_bars": [1, 0]}, "execution.delay_bars is [1, 0]; it must be a list of ascending numbers"),
        ({"delay_bars": [0, 0]}, "execution.delay_bars is [0, 0]; it must be a list of ascending numbers"),
        ({"delay_bars": [-1]}, "execution.delay_bars.0 is -1; it must be at least 0"),
        ({"cost_factors": []}, "execution.cost_factors is []; it must be a list of at least 1"),
        ({"capitals": [0.0]}, "execution.capitals.0 is 0.0; it must be above 0"),
        ({"max_sharpe_daily": 0.0}, "execution.max_sharpe_daily is 0.0; it must be above 0"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(wrong: dict[str, object], message: str) -> None:
    block = asdict(SETTINGS) | wrong
    with pytest.raises(config.ParamsError) as error:
        config.call_with(ExecutionSettings, block=block, name="execution")
    assert message in str(error.value)


def test_the_section_of_params_has_the_settings() -> None:
    settings = config.call_with(ExecutionSettings, block=config.load_params()["execution"], name="execution")
    assert settings.delay_bars[0] == 0


def make_executions() -> dict[str, Execution]:
    none = make_trend()[0].assign(score=0.0), make_trend()[1]
    return {
        "trend": measure_execution(*make_trend(), settings=SETTINGS, half_spread_bps=2.0),
        "bounce": measure_execution(*make_bounce(), settings=SETTINGS, half_spread_bps=HALF_SPREAD * 1e4),
        "none": measure_execution(*none, settings=SETTINGS, half_spread_bps=np.nan),
    }


def test_the_page_has_a_verdict_for_each_model_as_read_from_its_report(tmp_path) -> None:
    file = tmp_path / "report.json"
    write_json(file, {name: asdict(found) for name, found in make_executions().items()})
    page = render_execution(read_json(file))
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in page.splitlines() if line.startswith("| ")}
    assert "| net, delay 0 | net, delay 1 | net, delay 3 | round trips | executable |" in lines["model"]
    assert lines["trend"].endswith("| yes |")
    assert "| not executable: net -" in lines["bounce"]
    assert lines["none"].startswith("| none | – | 5.5 | – | 0 % |")
    assert lines["none"].endswith("| 0 | not known: no trade |")
    assert "- bounce: the Sharpe ratio of daily returns is" in page


def test_a_page_without_a_model_that_trades_says_so() -> None:
    assert render_execution({}) == "Could it have been earned? No model trades."


def test_the_figure_has_the_curves_the_break_even_and_why_a_panel_is_empty() -> None:
    found = make_executions()
    figure = plot_execution(found["trend"], delay_bars=0, fee_bps=0.0, capital=1e3, title="trend")
    delay, cost, capital = figure.axes
    for axes, curve in ((delay, found["trend"].by_delay), (cost, found["trend"].by_cost)):
        np.testing.assert_allclose(axes.lines[0].get_xydata(), np.column_stack([curve.values, curve.sharpe_daily]))
    assert capital.get_xscale() == "log"
    marks = {line.get_label(): line.get_xdata()[0] for line in cost.lines}
    assert marks["break-even cost"] == found["trend"].break_even_bps
    assert marks["fee and half the spread of the data"] == 2.0
    empty = plot_execution(found["none"], delay_bars=0, fee_bps=0.0, capital=1e3, title="none")
    assert empty.axes[0].get_title(loc="left") == "no sharpe_daily at 0, no trade"
