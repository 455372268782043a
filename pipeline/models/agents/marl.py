"""A team of five that decides together: a central critic, decentralised actors (Lowe et al. 2017; Iqbal & Sha 2019)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.models.agents.engine.course import Rewards
from pipeline.models.agents.engine.market import Market
from pipeline.models.agents.engine.networks import Critic, Policy
from pipeline.models.agents.engine.promise import Agent
from pipeline.models.agents.engine.rollout import rolled
from pipeline.models.agents.engine.team import ROLES, Member, Team, TeamCritic, paid
from pipeline.models.agents.engine.trial import Trial
from pipeline.models.neural.graph import written


@dataclass(kw_only=True, eq=False)
class MARL(Agent):
    """Trend follower, mean reverter, momentum trader, risk manager and coordinator; see `team`."""

    hidden: int  # units of each actor's layers, and of the critic's
    heads: int  # of the critic's attention
    message: int  # numbers that each says to the others
    smallest_limit: float  # of the coordinator's action, that the risk manager must leave
    shaping: float  # how much of its own earnings a trader gets beside the team's
    caution: float  # of the risk manager: times the square of a loss, in deviations of a bar's move
    trend_bars: int  # over which the regimes of trend follower and mean reverter are told apart
    momentum_bars: int

    def untrained(self, columns: int) -> tuple[Policy, Critic]:
        """Five actors, and a critic that attends to all of them."""
        critic = TeamCritic(columns, hidden=self.hidden, heads=self.heads, clip=self.clip, atoms=self.atoms)
        team = Team(columns, hidden=self.hidden, message=self.message, floor=self.smallest_limit, clip=self.clip)
        return team, critic

    def paid(self, market: Market) -> Rewards:
        """Each role's own."""
        return paid(
            market,
            shaping=self.shaping,
            caution=self.caution,
            slow=self.trend_bars,
            fast=self.momentum_bars,
            unit=self.unit,
        )

    def judged(self, trial: Trial) -> dict[str, Any]:
        """As every agent, and what each role contributes: how far it changes the position, and what that earns.

        A role that is silenced says nothing, and its action does not count; see `Team.layers`.
        """
        contributions = {role: self._contribution(place, trial) for place, role in enumerate(ROLES)}
        return {**super().judged(trial), "contributions": contributions}

    def _contribution(self, role: int, whole: Trial) -> dict[str, float]:
        silenced = rolled(self.policy, whole.market, silent=role)
        without = Trial(whole.market, silenced, unit=self.unit, discount=self.discount)
        return {
            "position": float(np.abs(whole.traded.position - without.traded.position).mean()),
            "net_bps": float((whole.traded.net - without.traded.net).mean()) * 1e4,
        }

    def to_onnx(self, file: Path) -> None:
        """`file` holds the team's graph; beside it each actor's, <role>.onnx: inputs, messages -> action, message."""
        super().to_onnx(file)
        assert isinstance(self.policy, Team)
        inputs = {"inputs": (len(self.input_columns),), "messages": (len(ROLES) * self.message,)}
        for place, role in enumerate(ROLES):
            graph = written(Member(self.policy, place), inputs=inputs, outputs=["action", "message"])
            file.with_name(f"{role}.onnx").write_bytes(graph)
