"""Write the rows and labels of a dataset of order books as npy: sequences and labels by day, and a manifest.

Files are {split}/{day}_sequences.npy, float32 (N, T, 98), {day}_labels.npy, int8 (N,) or (N, horizons), and
dataset_manifest.json. A sequence has consecutive rows of one segment, which all pass the gates, and ends with a row
that has a label of every target. Days are whole in one split. The same data and arguments give the same bytes.
"""

import argparse
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline import artifacts, cli, config, digests
from pipeline.orderbook.columns import COLUMNS, GATES
from pipeline.orderbook.exports.files import EXPORTS, SPLITS
from pipeline.orderbook.exports.manifest import CLASSES, MANIFEST, SCHEMA_VERSION, STRATEGY_CODES
from pipeline.orderbook.exports.records import Run
from pipeline.orderbook.exports.sequences import UNLABELED, Ints, find_runs, place_starts
from pipeline.row_groups import TableFile
from pipeline.samples import KEY, locate, number_runs
from pipeline.targets import Target

TARGET_STRATEGIES = {"smoothed": "tlob", "barrier": "triple_barrier", "opportunity": "opportunity"}  # by kind
WINDOW_KEY = "window"  # of a smoothed target
HELD_OUT = 0.15  # of the days, in val and in test, at least one each of three days or more
BLOCK = 512  # sequences that are written at once


@dataclass(frozen=True, kw_only=True)
class Labeling:
    """The strategy, targets and horizons of the labels of an export."""

    strategy: str
    targets: tuple[str, ...]  # by horizon
    horizons: tuple[int, ...]
    smoothing_window: int | None


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of one symbol in a table of features that pass the gates, in its order."""

    position: Ints  # (n,) in the table
    run: npt.NDArray[np.int32]  # (n,) of consecutive rows of the clean table
    place: Ints  # (n,) in the clean table
    segment: Ints
    day: npt.NDArray[np.object_]
    is_used: npt.NDArray[np.bool_]  # (n,) whether a sequence may end here
    classes: npt.NDArray[np.int8]  # (n, horizons)


@dataclass(frozen=True, eq=False)
class DayPlan:
    """The sequences of one day."""

    split: str
    day: str
    start: Ints  # (N,) the row in the table of features that each begins with
    classes: npt.NDArray[np.int8]  # (N, horizons)
    runs: list[Run]


def write_export(
    dataset: str,
    folder: Path,
    *,
    targets: Collection[str] = (),
    symbol: str | None = None,
    sequence_length: int = 100,
    stride: int = 10,
) -> dict[str, Any]:
    """Write the export of a dataset to `folder`, which it replaces as a whole; return its manifest.

    `targets` are those whose labels are written, of one strategy; none: all that have three classes.

    Raises:
        ValueError: the dataset lacks one of the 98 columns, has no such target or symbol, or no sequence has a label;
            or the folder has files and is no export.
    """
    is_empty = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not is_empty and not (folder / MANIFEST).is_file():
        raise ValueError(f"{folder} exists and is no export, and would be removed as a whole; name another by --folder")
    if min(sequence_length, stride) < 1:
        raise ValueError(f"sequence_length {sequence_length}, stride {stride}: both must be at least 1")
    features = TableFile(digests.verify(artifacts.FEATURES / f"{dataset}.parquet"))
    if missing := [name for name in COLUMNS if name not in features.schema.names]:
        raise ValueError(
            f"{features.path}: lacks {', '.join(missing)}; set datasets.{dataset}.features.columns to full"
        )
    clean = TableFile(digests.verify(artifacts.CLEAN / f"{dataset}.parquet"))
    keys = clean.read(["symbol", "day", "split", "segment", "event"])
    symbol = choose_symbol(keys["symbol"].unique().tolist(), symbol)
    if config.look_up(config.load_params(), f"datasets.{dataset}.features").get("normalization"):
        raise ValueError(
            f"datasets.{dataset}.features.normalization is set; an export has plain values: set it to null"
        )
    labeling = choose_labeling(dataset, targets, exported=clean.attributes.get("export"))
    files = artifacts.list_labels(dataset, labeling.targets)
    by_name = {file.stem: file for file in files}
    rows, reach = read_rows(features, keys, [by_name[name] for name in labeling.targets], symbol=symbol)
    plans = plan_days(rows, split_days(keys[keys["symbol"] == symbol]), length=sequence_length, stride=stride)
    if not plans:
        raise ValueError(f"{dataset}: no sequence of {sequence_length} rows ends with a row that has every label")
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "symbol": symbol,
        "sequence_length": sequence_length,
        "stride": stride,
        "feature_count": len(COLUMNS),
        "columns": list(COLUMNS),
        "normalization": {"strategy": "none", "applied": False},
        "labeling": describe_labeling(labeling, reach),
        "splits": {split: [plan.day for plan in plans if plan.split == split] for split in SPLITS},
    }
    with artifacts.replace_atomically(folder) as draft:
        draft.mkdir()
        records = [record for plan in plans for record in write_day(draft, plan, features, manifest).items()]
        manifest["files"] = dict(records)
        text = digests.add_report_digest(json.dumps(manifest, indent=2) + "\n")
        (draft / MANIFEST).write_text(text, encoding="utf-8")
    return manifest


def choose_symbol(symbols: Sequence[str], symbol: str | None) -> str:
    """Return the symbol that is exported; ValueError where there is none of that name, or several and none is named."""
    if symbol is None and len(symbols) == 1:
        return symbols[0]
    if symbol not in symbols:
        raise ValueError(f"symbol is {symbol}; an export has one of {', '.join(symbols)}: name it by --symbol")
    return str(symbol)


def choose_labeling(dataset: str, names: Collection[str], *, exported: Mapping[str, Any] | None) -> Labeling:
    """Return the targets whose labels are written, by horizon; `exported` describes those of a dataset of exports.

    Raises:
        ParamsError: a target does not exist, has not three classes, or they are of several strategies or one horizon.
    """
    path = f"datasets.{dataset}.targets"
    blocks = config.look_up(config.load_params(), path)
    if unknown := [name for name in names if name not in blocks]:
        raise config.ParamsError(f"{path}: there are no {', '.join(unknown)}; there are {', '.join(blocks)}")
    strategies = {
        name: exported["strategy"] if exported else TARGET_STRATEGIES.get(str(block.get("kind")))
        for name, block in blocks.items()
        if name in (names or blocks)
    }
    chosen = {name: strategy for name, strategy in strategies.items() if strategy or names}
    if len(set(chosen.values()) - {None}) != 1 or None in chosen.values():
        raise config.ParamsError(
            f"{path}: {', '.join(strategies)} are not of one strategy; an export has targets of one kind of "
            f"{', '.join(TARGET_STRATEGIES)}: name them by --targets"
        )
    horizon = {name: int(blocks[name]["horizon"]) for name in chosen}
    if len(set(horizon.values())) < len(horizon):
        raise config.ParamsError(f"{path}: two of {', '.join(chosen)} have one horizon; name others by --targets")
    ordered = tuple(sorted(chosen, key=lambda name: horizon[name]))
    windows = {exported["smoothing_window"] if exported else blocks[name].get(WINDOW_KEY) for name in ordered}
    if len(windows) > 1:
        raise config.ParamsError(f"{path}: {', '.join(ordered)} have several windows; name targets of one by --targets")
    return Labeling(
        strategy=str(chosen[ordered[0]]),
        targets=ordered,
        horizons=tuple(horizon[name] for name in ordered),
        smoothing_window=windows.pop(),
    )


def describe_labeling(labeling: Labeling, reach: Sequence[int]) -> dict[str, Any]:
    """Return the section `labeling` of a manifest."""
    return {
        "strategy": labeling.strategy,
        "horizons": list(labeling.horizons),
        "reach": list(reach),
        "smoothing_window": labeling.smoothing_window,
        "codes": {str(code): word for code, word in zip(STRATEGY_CODES[labeling.strategy], CLASSES, strict=True)},
    }


def read_rows(
    features: TableFile, keys: pd.DataFrame, labels: Sequence[Path], *, symbol: str
) -> tuple[Rows, list[int]]:
    """Return the rows of a symbol, and for each file of labels the most rows after its own that a label uses."""
    known = features.read([*KEY, *(COLUMNS[column] for column in GATES)])
    clean = keys.rename(columns={"event": "time"})
    place = locate(clean[KEY], known[KEY], name=str(artifacts.CLEAN))
    passes = np.all([known[COLUMNS[i]].to_numpy() == np.float32(value) for i, value in GATES.items()], axis=0)
    classes = np.full((len(known), len(labels)), UNLABELED, np.int8)
    event, reach = clean["time"].to_numpy(), []
    for column, file in enumerate(labels):
        check_classes(Target.load(file))
        table = TableFile(file).read([*KEY, "label_end", "y"])
        row = locate(clean[KEY], table[KEY], name=str(artifacts.CLEAN))
        y = np.full(len(clean), UNLABELED, np.int8)
        y[row] = table["y"].to_numpy()
        classes[:, column] = y[place]
        reach.append(find_reach(event, clean["segment"].to_numpy(), row, table["label_end"].to_numpy()))
    position = np.flatnonzero(passes & (clean["symbol"].to_numpy()[place] == symbol))
    place, segment = place[position], known["segment"].to_numpy()[position]
    return Rows(
        position=position,
        run=number_runs(segment, place),
        place=place,
        segment=segment.astype(np.int64),
        day=clean["day"].to_numpy()[place],
        is_used=(classes != UNLABELED).all(axis=1)[position],
        classes=classes[position],
    ), reach


def check_classes(target: Target) -> None:
    """Raise ParamsError where a target has not the three classes of an export."""
    if len(target.output.names) != len(CLASSES) or not target.output.is_classification:
        raise config.ParamsError(
            f"target {target.name} predicts {', '.join(target.output.names)}; an export has three classes, down, flat "
            "and up: name other targets by --targets"
        )


def find_reach(event: Ints, segment: Ints, row: Ints, label_end: Ints) -> int:
    """Return the most rows of the clean table from a row to the end of its label.

    `event` and `segment` (N,) are those of the clean table; `row` and `label_end` (n,) those of the labels.
    """
    starts = np.flatnonzero(np.append(True, np.diff(segment) != 0))
    reach = 0
    for start, stop in zip(starts, np.append(starts[1:], len(event)), strict=True):
        own = (row >= start) & (row < stop)
        if own.any():
            end = start + np.searchsorted(event[start:stop], label_end[own])
            reach = max(reach, int((end - row[own]).max()))
    return reach


def split_days(keys: pd.DataFrame) -> dict[str, str]:
    """Return the split of each day: the one that the rows have, or else the last 15 % are test, as many before val."""
    if "split" in keys.columns:
        return dict(keys[["day", "split"]].drop_duplicates().itertuples(index=False))
    days = sorted(keys["day"].unique())
    held_out = max(round(HELD_OUT * len(days)), 1) if len(days) > 2 else 0
    test = max(held_out, 1) if len(days) > 1 else 0
    sizes = {"train": len(days) - test - held_out, "val": held_out, "test": test}
    return dict(zip(days, np.repeat(list(sizes), list(sizes.values())).tolist(), strict=True))


def plan_days(rows: Rows, splits: Mapping[str, str], *, length: int, stride: int) -> list[DayPlan]:
    """Return the sequences of every day that has one, by split and day."""
    borders = np.flatnonzero(np.append(True, np.diff(rows.run) != 0))
    starts = np.concatenate(
        [
            first + place_starts(stop - first, length=length, stride=stride)
            for first, stop in zip(borders, np.append(borders[1:], len(rows.run)), strict=True)
        ]
    )
    starts = starts[rows.is_used[starts + length - 1]]
    day, order, plans = rows.day[starts], list(SPLITS), []
    for name in sorted(np.unique(day).tolist(), key=lambda each: (order.index(splits[each]), each)):
        own = starts[day == name]
        plans.append(
            DayPlan(
                split=splits[name],
                day=str(name),
                start=rows.position[own],
                classes=rows.classes[own + length - 1],
                runs=find_runs(rows.segment[own], rows.place[own], stride=stride),
            )
        )
    return plans


def write_day(folder: Path, plan: DayPlan, features: TableFile, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Write the sequences and labels of a day below `folder`; return what the manifest records of both files."""
    length, labeling = manifest["sequence_length"], manifest["labeling"]
    (folder / plan.split).mkdir(exist_ok=True)
    first = int(plan.start[0])
    x = features.read(COLUMNS, start=first, stop=int(plan.start[-1]) + length)[list(COLUMNS)].to_numpy(np.float32)
    sequences = folder / plan.split / f"{plan.day}_sequences.npy"
    shape = (len(plan.start), length, len(COLUMNS))
    stored = np.lib.format.open_memmap(sequences, mode="w+", dtype=np.float32, shape=shape)
    for block in range(0, len(plan.start), BLOCK):
        rows = plan.start[block : block + BLOCK, None] - first + np.arange(length)
        stored[block : block + BLOCK] = x[rows]
    stored.flush()
    del stored
    labels = folder / plan.split / f"{plan.day}_labels.npy"
    codes = np.array([int(code) for code in labeling["codes"]], np.int8)[plan.classes]
    codes = codes[:, 0] if codes.shape[1] == 1 else codes
    np.save(labels, codes)
    runs = [asdict(run) for run in plan.runs]
    return {
        sequences.relative_to(folder).as_posix(): {
            "sha256": digests.hash_file(sequences),
            "shape": list(shape),
            "dtype": "float32",
            "runs": runs,
        },
        labels.relative_to(folder).as_posix(): {
            "sha256": digests.hash_file(labels),
            "shape": list(codes.shape),
            "dtype": "int8",
        },
    }


def main() -> None:
    """Write the export of the dataset that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.orderbook.write_export", description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("--targets", default="", help="separated by commas; all that have three classes")
    parser.add_argument("--symbol", help="of a dataset with several")
    parser.add_argument("--sequence-length", type=int, default=100, help="rows")
    parser.add_argument("--stride", type=int, default=10, help="rows between two sequences")
    parser.add_argument("--folder", type=Path, help=f"that is written; {EXPORTS}/<dataset>")
    arguments = parser.parse_args()
    dataset, folder = arguments.dataset, arguments.folder or EXPORTS / arguments.dataset
    try:
        config.check_name(dataset, owner="there is no dataset")
        manifest = write_export(
            dataset,
            folder,
            targets=[name for name in arguments.targets.split(",") if name],
            symbol=arguments.symbol,
            sequence_length=arguments.sequence_length,
            stride=arguments.stride,
        )
    except (ValueError, OSError) as error:
        sys.exit(f"write_export {dataset}: {cli.describe_error(error)}")
    days = ", ".join(f"{len(named)} in {split}" for split, named in manifest["splits"].items())
    sys.stdout.write(f"{folder}: days: {days}\n")


if __name__ == "__main__":
    main()
