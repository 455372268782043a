"""Market impact and capacity: by hand, by a plain loop over orders and bars, and by laws that must hold."""

from collections.abc import Callable
from dataclasses import asdict, replace
from math import log, sqrt

import numpy as np
import pandas as pd
import pytest

from pipeline import config
from pipeline.artifacts import read_json, write_json
from pipeline.evaluation import capacity
from pipeline.evaluation.capacity import (
    Capacity,
    CapacitySettings,
    Outcome,
    find_half_sharpe,
    find_max_profit,
    list_capitals,
    measure_capacity,
    read_capacity_settings,
    summarize_capacity,
)
from pipeline.evaluation.evaluation_data import EvaluationData
from pipeline.evaluation.execution import measure_execution
from pipeline.evaluation.market_impact import Impact, charge_impact, estimate_illiquidity, place_illiquidity
from pipeline.evaluation.portfolio import trade_predictions
from pipeline.reporting.capacity_page import render_capacity
from pipeline.reporting.tear_sheet.capacity_page import plot_capacity, tabulate_capacity
from pipeline.trading_rules import Rules
from tests.report_evidence import make_model
from tests.test_execution import MINUTE_MS, SETTINGS, make_data, make_predictions, make_trend

WINDOW = 5
IMPACT = CapacitySettings(impact_coefficient=1.0, impact_window=WINDOW)
CLOSES = [100.0, 102.0, 101.0, 101.0, 103.0, 103.0, 104.0, 104.0]
UNLIMITED = 1.0  # of a bar's volume, which no order here reaches


def make_steps(scores: list[float], *, volume: float = 1e6) -> tuple[pd.DataFrame, EvaluationData]:
    """Return bars whose opens are the closes before, without costs or limits, and scores of them."""
    data = make_data([100.0, *CLOSES[:-1]], CLOSES)
    rules = replace(data.rules, max_participation=UNLIMITED, capital=1e4)
    return make_predictions(scores), replace(data, clean=data.clean.assign(quote_volume=volume), rules=rules)


def make_pair(*, rows: int = 60) -> tuple[pd.DataFrame, EvaluationData]:
    """Return two symbols, one listed later, with missing and idle bars, and scores that change at half of the bars."""
    rng = np.random.default_rng(7)
    time = MINUTE_MS * np.arange(rows, dtype=np.int64)
    first, second = np.arange(rows), np.flatnonzero((np.arange(rows) >= 9) & ~np.isin(np.arange(rows), [30, 31, 32]))
    parts = []
    for symbol, own in (("A", first), ("B", second)):
        close = 100.0 * np.exp(np.cumsum(rng.normal(0, 2e-3, len(own))))
        opens = np.append(100.0, close[:-1]) * np.exp(rng.normal(0, 1e-4, len(own)))
        volume = np.where(rng.random(len(own)) < 0.1, 0.0, rng.uniform(1e5, 1e6, len(own)))
        segment = np.append(0, np.cumsum(np.diff(own) != 1)) + 10 * (symbol == "B")
        columns = {"open": opens, "close": close, "high": opens, "low": opens, "volume": volume, "quote_volume": volume}
        parts.append(pd.DataFrame({"symbol": symbol, "segment": segment, "open_time": time[own], **columns}))
    clean = pd.concat(parts, ignore_index=True)
    data = make_data([100.0], [100.0])
    known = clean.rename(columns={"open_time": "time"})[["segment", "time", "symbol"]]
    rules = replace(data.rules, capital=1e6, no_trade_band=0.1)
    data = replace(data, clean=clean, rows=known, y=np.zeros(len(clean)), symbols=("A", "B"), rules=rules)
    scores = np.repeat(rng.uniform(-1, 1, len(clean) // 2 + 1), 2)[: len(clean)]
    return make_predictions(scores), data


def charge(predictions, data, *, coefficient: float = 1.0, rules: Rules | None = None) -> Impact:
    rules = rules or data.rules
    result, grid = trade_predictions(predictions, data, capital=rules.capital), data.find_grid(0)
    placed = place_illiquidity(data.clean, grid, window=WINDOW, time_column="open_time")
    return charge_impact(result, grid, placed, rules=rules, coefficient=coefficient)


def measure(predictions, data, **changes) -> Capacity:
    settings = replace(IMPACT, **{name: value for name, value in changes.items() if name != "capitals"})
    return measure_capacity(predictions, data, settings=settings, capitals=changes.get("capitals", SETTINGS.capitals))


def test_the_impact_of_one_order_is_the_square_root_law_by_hand() -> None:
    predictions, data = make_steps([0, 0, 1, 1, 1, 1, 1, 1])
    found = charge(predictions, data, coefficient=0.5)
    variance = log(1.02) ** 2 + log(101 / 102) ** 2  # of the bars 0 to 2: the order is decided at the close of bar 2
    relative = 0.5 * sqrt(variance) * sqrt(1e4 / 3e6)  # a value of 10,000, a volume of three bars
    assert found.cost[2] == pytest.approx(relative)
    assert found.cost[[0, 1, 3, 4, 5, 6]] == pytest.approx(np.zeros(6))
    window = log(103 / 101) ** 2 + log(104 / 103) ** 2  # of the last five bars, 3 to 7, at the closing
    assert found.cost[7] == pytest.approx(0.5 * sqrt(window / 5e6) * sqrt(1e4))  # the capital is the same at each bar
    assert (found.orders, found.cut) == (2, 0)  # one buys, one closes


def test_an_order_in_parts_costs_as_much_as_the_whole_and_one_after_a_pause_less() -> None:
    flat = np.full(8, 1e-2)  # of the illiquidity
    costs = {}
    for name, scores in {"whole": [1, 1, 1], "parts": [0.4, 1, 1], "pause": [0.4, 0.4, 1]}.items():
        predictions, data = make_steps([*scores, 1, 1, 1, 1, 1])
        data = replace(data, clean=data.clean.assign(open=100.0, close=100.0, high=100.0, low=100.0))
        result, grid = trade_predictions(predictions, data), data.find_grid(0)
        costs[name] = charge_impact(result, grid, flat[:, None], rules=data.rules, coefficient=1.0).cost[:7].sum()
    assert costs["whole"] == pytest.approx(1e-2 * sqrt(1e4))
    assert costs["parts"] == pytest.approx(costs["whole"])
    assert costs["pause"] == pytest.approx(1e-2 * sqrt(1e4) * (0.4**1.5 + 0.6**1.5))


def test_bars_of_twice_the_length_have_the_same_illiquidity() -> None:
    rng = np.random.default_rng(1)
    close = 100.0 * np.exp(np.cumsum(np.repeat(rng.normal(0, 1e-3, 50), 2) * np.tile([1, 0], 50)))  # a move, then none
    opens = np.append(100.0, close[:-1])
    short = pd.DataFrame(
        {"segment": 0, "open": opens, "close": close, "volume": 1.0, "quote_volume": np.arange(1, 101)}
    )
    pairs = short.groupby(np.arange(100) // 2)
    long = pairs.agg({"segment": "first", "open": "first", "close": "last", "volume": "sum", "quote_volume": "sum"})
    np.testing.assert_allclose(
        estimate_illiquidity(short, window=20)[1::2], estimate_illiquidity(long, window=10), rtol=1e-12
    )


def test_the_illiquidity_holds_without_volume_and_counts_no_move_over_missing_bars() -> None:
    bars = make_data([100.0] * 5, [100.0, 101.0, 102.0, 102.0, 102.0]).clean
    bars = bars.assign(segment=[0, 0, 1, 1, 1], open=[100, 100, 101, 102, 102], quote_volume=[0.0, 4.0, 0.0, 0.0, 0.0])
    found = estimate_illiquidity(bars, window=2)
    assert np.isnan(found[0])
    later = sqrt((log(1.01) ** 2 + log(102 / 101) ** 2) / 4)  # the third bar counts from its own open, 101
    assert found[1:] == pytest.approx([log(1.01) / 2, later, later, later])


def charge_plainly(predictions: pd.DataFrame, data: EvaluationData, *, capital: float) -> tuple[np.ndarray, int, int]:
    """Return cost, orders and orders that were cut, from positions and bars by plain loops, without compiled code."""
    result, grid = trade_predictions(predictions, data, capital=capital), data.find_grid(0)
    place = list(grid.time)
    rows = data.rows.iloc[predictions["row"]]
    scores = dict(zip(zip(rows["time"], rows["symbol"], strict=True), predictions["score"], strict=True))
    cost, orders, cut, band = np.zeros(len(place)), 0, 0, data.rules.no_trade_band
    for column, symbol in enumerate(grid.symbols):
        bars = data.clean[data.clean["symbol"] == symbol].to_dict("records")
        at, held, running = {bar["open_time"]: i for i, bar in enumerate(bars)}, 0.0, 0.0
        for row, time in enumerate(place):
            weight, n = result.backtest.position[row, column], result.sharing[row]
            following, trades = at.get(time, len(bars)) + 1, []
            fills = following < len(bars) and bars[following]["volume"] > 0
            fills = fills and bars[following]["segment"] == bars[following - 1]["segment"]
            if weight != held:
                trades.append(weight - held)
            elif fills:
                running = 0.0
            inside = min(max(held, -1.0), 1.0)
            if abs(weight - inside) > 1e-12:
                orders += 1
                score = scores.get((time, symbol))
                is_cut = fills and score is not None and abs(score - held) > band and abs(weight - score) > 1e-12
                cut += is_cut and not (
                    following > 1 and bars[following - 1]["segment"] != bars[following - 2]["segment"]
                )
            held = weight * (1 + grid.fills.move[row, column]) / (1 + result.backtest.net[row])
            if row == len(place) - 1 and held:
                trades.append(-held * (1 + result.backtest.net[row]))
            elif row < len(place) - 1:
                held *= result.sharing[row + 1] / n
            for trade in trades:
                value = trade * capital / n
                start = running if running * value > 0 else 0.0
                running = start + value
                known = [i for i, bar in enumerate(bars) if bar["open_time"] <= time][-WINDOW:]
                variance = sum(log(bars[i]["close"] / before(bars, i)) ** 2 for i in known)
                volume = sum(bars[i]["quote_volume"] for i in known)
                cost[row] += sqrt(variance / volume) * (abs(running) ** 1.5 - abs(start) ** 1.5) / capital
    return cost, orders, cut


def before(bars: list[dict], i: int) -> float:
    """Return the price from which the move of a bar counts."""
    is_first = i == 0 or bars[i - 1]["segment"] != bars[i]["segment"]
    return bars[i]["open"] if is_first else bars[i - 1]["close"]


@pytest.mark.parametrize("capital", [1e3, 1e6])
def test_a_portfolio_with_holes_is_charged_as_by_a_plain_loop(capital: float) -> None:
    predictions, data = make_pair()
    cost, orders, cut = charge_plainly(predictions, data, capital=capital)
    found = charge(predictions, data, rules=replace(data.rules, capital=capital))
    np.testing.assert_allclose(found.cost, cost, rtol=1e-9, atol=1e-15)
    assert (found.orders, found.cut) == (orders, cut)
    assert (cut > 10 if capital > 1e3 else cut == 0) and cost.sum() > 0


def test_the_impact_depends_on_no_later_bar() -> None:
    predictions, data = make_pair()
    later = data.clean["open_time"] > 40 * MINUTE_MS
    altered = replace(
        data, clean=data.clean.assign(quote_volume=data.clean["quote_volume"] * np.where(later, 9.0, 1.0))
    )
    small = replace(data.rules, capital=1.0)
    whole, other = (charge(predictions, each, rules=small).cost for each in (data, altered))
    np.testing.assert_array_equal(whole[:41], other[:41])
    assert not np.array_equal(whole[41:], other[41:])


def test_without_impact_the_outcomes_are_those_of_the_execution_curve() -> None:
    predictions, data = make_trend(rows=3000)
    curve = measure_execution(predictions, data, settings=SETTINGS, half_spread_bps=0.5).by_capital
    found = measure(predictions, data, impact_coefficient=0.0)
    at = [found.capitals.index(capital) for capital in curve.values]
    assert [found.net_return[i] for i in at] == list(curve.net_return)
    assert [found.sharpe_daily[i] for i in at] == list(curve.sharpe_daily)
    assert set(found.impact_bps) == {0.0}


def test_while_no_order_is_cut_the_impact_grows_with_the_root_of_the_capital() -> None:
    predictions, data = make_trend(rows=3000)
    data = replace(data, clean=data.clean.assign(quote_volume=1e12))
    found = measure(predictions, data, impact_window=100, capitals=[1e4, 1e6])
    assert set(found.cut_share) == {0.0}
    assert found.impact_bps[-1] == pytest.approx(10 * found.impact_bps[found.capitals.index(1e4)])
    assert all(later < earlier for earlier, later in zip(found.net_return, found.net_return[1:], strict=False))


def test_the_capacity_lies_where_the_profit_peaks_and_where_half_of_the_sharpe_ratio_is_left() -> None:
    capitals = list_capitals([1e3, 1e8], 1e5)
    sharpe = 20.0 * (0.2 - 1e-4 * np.sqrt(capitals))
    peak, reason = find_max_profit(lambda capital: capital * (0.2 - 1e-4 * sqrt(capital)), capitals, sharpe)
    assert peak == pytest.approx((2 * 0.2 / 3e-4) ** 2, rel=0.2) and not reason  # between capitals of ratio 2.15
    half, reason = find_half_sharpe(lambda capital: 4.0 - 0.01 * sqrt(capital), capitals)
    highest = 4.0 - 0.01 * sqrt(1e3)
    assert half == pytest.approx((100 * (4.0 - highest / 2)) ** 2, rel=0.02) and not reason


def test_a_profit_with_less_than_a_quarter_of_the_sharpe_ratio_is_no_capacity() -> None:
    profit = {1.0: 1.0, 10.0: 8.0, 100.0: 9.0, 1000.0: 50.0}
    assert find_max_profit(profit.__getitem__, tuple(profit), np.array([8.0, 4.0, 2.0, 1.9])) == (100.0, "")


def test_a_capacity_beyond_the_capitals_has_a_reason() -> None:
    capitals, sharpe = (1.0, 10.0, 100.0), np.ones(3)
    rising, falling = (find_max_profit(profit, capitals, sharpe)[1] for profit in (lambda c: c, lambda c: 1 / c))
    assert rising == "no max_profit_capital: the profit still rises at 100, the end of the capitals traded"
    assert falling == "no max_profit_capital: the profit falls from 1, the end of the capitals traded"
    assert find_half_sharpe(lambda capital: 3.0 - capital / 100, capitals)[1].endswith("is 2, and the highest one 2.99")


def test_predictions_that_lose_before_impact_have_no_capacity() -> None:
    predictions, data = make_trend(rows=3000)
    found = measure(predictions.assign(score=-predictions["score"]), data)
    assert np.isnan([found.max_profit_capital, found.half_sharpe_capital, found.max_profit_per_year]).all()
    assert found.reason == (
        "no capacity: costs and market impact exceed the gross return at every capital from 1000 to 1e+09"
    )


def test_what_larger_capitals_earn_above_one_that_loses_is_no_capacity(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure_with(sharpe: Callable[[float], float]) -> Capacity:
        def outcome(*_: object, capital: float, coefficient: float) -> Outcome:
            return Outcome(0.1, sharpe(capital), capital * sharpe(capital), coefficient, 0.9)

        monkeypatch.setattr(capacity, "_measure_outcome", outcome)
        return measure(*make_trend(rows=200))

    found = measure_with(lambda capital: 5.0 if capital > 1e7 else -1.0)
    assert np.isnan([found.max_profit_capital, found.half_sharpe_capital, found.max_profit_per_year]).all()
    assert str(found.reason).startswith("no capacity: costs exceed the gross return at 1000, the lowest capital")
    found = measure_with(lambda capital: 5.0 if capital > 1e7 else 2.0 - capital / 1e5)
    assert found.half_sharpe_capital == pytest.approx(1e5, rel=0.05)
    assert found.max_profit_capital == pytest.approx(1e5, rel=0.05) and found.reason is None


def test_predictions_that_never_trade_and_rows_that_are_no_bars_have_no_capacity() -> None:
    predictions, data = make_trend(rows=200)
    assert "nothing is traded" in str(measure(predictions.assign(score=0.0), data).reason)
    book = replace(data, clean=data.clean.drop(columns=["volume", "quote_volume"]))
    assert measure(predictions, book).reason == "rows are no bars, and have no volume"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"impact_coefficient": -1.0}, "capacity.impact_coefficient is -1.0; it must be at least 0"),
        ({"impact_window": 1}, "capacity.impact_window is 1; it must be at least 2"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(config.ParamsError) as error:
        read_capacity_settings({"capacity": asdict(IMPACT) | wrong})
    assert message in str(error.value)


def test_the_section_of_params_has_the_settings() -> None:
    assert read_capacity_settings(config.load_params()).impact_window > 1


def test_the_pages_show_the_outcomes_and_why_a_capacity_is_missing(tmp_path) -> None:
    trend = make_trend(rows=3000)
    capitals, file = [1e3, 1e5, 1e7], tmp_path / "report.json"
    lost = measure(trend[0].assign(score=-trend[0]["score"]), trend[1], capitals=capitals)
    write_json(file, {"trend": asdict(measure(*trend, capitals=capitals)), "lost": asdict(lost)})
    reports = read_json(file)
    page = render_capacity(reports, capitals=capitals)
    assert "| model | Sharpe, 1,000 | Sharpe, 100,000 | Sharpe, 10,000,000 | largest profit at |" in page
    assert "- lost: no capacity: costs and market impact exceed" in page
    model = make_model()
    for report in reports.values():
        model = replace(model, details=model.details | {"capacity": report})
        picture, table = plot_capacity(model), tabulate_capacity(model)
        assert "log axis" in picture and len(table.rows) == len(report["capitals"])
        assert set(summarize_capacity(lost)) < set(report)
    assert "exceed the gross return" in picture and "Found: no capacity" in table.note
    empty = asdict(lost) | {"capitals": [], "reason": "rows are no bars"}
    assert "- book: rows are no bars" in render_capacity({"book": empty}, capitals=[])
