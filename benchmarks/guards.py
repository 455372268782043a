"""Seconds and memory of every guard: `python benchmarks/guards.py [rows ...]`, by default of 90 days and of a year.

The market is simulated, in one-minute bars; features, targets and folds are those of params.yaml. Memory is the most
that a guard holds at a time besides what it is given, traced in a run of its own, for tracing slows compiled code.
"""

import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from pipeline import bars as klines
from pipeline import folds, labels
from pipeline.features import engine
from pipeline.leakage.features import feature_target, look_ahead, truncation
from pipeline.leakage.findings import Finding
from pipeline.leakage.fits import fit_rows, row_order, unseen_rows
from pipeline.leakage.folds import duplicates, embargo, label_overlap, temporal_order
from pipeline.leakage.labels import known_at, label_end
from pipeline.leakage.segments import segments, windows
from pipeline.samples import Samples, contiguous, keyed
from pipeline.sources import simulated

PARAMS = yaml.safe_load((Path(__file__).resolve().parents[1] / "params.yaml").read_text())
DATASET = PARAMS["datasets"]["klines"]
SCHEME = {"groups": 6, "test_groups": 2, "embargo_pct": 0.01, "holdout_pct": 0.15}
SIZES, CUTS, SEED, DAY_BARS = [129_600, 525_600], 24, 1, 1_440
LIMITS = {"ratio": 0.6, "floor": 0.5}

Questions = Iterator[tuple[str, Callable[[], Finding]]]


def market(rows: int) -> pd.DataFrame:
    """A clean simulated table of at least `rows` bars, cut to them."""
    days = -(-rows // DAY_BARS)
    raw = simulated.load(
        symbols=["BTCUSDT"], interval="1m", start="2000-01-01", days=days, signal=0.05, predictor="flow", seed=SEED
    )
    return klines.clean(raw.iloc[:rows])[0]


def learnt(bars: pd.DataFrame) -> tuple[Samples, np.ndarray]:
    """The samples of the first target, and the positions of their bars."""
    features = engine.compute(bars, **DATASET["features"])
    table = labels.build(bars, next(iter(DATASET["targets"].values()))).table
    rows, in_x, in_y = np.intersect1d(features.rows, table["row"], assume_unique=True, return_indices=True)
    part = table.iloc[in_y]
    samples = Samples(
        time=part["time"].to_numpy(),
        label_end=part["label_end"].to_numpy(),
        segment=part["segment"].to_numpy(),
        x=np.ascontiguousarray(features.x[in_x]),
        columns=features.columns,
        y=part["y"].to_numpy(),
        move=part["move"].to_numpy(),
    )
    return samples, rows


def of_bars(bars: pd.DataFrame) -> Questions:
    """The guards that compute anew."""
    target, block = next(iter(DATASET["targets"].items()))
    table = labels.build(bars, block).table

    def recompute(other: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        features = engine.compute(other, **DATASET["features"])
        return features.rows, features.x

    def relabel(other: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        again = labels.build(other, block).table
        return again["row"].to_numpy(), again["y"].to_numpy(), again["label_end"].to_numpy()

    known, columns = recompute(bars), tuple(engine.Stream(**DATASET["features"]).layout.columns)
    names = [column.name for column in columns]
    yield "truncation", lambda: truncation(bars, recompute, known, names, cuts=CUTS, seed=SEED)
    yield "label_end", lambda: label_end(bars, relabel, target, cuts=CUTS, seed=SEED)
    given = [table[name].to_numpy() for name in ("row", "label_end", "move")]
    yield "known_at", lambda: known_at(bars, *given)


def of_samples(bars: pd.DataFrame, samples: Samples) -> Questions:
    """The guards of columns and of segments."""
    x, columns, move, segment, y = samples.x, samples.columns, samples.move, samples.segment, samples.y
    spans = {"bars": bars, "bar_ms": klines.interval_ms(bars), "warm_up_bars": 200}
    run = contiguous(keyed(segment, samples.time))
    yield "look_ahead", lambda: look_ahead(x, columns, move, segment, **LIMITS)
    yield "feature_target", lambda: feature_target(x, columns, y, "target", threshold=0.95)
    yield "segments", lambda: segments(samples.time, samples.label_end, segment, **spans)
    yield "windows", lambda: windows(samples.time, segment, run, bar_ms=spans["bar_ms"])


def of_folds(samples: Samples) -> Questions:
    """The guards of folds and of fits; the model fitted is a mean, so that time and memory are the guard's own."""
    cut = folds.cpcv(samples.time, samples.label_end, **SCHEME)
    yield "temporal_order", lambda: temporal_order(cut)
    yield "label_overlap", lambda: label_overlap(cut)
    yield "embargo", lambda: embargo(cut, 200)
    yield "duplicates", lambda: duplicates(samples.x, samples.segment, cut)
    train, test = cut.train(0), cut.test(0)
    known, valid = cut.early_stopping(train, PARAMS["train"]["valid_pct"])
    spans = {"time": samples.time, "label_end": samples.label_end}

    def refit(other: Samples) -> np.ndarray:
        return np.array([[other.y[train].mean()]])

    def answer(other: Samples, rows: np.ndarray) -> np.ndarray:
        return other.x[rows, :1]

    yield "fit_rows", lambda: fit_rows(known, valid, test, **spans)
    yield "unseen_rows", lambda: unseen_rows(samples, train, refit, reach_bars=0, seed=SEED)
    yield "row_order", lambda: row_order(answer, samples, test, seed=SEED)


def measured(questions: Questions) -> Iterator[tuple[str, float, float]]:
    """(guard, seconds, MiB) of each, asked once for either figure; AssertionError where one raises an alarm."""
    for guard, ask in questions:
        start = time.perf_counter()
        found = ask()
        seconds = time.perf_counter() - start
        if found.severity == "critical":
            raise AssertionError(f"{guard} raises an alarm on a clean market: {found.message}")
        tracemalloc.start()
        ask()
        yield guard, seconds, tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()


def main() -> None:
    """One line for each guard, one pair of figures for each number of rows."""
    sizes = [int(argument) for argument in sys.argv[1:]] or SIZES
    figures: dict[str, list[str]] = {}
    for size in sizes:
        bars = market(size)
        for guard, seconds, mib in measured(of_bars(bars)):
            figures.setdefault(guard, []).append(f"{seconds:9.2f} s {mib:7.0f} MiB")
        samples, _ = learnt(bars)
        for questions in (of_samples(bars, samples), of_folds(samples)):
            for guard, seconds, mib in measured(questions):
                figures.setdefault(guard, []).append(f"{seconds:9.2f} s {mib:7.0f} MiB")
        given = samples.x.nbytes / 2**20
        figures.setdefault("(the features)", []).append(f"{'':9}   {given:7.0f} MiB")
    print(f"{'':16}" + "".join(f"{size:>23,}" for size in sizes))
    for guard, cells in figures.items():
        print(f"{guard:16}" + "".join(f"{cell:>23}" for cell in cells))


if __name__ == "__main__":
    main()
