"""What labels could have earned at the quotes: by hand, and as the backtest with half spreads earns it."""

import numpy as np
import pandas as pd
import pytest

from pipeline.fills import CLOSES, FILLS, Fills
from pipeline.orderbook.executable import measure_executable
from pipeline.trading import make_terms, trade

ASK = np.array([101.0, 102.0, 103.0, 105.0, 0.0, 104.0])
BID = np.array([99.0, 100.0, 101.0, 104.0, 103.0, 103.0])
CLEAN = pd.DataFrame(
    {"segment": np.int32([0, 0, 0, 0, 0, 1]), "event": 10 * np.arange(6), "ask_price_1": ASK, "bid_price_1": BID}
)


def execute(rows, ends, *, delay_bars=0, cost_bps=0.0):
    rows, event = np.array(rows), CLEAN["event"].to_numpy()
    own = {"segment": CLEAN["segment"].to_numpy()[rows], "time": event[rows], "label_end": event[np.array(ends)]}
    return measure_executable(CLEAN, **own, delay_bars=delay_bars, cost_bps=cost_bps)


def test_a_long_trade_buys_at_the_next_ask_and_sells_at_the_bid_after_the_end_of_its_label():
    found = execute([0], [2])  # at event 1, until event 3
    assert found.long[0] == pytest.approx(104 / 102 - 1)
    assert found.short[0] == pytest.approx(1 - 105 / 100)
    assert found.move[0] == pytest.approx(104.5 / 101 - 1)
    assert found.half_spread[0] == pytest.approx((1 / 101 + 0.5 / 104.5) / 2)


def test_fees_are_charged_on_the_value_of_both_sides():
    found = execute([0], [2], cost_bps=10.0)
    assert found.long[0] == pytest.approx(104 / 102 - 1 - 0.001 * (1 + 104 / 102))
    assert found.short[0] == pytest.approx(1 - 1.05 - 0.001 * (1 + 1.05))


def test_a_delay_moves_both_executions():
    found = execute([0, 0], [1, 2], delay_bars=1)
    assert found.long[0] == pytest.approx(104 / 103 - 1)
    assert np.isnan(found.long[1])  # event 4 has no ask


def test_a_trade_without_quotes_or_beyond_its_segment_has_no_return():
    found = execute([0, 3, 3, 5], [3, 4, 3, 5])  # no ask at the end; the next segment; no ask at the entry; the last
    for values in (found.long, found.short, found.move, found.half_spread):
        assert np.isnan(values).all()


def test_a_trade_at_the_quotes_is_that_of_the_backtest_with_half_spreads():
    rng, count, terms = np.random.default_rng(0), 40, make_terms(fee_bps=2.0, slippage_bps=0.0, no_trade_band=0.4)
    mid, half_spread = 100 + 0.02 * rng.normal(size=count).cumsum(), 1e-4 * rng.uniform(0.5, 2, count)
    clean = pd.DataFrame({"segment": np.int32(0), "event": np.arange(count)})
    clean = clean.assign(ask_price_1=mid * (1 + half_spread), bid_price_1=mid * (1 - half_spread))
    where = {"segment": np.zeros(1, np.int32), "time": np.array([4]), "label_end": np.array([20])}
    found = measure_executable(clean, **where, delay_bars=0, cost_bps=2.0)
    place = np.minimum(np.arange(count) + 1, count - 1)
    nothing, outcome = np.zeros(count), np.full(count, FILLS, np.int8)
    outcome[-1] = CLOSES
    move = mid[np.append(place[1:], place[-1])] / mid[place] - 1
    fills = Fills(move, nothing, nothing, outcome, nothing > 0, half_spread=half_spread[place])
    for side, net in ((1.0, found.long[0]), (-1.0, found.short[0])):
        target = np.where((np.arange(count) >= 4) & (np.arange(count) < 20), side / 2, 0.0)
        earned = np.prod(1 + trade(target, fills, terms).net) - 1  # the units are held, within the band
        assert 2 * earned == pytest.approx(net, abs=5e-7)  # half spreads are of the mid, returns of the quote
