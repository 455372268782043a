"""The report of a dataset: one page that parses, needs no network, says what the reports say, byte for byte."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pipeline import artifacts
from pipeline.reporting.tear_sheet import charts, dataset_charts, model_charts, series
from pipeline.reporting.tear_sheet.evidence import Calibration
from pipeline.reporting.tear_sheet.formats import format_hours
from pipeline.reporting.tear_sheet.page import render_report
from pipeline.reporting.tear_sheet.sampling import downsample
from pipeline.reporting.tear_sheet.scales import fit_scale
from pipeline.reporting.tear_sheet.verdict import join_by_advice, make_verdict
from pipeline.stages import report
from tests.report_evidence import DAY_MS, HOUR_MS, SETTINGS, START_MS, make_evidence, make_model, parse


@pytest.fixture(scope="module")
def page() -> str:
    return render_report(make_evidence(), **SETTINGS)


def test_the_page_refers_to_nothing_outside_of_it(page):
    parser = parse(page)
    anchors = {attrs["id"] for _, attrs in parser.tags if "id" in attrs}
    links = [attrs["href"] for tag, attrs in parser.tags if tag in ("a", "use")]
    assert links
    assert all(link[0] == "#" and link[1:] in anchors for link in links)
    assert not {tag for tag, _ in parser.tags} & {"link", "img", "iframe", "object", "image"}
    assert [attrs for tag, attrs in parser.tags if tag == "script"] == [{}]
    assert not re.search(r"fetch\(|XMLHttpRequest|WebSocket|import\(|eval\(", page)
    (policy,) = [attrs["content"] for tag, attrs in parser.tags if "http-equiv" in attrs]
    assert policy.startswith("default-src 'none';")
    assert not any(name in attrs for _, attrs in parser.tags for name in ("src", "xlink:href", "srcset", "data"))
    assert not re.search(r"https?:|url\(|@import", page)


def test_every_figure_has_an_alternative_text_and_a_title(page):
    tags = parse(page).tags
    drawn = [attrs for tag, attrs in tags if tag == "svg"]
    pictures = [attrs for attrs in drawn if attrs.get("class") != "view"]  # not the panels within a picture
    assert len(pictures) == sum(tag == "figure" for tag, _ in tags) > 10
    assert all(attrs["role"] == "img" and len(attrs["aria-label"]) > 30 for attrs in pictures)
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in drawn)
    assert len(pictures) == len(re.findall(r"<svg[^>]*><title>[^<]+</title>", page))


def test_the_verdict_stands_first_and_names_and_messages_are_escaped(page):
    sections = [attrs["id"] for tag, attrs in parse(page).tags if tag == "section"]
    assert sections[0] == "verdict"
    assert sections[1] == "leaderboard"
    assert "<tree>" not in page
    assert "44 columns &amp; &lt;all&gt; hold" in page


def test_the_same_evidence_gives_the_same_bytes(page):
    assert render_report(make_evidence(), **SETTINGS) == page


def test_no_coordinate_is_undefined(page):
    for _, attrs in parse(page).tags:
        for name in ("d", "x", "y", "width", "height", "cx", "cy"):
            assert not re.search(r"nan|inf", attrs.get(name) or "")


def test_a_model_that_never_trades_has_reasons_in_place_of_pictures():
    model = make_model("idle", net=np.zeros(96))
    model = replace(
        model,
        round_trips=model.round_trips.iloc[:0],
        audit=None,
        training=None,
        history=model.history.iloc[:0],
        calibration=Calibration({}, "", "it forecasts no value"),
    )
    texts = " ".join(parse(render_report(make_evidence(model), **SETTINGS)).texts)
    for reason in ("no bar of the median path has a return", "the median path never trades", "it forecasts no value"):
        assert reason in texts
    assert "this model is not fitted" in texts


def test_a_dataset_without_traded_models_says_so():
    evidence = make_evidence()
    compare = {**evidence.compare, "leaderboard": {}, "path_pbo": None, "superiority": None, "reason": "no model"}
    headline = dict.fromkeys(("pbo", "pbo_lowest", "pbo_highest"))
    empty = replace(evidence, compare=compare, headline=headline, models=[], not_traded=["range_model"])
    parse(render_report(empty, **SETTINGS))
    assert make_verdict(empty).summary == "No model of this dataset is traded, so nothing is known about profit."


@pytest.mark.parametrize(
    ("dsr", "state", "words"),
    [
        (0.99, "supported", "1 of 1 models earn more"),
        (0.5, "not supported", "No model of 1 is distinguishable"),
        (None, "not supported", "No model of 1 is distinguishable"),
    ],
)
def test_the_verdict_on_luck_follows_the_deflated_sharpe_ratio(dsr, state, words):
    verdict = make_verdict(make_evidence(dsr=dsr))
    found = {each.claim: each for each in verdict.statements}["Returns are more than the luck of many trials"]
    assert found.state == state
    assert verdict.summary.startswith(words)


def test_a_claim_about_all_models_is_not_supported_where_one_of_them_fails_and_a_high_pbo_is_overfitting():
    evidence = make_evidence(dsr=0.99)
    rows = evidence.compare["leaderboard"]
    (name,) = rows
    both = {**evidence.compare, "leaderboard": {**rows, "other": {**rows[name], "dsr": 0.5}}}
    high = {"pbo": 0.45, "pbo_lowest": 0.4, "pbo_highest": 0.49}
    states = {each.claim: each for each in make_verdict(replace(evidence, compare=both, headline=high)).statements}
    luck = states["Returns are more than the luck of many trials"]
    assert luck.state == "not supported"
    assert "not: other" in luck.evidence
    assert states["The choice of the best model is not overfitted"].state == "not supported"


def test_an_advice_that_several_warnings_share_is_written_once():
    warnings = ["a: it is 16: suspect a leak", "b: it is 17: suspect a leak", "b: it is idle: trade"]
    assert join_by_advice(warnings) == "a: it is 16; b: it is 17: suspect a leak; b: it is idle: trade"


@pytest.mark.parametrize(
    ("milliseconds", "shown"), [(300_000, "5.0 min"), (3_600_000, "1.0 h"), (172_800_000, "2.0 days"), (None, "–")]
)
def test_a_duration_is_in_the_unit_of_its_size(milliseconds, shown):
    assert format_hours(milliseconds) == shown


def test_each_claim_follows_its_own_report():
    evidence = make_evidence()
    states = {each.claim: each.state for each in make_verdict(evidence).statements}
    assert states["No information from the future leaks"] == "supported"
    assert states["Gross returns cover the costs"] == "supported"
    assert states["Models forecast better than a linear model"] == "not supported"
    assert states["Skill is about the same in every split"] == "not known"
    assert states["Results do not depend on one seed"] == "not supported"
    assert states["Results are those of a real market"] == "not supported"
    critical = {"guard": "look_ahead", "severity": "critical", "message": "it leaks"}
    worse = replace(
        evidence,
        guard={"findings": [critical]},
        canary={"canaries": 2, "caught": 1, "false_alarms": 0, "outcomes": {}},
        headline={"pbo": 0.7, "pbo_lowest": 0.7, "pbo_highest": 0.7},
        source="binance",
        is_simulated=False,
    )
    states = {each.claim: each.state for each in make_verdict(worse).statements}
    assert states["No information from the future leaks"] == "not supported"
    assert states["The guards would find a leak"] == "not supported"
    assert states["The choice of the best model is not overfitted"] == "not supported"
    assert states["Results are those of a real market"] == "supported"


def test_a_simulated_market_is_no_real_one_whatever_its_source_is_called():
    verdict = make_verdict(replace(make_evidence(dsr=0.99, source="fast_market"), is_simulated=True))
    states = {each.claim: each.state for each in verdict.statements}
    assert states["Results are those of a real market"] == "not supported"
    assert verdict.summary.endswith("It says nothing about a real market.")


def test_of_an_order_book_the_verdict_says_that_bars_are_events():
    evidence = make_evidence(dsr=0.99)
    evidence = replace(evidence, split={**evidence.split, "unit": "events"})
    assert make_verdict(evidence).summary.endswith(" What this page calls bars are events.")


def test_downsampling_retains_every_extreme_and_both_ends():
    rng = np.random.default_rng(3)
    y = rng.normal(size=50_000).cumsum()
    y[12_345], y[40_000] = 1e6, -1e6
    x, found = downsample(np.arange(len(y)), y)
    assert len(x) <= 2_000
    assert (np.diff(x) > 0).all()
    assert {x[0], x[-1], 12_345, 40_000} - set(x.tolist()) == set()
    assert (found == y[x]).all()
    edges = np.linspace(0, len(y), 1000).astype(int)
    for a, b in zip(edges[:-1], edges[1:], strict=True):  # a second method: each stretch by itself
        inside = found[(x >= a) & (x < b)]
        assert inside.max() == y[a:b].max()
        assert inside.min() == y[a:b].min()


def test_downsampling_leaves_out_what_is_not_finite():
    x, y = downsample(np.arange(5), np.array([1.0, np.nan, 3.0, np.inf, 2.0]), max_points=4)
    assert x.tolist() == [0, 2, 4]
    assert y.tolist() == [1.0, 3.0, 2.0]


@pytest.mark.parametrize(("x", "limit", "words"), [([1], 9, "give one y for each x"), ([1, 2], 3, "at least 4")])
def test_downsampling_refuses_what_it_cannot_draw(x, limit, words):
    with pytest.raises(ValueError, match=words):
        downsample(np.array(x), np.array([1.0, 2.0]), max_points=limit)


def test_drawdowns_are_those_of_the_equity_by_hand():
    time = START_MS + np.arange(6) * HOUR_MS
    net = np.array([-0.1, 1.0, -0.5, 0.5, 1.0, -0.25])  # equity 0.9, 1.8, 0.9, 1.35, 2.7, 2.025
    deep, last, first = series.list_drawdowns(time, net, top=5)
    assert (deep.depth, deep.start_ms, deep.trough_ms, deep.end_ms, deep.bars) == (0.5, time[2], time[2], time[4], 2)
    assert (last.depth, last.end_ms, last.bars) == (pytest.approx(0.25), None, 1)
    assert (first.depth, first.start_ms, first.end_ms) == (pytest.approx(0.1), time[0], time[1])


def test_months_compound_their_bars():
    time = np.array(["2024-01-31T23:59", "2024-02-01T00:00", "2024-02-29T12:00"], "datetime64[ms]").astype(np.int64)
    months, returns = series.compound_months(time, np.array([[0.5], [0.1], [0.1]]))
    assert months == ["2024-01", "2024-02"]
    assert returns[:, 0] == pytest.approx([0.5, 0.21])


def test_hours_and_weekdays_are_averaged_with_their_errors():
    time = START_MS + np.array([0, 30, 60, 24 * 60]) * 60_000  # twice in hour 0, then hours 1 and 24
    hours = series.profile_hours(time, np.array([0.1, 0.1, 0.3, 0.4]))
    assert hours.mean[:2] == pytest.approx([0.3, 0.3])  # 0.2 and 0.4
    assert hours.error[0] == pytest.approx(0.1)
    assert np.isnan(hours.error[1])
    assert hours.count[:3].tolist() == [2, 1, 0]
    days = np.array([START_MS // DAY_MS, START_MS // DAY_MS + 6])
    assert series.profile_weekdays(days, np.array([1.0, 2.0])).mean[[0, 6]].tolist() == [1.0, 2.0]


def test_rolling_sharpe_ratios_are_those_of_each_window():
    returns = np.array([0.1, 0.3, 0.2, 0.2])
    rolling = series.roll_sharpe(returns, window=2, days_per_year=4.0)
    expected = [2 * pair.mean() / pair.std(ddof=1) for pair in (returns[:2], returns[1:3])]
    assert rolling[:2] == pytest.approx(expected)
    assert np.isnan(rolling[2])
    assert series.roll_sharpe(returns, window=5, days_per_year=4.0).size == 0


def test_tails_are_quantiles_and_means_of_the_bars_with_a_return():
    tails = series.measure_tails(np.array([0.0, *np.arange(1, 11) / 10, 0.0, -1.0, -3.0]), share=2 / 12)
    assert (tails.bars, tails.low_quantile, tails.low_mean) == (12, -1.0, -2.0)
    assert (tails.high_quantile, tails.high_mean) == (0.9, pytest.approx(0.95))
    assert np.isnan(series.measure_tails(np.zeros(3), share=0.1).low_mean)


def test_a_log_scale_places_ratios_at_equal_distances():
    scale = fit_scale(1.0, 100.0, start=100.0, stop=0.0, is_log=True)
    low, middle, high = scale.place(np.array([1.0, 10.0, 100.0]))
    assert low - middle == pytest.approx(middle - high)
    assert [label for _, label in scale.list_ticks()] == ["1", "10", "100"]


@pytest.mark.parametrize("minutes", [2, 3, 9, 60, 150, 179, 1440, 3000, 4000, 100_000, 130_000, 1_200_000, 10_000_000])
def test_a_span_of_any_length_has_two_to_six_dates(minutes):
    scale = fit_scale(START_MS, START_MS + minutes * 60_000, start=0.0, stop=100.0, unit="time")
    assert 2 <= len(scale.list_ticks()) <= 6


@pytest.mark.parametrize("values", [[np.nan], [], [3.0, 3.0], [0.0]])
def test_a_scale_of_few_or_equal_values_has_a_width(values):
    scale = fit_scale(np.array(values), start=0.0, stop=10.0)
    assert scale.low < scale.high
    assert np.isfinite(scale.place(scale.low))
    assert scale.list_ticks()


def test_a_total_loss_is_drawn_up_to_where_a_log_axis_can_show_it():
    net = np.array([0.1, -0.5, -1.0, *np.zeros(93)])
    assert "nan" not in charts.plot_equity(make_model(net=net))


def test_the_cost_curve_names_the_break_even_and_leaves_out_what_is_undefined():
    drawn = model_charts.plot_execution_curve(make_model(), "by_cost")
    assert "break-even 3" in drawn
    assert "charged 2" in drawn
    assert drawn.count("<circle") == 2
    assert model_charts.plot_execution_curve(make_model(), "by_capital") == "no curve: not measured"


@pytest.fixture
def small_files(tmp_path, monkeypatch):
    """Three rows of folds, of which the last has no label, and predictions of two splits."""
    monkeypatch.chdir(tmp_path)
    folds = pd.DataFrame({"segment": 0, "time": [1, 2, 3], "is_labeled": [True, True, False]})
    artifacts.write_table(artifacts.FOLDS / "bars.parquet", folds)
    labels = pd.DataFrame({"segment": 0, "time": [1, 2], "y": [0.5, 1.5]})
    artifacts.write_table(artifacts.LABELS / "bars" / "return_5.parquet", labels)
    table = {"seed": 1, "split": [1, 1, 0, 0], "row": [0, 1, 1, 2], "return": [0.1, 9.0, 0.2, 0.3], "score_std": 1.0}
    artifacts.write_table(artifacts.OOS / "tree.parquet", pd.DataFrame(table))
    artifacts.write_table(artifacts.OOS / "agent.parquet", pd.DataFrame({**table, "score_std": np.nan}))


def test_calibration_takes_the_first_split_that_predicts_a_labeled_row(small_files):
    output = {"kind": "number", "names": ["return"], "levels": []}
    found = report.calibrate("tree", {"dataset": "bars", "target": "return_5"}, output)
    predicted, actual, _ = found.curves["return"]
    assert predicted == pytest.approx([0.1, 0.2])
    assert actual.tolist() == [0.5, 1.5]


def test_a_position_is_not_calibrated(small_files):
    output = {"kind": "position", "names": ["return"], "levels": []}
    found = report.calibrate("agent", {"dataset": "bars", "target": "return_5"}, output)
    assert found.curves == {}
    assert found.reason == "the score is a position, which forecasts no value"


def test_importances_by_permutation_stand_beside_those_of_the_model():
    model = make_model()
    permuted = {"loss": "mse", "importances": {"a": 0.1, "b": -0.1, "c": 0.3}}
    measured = replace(model, audit={**model.audit, "permutation_importance": permuted})
    drawn = model_charts.plot_permutation_importances(measured)
    assert [share for share in ("75.0 %", "0.0 %", "25.0 %") if share not in drawn] == []
    own = model_charts.plot_importances(measured)
    assert own == model_charts.plot_importances(model) != drawn
    net = replace(measured, training=None)
    assert model_charts.plot_permutation_importances(net) == "the picture above shows them"
    assert model_charts.plot_permutation_importances(model) == "no importances: they were not measured"


@pytest.mark.parametrize("rows", ["events", "rows"])  # an export has rows, on the clock of events
def test_the_folds_of_events_are_drawn_by_the_numbers_of_the_events(rows: str) -> None:
    groups = [{"rows": 9, "first_events": 0, "last_events": 8}, {"rows": 9, "first_events": 9, "last_events": 17}]
    split = {"unit": rows, "groups": groups, "splits": {"tested_groups": [[0], [1]]}}
    picture = str(dataset_charts.plot_folds(split))
    assert "2 splits of 2 groups of time from 0 to 17" in picture
    assert "events, by number; rows: splits" in picture
    assert picture.count('class="test"') == 2
