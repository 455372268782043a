"""What a policy did on a market, and what that brought."""

import numpy as np

from pipeline.models.agents.engine.extremes import realised
from pipeline.models.agents.engine.market import Market
from pipeline.models.agents.engine.rollout import Rollout
from pipeline.trading import backtest


class Trial:
    """A policy rolled forward over a market's rows, and the backtest of what it wanted."""

    def __init__(self, market: Market, rollout: Rollout, *, unit: float, discount: float) -> None:
        """`unit` is the deviation of a bar's move, in which returns are measured."""
        self.market, self.rollout, self.unit, self.discount = market, rollout, unit, discount
        self.lengths = np.diff(market.runs, axis=1)[:, 0] + 1  # (R,) bars of each run
        runs = np.repeat(np.arange(len(self.lengths)), self.lengths)
        self.traded = backtest(rollout.target, runs, market.samples.move[market.rows], **market.costs, band=market.band)

    def returns(self) -> tuple[np.ndarray, np.ndarray]:
        """(S,) places at which stretches of bars begin, and the discounted rewards over them; see `realised`."""
        return realised(self.reward, self.lengths, discount=self.discount)

    @property
    def reward(self) -> np.ndarray:
        """(n,) net returns less their penalty, in deviations of a bar's move."""
        return np.asarray((self.traded.net - self.market.risk_penalty * self.traded.net**2) / self.unit)

    def seen(self, places: np.ndarray) -> np.ndarray:
        """(S, F + 3) float32: what was observed there."""
        x = self.market.samples.x[self.market.rows[places]]
        return np.concatenate([x, self.rollout.own[places]], axis=1)

    def loss(self, *, risk_aversion: float, level: float) -> float:
        """What the objective makes small: a bar's loss, in deviations of its move, and the risk that goes with it.

        The shortfall is that of discounted returns that came true, weighted as in the objective of an actor.
        """
        mean = float(self.reward.mean())
        if not risk_aversion:
            return -mean
        _, returns = self.returns()
        if not len(returns):
            raise ValueError(
                f"no run of consecutive rows is as long as a discount of {self.discount} reaches; lower it, or give "
                "more rows"
            )
        return -mean + risk_aversion * shortfall(returns, level=level) * (1 - self.discount)


def shortfall(returns: np.ndarray, *, level: float) -> float:
    """The mean loss of the worst 1 - level of (n,) returns, of one at least."""
    return -float(np.sort(returns)[: max(1, round((1 - level) * len(returns)))].mean())
