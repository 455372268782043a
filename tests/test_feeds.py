"""Bars from files and from standard input reach the hot path in order, once each, and across restarts."""

import io
import json
import os
import signal
import sys
import threading

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.deployment.feeds import command, json_lines, parquet, runner
from pipeline.deployment.feeds.state_file import read_state, write_state
from pipeline.deployment.feeds.stopping import SIGNALS, Stop
from pipeline.deployment.feeds.tally import Tally
from pipeline.market.kline_files import read_file
from tests.feeds import ARB, BTC, StreamPath, collect, make_bars, run_command, to_line
from tests.test_features import MINUTE_MS

BARS = make_bars(30)


def read_lines(text: bytes) -> tuple[list, Tally]:
    tally = Tally()
    return list(json_lines.read_json_lines(io.BytesIO(text), tally=tally)), tally


def write_parquet(folder, bars, name="bars.parquet", **columns):
    file = folder / name
    pd.DataFrame(bars).assign(**columns).to_parquet(file, index=False)
    return file


# lines of JSON


def test_each_line_of_json_is_a_bar_with_its_bits():
    bars, tally = read_lines(b"".join(map(to_line, BARS)))
    assert bars == BARS
    assert not tally.refused


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b'{"open": 1', "not_json"),
        (b"open,high,low", "not_json"),
        (b"\xff\xfe{}", "not_json"),
        (b"[" * 20_000, "not_json"),
        (b"9" * 5_000, "not_json"),
        (b"[1, 2]", "no_object"),
        (b"null", "no_object"),
        (b'"bar"', "no_object"),
        (b'{"a": "' + b"x" * (1 << 18) + b'"}', "too_long"),
    ],
)
def test_a_line_that_is_no_object_is_refused_by_its_number_and_the_next_one_is_read(line, kind, caplog):
    bars, tally = read_lines(to_line(BARS[0]) + b"\n" + line + b"\n" + to_line(BARS[1]))
    assert bars == BARS[:2]
    assert tally.refused == {kind: 1}
    assert "line 3 " in caplog.text


def test_a_last_line_without_a_line_break_is_read():
    assert read_lines(to_line(BARS[0]).rstrip())[0] == BARS[:1]


# rows of a parquet file


def test_rows_of_a_file_are_the_bars_that_training_reads(tmp_path):
    names = {"open_time": "Open time", "quote_volume": "Quote asset volume", "trades": "Number of trades"}
    file = tmp_path / "bars.parquet"
    table = pd.DataFrame(BARS).rename(columns=names).assign(ignore=0)
    float32 = {name: "float32" for name in ("open", "high", "low", "close")}
    pq.write_table(pa.Table.from_pandas(table.astype(float32)), file, row_group_size=7)
    expected = read_file(file).table
    rows = pd.DataFrame(
        [{name: float(bar[name]) for name in expected if name != "symbol"} for bar in parquet.read_rows(file)]
    )
    pd.testing.assert_frame_equal(rows, expected.drop(columns="symbol").astype(float)[list(rows)], check_exact=True)


@pytest.mark.parametrize(
    "convert",
    [
        lambda times: times // 1000,
        lambda times: times * 1000,
        lambda times: times * 10**6,
        lambda times: times.astype(float),
        lambda times: pd.to_datetime(times, unit="ms"),
        lambda times: pd.to_datetime(times, unit="ms", utc=True).dt.tz_convert("Asia/Tokyo"),
        lambda times: pd.to_datetime(times, unit="ms").astype(str),
        lambda times: pd.to_datetime(times, unit="ms").dt.as_unit("ns"),
    ],
)
def test_times_of_rows_are_converted_to_ms(tmp_path, convert):
    times = pd.Series([bar["open_time"] for bar in BARS])
    rows = parquet.read_rows(write_parquet(tmp_path, BARS, open_time=convert(times)))
    assert [row["open_time"] for row in rows] == times.tolist()


def test_times_in_us_from_2025_on_follow_times_in_ms_as_in_files_of_binance(tmp_path):
    times = 1_735_689_600_000 + MINUTE_MS * (np.arange(len(BARS)) - 10)
    stored = np.where(np.arange(len(BARS)) >= 10, times * 1000, times)
    rows = parquet.read_rows(write_parquet(tmp_path, BARS, open_time=stored))
    assert [row["open_time"] for row in rows] == times.tolist()


def test_a_row_with_a_wrong_value_is_refused_alone(tmp_path):
    changes = {3: ("close", None), 5: ("trades", None), 7: ("open_time", None), 9: ("open_time", 5), 11: ("high", 1e-3)}
    changes |= {13: ("open_time", BARS[13]["open_time"] // 1000), 15: ("close", np.inf), 17: ("symbol", None)}
    bars = [dict(bar) for bar in BARS]
    for place, (name, value) in changes.items():
        bars[place][name] = value
    table = pa.Table.from_pylist([{name: bar[name] for name in BARS[0]} for bar in bars])
    pq.write_table(table, tmp_path / "bars.parquet")
    lines, tally = collect(parquet.read_rows(tmp_path / "bars.parquet"))
    assert lines == collect([bar for place, bar in enumerate(BARS) if place not in changes])[0]
    assert tally.refused == {"invalid": 7, "other_symbol": 1}


@pytest.mark.parametrize("content", [None, b"", b"open,high\n1,2\n"])
def test_a_file_that_is_no_parquet_is_one_line(tmp_path, content):
    file = tmp_path / "bars.parquet"
    if content is not None:
        file.write_bytes(content)
    fault = "does not exist" if content is None else "cannot be read as parquet"
    with pytest.raises(ValueError, match=rf"bars\.parquet {fault}") as caught:
        list(parquet.read_rows(file))
    assert "\n" not in str(caught.value)


def test_a_file_without_a_price_is_refused(tmp_path):
    pd.DataFrame(BARS).drop(columns="close").to_parquet(tmp_path / "bars.parquet")
    with pytest.raises(ValueError, match="there is no column close"):
        list(parquet.read_rows(tmp_path / "bars.parquet"))


# what is refused, and why


FAULTS = [
    ({"open_time": BARS[9]["open_time"]}, "repeated"),
    ({"open_time": str(BARS[9]["open_time"])}, "repeated"),
    ({"open_time": BARS[8]["open_time"]}, "late"),
    ({"open_time": BARS[8]["open_time"], "close": -1.0}, "late"),
    ({"open_time": BARS[8]["open_time"] // 1000}, "invalid"),
    ({"open_time": None}, "invalid"),
    ({"open_time": []}, "invalid"),
    ({"open_time": True}, "invalid"),
    ({"open_time": "soon"}, "invalid"),
    ({"open_time": BARS[10]["open_time"] + 1}, "invalid"),
    ({"low": 1e9}, "invalid"),
    ({"volume": float("nan")}, "invalid"),
    ({"symbol": "OTHER"}, "other_symbol"),
    ({"symbol": None}, "other_symbol"),
    ({"symbol": ["BTCUSDT"]}, "other_symbol"),
    ({"is_closed": False}, "not_closed"),
    ({"x": "false", "symbol": "OTHER"}, "not_closed"),
]


@pytest.mark.parametrize(("changes", "kind"), FAULTS)
def test_a_refused_bar_is_counted_by_its_fault_and_changes_no_signal(changes, kind):
    lines, tally = collect([*BARS[:10], BARS[10] | changes, *BARS[10:]])
    assert lines == collect(BARS)[0]
    assert tally.refused == {kind: 1}
    assert (tally.bars, tally.signals) == (len(BARS), len(lines))


def test_a_gap_starts_a_segment_whose_first_bars_have_no_signal():
    lines, tally = collect([*BARS[:15], *BARS[17:]])
    warm_up = len(BARS) - len(collect(BARS)[0])
    times = [json.loads(line)["open_time"] for line in lines]
    assert times == [bar["open_time"] for bar in [*BARS[warm_up:15], *BARS[17 + warm_up :]]]
    assert tally.bars == len(BARS) - 2


def test_interleaved_symbols_have_the_signals_of_each_alone():
    other = make_bars(30, symbol=ARB, seed=1)
    mixed = [bar for pair in zip(BARS, other, strict=True) for bar in pair]
    lines, tally = collect(mixed, BTC, ARB)
    assert [line for line in lines if BTC in line] == collect(BARS)[0]
    assert [line for line in lines if ARB in line] == collect(other, ARB)[0]
    assert not tally.refused


def test_refusals_of_a_kind_are_logged_first_and_every_thousandth(caplog):
    tally = Tally()
    for number in range(2_500):
        tally.refuse("late", f"number {number}")
    tally.refuse("repeated", "another")
    assert [record.message for record in caplog.records] == [
        *("refused as late (1): number 0", "refused as late (1,000): number 999"),
        *("refused as late (2,000): number 1999", "refused as repeated (1): another"),
    ]
    assert tally.summarize()["refused"] == {"late": 2_500, "repeated": 1}


# state


def test_a_state_file_has_the_bits_that_were_written(tmp_path):
    path = StreamPath(BTC, ARB)
    collect(BARS, path=path)
    state = path.state() | {"odd": np.array([np.nan, -0.0, 5e-324]), "none": np.zeros((0, 3), np.float32)}
    write_state(tmp_path / "state.npz", state)
    saved = read_state(tmp_path / "state.npz")
    assert {name: (each.dtype, each.shape, each.tobytes()) for name, each in saved.items()} == {
        name: (each.dtype, each.shape, each.tobytes()) for name, each in state.items()
    }


@pytest.mark.parametrize(
    "damage", [lambda b: b[:200], lambda b: b"", lambda b: b"text", lambda b: b[:300] + b"?" + b[301:]]
)
def test_a_damaged_state_file_is_one_line(tmp_path, damage):
    file = tmp_path / "state.npz"
    write_state(file, {"memory": np.arange(100.0)})
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"state\.npz is no readable state of a feed") as caught:
        read_state(file)
    assert "\n" not in str(caught.value)


def test_a_state_file_with_objects_is_refused(tmp_path):
    np.savez(tmp_path / "state.npz", memory=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="no readable state"):
        read_state(tmp_path / "state.npz")


# the command


def test_the_command_writes_the_signals_of_a_file(tmp_path, monkeypatch, capsys):
    lines = run_command(monkeypatch, "--bars", write_parquet(tmp_path, BARS), "--summary")
    assert lines == collect(BARS)[0]
    summary = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert summary["bars"] == len(BARS)
    assert summary["signals"] == len(lines)
    assert summary["refused"] == {}


def test_a_file_without_symbols_has_those_of_the_bundle(tmp_path, monkeypatch):
    file = write_parquet(tmp_path, [{name: bar[name] for name in bar if name != "symbol"} for bar in BARS])
    assert run_command(monkeypatch, "--bars", file) == collect(BARS)[0]
    assert run_command(monkeypatch, "--bars", file, "--symbol", BTC, path=StreamPath(BTC, ARB)) == collect(BARS)[0]
    with pytest.raises(SystemExit, match=r"bars\.parquet has no column symbol, and the bundle has BTCUSDT, ARBUSDT"):
        run_command(monkeypatch, "--bars", file, path=StreamPath(BTC, ARB))
    with pytest.raises(SystemExit, match="--symbol is 'OTHER'; the bundle has BTCUSDT"):
        run_command(monkeypatch, "--bars", file, "--symbol", "OTHER")


@pytest.mark.parametrize("until", [1, 4, 5, 6, 17, 29])
def test_a_restart_on_a_longer_file_goes_on_bit_for_bit(tmp_path, monkeypatch, until):
    state = tmp_path / "state.npz"
    begun = run_command(monkeypatch, "--state", state, "--bars", write_parquet(tmp_path, BARS[:until]))
    rest = run_command(monkeypatch, "--state", state, "--bars", write_parquet(tmp_path, BARS))
    assert begun + rest == collect(BARS)[0]


def test_a_file_that_ends_by_an_error_saves_the_state_of_the_bars_before_it(tmp_path, monkeypatch):
    def break_off(path):
        yield from BARS[:20]
        raise ValueError("the rest is damaged")

    state, file = tmp_path / "state.npz", write_parquet(tmp_path, BARS)
    with monkeypatch.context() as patched, pytest.raises(SystemExit, match="the rest is damaged"):
        patched.setattr(parquet, "read_rows", break_off)
        run_command(patched, "--state", state, "--bars", file)
    assert run_command(monkeypatch, "--state", state, "--bars", file) == collect(BARS)[0][-10:]


def test_a_killed_feed_repeats_the_signals_since_the_last_save(tmp_path, monkeypatch):
    state, file = tmp_path / "state.npz", write_parquet(tmp_path, BARS)
    path = StreamPath()
    update, seen = path.update, []

    def die(bar):
        if len(seen) == 25:
            raise MemoryError
        seen.append(bar)
        return update(bar)

    path.update = die
    with pytest.raises(MemoryError):
        run_command(monkeypatch, "--state", state, "--save-every", "10", "--bars", file, path=path)
    rest = run_command(monkeypatch, "--state", state, "--bars", file)
    first = json.loads(rest[0])["open_time"]
    assert first == BARS[20]["open_time"]
    assert rest == [line for line in collect(BARS)[0] if json.loads(line)["open_time"] >= first]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_a_feed_that_waits_and_saves_its_state(tmp_path, monkeypatch, number):
    state = tmp_path / "state.npz"
    output, received = [], []
    for part in (BARS[:12], BARS[12:]):
        reading, writing = os.pipe()
        with os.fdopen(reading, "rb") as stream, os.fdopen(writing, "wb") as sink:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stream))
            sink.write(b"".join(map(to_line, part)))
            sink.flush()
            path = StreamPath()
            update = path.update
            last = part[-1]["open_time"]

            def take(bar, update=update, last=last):
                if bar["open_time"] == last:
                    threading.Timer(0.1, os.kill, (os.getpid(), number)).start()
                received.append(bar)
                return update(bar)

            path.update = take
            output += run_command(monkeypatch, "--stdin", "--state", state, path=path)
            sys.stdin.detach()
    assert output == collect(BARS)[0]
    assert received == BARS


def test_a_signal_during_a_bar_ends_the_feed_after_it():
    stop, seen = Stop(), []
    for bar in stop.guard(BARS):
        stop.receive(signal.SIGTERM, None)
        seen.append(bar)
    assert seen == BARS[:1]


def test_a_closed_output_ends_the_feed_quietly_without_saving(tmp_path, monkeypatch, capsys):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        monkeypatch.setattr(sys, "argv", ["hot_path", "--bundle", "none", "--bars", str(write_parquet(tmp_path, BARS))])
        sys.argv += ["--state", str(tmp_path / "state.npz")]
        monkeypatch.setattr(sys, "stdout", closed)
        command.main(lambda _: StreamPath())
    assert not (tmp_path / "state.npz").exists()
    assert capsys.readouterr().err == ""


def test_a_state_of_another_bundle_is_refused_by_the_name_of_its_file(tmp_path, monkeypatch):
    write_state(tmp_path / "state.npz", {f"{BTC}/memory": np.zeros(3)})
    with pytest.raises(SystemExit, match=r"state\.npz: state: .* are missing"):
        run_command(monkeypatch, "--bars", write_parquet(tmp_path, BARS), "--state", tmp_path / "state.npz")


def test_a_bundle_that_cannot_be_loaded_is_one_line(monkeypatch):
    def load(folder):
        raise ValueError(f"{folder} is\nno bundle")

    monkeypatch.setattr(sys, "argv", ["hot_path", "--bundle", "none", "--stdin"])
    with pytest.raises(SystemExit, match=r"^python -m pipeline\.deployment\.hot_path: none is no bundle$"):
        command.main(load)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stdin", "--bars", "bars.parquet"], "not allowed with argument"),
        ([], "one of the arguments --bars --stdin --websocket is required"),
        (["--stdin", "--save-every", "0"], "'0' is not allowed; give a whole number of bars from 1 on"),
        (["--stdin", "--save-every", "many"], "'many' is not allowed"),
        (["--stdin", "--backfill", "5"], "--backfill needs --websocket"),
        (
            ["--websocket", "ws://localhost", "--stale-s", "nan"],
            "'nan' is not allowed; give a number of seconds",
        ),
        (["--websocket", "ws://localhost", "--rest-url", "http://localhost"], "--rest-url needs --backfill"),
    ],
)
def test_wrong_arguments_are_refused(monkeypatch, capsys, words, message):
    with pytest.raises(SystemExit, match="2"):
        run_command(monkeypatch, *words)
    assert message in capsys.readouterr().err


def test_the_time_of_a_bar_is_read_from_numbers_and_decimal_text():
    time = BARS[0]["open_time"]
    assert [runner.read_time({"open_time": each}) for each in (time, float(time), str(time), np.int64(time))] == [
        time
    ] * 4
    assert [runner.read_time({"open_time": each}) for each in (time + 0.5, "x", None, True, 10**400, 5)] == [None] * 6
