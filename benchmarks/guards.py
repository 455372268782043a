"""Measure time and memory of every guard: `python benchmarks/guards.py [rows ...]`, by default 90 days and a year.

The market is simulated, in one-minute bars; features and targets are those of params.yaml. Memory is the peak that a
guard allocates besides its arguments. It is traced in a separate run, since tracing slows compiled code.
"""

import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from pipeline import labels
from pipeline.features import engine
from pipeline.leakage.features import look_ahead, take_next_moves, target_leakage, truncation
from pipeline.leakage.findings import Finding
from pipeline.leakage.fits import fit_rows, row_order, unseen_rows
from pipeline.leakage.folds import duplicates, embargo, label_overlap, temporal_order
from pipeline.leakage.labels import label_end, label_timing
from pipeline.leakage.segments import check_window_runs, segments
from pipeline.market import bars as klines
from pipeline.market import simulated
from pipeline.samples import Samples, number_runs
from pipeline.validation import folds

PARAMS = yaml.safe_load((Path(__file__).resolve().parents[1] / "params.yaml").read_text())
DATASET = PARAMS["datasets"]["klines"]
SCHEME: dict[str, Any] = {"groups": 6, "test_groups": 2, "embargo_pct": 0.01, "holdout_pct": 0.15}
SIZES, CUTS, SEED, DAY_BARS = [129_600, 525_600], 24, 1, 1_440
LIMITS = {"ratio": 0.6, "floor": 0.5}

Checks = Iterator[tuple[str, Callable[[], Finding]]]


def simulate_market(rows: int) -> pd.DataFrame:
    """Return a clean table of the first `rows` simulated bars."""
    days = -(-rows // DAY_BARS)
    raw, _ = simulated.load(
        symbols=["BTCUSDT"],
        interval="1m",
        start="2000-01-01",
        days=days,
        signal=0.05,
        predictor="flow",
        half_life_bars=5.0,
        spread_bps=0.0,
        idle_share=0.0005,
        seed=SEED,
    )
    return klines.clean(raw.iloc[:rows])[0]


def make_samples(bars: pd.DataFrame) -> Samples:
    """Return the samples of the first target."""
    features = engine.compute(bars, **DATASET["features"])
    table = labels.make_labels(bars, next(iter(DATASET["targets"].values()))).table
    _, in_x, in_y = np.intersect1d(features.rows, table["row"], assume_unique=True, return_indices=True)
    part = table.iloc[in_y]
    return Samples(
        time=part["time"].to_numpy(),
        label_end=part["label_end"].to_numpy(),
        segment=part["segment"].to_numpy(),
        x=np.ascontiguousarray(features.x[in_x]),
        columns=features.columns,
        y=part["y"].to_numpy(),
    )


def list_bar_checks(bars: pd.DataFrame) -> Checks:
    """Yield the guards that recompute features and labels."""
    target, block = next(iter(DATASET["targets"].items()))
    table = labels.make_labels(bars, block).table

    def recompute(other: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        features = engine.compute(other, **DATASET["features"])
        return features.rows, features.x

    def relabel(other: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        again = labels.make_labels(other, block).table
        return again["row"].to_numpy(), again["y"].to_numpy(), again["label_end"].to_numpy()

    stored, columns = recompute(bars), tuple(engine.Stream(**DATASET["features"]).layout.columns)
    names = [column.name for column in columns]
    yield "truncation", lambda: truncation(bars, lambda table: [recompute(table)], stored, names, cuts=CUTS, seed=SEED)
    yield "label_end", lambda: label_end(bars, relabel, target, cuts=CUTS, seed=SEED)
    arguments = [table[name].to_numpy() for name in ("row", "label_end")]
    yield "label_timing", lambda: label_timing(bars, *arguments)


def list_sample_checks(bars: pd.DataFrame, samples: Samples) -> Checks:
    """Yield the guards of columns and of segments."""
    x, columns, segment, y = samples.x, samples.columns, samples.segment, samples.y
    move = take_next_moves(bars, np.searchsorted(bars["open_time"], samples.time))
    spans: dict[str, Any] = {"bars": bars, "bar_ms": klines.find_interval_ms(bars), "warm_up_bars": 200}
    run = number_runs(segment, np.arange(len(segment)))
    yield "look_ahead", lambda: look_ahead(x, columns, move, segment, **LIMITS)
    yield "target_leakage", lambda: next(target_leakage(x, columns, {"target": y}, threshold=0.95))
    yield "segments", lambda: segments(samples.time, samples.label_end, segment, **spans)
    yield "segments (windows)", lambda: check_window_runs(samples.time, segment, run, bar_ms=spans["bar_ms"])


def list_fold_checks(samples: Samples) -> Checks:
    """Yield the guards of folds and of fits; the model is a mean, so that time and memory are the guard's own."""
    cpcv = folds.cpcv(samples.time, samples.label_end, **SCHEME)
    yield "temporal_order", lambda: temporal_order(cpcv)
    yield "label_overlap", lambda: label_overlap(cpcv)
    yield "embargo", lambda: embargo(cpcv, 200)
    yield "duplicates", lambda: duplicates(samples.x, samples.segment, cpcv)
    train, test = cpcv.train(0), cpcv.test(0)
    fitted, valid = cpcv.split_validation(train, PARAMS["train"]["valid_pct"])
    spans = {"time": samples.time, "label_end": samples.label_end}

    def refit(other: Samples) -> np.ndarray:
        return np.array([[other.y[train].mean()]])

    def predict_rows(other: Samples, rows: np.ndarray) -> np.ndarray:
        return other.x[rows, :1]

    yield "fit_rows", lambda: fit_rows(fitted, valid, test, **spans)
    yield "unseen_rows", lambda: unseen_rows(samples, train, refit, lookback_bars=0, seed=SEED)
    yield "row_order", lambda: row_order(predict_rows, samples, test, seed=SEED)


def measure(checks: Checks) -> Iterator[tuple[str, float, float]]:
    """Yield (guard, seconds, MiB) of each check, run once for either figure.

    Raises:
        AssertionError: a guard raises a false alarm.
    """
    for guard, check in checks:
        start = time.perf_counter()
        finding = check()
        seconds = time.perf_counter() - start
        if finding.severity == "critical":
            raise AssertionError(f"{guard} raises an alarm on a clean market: {finding.message}")
        tracemalloc.start()
        check()
        yield guard, seconds, tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()


def main() -> None:
    """Print one line for each guard, with time and memory for each number of rows."""
    sizes = [int(argument) for argument in sys.argv[1:]] or SIZES
    figures: dict[str, list[str]] = {}
    for size in sizes:
        bars = simulate_market(size)
        for guard, seconds, mib in measure(list_bar_checks(bars)):
            figures.setdefault(guard, []).append(f"{seconds:9.2f} s {mib:7.0f} MiB")
        samples = make_samples(bars)
        for checks in (list_sample_checks(bars, samples), list_fold_checks(samples)):
            for guard, seconds, mib in measure(checks):
                figures.setdefault(guard, []).append(f"{seconds:9.2f} s {mib:7.0f} MiB")
        feature_mib = samples.x.nbytes / 2**20
        figures.setdefault("(the features)", []).append(f"{'':9}   {feature_mib:7.0f} MiB")
    print(f"{'':18}" + "".join(f"{size:>23,}" for size in sizes))
    for guard, cells in figures.items():
        print(f"{guard:18}" + "".join(f"{cell:>23}" for cell in cells))


if __name__ == "__main__":
    main()
