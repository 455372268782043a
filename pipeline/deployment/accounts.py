"""Accounts that follow a stream of bars: the positions that a backtest gives the same targets, bit for bit, bar by bar.

There is one account for each model and one for the signal, all of one symbol. A bar first fills the order that was
decided 1 + delay_bars bars before it. Then every account is seen at the bar's close, and the targets that are decided
there join the queue. `fills.py` says where an order fills, `trading.py` what a position earns.

A position that is given for a close, because real fills differ, takes the place of the account's own one there.
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
GIVEN, GIVEN_PRICE, GIVEN_TIME = range(6, 9)  # position for the next close, or NaN; where the held one was given, or 0
QUEUE = 9
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
    accounts = np.zeros((len(terms), QUEUE + delay_bars + 1))
    accounts[:, GIVEN] = np.nan
    return accounts, np.zeros(FLAGS + delay_bars + 1), table


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
        is_given = own[GIVEN_PRICE] > 0
        if is_given or clock[HAS_FILL] > 0:
            since_price, since_time = (own[GIVEN_PRICE], own[GIVEN_TIME]) if is_given else (clock[PRICE], clock[TIME])
            move, years = price / since_price - 1, (time - since_time) / YEAR_MS
            fill = (move, years, clock[VOLUME], WAITS if is_given else int(clock[OUTCOME]))
            _, held, unrealized, since = step_account(
                own[TARGET], own[HELD], own[UNREALIZED], int(own[SINCE]), fill, False, trade
            )
            own[HELD], own[UNREALIZED], own[SINCE], own[GIVEN_PRICE] = held, unrealized, since, 0.0
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
def _see_account(own: np.ndarray, clock: np.ndarray, row: np.ndarray, close: float) -> tuple[float, float, int]:
    """Return weight, unrealized return and age of an account at a close."""
    is_given = own[GIVEN_PRICE] > 0
    if not is_given and (own[KNOWN] <= 0 if row[STARTS_FLAT] else clock[HAS_FILL] == 0):
        return 0.0, 0.0, 0
    price = own[GIVEN_PRICE] if is_given else clock[PRICE]
    before = (own[HELD], own[UNREALIZED], int(own[SINCE]))
    return mark_account(own[FILLED], before, close / price - 1, Terms(row[0], row[1], row[2], row[3], row[4]))


@njit(cache=True)
def _replace_position(own: np.ndarray, seen: np.ndarray, time: float, close: float) -> None:
    """Hold the given position from this close on, in place of the one that is `seen` (3,).

    Return and age go on where the side is the same; else they begin here.
    """
    position = own[GIVEN]
    goes_on = np.sign(position) == np.sign(seen[0])
    unrealized = seen[1] if goes_on else 0.0
    age = seen[2] if goes_on else abs(np.sign(position))
    own[HELD], own[FILLED], own[UNREALIZED], own[SINCE] = position, position, unrealized, max(age - 1, 0.0)
    own[GIVEN_PRICE], own[GIVEN_TIME], own[KNOWN] = close, time, max(own[KNOWN], 1.0)
    seen[0], seen[1], seen[2] = position, unrealized, age


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
        own = accounts[a]
        seen[a, 0], seen[a, 1], seen[a, 2] = _see_account(own, clock, terms[a], close)
        if own[GIVEN] == own[GIVEN] and own[GIVEN] != seen[a, 0]:
            _replace_position(own, seen[a], time, close)
        own[GIVEN] = np.nan


@njit(cache=True)
def decide(accounts: np.ndarray, clock: np.ndarray, terms: np.ndarray, targets: np.ndarray, starts_run: bool) -> None:
    """Let targets (A,) wait for their fill; NaN closes. `starts_run`: the first bar of a segment with features."""
    waiting = int(clock[WAITING])
    for a in range(len(accounts)):
        accounts[a, QUEUE + waiting] = targets[a]
        if starts_run and terms[a, STARTS_FLAT] and accounts[a, GIVEN_PRICE] == 0:
            accounts[a, KNOWN] = -waiting
    clock[FLAGS + waiting] = clock[IS_AFTER_GAP]
    clock[WAITING] = waiting + 1
