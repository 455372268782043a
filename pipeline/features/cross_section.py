"""Columns of a symbol among all: the market's return, the rank of its own, and its beta, from bars of one open time.

A symbol takes part in the columns of an open time if it has that bar: no later bar is read, and a missing bar is not
filled. `compute_columns` takes a table of all symbols, `Stream` the closes of one open time after another; both
pass them to one compiled update, so that their values agree in every bit.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numba
import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.features import registry
from pipeline.features.elementary import fill_log
from pipeline.features.rolling import Floats, Floats32, Integers, compile_kernel
from pipeline.features.windows import LongWindow, Windows
from pipeline.row_groups import TableFile

GROUP = "cross_section"  # of the columns, and their key in a features block
STILL = 1e-12  # standard deviation of log returns below which a market has not moved: some roundings of a price


@dataclass(frozen=True, kw_only=True)
class CrossSection:
    """The windows of the columns, in bars."""

    windows: Windows  # of returns
    beta_window: LongWindow

    @property
    def warm_up_bars(self) -> dict[str, int]:
        """The number of bars at a segment's start without a value, by column, in the order of the columns."""
        of_returns = {f"{name}_{n}": n for n in self.windows for name in ("market_return", "return_rank")}
        return {**of_returns, f"market_beta_{self.beta_window}": self.beta_window}

    @property
    def meanings(self) -> dict[str, str]:
        """The definition of each column, in the order of the columns; symbols are those with a bar at that time."""
        of_returns = {}
        for n in self.windows:
            of_returns[f"market_return_{n}"] = f"mean log return over {n} bars of all symbols, this one included"
            of_returns[f"return_rank_{n}"] = (
                f"rank of the own log return over {n} bars among all symbols': 0 the lowest, 1 the highest, ties their "
                "middle, 0.5 alone"
            )
        beta = f"slope of the own log returns of one bar on market_return_1 over {self.beta_window} bars; 0 without one"
        return {**of_returns, f"market_beta_{self.beta_window}": beta}


Bytes = npt.NDArray[np.int8]
State = tuple[Integers, Floats, Floats, Floats]  # by symbol: bars of its segment; rings of levels, moves, the market's
Advance = Callable[[Integers, State, Integers, Floats, Floats32], None]
Sweep = Callable[..., Floats32]
STATE_NAMES = ("bars", "levels", "moves", "market_moves")


def make_state(params: CrossSection, symbols: int) -> State:
    """Return the state of (S,) symbols before the first bar."""
    levels = np.zeros((symbols, max(params.windows) + 1))
    moves, market = np.zeros((2, symbols, params.beta_window))
    return np.zeros(symbols, np.int64), levels, moves, market


@compile_kernel
def update(windows: Integers, state: State, present: Integers, level: Floats, out: Floats32) -> None:
    """Fill `out` (P, C) with the columns of the symbols `present` (P,), ascending, whose log closes are `level` (P,).

    A column is NaN while its symbol warms up.
    """
    bars, levels, moves, market = state
    held, n_beta = levels.shape[1], moves.shape[1]
    move = np.empty(len(present))
    for p, symbol in enumerate(present):
        bars[symbol] += 1
        levels[symbol, bars[symbol] % held] = level[p]
    for w in range(len(windows)):
        mean, ranked = average_moves(windows[w], bars, levels, present, level, move)
        for p in range(len(present)):
            known = not np.isnan(move[p])
            out[p, 2 * w] = mean if known else np.nan
            out[p, 2 * w + 1] = find_rank(ranked, move[p]) if known else np.nan
    mean, _ = average_moves(1, bars, levels, present, level, move)
    for p, symbol in enumerate(present):
        if bars[symbol] > 1:
            place = bars[symbol] % n_beta
            moves[symbol, place], market[symbol, place] = move[p], mean
        is_full = bars[symbol] > n_beta
        out[p, 2 * len(windows)] = estimate_beta(moves[symbol], market[symbol]) if is_full else np.nan


@compile_kernel
def average_moves(
    n: int, bars: Integers, levels: Floats, present: Integers, level: Floats, move: Floats
) -> tuple[float, Floats]:
    """Fill `move` (P,) with log returns over n bars, NaN where a segment is shorter; return their mean, and sorted."""
    total, count, held = 0.0, 0, levels.shape[1]
    known = np.empty(len(present))
    for p, symbol in enumerate(present):
        if bars[symbol] > n:
            move[p] = level[p] - levels[symbol, (bars[symbol] - n) % held]
            total += move[p]
            known[count] = move[p]
            count += 1
        else:
            move[p] = np.nan
    return total / count if count else np.nan, np.sort(known[:count])


@compile_kernel
def find_rank(ranked: Floats, move: float) -> float:
    """Return the place of a move among the sorted ones: 0 the lowest, 1 the highest, ties their middle, 0.5 alone."""
    if len(ranked) == 1:
        return 0.5
    below, not_above = np.searchsorted(ranked, move), np.searchsorted(ranked, move, side="right")
    return float(below + not_above - 1) / (2.0 * (len(ranked) - 1))


@compile_kernel
def estimate_beta(moves: Floats, market: Floats) -> float:
    """Return the slope of moves on the market's over both windows; 0 where the market has not moved."""
    own_mean, market_mean, n = 0.0, 0.0, len(moves)
    for i in range(n):
        own_mean += moves[i]
        market_mean += market[i]
    own_mean, market_mean, covariance, variance = own_mean / n, market_mean / n, 0.0, 0.0
    for i in range(n):
        covariance += (moves[i] - own_mean) * (market[i] - market_mean)
        variance += (market[i] - market_mean) * (market[i] - market_mean)
    return covariance / variance if variance > n * STILL * STILL else 0.0


def _compile_advance() -> Advance:
    """Return the compiled update of closes, cached on disk; see `registry.hash_sources`."""
    sources = registry.hash_sources()

    @numba.njit(cache=True, error_model="numpy")
    def advance(windows: Integers, state: State, present: Integers, close: Floats, out: Floats32) -> None:
        _ = sources
        level = np.empty(len(close))
        fill_log(close, level)
        update(windows, state, present, level, out)

    return cast(Advance, advance)


def _compile_sweep() -> Sweep:
    """Return the compiled loop over a table, cached on disk."""
    sources = registry.hash_sources()

    @numba.njit(cache=True, error_model="numpy")
    def sweep(
        windows: Integers,
        state: State,
        starts: Integers,
        stops: Integers,
        time: Integers,
        close: Floats,
        begins: Bytes,
    ) -> Floats32:
        _ = sources
        runs, columns = len(starts), 2 * len(windows) + 1
        level, out = np.empty(len(close)), np.empty((columns, len(close)), np.float32)
        fill_log(close, level)
        row, present, now_level = starts.copy(), np.empty(runs, np.int64), np.empty(runs)
        now_out = np.empty((runs, columns), np.float32)
        while True:
            left = [time[row[s]] for s in range(runs) if row[s] < stops[s]]
            if len(left) == 0:
                return out
            now, count = min(left), 0
            for s in range(runs):
                if row[s] < stops[s] and time[row[s]] == now:
                    if begins[row[s]]:
                        state[0][s] = 0
                    present[count], now_level[count] = s, level[row[s]]
                    count += 1
            update(windows, state, present[:count], now_level[:count], now_out[:count])
            for p in range(count):
                for c in range(columns):
                    out[c, row[present[p]]] = now_out[p, c]
                row[present[p]] += 1

    return cast(Sweep, sweep)


advance = _compile_advance()
"""advance(windows, state, present, close, out) fills `out` (P, C) from the closes of one open time; see `update`."""
sweep = _compile_sweep()
"""sweep(windows, state, starts, stops, time, close, begins) returns (C, N) columns of rows in runs of ascending time.

It goes from one open time to the next. `begins` (N,) is 1 where a segment begins.
"""


def compute_columns(params: CrossSection, *, time_ms: Integers, close: Floats, segment_starts: Integers) -> Floats32:
    """Return (C, N) columns of bars that are sorted by symbol, then open time; NaN while a bar's segment warms up.

    `segment_starts` are the rows at which segments begin. Two symbols never share a run of ascending time, unless one
    ends before the other begins: then their segments divide it.
    """
    begins = np.zeros(len(time_ms), np.int8)
    begins[segment_starts] = 1
    starts = np.flatnonzero(np.append(True, time_ms[1:] <= time_ms[:-1])[: len(time_ms)])
    stops = np.append(starts[1:], len(time_ms))[: len(starts)]
    windows, state = np.array(params.windows), make_state(params, len(starts))
    return np.asarray(sweep(windows, state, starts, stops, time_ms, close, begins))


class BulkColumns:
    """The columns of a table of bars, computed at once: of any row they need those of the other symbols."""

    def __init__(
        self,
        params: CrossSection | None,
        bars: pd.DataFrame | TableFile,
        keys: pd.DataFrame,
        *,
        segment_starts: Integers,
    ) -> None:
        """Compute the columns, none where `params` is None; `keys` has the table's `open_time`."""
        self.warm_up_bars = params.warm_up_bars if params else {}
        self._values = np.empty((0, len(keys)), np.float32)
        if params and len(keys):
            table = bars.read(["close"]) if isinstance(bars, TableFile) else bars
            time_ms, close = keys["open_time"].to_numpy(np.int64), table["close"].to_numpy(np.float64)
            self._values = compute_columns(params, time_ms=time_ms, close=close, segment_starts=segment_starts)

    def take(self, rows: Integers) -> Floats32:
        """Return the columns (C, n) of some rows of the table."""
        return np.asarray(self._values[:, rows])


class Stream:
    """The columns of `compute_columns`, bit for bit, from the closes of all symbols at one open time after another."""

    def __init__(self, params: CrossSection, *, symbols: Sequence[str]) -> None:
        """Begin before the first bar; `symbols` are all that may take part, in any order."""
        self.columns = tuple(params.warm_up_bars)
        self._places = {symbol: place for place, symbol in enumerate(sorted(symbols))}
        self._windows, self._state = np.array(params.windows), make_state(params, len(symbols))

    def update(self, closes: Mapping[str, float], *, begin: Collection[str] = ()) -> dict[str, Floats32]:
        """Return each symbol's columns (C,) once all bars of an open time have closed; NaN while it warms up.

        `closes` has the symbols that have that bar; `begin` are those whose segment begins with it, as after a gap.
        """
        names, places = sorted(closes), self._places
        if unknown := [name for name in (*names, *begin) if name not in places]:
            raise ValueError(f"cross_section: {unknown[0]} is no symbol of this stream; it has {', '.join(places)}")
        present = np.array([places[name] for name in names], np.int64)
        close = np.array([closes[name] for name in names], np.float64)
        out = np.empty((len(names), len(self.columns)), np.float32)
        for name in begin:
            self._state[0][places[name]] = 0
        advance(self._windows, self._state, present, close, out)
        return dict(zip(names, out, strict=True))

    def state(self) -> dict[str, np.ndarray]:
        """Return a copy of all that later columns depend on; `restore` resumes from it."""
        return {name: array.copy() for name, array in zip(STATE_NAMES, self._state, strict=True)}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Resume from the `state` of a stream of the same windows and symbols; ValueError where its arrays differ."""
        found = [np.asarray(state.get(name)) for name in STATE_NAMES]
        if wrong := [name for name, a, b in zip(STATE_NAMES, found, self._state, strict=True) if a.shape != b.shape]:
            raise ValueError(
                f"state: {', '.join(wrong)} of the columns among symbols are missing or of another shape; restore what "
                "`state` of a stream with the same windows and symbols returned"
            )
        for own, given in zip(self._state, found, strict=True):
            own[:] = given
