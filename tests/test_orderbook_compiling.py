"""A function that takes long to compile is announced in the log, and only where numba's cache lacks it."""

import logging
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.orderbook.compiling import announce_compilation

COMPILED, SOURCE, OTHER = "engine.outer.locals.advance-65.py311.nbi", "engine.py", "state.py"


@pytest.mark.parametrize(
    ("times", "signatures", "is_announced"),
    [
        ({SOURCE: 1, OTHER: 1}, [], True),
        ({SOURCE: 1, OTHER: 1, "engine.reverse-9.py311.nbi": 2}, [], True),
        ({SOURCE: 1, OTHER: 1, COMPILED: 2}, [], False),
        ({SOURCE: 1, OTHER: 3, COMPILED: 2}, [], True),
        ({SOURCE: 1, OTHER: 1}, ["compiled in this process"], False),
    ],
)
def test_what_numba_has_not_compiled_since_the_last_edit_is_announced(
    times: dict[str, int], signatures: list[str], is_announced: bool, tmp_path: Path, caplog
):
    for name, time in times.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time, time))
    cached = SimpleNamespace(cache_path=str(tmp_path))
    function = SimpleNamespace(signatures=signatures, stats=cached, __name__="advance")
    with caplog.at_level(logging.INFO):
        announce_compilation(function, files=[tmp_path / SOURCE, tmp_path / OTHER], what="columns")
    expected = ["compiling columns, a minute or more, once for each environment"]
    assert caplog.messages == (expected if is_announced else [])
