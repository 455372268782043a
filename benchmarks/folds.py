"""Speed and memory of the folds: `python benchmarks/folds.py`, beside skfolio's; prints tables in markdown. Linux only.

Each side runs in a process of its own, one after the other. Memory is the most that a process held at a time, less what
it held before it began: the spans of the rows themselves, and the libraries, are not counted.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
BAR_MS = 60_000
BESIDE = {"rows": 1_000_000, "groups": 10, "test_groups": 5, "label_bars": 20, "embargo_bars": 1_000}
LARGE = {"rows": 10_000_000, "groups": 16, "test_groups": 8, "symbols": 8, "longest_label_bars": 240}
COPIED = {"splits": (0, 6_434, 12_869), "repeats": 7, "columns": 44}

Pair = tuple[np.ndarray, list[np.ndarray]]  # train rows, test rows in parts


def memory_mib(kind: str) -> float:
    """VmRSS, what the process holds now, or VmHWM, the most since `forget_peak`."""
    found = re.search(rf"{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found.group(1)) / 1024 if found else float("nan")


def forget_peak() -> float:
    """The memory held now, in MiB; the peak is counted from here."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory_mib("VmRSS")


def of_pipeline() -> Iterator[Pair]:
    """Every split of the pipeline's folds, cut from the spans."""
    from pipeline.folds import cpcv  # each side is imported in its own process alone

    first = np.arange(BESIDE["rows"], dtype=np.int64) * BAR_MS
    spans = first, first + BESIDE["label_bars"] * BAR_MS
    yield np.empty(0), []  # what stands before this is not measured
    share = BESIDE["embargo_bars"] / BESIDE["rows"]
    scheme = {"groups": BESIDE["groups"], "test_groups": BESIDE["test_groups"]}
    folds = cpcv(*spans, **scheme, embargo_pct=share, holdout_pct=0.0)
    for split in range(folds.n_splits):
        yield folds.train(split), [folds.test(split)]


def of_skfolio() -> Iterator[Pair]:
    """Every split of skfolio's CombinatorialPurgedCV, whose integer purge means the same with labels of one length."""
    from skfolio.model_selection import CombinatorialPurgedCV

    x = np.zeros((BESIDE["rows"], 1))
    scheme = {"n_folds": BESIDE["groups"], "n_test_folds": BESIDE["test_groups"]}
    theirs = CombinatorialPurgedCV(**scheme, purged_size=BESIDE["label_bars"], embargo_size=BESIDE["embargo_bars"])
    yield np.empty(0), []
    yield from theirs.split(x)


def beside(splits: Callable[[], Iterator[Pair]]) -> dict[str, object]:
    """Seconds and MiB of all splits, one after the other, and what identifies their rows."""
    pairs = splits()
    next(pairs)
    before, seconds, identity = forget_peak(), 0.0, []
    while True:
        start = time.perf_counter()
        pair = next(pairs, None)
        seconds += time.perf_counter() - start
        if pair is None:
            return {"seconds": seconds, "mib": memory_mib("VmHWM") - before, "identity": identity}
        train, test = pair
        identity.append([len(train), int(train.sum()), sum(map(len, test)), sum(int(part.sum()) for part in test)])
        del pair, train, test


def large_spans(*, interleaved: bool) -> tuple[np.ndarray, np.ndarray]:
    """Rows of several symbols with labels of any length, all in the order of time or one symbol after the other."""
    bars = np.arange(LARGE["rows"] // LARGE["symbols"], dtype=np.int64)
    first = BAR_MS * (np.repeat(bars, LARGE["symbols"]) if interleaved else np.tile(bars, LARGE["symbols"]))
    length = np.random.default_rng(0).integers(1, LARGE["longest_label_bars"] + 1, len(first))
    return first, first + BAR_MS * length


def enumerated(*, interleaved: bool) -> dict[str, float]:
    """Seconds and MiB of cutting, and of holding the runs of every split, the paths and all counts."""
    from pipeline.folds import cpcv

    spans = large_spans(interleaved=interleaved)
    before, start = forget_peak(), time.perf_counter()
    scheme = {"groups": LARGE["groups"], "test_groups": LARGE["test_groups"]}
    folds = cpcv(*spans, **scheme, embargo_pct=0.001, holdout_pct=0.15)
    cut_seconds = time.perf_counter() - start
    counts = folds.counts()
    runs = [(folds.train_runs(split), folds.test_runs(split)) for split in range(folds.n_splits)]
    seconds, mib = time.perf_counter() - start, memory_mib("VmHWM") - before
    if (len(runs), len(folds.paths), int(counts.train.min())) < (12_870, 6_435, 1):
        raise AssertionError("a split or a path is missing, or has no train row")
    return {"cut_seconds": cut_seconds, "seconds": seconds, "mib": mib}


def copied(*, interleaved: bool) -> dict[str, object]:
    """Milliseconds of train rows, of a copy of them, and of their features gathered; medians of turns."""
    from pipeline.folds import cpcv

    scheme = {"groups": LARGE["groups"], "test_groups": LARGE["test_groups"]}
    folds = cpcv(*large_spans(interleaved=interleaved), **scheme, embargo_pct=0.001, holdout_pct=0.15)
    x = np.ones((LARGE["rows"], COPIED["columns"]), dtype=np.float32)
    taken: dict[str, list[float]] = {"train": [], "copy": [], "gather": []}
    for split in COPIED["splits"] * COPIED["repeats"]:
        rows = folds.train(split)
        for name, call in (
            ("train", lambda s=split: folds.train(s)),
            ("copy", rows.copy),
            ("gather", lambda r=rows: x[r]),
        ):
            start = time.perf_counter()
            result = call()
            taken[name].append(1e3 * (time.perf_counter() - start))
            del result
    return {name: float(np.median(values)) for name, values in taken.items()} | {"rows": len(rows)}


CASES: dict[str, Callable[[], dict[str, object]]] = {
    "beside pipeline": lambda: beside(of_pipeline),
    "beside skfolio": lambda: beside(of_skfolio),
    "enumerated by time": lambda: enumerated(interleaved=True),
    "enumerated by symbol": lambda: enumerated(interleaved=False),
    "copied by time": lambda: copied(interleaved=True),
    "copied by symbol": lambda: copied(interleaved=False),
}


def alone(case: str) -> dict[str, object]:
    """A case's figures, from a process of its own."""
    run = [sys.executable, str(Path(__file__).resolve()), case]
    done: dict[str, object] = json.loads(subprocess.run(run, cwd=ROOT, check=True, capture_output=True).stdout)
    return done


def main() -> None:
    """All tables; or, with the name of a case, its figures as JSON."""
    if len(sys.argv) > 1:
        print(json.dumps(CASES[sys.argv[1]]()))
        return
    ours, theirs = alone("beside pipeline"), alone("beside skfolio")
    if ours["identity"] != theirs["identity"]:
        raise AssertionError("the two sides do not give the same rows")
    print(f"All {len(ours['identity'])} splits of {BESIDE}, train and test rows one split after the other:\n")
    print("| | seconds | MiB at most |\n|---|---|---|")
    for name, side in (("these folds", ours), ("skfolio", theirs)):
        print(f"| {name} | {side['seconds']:.2f} | {side['mib']:,.0f} |")
    print(f"| ratio | {theirs['seconds'] / ours['seconds']:.1f} | {theirs['mib'] / ours['mib']:.1f} |")
    print(f"\nAll splits and paths of {LARGE} as runs, with all counts of rows:\n")
    print("| rows stand | seconds to cut | seconds in all | MiB at most |\n|---|---|---|---|")
    for order in ("by time", "by symbol"):
        found = alone(f"enumerated {order}")
        print(f"| {order} | {found['cut_seconds']:.2f} | {found['seconds']:.2f} | {found['mib']:.0f} |")
    print("\nThe train rows of one of these splits:\n")
    print(f"| rows stand | train(split), ms | rows.copy(), ms | x[rows], {COPIED['columns']} columns, ms |")
    print("|---|---|---|---|")
    for order in ("by time", "by symbol"):
        found = alone(f"copied {order}")
        print(f"| {order} | {found['train']:.1f} | {found['copy']:.1f} | {found['gather']:.0f} |")


if __name__ == "__main__":
    main()
