"""split <dataset>: the folds that all models of a dataset share, purged by the latest label of each row's targets."""

from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
import pandas as pd

from pipeline import workspace
from pipeline.folds import Folds, cpcv
from pipeline.leakage.findings import Finding, raise_if_critical
from pipeline.leakage.folds import duplicates, embargo, label_overlap, temporal_order
from pipeline.samples import KEY, Samples, aligned, common_rows


def main(dataset: str) -> None:
    """Cut the rows of a dataset into folds, and stop where one leaks into another."""
    blocks = workspace.params()
    features = workspace.FEATURES / f"{dataset}.parquet"
    files = sorted((workspace.LABELS / dataset).glob("*.parquet"))
    labels = [pd.read_parquet(file, columns=[*KEY, "label_end"]) for file in files]
    known = pd.read_parquet(features, columns=KEY)
    rows = common_rows([known, *labels])
    label_end = np.max([aligned(table, rows, named="labels")["label_end"] for table in labels], axis=0)
    folds = workspace.feed(
        cpcv, rows["time"].to_numpy(), label_end, block=workspace.entry(blocks, "split"), named="split"
    )
    if not len(folds.holdout()):
        raise ValueError("split.holdout_pct is 0: the final model would be checked on nothing; give it a share")
    samples = Samples.load(features, files[0], rows=rows)
    reports = {stage: workspace.read_json(workspace.report(stage, dataset)) for stage in ("featurize", "guard")}
    findings = list(of_folds(folds, samples, warm_up_bars=reports["featurize"]["warm_up_bars"]))
    lost = {**reports["featurize"]["lost"], **without_label(known, rows)}
    content = {"bars": reports["featurize"]["bars"], "lost": lost, **report(folds, findings)}
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


def counts(folds: Folds, split: int) -> dict[str, object]:
    """The rows of a split: what it tests, learns from, and gave up to purge and embargo."""
    train, test = len(folds.train(split)), len(folds.test(split))
    purged = len(folds.development()) - train - test
    return {"test_groups": folds.splits[split], "train": train, "test": test, "purged_and_embargoed": purged}


def report(folds: Folds, findings: list[Finding]) -> dict[str, object]:
    """How many rows every part and every split has."""
    return {
        "rows": len(folds.time),
        "development": len(folds.development()),
        "gap": len(folds.gap()),
        "holdout": len(folds.holdout()),
        "n_splits": folds.n_splits,
        "n_paths": folds.n_paths,
        "embargo_bars": folds.embargo_bars,
        "groups": np.bincount(folds.group()[folds.development()]),
        "splits": [counts(folds, split) for split in range(folds.n_splits)],
        "guards": [asdict(finding) for finding in findings],
    }


if __name__ == "__main__":
    workspace.run(main)
