"""A team of five: what each is paid for, who hears whom, whose gradient is whose, and PettingZoo's contract."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from pettingzoo.test import parallel_api_test

from benchmarks.agents_learning import UNIT
from pipeline.models.agents.engine.learner import Learner, Plan
from pipeline.models.agents.engine.networks import limit
from pipeline.models.agents.engine.rollout import rolled
from pipeline.models.agents.engine.team import COORDINATOR, RISK, ROLES, Team, TeamCritic, efficiency, paid
from pipeline.models.agents.environments.zoo import TeamEnv
from tests.agents import FEW, TEST, TRAIN, VALID, agent, market, world

PAY = {"shaping": 0.5, "caution": 0.1, "slow": 6, "fast": 2, "unit": UNIT}
COLUMNS = 6


@pytest.fixture
def team() -> Team:
    torch.manual_seed(1)
    made = Team(COLUMNS, hidden=8, message=2, floor=0.5, clip=5.0)
    with torch.no_grad():
        made.act.mul_(10.0)  # far from where it begins
    made.standardise.learn(np.zeros(COLUMNS), np.ones(COLUMNS))
    return made


@pytest.fixture
def critic() -> TeamCritic:
    torch.manual_seed(2)
    made = TeamCritic(COLUMNS, hidden=8, heads=2, clip=5.0, atoms=11)
    made.standardise.learn(np.zeros(COLUMNS), np.ones(COLUMNS))
    return made


def observations(rows: int = 7) -> torch.Tensor:
    return torch.randn(rows, COLUMNS, generator=torch.Generator().manual_seed(3))


# Pay


def test_the_efficiency_of_a_path_worked_by_hand_knows_no_move_that_is_to_come():
    samples, _ = world(signal=0.3, seed=0)
    samples.move[:6] = [0.01, 0.03, -0.02, 0.01, 0.0, 0.5]
    rows = np.array([0, 1, 2, 3, 4, 7, 8])  # two runs
    samples.move[7] = 0.02
    found = efficiency(market(samples, rows), bars=2)
    assert found.tolist() == pytest.approx([0.0, 1.0, 1.0, 0.01 / 0.05, 0.01 / 0.03, 0.0, 1.0])


def test_efficiency_is_what_the_slow_definition_gives():
    samples, _ = world(signal=0.3, seed=0)
    rows = np.arange(50, 300)
    found = efficiency(market(samples, rows), bars=20)
    for place in (1, 5, 19, 20, 21, 100, 249):
        known = samples.move[50 + max(0, place - 20) : 50 + place]
        assert found[place] == pytest.approx(abs(known.sum()) / np.abs(known).sum())


def test_each_role_is_paid_its_own():
    samples, _ = world(signal=0.3, seed=0)
    samples.move[:4] = [0.01, 0.01, -0.02, -0.004]
    rows = np.arange(100)
    told = market(samples, rows)
    rewards = paid(told, **PAY)
    state = told.begin(np.array([3]))
    actions = np.array([[1.0, -0.5, 0.1, 0.0, 0.8]], dtype=np.float32)
    done = told.step(state, np.array([0.8]))
    team = 0.8 * -0.004 - 0.8 * 5e-4
    slow, fast = 0.0, 0.01 / 0.03  # |0.01 + 0.01 - 0.02| / 0.04 and |0.01 - 0.02| / 0.03
    follower, reverter, momentum = -0.004 - 5e-4, 0.5 * 0.004 - 0.5 * 5e-4, 0.0  # the last moves within the band
    expected = [
        team + 0.5 * slow * follower,
        team + 0.5 * (1 - slow) * reverter,
        team + 0.5 * fast * momentum,
        team - 0.1 * team**2 / UNIT,
        team,
    ]
    assert rewards(state, done, actions)[0].tolist() == pytest.approx(expected)


# Who hears whom


def test_a_role_hears_the_others_and_not_itself(team: Team):
    seen = team._seen(observations())
    said = team._said(seen)
    for role in range(len(ROLES)):
        own = torch.zeros_like(said)
        own[:, 2 * role : 2 * role + 2] = 1.0
        decided, without = team._decided(seen, said), team._decided(seen, said + own)
        assert torch.allclose(decided[:, role], without[:, role], atol=1e-6)
        assert not torch.allclose(decided, without, atol=1e-3)


def test_the_layers_of_a_team_answer_as_it_does(team: Team):
    x = observations()
    units = team.standardise(x)
    for layer in team.layers():
        out = units @ layer.weight.T + layer.bias
        out = (torch.relu(out), torch.tanh(out), out)[layer.kind]
        units = torch.cat([units, out], dim=1) if layer.keeps else out
    assert torch.allclose(units, torch.tanh(team.raw(x)), atol=1e-6)


def test_the_position_is_the_coordinators_within_the_risk_managers_limit(team: Team):
    actions = torch.tensor([[0.0, 0.0, 0.0, -1.0, 0.8], [0.0, 0.0, 0.0, 1.0, -0.8], [1.0, 1.0, 1.0, 0.0, 0.4]])
    assert team.joint(actions)[:, 0].tolist() == pytest.approx([0.4, -0.8, 0.3])
    assert [limit(-1.0, 0.2), limit(1.0, 0.2)] == pytest.approx([0.2, 1.0])


def test_the_graphs_of_the_five_make_the_graph_of_the_team(tmp_path: Path):
    samples, _ = world(signal=0.3, seed=0)
    model = agent("marl", samples, **FEW)
    model.fit(samples, TRAIN, VALID)
    model.to_onnx(tmp_path / "model.onnx")
    inputs = model.inputs(samples, TEST[:50])
    members = [onnxruntime.InferenceSession(tmp_path / f"{role}.onnx") for role in ROLES]
    silence = np.zeros((50, len(ROLES) * model.message), np.float32)
    said = np.hstack([each.run(["message"], {"inputs": inputs, "messages": silence})[0] for each in members])
    actions = [each.run(["action"], {"inputs": inputs, "messages": said})[0][:, 0] for each in members]
    together = actions[COORDINATOR] * limit(actions[RISK], model.smallest_limit)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert together == pytest.approx(session.run(["answer"], {"inputs": inputs})[0][:, 0], abs=1e-6)


def said_and_done(team: Team, inputs: np.ndarray, *, silent: int) -> np.ndarray:
    """(n, roles) actions of a team of which one says nothing."""
    with torch.no_grad():
        seen = team._seen(torch.from_numpy(inputs))
        said = team._said(seen)
        said[:, silent * team.message : (silent + 1) * team.message] = 0.0
        return torch.tanh(team._decided(seen, said)).numpy()


def test_a_silenced_role_is_not_heard_and_its_action_does_not_count():
    samples, _ = world(signal=0.3, seed=0)
    model = agent("marl", samples, **FEW)
    model.fit(samples, TRAIN, VALID)
    told = market(samples, TEST[:1000])
    for silent, role in enumerate(ROLES):
        rollout = rolled(model.policy, told, silent=silent)
        actions = said_and_done(model.policy, np.hstack([samples.x[TEST[:1000]], rollout.own]), silent=silent)
        wanted = actions[:, :3].mean(axis=1) if role == "coordinator" else actions[:, COORDINATOR]
        share = 1.0 if role == "risk_manager" else limit(actions[:, RISK], model.smallest_limit)
        assert rollout.target == pytest.approx(wanted * share, abs=1e-6)
    contributions = model.examined(samples, TEST)["contributions"]
    assert list(contributions) == list(ROLES)
    assert contributions["risk_manager"]["position"] > 0.01


# Whose gradient is whose


def judged(team: Team, critic: TeamCritic, actions: torch.Tensor) -> torch.Tensor:
    settings = {"actor_rate": 1e-3, "critic_rate": 1e-3, "gradient_norm": 1.0, "target_share": 0.1}
    plan = Plan(atoms=11, highest=5.0, saturation=0.0, risk_aversion=0.0, level=0.9, **settings)
    return Learner(team, critic, plan=plan, device=torch.device("cpu"))._judged(critic, observations(), actions)


def test_what_a_critic_says_of_a_role_has_a_gradient_to_that_roles_action_alone(team: Team, critic: TeamCritic):
    for role in range(len(ROLES)):
        actions = (0.5 * torch.ones(7, len(ROLES))).requires_grad_()
        judged(team, critic, actions)[:, role].square().sum().backward()
        reached = actions.grad.abs().sum(dim=0) > 0
        assert reached.tolist() == [each == role for each in range(len(ROLES))]


def test_what_a_role_is_judged_by_depends_on_what_the_others_do(team: Team, critic: TeamCritic):
    actions = torch.zeros(7, len(ROLES))
    for other in range(len(ROLES)):
        changed = actions.clone()
        changed[:, other] = 0.5
        apart = (judged(team, critic, changed) - judged(team, critic, actions)).abs().amax(dim=(0, 2))
        assert (apart > 1e-6).all()


def test_the_coordinator_teaches_the_others_what_to_say(team: Team, critic: TeamCritic):
    judged(team, critic, torch.tanh(team.raw(observations())))[:, COORDINATOR].square().sum().backward()
    for role in range(len(ROLES)):
        assert (team.say.grad[role].abs().sum() > 0) == (role != COORDINATOR)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 5}, "hidden is 32, heads 5; hidden must be a multiple of heads"),
        ({"message": 0}, "message is 0"),
        ({"smallest_limit": 0.0}, "smallest_limit is 0.0"),
    ],
)
def test_a_team_that_cannot_be_is_refused(changes, message):
    samples, _ = world(signal=0.3, seed=0)
    with pytest.raises(ValueError, match=message):
        agent("marl", samples, **changes)


# PettingZoo's contract


def environment(**changes: float) -> TeamEnv:
    samples, _ = world(signal=0.3, seed=0)
    told = market(samples, np.arange(500), episode_bars=40, **changes)
    return TeamEnv(told, rewards=paid(told, **PAY), floor=0.5)


def test_the_environment_keeps_pettingzoos_contract():
    parallel_api_test(environment(), num_cycles=200)


def test_an_environments_episode_earns_what_the_market_says():
    env = environment()
    env.reset(seed=3, options={"row": 17})
    state, rng = env.market.begin(np.array([17])), np.random.default_rng(0)
    while env.agents:
        actions = {role: rng.uniform(-1, 1, 1).astype(np.float32) for role in env.agents}
        seen, rewards, terminated, truncated, told = env.step(actions)
        done = env.market.step(state, actions["coordinator"] * limit(actions["risk_manager"], 0.5))
        state = done.state
        assert rewards["coordinator"] == pytest.approx(done.reward[0])
        assert np.array_equal(seen["mean_reverter"], env.market.observe(state)[0])
    assert set(truncated.values()) == {True}
    assert set(terminated.values()) == {False}
    assert (told["coordinator"]["row"], told["coordinator"]["position"]) == (56, done.position[0])
    with pytest.raises(ValueError, match="step before reset"):
        env.step({})
    env.reset()
    with pytest.raises(ValueError, match="no action of \\['coordinator'"):
        env.step({})
    with pytest.raises(ValueError, match="actions are .*'momentum_trader': nan"):
        env.step({role: np.full(1, np.nan if role == "momentum_trader" else 0.5, np.float32) for role in env.agents})


def test_the_same_seed_begins_at_the_same_row():
    first, second = (environment().reset(seed=5)[1]["coordinator"]["row"] for _ in range(2))
    assert first == second
