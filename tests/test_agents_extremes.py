"""Realized losses, and the tail fitted to them."""

import numpy as np
import pytest

from pipeline.models.agents.engine.hyperparameters import EvtConfig
from pipeline.models.agents.engine.loss_tail import LossTail, discount_runs
from pipeline.models.agents.engine.nstep import count_horizon_bars

EVT = EvtConfig(tail_fraction=0.1, min_exceedances=5, window=100, refit_interval=10)
NEVER = np.zeros(1, dtype=bool)


@pytest.mark.parametrize(("gamma", "bars"), [(0.0, 1), (0.5, 5), (0.9, 29), (0.95, 59)])
def test_a_horizon_is_the_first_number_of_bars_that_leaves_less_than_a_twentieth(gamma, bars):
    assert count_horizon_bars(gamma) == bars
    assert gamma**bars < 0.05
    assert bars == 1 or gamma ** (bars - 1) >= 0.05


def test_windows_of_realized_returns_are_side_by_side_within_each_run():
    reward = np.arange(1.0, 18.0)
    starts, returns = discount_runs(reward, np.array([12, 5]), gamma=0.5)  # horizon 5
    assert starts.tolist() == [0, 5, 12]
    weights = np.array([1, 0.5, 0.25, 0.125, 0.0625])
    assert returns.tolist() == [(weights * reward[at : at + 5]).sum() for at in (0, 5, 12)]
    assert len(discount_runs(reward[:4], np.array([4]), gamma=0.5)[0]) == 0


def test_losses_follow_one_another_and_those_of_truncated_episodes_are_left_out():
    losses = LossTail(EVT, gamma=0.5, num_envs=1)
    for step in range(12):  # two whole ones of 5 bars, and 2 bars of a third
        losses.add(np.array([1.0]), terminated=NEVER, truncated=NEVER | (step == 11))
    losses.add(np.array([-3.0]), terminated=~NEVER, truncated=NEVER)  # terminated at once: a loss of its own
    assert losses.state_dict()["latest"].tolist() == [-1.9375, -1.9375, 3.0]


def test_a_tail_is_fitted_where_there_are_enough_exceedances_and_otherwise_a_failed_fit_is_counted():
    losses, rng = LossTail(EVT, gamma=0.0, num_envs=10), np.random.default_rng(0)
    none = np.zeros(10, dtype=bool)
    losses.add(rng.normal(size=10), terminated=none, truncated=none)
    losses.refit()
    assert losses.tail is None
    assert losses.describe() == {"refits": 0, "failed_refits": 1, "observations": 10}
    for _ in range(50):
        losses.add(rng.standard_t(4, size=10), terminated=none, truncated=none)
    losses.refit()
    report = losses.describe()
    assert report["observations"] == EVT.window
    assert (report["refits"], report["failed_refits"], report["exceedances"]) == (1, 1, 10)
    other = LossTail(EVT, gamma=0.0, num_envs=10)
    other.load_state_dict(losses.state_dict())
    assert other.describe() == report
    assert other.tail == losses.tail


@pytest.mark.parametrize(
    "changes", [{"tail_fraction": 0.0}, {"min_exceedances": 0}, {"window": 1.5}, {"refit_interval": 0}]
)
def test_evt_settings_out_of_range_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        EvtConfig(**{"tail_fraction": 0.1, "min_exceedances": 5, "window": 100, "refit_interval": 10} | changes)
