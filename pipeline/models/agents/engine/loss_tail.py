"""Realized losses of a training, and the generalized Pareto tail that is refitted to the largest of them."""

from dataclasses import asdict
from typing import Any

import numpy as np

from pipeline.models.agents.engine.hyperparameters import EvtConfig
from pipeline.models.agents.engine.nstep import count_horizon_bars
from pipeline.tail_risk import GpdTail, TooFewExceedancesError, fit_tail


def discount_runs(reward: np.ndarray, run_lengths: np.ndarray, *, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the discounted returns over windows of `count_horizon_bars(gamma)` bars, side by side within each run.

    `reward` (n,) is ordered run by run, with lengths `run_lengths` (R,). Returns (S,) indices at which the windows
    start and (S,) their discounted sums; the rest of a run, shorter than a window, is left out.
    """
    bars = count_horizon_bars(gamma)
    begins = np.concatenate([[0], np.cumsum(run_lengths)[:-1]])
    starts = np.concatenate(
        [np.arange(begin, begin + length - bars + 1, bars) for begin, length in zip(begins, run_lengths, strict=True)]
    ).astype(np.int64)
    return starts, reward[starts[:, None] + np.arange(bars)] @ gamma ** np.arange(bars)


class LossTail:
    """The latest losses of many environments, in standard deviations of a bar's return, and their last fitted tail.

    A loss is minus a discounted return over the horizon; windows follow one another in each environment and do not
    overlap. The open window of a truncated episode is dropped, that of a terminated one counts.
    """

    def __init__(self, config: EvtConfig, *, gamma: float, num_envs: int) -> None:
        """Start without losses and without a tail."""
        self.config, self.gamma, self.horizon_bars = config, gamma, count_horizon_bars(gamma)
        self.tail: GpdTail | None = None
        self.shapes: list[float] = []  # of every fit
        self.failed_refits = 0
        self._latest, self._sums, self._age = np.empty(0), np.zeros(num_envs), np.zeros(num_envs, np.int64)

    def add(self, reward: np.ndarray, *, terminated: np.ndarray, truncated: np.ndarray) -> None:
        """Add one step: (E,) rewards of all environments, and which episodes it ends."""
        self._sums += self.gamma**self._age * reward
        self._age += 1
        is_whole = (self._age == self.horizon_bars) | terminated
        self._latest = np.concatenate([self._latest, -self._sums[is_whole]])[-self.config.window :]
        is_over = is_whole | truncated
        self._sums[is_over], self._age[is_over] = 0.0, 0

    def refit(self) -> None:
        """Fit the tail to the latest losses; with too few exceedances there is none."""
        fraction, least = self.config.tail_fraction, self.config.min_exceedances
        try:
            self.tail = fit_tail(self._latest, tail_fraction=fraction, min_exceedances=least)
        except TooFewExceedancesError:
            self.tail, self.failed_refits = None, self.failed_refits + 1
            return
        self.shapes.append(self.tail.shape)

    def describe(self) -> dict[str, Any]:
        """Return the last fit with its standard errors, the spread of the shape over later fits, and the counts."""
        counts = {"refits": len(self.shapes), "failed_refits": self.failed_refits, "observations": len(self._latest)}
        if self.tail is None:
            return counts
        later = self.shapes[len(self.shapes) // 2 :]
        errors = dict(zip(("shape_standard_error", "scale_standard_error"), self.tail.standard_errors, strict=True))
        return {**counts, **asdict(self.tail), **errors, "shape_std_of_later_refits": float(np.std(later))}

    def state_dict(self) -> dict[str, Any]:
        """Return everything that later results depend on, as plain values and arrays."""
        return {
            "tail": asdict(self.tail) if self.tail else None,
            "shapes": list(self.shapes),
            "failed_refits": self.failed_refits,
            "latest": self._latest.copy(),
            "sums": self._sums.copy(),
            "age": self._age.copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.tail = GpdTail(**state["tail"]) if state["tail"] else None
        self.shapes, self.failed_refits = list(state["shapes"]), state["failed_refits"]
        self._latest, self._sums, self._age = (np.array(state[name]) for name in ("latest", "sums", "age"))
