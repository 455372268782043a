"""Fits on a Dask cluster against processes of this machine: `python benchmarks/cluster.py --json FILE`.

It takes the fits of a model of params.yaml from the data that the pipeline has made (by `dvc repro`). With
`--namespaces`, as root, every worker runs in a network namespace of its own, connected by a bridge; `--rate 1gbit` then
limits each of their links by tc.
"""

import argparse
import contextlib
import heapq
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from joblib import delayed

from pipeline import config
from pipeline.cluster.calls import measure_bytes
from pipeline.models.cross_fit import CrossFit, FitTask, ModelSpec, fit_fold, plan_cross_fit
from pipeline.models.dataset import LabeledDataset
from pipeline.models.parallel_fits import run_in_parallel

ROOT = Path(__file__).parents[1]
BRIDGE, NETWORK = "pipebr0", "10.77.0"
GIGABIT = 125e6  # bytes a second
PROBES = 20  # empty fits, to measure the overhead


@dataclass(frozen=True)
class Cluster:
    """The constants of a simulated cluster."""

    start: float  # seconds to connect and to check the workers
    overhead: float  # seconds of the client a fit: to send it, and to receive its result
    transfer: float  # seconds to send the data to one worker; the data then doubles its places in this time


def fit_timed(task: FitTask, spec: ModelSpec, data: LabeledDataset) -> tuple[float, Any]:
    """Return the seconds of a fit and its result."""
    start = time.perf_counter()
    result = fit_fold(task, spec, data, folder=Path(f"model-{task.seed}-{task.split}"))
    return time.perf_counter() - start, result


def do_nothing(number: int, data: Any) -> int:
    """Return its argument: a fit without work."""
    return number


def run_jobs(
    function: Callable[..., Any], cases: Sequence[tuple[Any, ...]], *, workers: int
) -> tuple[float, list[Any]]:
    """Return the seconds of a run of all cases, and their results."""
    start = time.perf_counter()
    jobs = (delayed(function)(*case) for case in cases)
    results = list(run_in_parallel(jobs, workers=workers, total=len(cases), desc=function.__name__))
    return time.perf_counter() - start, results


def simulate(seconds: Sequence[float], *, workers: int, cluster: Cluster) -> float:
    """Return the wall time of fits on a cluster: each goes, in order, to the first worker that is free.

    The data reaches the workers by a tree, one more round for each doubling. The client sends and receives one after
    another, so that a fit starts no earlier than the client has sent it, and ends the run no earlier than it was
    received.
    """
    rounds = max(1, (workers - 1).bit_length() + 1)
    ready = cluster.start + cluster.transfer * rounds
    free = [ready] * workers
    heapq.heapify(free)
    ended = []
    for number, each in enumerate(seconds):
        begin = max(heapq.heappop(free), ready + number * cluster.overhead / 2)
        ended.append(begin + each)
        heapq.heappush(free, begin + each)
    received = 0.0
    for each in sorted(ended):
        received = max(received, each) + cluster.overhead / 2
    return received


@contextlib.contextmanager
def make_namespaces(count: int, *, rate: str | None) -> Iterator[list[list[str]]]:
    """Yield the words before a command that run it in each of some network namespaces."""
    names = [f"pipens{number}" for number in range(count)]

    def call(text: str) -> None:
        subprocess.run(text.split(), check=True)

    call(f"ip link add {BRIDGE} type bridge")
    try:
        call(f"ip addr add {NETWORK}.1/24 dev {BRIDGE}")
        call(f"ip link set {BRIDGE} up")
        for number, name in enumerate(names):
            call(f"ip netns add {name}")
            call(f"ip link add {name}h type veth peer name eth0 netns {name}")
            call(f"ip link set {name}h master {BRIDGE} up")
            call(f"ip -n {name} addr add {NETWORK}.{number + 2}/24 dev eth0")
            call(f"ip -n {name} link set eth0 up")
            call(f"ip -n {name} link set lo up")
            if rate:
                call(f"tc qdisc add dev {name}h root tbf rate {rate} burst 1mb latency 50ms")
        yield [["ip", "netns", "exec", name] for name in names]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False)
        subprocess.run(["ip", "link", "del", BRIDGE], check=False)


@contextlib.contextmanager
def start_cluster(prefixes: Sequence[Sequence[str]], *, host: str) -> Iterator[str]:
    """Yield the address of a scheduler on `host` with one worker for each prefix of its command."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PIPELINE_SCHEDULER", None)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        file = folder / "scheduler.json"

        def start(*words: str) -> None:
            log = stack.enter_context((folder / f"{len(list(folder.iterdir()))}.log").open("w"))
            running = subprocess.Popen(words, cwd=folder, env=environment, stdout=log, stderr=log)
            stack.callback(running.wait, 60)
            stack.callback(running.terminate)

        start(sys.executable, "-m", "dask", "scheduler", "--host", host, "--port", "0", "--no-dashboard",
              "--scheduler-file", str(file))  # fmt: skip
        while not file.exists() or not file.read_text().endswith("}"):
            time.sleep(0.1)
        address = json.loads(file.read_text())["address"]
        for prefix in prefixes:
            start(
                *prefix, sys.executable, "-m", "pipeline.cluster.worker", address, "--nworkers", "1", "--no-dashboard"
            )
        wait_for_workers(address, len(prefixes))
        yield address


def wait_for_workers(address: str, count: int) -> None:
    """Return once a scheduler has so many workers."""
    from distributed import Client

    with Client(address, set_as_default=False) as client:
        client.wait_for_workers(count, timeout=120)


def measure_overhead(data: Any, *, workers: int) -> tuple[float, float]:
    """Return the seconds that a run takes to start, with its data, and those that each further fit takes."""
    first = statistics.median(run_jobs(do_nothing, [(0, data), (1, data)], workers=workers)[0] for _ in range(2))
    many = statistics.median(
        run_jobs(do_nothing, [(number, data) for number in range(PROBES)], workers=workers)[0] for _ in range(2)
    )
    return first, max(many - first, 0.0) / (PROBES - 2)


def measure(
    plan: CrossFit, options: argparse.Namespace, *, prefixes: Sequence[Sequence[str]], host: str
) -> dict[str, Any]:
    """Return the measured times of this machine and of a cluster, and the simulated ones."""
    spec = replace(plan.spec, shared={**plan.spec.shared, "num_boost_round": options.boost_rounds})
    cases = [(task, spec, plan.data) for task in plan.tasks[: options.first]]
    count = len(prefixes)
    found: dict[str, Any] = {"fits": len(cases), "data_mb": measure_bytes(plan.data) / 1e6}
    run_jobs(do_nothing, [(0, 0), (1, 0)], workers=count)  # starts the processes
    found["local"], timed = run_jobs(fit_timed, cases, workers=count)
    local = [seconds for seconds, _ in timed]
    found["result_mb"] = statistics.mean(measure_bytes(result) for _, result in timed) / 1e6
    with start_cluster(prefixes, host=host) as address:
        os.environ["PIPELINE_SCHEDULER"] = address
        run_jobs(fit_timed, cases[:count], workers=count)  # imports the libraries
        start, _ = measure_overhead(0, workers=count)
        with_data, overhead = measure_overhead(plan.data, workers=count)
        found["cluster"], timed = run_jobs(fit_timed, cases, workers=count)
        del os.environ["PIPELINE_SCHEDULER"]
    remote = [seconds for seconds, _ in timed]
    rounds = (count - 1).bit_length() + 1
    transfer = max(with_data - start, 0.0) / rounds
    found |= {"local_fit": statistics.mean(local), "cluster_fit": statistics.mean(remote)}
    found |= {"start": start, "overhead": overhead, "transfer": transfer}
    here = Cluster(start, overhead, transfer)
    found["simulated"] = simulate(remote, workers=count, cluster=here)
    found["simulated_from_local_fits"] = simulate(local, workers=count, cluster=here)
    results = found["result_mb"] * 1e6 / GIGABIT
    wide = Cluster(start, overhead + results, found["data_mb"] * 1e6 / GIGABIT)
    for fits in (len(cases), options.fits):
        times = [remote[number % len(remote)] for number in range(fits)]
        for workers in (1, 2, 10, 100):
            found[f"{fits} fits on {workers}"] = simulate(times, workers=workers, cluster=wide)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--model", default="lightgbm", help="one of models.trees")
    parser.add_argument("--boost-rounds", type=int, default=1000, help="fewer make shorter fits")
    parser.add_argument("--first", type=int, help="so many of the fits alone")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--fits", type=int, default=1000, help="of the larger simulated run")
    parser.add_argument("--namespaces", action="store_true")
    parser.add_argument("--rate", help="of each link of a namespace, such as 1gbit")
    options = parser.parse_args()
    plan = plan_cross_fit(config.load_params(), options.model)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(contextlib.chdir(folder))  # the final fit writes its model
        prefixes: list[list[str]] = [[]] * options.workers
        host = "127.0.0.1"
        if options.namespaces:
            prefixes = stack.enter_context(make_namespaces(options.workers, rate=options.rate))
            host = f"{NETWORK}.1"
        found = measure(plan, options, prefixes=prefixes, host=host)
    options.json.write_text(json.dumps(found, indent=2))
    for name, value in found.items():
        print(f"{name:32} {value:10.3f}")


if __name__ == "__main__":
    main()
