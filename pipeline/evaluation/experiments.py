"""Find the records of trials and looks that any run left: in the workspace, in git, and in DVC's run cache.

Git and the run cache only name a record by its digest, in `dvc.lock` and in entries like it; DVC's cache has its text.
"""

import logging
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from dvc.exceptions import NotDvcRepoError
from dvc.repo import Repo

from pipeline import artifacts
from pipeline.evaluation.trials import Line, parse_lines

log = logging.getLogger(__name__)

EXPERIMENTS = "refs/exps"
BOOKMARKS = f"{EXPERIMENTS}/exec/"  # DVC's own, such as EXEC_HEAD, the commit from which an experiment starts
FOLDERS = (artifacts.TRIALS, artifacts.LOOKS)
OUTPUT = re.compile(rf"- path: (?:{'|'.join(map(str, FOLDERS))})/\S+\.jsonl\n\s+hash: md5\n\s+md5: ([0-9a-f]{{32}})")
EMPTY = "d41d8cd98f00b204e9800998ecf8427e"  # md5 of the record of a model that is not traded


def find_records(root: Path) -> list[Line]:
    """Return the lines of all records, each with its `origin`: those of the workspace first, then git, then DVC."""
    sources = [*list_workspace(root), *list_cached(root)]
    return [line for origin, file in sources for line in read_record(file, origin=origin)]


def read_record(file: Path, *, origin: str) -> list[Line]:
    """Return the lines of one record; none, with a warning, of one that the present code cannot read."""
    try:
        lines = parse_lines(file.read_text(encoding="utf-8"), source=str(file))
    except ValueError as error:
        log.warning("a record of %s is not counted: %s", origin, error)
        return []
    return [line | {"origin": origin} for line in lines]


def list_workspace(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield the origin and the file of each record in the workspace."""
    for folder in FOLDERS:
        for file in sorted((root / folder).glob("*.jsonl")):
            yield "the workspace", file


def list_cached(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield the origin and the file of each record that git or the run cache names; warn of those not in the cache."""
    cache = find_cache(root)
    if cache is None:
        return
    origins: dict[str, str] = {}
    for origin, text in (*read_locks(root), *read_run_cache(cache.parents[1])):
        for digest in OUTPUT.findall(text):
            origins.setdefault(digest, origin)
    files = {cache / digest[:2] / digest[2:]: origin for digest, origin in origins.items() if digest != EMPTY}
    if absent := [origin for file, origin in files.items() if not file.exists()]:
        log.warning(
            "%d records are not in DVC's cache, such as one of %s: where the ledger lacks them, `dvc pull` them",
            len(absent),
            absent[0],
        )
    yield from ((origin, file) for file, origin in files.items() if file.exists())


def find_cache(root: Path) -> Path | None:
    """Return the folder of DVC's cache that holds files by their md5; None where `root` is no repository of DVC."""
    try:
        with Repo(str(root)) as repository:
            return Path(repository.cache.local.path)
    except NotDvcRepoError:
        return None


def read_locks(root: Path) -> Iterator[tuple[str, str]]:
    """Yield the origin and the text of each version of dvc.lock that a branch, a tag or an experiment reaches."""
    versions = dict(list_lock_versions(root))  # by object
    yield from zip(versions.values(), read_objects(root, list(versions)), strict=True)


def list_lock_versions(root: Path) -> Iterator[tuple[str, str]]:
    """Yield the object and the origin of each version of dvc.lock in git, the latest first."""
    names = name_experiments(root)
    origin = ""
    for line in run_git(root, "log", "--all", "--raw", "--no-abbrev", "--format=%H", "--", "dvc.lock"):
        if not line.startswith(":"):
            origin = names.get(line, f"commit {line[:7]}") if line else origin
        elif int(found := line.split()[3], 16):  # all zeros where the file was deleted
            yield found, origin


def name_experiments(root: Path) -> dict[str, str]:
    """Return the names of experiments by commit."""
    refs = (line.split() for line in run_git(root, "for-each-ref", "--format=%(objectname) %(refname)", EXPERIMENTS))
    named = ((commit, name) for commit, name in refs if not name.startswith(BOOKMARKS))
    return {commit: f"experiment {PurePosixPath(name).name}" for commit, name in named}


def run_git(root: Path, *arguments: str) -> list[str]:
    """Return the lines that a git command writes; none where `root` is not in a repository."""
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()


def read_objects(root: Path, names: list[str]) -> Iterator[str]:
    """Yield the texts of objects of git."""
    if not names:
        return
    command, given = ["git", "cat-file", "--batch"], "\n".join(names).encode()
    content = subprocess.run(command, cwd=root, input=given, capture_output=True, check=True).stdout
    position = 0
    for _ in names:
        start = content.index(b"\n", position) + 1
        end = start + int(content[position:start].split()[2])
        yield content[start:end].decode()
        position = end + 1


def read_run_cache(folder: Path) -> Iterable[tuple[str, str]]:
    """Yield the origin and the text of each entry of the run cache in DVC's cache folder."""
    for entry in sorted(folder.glob("runs/*/*/*")):
        yield "the run cache", entry.read_text(encoding="utf-8")
