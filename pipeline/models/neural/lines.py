"""A CSV that grows while fits run: whoever looks sees how they go."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path


class Lines:
    """The entries of one fit, a line each, in a file that several fits share.

    `labels`, which tell the fits apart, then `fields`; a field that an entry lacks stays empty. A line is one write to
    the end of the file, so lines of several processes never mix (on local disks; NFS does not promise it). Whoever made
    the file has written the names at its head.
    """

    def __init__(self, file: Path, *, labels: Mapping[str, object], fields: Sequence[str]) -> None:
        """`labels` are the names and values that every line of this fit begins with, such as {"split": 3}.

        Raises ValueError where a label has the name of a field.
        """
        doubled = sorted(set(labels) & set(fields))
        if doubled:
            raise ValueError(f"columns {doubled} have the names of fields; any names are allowed but {tuple(fields)}")
        self._file, self._labels, self._fields = file, dict(labels), tuple(fields)
        self._written = 0  # lines, by this object

    def catch_up(self, entries: Sequence[Mapping[str, float]]) -> None:
        """The file has a line for each of `entries`, of which those written before are the first."""
        for entry in entries[self._written :]:
            _append(self._file, _line([*self._labels.values(), *(entry.get(name) for name in self._fields)]))
        self._written = len(entries)


def _line(cells: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _append(file: Path, line: str) -> None:
    """One write; OSError where the disk did not take all of it."""
    content = line.encode()
    handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        written = os.write(handle, content)
    finally:
        os.close(handle)
    if written != len(content):
        raise OSError(f"{file}: {written} of {len(content)} bytes of a line were written; is the disk full?")
