"""Each rule of the gate passes and fails for its own reason, on reports worked by hand."""

import math
from copy import deepcopy
from dataclasses import asdict, fields, replace
from typing import get_args

import pytest
import yaml

from pipeline import config
from pipeline.evaluation.gate import MEASURES, Evidence, GateRules, Verdict, is_passed, judge
from pipeline.stages import gate
from tests.test_architecture import ROOT

RULES = GateRules(
    path_quantile=0.25,
    dsr=0.95,
    pbo=0.05,
    path_sharpe=0.0,
    sharpe_over_previous=0.5,
    break_even_over_cost=1.5,
    certificate_faults=0,
    guard_faults=0,
    signals=1,
    accuracy_over_prior=0.0,
    accuracy=0.5,
    holdout_looks=1,
    pass_probability=0.5,
)
SAME = {"compared": dict.fromkeys(("features", "predictions", "targets", "positions"), 9)}
OK = {"guard": "truncation", "severity": "ok"}
CRITICAL = {"guard": "truncation", "severity": "critical"}


def make_paths(sharpes: list, accuracies: list) -> dict:
    pairs = zip(sharpes, accuracies, strict=True)
    return {"paths": [{"sharpe_daily": sharpe, "directional_accuracy": accuracy} for sharpe, accuracy in pairs]}


def make_evidence() -> Evidence:
    """Reports of a signal that passes every rule."""
    return Evidence(
        signal="voting",
        compare={"pbo": 0.01, "reason": None},
        compare_details={"leaderboard": {"voting": {"dsr": 0.99, "reason": None}}},
        evaluate={
            "model": make_paths([2.0, 1.0, 3.0, 4.0], [0.52, 0.54, 0.53, 0.53]),
            "baselines": {
                "previous": make_paths([1.0, 1.5, 0.5, 1.0], [0.5] * 4),
                "constant": make_paths([None] * 4, [0.51, 0.51, 0.50, 0.52]),
            },
            "execution": {"charged_bps": 4.0, "break_even_bps": 7.0, "reason": None},
        },
        findings={"guard": {"findings": [OK]}, "audit of cnn": {"findings": [OK], "fits": [{"findings": [OK]}]}},
        canary={"canaries": 3, "caught": 3, "false_alarms": 0},
        parity={"cnn": {"holdout": {"flipped_decisions": 0}}},
        bundle={"contract_sha256": "c", "recorded": {"BTC": SAME}, "holes": {"BTC": SAME}},
        contract_sha256="c",
        signals={"return_5": {"passing": {"all": 2}}, "barrier_20": {"passing": {"all": 1}}},
        prop_firm={"signal": "voting", "pass_probability": 0.6, "reason": None},
        holdout_looks=1,
    )


def change(path: str, value: object) -> Evidence:
    """Return the evidence with another value at a path such as `compare/pbo`."""
    name, *keys = path.split("/")
    evidence = deepcopy(make_evidence())
    if not keys:
        return replace(evidence, **{name: value})
    part = getattr(evidence, name)
    for key in keys[:-1]:
        part = part[int(key) if isinstance(part, list) else key]
    part[keys[-1]] = value
    return evidence


def test_the_values_are_those_worked_by_hand():
    results = judge(make_evidence(), RULES)
    found = {name: result.value for name, result in results.items() if result.verdict != "off"}
    assert found == pytest.approx(
        {
            "dsr": 0.99,
            "pbo": 0.01,
            "path_sharpe": 1.0,  # a quarter of four: the lowest
            "sharpe_over_previous": 2.5 - 1.0,  # medians
            "break_even_over_cost": 7 / 4,
            "certificate_faults": 0,
            "guard_faults": 0,
            "signals": 3,
            "accuracy_over_prior": 0.53 - 0.51,  # means
            "accuracy": 0.53,
            "holdout_looks": 1,
            "pass_probability": 0.6,
        }
    )
    assert is_passed(results)


FAILURES = [
    ("dsr", "compare_details/leaderboard/voting/dsr", 0.94, "failed", None),
    ("dsr", "compare_details/leaderboard/voting", {"dsr": None, "reason": "2 observations"}, "undefined", "2 observ"),
    ("dsr", "compare_details/leaderboard", {}, "undefined", "voting is not traded"),
    ("pbo", "compare/pbo", 0.06, "failed", None),
    ("pbo", "compare", {"pbo": None, "reason": "one model"}, "undefined", "one model"),
    ("path_sharpe", "evaluate/model/paths/1/sharpe_daily", -0.1, "failed", None),
    ("break_even_over_cost", "evaluate/execution/break_even_bps", 5.9, "failed", None),
    ("break_even_over_cost", "evaluate/execution/charged_bps", 0.0, "undefined", "no cost is charged"),
    ("certificate_faults", "contract_sha256", "d", "failed", "replay: of another contract"),
    ("certificate_faults", "bundle/holes/BTC/compared/targets", 0, "failed", "holes BTC: no targets were compared"),
    ("certificate_faults", "parity", {"cnn": None}, "failed", "parity of cnn: no report"),
    ("certificate_faults", "parity/cnn/holdout/flipped_decisions", 1, "failed", "decisions are flipped"),
    ("guard_faults", "findings/guard/findings", [OK, CRITICAL], "failed", "guard: truncation"),
    ("guard_faults", "findings/audit of cnn/fits", [{"findings": [CRITICAL]}], "failed", "audit of cnn: truncation"),
    ("guard_faults", "canary/caught", 2, "failed", "a planted leak is missed"),
    ("guard_faults", "canary/false_alarms", 1, "failed", "a false alarm"),
    ("signals", "signals", {"return_5": {"passing": {"all": 0}}}, "failed", None),
    ("holdout_looks", "holdout_looks", 2, "failed", None),
    ("pass_probability", "prop_firm/pass_probability", 0.49, "failed", None),
    ("pass_probability", "prop_firm", {"signal": "voting", "pass_probability": None, "reason": "x"}, "undefined", "x"),
    ("pass_probability", "prop_firm/signal", "cnn", "undefined", "the report is on cnn; run `dvc repro` to write it"),
]


@pytest.mark.parametrize(("rule", "path", "value", "verdict", "reason"), FAILURES)
def test_each_rule_fails_alone_and_for_its_own_reason(rule, path, value, verdict, reason):
    results = judge(change(path, value), RULES)
    assert {name: result.verdict for name, result in results.items() if result.verdict not in ("passed", "off")} == {
        rule: verdict
    }
    assert reason is None or reason in results[rule].reason
    assert math.isnan(results[rule].value) == (verdict == "undefined")
    assert not is_passed(results)


def test_paths_that_never_trade_leave_sharpe_ratios_undefined():
    results = judge(change("evaluate/model/paths/1/sharpe_daily", None), RULES)
    assert results["path_sharpe"].verdict == results["sharpe_over_previous"].verdict == "undefined"
    assert "1 of 4 paths" in results["path_sharpe"].reason


def test_a_baseline_that_never_trades_earns_zero():
    evidence = change("evaluate/baselines/previous", make_paths([None] * 4, [0.5] * 4))
    assert judge(evidence, RULES)["sharpe_over_previous"].value == 2.5


def test_a_worse_accuracy_fails_both_rules_of_accuracy_and_no_direction_is_undefined():
    worse = judge(change("evaluate/model", make_paths([2.0, 1.0, 3.0, 4.0], [0.4] * 4)), RULES)
    assert [name for name, result in worse.items() if result.verdict == "failed"] == ["accuracy_over_prior", "accuracy"]
    none = judge(change("evaluate/model", {"paths": [{"sharpe_daily": 2.0}]}), RULES)
    assert none["accuracy"].verdict == none["accuracy_over_prior"].verdict == "undefined"


def test_a_limit_of_null_turns_a_rule_off_and_with_all_off_nothing_passes():
    off = GateRules(**{each.name: None for each in fields(GateRules)} | {"path_quantile": 0.05})
    for rule, path in {"pbo": "compare/pbo", "pass_probability": "prop_firm/pass_probability"}.items():
        results = judge(change(path, 0.9 if rule == "pbo" else 0.0), replace(RULES, **{rule: None}))
        assert (results[rule].verdict, is_passed(results)) == ("off", True)
    assert {result.verdict for result in judge(make_evidence(), off).values()} == {"off"}
    assert not is_passed(judge(make_evidence(), off))


def test_every_rule_has_a_measure_and_a_key_of_params():
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    rules = config.call_with(GateRules, block=params["gate"], name="gate")
    assert [name for name in asdict(rules) if name != "path_quantile"] == list(MEASURES)
    assert set(get_args(Verdict)) == {"passed", "failed", "undefined", "off"}


@pytest.mark.parametrize(("key", "value"), [("dsr", 1.5), ("path_quantile", None), ("holdout_looks", -1), ("pbo", "x")])
def test_a_limit_that_no_value_can_have_is_refused(key, value):
    with pytest.raises(config.ParamsError, match=f"gate.{key} is"):
        config.call_with(GateRules, block=asdict(RULES) | {key: value}, name="gate")


def test_the_page_begins_with_the_verdict():
    results = judge(change("compare/pbo", 0.9), RULES)
    page = gate.render_page("klines", "voting", results, notes=[])
    assert page.startswith("# Gate of klines\n\nThe bundle that trades `voting` does not pass.\n\n| rule |")
    simulated = gate.render_page("klines", "voting", results, notes=["Of a simulated market."])
    assert "does not pass.\n\nOf a simulated market.\n\n| rule |" in simulated
    assert "| pbo ≤ 0.05 | 0.9 | failed | – |" in page
