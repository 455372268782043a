# ruff: noqa: F811  # fixtures are imported
import errno
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.market import archive, binance
from tests.loopback_archive import Server, list_days, make_csv, zip_text
from tests.test_source_binance import block, check_table, load, server  # noqa: F401  # fixtures

MONTH = "BTCUSDT-1h-2024-02"
DAYS = list_days("2024-02-01", 29)
TEXT = make_csv(DAYS, header=False, unit=1, hours=range(24), volume=1.5)
FIRST_ROW = TEXT.splitlines()[0]
PAGE = b"<!DOCTYPE html><html><body>Sign in to the hotel's network</body></html>"
HTML = {"Content-Type": "text/html; charset=utf-8"}
Plant = Callable[[Server, str], object]


def put_zip(content: bytes) -> Plant:
    """Return a fault: the server has this zip, with its true CHECKSUM."""
    return lambda server, path: server.put(path, content)


def put_csv(text: str, *, member: str = f"{MONTH}.csv") -> Plant:
    return put_zip(zip_text(member, text))


def put_checksum(content: bytes) -> Plant:
    return lambda server, path: server.files.update({f"{path}.CHECKSUM": content})


def set_status(status: int, headers: dict[str, str] | None = None, *, suffix: str = "") -> Plant:
    return lambda server, path: server.faults.update({path + suffix: [(status, headers or {})] * 9})


def damage(content: bytes) -> bytes:
    """Return a zip whose member does not have its CRC."""
    return content[:200] + bytes([content[200] ^ 0xFF]) + content[201:]


def put_page_as_zip(server: Server, path: str) -> None:
    server.files[path] = PAGE


def redirect_to_itself(server: Server, path: str) -> None:
    server.faults[path] = [(302, {"Location": path})] * 99


GOOD = zip_text(f"{MONTH}.csv", TEXT)
SHA = b"a" * 64
FILE_FAULTS: dict[str, tuple[Plant, str]] = {  # the month's file alone is faulty
    "no CHECKSUM": (lambda server, path: server.files.pop(f"{path}.CHECKSUM"), "has no CHECKSUM on the server"),
    "CHECKSUM empty": (put_checksum(b""), "has the CHECKSUM ''"),
    "CHECKSUM no digest": (put_checksum(b"see the website"), "has the CHECKSUM 'see the website'"),
    "CHECKSUM of another file": (put_checksum(SHA + b"  ETHUSDT-1h-2024-02.zip\n"), "has the CHECKSUM 'aaa"),
    "CHECKSUM wrong for good": (put_checksum(SHA + f"  {MONTH}.zip\n".encode()), "and its CHECKSUM is 'aaa"),
    "no zip": (lambda server, path: server.files.pop(path), "has a CHECKSUM on the server, but is not there"),
    "not a zip": (put_zip(b"open_time,open"), "cannot be read as zip"),
    "no bytes": (put_zip(b""), "cannot be read as zip"),
    "truncated zip": (put_zip(GOOD[:-30]), "cannot be read as zip"),
    "damaged zip": (put_zip(damage(GOOD)), "cannot be (read as zip|unpacked)"),
    "empty zip": (put_zip(zip_text()), "has 0 members"),
    "two CSVs": (put_zip(zip_text(f"{MONTH}.csv", TEXT, "more.csv", TEXT)), "has 2 members"),
    "a bomb": (put_csv("0" * (1 << 25)), "holds 33,554,432 bytes in"),
    "another symbol": (put_csv(TEXT, member="ETHUSDT-1h-2024-02.csv"), "holds 'ETHUSDT-1h-2024-02.csv'; it must hold"),
    "another month": (put_csv(TEXT, member="BTCUSDT-1h-2024-03.csv"), "holds 'BTCUSDT-1h-2024-03.csv'"),
    "another interval": (put_csv(TEXT, member="BTCUSDT-1m-2024-02.csv"), "holds 'BTCUSDT-1m-2024-02.csv'"),
    "no CSV": (put_csv(TEXT, member=f"{MONTH}.exe"), "which is no CSV"),
    "empty CSV": (put_csv(""), "is empty"),
    "a header alone": (put_csv(",".join(binance.FIELDS)), "has a header and no rows"),
    "a short row": (put_csv(f"{TEXT}1,2,3\n"), "row 697 has 3 fields"),
    "a word": (put_csv(TEXT.replace("99999", "many", 1)), "'many' is not a number"),
    "few columns": (
        put_csv("\n".join(row.rsplit(",", 6)[0] for row in TEXT.splitlines())),
        "lacks the column.s. close_time, quote_volume",
    ),
    "another month's rows": (
        put_csv(make_csv(list_days("2024-01-31", 2), header=False, unit=1, hours=range(24), volume=1.5)),
        "has 24 bar.s. that do not open in its period, first 2024-01-31T00:00:00Z",
    ),
    "rows twice": (put_csv(f"{TEXT}{FIRST_ROW}\n"), "has 1 bar.s. twice, first 2024-02-01T00:00:00Z"),
    "mixed units": (put_csv(TEXT.replace("1706745600000,", "1706745600,")), "mixes s and ms"),
}
SERVER_FAULTS: dict[str, tuple[Plant, str]] = {  # nothing from there can be trusted, or fetched
    "CHECKSUM is a page": (put_checksum(PAGE), r"2024-02\.zip\.CHECKSUM is a web page and no file of the archive"),
    "CHECKSUM is called a page": (set_status(200, HTML, suffix=".CHECKSUM"), "is a web page and no file"),
    "zip is a page": (put_page_as_zip, r"2024-02\.zip is a web page and no file"),
    "another host": (
        set_status(302, {"Location": "http://localhost:1/login"}),
        "redirects to another server, http://localhost:1/login",
    ),
    "another scheme": (
        set_status(301, {"Location": "https://127.0.0.1/"}, suffix=".CHECKSUM"),
        "redirects to another server, https://127.0.0.1/",
    ),
    "a circle of redirects": (redirect_to_itself, "TooManyRedirects"),
    "forbidden": (set_status(403), r"could not be downloaded in 1 attempt\(s\)"),
    "failing": (set_status(500), r"could not be downloaded in 4 attempt\(s\)"),
    "busy": (set_status(429, suffix=".CHECKSUM"), r"could not be downloaded in 4 attempt\(s\)"),
    "cut short": (set_status(206), r"could not be downloaded in 4 attempt\(s\)"),
}


def plant(server: Server, fault: Plant) -> str:
    path = server.add("BTCUSDT", "2024-02", DAYS)
    fault(server, path)
    return path


def add_days(server) -> None:
    """Add the daily files of the month's two days."""
    for day in list_days("2024-02-10", 2):
        server.add("BTCUSDT", f"{day}", [day])


def check_nothing_stays(block: dict[str, Any], pattern: str = "*2024-02.zip*") -> None:
    """Assert that the local archive has no file of the pattern, not even a part."""
    assert not [file for file in Path(block["archive"]).rglob(pattern)]
    assert not [file for file in Path(block["archive"]).rglob(".*.draft")]


def check_sentence(error: BaseException) -> None:
    """Assert that an error is one sentence that names the month's file."""
    assert MONTH in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(("fault", "message"), FILE_FAULTS.values(), ids=FILE_FAULTS)
def test_a_faulty_month_is_one_sentence_where_no_daily_file_replaces_it(server, block, fault, message):
    plant(server, fault)
    with pytest.raises(ValueError, match=message) as raised:
        binance.load(**block)
    check_sentence(raised.value)
    check_nothing_stays(block)


@pytest.mark.parametrize(("fault", "message"), FILE_FAULTS.values(), ids=FILE_FAULTS)
def test_a_faulty_month_is_replaced_by_its_daily_files(server, block, fault, message):
    plant(server, fault)
    add_days(server)
    table, report = binance.load(**block)
    check_table(table, list_days("2024-02-10", 2))
    (reason,) = report["unusable"]
    assert MONTH in reason
    assert report["repairs"] == [
        {"symbol": "BTCUSDT", "day": day, "added": 24, "replaced": 0} for day in ("2024-02-10", "2024-02-11")
    ]
    check_nothing_stays(block)


@pytest.mark.parametrize(("fault", "message"), SERVER_FAULTS.values(), ids=SERVER_FAULTS)
def test_a_faulty_server_is_one_sentence_even_where_daily_files_exist(server, block, fault, message):
    plant(server, fault)
    add_days(server)
    with pytest.raises(ConnectionError, match=message) as raised:
        binance.load(**block)
    check_sentence(raised.value)
    check_nothing_stays(block)


@pytest.mark.parametrize("suffix", ["", ".CHECKSUM"])
def test_a_slow_drip_ends_after_the_time_limit(server, block, suffix):
    path = plant(server, lambda server, path: None)
    server.drip_s, server.drip_path = 0.02, path + suffix
    started = time.monotonic()
    with pytest.raises(ConnectionError, match=r"2024-02\.zip.* took longer than timeout_s"):
        binance.load(**{**block, "timeout_s": 0.4})
    assert time.monotonic() - started < 3
    check_nothing_stays(block)


def test_a_server_that_does_not_respond_is_one_sentence_after_the_time_limit(server, block):
    plant(server, lambda server, path: None)
    server.pause_s = 0.6
    with pytest.raises(ConnectionError, match="could not be downloaded in 1 attempt.*timeout_s|took longer"):
        binance.load(**{**block, "timeout_s": 0.2, "retries": 0})


def test_retry_after_has_a_limit(server, block, monkeypatch):
    monkeypatch.setattr(archive, "MAX_RETRY_AFTER_S", 0.02)
    path = plant(server, lambda server, path: None)
    server.faults[path] = [(429, {"Retry-After": "86400"}), (503, {"Retry-After": "Wed, 21 Oct 2099 07:28:00 GMT"})]
    server.faults[f"{path}.CHECKSUM"] = [(429, {"Retry-After": "soon"})]
    started = time.monotonic()
    check_table(load(**block), list_days("2024-02-10", 2))
    assert time.monotonic() - started < 3


def test_no_attempt_is_made_that_would_begin_after_the_time_limit(server, block):
    path = plant(server, set_status(429, {"Retry-After": "50"}))
    with pytest.raises(ConnectionError, match=r"in 1 attempt\(s\)"):
        binance.load(**{**block, "timeout_s": 5.0})
    assert server.list_zips() == [path]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_full_or_read_only_disk_is_one_sentence(server, block, monkeypatch, code):
    plant(server, lambda server, path: None)

    def refuse(self: Path, target: Path) -> Path:
        raise OSError(code, "No space left on device" if code == errno.ENOSPC else "Read-only file system")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(
        OSError, match=r"2024-02\.zip cannot be stored: (No space|Read-only).*another `archive`"
    ) as raised:
        binance.load(**block)
    assert "\n" not in str(raised.value)
    assert not list(Path(block["archive"]).rglob("*.zip"))
    assert not list(Path(block["archive"]).rglob(".*.draft"))


def test_an_archive_that_is_a_file_is_one_sentence(server, block, tmp_path):
    plant(server, lambda server, path: None)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"2024-02\.zip cannot be stored: (Not a directory|File exists)"):
        binance.load(**{**block, "archive": str(tmp_path / "file")})


def test_a_redirect_within_the_server_is_followed(server, block):
    path = plant(server, lambda server, path: None)
    server.faults[path] = [(307, {"Location": f"{path}?again"})]
    server.files[f"{path}?again"] = server.files[path]
    check_table(load(**block), list_days("2024-02-10", 2))


def test_no_request_is_logged_by_the_client(server, block, caplog):
    plant(server, lambda server, path: None)
    with caplog.at_level(logging.INFO):
        load(**block)
    assert [record.getMessage() for record in caplog.records] == [
        "binance: BTCUSDT has 48 bars, 2024-02-10T00:00:00Z to 2024-02-11T23:00:00Z"
    ]
