"""Where fits enter a cluster. No stage depends on this module: where a fit runs changes no result."""

import importlib.util
from collections.abc import Iterable, Iterator
from typing import Any

from pipeline.cluster.errors import ClusterError

PACKAGES = ("dask", "distributed")


def run_on_cluster(jobs: Iterable[Any], *, address: str, desc: str) -> Iterator[Any]:
    """Return the results of `jobs`, calls that `joblib.delayed` made, from the workers of the scheduler at `address`.

    Raises:
        ClusterError: the extra `cluster` is not installed, or the cluster cannot run the fits.
    """
    if absent := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise ClusterError(
            f"PIPELINE_SCHEDULER is {address!r}, which needs {' and '.join(absent)}: install the extra by "
            "pip install --constraint .ci/constraints.txt --editable '.[cluster]', or unset PIPELINE_SCHEDULER"
        )
    from pipeline.cluster import fits

    return fits.run_on_workers(jobs, address=address, desc=desc)
