"""The tables of a model's forecasts in a report, and the claim that rests on them."""

from dataclasses import replace

import pytest

from pipeline.reporting import forecast_page
from pipeline.reporting.tear_sheet.forecast_page import tabulate_forecasts
from pipeline.reporting.tear_sheet.verdict import judge_forecasts
from tests.report_evidence import make_evidence, make_model


def make_gain(value: float, *, beats: bool | None) -> dict:
    return {"value": value, "low": value - 0.01, "high": value + 0.01, "beats": beats, "reason": None}


FORECASTS = {
    "path": 2,
    "gains": {"linear": {"hit_rate": make_gain(0.05, beats=True), "ic": make_gain(-0.02, beats=False)}},
    "calibration": {"slope": 1.25, "brier": None, "undefined": {"brier": "it has no classes"}},
    "tiers": [{"from_score": 0.0, "rows": 10, "undefined": {}}, {"from_score": 0.5, "rows": 5, "undefined": {}}],
    "sessions": {"asia_and_europe": {"rows": 7, "hit_rate": 0.5, "undefined": {}}},
    "signals": None,
}
BANDS = {"leaf_depth": {"value": 6.5, "low": 2.0, "high": 6.0, "is_within": False, "reason": None}}


def make_forecaster(forecasts: dict | None):
    model = make_model("tree")
    return replace(model, details={**model.details, "forecasts": forecasts, "model_findings": {"bands": BANDS}})


def test_each_part_of_the_forecasts_has_a_table():
    gains, calibration, tiers, sessions, findings = tabulate_forecasts(make_forecaster(FORECASTS))
    assert gains.title == "Gains over the baselines of tree, path 2"
    assert gains.rows[0] == ["hit rate over linear", "0.05 [0.04, 0.06]", "yes", "–"]
    assert calibration.head == ["rows", "slope", "brier"]
    assert (calibration.rows, calibration.note) == ([["all rows", "1.25", "–"]], "all rows, brier: it has no classes")
    assert tiers.rows == [["tier 0", "0", "10"], ["tier 1", "0.5", "5"]]
    assert sessions.rows == [["asia and europe", "7", "0.5"]]
    assert findings.rows == [["leaf depth", "6.5", "2 to 6", "no", "–"]]


def test_several_horizons_have_a_row_each_beside_the_linear_model():
    model = make_forecaster(None)
    paths = [
        {
            "ic": 0.1,
            "ic_return_1": ic,
            "r2_return_1": None,
            "ic_return_5": 0.1,
            "r2_return_5": 0.01,
        }
        for ic in (0.2, 0.4, 0.3)
    ]
    linear = [{"ic_return_1": 0.25, "r2_return_1": 0.02, "ic_return_5": None, "r2_return_5": 0.0}]
    details = {"model": {"paths": paths}, "baselines": {"linear": {"paths": linear}}}
    horizons, _ = tabulate_forecasts(replace(model, details={**model.details, **details}))
    assert horizons.rows == [
        ["return_1", "0.3 [0.2, 0.4]", "0.25", "–", "0.02"],
        ["return_5", "0.1 [0.1, 0.1]", "–", "0.01", "0"],
    ]


def test_a_model_without_forecasts_has_its_findings_alone():
    (findings,) = tabulate_forecasts(make_forecaster(None))
    assert findings.title == "Findings on the fits of tree"


@pytest.mark.parametrize(
    ("beats", "state"), [(True, "supported"), (False, "not supported"), (None, "not known")], ids=str
)
def test_the_claim_of_better_forecasts_follows_the_interval(beats, state):
    forecasts = {**FORECASTS, "gains": {"linear": {"ic": make_gain(0.001, beats=beats)}}}
    assert judge_forecasts(make_evidence(make_forecaster(forecasts))).state == state


def test_the_page_of_forecasts_says_what_is_undefined_and_why():
    gain = {"value": 0.1, "low": 0.05, "high": 0.15, "beats": True, "reason": None}
    unknown = dict.fromkeys(("value", "low", "high", "beats")) | {"reason": "y never varies"}
    band = {"value": None, "low": 0.5, "high": 2.0, "is_within": None, "reason": "the net has no attention"}
    forecasts = {
        "path": 2,
        "gains": {"linear": {"loss": gain, "ic": unknown}},
        "calibration": {"slope": None, "undefined": {"slope": "the forecast never varies"}},
        **dict.fromkeys(("tiers", "sessions", "signals")),
    }
    findings = {"bands": {"attention_entropy": band}, "measurements": {"critic_entropy": 2.0}}
    page = forecast_page.render_page("lstm", {"forecasts": forecasts, "model_findings": findings})
    assert page.startswith("# lstm: forecasts on path 2\n")
    assert "| linear | loss | 0.1 [0.05, 0.15] | yes |" in page
    assert "| linear | ic | – | not known: y never varies |" in page
    assert "| slope | – | the forecast never varies |" in page
    assert "| attention_entropy | – | 0.5 to 2 | undefined: the net has no attention |" in page
    assert "| critic_entropy | 2 | – | – |" in page
    assert "Tiers" not in page
    empty = forecast_page.render_page(
        "voting", {"forecasts": forecasts, "model_findings": {"bands": {}, "measurements": {}}}
    )
    assert "The fitted model" not in empty
