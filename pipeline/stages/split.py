"""split <dataset>: make the folds that all models of a dataset share, purged by the latest label end of any target."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline import artifacts, cli, config
from pipeline.datasets import kinds
from pipeline.leakage.findings import Finding, raise_if_critical
from pipeline.leakage.folds import duplicates, embargo, label_overlap, temporal_order
from pipeline.market import bars
from pipeline.samples import KEY, Samples, align, intersect_rows
from pipeline.validation.folds import Folds, TimeRange, make_folds

MAX_LISTED_SPLITS = 100  # with more splits the report gives the range of each count


def main(dataset: str) -> None:
    """Divide the rows of a dataset into folds, and stop where one leaks into another."""
    features = artifacts.FEATURES / f"{dataset}.parquet"
    files = sorted((artifacts.LABELS / dataset).glob("*.parquet"))
    params = config.load_params()
    clock = kinds.import_part(params, dataset, "clock")
    clean = pd.read_parquet(artifacts.CLEAN / f"{dataset}.parquet", columns=clock.COLUMNS)
    rows = list_rows(pd.read_parquet(features, columns=KEY), files, clean)
    block = config.look_up(params, "split")
    spans = (rows[name].to_numpy() for name in ("time", "label_end", "is_labeled"))
    folds = config.call_with(make_folds, *spans, block=block, name="split")
    if not len(folds.holdout()):
        raise ValueError("split.holdout_pct is 0: no rows are left to evaluate the final model; set it above 0")
    samples = Samples.load(features, files[0], rows=rows)
    reports = {stage: artifacts.read_json(artifacts.report_path(stage, dataset)) for stage in ("featurize", "guard")}
    findings = list(check_folds(folds, samples, warm_up_bars=reports["featurize"]["warm_up_bars"]))
    lost = {**reports["featurize"]["lost"], **count_unlabeled(rows)}
    counts = {"bars": reports["featurize"]["bars"], "lost": lost}
    findings_report = {"findings": [asdict(finding) for finding in findings]}
    groups = summarize_groups(folds, find_gaps(folds, rows) if clock.find_step(clean) else None, unit=clock.UNIT)
    content = {**counts, **summarize_folds(folds), **groups, **findings_report}
    artifacts.write_json(artifacts.report_path("split", dataset), content)
    raise_if_critical([*(Finding(**finding) for finding in reports["guard"]["findings"]), *findings])
    with artifacts.replace_atomically(artifacts.FOLDS / f"{dataset}.parquet") as draft:
        folds.save(draft, rows[["segment", "symbol"]])


def check_folds(folds: Folds, samples: Samples, *, warm_up_bars: int) -> Iterator[Finding]:
    """Yield the finding of every guard of folds."""
    yield temporal_order(folds)
    yield label_overlap(folds)
    yield duplicates(samples.x, samples.segment, folds)
    yield embargo(folds, warm_up_bars)


def list_rows(known: pd.DataFrame, files: Sequence[Path], clean: pd.DataFrame) -> pd.DataFrame:
    """Return every row whose features are known, with its symbol and the latest label_end of any target.

    A row is labeled where every target labels it; the others end at their own time.
    """
    labels = [pd.read_parquet(file, columns=[*KEY, "label_end"]) for file in files]
    labeled = intersect_rows([known, *labels])
    latest = np.max([align(table, labeled, name="labels")["label_end"] for table in labels], axis=0)
    ends = known.merge(labeled.assign(label_end=latest), on=KEY, how="left", validate="one_to_one")["label_end"]
    symbol_of = clean.drop_duplicates("segment").set_index("segment")["symbol"]
    return known.assign(
        symbol=pd.Categorical(symbol_of.loc[known["segment"]]),
        label_end=ends.fillna(known["time"]).astype(np.int64),
        is_labeled=ends.notna(),
    )


def count_unlabeled(rows: pd.DataFrame) -> dict[str, int]:
    """Return the number of rows without a label, by cause.

    Their label needs bars past the segment's end, or their volatility is too low: zero, below the tick's or far below
    the usual; the report of `label` has each cause.
    """
    last = rows[rows["is_labeled"]].groupby("segment")["time"].max()
    lost = rows[~rows["is_labeled"]]
    at_end = ~(lost["time"] < lost["segment"].map(last))  # a segment may have no labeled row at all
    return {"label_horizon": int(at_end.sum()), "volatility_too_low": int((~at_end).sum())}


def summarize_folds(folds: Folds) -> dict[str, object]:
    """Return the row counts of every part and every split."""
    return {
        "method": folds.scheme.method,
        "rows": int(folds.is_labeled.sum()),
        "development": len(folds.development()),
        "tested": len(folds.select_tested()),
        "purged_and_embargoed_before_holdout": len(folds.select_embargoed()),
        "holdout": len(folds.holdout()),
        "n_splits": folds.n_splits,
        "n_paths": folds.n_paths,
        "embargo_bars": folds.embargo_bars,
        "splits": summarize_splits(folds),
    }


def summarize_splits(folds: Folds) -> dict[str, object]:
    """Return columns of train, test, and purged and embargoed rows by split; with many splits, the range of each."""
    columns = folds.count_rows()._asdict()
    columns["train_and_valid"] = columns.pop("train")
    if folds.n_splits <= MAX_LISTED_SPLITS:
        return {"tested_groups": folds.splits, **columns}
    return {
        name: {"min": values.min(), "median": np.median(values), "max": values.max()}
        for name, values in columns.items()
    }


def find_gaps(folds: Folds, rows: pd.DataFrame) -> list[bars.Record]:
    """Return where consecutive rows of the development part, of one symbol, are more than one bar apart.

    A gap consists of bars that the market lacks and of neighboring bars without features or label.
    """
    development = rows.iloc[folds.development()].rename(columns={"time": "open_time"})
    return bars.find_gaps(development.sort_values(["symbol", "open_time"]))


def summarize_groups(folds: Folds, gaps: list[bars.Record] | None, *, unit: str = "ms") -> dict[str, object]:
    """Return each group's row count, first and last time and inner gaps; and the gaps that cross group boundaries.

    `gaps` are None where the clock is no grid; the report then says so. Times are in `unit`.
    """
    sizes = np.bincount(folds.number_groups()[folds.development()])
    groups = [
        {
            "rows": size,
            f"first_{unit}": group.first_ms,
            f"last_{unit}": group.last_ms,
            **({} if gaps is None else {"gaps": [gap for gap in gaps if is_within(gap, group)]}),
        }
        for size, group in zip(sizes, folds.group_ranges, strict=True)
    ]
    if gaps is None:
        return {"groups": groups, "no_gaps_reason": "the clock is no grid: no row is known to be missing"}
    crossing = [gap for gap in gaps if not any(is_within(gap, group) for group in folds.group_ranges)]
    return {"groups": groups, "gaps_across_groups": crossing}


def is_within(gap: bars.Record, group: TimeRange) -> bool:
    """Return whether a gap begins and ends inside a group."""
    return bool(group.first_ms <= gap["after_ms"] and gap["before_ms"] <= group.last_ms)


if __name__ == "__main__":
    cli.run(main)
