"""compare <dataset>: all models side by side, and what luck alone would have shown: PBO, PSR, DSR, MinTRL."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from pipeline import bars, metrics, overfitting, plots, workspace
from pipeline.leakage.fits import data_snooping
from pipeline.predictions import HOLDOUT

NAN = float("nan")


@dataclass(frozen=True)
class Returns:
    """A model's net returns by time: on every path of the development part, and on the holdout."""

    paths: np.ndarray  # (T, paths)
    holdout: np.ndarray  # (H,)

    @property
    def sharpes(self) -> np.ndarray:
        """(paths,) Sharpe ratios per bar; nan for a path that never trades."""
        return np.asarray(metrics.sharpe(self.paths))

    @property
    def median_path(self) -> np.ndarray:
        """(T,) the returns of the path with the median Sharpe.

        One path: the mean of several is steadier than anything that one model trades.
        """
        return self.paths[:, metrics.median_path(self.sharpes)]


@dataclass(frozen=True)
class Comparison:
    """The leaderboard, best first, and what cross-validating the choice among its models showed."""

    board: dict[str, dict[str, object]]
    overfit: overfitting.Overfitting | None
    trials: int


def main(dataset: str) -> None:
    """Rank the models of a dataset and say how much of the ranking is overfitting."""
    blocks = workspace.params()
    names = [name for name, block in blocks["models"].items() if block["dataset"] == dataset]
    forget_others(list(blocks["models"]))
    models = {name: read(name) for name in names}
    clean = pd.read_parquet(workspace.CLEAN / f"{dataset}.parquet", columns=["symbol", "open_time"])
    bars_per_year = bars.bars_per_year(clean)
    tried, block = len(blocks["models"]), workspace.entry(blocks, "compare")
    report = workspace.feed(compared, models, bars_per_year, tried, block=block, named="compare")
    folder = workspace.REPORTS / "compare"
    workspace.write_json(folder / f"{dataset}.json", headline(report))
    snooping = data_snooping(names, sorted({blocks["models"][name]["target"] for name in names}), trials=report.trials)
    workspace.write_json(
        folder / "details" / f"{dataset}.json", {"leaderboard": report.board, "guards": [asdict(snooping)]}
    )
    workspace.write_text(folder / f"{dataset}.md", markdown(dataset, report))
    draw(dataset, models, report, bars_per_year=bars_per_year)


def forget_others(names: list[str]) -> None:
    """The returns of models that params no longer name are gone.

    The folder is a dependency, which DVC hashes when the stage is over: what else lay there would change dvc.lock.
    """
    for file in workspace.RETURNS.glob("*.parquet"):
        if file.stem not in names:
            file.unlink()


def read(model: str) -> Returns:
    """The net returns that evaluate wrote for a model."""
    table = pd.read_parquet(workspace.RETURNS / f"{model}.parquet")
    paths = table[table["path"] != HOLDOUT].pivot(index="time", columns="path", values="net")
    return Returns(paths.to_numpy(), table.loc[table["path"] == HOLDOUT, "net"].to_numpy())


def compared(
    models: Mapping[str, Returns],
    bars_per_year: float,
    tried: int,
    *,
    blocks: int,
    confidence: float,
    earlier_trials: int,
) -> Comparison:
    """The models ranked, and PBO over the mean of each model's paths, so that every bar counts once.

    A model that never trades is left out of PBO: it would rank last and lend a rank to all that lose.
    `tried` is how many models params name, of whatever dataset; `earlier_trials` how many were thrown away before them.
    """
    if earlier_trials < 0:
        raise ValueError(f"compare.earlier_trials is {earlier_trials}; it counts trials: give 0 or more")
    trials = tried + earlier_trials
    chosen_from = [model.paths.mean(axis=1) for model in models.values() if model.paths.any()]
    return Comparison(
        board=leaderboard(models, bars_per_year=bars_per_year, trials=trials, confidence=confidence),
        overfit=overfitting.pbo(np.column_stack(chosen_from), blocks=blocks) if len(chosen_from) > 1 else None,
        trials=trials,
    )


def leaderboard(
    models: Mapping[str, Returns], *, bars_per_year: float, trials: int, confidence: float
) -> dict[str, dict[str, object]]:
    """Every model's figures, the best median Sharpe first, models that never trade last."""
    moments = {name: overfitting.sharpe_moments(model.median_path) for name, model in models.items()}
    ratios = np.array([moment["sharpe"] for moment in moments.values()])
    variance = float(np.nanvar(ratios, ddof=1)) if np.isfinite(ratios).sum() > 1 else NAN
    rows: dict[str, dict[str, object]] = {}
    for at in np.argsort(-ratios, kind="stable"):  # nan stands last
        name = list(models)[at]
        rows[name] = {
            **standing(moments[name], variance=variance, trials=trials, confidence=confidence),
            "sharpe": ratios[at] * np.sqrt(bars_per_year),
            "min_backtest_years": backtest_years(ratios[at] * np.sqrt(bars_per_year), trials=trials),
            "sharpe_of_paths": models[name].sharpes * np.sqrt(bars_per_year),
            **holdout_standing(models[name].holdout, bars_per_year=bars_per_year),
        }
    return rows


def standing(moments: dict[str, float], *, variance: float, trials: int, confidence: float) -> dict[str, object]:
    """What the Sharpe of one path is worth, per bar, given how many were tried and how they vary."""
    moments = {("sharpe_per_bar" if name == "sharpe" else name): value for name, value in moments.items()}
    if np.isnan(moments["sharpe_per_bar"]):
        return {**moments, "psr": NAN, "dsr": NAN, "haircut": NAN, "min_track_record_bars": NAN, "why": "no trade"}
    ratio, n = moments["sharpe_per_bar"], moments["n"]
    shape = {"skew": moments["skew"], "kurtosis": moments["kurtosis"]}
    known = trials == 1 or not np.isnan(variance)
    luck = overfitting.expected_max_sharpe(variance=0.0 if trials == 1 else variance, trials=trials) if known else NAN
    return {
        **moments,
        "psr": overfitting.probabilistic_sharpe(ratio, n=n, **shape),
        "dsr": overfitting.probabilistic_sharpe(ratio, n=n, **shape, benchmark=luck) if known else NAN,
        "haircut": ratio - luck,
        "min_track_record_bars": overfitting.min_track_record(ratio, **shape, benchmark=0.0, confidence=confidence),
        "why": undefined(ratio, known=known),
    }


def undefined(ratio: float, *, known: bool) -> str | None:
    """Why a figure of a model that trades is null; None where none is."""
    whys = [] if ratio > 0 else ["no track record proves a Sharpe that is not positive"]
    return "; ".join(whys if known else [*whys, "one trading model tells no variance across trials"]) or None


def backtest_years(sharpe: float, *, trials: int) -> float:
    """MinBTL of an annual Sharpe; nan where it is undefined or not positive."""
    return NAN if np.isnan(sharpe) else overfitting.min_backtest_years(sharpe, trials=trials)


def holdout_standing(returns: np.ndarray, *, bars_per_year: float) -> dict[str, float]:
    """The holdout's annualised Sharpe and the probability that the true one is positive; nan where it never trades."""
    moments = overfitting.sharpe_moments(returns)
    ratio, n, skew, kurtosis = (moments[name] for name in ("sharpe", "n", "skew", "kurtosis"))
    traded = not np.isnan(ratio)
    psr = overfitting.probabilistic_sharpe(ratio, n=n, skew=skew, kurtosis=kurtosis) if traded else NAN
    return {"holdout_sharpe": ratio * np.sqrt(bars_per_year), "holdout_psr": psr}


def headline(report: Comparison) -> dict[str, object]:
    """The few figures that `dvc metrics` shows."""
    overfit = report.overfit
    best, figures = next(iter(report.board.items()), (None, {}))
    why = [
        figures.get("why"),
        None if overfit else "no PBO: fewer than two models trade, there is nothing to choose from",
    ]
    return {
        "trials": report.trials,
        "best": best,
        **{f"best_{name}": figures.get(name, NAN) for name in ("sharpe", "psr", "dsr")},
        "pbo": overfit.pbo if overfit else NAN,
        "degradation_slope": overfit.slope if overfit else NAN,
        "loss_probability": overfit.loss_probability if overfit else NAN,
        "why": "; ".join(str(reason) for reason in why if reason) or None,
    }


def markdown(dataset: str, report: Comparison) -> str:
    """The leaderboard as a table that a code host renders."""
    figures = ("sharpe", "psr", "dsr", "haircut", "min_track_record_bars")
    lines = [
        f"# {dataset}: {report.trials} trials, PBO {shown(report.overfit.pbo if report.overfit else NAN)}\n",
        f"| model | {' | '.join(figures)} | holdout sharpe | holdout psr |",
        "|---" * (len(figures) + 3) + "|",
    ]
    for name, row in report.board.items():
        cells = [row[figure] for figure in (*figures, "holdout_sharpe", "holdout_psr")]
        lines.append(f"| {name} | {' | '.join(shown(cell) for cell in cells)} |")
    return "\n".join([*lines, "", "Sharpe: annualised, net of costs, of the median path; haircut: per bar.", ""])


def shown(value: object) -> str:
    """Four significant digits, or a dash where undefined."""
    return "–" if not isinstance(value, float | np.floating) or np.isnan(value) else f"{value:.4g}"


def draw(dataset: str, models: Mapping[str, Returns], report: Comparison, *, bars_per_year: float) -> None:
    """The plots of the comparison are in their places."""
    folder, year = workspace.PLOTS / f"compare_{dataset}", np.sqrt(bars_per_year)
    sharpes = {name: models[name].sharpes * year for name in report.board}
    held = {name: float(metrics.sharpe(models[name].holdout)) * year for name in report.board}
    workspace.write_figure(folder / "sharpes.png", plots.path_sharpes(sharpes, held, title=f"{dataset}: models"))
    chosen, absent = report.overfit, plots.nothing("no PBO: fewer than two models trade")
    logits = plots.pbo_logits(chosen.logits, pbo=chosen.pbo) if chosen else absent
    workspace.write_figure(folder / "pbo_logits.png", logits)
    degraded = (
        plots.degradation(chosen.in_sample * year, chosen.out_of_sample * year, slope=chosen.slope)
        if chosen
        else absent
    )
    workspace.write_figure(folder / "degradation.png", degraded)


if __name__ == "__main__":
    workspace.run(main)
