"""The verdict of a report: which claims about the results the evidence supports, in plain words."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pipeline.reporting.comparison_page import NO, SIGNIFICANT, YES, judge_model
from pipeline.reporting.tear_sheet.blocks import State, Statement, Verdict
from pipeline.reporting.tear_sheet.evidence import DatasetReports, ModelReports
from pipeline.reporting.tear_sheet.formats import format_number, format_range, list_names

NAN = float("nan")
MAX_PBO = 0.1  # low by the bands of pipeline/evaluation/README.md; at 0.5 the choice is no better than a coin

Report = Mapping[str, Any]


def make_verdict(evidence: DatasetReports) -> Verdict:
    """Return a sentence that sums up, and one statement for each claim that the reports can judge."""
    judges: tuple[Callable[[DatasetReports], Statement], ...] = (
        judge_leaks,
        judge_canaries,
        judge_luck,
        judge_choice,
        judge_superiority,
        judge_forecasts,
        judge_costs,
        judge_execution,
        judge_plausibility,
        judge_stationarity,
        judge_seeds,
        judge_market,
    )
    return Verdict(summarize(evidence) + explain_rows(evidence.split), [judge(evidence) for judge in judges])


def summarize(evidence: DatasetReports) -> str:
    """Return what the whole evidence comes to, in two sentences."""
    skilled, rows = list_skilled(evidence.compare["leaderboard"]), evidence.compare["leaderboard"]
    if not rows:
        return "No model of this dataset is traded, so nothing is known about profit."
    market = "the simulated market" if evidence.is_simulated else f"the market of source {evidence.source}"
    if not skilled:
        return (
            f"No model of {len(rows)} is distinguishable from the luckiest of {evidence.compare['trials']} trials "
            f"without skill, on {market}. Do not trade any of them on this evidence."
        )
    limits = " It says nothing about a real market." if evidence.is_simulated else ""
    return (
        f"{len(skilled)} of {len(rows)} models earn more, net of costs, than the luckiest of "
        f"{evidence.compare['trials']} trials without skill would, on {market}: {list_names(skilled)}.{limits}"
    )


def explain_rows(split: Report) -> str:
    """Return what a bar is on the page of a dataset of other rows, from the report of `split`; of bars nothing."""
    return f" What this page calls bars are {split['unit']}." if "unit" in split else ""


def list_skilled(rows: Mapping[str, Report]) -> list[str]:
    """Return the models whose deflated Sharpe ratio is significant."""
    return [name for name, row in rows.items() if judge_model(fill_undefined(row)) == YES]


def fill_undefined(row: Report) -> dict[str, Any]:
    """Return a row of the leaderboard with NaN for null."""
    return {key: NAN if value is None else value for key, value in row.items()}


def judge_leaks(evidence: DatasetReports) -> Statement:
    """Return whether any guard found a leak in features, labels, folds or fits."""
    parts = {
        "features and labels": evidence.guard["findings"],
        "folds": evidence.split["findings"],
        "fits": [found for model in evidence.models for found in list_audit_findings(model)],
    }
    faults = [f"{part}: {f['message']}" for part, each in parts.items() for f in each if f["severity"] != "ok"]
    checks = ", ".join(f"{len(found)} of {part}" for part, found in parts.items())
    state: State = "not supported" if faults else "supported"
    return Statement(state, "No information from the future leaks", "; ".join(faults) or f"all checks hold: {checks}")


def list_audit_findings(model: ModelReports) -> list[Report]:
    """Return the findings about every fit of a model; none of a model that is not fitted."""
    if model.audit is None:
        return []
    return [*model.audit["findings"], *(found for fit in model.audit["fits"] for found in fit["findings"])]


def judge_canaries(evidence: DatasetReports) -> Statement:
    """Return whether the guards find every planted leak without a false alarm."""
    canary = evidence.canary
    if not canary["canaries"]:
        return Statement("not known", "The guards would find a leak", str(canary["reason"]))
    holds = canary["caught"] == canary["canaries"] and not canary["false_alarms"]
    found = f"{canary['caught']} of {canary['canaries']} planted leaks are found, {canary['false_alarms']} false alarms"
    return Statement("supported" if holds else "not supported", "The guards would find a leak", found)


def judge_luck(evidence: DatasetReports) -> Statement:
    """Return which models have a Sharpe ratio beyond that of the luckiest trial without skill."""
    rows, claim = evidence.compare["leaderboard"], "Returns are more than the luck of many trials"
    if not rows:
        return Statement("not known", claim, "no model is traded")
    yes = list_skilled(rows)
    others = {name: judge_model(fill_undefined(row)) for name, row in rows.items() if name not in yes}
    no = [name if verdict == NO else f"{name} ({verdict})" for name, verdict in others.items()]
    found = f"deflated Sharpe ratio above {SIGNIFICANT} at {evidence.compare['trials']} trials: {list_names(yes)}"
    state: State = "not supported" if no else "supported"
    return Statement(state, claim, found + (f"; not: {list_names(no)}" if no else ""))


def judge_choice(evidence: DatasetReports) -> Statement:
    """Return whether the model that is best in sample stays above the median out of sample."""
    claim, pbo = "The choice of the best model is not overfitted", evidence.headline["pbo"]
    if pbo is None:
        return Statement("not known", claim, evidence.compare["reason"] or "fewer than two models trade")
    ledger = evidence.compare["ledger_pbo"]
    highest = max(value for value in (pbo, evidence.headline["pbo_highest"], ledger) if value is not None)
    span = format_range([evidence.headline["pbo_lowest"], evidence.headline["pbo_highest"]])
    found = f"probability of backtest overfitting {span} by path; {format_number(ledger)} among all trials, by day"
    return Statement("supported" if highest < MAX_PBO else "not supported", claim, found)


def judge_superiority(evidence: DatasetReports) -> Statement:
    """Return whether the best of all trials has a positive mean daily return, by Hansen's test."""
    claim, test = "The best of all trials has a positive mean return", evidence.compare["superiority"]
    if not test or test["spa"] is None:
        return Statement("not known", claim, "the test of superior predictive ability was not made")
    found = f"p = {format_number(test['spa'])} (SPA, Hansen), {test['days']} days of {test['trials']} trials"
    return Statement("supported" if test["spa"] < 1 - SIGNIFICANT else "not supported", claim, found)


def judge_forecasts(evidence: DatasetReports) -> Statement:
    """Return which models forecast better than a linear model of the same features."""
    claim = "Models forecast better than a linear model"
    measured = {model.name: find_gain(model) for model in evidence.models}
    known = {name: gain for name, gain in measured.items() if gain is not None}
    if known and len(known) == len(measured):
        span = format_range([gain["value"] for gain in known.values()])
        detail = f"IC less that of the linear model, on the median path: {span}; it holds where the interval is above 0"
        return divide_models({name: gain["beats"] for name, gain in known.items()}, claim=claim, detail=detail)
    gains = {model.name: model.headline["ic_minus_linear"] for model in evidence.models}
    return divide_models(
        {name: None if gain is None else gain > 0 for name, gain in gains.items()},
        claim=claim,
        detail=f"IC less that of the linear model: {format_range(list(gains.values()))}; no interval is known",
    )


def find_gain(model: ModelReports) -> Report | None:
    """Return the gain of a model's IC over the linear one's with its interval; None where it was not measured."""
    gains = (model.details.get("forecasts") or {}).get("gains") or {}
    gain: Report | None = gains.get("linear", {}).get("ic")
    return gain


def judge_costs(evidence: DatasetReports) -> Statement:
    """Return which models break even above the costs that are charged."""
    terms = {model.name: model.details["execution"] for model in evidence.models}
    holds = {
        name: None if each["break_even_bps"] is None else each["break_even_bps"] > each["charged_bps"]
        for name, each in terms.items()
    }
    charged = next((each["charged_bps"] for each in terms.values()), None)
    breaks = format_range([each["break_even_bps"] for each in terms.values()])
    detail = f"break-even at {breaks} bps, charged are {format_number(charged)} bps on each side; by sums of returns"
    return divide_models(holds, claim="Gross returns cover the costs", detail=detail)


def judge_execution(evidence: DatasetReports) -> Statement:
    """Return which results survive one more bar of delay and the spread that the data imply."""
    holds = {model.name: model.details["execution"]["executability"]["is_executable"] for model in evidence.models}
    reasons = [
        f"{model.name}: {reason}"
        for model in evidence.models
        for reason in model.details["execution"]["executability"]["reasons"]
    ]
    detail = "; ".join(reasons) or "with one more bar of delay, and with half of the implied spread as slippage"
    return divide_models(holds, claim="Results could have been executed", detail=detail)


def judge_plausibility(evidence: DatasetReports) -> Statement:
    """Return whether a result is too good or too bad to be believed without a cause."""
    warnings = [f"{m.name}: {text}" for m in evidence.models for text in m.details["execution"]["warnings"]]
    state: State = "not supported" if warnings else "supported"
    return Statement(state, "No result is implausibly large", join_by_advice(warnings) or "no warning")


def join_by_advice(warnings: Sequence[str]) -> str:
    """Return warnings as one text: each advice, what follows the last colon, stands once after its findings."""
    found: dict[str, list[str]] = {}
    for warning in warnings:
        finding, colon, advice = warning.rpartition(": ")
        found.setdefault(colon + advice, []).append(finding)
    return "; ".join("; ".join(findings) + advice for advice, findings in found.items())


def judge_stationarity(evidence: DatasetReports) -> Statement:
    """Return which models have about the same Sharpe ratio in every split."""
    return judge_gate(evidence, "stationarity", claim="Skill is about the same in every split", sign="below")


def judge_seeds(evidence: DatasetReports) -> Statement:
    """Return which models were fitted with enough seeds to tell skill from the luck of one."""
    return judge_gate(evidence, "seeds", claim="Results do not depend on one seed", sign="at least")


def judge_gate(evidence: DatasetReports, gate: str, *, claim: str, sign: str) -> Statement:
    """Return which models pass a gate of params."""
    found = {model.name: model.details["gates"][gate] for model in evidence.models}
    limit = next((each["limit"] for each in found.values()), None)
    values = format_range([each["value"] for each in found.values()])
    detail = f"{gate} {values}, gate: {sign} {format_number(limit)}"
    return divide_models({name: each["passes"] for name, each in found.items()}, claim=claim, detail=detail)


def judge_market(evidence: DatasetReports) -> Statement:
    """Return whether the results are those of a real market."""
    claim = "Results are those of a real market"
    if evidence.is_simulated:
        return Statement("not supported", claim, "the bars are generated, with an effect that is known to be there")
    return Statement("supported", claim, f"the bars are of source {evidence.source}")


def divide_models(holds: Mapping[str, bool | None], *, claim: str, detail: str) -> Statement:
    """Return the statement that a claim holds for these models, and not for those; None is not known."""
    named = {state: [name for name, each in holds.items() if each is state] for state in (True, False, None)}
    if not named[True] and not named[False]:
        return Statement("not known", claim, detail)
    state: State = "supported" if not named[False] and not named[None] else "not supported"
    return Statement(state, claim, f"{describe_division(named)}; {detail}")


def describe_division(named: Mapping[bool | None, Iterable[str]]) -> str:
    """Return for which models a claim holds, for which not, and for which it is not known."""
    words = {True: "holds for", False: "not for", None: "not known for"}
    texts = {state: list_names(list(names)) for state, names in named.items()}
    if not any(named[state] for state in (False, None)):
        return "holds for all models"
    if not any(named[state] for state in (True, None)):
        return "holds for no model"
    return "; ".join(f"{words[state]} {texts[state]}" for state in words if named[state])
