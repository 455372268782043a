"""Five cooperating actors: rewards, messages, whose gradient reaches whom, and PettingZoo's interface."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from pettingzoo.test import parallel_api_test

from benchmarks.agents_learning import MOVE_STD
from pipeline.models.agents.engine.hyperparameters import LearnerConfig
from pipeline.models.agents.engine.learner import Learner
from pipeline.models.agents.engine.networks import limit_position
from pipeline.models.agents.engine.rollout import roll_out
from pipeline.models.agents.environments.pettingzoo_env import TeamEnv
from pipeline.models.agents.marl import (
    COORDINATOR,
    RISK_MANAGER,
    ROLES,
    TeamCritic,
    TeamPolicy,
    TeamRewardConfig,
    make_team_rewards,
    measure_efficiency,
)
from pipeline.samples import Samples
from tests.agents import SHORT, TEST, TRAIN, VALID, build_agent, make_market, simulate_market
from tests.data import make_fills

REWARDS = TeamRewardConfig(reward_shaping=0.5, downside_penalty=0.1, trend_window=6, momentum_window=2)
COLUMNS = 6


@pytest.fixture
def team() -> TeamPolicy:
    torch.manual_seed(1)
    made = TeamPolicy(COLUMNS, hidden_size=8, message_size=2, min_position_limit=0.5, clip_sigma=5.0)
    with torch.no_grad():
        made.action.mul_(10.0)  # far from its initial weights
    made.standardize.set_statistics(np.zeros(COLUMNS), np.ones(COLUMNS))
    return made


@pytest.fixture
def critic() -> TeamCritic:
    torch.manual_seed(2)
    made = TeamCritic(COLUMNS, hidden_size=8, num_heads=2, clip_sigma=5.0, n_atoms=11)
    made.standardize.set_statistics(np.zeros(COLUMNS), np.ones(COLUMNS))
    return made


def draw_observations(rows: int = 7) -> torch.Tensor:
    return torch.randn(rows, COLUMNS, generator=torch.Generator().manual_seed(3))


# Rewards


def set_moves(samples: Samples, moves: list[float]) -> Samples:
    """The samples with these moves first."""
    return replace(samples, fills=make_fills(np.append(moves, samples.fills.move[len(moves) :])))


def test_the_efficiency_of_a_path_worked_by_hand_depends_on_no_future_move():
    samples, _ = simulate_market(signal=0.3, seed=0)
    rows = np.array([0, 1, 2, 3, 4, 7, 8])  # two runs
    samples = set_moves(samples, [0.01, 0.03, -0.02, 0.01, 0.0, 0.5, 0.3, 0.02])
    found = measure_efficiency(make_market(samples, rows), window=2)
    assert found.tolist() == pytest.approx([0.0, 1.0, 1.0, 0.01 / 0.05, 0.01 / 0.03, 0.0, 1.0])


def test_efficiency_is_that_of_the_slow_definition():
    samples, _ = simulate_market(signal=0.3, seed=0)
    rows = np.arange(50, 300)
    found = measure_efficiency(make_market(samples, rows), window=20)
    for place in (1, 5, 19, 20, 21, 100, 249):
        known = samples.fills.move[50 + max(0, place - 20) : 50 + place]
        assert found[place] == pytest.approx(abs(known.sum()) / np.abs(known).sum())


def test_each_role_gets_its_own_reward():
    samples, _ = simulate_market(signal=0.3, seed=0)
    samples = set_moves(samples, [0.01, 0.01, -0.02, -0.004])
    rows = np.arange(100)
    market = make_market(samples, rows)
    reward_roles = make_team_rewards(market, REWARDS, move_std=MOVE_STD)
    state = market.start_episodes(np.array([3]))
    actions = np.array([[1.0, -0.5, 0.1, 0.0, 0.8]], dtype=np.float32)
    step = market.step(state, np.array([0.8]))
    team = 0.8 * -0.004 - 0.8 * 5e-4
    slow, fast = 0.0, 0.01 / 0.03  # |0.01 + 0.01 - 0.02| / 0.04 and |0.01 - 0.02| / 0.03
    follower, reverter, momentum = -0.004 - 5e-4, 0.5 * 0.004 - 0.5 * 5e-4, 0.0  # the last stays within the band
    expected = [
        team + 0.5 * slow * follower,
        team + 0.5 * (1 - slow) * reverter,
        team + 0.5 * fast * momentum,
        team - 0.1 * team**2 / MOVE_STD,
        team,
    ]
    assert reward_roles(state, step, actions)[0].tolist() == pytest.approx(expected)


# Messages


def test_a_role_receives_the_messages_of_the_others_and_not_its_own(team: TeamPolicy):
    encoded = team.encode(team.standardize(draw_observations()))
    messages = team.send_messages(encoded)
    for role in range(len(ROLES)):
        own = torch.zeros_like(messages)
        own[:, 2 * role : 2 * role + 2] = 1.0
        decided, changed = team.decide(encoded, messages), team.decide(encoded, messages + own)
        assert torch.allclose(decided[:, role], changed[:, role], atol=1e-6)
        assert not torch.allclose(decided, changed, atol=1e-3)


def test_the_layers_of_a_team_give_its_actions(team: TeamPolicy):
    x = draw_observations()
    units = team.standardize(x)
    for layer in team.list_layers():
        out = units @ layer.weight.T + layer.bias
        out = (torch.relu(out), torch.tanh(out), out)[layer.activation]
        units = torch.cat([units, out], dim=1) if layer.is_skip else out
    assert torch.allclose(units, torch.tanh(team.preactivate(x)), atol=1e-6)


def test_the_position_is_the_coordinators_within_the_risk_managers_limit(team: TeamPolicy):
    actions = torch.tensor([[0.0, 0.0, 0.0, -1.0, 0.8], [0.0, 0.0, 0.0, 1.0, -0.8], [1.0, 1.0, 1.0, 0.0, 0.4]])
    assert team.combine_actions(actions)[:, 0].tolist() == pytest.approx([0.4, -0.8, 0.3])
    assert [limit_position(-1.0, 0.2), limit_position(1.0, 0.2)] == pytest.approx([0.2, 1.0])


def test_the_graphs_of_the_five_actors_form_the_graph_of_the_team(tmp_path: Path):
    samples, _ = simulate_market(signal=0.3, seed=0)
    model = build_agent("marl", samples, **SHORT)
    model.fit(samples, TRAIN, VALID)
    model.to_onnx(tmp_path / "model.onnx")
    inputs = model.inputs(samples, TEST[:50])
    members = [onnxruntime.InferenceSession(tmp_path / f"{role}.onnx") for role in ROLES]
    silence = np.zeros((50, len(ROLES) * model.message_size), np.float32)
    messages = np.hstack([each.run(["message"], {"inputs": inputs, "messages": silence})[0] for each in members])
    actions = [each.run(["action"], {"inputs": inputs, "messages": messages})[0][:, 0] for each in members]
    joint = actions[COORDINATOR] * limit_position(actions[RISK_MANAGER], model.min_position_limit)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert joint == pytest.approx(session.run(["answer"], {"inputs": inputs})[0][:, 0], abs=1e-6)


def act_ablated(team: TeamPolicy, inputs: np.ndarray, *, ablated: int) -> np.ndarray:
    """(n, roles) actions of a team of which one sends zeros."""
    with torch.no_grad():
        encoded = team.encode(team.standardize(torch.from_numpy(inputs)))
        messages = team.send_messages(encoded)
        messages[:, ablated * team.message_size : (ablated + 1) * team.message_size] = 0.0
        return torch.tanh(team.decide(encoded, messages)).numpy()


def test_a_ablated_role_sends_zeros_and_its_action_does_not_count():
    samples, _ = simulate_market(signal=0.3, seed=0)
    model = build_agent("marl", samples, **SHORT)
    model.fit(samples, TRAIN, VALID)
    market = make_market(samples, TEST[:1000])
    for ablated, role in enumerate(ROLES):
        rollout = roll_out(model.policy, market, ablated=ablated)
        inputs = np.hstack([samples.x[TEST[:1000]], rollout.account])
        actions = act_ablated(model.policy, inputs, ablated=ablated)
        target = actions[:, :3].mean(axis=1) if role == "coordinator" else actions[:, COORDINATOR]
        limits = limit_position(actions[:, RISK_MANAGER], model.min_position_limit)
        share = 1.0 if role == "risk_manager" else limits
        assert rollout.target == pytest.approx(target * share, abs=1e-6)
    contributions = model.evaluate(samples, TEST)["contributions"]
    assert list(contributions) == list(ROLES)
    assert contributions["risk_manager"]["position_change"] > 0.01


# Gradients


def evaluate_critic(team: TeamPolicy, critic: TeamCritic, actions: torch.Tensor) -> torch.Tensor:
    rates = {"actor_lr": 1e-3, "critic_lr": 1e-3, "max_grad_norm": 1.0, "tau": 0.1, "saturation_penalty": 0.0}
    config = LearnerConfig(n_atoms=11, v_max=5.0, risk_aversion=0.0, var_level=0.9, **rates)
    learner = Learner(team, critic, config=config, device=torch.device("cpu"))
    return learner._evaluate_critic(critic, draw_observations(), actions)


def test_the_critic_of_a_role_has_a_gradient_to_that_roles_action_alone(team: TeamPolicy, critic: TeamCritic):
    for role in range(len(ROLES)):
        actions = (0.5 * torch.ones(7, len(ROLES))).requires_grad_()
        evaluate_critic(team, critic, actions)[:, role].square().sum().backward()
        reached = actions.grad.abs().sum(dim=0) > 0
        assert reached.tolist() == [each == role for each in range(len(ROLES))]


def test_the_critic_of_a_role_depends_on_the_others_actions(team: TeamPolicy, critic: TeamCritic):
    actions = torch.zeros(7, len(ROLES))
    for other in range(len(ROLES)):
        changed = actions.clone()
        changed[:, other] = 0.5
        apart = (evaluate_critic(team, critic, changed) - evaluate_critic(team, critic, actions)).abs().amax(dim=(0, 2))
        assert (apart > 1e-6).all()


def test_the_coordinators_gradient_reaches_the_messages_of_the_others(team: TeamPolicy, critic: TeamCritic):
    actions = torch.tanh(team.preactivate(draw_observations()))
    evaluate_critic(team, critic, actions)[:, COORDINATOR].square().sum().backward()
    for role in range(len(ROLES)):
        assert (team.message.grad[role].abs().sum() > 0) == (role != COORDINATOR)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 5}, "hidden_size is 32, num_heads 5; the first must be a multiple of the second"),
        ({"message_size": 0}, "message_size is 0"),
        ({"min_position_limit": 0.0}, "min_position_limit is 0.0"),
    ],
)
def test_team_hyperparameters_out_of_range_are_refused(changes, message):
    samples, _ = simulate_market(signal=0.3, seed=0)
    with pytest.raises(ValueError, match=message):
        build_agent("marl", samples, **changes)


# PettingZoo


def make_environment(**changes: float) -> TeamEnv:
    samples, _ = simulate_market(signal=0.3, seed=0)
    market = make_market(samples, np.arange(500), episode_bars=40, **changes)
    reward_function = make_team_rewards(market, REWARDS, move_std=MOVE_STD)
    return TeamEnv(market, reward_function=reward_function, min_position_limit=0.5)


def test_pettingzoo_accepts_the_environment():
    parallel_api_test(make_environment(), num_cycles=200)


def test_an_environments_episode_is_that_of_the_market():
    env = make_environment()
    env.reset(seed=3, options={"row": 17})
    state, rng = env.market.start_episodes(np.array([17])), np.random.default_rng(0)
    while env.agents:
        actions = {role: rng.uniform(-1, 1, 1).astype(np.float32) for role in env.agents}
        seen, rewards, terminated, truncated, info = env.step(actions)
        target = actions["coordinator"] * limit_position(actions["risk_manager"], 0.5)
        step = env.market.step(state, target)
        state = step.state
        assert rewards["coordinator"] == pytest.approx(step.reward[0])
        assert np.array_equal(seen["mean_reverter"], env.market.observe(state)[0])
    assert set(truncated.values()) == {True}
    assert set(terminated.values()) == {False}
    assert (info["coordinator"]["row"], info["coordinator"]["position"]) == (56, step.position[0])
    with pytest.raises(ValueError, match="step before reset"):
        env.step({})
    env.reset()
    with pytest.raises(ValueError, match="no action of \\['coordinator'"):
        env.step({})
    with pytest.raises(ValueError, match="actions are .*'momentum_trader': nan"):
        env.step({role: np.full(1, np.nan if role == "momentum_trader" else 0.5, np.float32) for role in env.agents})


def test_the_same_seed_starts_at_the_same_row():
    first, second = (make_environment().reset(seed=5)[1]["coordinator"]["row"] for _ in range(2))
    assert first == second
