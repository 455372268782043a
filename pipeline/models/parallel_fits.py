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

    They run in `workers` processes, in this one for 1, or, where PIPELINE_SCHEDULER is set, on the workers of that Dask
    cluster. No result stays in memory here once the next one is requested.

    Raises:
        BrokenExecutor: a worker was killed, or joblib could not write the data that workers share; names the cause.
    """
    if address := os.environ.get("PIPELINE_SCHEDULER"):
        cluster = import_module("pipeline.cluster.entry")  # by name: no stage depends on it, as it changes no result
        yield from _show_progress(cluster.run_on_cluster(jobs, address=address, desc=desc), total=total, desc=desc)
        return
    results = Parallel(n_jobs=workers, return_as="generator")(jobs) if workers > 1 else _run_here(jobs)
    try:
        yield from _show_progress(results, total=total, desc=desc)
    except PicklingError as error:  # its cause is the text of a traceback
        cause = str(error.__cause__).strip('" \n').splitlines()[-1]
        folder = os.environ.get("JOBLIB_TEMP_FOLDER", "/dev/shm and /tmp")
        raise BrokenExecutor(
            f"the data of {desc} could not be shared with the workers ({cause}): free space in {folder}, or set "
            "JOBLIB_TEMP_FOLDER to a folder with space"
        ) from error


def _run_here(jobs: Iterable[Any]) -> Iterator[Any]:
    """Yield the results of `jobs` one after another, and hold none of them, as joblib would while the next one runs."""
    for function, arguments, named in jobs:
        yield function(*arguments, **named)


def _show_progress(results: Iterable[Any], *, total: int, desc: str) -> Iterator[Any]:
    """Yield the results with a progress bar."""
    with tqdm(total=total, desc=desc, unit="fit") as progress:
        for result in results:
            progress.update()
            yield result
            del result  # before the next one is made
