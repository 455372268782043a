"""split <dataset>: make the folds that all models of a dataset share, purged by the latest label end of any target."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import artifacts, cli, config, digests
from pipeline.datasets import kinds
from pipeline.datasets.words import Words, find_words
from pipeline.feature_file import Matrix
from pipeline.leakage.findings import Finding, raise_if_critical
from pipeline.leakage.folds import duplicates, embargo, label_overlap, temporal_order
from pipeline.market import bars
from pipeline.row_groups import TableFile, read_clean
from pipeline.samples import KEY, find_label_ends, open_features
from pipeline.validation.embargo import find_needed_embargo
from pipeline.validation.folds import SPANS, TRADING_SPANS, Folds, TimeRange, make_folds
from pipeline.validation.scheme import EMBARGO_KEYS, find_holdout_start

log = logging.getLogger(__name__)

MAX_LISTED_SPLITS = 100  # with more splits the report gives the range of each count


def main(dataset: str) -> None:
    """Divide the rows of a dataset into folds, and stop where one leaks into another."""
    features = digests.verify(artifacts.FEATURES / f"{dataset}.parquet")
    params = config.load_params()
    files = artifacts.list_labels(dataset, config.look_up(params, f"datasets.{dataset}.targets"))
    clock = kinds.import_part(params, dataset, "clock")
    words = find_words(kinds.find_optional_part(params, dataset, "words"))
    clean = read_clean(dataset, clock.COLUMNS)
    rows = list_rows(TableFile(features).read(KEY), files, clean)
    rows = remove_closings(rows, clean, number_times=clock.number_times)
    reports = {stage: artifacts.read_report(stage, dataset) for stage in ("featurize", "guard")}
    warm_up_bars = find_lookback_bars(reports["featurize"])
    section = config.look_up(params, "split")
    is_automatic = all(section.get(key) is None for key in EMBARGO_KEYS)
    with words.adapt_errors():
        block, reason = choose_embargo(section, rows, warm_up_bars=warm_up_bars, unit=clock.UNIT, words=words)
        folds = divide(rows, block, reason=reason, is_automatic=is_automatic, words=words)
    if not len(folds.holdout()):
        raise ValueError("split.holdout_pct is 0: no rows are left to evaluate the final model; set it above 0")
    found = check_folds(folds, *open_features(features, rows=rows), warm_up_bars=warm_up_bars)
    findings = [replace(finding, message=words.adapt(finding.message)) for finding in found]
    lost = {**reports["featurize"]["lost"], **count_unlabeled(rows, find_closings(clean, time=clock.TIME))}
    counts = {"bars": reports["featurize"]["bars"], **words.describe_unit(), "lost": lost}
    findings_report = {"findings": [asdict(finding) for finding in findings]}
    has_grid = clock.find_step(clean) or "bar_number" in rows.columns
    groups = summarize_groups(folds, find_gaps(folds, rows) if has_grid else None, rows=rows, unit=clock.UNIT)
    symbols = {"symbols": summarize_symbols(folds, rows["symbol"])}
    content = {**counts, **summarize_folds(folds), "embargo_reason": reason, **groups, **symbols, **findings_report}
    artifacts.write_report("split", dataset, content)
    log_warnings(findings)
    raise_if_critical([*(Finding(**finding) for finding in reports["guard"]["findings"]), *findings])
    with artifacts.replace_atomically(artifacts.FOLDS / f"{dataset}.parquet") as draft:
        spans = [] if find_span_names(rows) == SPANS else [*SPANS, *TRADING_SPANS]
        folds.save(draft, rows[["segment", "symbol", *spans]])


def find_lookback_bars(report: Mapping[str, Any]) -> int:
    """Return how many bars a row's features read at most: those of a warm-up, where features have values after it."""
    return int(report.get("lookback_bars", report["warm_up_bars"]))


def remove_closings(
    rows: pd.DataFrame, clean: pd.DataFrame, *, number_times: Callable[..., np.ndarray | None]
) -> pd.DataFrame:
    """Return the rows with the columns bar_number and TRADING_SPANS where the market has sessions, else as they are.

    The bar after a closing begins in trading time when the one before it ends. `number_times` is the clock's.
    """
    numbers = [number_times(clean, rows[name].to_numpy()) for name in SPANS]
    if numbers[0] is None:
        return rows
    bar_ms = bars.find_interval_ms(clean)
    spans = {name: each * bar_ms for name, each in zip(TRADING_SPANS, numbers, strict=True) if each is not None}
    return rows.assign(bar_number=numbers[0], **spans)


def find_span_names(rows: pd.DataFrame) -> tuple[str, str]:
    """Return the names of the columns with the spans that folds are made of."""
    return TRADING_SPANS if set(TRADING_SPANS) <= set(rows.columns) else SPANS


def divide(rows: pd.DataFrame, block: config.Block, *, reason: str, is_automatic: bool, words: Words) -> Folds:
    """Return the folds of the rows; an error of `make_folds` also names an embargo that params did not set.

    `words` are those of the dataset's kind.
    """
    spans = (rows[name].to_numpy() for name in (*find_span_names(rows), "is_labeled"))
    try:
        return config.call_with(make_folds, *spans, block=block, name="split")
    except config.ParamsError:
        raise
    except ValueError as error:
        if not is_automatic or "embargo" not in str(error):
            raise
        raise ValueError(
            f"{error}; the embargo is the automatic one ({reason}): set split.embargo_bars, or {words.shorter_reach}"
        ) from error


def choose_embargo(
    section: config.Block, rows: pd.DataFrame, *, warm_up_bars: int, unit: str, words: Words
) -> tuple[config.Block, str]:
    """Return the section `split` with an embargo, where it has none the one that is needed; and where that is from.

    `unit` is the clock's, and `words` are those of the dataset's kind.

    Raises:
        ParamsError: several embargoes are set, hours are set of a clock that is not in ms, or a value is not allowed.
        ValueError: there are no more rows than the embargo has.
    """
    config.check_section(make_folds, section, name="split")
    found = {key: section[key] for key in EMBARGO_KEYS if section.get(key) is not None}
    values = " and ".join(f"{key} ({value})" for key, value in found.items())
    if len(found) > 1:
        raise config.ParamsError(
            f"split has {values}; set one of them and the others to null, or all to null for the embargo that "
            "features and labels need"
        )
    if "embargo_hours" in found and unit != "ms":
        raise config.ParamsError(f"split has {values}; the clock of this dataset counts {unit}: set embargo_bars")
    if found:
        return section, f"split.{values}"
    time, label_end = find_span_names(rows)
    end = find_holdout_start(rows[time].to_numpy()[rows["is_labeled"]], holdout_pct=section["holdout_pct"])
    open_rows = rows[rows[time] < end]  # the holdout stays closed
    spans = (open_rows[name].to_numpy() for name in (time, label_end, "segment"))
    try:
        needed = find_needed_embargo(*spans, warm_up_bars=warm_up_bars)
    except ValueError as error:
        raise ValueError(f"{error}; set split.embargo_bars, or {words.shorter_reach}") from error
    return {**section, "embargo_bars": needed.bars}, words.adapt(needed.reason)


def check_folds(folds: Folds, x: Matrix, segment: np.ndarray, *, warm_up_bars: int) -> Iterator[Finding]:
    """Yield the finding of every guard of folds, of rows with features `x` (N, F) in runs `segment` (N,)."""
    yield temporal_order(folds)
    yield label_overlap(folds)
    yield duplicates(x, segment, folds)
    yield embargo(folds, warm_up_bars)


def log_warnings(findings: Sequence[Finding]) -> None:
    """Log the message of every finding that is a warning."""
    for finding in findings:
        if finding.severity == "warning":
            log.warning(f"split: {finding.guard}: {finding.message}")


def list_rows(known: pd.DataFrame, files: Sequence[Path], clean: pd.DataFrame) -> pd.DataFrame:
    """Return every row whose features are known, with its symbol and the latest label_end of any target.

    A row is labeled where every target labels it; the others end at their own time.
    """
    label_end, is_labeled = find_label_ends(known, (TableFile(file).read([*KEY, "label_end"]) for file in files))
    symbol_of = clean.drop_duplicates("segment").set_index("segment")["symbol"]
    segments, place = np.unique(known["segment"], return_inverse=True)
    symbol = pd.Categorical(symbol_of.loc[segments]).take(place)
    return known.assign(symbol=symbol, label_end=label_end, is_labeled=is_labeled)


def find_closings(clean: pd.DataFrame, *, time: str) -> np.ndarray | None:
    """Return the times, ascending, of the bars at which positions are closed; None where the market has no sessions."""
    if "closes_positions" not in clean.columns:
        return None
    return np.unique(clean.loc[clean["closes_positions"], time])


def count_unlabeled(rows: pd.DataFrame, closings: np.ndarray | None = None) -> dict[str, int]:
    """Return the number of rows without a label, by cause.

    Their label needs bars past the segment's end, or spans one of `closings`, see `find_closings`, or their volatility
    is too low: zero, below the tick's or far below the usual; the report of `label` has each cause.
    """
    is_end = _find_unlabeled_ends(rows, rows["segment"])
    counts = {"label_horizon": int(is_end.sum())}
    is_closing = np.zeros(len(rows), dtype=bool)
    if closings is not None:
        session = np.searchsorted(closings, rows["time"].to_numpy())
        is_closing = _find_unlabeled_ends(rows, rows["segment"].astype(np.int64) * (len(closings) + 1) + session)
        is_closing &= ~is_end & np.isin(session, np.arange(len(closings)))
        counts["closing"] = int(is_closing.sum())
    return counts | {"volatility_too_low": int((~rows["is_labeled"].to_numpy() & ~is_end & ~is_closing).sum())}


def _find_unlabeled_ends(rows: pd.DataFrame, part: pd.Series) -> np.ndarray:
    """Return (N,) the rows without a label that no labeled one of their part follows; a part may have none at all."""
    last = rows[rows["is_labeled"]].groupby(part[rows["is_labeled"]])["time"].max()
    return ~(rows["is_labeled"] | (rows["time"] < part.map(last))).to_numpy(bool)


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
    read = [name for name in ("symbol", "time", "bar_number") if name in rows.columns]
    development = rows[read].iloc[folds.development()].rename(columns={"time": "open_time"})
    return bars.find_gaps(development.sort_values(["symbol", "open_time"]))


def summarize_groups(
    folds: Folds, gaps: list[bars.Record] | None, *, rows: pd.DataFrame, unit: str = "ms"
) -> dict[str, object]:
    """Return each group's row count, first and last time and inner gaps; and the gaps that cross group boundaries.

    `gaps` are None where the clock is no grid; the report then says so. Times are instants of `rows`, in `unit`.
    """
    sizes = np.bincount(folds.number_groups()[folds.development()])
    ranges = [find_instants(group, folds, rows) for group in folds.group_ranges]
    groups = [
        {
            "rows": size,
            f"first_{unit}": group.first_ms,
            f"last_{unit}": group.last_ms,
            **({} if gaps is None else {"gaps": [gap for gap in gaps if is_within(gap, group)]}),
        }
        for size, group in zip(sizes, ranges, strict=True)
    ]
    if gaps is None:
        return {"groups": groups, "no_gaps_reason": "the clock is no grid: no row is known to be missing"}
    crossing = [gap for gap in gaps if not any(is_within(gap, group) for group in ranges)]
    return {"groups": groups, "gaps_across_groups": crossing}


def find_instants(group: TimeRange, folds: Folds, rows: pd.DataFrame) -> TimeRange:
    """Return a range of the folds in instants; those of a market without sessions are its own."""
    time, label_end = (rows[name].to_numpy() for name in SPANS)
    first, last, end = (
        int(instants[np.argmax(spans == at)])
        for spans, instants, at in (
            (folds.time, time, group.first_ms),
            (folds.time, time, group.last_ms),
            (folds.label_end, label_end, group.label_end_ms),
        )
    )
    return TimeRange(first, last, end)


def summarize_symbols(folds: Folds, symbol: pd.Series) -> dict[str, dict[str, list[int]]]:
    """Return by symbol its labeled rows in each group, and the groups in which it has none: it is not listed then."""
    group, groups = folds.number_groups(), folds.scheme.groups
    rows = {
        str(name): np.bincount(group[(symbol == name).to_numpy() & (group >= 0)], minlength=groups)
        for name in symbol.cat.categories
    }
    return {
        name: {"rows_by_group": sizes.tolist(), "groups_without_rows": np.flatnonzero(sizes == 0).tolist()}
        for name, sizes in rows.items()
    }


def is_within(gap: bars.Record, group: TimeRange) -> bool:
    """Return whether a gap begins and ends inside a group."""
    return bool(group.first_ms <= gap["after_ms"] and gap["before_ms"] <= group.last_ms)


if __name__ == "__main__":
    cli.run(main)
