"""featurize <dataset>: every feature column of every bar after its warm-up, as float32."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline import artifacts, cli, config, digests
from pipeline.datasets import kinds
from pipeline.datasets.words import Words, find_words
from pipeline.features import cross_section
from pipeline.features.engine import Features
from pipeline.row_groups import TableFile, open_table

log = logging.getLogger(__name__)

MIN_SHARE = 0.9  # of bars that have features: below it, a log entry says what the others lack


def main(dataset: str) -> None:
    """Compute the features of a dataset's clean bars, one part of them after another."""
    name = f"datasets.{dataset}.features"
    params = config.load_params()
    kind, clock = (kinds.import_part(params, dataset, part) for part in ("featurize", "clock"))
    words = find_words(kinds.find_optional_part(params, dataset, "words"))
    block, file = config.look_up(params, name), artifacts.FEATURES / f"{dataset}.parquet"
    clean = TableFile(digests.verify(artifacts.CLEAN / f"{dataset}.parquet"))
    parts = config.call_with(kind.compute_parts, clean, block=block, name=name)
    segments = list_segments(clean)
    with words.adapt_errors():
        features = write_features(parts, clean, file, segments=segments, time=clock.TIME, words=words)
    used = {**block, "groups": list_groups(features)}
    if features.absent_fields:
        used["absent_fields"] = list(features.absent_fields)
    warn_of_columns_left_out(features)
    warn_of_few_rows(features, segments, rows=TableFile(file).rows, words=words)
    report = summarize_features(features, TableFile(file), segments, words=words)
    artifacts.write_report("featurize", dataset, report | {"params": used})


def write_features(
    parts: Iterable[Features], clean: TableFile, file: Path, *, segments: pd.DataFrame, time: str, words: Words
) -> Features:
    """Write the table of features, one part after another; return them without rows, with all that was lost.

    `segments` are those of `clean`, see `list_segments`; `time` is its column with the clock; `words` are those of its
    kind.

    Raises:
        ValueError: no row has features, or a value is not finite.
    """
    keys, faults, lost = clean.read(["segment", time]), Faults(time=time, advice=words.wrong_column), dict[int, int]()
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
        raise_if_empty(features, segments["bars"], rows=writer.rows, advice=words.few_features)
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


def warn_of_few_rows(features: Features, segments: pd.DataFrame, *, rows: int, words: Words) -> None:
    """Log the share of bars with features where it is below MIN_SHARE; `segments` are those of the bars."""
    bars, warm_up = int(segments["bars"].sum()), max(features.warm_up_bars.values())
    if rows < MIN_SHARE * bars:
        message = f"features: {rows:,} of {bars:,} bars have features ({rows / bars:.1%}); each of {len(segments):,} "
        message += f"segments loses a warm-up of {warm_up} bars: {words.few_features}"
        log.warning(words.adapt(message))


def list_groups(features: Features) -> list[str]:
    """Return the compiled groups that were computed: a contract names them, whatever files are added later."""
    return list(dict.fromkeys(features.groups[name] for name in features.columns if name not in features.in_pandas))


def raise_if_empty(features: Features, bars: pd.Series, *, rows: int, advice: str) -> None:
    """Raise ValueError, with an advice, where there are no rows; `bars` has the lengths of the segments."""
    if not rows:
        warm_up, longest = max(features.warm_up_bars.values()), bars.max()
        if longest <= warm_up:
            found = f"no segment is longer than the warm-up of {warm_up} bars, the longest has {longest}"
        else:
            found = f"no row has features, though the longest segment has {longest} bars"
        raise ValueError(f"{found}; {advice}" + (f"; there are {len(bars):,} segments" if len(bars) > 1 else ""))


class Faults:
    """The values after warm-up that are not finite: their number, and the first of them."""

    def __init__(self, *, time: str, advice: str) -> None:
        """Begin without a fault; `time` is the column of bars with the clock, `advice` is `Words.wrong_column`."""
        self.count, self.first, self._time, self._advice = 0, "", time, advice

    def add(self, features: Features, clean: TableFile) -> None:
        """Count the faulty values of some rows of a clean table."""
        is_bad = ~np.isfinite(features.x)
        count = int(np.count_nonzero(is_bad))
        if count and not self.count:
            row, column = np.argwhere(is_bad)[0]
            place, name = int(features.rows[row]), features.columns[column]
            bar = clean.read(["symbol", self._time], start=place, stop=place + 1).iloc[0]
            folder = "in_pandas" if name in features.in_pandas else "groups"
            advice = self._advice.format(column=name, folder=folder, group=features.groups[name])
            self.first = (
                f"{name} of {bar['symbol']} at {self._time} {bar[self._time]}; allowed are finite values: {advice}"
            )
        self.count += count

    def raise_any(self) -> None:
        """Raise ValueError, naming the first column and bar, where a value is not finite."""
        if self.count:
            raise ValueError(f"{self.count} values after warm-up are not finite; the first is {self.first}")


def count_restarts(segments: pd.DataFrame, lost_by_segment: Mapping[int, int], *, words: Words) -> dict[str, object]:
    """Return how often a symbol's features restart, in a new one of its `segments`, and how many rows that costs.

    A segment begins after missing bars, and after a closing where the calendar says so.
    """
    numbers = segments["segment"].tolist()
    rows = sum(lost_by_segment[segment] for segment in numbers[1:])
    bars, count = int(segments["bars"].sum()), len(numbers) - 1
    note = f"{rows} of {bars} bars are the warm-up of the {count} segments after the first"
    return {"count": count, "rows": rows, "note": words.adapt(note)}


def summarize_features(
    features: Features, table: TableFile, segments: pd.DataFrame, *, words: Words
) -> dict[str, object]:
    """Return the counts of rows written and lost to warm-up, and each column's warm-up and distribution.

    `table` has the rows of the features, and is read column by column; `segments` are those of the bars, and `words`
    those of their kind.
    """
    bars = int(segments["bars"].sum())
    return {
        "bars": bars,
        **words.describe_unit(),
        "rows": table.rows,
        "lost": {"warm_up": bars - table.rows},
        "lost_by_segment": features.lost_by_segment,
        "restarts": {
            symbol: count_restarts(part, features.lost_by_segment, words=words)
            for symbol, part in segments.groupby("symbol")
        },
        "left_out": features.left_out,
        "warm_up_bars": max(features.warm_up_bars.values()),
        **({"lookback_bars": max(features.lookback_bars.values())} if features.lookback_bars else {}),
        "columns": {
            name: {
                "group": features.groups[name],
                "streamable": name not in features.in_pandas or features.groups[name] == cross_section.GROUP,
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
