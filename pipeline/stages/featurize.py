"""featurize <dataset>: every feature column of every bar after its warm-up, as float32."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline import artifacts, cli, config, digests
from pipeline.datasets import kinds
from pipeline.features.engine import Features
from pipeline.row_groups import TableFile, open_table

log = logging.getLogger(__name__)

ADVICE = (
    "where the source leaves out bars without trades, fill them with the last close and volume 0 "
    "(sources.file.fill_gaps_bars)"
)
MIN_SHARE = 0.9  # of bars that have features: below it, a log entry says what the others lack


def main(dataset: str) -> None:
    """Compute the features of a dataset's clean bars, one part of them after another."""
    name = f"datasets.{dataset}.features"
    params = config.load_params()
    kind, clock = (kinds.import_part(params, dataset, part) for part in ("featurize", "clock"))
    block, file = config.look_up(params, name), artifacts.FEATURES / f"{dataset}.parquet"
    clean = TableFile(digests.verify(artifacts.CLEAN / f"{dataset}.parquet"))
    parts = config.call_with(kind.compute_parts, clean, block=block, name=name)
    segments = list_segments(clean)
    features = write_features(parts, clean, file, segments=segments, time=clock.TIME)
    used = {**block, "groups": list_groups(features)}
    if features.absent_fields:
        used["absent_fields"] = list(features.absent_fields)
    warn_of_columns_left_out(features)
    warn_of_few_rows(features, segments, rows=TableFile(file).rows)
    report = summarize_features(features, TableFile(file), segments)
    artifacts.write_report("featurize", dataset, report | {"params": used})


def write_features(
    parts: Iterable[Features], clean: TableFile, file: Path, *, segments: pd.DataFrame, time: str
) -> Features:
    """Write the table of features, one part after another; return them without rows, with all that was lost.

    `segments` are those of `clean`, see `list_segments`; `time` is its column with the clock.

    Raises:
        ValueError: no row has features, or a value is not finite.
    """
    keys, faults, lost = clean.read(["segment", time]), Faults(time=time), dict[int, int]()
    segment, times = keys["segment"].to_numpy(), keys[time].to_numpy()
    with open_table(file) as writer:
        for part in parts:
            for number, rows in part.lost_by_segment.items():
                lost[number] = lost.get(number, 0) + rows
            if len(part.rows) or not writer.rows:
                features = replace(part, x=np.empty((0, part.x.shape[1]), np.float32), rows=np.arange(0))
            if len(part.rows):
                faults.add(part, clean)
                table = pd.DataFrame(part.x, columns=list(part.columns))
                table.insert(0, "segment", segment[part.rows])
                table.insert(1, "time", times[part.rows])
                table.attrs |= {"groups": part.groups, "presets": part.presets, "left_out": part.left_out}
                writer.append(table)
        raise_if_empty(features, segments["bars"], rows=writer.rows)
        faults.raise_any()
    return replace(features, lost_by_segment=lost)


def list_segments(clean: TableFile) -> pd.DataFrame:
    """Return the `segment`, the `symbol` and the number of `bars` of each segment of a clean table, in its order."""
    segment = clean.read(["segment"])["segment"].to_numpy()
    starts = np.flatnonzero(np.append(True, segment[1:] != segment[:-1]))
    symbol = clean.read(["symbol"])["symbol"].iloc[starts].to_numpy()
    return pd.DataFrame(
        {"segment": segment[starts], "symbol": symbol, "bars": np.diff(np.append(starts, len(segment)))}
    )


def warn_of_columns_left_out(features: Features) -> None:
    """Log the columns that are not computed, by the field that the bars lack."""
    for field in dict.fromkeys(features.left_out.values()):
        names = [name for name, needed in features.left_out.items() if needed == field]
        log.warning(f"features: {', '.join(names)} left out, since the bars have no {field}; add it to compute them")


def warn_of_few_rows(features: Features, segments: pd.DataFrame, *, rows: int) -> None:
    """Log the share of bars with features where it is below MIN_SHARE; `segments` are those of the bars."""
    bars, warm_up = int(segments["bars"].sum()), max(features.warm_up_bars.values())
    if rows < MIN_SHARE * bars:
        log.warning(
            f"features: {rows:,} of {bars:,} bars have features ({rows / bars:.1%}); each of {len(segments):,} "
            f"segments loses a warm-up of {warm_up} bars: {ADVICE}, or give more bars or shorter windows"
        )


def list_groups(features: Features) -> list[str]:
    """Return the compiled groups that were computed: a contract names them, whatever files are added later."""
    return list(dict.fromkeys(features.groups[name] for name in features.columns if name not in features.in_pandas))


def raise_if_empty(features: Features, bars: pd.Series, *, rows: int) -> None:
    """Raise ValueError where there are no rows: no segment, of which `bars` has the lengths, outlasts the warm-up."""
    if not rows:
        raise ValueError(
            f"no segment is longer than the warm-up of {max(features.warm_up_bars.values())} bars, the longest has "
            f"{bars.max()}; give more bars or shorter windows"
            + (f"; there are {len(bars):,} segments: {ADVICE}" if len(bars) > 1 else "")
        )


class Faults:
    """The values after warm-up that are not finite: their number, and the first of them."""

    def __init__(self, *, time: str) -> None:
        """Begin without a fault; `time` is the column of bars with the clock."""
        self.count, self.first, self._time = 0, "", time

    def add(self, features: Features, clean: TableFile) -> None:
        """Count the faulty values of some rows of a clean table."""
        is_bad = ~np.isfinite(features.x)
        count = int(np.count_nonzero(is_bad))
        if count and not self.count:
            row, column = np.argwhere(is_bad)[0]
            place, name = int(features.rows[row]), features.columns[column]
            bar = clean.read(["symbol", self._time], start=place, stop=place + 1).iloc[0]
            folder = "in_pandas" if name in features.in_pandas else "groups"
            self.first = (
                f"{name} of {bar['symbol']} at {self._time} {bar[self._time]}; allowed are finite values: correct the "
                f"column in pipeline/features/{folder}/{features.groups[name]}.py, or its warm-up"
            )
        self.count += count

    def raise_any(self) -> None:
        """Raise ValueError, naming the first column and bar, where a value is not finite."""
        if self.count:
            raise ValueError(f"{self.count} values after warm-up are not finite; the first is {self.first}")


def count_restarts(segments: pd.DataFrame, lost_by_segment: Mapping[int, int]) -> dict[str, object]:
    """Return how often a symbol's features restart, in a new one of its `segments`, and how many rows that costs.

    A segment begins after missing bars, and after a closing where the calendar says so.
    """
    numbers = segments["segment"].tolist()
    rows = sum(lost_by_segment[segment] for segment in numbers[1:])
    bars, count = int(segments["bars"].sum()), len(numbers) - 1
    note = f"{rows} of {bars} bars are the warm-up of the {count} segments after the first"
    return {"count": count, "rows": rows, "note": note}


def summarize_features(features: Features, table: TableFile, segments: pd.DataFrame) -> dict[str, object]:
    """Return the counts of rows written and lost to warm-up, and each column's warm-up and distribution.

    `table` has the rows of the features, and is read column by column; `segments` are those of the bars.
    """
    bars = int(segments["bars"].sum())
    return {
        "bars": bars,
        "rows": table.rows,
        "lost": {"warm_up": bars - table.rows},
        "lost_by_segment": features.lost_by_segment,
        "restarts": {
            symbol: count_restarts(part, features.lost_by_segment) for symbol, part in segments.groupby("symbol")
        },
        "left_out": features.left_out,
        "warm_up_bars": max(features.warm_up_bars.values()),
        **({"lookback_bars": max(features.lookback_bars.values())} if features.lookback_bars else {}),
        "columns": {
            name: {
                "group": features.groups[name],
                "streamable": name not in features.in_pandas,
                "warm_up_bars": features.warm_up_bars[name],
                **summarize_column(table.read([name])[name].to_numpy(np.float64)),
            }
            for name in features.columns
        },
    }


def summarize_column(values: np.ndarray) -> dict[str, float]:
    """Return the standard deviation and three quantiles of a column."""
    std = float(values.std())
    low, median, high = np.quantile(values, [0.01, 0.5, 0.99], overwrite_input=True)
    return {"std": std, "q01": float(low), "median": float(median), "q99": float(high)}


if __name__ == "__main__":
    cli.run(main)
