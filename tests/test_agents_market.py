"""The trading environment: its returns are the backtest's, its interface is Gymnasium's."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from gymnasium.utils.env_checker import check_env

from pipeline import fills, trading
from pipeline.models.agents.engine.hyperparameters import EnvironmentConfig
from pipeline.models.agents.engine.market_env import EnvStep, MarketEnv
from pipeline.models.agents.environments.gymnasium_env import TradingEnv
from pipeline.samples import Samples
from tests.data import make_fills

COSTS = {"fee_bps": 1.0, "slippage_bps": 0.5, "no_trade_band": 0.0}
TERMS = COSTS | {"borrow_rate": 0.0, "long_only": False, "capital": 1.0, "max_participation": 1.0}

STARTS = (0, 200, 450)  # of the segments


def make_samples(rows: int = 600, *, seed: int = 0) -> Samples:
    """Three segments, with borders at rows 200 and 450."""
    rng = np.random.default_rng(seed)
    segment = np.digitize(np.arange(rows), [200, 450]).astype(np.int32)
    time = 60_000 * np.arange(rows, dtype=np.int64)
    x, move = rng.normal(size=(rows, 2)).astype(np.float32), 1e-3 * rng.standard_t(4, size=rows)
    return Samples(time, time + 60_000, segment, x, ("a", "b"), move.astype(np.float32), fills=make_fills(move))


def make_market(
    rows: np.ndarray | None = None, *, samples: Samples | None = None, episode_bars: int = 10_000, **changes: float
) -> MarketEnv:
    config = EnvironmentConfig(**TERMS | {"risk_penalty": 0.0, "max_drawdown": 1.0} | changes)
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
    samples = replace(samples, fills=make_fills(np.append([0.01, -0.02, 0.03, 0.01], samples.fills.move[4:])))
    market = make_market(samples=samples, fee_bps=10.0, slippage_bps=0.0)
    steps = run_episode(market, 0, np.array([1.0, 0.5, -1.0, 0.0]))
    first, second = (
        0.01 - 0.001,
        -0.01 - 0.001 * (1.01 / 1.009 - 0.5),
    )  # 1.01 of 1.009 is held
    long = 0.5 * 0.98 / (1 + second)
    third = -0.03 - 0.001 * (1 + long)
    short = -1.03 / (1 + third)
    nets = [first, second, third, 0.001 * short]
    assert [step.net[0] for step in steps] == pytest.approx(nets, abs=1e-15)
    assert [step.state.unrealized[0] for step in steps] == pytest.approx([0.01, 0.0, -0.03, 0.0])
    assert [step.state.since[0] for step in steps] == [1, 2, 1, 0]
    assert [step.state.position[0] for step in steps] == pytest.approx([1.01 / 1.009, long, short, 0.0])
    assert [step.state.equity[0] for step in steps] == pytest.approx(np.cumprod(1 + np.array(nets)))
    assert market.observe(steps[1].state)[0, 2:].tolist() == pytest.approx([long, 0.0, np.log(3)])
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
    found = np.concatenate([[step.net[0] for step in run_episode(market, row, targets[row:])] for row in STARTS])
    expected = trading.trade_runs(targets, samples.fills, samples.segment, trading.make_terms(**TERMS))
    assert np.array_equal(found, expected.net)


def test_an_episode_bears_the_half_spreads_of_its_fills_as_the_backtest_does():
    rng, samples = np.random.default_rng(1), make_samples()
    targets, half_spread = rng.uniform(-1, 1, size=600), rng.uniform(0, 1e-3, size=600)
    samples = replace(samples, fills=replace(samples.fills, half_spread=half_spread))
    steps = run_episode(make_market(samples=samples), 0, targets)
    expected = trading.trade(targets[:200], samples.fills.take(np.arange(200)), trading.make_terms(**TERMS))
    assert [step.net[0] for step in steps] == pytest.approx(expected.net, abs=1e-15)


def make_bars(rows: int = 600, *, seed: int = 0, changed_from: int | None = None) -> pd.DataFrame:
    """Bars of one symbol with gaps before rows 200 and 450, of which a fifth is idle; later ones may be others."""
    rng, other = np.random.default_rng(seed), np.random.default_rng(seed + 100)
    draws = [[each.normal(0, 0.01, rows), each.normal(0, 0.002, rows), each.random(rows)] for each in (rng, other)]
    step, jump, traded = (
        np.where(np.arange(rows) < (rows if changed_from is None else changed_from), *pair)
        for pair in zip(*draws, strict=True)
    )
    volume = np.where(traded < 0.2, 0.0, traded)
    segment = np.digitize(np.arange(rows), STARTS[1:])
    close = 100 * np.exp(np.cumsum(step))
    opened = np.append(100.0, close[:-1]) * np.exp(jump)
    table = {"symbol": "A", "segment": segment, "open_time": 60_000 * (np.arange(rows) + 50 * segment)}
    return pd.DataFrame(table | {"open": opened, "close": close, "volume": volume, "quote_volume": 1e4 * volume})


@pytest.mark.parametrize("delay_bars", [0, 1, 4])
def test_an_episode_over_real_fills_earns_the_net_returns_of_the_backtest_to_the_last_bit(delay_bars):
    targets = np.random.default_rng(1).uniform(-1, 1, size=600)
    terms = {"borrow_rate": 0.5, "no_trade_band": 0.3, "capital": 2e4, "max_participation": 0.5}
    samples = replace(make_samples(), fills=fills.find_fills(make_bars(), delay_bars=delay_bars))
    assert {fills.FILLS, fills.WAITS, fills.CLOSES} == set(samples.fills.outcome)
    market = make_market(samples=samples, **terms)
    steps = [run_episode(market, row, targets[row:]) for row in STARTS]
    found = np.array([(step.net[0], step.position[0]) for episode in steps for step in episode])
    expected = trading.trade_runs(targets, samples.fills, samples.segment, trading.make_terms(**TERMS | terms))
    assert np.array_equal(found, np.stack([expected.net, expected.position], axis=1))
    assert expected.interest.sum() > 0
    drifts = [step.state.position[0] != step.position[0] for episode in steps for step in episode]
    assert np.mean(drifts) > 0.5


@pytest.mark.parametrize("delay_bars", [0, 1, 4])
@pytest.mark.parametrize("row", [300, 311, 320])
def test_an_observation_depends_on_no_bar_after_its_own(row, delay_bars):
    targets, seen = np.random.default_rng(3).uniform(-1, 1, size=200), []
    for changed_from in (None, row + 1):
        found = fills.find_fills(make_bars(changed_from=changed_from), delay_bars=delay_bars)
        market = make_market(samples=replace(make_samples(), fills=found), no_trade_band=0.2)
        steps = run_episode(market, 250, targets)
        seen.append([market.observe(step.state)[0, 2:].tolist() for step in steps[: row - 250]])
    assert seen[0] == seen[1]
    assert np.ptp([each[0] for each in seen[0]]) > 0.1


def test_an_observation_has_the_account_of_the_latest_known_fill_at_the_rows_close():
    bars = make_bars().assign(volume=1.0, quote_volume=1e9)
    market = make_market(samples=replace(make_samples(), fills=fills.find_fills(bars, delay_bars=1)))
    steps = run_episode(market, 10, np.array([0.5, 0.5, 0.5, 0.5]))
    seen = [market.observe(step.state)[0, 2:].tolist() for step in steps]
    assert seen[0] == [0.0, 0.0, 0.0]  # at row 11 the order of row 10 waits for the open of bar 12
    mark = bars["close"][12] / bars["open"][12] - 1
    weight = 0.5 * (1 + mark) / (1 + 0.5 * mark - 0.5 * 1.5e-4)
    assert seen[1] == pytest.approx([weight, 0.5 * mark, np.log(2)], rel=1e-6)


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
    move = make_samples().fills.move[449]
    before = steps[-2].state.position[0]
    closed = 1 + move  # of the capital at the row, which the whole position is
    assert steps[-1].net[0] == pytest.approx(move - 1.5e-4 * (abs(1 - before) + closed))


def test_a_deployed_agent_can_observe_what_it_observed_when_it_learned():
    # the loop of pipeline/models/agents/README.md
    bars = make_bars().iloc[:150].assign(quote_volume=1e4, volume=1.0)
    terms = TERMS | {"borrow_rate": 0.5, "no_trade_band": 0.3, "capital": 2e4, "max_participation": 0.5}
    samples = replace(make_samples(150), fills=fills.find_fills(bars, delay_bars=0))
    market = make_market(np.arange(150), samples=samples, **terms)
    targets = np.random.default_rng(1).uniform(-1, 1, size=150)
    state, terms = market.start_episodes(np.array([0])), market.terms
    account, orders, opened = (0.0, 0.0, 0), [], []
    for target, bar in zip(targets, bars.itertuples(), strict=True):
        if len(orders) > 1:
            fill = (bar.open / opened[-1].open - 1, 60_000 / fills.YEAR_MS, opened[-1].quote_volume, fills.FILLS)
            _, *account = trading.step_account(orders[-2], *account, fill, False, terms)
        weight, unrealized, age = 0.0, 0.0, 0
        if orders:
            position = trading.fill_order(orders[-1], account[0], bar.quote_volume, fills.FILLS, terms)
            mark = bar.close / bar.open - 1
            weight, unrealized, age = trading.mark_account(position, tuple(account), mark, terms)
        seen = np.array([weight, unrealized, np.log1p(age)], np.float32)
        assert np.array_equal(market.observe(state)[0, 2:], seen)
        orders.append(target)
        opened.append(bar)
        state = market.step(state, np.array([target])).state


def test_the_maximum_drawdown_terminates_an_episode_and_its_length_truncates_it():
    samples = replace(make_samples(), fills=make_fills(np.full(600, -0.02)))
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
    assert run_episode(make_market(), 5, np.array([7.0]))[0].position[0] == 1.0


def test_an_observation_does_not_depend_on_the_columns_of_later_bars():
    samples, later = make_samples(), make_samples(seed=9)
    samples.x[300:] = later.x[300:]
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
        ({"borrow_rate": 1.0}, "borrow_rate is 1.0; it must be below 1"),
        ({"max_participation": 0.0}, "max_participation is 0.0; it must be above 0"),
    ],
)
def test_rules_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_market(**changes)


@pytest.mark.parametrize("rows", [np.array([], dtype=np.int64), np.array([3, 2]), np.array([1, 1])])
def test_rows_out_of_order_are_refused(rows):
    with pytest.raises(ValueError, match="in increasing order"):
        make_market(rows)


def test_samples_without_fills_are_no_market():
    with pytest.raises(ValueError, match="without fills"):
        make_market(samples=replace(make_samples(), fills=None))


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
