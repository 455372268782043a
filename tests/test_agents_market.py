"""The market as an environment: its money is the backtest's, its contract Gymnasium's."""

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from pipeline import trading
from pipeline.models.agents.engine.market import Market
from pipeline.models.agents.environments.gym import TradingEnv
from pipeline.samples import Samples

COSTS = {"fee_bps": 1.0, "slippage_bps": 0.5, "band": 0.0}
EASY = {**COSTS, "risk_penalty": 0.0, "drawdown_limit": 1.0, "episode_bars": 10_000}


def samples(rows: int = 600, *, seed: int = 0) -> Samples:
    """Three segments, with borders at rows 200 and 450."""
    rng = np.random.default_rng(seed)
    segment = np.digitize(np.arange(rows), [200, 450]).astype(np.int32)
    time = 60_000 * np.arange(rows, dtype=np.int64)
    x, move = rng.normal(size=(rows, 2)).astype(np.float32), 1e-3 * rng.standard_t(4, size=rows)
    return Samples(time, time + 60_000, segment, x, ("a", "b"), move.astype(np.float32), move)


def market(rows: np.ndarray | None = None, **changes: float) -> Market:
    return Market(samples(), np.arange(600) if rows is None else rows, **EASY | changes)


def walked(world: Market, row: int, targets: np.ndarray) -> list:
    """The steps of one episode from `row` on, until it is over."""
    state, steps = world.begin(np.array([row])), []
    for target in targets:
        steps.append(world.step(state, np.array([target])))
        state = steps[-1].state
        if steps[-1].terminated[0] or steps[-1].truncated[0]:
            break
    return steps


def test_an_episode_worked_by_hand():
    told = samples()
    told.move[:4] = [0.01, -0.02, 0.03, 0.01]
    world = Market(told, np.arange(600), **EASY | {"fee_bps": 10.0, "slippage_bps": 0.0})
    steps = walked(world, 0, np.array([1.0, 0.5, -1.0, 0.0]))
    assert [step.net[0] for step in steps] == pytest.approx([0.01 - 0.001, -0.01 - 0.0005, -0.03 - 0.0015, -0.001])
    assert [step.state.unrealised[0] for step in steps] == pytest.approx([0.01, 0.0, -0.03, 0.0])
    assert [step.state.since[0] for step in steps] == [1, 2, 1, 0]
    equity = np.cumprod([1.009, 0.9895, 0.9685, 0.999])
    assert [step.state.equity[0] for step in steps] == pytest.approx(equity)
    assert world.observe(steps[1].state)[0, 2:].tolist() == pytest.approx([0.5, 0.0, np.log(3)])
    assert world.observe(steps[1].state)[0, :2].tolist() == told.x[2].tolist()


def test_at_the_end_of_a_run_all_is_closed_and_its_last_row_is_seen_flat():
    world = market(np.arange(5))
    last = walked(world, 3, np.array([1.0, 1.0]))[-1]
    assert last.truncated[0]
    assert last.position[0] == 1.0
    assert (last.state.position[0], last.state.unrealised[0], last.state.since[0]) == (0.0, 0.0, 0)
    assert world.observe(last.state)[0].tolist() == [*world.samples.x[4].tolist(), 0.0, 0.0, 0.0]


def test_a_position_that_is_no_number_and_a_step_after_the_end_are_refused():
    env = TradingEnv(market(np.arange(5)))
    env.reset(options={"row": 4})
    with pytest.raises(ValueError, match="target nan; a position is a number"):
        env.step(np.array([np.nan], dtype=np.float32))
    assert env.step(np.zeros(1, np.float32))[3]
    with pytest.raises(ValueError, match="after an episode is over"):
        env.step(np.zeros(1, np.float32))


def test_an_episode_earns_what_the_backtest_says():
    targets = np.random.default_rng(1).uniform(-1, 1, size=600)
    world, told = market(), samples()
    found = np.concatenate([[step.net[0] for step in walked(world, row, targets[row:])] for row in (0, 200, 450)])
    expected = trading.backtest(targets, told.segment, told.move, **COSTS)
    assert np.allclose(found, expected.net, rtol=0, atol=1e-15)


def test_many_episodes_at_once_are_those_one_by_one():
    world, rng = market(episode_bars=50), np.random.default_rng(2)
    rows, targets = rng.choice(600, size=40), rng.uniform(-1, 1, size=(50, 40))
    alone = [walked(world, int(row), targets[:, i]) for i, row in enumerate(rows)]
    state, is_over = world.begin(rows), np.zeros(40, dtype=bool)
    for t in range(50):
        done = world.step(state, targets[t])
        for i in np.flatnonzero(~is_over):
            assert done.reward[i] == alone[i][t].reward[0]
            assert (done.terminated[i], done.truncated[i]) == (alone[i][t].terminated[0], alone[i][t].truncated[0])
        is_over |= done.terminated | done.truncated
        state = done.state
    assert is_over.all()
    assert {len(steps) for steps in alone} > {50}  # some end with their segment


def test_an_episode_never_crosses_a_segment_nor_a_row_left_out():
    rows = np.delete(np.arange(600), 100)
    world = market(rows)
    assert len(walked(world, 50, np.ones(600))) == 50
    assert len(walked(world, 101, np.ones(600))) == 99
    steps = walked(world, 440, np.ones(600))
    assert len(steps) == 10
    assert steps[-1].truncated[0] and not steps[-1].terminated[0]
    move = samples().move[449]
    assert steps[-1].net[0] == pytest.approx(move - 1.5e-4)  # what is open is closed, at its cost


def test_ruin_ends_an_episode_and_time_cuts_it_off():
    told = samples()
    told.move[:] = -0.02
    world = Market(told, np.arange(600), **EASY | {"drawdown_limit": 0.1, "episode_bars": 3})
    assert [step.truncated[0] for step in walked(world, 0, np.ones(9))] == [False, False, True]
    longer = Market(told, np.arange(600), **EASY | {"drawdown_limit": 0.1})
    steps = walked(longer, 0, np.ones(9))
    assert len(steps) == 6  # 0.98⁵ is above 0.9
    assert steps[-1].terminated[0] and not steps[-1].truncated[0]


def test_the_penalty_is_of_the_squared_net_return():
    plain, careful = market(), market(risk_penalty=3.0)
    first, second = (walked(world, 5, np.array([1.0]))[0] for world in (plain, careful))
    assert second.net[0] == first.net[0]
    assert second.reward[0] == pytest.approx(first.net[0] - 3.0 * first.net[0] ** 2)


def test_a_target_beyond_one_is_cut():
    assert walked(market(), 5, np.array([7.0]))[0].state.position[0] == 1.0


def test_an_observation_knows_nothing_of_later_bars():
    told, later = samples(), samples(seed=9)
    told.x[300:], told.move[300:] = later.x[300:], later.move[300:]
    targets = np.random.default_rng(3).uniform(-1, 1, size=100)
    worlds = market(), Market(told, np.arange(600), **EASY)
    seen = [[world.observe(step.state)[0] for step in walked(world, 250, targets)[:49]] for world in worlds]
    assert np.array_equal(*seen)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fee_bps": -1.0}, "fee_bps is -1.0"),
        ({"drawdown_limit": 0.0}, "drawdown_limit is 0.0; it must be above 0"),
        ({"episode_bars": 0}, "episode_bars is 0"),
        ({"risk_penalty": float("nan")}, "risk_penalty is nan"),
    ],
)
def test_what_no_episode_can_go_by_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        market(**changes)


@pytest.mark.parametrize("rows", [np.array([], dtype=np.int64), np.array([3, 2]), np.array([1, 1])])
def test_rows_out_of_order_are_refused(rows):
    with pytest.raises(ValueError, match="in increasing order"):
        market(rows)


def test_gymnasium_accepts_the_environment():
    check_env(TradingEnv(market(episode_bars=40)), skip_render_check=True)


def test_a_gymnasium_episode_is_that_of_the_market():
    world = market()
    env, targets = TradingEnv(world), np.random.default_rng(4).uniform(-1, 1, size=300)
    first, told = env.reset(options={"row": 210})
    assert (told, first[2:].tolist()) == ({"row": 210}, [0.0, 0.0, 0.0])
    steps = walked(world, 210, targets)
    for target, step in zip(targets, steps, strict=False):
        observation, reward, terminated, truncated, told = env.step(np.array([target]))
        assert (reward, terminated, truncated) == (step.reward[0], step.terminated[0], step.truncated[0])
        assert np.array_equal(observation, world.observe(step.state)[0])
        assert told["net"] == step.net[0]
    assert truncated


def test_gymnasium_is_told_what_is_wrong():
    env = TradingEnv(market())
    with pytest.raises(ValueError, match="step before reset"):
        env.step(np.zeros(1))
    with pytest.raises(ValueError, match="row 600 is none"):
        env.reset(options={"row": 600})
