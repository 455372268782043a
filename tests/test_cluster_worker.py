"""The command that starts workers of a cluster: what it cannot start ends with one line."""

import importlib.util
import sys

import pytest

from pipeline.cluster import entry, worker

ABSENT = [name for name in entry.PACKAGES if importlib.util.find_spec(name) is None]


@pytest.mark.skipif(bool(ABSENT), reason=f"the extra `cluster` is not installed: no {', '.join(ABSENT)}")
def test_a_worker_without_the_address_of_a_scheduler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["worker"])
    with pytest.raises(SystemExit, match="^python -m pipeline.cluster.worker: Need to provide .*; give the"):
        worker.main()


def test_a_worker_without_dask_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed.cli", None)
    with pytest.raises(SystemExit, match=r"worker needs distributed.cli; run `pip install .*\[cluster\]'`$"):
        worker.main()
