"""The market as a Gymnasium environment, one episode at a time, for agents of your own."""

from typing import Any

import gymnasium
import numpy as np

from pipeline.models.agents.engine.market_env import EpisodeState, MarketEnv

OBSERVATION_BOUND = float(np.finfo(np.float32).max)


class TradingEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """The action is the target position in [-1, 1]; the reward is the backtest's net return less the risk penalty."""

    metadata = {"render_modes": []}

    def __init__(self, market: MarketEnv) -> None:
        """Episodes start at rows of `market`."""
        self.market = market
        shape = (len(market.columns),)
        self.observation_space = gymnasium.spaces.Box(-OBSERVATION_BOUND, OBSERVATION_BOUND, shape, np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self._state: EpisodeState | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode without a position, at a row drawn uniformly or at `options["row"]`."""
        super().reset(seed=seed)
        given = (options or {}).get("row")
        row = self.np_random.choice(self.market.rows) if given is None else given
        if row not in self.market.rows:
            raise ValueError(f"row {row} is not among the market's {len(self.market.rows)} rows")
        self._state = self.market.start_episodes(np.array([row], dtype=np.int64))
        return self.market.observe(self._state)[0], {"row": int(row)}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Advance one bar with the target position `action`, (1,)."""
        if self._state is None:
            raise ValueError("step before reset, or after an episode is over; call reset() first")
        row, step = int(self._state.row[0]), self.market.step(self._state, np.asarray(action, dtype=np.float64))
        self._state = None if step.terminated[0] or step.truncated[0] else step.state
        info = {"row": row, "position": float(step.position[0])}
        info |= {"net": float(step.net[0]), "equity": float(step.state.equity[0])}
        observation = self.market.observe(step.state)[0]
        return observation, float(step.reward[0]), bool(step.terminated[0]), bool(step.truncated[0]), info
