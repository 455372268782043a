"""guard <dataset>: stop the pipeline where features or labels of a dataset leak."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd

from pipeline import artifacts, cli, config, digests
from pipeline.datasets import kinds
from pipeline.features.engine import Features
from pipeline.labels import Labels
from pipeline.leakage.features import look_ahead, take_next_moves, target_leakage, truncation
from pipeline.leakage.findings import Finding, raise_if_critical
from pipeline.leakage.labels import label_end, label_timing
from pipeline.leakage.segments import check_window_runs, segments
from pipeline.leakage.settings import GuardSettings
from pipeline.samples import KEY, Samples, align, intersect_rows, number_runs
from pipeline.trading_rules import read_order_delay
from pipeline.validation.scheme import find_holdout_start


def main(dataset: str) -> None:
    """Run the guards of features, labels and segments on a dataset."""
    params = config.load_params()
    features = digests.verify(artifacts.FEATURES / f"{dataset}.parquet")
    files = artifacts.list_labels(dataset, config.look_up(params, f"datasets.{dataset}.targets"))
    kind, clock = (kinds.import_part(params, dataset, part) for part in ("guard", "clock"))
    clean = artifacts.read_table(artifacts.CLEAN / f"{dataset}.parquet")
    bars = clean.rename(columns={clock.TIME: "open_time"})  # the name that guards know the clock by
    settings = config.call_with(GuardSettings, block=config.look_up(params, "guard"), name="guard")
    described = config.look_up(params, f"datasets.{dataset}")
    context = {"holdout_pct": config.look_up(params, "split.holdout_pct"), "delay_bars": read_order_delay(params)}
    findings = list(check_values(kind, bars, features, files, described, settings, **context, seed=params["seed"]))
    warm_up_bars = artifacts.read_report("featurize", dataset)["warm_up_bars"]
    grid = {"step": clock.find_step(clean), "number_times": partial(clock.number_times, clean)}
    findings += check_segments(bars, features, files, **grid, warm_up_bars=warm_up_bars)
    artifacts.write_report("guard", dataset, {"findings": list(map(asdict, findings))})
    raise_if_critical(findings)


def check_values(
    kind: ModuleType,
    bars: pd.DataFrame,
    features: Path,
    files: Sequence[Path],
    described: config.Block,
    settings: GuardSettings,
    *,
    holdout_pct: float,
    delay_bars: int,
    seed: int,
) -> Iterator[Finding]:
    """Yield the findings of columns and targets, recomputed and as stored; one table of features is held at a time.

    No label of the last `holdout_pct` of the times is correlated with anything: the holdout is sealed. `delay_bars` are
    those of the orders, on which the label of a position depends.
    """
    if kind.compute is None:
        yield explain_missing("truncation")
    else:
        recompute = make_recompute(kind.compute, described["features"])
        yield truncation(bars, recompute, *load_stored_features(features, bars), cuts=settings.cuts, seed=seed)
    rows = select_development(list_labeled(features, files), holdout_pct=holdout_pct)
    for number, file in enumerate(files):
        samples, target = Samples.load(features, file, rows=rows), file.stem
        x, columns = samples.x, samples.columns
        if not number:  # the next bar's move does not depend on the target
            limits = {"ratio": settings.look_ahead_ratio, "floor": settings.look_ahead_floor}
            yield look_ahead(x, columns, take_next_moves(bars, locate_bars(rows, bars)), samples.segment, **limits)
        yield target_leakage(x, columns, samples.y, target, threshold=settings.correlation_threshold)
    for file in files:
        if kind.make_labels is None:
            yield explain_missing("label_end")
        else:
            relabel = make_relabel(kind.make_labels, described["targets"][file.stem], delay_bars=delay_bars)
            yield label_end(bars, relabel, file.stem, cuts=settings.cuts, seed=seed)
        table = pd.read_parquet(file, columns=[*KEY, "label_end"])
        yield label_timing(bars, locate_bars(table, bars), table["label_end"].to_numpy())


def list_labeled(features: Path, files: Sequence[Path]) -> pd.DataFrame:
    """Return the keys of the rows that have features and a label of every target, with their latest label_end."""
    ends = [pd.read_parquet(file, columns=[*KEY, "label_end"]) for file in files]
    rows = intersect_rows([pd.read_parquet(features, columns=KEY), *ends])
    return rows.assign(label_end=np.max([align(table, rows, name="labels")["label_end"] for table in ends], axis=0))


def select_development(rows: pd.DataFrame, *, holdout_pct: float) -> pd.DataFrame:
    """Return the rows whose labels end before the holdout begins."""
    start = config.call_with(
        find_holdout_start, rows["time"].to_numpy(), block={"holdout_pct": holdout_pct}, name="split"
    )
    return rows[rows["label_end"] < start].reset_index(drop=True)


def explain_missing(guard: str) -> Finding:
    """Return the finding of a guard of a dataset whose rows cannot be recomputed."""
    return Finding(guard, "ok", "not checked: rows come from an export and cannot be recomputed", {})


def make_recompute(
    compute: Callable[..., Features], block: config.Block
) -> Callable[[pd.DataFrame], tuple[np.ndarray, np.ndarray]]:
    """Return the function from bars to the positions of the rows with features, and their columns."""

    def recompute(bars: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        features = config.call_with(compute, bars, block=block, name="features")
        return features.rows, features.x

    return recompute


def make_relabel(
    make_labels: Callable[..., Labels], block: config.Block, *, delay_bars: int
) -> Callable[[pd.DataFrame], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return the function from bars to the positions of the rows with a label, their y, and their label_end."""

    def relabel(bars: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        table = make_labels(bars, dict(block), delay_bars=delay_bars).table
        return table["row"].to_numpy(), table["y"].to_numpy(), table["label_end"].to_numpy()

    return relabel


def load_stored_features(features: Path, bars: pd.DataFrame) -> tuple[tuple[np.ndarray, np.ndarray], tuple[str, ...]]:
    """Return the stored features as ((n,) positions in `bars`, (n, F) float32), and the names of the columns."""
    table = pd.read_parquet(features)
    columns = tuple(name for name in table.columns if name not in KEY)
    return (locate_bars(table, bars), table[list(columns)].to_numpy(np.float32)), columns


def locate_bars(table: pd.DataFrame, bars: pd.DataFrame) -> np.ndarray:
    """Return (n,) the position in `bars` of each row of a table of features or labels."""
    positions = bars[["segment", "open_time"]].set_axis(KEY, axis=1).assign(position=np.arange(len(bars)))
    return align(positions, table, name="clean bars")["position"].to_numpy()


def check_segments(
    bars: pd.DataFrame,
    features: Path,
    files: Sequence[Path],
    *,
    step: int | None,
    number_times: Callable[[np.ndarray], np.ndarray | None],
    warm_up_bars: int,
) -> Iterator[Finding]:
    """Yield the findings of rows with the latest of their labels, and of the runs from which windows are taken.

    `step` is that of the clock's grid. `number_times` gives the numbers of the bars of a calendar, a grid of step
    1. Without any grid the positions in the clean table are one.
    """
    time, latest, segment = (
        list_labeled(features, files)[name].to_numpy() for name in ("time", "label_end", "segment")
    )
    known = pd.read_parquet(features, columns=KEY)
    place = known["time"].to_numpy() if step else locate_bars(known, bars)
    if (numbers := number_times(bars["open_time"].to_numpy())) is not None:
        time, latest = (np.asarray(number_times(each)) for each in (time, latest))
        bars, place, step = bars.assign(open_time=numbers), numbers[place], 1
    yield segments(time, latest, segment, bars=bars, bar_ms=step, warm_up_bars=warm_up_bars)
    segment = known["segment"].to_numpy()
    yield check_window_runs(place, segment, number_runs(segment, np.arange(len(known))), bar_ms=step or 1)


if __name__ == "__main__":
    cli.run(main)
