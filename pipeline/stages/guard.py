"""guard <dataset>: stop the pipeline where features or labels of a dataset leak.

No guard holds a whole table: columns are read one at a time, and recomputed features are compared part by part.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd

from pipeline import artifacts, cli, config, digests
from pipeline.datasets import kinds
from pipeline.datasets.words import find_words
from pipeline.feature_file import FeatureFile
from pipeline.features.engine import Features
from pipeline.leakage import cut_times
from pipeline.leakage.features import Part, Recompute, look_ahead, take_next_moves, target_leakage, truncation
from pipeline.leakage.findings import Finding, raise_if_critical
from pipeline.leakage.labels import label_end, label_timing
from pipeline.leakage.segments import check_window_runs, segments
from pipeline.leakage.settings import GuardSettings
from pipeline.row_groups import TableFile
from pipeline.samples import KEY, find_label_ends, locate, number_runs, open_features, read_labels
from pipeline.target_kinds import Labels
from pipeline.targets import list_shorter
from pipeline.trading_rules import read_order_delay
from pipeline.validation.scheme import find_holdout_start

BAR_KEY = ["segment", "open_time"]  # as KEY, in the clean table


def main(dataset: str) -> None:
    """Run the guards of features, labels and segments on a dataset."""
    params = config.load_params()
    words = find_words(kinds.find_optional_part(params, dataset, "words"))
    with words.adapt_errors():
        found = run_guards(dataset, params)
    findings = [replace(finding, message=words.adapt(finding.message)) for finding in found]
    artifacts.write_report("guard", dataset, {"findings": list(map(asdict, findings))})
    raise_if_critical(findings)


def run_guards(dataset: str, params: config.Block) -> list[Finding]:
    """Return the findings of all guards of a dataset, which speak of bars."""
    features = digests.verify(artifacts.FEATURES / f"{dataset}.parquet")
    files = artifacts.list_labels(dataset, config.look_up(params, f"datasets.{dataset}.targets"))
    kind, clock, label = (kinds.import_part(params, dataset, part) for part in ("guard", "clock", "label"))
    clean = digests.verify(artifacts.CLEAN / f"{dataset}.parquet")
    read_bars = partial(read_clean, TableFile(clean), clock.TIME, clock.UNIT)
    settings = config.call_with(GuardSettings, block=config.look_up(params, "guard"), name="guard")
    described, seed = config.look_up(params, f"datasets.{dataset}"), params["seed"]
    columns, holdout_pct = {*label.COLUMNS, *cut_times.COLUMNS}, config.look_up(params, "split.holdout_pct")
    recomputed = {"columns": columns, "delay_bars": read_order_delay(params), "seed": seed}
    # first, since these need the most memory, and what others free is not all returned to the system
    of_labels = list(check_labels(kind, read_bars, files, described["targets"], settings, **recomputed))
    findings = list(check_features(kind, read_bars, features, described["features"], settings, seed=seed))
    findings += check_columns(read_bars, features, files, settings, holdout_pct=holdout_pct)
    findings += of_labels
    table = TableFile(clean).read(clock.COLUMNS)
    grid = {"step": clock.find_step(table), "number_times": partial(clock.number_times, table)}
    known = {"warm_up_bars": artifacts.read_report("featurize", dataset)["warm_up_bars"], "has_gates": kind.HAS_GATES}
    findings += check_segments(read_bars(BAR_KEY), features, files, **grid, **known)
    return findings


ReadBars = Callable[[Collection[str] | None], pd.DataFrame]


def read_clean(file: TableFile, time: str, unit: str, columns: Collection[str] | None) -> pd.DataFrame:
    """Return columns of a clean table, None: all, with its clock `time` as `open_time`, by which guards know it.

    The `unit` of the clock is an attribute of the table: cut times are at ends of days where it is ms.
    """
    wanted = None if columns is None else {time if name == "open_time" else name for name in columns}
    table = file.read(wanted).rename(columns={time: "open_time"})
    table.attrs[cut_times.UNIT] = unit
    return table


def check_features(
    kind: ModuleType,
    read_bars: ReadBars,
    features: Path,
    block: config.Block,
    settings: GuardSettings,
    *,
    seed: int,
) -> Iterator[Finding]:
    """Yield the finding of the guard that recomputes the features of a dataset; `block` is their section."""
    if kind.compute_parts is None:
        yield explain_missing("truncation")
    else:
        bars = read_bars(kind.list_columns(block))
        rows, x = load_stored_features(features, bars)
        recompute = make_recompute(kind.compute_parts, block)
        yield truncation(bars, recompute, (rows, x), x.columns, cuts=settings.cuts, seed=seed)


def check_columns(
    read_bars: ReadBars, features: Path, files: Sequence[Path], settings: GuardSettings, *, holdout_pct: float
) -> Iterator[Finding]:
    """Yield the findings of the guards that correlate stored features with moves and with targets.

    No label of the last `holdout_pct` of the times is correlated with anything: the holdout is sealed.
    """
    rows = select_development(list_labeled(features, files), holdout_pct=holdout_pct)[KEY]
    x, segment = open_features(features, rows=rows)
    limits = {"ratio": settings.look_ahead_ratio, "floor": settings.look_ahead_floor}
    yield look_ahead(x, x.columns, find_moves(rows, read_bars([*BAR_KEY, "close"])), segment, **limits)
    del segment
    targets = dict(each for file in files for each in read_targets(file, rows))
    yield from target_leakage(x, x.columns, targets, threshold=settings.correlation_threshold)


def read_targets(file: Path, rows: pd.DataFrame) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name of a target and the y (n,) of rows; of several horizons also that of each, as return_5.y_1."""
    known, shorter = read_labels(file, rows=rows), list_shorter(TableFile(file).schema.names)
    yield file.stem, known["y"]
    for place, name in enumerate(shorter):
        yield f"{file.stem}.{name}", known["y_by_horizon"][:, place]


def check_labels(
    kind: ModuleType,
    read_bars: ReadBars,
    files: Sequence[Path],
    targets: config.Block,
    settings: GuardSettings,
    *,
    columns: Collection[str],
    delay_bars: int,
    seed: int,
) -> Iterator[Finding]:
    """Yield the findings of labels, recomputed and as stored, for one target after the other.

    `columns` are those of bars that labels and cut times need. `delay_bars` are those of the orders, on which the label
    of a position depends.
    """
    for file in files:
        if kind.make_labels is None:
            yield explain_missing("label_end")
        else:
            relabel = make_relabel(kind.make_labels, targets[file.stem], delay_bars=delay_bars)
            yield label_end(read_bars(columns), relabel, file.stem, cuts=settings.cuts, seed=seed)
        yield check_label_timing(read_bars(BAR_KEY), TableFile(file).read([*KEY, "label_end"]))


def check_label_timing(bars: pd.DataFrame, labels: pd.DataFrame) -> Finding:
    """Return the finding of stored labels (segment, time, label_end)."""
    return label_timing(bars, locate_bars(labels, bars), labels["label_end"].to_numpy())


def list_labeled(features: Path, files: Sequence[Path]) -> pd.DataFrame:
    """Return the keys of the rows that have features and a label of every target, with their latest label_end."""
    rows = TableFile(features).read(KEY)
    tables = (TableFile(file).read([*KEY, "label_end"]) for file in files)
    latest, is_labeled = find_label_ends(rows, tables)
    return rows.assign(label_end=latest)[is_labeled].reset_index(drop=True)


def select_development(rows: pd.DataFrame, *, holdout_pct: float) -> pd.DataFrame:
    """Return the rows whose labels end before the holdout begins."""
    start = config.call_with(
        find_holdout_start, rows["time"].to_numpy(), block={"holdout_pct": holdout_pct}, name="split"
    )
    return rows[rows["label_end"] < start].reset_index(drop=True)


def explain_missing(guard: str) -> Finding:
    """Return the finding of a guard of a dataset whose rows cannot be recomputed."""
    return Finding(guard, "ok", "not checked: rows come from an export and cannot be recomputed", {})


def make_recompute(compute_parts: Callable[..., Iterator[Features]], block: config.Block) -> Recompute:
    """Return the function from bars to the positions of the rows with features, and their columns, in parts."""

    def recompute(bars: pd.DataFrame) -> Iterator[Part]:
        for part in config.call_with(compute_parts, bars, block=block, name="features"):
            yield part.rows, part.x

    return recompute


def make_relabel(
    make_labels: Callable[..., Labels], block: config.Block, *, delay_bars: int
) -> Callable[[pd.DataFrame], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return the function from bars to the positions of the rows with a label, their y, and their label_end.

    Of several horizons y is (n, horizons).
    """

    def relabel(bars: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        table = make_labels(bars, dict(block), delay_bars=delay_bars).table
        shorter = list_shorter(table.columns)
        y = table[[*shorter, "y"]].to_numpy() if shorter else table["y"].to_numpy()
        row, label_end = (table[name].to_numpy(copy=True) for name in ("row", "label_end"))
        return row, y, label_end  # copies: as views they would hold the whole table

    return relabel


def load_stored_features(features: Path, bars: pd.DataFrame) -> tuple[np.ndarray, FeatureFile]:
    """Return (n,) the positions in `bars` of the rows of a table of features, and its features."""
    return locate_bars(TableFile(features).read(KEY), bars), FeatureFile(features, keys=KEY)


def find_moves(rows: pd.DataFrame, bars: pd.DataFrame) -> np.ndarray:
    """Return (n,) the return of the bar after each of the keys `rows`."""
    return take_next_moves(bars, locate_bars(rows, bars))


def locate_bars(table: pd.DataFrame, bars: pd.DataFrame) -> np.ndarray:
    """Return (n,) the position in `bars` of each row of a table of features or labels."""
    return locate(bars[BAR_KEY].set_axis(KEY, axis=1), table, name="clean bars")


def check_segments(
    bars: pd.DataFrame,
    features: Path,
    files: Sequence[Path],
    *,
    step: int | None,
    number_times: Callable[[np.ndarray], np.ndarray | None],
    warm_up_bars: int,
    has_gates: bool = False,
) -> Iterator[Finding]:
    """Yield the findings of rows with the latest of their labels, and of the runs from which windows are taken.

    `step` is that of the clock's grid. `number_times` gives the numbers of the bars of a calendar, a grid of step
    1. Without any grid the positions in the clean table are one, or with gates those in the table of features.
    """
    time, latest, segment = (
        list_labeled(features, files)[name].to_numpy() for name in ("time", "label_end", "segment")
    )
    known = TableFile(features).read(KEY)
    place = known["time"].to_numpy() if step else locate_bars(known, bars)
    if has_gates:
        place = np.arange(len(known))
    if (numbers := number_times(bars["open_time"].to_numpy())) is not None:
        time, latest = (np.asarray(number_times(each)) for each in (time, latest))
        bars, place, step = bars.assign(open_time=numbers), numbers[place], 1
    yield segments(time, latest, segment, bars=bars, bar_ms=step, warm_up_bars=warm_up_bars)
    segment = known["segment"].to_numpy()
    yield check_window_runs(place, segment, number_runs(segment, np.arange(len(known))), bar_ms=step or 1)


if __name__ == "__main__":
    cli.run(main)
