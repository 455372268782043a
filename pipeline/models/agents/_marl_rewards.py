"""The rewards of the multi-agent system's roles: the market's, shaped by the regime that each role is meant for."""

from dataclasses import dataclass

import numpy as np

from pipeline.models.agents._marl_policy import NUM_TRADERS, RISK_MANAGER, ROLES
from pipeline.models.agents.engine.market_env import EnvStep, EpisodeState, MarketEnv
from pipeline.models.agents.engine.training import RewardFunction
from pipeline.trading import apply_no_trade_band, net_return

LEAST_PATH = 1e-15  # sum of |moves| below which nothing has moved


@dataclass(frozen=True, kw_only=True)
class TeamRewardConfig:
    """The terms by which the roles' rewards differ from the market's."""

    reward_shaping: float  # weight of a trader's own net return
    downside_penalty: float  # of the risk manager: times the square of a loss, in standard deviations of a bar's move
    trend_window: int  # bars of the efficiency ratio of trend follower and mean reverter
    momentum_window: int  # bars of the momentum trader's


def make_team_rewards(env: MarketEnv, config: TeamRewardConfig, *, move_std: float) -> RewardFunction:
    """Return the function of each role's reward, R being the market's.

    - trend follower: R + reward_shaping · e · p, p the net return that its own action as target position would have
      earned from the position held, e the efficiency ratio of the last `trend_window` bars
    - mean reverter: R + reward_shaping · (1 - e) · p
    - momentum trader: R + reward_shaping · (the efficiency ratio of the last `momentum_window` bars) · p
    - risk manager: R - downside_penalty · min(R, 0)² / move_std
    - coordinator: R
    """
    windows = (config.trend_window, config.momentum_window)
    trend, momentum = (measure_efficiency(env, window=window) for window in windows)
    regimes = np.stack([trend, 1 - trend, momentum], axis=1)  # (n, traders)

    def reward_roles(before: EpisodeState, step: EnvStep, actions: np.ndarray) -> np.ndarray:
        held, move = before.position[:, None], env.samples.move[before.row][:, None]
        proposed = apply_no_trade_band(actions[:, :NUM_TRADERS].astype(np.float64), held, env.config.no_trade_band)
        earned = net_return(proposed, held, move, **env.config.costs)  # (E, traders)
        rewards = np.repeat(step.reward[:, None], len(ROLES), axis=1)
        rewards[:, :NUM_TRADERS] += config.reward_shaping * regimes[np.searchsorted(env.rows, before.row)] * earned
        rewards[:, RISK_MANAGER] -= config.downside_penalty * np.minimum(step.reward, 0.0) ** 2 / move_std
        return rewards

    return reward_roles


def measure_efficiency(env: MarketEnv, *, window: int) -> np.ndarray:
    """Return (n,) the efficiency ratio in [0, 1] at each of a market's rows: |sum of moves| / sum of |moves|.

    Kaufman 1995, over the last `window` moves known at the row, fewer at the start of a run; 0 where none is known or
    nothing moved.
    """
    move, ratio = env.samples.move, np.zeros(len(env.rows))
    for first, last in env.runs:
        known = np.concatenate([[0.0], move[first:last]])  # at row i the latest known move is that of the bar before
        sums = np.stack([np.cumsum(known), np.cumsum(np.abs(known))])
        sums[:, window:] -= sums[:, :-window].copy()
        start = np.searchsorted(env.rows, first)
        net, path = np.abs(sums[0]), sums[1]
        ratio[start : start + len(known)] = np.divide(net, path, out=np.zeros_like(net), where=path > LEAST_PATH)
    return ratio.clip(0.0, 1.0)
