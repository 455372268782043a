"""Start workers on this machine: `python -m pipeline.cluster.worker tcp://HOST:8786`, with options of `dask worker`.

Importing this package first pins the arithmetic in the environment, from which every worker's process starts: with
`dask worker` NumPy would be loaded before. By default there is one worker for each CPU, with one thread, as a fit has.
"""

import sys

COMMAND = "python -m pipeline.cluster.worker"
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


def main() -> None:
    """Start the workers; a missing extra, or what Dask refuses, is one line."""
    try:
        from distributed.cli import dask_worker
    except ModuleNotFoundError as error:
        sys.exit(f"{COMMAND} needs {error.name}; run `pip install -c .ci/constraints.txt -e '.[cluster]'`")
    try:
        dask_worker.main(fill_options(sys.argv[1:]), prog_name=COMMAND)
    except ValueError as error:
        fault = " ".join(str(error).split())
        sys.exit(f"{COMMAND}: {fault}; give the scheduler's address, as {COMMAND} tcp://10.0.0.1:8786")


if __name__ == "__main__":
    main()
