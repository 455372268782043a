"""The digests of files: written with each file that a stage reads again, and verified before it is read.

A table (parquet), a report (JSON) and a record (JSON lines) hold the sha256 of the rest of their bytes; other programs
read them as before. The files of a model or of a deployment have theirs in `SHA256SUMS` of their folder, which
`sha256sum --check SHA256SUMS` verifies as well.
"""

import hashlib
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import BinaryIO

from pipeline import remedies

SUMS = "SHA256SUMS"
CHUNK_BYTES = 1 << 20
DIGITS = 64  # of a sha256 in hexadecimal
MARK = b"sha256:"  # before the digest of a table, which stands between its data and its footer
MARK_BYTES = len(MARK) + DIGITS
TAIL_BYTES = 8  # of a parquet file: the length of its footer, and the four bytes that end it
JSON_DIGEST = re.compile(rb',\n  "sha256": "([0-9a-f]{64})"(?=\n\}\n\Z)')  # the last key of a report
LINE_DIGEST = re.compile(rb'\{"sha256":"([0-9a-f]{64})"\}\n\Z')  # the last line of a record
DIGESTS = {".json": JSON_DIGEST, ".jsonl": LINE_DIGEST}


class ArtifactError(ValueError):
    """A file between two stages that is missing, damaged, or not the one that was recorded; the message says which."""


def verify(path: Path, *, unlisted: str | None = None) -> Path:
    """Return `path`, a table, a report, a record, or a folder with a `SHA256SUMS`, once its digest has been verified.

    A folder may have files that match the pattern `unlisted` and that its sums do not list.

    Raises:
        ArtifactError: it is missing or damaged; names the command that writes it again.
    """
    if not path.exists():
        raise ArtifactError(f"{path} does not exist; {remedies.describe_writing(path)}")
    if path.is_dir():
        _verify_folder(path, unlisted)
    elif path.suffix == ".parquet":
        _verify_table(path)
    else:
        _verify_text(path)
    return path


def verify_digest(file: Path, expected: str, *, source: Path) -> Path:
    """Return `file` once its sha256 is the `expected` one, which `source` records; ArtifactError where it is not."""
    if not file.exists():
        raise ArtifactError(f"{file} does not exist; {remedies.describe_writing(file)}")
    if (found := hash_file(file)) != expected:
        raise ArtifactError(
            f"{file} has sha256 {found}, and {source} records {expected}: one of them is damaged, or they are of "
            f"different runs; {remedies.describe_writing(source)}"
        )
    return file


def hash_file(file: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_files(files: Iterable[Path]) -> str:
    """Return the sha256 of the files' bytes, one after another."""
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            _update(total, stream, file.stat().st_size)
    return total.hexdigest()


def add_table_digest(file: Path) -> None:
    """Insert the digest of a parquet file, which has none, before its footer: readers find that from the end."""
    size = file.stat().st_size
    with file.open("r+b") as stream:
        footer = _measure_footer(stream, size)
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        stream.seek(size - footer)
        end = stream.read()
        stream.seek(size - footer)
        stream.write(MARK + digest.encode() + end)


def add_report_digest(text: str) -> str:
    """Return the text of a report, a JSON object that is not empty with an indent of 2, with its digest as last key."""
    end = "\n}\n"
    return f'{text.removesuffix(end)},\n  "sha256": "{_hash_text(text)}"{end}'


def add_record_digest(text: str) -> str:
    """Return the lines of a record, with a last line for their digest."""
    return f'{text}{{"sha256":"{_hash_text(text)}"}}\n'


def remove_record_digest(text: str) -> str:
    """Return the lines of a record without that of their digest, if there is one."""
    return LINE_DIGEST.sub(b"", text.encode()).decode()


def write_sums(folder: Path) -> None:
    """Write `SHA256SUMS` of all files in `folder` and below."""
    (folder / SUMS).write_text("".join(_list_sums(folder)), encoding="utf-8")


def _list_sums(folder: Path, skipped: Collection[Path] = ()) -> list[str]:
    """Return a line for each file of a folder, but those of `skipped`."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file not in (folder / SUMS, *skipped))
    return [f"{hash_file(file)}  {file.relative_to(folder).as_posix()}\n" for file in files]


def _verify_folder(folder: Path, unlisted: str | None) -> None:
    """Raise ArtifactError where `SHA256SUMS` is not, byte by byte, that of the files in `folder`; see `verify`."""
    sums = folder / SUMS
    if not sums.exists():
        raise ArtifactError(f"{folder} has no {SUMS}; {remedies.describe_restoring(folder)}")
    recorded = sums.read_bytes()
    candidates = folder.glob(unlisted) if unlisted else ()
    found = _list_sums(folder, skipped=[file for file in candidates if f"  {file.name}\n".encode() not in recorded])
    if recorded == "".join(found).encode():
        return
    lines = recorded.decode(errors="replace").splitlines(keepends=True)
    names = dict.fromkeys(line[DIGITS + 2 :].strip() for line in (*found, *lines) if (line in found) != (line in lines))
    raise ArtifactError(
        f"{folder} is damaged: its files are not those of {sums}, which differ in {', '.join(map(repr, names)) or SUMS}"
        f"; {remedies.describe_restoring(folder)}"
    )


def _verify_table(file: Path) -> None:
    """Raise ArtifactError where the digest of a table is not the sha256 of its other bytes."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        place = size - _measure_footer(stream, size) - MARK_BYTES
        stream.seek(max(place, 0))
        mark = stream.read(MARK_BYTES)
        if place < 0 or not mark.startswith(MARK):
            raise _report_damage(file, "it has no digest before its footer")
        total = hashlib.sha256()
        stream.seek(0)
        _update(total, stream, place)
        stream.seek(MARK_BYTES, 1)
        _update(total, stream, size)
    if mark != MARK + total.hexdigest().encode():
        raise _report_damage(file, "its digest is not that of its content")


def _verify_text(file: Path) -> None:
    """Raise ArtifactError where the digest of a report or record is not the sha256 of its other bytes."""
    content = file.read_bytes()
    found = DIGESTS[file.suffix].search(content)
    if found is None:
        raise _report_damage(file, "it does not end in a digest")
    if found[1].decode() != hashlib.sha256(content[: found.start()] + content[found.end() :]).hexdigest():
        raise _report_damage(file, "its digest is not that of its content")


def _report_damage(file: Path, fault: str) -> ArtifactError:
    return ArtifactError(f"{file} is damaged, or not written by a stage: {fault}; {remedies.describe_restoring(file)}")


def _measure_footer(stream: BinaryIO, size: int) -> int:
    """Return the bytes of a parquet file's footer with its tail; the whole file where it has none. Rewinds."""
    stream.seek(max(size - TAIL_BYTES, 0))
    length = int.from_bytes(stream.read(TAIL_BYTES)[:4], "little") + TAIL_BYTES
    stream.seek(0)
    return min(length, size)


def _hash_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _update(total: "hashlib._Hash", stream: BinaryIO, size: int) -> None:
    """Add up to `size` bytes of a stream to a hash."""
    while size > 0 and (chunk := stream.read(min(size, CHUNK_BYTES))):
        total.update(chunk)
        size -= len(chunk)
