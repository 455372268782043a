"""Backtests as accounts of a prop firm: the positions of every bar, odds by risk, and what the stage reports."""

import json

import numpy as np
import pandas as pd
import pytest

from pipeline import trading
from pipeline.evaluation import performance
from pipeline.evaluation.portfolio import PortfolioResult
from pipeline.evaluation.prop_firm import simulate
from pipeline.evaluation.prop_firm_odds import BestRisk
from pipeline.evaluation.prop_firm_paths import (
    Account,
    PropFirm,
    RiskCurve,
    average_odds,
    count_endings,
    explain_shortness,
    join_tables,
    list_odds,
    make_walks,
    measure_risks,
    open_account,
    place_positions,
    summarize_accounts,
    walk_paths,
)
from pipeline.fills import find_fills
from pipeline.reporting.prop_firm_page import describe_uncertainty, format_odds, render_page
from pipeline.reporting.source_note import note_source
from tests.test_prop_firm_odds import HALF_DAY_MS, make_path, make_rules, make_settings

MINUTE_MS = 60_000
FIRM = PropFirm(rules=make_rules(), challenges=make_settings(risks=[0.02, 0.06]))


def make_result(time, position, turnover, *, symbols=("BTC",)) -> PortfolioResult:
    """A backtest of which only positions and trades matter."""
    position, turnover = (np.array(each, float).reshape(len(time), -1) for each in (position, turnover))
    nothing = np.zeros_like(position)
    backtest = trading.Backtest(np.zeros(len(time)), position, turnover, nothing, nothing, nothing)
    return PortfolioResult(np.array(time), symbols, backtest, nothing.astype(bool), np.ones(len(time), bool))


def test_a_position_is_held_from_the_bar_after_its_decision_or_later_by_the_delay():
    result = make_result([10, 20, 30, 40], [0.5, 0.52, -0.2, -0.21], [0.5, 0, 0.7, 0])  # weights drift between trades
    bars = np.array([10, 20, 30, 40])
    assert place_positions(result, bars, symbol="BTC", delay_bars=0).tolist() == [0.0, 0.5, 0.5, -0.2]
    assert place_positions(result, bars, symbol="BTC", delay_bars=1).tolist() == [0.0, 0.0, 0.5, 0.5]


def test_a_position_is_held_over_missing_bars_and_is_zero_outside_of_the_backtest():
    result = make_result([10, 20, 30, 40], [0.5, 0.5, 0.5, -1], [0.5, 0, 0, 1.5])
    bars = np.array([0, 10, 40, 50, 60])  # 20 and 30 are missing
    assert place_positions(result, bars, symbol="BTC", delay_bars=0).tolist() == [0.0, 0.0, 0.5, -1.0, 0.0]


def test_the_symbol_of_a_portfolio_has_its_own_column():
    result = make_result([10, 20], [[0.5, -0.1], [0.5, -0.1]], [[0.5, 0.1], [0, 0]], symbols=("BTC", "ETH"))
    assert place_positions(result, np.array([10, 20]), symbol="ETH", delay_bars=0).tolist() == [0.0, -0.1]


def test_an_account_without_fees_and_limits_has_the_equity_of_the_backtest():
    rng, count = np.random.default_rng(2), 400
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.003, count)))
    opens = np.append(close[:1], close[:-1])
    time_ms = MINUTE_MS * np.arange(count)
    bars = pd.DataFrame({"open_time": time_ms, "open": opens, "close": close, "volume": 1.0, "segment": 0})
    score = rng.choice([-0.4, 0.0, 0.3, 0.8], count)[np.cumsum(rng.random(count) < 0.1)]
    fills = find_fills(bars.assign(symbol="BTC"), delay_bars=0)
    terms = trading.make_terms(fee_bps=0, slippage_bps=0, no_trade_band=0.2)
    backtest = trading.trade(score, fills, terms)
    result = make_result(time_ms, backtest.position, backtest.turnover)
    account = simulate(
        time_ms,
        np.maximum(opens, close),
        np.minimum(opens, close),
        close,
        place_positions(result, time_ms, symbol="BTC", delay_bars=0),
        initial_balance=1.0,
        daily_loss=0.99,
        max_loss=0.99,
        target=np.inf,
        min_days=0,
        trailing=False,
        fee_bps=0.0,
        timezone="UTC",
    )
    np.testing.assert_allclose(account.equity[1:], performance.compound_equity(backtest.net)[:-1], rtol=1e-9)


def test_slippage_comes_on_top_of_the_fee():
    assert FIRM.add_fee(0.5).rules == make_rules(fee_bps=0.5)


def make_clean(days: int, *, symbol: str = "BTC") -> pd.DataFrame:
    """Two bars a day, each day a move of + 1 % or − 1 %."""
    close = 100 * np.cumprod(np.repeat([1.01, 1 / 1.01], days)[: 2 * days])
    time = HALF_DAY_MS * np.arange(2 * days)
    return pd.DataFrame({"symbol": symbol, "open_time": time, "high": close, "low": close, "close": close})


def open_btc(days: int) -> Account:
    clean = pd.concat([make_clean(days), make_clean(9, symbol="ETH")])
    time = HALF_DAY_MS * np.arange(1, 2 * days)  # the first bar is before the backtest
    results = [make_result(time, [size] * len(time), [size] + [0] * (len(time) - 1)) for size in (0.5, 1.0)]
    return open_account("voting", results, clean, symbol="BTC", delay_bars=0, firm=FIRM)


def test_an_account_has_the_bars_of_its_symbol_from_the_first_decision_on():
    account = open_btc(6)
    assert (account.model, account.symbol, account.reason, len(account.paths)) == ("voting", "BTC", None, 2)
    assert [path.position.tolist() for path in account.paths] == [[0.0] + [0.5] * 10, [0.0] + [1.0] * 10]
    np.testing.assert_array_equal(account.paths[0].close, make_clean(6)["close"][1:])
    last = np.log(make_clean(6)["close"].to_numpy()[1::2])
    assert account.daily_volatility == pytest.approx(np.std(np.diff(last), ddof=1))


def test_fewer_whole_days_than_two_blocks_are_too_few_to_resample():
    short = open_btc(5)
    assert short.reason == "3 whole days; 2 blocks of prop_firm.challenges.block_days need 4"
    assert np.isnan(short.daily_volatility)
    assert len(walk_paths(short, FIRM)) == 0
    assert explain_shortness(make_path([0.01] * 6), FIRM.challenges) is None


def make_account(moves, *, symbol: str = "BTC", daily_volatility: float = 0.02) -> Account:
    return Account("voting", symbol, [make_path(each) for each in moves], daily_volatility, None)


def test_paths_are_walked_from_their_first_day_at_every_risk():
    """Profits of 2 % a day at a risk of one daily deviation pass 10 % in 5 days, 5 % in 4, as in `run_challenge`."""
    walks = walk_paths(make_account([[0.02] * 9, [-0.02] * 9]), FIRM)
    assert walks["days"].tolist()[0] == 9
    assert walks.drop(columns="days").fillna("").values.tolist() == [
        ["voting", "BTC", 0, 0.02, 2, ""],
        ["voting", "BTC", 0, 0.06, 2, ""],
        ["voting", "BTC", 1, 0.02, 0, "max"],
        ["voting", "BTC", 1, 0.06, 0, "daily"],
    ]
    endings = count_endings(walks, phases=2)
    assert endings.values.tolist() == [["voting", "BTC", 0.02, 2, 1, 0, 1, 0], ["voting", "BTC", 0.06, 2, 1, 1, 0, 0]]


def test_a_path_that_ends_between_its_limits_is_undecided():
    walks = walk_paths(make_account([[0.02] * 6]), FIRM)
    assert walks["phases_passed"].tolist() == [1, 1]  # 4 days on which a position is opened are needed for the second
    assert count_endings(walks, phases=2)["undecided"].tolist() == [1, 1]
    assert len(count_endings(make_walks([]), phases=2)) == 0


def make_odds() -> pd.DataFrame:
    """Two paths and two risks of one phase."""
    columns = dict.fromkeys([name for name in list_odds(1) if not name.startswith("pass")], 0.0)
    keys = {"path": [0, 0, 1, 1], "risk": [0.01, 0.02, 0.01, 0.02], "pass_1": [0.2, 0.9, 0.4, 0.5]}
    table = pd.DataFrame({**columns, **keys})
    return table.assign(payout=[-10, 300, 30, 100], ruin=[0, 0.1, 0, 0.5], days_to_pass=[40, 10, np.nan, 20])


def test_odds_are_averaged_over_the_paths_with_the_lowest_and_the_highest():
    means = average_odds(make_odds(), phases=1)
    assert means.columns.tolist() == ["risk", *list_odds(1)]
    assert means["pass_probability"].tolist() == pytest.approx([0.3, 0.7])
    assert means["pass_probability_lowest"].tolist() == [0.2, 0.5]
    assert means["pass_probability_highest"].tolist() == [0.4, 0.9]
    assert means["days_to_pass"].tolist() == [40, 15]
    assert means["ruin"].tolist() == pytest.approx([0, 0.3])


def make_curve(symbol: str, best: BestRisk) -> RiskCurve:
    return RiskCurve("voting", symbol, make_odds(), average_odds(make_odds(), phases=1), best)


def summarize(symbols, reasons=None) -> dict:
    reasons = reasons or {}
    accounts = [Account("voting", name, [], np.nan, reasons.get(name)) for name in [*symbols, *reasons]]
    curves = {name: make_curve(name, best) for name, best in symbols.items()}
    return summarize_accounts(accounts, curves, phases=1, reason="not traded")


GOOD = BestRisk(0.02, 200.0, 0.7, 0.3, None)
WORSE = BestRisk(0.01, 10.0, 0.3, 0.0, None)
NONE = BestRisk(np.nan, -5.0, np.nan, np.nan, "no risk earns more than the fee")


def test_the_headline_is_the_best_risk_of_the_symbol_that_passes_least():
    alone = summarize({"BTC": GOOD})
    assert (alone["symbol"], alone["risk"], alone["payout"], alone["reason"]) == ("BTC", 0.02, 200.0, None)
    assert (alone["pass_probability"], alone["ruin"]) == (pytest.approx(0.7), pytest.approx(0.3))
    assert summarize({"BTC": GOOD, "ETH": WORSE})["symbol"] == "ETH"


def test_an_undefined_probability_has_its_reason_and_counts_as_the_lowest():
    none = summarize({"BTC": GOOD, "ETH": NONE})
    assert (none["symbol"], none["payout"], none["reason"]) == ("ETH", -5.0, NONE.reason)
    assert np.isnan([none["pass_probability"], none["risk"], none["ruin"]]).all()
    short = summarize({"BTC": GOOD}, {"ETH": "3 whole days"})
    assert (short["symbol"], short["reason"]) == ("ETH", "ETH: 3 whole days")
    empty = summarize({})
    assert (empty["symbol"], empty["reason"], np.isnan(empty["pass_probability"])) == (None, "not traded", True)
    assert empty.keys() == short.keys() == none.keys()


def test_the_curve_of_an_account_names_it_and_chooses_the_best_risk():
    account = make_account([[0.02] * 8])
    curve = measure_risks(account, FIRM, seed=1)
    assert curve.best.risk == curve.means["risk"][curve.means["payout"].argmax()]
    joined = join_tables([curve], "means", phases=2)
    assert joined.columns.tolist() == ["model", "symbol", "risk", *list_odds(2)]
    assert joined["model"].tolist() == ["voting", "voting"]
    assert join_tables([], "means", phases=2).columns.tolist() == joined.columns.tolist()


def make_details(risks: list[float]) -> dict:
    """One phase on two paths of BTC; a path of another symbol and a model have lower odds."""
    rows = [("voting", "BTC", 0.02, 0.8), ("voting", "BTC", 0.02, 0.35), ("voting", "BTC", 0.01, 0.1)]
    rows += [("voting", "ETH", 0.02, 0.1), ("cnn", "BTC", 0.02, 0.1)]
    return {
        "rules": {"targets": [0.1]},
        "challenges": {"resamples": 40, "confidence": 0.95, "risks": risks},
        "by_path": [dict(zip(("model", "symbol", "risk", "pass_1_low"), row, strict=True)) for row in rows],
    }


def test_the_largest_risk_tried_is_named_as_such():
    headline, warning = {"signal": "voting", "symbol": "BTC", "risk": 0.02}, "the largest risk tried: a larger one may"
    assert warning in describe_uncertainty(headline, make_details([0.01, 0.02]), show=str)
    assert warning not in describe_uncertainty(headline, make_details([0.01, 0.02, 0.04]), show=str)


def test_payouts_have_separators_of_thousands_and_undefined_odds_a_dash():
    assert [format_odds(each) for each in (16087.4, -1000.0, 999.94, 0.03, np.nan)] == [
        "16,087",
        "-1,000",
        "999.9",
        "0.03",
        "–",
    ]


def test_the_page_says_that_a_market_is_simulated():
    sources = {"made_up": {"kind": "simulated"}, "binance": {"kind": "binance"}}
    params = {"sources": sources, "datasets": {"a": {"source": "made_up"}, "b": {"source": "binance"}}}
    assert note_source(params, "a") == ["Of a simulated market: it says nothing about a real one."]
    assert note_source(params, "b") == []
    sources["made_up"]["kind"] = "simulated_book"
    assert note_source(params, "a") == ["Of a simulated market: it says nothing about a real one."]


def test_the_page_begins_with_the_probability_or_why_there_is_none():
    curve = make_curve("BTC", GOOD)
    tables = {
        "details": make_details([0.01, 0.02, 0.04]),
        "by_risk": join_tables([curve], "means", phases=1),
        "endings": pd.DataFrame(),
        "notes": ["Of a simulated market."],
    }
    page = render_page("klines", {"signal": "voting", **summarize({"BTC": GOOD})}, **tables)
    sentence = "`voting` passes with a probability of 0.7 on BTC at the best risk, 0.02; 0.5 to 0.9 by path."
    certainty = "Each path has 40 resampled challenges; the 95 % interval of the lowest path begins at 0.35."
    title = "# Prop firm's evaluation of klines\n\nOf a simulated market."
    assert page.startswith(f"{title}\n\n{sentence}\n{certainty}\n\nRisk: ")
    assert "| 0.01 | 0.3 | 0.2 | 0.4 | 0 | 0 | 0 | 0 | 40 | 10 |" in page
    none = render_page("klines", {"signal": "voting", **summarize({"BTC": NONE})}, **tables)
    assert "`voting` has no probability to pass: no risk earns more than the fee." in none
    walks = walk_paths(make_account([[0.02] * 9, [-0.02] * 9]), FIRM)
    ended = render_page(
        "klines",
        {"signal": "voting", **summarize({"BTC": GOOD})},
        **tables | {"endings": count_endings(walks, phases=2)},
    )
    assert "| `voting` | BTC | 1 / 0 / 1 / 0 | 1 / 1 / 0 / 0 |" in ended


def test_the_stage_reports_the_signal_of_the_bundle_and_the_gate_reads_it(ran):
    report = json.loads((ran / "trained/reports/prop_firm/klines.json").read_text())
    details = json.loads((ran / "trained/reports/prop_firm/details/klines.json").read_text())
    contract = json.loads((ran / "trained/bundles/klines/contract.json").read_text())
    gate = json.loads((ran / "trained/reports/gate/klines.json").read_text())["rules"]["pass_probability"]
    assert report["signal"] == contract["signal"]
    assert (gate["value"], gate["reason"]) == (report["pass_probability"], report["reason"])
    assert details["rules"]["fee_bps"] == 3.25 + 0.5  # with the slippage of the source
    paths, risks = {row["path"] for row in details["by_path"]}, {row["risk"] for row in details["by_risk"]}
    assert paths == {row["path"] for row in details["paths_as_they_are"]} == {0, 1, 2}
    assert sorted(risks) == details["challenges"]["risks"]
