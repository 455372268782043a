"""featurize <dataset>: every feature column of every bar past its warm-up, as float32."""

import numpy as np
import pandas as pd

from pipeline import workspace
from pipeline.features import engine


def main(dataset: str) -> None:
    """Compute the features of a dataset's clean bars."""
    named = f"datasets.{dataset}.features"
    block = workspace.entry(workspace.params(), named)
    bars = pd.read_parquet(workspace.CLEAN / f"{dataset}.parquet")
    features = workspace.feed(engine.compute, bars, block=block, named=named)
    refuse_nothing(features, bars)
    refuse_non_finite(features, bars)
    kept = bars.iloc[features.rows]
    keys = pd.DataFrame({"segment": kept["segment"].to_numpy(), "time": kept["open_time"].to_numpy()})
    columns = pd.DataFrame(features.x, columns=list(features.columns))
    workspace.write_table(workspace.FEATURES / f"{dataset}.parquet", pd.concat([keys, columns], axis=1))
    workspace.write_json(workspace.report("featurize", dataset), report(features, bars))


def refuse_nothing(features: engine.Features, bars: pd.DataFrame) -> None:
    """Raises ValueError where no segment outlasts the warm-up."""
    if not len(features.rows):
        raise ValueError(
            f"no segment outlasts the warm-up of {max(features.warm_up.values())} bars, the longest has "
            f"{bars['segment'].value_counts().max()}; give more bars or shorter windows"
        )


def refuse_non_finite(features: engine.Features, bars: pd.DataFrame) -> None:
    """Raises ValueError, naming the first column and bar, where a value outside warm-up is not finite."""
    bad = np.argwhere(~np.isfinite(features.x))
    if len(bad):
        row, column = bad[0]
        bar = bars.iloc[features.rows[row]]
        raise ValueError(
            f"{len(bad)} values outside warm-up are not finite; the first is {features.columns[column]} of "
            f"{bar['symbol']} at open_time {bar['open_time']}; finite values are wanted: mend the column's update"
        )


def report(features: engine.Features, bars: pd.DataFrame) -> dict[str, object]:
    """What stands in the table: rows kept and lost to warm-up, and each column's warm-up and spread."""
    x = features.x.astype(np.float64)
    quantiles = np.quantile(x, [0.01, 0.5, 0.99], axis=0)
    return {
        "bars": len(bars),
        "rows": len(features.rows),
        "lost": {"warm_up": len(bars) - len(features.rows)},
        "lost_by_segment": features.dropped,
        "warm_up_bars": max(features.warm_up.values()),
        "columns": {
            name: {
                "lost_by_segment": features.dropped,
                "warm_up_bars": features.warm_up[name],
                "std": float(x[:, i].std()),
                "q01": quantiles[0, i],
                "median": quantiles[1, i],
                "q99": quantiles[2, i],
            }
            for i, name in enumerate(features.columns)
        },
    }


if __name__ == "__main__":
    workspace.run(main)
