"""The evaluation of a prop firm, bar by bar: loss limits by local midnight, profit target and trading days.

Rules are those of FTMO's public pages (Trading Objectives; Maximum Daily Loss; Maximum Loss; Profit Target). Other
firms differ: those that take the higher of balance and equity at midnight are not covered.
"""

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from annotated_types import Gt, Interval, MinLen
from pydantic import NonNegativeFloat, PositiveFloat

from pipeline.evaluation.prop_firm_account import DAILY, MAX, PASSED, Bars, Terms, walk_account
from pipeline.market.time_zones import load_zone

Share = Annotated[float, Interval(gt=0, lt=1)]
Breach = Literal["daily", "max"]
BREACHES: dict[int, Breach] = {DAILY: "daily", MAX: "max"}
BPS = 1e-4
YEAR_2100_MS = 4_102_444_800_000
MAX_POSITION = 1e6  # a multiple of the equity; products of larger ones overflow

RANGES: dict[str, tuple[str, Callable[[Any], bool]]] = {  # of the terms: what is allowed, and whether a value is
    "initial_balance": ("an amount above 0", lambda value: 0 < value < np.inf),
    "daily_loss": ("a share of the initial balance between 0 and 1", lambda value: 0 < value < 1),
    "max_loss": ("a share of the initial balance between 0 and 1", lambda value: 0 < value < 1),
    "target": ("a share of the initial balance above 0", lambda value: value > 0),
    "min_days": ("a whole number from 0 to 365", lambda value: value in range(366) and isinstance(value, Integral)),
    "fee_bps": ("at least 0 and below 10,000", lambda value: 0 <= value < 1 / BPS),
    "exposure": ("at least 0", lambda value: 0 <= value < np.inf),
    "max_leverage": ("above 0", lambda value: value > 0),
    "lot_size": ("units, at least 0", lambda value: 0 <= value < np.inf),
}


@dataclass(frozen=True, kw_only=True)
class PropFirmRules:
    """The rules of a firm; README has FTMO's values. Shares are of the initial balance."""

    initial_balance: PositiveFloat  # in the quote currency
    daily_loss: Share  # below the balance at midnight
    max_loss: Share  # below the initial balance, or the highest balance at midnights where `trailing`
    targets: Annotated[list[Annotated[float, Gt(0)]], MinLen(1)]  # profit of each phase, a share
    min_days: Annotated[int, Interval(ge=0, le=365)]  # of each phase, on which a position is opened
    trailing: bool
    timezone: str  # IANA name: its midnights reset the daily limit
    fee_bps: Annotated[float, Interval(ge=0, lt=10_000)]  # of the value traded, each side
    max_leverage: PositiveFloat  # largest value of a position as a multiple of the equity, at each trade
    lot_size: NonNegativeFloat  # units; sizes are cut to whole lots; 0: any size
    challenge_fee: NonNegativeFloat  # in the quote currency; refunded with the first payout
    profit_split: Annotated[float, Interval(gt=0, le=1)]  # the trader's share of a payout
    payout_days: Annotated[int, Interval(ge=1, le=365)]  # days with bars between payouts of a funded account


@dataclass(frozen=True, eq=False)
class PropFirmResult:
    """The end of one phase on one path."""

    passed: bool
    breached: Breach | None
    breach_time_ms: int | None  # open time of the bar that broke the limit
    days: int  # on which a position was opened, up to the end
    equity: np.ndarray  # (T,) at each close; constant from the bar that passes or breaks a limit
    pass_time_ms: int | None  # open time of the bar at whose close the phase was passed


def simulate(
    time_ms: np.ndarray,
    high: np.ndarray,
    low: np.ndarray,
    close: np.ndarray,
    position: np.ndarray,
    *,
    initial_balance: float,
    daily_loss: float,
    max_loss: float,
    target: float,
    min_days: int,
    trailing: bool,
    fee_bps: float,
    timezone: str,
) -> PropFirmResult:
    """Return how one phase of an evaluation ends on one path of bars, all of shape (T,).

    Conventions:
        Position: `position[i]` is held over bar i, from the close before to its own close. It is the value of the
            position as a multiple of the equity when it changes; units are held while it stays the same. See
            `hold_between_trades`. It trades at the close before, on the day of bar i. The first bar has no close
            before: its own replaces it.
        Balance: the initial one, less fees, with the profits of closed units against their average entry price.
            Equity adds the unrealized profit. The fee is charged on the value of each change.
        Order within a bar: the day's reset, the trade, the worst price, then the close. The worst price is the low for
            longs, the high for shorts, or the close before where that is worse. So a loss limit comes before a target.
        Daily limit: (balance at the last midnight in `timezone`) - `daily_loss` of the initial balance. A bar belongs
            to the day of its open time. An unrealized loss that is held over midnight counts again on the next day.
        Maximum loss: (initial balance) - `max_loss` of it; with `trailing`, the highest balance at midnights, at least
            the initial one, replaces the initial balance.
        Breach: equity below a limit; equal is allowed. Of both limits the higher one breaks first; where the limits
            are equal, the breach counts as "max".
        Target: at a close, the equity less the fee of closing is at least the initial balance + `target` of it, with
            at least `min_days` trading days. All is closed there.
        Trading day: a day on which a position is opened, increased or reversed.

    Args:
        time_ms: open times, whole ms UTC from 1970 to 2100, ascending; integers or floats.
        high: high of each bar.
        low: low of each bar.
        close: close of each bar.
        position: target position over each bar, from -1e6 to 1e6.
        initial_balance: in the quote currency.
        daily_loss: share of the initial balance.
        max_loss: share of the initial balance.
        target: share of the initial balance; infinite for an account without a target.
        min_days: trading days that passing needs.
        trailing: whether the maximum loss trails the highest balance at midnights.
        fee_bps: of the value traded, each side.
        timezone: IANA name of the zone whose midnights begin days, such as Europe/Prague.

    Raises:
        ValueError: arrays differ in length, are empty, not finite or not bars; a time or a position is out of its
            range; or a rule has another type or is out of its range.

    >>> bars = {"high": [100.0, 103.0, 99.0], "low": [99.0, 99.0, 95.0], "close": [100.0, 102.0, 98.0]}
    >>> prices = [np.array(bars[name]) for name in ("high", "low", "close")]
    >>> result = simulate(
    ...     60_000 * np.arange(3), *prices, np.array([0.0, 1.0, 1.0]), initial_balance=1_000.0, daily_loss=0.04,
    ...     max_loss=0.1, target=0.1, min_days=1, trailing=False, fee_bps=0.0, timezone="Europe/Prague",
    ... )
    >>> result.breached, result.breach_time_ms, result.days, result.equity.tolist()
    ('daily', 120000, 1, [1000.0, 1020.0, 950.0])
    """
    bars = make_bars(time_ms, high=high, low=low, close=close, position=position, timezone=timezone)
    terms = make_terms(
        initial_balance=initial_balance,
        daily_loss=daily_loss,
        max_loss=max_loss,
        target=target,
        min_days=min_days,
        trailing=trailing,
        fee_bps=fee_bps,
    )
    equity, days = np.empty(len(bars.close)), len(bars.first) - 1
    balance = terms.initial_balance
    end = walk_account(bars, np.arange(days), 0, days, balance, balance, terms, equity)
    instant = int(np.asarray(time_ms)[end.bar])
    return PropFirmResult(
        passed=end.status == PASSED,
        breached=(breached := BREACHES.get(end.status)),
        breach_time_ms=None if breached is None else instant,
        days=end.days,
        equity=equity,
        pass_time_ms=instant if end.status == PASSED else None,
    )


def hold_between_trades(position: np.ndarray, turnover: np.ndarray) -> np.ndarray:
    """Return (T,) positions that change only where there is turnover; before the first trade they are 0.

    The weights of a backtest drift with prices. As positions of `simulate` they would trade at every bar.

    >>> hold_between_trades(np.array([0.0, 0.5, 0.51, 0.0]), np.array([0.0, 0.5, 0.0, 0.51])).tolist()
    [0.0, 0.5, 0.5, 0.0]
    """
    trade = np.maximum.accumulate(np.where(turnover > 0, np.arange(len(position)), -1))
    return np.asarray(np.where(trade >= 0, position[trade], 0.0))


def make_terms(
    *,
    initial_balance: float,
    daily_loss: float,
    max_loss: float,
    target: float,
    min_days: int,
    trailing: bool,
    fee_bps: float,
    exposure: float = 1.0,
    max_leverage: float = np.inf,
    lot_size: float = 0.0,
) -> Terms:
    """Return the rules as amounts; `exposure` is the value of a position of 1 as a multiple of the equity.

    Raises:
        ValueError: a rule has another type or is out of its range.
    """
    numbers = {
        "initial_balance": initial_balance,
        "daily_loss": daily_loss,
        "max_loss": max_loss,
        "target": target,
        "min_days": min_days,
        "fee_bps": fee_bps,
        "exposure": exposure,
        "max_leverage": max_leverage,
        "lot_size": lot_size,
    }
    for name, value in numbers.items():
        _require_number(name, value)
    if not isinstance(trailing, bool | np.bool_):
        raise ValueError(f"trailing is {trailing!r}; give True or False")
    return Terms(
        initial_balance=float(initial_balance),
        daily_loss=float(daily_loss * initial_balance),
        max_loss=float(max_loss * initial_balance),
        target=float(target * initial_balance),
        min_days=int(min_days),
        is_trailing=bool(trailing),
        fee=float(fee_bps * BPS),
        exposure=float(exposure),
        max_leverage=float(max_leverage),
        lot_size=float(lot_size),
    )


def _require_number(name: str, value: object) -> None:
    """Raise ValueError where a value is not a number or out of the range of its name."""
    allowed, is_allowed = RANGES[name]
    if not isinstance(value, Real) or isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}; give a number: {allowed}")
    if not is_allowed(value):
        raise ValueError(f"{name} is {value}; give {allowed}")


def make_bars(
    time_ms: np.ndarray,
    *,
    high: np.ndarray,
    low: np.ndarray,
    close: np.ndarray,
    position: np.ndarray,
    timezone: str,
) -> Bars:
    """Return bars with the first one of each local day.

    Raises:
        ValueError: see `simulate`.
    """
    time_ms = np.asarray(time_ms)
    arrays = {"high": high, "low": low, "close": close, "position": position}
    columns = {name: np.array(values, dtype=np.float64) for name, values in arrays.items()}
    _require_bars(time_ms, columns)
    before = np.append(columns["close"][:1], columns["close"][:-1])
    return Bars(before, **columns, first=find_days(time_ms.astype(np.int64), timezone=timezone))


def _require_bars(time_ms: np.ndarray, columns: dict[str, np.ndarray]) -> None:
    """Raise ValueError where the arrays are not bars of ascending times."""
    for name, values in columns.items():
        if values.shape != time_ms.shape or values.ndim != 1 or not len(values):
            raise ValueError(f"{name} has shape {values.shape}, time_ms {time_ms.shape}; give both (T,), T at least 1")
        if not np.isfinite(values).all():
            bar = int(np.argmin(np.isfinite(values)))
            raise ValueError(f"{name} of bar {bar} is {values[bar]}; give finite numbers")
    high, low, close = (columns[name] for name in ("high", "low", "close"))
    if not ((low > 0) & (low <= close) & (close <= high)).all():
        bar = int(np.argmin((low > 0) & (low <= close) & (close <= high)))
        raise ValueError(
            f"bar {bar} has low {low[bar]}, close {close[bar]}, high {high[bar]}; give 0 < low <= close <= high"
        )
    if (np.abs(columns["position"]) > MAX_POSITION).any():
        bar = int(np.argmax(np.abs(columns["position"]) > MAX_POSITION))
        raise ValueError(
            f"position of bar {bar} is {columns['position'][bar]:g}; give a multiple of the equity from -1e6 to 1e6"
        )
    _require_times(time_ms)


def _require_times(time_ms: np.ndarray) -> None:
    """Raise ValueError where times (T,) are not ascending whole milliseconds from 1970 to 2100."""
    allowed = "give whole milliseconds UTC from 1970 to 2100, as integers or floats"
    if time_ms.dtype.kind not in "iuf":
        raise ValueError(f"time_ms of bar 0 is {time_ms[0]} of type {time_ms.dtype}; {allowed}")
    is_allowed = (time_ms >= 0) & (time_ms < YEAR_2100_MS) & (time_ms == np.floor(time_ms))
    if not is_allowed.all():
        bar = int(np.argmin(is_allowed))
        raise ValueError(f"time_ms of bar {bar} is {time_ms[bar]}; {allowed}")
    if (time_ms[1:] <= time_ms[:-1]).any():
        bar = int(np.argmax(time_ms[1:] <= time_ms[:-1])) + 1
        raise ValueError(f"time_ms of bar {bar} is {time_ms[bar]} after {time_ms[bar - 1]}; give ascending times")


def find_days(time_ms: np.ndarray, *, timezone: str) -> np.ndarray:
    """Return (D + 1,) the first bar of each local day that has bars, and T; daylight saving included."""
    if not isinstance(timezone, str):
        raise ValueError(f"timezone is {timezone!r}; give a name of the IANA database, such as Europe/Prague")
    local = pd.DatetimeIndex(np.asarray(time_ms).astype("datetime64[ms]"), tz="UTC").tz_convert(
        load_zone(timezone, key="timezone")
    )
    date = local.tz_localize(None).normalize().to_numpy()  # in this order: some midnights do not exist in their zone
    starts = np.flatnonzero(date[1:] != date[:-1]) + 1
    return np.concatenate([[0], starts, [len(date)]]).astype(np.int64)


def estimate_daily_volatility(time_ms: np.ndarray, close: np.ndarray, *, timezone: str) -> float:
    """Return the standard deviation of log returns between the last closes of local days (ddof = 1).

    Raises:
        ValueError: there are fewer than 3 days.
    """
    last = np.asarray(close, dtype=np.float64)[find_days(time_ms, timezone=timezone)[1:] - 1]
    if len(last) < 3:
        raise ValueError(f"close covers {len(last)} days in {timezone}; a volatility needs at least 3")
    return float(np.diff(np.log(last)).std(ddof=1))


def read_terms(rules: PropFirmRules, *, exposure: float, target: float) -> Terms:
    """Return the terms of an account with this target under the rules of a firm."""
    return make_terms(
        initial_balance=rules.initial_balance,
        daily_loss=rules.daily_loss,
        max_loss=rules.max_loss,
        target=target,
        min_days=rules.min_days,
        trailing=rules.trailing,
        fee_bps=rules.fee_bps,
        exposure=exposure,
        max_leverage=rules.max_leverage,
        lot_size=rules.lot_size,
    )
