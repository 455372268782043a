"""A hot path with columns among symbols takes the bars of one open time together, with the bits of the table."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest

from pipeline import digests
from pipeline.config import ParamsError
from pipeline.deployment import certificate, contract, feature_library, golden
from pipeline.deployment.certificate import Market, ReplaySettings
from pipeline.deployment.feeds.tally import Tally
from pipeline.deployment.feeds.together import feed_together
from pipeline.deployment.hot_path import HotPath
from pipeline.deployment.replay import ReplayError, merge_bars
from pipeline.deployment.verify import verify
from pipeline.features.cross_section import CrossSection
from pipeline.features.engine import compute
from pipeline.market.bars import number_segments
from tests import bundles
from tests.bundles import make_bars
from tests.test_feeds_hot_path import run_by_name
from tests.test_hot_path import describe as describe_signal
from tests.test_hot_path import make_reference

BLOCK = {"windows": [1, 3], "beta_window": 40}
FEATURES = bundles.FEATURES | {"cross_section": BLOCK}
AMONG = CrossSection(**BLOCK).meanings
PREDICTED, ALONE = ["AAA", "BBB", "CCC"], "DDD"  # no model predicts the last, which takes part in the columns
SYMBOLS = [*PREDICTED, ALONE]
SETTINGS = ReplaySettings(bars=600, restarts=2, holes=2, hole_bars=150, cold_start_bars=100, cold_start_tolerance=1e-3)


def make_table() -> pd.DataFrame:
    """Bars of four symbols: two have gaps, one is listed later, one ends earlier."""
    missing = {"AAA": (200, 201, 330), "BBB": (), "CCC": (60, 250), "DDD": (255,)}
    parts = [make_bars(400, seed=k, missing=missing[name]).assign(symbol=name) for k, name in enumerate(SYMBOLS)]
    parts[1], parts[3] = parts[1].iloc[230:], parts[3].iloc[:350]
    table = pd.concat(parts, ignore_index=True)
    return table.assign(segment=number_segments(table))


TABLE = make_table()


def describe(**changes):
    """The contract of a bundle whose models read columns among symbols."""
    described = bundles.describe()
    names = [*described["columns"], *AMONG]
    models = {name: described["models"][name] | {"symbols": PREDICTED} for name in ("classes", "value", "window")}
    models["value"]["columns"], models["window"]["columns"] = names, names[-3:]
    models["classes"]["symbols"] = ["BBB", "CCC"]
    return described | {
        "schema_version": contract.TOGETHER_VERSION,
        "bars": described["bars"] | {"symbols": PREDICTED},
        "features": FEATURES,
        "columns": names,
        "warm_up_bars": 40,
        "models": models,
        "ensemble": {"name": "voting", "weights": {"window": 0.5, "value": 0.5}},
        "cross_section": {"symbols": SYMBOLS, "columns": AMONG},
        **changes,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return bundles.write_bundle(tmp_path_factory.mktemp("bundle"), describe())


@pytest.fixture(scope="module")
def market():
    features = compute(TABLE, **FEATURES)
    keys = TABLE.iloc[features.rows].rename(columns={"open_time": "time"})[["segment", "time"]].reset_index(drop=True)
    return Market(TABLE, features.x, features.columns, keys)


def certify(folder, market, *, settings=SETTINGS):
    load, reference = partial(HotPath.load, folder), make_reference(folder)
    return certificate.certify(load, market, reference, settings=settings, restarts_at_closings=False, seed=5)


def list_minutes(table: pd.DataFrame) -> list[list[dict]]:
    fields = table.drop(columns="segment").sort_values("open_time", kind="stable")
    return [part.to_dict("records") for _, part in fields.groupby("open_time")]


MINUTES = list_minutes(TABLE)


def update(hot_path: HotPath, bars: list[dict]) -> dict[str, dict]:
    """The signals of bars that go in together, as mappings for JSON."""
    return {symbol: signal.to_dict() for symbol, signal in hot_path.update_together(bars).items()}


def test_columns_and_signals_are_those_in_bulk_over_restarts_gaps_holes_and_listings(folder, market):
    found, _ = certify(folder, market)
    assert {name: list(part) for name, part in found.items()} == dict.fromkeys(found, PREDICTED)
    recorded = found["recorded"]
    assert {name: part["bars"] for name, part in recorded.items()} == {"AAA": 197, "BBB": 170, "CCC": 199}
    assert {name: part["segments"] for name, part in recorded.items()} == {"AAA": 2, "BBB": 1, "CCC": 2}
    assert recorded["AAA"]["compared"]["features"] == recorded["AAA"]["bars_with_features"] * len(describe()["columns"])
    assert len(set(recorded["BBB"]["restarts_at"])) == 2
    assert found["holes"]["CCC"]["segments"] > 1
    assert all(part["within_after_bars"] <= 100 for part in found["cold_start"].values())


def test_so_few_bars_with_holes_that_none_has_features_are_refused(folder, market):
    with pytest.raises(
        ParamsError, match=r"replay.hole_bars is 30: so few bars, less 2 holes, .* warm-up has \d+ bars. Raise"
    ):
        certify(folder, market, settings=replace(SETTINGS, hole_bars=30))


def test_a_column_among_symbols_that_differs_in_one_bit_is_named(folder, market):
    x, segment = market.x.copy(), TABLE["segment"][TABLE["symbol"] == "CCC"].max()
    row = np.flatnonzero(market.keys["segment"] == segment)[-1]
    x[row, -1] = np.nextafter(x[row, -1], np.float32(9))
    with pytest.raises(ReplayError, match="feature market_beta_40: 1 of .* values differ, first at bar"):
        certify(folder, replace(market, x=x))


def test_a_bar_by_itself_is_refused_and_names_what_it_needs(folder):
    hot_path = HotPath.load(folder)
    for take in (hot_path.update, hot_path.observe):
        with pytest.raises(ValueError, match="market_return_1, .* need the bars of AAA, BBB, CCC, DDD: .*together"):
            take(MINUTES[0][0])


def test_refused_bars_change_nothing(folder):
    hot_path, other = HotPath.load(folder), HotPath.load(folder)
    first, following = MINUTES[80], MINUTES[81]
    refused = [
        ([*first[:-1], first[-1] | {"high": 1.0}], "high"),
        ([*first[:-1], following[-1]], "all with one open_time"),
        ([*first, first[0]], "one bar of each symbol"),
        ([], "they are none"),
        ([*first, first[0] | {"symbol": "ZZZ"}], "this bundle is for AAA, BBB, CCC, DDD"),
        ([first[0] | {"position": 7e3}], "allowed is a weight"),
        ([MINUTES[79][0]], "already processed"),
    ]
    for bars in MINUTES[:80]:
        assert update(hot_path, bars) == update(other, bars)
    for bars, message in refused:
        with pytest.raises(ValueError, match=message):
            hot_path.update_together(bars)
    for bars in MINUTES[80:83]:
        assert update(hot_path, bars) == update(other, bars) != {}
    assert hot_path.counts == other.counts


def test_a_bar_that_comes_after_the_columns_of_its_open_time_is_refused_and_missing(folder):
    hot_path = HotPath.load(folder)
    for bars in MINUTES[:80]:
        hot_path.update_together(bars)
    hot_path.update_together(MINUTES[80][:-1])
    with pytest.raises(ValueError, match="open_time of DDD is .*; the columns among symbols are known until"):
        hot_path.update_together(MINUTES[80][-1:])
    hot_path.update_together(MINUTES[81])
    assert hot_path.streams["DDD"].segment_bars == 1 and hot_path.streams["CCC"].segment_bars > 1


def test_a_state_survives_a_file(folder, tmp_path):
    hot_path, resumed = HotPath.load(folder), HotPath.load(folder)
    for bars in MINUTES[:110]:
        hot_path.update_together(bars)
    np.savez(tmp_path / "state.npz", **hot_path.state())
    with np.load(tmp_path / "state.npz") as state:
        resumed.restore(state)
    for bars in MINUTES[110:115]:
        signals = update(hot_path, bars)
        assert signals == update(resumed, bars) and signals.keys() == {"AAA", "CCC"}
    with pytest.raises(ValueError, match="cross_section/levels has numbers that are not finite"):
        resumed.restore(hot_path.state() | {"cross_section/levels": np.full((4, 4), np.inf)})


def test_golden_rows_with_the_bars_of_all_symbols_are_verified(folder, tmp_path):
    bundle, reference = contract.read_contract(folder), make_reference(folder)
    rows = golden.make_golden(bundle, reference.models, TABLE, rows=100)
    has_values = rows["value.score"].notna()
    assert set(rows["symbol"]) == set(SYMBOLS) and set(rows["symbol"][has_values]) == {"AAA"}
    copy = bundles.write_bundle(tmp_path / "copy", describe())
    golden.write_golden(rows, copy)
    limits = {"max_abs": 1e-5, "max_relative": 1e-4, "mean_abs": 1e-6}
    certified = {"contract_sha256": contract.hash_contract(copy), "limits_from_trained_model": limits}
    (copy / contract.CERTIFICATE).write_text(json.dumps(certified))
    digests.write_sums(copy)
    assert verify(copy) == has_values.sum() > 20
    other = rows.copy()
    other.loc[(other["symbol"] == "CCC") & (other.index > len(other) - 10), ["close", "high"]] *= 1.01
    other.to_parquet(copy / contract.GOLDEN)
    digests.write_sums(copy)
    with pytest.raises(ValueError, match="golden row .*: the graph of value predicts"):
        verify(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": "2.0"}, "schema_version is '2.0'; it is 3.0 with cross_section alone"),
        ({"features": bundles.FEATURES}, "it and features.cross_section stand there together"),
        ({"cross_section": {"symbols": ["AAA"], "columns": AMONG}}, "cross_section.symbols: BBB is missing"),
        ({"cross_section": {"symbols": SYMBOLS, "columns": {"x": "y"}}}, "they are not the last ones of columns"),
    ],
)
def test_a_contract_that_does_not_fit_is_one_line(tmp_path, change, message):
    folder = bundles.write_bundle(tmp_path, describe(**change))
    with pytest.raises(ValueError, match=message) as error:
        HotPath.load(folder)
    assert "\n" not in str(error.value)


def test_the_schema_of_a_contract_without_such_columns_does_not_name_them():
    before, after = contract.make_schema(), contract.make_schema(has_cross_section=True)
    assert "CrossSection" not in json.dumps(before) and "cross_section" not in before["properties"]
    assert after["properties"].keys() - before["properties"].keys() == {"cross_section"}


def test_bars_of_a_bundle_without_such_columns_go_in_together_or_one_by_one(tmp_path):
    described = bundles.describe() | {"features": bundles.FEATURES}
    described["bars"] |= {"symbols": ["AAA", "CCC"]}
    models = {name: described["models"][name] | {"symbols": ["AAA", "CCC"]} for name in ("value", "window")}
    described |= {"models": models, "ensemble": None, "signal": "value"}
    folder = bundles.write_bundle(tmp_path, described)
    together, alone = HotPath.load(folder), HotPath.load(folder)
    for bars in list_minutes(TABLE[TABLE["symbol"].isin(["AAA", "CCC"])])[50:80]:
        signals = update(together, bars)
        assert [signals.get(bar["symbol"]) for bar in bars] == [describe_signal(alone.update(bar)) for bar in bars]
    assert together.counts == alone.counts and together.counts["signals"]


def test_the_feature_library_and_the_warmed_caches_know_such_a_bundle(folder, monkeypatch, tmp_path, capsys):
    HotPath.load(folder).warm_caches()
    monkeypatch.setattr("sys.argv", ["feature_library", str(tmp_path), "--bundle", str(folder)])
    with pytest.raises(SystemExit, match="feature_library: features.cross_section has market_return_1, .* one"):
        feature_library.main()


def test_bars_of_all_symbols_are_merged_by_open_time(market):
    stretches = certificate.take_stretches(market, SYMBOLS, contract.Contract.model_validate(describe()), bars=10)
    times, groups = zip(*merge_bars(stretches), strict=True)
    assert list(times) == sorted(set(times))
    assert {bar["symbol"] for bar in groups[-1]} == {"AAA", "BBB", "CCC"}  # DDD has ended


def feed_lines(folder, bars) -> tuple[list[dict], Tally]:
    """The signals of a feed, and what it counted."""
    written, tally = [], Tally()
    feed_together(HotPath.load(folder), bars, write=written.append, tally=tally)
    return [json.loads(line) for line in written], tally


def test_a_feed_gathers_the_bars_of_an_open_time_whatever_their_order(folder):
    hot_path, bars = HotPath.load(folder), [bar for minute in MINUTES[:60] for bar in reversed(minute)]
    expected = [update(hot_path, minute) for minute in MINUTES[:60]]
    found, tally = feed_lines(folder, bars)
    assert len(found) == sum(map(len, expected)) > 20
    assert all(each in expected[place].values() for each in found for place in [find_minute(each)])
    assert tally.bars == len(bars) and not tally.refused


def find_minute(signal: dict) -> int:
    return (signal["open_time"] - MINUTES[0][0]["open_time"]) // 60_000


def test_a_feed_counts_what_it_refuses_and_goes_on_with_the_others(folder):
    minutes = MINUTES[:50]
    delayed, wrong = minutes[10][0], minutes[20][1] | {"high": 1.0}
    bars = [*sum(minutes[:20], []), delayed, minutes[20][0], wrong, minutes[20][2], minutes[20][2] | {"x": False}]
    bars += [minutes[20][0] | {"symbol": "ZZZ"}, *sum(minutes[21:], [])]
    found, tally = feed_lines(folder, bars)
    assert tally.refused == {"late": 1, "invalid": 1, "repeated": 1, "other_symbol": 1}
    assert tally.bars == sum(map(len, minutes)) - 1
    assert {each["symbol"] for each in found} == {"AAA"}  # CCC begins anew after its missing bar


def test_a_stopped_feed_leaves_an_incomplete_minute_for_the_next_start(folder):
    tally, bars = Tally(), [*MINUTES[0], MINUTES[1][0]]
    feed_together(HotPath.load(folder), bars, write=[].append, tally=tally, is_stopped=lambda: True)
    assert tally.bars == len(MINUTES[0])


def test_the_command_takes_a_file_that_is_sorted_by_symbol(folder, tmp_path, monkeypatch):
    bars = TABLE[TABLE["open_time"] <= MINUTES[45][0]["open_time"]]
    bars.drop(columns="segment").to_parquet(tmp_path / "bars.parquet")
    hot_path = HotPath.load(folder)
    expected = [signal for minute in MINUTES[:46] for signal in update(hot_path, minute).values()]
    lines = run_by_name(monkeypatch, folder, "--bars", tmp_path / "bars.parquet")
    assert [json.loads(line) for line in lines] == expected
