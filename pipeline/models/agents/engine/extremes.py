"""Losses that came true while an agent traded, and the tail that is fitted to the largest of them now and then."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline import tails
from pipeline.models.neural.checks import check_sizes
from pipeline.tails import Tail

LEFT = 0.05  # of a discounted return, that lies beyond the bars over which it is taken


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """How the tail is fitted: what params say of it."""

    share: float  # of the losses, that lie beyond the threshold
    fewest: int  # of them, from which on a tail is fitted
    window: int  # of the latest losses
    every: int  # so many updates a new fit

    def __post_init__(self) -> None:
        """Every number is one that a fit can go by."""
        check_sizes("extremes", fewest=self.fewest, window=self.window, every=self.every)
        if not 0 < self.share < 1:
            raise ValueError(f"extremes: share is {self.share}; a part of the losses is wanted, above 0 and below 1")


def horizon(discount: float) -> int:
    """Bars after which less than a twentieth of a discounted return is left."""
    return max(1, math.ceil(math.log(LEFT) / math.log(discount))) if discount > 0 else 1


def realised(net: np.ndarray, runs: np.ndarray, *, discount: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns that came true over stretches of `horizon` bars, one after another within each run of consecutive bars.

    `net` (n,) stands run by run, `runs` (R,) are their lengths. Returns (S,) the places where the stretches begin and
    (S,) their discounted sums; what is left of a run is too short to tell.
    """
    bars = horizon(discount)
    begins = np.concatenate([[0], np.cumsum(runs)[:-1]])
    places = np.concatenate(
        [np.arange(begin, begin + length - bars + 1, bars) for begin, length in zip(begins, runs, strict=True)]
    ).astype(np.int64)
    return places, net[places[:, None] + np.arange(bars)] @ discount ** np.arange(bars)


class Losses:
    """The latest losses of many episodes, in deviations of a bar's move, and the tail that was last fitted to them.

    A loss is the negative of a discounted return over `horizon` bars, one after another in each episode: they do not
    overlap. What an episode had begun when it was cut off is left out, what it had when it was ruined is not.
    """

    def __init__(self, peaks: Peaks, *, discount: float, episodes: int) -> None:
        """Nothing has been lost."""
        self.peaks, self.discount, self.bars = peaks, discount, horizon(discount)
        self.tail: Tail | None = None
        self.shapes: list[float] = []  # of all fits
        self.refused = 0  # fits for which there were too few exceedances
        self._latest = np.empty(0)
        self._sums, self._age = np.zeros(episodes), np.zeros(episodes, np.int64)

    def add(self, reward: np.ndarray, *, terminated: np.ndarray, truncated: np.ndarray) -> None:
        """(E,) rewards of one step of all episodes, and which of them are over."""
        self._sums += self.discount**self._age * reward
        self._age += 1
        is_whole = (self._age == self.bars) | terminated
        self._latest = np.concatenate([self._latest, -self._sums[is_whole]])[-self.peaks.window :]
        is_over = is_whole | truncated
        self._sums[is_over], self._age[is_over] = 0.0, 0

    def fit(self) -> None:
        """The tail is that of the latest losses; where too few exceed the threshold there is none."""
        try:
            self.tail = tails.fit(self._latest, share=self.peaks.share, fewest=self.peaks.fewest)
        except tails.TooFewError:
            self.tail, self.refused = None, self.refused + 1
            return
        self.shapes.append(self.tail.shape)

    def report(self) -> dict[str, Any]:
        """The last fit with the standard errors of its numbers, how these moved from fit to fit, and the refusals."""
        told: dict[str, Any] = {"fits": len(self.shapes), "too_few": self.refused, "losses": len(self._latest)}
        if self.tail is None:
            return told
        later = self.shapes[len(self.shapes) // 2 :]
        errors = dict(zip(("shape_error", "scale_error"), self.tail.errors(), strict=True))
        return {**told, **asdict(self.tail), **errors, "shape_deviation_of_later_fits": float(np.std(later))}

    def state(self) -> dict[str, Any]:
        """All of it, plain values and arrays."""
        return {
            "tail": asdict(self.tail) if self.tail else None,
            "shapes": list(self.shapes),
            "refused": self.refused,
            "latest": self._latest.copy(),
            "sums": self._sums.copy(),
            "age": self._age.copy(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """This stands where it stood when `state` was taken."""
        self.tail = Tail(**state["tail"]) if state["tail"] else None
        self.shapes, self.refused = list(state["shapes"]), state["refused"]
        self._latest, self._sums, self._age = (np.array(state[name]) for name in ("latest", "sums", "age"))
