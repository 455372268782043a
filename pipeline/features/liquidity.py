"""Columns on liquidity: price impact, implied spreads, how long the takers' side lasts.

Signed volume is 2 · taker_buy_base - volume: the exchange says who took, nothing is inferred from the price.
"""

import math

from pipeline.features import tape as on
from pipeline.features.catalogue import Column, Family, window
from pipeline.features.elementary import exp, ln
from pipeline.features.rolling import (
    Floats,
    Floats32,
    Integers,
    copied,
    kernel,
    moment_cells,
    rolling_moments,
    rolling_sum,
    window_cells,
)
from pipeline.features.tape import before, now

IMPACT, BOUNCE, ILLIQUIDITY, RANGE_SPREAD, PERSISTENCE = range(5)


@kernel
def price_impact(memory: Floats, at: int, tape: Floats, out: Floats32, n: int) -> None:
    """Slope of the log return on signed volume, times the signed volume's sample deviation; 0 if that is 0."""
    count = len(out)
    returns, signed = now(tape, on.RETURN, count), now(tape, on.SIGNED, count)
    _, _, own, cross = rolling_moments(memory, at, n, returns, signed, tape[on.WORK :])
    for i in range(count):
        out[i] = cross[i] / math.sqrt(own[i] * (n - 1.0)) if own[i] > 0.0 else 0.0


@kernel
def bid_ask_bounce(memory: Floats, at: int, tape: Floats, out: Floats32, n: int) -> None:
    """2 √(-cov) of successive log returns over n pairs; 0 where the covariance is not negative."""
    count = len(out)
    returns, last = now(tape, on.RETURN, count), before(tape, on.RETURN, count)
    _, _, _, cross = rolling_moments(memory, at, n, returns, last, tape[on.WORK :])
    share = 1.0 / (n - 1.0)
    for i in range(count):
        out[i] = 2.0 * math.sqrt(max(-cross[i], 0.0) * share)


@kernel
def illiquidity(memory: Floats, at: int, tape: Floats, out: Floats32, n: int) -> None:
    """ln(1 + mean(|r| / quote volume) · mean(quote volume)) over the traded bars among n; 0 without any."""
    count = len(out)
    returns, quote, term = now(tape, on.RETURN, count), now(tape, on.QUOTE, count), now(tape, on.WORK, count)
    for i in range(count):
        term[i] = abs(returns[i]) / quote[i] if quote[i] > 0.0 else 0.0
    terms = rolling_sum(memory, at, n, term, tape[on.WORK + 1 :])
    quotes = rolling_sum(memory, at + window_cells(n), n, quote, tape[on.WORK + 3 :])
    for i in range(count):
        term[i] = 1.0 if quote[i] > 0.0 else 0.0
    traded = rolling_sum(memory, at + 2 * window_cells(n), n, term, tape[on.WORK + 5 :])
    for i in range(count):
        term[i] = 1.0 + (terms[i] * quotes[i] / (traded[i] * traded[i]) if traded[i] > 0.0 else 0.0)
    ln(term, terms)
    copied(terms, out)


@kernel
def range_spread(memory: Floats, at: int, tape: Floats, out: Floats32, n: int) -> None:
    """Mean over n pairs of bars of 2 (e^α - 1) / (e^α + 1), α = (1 + √2)(√β - √γ) or 0 if that is less.

    β = the two bars' squared log ranges, √γ = the log range of both together; this is Corwin & Schultz (2012), eq. 14
    and 18, with 3 - 2√2 = (√2 - 1)² taken out of the root. Markets that never close need no overnight correction.
    """
    count = len(out)
    high, low = now(tape, on.LN_HIGH, count), now(tape, on.LN_LOW, count)
    last_high, last_low = before(tape, on.LN_HIGH, count), before(tape, on.LN_LOW, count)
    spread, alphas = now(tape, on.WORK, count), now(tape, on.WORK + 1, count)
    for i in range(count):
        wide, last_wide = high[i] - low[i], last_high[i] - last_low[i]
        top = high[i] if high[i] > last_high[i] else last_high[i]
        bottom = low[i] if low[i] < last_low[i] else last_low[i]
        alpha = (1.0 + math.sqrt(2.0)) * (math.sqrt(wide * wide + last_wide * last_wide) - (top - bottom))
        alphas[i] = alpha if alpha > 0.0 else 0.0
    exp(alphas, spread)
    for i in range(count):
        spread[i] = 2.0 * (spread[i] - 1.0) / (spread[i] + 1.0)
    total, share = rolling_sum(memory, at, n, spread, tape[on.WORK + 1 :]), 1.0 / n
    for i in range(count):
        out[i] = total[i] * share


@kernel
def persistence(memory: Floats, at: int, tape: Floats, out: Floats32, n: int) -> None:
    """Correlation of the signed volume with that of the bar before, over n pairs; 0 where one does not vary."""
    count = len(out)
    signed, last = now(tape, on.SIGNED, count), before(tape, on.SIGNED, count)
    _, own, lag, cross = rolling_moments(memory, at, n, signed, last, tape[on.WORK :])
    for i in range(count):
        scale = math.sqrt(own[i]) * math.sqrt(lag[i])
        out[i] = min(max(cross[i] / scale, -1.0), 1.0) if scale > 0.0 else 0.0


@kernel
def update(plan: Integers, memory: Floats, tape: Floats, out: Floats32, start: int, count: int) -> None:
    """`out[:, start:start + count]` (F, N) holds the columns of every family of `plan`, whose rows Layout describes."""
    for row in range(len(plan)):
        family, at, column, n = plan[row, 0], plan[row, 1], plan[row, 2], plan[row, 3]
        first = out[column, start : start + count]
        if family == IMPACT:
            price_impact(memory, at, tape, first, n)
        elif family == BOUNCE:
            bid_ask_bounce(memory, at, tape, first, n)
        elif family == ILLIQUIDITY:
            illiquidity(memory, at, tape, first, n)
        elif family == RANGE_SPREAD:
            range_spread(memory, at, tape, first, n)
        elif family == PERSISTENCE:
            persistence(memory, at, tape, first, n)


def families(*, liquidity_window: int) -> tuple[Family, ...]:
    """The catalogue's entries on liquidity. Raises ValueError on a window that is not allowed."""
    n = window("liquidity_window", liquidity_window, least=2)
    kyle = f"slope of the log return on signed volume over {n} bars, times the signed volume's deviation (Kyle 1985)"
    roll = f"2 √-cov(r, last r) over {n} pairs of log returns, 0 where the covariance is not negative (Roll 1984)"
    amihud = f"ln(1 + mean(|r| / quote volume) · mean quote volume), traded bars among {n}; 0 without (Amihud 2002)"
    corwin = f"mean of {n} two-bar spreads from highs and lows, negative ones as 0 (Corwin & Schultz 2012)"
    autocorr = f"correlation of signed volume with the last bar's over {n} pairs; 0 where it does not vary"
    moments = moment_cells(n)
    return (
        Family(IMPACT, (n,), (Column("kyle_lambda", kyle, n),), moments),
        Family(BOUNCE, (n,), (Column("roll_spread", roll, n + 1),), moments),
        Family(ILLIQUIDITY, (n,), (Column("amihud", amihud, n),), 3 * window_cells(n)),
        Family(RANGE_SPREAD, (n,), (Column("corwin_schultz_spread", corwin, n),), window_cells(n)),
        Family(PERSISTENCE, (n,), (Column("signed_volume_autocorr", autocorr, n),), moments),
    )
