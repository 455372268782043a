"""An agent learns to trade a market whose truth is known, and to stand still where nothing is to be earned."""

import io

import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from pipeline.models.agents.engine.learner import Learner, Plan
from pipeline.models.agents.engine.market import Market
from pipeline.models.agents.engine.training import Course, rolled, statistics, trained
from pipeline.samples import Samples
from pipeline.tails import Tail
from pipeline.trading import backtest

FEE_BPS, HALF_LIFE, UNIT = 5.0, 10, 1e-3
COSTS = {"fee_bps": FEE_BPS, "slippage_bps": 0.0, "band": 0.0}
TRAIN, TEST = np.arange(12_000), np.arange(12_000, 18_000)
PLAN = {
    **{"hidden": [64, 64], "clip": 5.0, "atoms": 51, "highest": 12.0, "actor_rate": 1e-3, "critic_rate": 1e-3},
    **{"gradient_norm": 1.0, "target_share": 0.01, "saturation": 0.1, "risk_aversion": 0.0, "level": 0.95},
}
COURSE = {
    **{"steps": 500, "episodes": 64, "batch": 256, "memory": 100_000, "bars": 3, "discount": 0.95, "noise": (0.5, 0.1)},
    **{"alpha": 0.6, "beta": 0.4, "smallest_priority": 0.01, "warm_up": 2_000},
}


def world(*, signal: float, seed: int) -> tuple[Samples, np.ndarray]:
    """Bars of which `signal` is the predictable share of the variance, told by column 0; and (N,) expected moves."""
    rng, persistence = np.random.default_rng(seed), 0.5 ** (1 / HALF_LIFE)
    flow = lfilter([np.sqrt(1 - persistence**2)], [1, -persistence], rng.normal(size=18_000))
    expected = UNIT * np.sqrt(signal) * flow
    move = expected + UNIT * np.sqrt(1 - signal) * rng.normal(size=18_000)
    x, time = rng.normal(size=(18_000, 3)).astype(np.float32), 60_000 * np.arange(18_000, dtype=np.int64)
    x[:, 0] = flow
    segment = np.zeros(18_000, np.int32)
    return Samples(time, time + 60_000, segment, x, ("a", "b", "c"), move.astype(np.float32), move), expected


def market(samples: Samples, rows: np.ndarray, *, episode_bars: int = 200) -> Market:
    own = {"fee_bps": FEE_BPS, "slippage_bps": 0.0, "risk_penalty": 0.0, "drawdown_limit": 1.0}
    return Market(samples, rows, **own, episode_bars=episode_bars)


def learner(samples: Samples, **changes: object) -> Learner:
    torch.manual_seed(1)
    return Learner(*statistics(samples.x[TRAIN], unit=UNIT), plan=Plan(**PLAN | changes))


def taught(samples: Samples, *, steps: int = 500, tail: Tail | None = None, **changes: object) -> Learner:
    torch.set_num_threads(1)
    own = {name: value for name, value in changes.items() if name in COURSE}
    plan = {name: value for name, value in changes.items() if name not in COURSE}
    pupil, course = learner(samples, **plan), Course(**COURSE | own | {"steps": steps})
    rng = np.random.default_rng(1)
    for told in trained(pupil, market(samples, TRAIN), course, unit=UNIT, rng=rng, tail=tail):
        assert all(np.isfinite(each) for each in told.values())
    return pupil


def earned(positions: np.ndarray, samples: Samples, rows: np.ndarray) -> float:
    """The sum of net returns of positions held."""
    return float(backtest(positions, samples.segment[rows], samples.move[rows], **COSTS).net.sum())


def best(expected: np.ndarray) -> np.ndarray:
    """(n,) positions that earn the most in expectation by one who knows all expected moves: dynamic programming.

    Costs and gains are linear in the position: nothing between -1, 0 and 1 is better than the best of them.
    """
    held = np.array([-1.0, 0.0, 1.0])
    costs = FEE_BPS / 1e4 * np.abs(held[:, None] - held)  # (from, to)
    value, choice = -FEE_BPS / 1e4 * np.abs(held), np.empty((len(expected), 3), dtype=np.int64)
    for row in range(len(expected) - 1, -1, -1):
        worth = held * expected[row] - costs + value  # (from, to)
        choice[row], value = worth.argmax(axis=1), worth.max(axis=1)
    positions, at = np.empty(len(expected)), 1
    for row, options in enumerate(choice):
        at = options[at]
        positions[row] = held[at]
    return positions


def test_a_known_signal_is_traded_nearly_as_well_as_by_one_who_knows_the_truth():
    samples, expected = world(signal=0.3, seed=0)
    positions = rolled(taught(samples), market(samples, TEST, episode_bars=10_000))
    most = earned(best(expected[TEST]), samples, TEST)
    assert most > 1.0
    assert earned(positions, samples, TEST) > 0.7 * most


def test_where_nothing_can_be_earned_it_learns_to_stand_still():
    samples, _ = world(signal=0.0, seed=1)
    positions = rolled(taught(samples, steps=1000), market(samples, TEST, episode_bars=10_000))
    assert np.abs(np.diff(positions)).mean() < 0.03  # where the signal is known it is 0.1


def test_the_same_seed_gives_the_same_bytes():
    samples, _ = world(signal=0.3, seed=0)
    first, second = (taught(samples, steps=60).state() for _ in range(2))
    for name in ("actor", "critic"):
        assert all(torch.equal(first[name][key], second[name][key]) for key in first[name])


def test_a_learner_goes_on_from_its_state_without_a_pickle():
    samples, _ = world(signal=0.3, seed=0)
    first, stream = taught(samples, steps=60), io.BytesIO()
    torch.save(first.state(), stream)
    stream.seek(0)
    second = learner(samples)
    second.restore(torch.load(stream, weights_only=True))
    pair = [pupil for pupil in (first, second)]
    for pupil in pair:
        list(
            trained(
                pupil, market(samples, TRAIN), Course(**COURSE | {"steps": 40}), unit=UNIT, rng=np.random.default_rng(2)
            )
        )
    observation = market(samples, TRAIN).observe(market(samples, TRAIN).begin(np.arange(100)))
    assert np.array_equal(*(pupil.act(observation) for pupil in pair))


def test_aversion_to_risk_buys_a_smaller_shortfall_with_some_of_the_gain():
    samples, _ = world(signal=0.05, seed=0)
    nets = []
    for aversion in (0.0, 3.0):
        pupil = taught(samples, steps=1000, risk_aversion=aversion, bars=1, discount=0.8)
        positions = rolled(pupil, market(samples, TEST, episode_bars=10_000))
        nets.append(backtest(positions, samples.segment[TEST], samples.move[TEST], **COSTS).net)
    worst = [-np.sort(net)[: len(TEST) // 20].mean() for net in nets]
    assert worst[1] < 0.8 * worst[0]
    assert 0 < nets[1].sum() < nets[0].sum()


@pytest.mark.parametrize("tail", [None, Tail(threshold=3.0, shape=0.2, scale=1.0, exceedances=500, observations=5000)])
def test_aversion_to_risk_moves_the_actor(tail):
    samples, _ = world(signal=0.3, seed=0)
    bold, wary = (taught(samples, steps=40, risk_aversion=aversion, tail=tail).state() for aversion in (0.0, 1.0))
    first = "body.0.weight"
    assert not torch.equal(bold["actor"][first], wary["actor"][first])
    one, other = (taught(samples, steps=40, risk_aversion=0.0, tail=each).state() for each in (None, tail))
    assert torch.equal(one["actor"][first], other["actor"][first])  # at 0 the tail does not matter


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": []}, "hidden is \\[\\]; allowed is a list of one width or more"),
        ({"level": 1.0}, "level is 1.0"),
        ({"risk_aversion": -1.0}, "risk_aversion is -1.0"),
        ({"atoms": 1}, "1 atoms"),
        ({"target_share": 0.0}, "target_share is 0.0"),
    ],
)
def test_a_plan_that_no_learner_can_go_by_is_refused(changes, message):
    samples, _ = world(signal=0.3, seed=0)
    with pytest.raises(ValueError, match=message):
        learner(samples, **changes)


@pytest.mark.parametrize("changes", [{"steps": 0}, {"batch": 1.5}, {"noise": (0.1,)}, {"noise": (0.5, -0.1)}])
def test_a_course_that_no_training_can_go_by_is_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        Course(**COURSE | changes)
