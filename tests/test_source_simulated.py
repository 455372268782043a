import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.evaluation.liquidity import estimate_roll
from pipeline.market import bars, simulated
from pipeline.market.simulated_moves import FLOW_CORRELATION, MarketSettings

BLOCK = {"symbols": ["BTCUSDT"], "interval": "1m", "start": "2024-01-01", "days": 20, "signal": 0.05}
BLOCK |= {"predictor": "flow", "half_life_bars": 5.0, "spread_bps": 0.0, "idle_share": 0.0005, "seed": 42}
MARKET = ("symbols", "interval", "start", "days")  # keys that no MarketSettings has
SEEDS = range(20)


def simulate_market(**changes: object) -> pd.DataFrame:
    return simulated.load(**{**BLOCK, **changes})[0]


def simulate_with_truth(**changes: object) -> tuple[pd.DataFrame, pd.DataFrame]:
    block = {**BLOCK, **changes}
    market = {key: block.pop(key) for key in MARKET}
    return simulated.simulate(MarketSettings(**block), **market)


@pytest.fixture(scope="module")
def ninety_days() -> pd.DataFrame:
    return simulate_market(days=90)


def take_returns(table: pd.DataFrame) -> np.ndarray:
    """Return (N-1,) simple returns of one symbol."""
    return table["close"].pct_change().to_numpy()[1:]


def measure_imbalance(table: pd.DataFrame) -> np.ndarray:
    share = (table["taker_buy_base"] / table["volume"]).fillna(0.5)
    return 2 * share.to_numpy() - 1


def correlate(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.corrcoef(first, second)[0, 1])


def score_prediction(known: np.ndarray, after: np.ndarray) -> float:
    """Return a z-score, standard normal if `after` is a martingale difference of any volatility (White 1980)."""
    product = known * after
    return float(product.sum() / np.sqrt((product**2).sum()))


def test_the_table_is_clean_and_covers_the_days_without_a_gap():
    table, report = bars.clean(simulate_market(symbols=["BTCUSDT", "ARBUSDT", "XYZ"]))
    assert (report["rows"], report["segments"]) == (3 * 20 * 1440, 3)
    assert report["irregular_close_time"]["count"] == report["missing_bars"] == 0
    assert table["open_time"].iloc[0] == pd.Timestamp("2024-01-01", tz="UTC").timestamp() * 1000
    assert tuple(table.columns[:-1]) == bars.COLUMNS


@pytest.mark.parametrize(("interval", "rows"), [("1s", 86_400), ("15m", 96), ("4h", 6), ("1d", 1)])
def test_any_whole_fraction_of_a_day_is_an_interval(interval, rows):
    table = simulate_market(interval=interval, days=2)
    assert len(table) == 2 * rows
    assert bars.find_failed_checks(table) == []


@pytest.mark.parametrize("seed", range(5))
def test_every_bar_is_possible(seed):
    table = simulate_market(symbols=["BTCUSDT", "ARBUSDT"], days=5, seed=seed)
    assert (table["quote_volume"] >= table["volume"] * table["low"]).all()
    assert (table["quote_volume"] <= table["volume"] * table["high"]).all()
    same_symbol = table["symbol"].eq(table["symbol"].shift())
    assert (table["open"] == table["close"].shift())[same_symbol].all()
    empty = table[table["volume"] == 0]
    assert len(empty) > 0
    assert (empty["high"] == empty["low"]).all() and (empty["trades"] == 0).all()
    assert (table.loc[table["volume"] > 0, "trades"] > 0).all()


@pytest.mark.parametrize(("symbol", "tick"), [("BTCUSDT", 0.01), ("ETHUSDT", 0.01)])
def test_prices_lie_on_the_tick_grid(symbol, tick):
    table = simulate_market(symbols=[symbol], days=2)
    prices = table[["open", "high", "low", "close"]].to_numpy()
    assert np.array_equal(prices, np.round(np.round(prices / tick) * tick, 2))


def test_the_same_block_writes_the_same_bytes(tmp_path: Path):
    digests = set()
    for name in ("first.parquet", "second.parquet"):
        simulate_market(symbols=["BTCUSDT", "ARBUSDT"], days=3).to_parquet(tmp_path / name)
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize(("predictor", "digest"), [("flow", "fabacd3b84c5ef8f"), ("order", "1a44c5d6181c0582")])
def test_without_a_spread_and_with_half_lives_of_five_bars_the_bytes_are_those_of_the_market_before(predictor, digest):
    table, truth = simulate_with_truth(symbols=["BTCUSDT", "XYZ"], days=2, predictor=predictor, seed=1)
    total = hashlib.sha256()
    for column in [*bars.COLUMNS[1:], *truth.columns[1:]]:
        source = table if column in table else truth
        total.update(np.ascontiguousarray(source[column].to_numpy()).tobytes())
    assert total.hexdigest()[:16] == digest


def test_the_spread_moves_trades_by_half_of_it_beside_the_mid_and_leaves_the_truth():
    (mid, truth), (traded, same) = simulate_with_truth(days=2), simulate_with_truth(days=2, spread_bps=40.0)
    has_trades = (mid["volume"] > 0).to_numpy()
    for name, sides in {"open": (-1, 1), "close": (-1, 1), "high": (1,), "low": (-1,)}.items():
        bps = 1e4 * (traded[name] / mid[name] - 1).to_numpy()[has_trades]
        distance = np.min([np.abs(bps - 20.0 * side) for side in sides], axis=0)
        assert distance.max() < 0.01 if name in ("open", "close") else np.median(distance) < 0.01
    assert (traded["close"] > mid["close"]).mean() == pytest.approx(0.5, abs=0.05)
    pd.testing.assert_frame_equal(truth, same, check_exact=True)


def test_rolls_estimate_recovers_the_spread():
    for spread_bps in (20.0, 40.0):
        table = simulate_market(days=20, spread_bps=spread_bps, signal=0.0)
        roll, _ = estimate_roll(np.log(table["close"].to_numpy()), np.zeros(len(table), dtype=int))
        assert 1e4 * roll == pytest.approx(spread_bps, rel=0.07)


def test_idle_bars_are_flat_at_the_last_close_while_the_mid_moves_on():
    (always, truth), (table, same) = (
        simulate_with_truth(days=5, idle_share=0.0),
        simulate_with_truth(idle_share=0.3, days=5),
    )
    assert bars.find_failed_checks(table) == []
    is_idle = (table["volume"] == 0).to_numpy()
    assert (always["volume"] > 0).all()
    assert is_idle.mean() == pytest.approx(0.3, abs=0.02)
    flat = table[["open", "high", "low", "close"]].to_numpy()[is_idle]
    last = table["close"].shift(fill_value=42_000.0).to_numpy()[is_idle]
    assert (flat == last[:, None]).all()
    assert (table.loc[is_idle, ["quote_volume", "trades", "taker_buy_base", "taker_buy_quote"]] == 0).all().all()
    whole, part = (frame["close"].iloc[-1] / frame["open"].iloc[0] for frame in (always, table))
    assert part == pytest.approx(whole, rel=0.01)  # halts alone separate the two mids
    np.testing.assert_allclose(same["expected_return"], truth["expected_return"] * 0.9995, rtol=1e-12)


def test_a_market_with_a_spread_and_idle_bars_begins_with_the_shorter_one_whatever_the_other_symbols():
    changes = {"spread_bps": 15.0, "idle_share": 0.2}
    short = simulate_market(days=2, **changes)
    long = simulate_market(days=3, symbols=["ARBUSDT", "BTCUSDT"], **changes)
    part = long[long["symbol"] == "BTCUSDT"].reset_index(drop=True)
    pd.testing.assert_frame_equal(short, part.iloc[: len(short)], check_exact=True)


@pytest.mark.parametrize("half_life_bars", [5.0, 30.0])
def test_the_autocorrelation_of_the_true_mean_halves_in_half_life_bars(half_life_bars):
    _, truth = simulate_with_truth(days=90, half_life_bars=half_life_bars)
    flow = (truth["expected_return"] / truth["volatility"]).to_numpy()
    lag = int(half_life_bars)
    assert correlate(flow[lag:], flow[:-lag]) == pytest.approx(0.5, abs=0.03)


def test_another_seed_is_another_market():
    assert not np.array_equal(take_returns(simulate_market(days=1)), take_returns(simulate_market(days=1, seed=43)))


def test_a_longer_market_begins_with_the_shorter_one():
    short, long = simulate_market(days=2), simulate_market(days=5)
    pd.testing.assert_frame_equal(short, long.iloc[: len(short)], check_exact=True)


def test_a_symbol_does_not_depend_on_the_other_symbols():
    alone, among = simulate_market(days=2), simulate_market(days=2, symbols=["ARBUSDT", "BTCUSDT"])
    pd.testing.assert_frame_equal(alone, among[among["symbol"] == "BTCUSDT"].reset_index(drop=True), check_exact=True)


def test_symbols_are_correlated_but_not_equal():
    table = simulate_market(symbols=["BTCUSDT", "ARBUSDT"])
    first, second = (take_returns(part) for _, part in table.groupby("symbol"))
    assert 0.3 < correlate(first, second) < 0.7


def test_returns_have_the_volatility_tails_and_clustering_of_real_ones(ninety_days):
    r = take_returns(ninety_days)
    assert 0.02 < r.std() * np.sqrt(1440) < 0.04
    assert (r**4).mean() / (r**2).mean() ** 2 > 8
    by_lag = [correlate(np.abs(r[lag:]), np.abs(r[:-lag])) for lag in (1, 60, 1440)]
    assert by_lag[0] > 0.2 and by_lag[1] > 0.1 and by_lag[2] > 0.03


def test_the_range_gives_the_same_volatility_as_the_closes(ninety_days):
    log_range = np.log(ninety_days["high"] / ninety_days["low"])
    parkinson = np.sqrt((log_range**2).mean() / (4 * np.log(2)))
    assert parkinson == pytest.approx(take_returns(ninety_days).std(), rel=0.05)


def test_volume_is_u_shaped_over_the_day_and_correlated_with_the_size_of_moves(ninety_days):
    hour = (ninety_days["open_time"] // 3_600_000) % 24
    by_hour = ninety_days["volume"].groupby(hour).median()
    assert by_hour[[0, 23]].min() > 1.5 * by_hour[[11, 12]].max()
    assert correlate(ninety_days["volume"].to_numpy()[1:], np.abs(take_returns(ninety_days))) > 0.3


@pytest.mark.parametrize("predictor", list(FLOW_CORRELATION))
@pytest.mark.parametrize("signal", [0.02, 0.05, 0.3])
def test_the_true_mean_explains_the_share_signal_of_the_next_return(signal, predictor):
    block = {"signal": signal, "predictor": predictor, "days": 90}
    shares = []
    for seed in range(3):
        table, truth = simulate_with_truth(**block, seed=seed)
        shares.append(correlate(truth["expected_return"].to_numpy()[:-1], take_returns(table)) ** 2)
    assert np.mean(shares) == pytest.approx(signal, rel=0.15)


def test_the_true_volatility_is_that_of_the_next_bar(ninety_days):
    _, truth = simulate_with_truth(days=90)
    shock = (take_returns(ninety_days) - truth["expected_return"].to_numpy()[:-1]) / truth["volatility"].to_numpy()[:-1]
    assert (shock**2).mean() == pytest.approx(0.95, rel=0.05)  # signal 0.05 leaves 95 %
    assert abs(correlate(np.abs(shock[1:]), np.abs(shock[:-1]))) < 0.01


def test_imbalance_predicts_returns_where_there_is_a_signal(ninety_days):
    assert correlate(measure_imbalance(ninety_days)[:-1], take_returns(ninety_days)) > 0.08


def test_only_the_order_of_the_last_bars_predicts_returns_where_order_is_the_predictor():
    table = simulate_market(days=90, predictor="order")
    flow, r = np.arctanh(0.999 * measure_imbalance(table)), take_returns(table)
    last = np.lib.stride_tricks.sliding_window_view(flow, 20)[:-1]  # (bars, 20), the latest last
    ordered = last[:, 15:].sum(axis=1) - last[:, 5:15].sum(axis=1) + last[:, :5].sum(axis=1)
    assert correlate(ordered, r[19:]) > 0.1
    assert abs(correlate(last.sum(axis=1), r[19:])) < 0.03


@pytest.mark.parametrize("predictor", list(FLOW_CORRELATION))
def test_nothing_predicts_returns_without_a_signal(predictor):
    scores = []
    for seed in SEEDS:
        table = simulate_market(signal=0.0, predictor=predictor, seed=seed)
        r, flow, volume = take_returns(table), measure_imbalance(table), np.log1p(table["volume"].to_numpy())
        lagged = [score_prediction(r[:-lag], r[lag:]) for lag in (1, 2, 5, 15, 60)]
        scores.append(
            [
                *lagged,
                score_prediction(flow[:-1], r),
                score_prediction(volume[:-1] - volume.mean(), r),
                score_prediction(flow[:-1], np.sign(r)),
            ]
        )
    scores = np.array(scores)  # (seeds, statistics), each standard normal if nothing is predictable
    assert (np.abs(scores.mean(axis=0)) < 4 / np.sqrt(len(SEEDS))).all()
    assert np.abs(scores).max() < 4.5
    assert 0.8 < (scores**2).mean() < 1.25


def test_the_true_mean_is_zero_without_a_signal():
    _, truth = simulate_with_truth(signal=0.0)
    assert (truth["expected_return"] == 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"signal": 1.0}, "signal is 1.0"),
        ({"days": 0}, "days is 0"),
        ({"half_life_bars": 0.0}, "half_life_bars is 0.0"),
        ({"spread_bps": -1.0}, "spread_bps is -1.0"),
        ({"idle_share": 1.0}, "idle_share is 1.0"),
        ({"predictor": "news"}, "predictor is 'news'"),
        ({"symbols": []}, "at least one name"),
        ({"symbols": ["A", "A"]}, "without repeats"),
        ({"interval": "7m"}, "interval is '7m'"),
        ({"interval": "m"}, "interval is 'm'"),
        ({"start": "yesterday"}, "yesterday"),
    ],
)
def test_an_impossible_block_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        simulate_market(**change)
