"""Start workers on this machine: `python -m pipeline.cluster.worker tcp://HOST:8786`, with options of `dask worker`.

Importing this package first pins the arithmetic in the environment, from which every worker's process starts: with
`dask worker` NumPy would be loaded before. By default there is one worker for each CPU, with one thread, as a fit has.
"""

import sys

from distributed.cli import dask_worker

DEFAULTS = {  # options of `dask worker`
    "--nworkers": "-1",  # as many as there are CPUs
    "--nthreads": "1",
    "--memory-limit": "0",  # none: a fit takes what it needs, as without a cluster
}


def fill_options(given: list[str]) -> list[str]:
    """Return the options that were given, with those of DEFAULTS that were not.

    >>> fill_options(["tcp://10.0.0.1:8786", "--nworkers=4"])
    ['tcp://10.0.0.1:8786', '--nworkers=4', '--nthreads', '1', '--memory-limit', '0']
    """
    names = {option.split("=")[0] for option in given}
    return [*given, *(part for name, value in DEFAULTS.items() if name not in names for part in (name, value))]


if __name__ == "__main__":
    dask_worker.main(fill_options(sys.argv[1:]), prog_name="python -m pipeline.cluster.worker")
