"""compare <dataset>: rank all models of a dataset, with intervals, pairwise tests and the statistics of overfitting."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline import artifacts, cli, config
from pipeline.datasets import kinds
from pipeline.evaluation import bootstrap, performance, returns
from pipeline.evaluation.comparison import Comparison, compare_models
from pipeline.evaluation.overfitting import CscvResult
from pipeline.evaluation.returns import Returns
from pipeline.leakage.fits import data_snooping
from pipeline.reporting import markdown, plots
from pipeline.reporting.markdown import format_interval, format_number

NAN = float("nan")
CURVES = ("boundary_ic", "boundary_ic_low", "boundary_ic_high", "ic")  # of the report of the stage sensitivity
NO_PBO = "no PBO: fewer than two models trade, there is nothing to choose from"
COLUMNS = {  # of the leaderboard's table: header by key
    "psr": "PSR",
    "dsr": "DSR",
    "dsr_effective": "DSR, effective trials",
    "excess_over_expected_max": "SR − SR₀",
    "min_track_record_bars": "MinTRL, bars",
    "holdout_sharpe": "holdout Sharpe",
    "holdout_psr": "holdout PSR",
}

Report = Mapping[str, Any]


def main(dataset: str) -> None:
    """Rank the models of a dataset and estimate how much of the ranking is overfitting."""
    params = config.load_params()
    blocks = {name: block for family in params["models"].values() for name, block in (family or {}).items()}
    remove_other_returns(blocks)
    loaded = {name: Returns.load(artifacts.RETURNS / f"{name}.parquet") for name in blocks}
    traded = {name: found for name, found in loaded.items() if found.is_traded}
    own = [name for name, block in blocks.items() if block["dataset"] == dataset]
    models = returns.align_models({name: traded[name] for name in own if name in traded})
    not_traded = [name for name in own if name not in traded]
    clock = kinds.import_part(params, dataset, "clock")
    clean = pd.read_parquet(artifacts.CLEAN / f"{dataset}.parquet", columns=clock.COLUMNS)
    bars_per_year = clock.count_rows_per_year(clean)
    block = config.look_up(params, "compare")
    comparison = config.call_with(
        compare_models,
        models,
        bars_per_year,
        len(traded),
        params["seed"],
        block=block,
        name="compare",
    )
    folder = artifacts.REPORTS / "compare"
    sensitivity = artifacts.read_json(artifacts.report_path("sensitivity", dataset))
    targets = sorted({blocks[name]["target"] for name in models})
    snooping = data_snooping(list(models), targets, trials=comparison.trials)
    artifacts.write_json(folder / f"{dataset}.json", make_headline(comparison, sensitivity))
    findings, details = [asdict(snooping), sensitivity["finding"]], collect_details(comparison)
    artifacts.write_json(folder / "details" / f"{dataset}.json", details | {"findings": findings})
    artifacts.write_text(folder / f"{dataset}.md", render_page(dataset, comparison, sensitivity, not_traded=not_traded))
    shown = {name: convert_times(model, partial(clock.to_ms, clean)) for name, model in models.items()}
    figures = plot_comparison(dataset, shown, comparison, sensitivity, bars_per_year=bars_per_year)
    for name, figure in figures.items():
        artifacts.write_figure(artifacts.PLOTS / f"compare_{dataset}" / f"{name}.png", figure)


def remove_other_returns(names: Sequence[str] | Mapping[str, Any]) -> None:
    """Remove the returns of models that params do not name.

    The folder is a dependency, which DVC hashes when the stage has ended: other files in it would change dvc.lock.
    """
    for file in artifacts.RETURNS.glob("*.parquet"):
        if file.stem not in names:
            file.unlink()


def make_headline(comparison: Comparison, sensitivity: Report) -> dict[str, object]:
    """Return the few metrics that `dvc metrics` shows."""
    cscv = comparison.cscv
    best, row = next(iter(comparison.leaderboard.items()), (None, {}))
    reasons = [row.get("reason"), None if cscv else NO_PBO, sensitivity["reason"]]
    boundary_ic = [NAN] if sensitivity["reason"] else sensitivity["boundary_ic"]
    return {
        "trials": comparison.trials,
        "effective_trials": comparison.effective_trials,
        "best": best,
        **{f"best_{name}": row.get(name, NAN) for name in ("sharpe", "psr", "dsr")},
        "pbo": cscv.pbo if cscv else NAN,
        "degradation_slope": cscv.slope if cscv else NAN,
        "loss_probability": cscv.loss_probability if cscv else NAN,
        "embargo_ic_drop": boundary_ic[0] - boundary_ic[-1],
        "reason": "; ".join(str(reason) for reason in reasons if reason) or None,
    }


def collect_details(comparison: Comparison) -> dict[str, object]:
    """Return every metric of the comparison."""
    return {
        "leaderboard": comparison.leaderboard,
        "effective_trials": comparison.effective_trials,
        "pairs": [asdict(pair) for pair in comparison.pairs],
        "block_bars": comparison.block_bars,
    }


def render_page(dataset: str, comparison: Comparison, sensitivity: Report, *, not_traded: Sequence[str] = ()) -> str:
    """Return the comparison as a page of markdown."""
    pbo = format_number(comparison.cscv.pbo if comparison.cscv else NAN)
    effective = format_number(comparison.effective_trials)
    title = f"# {dataset}: {comparison.trials} trials ({effective} effective), PBO {pbo}"
    sections = [title, render_leaderboard(comparison), render_pairs(comparison.pairs), render_sensitivity(sensitivity)]
    if not_traded:
        sections.append(f"Not traded, as their predictions have no score: {', '.join(not_traded)}.")
    return "\n\n".join(sections) + "\n"


def render_leaderboard(comparison: Comparison) -> str:
    """Return the leaderboard as a table of markdown."""
    rows = (
        [
            name,
            format_interval(row["sharpe"], row["sharpe_low"], row["sharpe_high"]),
            *(format_number(row[key]) for key in COLUMNS),
        ]
        for name, row in comparison.leaderboard.items()
    )
    bootstrapped = f"block bootstrap, mean block length {format_number(comparison.block_bars)} bars"
    note = (
        f"Sharpe: annualized, net of costs, of the median path, with its interval ({bootstrapped}). SR − SR₀: per bar, "
        "above the maximum expected of as many trials without skill."
    )
    return f"{markdown.render_table(['model', 'Sharpe', *COLUMNS.values()], rows)}\n\n{note}"


def render_pairs(pairs: Sequence[bootstrap.PairComparison]) -> str:
    """Return a list of the pairs: those with a significant difference first, then the others."""
    if not pairs:
        return "Fewer than two models trade: there is nothing to compare."
    significant = [
        f"- {pair.verdict} by {format_interval(pair.difference, pair.low, pair.high)}, "
        f"p {format_number(pair.p_adjusted)}"
        for pair in pairs
        if pair.verdict != bootstrap.UNDECIDED
    ]
    undecided = [
        f"- {bootstrap.UNDECIDED}: {pair.a} and {pair.b}" + (f" ({pair.reason})" if pair.reason else "")
        for pair in pairs
        if pair.verdict == bootstrap.UNDECIDED
    ]
    note = "Differences: mean annualized Sharpe of the paths, with the interval of each alone; p: two-sided, adjusted "
    return "\n".join([*significant, *undecided, "", f"{note}for all pairs (Holm)."])


def render_sensitivity(sensitivity: Report) -> str:
    """Return the finding about the embargo, and the ICs against the embargo as a table of markdown."""
    message = f"Embargo: {sensitivity['finding']['message']}."
    if sensitivity["reason"]:
        return message
    curves = (sensitivity[name] for name in ("embargo_factors", "embargo_bars", *CURVES))
    rows = (
        [f"{factor:g}", str(bars), format_interval(boundary_ic, low, high), format_number(ic)]
        for factor, bars, boundary_ic, low, high, ic in zip(*curves, strict=True)
    )
    head = ["embargo, × default", "bars", "IC in the last embargo length of a test range", "IC of all rows"]
    return f"{message}\n\n{markdown.render_table(head, rows)}"


def plot_comparison(
    dataset: str, models: Mapping[str, Returns], comparison: Comparison, sensitivity: Report, *, bars_per_year: float
) -> dict[str, Figure]:
    """Return the plots of the comparison by file name."""
    year, ranked = np.sqrt(bars_per_year), {name: models[name] for name in comparison.leaderboard}
    sharpes = {name: model.sharpes * year for name, model in ranked.items()}
    holdout = {name: float(performance.sharpe(model.holdout)) * year for name, model in ranked.items()}
    differences = {
        (pair.a, pair.b): (pair.difference, pair.verdict != bootstrap.UNDECIDED)
        for pair in comparison.pairs
        if not np.isnan(pair.difference)
    }
    equity = {name: make_equity_paths(model) for name, model in ranked.items()}
    return {
        "equity": plots.plot_equity_paths(equity, title=f"{dataset}: equity, net of costs"),
        "sharpes": plots.plot_path_sharpes(
            sharpes, holdout, comparison.intervals, title=f"{dataset}: Sharpe ratios of the paths"
        ),
        "pairs": plots.plot_pairs(
            list(ranked), differences, title=f"{dataset}: Sharpe of row minus column, gray where not distinguishable"
        ),
        **plot_overfitting(comparison.cscv, year=year),
        "embargo": plot_sensitivity(sensitivity),
    }


def plot_overfitting(cscv: CscvResult | None, *, year: float) -> dict[str, Figure]:
    """Return the plots of the choice in sample and its result out of sample."""
    if cscv is None:
        message = plots.plot_message(NO_PBO)
        return {"pbo_logits": message, "degradation": message}
    return {
        "pbo_logits": plots.plot_pbo_logits(cscv.logits, pbo=cscv.pbo),
        "degradation": plots.plot_degradation(
            cscv.in_sample * year,
            cscv.out_of_sample * year,
            slope=cscv.slope,
            loss_probability=cscv.loss_probability,
        ),
    }


def plot_sensitivity(sensitivity: Report) -> Figure:
    """Return the plot of the IC against the embargo; its title names a significant drop."""
    finding = sensitivity["finding"]
    if sensitivity["reason"]:
        return plots.plot_message(finding["message"])
    verdict = "no significant fall of the IC with the embargo" if finding["severity"] == "ok" else "SUSPECTED LEAKAGE"
    boundary_ic, low, high, ic = (sensitivity[name] for name in CURVES)
    return plots.plot_embargo_sensitivity(
        sensitivity["embargo_bars"], boundary_ic, (low, high), ic, title=f"{sensitivity['target']}: {verdict}"
    )


def convert_times(model: Returns, to_ms: Callable[[np.ndarray], np.ndarray]) -> Returns:
    """Return a model's returns with the instants of plots in place of the dataset's clock."""
    return replace(model, time=to_ms(model.time), holdout_time=to_ms(model.holdout_time))


def make_equity_paths(model: Returns) -> plots.EquityPaths:
    """Return a model's equity at as many bars as a plot shows."""
    shown, holdout_shown = plots.pick_points(len(model.time)), plots.pick_points(len(model.holdout))
    return plots.EquityPaths(
        time=model.time[shown],
        paths=np.stack([performance.compound_equity(path)[shown] for path in model.paths.T]),
        median_path=model.median_path,
        holdout_time=model.holdout_time[holdout_shown],
        holdout=performance.compound_equity(model.holdout)[holdout_shown],
    )


if __name__ == "__main__":
    cli.run(main)
