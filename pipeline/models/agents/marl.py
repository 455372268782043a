"""Five cooperating actors with a central critic and messages (Lowe et al. 2017; Iqbal & Sha 2019)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.models.agents._marl_critic import TeamCritic
from pipeline.models.agents._marl_policy import ROLES, TeamMember, TeamPolicy
from pipeline.models.agents._marl_rewards import TeamRewardConfig, make_team_rewards
from pipeline.models.agents.engine.agent import Agent
from pipeline.models.agents.engine.market_env import MarketEnv
from pipeline.models.agents.engine.networks import Critic, Policy
from pipeline.models.agents.engine.policy_evaluation import PolicyBacktest
from pipeline.models.agents.engine.training import RewardFunction
from pipeline.models.torch_runtime.onnx_export import export_onnx


@dataclass(kw_only=True, eq=False)
class MARL(Agent):
    """Trend follower, mean reverter, momentum trader, risk manager and coordinator; see `make_team_rewards`."""

    hidden_size: int  # units of each layer, in every actor and in the critic
    num_heads: int  # of the critic's attention
    message_size: int  # numbers that each actor sends to the others
    min_position_limit: float  # the least share of the coordinator's action that the risk manager must leave
    reward_shaping: float
    downside_penalty: float
    trend_window: int
    momentum_window: int

    def make_networks(self, columns: int) -> tuple[Policy, Critic]:
        """Return five actors, and a critic that attends to all of them."""
        critic = TeamCritic(
            columns,
            hidden_size=self.hidden_size,
            num_heads=self.num_heads,
            clip_sigma=self.clip_sigma,
            n_atoms=self.learner_config.n_atoms,
        )
        team = TeamPolicy(
            columns,
            hidden_size=self.hidden_size,
            message_size=self.message_size,
            min_position_limit=self.min_position_limit,
            clip_sigma=self.clip_sigma,
        )
        return team, critic

    def make_reward_function(self, env: MarketEnv) -> RewardFunction:
        """Return the function of each role's reward."""
        config = TeamRewardConfig(
            reward_shaping=self.reward_shaping,
            downside_penalty=self.downside_penalty,
            trend_window=self.trend_window,
            momentum_window=self.momentum_window,
        )
        return make_team_rewards(env, config, move_std=self.move_std)

    def describe_backtest(self, backtest: PolicyBacktest) -> dict[str, Any]:
        """Return the figures of every agent, and each role's contribution by ablation.

        A contribution compares the backtest with that of a team in which the role is silenced; see
        `TeamPolicy.list_layers`.
        """
        contributions = {role: self._ablate(place, backtest) for place, role in enumerate(ROLES)}
        return {**super().describe_backtest(backtest), "contributions": contributions}

    def _ablate(self, role: int, whole: PolicyBacktest) -> dict[str, float]:
        """Return how far a role changes the position on average, and the net return that it adds per bar."""
        without = self.run_backtest(whole.env, silenced=role)
        return {
            "position_change": float(np.abs(whole.result.position - without.result.position).mean()),
            "net_bps": float((whole.result.net - without.result.net).mean()) * 1e4,
        }

    def to_onnx(self, file: Path) -> None:
        """Write the team's graph to `file`, and beside it each actor's, <role>.onnx.

        An actor's graph maps "inputs", "messages" -> "action", "message".
        """
        super().to_onnx(file)
        assert isinstance(self.policy, TeamPolicy)
        inputs = {"inputs": (len(self.input_columns),), "messages": (len(ROLES) * self.message_size,)}
        for place, role in enumerate(ROLES):
            graph = export_onnx(TeamMember(self.policy, place), inputs=inputs, outputs=["action", "message"])
            file.with_name(f"{role}.onnx").write_bytes(graph)
