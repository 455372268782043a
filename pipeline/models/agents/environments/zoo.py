"""The team's market by PettingZoo's parallel contract: for whoever brings agents of their own."""

from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from pipeline.models.agents.engine.course import Rewards
from pipeline.models.agents.engine.market import Market, State
from pipeline.models.agents.engine.networks import limit
from pipeline.models.agents.engine.team import COORDINATOR, RISK, ROLES
from pipeline.models.agents.environments.gym import LARGEST

Told = dict[str, Any]


class TeamEnv(ParallelEnv[str, np.ndarray, np.ndarray]):  # type: ignore[misc]
    """All five see the market and the position held, act at once by a number in [-1, 1], and are paid each its own.

    The position wanted is the coordinator's action times the risk manager's limit, which goes from `floor`, for an
    action of -1, to 1; what the traders propose moves nothing but their own pay.
    """

    metadata = {"name": "team_trading_v0", "render_modes": []}

    def __init__(self, market: Market, *, rewards: Rewards, floor: float) -> None:
        """Episodes begin at rows of `market`; `rewards` is what `team.paid` gives."""
        self.market, self.rewards, self.floor = market, rewards, floor
        self.possible_agents = list(ROLES)
        self.agents: list[str] = []
        self._spaces = (
            spaces.Box(-LARGEST, LARGEST, (len(market.columns),), np.float32),
            spaces.Box(-1.0, 1.0, (1,), np.float32),
        )
        self._rng = np.random.default_rng()
        self._state: State | None = None

    def observation_space(self, agent: str) -> spaces.Space[np.ndarray]:
        """The same for all."""
        return self._spaces[0]

    def action_space(self, agent: str) -> spaces.Space[np.ndarray]:
        """The same for all."""
        return self._spaces[1]

    def reset(
        self, seed: int | None = None, options: Told | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Told]]:
        """An episode begins flat, at a row drawn evenly or at `options["row"]`."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        given = (options or {}).get("row")
        row = self._rng.choice(self.market.rows) if given is None else given
        if row not in self.market.rows:
            raise ValueError(f"row {row} is none of the market's {len(self.market.rows)} rows")
        self._state, self.agents = self.market.begin(np.array([row], dtype=np.int64)), list(ROLES)
        return self._observed(), {role: {"row": int(row)} for role in ROLES}

    def step(
        self, actions: dict[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, bool], dict[str, bool], dict[str, Told]]:
        """One bar, with an action (1,) of every role."""
        if self._state is None or not self.agents:
            raise ValueError("step before reset, or after an episode is over; an episode begins with reset()")
        if missing := sorted(set(ROLES) - set(actions)):
            raise ValueError(f"no action of {missing}; every role acts at each step")
        acted = np.array([[np.asarray(actions[role]).item() for role in ROLES]], dtype=np.float32)  # (1, 5)
        if not np.isfinite(acted).all():
            told = dict(zip(ROLES, acted[0].tolist(), strict=True))
            raise ValueError(f"actions are {told}; each is a number in [-1, 1]")
        acted = acted.clip(-1, 1)
        before, wanted = self._state, acted[:, COORDINATOR] * limit(acted[:, RISK], self.floor)
        done = self.market.step(before, wanted)
        paid = self.rewards(before, done, acted)[0]
        self._state = done.state
        is_terminated, is_truncated = bool(done.terminated[0]), bool(done.truncated[0])
        if is_terminated or is_truncated:
            self.agents = []
        told = {"row": int(before.row[0]), "position": float(done.position[0])}
        told |= {"net": float(done.net[0]), "equity": float(done.state.equity[0])}
        return (
            self._observed(),
            dict(zip(ROLES, paid.tolist(), strict=True)),
            dict.fromkeys(ROLES, is_terminated),
            dict.fromkeys(ROLES, is_truncated),
            {role: dict(told) for role in ROLES},
        )

    def _observed(self) -> dict[str, np.ndarray]:
        assert self._state is not None
        seen = self.market.observe(self._state)[0]
        return {role: seen.copy() for role in ROLES}
