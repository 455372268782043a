"""A CSV of the epochs of all fits of a model, which grows while they run."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline import artifacts


class LiveMetrics:
    """The history of one fit, appended to a CSV that several fits share: a line for each entry.

    A line has the `labels` that identify the fit, then the `fields`; a field that an entry lacks stays empty. The owner
    of the file writes its header. Each line is a single append, so that lines of several processes never mix on a
    local disk; NFS gives no such guarantee.
    """

    def __init__(self, file: Path, *, labels: Mapping[str, object], fields: Sequence[str]) -> None:
        """`labels` are the names and values that every line of this fit begins with, such as {"split": 3}.

        Raises ValueError where a label has the name of a field.
        """
        doubled = sorted(set(labels) & set(fields))
        if doubled:
            raise ValueError(f"labels {doubled} are fields too; allowed are all names but {tuple(fields)}")
        self._file, self._labels, self._fields = file, dict(labels), tuple(fields)
        self._written = 0  # lines, by this object

    def append_new(self, entries: Sequence[Mapping[str, float]]) -> None:
        """Append a line for each of a fit's `entries` that this object has not written yet."""
        for entry in entries[self._written :]:
            _append(self._file, _format_line([*self._labels.values(), *(entry.get(name) for name in self._fields)]))
        self._written = len(entries)


def _format_line(cells: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _append(file: Path, line: str) -> None:
    """Append a line by a single write; raise OSError where only a part of it was written."""
    content = line.encode()
    with artifacts.name_in_errors(file):
        handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            written = os.write(handle, content)
        finally:
            os.close(handle)
    if written != len(content):
        raise OSError(f"{file}: {written} of {len(content)} bytes of a line were written; is the disk full?")
