"""A rollout over many bars gives the positions of a policy that steps bar by bar, deployed or not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest

from pipeline import trading
from pipeline.fills import find_fills
from pipeline.models.agents.environments.gymnasium_env import TradingEnv
from pipeline.models.parity_checks.agents import count_flips
from tests.agents import SHORT, TERMS, TEST, TRAIN, VALID, build_agent, make_market, simulate_market
from tests.data import make_fills

ROWS = np.concatenate([TEST[:700], TEST[900:1300]])  # with a gap: two runs


def test_a_rollout_observes_what_an_environment_shows(fitted):
    samples, model = fitted
    rng, bars = np.random.default_rng(5), len(samples.x)
    traded = rng.random(bars) > 0.2
    volume, close = np.where(traded, 1e9, 0.0), 100 + np.cumsum(rng.normal(0, 0.1, bars))
    table = {"symbol": "A", "segment": 0, "open_time": samples.time, "open": close + rng.normal(0, 0.05, bars)}
    table |= {"close": close, "volume": volume, "quote_volume": volume}
    found = find_fills(pd.DataFrame(table), delay_bars=2)
    samples = replace(samples, fills=replace(found, half_spread=rng.uniform(0, 1e-3, bars)))
    inputs, targets = model.inputs(samples, ROWS[:300]), model.predict_rows(samples, ROWS[:300])[:, 0]
    market = make_market(samples, ROWS[:300], episode_bars=10_000)
    state = market.start_episodes(ROWS[:1])
    for row, target in enumerate(targets):
        assert np.array_equal(market.observe(state)[0], inputs[row])
        state = market.step(state, np.array([target])).state


@pytest.fixture(scope="module", params=["d4pg", "marl"])
def fitted(request: pytest.FixtureRequest):
    samples, _ = simulate_market(signal=0.3, seed=0)
    model = build_agent(request.param, samples, num_episodes=64)
    model.fit(samples, TRAIN, VALID)
    return samples, model


def step_bar_by_bar(samples, rows: np.ndarray, decide) -> np.ndarray:
    """(n,) target positions in the environment, one run of rows after another."""
    env, targets = TradingEnv(make_market(samples, rows, episode_bars=10_000)), []
    for run in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1):
        seen, _ = env.reset(options={"row": int(run[0])})
        for _ in run:
            targets.append(decide(seen))
            seen, *_ = env.step(np.array([targets[-1]]))
    return np.array(targets, dtype=np.float32)


def test_the_exported_graph_stepped_bar_by_bar_gives_the_positions_of_the_rollout(fitted, tmp_path: Path):
    samples, model = fitted
    model.to_onnx(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    theirs = step_bar_by_bar(samples, ROWS, lambda seen: session.run(["answer"], {"inputs": seen[None]})[0][0, 0])
    score, runs = model.score(samples, ROWS), (TEST[900] <= ROWS).astype(np.int32)
    assert theirs == pytest.approx(score, abs=1e-5)
    held = [trading.trade_runs(each, samples.fills.take(ROWS), runs, TERMS) for each in (score, theirs)]
    assert held[0].position == pytest.approx(held[1].position, abs=1e-5)
    assert np.array_equal(held[0].turnover > 0, held[1].turnover > 0)  # no decision to trade differs
    assert (held[0].turnover > 0).sum() > 50


def test_the_rollout_is_what_torch_predicts_for_its_observations(fitted):
    samples, model = fitted
    inputs = model.inputs(samples, ROWS)
    assert model.predict(inputs)[:, 0] == pytest.approx(model.predict_rows(samples, ROWS)[:, 0], abs=1e-6)
    assert np.array_equal(inputs[:, :3], samples.x[ROWS])
    assert (inputs[[0, 700], 3:] == 0).all()  # each run starts flat
    result = trading.trade(model.score(samples, ROWS[:700]), samples.fills.take(ROWS[:700]), TERMS)
    drifted = result.position * (1 + samples.fills.move[ROWS[:700]]) / (1 + result.net)
    assert inputs[1:700, 3] == pytest.approx(drifted[:-1], abs=1e-7)


def test_rows_may_be_predicted_in_any_order(fitted):
    samples, model = fitted
    order = np.random.default_rng(0).permutation(len(ROWS))
    assert np.array_equal(model.predict_rows(samples, ROWS[order]), model.predict_rows(samples, ROWS)[order])


def test_a_graph_that_decides_differently_is_counted(fitted, tmp_path: Path):
    samples, model = fitted
    other = build_agent(type(model).__name__.lower(), samples, seed=2, **SHORT)
    other.fit(samples, TRAIN, VALID)
    other.to_onnx(tmp_path / "model.onnx")
    inputs = model.inputs(samples, ROWS)
    assert count_flips(model, inputs, tmp_path / "model.onnx").mean() > 0.05
    model.to_onnx(tmp_path / "model.onnx")
    assert not count_flips(model, inputs, tmp_path / "model.onnx").any()


def test_a_changed_move_changes_later_predictions_and_never_earlier_ones(fitted):
    samples, model = fitted
    move = samples.fills.move.copy()
    move[ROWS[400:500]] *= -1
    changed = replace(samples, fills=make_fills(move))
    before, after = (model.predict_rows(each, ROWS[:700])[:, 0] for each in (samples, changed))
    assert np.array_equal(before[:401], after[:401])
    assert not np.array_equal(before[401:], after[401:])
