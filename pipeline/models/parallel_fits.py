"""Fits that run in several processes at once."""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import BrokenExecutor
from importlib import import_module
from pickle import PicklingError
from typing import Any

from joblib import Parallel
from tqdm import tqdm


def run_in_parallel(jobs: Iterable[Any], *, workers: int, total: int, desc: str) -> Iterator[Any]:
    """Yield the results of `jobs`, calls that `joblib.delayed` made, in their order, and show the progress.

    They run in `workers` processes or, where PIPELINE_SCHEDULER is set, on the workers of that Dask cluster.

    Raises:
        BrokenExecutor: a worker was killed, or joblib could not write the data that workers share; names the cause.
    """
    if address := os.environ.get("PIPELINE_SCHEDULER"):
        cluster = import_module("pipeline.cluster.entry")  # by name: no stage depends on it, as it changes no result
        yield from tqdm(cluster.run_on_cluster(jobs, address=address, desc=desc), total=total, desc=desc, unit="fit")
        return
    pool = Parallel(n_jobs=workers, return_as="generator")
    try:
        yield from tqdm(pool(jobs), total=total, desc=desc, unit="fit")
    except PicklingError as error:  # its cause is the text of a traceback
        cause = str(error.__cause__).strip('" \n').splitlines()[-1]
        folder = os.environ.get("JOBLIB_TEMP_FOLDER", "/dev/shm and /tmp")
        raise BrokenExecutor(
            f"the data of {desc} could not be shared with the workers ({cause}): free space in {folder}, or set "
            "JOBLIB_TEMP_FOLDER to a folder with space"
        ) from error
