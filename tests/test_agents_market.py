"""The trading environment: its returns are the backtest's, its interface is Gymnasium's."""

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from pipeline import trading
from pipeline.models.agents.engine.hyperparameters import EnvironmentConfig
from pipeline.models.agents.engine.market_env import EnvStep, MarketEnv
from pipeline.models.agents.environments.gymnasium_env import TradingEnv
from pipeline.samples import Samples

COSTS = {"fee_bps": 1.0, "slippage_bps": 0.5, "no_trade_band": 0.0}


def make_samples(rows: int = 600, *, seed: int = 0) -> Samples:
    """Three segments, with borders at rows 200 and 450."""
    rng = np.random.default_rng(seed)
    segment = np.digitize(np.arange(rows), [200, 450]).astype(np.int32)
    time = 60_000 * np.arange(rows, dtype=np.int64)
    x, move = rng.normal(size=(rows, 2)).astype(np.float32), 1e-3 * rng.standard_t(4, size=rows)
    return Samples(time, time + 60_000, segment, x, ("a", "b"), move.astype(np.float32), move)


def make_market(
    rows: np.ndarray | None = None, *, samples: Samples | None = None, episode_bars: int = 10_000, **changes: float
) -> MarketEnv:
    config = EnvironmentConfig(**COSTS | {"risk_penalty": 0.0, "max_drawdown": 1.0} | changes)
    rows = np.arange(600) if rows is None else rows
    return MarketEnv(samples or make_samples(), rows, config=config, episode_bars=episode_bars)


def run_episode(market: MarketEnv, row: int, targets: np.ndarray) -> list[EnvStep]:
    """The steps of one episode from `row` on, until it is over."""
    state, steps = market.start_episodes(np.array([row])), []
    for target in targets:
        steps.append(market.step(state, np.array([target])))
        state = steps[-1].state
        if steps[-1].terminated[0] or steps[-1].truncated[0]:
            break
    return steps


def test_an_episode_worked_by_hand():
    samples = make_samples()
    samples.move[:4] = [0.01, -0.02, 0.03, 0.01]
    market = make_market(samples=samples, fee_bps=10.0, slippage_bps=0.0)
    steps = run_episode(market, 0, np.array([1.0, 0.5, -1.0, 0.0]))
    assert [step.net[0] for step in steps] == pytest.approx([0.01 - 0.001, -0.01 - 0.0005, -0.03 - 0.0015, -0.001])
    assert [step.state.unrealized[0] for step in steps] == pytest.approx([0.01, 0.0, -0.03, 0.0])
    assert [step.state.since[0] for step in steps] == [1, 2, 1, 0]
    equity = np.cumprod([1.009, 0.9895, 0.9685, 0.999])
    assert [step.state.equity[0] for step in steps] == pytest.approx(equity)
    assert market.observe(steps[1].state)[0, 2:].tolist() == pytest.approx([0.5, 0.0, np.log(3)])
    assert market.observe(steps[1].state)[0, :2].tolist() == samples.x[2].tolist()


def test_at_the_end_of_a_run_the_position_is_closed_and_the_last_row_is_observed_flat():
    market = make_market(np.arange(5))
    last = run_episode(market, 3, np.array([1.0, 1.0]))[-1]
    assert last.truncated[0]
    assert last.position[0] == 1.0
    assert (last.state.position[0], last.state.unrealized[0], last.state.since[0]) == (0.0, 0.0, 0)
    assert market.observe(last.state)[0].tolist() == [*market.samples.x[4].tolist(), 0.0, 0.0, 0.0]


def test_a_position_that_is_not_finite_and_a_step_after_the_end_are_refused():
    env = TradingEnv(make_market(np.arange(5)))
    env.reset(options={"row": 4})
    with pytest.raises(ValueError, match="target nan; a position is a finite number"):
        env.step(np.array([np.nan], dtype=np.float32))
    assert env.step(np.zeros(1, np.float32))[3]
    with pytest.raises(ValueError, match="after an episode is over"):
        env.step(np.zeros(1, np.float32))


def test_an_episode_earns_the_net_returns_of_the_backtest():
    targets = np.random.default_rng(1).uniform(-1, 1, size=600)
    market, samples = make_market(), make_samples()
    starts = (0, 200, 450)
    found = np.concatenate([[step.net[0] for step in run_episode(market, row, targets[row:])] for row in starts])
    expected = trading.run_backtest(targets, samples.segment, samples.move, **COSTS)
    assert np.allclose(found, expected.net, rtol=0, atol=1e-15)


def test_many_episodes_at_once_are_those_one_by_one():
    market, rng = make_market(episode_bars=50), np.random.default_rng(2)
    rows, targets = rng.choice(600, size=40), rng.uniform(-1, 1, size=(50, 40))
    alone = [run_episode(market, int(row), targets[:, i]) for i, row in enumerate(rows)]
    state, is_over = market.start_episodes(rows), np.zeros(40, dtype=bool)
    for t in range(50):
        step = market.step(state, targets[t])
        for i in np.flatnonzero(~is_over):
            assert step.reward[i] == alone[i][t].reward[0]
            assert (step.terminated[i], step.truncated[i]) == (alone[i][t].terminated[0], alone[i][t].truncated[0])
        is_over |= step.terminated | step.truncated
        state = step.state
    assert is_over.all()
    assert {len(steps) for steps in alone} > {50}  # some end with their segment


def test_an_episode_never_crosses_a_segment_nor_a_missing_row():
    rows = np.delete(np.arange(600), 100)
    market = make_market(rows)
    assert len(run_episode(market, 50, np.ones(600))) == 50
    assert len(run_episode(market, 101, np.ones(600))) == 99
    steps = run_episode(market, 440, np.ones(600))
    assert len(steps) == 10
    assert steps[-1].truncated[0] and not steps[-1].terminated[0]
    move = make_samples().move[449]
    assert steps[-1].net[0] == pytest.approx(move - 1.5e-4)  # the open position is closed, at its cost


def test_the_maximum_drawdown_terminates_an_episode_and_its_length_truncates_it():
    samples = make_samples()
    samples.move[:] = -0.02
    market = make_market(samples=samples, max_drawdown=0.1, episode_bars=3)
    assert [step.truncated[0] for step in run_episode(market, 0, np.ones(9))] == [False, False, True]
    longer = make_market(samples=samples, max_drawdown=0.1)
    steps = run_episode(longer, 0, np.ones(9))
    assert len(steps) == 6  # 0.98⁵ is above 0.9
    assert steps[-1].terminated[0] and not steps[-1].truncated[0]


def test_the_risk_penalty_is_of_the_squared_net_return():
    plain, penalized = make_market(), make_market(risk_penalty=3.0)
    first, second = (run_episode(market, 5, np.array([1.0]))[0] for market in (plain, penalized))
    assert second.net[0] == first.net[0]
    assert second.reward[0] == pytest.approx(first.net[0] - 3.0 * first.net[0] ** 2)


def test_a_target_beyond_one_is_cut():
    assert run_episode(make_market(), 5, np.array([7.0]))[0].state.position[0] == 1.0


def test_an_observation_does_not_depend_on_later_bars():
    samples, later = make_samples(), make_samples(seed=9)
    samples.x[300:], samples.move[300:] = later.x[300:], later.move[300:]
    targets = np.random.default_rng(3).uniform(-1, 1, size=100)
    markets = make_market(), make_market(samples=samples)
    seen = [[market.observe(step.state)[0] for step in run_episode(market, 250, targets)[:49]] for market in markets]
    assert np.array_equal(*seen)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fee_bps": -1.0}, "fee_bps is -1.0"),
        ({"max_drawdown": 0.0}, "max_drawdown is 0.0; it must be above 0"),
        ({"risk_penalty": float("nan")}, "risk_penalty is nan"),
        ({"no_trade_band": 1.0}, "no_trade_band is 1.0"),
    ],
)
def test_rules_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_market(**changes)


@pytest.mark.parametrize("rows", [np.array([], dtype=np.int64), np.array([3, 2]), np.array([1, 1])])
def test_rows_out_of_order_are_refused(rows):
    with pytest.raises(ValueError, match="in increasing order"):
        make_market(rows)


def test_gymnasium_accepts_the_environment():
    check_env(TradingEnv(make_market(episode_bars=40)), skip_render_check=True)


def test_a_gymnasium_episode_is_that_of_the_market():
    market = make_market()
    env, targets = TradingEnv(market), np.random.default_rng(4).uniform(-1, 1, size=300)
    first, info = env.reset(options={"row": 210})
    assert (info, first[2:].tolist()) == ({"row": 210}, [0.0, 0.0, 0.0])
    steps = run_episode(market, 210, targets)
    for target, step in zip(targets, steps, strict=False):
        observation, reward, terminated, truncated, info = env.step(np.array([target]))
        assert (reward, terminated, truncated) == (step.reward[0], step.terminated[0], step.truncated[0])
        assert np.array_equal(observation, market.observe(step.state)[0])
        assert info["net"] == step.net[0]
    assert truncated


def test_a_gymnasium_environment_names_what_is_wrong():
    env = TradingEnv(make_market())
    with pytest.raises(ValueError, match="step before reset"):
        env.step(np.zeros(1))
    with pytest.raises(ValueError, match="row 600 is not among"):
        env.reset(options={"row": 600})
