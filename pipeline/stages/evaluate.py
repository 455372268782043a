"""evaluate <model>: how good its out-of-sample answers are, and what trading them would have brought net of costs."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline import bars, behaviour, labels, metrics, plots, predictions, returns, scores, trading, workspace
from pipeline.behaviour import Behaviour
from pipeline.folds import Folds
from pipeline.predictions import FINAL
from pipeline.samples import aligned, contiguous, keyed

BINS = 10  # of a calibration plot


@dataclass(frozen=True)
class Truth:
    """What came true at every row of a dataset, and what trading it costs."""

    rows: pd.DataFrame  # segment, time
    clean: pd.DataFrame  # symbol, segment, open_time, close of every bar
    y: np.ndarray
    move: np.ndarray
    outputs: tuple[str, ...]
    neutral: float  # the y that is neither up nor down, nan where y is a class
    symbols: int
    bar_ms: int
    bars_per_year: float
    costs: workspace.Block


@dataclass(frozen=True)
class Part:
    """Predictions for one path or for the holdout: their scores, and the portfolio's net return bar by bar."""

    forecast: dict[str, float]
    confusion: np.ndarray  # (classes, classes) counts, true by called; of a number: below and above neutral
    trading: dict[str, float]
    reasons: dict[str, str]
    time: np.ndarray
    net: np.ndarray


@dataclass(frozen=True)
class Evaluated:
    """One set of predictions on every path and on the holdout."""

    paths: list[Part]
    holdout: Part


def main(model: str) -> None:
    """Score and backtest a model's predictions beside the baselines'."""
    blocks = workspace.params()
    block = workspace.entry(blocks, f"models.{model}")
    folds, segment = Folds.load(workspace.FOLDS / f"{block['dataset']}.parquet")
    truth = read_truth(blocks, block, keyed(segment, folds.time))
    oos = pd.read_parquet(workspace.OOS / f"{model}.parquet")
    own = evaluate(oos, truth, folds)
    simple = pd.read_parquet(workspace.BASELINES / block["dataset"] / f"{block['target']}.parquet")
    baselines = {str(name): evaluate(part, truth, folds) for name, part in simple.groupby("baseline", observed=True)}
    splits = in_and_out(pd.read_parquet(workspace.IN_SAMPLE / f"{model}.parquet"), oos, truth)
    earned = returns.table([(path.time, path.net) for path in own.paths], (own.holdout.time, own.holdout.net))
    workspace.write_table(workspace.RETURNS / f"{model}.parquet", earned)
    workspace.write_json(workspace.report("evaluate", model), headline(own, baselines["linear"], splits))
    workspace.write_json(workspace.report("evaluate/details", model), details(own, baselines, splits))
    draw(model, own, oos=oos, truth=truth, folds=folds)


def read_truth(blocks: workspace.Block, block: workspace.Block, rows: pd.DataFrame) -> Truth:
    """The truth of the target that a model block names."""
    dataset, target = block["dataset"], block["target"]
    labelled = aligned(pd.read_parquet(workspace.LABELS / dataset / f"{target}.parquet"), rows, named=target)
    clean = pd.read_parquet(workspace.CLEAN / f"{dataset}.parquet", columns=["symbol", "segment", "open_time", "close"])
    kind = workspace.entry(blocks, f"datasets.{dataset}.targets.{target}.kind")
    return Truth(
        rows=rows,
        clean=clean,
        y=labelled["y"].to_numpy(),
        move=labelled["move"].to_numpy(),
        outputs=labels.OUTPUTS[kind],
        neutral=labels.NEUTRAL[kind] if kind in labels.NEUTRAL else float("nan"),
        symbols=clean["symbol"].nunique(),
        bar_ms=bars.interval_ms(clean),
        bars_per_year=bars.bars_per_year(clean),
        costs=workspace.entry(blocks, "trading"),
    )


def evaluate(answered: pd.DataFrame, truth: Truth, folds: Folds) -> Evaluated:
    """Predictions scored and traded, path by path and on the holdout."""
    tested, rows = answered[answered["split"] != FINAL], folds.tested()
    places = predictions.on_paths(tested, paths=folds.paths, group=folds.group()[rows], rows=rows)
    return Evaluated(
        paths=[part(tested.iloc[place], truth) for place in places],
        holdout=part(answered[answered["split"] == FINAL], truth),
    )


def part(answered: pd.DataFrame, truth: Truth) -> Part:
    """Predictions in the order of their rows, scored and traded; a bar without a row, as after a hole, earns 0."""
    time, net, turnover = every_bar(*trade(answered, truth), bar_ms=truth.bar_ms)
    traded, undefined = metrics.trading_figures(net, turnover, bars_per_year=truth.bars_per_year)
    y, answer = truth.y[answered["row"]], answered[list(truth.outputs)].to_numpy(np.float64)
    if len(truth.outputs) > 1:
        forecast, reasons = scores.class_figures(y, answer, names=truth.outputs)
        counts = scores.confusion(y, answer)
    else:
        forecast, reasons = scores.forecast_figures(y, answer[:, 0], neutral=truth.neutral)
        called = answer > truth.neutral  # (n, 1)
        counts = scores.confusion((y > truth.neutral).astype(np.int64), np.hstack([~called, called]))
    return Part(forecast, counts, traded, reasons | undefined, time, net)


def every_bar(time: np.ndarray, *figures: np.ndarray, bar_ms: int) -> tuple[np.ndarray, ...]:
    """The same, with the bars between the first and the last time that have no row: nothing is held, nothing earned."""
    place = (time - time[0]) // bar_ms
    bars_in_all = place[-1] + 1
    filled = np.zeros((len(figures), bars_in_all))
    filled[:, place] = figures
    return time[0] + bar_ms * np.arange(bars_in_all), *filled


def trade(answered: pd.DataFrame, truth: Truth) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct times, and at each the portfolio's net return and turnover."""
    result = backtested(answered, truth)
    time = truth.rows["time"].to_numpy()[answered["row"]]
    times, net = trading.portfolio(time, result.net, symbols=truth.symbols)
    return times, net, trading.portfolio(time, result.turnover, symbols=truth.symbols)[1]


def backtested(answered: pd.DataFrame, truth: Truth) -> trading.Backtest:
    """What trading the score of each row brought, every symbol with a capital of its own."""
    rows = answered["row"].to_numpy()
    segment, score = contiguous(truth.rows.iloc[rows]), answered["score"].to_numpy()
    return workspace.feed(trading.backtest, score, segment, truth.move[rows], block=truth.costs, named="trading")


def behaved(answered: pd.DataFrame, truth: Truth) -> tuple[str, Behaviour]:
    """The first symbol among answered rows, and what was done with it; in a hole its last price stands."""
    symbol_of = truth.clean.drop_duplicates("segment").set_index("segment")["symbol"]
    symbols = symbol_of.loc[truth.rows["segment"].to_numpy()[answered["row"]]].to_numpy()
    own, prices = answered[symbols == symbols[0]], truth.clean[truth.clean["symbol"] == symbols[0]]
    result, times = backtested(own, truth), truth.rows["time"].to_numpy()[own["row"]]
    time, net, position = every_bar(times, result.net, result.position, bar_ms=truth.bar_ms)
    instants = np.append(time, time[-1] + truth.bar_ms)
    price = prices.set_index("open_time")["close"].reindex(instants, method="ffill").to_numpy()
    return symbols[0], Behaviour.of(instants, price=price, position=position, net=net)


def in_and_out(in_sample: pd.DataFrame, oos: pd.DataFrame, truth: Truth) -> pd.DataFrame:
    """The annualised net Sharpe of every split on its own train rows and on its test rows."""
    sharpes = {
        name: {
            split: metrics.sharpe(trade(rows, truth)[1], bars_per_year=truth.bars_per_year)
            for split, rows in answered[answered["split"] != FINAL].groupby("split")
        }
        for name, answered in (("in_sample", in_sample), ("out_of_sample", oos))
    }
    return pd.DataFrame(sharpes)


def headline(own: Evaluated, linear: Evaluated, splits: pd.DataFrame) -> dict[str, object]:
    """The dozen figures that `dvc metrics` shows; those of trading are of the paths that trade."""
    sharpes = np.array([part.trading["sharpe"] for part in own.paths])
    hit = "accuracy" if "accuracy" in own.paths[0].forecast else "directional_accuracy"
    return {
        "ic": mean(own, "ic"),
        "rank_ic": mean(own, "rank_ic"),
        "hit": mean(own, hit),
        "ic_over_linear": mean(own, "ic") - mean(linear, "ic"),
        "sharpe": float(sharpes[metrics.median_path(sharpes)]),
        "sharpe_worst": float(np.sort(sharpes)[0]),
        "sharpe_spread": float(np.nanstd(sharpes, ddof=1)) if np.isfinite(sharpes).sum() > 1 else float("nan"),
        "sharpe_in_over_out": in_over_out(splits)[0],
        "turnover": float(np.mean([part.trading["turnover"] for part in own.paths])),
        "holdout": {
            "ic": own.holdout.forecast["ic"],
            "sharpe": own.holdout.trading["sharpe"],
            "max_drawdown": own.holdout.trading["max_drawdown"],
            "net_return": own.holdout.trading["net_return"],
        },
        "why": why(own, splits) or None,
    }


def why(own: Evaluated, splits: pd.DataFrame) -> str:
    """Why figures of the headline are undefined, where some are."""
    parts = [*((f"path {path}", part) for path, part in enumerate(own.paths)), ("holdout", own.holdout)]
    reasons = [f"{name}: no {figure}, {part.reasons[figure]}" for name, part in parts for figure in part.reasons]
    if np.isfinite([part.trading["sharpe"] for part in own.paths]).sum() < 2:
        reasons.append("no sharpe_spread, fewer than two paths trade")
    if ratio := in_over_out(splits)[1]:
        reasons.append(f"no sharpe_in_over_out, {ratio}")
    return "; ".join(reasons)


def mean(evaluated: Evaluated, name: str) -> float:
    """A forecast figure's mean over the paths."""
    return float(np.mean([part.forecast[name] for part in evaluated.paths]))


def in_over_out(splits: pd.DataFrame) -> tuple[float, str | None]:
    """How many times better the mean Sharpe of the splits is in sample than out of it."""
    inside, outside = splits["in_sample"].mean(skipna=False), splits["out_of_sample"].mean(skipna=False)
    if np.isnan(inside) or np.isnan(outside):
        return float("nan"), "a split never trades"
    if outside <= 0:
        return float("nan"), f"out of sample the mean Sharpe is not positive: {outside:.3g}"
    return float(inside / outside), None


def details(own: Evaluated, baselines: dict[str, Evaluated], splits: pd.DataFrame) -> dict[str, object]:
    """Every figure of the model, of every path, of the holdout and of the baselines; nan with its reason."""
    ratio, reason = in_over_out(splits)
    overfit = {"in_over_out": ratio, "reason": reason, "splits": splits.to_dict("list")}
    return {
        "model": parts(own),
        "baselines": {name: parts(evaluated) for name, evaluated in baselines.items()},
        "sharpe_in_sample_and_out": overfit,
    }


def parts(evaluated: Evaluated) -> dict[str, object]:
    """The figures of each path and of the holdout."""
    return {"paths": [figures(part) for part in evaluated.paths], "holdout": figures(evaluated.holdout)}


def figures(part: Part) -> dict[str, object]:
    """All the figures of a part, and why some are undefined."""
    counts = {"bars": len(part.net), "confusion": part.confusion}
    return {**counts, **part.forecast, **part.trading, "undefined": part.reasons}


def draw(model: str, own: Evaluated, *, oos: pd.DataFrame, truth: Truth, folds: Folds) -> None:
    """The plots of an evaluated model are in their places; calibration and confusion are those of the first path."""
    folder, first, held = workspace.PLOTS / model, own.paths[0], own.holdout
    equity = plots.equity(
        first.time,
        np.stack([metrics.equity(part.net) for part in own.paths]),
        holdout_time=held.time,
        holdout=metrics.equity(held.net),
        title=f"{model}: equity net of costs",
    )
    names = truth.outputs if len(truth.outputs) > 1 else ("down", "up")
    called = plots.confusion(first.confusion, names, title=f"{model}: called against true")
    tested, rows = oos[oos["split"] != FINAL], folds.tested()
    place = predictions.on_paths(tested, paths=folds.paths[:1], group=folds.group()[rows], rows=rows)[0]
    answer, y = tested.iloc[place][list(truth.outputs)].to_numpy(np.float64), truth.y[rows]
    true = y[:, None] if len(truth.outputs) == 1 else y[:, None] == np.arange(len(truth.outputs))  # (n, outputs)
    curves = {name: binned(answer[:, i], true[:, i]) for i, name in enumerate(truth.outputs)}
    unit = "probability" if len(truth.outputs) > 1 else truth.outputs[0]
    workspace.write_figure(folder / "equity.png", equity)
    workspace.write_figure(folder / "confusion.png", called)
    workspace.write_figure(
        folder / "calibration.png", plots.calibration(curves, title=f"{model}: calibration", unit=unit)
    )
    symbol, shown = behaved(oos[oos["split"] == FINAL], truth)
    done = behaviour.figure(shown, title=f"{model} on the holdout, {symbol}")
    workspace.write_figure(folder / "behaviour.png", done)


def binned(predicted: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean predicted, mean true and its standard error, in bins of equally many rows by prediction."""
    order = np.array_split(np.argsort(predicted, kind="stable"), BINS)
    cells = [np.asarray(true[rows], np.float64) for rows in order if len(rows)]
    errors = [cell.std() / np.sqrt(len(cell)) for cell in cells]
    return (
        np.array([predicted[rows].mean() for rows in order if len(rows)]),
        np.array([cell.mean() for cell in cells]),
        np.array(errors),
    )


if __name__ == "__main__":
    workspace.run(main)
