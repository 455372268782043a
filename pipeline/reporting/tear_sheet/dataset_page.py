"""The sections of a report that are about all models: leaderboard, data, guards, folds, overfitting, signals."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from pipeline.reporting.comparison_page import SIGNIFICANT, judge_model, list_effective_dsr
from pipeline.reporting.markdown import DASH
from pipeline.reporting.tear_sheet import dataset_charts
from pipeline.reporting.tear_sheet.blocks import Figure, Note, Section, Table
from pipeline.reporting.tear_sheet.evidence import DatasetEvidence
from pipeline.reporting.tear_sheet.formats import (
    format_hours,
    format_interval,
    format_number,
    format_percent,
    format_range,
    format_time,
)
from pipeline.reporting.tear_sheet.verdict import fill_undefined, list_audit_findings

MAX_HOLES, MAX_MESSAGES, TOP_SIGNALS = 20, 20, 15
LEAST_TIME_MS = 10**11  # an instant of 1973: no number of bars, and no length of a hole, is as large

Report = Mapping[str, Any]
Block = Figure | Note | Table
EXECUTABLE = {True: "yes", False: "no", None: "not known"}


def make_leaderboard(evidence: DatasetEvidence) -> Section:
    """Return the ranking of the models with intervals, and which gates each passes."""
    rows = evidence.compare["leaderboard"]
    if not rows:
        return Section("leaderboard", "Leaderboard", [Note("No model of this dataset is traded.")])
    blocks: list[Block] = [
        tabulate_leaderboard(evidence),
        Figure("Sharpe ratio of daily returns, with its interval", dataset_charts.plot_leaderboard(rows)),
        tabulate_gates(evidence),
        tabulate_pairs(evidence.compare["pairs"]),
    ]
    if evidence.not_traded:
        names = ", ".join(evidence.not_traded)
        blocks.append(Note(f"Not traded, as their predictions have no direction: {names}."))
    return Section("leaderboard", "Leaderboard", blocks)


def tabulate_leaderboard(evidence: DatasetEvidence) -> Table:
    """Return one row for each model, by the Sharpe ratio of its bars."""
    rows = []
    for model in evidence.models:
        row, terms = evidence.compare["leaderboard"][model.name], model.details["execution"]
        rows.append(
            [
                model.name,
                model.target,
                format_interval(row["sharpe_daily"], row["sharpe_daily_low"], row["sharpe_daily_high"]),
                format_interval(row["sharpe"], row["sharpe_low"], row["sharpe_high"]),
                format_range(row["path_sharpes"]),
                format_number(row["psr"]),
                format_number(row["dsr"]),
                format_number(model.headline["ic"]),
                format_number(model.headline["ic_minus_linear"]),
                format_number(terms["break_even_bps"]),
                format_number(terms["round_trips"]),
                EXECUTABLE[terms["executability"]["is_executable"]],
            ]
        )
    head = [
        "model",
        "target",
        "Sharpe, daily returns",
        "Sharpe, bars",
        "over paths",
        "PSR",
        "DSR",
        "IC",
        "IC − linear IC",
        "break-even, bps",
        "round trips",
        "executable",
    ]
    charged = format_range([model.details["execution"]["charged_bps"] for model in evidence.models])
    length = format_number(evidence.compare["block_bars"])
    note = (
        "Sharpe ratios are annualized, net of costs, of the median path; intervals by block bootstrap (mean "
        f"block length {length} bars). DSR: probability that the true Sharpe ratio exceeds the maximum expected of "
        f"{evidence.compare['trials']} trials without skill; PSR: that it exceeds 0. IC: correlation of prediction and "
        f"label, mean of the paths. Costs charged on each side: {charged} bps. Executable: what is earned outlasts one "
        "more bar of delay and the spread that the data imply. pipeline/evaluation/README.md defines every figure."
    )
    return Table("Models, by the Sharpe ratio of bars", head, rows, note=note)


def tabulate_gates(evidence: DatasetEvidence) -> Table:
    """Return which gates every model passes, with value and limit."""
    words = {True: "passed", False: "failed", None: "undefined"}
    names = list(dict.fromkeys(name for model in evidence.models for name in model.details["gates"]))
    rows = []
    for model in evidence.models:
        gates = [model.details["gates"][name] for name in names]
        verdicts = [f"{words[gate['passes']]}: {format_number(gate['value'])}" for gate in gates]
        rows.append([model.name, *verdicts])
    limits = {name: evidence.models[0].details["gates"][name]["limit"] for name in names}
    return Table("Gates", ["model", *(f"{name}, limit {format_number(limits[name])}" for name in names)], rows)


def tabulate_pairs(pairs: list[Report]) -> Table:
    """Return the differences between models, the smallest p-values first."""
    ordered = sorted(pairs, key=lambda pair: (pair["p_adjusted"] is None, pair["p_adjusted"], pair["a"], pair["b"]))
    rows = [
        [
            f"{pair['a']} and {pair['b']}",
            format_interval(pair["difference"], pair["low"], pair["high"]),
            format_number(pair["p_adjusted"]),
            pair["reason"] or pair["verdict"],
        ]
        for pair in ordered
    ]
    note = "Mean annualized Sharpe ratio of the paths; p is two-sided and adjusted for all pairs (Holm)."
    head = ["models", "difference of Sharpe ratios", "p", "verdict"]
    return Table("Pairs of models", head, rows, note=note if rows else "Fewer than two models trade.")


def make_data(evidence: DatasetEvidence) -> Section:
    """Return what the bars are, their holes, what labels lose, and the spread that they imply."""
    ingest = evidence.ingest
    symbols = [
        [
            symbol,
            f"{each['rows']:,}",
            format_time(each.get("first_ms")),
            format_time(each.get("last_ms")),
            format_number(each.get("segments")),
            format_number(each.get("missing_bars")),
            format_number(each.get("zero_volume_bars")),
        ]
        for symbol, each in ingest.get("symbols", {}).items()
    ]
    head = ["symbol", "bars", "first, UTC", "last, UTC", "segments", "missing bars", "bars without volume"]
    blocks: list[Block] = [Table(f"Bars of source {evidence.source}", head, symbols)]
    blocks += [tabulate_holes(ingest["gaps"])] if "gaps" in ingest else []
    blocks += [tabulate_labels(evidence.label), tabulate_liquidity(evidence.liquidity)]
    return Section("data", "Data and holes", blocks)


def tabulate_holes(gaps: Report) -> Table:
    """Return the first MAX_HOLES holes, and how many there are."""
    listed = gaps["list"][:MAX_HOLES]
    head = list(listed[0]) if listed else ["hole"]
    rows = [[value if isinstance(value, str) else show_value(value) for value in hole.values()] for hole in listed]
    note = f"{gaps['count']} holes; {len(listed)} are shown." if gaps["count"] else "No bar is missing."
    return Table("Holes", [name.replace("_", " ").removesuffix(" ms") for name in head], rows, note=note)


def show_value(value: object) -> str:
    """Return a value of a hole; whole numbers as large as milliseconds since 1970 are instants."""
    return format_time(value) if isinstance(value, int) and value > LEAST_TIME_MS else format_number(value)


def tabulate_labels(label: Report) -> Table:
    """Return rows, losses by cause, and length of the labels of every target."""
    rows = [
        [
            target,
            f"{each['rows']:,}",
            ", ".join(f"{cause.replace('_', ' ')} {count:,}" for cause, count in each["lost"].items() if count)
            or "none",
            format_hours(each.get("mean_length_ms")),
            ", ".join(f"{name} {format_number(value)}" for name, value in each["y"].items()),
        ]
        for target, each in label.items()
    ]
    return Table("Labels", ["target", "rows", "rows lost", "mean length", "y: mean and deviation, or shares"], rows)


def tabulate_liquidity(liquidity: Report) -> Table:
    """Return the spread that the bars imply, by month, beside the costs that are charged."""
    if liquidity["reason"]:
        return Table("Liquidity", ["month"], [], note=liquidity["reason"])
    rows = [
        [
            each["symbol"],
            each["period"],
            format_number(each["half_spread_bps"]),
            format_number(liquidity["slippage_bps"]),
            format_percent(each["idle_share"]),
            format_number(each["quote_volume_median"]),
        ]
        for each in liquidity["periods"]
    ]
    head = ["symbol", "month", "half spread, bps", "slippage charged, bps", "idle bars", "median quote volume of a bar"]
    return Table("Liquidity", head, rows, note="; ".join(liquidity["warnings"]) or "No warning.")


def make_guards(evidence: DatasetEvidence) -> Section:
    """Return the findings of all guards, and the planted leaks that test them."""
    findings = [("features and labels", found) for found in evidence.guard["findings"]]
    findings += [("comparison", found) for found in evidence.compare["findings"]]
    rows = [[where, f["guard"].replace("_", " "), f["severity"], f["message"]] for where, f in findings]
    audits = []
    for model in evidence.models:
        found = list_audit_findings(model)
        faults = [each["message"] for each in found if each["severity"] != "ok"]
        audits.append([model.name, str(len(found)), str(len(faults)), "; ".join(faults[:MAX_MESSAGES]) or DASH])
    canary = evidence.canary
    missed = [name for name, each in canary["outcomes"].items() if not each["caught"]]
    text = f"{canary['caught']} of {canary['canaries']} planted leaks are found; {canary['false_alarms']} false alarms."
    return Section(
        "guards",
        "Guards and canaries",
        [
            Table("Findings", ["of", "guard", "severity", "message"], rows),
            Table("Fits", ["model", "checks", "faults", "messages"], audits, note="An ensemble is not fitted."),
            Note(text + (f" Not found: {', '.join(missed)}." if missed else "")),
        ],
    )


def make_folds(evidence: DatasetEvidence) -> Section:
    """Return how time is divided, and what keeps train and test apart."""
    split = evidence.split
    facts = [
        ["method", str(split["method"])],
        ["splits", format_number(split["n_splits"])],
        ["paths", format_number(split["n_paths"])],
        ["labeled rows", format_number(split["rows"])],
        ["rows of the development part", format_number(split["development"])],
        ["rows of the sealed holdout", format_number(split["holdout"])],
        ["rows purged and embargoed before the holdout", format_number(split["purged_and_embargoed_before_holdout"])],
        [f"embargo, {split.get('unit', 'bars')}", f"{format_number(split['embargo_bars'])}: {split['embargo_reason']}"],
    ]
    findings = [[f["guard"].replace("_", " "), f["severity"], f["message"]] for f in split["findings"]]
    return Section(
        "folds",
        "Folds",
        [
            Table("Division of time", ["what", "value"], facts),
            draw("Groups that each split tests", dataset_charts.plot_folds(split)),
            draw("IC against the embargo", dataset_charts.plot_embargo(evidence.sensitivity)),
            Table("Checks of the folds", ["guard", "severity", "message"], findings),
        ],
    )


def make_overfitting(evidence: DatasetEvidence) -> Section:
    """Return the probability of overfitting, and the deflation of every Sharpe ratio by the trials of the ledger."""
    compare = evidence.compare
    rows = [
        [
            name,
            format_number(row["trials"]),
            format_number(row["trial_variance"]),
            format_number(row["expected_max_sharpe"]),
            format_number(row["sharpe_per_bar"]),
            format_number(row["dsr"]),
            format_range([*list_effective_dsr(fill_undefined(row))]),
            format_number(row["luck_dsr"]),
            format_number(row["min_track_record_bars"]),
            format_number(row["observations"]),
            judge_model(fill_undefined(row)),
        ]
        for name, row in compare["leaderboard"].items()
    ]
    head = ["model", "N", "V per bar²", "SR₀ per bar", "SR per bar", "DSR", "DSR, effective N", "DSR, V of luck"]
    head += ["MinTRL, bars", "independent observations", f"DSR above {SIGNIFICANT}"]
    note = (
        "N: trials of the ledger. V: variance of their Sharpe ratios. SR₀: the maximum expected of N trials without "
        "skill. MinTRL: bars that a significant Sharpe ratio needs."
    )
    counts = [["all, by the ledger", format_number(compare["trials"])]]
    counts += [[name.replace("_", " "), format_number(value)] for name, value in compare["effective_trials"].items()]
    pbo = [[f"path {path}", format_number(value)] for path, value in enumerate(compare["path_pbo"] or [])]
    pbo.append(["all trials, by day", format_number(compare["ledger_pbo"])])
    blocks: list[Block] = [
        Table("Deflated Sharpe ratios", head, rows, note=note),
        Table("Trials", ["estimate", "number"], counts, note="Effective numbers count correlated trials as fewer."),
        Table("Probability of backtest overfitting (PBO)", ["choice", "PBO"], pbo, note=compare["reason"] or ""),
    ]
    if test := compare["superiority"]:
        text = f"Of {test['trials']} trials and {test['days']} days; null hypothesis: none has a positive mean return."
        cells = [["SPA (Hansen)", format_number(test["spa"])], ["Reality Check", format_number(test["reality_check"])]]
        blocks.append(Table("Superior predictive ability", ["test", "p"], cells, note=text))
    return Section("overfitting", "Overfitting", blocks)


def make_signals(evidence: DatasetEvidence) -> Section:
    """Return the features with the largest |IC| with every target, and which gates each passes."""
    blocks: list[Block] = []
    for target, each in evidence.signals.items():
        features = each["features"]
        ranked = sorted(features, key=lambda name: (-abs(features[name]["ic"] or 0.0), name))
        names = ranked[:TOP_SIGNALS]
        rows = [[name, *show_signal(features[name])] for name in names]
        title = f"Signals for {target}: {len(names)} of {len(features)} features, by |IC|"
        head = ["feature", "IC", "error", "p, adjusted", "rank IC", "same sign", "turnover", "gates passed"]
        blocks.append(Table(title, head, rows))
        blocks.append(Figure(f"IC with {target}", dataset_charts.plot_signals(target, features, names)))
    blocks.append(Note("Same sign: the share of the groups of time whose IC has the sign of the whole."))
    return Section("signals", "Signals", blocks)


def show_signal(feature: Report) -> list[str]:
    """Return the cells of one feature."""
    gates = feature["gates"]
    passed = [name.removeprefix("signal_") for name, gate in gates.items() if gate["passes"]]
    return [
        format_number(feature["ic"]),
        format_number(feature["ic_error"]),
        format_number(feature["ic_p_adjusted"]),
        format_number(feature["rank_ic"]),
        format_percent(feature["ic_sign_share"], digits=0),
        format_percent(feature["turnover"], digits=1),
        f"{len(passed)} of {len(gates)}" + (f": {', '.join(passed)}" if passed else ""),
    ]


def draw(title: str, drawn: Markup | str) -> Figure | Note:
    """Return a picture with its caption, or the reason why there is none."""
    return Figure(title, drawn) if isinstance(drawn, Markup) else Note(f"{title}: {drawn}.")
