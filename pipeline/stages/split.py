"""split <dataset>: the folds that all models of a dataset share, purged by the latest label of each row's targets."""

from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
import pandas as pd

from pipeline import bars, workspace
from pipeline.folds import Folds, Run, cut
from pipeline.leakage.findings import Finding, raise_if_critical
from pipeline.leakage.folds import duplicates, embargo, label_overlap, temporal_order
from pipeline.samples import KEY, Samples, aligned, common_rows

LISTED_SPLITS = 100  # the report of more than these gives their range


def main(dataset: str) -> None:
    """Cut the rows of a dataset into folds, and stop where one leaks into another."""
    blocks = workspace.params()
    features = workspace.FEATURES / f"{dataset}.parquet"
    files = sorted((workspace.LABELS / dataset).glob("*.parquet"))
    labels = [pd.read_parquet(file, columns=[*KEY, "label_end"]) for file in files]
    known = pd.read_parquet(features, columns=KEY)
    rows = common_rows([known, *labels])
    label_end = np.max([aligned(table, rows, named="labels")["label_end"] for table in labels], axis=0)
    block = workspace.entry(blocks, "split")
    folds = workspace.feed(cut, rows["time"].to_numpy(), label_end, block=block, named="split")
    if not len(folds.holdout()):
        raise ValueError("split.holdout_pct is 0: the final model would be checked on nothing; give it a share")
    samples = Samples.load(features, files[0], rows=rows)
    reports = {stage: workspace.read_json(workspace.report(stage, dataset)) for stage in ("featurize", "guard")}
    findings = list(of_folds(folds, samples, warm_up_bars=reports["featurize"]["warm_up_bars"]))
    lost = {**reports["featurize"]["lost"], **without_label(known, rows)}
    clean = pd.read_parquet(workspace.CLEAN / f"{dataset}.parquet", columns=["symbol", "segment", "open_time"])
    counts = {"bars": reports["featurize"]["bars"], "lost": lost}
    guards = {"guards": [asdict(finding) for finding in findings]}
    content = {**counts, **report(folds), **by_group(folds, rows, clean), **guards}
    workspace.write_json(workspace.report("split", dataset), content)
    raise_if_critical([*(Finding(**found) for found in reports["guard"]["guards"]), *findings])
    with workspace.replacing(workspace.FOLDS / f"{dataset}.parquet") as draft:
        folds.save(draft, rows["segment"].to_numpy())


def of_folds(folds: Folds, samples: Samples, *, warm_up_bars: int) -> Iterator[Finding]:
    """What the guards say of the folds."""
    yield temporal_order(folds)
    yield label_overlap(folds)
    yield duplicates(samples.x, samples.segment, folds)
    yield embargo(folds, warm_up_bars)


def without_label(features: pd.DataFrame, rows: pd.DataFrame) -> dict[str, int]:
    """Why rows with features are not among `rows`: their label needs bars past the segment's end, or has no scale."""
    last = rows.groupby("segment")["time"].max()
    lost = features.merge(rows, on=KEY, how="left", indicator=True).query("_merge == 'left_only'")
    at_end = ~(lost["time"] < lost["segment"].map(last))  # a segment may have no row left at all
    return {"label_horizon": int(at_end.sum()), "zero_volatility": int((~at_end).sum())}


def report(folds: Folds) -> dict[str, object]:
    """How many rows every part and every split has."""
    return {
        "method": folds.scheme.method,
        "rows": len(folds.time),
        "development": len(folds.development()),
        "tested": len(folds.tested()),
        "gap": len(folds.gap()),
        "holdout": len(folds.holdout()),
        "n_splits": folds.n_splits,
        "n_paths": folds.n_paths,
        "embargo_bars": folds.embargo_bars,
        "splits": by_split(folds),
    }


def by_split(folds: Folds) -> dict[str, object]:
    """What each split tests, learns from and gives up to purge and embargo, a column each; of many splits the range."""
    columns = folds.counts()._asdict()
    if folds.n_splits <= LISTED_SPLITS:
        return {"test_groups": folds.splits, **columns}
    return {
        name: {"min": values.min(), "median": np.median(values), "max": values.max()}
        for name, values in columns.items()
    }


def by_group(folds: Folds, rows: pd.DataFrame, clean: pd.DataFrame) -> dict[str, object]:
    """Each group's number of rows, first and last time and the holes inside it; and the holes from one to the next.

    A hole is where a symbol's rows, one after the other, are more than a bar apart: the bars that the market misses,
    and those beside them that have no features or no label.
    """
    symbol = clean.drop_duplicates("segment").set_index("segment")["symbol"]
    development = rows.iloc[folds.development()]
    table = development.assign(symbol=development["segment"].map(symbol), open_time=development["time"])
    found = bars.holes(table.sort_values(["symbol", "open_time"]))
    sizes = np.bincount(folds.group()[folds.development()])
    groups = [
        {"rows": size, "first_ms": run.first_ms, "last_ms": run.last_ms, "holes": [h for h in found if is_in(h, run)]}
        for size, run in zip(sizes, folds.intervals, strict=True)
    ]
    across = [hole for hole in found if not any(is_in(hole, run) for run in folds.intervals)]
    return {"groups": groups, "holes_across_groups": across}


def is_in(hole: bars.Record, run: Run) -> bool:
    """Whether a hole begins and ends inside a group."""
    return bool(run.first_ms <= hole["after_ms"] and hole["before_ms"] <= run.last_ms)


if __name__ == "__main__":
    workspace.run(main)
