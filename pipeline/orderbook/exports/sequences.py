"""Sequences of an export and the rows that they overlap in: cut from rows, and joined to rows again."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.orderbook.columns import BOOK_VALID, DT_SECONDS
from pipeline.orderbook.exports.manifest import CLASSES
from pipeline.orderbook.exports.records import MAX_ROWS, Run

Ints = npt.NDArray[np.int64]
UNLABELED = -1  # the class of a row without a label


@dataclass(frozen=True, eq=False)
class DayRows:
    """The rows of a day, in their order, that its sequences have or leave out."""

    x: npt.NDArray[np.float32]  # (n, columns); of a row that no sequence has that of the row before it
    is_exported: npt.NDArray[np.bool_]  # (n,) whether a sequence has the row
    segment: npt.NDArray[np.int32]  # (n,) within the day
    last: Ints  # (N,) the row that each sequence ends with


def place_starts(count: int, *, length: int, stride: int) -> Ints:
    """Return the first row of each sequence of a run of `count` rows.

    >>> place_starts(10, length=4, stride=3)
    array([0, 3, 6])
    """
    return np.arange(0, count - length + 1, stride, dtype=np.int64)


def find_runs(segment: Ints, start: Ints, *, stride: int) -> list[Run]:
    """Return the runs of sequences that begin at rows `start` (N,), ascending within each `segment` (N,).

    Rows are counted from the first one of each segment that a sequence has.
    """
    is_new = np.append(True, np.diff(segment) != 0)
    begins = np.flatnonzero(is_new | np.append(True, np.diff(start) != stride))
    origin = start[np.maximum.accumulate(np.where(is_new, np.arange(len(start)), 0))]
    number = np.cumsum(is_new) - 1
    return [Run(int(number[i]), int(i), int(start[i] - origin[i])) for i in begins]


def place_sequences(count: int, runs: Sequence[Run], *, stride: int, name: str) -> tuple[Ints, Ints]:
    """Return the segment and the first row in it of each of `count` sequences; without runs all are one.

    Raises:
        ValueError: the runs are not those of so many sequences; names the file.
    """
    runs = runs or [Run(0, 0, 0)]
    first = np.array([run.first_sequence for run in runs] + [count])
    lengths = np.diff(first)
    if first[0] != 0 or (lengths < 1).any():
        raise ValueError(f"{name}: runs begin at sequences {first[:-1].tolist()} of {count}; correct the manifest")
    segment = np.repeat([run.segment for run in runs], lengths)
    within = np.arange(count) - np.repeat(first[:-1], lengths)
    start = np.repeat([run.first_row for run in runs], lengths) + within * stride
    same = np.diff(segment) == 0
    if (np.diff(segment) < 0).any() or (np.diff(start)[same] < 1).any():
        raise ValueError(f"{name}: its runs go back to earlier rows; correct the manifest")
    return segment.astype(np.int64), start.astype(np.int64)


def join_sequences(
    sequences: npt.NDArray[np.floating], runs: Sequence[Run], *, stride: int, extra_rows: int, name: str
) -> DayRows:
    """Return the rows that (N, T, columns) sequences overlap in, and `extra_rows` after the last of each segment.

    A row that no sequence has, between two of them or after the last, repeats the row before it, with book_valid 0 and
    dt_seconds 0: it holds the place that a label may end at, and is no valid row.

    Raises:
        ValueError: two sequences differ in a row that both have; names the file and the first two.
    """
    count, length, columns = sequences.shape
    segment, start = place_sequences(count, runs, stride=stride, name=name)
    ends = np.flatnonzero(np.append(np.diff(segment) != 0, True))
    sizes = start[ends] + length + extra_rows
    if sizes.sum() > MAX_ROWS:
        raise ValueError(
            f"{name}: has {sizes.sum():,} rows by stride {stride}, its runs and a reach of {extra_rows}; at most "
            f"{MAX_ROWS:,} are allowed: correct the manifest"
        )
    offset = np.repeat(np.append(0, np.cumsum(sizes)[:-1]), np.diff(np.append(-1, ends)))
    x = np.zeros((int(sizes.sum()), columns), np.float32)
    is_exported = np.zeros(len(x), np.bool_)
    for i in range(count):
        shared = length - int(start[i] - start[i - 1]) if i and segment[i] == segment[i - 1] else 0
        if shared > 0 and not np.array_equal(
            sequences[i, :shared], sequences[i - 1, length - shared :], equal_nan=True
        ):
            raise ValueError(
                f"{name}: sequences {i - 1} and {i} differ in the {shared} rows that both have by stride {stride}; the "
                "manifest is of another stride, a sequence is missing, or sequences are normalized one by one: export "
                "it again"
            )
        at = int(offset[i] + start[i])
        x[at : at + length] = sequences[i]
        is_exported[at : at + length] = True
    return DayRows(
        x=_fill_rows(x, is_exported),
        is_exported=is_exported,
        segment=np.repeat(np.arange(len(sizes), dtype=np.int32), sizes),
        last=offset + start + length - 1,
    )


def decode_labels(labels: npt.NDArray[np.integer], codes: dict[int, int], *, name: str) -> npt.NDArray[np.int8]:
    """Return the classes, 0 down to 2 up, (N, horizons), of labels in the codes of a manifest, (N,) or (N, horizons).

    Raises:
        ValueError: a label is none of the codes; names the file.
    """
    table = labels.reshape(len(labels), -1)
    found = np.unique(table)
    if unknown := [int(code) for code in found if int(code) not in codes]:
        known = ", ".join(f"{code} {CLASSES[codes[code]]}" for code in sorted(codes))
        raise ValueError(f"{name}: has labels {unknown}; the manifest has the codes {known}: correct one of them")
    classes = np.full(table.shape, UNLABELED, np.int8)
    for code, number in codes.items():
        classes[table == code] = number
    return classes


def _fill_rows(x: npt.NDArray[np.float32], is_exported: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Return the rows with those that are not exported in the state of the row before them."""
    latest = np.maximum.accumulate(np.where(is_exported, np.arange(len(x)), 0))
    filled = x[latest]
    filled[~is_exported, BOOK_VALID] = 0.0
    filled[~is_exported, DT_SECONDS] = 0.0
    return filled
