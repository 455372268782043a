"""Speed and memory of the folds and of skfolio's: `python benchmarks/folds.py` prints markdown tables. Linux only.

Each case runs in its own process, one after the other. Memory is the peak of a process less its memory before the
start: the spans of the rows and the libraries are not counted.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
BAR_MS = 60_000
COMPARISON = {"rows": 1_000_000, "groups": 10, "test_groups": 5, "label_bars": 20, "embargo_bars": 1_000}
LARGE = {"rows": 10_000_000, "groups": 16, "test_groups": 8, "symbols": 8, "longest_label_bars": 240}
LISTING: dict[str, Any] = {"splits": (0, 6_434, 12_869), "repeats": 7, "columns": 44}

Split = tuple[np.ndarray, list[np.ndarray]]  # train rows, test rows in parts


def read_memory_mib(kind: str) -> float:
    """Return VmRSS, the memory of the process now, or VmHWM, its peak since `reset_peak`."""
    found = re.search(rf"{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found.group(1)) / 1024 if found else float("nan")


def reset_peak() -> float:
    """Reset the peak of memory, and return the memory now in MiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return read_memory_mib("VmRSS")


def split_by_pipeline() -> Iterator[Split]:
    """Yield every split of the pipeline's folds."""
    from pipeline.validation.folds import cpcv

    first = np.arange(COMPARISON["rows"], dtype=np.int64) * BAR_MS
    spans = first, first + COMPARISON["label_bars"] * BAR_MS
    yield np.empty(0), []  # everything before this is not measured
    share = COMPARISON["embargo_bars"] / COMPARISON["rows"]
    scheme: dict[str, Any] = {"groups": COMPARISON["groups"], "test_groups": COMPARISON["test_groups"]}
    folds = cpcv(*spans, **scheme, embargo_pct=share, holdout_pct=0.0)
    for split in range(folds.n_splits):
        yield folds.train(split), [folds.test(split)]


def split_by_skfolio() -> Iterator[Split]:
    """Yield every split of skfolio's CombinatorialPurgedCV, whose purge is equivalent for labels of one length."""
    from skfolio.model_selection import CombinatorialPurgedCV

    x = np.zeros((COMPARISON["rows"], 1))
    scheme = {"n_folds": COMPARISON["groups"], "n_test_folds": COMPARISON["test_groups"]}
    theirs = CombinatorialPurgedCV(
        **scheme, purged_size=COMPARISON["label_bars"], embargo_size=COMPARISON["embargo_bars"]
    )
    yield np.empty(0), []
    yield from theirs.split(x)


def measure_splits(splits: Callable[[], Iterator[Split]]) -> dict[str, Any]:
    """Return seconds and MiB of all splits, one after the other, and counts and sums that identify their rows."""
    generated = splits()
    next(generated)
    identity: list[Any] = []
    before, seconds = reset_peak(), 0.0
    while True:
        start = time.perf_counter()
        split = next(generated, None)
        seconds += time.perf_counter() - start
        if split is None:
            return {"seconds": seconds, "mib": read_memory_mib("VmHWM") - before, "identity": identity}
        train, test = split
        identity.append([len(train), int(train.sum()), sum(map(len, test)), sum(int(part.sum()) for part in test)])
        del split, train, test


def make_large_spans(*, interleaved: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the spans of several symbols' rows with labels of any length, sorted by time or by symbol."""
    bars = np.arange(LARGE["rows"] // LARGE["symbols"], dtype=np.int64)
    rows: np.ndarray = np.repeat(bars, LARGE["symbols"]) if interleaved else np.tile(bars, LARGE["symbols"])
    first = BAR_MS * rows
    length = np.random.default_rng(0).integers(1, LARGE["longest_label_bars"] + 1, len(first))
    return first, first + BAR_MS * length


def measure_ranges(*, interleaved: bool) -> dict[str, Any]:
    """Return seconds to make folds, and seconds and MiB in total with the time ranges and counts of all splits."""
    from pipeline.validation.folds import cpcv

    spans = make_large_spans(interleaved=interleaved)
    before, start = reset_peak(), time.perf_counter()
    scheme: dict[str, Any] = {"groups": LARGE["groups"], "test_groups": LARGE["test_groups"]}
    folds = cpcv(*spans, **scheme, embargo_pct=0.001, holdout_pct=0.15)
    make_seconds = time.perf_counter() - start
    counts = folds.count_rows()
    ranges = [(folds.find_train_ranges(split), folds.find_test_ranges(split)) for split in range(folds.n_splits)]
    seconds, mib = time.perf_counter() - start, read_memory_mib("VmHWM") - before
    if (len(ranges), len(folds.paths), int(counts.train.min())) < (12_870, 6_435, 1):
        raise AssertionError("a split or a path is missing, or has no train row")
    return {"make_seconds": make_seconds, "seconds": seconds, "mib": mib}


def measure_listing(*, interleaved: bool) -> dict[str, Any]:
    """Return median milliseconds to list train rows, to copy them, and to gather their features."""
    from pipeline.validation.folds import cpcv

    scheme: dict[str, Any] = {"groups": LARGE["groups"], "test_groups": LARGE["test_groups"]}
    folds = cpcv(*make_large_spans(interleaved=interleaved), **scheme, embargo_pct=0.001, holdout_pct=0.15)
    x = np.ones((LARGE["rows"], LISTING["columns"]), dtype=np.float32)
    times_ms: dict[str, list[float]] = {"train": [], "copy": [], "gather": []}
    for split in LISTING["splits"] * LISTING["repeats"]:
        rows = folds.train(split)
        for name, call in (
            ("train", lambda s=split: folds.train(s)),
            ("copy", rows.copy),
            ("gather", lambda r=rows: x[r]),
        ):
            start = time.perf_counter()
            result = call()
            times_ms[name].append(1e3 * (time.perf_counter() - start))
            del result
    return {name: float(np.median(values)) for name, values in times_ms.items()} | {"rows": len(rows)}


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "compare pipeline": lambda: measure_splits(split_by_pipeline),
    "compare skfolio": lambda: measure_splits(split_by_skfolio),
    "ranges by time": lambda: measure_ranges(interleaved=True),
    "ranges by symbol": lambda: measure_ranges(interleaved=False),
    "listing by time": lambda: measure_listing(interleaved=True),
    "listing by symbol": lambda: measure_listing(interleaved=False),
}


def run_case(case: str) -> dict[str, Any]:
    """Return a case's figures, from its own process."""
    run = [sys.executable, str(Path(__file__).resolve()), case]
    done: dict[str, Any] = json.loads(subprocess.run(run, cwd=ROOT, check=True, capture_output=True).stdout)
    return done


def main() -> None:
    """Print all tables; with the name of a case, print its figures as JSON."""
    if len(sys.argv) > 1:
        print(json.dumps(CASES[sys.argv[1]]()))
        return
    ours, theirs = run_case("compare pipeline"), run_case("compare skfolio")
    if ours["identity"] != theirs["identity"]:
        raise AssertionError("pipeline and skfolio give different rows")
    print(f"All {len(ours['identity'])} splits of {COMPARISON}, train and test rows one split after the other:\n")
    print("| | seconds | peak MiB |\n|---|---|---|")
    for name, case in (("pipeline", ours), ("skfolio", theirs)):
        print(f"| {name} | {case['seconds']:.2f} | {case['mib']:,.0f} |")
    print(f"| ratio | {theirs['seconds'] / ours['seconds']:.1f} | {theirs['mib'] / ours['mib']:.1f} |")
    print(f"\nAll splits and paths of {LARGE} as time ranges, with all row counts:\n")
    print("| rows sorted | seconds to make folds | seconds in total | peak MiB |\n|---|---|---|---|")
    for order in ("by time", "by symbol"):
        found = run_case(f"ranges {order}")
        print(f"| {order} | {found['make_seconds']:.2f} | {found['seconds']:.2f} | {found['mib']:.0f} |")
    print("\nThe train rows of one of these splits:\n")
    print(f"| rows sorted | train(split), ms | rows.copy(), ms | x[rows], {LISTING['columns']} columns, ms |")
    print("|---|---|---|---|")
    for order in ("by time", "by symbol"):
        found = run_case(f"listing {order}")
        print(f"| {order} | {found['train']:.1f} | {found['copy']:.1f} | {found['gather']:.0f} |")


if __name__ == "__main__":
    main()
