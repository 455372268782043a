"""The files that stages exchange: where each lies, how it is written whole, and read once its digest is verified."""

import errno
import fcntl
import glob
import json
import os
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from pipeline import digests

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RAW, CLEAN, FEATURES, LABELS, FOLDS = (Path("data") / name for name in ("raw", "clean", "features", "labels", "folds"))
TRAINED = Path("trained")
MODELS, CHECKPOINTS, HISTORY, BASELINES = (TRAINED / name for name in ("models", "checkpoints", "history", "baselines"))
OOS, IN_SAMPLE, STATISTICS, RETURNS = (TRAINED / name for name in ("oos", "in_sample", "statistics", "returns"))
ONNX, INT8, REPORTS, PLOTS = (TRAINED / name for name in ("onnx", "int8", "reports", "plots"))
LEDGER, TRIALS, LOOKS, ROUND_TRIPS = (TRAINED / name for name in ("ledger.jsonl", "trials", "looks", "round_trips"))
ATTRIBUTES_KEY = b"PANDAS_ATTRS"  # under which pandas stores the `attrs` of a table in parquet
MEASURED = TRAINED / "measured"  # on this machine: neither cached by DVC nor in git

DISK_ERRORS = {  # the errors of a disk, and what a user can do about each
    errno.ENOSPC: "free space on this disk",
    errno.EDQUOT: "free space of your quota on this disk",
    errno.EFBIG: "raise the largest size of a file, such as by `ulimit -f unlimited`",
    errno.EROFS: "mount the disk so that it can be written to",
    errno.EACCES: "let this user read and write it",
    errno.EPERM: "let this user read and write it",
    errno.EIO: "check the disk",
}


def report_path(stage: str, key: str) -> Path:
    """Return the file of a stage's report."""
    return REPORTS / stage / f"{key}.json"


@contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """Yield a draft, a file or folder of the same name, that takes the place of `path` once all of it is on the disk.

    A table gets its digest.

    Each draft is unique: of several processes that write `path` at once, the last to finish replaces it as a whole.
    Drafts that a killed process left behind are removed first. Each lies in a folder `.*.draft`, which git and DVC
    ignore.

    Raises:
        OSError: the draft cannot be written, as on a full disk; it names `path`, which is as it was before.
    """
    with name_in_errors(path):
        remove_abandoned_drafts(path.parent, glob.escape(path.name))
        folder, lock = _make_draft_folder(path)
        try:
            draft = folder / path.name
            yield draft
            if path.suffix == ".parquet":
                digests.add_table_digest(draft)
            for each in (draft, *draft.rglob("*")):
                _flush(each)
            _publish(draft, path, aside=folder)
            _flush(path.parent)
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # where that fails, the next draft of `path` removes it
            os.close(lock)


@contextmanager
def name_in_errors(path: Path) -> Iterator[None]:
    """Add `path` to an error of the disk that names no file, or a draft of `path`."""
    drafts = str(path.with_name(f".{path.name}."))
    try:
        yield
    except OSError as error:
        if error.errno in DISK_ERRORS and (error.filename is None or str(error.filename).startswith(drafts)):
            error.filename, error.filename2 = str(path), None
        raise


def remove_abandoned_drafts(folder: Path, pattern: str = "*") -> None:
    """Remove the drafts in `folder` of names that match whose processes have ended; running ones lock theirs."""
    for draft in folder.glob(f".{pattern}.*.draft"):
        # not a folder of drafts, removed by another process, or in use
        with suppress(NotADirectoryError, FileNotFoundError, BlockingIOError):
            lock = os.open(draft, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(draft)
            finally:
                os.close(lock)


def _make_draft_folder(path: Path) -> tuple[Path, int]:
    """Return a new folder beside `path`, and the file descriptor that locks it until this process ends."""
    while True:
        folder = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.draft")
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # another process removed it before it was locked: make another one
            folder.mkdir()
            lock = os.open(folder, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():
                return folder, lock
            os.close(lock)


def _flush(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _publish(draft: Path, path: Path, *, aside: Path) -> None:
    """Rename `draft` to `path`; what a rename cannot replace, such as a folder that is not empty, goes to `aside`."""
    while True:
        try:
            draft.replace(path)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EISDIR, errno.ENOTDIR):
                raise
        with suppress(FileNotFoundError):  # another process has moved it
            path.rename(aside / f"replaced-{secrets.token_hex(4)}")


def remove(path: Path) -> None:
    """Remove the file, folder or symbolic link at `path`, if there is one; what a link points to stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write `table` to `path` as parquet."""
    with replace_atomically(path) as draft:
        table.to_parquet(draft, index=False, compression="zstd")


def read_table(path: Path, columns: Collection[str] | None = None) -> pd.DataFrame:
    """Return the table in the parquet at `path`, or these columns of it; ArtifactError where the file is damaged."""
    return pd.read_parquet(digests.verify(path), columns=None if columns is None else list(columns))


def list_labels(dataset: str, targets: Collection[str]) -> list[Path]:
    """Return the labels of a dataset, one file for each target, by name; ArtifactError where one is damaged."""
    return [digests.verify(LABELS / dataset / f"{target}.parquet") for target in sorted(targets)]


def read_attributes(schema: pa.Schema) -> dict[str, Any]:
    """Return the `attrs` of the table that was written as parquet with this schema."""
    attributes: dict[str, Any] = json.loads((schema.metadata or {}).get(ATTRIBUTES_KEY, b"{}"))
    return attributes


def read_json(path: Path) -> Any:
    """Return the content of the JSON file at `path`."""
    return json.loads(path.read_text())


def read_report(stage: str, key: str) -> Any:
    """Return the content of a report that `write_report` wrote; ArtifactError where the file is damaged."""
    content = read_json(digests.verify(report_path(stage, key)))
    del content["sha256"]
    return content


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`."""
    with replace_atomically(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write `content` to `path` as JSON; NaN becomes null."""
    write_text(path, _render_json(content))


def write_report(stage: str, key: str, content: Mapping[str, Any]) -> None:
    """Write a report that another stage reads, with its digest as the last key; NaN becomes null."""
    write_text(report_path(stage, key), digests.add_report_digest(_render_json(content)))


def write_figure(path: Path, figure: "Figure") -> None:
    """Write `figure` to `path` as PNG, the same bytes for the same figure; its layout is final from then on."""
    if (engine := figure.get_layout_engine()) is not None:
        engine.execute(figure)
        figure.set_layout_engine(None)  # else savefig draws all of it twice: once for the layout alone
    with replace_atomically(path) as draft:
        figure.savefig(draft, format="png", metadata={"Software": None})


def write_record(path: Path, lines: str) -> None:
    """Write lines of JSON to `path`, and a last one with their digest."""
    write_text(path, digests.add_record_digest(lines))


def _render_json(content: Any) -> str:
    return json.dumps(_to_plain(content), indent=2, allow_nan=False) + "\n"


def _to_plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _to_plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(inner) for inner in value]
    if isinstance(value, np.ndarray):
        return _to_plain(value.tolist())
    if isinstance(value, np.generic):
        return _to_plain(value.item())
    if isinstance(value, float):
        return None if value != value else float(f"{value:.10g}")
    return value
