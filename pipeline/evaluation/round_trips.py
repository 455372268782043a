"""The round trips of a backtest: from the fill that opens a position to the fill that closes or reverses it."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from numba import njit

from pipeline.evaluation.portfolio import PortfolioResult

HOUR_MS = 3_600_000


def list_round_trips(
    result: PortfolioResult, *, to_ms: Callable[[np.ndarray], np.ndarray] = np.asarray
) -> pd.DataFrame:
    """Return one record for each round trip, by symbol and time.

    A trip starts where a position leaves flat or changes side. It ends where the position is flat or has changed side.
    The cost of a reversal is split in proportion to what it closes and what it opens, so that the amounts of all trips
    add up to those of the backtest. Amounts are fractions of the whole capital at their row, summed over the rows:

    - symbol; side: +1 or -1; bars: rows that hold the position
    - entry_time, exit_time: ms, of the rows whose orders open and close it. What is held at the end is closed one step
      after the last row.
    - gross, cost, interest, net: net is gross less cost and interest
    - adverse_excursion, favorable_excursion: lowest and highest of the cumulated gross at the fills, and of 0
    - crosses_gap: whether it was held while bars were missing

    Args:
        result: a backtest of symbols on one clock.
        to_ms: the instants, in ms, of times of the clock.
    """
    back, symbols = result.backtest, len(result.symbols)
    rows = len(result.time)
    side = np.sign(back.position).T.astype(np.int8)  # (S, T): flat is exactly 0
    before = np.column_stack([np.zeros((symbols, 1), np.int8), side[:, :-1]])
    starts = (side != 0) & (side != before)
    trip = np.cumsum(starts.ravel()) - 1  # (S * T,) number of the latest trip to start
    is_held, count = side.ravel() != 0, int(starts.sum())
    closing = _split_costs(result)  # (T, S)

    def add_up(amount: np.ndarray) -> np.ndarray:
        return np.bincount(trip[is_held], weights=amount.T.ravel()[is_held], minlength=count)[:count]

    first = np.flatnonzero(starts.ravel())
    bars = np.bincount(trip[is_held], minlength=count)[:count]
    row = first % rows if rows else first
    ends = row + bars  # the row that closes the trip; one after the last row at the end
    symbol = first // rows if rows else first
    closed = np.append(closing, np.zeros((1, symbols)), axis=0)[ends, symbol]
    gross, cost, interest = add_up(back.gross), add_up(back.cost - closing) + closed, add_up(back.interest)
    adverse, favorable = _measure_excursions(back.gross, row, ends, symbol)
    instants = _extend_by_a_step(to_ms(result.time))
    return pd.DataFrame(
        {
            "symbol": np.asarray(result.symbols, object)[symbol],
            "side": side.ravel()[first],
            "entry_time": instants[row],
            "exit_time": instants[ends],
            "bars": bars,
            "gross": gross,
            "cost": cost,
            "interest": interest,
            "net": gross - cost - interest,
            "adverse_excursion": adverse,
            "favorable_excursion": favorable,
            "crosses_gap": add_up(result.crosses_gap) > 0,
        }
    )


def _split_costs(result: PortfolioResult) -> np.ndarray:
    """Return (T, S) the part of each row's cost that belongs to the trip that its fill ends."""
    back, n = result.backtest, result.sharing[:, None]
    side = np.sign(back.position)
    held = np.zeros_like(back.position)  # (T, S) the drifted weight at the row's fill, of the symbol's share
    capital = np.maximum(1.0 + back.net[:-1, None], 0.0)
    np.divide(back.position[:-1] + n[:-1] * back.gross[:-1], capital, out=held[1:], where=capital > 0)
    held[1:] *= n[1:] / n[:-1]
    before = np.zeros_like(side)
    before[1:] = side[:-1]
    share = np.zeros_like(held)  # of the turnover
    np.divide(np.abs(held), n * back.turnover, out=share, where=back.turnover > 0)
    ends = (before != 0) & (side != before)
    return np.where(ends, back.cost * np.where(side == 0, 1.0, np.minimum(share, 1.0)), 0.0)


def _extend_by_a_step(instants: np.ndarray) -> np.ndarray:
    """Return (T + 1,) instants: one more, as far from the last as that is from the one before."""
    step = instants[-1:] - instants[-2:-1] if len(instants) > 1 else np.zeros(len(instants), np.int64)
    return np.append(instants, instants[-1:] + step)


@njit(cache=True)
def _measure_excursions(
    gross: np.ndarray, first: np.ndarray, ends: np.ndarray, symbol: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return (trips,) the lowest and the highest of the cumulated gross of each trip, and of 0."""
    lowest, highest = np.zeros(len(first)), np.zeros(len(first))
    for trip in range(len(first)):
        earned = 0.0
        for row in range(first[trip], ends[trip]):
            earned += gross[row, symbol[trip]]
            lowest[trip] = min(lowest[trip], earned)
            highest[trip] = max(highest[trip], earned)
    return lowest, highest


def summarize_round_trips(trips: pd.DataFrame) -> tuple[dict[str, float], dict[str, str]]:
    """Return the metrics of round trips by name, and the reason of each that is NaN.

    `trade_average_net_bps` is of the capital, per trip; `worst_adverse_excursion` is a fraction of it, at most 0.
    """
    net, count = trips["net"].to_numpy(), len(trips)
    losses = -net[net < 0].sum()
    hours = (trips["exit_time"] - trips["entry_time"]).to_numpy() / HOUR_MS
    metrics = {
        "round_trips": float(count),
        "trade_win_rate": float((net > 0).mean()) if count else np.nan,
        "trade_profit_factor": float(net[net > 0].sum() / losses) if losses > 0 else np.nan,
        "trade_average_bars": float(trips["bars"].mean()) if count else np.nan,
        "trade_average_hours": float(hours.mean()) if count else np.nan,
        "trade_average_net_bps": float(net.mean() * 1e4) if count else np.nan,
        "worst_adverse_excursion": float(trips["adverse_excursion"].min()) if count else np.nan,
        "round_trips_across_gaps": float(trips["crosses_gap"].sum()),
    }
    reason = "no losing round trip" if count else "no round trip"
    return metrics, {name: reason for name, value in metrics.items() if np.isnan(value)}
