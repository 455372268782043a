"""guard <dataset>: features and labels of a dataset leak nothing, as far as each guard can tell, or the line stops."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict

import numpy as np
import pandas as pd

from pipeline import bars as klines
from pipeline import workspace
from pipeline.features import engine
from pipeline.leakage.features import feature_target, look_ahead, truncation
from pipeline.leakage.findings import Finding, raise_if_critical
from pipeline.leakage.segments import segments, windows
from pipeline.samples import KEY, Samples, common_rows, contiguous


def main(dataset: str) -> None:
    """Question the features and labels of a dataset."""
    blocks = workspace.params()
    features = workspace.FEATURES / f"{dataset}.parquet"
    files = sorted((workspace.LABELS / dataset).glob("*.parquet"))
    rows = common_rows([pd.read_parquet(file, columns=KEY) for file in (features, *files)])
    targets = {file.stem: Samples.load(features, file, rows=rows) for file in files}
    bars = pd.read_parquet(workspace.CLEAN / f"{dataset}.parquet")
    block = workspace.entry(blocks, f"datasets.{dataset}.features")
    warm_up_bars = workspace.read_json(workspace.report("featurize", dataset))["warm_up_bars"]
    asked = [
        *workspace.feed(
            of_features,
            bars,
            targets,
            recomputing(block),
            blocks["seed"],
            block=workspace.entry(blocks, "guard"),
            named="guard",
        ),
        *of_segments(bars, targets, rows, warm_up_bars=warm_up_bars),
    ]
    workspace.write_json(workspace.report("guard", dataset), {"guards": [asdict(finding) for finding in asked]})
    raise_if_critical(asked)


def recomputing(block: workspace.Block) -> Callable[[pd.DataFrame], tuple[np.ndarray, np.ndarray]]:
    """What turns bars into features anew: the positions of the rows kept, and their columns."""

    def recompute(bars: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        features = workspace.feed(engine.compute, bars, block=block, named="features")
        return features.rows, features.x

    return recompute


def of_features(
    bars: pd.DataFrame,
    targets: Mapping[str, Samples],
    recompute: Callable[[pd.DataFrame], tuple[np.ndarray, np.ndarray]],
    seed: int,
    *,
    truncation_cuts: int,
    look_ahead_ratio: float,
    look_ahead_floor: float,
    correlation_threshold: float,
) -> Iterator[Finding]:
    """What the guards say of the columns: of themselves, beside the moves to come, and beside each target."""
    any_target = next(iter(targets.values()))
    x, columns, segment = any_target.x, any_target.columns, any_target.segment
    yield truncation(bars, recompute, columns, cuts=truncation_cuts, seed=seed)
    yield look_ahead(x, columns, any_target.move, segment, ratio=look_ahead_ratio, floor=look_ahead_floor)
    for name, samples in targets.items():
        yield feature_target(x, columns, samples.y, name, threshold=correlation_threshold)


def of_segments(
    bars: pd.DataFrame, targets: Mapping[str, Samples], rows: pd.DataFrame, *, warm_up_bars: int
) -> Iterator[Finding]:
    """What the guard of segments says of rows with their latest labels, and of the runs that windows are cut from."""
    bar_ms, segment = klines.interval_ms(bars), rows["segment"].to_numpy()
    label_end = np.max([samples.label_end for samples in targets.values()], axis=0)
    time, run = rows["time"].to_numpy(), contiguous(rows)
    yield segments(time, label_end, segment, bars=bars, bar_ms=bar_ms, warm_up_bars=warm_up_bars)
    yield windows(time, segment=segment, run=run, bar_ms=bar_ms)


if __name__ == "__main__":
    workspace.run(main)
