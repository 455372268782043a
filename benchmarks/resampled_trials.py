"""Trials without skill, resampled from the net returns of real ones: their idle bars, tails and dependence stay.

Returns are centered: the mean of the traded bars is taken off these bars. A trial is drawn in blocks (Politis & Romano
1994), independent trials by their own, correlated ones by common blocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from pipeline.evaluation import bootstrap
from pipeline.evaluation.returns import Returns
from pipeline.evaluation.sharpe_sample import SharpeSample, measure_sharpe

MIN_BLOCK_BARS = 240  # a position and a cluster of volatility mostly stay whole
MIN_TRADED = 0.01  # share of bars with a return, of a trial to draw from
POOL = 8  # measured resamples of each donor, whose length and moments other trials take
MIXED = 3  # donors of a correlated trial

Blocks = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Donor:
    """The centered returns of a real trial, from which records of trials without skill are drawn."""

    name: str  # market|model
    returns: np.ndarray  # (S,)
    block_bars: float
    bars: int  # of a record

    @cached_property
    def doubled(self) -> np.ndarray:
        """(2S,) the returns twice, so that a block may pass the end."""
        return np.concatenate([self.returns, self.returns])

    @cached_property
    def deviation(self) -> float:
        """The standard deviation of the returns."""
        return float(self.returns.std())

    @cached_property
    def running(self) -> np.ndarray:
        """(S + 1, 2) sums of the returns and of their squares before each bar."""
        return np.vstack([np.zeros(2), np.cumsum(np.column_stack([self.returns, self.returns**2]), axis=0)])

    @cached_property
    def pool(self) -> list[SharpeSample]:
        """Measured records."""
        rng = np.random.default_rng(len(self.returns))
        return [measure_sharpe(self.take(self.draw(rng))) for _ in range(POOL)]

    def draw(self, rng: np.random.Generator) -> Blocks:
        """Return starts and lengths of the blocks of a record."""
        _, length = bootstrap.draw_blocks(rng, bars=self.bars, block_bars=self.block_bars)
        return rng.integers(0, len(self.returns), len(length)), length

    def take(self, blocks: Blocks) -> np.ndarray:
        """Return the returns (T,) of blocks."""
        return np.concatenate([self.doubled[start : start + bars] for start, bars in zip(*blocks, strict=True)])

    def measure(self, blocks: Blocks) -> float:
        """Return the Sharpe ratio of blocks from their sums; NaN without a trade."""
        total, squares = bootstrap.sum_blocks(self.running, *blocks).sum(axis=0)
        variance = (squares - total**2 / self.bars) / (self.bars - 1)
        is_traded = variance > 1e-9 * self.deviation**2
        return float(total / self.bars / np.sqrt(variance)) if is_traded else np.nan


class IndependentTrials:
    """Trials that are drawn from random donors, each by its own blocks."""

    def __init__(self, donors: Sequence[Donor], count: int, rng: np.random.Generator) -> None:
        """Draw `count` trials."""
        self._donors = [donors[i] for i in rng.integers(0, len(donors), count)]
        self._blocks = [donor.draw(rng) for donor in self._donors]
        self._pick = rng.integers(0, POOL, count)
        self.sharpes = np.array([d.measure(b) for d, b in zip(self._donors, self._blocks, strict=True)])

    def take(self, i: int) -> np.ndarray:
        """Return the returns (T,) of a trial."""
        return np.asarray(self._donors[i].take(self._blocks[i]))

    def take_sample(self, i: int) -> SharpeSample:
        """Return the evidence of another record of the trial's donor."""
        sample: SharpeSample = self._donors[i].pool[self._pick[i]]
        return sample


class CorrelatedTrials:
    """Mixtures of donors of one market, which is random, drawn by common blocks."""

    def __init__(self, donors: Sequence[Donor], count: int, rng: np.random.Generator) -> None:
        """Draw `count` trials."""
        market = donors[int(rng.integers(len(donors)))].name.split("|")[0]
        own = [donor for donor in donors if donor.name.split("|")[0] == market]
        blocks = max(own, key=lambda donor: donor.block_bars).draw(rng)
        base = np.column_stack([donor.take(blocks) / donor.deviation for donor in own])  # (T, donors)
        self._weights = np.zeros((count, len(own)))
        for row in self._weights:
            row[rng.choice(len(own), MIXED, replace=False)] = rng.dirichlet(np.ones(MIXED))
        deviation = np.sqrt(np.einsum("ij,jk,ik->i", self._weights, np.cov(base.T), self._weights))
        self.sharpes = self._weights @ base.mean(axis=0) / np.where(deviation > 0, deviation, np.nan)
        self._base = base * np.mean([donor.deviation for donor in own])
        self._pool = [measure_sharpe(self.take(i)) for i in range(POOL)]
        self._pick = rng.integers(0, POOL, count)

    def take(self, i: int) -> np.ndarray:
        """Return the returns (T,) of a trial."""
        return np.asarray(self._base @ self._weights[i])

    def take_sample(self, i: int) -> SharpeSample:
        """Return the evidence of another trial of the world."""
        sample: SharpeSample = self._pool[self._pick[i]]
        return sample


Drawn = IndependentTrials | CorrelatedTrials


def load_donors(files: Sequence[Path], *, bars: int) -> list[Donor]:
    """Return the trials of files of `trained/returns`, or .npz with one array per trial, for records of `bars` bars."""
    found: dict[str, np.ndarray] = {}
    for file in files:
        if file.suffix == ".npz":
            found |= {f"{file.stem}|{name}": net for name, net in np.load(file).items()}
        else:
            found |= {f"{file.parent}|{file.stem} {i}": net for i, net in enumerate(Returns.load(file).paths.T)}
    return [make_donor(name, net, bars=bars) for name, net in found.items() if (net != 0).mean() > MIN_TRADED]


def make_donor(name: str, net: np.ndarray, *, bars: int) -> Donor:
    """Return net returns (S,) with the mean of the traded bars taken off those bars."""
    traded = net != 0
    centered = np.where(traded, net - net[traded].mean(), 0.0)
    length = bootstrap.estimate_dependence(centered, active=int(traded.sum())).block_bars
    return Donor(name, centered, max(length, MIN_BLOCK_BARS), bars)
