"""Fits on the workers of a Dask cluster, in place of processes of this machine."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import cloudpickle
from distributed import Client, Future, KilledWorker, as_completed
from distributed.client import FutureCancelledError

from pipeline import PINNED, has_avx2
from pipeline.cluster import machine
from pipeline.cluster.calls import (
    Job,
    Outcome,
    check_facts,
    find_shared,
    list_folders,
    make_call,
    run_call,
    write_files,
)
from pipeline.cluster.errors import ClusterError

TIMEOUT_SECONDS = 20
ADDRESS = re.compile(r"(\w+://)?.+:\d+")  # protocol, host and port


def run_on_workers(jobs: Iterable[Job], *, address: str, desc: str) -> Iterator[Any]:
    """Yield the results of `jobs` in their order, with the files of each written before it is yielded.

    Arguments that several jobs share travel once to each worker. A fit whose worker is killed runs again on another.

    Raises:
        ClusterError: there is no scheduler or no worker, a worker differs from this process, or workers are killed.
    """
    listed, folders = list(jobs), list_folders()
    with connect(address) as client:
        facts = check_workers(client, address)
        shared = find_shared(listed)
        client.amm.stop()  # it would drop copies of the data
        # not by broadcast=True: where a worker dies meanwhile, Dask tries to reach it for ever
        data = client.scatter(shared, hash=False) if shared else []
        # without keys of their content: equal fits of two stages are two fits
        calls = [make_call(job, shared, facts=facts, folders=folders) for job in listed]
        fits = [client.submit(run_call, call, *data, pure=False) for call in calls]
        try:
            for outcome in receive(client, fits):
                write_files(outcome.files)
                yield outcome.result
        except KilledWorker as error:
            raise ClusterError(
                f"{desc}: a fit ended every worker that it ran on, the last {error.last_worker.address}; "
                "start fewer workers on a machine (--nworkers) where memory ran out"
            ) from error
        except FutureCancelledError as error:
            raise ClusterError(
                f"{desc}: the scheduler at {address}, or all workers that had the data, ended; start them and repeat"
            ) from error


def receive(client: Client, fits: Sequence[Future[Outcome]]) -> Iterator[Outcome]:
    """Yield the outcomes of fits in their order; each is received once it ends, before its worker may be killed."""
    places = {fit.key: place for place, fit in enumerate(fits)}
    ended: dict[int, Outcome] = {}
    following = 0
    for fit in as_completed(fits, loop=client.loop):
        ended[places[fit.key]] = fit.result()
        fit.release()
        while following in ended:
            yield ended.pop(following)
            following += 1


def connect(address: str) -> Client:
    """Return a client of a scheduler; ClusterError where it does not respond, or the address is none."""
    if not ADDRESS.fullmatch(address):
        raise ClusterError(
            f"PIPELINE_SCHEDULER is {address!r}; it must be the address that `dask scheduler` prints, such as "
            "tcp://10.0.0.1:8786"
        )
    try:
        return Client(address, timeout=TIMEOUT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"PIPELINE_SCHEDULER is {address!r}, where no scheduler responds ({' '.join(str(error).split())}); start "
            "`dask scheduler` there, or unset PIPELINE_SCHEDULER to fit on this machine"
        ) from error


def check_workers(client: Client, address: str) -> dict[str, str]:
    """Return the facts of this process, which all workers share.

    Raises:
        ClusterError: there is no worker, one has several threads, or one differs; names the first difference.
    """
    try:
        client.wait_for_workers(1, timeout=TIMEOUT_SECONDS)
    except TimeoutError as error:
        raise ClusterError(
            f"the scheduler at {address} has no worker; start some by python -m pipeline.cluster.worker {address}"
        ) from error
    for worker, threads in client.nthreads().items():
        if threads != 1:
            raise ClusterError(f"worker {worker} has {threads} threads; a fit has one: start it with --nthreads 1")
    facts = describe_client()
    cloudpickle.register_pickle_by_value(machine)
    try:
        found = client.run(machine.describe_worker, tuple(PINNED))
    finally:
        cloudpickle.unregister_pickle_by_value(machine)
    for worker, each in found.items():
        check_facts(facts, each, address=worker)
    return facts


def describe_client() -> dict[str, str]:
    """Return the facts of this process, in which `pipeline` pinned the arithmetic before a library was imported."""
    return machine.describe_machine(PINNED if has_avx2() else {}, tuple(PINNED))
