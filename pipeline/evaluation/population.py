"""All trials that were ever made on a market, as the statistics of a comparison need them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline.evaluation import effective_trials
from pipeline.evaluation.trials import Trial

MIN_DAYS = 20  # of returns, for correlations between trials
MIN_COVERAGE = 0.8  # of the days of the models compared, for a trial's daily returns to be used


@dataclass(frozen=True)
class Population:
    """The trials on one market: those of the models that are compared, then all others of the ledger."""

    own: Mapping[str, Trial]  # by model
    others: Sequence[Trial]

    @property
    def trials(self) -> list[Trial]:
        """All trials, each set of parameters once."""
        return [*self.own.values(), *self.others]

    @cached_property
    def sharpes(self) -> np.ndarray:
        """(N,) Sharpe ratios per bar; NaN for a trial that never traded."""
        return np.array([trial.sample.sharpe for trial in self.trials])

    @cached_property
    def errors(self) -> np.ndarray:
        """(N,) their standard errors."""
        return np.array([trial.sample.error for trial in self.trials])

    @cached_property
    def daily(self) -> np.ndarray:
        """(D, K) net returns by day of the K trials that have most of the own ones' common days, on days all have."""
        found = [dict(list_daily(trial)) for trial in self.trials]
        own = intersect([set(daily) for daily in found[: len(self.own)]])
        used = [i for i, daily in enumerate(found) if own and len(own & set(daily)) >= MIN_COVERAGE * len(own)]
        days = sorted(intersect([set(found[i]) for i in used]) & own)
        return np.array([[found[i][day] for i in used] for day in days]).reshape(len(days), len(used))

    def estimate_effective_trials(self) -> dict[str, float]:
        """Return the effective number of trials by estimator; none with fewer than `MIN_DAYS` days in common.

        A trial without returns on the common days counts as one.
        """
        known = self.daily
        if len(known) < MIN_DAYS or not known.shape[1]:
            return {}
        counts = effective_trials.estimate_effective_trials(effective_trials.correlate_trials(known))
        return {name: count + len(self.trials) - known.shape[1] for name, count in counts.items()}

    def find_seeds(self, model: str) -> list[Trial]:
        """Return the trials that differ from a model's in the seeds alone, not in their number; its own among them."""
        own = self.own[model]
        key = own.digest_without_seed, own.inner_trials
        return [trial for trial in self.trials if (trial.digest_without_seed, trial.inner_trials) == key]


def intersect(sets: Sequence[set[int]]) -> set[int]:
    """Return the members that all sets have; none without a set."""
    return set.intersection(*sets) if sets else set()


def list_daily(trial: Trial) -> list[tuple[int, float]]:
    """Return the (day, net return) of a trial's days that have bars."""
    return [(trial.first_day + i, net) for i, net in enumerate(trial.daily) if net is not None]
