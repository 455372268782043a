"""The gate before a promotion: named rules over the reports of a dataset, each with its value, limit and verdict.

An undefined value does not pass. A rule whose limit is null is off.
"""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Interval
from pydantic import NonNegativeFloat, NonNegativeInt

Report = Mapping[str, Any]
Verdict = Literal["passed", "failed", "undefined", "off"]
Share = Annotated[float, Interval(ge=0, le=1)]

COMPARISON = "comparison"  # the metadata of a rule: how its value must compare with its limit
AT_LEAST, ABOVE, AT_MOST = (
    {COMPARISON: (sign, holds)} for sign, holds in (("≥", operator.ge), (">", operator.gt), ("≤", operator.le))
)
ACCURACIES = ("accuracy", "directional_accuracy")  # a model has one of them, if any


@dataclass(frozen=True, kw_only=True)
class GateRules:
    """The section `gate` of params.yaml: the quantile of path Sharpe ratios, and the limit of each rule or None."""

    path_quantile: Annotated[float, Interval(ge=0, lt=1)]  # no rule: which quantile `path_sharpe` is
    dsr: Share | None = field(metadata=AT_LEAST)
    pbo: Share | None = field(metadata=AT_MOST)
    path_sharpe: float | None = field(metadata=ABOVE)
    sharpe_over_previous: float | None = field(metadata=ABOVE)
    break_even_over_cost: NonNegativeFloat | None = field(metadata=AT_LEAST)
    certificate_faults: NonNegativeInt | None = field(metadata=AT_MOST)
    guard_faults: NonNegativeInt | None = field(metadata=AT_MOST)
    signals: NonNegativeInt | None = field(metadata=AT_LEAST)
    accuracy_over_prior: float | None = field(metadata=ABOVE)
    accuracy: Share | None = field(metadata=AT_LEAST)
    holdout_looks: NonNegativeInt | None = field(metadata=AT_MOST)
    pass_probability: Share | None = field(metadata=AT_LEAST)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The reports that the rules read, of one dataset."""

    signal: str  # the model or ensemble whose target the bundle trades
    compare: Report  # trained/reports/compare/<dataset>.json
    compare_details: Report
    evaluate: Report  # evaluate/details of `signal`
    findings: Mapping[str, Report]  # reports with `findings`, and of audits with `fits`, by name
    canary: Report
    parity: Mapping[str, Report | None]  # by model of the bundle; None where there is no report
    bundle: Report  # the replay certificate
    contract_sha256: str  # of the bundle's contract
    signals: Report  # by target
    prop_firm: Report  # trained/reports/prop_firm/<dataset>.json
    holdout_looks: int  # at the holdout of this market, of the ledger


@dataclass(frozen=True)
class Measurement:
    """The value that a rule compares, and why it is undefined or what it counts."""

    value: float  # NaN where undefined
    reason: str | None = None


@dataclass(frozen=True)
class RuleResult:
    """A rule's value beside its limit."""

    value: float  # NaN where undefined or off
    limit: float | None
    condition: str  # such as "dsr ≥ 0.95"
    verdict: Verdict
    reason: str | None


def judge(evidence: Evidence, rules: GateRules) -> dict[str, RuleResult]:
    """Return the result of every rule, by its name."""
    return {each.name: judge_rule(each.name, evidence, rules) for each in fields(GateRules) if each.metadata}


def is_passed(results: Mapping[str, RuleResult]) -> bool:
    """Return whether at least one rule is on and all that are on passed."""
    verdicts = [result.verdict for result in results.values() if result.verdict != "off"]
    return bool(verdicts) and all(verdict == "passed" for verdict in verdicts)


def judge_rule(name: str, evidence: Evidence, rules: GateRules) -> RuleResult:
    """Return the result of one rule."""
    (rule,) = (each for each in fields(GateRules) if each.name == name)
    limit: float | None = getattr(rules, name)
    sign, holds = rule.metadata[COMPARISON]
    if limit is None:
        return RuleResult(math.nan, None, f"{name} {sign} null", "off", "the limit is null in params.yaml")
    found = MEASURES[name](evidence, rules)
    condition = f"{name} {sign} {limit:g}"
    if math.isnan(found.value):
        return RuleResult(math.nan, limit, condition, "undefined", found.reason)
    return RuleResult(found.value, limit, condition, "passed" if holds(found.value, limit) else "failed", found.reason)


def measure_dsr(evidence: Evidence, rules: GateRules) -> Measurement:
    """Return the deflated Sharpe ratio of the signal over all trials of the ledger."""
    row = evidence.compare_details["leaderboard"].get(evidence.signal)
    if row is None:
        return Measurement(math.nan, f"{evidence.signal} is not traded: the leaderboard has no row")
    return _define(row["dsr"], row.get("reason"))


def measure_pbo(evidence: Evidence, rules: GateRules) -> Measurement:
    """Return the probability of backtest overfitting of the selection among all models."""
    return _define(evidence.compare["pbo"], evidence.compare.get("reason"))


def measure_path_sharpe(evidence: Evidence, rules: GateRules) -> Measurement:
    """Return a low quantile of the Sharpe ratios of the signal's paths: the largest that no fewer paths are below.

    It is NumPy's `inverted_cdf`: a value that a path has, the worst one for 5 % of up to 20 paths.
    """
    sharpes = _list_paths(evidence.evaluate["model"], "sharpe_daily")
    if idle := int(np.isnan(sharpes).sum()):
        return Measurement(math.nan, f"{idle} of {len(sharpes)} paths have no Sharpe ratio, as where they never trade")
    return Measurement(float(np.quantile(sharpes, rules.path_quantile, method="inverted_cdf")))


def measure_sharpe_over_previous(evidence: Evidence, rules: GateRules) -> Measurement:
    """Return the median path's Sharpe ratio less that of predicting the previous label; 0 where that never trades."""
    own = _list_paths(evidence.evaluate["model"], "sharpe_daily")
    other = _list_paths(evidence.evaluate["baselines"]["previous"], "sharpe_daily")
    if np.isnan(own).any():
        return Measurement(math.nan, "a path has no Sharpe ratio, as where it never trades")
    if np.isnan(other).any():
        return Measurement(float(np.median(own)), "the baseline does not trade on every path: compared with 0")
    return Measurement(float(np.median(own) - np.median(other)))


def measure_break_even(evidence: Evidence, rules: GateRules) -> Measurement:
    """Return the cost at which the signal's median path earns nothing, over the cost that is charged."""
    execution = evidence.evaluate.get("execution")
    if execution is None:
        return Measurement(math.nan, f"{evidence.signal} is not traded")
    charged = execution["charged_bps"]
    if not charged:
        return Measurement(math.nan, "no cost is charged: set `costs` of the source")
    return _define(execution["break_even_bps"], execution.get("reason"), scale=charged)


def measure_certificates(evidence: Evidence, rules: GateRules) -> Measurement:
    """Return how many parity reports are missing or show a flip, and parts of the replay that compared nothing.

    A replay with a difference has no certificate. One of another contract is a fault as well.
    """
    faults = [] if evidence.bundle["contract_sha256"] == evidence.contract_sha256 else ["replay: of another contract"]
    for part in ("recorded", "holes"):
        for symbol, found in evidence.bundle[part].items():
            idle = [name for name, count in found["compared"].items() if not count]
            faults += [f"replay of {part} {symbol}: no {name} were compared" for name in idle]
    absent = [name for name, report in evidence.parity.items() if report is None]
    flipped = [
        name
        for name, report in evidence.parity.items()
        if report is not None and any(part["flipped_decisions"] for part in report.values())
    ]
    faults += [f"parity of {name}: no report" for name in absent]
    faults += [f"parity of {name}: decisions are flipped" for name in flipped]
    return _count(faults)


def measure_guards(evidence: Evidence, rules: GateRules) -> Measurement:
    """Return how many findings are critical, canaries missed and false alarms raised."""
    faults = [
        f"{name}: {finding['guard']}"
        for name, report in evidence.findings.items()
        for finding in [*report["findings"], *(each for fit in report.get("fits", ()) for each in fit["findings"])]
        if finding["severity"] == "critical"
    ]
    missed, alarms = evidence.canary["canaries"] - evidence.canary["caught"], evidence.canary["false_alarms"]
    faults += ["canary: a planted leak is missed"] * missed + ["canary: a false alarm"] * alarms
    return _count(faults)


def measure_signals(evidence: Evidence, rules: GateRules) -> Measurement:
    """Return how many pairs of feature and target hold all bands of signals: IC, correlation, turnover, p-value."""
    return Measurement(float(sum(target["passing"]["all"] for target in evidence.signals.values())))


def measure_accuracy(evidence: Evidence, rules: GateRules) -> Measurement:
    """Return the mean accuracy over the signal's paths, of classes or of directions."""
    return _average_accuracy(evidence.evaluate["model"])


def measure_accuracy_over_prior(evidence: Evidence, rules: GateRules) -> Measurement:
    """Return the mean accuracy of the signal less that of the constant baseline, which knows only the class prior."""
    own, prior = (_average_accuracy(each) for each in (evidence.evaluate["model"], _find_constant(evidence)))
    return Measurement(own.value - prior.value, own.reason or prior.reason)


def measure_looks(evidence: Evidence, rules: GateRules) -> Measurement:
    """Return the number of looks at the holdout of this market."""
    return Measurement(float(evidence.holdout_looks))


def measure_pass_probability(evidence: Evidence, rules: GateRules) -> Measurement:
    """Return the probability that the signal passes a prop firm's evaluation, at the best risk."""
    report = evidence.prop_firm
    if report["signal"] != evidence.signal:
        return Measurement(math.nan, f"the report is on {report['signal']}; run `dvc repro` to write it again")
    return _define(report["pass_probability"], report.get("reason"))


def _find_constant(evidence: Evidence) -> Report:
    constant: Report = evidence.evaluate["baselines"]["constant"]
    return constant


def _average_accuracy(result: Report) -> Measurement:
    known = [name for name in ACCURACIES if name in result["paths"][0]]
    if not known:
        return Measurement(math.nan, "predictions have neither classes nor directions")
    return _define(float(np.mean(_list_paths(result, known[0]))), f"{known[0]} is undefined on a path")


def _list_paths(result: Report, name: str) -> np.ndarray:
    """Return a metric of each path, (paths,); NaN where undefined, or where predictions are not traded."""
    return np.array([path.get(name) for path in result["paths"]], np.float64)


def _define(value: float | None, reason: str | None, *, scale: float = 1.0) -> Measurement:
    """Return a value of a report over `scale`; a null is NaN with its reason."""
    if value is None or math.isnan(value):
        return Measurement(math.nan, reason or "undefined in its report")
    return Measurement(value / scale)


def _count(faults: Sequence[str]) -> Measurement:
    return Measurement(float(len(faults)), "; ".join(faults) or None)


MEASURES: dict[str, Callable[[Evidence, GateRules], Measurement]] = {
    "dsr": measure_dsr,
    "pbo": measure_pbo,
    "path_sharpe": measure_path_sharpe,
    "sharpe_over_previous": measure_sharpe_over_previous,
    "break_even_over_cost": measure_break_even,
    "certificate_faults": measure_certificates,
    "guard_faults": measure_guards,
    "signals": measure_signals,
    "accuracy_over_prior": measure_accuracy_over_prior,
    "accuracy": measure_accuracy,
    "holdout_looks": measure_looks,
    "pass_probability": measure_pass_probability,
}
