"""A side of a comparison: a revision, a folder with a clone, a dvc.lock alone, or a snapshot of another machine."""

import hashlib
import io
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from pipeline import artifacts
from pipeline.evaluation import experiments
from pipeline.reporting.revision_files import RevisionFiles
from pipeline.tracking.locks import Lock
from pipeline.tracking.logical import Source

LOCK = "dvc.lock"
FOLDER = ".dir"  # ends the md5 of a folder
SNAPSHOT = artifacts.MEASURED / "snapshot.json"
TAKE = "python -m pipeline.tracking.snapshot"
Files = Mapping[str, Source]  # by path


class MissingFilesError(ValueError):
    """Files whose values cannot be compared, since a side lacks them; the message says what gets them."""


@dataclass(frozen=True)
class Side:
    """The stages of one side, and what else is known of it."""

    name: str
    lock: Lock
    digests: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # of parts, by `snapshot.digest_key`
    facts: Mapping[str, Any] | None = None  # of the machine

    def read_output(self, path: str, md5: str) -> Files:
        """Return the files of an output; MissingFilesError where this side has none of these bytes."""
        raise MissingFilesError(
            f"{self.name} has no files, only digests of bytes: give the clone, or a snapshot (`{TAKE}`)"
        )


@dataclass(frozen=True)
class FolderSide(Side):
    """A clone, or a revision of it: its files are in DVC's cache, in git or in the work tree."""

    root: Path = Path()
    commit: str | None = None  # of a revision

    @cached_property
    def cache(self) -> Path | None:
        """The folder of DVC's cache; None where there is none."""
        return experiments.find_cache(self.root)

    def read_output(self, path: str, md5: str) -> Files:
        """Return the files of an output by path; MissingFilesError where this side has none of these bytes."""
        sources = (self._read_cached, self._read_committed, *(() if self.commit else (self._read_work_tree,)))
        for read in sources:
            found: Files | None = read(path, md5)
            if found is not None:
                return found
        remedy = f"`dvc fetch --all-commits {path}`" if self.commit else f"`dvc fetch {path}`"
        raise MissingFilesError(
            f"{self.name} lacks {path} as {LOCK} records it: run {remedy} in {self.root.resolve()}, or "
            f"`dvc repro` there where no remote has it"
        )

    def _read_cached(self, path: str, md5: str) -> Files | None:
        entry = self._locate(md5)
        if entry is None or not md5.endswith(FOLDER):
            return None if entry is None else {path: entry}
        files = {f"{path}/{each['relpath']}": self._locate(each["md5"]) for each in json.loads(entry.read_bytes())}
        found = {name: file for name, file in files.items() if file is not None}
        return found if len(found) == len(files) else None

    def _locate(self, md5: str) -> Path | None:
        """Return a file of the cache; None where it is missing or damaged."""
        file = None if self.cache is None else self.cache / md5[:2] / md5[2:]
        is_whole = file is not None and file.is_file() and hash_source(file) == md5.removesuffix(FOLDER)
        return file if is_whole else None

    def _read_committed(self, path: str, md5: str) -> Files | None:
        commit = self.commit or "HEAD"
        names = experiments.run_git(self.root, "ls-tree", "-r", "--name-only", commit, "--", path)
        return _check_files(path, md5, {name: _show(self.root, commit, name) for name in names})

    def _read_work_tree(self, path: str, md5: str) -> Files | None:
        place = self.root / path
        files = [each for each in place.rglob("*") if each.is_file()] if place.is_dir() else [place]
        return _check_files(
            path, md5, {file.relative_to(self.root).as_posix(): file for file in files if file.exists()}
        )


def _show(root: Path, commit: str, name: str) -> bytes:
    done = subprocess.run(["git", "show", f"{commit}:{name}"], cwd=root, capture_output=True, check=True)
    return done.stdout


def _check_files(path: str, md5: str, files: Files) -> Files | None:
    """Return the files where they have the md5 that DVC gave their file or folder; else None."""
    if not md5.endswith(FOLDER):
        return files if list(files) == [path] and hash_source(files[path]) == md5 else None
    return files if hash_folder(path, {name: hash_source(file) for name, file in files.items()}) == md5 else None


def hash_folder(path: str, files: Mapping[str, str]) -> str:
    """Return the md5 that DVC gives a folder of files with these md5s."""
    entries = [{"md5": md5, "relpath": name.removeprefix(f"{path}/")} for name, md5 in files.items()]
    text = json.dumps(sorted(entries, key=lambda each: each["relpath"]), sort_keys=True)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + FOLDER


def hash_source(source: Source) -> str:
    """Return the md5 of a file's bytes, as DVC computes it."""
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as stream:
        return hashlib.file_digest(stream, partial(hashlib.md5, usedforsecurity=False)).hexdigest()


def open_side(name: str, root: Path) -> Side:
    """Return the side of a name: a folder, a dvc.lock, a snapshot, or a revision of the repository at `root`.

    Raises:
        ValueError: it is none of these, or cannot be read.
    """
    path = root / name
    if path.is_dir():
        return _open_folder(name, path)
    if path.is_file():
        text = _read_text(name, path)
        return _open_snapshot(name, text) if path.suffix == ".json" else Side(name, Lock.parse(text, name=name))
    files = RevisionFiles.find(root, name)
    lock = Lock.parse(files.read(Path(LOCK)), name=f"{LOCK} of {name}")
    return FolderSide(f"{name} ({files.commit[:7]})", lock, root=root, commit=files.commit)


def _read_text(name: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{name} is no text; give a dvc.lock, a snapshot, a clone or a revision") from None


def _open_folder(name: str, path: Path) -> Side:
    file = path / LOCK
    if not file.is_file():
        raise ValueError(f"{name} has no {LOCK}; give a clone in which the pipeline has run")
    lock = Lock.parse(file.read_text(encoding="utf-8"), name=str(file))
    snapshot = path / SNAPSHOT
    if snapshot.is_file():
        known = _open_snapshot(str(snapshot), snapshot.read_text(encoding="utf-8"))
        if known.lock == lock:  # else it is of an earlier run
            return FolderSide(name, lock, known.digests, known.facts, root=path)
    return FolderSide(name, lock, root=path)


def _open_snapshot(name: str, text: str) -> Side:
    content = _parse_snapshot(name, text)
    return Side(name, Lock.parse(json.dumps(content["lock"]), name=name), content["digests"], content["facts"])


def _parse_snapshot(name: str, text: str) -> dict[str, Any]:
    try:
        content: Any = json.loads(text)
    except json.JSONDecodeError:
        content = None
    keys = ("lock", "digests", "facts")
    if not (isinstance(content, dict) and all(isinstance(content.get(key), dict) for key in keys)):
        raise ValueError(f"{name} is no snapshot; `{TAKE} {name}` writes one")
    return content
