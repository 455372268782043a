"""compare <dataset>: rank all models of a dataset, with intervals, pairwise tests and the statistics of overfitting."""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pipeline import artifacts, cli, config, digests
from pipeline.datasets import kinds
from pipeline.evaluation import experiments, pairwise, performance, returns, stale_outputs, voting
from pipeline.evaluation.best_members import BestMemberComparison, compare_with_best_members
from pipeline.evaluation.comparison import Comparison, TimeScale, compare_models
from pipeline.evaluation.headline import name_metrics_file, select_comparison_figures
from pipeline.evaluation.ledger import Ledger, read_lines
from pipeline.evaluation.overfitting import CscvResult
from pipeline.evaluation.population import Population
from pipeline.evaluation.returns import Returns
from pipeline.evaluation.stacking import BEST_MEMBER
from pipeline.evaluation.trials import parse_lines
from pipeline.leakage.fits import data_snooping
from pipeline.reporting import comparison_page, plots
from pipeline.row_groups import read_clean

log = logging.getLogger(__name__)

NAN = float("nan")
CURVES = ("boundary_ic", "boundary_ic_low", "boundary_ic_high", "ic")  # of the report of the stage sensitivity

Report = Mapping[str, Any]


def main(dataset: str) -> None:
    """Rank the models of a dataset and estimate how much of the ranking is overfitting."""
    params = config.load_params()
    blocks = {name: block for family in params["models"].values() for name, block in (family or {}).items()}
    stale_outputs.remove_stale_outputs(Path.cwd(), params)
    remove_other_files(blocks)
    own = [name for name, block in blocks.items() if block["dataset"] == dataset]
    loaded = {name: Returns.load(artifacts.RETURNS / f"{name}.parquet") for name in own}
    models = returns.align_models({name: found for name, found in loaded.items() if found.is_traded})
    not_traded = [name for name in own if name not in models]
    clock = kinds.import_part(params, dataset, "clock")
    clean = read_clean(dataset, clock.COLUMNS)
    instants = {name: convert_times(model, partial(clock.to_ms, clean)) for name, model in models.items()}
    scale = TimeScale(
        time_ms=next(iter(instants.values())).time if instants else np.empty(0, np.int64),
        bars_per_year=clock.count_rows_per_year(clean),
    )
    population = load_population(blocks, models)
    comparison = compare_excess(params, models, population, scale)
    sensitivity = artifacts.read_report("sensitivity", dataset)
    targets = sorted({blocks[name]["target"] for name in models})
    snooping = data_snooping(list(models), targets, trials=comparison.trials)
    reports = {name: artifacts.read_report("evaluate/details", name) for name in comparison.leaderboard}
    execution, capacity = ({name: each[key] for name, each in reports.items()} for key in ("execution", "capacity"))
    headline = make_headline(comparison, sensitivity)
    artifacts.write_report("compare", dataset, headline)
    figures_file = name_metrics_file(f"compare_{dataset}")
    artifacts.write_json(figures_file, select_comparison_figures(headline))
    findings, details = [asdict(snooping), sensitivity["finding"]], collect_details(comparison, execution)
    best_members = compare_ensembles(params, comparison)
    details |= {"findings": findings, "best_members": [asdict(each) for each in best_members]}
    artifacts.write_report("compare/details", dataset, details)
    page = comparison_page.render_page(
        dataset,
        comparison,
        sensitivity,
        execution,
        capacity,
        not_traded=not_traded,
        best_members=best_members,
    )
    artifacts.write_text(artifacts.report_path("compare", dataset).with_suffix(".md"), page)
    figures = plot_comparison(dataset, instants, comparison, sensitivity, bars_per_year=scale.bars_per_year)
    for name, figure in figures.items():
        artifacts.write_figure(artifacts.PLOTS / f"compare_{dataset}" / f"{name}.png", figure)


def remove_other_files(names: Collection[str]) -> None:
    """Remove the returns, the trials and the details of models that params do not name.

    The folders are dependencies, which DVC hashes when the stage has ended: other files there would change dvc.lock.
    """
    details = artifacts.report_path("evaluate/details", "*")
    folders = (artifacts.RETURNS / "*.parquet", artifacts.TRIALS / "*.jsonl", details)
    for file in [file for pattern in folders for file in pattern.parent.glob(pattern.name)]:
        if file.stem not in names:
            file.unlink()


def load_population(names: Iterable[str], models: Iterable[str]) -> Population:
    """Return the trials of `models`, then the others on their markets: of `names` in params, and of the ledger."""
    files = {name: artifacts.TRIALS / f"{name}.jsonl" for name in names}  # those of other datasets may be missing
    verified = [digests.verify(file) for name, file in files.items() if name in models or file.exists()]
    records = [line for file in verified for line in parse_lines(file.read_text("utf-8"), source=str(file))]
    ledger = Ledger.from_lines([*records, *read_lines(artifacts.LEDGER)])
    found = {trial.model: trial for trial in Ledger.from_lines(records).trials}
    own = {name: found[name] for name in models}
    warn_of_unknown(ledger)
    return Population(own, ledger.list_others(list(own.values())))


def warn_of_unknown(ledger: Ledger) -> None:
    """Say how many trials other runs made that are not counted, if there are any."""
    if unknown := ledger.find_unknown(experiments.find_records(Path.cwd())):
        log.warning(
            "%d trials or looks of other runs are not in %s and not counted: run "
            "`python -m pipeline.evaluation.ledger harvest`, then `dvc repro`",
            len(unknown),
            artifacts.LEDGER,
        )


def compare_excess(
    params: config.Block, models: Mapping[str, Returns], population: Population, scale: TimeScale
) -> Comparison:
    """Return the comparison of the models' returns in excess of the risk-free rate."""
    block = config.look_up(params, "performance")
    rate = config.call_with(performance.declare_rate, block=block, name="performance")
    excess = {
        name: model.take_excess(risk_free_rate=rate, bars_per_year=scale.bars_per_year)
        for name, model in models.items()
    }
    section = config.look_up(params, "compare")
    return config.call_with(compare_models, excess, population, scale, params["seed"], block=section, name="compare")


def compare_ensembles(params: config.Block, comparison: Comparison) -> list[BestMemberComparison]:
    """Return the comparison of each ensemble of the leaderboard with the best of its members."""
    ranking = list(comparison.leaderboard)
    ensembles = {name: block for name, block in (params["models"].get(voting.FAMILY) or {}).items() if name in ranking}
    return compare_with_best_members(
        ranking,
        comparison.pairs,
        {name: voting.name_members(params, name, traded=ranking) for name in ensembles},
        choosers=[name for name, block in ensembles.items() if block["plugin"] == BEST_MEMBER],
    )


def make_headline(comparison: Comparison, sensitivity: Report) -> dict[str, object]:
    """Return the metrics of the comparison and of its best model; `dvc metrics` shows some of them."""
    cscv, superiority, path_pbo = comparison.cscv, comparison.superiority, [each.pbo for each in comparison.path_pbo]
    best, row = next(iter(comparison.leaderboard.items()), (None, {}))
    reasons = [row.get("reason"), None if cscv else comparison_page.NO_PBO, *comparison.missing, sensitivity["reason"]]
    boundary_ic = [NAN] if sensitivity["reason"] else sensitivity["boundary_ic"]
    return {
        "trials": comparison.trials,
        "effective_trials": row.get("effective_trials", NAN),
        "best": best,
        **{f"best_{name}": row.get(name, NAN) for name in ("sharpe_daily", "sharpe", "psr", "dsr")},
        "pbo": cscv.pbo if cscv else NAN,
        "pbo_lowest": min(path_pbo, default=NAN),
        "pbo_highest": max(path_pbo, default=NAN),
        "degradation_slope": cscv.slope if cscv else NAN,
        "loss_probability": cscv.loss_probability if cscv else NAN,
        "spa_p_value": superiority.spa if superiority else NAN,
        "reality_check_p_value": superiority.reality_check if superiority else NAN,
        "embargo_ic_drop": boundary_ic[0] - boundary_ic[-1],
        "reason": "; ".join(str(reason) for reason in reasons if reason) or None,
    }


def collect_details(comparison: Comparison, execution: Mapping[str, Report]) -> dict[str, object]:
    """Return every metric of the comparison, and whether each model's result could have been earned."""
    superiority = comparison.superiority
    return {
        "leaderboard": {
            name: row | {"executable": execution[name]["executability"]["is_executable"]}
            for name, row in comparison.leaderboard.items()
        },
        "trials": comparison.trials,
        "effective_trials": comparison.effective_trials,
        "path_pbo": [each.pbo for each in comparison.path_pbo],
        "ledger_pbo": comparison.ledger_pbo,
        "reason": "; ".join(comparison.missing) or None,
        "superiority": asdict(superiority) if superiority else None,
        "pairs": [asdict(pair) for pair in comparison.pairs],
        "block_bars": comparison.block_bars,
    }


def plot_comparison(
    dataset: str, models: Mapping[str, Returns], comparison: Comparison, sensitivity: Report, *, bars_per_year: float
) -> dict[str, Figure]:
    """Return the plots of the comparison by file name."""
    year, ranked = np.sqrt(bars_per_year), {name: models[name] for name in comparison.leaderboard}
    sharpes = {name: model.sharpes * year for name, model in ranked.items()}
    differences = {
        (pair.a, pair.b): (pair.difference, pair.verdict != pairwise.UNDECIDED)
        for pair in comparison.pairs
        if not np.isnan(pair.difference)
    }
    equity = {name: make_equity_paths(model) for name, model in ranked.items()}
    return {
        "equity": plots.plot_equity_paths(equity, title=f"{dataset}: equity, net of costs"),
        "sharpes": plots.plot_path_sharpes(
            sharpes, comparison.intervals, title=f"{dataset}: Sharpe ratios of the paths"
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
        message = plots.plot_message(comparison_page.NO_PBO)
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
    return replace(model, time=to_ms(model.time))


def make_equity_paths(model: Returns) -> plots.EquityPaths:
    """Return a model's equity at as many bars as a plot shows."""
    shown = plots.pick_points(len(model.time))
    return plots.EquityPaths(
        time=model.time[shown],
        paths=np.stack([performance.compound_equity(path)[shown] for path in model.paths.T]),
        median_path=model.median_path,
    )


if __name__ == "__main__":
    cli.run(main)
