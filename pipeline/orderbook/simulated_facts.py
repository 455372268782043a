"""The facts of a simulated book, measured from its own state: the planted signal, and those that real books have."""

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.orderbook.flow_messages import Tape
from pipeline.orderbook.raw_table import ACTIONS, LEVELS

Floats = npt.NDArray[np.float64]

HORIZONS = (10, 50, 100)  # messages over which the mid's moves are measured
SPREADS = 5  # ticks up to which shares are reported one by one
MIN_ROWS = 3  # of a correlation


def describe_book(tapes: list[Tape]) -> dict[str, Any]:
    """Return the facts of a symbol's sessions as JSON; a correlation is null where it is undefined.

    `information_coefficient` has, by horizon in messages, the correlation of the next move of the mid with the planted
    signal (`signal`, the best that a model can do), and with the imbalance of ten levels (`imbalance`, column 45).
    `standard_error` is that of the first where nothing is planted: see `find_standard_error`.
    """
    spread = np.concatenate(
        [tape.book[_is_two_sided(tape), 0] - tape.book[_is_two_sided(tape), 2 * LEVELS] for tape in tapes]
    )
    action = np.concatenate([tape.action for tape in tapes])
    moves = np.concatenate([np.diff(find_mid(tape)) for tape in tapes])
    shares = {str(ticks): float(np.mean(spread == ticks)) for ticks in range(1, SPREADS + 1)}
    return {
        "messages": len(action),
        "action_shares": {name: float(np.mean(action == code)) for code, name in ACTIONS.items()},
        "spread_ticks": {"mean": float(spread.mean()), "shares": shares},
        "mid_move_share": float(np.mean(moves != 0)),
        "mid_deviation_per_day_ticks": float(
            np.sqrt(np.mean([np.sum(np.diff(find_mid(tape)) ** 2) for tape in tapes]))
        ),
        "information_coefficient": {str(horizon): measure_signal(tapes, horizon=horizon) for horizon in HORIZONS},
    }


def measure_signal(tapes: list[Tape], *, horizon: int) -> dict[str, float | None]:
    """Return the correlations of the next move of the mid with the planted signal and with the imbalance."""
    move, signal, imbalance = [], [], []
    for tape in tapes:
        rows = np.flatnonzero(_is_two_sided(tape))[:-horizon]
        mid = find_mid(tape)
        move.append(mid[-len(rows) :] - mid[: len(rows)])
        signal.append(tape.signal[rows])
        imbalance.append(find_imbalance(tape)[rows])
    moves = np.concatenate(move)
    return {
        "signal": correlate(np.concatenate(signal), moves),
        "imbalance": correlate(np.concatenate(imbalance), moves),
        "standard_error": find_standard_error(np.concatenate(signal), horizon=horizon),
    }


def find_standard_error(signal: Floats, *, horizon: int) -> float | None:
    """Return the standard error of the correlation of a signal with moves over `horizon` messages of a martingale.

    Moves overlap: two that begin k messages apart share 1 - k / horizon of their variance. With the autocorrelation
    r_k of the signal the variance is (1 + 2 sum_k (1 - k / horizon) r_k) / n.
    """
    n, centered = len(signal), signal - signal.mean() if len(signal) else signal
    power = float(np.sum(centered**2))
    if n <= horizon or power == 0:
        return None
    lags = np.arange(1, horizon)
    products = np.array([np.sum(centered[lag:] * centered[:-lag]) for lag in lags])
    return float(np.sqrt((1 + 2 * np.sum((1 - lags / horizon) * products) / power) / n))


def correlate(a: Floats, b: Floats) -> float | None:
    """Return the correlation of two arrays; None where one is constant or short."""
    if len(a) < MIN_ROWS or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def find_mid(tape: Tape) -> Floats:
    """Return the mid in ticks of the messages with a book on both sides."""
    book = tape.book[_is_two_sided(tape)]
    return np.asarray((book[:, 0] + book[:, 2 * LEVELS]) / 2)


def find_imbalance(tape: Tape) -> Floats:
    """Return (N,) the imbalance of the sizes of ten levels, in [-1, 1]."""
    asks = tape.book[:, LEVELS : 2 * LEVELS].sum(axis=1)
    bids = tape.book[:, 3 * LEVELS :].sum(axis=1)
    return np.asarray((bids - asks) / np.maximum(bids + asks, 1))


def _is_two_sided(tape: Tape) -> npt.NDArray[np.bool_]:
    return (tape.book[:, 0] > 0) & (tape.book[:, 2 * LEVELS] > 0)
