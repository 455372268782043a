# ruff: noqa: F811  # fixtures are imported
"""Real bars as Binance's archive has them: monthly and daily zips of spot and of futures, on loopback."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.datasets.klines import ingest
from pipeline.market import binance
from pipeline.market.binance_files import FIELDS
from tests.loopback_archive import DAY_MS, HEADER, Server, zip_text
from tests.test_source_binance import block, server  # noqa: F401  # fixtures

SHARED = Path(__file__).parents[2] / "shared/data"
FIRST_MS, YEAR_MS = 1_704_067_200_000, 366 * DAY_MS  # 2024-01-01; to 2025-01-01


def read_real(symbol: str, *, days: int) -> pd.DataFrame:
    """Return the first days of 2024; the test is skipped where the file is not there."""
    file = SHARED / f"{symbol}_1m_2024-01-01_90d.parquet"
    if not file.is_file():
        pytest.skip(f"{file} is not there")
    return pd.read_parquet(file)[FIELDS].iloc[: days * 1440]


def add_files(server: Server, symbol: str, table: pd.DataFrame, *, market: str, layout: str, **how: Any) -> None:
    """Add the files of the months or days, as strftime's layout divides them."""
    period = pd.to_datetime(table["open_time"], unit="ms").dt.strftime(layout)
    folder = "daily" if "%d" in layout else "monthly"
    for name, part in table.groupby(period):
        stem = f"{symbol}-1m-{name}"
        path = f"/data/{market}/{folder}/klines/{symbol}/1m/{stem}.zip"
        server.put(path, zip_text(f"{stem}.csv", write_csv(part, **how)))


def write_csv(table: pd.DataFrame, *, header: bool, unit: int) -> str:
    closed = (table["close_time"] + 1) * unit - 1
    rows = table.assign(open_time=table["open_time"] * unit, close_time=closed, ignore=0)
    return (f"{HEADER}\n" if header else "") + rows.to_csv(index=False, header=False)


@pytest.mark.parametrize(
    ("market", "shift_ms", "header", "unit"),
    [
        pytest.param("spot", 0, False, 1, id="spot in ms"),
        pytest.param("spot", YEAR_MS, False, 1000, id="spot of 2025 in us"),
        pytest.param("futures/um", 0, True, 1, id="futures with a header"),
    ],
)
def test_real_bars_survive_the_archive_whatever_its_months_lack(server, block, market, shift_ms, header, unit):
    how = {"market": market, "header": header, "unit": unit}
    real = {symbol: read_real(symbol, days=33) for symbol in ("BTCUSDT", "ARBUSDT")}
    for symbol, table in real.items():
        table[["open_time", "close_time"]] += shift_ms
        day = (table["open_time"] - FIRST_MS - shift_ms) // DAY_MS
        is_lost = (symbol == "BTCUSDT") & day.isin([4, 5, 6])
        stale = table.assign(volume=table["volume"].where(day != 20, table["volume"] + 1))
        add_files(server, symbol, stale[~is_lost & (day < 31)], layout="%Y-%m", **how)
        add_files(server, symbol, table, layout="%Y-%m-%d", **how)
    first = f"{pd.Timestamp(FIRST_MS + shift_ms, unit='ms'):%Y-%m-%d}"
    wanted = {**block, "market": market, "interval": "1m", "start": first, "days": 33, "compare_daily": True}
    table, report = binance.load(**{**wanted, "symbols": list(real)})
    for symbol, expected in real.items():
        part = table[table["symbol"] == symbol].drop(columns="symbol").reset_index(drop=True)
        pd.testing.assert_frame_equal(part, expected.reset_index(drop=True), check_exact=True)
    changes = [(each["symbol"], each["day"][8:], each["added"], each["replaced"]) for each in report["repairs"]]
    assert changes == [
        *[("BTCUSDT", day, 1440, 0) for day in ("05", "06", "07")],
        ("BTCUSDT", "21", 0, 1440),
        ("ARBUSDT", "21", 0, 1440),
    ]
    clean, checked = ingest.clean(table, exchange=None, features="continue", positions="hold", off_grid="refuse")
    assert (len(clean), checked["segments"], checked["missing_bars"]) == (2 * 33 * 1440, 2, 0)


def test_a_day_as_the_archive_has_it_is_read_exactly(server, block):
    file = SHARED / "BTCUSDT-1m-2025-03-01.csv"
    if not file.is_file():
        pytest.skip(f"{file} is not there")
    content = zip_text(file.name, file.read_text())
    server.put(f"/data/spot/daily/klines/BTCUSDT/1m/{file.stem}.zip", content)
    table, report = binance.load(**{**block, "interval": "1m", "start": "2025-03-01", "days": 1})
    rows = np.loadtxt(file, delimiter=",")
    assert table["open_time"].tolist() == (rows[:, 0].astype(np.int64) // 1000).tolist()
    np.testing.assert_array_equal(table[FIELDS[1:6]].to_numpy(), rows[:, 1:6])
    np.testing.assert_array_equal(table[FIELDS[7:]].to_numpy(float), rows[:, 7:11])
    assert any("open_time is converted from us to ms" in note for note in report["notes"])
    (stored,) = Path(block["archive"]).rglob("*.zip")
    assert hashlib.sha256(stored.read_bytes()).hexdigest() == hashlib.sha256(content).hexdigest()
