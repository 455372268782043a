"""Compiled functions in numba's cache: a digest of their code, and a line in the log before they are compiled."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


def digest_code(files: Sequence[Path]) -> int:
    """Return a digest of the code that a function of numba runs, for it to close over.

    numba's cache looks at the file of the function alone, and at the values that it closes over: without the digest,
    it would run what was compiled from an older version of the other files. The functions that it calls have no cache
    of their own, for the same reason.
    """
    content = b"".join(file.name.encode() + file.read_bytes() for file in files)
    return int(hashlib.sha256(content).hexdigest()[:12], 16)


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
