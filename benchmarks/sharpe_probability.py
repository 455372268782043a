"""Calibrate the PSR by the number of traded bars: `python benchmarks/sharpe_probability.py [bars.parquet] --json FILE`.

A record of 13.5 days of one-minute bars holds a position on a few of them. No series has an edge, so that a calibrated
PSR is above 95 % in 5 % of the draws, and below 5 % in as many. The published PSR, in which every bar is an observation
however idle, stands beside it. Cells that the file of --json holds are not repeated.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from null_trials import PASS, Facts, extend_worlds, format_share
from scipy import signal

from pipeline.evaluation import overfitting
from pipeline.evaluation.sharpe_sample import MIN_OBSERVATIONS, measure_sharpe
from pipeline.reporting import markdown

SLICE = Path(__file__).resolve().parents[2] / "shared" / "data" / "BTCUSDT_1m_2024-01-01_90d.parquet"
BARS = 19_440
COUNTS = (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 1000, 5000)  # traded bars
AUTOCORRELATION, WARM_UP = 0.5, 50
FEW_DRAWS = 200  # that are measured where all must be undefined

Draw = Callable[[np.random.Generator, int, np.ndarray], np.ndarray]


def draw_normal(rng: np.random.Generator, count: int, _: np.ndarray) -> np.ndarray:
    """Return Normal returns on scattered bars."""
    return scatter(rng, rng.normal(size=count))


def draw_scattered(rng: np.random.Generator, count: int, market: np.ndarray) -> np.ndarray:
    """Return a market's returns with random signs on scattered bars."""
    return scatter(rng, rng.choice(market, count, replace=False) * rng.choice([-1.0, 1.0], count))


def draw_held(rng: np.random.Generator, count: int, market: np.ndarray) -> np.ndarray:
    """Return one position, long or short, held over consecutive bars of a market."""
    first = rng.integers(len(market) - count)
    return place(rng, market[first : first + count] * rng.choice([-1.0, 1.0]))


def draw_autocorrelated(rng: np.random.Generator, count: int, _: np.ndarray) -> np.ndarray:
    """Return an AR(1) on consecutive bars."""
    return place(rng, signal.lfilter([1.0], [1.0, -AUTOCORRELATION], rng.normal(size=count + WARM_UP))[WARM_UP:])


def scatter(rng: np.random.Generator, returns: np.ndarray) -> np.ndarray:
    """Return a record in which returns stand on random bars."""
    record = np.zeros(BARS)
    record[rng.choice(BARS, len(returns), replace=False)] = returns
    return record


def place(rng: np.random.Generator, returns: np.ndarray) -> np.ndarray:
    """Return a record in which returns stand on consecutive bars."""
    record, first = np.zeros(BARS), rng.integers(BARS - len(returns) + 1)
    record[first : first + len(returns)] = returns
    return record


KINDS: dict[str, Draw] = {
    "Normal, scattered": draw_normal,
    "market, random signs, scattered": draw_scattered,
    "market, one position held": draw_held,
    "AR(1), 0.5, one stretch": draw_autocorrelated,
}


def run_cell(market: np.ndarray, *, kind: str, count: int, draws: int) -> Facts:
    """Return the PSR of every draw of one kind with `count` traded bars; null where undefined."""
    rng = np.random.default_rng([count, list(KINDS).index(kind)])
    found: list[Any] = []
    published: list[Any] = []
    for i in range(draws):
        returns = KINDS[kind](rng, count, market)
        published.append(assess_as_published(returns[returns != 0]))
        if count < MIN_OBSERVATIONS and i >= FEW_DRAWS:
            found.append(None)  # no record has more observations than traded bars
            continue
        sample = measure_sharpe(returns)
        found.append(overfitting.probabilistic_sharpe(**sample.moments) if sample.is_sufficient else None)
    return {"kind": kind, "count": count, "draws": draws, "psr": found, "published": published}


def assess_as_published(traded: np.ndarray) -> float:
    """Return the PSR of a record with these returns on its traded bars, every bar taken as an observation.

    It is 0.5 where nothing was gained or lost.
    """
    if not len(traded):
        return 0.5
    mean, idle = traded.sum() / BARS, BARS - len(traded)
    second, third, fourth = ((((traded - mean) ** power).sum() + idle * (-mean) ** power) / BARS for power in (2, 3, 4))
    sharpe = mean / np.sqrt(second * BARS / (BARS - 1))
    return overfitting.probabilistic_sharpe(sharpe, n=BARS, skew=third / second**1.5, kurtosis=fourth / second**2)


def render_cells(cells: list[Facts]) -> str:
    """Return the table of all cells."""
    rows = []
    for cell in cells:
        known = [psr for psr in cell["psr"] if psr is not None]
        shares = [format_share(flags) for flags in ([psr > PASS for psr in known], [psr < 1 - PASS for psr in known])]
        rows.append(
            [
                cell["kind"],
                f"{cell['count']:,}",
                f"{1 - len(known) / cell['draws']:.1%}",
                *shares,
                format_share([psr > PASS for psr in cell["published"]]),
            ]
        )
    return markdown.render_table(
        ["returns", "traded bars", "undefined", "PSR > 95 %", "PSR < 5 %", "published PSR > 95 %"], rows
    )


def main() -> None:
    """Run every cell and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bars", nargs="?", type=Path, default=SLICE, help="real klines")
    parser.add_argument("--draws", type=int, default=2000, help="of each cell")
    parser.add_argument("--seconds", type=float, default=np.inf, help="after which no cell is started")
    parser.add_argument("--json", type=Path, required=True, help="file of the cells, to which new ones are added")
    options = parser.parse_args()
    close = pd.read_parquet(options.bars)["close"].to_numpy()
    market = np.diff(close) / close[:-1]
    keys = [{"kind": kind, "count": count, "draws": options.draws} for count in COUNTS for kind in KINDS]
    cells = extend_worlds(options.json, keys, lambda key: run_cell(market, **key), seconds=options.seconds)
    sys.stdout.write(render_cells(sorted(cells, key=lambda cell: list(KINDS).index(cell["kind"]))))


if __name__ == "__main__":
    main()
