"""The files of a source of an order book: found, pinned by one sha256, and dated by their names."""

import hashlib
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

NAME = re.compile(r"(?:LOBSTER_)?(?P<symbol>[A-Za-z0-9.\-]+)_(?P<day>\d{4}-\d{2}-\d{2})_")
SHA256 = re.compile(r"(?i)\s*([0-9a-f]{64})(\s.*)?")  # also with the name that sha256sum prints after it

Paths = str | list[str] | None


class NamedFile(NamedTuple):
    """A file, with the symbol and the day in its name."""

    path: Path
    symbol: str
    day: str


def list_files(path: Paths, *, suffixes: tuple[str, ...], source: str) -> list[Path]:
    """Return the files of a path, or of several, each a file or a folder; a folder's are those with a suffix.

    Raises:
        ValueError: a path is empty or does not exist, or a folder has no such file.
    """
    if not path:
        raise ValueError(
            f"{source}: sources.{source}.path is empty; name a file or a folder of {', '.join(suffixes)}: "
            f"dvc exp run -S sources.{source}.path=FILE"
        )
    found: list[Path] = []
    for place in map(Path, [path] if isinstance(path, str) else path):
        if not place.exists():
            raise ValueError(f"{source}: {place} does not exist; relative paths start at the folder of dvc.yaml")
        files = [place] if place.is_file() else sorted(file for file in place.iterdir() if file.is_file())
        matching = [file for file in files if file.name.endswith(suffixes) and not file.name.startswith(".")]
        if not matching:
            raise ValueError(
                f"{source}: {place} has no file to read; allowed are names ending in {', '.join(suffixes)}: unpack "
                "archives first"
            )
        found += matching
    return found


def check_pin(files: Iterable[Path], sha256: str | None, *, source: str) -> None:
    """Raise ValueError where the digest of the files is not the pinned one; it says how to pin it.

    That of several is the sha256 of what sha256sum prints for them, without folders and sorted.
    """
    found = sorted(files)
    digest = hash_files(found)
    match = SHA256.fullmatch(sha256 or "")
    pin = match[1].lower() if match else sha256
    if pin != digest:
        names = " ".join(shlex.quote(str(file)) for file in found[:2]) + (" ..." if len(found) > 2 else "")
        raise ValueError(
            f"{source}: {names} has sha256 {digest}, and sources.{source}.sha256 "
            f"{f'is {pin}' if pin else 'is empty'}; if these are the intended bytes: "
            f"dvc exp run -S sources.{source}.sha256={digest}"
        )


def hash_files(files: list[Path]) -> str:
    """Return the sha256 of a file, or the one of the names and digests of several."""
    digests = [_hash_file(file) for file in files]
    if len(files) == 1:
        return digests[0]
    lines = sorted(f"{digest}  {file.name}\n".encode() for file, digest in zip(files, digests, strict=True))
    return hashlib.sha256(b"".join(lines)).hexdigest()


def read_name(file: Path, *, source: str) -> NamedFile:
    """Return the symbol and the day that a file's name has; ValueError where it has none."""
    match = NAME.match(file.name)
    if not match:
        raise ValueError(
            f"{source}: {file} has no symbol and day in its name; name it as GOOG_2012-06-21_..., as LOBSTER does"
        )
    return NamedFile(file, match["symbol"], match["day"])


def describe_error(error: Exception) -> str:
    """Return the message of another library's error as one line."""
    return " ".join(str(error).split())


def _hash_file(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}; check its permissions") from error
