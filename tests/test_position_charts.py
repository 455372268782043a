"""The position charts of a report: which stretches are shown, and what their candles and orders are."""

import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pipeline.reporting.tear_sheet import candles, script, stretches
from pipeline.reporting.tear_sheet.page import render_report
from pipeline.reporting.tear_sheet.position_page import draw_positions
from pipeline.reporting.tear_sheet.stretches import Stretch
from tests.report_evidence import DAY_MS, HOUR_MS, SETTINGS, START_MS, make_bars, make_evidence, make_model, parse


def make_trips(*trips: tuple[int, int, int], symbol: str = "BTC") -> pd.DataFrame:
    """Round trips of (side, hour of the order that opens it, hour of the one that closes it)."""
    side, entry, exit_ = np.array(trips, np.int64).reshape(-1, 3).T
    times = {"entry_time": START_MS + entry * HOUR_MS, "exit_time": START_MS + exit_ * HOUR_MS}
    return pd.DataFrame({"symbol": symbol, "side": side, **times, "net": 0.0, "adverse_excursion": 0.0})


def make_traded(*trips: tuple[int, int, int], net: np.ndarray | None = None):
    net = np.repeat([0.0, -0.01, 0.02, 0.0], 24) if net is None else net  # by day: flat, worst, best, flat
    return replace(make_model("tree", net=net), round_trips=make_trips(*trips))


@pytest.fixture
def days_of_24_bars(monkeypatch):
    monkeypatch.setattr(stretches, "MIN_BARS", 10)


def test_the_stretches_are_the_worst_the_best_and_the_most_traded_day(days_of_24_bars):
    found = stretches.pick_stretches(make_traded((1, 75, 77)), {"BTC": make_bars()})
    assert found == [
        Stretch("worst day, 2024-01-02", "BTC", 24, 48),
        Stretch("best day, 2024-01-03", "BTC", 48, 72),
        Stretch("most-traded day, 2024-01-04", "BTC", 72, 96),
    ]


def test_a_day_that_is_two_of_them_is_shown_once(days_of_24_bars):
    found = stretches.pick_stretches(make_traded((1, 25, 26), (-1, 30, 60)), {"BTC": make_bars()})
    assert [each.name for each in found] == ["worst day and most-traded day, 2024-01-02", "best day, 2024-01-03"]


def test_the_symbol_is_the_one_with_the_most_round_trips_of_the_day():
    trips = pd.concat([make_trips((1, 1, 2)), make_trips((1, 3, 4), (-1, 5, 6), symbol="ETH")])
    assert stretches.find_symbol(trips, ["BTC", "ETH"], start_ms=START_MS) == "ETH"
    assert stretches.find_symbol(trips, ["BTC", "ETH"], start_ms=START_MS + DAY_MS) == "BTC"


def test_a_short_day_is_widened_and_a_long_one_is_cut_to_where_most_happens(monkeypatch):
    bars_ms = make_bars().time_ms
    none = np.empty(0)
    assert stretches.find_span(bars_ms, none, none, start_ms=START_MS + DAY_MS) == (6, 66)  # 18 bars to either side
    assert stretches.find_span(bars_ms, none, none, start_ms=START_MS) == (0, 60)
    assert stretches.find_span(bars_ms, none, none, start_ms=START_MS + 3 * DAY_MS) == (36, 96)
    monkeypatch.setattr(stretches, "MIN_BARS", 2)
    monkeypatch.setattr(stretches, "MAX_BARS", 5)
    amount = np.zeros(96)
    amount[[30, 34, 40]] = 1.0, 1.5, 2.0
    assert stretches.find_span(bars_ms, bars_ms, amount, start_ms=START_MS + DAY_MS) == (30, 35)


def read_path(drawn: str, style: str) -> list[tuple[float, float, float]]:
    """The x, the start and the end of each vertical mark of a style."""
    (path,) = re.findall(rf'class="{style}" d="([^"]*)"', drawn)
    return [tuple(map(float, mark)) for mark in re.findall(r"M([\d.]+) ([\d.]+)V([\d.]+)", path)]


def test_candles_are_the_prices_of_each_bar():
    bars = make_bars(4)  # closes 100, 101, 100, 101; highs 2 above the close, lows 2 below the open
    drawn = candles.plot_stretch(make_traded((1, 0, 2)), Stretch("day", "BTC", 0, 4), bars, has_candles=True)
    low, high = (float(re.search(rf'data-{end}="([\d.]+)"', drawn)[1]) for end in ("low", "high"))

    def price(pixel: float) -> float:
        return high - pixel / 270.0 * (high - low)

    up, down = read_path(drawn, "body up"), read_path(drawn, "body down")
    assert [x for x, _, _ in up] == [0.5, 1.5, 3.5]
    assert [x for x, _, _ in down] == [2.5]
    for at, (_, start, stop) in zip([0, 1, 3], up, strict=True):
        assert [price(start), price(stop)] == pytest.approx([bars.open[at], bars.close[at]], abs=0.001)
    ((_, top, bottom),) = read_path(drawn, "wick down")
    assert [price(top), price(bottom)] == pytest.approx([bars.high[2], bars.low[2]], abs=0.001)


def test_an_order_stands_at_the_close_that_decides_it_and_the_side_is_held_between_them():
    bars = make_bars(24)
    drawn = candles.plot_stretch(make_traded((-1, 2, 5)), Stretch("day", "BTC", 0, 24), bars, has_candles=True)
    opening, closing = re.search(r'entry short" d="M(\d+) ', drawn)[1], re.search(r'exit" d="M(\d+) ', drawn)[1]
    assert (opening, closing) == ("3", "6")  # bars 2 and 5 close there
    assert 'class="loss" d="M3 12H6v12H3Z"' in drawn
    assert "entry long" not in drawn


def test_the_net_return_of_a_stretch_compounds_its_own_bars():
    model = make_traded((1, 0, 95), net=np.where(np.arange(96) < 24, 0.5, 0.001))
    drawn = candles.plot_stretch(model, Stretch("day", "BTC", 24, 48), make_bars(), has_candles=True)
    assert f"net return {(1.001**24 - 1) * 100:.2f} %" in drawn


def test_candles_of_the_same_bars_stand_on_the_page_once():
    first, second = make_traded((1, 1, 2)), replace(make_traded((1, 1, 2)), name="other")
    charts = draw_positions([first, second], {"BTC": make_bars()})
    keys = re.findall(r'<g id="([^"]+)"', "".join(figure.svg for figure in charts["tree"]))
    references = re.findall(r'<use href="#([^"]+)"', "".join(figure.svg for figure in charts["other"]))
    assert keys == references != []
    assert not any("<use" in figure.svg for figure in charts["tree"])


def test_without_bars_or_trades_a_reason_stands_in_place_of_the_chart():
    (note,) = draw_positions([make_traded((1, 1, 2))], {})["tree"]
    assert note.text == "Positions: no chart: the rows of this dataset have no open, high and low."
    (note,) = draw_positions([make_traded()], {"BTC": make_bars()})["tree"]
    assert note.text == "Positions: no chart: the median path never trades."


def test_the_script_stands_only_on_a_page_with_position_charts():
    evidence = make_evidence()
    assert "<script>" in render_report(evidence, **SETTINGS)
    page = render_report(replace(evidence, bars={}), **SETTINGS)
    assert "<script>" not in page
    parse(page)


def test_the_script_has_the_measures_of_the_pictures():
    measures = dict(re.findall(r"(LEFT|RIGHT|TOP|PRICE|BOTTOM) = (\d+)", script.SCRIPT))
    expected = {
        "LEFT": candles.LEFT,
        "RIGHT": candles.WIDE - candles.RIGHT,
        "TOP": candles.PRICE[0],
        "PRICE": candles.PRICE[1] - candles.PRICE[0],
        "BOTTOM": candles.RETURN[1],
    }
    assert {name: float(value) for name, value in measures.items()} == expected


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node")
def test_the_script_is_valid(tmp_path):
    file = tmp_path / "script.js"
    file.write_text(script.SCRIPT)
    subprocess.run(["node", "--check", str(file)], check=True)
