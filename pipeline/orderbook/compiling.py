"""A line in the log before a compiled function is compiled for the first time, since that takes long."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


def announce_compilation(function: Any, *, files: Sequence[Path], what: str) -> None:
    """Log that a function of numba is going to be compiled, where neither this process nor numba's cache has its code.

    Args:
        function: compiled at its first call, with `cache=True`; the first of `files` defines it.
        files: whose code it runs: what is older than one of them is compiled again.
        what: the name of what is compiled, for the log.
    """
    if not function.signatures and not is_cached(function, files=files):
        log.info(f"compiling {what}, a minute or more, once for each environment")


def is_cached(function: Any, *, files: Sequence[Path]) -> bool:
    """Return whether numba's cache has an index of a function that is not older than its code."""
    indices = Path(function.stats.cache_path).glob(f"{files[0].stem}.*{function.__name__}-*.nbi")
    newest = max(file.stat().st_mtime for file in files)
    return any(index.stat().st_mtime >= newest for index in indices)
