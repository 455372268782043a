"""Measurements of a fitted agent: the entropy of its critic's return distribution, and the spread of its positions."""

import numpy as np
import torch

from pipeline.models.agents.engine.agent import Agent
from pipeline.models.torch_runtime.device import use_one_thread

NO_POLICY_ENTROPY = "the actor is deterministic: it has no policy entropy"


@torch.no_grad()
def diagnose(model: Agent, inputs: np.ndarray) -> dict[str, float | str | None]:
    """Return `critic_entropy` and `action_dispersion` for observations (B, F + 3).

    The entropy, in nats, is that of the distribution over atoms at the policy's own actions, averaged over rows and
    actors; n even atoms have ln n. The dispersion is the standard deviation of the target positions.
    """
    policy, critic = model.policy, model.critic
    with use_one_thread(torch.device("cpu")):
        observation = torch.from_numpy(np.ascontiguousarray(inputs))
        actions = torch.tanh(policy.preactivate(observation))  # (B, actors)
        position = policy.combine_actions(actions)  # (B, 1)
        logits = critic(observation, actions, position.expand(-1, actions.shape[1]), actions)  # (B, actors, atoms)
        entropy = torch.special.entr(logits.double().softmax(dim=2)).sum(dim=2)
    return {
        "critic_entropy": float(entropy.mean()),
        "action_dispersion": float(position.double().std(unbiased=False)),
        "policy_entropy": None,
        "reason": NO_POLICY_ENTROPY,
    }
