"""The central critic of the multi-agent system: attention over the actors' actions (Iqbal & Sha 2019)."""

import math

import torch
from torch import Tensor, nn

from pipeline.models.agents._marl_policy import ROLES, make_weights
from pipeline.models.agents.engine.networks import OUTPUT_SCALE, Critic, narrow_initial_distribution
from pipeline.models.torch_runtime.checks import check_sizes
from pipeline.models.torch_runtime.standardize import Standardize


class TeamCritic(Critic):
    """Forecasts each role's return from its own action, the position, and, by attention, the others' actions.

    A role's own action enters through its own token alone. The others' tokens, to which it attends, do not depend on
    it.
    """

    def __init__(self, columns: int, *, hidden_size: int, num_heads: int, clip_sigma: float, n_atoms: int) -> None:
        """Build an untrained critic with `num_heads` attention heads, which must divide `hidden_size`."""
        super().__init__()
        check_sizes("marl", hidden_size=hidden_size, num_heads=num_heads)
        if hidden_size % num_heads:
            raise ValueError(
                f"marl: hidden_size is {hidden_size}, num_heads {num_heads}; the first must be a multiple of the second"
            )
        self.standardize, self.num_heads = Standardize(columns, clip_sigma=clip_sigma), num_heads
        self.hidden_size = hidden_size
        self.encoder = nn.Linear(columns, hidden_size)
        self.others_encoder = nn.Linear(columns, hidden_size)
        self.own_action, self.others_action = (make_weights(len(ROLES), count, hidden_size) for count in (2, 1))
        self.own_bias, self.others_bias = (
            nn.Parameter(torch.randn(len(ROLES), hidden_size) * OUTPUT_SCALE) for _ in range(2)
        )
        self.hidden = nn.Linear(hidden_size, hidden_size)
        self.query, self.key, self.value = (nn.Linear(hidden_size, hidden_size, bias=False) for _ in range(3))
        self.head = nn.Sequential(nn.Linear(2 * hidden_size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, n_atoms))
        narrow_initial_distribution(self.head)
        self.register_buffer("self_mask", torch.eye(len(ROLES), dtype=torch.bool))

    self_mask: Tensor

    def forward(self, observation: Tensor, actions: Tensor, positions: Tensor, others: Tensor) -> Tensor:
        """Map (B, F) and (B, roles) each of actions, positions and others to (B, roles, atoms) logits."""
        seen = self.standardize(observation)
        action = torch.einsum("bri,rih->brh", torch.stack([actions, positions], dim=2), self.own_action)
        own = torch.relu(self.hidden(torch.relu(self.encoder(seen)[:, None] + action + self.own_bias)))
        tokens = self.others_encoder(seen)[:, None] + others[..., None] * self.others_action[:, 0] + self.others_bias
        logits: Tensor = self.head(torch.cat([own, self._attend(own, torch.relu(tokens))], dim=2))
        return logits

    def _attend(self, own: Tensor, others: Tensor) -> Tensor:
        """Map (B, roles, hidden_size) tokens to each role's attention over the others, (B, roles, hidden_size)."""
        query, key, value = (
            layer(tokens).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for layer, tokens in ((self.query, own), (self.key, others), (self.value, others))
        )  # (B, num_heads, roles, hidden_size / num_heads)
        scores = query @ key.transpose(2, 3) / math.sqrt(self.hidden_size / self.num_heads)
        weights = scores.masked_fill(self.self_mask, -math.inf).softmax(dim=3)
        attended: Tensor = (weights @ value).transpose(1, 2).flatten(2)
        return attended
