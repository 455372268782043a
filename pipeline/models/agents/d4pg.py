"""D4PG: one actor and a critic that foresees the distribution of its return (Barth-Maron et al. 2018)."""

from dataclasses import dataclass

from pipeline.models.agents.engine.course import Rewards
from pipeline.models.agents.engine.market import Market
from pipeline.models.agents.engine.networks import Critic, Policy, SoloCritic, Soloist
from pipeline.models.agents.engine.promise import Agent


@dataclass(kw_only=True, eq=False)
class D4PG(Agent):
    """One actor, whose action is the position; with risk_aversion above 0 it shuns what critic and tail fear."""

    hidden: list[int]  # units of each layer, of actor and critic alike

    def untrained(self, columns: int) -> tuple[Policy, Critic]:
        """Two perceptrons."""
        policy = Soloist(columns, hidden=self.hidden, clip=self.clip)
        return policy, SoloCritic(columns, hidden=self.hidden, clip=self.clip, atoms=self.atoms)

    def paid(self, market: Market) -> Rewards:
        """The market's reward."""
        return lambda before, done, actions: done.reward[:, None]
