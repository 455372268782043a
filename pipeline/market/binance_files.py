"""Files of Binance's archive: their names, their bars, and the repair of a month by the files of its days."""

import re
from datetime import date, timedelta
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.market.bars import COLUMNS
from pipeline.market.checks import format_time
from pipeline.market.kline_files import KlineFile, parse_csv, read_zip

DAY_MS = 86_400_000
STEM = re.compile(r"(?P<symbol>\w+)-(?P<interval>\w+)-(?P<period>\d{4}-\d{2}(-\d{2})?)")
FIELDS = [column for column in COLUMNS if column != "symbol"]


def format_path(symbol: str, period: str, *, interval: str) -> str:
    """Return the place of a file below its market; `period` is a month, 2024-02, or a day, 2024-02-10."""
    folder = "monthly" if len(period) == len("2024-02") else "daily"
    return f"{folder}/klines/{symbol}/{interval}/{symbol}-{interval}-{period}.zip"


def convert_to_ms(day: date) -> int:
    """Return the first instant of a day, UTC."""
    return (day - date(1970, 1, 1)).days * DAY_MS


def list_days_of(table: pd.DataFrame) -> list[date]:
    """Return the days on which bars open, in order."""
    return [date(1970, 1, 1) + timedelta(days=int(n)) for n in np.unique(table["open_time"].to_numpy() // DAY_MS)]


def read_bars(file: Path, name: str) -> KlineFile:
    """Return the bars of a zip, sorted by time; `name` is its place in the archive, which says what it must hold.

    Raises:
        ValueError: it is no zip with one CSV of that name, the CSV cannot be read or lacks a column, a bar is there
            twice, or opens outside of the file's month or day.
    """
    stem = PurePosixPath(name).stem
    member, content = read_zip(file)
    if PurePosixPath(member).stem != stem:
        raise ValueError(f"{name} holds {member!r}; it must hold {stem}.csv")
    found = parse_csv(content, name=f"{name}, {member}")
    missing = [column for column in FIELDS if column not in found.table]
    if missing:
        raise ValueError(f"{name} lacks the column(s) {', '.join(missing)}; the archive's files have them")
    table = found.table[FIELDS].sort_values("open_time", kind="stable", ignore_index=True)
    time = table["open_time"].to_numpy()
    first, end = _find_bounds(stem)
    outside = (time < first) | (time >= end)
    if outside.any():
        instant = format_time(int(time[np.argmax(outside)]))
        raise ValueError(f"{name} has {int(outside.sum()):,} bar(s) that do not open in its period, first {instant}")
    repeated = np.diff(time) == 0
    if repeated.any():
        instant = format_time(int(time[np.argmax(repeated)]))
        raise ValueError(f"{name} has {int(repeated.sum()):,} bar(s) twice, first {instant}")
    return KlineFile(table, found.notes)


def _find_bounds(stem: str) -> tuple[int, int]:
    """Return the first instant of a file's month or day, and the first one after it."""
    match = STEM.fullmatch(stem)
    if match is None:
        raise ValueError(f"{stem} is not the name of a file of the archive, such as BTCUSDT-1m-2024-02")
    period = match["period"]
    if len(period) > len("2024-02"):
        first = date.fromisoformat(period)
        return convert_to_ms(first), convert_to_ms(first) + DAY_MS
    first = date.fromisoformat(f"{period}-01")
    return convert_to_ms(first), convert_to_ms((first + timedelta(days=31)).replace(day=1))


def repair_month(month: pd.DataFrame, daily: pd.DataFrame) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Return a month's bars with those of daily files, which prevail, and what that changed.

    Both are sorted by time, without repeated times. Bars that only one of them has are taken from that. The second
    result has the `day`, the bars `added` and `replaced`, of each day that changed.
    """
    time, new_time = month["open_time"].to_numpy(), daily["open_time"].to_numpy()
    place = np.minimum(np.searchsorted(time, new_time), max(len(time) - 1, 0))
    is_known = time[place] == new_time if len(time) else np.zeros(len(new_time), dtype=bool)
    differs = np.zeros(len(daily), dtype=bool)
    differs[is_known] = _find_differences(month.iloc[place[is_known]], daily[is_known])
    unchanged = np.ones(len(month), dtype=bool)
    unchanged[place[differs]] = False
    changed = daily[~is_known | differs]
    if changed.empty:
        return month, []
    table = pd.concat([each for each in (month[unchanged], changed) if len(each)], ignore_index=True)
    return table.sort_values("open_time", kind="stable", ignore_index=True), _count_by_day(new_time, is_known, differs)


def _find_differences(left: pd.DataFrame, right: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Return (N,) whether any column of the row differs; values that are missing on both sides are equal."""
    differs = np.zeros(len(left), dtype=bool)
    for column in FIELDS:
        a, b = left[column].to_numpy(), right[column].to_numpy()
        differs |= (a != b) & ~(pd.isna(a) & pd.isna(b))
    return differs


def _count_by_day(
    time: npt.NDArray[np.int64], is_known: npt.NDArray[np.bool_], differs: npt.NDArray[np.bool_]
) -> list[dict[str, Any]]:
    counts = pd.DataFrame({"day": time // DAY_MS, "added": ~is_known, "replaced": differs}).groupby("day").sum()
    return [
        {"day": f"{date(1970, 1, 1) + timedelta(days=int(day))}", "added": int(added), "replaced": int(replaced)}
        for day, added, replaced in counts.itertuples()
        if added or replaced
    ]
