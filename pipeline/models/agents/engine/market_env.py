"""The trading environment, vectorized: many episodes step at once, as array operations over the rows of Samples."""

from dataclasses import dataclass

import numpy as np

from pipeline.models.agents.engine.hyperparameters import EnvironmentConfig
from pipeline.samples import Samples
from pipeline.trading import net_return, step_positions

POSITION_COLUMNS = ("position", "unrealized", "log_bars_since_entry")  # of an observation, after those of the samples


@dataclass(frozen=True, eq=False)
class EpisodeState:
    """The states of (E,) episodes, each before the decision of its row."""

    row: np.ndarray  # int64
    left: np.ndarray  # int64, decisions until the episode is truncated, this one included
    position: np.ndarray  # float64 in [-1, 1], held so far
    unrealized: np.ndarray  # float64, return before costs since the position's side was entered
    since: np.ndarray  # int64, bars since then; 0 while flat
    equity: np.ndarray  # float64, 1 at the start
    peak: np.ndarray  # float64, the highest equity so far

    @classmethod
    def start_flat(cls, row: np.ndarray, *, left: np.ndarray) -> "EpisodeState":
        """Return episodes that start at (E,) rows without a position."""
        ones = np.ones(len(row))
        zeros = np.zeros(len(row))
        return cls(row, left, zeros, zeros, np.zeros(len(row), np.int64), ones, ones)

    def replace_where(self, mask: np.ndarray, other: "EpisodeState") -> "EpisodeState":
        """Return these episodes, with those of `other` where the (E,) mask is true."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in EpisodeState.__dataclass_fields__)
        return EpisodeState(*(np.where(mask, theirs, own) for own, theirs in pairs))


@dataclass(frozen=True, eq=False)
class EnvStep:
    """The result of one decision in each of (E,) episodes."""

    state: EpisodeState  # after the bar; at the end of a run the position is closed, and the last row is observed again
    position: np.ndarray  # float64 in [-1, 1], held over the bar
    reward: np.ndarray  # float64: the net return less the risk penalty
    net: np.ndarray  # float64, the backtest's net return
    terminated: np.ndarray  # bool: the maximum drawdown is reached
    truncated: np.ndarray  # bool: the rows or the episode's bars are used up


class MarketEnv:
    """Episodes over runs of consecutive bars among the given rows; none crosses a segment.

    The action at row i is the target position over the next bar, which moves by `move[i]`. Positions, costs and net
    returns are the backtest's: `trading.apply_no_trade_band` and `trading.net_return`. A position that is open after
    the last bar of a run is closed there.
    """

    def __init__(self, samples: Samples, rows: np.ndarray, *, config: EnvironmentConfig, episode_bars: int) -> None:
        """Take the sorted rows (n,) of `samples`; an episode has at most `episode_bars` decisions.

        Raises ValueError where there is no row, or rows are not in increasing order.
        """
        if not len(rows) or (np.diff(rows) <= 0).any():
            raise ValueError(f"market of {len(rows)} rows; give at least one, in increasing order")
        self.samples, self.rows, self.config, self.episode_bars = samples, rows, config, episode_bars
        self._run_end = _find_run_ends(rows, samples.segment)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of an observation's columns."""
        return (*self.samples.columns, *POSITION_COLUMNS)

    @property
    def runs(self) -> np.ndarray:
        """(R, 2) the first and the last row of each run of consecutive bars."""
        last = np.unique(self._run_end[self.rows])
        first = np.append(self.rows[0], self.rows[np.searchsorted(self.rows, last[:-1]) + 1])
        return np.stack([first, last], axis=1)

    def start_episodes(self, row: np.ndarray) -> EpisodeState:
        """Return episodes that start flat at (E,) of the market's rows."""
        return EpisodeState.start_flat(row, left=np.minimum(self.episode_bars, self._run_end[row] - row + 1))

    def sample_episodes(self, num_envs: int, *, rng: np.random.Generator) -> EpisodeState:
        """Return episodes that start at rows drawn uniformly."""
        return self.start_episodes(rng.choice(self.rows, size=num_envs))

    def observe(self, state: EpisodeState) -> np.ndarray:
        """Return (E, F + 3) float32: the samples' columns, position, unrealized return and ln(1 + bars held)."""
        account = np.stack([state.position, state.unrealized, np.log1p(state.since)], axis=1)
        return np.concatenate([self.samples.x[state.row], account.astype(np.float32)], axis=1)

    def step(self, state: EpisodeState, target: np.ndarray) -> EnvStep:
        """Advance one bar with (E,) target positions, cut to [-1, 1]. Raise ValueError for one that is not finite."""
        if not np.isfinite(target).all():
            raise ValueError(f"target {target[~np.isfinite(target)][0]}; a position is a finite number in [-1, 1]")
        config, move = self.config, self.samples.move[state.row]
        position, unrealized, since = step_positions(
            target.astype(np.float64), state.position, state.unrealized, state.since, move, config.no_trade_band
        )
        net = np.asarray(net_return(position, state.position, move, **config.costs))
        is_last = state.row == self._run_end[state.row]
        net = net + np.where(is_last, net_return(0.0, position, 0.0, **config.costs), 0.0)
        equity = state.equity * (1 + net)
        peak = np.maximum(state.peak, equity)
        end = EpisodeState(
            row=np.where(is_last, state.row, state.row + 1),
            left=state.left - 1,
            position=np.where(is_last, 0.0, position),
            unrealized=np.where(is_last, 0.0, unrealized),
            since=np.where(is_last, 0, since),
            equity=equity,
            peak=peak,
        )
        terminated = equity <= peak * (1 - config.max_drawdown)
        return EnvStep(
            end, position, net - config.risk_penalty * net**2, net, terminated, ~terminated & (end.left == 0)
        )


def _find_run_ends(rows: np.ndarray, segment: np.ndarray) -> np.ndarray:
    """Return (N,) the last row of the run of consecutive `rows` of one segment that a row is in; -1 elsewhere."""
    ends = np.append((np.diff(rows) != 1) | (np.diff(segment[rows]) != 0), True)
    last = np.full(len(segment), -1, dtype=np.int64)
    run = np.concatenate([[0], np.cumsum(ends)[:-1]])
    last[rows] = rows[ends][run]
    return last
