"""Columns of liquidity: price impact, implied spreads, persistence of the order flow.

Signed volume is 2 · taker_buy_base - volume: the exchange reports the taker's side, nothing is inferred from prices.
"""

import math
from dataclasses import dataclass

from pipeline.features.catalogue import Column, Indicator
from pipeline.features.chunks import (
    LN_HIGH,
    LN_LOW,
    QUOTE_VOLUME,
    RETURN,
    SCRATCH,
    SIGNED_VOLUME,
    view_current,
    view_previous,
)
from pipeline.features.elementary import fill_exp, fill_log
from pipeline.features.rolling import (
    Floats,
    Floats32,
    Integers,
    compile_kernel,
    copy_to_end,
    count_moment_cells,
    count_window_cells,
    rolling_moments,
    rolling_sum,
)
from pipeline.features.windows import LongWindow

KYLE_LAMBDA, ROLL_SPREAD, AMIHUD, CORWIN_SCHULTZ, AUTOCORRELATION = range(5)


@dataclass(frozen=True, kw_only=True)
class Params:
    """The window of this file's columns, in bars."""

    liquidity_window: LongWindow


@compile_kernel
def kyle_lambda(memory: Floats, cell: int, chunk: Floats, out: Floats32, n: int) -> None:
    """Fill `out` with the slope of the log return on signed volume, times the signed volume's sample deviation.

    It is 0 where the signed volume does not vary.
    """
    count = len(out)
    returns, signed = view_current(chunk, RETURN, count), view_current(chunk, SIGNED_VOLUME, count)
    _, _, own, cross = rolling_moments(memory, cell, n, returns, signed, chunk[SCRATCH:])
    for i in range(count):
        out[i] = cross[i] / math.sqrt(own[i] * (n - 1.0)) if own[i] > 0.0 else 0.0


@compile_kernel
def roll_spread(memory: Floats, cell: int, chunk: Floats, out: Floats32, n: int) -> None:
    """Fill `out` with 2 √(-cov) of successive log returns over n pairs; 0 where the covariance is not negative."""
    count = len(out)
    returns, last = view_current(chunk, RETURN, count), view_previous(chunk, RETURN, count)
    _, _, _, cross = rolling_moments(memory, cell, n, returns, last, chunk[SCRATCH:])
    weight = 1.0 / (n - 1.0)
    for i in range(count):
        out[i] = 2.0 * math.sqrt(max(-cross[i], 0.0) * weight)


@compile_kernel
def amihud(memory: Floats, cell: int, chunk: Floats, out: Floats32, n: int) -> None:
    """Fill `out` with ln(1 + mean(|r| / quote volume) · mean(quote volume)) over the traded bars among n.

    It is 0 where none was traded.
    """
    count = len(out)
    returns, quote = view_current(chunk, RETURN, count), view_current(chunk, QUOTE_VOLUME, count)
    term = view_current(chunk, SCRATCH, count)
    for i in range(count):
        term[i] = abs(returns[i]) / quote[i] if quote[i] > 0.0 else 0.0
    terms = rolling_sum(memory, cell, n, term, chunk[SCRATCH + 1 :])
    quotes = rolling_sum(memory, cell + count_window_cells(n), n, quote, chunk[SCRATCH + 3 :])
    for i in range(count):
        term[i] = 1.0 if quote[i] > 0.0 else 0.0
    traded = rolling_sum(memory, cell + 2 * count_window_cells(n), n, term, chunk[SCRATCH + 5 :])
    for i in range(count):
        term[i] = 1.0 + (terms[i] * quotes[i] / (traded[i] * traded[i]) if traded[i] > 0.0 else 0.0)
    fill_log(term, terms)
    copy_to_end(terms, out)


@compile_kernel
def corwin_schultz(memory: Floats, cell: int, chunk: Floats, out: Floats32, n: int) -> None:
    """Fill `out` with the mean over n pairs of bars of 2 (e^α - 1) / (e^α + 1).

    α = (1 + √2)(√β - √γ), or 0 if that is less; β = the two bars' squared log ranges, √γ = the log range of both
    together. This is Corwin & Schultz (2012), eq. 14 and 18, with 3 - 2√2 = (√2 - 1)² taken out of the root. Markets
    that never close need no overnight correction.
    """
    count = len(out)
    high, low = view_current(chunk, LN_HIGH, count), view_current(chunk, LN_LOW, count)
    last_high, last_low = view_previous(chunk, LN_HIGH, count), view_previous(chunk, LN_LOW, count)
    spread, alphas = view_current(chunk, SCRATCH, count), view_current(chunk, SCRATCH + 1, count)
    for i in range(count):
        wide, last_wide = high[i] - low[i], last_high[i] - last_low[i]
        top = high[i] if high[i] > last_high[i] else last_high[i]
        bottom = low[i] if low[i] < last_low[i] else last_low[i]
        alpha = (1.0 + math.sqrt(2.0)) * (math.sqrt(wide * wide + last_wide * last_wide) - (top - bottom))
        alphas[i] = alpha if alpha > 0.0 else 0.0
    fill_exp(alphas, spread)
    for i in range(count):
        spread[i] = 2.0 * (spread[i] - 1.0) / (spread[i] + 1.0)
    total, inverse_n = rolling_sum(memory, cell, n, spread, chunk[SCRATCH + 1 :]), 1.0 / n
    for i in range(count):
        out[i] = total[i] * inverse_n


@compile_kernel
def signed_volume_autocorr(memory: Floats, cell: int, chunk: Floats, out: Floats32, n: int) -> None:
    """Fill `out` with the correlation of signed volume with the previous bar's, over n pairs; 0 if constant."""
    count = len(out)
    signed, last = view_current(chunk, SIGNED_VOLUME, count), view_previous(chunk, SIGNED_VOLUME, count)
    _, own, lag, cross = rolling_moments(memory, cell, n, signed, last, chunk[SCRATCH:])
    for i in range(count):
        scale = math.sqrt(own[i]) * math.sqrt(lag[i])
        out[i] = min(max(cross[i] / scale, -1.0), 1.0) if scale > 0.0 else 0.0


@compile_kernel
def update(plan: Integers, memory: Floats, chunk: Floats, out: Floats32, start: int, count: int) -> None:
    """Fill `out[:, start:start + count]` (F, N) with the columns of every row of `plan`, as Layout describes them."""
    for row in range(len(plan)):
        kernel, cell, column, n = plan[row, 0], plan[row, 1], plan[row, 2], plan[row, 3]
        first = out[column, start : start + count]
        if kernel == KYLE_LAMBDA:
            kyle_lambda(memory, cell, chunk, first, n)
        elif kernel == ROLL_SPREAD:
            roll_spread(memory, cell, chunk, first, n)
        elif kernel == AMIHUD:
            amihud(memory, cell, chunk, first, n)
        elif kernel == CORWIN_SCHULTZ:
            corwin_schultz(memory, cell, chunk, first, n)
        elif kernel == AUTOCORRELATION:
            signed_volume_autocorr(memory, cell, chunk, first, n)


def list_indicators(params: Params) -> tuple[Indicator, ...]:
    """Return the catalogue's entries on liquidity."""
    n = params.liquidity_window
    kyle = (
        f"slope of the log return on signed volume over {n} bars, times the signed volume's standard deviation; "
        "0 where signed volume is constant (Kyle 1985)"
    )
    roll = f"2 √-cov(r, previous r) over {n} pairs of log returns; 0 where the covariance is not negative (Roll 1984)"
    illiquidity = (
        f"ln(1 + mean(|r| / quote volume) · mean quote volume) over the traded bars among {n}; 0 without any "
        "(Amihud 2002)"
    )
    spread = f"mean of {n} two-bar spreads from highs and lows, negative ones as 0 (Corwin & Schultz 2012)"
    autocorr = f"correlation of signed volume with the previous bar's over {n} pairs; 0 where it is constant"
    moments = count_moment_cells(n)
    return (
        Indicator(KYLE_LAMBDA, (n,), (Column("kyle_lambda", kyle, n),), moments, fields=("taker_buy_base",)),
        Indicator(ROLL_SPREAD, (n,), (Column("roll_spread", roll, n + 1),), moments),
        Indicator(
            AMIHUD, (n,), (Column("amihud", illiquidity, n),), 3 * count_window_cells(n), fields=("quote_volume",)
        ),
        Indicator(CORWIN_SCHULTZ, (n,), (Column("corwin_schultz_spread", spread, n),), count_window_cells(n)),
        Indicator(
            AUTOCORRELATION,
            (n,),
            (Column("signed_volume_autocorr", autocorr, n),),
            moments,
            fields=("taker_buy_base",),
        ),
    )
