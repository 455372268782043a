"""Speed, memory and coverage of the overfitting statistics: `python benchmarks/overfitting.py [simulations]`.

Returns are random. Times are medians of single-threaded runs; memory is the peak of a run beside its input. Coverage is
the share of simulations (500 unless given) whose true Sharpe ratio lies in the 95 % interval.
"""

import sys
import time
import tracemalloc
from collections.abc import Callable
from functools import partial

import numpy as np
from scipy import signal, stats
from threadpoolctl import threadpool_limits

from pipeline.evaluation import bootstrap, effective_trials, overfitting, pairwise

REPEATS, RESAMPLES = 5, 2000
TRUE_SHARPE, BARS, WORLDS, COVERAGE_RESAMPLES = 0.05, 10_000, 500, 499
WARM_UP = 500  # bars of a process that are dropped, so that its start does not matter


def print_cost(name: str, call: Callable[[], object]) -> None:
    """Print the median time of a call and its peak memory."""
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"{name}: {np.median(seconds):.2f} s (best {min(seconds):.2f} s), {peak / 2**20:.0f} MiB")


def measure_speed() -> None:
    """Print the cost of the statistics at the sizes that they are made for."""
    rng = np.random.default_rng(0)
    returns = rng.normal(1e-5, 1e-3, (100_000, 200))
    print_cost("PBO, 200 strategies x 100,000 bars, S = 16", lambda: overfitting.pbo(returns, blocks=16))
    print_cost(
        "effective trials, 200 strategies x 100,000 bars",
        lambda: effective_trials.count_effective_trials(effective_trials.correlate_trials(returns)),
    )
    year = rng.normal(1e-5, 1e-3, (500_000, 1))
    print_cost(
        f"interval, 500,000 bars, {RESAMPLES:,} resamples",
        lambda: bootstrap.bootstrap_sharpes(year, np.ones((1, 1)), resamples=RESAMPLES, seed=0).make_intervals(
            confidence=0.95
        ),
    )
    for models, paths, bars in ((2, 5, 500_000), (4, 5, 110_000), (10, 5, 110_000)):
        paths_by_model = {str(i): rng.normal(1e-5, 1e-3, (bars, paths)) for i in range(models)}
        print_cost(
            f"intervals and pairs, {models} models x {paths} paths x {bars:,} bars, {RESAMPLES:,} resamples",
            partial(
                pairwise.compare_sharpes,
                paths_by_model,
                dict.fromkeys(paths_by_model, 0),
                confidence=0.95,
                resamples=RESAMPLES,
                seed=0,
            ),
        )


def simulate_ar1(shocks: np.ndarray, *, phi: float) -> np.ndarray:
    """Return an AR(1) with deviation 1 from shocks with deviation 1."""
    return np.asarray(signal.lfilter([1.0], [1.0, -phi], shocks)[WARM_UP:] * np.sqrt(1 - phi**2))


def simulate_garch(shocks: np.ndarray) -> np.ndarray:
    """Return a GARCH(1, 1) with deviation 1."""
    returns, variance = np.zeros(len(shocks)), 1.0
    for i, shock in enumerate(shocks):
        returns[i] = np.sqrt(variance) * shock
        variance = 0.05 + 0.1 * returns[i] ** 2 + 0.85 * variance
    return returns[WARM_UP:]


def draw_student(rng: np.random.Generator, *, freedom: float) -> np.ndarray:
    """Return shocks with heavy tails and deviation 1."""
    return np.asarray(rng.standard_t(freedom, BARS + WARM_UP) / np.sqrt(freedom / (freedom - 2)))


def draw_normal(rng: np.random.Generator) -> np.ndarray:
    """Return normal shocks with deviation 1."""
    return rng.normal(size=BARS + WARM_UP)


PROCESSES: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "independent": lambda rng: draw_normal(rng)[WARM_UP:],
    "AR(1), 0.3": lambda rng: simulate_ar1(draw_normal(rng), phi=0.3),
    "AR(1), 0.7": lambda rng: simulate_ar1(draw_normal(rng), phi=0.7),
    "AR(1), 0.9": lambda rng: simulate_ar1(draw_normal(rng), phi=0.9),
    "AR(1), -0.5": lambda rng: simulate_ar1(draw_normal(rng), phi=-0.5),
    "Student's t, 3": lambda rng: draw_student(rng, freedom=3)[WARM_UP:],
    "AR(1), 0.5, of Student's t, 3": lambda rng: simulate_ar1(draw_student(rng, freedom=3), phi=0.5),
    "GARCH(1, 1)": lambda rng: simulate_garch(draw_normal(rng)),
}


def measure_coverage(simulations: int) -> None:
    """Print how often the interval covers the true Sharpe ratio, and how often one for independent returns does."""
    print(f"coverage of the 95 % interval, {BARS:,} bars, {COVERAGE_RESAMPLES} resamples, {simulations:,} simulations")
    for name, process in PROCESSES.items():
        rng, hits = np.random.default_rng(1), []
        for simulation in range(simulations):
            returns = process(rng) + TRUE_SHARPE
            result = bootstrap.bootstrap_sharpes(
                returns[:, None], np.ones((1, 1)), resamples=COVERAGE_RESAMPLES, seed=simulation
            )
            low, high = result.make_intervals(confidence=0.95)[0]
            moments = overfitting.estimate_moments(returns)
            below = overfitting.probabilistic_sharpe(**moments, benchmark=TRUE_SHARPE)
            hits.append((low <= TRUE_SHARPE <= high, 0.025 <= below <= 0.975))
        (covered, naive), error = np.mean(hits, axis=0), stats.norm.ppf(0.975) * np.sqrt(0.95 * 0.05 / simulations)
        print(f"  {name}: {covered:.1%} ± {error:.1%}; for independent returns {naive:.1%}")


def main() -> None:
    """Print speed, then coverage."""
    with threadpool_limits(limits=1):
        measure_speed()
        measure_coverage(int(sys.argv[1]) if len(sys.argv) > 1 else WORLDS)


if __name__ == "__main__":
    main()
