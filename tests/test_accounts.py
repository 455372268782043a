"""Accounts that follow a stream have the positions of the backtest, bit for bit."""

import numpy as np
import pandas as pd
import pytest

from pipeline.deployment import accounts
from pipeline.deployment.bulk import follow_account
from pipeline.fills import find_fills
from pipeline.trading import Terms, make_terms, trade
from tests.bundles import make_bars

TERMS = make_terms(
    fee_bps=3, slippage_bps=0.5, borrow_rate=0.05, no_trade_band=0.3, capital=1e5, max_participation=0.05
)


def follow(
    bars: pd.DataFrame,
    targets: np.ndarray,
    *,
    delay_bars: int,
    starts: np.ndarray | None = None,
    given: np.ndarray | None = None,
    terms: Terms = TERMS,
):
    """The positions after each fill and what is seen at each close; `starts` makes it an agent's account.

    `given` are the positions that are really held at the closes, NaN where the account's own is right.
    """
    own, clock, terms = accounts.make_accounts([terms], starts_flat=[starts is not None], delay_bars=delay_bars)
    given = np.full(len(bars), np.nan) if given is None else given
    starts = np.zeros(len(bars), bool) if starts is None else starts
    seen, filled, known = np.zeros((1, 3)), [], []
    time = bars["open_time"].to_numpy()
    closes = bars["closes_positions"].to_numpy(bool) if "closes_positions" in bars else np.zeros(len(bars), bool)
    number = bars["bar_number"].to_numpy() if "bar_number" in bars else time // 60_000
    for i, row in enumerate(bars[["open", "close", "volume", "quote_volume"]].to_numpy()):
        is_after_gap = i > 0 and number[i] - number[i - 1] != 1
        own[0, accounts.GIVEN] = given[i]
        accounts.take_bar(own, clock, terms, (float(time[i]), *row), is_after_gap, bool(closes[i]), seen)
        filled.append(own[0, accounts.FILLED])
        known.append(seen[0].copy())
        accounts.decide(own, clock, terms, targets[i : i + 1], bool(starts[i]))
    return np.array(filled), np.array(known)


def compare(bars: pd.DataFrame, *, delay_bars: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets = np.where(rng.random(len(bars)) < 0.1, np.nan, rng.uniform(-1, 1, len(bars)))
    expected = trade(targets, find_fills(bars, delay_bars=delay_bars), TERMS).position
    filled, _ = follow(bars, targets, delay_bars=delay_bars)
    wait = delay_bars + 1
    gaps = np.flatnonzero(np.diff(bars["segment"])) + 1 if "bar_number" not in bars else []
    place = np.arange(len(bars) - wait)
    for gap in gaps:  # orders that lapse there are filled together
        place = place[(place < gap - wait) | (place >= gap)]
    assert len(place) > len(bars) / 2
    np.testing.assert_array_equal(filled[place + wait], expected[place])
    assert np.unique(filled).size > 20


@pytest.mark.parametrize("delay_bars", [0, 1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_positions_are_those_of_the_backtest_over_gaps_and_bars_without_trades(delay_bars, seed):
    bars = make_bars(300, seed=seed, idle_share=0.2, missing=(40, 41, 42, 150, 160, 230))
    compare(bars, delay_bars=delay_bars, seed=seed)


def test_positions_close_at_the_last_open_of_a_session():
    bars = make_bars(200, seed=1)
    number = np.arange(len(bars))
    bars = bars.assign(bar_number=number, closes_positions=number % 20 == 19, segment=0)
    compare(bars, delay_bars=0, seed=1)
    compare(bars, delay_bars=2, seed=2)


@pytest.mark.parametrize("delay_bars", [0, 2])
def test_an_agent_sees_the_account_of_its_rollout(delay_bars):
    bars = make_bars(260, seed=5, missing=(120,))
    rng = np.random.default_rng(5)
    first = bars.groupby("segment")["open_time"].transform("rank").to_numpy()
    has_features = first > 15
    starts = first == 16
    targets = np.where(has_features, rng.uniform(-1, 1, len(bars)), np.nan)
    _, known = follow(bars, targets, delay_bars=delay_bars, starts=starts)
    known[:, 2] = np.log1p(known[:, 2])
    known[starts] = 0.0
    rows = np.flatnonzero(has_features)
    fills = find_fills(bars, delay_bars=delay_bars).take(rows)
    expected = follow_account(targets[rows], starts[rows], fills, TERMS)
    np.testing.assert_array_equal(known[rows].astype(np.float32), expected)
    assert (expected[:, 2] > 0).mean() > 0.3
