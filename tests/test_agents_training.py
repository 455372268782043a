"""An agent learns to trade a market whose truth is known, and to stand still where nothing is to be earned."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.agents_learning import best
from pipeline.models.agents.engine.course import Training
from pipeline.models.agents.engine.learner import Learner
from pipeline.models.agents.engine.trial import shortfall
from pipeline.models.base import Bench, Shape, build
from pipeline.tails import Tail
from pipeline.trading import backtest
from tests.agents import COSTS, FEE_BPS, FEW, PARAMS, TEST, TRAIN, VALID, agent, world

SOON = {"share": 0.2, "fewest": 5, "window": 100, "every": 5}  # a tail after few steps
BOTH = pytest.mark.parametrize("name", ["d4pg", "marl"])


def test_the_best_positions_are_the_best_of_all_there_are():
    for seed in range(5):
        expected = 1e-3 * np.random.default_rng(seed).normal(size=7)

        def earned(positions: np.ndarray, expected: np.ndarray = expected) -> float:
            return positions @ expected - FEE_BPS / 1e4 * np.abs(np.diff(positions, prepend=0.0, append=0.0)).sum()

        every = max(earned(np.array(each)) for each in itertools.product((-1.0, 0.0, 1.0), repeat=7))
        assert earned(best(expected, cost=FEE_BPS / 1e4)) == pytest.approx(every)


@pytest.mark.parametrize(("name", "share"), [("d4pg", 0.7), ("marl", 0.6)])
def test_a_known_signal_is_traded_nearly_as_well_as_by_one_who_knows_the_truth(name: str, share: float):
    samples, expected = world(signal=0.3, seed=0)
    model = agent(name, samples, episodes=256, risk_aversion=0.0)
    history = model.fit(samples, TRAIN, VALID)
    segment, move = samples.segment[TEST], samples.move[TEST]
    most = backtest(best(expected[TEST], cost=FEE_BPS / 1e4), segment, move, **COSTS | {"band": 0.0}).net.sum()
    assert most > 1.0
    assert backtest(model.score(samples, TEST), segment, move, **COSTS).net.sum() > share * most
    assert history[-1]["noise"] < history[0]["noise"]
    assert set(history[-1]) == set(model.tells) - {"shortfall"}  # which a plain agent does not foresee


@BOTH
def test_where_nothing_can_be_earned_it_learns_to_stand_still(name: str):
    samples, _ = world(signal=0.0, seed=1)
    model = agent(name, samples, episodes=256)
    model.fit(samples, TRAIN, VALID)
    turnover = backtest(model.score(samples, TEST), samples.segment[TEST], samples.move[TEST], **COSTS).turnover
    assert turnover.mean() < 0.01  # where the signal is known it is 0.08


def test_aversion_to_risk_buys_a_smaller_shortfall_with_some_of_the_gain():
    samples, _ = world(signal=0.1, seed=0)
    nets = []
    for aversion in (0.0, 1.0):
        model = agent("d4pg", samples, episodes=384, risk_aversion=aversion)
        history = model.fit(samples, TRAIN, VALID)
        nets.append(backtest(model.score(samples, TEST), samples.segment[TEST], samples.move[TEST], **COSTS).net)
    bold, wary = (shortfall(net, level=0.95) for net in nets)
    assert wary < 0.9 * bold
    assert 0 < nets[1].sum() < nets[0].sum()
    assert all(np.isfinite(entry["shortfall"]) for entry in history[1:])


def test_what_the_tail_says_reaches_the_actor():
    samples, _ = world(signal=0.3, seed=0)
    heavy = Tail(threshold=2.0, shape=0.6, scale=3.0, exceedances=100, observations=1000)
    moved, seen = {}, torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
    for tail in (None, heavy):
        for aversion in (0.0, 1.0):
            model = agent("d4pg", samples, risk_aversion=aversion)
            for net in (model.policy, model.critic):
                net.standardise.learn(np.zeros(6), np.ones(6))
            learner = Learner(model.policy, model.critic, plan=model._plan(), device=torch.device("cpu"))
            learner._climb(seen, tail)
            moved[tail is None, aversion] = learner.policy.body[0].weight.detach().clone()
    assert torch.equal(moved[True, 0.0], moved[False, 0.0])  # without aversion the tail does not matter
    assert not torch.equal(moved[True, 1.0], moved[False, 1.0])
    assert not torch.equal(moved[False, 0.0], moved[False, 1.0])


@BOTH
def test_a_fit_sees_its_rows_alone_over_segments_and_holes(name: str):
    samples, _ = world(signal=0.3, seed=0)
    samples.segment[3000:] += 1
    samples.segment[9000:] += 1
    rows = np.concatenate([np.arange(200, 2900), np.arange(2950, 6000), np.arange(6001, 9500), np.arange(9600, 9603)])
    unseen = np.setdiff1d(np.arange(len(samples.x)), [*rows, *VALID])
    samples.x[unseen], samples.move[unseen] = np.nan, np.nan
    model = agent(name, samples, **FEW)
    history = model.fit(samples, rows, VALID)
    assert np.isfinite([list(entry.values()) for entry in history]).all()
    assert np.isfinite(model.answer(samples, rows)).all()
    assert (model.inputs(samples, rows)[np.isin(rows, [200, 2950, 3000, 6001, 9000, 9600]), 3:] == 0).all()


class KilledError(Exception):
    """Stands for a kill at any moment."""


@BOTH
@pytest.mark.parametrize("killed_at", [9, 31, 60])
def test_a_fit_that_was_killed_goes_on_and_ends_in_the_same_bytes(name, killed_at, tmp_path: Path, monkeypatch):
    samples, _ = world(signal=0.3, seed=0)
    bench = Bench(folder=tmp_path / "checkpoints", metrics=tmp_path / "live.csv", name="0", labels={"split": "0"})
    whole = agent(name, samples, **FEW, risk_aversion=0.5, extremes=SOON)
    expected = whole.fit(samples, TRAIN, VALID)
    whole.save(tmp_path / "whole")

    advance = Training.advance

    def until_killed(self: Training) -> None:
        if self.step == killed_at:
            raise KilledError
        advance(self)

    cut = agent(name, samples, **FEW, risk_aversion=0.5, extremes=SOON, checkpoint_seconds=0.0)
    with monkeypatch.context() as patched, pytest.raises(KilledError):
        patched.setattr(Training, "advance", until_killed)
        cut.fit(samples, TRAIN, VALID, bench=bench)
    (file,) = (tmp_path / "checkpoints").iterdir()
    assert file.name.startswith("0-")
    bench.metrics.unlink(missing_ok=True)
    steps = []
    with monkeypatch.context() as patched:
        patched.setattr(Training, "advance", lambda self: (steps.append(self.step), advance(self)))
        again = agent(name, samples, **FEW, risk_aversion=0.5, extremes=SOON, checkpoint_seconds=0.0)
        assert again.fit(samples, TRAIN, VALID, bench=bench) == expected
    assert steps[0] == killed_at
    assert whole.diagnosis()["tail"]["fits"] > 0
    assert again.diagnosis() == whole.diagnosis()
    again.checkpoint_seconds = whole.checkpoint_seconds
    again.save(tmp_path / "again")
    for saved in (tmp_path / "whole").iterdir():
        assert (tmp_path / "again" / saved.name).read_bytes() == saved.read_bytes()
    assert len(bench.metrics.read_text().splitlines()) == len(expected)


@BOTH
def test_a_fit_says_how_good_its_value_at_risk_is_on_rows_that_it_has_not_seen(name: str):
    samples, _ = world(signal=0.3, seed=0)
    model = agent(name, samples, episodes=128)
    model.fit(samples, TRAIN, VALID)
    told = model.examined(samples, TEST)
    assert told["value_at_risk"]["observations"] == len(TEST) // 29  # 0.9 ** 29 is the first below 0.05
    assert told["var_rate"] == told["value_at_risk"]["violations"] / told["value_at_risk"]["observations"]
    assert told["var_rejected"] == (told["value_at_risk"]["joint_p"] < 0.05)
    untested = model.examined(samples, TEST[:28])  # not one whole stretch
    assert untested["value_at_risk"]["observations"] == 0
    assert told.keys() - untested.keys() == {"var_rate", "var_rejected"}
    assert model.diagnosis()["tail"]["exceedances"] >= PARAMS["agents"]["extremes"]["fewest"]
    assert {"shape", "scale", "shape_error", "shape_deviation_of_later_fits"} <= set(model.diagnosis()["tail"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": []}, "hidden is \\[\\]; allowed is a list of one width or more"),
        ({"level": 1.0}, "level is 1.0"),
        ({"risk_aversion": -1.0}, "risk_aversion is -1.0"),
        ({"atoms": 1}, "1 atoms"),
        ({"target_share": 0.0}, "target_share is 0.0"),
        ({"episodes": 0}, "episodes is 0"),
        ({"batch": 1.5}, "batch is 1.5"),
        ({"noise": [0.1]}, "noise is \\[0.1\\]"),
        ({"noise": [0.5, -0.1]}, "noise"),
        ({"discount": 1.0}, "discount is 1.0; it must be at least 0 and below 1"),
        ({"episodes": 1}, "1 episodes of 240 bars, 64 at once, are 4 steps: too few for 8 rounds"),
        ({"extremes": {"share": 1.0, "fewest": 50, "window": 10, "every": 1}}, "extremes: share is 1.0"),
        ({"clip": 0.0}, "clip is 0.0"),
        ({"memory": 1000}, "memory of 1000 transitions; it must hold a warm_up of 2000"),
        ({"memory": 100, "warm_up": 50}, "2 bars of 64 episodes"),
        ({"discount": 0.99}, "a discount of 0.99 reaches 299 bars, episodes have 240"),
        ({"device": "tpu"}, "device 'tpu'; it is auto, cpu or cuda"),
    ],
)
def test_a_build_that_no_agent_can_go_by_is_refused(changes, message):
    samples, _ = world(signal=0.3, seed=0)
    with pytest.raises(ValueError, match=message):
        agent("d4pg", samples, **changes)


def test_an_agent_answers_a_position_and_says_so_where_it_is_asked_for_something_else():
    with pytest.raises(ValueError, match="its target's kind is position"):
        shape = Shape(columns=("a",), outputs=("return",))
        build(PARAMS["models"]["d4pg"], shape, shared=PARAMS["agents"], seed=1)


def test_agents_are_taught_the_costs_that_they_are_judged_by():
    assert {name: PARAMS["agents"][name] for name in PARAMS["trading"]} == PARAMS["trading"]
