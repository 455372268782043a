"""Accounts that follow a stream of bars: the positions that a backtest gives the same targets, bit for bit, bar by bar.

There is one account for each model and one for the signal, all of one symbol. A bar first fills the order that was
decided 1 + delay_bars bars before it. Then every account is seen at the bar's close, and the targets that are decided
there join the queue. `fills.py` says where an order fills, `trading.py` what a position earns.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numba import njit

from pipeline import fills, trading
from pipeline.features import chunks
from pipeline.fills import CLOSES, FILLS, WAITS, YEAR_MS
from pipeline.trading import Terms, fill_order, mark_account, step_account

SEEN = 3  # numbers of an account at a close: weight, unrealized return, and age in bars
# cells of an account (A, QUEUE + delay_bars + 1): its latest filled order, then the targets that wait
HELD, UNREALIZED, SINCE, FILLED, TARGET, KNOWN = range(6)  # weight before and after the fill; KNOWN: fills seen so far
QUEUE = 6
# cells of the clock (FLAGS + delay_bars + 1,) of all accounts: the latest fill, the last bar, then flags of what waits
HAS_FILL, PRICE, TIME, VOLUME, OUTCOME, LAST_CLOSE, LAST_TIME, IS_AFTER_GAP, WAITING = range(9)
FLAGS = 9
# columns of the terms (A, 6): those of `trading.Terms`, and whether an account starts flat where features begin
STARTS_FLAT = len(Terms._fields)


def hash_sources() -> int:
    """Return a hash of the code that kernels call or take numbers from: numba's cache key covers their file alone."""
    files = [Path(__file__), *(Path(str(module.__file__)) for module in (chunks, fills, trading))]
    return int(hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12], 16)


def make_accounts(terms: Sequence[Terms], *, starts_flat: Sequence[bool], delay_bars: int) -> tuple[np.ndarray, ...]:
    """Return accounts, clock and terms of accounts before the first bar, as the compiled functions take them.

    An account that `starts_flat`, as an agent's does, knows nothing of what was held before the features of a segment
    began: so are agents trained.
    """
    table = np.array([[*each, float(flat)] for each, flat in zip(terms, starts_flat, strict=True)])
    return np.zeros((len(terms), QUEUE + delay_bars + 1)), np.zeros(FLAGS + delay_bars + 1), table


@njit(cache=True)
def _fill_oldest(
    accounts: np.ndarray, clock: np.ndarray, terms: np.ndarray, instant: tuple[float, float, float, int]
) -> None:
    """Fill the oldest waiting order of each account at an instant: price, ms, quote volume and outcome."""
    price, time, volume, outcome = instant
    waiting = int(clock[WAITING])
    if clock[FLAGS] and outcome == FILLS:  # the order of the first bar after a gap
        outcome = CLOSES
    for a in range(len(accounts)):
        own, row = accounts[a], terms[a]
        trade = Terms(row[0], row[1], row[2], row[3], row[4])
        if clock[HAS_FILL]:
            move, years = price / clock[PRICE] - 1, (time - clock[TIME]) / YEAR_MS
            fill = (move, years, clock[VOLUME], int(clock[OUTCOME]))
            _, held, unrealized, since = step_account(
                own[TARGET], own[HELD], own[UNREALIZED], int(own[SINCE]), fill, False, trade
            )
            own[HELD], own[UNREALIZED], own[SINCE] = held, unrealized, since
        if row[STARTS_FLAT] and own[KNOWN] == 0:
            own[HELD] = own[UNREALIZED] = own[SINCE] = 0.0
        own[TARGET] = own[QUEUE]
        own[FILLED] = fill_order(own[TARGET], own[HELD], volume, outcome, trade)
        own[KNOWN] += 1
        for k in range(QUEUE, QUEUE + waiting - 1):
            own[k] = own[k + 1]
    for k in range(FLAGS, FLAGS + waiting - 1):
        clock[k] = clock[k + 1]
    clock[HAS_FILL], clock[PRICE], clock[TIME], clock[VOLUME], clock[OUTCOME] = 1.0, price, time, volume, outcome
    clock[WAITING] = waiting - 1


@njit(cache=True)
def take_bar(
    accounts: np.ndarray,
    clock: np.ndarray,
    terms: np.ndarray,
    bar: tuple[float, float, float, float, float],
    is_after_gap: bool,
    closes_positions: bool,
    seen: np.ndarray,
) -> None:
    """Fill what a bar (ms, open, close, volume, quote volume) fills, and see every account (A, 3) at its close.

    `is_after_gap`: bars are missing before it; `closes_positions`: orders that fill at its open close.
    """
    time, opened, close, volume, quote_volume = bar
    if is_after_gap:  # orders that wait lapse; what is held is held through the gap
        while clock[WAITING] > 0:
            _fill_oldest(accounts, clock, terms, (clock[LAST_CLOSE], clock[LAST_TIME], 0.0, WAITS))
    elif clock[WAITING] == len(clock) - FLAGS:
        if volume > 0:
            outcome = CLOSES if closes_positions else FILLS
            _fill_oldest(accounts, clock, terms, (opened, time, quote_volume, outcome))
        else:
            _fill_oldest(accounts, clock, terms, (close, time, 0.0, WAITS))
    clock[IS_AFTER_GAP], clock[LAST_CLOSE], clock[LAST_TIME] = is_after_gap, close, time
    for a in range(len(accounts)):
        own, row = accounts[a], terms[a]
        weight, unrealized, since = 0.0, 0.0, 0
        if own[KNOWN] > 0 if row[STARTS_FLAT] else clock[HAS_FILL] > 0:
            trade = Terms(row[0], row[1], row[2], row[3], row[4])
            before = (own[HELD], own[UNREALIZED], int(own[SINCE]))
            weight, unrealized, since = mark_account(own[FILLED], before, close / clock[PRICE] - 1, trade)
        seen[a, 0], seen[a, 1], seen[a, 2] = weight, unrealized, since


@njit(cache=True)
def decide(accounts: np.ndarray, clock: np.ndarray, terms: np.ndarray, targets: np.ndarray, starts_run: bool) -> None:
    """Let targets (A,) wait for their fill; NaN closes. `starts_run`: the first bar of a segment with features."""
    waiting = int(clock[WAITING])
    for a in range(len(accounts)):
        accounts[a, QUEUE + waiting] = targets[a]
        if starts_run and terms[a, STARTS_FLAT]:
            accounts[a, KNOWN] = -waiting
    clock[FLAGS + waiting] = clock[IS_AFTER_GAP]
    clock[WAITING] = waiting + 1
