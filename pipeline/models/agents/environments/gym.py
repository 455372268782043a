"""One episode at a time, by Gymnasium's contract: the same market, for whoever brings an agent of their own."""

from typing import Any

import gymnasium
import numpy as np

from pipeline.models.agents.engine.market import Market, State

LARGEST = float(np.finfo(np.float32).max)


class TradingEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """A position in [-1, 1] is chosen at each bar's close; the reward is the backtest's net return less its penalty."""

    metadata = {"render_modes": []}

    def __init__(self, market: Market) -> None:
        """Episodes begin at rows of `market`."""
        self.market = market
        self.observation_space = gymnasium.spaces.Box(-LARGEST, LARGEST, (len(market.columns),), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self._state: State | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """An episode begins flat, at a row drawn evenly or at `options["row"]`."""
        super().reset(seed=seed)
        given = (options or {}).get("row")
        row = self.np_random.choice(self.market.rows) if given is None else given
        if row not in self.market.rows:
            raise ValueError(f"row {row} is none of the market's {len(self.market.rows)} rows")
        self._state = self.market.begin(np.array([row], dtype=np.int64))
        return self.market.observe(self._state)[0], {"row": int(row)}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One bar with the position of `action`, (1,)."""
        if self._state is None:
            raise ValueError("step before reset, or after an episode is over; an episode begins with reset()")
        row, done = int(self._state.row[0]), self.market.step(self._state, np.asarray(action, dtype=np.float64))
        self._state = None if done.terminated[0] or done.truncated[0] else done.state
        told = {"row": row, "position": float(done.position[0])}
        told |= {"net": float(done.net[0]), "equity": float(done.state.equity[0])}
        observation = self.market.observe(done.state)[0]
        return observation, float(done.reward[0]), bool(done.terminated[0]), bool(done.truncated[0]), told
