"""The page of a comparison, in markdown: leaderboard, trials, pairs of models, and the embargo."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.evaluation import pairwise
from pipeline.evaluation.best_members import BestMemberComparison
from pipeline.evaluation.comparison import Comparison
from pipeline.reporting import markdown
from pipeline.reporting.capacity_page import list_capitals, render_capacity
from pipeline.reporting.execution_page import name_verdict, render_execution
from pipeline.reporting.markdown import format_interval, format_number

NAN = float("nan")
SIGNIFICANT = 0.95  # a deflated Sharpe ratio above it is no luck
VERDICTS = YES, IF_FEWER, DEPENDS, NO, UNKNOWN = (
    "yes",
    "only if correlated trials count as fewer, by every estimate of their effective number",
    "only by some estimates of the effective number of trials",
    "no",
    "not known, too few observations or no trade",
)
NO_PBO = "no PBO: fewer than two models trade, there is nothing to choose from"
CURVES = ("embargo_factors", "embargo_bars", "boundary_ic", "boundary_ic_low", "boundary_ic_high", "ic")
COLUMNS = {  # of the leaderboard's table: header by key
    "psr": "PSR",
    "dsr": "DSR",
    "luck_dsr": "DSR, V of luck alone",
    "trial_variance": "V per bar²",
    "expected_max_sharpe": "SR₀ per bar",
    "excess_over_expected_max": "SR − SR₀ per bar",
    "min_track_record_bars": "MinTRL, bars",
    "observations": "independent traded observations",
    "sharpe_after_holm": "Sharpe after Holm's haircut",
}

Report = Mapping[str, Any]


def render_page(
    dataset: str,
    comparison: Comparison,
    sensitivity: Report,
    execution: Mapping[str, Report],
    capacity: Mapping[str, Report],
    *,
    not_traded: Sequence[str] = (),
    best_members: Sequence[BestMemberComparison] = (),
) -> str:
    """Return the comparison as a page of markdown.

    `execution` and `capacity` are the reports of each model on how it trades, and with which capital.
    """
    pbo = format_number(comparison.cscv.pbo if comparison.cscv else NAN)
    counts = comparison.effective_trials.values()
    effective = f" ({format_range(counts)} effective)" if counts else ""
    title = f"# {dataset}: {comparison.trials} trials{effective}, PBO {pbo}"
    sections = [
        title,
        render_verdict(comparison),
        render_leaderboard(comparison, execution),
        render_execution(execution),
        render_capacity(capacity, capitals=list_capitals(execution)),
        render_seeds(comparison),
        render_trials(comparison),
        render_pairs(comparison.pairs),
        *([render_best_members(best_members)] if best_members else []),
        render_sensitivity(sensitivity),
    ]
    if not_traded:
        sections.append(f"Not traded, as their predictions have no score: {', '.join(not_traded)}.")
    return "\n\n".join(sections) + "\n"


def format_range(values: Iterable[float]) -> str:
    """Return the lowest and the highest of some numbers, or a dash where there is none."""
    known = [value for value in values if not np.isnan(value)]
    return f"{format_number(min(known))} to {format_number(max(known))}" if known else markdown.DASH


def render_verdict(comparison: Comparison) -> str:
    """Return which models are distinguishable from the luckiest of as many trials without skill."""
    verdicts = {name: judge_model(row) for name, row in comparison.leaderboard.items()}
    lines = [
        f"- {verdict}: {', '.join(name for name in verdicts if verdicts[name] == verdict)}"
        for verdict in VERDICTS
        if verdict in verdicts.values()
    ]
    head = f"Distinguishable from the luckiest of {comparison.trials} trials without skill (DSR above {SIGNIFICANT}):"
    return "\n".join([head, "", *(lines or ["- no model"])])


def judge_model(row: Mapping[str, Any]) -> str:
    """Return the verdict on a model: whether its DSR is significant at N and at the effective numbers of trials."""
    if np.isnan(row["dsr"]):
        return UNKNOWN
    if row["dsr"] > SIGNIFICANT:
        return YES
    passes = [value > SIGNIFICANT for value in list_effective_dsr(row) if not np.isnan(value)]
    return NO if not any(passes) else IF_FEWER if all(passes) else DEPENDS


def render_leaderboard(comparison: Comparison, execution: Mapping[str, Report]) -> str:
    """Return the leaderboard as a table of markdown, with the verdict on each model's execution."""
    rows = (
        [
            name,
            name_verdict(execution[name]["executability"]),
            format_interval(row["sharpe_daily"], row["sharpe_daily_low"], row["sharpe_daily_high"]),
            format_interval(row["sharpe"], row["sharpe_low"], row["sharpe_high"]),
            *(format_number(row[key]) for key in COLUMNS),
            format_range(list_effective_dsr(row)),
        ]
        for name, row in comparison.leaderboard.items()
    )
    head = [
        "model",
        "executable",
        "Sharpe of daily returns",
        "Sharpe of bars",
        *COLUMNS.values(),
        "DSR at the effective numbers of trials",
    ]
    length = format_number(comparison.block_bars)
    note = (
        "Sharpe: annualized, net of costs, of the median path, ranked by that of bars; intervals by block bootstrap "
        f"(mean block length {length} bars). V: variance of the Sharpe ratios per bar of all {comparison.trials} "
        "trials, each in units of its own error, times that of the model's. SR₀: the maximum expected of as many "
        "trials if all of V were luck; trials that differ in skill raise it. DSR, V of luck alone: with V = 1/(n − 1), "
        "the variance without skill."
    )
    return f"{markdown.render_table(head, rows)}\n\n{note}"


def list_effective_dsr(row: Mapping[str, Any]) -> list[float]:
    """Return a model's deflated Sharpe ratios at the effective numbers of trials."""
    return [value for key, value in row.items() if key.startswith("dsr_")]


def render_seeds(comparison: Comparison) -> str:
    """Return whether the seeds of the fits explain the order of the leaderboard."""
    rows = comparison.leaderboard
    known = {name: float(row["seed_std"]) for name, row in rows.items() if not np.isnan(row["seed_std"])}
    alone = [name for name in rows if name not in known]
    lines = [
        f"- {name}: from seed to seed the Sharpe of bars has a standard deviation of {format_number(std)}, more than "
        f"its distance to {other}"
        for name, std in known.items()
        for other in find_closer_neighbors(comparison, name, std=std)
    ]
    if alone:
        lines.append(
            f"- One seed: {', '.join(alone)}. What another seed would give is not known, and no interval or test here "
            "allows for it: `dvc exp run -S 'seeds=[1,2,3]'`."
        )
    return "\n".join(lines) or "No model's Sharpe of bars differs more between seeds than from its neighbors."


def find_closer_neighbors(comparison: Comparison, name: str, *, std: float) -> list[str]:
    """Return the models next to one on the leaderboard whose Sharpe ratio is less than `std` away."""
    names = list(comparison.leaderboard)
    at = names.index(name)
    sharpes = {one: float(comparison.leaderboard[one]["sharpe"]) for one in names}
    neighbors = [names[i] for i in (at - 1, at + 1) if 0 <= i < len(names)]
    return [one for one in neighbors if abs(sharpes[one] - sharpes[name]) < std]


def render_trials(comparison: Comparison) -> str:
    """Return what all trials together say: their number by estimator, PBO and the tests of superior ability."""
    counts = {"all": comparison.trials, **comparison.effective_trials}
    cells = [[name.replace("_", " "), f"{count:.4g}"] for name, count in counts.items()]
    lines = [
        f"- PBO of the choice among the models, by path: {format_range(each.pbo for each in comparison.path_pbo)}; "
        f"among all trials, by day: {format_number(comparison.ledger_pbo)}",
    ]
    if test := comparison.superiority:
        lines.append(
            f"- p-value of the hypothesis that no trial has a positive mean daily return, from {test.days} days of "
            f"{test.trials} trials: "
            f"{format_number(test.spa)} (SPA, Hansen), {format_number(test.reality_check)} (Reality Check, White)"
        )
    return "\n".join([markdown.render_table(["trials", "number"], cells), "", *lines])


def render_pairs(pairs: Sequence[pairwise.PairComparison]) -> str:
    """Return a list of the pairs: those with a significant difference first, then the others."""
    if not pairs:
        return "Fewer than two models trade: there is nothing to compare."
    significant = [
        f"- {pair.verdict} by {format_interval(pair.difference, pair.low, pair.high)}, "
        f"p {format_number(pair.p_adjusted)}"
        for pair in pairs
        if pair.verdict != pairwise.UNDECIDED
    ]
    undecided = [
        f"- {pairwise.UNDECIDED}: {pair.a} and {pair.b}" + (f" ({pair.reason})" if pair.reason else "")
        for pair in pairs
        if pair.verdict == pairwise.UNDECIDED
    ]
    note = "Differences: mean annualized Sharpe of the paths, with the interval of each alone, not adjusted; p: "
    return "\n".join([*significant, *undecided, "", f"{note}two-sided, adjusted for all pairs (Holm)."])


def render_best_members(comparisons: Sequence[BestMemberComparison]) -> str:
    """Return a list of the ensembles, each against the best of its members."""
    lines = ["Ensembles against their best member, by the mean annualized Sharpe of the paths:", ""]
    for each in comparisons:
        known = f"{each.member} (its best member on these test rows: a choice in hindsight, which favors {each.member})"
        if not each.is_in_hindsight:
            known = f"{each.member} (in each split the member that is best on valid rows: no test row chooses it)"
        difference = format_interval(each.difference, each.low, each.high)
        tests = f"p {format_number(each.p_adjusted)}, of this pair alone {format_number(each.p_value)}"
        reason = f"; {each.reason}" if each.reason else ""
        lines.append(f"- {each.ensemble} less {known}: {difference}, {each.verdict} ({tests}{reason})")
    return "\n".join(lines)


def render_sensitivity(sensitivity: Report) -> str:
    """Return the finding about the embargo, and the ICs against the embargo as a table of markdown."""
    message = f"Embargo: {sensitivity['finding']['message']}."
    if sensitivity["reason"]:
        return message
    curves = (sensitivity[name] for name in CURVES)
    rows = (
        [f"{factor:g}", str(bars), format_interval(boundary_ic, low, high), format_number(ic)]
        for factor, bars, boundary_ic, low, high, ic in zip(*curves, strict=True)
    )
    head = ["embargo, × default", "bars", "IC in the last embargo length of a test range", "IC of all rows"]
    return f"{message}\n\n{markdown.render_table(head, rows)}"
