"""The trading environment, vectorized: many episodes step at once, as array operations over the rows of Samples."""

from dataclasses import dataclass

import numpy as np

from pipeline.models.agents.engine.hyperparameters import EnvironmentConfig
from pipeline.samples import Samples
from pipeline.trading import mark_accounts, step_accounts

POSITION_COLUMNS = ("position", "unrealized", "log_bars_since_entry")  # of an observation, after those of the samples
ACCOUNT = 3  # numbers: weight, unrealized return, and age of the position in rows


@dataclass(frozen=True, eq=False)
class EpisodeState:
    """The states of (E,) episodes, each before the decision of its row."""

    row: np.ndarray  # int64
    left: np.ndarray  # int64, decisions until the episode is truncated, this one included
    position: np.ndarray  # float64, weight that the row's order fills upon
    unrealized: np.ndarray  # float64, return before costs since the position's side was entered
    since: np.ndarray  # int64, rows since then; 0 while flat
    equity: np.ndarray  # float64, 1 at the start
    peak: np.ndarray  # float64, the highest equity so far
    recent: np.ndarray  # (E, lags, 4) float64, latest first: position after a row's fill, and the account before it

    @classmethod
    def start_flat(cls, row: np.ndarray, *, left: np.ndarray, lags: int) -> "EpisodeState":
        """Return episodes that start at (E,) rows without a position, and remember `lags` rows."""
        ones, zeros, recent = np.ones(len(row)), np.zeros(len(row)), np.zeros((len(row), lags, 1 + ACCOUNT))
        return cls(row, left, zeros, zeros, np.zeros(len(row), np.int64), ones, ones, recent)

    def replace_where(self, mask: np.ndarray, other: "EpisodeState") -> "EpisodeState":
        """Return these episodes, with those of `other` where the (E,) mask is true."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in EpisodeState.__dataclass_fields__)
        return EpisodeState(*(_choose(mask, theirs, own) for own, theirs in pairs))


@dataclass(frozen=True, eq=False)
class EnvStep:
    """The result of one decision in each of (E,) episodes."""

    state: (
        EpisodeState  # at the next row; at the end of a run the position is closed, and the last row is observed again
    )
    position: np.ndarray  # float64 in [-1, 1], weight after the row's fill
    reward: np.ndarray  # float64: the net return less the risk penalty
    net: np.ndarray  # float64, the backtest's net return
    terminated: np.ndarray  # bool: the maximum drawdown is reached
    truncated: np.ndarray  # bool: the rows or the episode's bars are used up


class MarketEnv:
    """Episodes over runs of consecutive bars among the given rows; none crosses a segment.

    The action at row i is the target position of the order that is decided when bar i closes. Fills, positions, costs
    and net returns are the backtest's: `trading.step_accounts`. A position that is open after the last row of a run is
    closed at the next fill. The price of an order's fill is not known when it is decided: an observation has the
    account as of the latest known fill, at the price of the row's close.
    """

    def __init__(self, samples: Samples, rows: np.ndarray, *, config: EnvironmentConfig, episode_bars: int) -> None:
        """Take the sorted rows (n,) of `samples`; an episode has at most `episode_bars` decisions.

        Raises ValueError where there is no row, rows are not in increasing order, or the samples have no fills.
        """
        if not len(rows) or (np.diff(rows) <= 0).any():
            raise ValueError(f"market of {len(rows)} rows; give at least one, in increasing order")
        if samples.fills is None:
            raise ValueError("market of samples without fills; give samples with the fills of their rows")
        self.samples, self.rows, self.config, self.episode_bars = samples, rows, config, episode_bars
        self.fills, self.terms = samples.fills, config.make_terms()
        self._lags = int(min(self.fills.lag[rows].max(), episode_bars))
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
        left = np.minimum(self.episode_bars, self._run_end[row] - row + 1)
        return EpisodeState.start_flat(row, left=left, lags=self._lags)

    def sample_episodes(self, num_envs: int, *, rng: np.random.Generator) -> EpisodeState:
        """Return episodes that start at rows drawn uniformly."""
        return self.start_episodes(rng.choice(self.rows, size=num_envs))

    def observe(self, state: EpisodeState) -> np.ndarray:
        """Return (E, F + 3) float32: the samples' columns, weight, unrealized return and ln(1 + rows held) as known."""
        back = self.fills.lag[state.row] - 1
        known = state.recent[np.arange(len(back)), np.minimum(back, self._lags - 1)]
        known = np.where((back < self._lags)[:, None], known, 0.0)
        half_spread = self.fills.half_spread[np.maximum(state.row - back - 1, 0)]  # of the latest known fill
        account = mark_accounts(known, self.fills.mark[state.row], half_spread, self.terms)
        account[:, 2] = np.log1p(account[:, 2])
        return np.concatenate([self.samples.x[state.row], account.astype(np.float32)], axis=1)

    def step(self, state: EpisodeState, target: np.ndarray) -> EnvStep:
        """Advance one bar with (E,) target positions, cut to [-1, 1]. Raise ValueError for one that is not finite."""
        if not np.isfinite(target).all():
            raise ValueError(f"target {target[~np.isfinite(target)][0]}; a position is a finite number in [-1, 1]")
        config, account = self.config, (state.position, state.unrealized, state.since)
        is_last = state.row == self._run_end[state.row]
        arrays = self.fills.list_arrays()
        position, net, following = step_accounts(
            target.astype(np.float64), account, arrays, state.row, is_last, self.terms
        )
        latest = np.stack([position, *account], axis=1)[:, None]
        recent = np.concatenate([latest, state.recent[:, :-1]], axis=1)
        equity = state.equity * (1 + net)
        peak = np.maximum(state.peak, equity)
        end = EpisodeState(
            row=np.where(is_last, state.row, state.row + 1),
            left=state.left - 1,
            position=following[0],
            unrealized=following[1],
            since=following[2],
            equity=equity,
            peak=peak,
            recent=_choose(is_last, np.zeros_like(recent), recent),
        )
        terminated = equity <= peak * (1 - config.max_drawdown)
        return EnvStep(
            end, position, net - config.risk_penalty * net**2, net, terminated, ~terminated & (end.left == 0)
        )


def _choose(mask: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return (E, …) the entries of `first` where the (E,) mask is true, and of `second` elsewhere."""
    return np.where(mask.reshape(-1, *[1] * (first.ndim - 1)), first, second)


def _find_run_ends(rows: np.ndarray, segment: np.ndarray) -> np.ndarray:
    """Return (N,) the last row of the run of consecutive `rows` of one segment that a row is in; -1 elsewhere."""
    ends = np.append((np.diff(rows) != 1) | (np.diff(segment[rows]) != 0), True)
    last = np.full(len(segment), -1, dtype=np.int64)
    run = np.concatenate([[0], np.cumsum(ends)[:-1]])
    last[rows] = rows[ends][run]
    return last
