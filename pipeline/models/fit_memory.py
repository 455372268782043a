"""The number of fits that run at once in the memory that is free. It never changes a result."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

log = logging.getLogger(__name__)

GIB = 1 << 30


class Controller(NamedTuple):
    """Where a version of Linux's control groups has the memory of a group: the mount, and the names of its figures."""

    mount: str
    limit: str
    used: str
    droppable: str  # in memory.stat: page cache of files that Linux drops first, of the group and those below it


V1 = Controller("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2 = Controller("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file")


def limit_workers(workers: int, *, fit_bytes: int, desc: str, root: Path = Path("/")) -> int:
    """Return how many of `workers` fits of `fit_bytes` each the free memory allows, at least 1, and log where fewer.

    `fit_bytes` is an estimate, 0 where there is none. On the workers of a cluster each has memory of its own.
    `root` has proc/ and sys/.
    """
    if workers == 1 or not fit_bytes:
        return workers
    free = read_free_bytes(root)
    allowed = max(1, min(workers, free // fit_bytes))
    if allowed < workers:
        log.warning(
            f"{desc}: {allowed} fit(s) at a time instead of {workers}: one needs about {fit_bytes / GIB:.1f} GiB, and "
            f"{free / GIB:.1f} GiB are free"
        )
    return allowed


def read_free_bytes(root: Path = Path("/")) -> int:
    """Return the memory that new processes can have: the machine's, or less where a container has a limit of its own.

    Where Linux says neither, nothing limits it.
    """
    of_machine = _read_figures(root / "proc/meminfo").get("MemAvailable:", sys.maxsize)  # in KiB
    return min([of_machine * 1024, *_list_free_below_limits(root)])


def _list_free_below_limits(root: Path) -> Iterator[int]:
    """Yield what is left of each limit of the control groups that this process is in, and of those that hold them."""
    for controller, group in _list_groups(root):
        for folder in (group, *group.parents):
            limit, used = (_read_bytes(root / controller.mount / folder / name) for name in controller[1:3])
            if limit is not None and used is not None:
                figures = _read_figures(root / controller.mount / folder / "memory.stat")
                yield max(0, limit - used + figures.get(controller.droppable, 0))


def _list_groups(root: Path) -> Iterator[tuple[Controller, PurePosixPath]]:
    """Yield the control groups of this process, of either version, by their paths below the mount.

    In a container the mount may be the container's own group, while the path is that on the machine: it does not exist.
    """
    for line in _read_text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        group = PurePosixPath(*(part for part in PurePosixPath(path).parts if part not in ("/", "..")))
        if not controllers:
            yield V2, group
        elif "memory" in controllers.split(","):
            yield V1, group


def _read_figures(file: Path) -> dict[str, int]:
    """Return the whole numbers of a file by the name in front of each."""
    lines = (line.split() for line in _read_text(file).splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdecimal()}


def _read_bytes(file: Path) -> int | None:
    """Return the number that a file consists of; None where it is absent or says `max`, which is no limit."""
    text = _read_text(file).strip()
    return int(text) if text.isdecimal() else None


def _read_text(file: Path) -> str:
    """Return the content of a file; nothing where it is absent or cannot be read."""
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""
