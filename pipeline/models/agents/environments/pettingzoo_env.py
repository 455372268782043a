"""The multi-agent system's market as a PettingZoo environment (parallel API), for agents of your own."""

from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from pipeline.models.agents.engine.market_env import EpisodeState, MarketEnv
from pipeline.models.agents.engine.networks import limit_position
from pipeline.models.agents.engine.training import RewardFunction
from pipeline.models.agents.environments.gymnasium_env import OBSERVATION_BOUND
from pipeline.models.agents.marl import COORDINATOR, RISK_MANAGER, ROLES

Info = dict[str, Any]


class TeamEnv(ParallelEnv[str, np.ndarray, np.ndarray]):  # type: ignore[misc]
    """Five agents observe the market and the position held, act at once in [-1, 1], and get a reward each.

    The target position is the coordinator's action times the risk manager's limit, which is `min_position_limit` for
    an action of -1 and 1 for an action of 1. The traders' actions change their own rewards alone.
    """

    metadata = {"name": "team_trading_v0", "render_modes": []}

    def __init__(self, market: MarketEnv, *, reward_function: RewardFunction, min_position_limit: float) -> None:
        """Episodes start at rows of `market`; `reward_function` is the result of `make_team_rewards`."""
        self.market, self.reward_function, self.min_position_limit = market, reward_function, min_position_limit
        self.possible_agents = list(ROLES)
        self.agents: list[str] = []
        shape = (len(market.columns),)
        self._observation_space = spaces.Box(-OBSERVATION_BOUND, OBSERVATION_BOUND, shape, np.float32)
        self._action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self._rng = np.random.default_rng()
        self._state: EpisodeState | None = None

    def observation_space(self, agent: str) -> spaces.Space[np.ndarray]:
        """Return the space of observations, the same for all agents."""
        return self._observation_space

    def action_space(self, agent: str) -> spaces.Space[np.ndarray]:
        """Return the space of actions, the same for all agents."""
        return self._action_space

    def reset(
        self, seed: int | None = None, options: Info | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Info]]:
        """Start an episode without a position, at a row drawn uniformly or at `options["row"]`."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        given = (options or {}).get("row")
        row = self._rng.choice(self.market.rows) if given is None else given
        if row not in self.market.rows:
            raise ValueError(f"row {row} is not among the market's {len(self.market.rows)} rows")
        self._state, self.agents = self.market.start_episodes(np.array([row], dtype=np.int64)), list(ROLES)
        return self._observe(self._state), {role: {"row": int(row)} for role in ROLES}

    def step(
        self, actions: dict[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, bool], dict[str, bool], dict[str, Info]]:
        """Advance one bar with an action (1,) of every role."""
        if self._state is None or not self.agents:
            raise ValueError("step before reset, or after an episode is over; call reset() first")
        before, joint = self._state, _join_actions(actions)
        target = joint[:, COORDINATOR] * limit_position(joint[:, RISK_MANAGER], self.min_position_limit)
        step = self.market.step(before, target)
        rewards = self.reward_function(before, step, joint)[0]
        self._state = step.state
        is_terminated, is_truncated = bool(step.terminated[0]), bool(step.truncated[0])
        if is_terminated or is_truncated:
            self.agents = []
        info = {"row": int(before.row[0]), "position": float(step.position[0])}
        info |= {"net": float(step.net[0]), "equity": float(step.state.equity[0])}
        return (
            self._observe(step.state),
            dict(zip(ROLES, rewards.tolist(), strict=True)),
            dict.fromkeys(ROLES, is_terminated),
            dict.fromkeys(ROLES, is_truncated),
            {role: dict(info) for role in ROLES},
        )

    def _observe(self, state: EpisodeState) -> dict[str, np.ndarray]:
        """Return a copy of the observation for every role."""
        seen = self.market.observe(state)[0]
        return {role: seen.copy() for role in ROLES}


def _join_actions(actions: dict[str, np.ndarray]) -> np.ndarray:
    """Return (1, roles) float32 actions, clipped; raise ValueError where one is missing or not finite."""
    if missing := sorted(set(ROLES) - set(actions)):
        raise ValueError(f"no action of {missing}; every role acts at each step")
    joint = np.array([[np.asarray(actions[role]).item() for role in ROLES]], dtype=np.float32)
    if not np.isfinite(joint).all():
        given = dict(zip(ROLES, joint[0].tolist(), strict=True))
        raise ValueError(f"actions are {given}; each must be a finite number in [-1, 1]")
    return joint.clip(-1, 1)
