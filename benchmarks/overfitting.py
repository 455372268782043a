"""Speed, memory and coverage of the overfitting statistics: `python benchmarks/overfitting.py [worlds]`.

Returns are random; times are medians of single-threaded runs, memory is the most that a run holds beside its input. The
coverage is the share of `worlds` simulated worlds (500 unless given) whose true Sharpe ratio the 95 % interval covers.
"""

import sys
import time
import tracemalloc
from collections.abc import Callable

import numpy as np
from scipy import signal, stats
from threadpoolctl import threadpool_limits

from pipeline import bootstrap, overfitting

REPEATS, RESAMPLES = 5, 2000
TRUE_SHARPE, BARS, WORLDS, WORLD_RESAMPLES = 0.05, 10_000, 500, 499
WARM_UP = 500  # bars of a process before it has forgotten where it began


def measured(name: str, call: Callable[[], object]) -> None:
    """Prints the median time of a call and the most memory it holds."""
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


def speed() -> None:
    """The statistics at the sizes that they are made for."""
    rng = np.random.default_rng(0)
    returns = rng.normal(1e-5, 1e-3, (100_000, 200))
    measured("PBO, 200 strategies x 100,000 bars, S = 16", lambda: overfitting.pbo(returns, blocks=16))
    measured(
        "effective trials, 200 strategies x 100,000 bars",
        lambda: overfitting.effective_trials(overfitting.correlation(returns)),
    )
    year = rng.normal(1e-5, 1e-3, (500_000, 1))
    measured(
        f"interval, 500,000 bars, {RESAMPLES:,} resamples",
        lambda: bootstrap.resampled(year, np.ones((1, 1)), resamples=RESAMPLES, seed=0).interval(confidence=0.95),
    )
    for models, paths, bars in ((2, 5, 500_000), (4, 5, 110_000), (10, 5, 110_000)):
        tried = {str(i): rng.normal(1e-5, 1e-3, (bars, paths)) for i in range(models)}
        measured(
            f"intervals and pairs, {models} models x {paths} paths x {bars:,} bars, {RESAMPLES:,} resamples",
            lambda tried=tried: bootstrap.certainty(
                tried, dict.fromkeys(tried, 0), confidence=0.95, resamples=RESAMPLES, seed=0
            ),
        )


def autoregressive(shocks: np.ndarray, *, phi: float) -> np.ndarray:
    """An AR(1) with deviation 1 from shocks with deviation 1."""
    return signal.lfilter([1.0], [1.0, -phi], shocks)[WARM_UP:] * np.sqrt(1 - phi**2)


def clustered(shocks: np.ndarray) -> np.ndarray:
    """A GARCH(1, 1) with deviation 1."""
    returns, variance = np.zeros(len(shocks)), 1.0
    for i, shock in enumerate(shocks):
        returns[i] = np.sqrt(variance) * shock
        variance = 0.05 + 0.1 * returns[i] ** 2 + 0.85 * variance
    return returns[WARM_UP:]


def student(rng: np.random.Generator, *, freedom: float) -> np.ndarray:
    """Heavy tails with deviation 1."""
    return rng.standard_t(freedom, BARS + WARM_UP) / np.sqrt(freedom / (freedom - 2))


def normal(rng: np.random.Generator) -> np.ndarray:
    """Shocks of a process."""
    return rng.normal(size=BARS + WARM_UP)


PROCESSES: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "independent": lambda rng: normal(rng)[WARM_UP:],
    "AR(1), 0.3": lambda rng: autoregressive(normal(rng), phi=0.3),
    "AR(1), 0.7": lambda rng: autoregressive(normal(rng), phi=0.7),
    "AR(1), 0.9": lambda rng: autoregressive(normal(rng), phi=0.9),
    "AR(1), -0.5": lambda rng: autoregressive(normal(rng), phi=-0.5),
    "Student's t, 3": lambda rng: student(rng, freedom=3)[WARM_UP:],
    "AR(1), 0.5, of Student's t, 3": lambda rng: autoregressive(student(rng, freedom=3), phi=0.5),
    "GARCH(1, 1)": lambda rng: clustered(normal(rng)),
}


def coverage(worlds: int) -> None:
    """How often the interval holds the true Sharpe ratio, and how often one for independent returns does."""
    print(f"coverage of the 95 % interval, {BARS:,} bars, {WORLD_RESAMPLES} resamples, {worlds:,} worlds")
    for name, process in PROCESSES.items():
        rng, hits = np.random.default_rng(1), []
        for world in range(worlds):
            returns = process(rng) + TRUE_SHARPE
            found = bootstrap.resampled(returns[:, None], np.ones((1, 1)), resamples=WORLD_RESAMPLES, seed=world)
            low, high = found.interval(confidence=0.95)[0]
            moments = overfitting.sharpe_moments(returns)
            below = overfitting.probabilistic_sharpe(**moments, benchmark=TRUE_SHARPE)
            hits.append((low <= TRUE_SHARPE <= high, 0.025 <= below <= 0.975))
        (covered, blind), error = np.mean(hits, axis=0), stats.norm.ppf(0.975) * np.sqrt(0.95 * 0.05 / worlds)
        print(f"  {name}: {covered:.1%} ± {error:.1%}; without blocks {blind:.1%}")


def main() -> None:
    """All figures."""
    with threadpool_limits(limits=1):
        speed()
        coverage(int(sys.argv[1]) if len(sys.argv) > 1 else WORLDS)


if __name__ == "__main__":
    main()
