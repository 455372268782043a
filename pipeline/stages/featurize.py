"""featurize <dataset>: every feature column of every bar after its warm-up, as float32."""

import logging
from collections.abc import Mapping

import numpy as np
import pandas as pd

from pipeline import artifacts, cli, config
from pipeline.datasets import kinds
from pipeline.features import engine
from pipeline.features.catalogue import PRESETS

log = logging.getLogger(__name__)


def main(dataset: str) -> None:
    """Compute the features of a dataset's clean bars."""
    name = f"datasets.{dataset}.features"
    params = config.load_params()
    kind, clock = (kinds.import_part(params, dataset, part) for part in ("featurize", "clock"))
    block = config.look_up(params, name)
    bars = artifacts.read_table(artifacts.CLEAN / f"{dataset}.parquet")
    features = config.call_with(kind.compute, bars, block=block, name=name)
    raise_if_empty(features, bars)
    raise_if_not_finite(features, bars, time=clock.TIME)
    rows = bars.iloc[features.rows]
    keys = pd.DataFrame({"segment": rows["segment"].to_numpy(), "time": rows[clock.TIME].to_numpy()})
    columns = pd.DataFrame(features.x, columns=list(features.columns))
    table = pd.concat([keys, columns], axis=1)
    table.attrs |= {"groups": features.groups, "presets": PRESETS, "left_out": features.left_out}  # parquet keeps them
    artifacts.write_table(artifacts.FEATURES / f"{dataset}.parquet", table)
    used = {**block, "groups": list_groups(features)}
    if features.absent_fields:
        used["absent_fields"] = list(features.absent_fields)
    warn_of_columns_left_out(features)
    artifacts.write_report("featurize", dataset, summarize_features(features, bars) | {"params": used})


def warn_of_columns_left_out(features: engine.Features) -> None:
    """Log the columns that are not computed, by the field that the bars lack."""
    for field in dict.fromkeys(features.left_out.values()):
        names = [name for name, needed in features.left_out.items() if needed == field]
        log.warning(f"features: {', '.join(names)} left out, since the bars have no {field}; add it to compute them")


def list_groups(features: engine.Features) -> list[str]:
    """Return the compiled groups that were computed: a contract names them, whatever files are added later."""
    return list(dict.fromkeys(features.groups[name] for name in features.columns if name not in features.in_pandas))


def raise_if_empty(features: engine.Features, bars: pd.DataFrame) -> None:
    """Raise ValueError where no segment is longer than the warm-up."""
    if not len(features.rows):
        raise ValueError(
            f"no segment is longer than the warm-up of {max(features.warm_up_bars.values())} bars, the longest has "
            f"{bars['segment'].value_counts().max()}; give more bars or shorter windows"
        )


def raise_if_not_finite(features: engine.Features, bars: pd.DataFrame, *, time: str) -> None:
    """Raise ValueError, naming the first column and bar, where a value after warm-up is not finite.

    `time` is the column of `bars` with the clock.
    """
    bad = np.argwhere(~np.isfinite(features.x))
    if len(bad):
        row, column = bad[0]
        bar, name = bars.iloc[features.rows[row]], features.columns[column]
        folder = "in_pandas" if name in features.in_pandas else "groups"
        raise ValueError(
            f"{len(bad)} values after warm-up are not finite; the first is {name} of {bar['symbol']} at {time} "
            f"{bar[time]}; allowed are finite values: correct the column in pipeline/features/{folder}/"
            f"{features.groups[name]}.py, or its warm-up"
        )


def count_restarts(bars: pd.DataFrame, lost_by_segment: Mapping[int, int]) -> dict[str, object]:
    """Return how often a symbol's features restart, in a new segment, and how many rows that costs.

    A segment begins after missing bars, and after a closing where the calendar says so.
    """
    segments = bars["segment"].unique().tolist()
    rows = sum(lost_by_segment[segment] for segment in segments[1:])
    note = f"{rows} of {len(bars)} bars are the warm-up of the {len(segments) - 1} segments after the first"
    return {"count": len(segments) - 1, "rows": rows, "note": note}


def summarize_features(features: engine.Features, bars: pd.DataFrame) -> dict[str, object]:
    """Return the counts of rows written and lost to warm-up, and each column's warm-up and distribution."""
    x = features.x.astype(np.float64)
    quantiles = np.quantile(x, [0.01, 0.5, 0.99], axis=0)
    return {
        "bars": len(bars),
        "rows": len(features.rows),
        "lost": {"warm_up": len(bars) - len(features.rows)},
        "lost_by_segment": features.lost_by_segment,
        "restarts": {
            symbol: count_restarts(part, features.lost_by_segment)
            for symbol, part in bars.groupby("symbol", observed=True)
        },
        "left_out": features.left_out,
        "warm_up_bars": max(features.warm_up_bars.values()),
        "columns": {
            name: {
                "group": features.groups[name],
                "streamable": name not in features.in_pandas,
                "warm_up_bars": features.warm_up_bars[name],
                "std": float(x[:, i].std()),
                "q01": quantiles[0, i],
                "median": quantiles[1, i],
                "q99": quantiles[2, i],
            }
            for i, name in enumerate(features.columns)
        },
    }


if __name__ == "__main__":
    cli.run(main)
