"""N-step returns, prioritized replay and categorical distributions, each against a slow reference."""

import numpy as np
import pytest
import torch
from scipy import stats

from pipeline.models.agents.engine import categorical
from pipeline.models.agents.engine.nstep import NStepAccumulator
from pipeline.models.agents.engine.replay import PrioritizedReplayBuffer, SumTree
from pipeline.tail_risk import GpdTail

SUPPORT = categorical.make_support(-1.0, 1.0, 5)  # -1, -0.5, 0, 0.5, 1


def draw_distributions(rows: int, atoms: int, *, seed: int = 0) -> torch.Tensor:
    """Distributions (rows, atoms)."""
    return torch.from_numpy(np.random.default_rng(seed).dirichlet(np.ones(atoms), size=rows)).float()


def test_a_return_between_two_atoms_splits_its_mass():
    certain = torch.tensor([[0.0, 0.0, 1.0, 0.0, 0.0]])
    moved = categorical.project_onto_support(certain, torch.tensor([[0.0, 0.0, 0.125, 0.0, 0.0]]), SUPPORT)
    assert moved.tolist() == [[0.0, 0.0, 0.75, 0.25, 0.0]]


@pytest.mark.parametrize(("target", "expected"), [(0.5, 3), (1.0, 4), (-1.0, 0), (7.0, 4), (-7.0, 0)])
def test_a_return_on_an_atom_or_beyond_the_ends_loses_no_mass(target, expected):
    whole = categorical.project_onto_support(torch.eye(5)[2:3], torch.full((1, 5), target), SUPPORT)
    assert whole[0, expected] == 1.0
    assert whole.sum() == 1.0


def test_the_projection_is_that_of_the_slow_reference_and_conserves_mass_and_mean():
    support, rng = categorical.make_support(-2.0, 3.0, 51), np.random.default_rng(1)
    probabilities = draw_distributions(64, 51)
    shifted = torch.from_numpy(rng.normal(scale=2.0, size=(64, 1)) + 0.9 * support.numpy()).float()
    found = categorical.project_onto_support(probabilities, shifted, support)
    expected, gap = np.zeros((64, 51)), 5.0 / 50
    for i in range(64):
        for j in range(51):
            place = (np.clip(float(shifted[i, j]), -2.0, 3.0) + 2.0) / gap
            for k in range(51):
                expected[i, k] += float(probabilities[i, j]) * max(0.0, 1 - abs(place - k))
    assert np.allclose(found.numpy(), expected, atol=1e-5)
    assert np.allclose(found.sum(dim=1), 1.0, atol=1e-6)
    mean = (probabilities * shifted.clamp(-2.0, 3.0)).sum(dim=1)
    assert torch.allclose(categorical.average_returns(found, support), mean, atol=1e-5)


def test_the_shortfall_is_the_mean_of_the_worst_part():
    probabilities = torch.tensor([[0.1, 0.1, 0.3, 0.3, 0.2]])
    assert categorical.estimate_shortfall(probabilities, SUPPORT, level=0.9).item() == pytest.approx(1.0)
    assert categorical.estimate_shortfall(probabilities, SUPPORT, level=0.85).item() == pytest.approx(
        (0.1 + 0.05 * 0.5) / 0.15
    )
    assert categorical.estimate_shortfall(probabilities, SUPPORT, level=0.0).item() == pytest.approx(-0.2, abs=1e-6)


def test_the_gradient_of_the_shortfall_reaches_the_logits():
    logits = torch.zeros(1, 5, requires_grad=True)
    categorical.estimate_shortfall(logits.softmax(dim=1), SUPPORT, level=0.7).sum().backward()
    assert logits.grad is not None
    assert logits.grad[0, 0] > 0 > logits.grad[0, 1]  # more of the worst is worse, more of the second worst better


@pytest.mark.parametrize("shape", [-0.2, 0.0, 0.3])
def test_beyond_the_threshold_the_shortfall_is_that_of_the_tail(shape):
    tail = GpdTail(threshold=0.45, shape=shape, scale=0.2, exceedances=100, observations=1000)  # between two atoms
    support = categorical.make_support(-1.0, 1.0, 21)
    probabilities = torch.full((1, 21), 0.9 / 15)
    probabilities[0, :6] = 0.1 / 6  # losses of 0.5 and more: a tenth is above the threshold, the tail's own fraction
    found = categorical.estimate_evt_shortfall(probabilities, support, tail, level=0.97).item()
    assert found == pytest.approx(tail.expected_shortfall(0.97), rel=1e-5)


def test_the_probability_of_exceeding_a_threshold_is_continuous_in_the_threshold():
    support = categorical.make_support(-6.0, 6.0, 31)  # 0.4 apart
    probabilities = torch.from_numpy(stats.norm.pdf(support.numpy())).float()[None]
    probabilities /= probabilities.sum()
    for threshold in np.linspace(1.0, 2.4, 29):
        tail = GpdTail(threshold=threshold, shape=0.1, scale=0.3, exceedances=100, observations=1000)
        exceedance = categorical._estimate_exceedance(probabilities, -support, tail)[1].item()
        assert exceedance == pytest.approx(stats.norm.sf(threshold), rel=0.15)


def test_a_threshold_that_is_rarely_exceeded_is_joined_by_the_atoms_below_it():
    tail = GpdTail(threshold=0.4, shape=0.2, scale=0.1, exceedances=100, observations=1000)
    probabilities = torch.tensor([[0.02, 0.0, 0.48, 0.3, 0.2]])  # losses of 1, 0.5, 0, -0.5, -1
    mean_beyond = 0.4 + 0.1 / 0.8
    found = categorical.estimate_evt_shortfall(probabilities, SUPPORT, tail, level=0.9).item()
    assert found == pytest.approx(0.02 * mean_beyond / 0.1, rel=1e-5)


def test_both_shortfalls_agree_where_the_threshold_is_the_value_at_risk():
    tail = GpdTail(threshold=0.4, shape=0.2, scale=0.1, exceedances=100, observations=1000)
    near = [torch.tensor([[p, 0.0, 0.5, 0.3, 0.2 - p]]) for p in (0.1 - 1e-6, 0.1 + 1e-6)]
    low, high = (categorical.estimate_evt_shortfall(each, SUPPORT, tail, level=0.9).item() for each in near)
    assert low == pytest.approx(high, rel=1e-4)


def test_more_probable_extremes_raise_the_shortfall_and_the_gradient_has_that_sign():
    tail = GpdTail(threshold=0.4, shape=0.2, scale=0.1, exceedances=100, observations=1000)
    logits = torch.zeros(1, 5, requires_grad=True)
    categorical.estimate_evt_shortfall(logits.softmax(dim=1), SUPPORT, tail, level=0.95).sum().backward()
    assert logits.grad is not None
    assert logits.grad[0, 0] > 0 > logits.grad[0, 4]


@pytest.mark.parametrize("shape", [-0.2, 0.0, 0.3])
def test_beyond_the_threshold_the_value_at_risk_is_that_of_the_tail(shape):
    tail = GpdTail(threshold=0.45, shape=shape, scale=0.2, exceedances=100, observations=1000)  # between two atoms
    support = categorical.make_support(-1.0, 1.0, 21)
    probabilities = torch.full((1, 21), 0.9 / 15)
    probabilities[0, :6] = 0.1 / 6
    found = categorical.estimate_var(probabilities, support, tail, level=0.97).item()
    assert found == pytest.approx(tail.value_at_risk(0.97), rel=1e-5)


def test_without_a_tail_the_value_at_risk_is_that_of_the_atoms():
    support = categorical.make_support(-6.0, 6.0, 121)
    probabilities = torch.from_numpy(stats.norm.pdf(support.numpy())).float()[None]
    probabilities /= probabilities.sum()
    for level in (0.5, 0.9, 0.95, 0.99):
        found = categorical.estimate_var(probabilities, support, None, level=level).item()
        assert found == pytest.approx(stats.norm.ppf(level), abs=2e-3)
    by_hand = torch.tensor([[0.1, 0.0, 0.4, 0.5, 0.0]])  # 0.2 of the atom at 0 is needed: half its mass, at its middle
    assert categorical.estimate_var(by_hand, SUPPORT, None, level=0.7).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("given", [(1.0, 1.0, 5), (0.0, 1.0, 1), (2.0, 1.0, 5)])
def test_atoms_without_distance_are_refused(given):
    with pytest.raises(ValueError, match="give at least 2, from a lower to a higher"):
        categorical.make_support(*given)


def test_the_tree_finds_what_a_cumulative_sum_finds():
    rng = np.random.default_rng(0)
    for capacity in (1, 2, 5, 64, 1000):
        priorities = rng.random(capacity) * (rng.random(capacity) < 0.7)
        priorities[0] += 0.1
        tree = SumTree(capacity)
        tree.set(np.arange(capacity), priorities)
        sums = rng.random(500) * tree.total
        expected = np.searchsorted(np.cumsum(priorities), sums, side="right")
        assert np.array_equal(tree.find(sums), expected)
        assert tree.total == pytest.approx(priorities.sum())


def test_rounding_errors_do_not_accumulate_in_the_tree():
    rng, tree = np.random.default_rng(0), SumTree(300)
    for _ in range(2000):
        places = rng.integers(300, size=16)
        tree.set(places, rng.random(16) * 10.0 ** rng.integers(-6, 6))
    known = tree.get(np.arange(300))
    assert tree.total == pytest.approx(np.sum(known), rel=1e-12)


def test_transitions_are_sampled_by_their_priority_and_weighted_against_it():
    replay, rng = PrioritizedReplayBuffer(8, alpha=1.0, beta=1.0, epsilon=1e-9), np.random.default_rng(0)
    replay.add(name=np.arange(4))
    replay.update_priorities(np.arange(4), np.array([1.0, 2.0, 3.0, 4.0]))
    drawn = np.concatenate([replay.sample(10, rng=rng).fields["name"] for _ in range(400)])
    counts = np.bincount(drawn, minlength=4)
    assert stats.chisquare(counts, 4000 * np.array([0.1, 0.2, 0.3, 0.4])).pvalue > 1e-3
    batch = replay.sample(64, rng=rng)
    expected = 1 / (4 * (batch.fields["name"] + 1) / 10)
    assert batch.weights == pytest.approx(expected / expected.max(), rel=1e-6)


def test_new_transitions_replace_the_oldest_and_have_the_largest_priority():
    replay = PrioritizedReplayBuffer(4, alpha=0.5, beta=0.5, epsilon=0.01)
    replay.add(name=np.arange(3))
    replay.update_priorities(np.arange(3), np.array([9.0, 0.0, 0.0]))
    replay.add(name=np.arange(3, 6))  # 0 and 1 are replaced
    drawn = replay.sample(4000, rng=np.random.default_rng(0)).fields["name"]
    assert set(drawn) == {2, 3, 4, 5}
    assert len(replay) == 4
    assert np.mean(drawn == 2) < 0.02 < np.mean(drawn == 3)


def test_replay_resumes_from_its_state():
    replay, rng = PrioritizedReplayBuffer(50, alpha=0.6, beta=0.4, epsilon=0.01), np.random.default_rng(0)
    replay.add(a=rng.normal(size=(70, 2))[:50], b=np.arange(50))
    replay.update_priorities(np.arange(50), rng.normal(size=50))
    again = PrioritizedReplayBuffer(50, alpha=0.6, beta=0.4, epsilon=0.01)
    again.load_state_dict(replay.state_dict())
    for each in (replay, again):
        each.add(a=np.ones((3, 2)), b=np.array([7, 8, 9]))
    first, second = (each.sample(32, rng=np.random.default_rng(1)) for each in (replay, again))
    assert np.array_equal(first.indices, second.indices)
    assert all(np.array_equal(first.fields[name], second.fields[name]) for name in ("a", "b"))


@pytest.mark.parametrize("changes", [{"buffer_size": 0}, {"alpha": 1.5}, {"beta": -0.1}, {"epsilon": 0.0}])
def test_replay_settings_out_of_range_are_refused(changes):
    with pytest.raises(ValueError, match="buffer_size must be at least 1"):
        PrioritizedReplayBuffer(**{"buffer_size": 8, "alpha": 0.6, "beta": 0.4, "epsilon": 0.01} | changes)


def list_transitions(
    rewards: list[float], *, n_step: int, gamma: float, is_terminated: bool
) -> list[tuple[int, float, float, int]]:
    """(first, sum, discount, last) of every transition of one episode that has ended."""
    found = []
    for first in range(len(rewards)):
        last = min(first + n_step, len(rewards))
        total = sum(gamma**i * reward for i, reward in enumerate(rewards[first:last]))
        ends = last == len(rewards) and is_terminated
        found.append((first, total, 0.0 if ends else gamma ** (last - first), last))
    return found


@pytest.mark.parametrize("n_step", [1, 3, 5])
def test_n_step_returns_are_those_of_the_slow_reference(n_step):
    rng, lengths = np.random.default_rng(0), [7, 2, 11, 4]
    rewards = [rng.normal(size=length).tolist() for length in lengths]
    is_terminal = np.array([True, False, False, True])
    collector, found = NStepAccumulator(n_step, gamma=0.9, num_envs=4), []
    for t in range(max(lengths)):
        is_on = np.array([t < length for length in lengths])
        is_end = np.array([t == length - 1 for length in lengths])
        whole = collector.add(
            {"at": np.full(4, t), "episode": np.where(is_on, np.arange(4), -1)},
            np.array([each[t] if t < len(each) else 99.0 for each in rewards]),
            {"at": np.full(4, t + 1)},
            terminated=is_end & is_terminal,
            truncated=(is_end & ~is_terminal) | ~is_on,
        )
        found += list(
            zip(*(whole[n].tolist() for n in ("episode", "at", "reward", "discount", "next_at")), strict=True)
        )
    for episode, each in enumerate(rewards):
        own = sorted(row[1:] for row in found if row[0] == episode)
        expected = list_transitions(each, n_step=n_step, gamma=0.9, is_terminated=bool(is_terminal[episode]))
        assert np.allclose(own, expected, atol=1e-12)


def test_rewards_of_several_actors_are_summed_separately():
    rng = np.random.default_rng(0)
    both, alone = (
        NStepAccumulator(3, gamma=0.9, num_envs=2),
        [NStepAccumulator(3, gamma=0.9, num_envs=2) for _ in range(2)],
    )
    for _ in range(10):
        reward, cut = rng.normal(size=(2, 2)), rng.random(2) < 0.2
        ends = {"terminated": np.zeros(2, dtype=bool), "truncated": cut}
        whole = both.add({"x": cut}, reward, {}, **ends)["reward"]
        for actor, each in enumerate(alone):
            assert np.array_equal(each.add({"x": cut}, reward[:, actor], {}, **ends)["reward"], whole[:, actor])


def test_n_step_returns_resume_from_their_state():
    rng = np.random.default_rng(0)
    known = [(rng.normal(size=3), rng.random(3) < 0.1, rng.random(3) < 0.1) for _ in range(40)]

    def feed(collector: NStepAccumulator, part: slice) -> list[dict[str, np.ndarray]]:
        zeros = np.zeros(3)
        return [
            collector.add({"x": reward}, reward, {"x": zeros}, terminated=end, truncated=cut & ~end)
            for reward, end, cut in known[part]
        ]

    first, second = NStepAccumulator(4, gamma=0.9, num_envs=3), NStepAccumulator(4, gamma=0.9, num_envs=3)
    feed(first, slice(17))
    second.load_state_dict(first.state_dict())
    for one, other in zip(feed(first, slice(17, 40)), feed(second, slice(17, 40)), strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)
