"""The backtest of a policy, and its metrics: objective, turnover, and the violations of its value at risk."""

from dataclasses import asdict
from typing import Any

import numpy as np

from pipeline.models.agents.engine.hyperparameters import LearnerConfig
from pipeline.models.agents.engine.learner import forecast_var
from pipeline.models.agents.engine.loss_tail import discount_runs
from pipeline.models.agents.engine.market_env import MarketEnv
from pipeline.models.agents.engine.networks import Critic, Policy
from pipeline.models.agents.engine.rollout import Rollout
from pipeline.tail_risk import GpdTail, backtest_var
from pipeline.trading import trade_runs

SIGNIFICANCE = 0.05  # a joint p-value below rejects a value at risk


class PolicyBacktest:
    """A rollout over a market's rows, traded by the backtest."""

    def __init__(self, env: MarketEnv, rollout: Rollout, *, move_std: float, gamma: float) -> None:
        """Trade the rollout's targets; `move_std` is the standard deviation of a bar's return, the unit of returns."""
        self.env, self.rollout, self.move_std, self.gamma = env, rollout, move_std, gamma
        self.run_lengths = np.diff(env.runs, axis=1)[:, 0] + 1  # (R,) bars
        runs = np.repeat(np.arange(len(self.run_lengths)), self.run_lengths)
        self.result = trade_runs(rollout.target, env.fills.take(env.rows), runs, env.terms)

    @property
    def reward(self) -> np.ndarray:
        """(n,) net returns less the risk penalty, in standard deviations of a bar's return."""
        return np.asarray((self.result.net - self.env.config.risk_penalty * self.result.net**2) / self.move_std)

    def discount_rewards(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (S,) starts of windows and their (S,) discounted returns; see `discount_runs`."""
        return discount_runs(self.reward, self.run_lengths, gamma=self.gamma)

    def observe(self, indices: np.ndarray) -> np.ndarray:
        """Return (S, F + 3) float32, the observations at (S,) indices."""
        x = self.env.samples.x[self.env.rows[indices]]
        return np.concatenate([x, self.rollout.account[indices]], axis=1)

    def measure_loss(self, *, risk_aversion: float, var_level: float) -> float:
        """Return minus the objective per bar, in standard deviations of its move: -mean reward + λ · ES · (1 - γ).

        ES is the expected shortfall of realized discounted returns, scaled to a bar as the mean is.
        """
        mean = float(self.reward.mean())
        if not risk_aversion:
            return -mean
        _, returns = self.discount_rewards()
        if not len(returns):
            raise ValueError(
                f"no run of consecutive rows is as long as the horizon of gamma {self.gamma}; lower gamma, or give "
                "more rows"
            )
        return -mean + risk_aversion * measure_shortfall(returns, level=var_level) * (1 - self.gamma)

    def find_violations(
        self, policy: Policy, critic: Critic, *, config: LearnerConfig, tail: GpdTail | None
    ) -> np.ndarray:
        """Return (S,) bool: whether the loss of each window exceeded the value at risk forecast at its start."""
        starts, returns = self.discount_rewards()
        return -returns > forecast_var(policy, critic, self.observe(starts), config=config, tail=tail)

    def describe(self, violations: np.ndarray, *, var_level: float) -> dict[str, Any]:
        """Return the metrics of the backtest and of the (S,) `violations` of the value at risk, JSON-able."""
        var = backtest_var(violations, level=var_level)
        tested = {"var_violation_rate": var.violation_rate, "var_rejected": var.joint_p < SIGNIFICANCE}
        return {
            "var_backtest": asdict(var),
            **(tested if var.observations else {}),
            "turnover": float(self.result.turnover.mean()),
            "net_bps": float(self.result.net.mean()) * 1e4,
            "expected_shortfall_bps": measure_shortfall(self.result.net, level=var_level) * 1e4,
        }


def measure_shortfall(returns: np.ndarray, *, level: float) -> float:
    """Return the empirical expected shortfall: the mean loss of the worst 1 - level of returns (n,), at least one."""
    return -float(np.sort(returns)[: max(1, round((1 - level) * len(returns)))].mean())
