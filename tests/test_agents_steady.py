"""Means against the luck of a seed: the critic learns first, and the result is the mean policy of the last steps."""

import numpy as np
import pytest
import torch

from pipeline.models.agents.engine.agent import Agent
from pipeline.models.agents.engine.training import TrainingLoop
from pipeline.models.stopping import LATEST, LOWEST_VALID_LOSS
from pipeline.models.torch_runtime.device import fork_rng, use_one_thread
from tests.agents import SHORT, TRAIN, VALID, build_agent, simulate_market
from tests.params import BLOCKS

SAMPLES, _ = simulate_market(signal=0.3, seed=0)
STEPS = 75  # of SHORT: 20 episodes of 240 bars, 64 at once
Weights = list[list[torch.Tensor]]


def start(name: str, **changes: object) -> tuple[Agent, TrainingLoop]:
    """A small agent and the start of its training."""
    model = build_agent(name, SAMPLES, **SHORT, **changes)
    with fork_rng(model.seed, torch.device("cpu")):
        model._prepare(SAMPLES, TRAIN)
    return model, model._start_training(SAMPLES, TRAIN, device=torch.device("cpu"))


def record(loop: TrainingLoop, *networks: str) -> list[Weights]:
    """The weights of networks before the first step and after each."""
    found: list[Weights] = [[] for _ in networks]
    with use_one_thread(torch.device("cpu")):  # as in a fit: two threads round otherwise
        while True:
            for weights, network in zip(found, networks, strict=True):
                weights.append([each.detach().clone() for each in loop.learner.weights[network]])
            if loop.step == loop.config.steps:
                return found
            loop.advance()


def count_changed(found: Weights) -> list[int]:
    """The steps, from 1 on, that changed a weight."""
    pairs = zip(found, found[1:], strict=False)
    return [step for step, (before, after) in enumerate(pairs, start=1) if not all(map(torch.equal, before, after))]


def test_the_blocks_name_what_keeps_them_steady():
    assert {"critic_warmup_pct", "average_pct"} <= set(BLOCKS["marl"][1]["hyperparameters"])
    assert not {"critic_warmup_pct", "average_pct"} & set(BLOCKS["d4pg"][1]["hyperparameters"])


def test_until_the_warm_up_is_over_the_critic_learns_alone():
    _, loop = start("marl", critic_warmup_pct=0.4)
    first_update = 8  # 64 transitions a step, from the second on: 500 are there after the ninth
    assert loop.config.steps == STEPS
    policy, critic = record(loop, "policy", "critic")
    assert count_changed(policy) == list(range(31, STEPS + 1))
    changed = count_changed(critic)
    assert first_update <= changed[0] < 12
    assert changed == list(range(changed[0], STEPS + 1))


def test_the_result_is_the_mean_policy_of_the_last_steps_and_the_last_evaluation_measures_it():
    _, loop = start("marl", average_pct=0.2)
    (found,) = record(loop, "policy")
    expected = [
        np.mean([each[i].numpy().astype(np.float64) for each in found[-15:]], axis=0) for i in range(len(found[0]))
    ]
    model = build_agent("marl", SAMPLES, **SHORT, average_pct=0.2)
    history = model.fit(SAMPLES, TRAIN, VALID)
    for parameter, mean in zip(model.policy.parameters(), expected, strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), mean, atol=1e-5)
    assert not all(torch.equal(*each) for each in zip(model.policy.parameters(), found[-1], strict=True))
    loss = model.run_backtest(model.make_env(SAMPLES, VALID)).measure_loss(
        risk_aversion=model.learner_config.risk_aversion, var_level=model.learner_config.var_level
    )
    assert history[-1]["valid_loss"] == pytest.approx(loss)
    assert model.stopping.find_best_entry(history) is history[-1]


def test_without_a_mean_the_policy_of_the_lowest_valid_loss_is_the_result():
    model, loop = start("d4pg")
    record(loop, "policy")
    assert (loop.average, loop.averaged_updates) == ([], 0)
    assert model.stopping is LOWEST_VALID_LOSS


def test_the_latest_of_a_history_is_the_last_entry_whatever_its_loss():
    history = [{"valid_loss": value} for value in (0.2, 0.1, 0.3)]
    assert LATEST.find_best_entry(history) is history[-1]
    assert LATEST.metric == "valid_loss"
