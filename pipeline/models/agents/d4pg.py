"""D4PG: one actor and a critic of its return distribution (Barth-Maron et al. 2018)."""

from dataclasses import dataclass

from pipeline.models.agents.engine.agent import Agent
from pipeline.models.agents.engine.market_env import MarketEnv
from pipeline.models.agents.engine.networks import Critic, Policy, SingleActorCritic, SingleActorPolicy
from pipeline.models.agents.engine.training import RewardFunction
from pipeline.models.torch_runtime.hyperparameters import Sizes


@dataclass(kw_only=True, eq=False)
class D4PG(Agent):
    """One actor, whose action is the target position; a risk_aversion above 0 penalizes the expected shortfall."""

    hidden_sizes: Sizes  # units of each layer, in the actor and in the critic

    @property
    def layer_units(self) -> int:
        """The units of the widest layer."""
        return max(self.hidden_sizes)

    def make_networks(self, columns: int) -> tuple[Policy, Critic]:
        """Return two perceptrons."""
        n_atoms = self.learner_config.n_atoms
        policy = SingleActorPolicy(columns, hidden_sizes=self.hidden_sizes, clip_sigma=self.clip_sigma)
        critic = SingleActorCritic(columns, hidden_sizes=self.hidden_sizes, clip_sigma=self.clip_sigma, n_atoms=n_atoms)
        return policy, critic

    def make_reward_function(self, env: MarketEnv) -> RewardFunction:
        """Return the market's reward."""
        return lambda before, step, actions: step.reward[:, None]
