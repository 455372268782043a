"""Labels of an order book: by hand, by a second slower method, and as measured on the real day."""

import numpy as np
import pandas as pd
import pytest

from pipeline import config
from pipeline.orderbook.labels import describe_target, make_labels, smoothed
from pipeline.samples import Samples
from pipeline.stages.baseline import find_previous_labels
from pipeline.targets import Target
from tests.orderbook_events import REAL_DAY, needs_real_day

BOOK = {"window": 10, "horizon": 50}


def make_clean(mid, *, half_spread=0.5, segment=None, symbol="A", first_event=100) -> pd.DataFrame:
    """A clean table whose quotes are `half_spread`, in the price, beside the mid; every third number is an event."""
    mid = np.asarray(mid, np.float64)
    return pd.DataFrame(
        {
            "symbol": symbol,
            "segment": np.zeros(len(mid), np.int32) if segment is None else np.int32(segment),
            "event": first_event + 3 * np.arange(len(mid)),
            "close": mid,
            "half_spread": half_spread / mid,
            "ask_price_1": mid + half_spread,
            "bid_price_1": mid - half_spread,
        }
    )


def walk(rows: int, *, seed: int = 0) -> np.ndarray:
    """Mids of a random walk on half ticks of 0.5."""
    return 1000 + 0.5 * np.cumsum(np.random.default_rng(seed).integers(-1, 2, rows))


@pytest.fixture(scope="module")
def real_day() -> pd.DataFrame:
    quotes = pd.read_parquet(REAL_DAY, columns=["ask_price_1", "bid_price_1"]) / 1e4
    mid = quotes.mean(axis=1)
    half_spread = (quotes["ask_price_1"] - quotes["bid_price_1"]) / 2 / mid
    clean = {"symbol": "GOOG", "segment": np.int32(0), "event": np.arange(len(mid)), "close": mid}
    return quotes.assign(**clean, half_spread=half_spread)


def test_the_smoothed_move_is_that_between_the_means_of_two_windows():
    mid = walk(60)
    move, known_at = smoothed(mid, window=4, horizon=7)
    for row in range(60):
        if row < 3 or row + 7 >= 60:
            assert np.isnan(move[row]) and known_at[row] == -1
        else:
            past, future = mid[row - 3 : row + 1].mean(), mid[row + 4 : row + 8].mean()
            assert move[row] == pytest.approx(future / past - 1, abs=1e-12)
            assert known_at[row] == row + 7


def test_a_smoothed_move_is_known_when_its_window_ends_and_no_later_mid_changes_it():
    mid = walk(200)
    move, known_at = smoothed(mid, window=10, horizon=20)
    altered = mid.copy()
    altered[150:] += 7.0
    now, _ = smoothed(altered, window=10, horizon=20)
    known = (known_at >= 0) & (known_at < 150)
    assert np.array_equal(now[known], move[known]) and not np.array_equal(now[130:170], move[130:170])


def test_equal_mids_have_a_smoothed_move_of_exactly_zero():
    move, _ = smoothed(np.array([0.1, 0.3, 0.7, 0.3, 0.7, 0.1, 0.7, 0.1, 0.3]), window=3, horizon=3)
    assert move[[2, 5]].tolist() == [0.0, 0.0] and move[3] != 0


@pytest.mark.parametrize(
    "wrong", [{"window": 0, "horizon": 5}, {"window": 5, "horizon": 0}, {"window": 2.0, "horizon": 5}]
)
def test_a_window_or_horizon_below_one_is_refused(wrong):
    with pytest.raises(ValueError, match="at least 1"):
        smoothed(walk(20), **wrong)


MEASURED = [  # horizon; α in mean half spreads; down, flat, up; the label of as many rows ago; the last known label
    (10, 0.07, (0.27, 0.50, 0.23), 0.438, 0.536),
    (20, 0.12, (0.30, 0.44, 0.26), 0.416, 0.468),
    (50, 0.22, (0.34, 0.37, 0.29), 0.399, 0.415),
    (100, 0.35, (0.37, 0.33, 0.30), 0.380, 0.389),
]


@needs_real_day
@pytest.mark.parametrize(("horizon", "alpha", "shares", "apart", "known"), MEASURED)
def test_the_smoothed_labels_of_the_real_day_have_the_shares_that_were_measured(
    real_day, horizon, alpha, shares, apart, known
):
    move, known_at = smoothed(real_day["close"].to_numpy(), window=10, horizon=horizon)
    move = move[known_at >= 0]
    limit = np.abs(move).mean() / 2
    assert limit / real_day["half_spread"].mean() == pytest.approx(alpha, abs=0.0051)
    y = np.select([move < -limit, move > limit], [0, 2], 1)
    assert np.bincount(y) / len(y) == pytest.approx(shares, abs=0.0051)
    lag = horizon + 10  # the last label that shares no mid with the row's own: the windows do not touch
    assert np.mean(y[lag:] == y[:-lag]) == pytest.approx(apart, abs=0.00051)
    assert np.mean(y[horizon:] == y[:-horizon]) == pytest.approx(known, abs=0.00051)


@needs_real_day
def test_the_baseline_repeats_the_last_label_that_is_known_at_the_event(real_day):
    block = {"kind": "smoothed", "alpha": {"mean": 0.5, "least_known": 1}, **BOOK}
    table = make_labels(real_day.iloc[:5000], block).table
    zeros = np.zeros((len(table), 1), np.float32)
    samples = Samples(
        *(table[name].to_numpy() for name in ("time", "label_end", "segment")), zeros, ("x",), table["y"].to_numpy()
    )
    previous = find_previous_labels(samples)
    assert np.isnan(previous[:50]).all() and np.array_equal(previous[50:], table["y"].to_numpy()[:-50])


def test_a_smoothed_class_is_up_beyond_alpha_and_flat_at_it():
    mid = np.array([100.0, 100.0, 100.0, 101.0, 100.5, 99.0])
    block = {"kind": "smoothed", "window": 1, "horizon": 1, "alpha": {"half_spreads": 1.0}}
    found = make_labels(make_clean(mid, half_spread=1.0), block)
    assert found.table["y"].tolist() == [1, 1, 1, 1, 0]  # 1.0 up and 0.5 down are within a half spread; 1.5 is not
    assert found.ties == 1
    assert found.table["label_end"].tolist() == [103, 106, 109, 112, 115]
    assert found.table["raw"].iloc[2] == pytest.approx(np.log(1.01))


def test_alpha_by_share_is_the_quantile_of_the_moves_that_are_known_at_the_row():
    clean = pd.concat([make_clean(walk(150), symbol="A"), make_clean(walk(150, seed=1), symbol="B")], ignore_index=True)
    clean["segment"] = np.int32(np.repeat([0, 1, 2], [80, 70, 150]))
    clean["event"] = np.arange(300)
    block = {"kind": "smoothed", "window": 3, "horizon": 5, "alpha": {"share": 0.4, "least_known": 10}}
    found = make_labels(clean, block)
    move = np.concatenate(
        [smoothed(clean["close"].to_numpy()[a:b], window=3, horizon=5)[0] for a, b in ((0, 80), (80, 150), (150, 300))]
    )
    symbol, expected = clean["symbol"].to_numpy(), {}
    for row in np.flatnonzero(~np.isnan(move)):
        known = [abs(move[i]) for i in range(row - 4) if symbol[i] == symbol[row] and not np.isnan(move[i])]
        if len(known) >= 10:
            limit = np.sort(known)[int(np.ceil(0.4 * len(known))) - 1]
            expected[row] = 1 if abs(move[row]) <= limit + 1e-12 else 2 if move[row] > 0 else 0
    assert dict(zip(found.table["row"], found.table["y"], strict=True)) == expected
    assert found.lost == {"book_invalid": 0, "smoothing_window": 6, "label_horizon": 15, "alpha_warm_up": 28}
    assert len(found.table) + sum(found.lost.values()) == 300


@pytest.mark.parametrize(
    "block",
    [
        {"kind": "smoothed", "window": 4, "horizon": 9, "alpha": {"share": 0.4, "least_known": 5}},
        {"kind": "smoothed", "window": 4, "horizon": 9, "alpha": {"mean": 0.5, "least_known": 5}},
        {"kind": "smoothed_return", "window": 4, "horizon": 9},
        {"kind": "return", "horizon": 9},
        {"kind": "barrier", "horizon": 9, "profit": 2.0, "stop": 1.0},
        {"kind": "opportunity", "horizon": 9, "threshold": 2.0, "conflict": "larger"},
        {"kind": "large_move", "horizon": 9, "threshold": 2.0},
    ],
)
def test_no_label_depends_on_an_event_after_its_end_and_every_lost_row_has_one_cause(block):
    clean = make_clean(walk(300), segment=np.repeat([0, 1], [120, 180]))
    clean.loc[[7, 200], "ask_price_1"] = 0.0
    whole, part = make_labels(clean, block), make_labels(clean[:250], block).table
    assert len(whole.table) + sum(whole.lost.values()) == 300
    assert whole.lost["book_invalid"] == 2 and not whole.table["row"].isin([7, 200]).any()
    ended = whole.table[whole.table["label_end"] < clean["event"][250]]
    merged = part.merge(ended, on="row", suffixes=("", "_whole"))
    assert len(merged) and merged["y"].equals(merged["y_whole"])
    assert (merged["label_end"] == merged["label_end_whole"]).all() and len(part) <= len(ended)
    ends = np.searchsorted(clean["event"], whole.table["label_end"])
    assert np.array_equal(clean["segment"].to_numpy()[ends], whole.table["segment"])


def test_a_barrier_label_ends_at_the_first_touch_and_is_flat_without_one():
    mid = [100.0, 100.5, 101.0, 99.0, 100.0, 100.0, 100.0, 100.0, 100.0, 100.0]
    found = make_labels(make_clean(mid), {"kind": "barrier", "horizon": 3, "profit": 2.0, "stop": 2.0})
    assert found.table["y"].tolist() == [2, 0, 0, 2, 1, 1, 1]  # row 0: exactly 1.0 up at row 2; a half spread is 0.5
    assert ((found.table["label_end"] - found.table["time"]) // 3).tolist() == [2, 2, 1, 1, 3, 3, 3]
    assert found.ties == 2
    assert found.table["raw"].iloc[0] == pytest.approx(np.log(1.01))


@pytest.mark.parametrize(("unit", "profit"), [("half_spreads", 3.0), ("bps", 150.0), ("price", 1.5)])
def test_barriers_are_asymmetric_and_have_three_units(unit, profit):
    mid = [100.0, 98.0, 101.4, 101.5, 100.0]
    block = {"kind": "barrier", "horizon": 4, "profit": profit, "stop": 2.5 * profit, "unit": unit}
    found = make_labels(make_clean(mid), block).table
    assert found["y"].tolist() == [2] and found["label_end"].tolist() == [109]


@pytest.mark.parametrize(
    ("mid", "first", "larger"),
    [
        ([100, 101, 98, 100], 2, 0),  # up first, but further down
        ([100, 99, 101, 100], 0, 1),  # equally far: none by excursion
        ([100, 100.5, 99.5, 100], 1, 1),
        ([100, 100.5, 98, 100], 0, 0),
    ],
)
def test_an_opportunity_is_the_first_crossing_or_the_larger_excursion(mid, first, larger):
    block = {"kind": "opportunity", "horizon": 3, "threshold": 2.0}
    assert make_labels(make_clean(mid), block).table["y"].tolist() == [first]
    by_size = make_labels(make_clean(mid), block | {"conflict": "larger"})
    assert by_size.table["y"].tolist() == [larger] and by_size.table["label_end"].tolist() == [109]
    assert by_size.ties == (mid[1] == 99)
    large = make_labels(make_clean(mid), {**block, "kind": "large_move"})
    assert large.table["y"].tolist() == [int(first != 1)]


def test_returns_are_in_half_spreads_of_the_row_and_clipped_where_the_target_says_so():
    clean = make_clean([100.0, 102.0, 99.0])
    found = make_labels(clean, {"kind": "return", "horizon": 1, "clip_half_spreads": 5.0})
    assert found.table["raw"].tolist() == pytest.approx(np.log([1.02, 99 / 102]))
    assert found.table["y"].tolist() == pytest.approx([np.log(1.02) / 0.005, -5.0])
    assert found.clipped == 1 and found.largest == pytest.approx(-np.log(99 / 102) / (0.5 / 102))


@pytest.mark.parametrize(
    ("alpha", "message"),
    [
        ({"share": 0.4}, "half_spreads alone, or least_known with one of share and mean"),
        ({"half_spreads": 0.2, "least_known": 5}, "half_spreads alone"),
        ({"half_spreads": 0.2, "mean": 0.5}, "half_spreads alone"),
        ({"half_spread": 0.2}, "unknown key 'half_spread'"),
        ({"share": 1.5, "least_known": 5}, "alpha.share is 1.5"),
    ],
)
def test_a_wrong_alpha_is_named_with_what_is_allowed(alpha, message):
    block = {"kind": "smoothed", "alpha": alpha, **BOOK}
    with pytest.raises(config.ParamsError, match=message):
        make_labels(make_clean(walk(100)), block, name="targets.s")


def test_a_target_says_what_its_strategy_is_and_one_of_klines_says_nothing_of_it(tmp_path):
    block = {"kind": "barrier", "horizon": 30, "profit": 2.0, "stop": 1.0, "unit": "bps"}
    described = describe_target(block, name="barrier_30", path="targets.barrier_30")
    assert described.strategy == {"kind": "barrier", "profit": 2.0, "stop": 1.0, "unit": "bps"}
    assert described.horizon_bars == 30 and described.output.neutral_class == "flat"
    table = pd.DataFrame({"y": [1.0]})
    table.attrs.update(described.attributes)
    table.to_parquet(tmp_path / "labels.parquet")
    assert Target.load(tmp_path / "labels.parquet") == described
    plain = Target(name="return_5", horizon_bars=5, output=described.output)
    assert list(plain.attributes["target"]) == ["name", "horizon_bars", "output"]
    with pytest.raises(config.ParamsError, match="smoothed, smoothed_return, return, barrier, opportunity, large_move"):
        describe_target({"kind": "trend"}, name="x", path="targets.x")
