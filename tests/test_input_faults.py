"""Faulty input of a deployed bundle, from a feed, a file, a state or the bundle itself, ends in one line."""

import io
import json
import shutil
import sys

import numpy as np
import pandas as pd
import pytest

from pipeline import digests
from pipeline.deployment import contract
from pipeline.deployment.feeds.input_checks import refuse_future_bars
from pipeline.deployment.feeds.tally import Tally
from pipeline.deployment.hot_path import HotPath
from pipeline.deployment.verify import verify
from tests import bundles
from tests.feeds import BTC, collect, make_bars, run_command, to_line
from tests.test_features import MINUTE_MS

BARS = make_bars(30)
CLOSED = bundles.list_bars(bundles.make_bars(30))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return bundles.write_bundle(tmp_path_factory.mktemp("bundle"), bundles.describe())


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "bundle")


def rewrite(folder, name: str, text: str) -> None:
    """Write a file of a bundle, and the digests of all."""
    (folder / name).write_text(text)
    digests.write_sums(folder)


def feed_lines(monkeypatch, *bars, words=()) -> list[str]:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"".join(map(to_line, bars)))))
    return run_command(monkeypatch, "--stdin", *words)


def write_parquet(folder, bars):
    pd.DataFrame(bars).to_parquet(folder / "bars.parquet", index=False)
    return folder / "bars.parquet"


# bars


def test_a_bar_of_the_future_is_refused_and_the_feed_goes_on(caplog):
    tally, now_ms = Tally(), BARS[9]["open_time"] + MINUTE_MS
    early = BARS[9] | {"open_time": now_ms + MINUTE_MS + 1}
    allowed = BARS[9] | {"open_time": now_ms + MINUTE_MS}
    bars = [*BARS[:9], early, BARS[9], {"symbol": BTC, "position": 0.5}, allowed]
    passed = list(refuse_future_bars(bars, interval_ms=MINUTE_MS, tally=tally, read_now=lambda: now_ms))
    assert passed == [bar for bar in bars if bar is not early]
    assert tally.refused == {"invalid": 1} and "it opens in the future: now is" in caplog.text


def test_standard_input_refuses_a_bar_of_the_year_2099(monkeypatch):
    far = BARS[9] | {"open_time": 4_070_908_800_000, "close_time": 4_070_908_859_999}
    assert feed_lines(monkeypatch, *BARS[:9], far, *BARS[9:]) == collect(BARS)[0]


@pytest.mark.parametrize(("length", "ms"), [(999, 1_000), (1_000, 1_000), (29_999, 30_000), (30_000, 30_000)])
@pytest.mark.parametrize("kind", [int, float, str, np.int64])
def test_a_bar_of_a_shorter_interval_is_refused(original, length, ms, kind):
    bar = CLOSED[0] | {"close_time": kind(CLOSED[0]["open_time"] + length)}
    with pytest.raises(ValueError, match=f"it is {ms} ms long, the bundle's bars 60000: feed bars of that interval"):
        HotPath.load(original).update(bar)


@pytest.mark.parametrize("length", [0, 41_646, 59_999, 60_000])  # the first two are bars of Binance before a halt
def test_a_bar_that_an_exchange_closed_early_is_taken(original, length):
    hot_path = HotPath.load(original)
    hot_path.update(CLOSED[0] | {"close_time": CLOSED[0]["open_time"] + length})
    assert hot_path.counts["bars"] == 1


def test_a_longer_bar_is_refused_and_so_is_one_of_no_length(original):
    for close_time, fault in ((CLOSED[0]["open_time"] + 119_999, "it is 120000 ms long"), (None, "close_time is None")):
        with pytest.raises(ValueError, match=fault):
            HotPath.load(original).update(CLOSED[0] | {"close_time": close_time})


# files and standard input


def test_bars_without_a_field_that_features_need_stop_the_feed_at_once(tmp_path, monkeypatch):
    bars = [{name: bar[name] for name in bar if name not in ("trades", "taker_buy_base")} for bar in BARS]
    with pytest.raises(
        SystemExit, match=r"bars\.parquet has no trades, taker_buy_base; the features of this bundle need"
    ):
        run_command(monkeypatch, "--bars", write_parquet(tmp_path, bars))
    with pytest.raises(SystemExit, match="the first bar has no trades, taker_buy_base; the features of this bundle"):
        feed_lines(monkeypatch, *bars)


def test_a_first_line_without_a_symbol_needs_the_option(monkeypatch):
    bars = [{name: bar[name] for name in bar if name != "symbol"} for bar in BARS]
    with pytest.raises(SystemExit, match="the first bar has no symbol; give --symbol: the bundle has BTCUSDT"):
        feed_lines(monkeypatch, *bars)
    assert feed_lines(monkeypatch, *bars, words=("--symbol", BTC)) == collect(BARS)[0]


def test_a_file_of_which_no_bar_is_taken_is_an_error_unless_a_state_has_them(tmp_path, monkeypatch):
    file, state = write_parquet(tmp_path, [bar | {"symbol": "OTHER"} for bar in BARS]), tmp_path / "state.npz"
    with pytest.raises(SystemExit, match=r"bars\.parquet: no bar was taken: 30 other_symbol"):
        run_command(monkeypatch, "--bars", file)
    with pytest.raises(SystemExit, match="no bar was taken: it has no rows"):
        run_command(monkeypatch, "--bars", write_parquet(tmp_path, pd.DataFrame(BARS)[:0]))
    file = write_parquet(tmp_path, BARS)
    assert run_command(monkeypatch, "--bars", file, "--state", state) == collect(BARS)[0]
    assert run_command(monkeypatch, "--bars", file, "--state", state) == []


def test_a_folder_and_a_csv_are_no_file_of_bars(tmp_path, monkeypatch):
    (tmp_path / "bars.csv").write_text("open_time,open\n1,2\n")
    for path, fault in ((tmp_path, "is a folder"), (tmp_path / "bars.csv", "cannot be read as parquet")):
        with pytest.raises(SystemExit, match=f"{fault}.*; --bars takes one parquet file"):
            run_command(monkeypatch, "--bars", path)


# state


def test_a_state_in_a_folder_that_does_not_exist_is_refused_and_a_first_start_is_logged(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    file = write_parquet(tmp_path, BARS)
    with pytest.raises(SystemExit, match="there is no folder .*none; make it, or name another file"):
        run_command(monkeypatch, "--bars", file, "--state", tmp_path / "none" / "state.npz")
    run_command(monkeypatch, "--bars", file, "--state", tmp_path / "state.npz")
    assert f"no state at {tmp_path / 'state.npz'}: starts without history" in caplog.text


def test_an_interval_of_saving_needs_a_state(monkeypatch, capsys):
    with pytest.raises(SystemExit, match="2"):
        run_command(monkeypatch, "--stdin", "--save-every", "10")
    assert "--save-every needs --state" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: None, "state is NoneType; allowed is a mapping"),
        (lambda state: {}, "another bundle"),
        (lambda state: state | {"contract": None}, "another bundle"),
        (lambda state: {name: state[name] for name in state if name != "counts"}, "counts missing"),
        (lambda state: state | {"more": state["counts"]}, "more unknown"),
        (lambda state: state | {"counts": [1, 2, 3, 4]}, "counts is list; allowed is int64"),
        (lambda state: state | {"counts": state["counts"][:2]}, r"counts is int64 \(2,\); allowed is int64 \(4,\)"),
        (lambda state: state | {"BTCUSDT/rows": np.array(["x"])}, "BTCUSDT/rows is <U1"),
        (lambda state: state | {"BTCUSDT/memory": state["BTCUSDT/memory"].astype("f4")}, "memory is float32"),
        (lambda state: state | {"BTCUSDT/memory": state["BTCUSDT/memory"] * np.nan}, "memory has numbers that are not"),
    ],
)
def test_a_state_with_a_fault_is_one_line_and_changes_nothing(original, change, message):
    hot_path = HotPath.load(original)
    before = hot_path.state()
    with pytest.raises(ValueError, match=message) as error:
        hot_path.restore(change(dict(before)))
    assert "\n" not in str(error.value)
    assert {name: each.tobytes() for name, each in hot_path.state().items()} == {
        name: each.tobytes() for name, each in before.items()
    }


# bundles


def test_what_is_no_bundle_is_one_line(folder, tmp_path):
    file = tmp_path / "README.md"
    file.write_text("text")
    with pytest.raises(digests.ArtifactError, match=r"README\.md is no folder; name the folder of a bundle"):
        HotPath.load(file)
    for text, fault in (("[]", "has a list in place of a JSON object"), ("{", "is no JSON")):
        rewrite(folder, contract.CONTRACT, text)
        with pytest.raises(ValueError, match=rf"contract\.json {fault}"):
            HotPath.load(folder)
    rewrite(folder, contract.CONTRACT, '{"model": "lstm"}')
    with pytest.raises(ValueError, match="has one model alone and is no bundle"):
        HotPath.load(folder)


def test_a_certificate_of_another_contract_or_without_limits_is_refused(folder):
    for text, fault in (("[]", "has a list"), ('{"contract_sha256": "0"}', "is of another contract")):
        rewrite(folder, contract.CERTIFICATE, text)
        with pytest.raises(ValueError, match=rf"certificate\.json {fault}"):
            HotPath.load(folder)
    rewrite(folder, contract.CERTIFICATE, json.dumps({"contract_sha256": contract.hash_contract(folder)}))
    HotPath.load(folder)
    with pytest.raises(ValueError, match="limits_from_trained_model has no numbers max_abs, max_relative, mean_abs"):
        verify(folder)


def test_damage_of_a_bundle_is_named_by_its_kind_and_its_path_stands_once(folder):
    (folder / "value.onnx").write_bytes(b"x")
    (folder / "agent.onnx").unlink()
    (folder / "more.txt").write_text("x")
    with pytest.raises(digests.ArtifactError) as error:
        HotPath.load(folder)
    assert str(error.value) == (
        f"{folder} is not as it was made: changed 'value.onnx'; missing 'agent.onnx'; unlisted 'more.txt'; copy the "
        "bundle again from where it was made"
    )


def test_a_contract_names_the_field_and_the_reason(folder):
    described = json.loads((folder / contract.CONTRACT).read_text())
    for path, value, message in (
        (("bars", "calendar", "positions"), "x", r"contract\.json: calendar\.positions is 'x'; it must be"),
        (("bars", "symbols"), ["AAA"], r"bars\.symbols: no model predicts 'AAA'"),
        (("trading", "fee_bps"), -1.0, r"contract\.json: fee_bps: -1"),
    ):
        changed = json.loads(json.dumps(described))
        part = changed
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = value
        rewrite(folder, contract.CONTRACT, json.dumps(changed))
        with pytest.raises(ValueError, match=message):
            HotPath.load(folder)
    del described["trading"]
    rewrite(folder, contract.CONTRACT, json.dumps(described))
    with pytest.raises(ValueError, match=r"contract\.json: trading: Field required; make the bundle again"):
        HotPath.load(folder)
