"""The market as an environment: many episodes step at once, as array operations over the rows of Samples."""

from dataclasses import dataclass

import numpy as np

from pipeline.samples import Samples
from pipeline.trading import after_all, net_return

OWN = ("position", "unrealised", "log_bars_since_entry")  # what an observation has after the columns of the samples


@dataclass(frozen=True, eq=False)
class State:
    """Where (E,) episodes stand, each before its row's decision."""

    row: np.ndarray  # int64
    left: np.ndarray  # int64, decisions until the episode is cut off, this one included
    position: np.ndarray  # float64 in [-1, 1], held so far
    unrealised: np.ndarray  # float64, what the position has earned before costs since it was entered
    since: np.ndarray  # int64, bars since then; 0 while there is none
    equity: np.ndarray  # float64, 1 at the beginning
    peak: np.ndarray  # float64, the highest equity so far

    @classmethod
    def flat(cls, row: np.ndarray, *, left: np.ndarray) -> "State":
        """Episodes that begin at (E,) rows with nothing held."""
        ones = np.ones(len(row))
        zeros = np.zeros(len(row))
        return cls(row, left, zeros, zeros, np.zeros(len(row), np.int64), ones, ones)

    def where(self, mask: np.ndarray, other: "State") -> "State":
        """These episodes, but `other`'s where the (E,) mask is true."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in State.__dataclass_fields__)
        return State(*(np.where(mask, theirs, own) for own, theirs in pairs))


@dataclass(frozen=True, eq=False)
class Step:
    """What a decision brought to each of (E,) episodes."""

    state: State  # after the bar; at the end of a run all is closed, and its last row is seen again
    position: np.ndarray  # float64 in [-1, 1], held over the bar
    reward: np.ndarray  # float64: the net return less the penalty of risk
    net: np.ndarray  # float64, the net return of the backtest
    terminated: np.ndarray  # bool: ruined
    truncated: np.ndarray  # bool: out of rows, or of time


class Market:
    """Episodes over stretches of consecutive bars among the rows given; none crosses into another segment.

    A decision at row i is the position wanted over the bar after it, which moves by `move[i]`; it is held, and earns,
    as the backtest says: `trading.follow` and `trading.net_return`. What is open after a stretch's last bar is closed
    there.
    """

    def __init__(
        self,
        samples: Samples,
        rows: np.ndarray,
        *,
        fee_bps: float,
        slippage_bps: float,
        band: float,
        risk_penalty: float,
        drawdown_limit: float,
        episode_bars: int,
    ) -> None:
        """`rows` are (n,) sorted rows of `samples`; an episode has at most `episode_bars` decisions.

        Raises ValueError for rows that are not sorted or none, and for numbers that no episode can go by.
        """
        if not len(rows) or (np.diff(rows) <= 0).any():
            raise ValueError(f"market of {len(rows)} rows; give at least one, in increasing order")
        for name, value, is_fine, wanted in (
            ("fee_bps", fee_bps, fee_bps >= 0, "at least 0"),
            ("slippage_bps", slippage_bps, slippage_bps >= 0, "at least 0"),
            ("band", band, 0 <= band < 1, "at least 0 and below 1"),
            ("risk_penalty", risk_penalty, risk_penalty >= 0, "at least 0"),
            ("drawdown_limit", drawdown_limit, 0 < drawdown_limit <= 1, "above 0 and at most 1"),
            ("episode_bars", episode_bars, episode_bars >= 1, "at least 1"),
        ):
            if not is_fine:
                raise ValueError(f"market: {name} is {value}; it must be {wanted}")
        self.samples, self.rows = samples, rows
        self.costs, self.band = {"fee_bps": fee_bps, "slippage_bps": slippage_bps}, band
        self.risk_penalty, self.drawdown_limit, self.episode_bars = risk_penalty, drawdown_limit, episode_bars
        self._last = _last_of_run(rows, samples.segment)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of what an observation holds."""
        return (*self.samples.columns, *OWN)

    def begin(self, row: np.ndarray) -> State:
        """Episodes that begin flat at (E,) of the market's rows."""
        return State.flat(row, left=np.minimum(self.episode_bars, self._last[row] - row + 1))

    @property
    def runs(self) -> np.ndarray:
        """(R, 2) the first and the last row of each stretch of consecutive bars."""
        last = np.unique(self._last[self.rows])
        first = np.append(self.rows[0], self.rows[np.searchsorted(self.rows, last[:-1]) + 1])
        return np.stack([first, last], axis=1)

    def drawn(self, count: int, *, rng: np.random.Generator) -> State:
        """As many episodes, each beginning at one of the rows drawn evenly."""
        return self.begin(rng.choice(self.rows, size=count))

    def observe(self, state: State) -> np.ndarray:
        """(E, F + 3) float32: the columns as they are, then the position, what it has earned, and ln(1 + its bars)."""
        own = np.stack([state.position, state.unrealised, np.log1p(state.since)], axis=1)
        return np.concatenate([self.samples.x[state.row], own.astype(np.float32)], axis=1)

    def step(self, state: State, target: np.ndarray) -> Step:
        """One bar with (E,) target positions, cut to [-1, 1]. Raises ValueError for one that is not finite."""
        if not np.isfinite(target).all():
            raise ValueError(f"target {target[~np.isfinite(target)][0]}; a position is a number in [-1, 1]")
        move = self.samples.move[state.row]
        position, unrealised, since = after_all(
            target.astype(np.float64), state.position, state.unrealised, state.since, move, self.band
        )
        net = np.asarray(net_return(position, state.position, move, **self.costs))
        is_last = state.row == self._last[state.row]
        net = net + np.where(is_last, net_return(0.0, position, 0.0, **self.costs), 0.0)
        equity = state.equity * (1 + net)
        peak = np.maximum(state.peak, equity)
        end = State(
            row=np.where(is_last, state.row, state.row + 1),
            left=state.left - 1,
            position=np.where(is_last, 0.0, position),
            unrealised=np.where(is_last, 0.0, unrealised),
            since=np.where(is_last, 0, since),
            equity=equity,
            peak=peak,
        )
        terminated = equity <= peak * (1 - self.drawdown_limit)
        return Step(end, position, net - self.risk_penalty * net**2, net, terminated, ~terminated & (end.left == 0))


def _last_of_run(rows: np.ndarray, segment: np.ndarray) -> np.ndarray:
    """(N,) the last row of the stretch of consecutive `rows` of one segment that a row stands in; -1 elsewhere."""
    ends = np.append((np.diff(rows) != 1) | (np.diff(segment[rows]) != 0), True)
    last = np.full(len(segment), -1, dtype=np.int64)
    run = np.concatenate([[0], np.cumsum(ends)[:-1]])
    last[rows] = rows[ends][run]
    return last
