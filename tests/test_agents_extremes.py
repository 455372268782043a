"""Losses that came true, and the tail fitted to them."""

import numpy as np
import pytest

from pipeline.models.agents.engine.extremes import Losses, Peaks, horizon, realised

PEAKS = Peaks(share=0.1, fewest=5, window=100, every=10)
NEVER = np.zeros(1, dtype=bool)


@pytest.mark.parametrize(("discount", "bars"), [(0.0, 1), (0.5, 5), (0.9, 29), (0.95, 59)])
def test_a_horizon_is_the_first_number_of_bars_that_leaves_less_than_a_twentieth(discount, bars):
    assert horizon(discount) == bars
    assert discount**bars < 0.05
    assert bars == 1 or discount ** (bars - 1) >= 0.05


def test_realised_returns_stand_side_by_side_within_each_run():
    net = np.arange(1.0, 18.0)
    places, returns = realised(net, np.array([12, 5]), discount=0.5)  # horizon 5
    assert places.tolist() == [0, 5, 12]
    weights = np.array([1, 0.5, 0.25, 0.125, 0.0625])
    assert returns.tolist() == [(weights * net[at : at + 5]).sum() for at in (0, 5, 12)]
    assert len(realised(net[:4], np.array([4]), discount=0.5)[0]) == 0


def test_losses_are_taken_one_after_another_and_those_cut_off_are_left_out():
    losses = Losses(PEAKS, discount=0.5, episodes=1)
    for step in range(12):  # two whole ones of 5 bars, and 2 bars of a third
        losses.add(np.array([1.0]), terminated=NEVER, truncated=NEVER | (step == 11))
    losses.add(np.array([-3.0]), terminated=~NEVER, truncated=NEVER)  # ruined at once: a loss of its own
    assert losses.state()["latest"].tolist() == [-1.9375, -1.9375, 3.0]


def test_a_tail_is_fitted_where_there_are_enough_exceedances_and_else_it_says_so():
    losses, rng = Losses(PEAKS, discount=0.0, episodes=10), np.random.default_rng(0)
    nobody = np.zeros(10, dtype=bool)
    losses.add(rng.normal(size=10), terminated=nobody, truncated=nobody)
    losses.fit()
    assert losses.tail is None
    assert losses.report() == {"fits": 0, "too_few": 1, "losses": 10}
    for _ in range(50):
        losses.add(rng.standard_t(4, size=10), terminated=nobody, truncated=nobody)
    losses.fit()
    told = losses.report()
    assert told["losses"] == PEAKS.window == told["observations"]
    assert (told["fits"], told["too_few"], told["exceedances"]) == (1, 1, 10)
    other = Losses(PEAKS, discount=0.0, episodes=10)
    other.restore(losses.state())
    assert other.report() == told
    assert other.tail == losses.tail


@pytest.mark.parametrize("changes", [{"share": 0.0}, {"fewest": 0}, {"window": 1.5}, {"every": 0}])
def test_peaks_that_no_fit_can_go_by_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        Peaks(**{"share": 0.1, "fewest": 5, "window": 100, "every": 10} | changes)
