"""A position that is really held takes the place of the one that an account assumes, from a close on."""

import io
import json

import numpy as np
import pandas as pd
import pytest

from pipeline.deployment.feeds.json_lines import read_json_lines
from pipeline.deployment.feeds.runner import feed
from pipeline.deployment.feeds.tally import Tally
from pipeline.deployment.hot_path import HotPath
from pipeline.trading import make_terms
from tests import bundles
from tests.bundles import SYMBOL, list_bars, make_bars
from tests.feeds import to_line
from tests.test_accounts import follow

TABLE = make_bars(160, missing=(90, 91))
BARS = list_bars(TABLE)
FREE = make_terms(fee_bps=0, slippage_bps=0)
BAND = 0.3


@pytest.fixture(scope="module", params=[0, 2])
def folder(request, tmp_path_factory):
    return bundles.write_bundle(tmp_path_factory.mktemp("bundle"), bundles.describe(delay_bars=request.param))


def make_prices(*opens: float) -> pd.DataFrame:
    """Bars that close as they open, with trades."""
    place = np.arange(len(opens))
    bars = {"symbol": SYMBOL, "segment": 0, "open_time": place * 60_000, "open": opens, "close": opens}
    return pd.DataFrame(bars | {"volume": 1.0, "quote_volume": 1e9})


def test_a_given_position_is_seen_and_drifts_and_the_next_order_starts_from_it():
    bars = make_prices(100.0, 100.0, 100.0, 110.0, 110.0)
    targets = np.array([1.0, 1.0, 0.5, -0.5, 0.0])
    given = np.array([np.nan, np.nan, 0.4, np.nan, np.nan])
    terms = make_terms(fee_bps=0, slippage_bps=0, no_trade_band=0.3)
    filled, seen = follow(bars, targets, delay_bars=0, given=given, terms=terms)
    held = 0.4 * 1.1 / 1.04  # of a capital of 1.04
    np.testing.assert_allclose(filled, [0, 1, 0.4, held, -0.5], rtol=1e-15)  # 0.5 is within the band of it
    np.testing.assert_allclose(seen, [[0, 0, 0], [1, 0, 1], [0.4, 0, 2], [held, 0.04, 3], [-0.5, 0, 1]], atol=1e-15)


@pytest.mark.parametrize(("given", "seen"), [(-0.2, [-0.2, 0, 1]), (0.0, [0, 0, 0]), (0.7, [0.7, 0.1, 2])])
def test_return_and_age_go_on_where_the_side_is_the_same(given, seen):
    bars, targets = make_prices(100.0, 100.0, 110.0, 110.0), np.array([1.0, 1.0, 1.0, 1.0])
    found = follow(bars, targets, delay_bars=0, given=np.array([np.nan, np.nan, given, np.nan]), terms=FREE)[1]
    np.testing.assert_allclose(found[:3], [[0, 0, 0], [1, 0, 1], seen], atol=1e-15)


@pytest.mark.parametrize("delay_bars", [0, 2])
def test_weights_are_those_of_units_and_cash(delay_bars):
    rng, bars = np.random.default_rng(3), make_bars(200, seed=3, idle_share=0.1, missing=(70,))
    targets, given = rng.uniform(-1, 1, 199), np.where(rng.random(199) < 0.3, rng.uniform(-1, 1, 199), np.nan)
    _, seen = follow(bars, targets, delay_bars=delay_bars, given=given, terms=FREE)
    cash, units, queue, expected = 1.0, 0.0, [], []
    gap = np.append(False, np.diff(bars["segment"]) != 0)
    for i, (opened, close, volume) in enumerate(bars[["open", "close", "volume"]].to_numpy()):
        if gap[i]:
            queue = []
        elif len(queue) > delay_bars:
            target, after_gap = queue.pop(0)
            if volume > 0:
                capital = cash + units * opened
                units = (0.0 if after_gap else target) * capital / opened
                cash = capital - units * opened
        capital = cash + units * close
        if given[i] == given[i]:
            units = given[i] * capital / close
            cash = capital - units * close
        expected.append(units * close / (cash + units * close))
        queue.append((targets[i], gap[i]))
    np.testing.assert_allclose(seen[:, 0], expected, rtol=1e-9, atol=1e-12)


def test_a_given_position_that_is_the_accounts_own_changes_no_bit(folder):
    alone, given = HotPath.load(folder), HotPath.load(folder)
    lane = alone.lanes[SYMBOL]
    for bar in BARS:
        expected = alone.update(bar)
        for name, position in zip(lane.names, lane.seen[:, 0].tolist(), strict=True):
            given.set_position(SYMBOL, position, model=name)
        found = given.update(bar)
        assert (found and found.to_dict()) == (expected and expected.to_dict())
    assert given.counts == alone.counts | {"given_positions": len(BARS) * len(lane.names)}
    ours, theirs = given.state(), alone.state()
    assert [
        key for key in ours if not np.array_equal(ours[key], theirs[key], equal_nan=ours[key].dtype.kind == "f")
    ] == ["counts"]


def test_the_band_and_an_agent_start_from_the_given_position(tmp_path):
    folder = bundles.write_bundle(tmp_path, bundles.describe() | {"signal": "agent"})
    hot_path, rng = HotPath.load(folder), np.random.default_rng(0)
    lane, width = hot_path.lanes[SYMBOL], len(hot_path.contract.models["agent"].columns)
    signals = 0
    for bar in BARS:
        position = float(rng.uniform(-1, 1))
        if signal := hot_path.update(bar | {"position": position}):
            assert signal.position == signal.models["agent"].position == position
            assert signal.trades == (abs(signal.target - position) > BAND)
            begin = lane.plan[list(lane.models).index("agent"), 0]
            assert lane.inputs[begin + width] == np.float32(position)
            signals += 1
    assert signals > 80 and hot_path.counts["given_positions"] == len(BARS)


def test_the_accounts_of_other_models_have_the_bits_of_before(folder):
    alone, given = HotPath.load(folder), HotPath.load(folder)
    for bar in BARS:
        expected, found = alone.update(bar), given.update(bar | {"position": 0.123})
        if found:
            assert found.to_dict()["models"] == expected.to_dict()["models"]
            assert found.target == expected.target and found.position == 0.123


def test_a_position_waits_for_its_bar_in_the_state(folder):
    one, other = HotPath.load(folder), HotPath.load(folder)
    for bar in BARS[:60]:
        one.update(bar)
    one.set_position(SYMBOL, 0.9)
    one.set_position(SYMBOL, -0.7)  # replaces it
    other.restore(one.state())
    for bar in BARS[60:80]:
        assert one.update(bar).to_dict() == other.update(bar).to_dict()
    resumed = HotPath.load(folder)
    resumed.restore(one.state())
    assert resumed.counts == one.counts == other.counts


@pytest.mark.parametrize("position", [float("nan"), 1e9, -11, True, "0.4", [0.4]])
def test_what_is_no_weight_is_refused_and_changes_nothing(folder, position):
    hot_path = HotPath.load(folder)
    for bar in BARS[:30]:
        hot_path.update(bar)
    before = hot_path.state()
    for refused in (
        lambda: hot_path.set_position(SYMBOL, position),
        lambda: hot_path.update(BARS[30] | {"position": position}),
    ):
        with pytest.raises(ValueError, match=r"position is .*; allowed is a weight") as error:
            refused()
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="processed"):  # a bar that is refused takes its position along
        hot_path.update(BARS[29] | {"position": 0.5})
    after = hot_path.state()
    assert all(np.array_equal(before[key], after[key], equal_nan=before[key].dtype.kind == "f") for key in before)


def test_an_unknown_symbol_or_model_has_no_account(folder):
    hot_path = HotPath.load(folder)
    with pytest.raises(ValueError, match="symbol is 'ETHUSDT'; this bundle is for BTCUSDT"):
        hot_path.set_position("ETHUSDT", 0.5)
    with pytest.raises(ValueError, match="no account of 'nobody'; allowed are value, classes"):
        hot_path.set_position(SYMBOL, 0.5, model="nobody")


def test_lines_with_a_position_are_fed_between_bars(folder):
    lines, expected = [], []
    hot_path = HotPath.load(folder)
    for place, bar in enumerate(BARS[:60]):
        if place % 7 == 3:
            lines.append(to_line({"symbol": SYMBOL, "position": place / 100}))
            hot_path.set_position(SYMBOL, place / 100)
        if place % 7 == 5:
            lines.append(to_line({"symbol": SYMBOL, "position": -0.5, "model": "agent"}))
            hot_path.set_position(SYMBOL, -0.5, model="agent")
        with_own = bar | ({"position": 0.25} if place % 10 == 0 else {})
        lines.append(to_line(with_own))
        if signal := hot_path.update(with_own):
            expected.append(json.dumps(signal.to_dict()) + "\n")
    wrong = [{"position": 0.5}, {"symbol": SYMBOL, "position": 40.0}, {"symbol": SYMBOL, "position": 0.5, "units": 3}]
    lines += map(to_line, wrong)
    tally, written = Tally(), []
    fed = HotPath.load(folder)
    tally.hot_path = fed.counts
    feed(fed, read_json_lines(io.BytesIO(b"".join(lines)), tally=tally), write=written.append, tally=tally)
    assert written == expected
    assert tally.summarize()["refused"] == {"invalid": 2, "other_symbol": 1}
    assert tally.bars == 60 and tally.summarize()["hot_path"]["given_positions"] == 9 + 8 + 6
