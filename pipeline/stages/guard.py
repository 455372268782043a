"""guard <dataset>: features and labels of a dataset leak nothing, as far as each guard can tell, or the line stops."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline import bars as klines
from pipeline import labels, workspace
from pipeline.features import engine
from pipeline.leakage.features import feature_target, look_ahead, truncation
from pipeline.leakage.findings import Finding, raise_if_critical
from pipeline.leakage.labels import known_at, label_end
from pipeline.leakage.segments import segments, windows
from pipeline.samples import KEY, Samples, aligned, common_rows, contiguous


def main(dataset: str) -> None:
    """Question the features and labels of a dataset."""
    blocks = workspace.params()
    features = workspace.FEATURES / f"{dataset}.parquet"
    files = sorted((workspace.LABELS / dataset).glob("*.parquet"))
    bars = pd.read_parquet(workspace.CLEAN / f"{dataset}.parquet")
    block, named = workspace.entry(blocks, "guard"), "guard"
    about = workspace.entry(blocks, f"datasets.{dataset}")
    asked = list(workspace.feed(of_values, bars, features, files, about, blocks["seed"], block=block, named=named))
    warm_up_bars = workspace.read_json(workspace.report("featurize", dataset))["warm_up_bars"]
    asked += of_segments(bars, features, files, warm_up_bars=warm_up_bars)
    workspace.write_json(workspace.report("guard", dataset), {"guards": [asdict(finding) for finding in asked]})
    raise_if_critical(asked)


def of_values(
    bars: pd.DataFrame,
    features: Path,
    files: Sequence[Path],
    about: workspace.Block,
    seed: int,
    *,
    cuts: int,
    look_ahead_ratio: float,
    look_ahead_floor: float,
    correlation_threshold: float,
) -> Iterator[Finding]:
    """What the guards say of columns and targets, computed anew and as written; one table of features at a time."""
    recompute = recomputing(about["features"])
    yield truncation(bars, recompute, *written(features, bars), cuts=cuts, seed=seed)
    rows = common_rows([pd.read_parquet(file, columns=KEY) for file in (features, *files)])
    for number, file in enumerate(files):
        samples, target = Samples.load(features, file, rows=rows), file.stem
        x, columns = samples.x, samples.columns
        if not number:  # moves are the same whatever the target
            yield look_ahead(x, columns, samples.move, samples.segment, ratio=look_ahead_ratio, floor=look_ahead_floor)
        yield feature_target(x, columns, samples.y, target, threshold=correlation_threshold)
    for file in files:
        yield label_end(bars, relabelling(about["targets"][file.stem]), file.stem, cuts=cuts, seed=seed)
        table = pd.read_parquet(file, columns=[*KEY, "label_end", "move"])
        yield known_at(bars, positions(table, bars), table["label_end"].to_numpy(), table["move"].to_numpy())


def recomputing(block: workspace.Block) -> Callable[[pd.DataFrame], tuple[np.ndarray, np.ndarray]]:
    """What turns bars into features anew: the positions of the rows kept, and their columns."""

    def recompute(bars: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        features = workspace.feed(engine.compute, bars, block=block, named="features")
        return features.rows, features.x

    return recompute


def relabelling(block: workspace.Block) -> Callable[[pd.DataFrame], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """What turns bars into labels anew: the positions of the rows that have one, their y, and their label_end."""

    def relabel(bars: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        table = labels.build(bars, dict(block)).table
        return table["row"].to_numpy(), table["y"].to_numpy(), table["label_end"].to_numpy()

    return relabel


def written(features: Path, bars: pd.DataFrame) -> tuple[tuple[np.ndarray, np.ndarray], tuple[str, ...]]:
    """The table of features on disk: ((n,) positions in `bars`, (n, F) float32), and the names of its columns."""
    table = pd.read_parquet(features)
    columns = tuple(name for name in table.columns if name not in KEY)
    return (positions(table, bars), table[list(columns)].to_numpy(np.float32)), columns


def positions(table: pd.DataFrame, bars: pd.DataFrame) -> np.ndarray:
    """(n,) the place in `bars` of each row of a table of features or labels."""
    places = bars[["segment", "open_time"]].set_axis(KEY, axis=1).assign(position=np.arange(len(bars)))
    return aligned(places, table, named="clean bars")["position"].to_numpy()


def of_segments(bars: pd.DataFrame, features: Path, files: Sequence[Path], *, warm_up_bars: int) -> Iterator[Finding]:
    """What the guard of segments says of rows with their latest labels, and of the runs that windows are cut from."""
    ends = [pd.read_parquet(file, columns=[*KEY, "label_end"]) for file in files]
    rows = common_rows([pd.read_parquet(features, columns=KEY), *ends])
    latest = np.max([aligned(table, rows, named="labels")["label_end"] for table in ends], axis=0)
    bar_ms, segment = klines.interval_ms(bars), rows["segment"].to_numpy()
    time, run = rows["time"].to_numpy(), contiguous(rows)
    yield segments(time, latest, segment, bars=bars, bar_ms=bar_ms, warm_up_bars=warm_up_bars)
    yield windows(time, segment=segment, run=run, bar_ms=bar_ms)


if __name__ == "__main__":
    workspace.run(main)
