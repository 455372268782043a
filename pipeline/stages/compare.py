"""compare <dataset>: all models side by side, how sure their order is, and what luck alone would have shown."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline import bars, bootstrap, metrics, overfitting, pages, plots, returns, workspace
from pipeline.leakage.fits import data_snooping
from pipeline.pages import between, shown
from pipeline.returns import Returns

NAN = float("nan")
CURVES = ("edge_ic", "edge_ic_low", "edge_ic_high", "ic")  # of the report of the stage probe
NO_PBO = "no PBO: fewer than two models trade, there is nothing to choose from"


@dataclass(frozen=True)
class Comparison:
    """The leaderboard, best first, and how much of its order is luck."""

    board: dict[str, dict[str, object]]
    overfit: overfitting.Overfitting | None  # of the choice among the models that trade; None with fewer than two
    intervals: dict[str, tuple[float, float]]  # of the annualised Sharpe of the median path, of the models that trade
    pairs: list[bootstrap.Pair]  # of the models that trade, annualised, the better first
    block_bars: float
    trials: int
    effective_trials: float


def main(dataset: str) -> None:
    """Rank the models of a dataset and say how much of the ranking is overfitting."""
    blocks = workspace.params()
    names = [name for name, block in blocks["models"].items() if block["dataset"] == dataset]
    forget_others(list(blocks["models"]))
    models = returns.aligned({name: Returns.load(workspace.RETURNS / f"{name}.parquet") for name in names})
    clean = pd.read_parquet(workspace.CLEAN / f"{dataset}.parquet", columns=["symbol", "open_time"])
    bars_per_year = bars.bars_per_year(clean)
    tried, block = len(blocks["models"]), workspace.entry(blocks, "compare")
    report = workspace.feed(compared, models, bars_per_year, tried, blocks["seed"], block=block, named="compare")
    folder = workspace.REPORTS / "compare"
    probed = workspace.read_json(workspace.report("probe", dataset))
    snooping = data_snooping(names, sorted({blocks["models"][name]["target"] for name in names}), trials=report.trials)
    workspace.write_json(folder / f"{dataset}.json", headline(report, probed))
    guards = [asdict(snooping), probed["guard"]]
    workspace.write_json(folder / "details" / f"{dataset}.json", details(report) | {"guards": guards})
    workspace.write_text(folder / f"{dataset}.md", markdown(dataset, report, probed))
    draw(dataset, models, report, probed, bars_per_year=bars_per_year)


def forget_others(names: list[str]) -> None:
    """The returns of models that params no longer name are gone.

    The folder is a dependency, which DVC hashes when the stage is over: what else lay there would change dvc.lock.
    """
    for file in workspace.RETURNS.glob("*.parquet"):
        if file.stem not in names:
            file.unlink()


def compared(
    models: Mapping[str, Returns],
    bars_per_year: float,
    tried: int,
    seed: int,
    *,
    blocks: int,
    confidence: float,
    resamples: int,
    earlier_trials: int,
) -> Comparison:
    """The models ranked, each two compared, and PBO over the mean of each model's paths, so that every bar counts once.

    A model that never trades is left out of PBO: it would rank last and lend a rank to all that lose. Among the trials
    it counts in full, as do those whose returns are not known: `tried` is how many models params name, of whatever
    dataset; `earlier_trials` how many were thrown away before them.
    """
    if earlier_trials < 0:
        raise ValueError(f"compare.earlier_trials is {earlier_trials}; it counts trials: give 0 or more")
    trades = [name for name, model in models.items() if model.paths.any()]
    sure = bootstrap.certainty(
        {name: models[name].paths for name in trades},
        {name: models[name].median for name in trades},
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )
    year = float(np.sqrt(bars_per_year))
    intervals = {name: (low * year, high * year) for name, (low, high) in sure.intervals.items()}
    means = np.array([models[name].paths.mean(axis=1) for name in trades]).T  # (T, models)
    known = overfitting.effective_trials(overfitting.correlation(means)) if trades else 0.0
    trials = {"dsr": float(tried + earlier_trials), "dsr_effective": tried + earlier_trials - len(trades) + known}
    return Comparison(
        board=leaderboard(models, intervals, bars_per_year=bars_per_year, trials=trials, confidence=confidence),
        overfit=overfitting.pbo(means, blocks=blocks) if len(trades) > 1 else None,
        intervals=intervals,
        pairs=[better_first(pair, year=year) for pair in sure.pairs],
        block_bars=sure.block_bars,
        trials=tried + earlier_trials,
        effective_trials=trials["dsr_effective"],
    )


def better_first(pair: bootstrap.Pair, *, year: float) -> bootstrap.Pair:
    """The pair the other way round if its difference is negative, and annualised."""
    difference, low, high = pair.difference * year, pair.low * year, pair.high * year
    if difference < 0:
        return replace(pair, a=pair.b, b=pair.a, difference=-difference, low=-high, high=-low)
    return replace(pair, difference=difference, low=low, high=high)


def leaderboard(
    models: Mapping[str, Returns],
    intervals: Mapping[str, tuple[float, float]],
    *,
    bars_per_year: float,
    trials: Mapping[str, float],
    confidence: float,
) -> dict[str, dict[str, object]]:
    """Every model's figures, the best median Sharpe first, models that never trade last.

    `trials` says for each deflated figure by how many trials.
    """
    moments = {name: overfitting.sharpe_moments(model.paths[:, model.median]) for name, model in models.items()}
    ratios = np.array([moment["sharpe"] for moment in moments.values()])
    variance = float(np.nanvar(ratios, ddof=1)) if np.isfinite(ratios).sum() > 1 else NAN
    year = np.sqrt(bars_per_year)
    rows: dict[str, dict[str, object]] = {}
    for at in np.argsort(-ratios, kind="stable"):  # nan stands last
        name = list(models)[at]
        low, high = intervals.get(name, (NAN, NAN))  # annualised
        worth = overfitting.standing(moments[name], variance=variance, trials=trials, confidence=confidence)
        rows[name] = {
            **{("sharpe_per_bar" if key == "sharpe" else key): value for key, value in moments[name].items()},
            **worth,
            "why": undefined(ratios[at], is_deflated=not np.isnan(worth["dsr"]), is_sure=not np.isnan(low)),
            "sharpe": ratios[at] * year,
            "sharpe_low": low,
            "sharpe_high": high,
            "min_backtest_years": backtest_years(ratios[at] * year, trials=trials["dsr"]),
            "sharpe_of_paths": models[name].sharpes * year,
            **holdout_standing(models[name].holdout, bars_per_year=bars_per_year, confidence=confidence),
        }
    return rows


def undefined(ratio: float, *, is_deflated: bool, is_sure: bool) -> str | None:
    """Why a model's figures are null; None where none is."""
    if np.isnan(ratio):
        return "no trade"
    whys = [
        None if ratio > 0 else "no track record proves a Sharpe that is not positive",
        None if is_deflated else "one trading model tells no variance across trials",
        None if is_sure else "no interval: too few trades, many resamples have none",
    ]
    return "; ".join(why for why in whys if why) or None


def backtest_years(sharpe: float, *, trials: float) -> float:
    """MinBTL of an annual Sharpe; nan where it is undefined or not positive."""
    return NAN if np.isnan(sharpe) else overfitting.min_backtest_years(sharpe, trials=trials)


def holdout_standing(net: np.ndarray, *, bars_per_year: float, confidence: float) -> dict[str, float]:
    """The holdout's annualised Sharpe and the probability that the true one is positive; nan where it never trades."""
    moments = overfitting.sharpe_moments(net)
    worth = overfitting.standing(moments, variance=NAN, trials={}, confidence=confidence)
    return {"holdout_sharpe": moments["sharpe"] * np.sqrt(bars_per_year), "holdout_psr": worth["psr"]}


def headline(report: Comparison, probed: Mapping[str, Any]) -> dict[str, object]:
    """The few figures that `dvc metrics` shows; `probed` is the report of the stage probe."""
    overfit = report.overfit
    best, figures = next(iter(report.board.items()), (None, {}))
    why = [figures.get("why"), None if overfit else NO_PBO, probed["why"]]
    return {
        "trials": report.trials,
        "effective_trials": report.effective_trials,
        "best": best,
        **{f"best_{name}": figures.get(name, NAN) for name in ("sharpe", "psr", "dsr")},
        "pbo": overfit.pbo if overfit else NAN,
        "degradation_slope": overfit.slope if overfit else NAN,
        "loss_probability": overfit.loss_probability if overfit else NAN,
        "embargo_fall": NAN if probed["why"] else probed["edge_ic"][0] - probed["edge_ic"][-1],
        "why": "; ".join(str(reason) for reason in why if reason) or None,
    }


def details(report: Comparison) -> dict[str, object]:
    """Every figure of the comparison."""
    return {
        "leaderboard": report.board,
        "effective_trials": report.effective_trials,
        "pairs": [asdict(pair) for pair in report.pairs],
        "block_bars": report.block_bars,
    }


def markdown(dataset: str, report: Comparison, probed: Mapping[str, Any]) -> str:
    """The comparison as a page that a code host renders."""
    pbo = shown(report.overfit.pbo if report.overfit else NAN)
    title = f"# {dataset}: {report.trials} trials ({shown(report.effective_trials)} effective), PBO {pbo}"
    return "\n\n".join([title, table(report), verdicts(report), sensitivity(probed)]) + "\n"


def table(report: Comparison) -> str:
    """The leaderboard."""
    figures = ("psr", "dsr", "dsr_effective", "haircut", "min_track_record_bars", "holdout_sharpe", "holdout_psr")
    rows = (
        [name, between(row["sharpe"], row["sharpe_low"], row["sharpe_high"]), *(shown(row[key]) for key in figures)]
        for name, row in report.board.items()
    )
    blocks = f"block bootstrap, blocks of {shown(report.block_bars)} bars in the mean"
    note = f"Sharpe: annualised, net of costs, of the median path, with its interval ({blocks}); haircut: per bar."
    return f"{pages.table(['model', 'sharpe', *figures], rows)}\n\n{note}"


def verdicts(report: Comparison) -> str:
    """Of which two models it is known which is better, and of which it is not."""
    if not report.pairs:
        return "Fewer than two models trade: there is nothing to tell apart."
    known = [
        f"- {pair.verdict} by {between(pair.difference, pair.low, pair.high)}, p {shown(pair.p_adjusted)}"
        for pair in report.pairs
        if pair.verdict != bootstrap.UNDECIDED
    ]
    unknown = [
        f"- {bootstrap.UNDECIDED}: {pair.a} and {pair.b}" + (f" ({pair.why})" if pair.why else "")
        for pair in report.pairs
        if pair.verdict == bootstrap.UNDECIDED
    ]
    note = "By: in mean annualised Sharpe of the paths, each interval by itself; p: two-sided, among all pairs (Holm)."
    return "\n".join([*known, *unknown, "", note])


def sensitivity(probed: Mapping[str, Any]) -> str:
    """The score against the embargo, and what its guard makes of it."""
    message = f"Embargo: {probed['guard']['message']}."
    if probed["why"]:
        return message
    figures = zip(probed["factors"], probed["embargo_bars"], *(probed[name] for name in CURVES), strict=True)
    rows = (
        [f"{factor:g}", str(bars), between(near, low, high), shown(every)]
        for factor, bars, near, low, high, every in figures
    )
    head = ["embargo, × default", "bars", "IC before a test's end", "IC of all rows"]
    return f"{message}\n\n{pages.table(head, rows)}"


def draw(
    dataset: str, models: Mapping[str, Returns], report: Comparison, probed: Mapping[str, Any], *, bars_per_year: float
) -> None:
    """The plots of the comparison are in their places."""
    year, ranked = np.sqrt(bars_per_year), {name: models[name] for name in report.board}
    sharpes = {name: model.sharpes * year for name, model in ranked.items()}
    held = {name: float(metrics.sharpe(model.holdout)) * year for name, model in ranked.items()}
    differences = {
        (pair.a, pair.b): (pair.difference, pair.verdict != bootstrap.UNDECIDED)
        for pair in report.pairs
        if not np.isnan(pair.difference)
    }
    figures = {
        "equity": plots.equity_fans(
            {name: fan(model) for name, model in ranked.items()}, title=f"{dataset}: equity net of costs"
        ),
        "sharpes": plots.path_sharpes(sharpes, held, report.intervals, title=f"{dataset}: models"),
        "pairs": plots.pairs(
            list(ranked), differences, title=f"{dataset}: Sharpe of row over column, grey where not distinguishable"
        ),
        **choice(report.overfit, year=year),
        "embargo": embargo(probed),
    }
    for name, figure in figures.items():
        workspace.write_figure(workspace.PLOTS / f"compare_{dataset}" / f"{name}.png", figure)


def choice(overfit: overfitting.Overfitting | None, *, year: float) -> dict[str, Figure]:
    """The pictures of how the model chosen in sample did out of it."""
    if overfit is None:
        absent = plots.nothing(NO_PBO)
        return {"pbo_logits": absent, "degradation": absent}
    return {
        "pbo_logits": plots.pbo_logits(overfit.logits, pbo=overfit.pbo),
        "degradation": plots.degradation(
            overfit.in_sample * year,
            overfit.out_of_sample * year,
            slope=overfit.slope,
            loss_probability=overfit.loss_probability,
        ),
    }


def embargo(probed: Mapping[str, Any]) -> Figure:
    """The picture of the score against the embargo; a fall that is no chance is named in its title."""
    guard = probed["guard"]
    if probed["why"]:
        return plots.nothing(guard["message"])
    verdict = "the score does not fall with the embargo" if guard["severity"] == "ok" else "SUSPECTED LEAKAGE"
    near, low, high, every = (probed[name] for name in CURVES)
    return plots.embargo(probed["embargo_bars"], near, (low, high), every, title=f"{probed['target']}: {verdict}")


def fan(model: Returns) -> plots.Fan:
    """A model's equity, as many bars of it as a picture shows."""
    shown, later = plots.places(len(model.time)), plots.places(len(model.holdout))
    return plots.Fan(
        time=model.time[shown],
        paths=np.stack([metrics.equity(path)[shown] for path in model.paths.T]),
        median=model.median,
        holdout_time=model.holdout_time[later],
        holdout=metrics.equity(model.holdout)[later],
    )


if __name__ == "__main__":
    workspace.run(main)
