"""Feeds of a real hot path: the command by its name, restarts, and Binance's stream."""

import io
import json
import runpy
import sys
from pathlib import Path

import pandas as pd
import pytest

from pipeline.deployment.feeds.runner import feed
from pipeline.deployment.feeds.tally import Tally
from pipeline.deployment.hot_path import HotPath
from tests import bundles
from tests.feeds import collect, to_line
from tests.loopback_klines import make_script, open_exchange
from tests.test_feeds_websocket import receive

TABLE = bundles.make_bars(120, missing=(60, 61)).drop(columns="segment")
BARS = TABLE.to_dict("records")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return bundles.write_bundle(tmp_path_factory.mktemp("bundle"), bundles.describe())


def run_by_name(monkeypatch: pytest.MonkeyPatch, bundle: Path, *words: str | Path) -> list[str]:
    """Return the lines that `python -m pipeline.deployment.hot_path` writes."""
    written = io.StringIO()
    monkeypatch.setattr(sys, "argv", ["hot_path", "--bundle", str(bundle), *map(str, words)])
    monkeypatch.setattr(sys, "stdout", written)
    for name in ("hot_path", "feeds.command"):  # not imported yet where a process begins
        monkeypatch.delitem(sys.modules, f"pipeline.deployment.{name}", raising=False)
    runpy.run_module("pipeline.deployment.hot_path", run_name="__main__")
    return written.getvalue().splitlines(keepends=True)


def expect(bundle: Path, bars: list) -> list[str]:
    return collect(bars, path=HotPath.load(bundle))[0]


def test_the_command_by_its_name_writes_the_signals_of_rows_and_of_lines(tmp_path, monkeypatch, bundle, capsys):
    expected = expect(bundle, BARS)
    TABLE.to_parquet(tmp_path / "bars.parquet")
    assert run_by_name(monkeypatch, bundle, "--bars", tmp_path / "bars.parquet", "--summary") == expected
    counts = json.loads(capsys.readouterr().err.splitlines()[-1])["hot_path"]
    assert counts == {"bars": len(BARS), "signals": len(expected), "missing_bars": 2, "given_positions": 0}
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"".join(map(to_line, BARS)))))
    assert run_by_name(monkeypatch, bundle, "--stdin") == expected
    signals = [json.loads(line) for line in expected]
    hot_path = HotPath.load(bundle)
    assert signals == [signal.to_dict() for bar in BARS if (signal := hot_path.update(bar))]
    assert len({signal["target"] for signal in signals}) > 50


def test_bars_of_two_symbols_in_turns_give_the_signals_of_each_alone(tmp_path, monkeypatch):
    described = bundles.describe()
    described["bars"]["symbols"] = ["BTCUSDT", "ARBUSDT"]
    for name, model in described["models"].items():
        model["symbols"] = ["BTCUSDT", "ARBUSDT"][: 1 if name == "classes" else 2]
    folder = bundles.write_bundle(tmp_path / "bundle", described)
    other = bundles.make_bars(120, seed=5, missing=(30, 90)).drop(columns="segment").assign(symbol="ARBUSDT")
    both = pd.concat([TABLE, other]).sort_values("open_time", kind="stable")
    both.to_parquet(tmp_path / "bars.parquet")
    lines = run_by_name(monkeypatch, folder, "--bars", tmp_path / "bars.parquet")
    for symbol, table in {"BTCUSDT": TABLE, "ARBUSDT": other}.items():
        own = [line for line in lines if json.loads(line)["symbol"] == symbol]
        assert own == expect(folder, table.to_dict("records")) and len(own) > 50
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"".join(map(to_line, both.to_dict("records"))))))
    assert run_by_name(monkeypatch, folder, "--stdin", "--state", tmp_path / "state.npz") == lines


@pytest.mark.parametrize("until", [5, 30, 59, 61, 80])
def test_a_restart_goes_on_bit_for_bit(tmp_path, monkeypatch, bundle, until):
    lines = []
    for name, table in {"begun": TABLE[:until], "whole": TABLE}.items():
        table.to_parquet(tmp_path / f"{name}.parquet")
        arguments = "--bars", tmp_path / f"{name}.parquet", "--state", tmp_path / "state.npz"
        lines += run_by_name(monkeypatch, bundle, *arguments)
    assert lines == expect(bundle, BARS)


def test_an_unkind_stream_gives_the_signals_of_its_closed_bars_in_order(bundle):
    bars = bundles.list_bars(bundles.make_bars(150, idle_share=0.0))
    script, taken = make_script(bars, seed=3, loss=0.02)
    tally, lines = Tally(), []
    with open_exchange(script) as exchange:
        stream = receive(exchange.url, until=bars[-1]["open_time"], tally=tally)
        feed(HotPath.load(bundle), stream, write=lines.append, tally=tally)
    assert lines == expect(bundle, taken)
    assert tally.connection["dropped"] > 1
    assert tally.refused["late"] > 0


def test_a_state_of_another_bundle_is_refused(tmp_path, monkeypatch, bundle):
    other = bundles.write_bundle(tmp_path / "other", bundles.describe(no_trade_band=0.1))
    TABLE.to_parquet(tmp_path / "bars.parquet")
    arguments = "--bars", tmp_path / "bars.parquet", "--state", tmp_path / "state.npz"
    run_by_name(monkeypatch, other, *arguments)
    with pytest.raises(SystemExit, match=r"hot_path: .*state\.npz: state: it is of another bundle"):
        run_by_name(monkeypatch, bundle, *arguments)


@pytest.mark.parametrize("damage", ["no folder", "no contract", "another byte"])
def test_a_bundle_that_is_missing_or_damaged_is_one_line(tmp_path, monkeypatch, damage):
    folder = tmp_path / "bundle"
    if damage != "no folder":
        bundles.write_bundle(folder, bundles.describe())
    if damage == "no contract":
        (folder / "contract.json").unlink()
    if damage == "another byte":
        (folder / "value.onnx").write_bytes((folder / "value.onnx").read_bytes()[:-1] + b"?")
    with pytest.raises(SystemExit, match=r"^python -m pipeline\.deployment\.hot_path: .*bundle") as caught:
        run_by_name(monkeypatch, folder, "--stdin")
    assert "\n" not in str(caught.value)
