"""An agent learns to trade a market whose truth is known, and does not trade where nothing can be earned."""

import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.agents_learning import find_best_positions
from pipeline import artifacts
from pipeline.models.agents.d4pg import D4PG
from pipeline.models.agents.engine.agent import Agent
from pipeline.models.agents.engine.learner import Learner
from pipeline.models.agents.engine.policy_evaluation import measure_shortfall
from pipeline.models.agents.engine.training import TrainingLoop
from pipeline.models.base import Model, Signature
from pipeline.models.fit_files import FitFiles
from pipeline.models.plugins import build, load
from pipeline.samples import Samples
from pipeline.tail_risk import GpdTail
from pipeline.trading import make_terms, trade
from tests.agents import FEE_BPS, SHORT, TERMS, TEST, TRAIN, VALID, build_agent, simulate_market
from tests.data import OUTPUTS
from tests.params import PARAMS, build_model

EARLY_EVT = {"tail_fraction": 0.2, "min_exceedances": 5, "window": 100, "refit_interval": 5}  # a tail after few steps
BOTH = pytest.mark.parametrize("name", ["d4pg", "marl"])


def test_the_best_positions_are_the_best_of_all_there_are():
    for seed in range(5):
        expected = 1e-3 * np.random.default_rng(seed).normal(size=7)

        def sum_gains(positions: np.ndarray, expected: np.ndarray = expected) -> float:
            return positions @ expected - FEE_BPS / 1e4 * np.abs(np.diff(positions, prepend=0.0, append=0.0)).sum()

        best = max(sum_gains(np.array(each)) for each in itertools.product((-1.0, 0.0, 1.0), repeat=7))
        assert sum_gains(find_best_positions(expected, cost=FEE_BPS / 1e4)) == pytest.approx(best)


class Learned(NamedTuple):
    name: str
    samples: Samples
    expected: np.ndarray  # (N,) moves
    model: Agent
    history: list[dict[str, float]]


@pytest.fixture(scope="module", params=["d4pg", "marl"])
def learned(request: pytest.FixtureRequest) -> Learned:
    """An agent that has learned to trade a known signal."""
    samples, expected = simulate_market(signal=0.3, seed=0)
    model = build_agent(request.param, samples, num_episodes=256, risk_aversion=0.0)
    return Learned(request.param, samples, expected, model, model.fit(samples, TRAIN, VALID))


def test_a_known_signal_is_traded_nearly_as_well_as_with_all_expected_moves_known(learned: Learned):
    name, samples, expected, model, history = learned
    share = {"d4pg": 0.7, "marl": 0.6}[name]
    fills = samples.fills.take(TEST)
    best = find_best_positions(expected[TEST], cost=FEE_BPS / 1e4)
    most = trade(best, fills, TERMS._replace(no_trade_band=0.0)).net.sum()
    assert most > 1.0
    assert trade(model.score(samples, TEST), fills, TERMS).net.sum() > share * most
    assert history[-1]["exploration_noise"] < history[0]["exploration_noise"]
    assert set(history[-1]) == set(model.history_fields) - {"expected_shortfall"}  # only with risk aversion


@BOTH
def test_where_nothing_can_be_earned_it_learns_not_to_trade(name: str):
    samples, _ = simulate_market(signal=0.0, seed=1)
    model = build_agent(name, samples, num_episodes=256)
    model.fit(samples, TRAIN, VALID)
    turnover = trade(model.score(samples, TEST), samples.fills.take(TEST), TERMS).turnover
    assert turnover.mean() < 0.01  # with the signal it is 0.08


def test_risk_aversion_lowers_the_shortfall_at_the_price_of_some_return():
    samples, _ = simulate_market(signal=0.1, seed=0)
    nets = []
    for aversion in (0.0, 1.0):
        model = build_agent("d4pg", samples, num_episodes=384, risk_aversion=aversion)
        history = model.fit(samples, TRAIN, VALID)
        nets.append(trade(model.score(samples, TEST), samples.fills.take(TEST), TERMS).net)
    neutral, averse = (measure_shortfall(net, level=0.95) for net in nets)
    assert averse < 0.9 * neutral
    assert 0 < nets[1].sum() < nets[0].sum()
    assert all(np.isfinite(entry["expected_shortfall"]) for entry in history[1:])


def test_the_tail_reaches_the_actor():
    samples, _ = simulate_market(signal=0.3, seed=0)
    heavy = GpdTail(threshold=2.0, shape=0.6, scale=3.0, exceedances=100, observations=1000)
    updated, seen = {}, torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
    for tail in (None, heavy):
        for aversion in (0.0, 1.0):
            model = build_agent("d4pg", samples, risk_aversion=aversion)
            for net in (model.policy, model.critic):
                net.standardize.set_statistics(np.zeros(6), np.ones(6))
            learner = Learner(model.policy, model.critic, config=model.learner_config, device=torch.device("cpu"))
            learner._update_actors(seen, tail)
            updated[tail is None, aversion] = learner.policy.body[0].weight.detach().clone()
    assert torch.equal(updated[True, 0.0], updated[False, 0.0])  # without aversion the tail does not matter
    assert not torch.equal(updated[True, 1.0], updated[False, 1.0])
    assert not torch.equal(updated[False, 0.0], updated[False, 1.0])


@BOTH
def test_a_fit_depends_on_its_rows_alone_over_segments_and_holes(name: str):
    samples, _ = simulate_market(signal=0.3, seed=0)
    samples.segment[3000:] += 1
    samples.segment[9000:] += 1
    rows = np.concatenate([np.arange(200, 2900), np.arange(2950, 6000), np.arange(6001, 9500), np.arange(9600, 9603)])
    unseen = np.setdiff1d(np.arange(len(samples.x)), [*rows, *VALID])
    samples.x[unseen], samples.fills.move[unseen] = np.nan, np.nan
    samples.fills.mark[:] = np.append(0.0, samples.fills.move[:-1])
    model = build_agent(name, samples, **SHORT)
    history = model.fit(samples, rows, VALID)
    assert np.isfinite([list(entry.values()) for entry in history]).all()
    assert np.isfinite(model.predict_rows(samples, rows)).all()
    assert (model.inputs(samples, rows)[np.isin(rows, [200, 2950, 3000, 6001, 9000, 9600]), 3:] == 0).all()


class KilledError(Exception):
    """Stands for a kill at any moment."""


@BOTH
@pytest.mark.parametrize("killed_at", [9, 31, 60])
def test_a_killed_fit_resumes_and_ends_in_the_same_bytes(name, killed_at, tmp_path: Path, monkeypatch):
    samples, _ = simulate_market(signal=0.3, seed=0)
    files = FitFiles(
        checkpoints=tmp_path / "checkpoints",
        metrics=tmp_path / "live.csv",
        measured=tmp_path / "measured.csv",
        name="0",
        labels={"split": 0},
    )
    whole = build_agent(name, samples, **SHORT, risk_aversion=0.5, evt=EARLY_EVT)
    expected = whole.fit(samples, TRAIN, VALID)
    whole.save(tmp_path / "whole")

    advance = TrainingLoop.advance

    def advance_until_killed(self: TrainingLoop) -> None:
        if self.step == killed_at:
            raise KilledError
        advance(self)

    cut = build_agent(name, samples, **SHORT, risk_aversion=0.5, evt=EARLY_EVT, checkpoint_seconds=0.0)
    with monkeypatch.context() as patched, pytest.raises(KilledError):
        patched.setattr(TrainingLoop, "advance", advance_until_killed)
        cut.fit(samples, TRAIN, VALID, files=files)
    (file,) = (tmp_path / "checkpoints").iterdir()
    assert file.name.startswith("0-")
    files.metrics.unlink(missing_ok=True)
    steps = []
    with monkeypatch.context() as patched:
        patched.setattr(TrainingLoop, "advance", lambda self: (steps.append(self.step), advance(self)))
        again = build_agent(name, samples, **SHORT, risk_aversion=0.5, evt=EARLY_EVT, checkpoint_seconds=0.0)
        assert again.fit(samples, TRAIN, VALID, files=files) == expected
    assert steps[0] == killed_at
    assert whole.fit_report["tail"]["refits"] > 0
    assert again.fit_report == whole.fit_report
    again.checkpoint_seconds = whole.checkpoint_seconds
    again.save(tmp_path / "again")
    for saved in (tmp_path / "whole").iterdir():
        assert (tmp_path / "again" / saved.name).read_bytes() == saved.read_bytes()
    assert len(files.metrics.read_text().splitlines()) == len(expected)


def test_a_value_at_risk_is_backtested_on_rows_that_the_fit_has_not_seen(learned: Learned):
    samples, model = learned.samples, learned.model
    report = model.evaluate(samples, TEST)
    var = report["var_backtest"]
    assert var["observations"] == len(TEST) // 59  # 0.95 ** 59 is the first below 0.05
    assert report["var_violation_rate"] == var["violation_rate"] == var["violations"] / var["observations"]
    assert report["var_rejected"] == (var["joint_p"] < 0.05)
    untested = model.evaluate(samples, TEST[:58])  # not one whole window
    assert untested["var_backtest"]["observations"] == 0
    assert report.keys() - untested.keys() == {"var_violation_rate", "var_rejected"}
    tail = model.fit_report["tail"]
    assert tail["exceedances"] >= PARAMS["agents"]["evt"]["min_exceedances"]
    assert {"shape", "scale", "shape_standard_error", "shape_std_of_later_refits"} <= set(tail)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_sizes": []}, "hidden_sizes is \\[\\]; it must be a list of at least 1"),
        ({"var_level": 1.0}, "var_level is 1.0"),
        ({"risk_aversion": -1.0}, "risk_aversion is -1.0"),
        ({"n_atoms": 1}, "n_atoms is 1; it must be at least 2"),
        ({"tau": 0.0}, "tau is 0.0"),
        ({"num_episodes": 0}, "num_episodes is 0"),
        ({"batch_size": 1.5}, "batch_size is 1.5"),
        ({"exploration_noise": [0.1]}, "exploration_noise is \\[0.1\\]"),
        ({"exploration_noise": [0.5, -0.1]}, "exploration_noise"),
        ({"gamma": 1.0}, "gamma is 1.0; it must be below 1"),
        ({"num_episodes": 1}, "1 episodes of 240 bars, 64 at once, are 4 steps: too few for 8 evaluations"),
        ({"evt": EARLY_EVT | {"tail_fraction": 1.0}}, "agents.evt.tail_fraction is 1.0; it must be below 1"),
        ({"clip_sigma": 0.0}, "clip_sigma is 0.0"),
        ({"buffer_size": 1000}, "buffer_size is 1000; it must be at least learning_starts \\(2000\\)"),
        ({"buffer_size": 100, "learning_starts": 50}, "n_step · num_envs \\(2 · 64\\)"),
        ({"gamma": 0.99}, "a gamma of 0.99 needs 299 bars for a whole return, episodes have 240"),
        ({"device": "tpu"}, "device is 'tpu'; it must be 'auto', 'cpu' or 'cuda'"),
    ],
)
def test_hyperparameters_out_of_range_are_refused(changes, message):
    samples, _ = simulate_market(signal=0.3, seed=0)
    with pytest.raises(ValueError, match=message):
        build_agent("d4pg", samples, **changes)


def test_an_agent_predicts_a_position_and_refuses_another_target():
    with pytest.raises(ValueError, match="predicts position; its target asks for value"):
        build_model("d4pg", Signature(columns=("a",), output=OUTPUTS["return"]), seed=1)


def test_agents_learn_with_the_rules_and_costs_that_they_are_evaluated_with():
    model = build_model("d4pg", Signature(columns=("a",), output=OUTPUTS["position"]), seed=1)
    rules, costs = PARAMS["trading"], PARAMS["costs"][PARAMS["datasets"]["klines"]["source"]]
    terms = {name: value for name, value in (rules | costs).items() if name not in ("delay_bars", "full_position_std")}
    assert {name: getattr(model, name) for name in terms} == terms
    assert model.environment_config.make_terms() == make_terms(**terms)


def test_a_rule_of_trading_is_no_key_of_agents():
    block, shared = PARAMS["models"]["agents"]["d4pg"], PARAMS["agents"] | {"no_trade_band": 0.1}
    market = D4PG.read_market(PARAMS, "klines")
    signature = Signature(columns=("a",), output=OUTPUTS["position"])
    with pytest.raises(ValueError, match="'no_trade_band'"):
        build("agents", block, signature, shared=shared, market=market, seed=1)


def test_a_loaded_agent_trades_by_the_terms_that_it_learned_with(tmp_path: Path):
    samples, _ = simulate_market(signal=0.3, seed=0)
    model = build_agent("d4pg", samples, **SHORT, borrow_rate=0.3, long_only=True)
    model.fit(samples, TRAIN, VALID)
    model.save(tmp_path)
    loaded = load(tmp_path)
    assert loaded.environment_config == model.environment_config
    assert np.array_equal(loaded.predict_rows(samples, TEST), model.predict_rows(samples, TEST))


def write_clean(**changes: object) -> pd.DataFrame:
    """Write six clean bars, of which the last two are a segment of their own, and return them."""
    columns = {"symbol": ["A"] * 6, "segment": [0, 0, 0, 0, 1, 1], "open_time": 60_000 * np.array([0, 1, 2, 3, 7, 8])}
    prices = {"open": [1.0, 2.0, 4.0, 5.0, 8.0, 10.0], "close": [1.0, 3.0, 4.0, 6.0, 8.0, 9.0]}
    bars = pd.DataFrame(columns | prices | {"volume": 1.0, "quote_volume": 2.0} | changes)
    artifacts.write_table(artifacts.CLEAN / "klines.parquet", bars)
    return bars


def test_the_fills_of_rows_are_those_of_their_bars(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bars = write_clean()
    rows = bars.rename(columns={"open_time": "time"}).loc[[4, 1, 0], ["segment", "time"]]
    found = D4PG.load_fills(PARAMS, "klines", rows)
    assert found.move.tolist() == [9 / 10 - 1, 5 / 4 - 1, 4 / 2 - 1]
    assert found.mark.tolist() == [0.0, 3 / 2 - 1, 0.0]
    assert Model.load_fills(PARAMS, "klines", rows) is None


def test_a_dataset_whose_rows_are_no_bars_is_refused(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    artifacts.write_table(artifacts.CLEAN / "klines.parquet", write_clean().drop(columns=["open", "volume"]))
    with pytest.raises(ValueError, match="no open, volume; agents trade bars: give them a dataset of kind klines"):
        D4PG.load_fills(PARAMS, "klines", pd.DataFrame({"segment": [0], "time": [0]}))


def test_moves_that_differ_by_rounding_alone_are_the_same():
    samples, _ = simulate_market(signal=0.3, seed=0)
    samples.fills.move[:] = 1e-4 + 1e-17 * np.arange(len(samples.fills.move))
    with pytest.raises(ValueError, match="move is the same in every train row"):
        build_agent("d4pg", samples, **SHORT).fit(samples, TRAIN, VALID)
