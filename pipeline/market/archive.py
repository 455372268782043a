"""Verified downloads: a local copy of a server's zips, each checked against its CHECKSUM and read before it stays."""

import contextlib
import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import httpx
import tenacity

from pipeline import artifacts

T = TypeVar("T")

log = logging.getLogger(__name__)

FIRST_WAIT_S, MAX_WAIT_S = 1.0, 60.0  # between attempts, with exponential growth
MAX_RETRY_AFTER_S = 60.0  # of the seconds that a server demands
TIMEOUT_S = 30.0  # of each exchange with the server
MAX_CHECKSUM_BYTES = 1 << 16
DIGEST = re.compile(r"[0-9a-f]{64}")


class FaultyFileError(ValueError):
    """The error of one file that cannot be used; others can."""


class ChecksumError(FaultyFileError):
    """The error of a file whose digest differs from its CHECKSUM, or whose CHECKSUM has none: it may pass by itself."""


class Fetched(NamedTuple, Generic[T]):
    """The content of a file. Without it, `fault` says why the file cannot be used, or is empty: there is no file."""

    content: T | None = None
    fault: str = ""
    note: str = ""  # on a file that the server has replaced or removed


@dataclass(frozen=True, kw_only=True)
class Archive(Generic[T]):
    """A local copy of the server's zips; `fetch` is thread-safe for distinct names.

    `read(file, name)` returns the content of a zip; it raises ValueError where that is not what the name says.
    """

    client: httpx.Client | None  # None: the local copy alone is used
    folder: Path
    read: Callable[[Path, str], T]
    retries: int
    timeout_s: float  # of one file, with all attempts

    def fetch(self, name: str) -> Fetched[T]:
        """Return the content of a file that matches its CHECKSUM, downloaded where the local copy does not.

        Raises:
            ConnectionError: the server cannot be reached, fails on every attempt, redirects elsewhere, or sends
                a web page.
            OSError: the file cannot be stored.
        """
        if self.client is None:
            return self._read_local(name)
        deadline = time.monotonic() + self.timeout_s
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_is_transient),
            wait=_choose_wait_s,
            stop=lambda state: (
                state.attempt_number > self.retries or time.monotonic() + state.upcoming_sleep >= deadline
            ),
            before_sleep=tenacity.before_sleep_log(log, logging.WARNING),
            reraise=True,
        )
        try:
            return retrying(self._update, self.client, name, deadline)
        except FaultyFileError as error:
            return Fetched(fault=str(error))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            attempts = retrying.statistics["attempt_number"]
            raise ConnectionError(
                f"binance: {self.client.base_url}{name} could not be downloaded in {attempts} attempt(s): {error!r}; "
                "run again to resume, or check base_url, retries and timeout_s of the source"
            ) from error
        except ConnectionError:
            raise
        except OSError as error:
            raise OSError(
                f"binance: {self.folder / name} cannot be stored: {error.strerror or error}; "
                "free space, make the folder writable, or set another `archive` of the source"
            ) from error

    def _update(self, client: httpx.Client, name: str, deadline: float) -> Fetched[T]:
        """Return the content of the local copy where it has the server's digest, else download it."""
        local, digest = _find_digest(self.folder / name), _request_digest(client, name, deadline)
        if digest is None and local is None:
            return Fetched()
        if digest is None:
            return self._read_local(name)._replace(note=f"{name} is no longer on the server: the local copy is used")
        if digest == local:
            return self._read_local(name)
        content = self._download(client, name, digest=digest, deadline=deadline)
        return Fetched(content, note=f"{name} was replaced on the server: it is downloaded again" if local else "")

    def _read_local(self, name: str) -> Fetched[T]:
        file = self.folder / name
        if not file.is_file():
            return Fetched()
        if _find_digest(file) is None:
            return Fetched(fault=f"{name} differs from its CHECKSUM in {self.folder}; fetch it with offline: false")
        try:
            return Fetched(self._read(file, name))
        except FaultyFileError as error:
            return Fetched(fault=str(error))

    def _read(self, file: Path, name: str) -> T:
        try:
            return self.read(file, name)
        except ValueError as error:
            raise FaultyFileError(str(error).replace(str(file), name)) from error

    def _download(self, client: httpx.Client, name: str, *, digest: str, deadline: float) -> T:
        """Return the content of the server's file, stored once it has the digest and is read."""
        file = self.folder / name
        with artifacts.replace_atomically(file) as draft:
            found = _stream_to(draft, client, name, deadline=deadline)
            if found != digest:
                raise ChecksumError(f"{name} has sha256 {found}, and its CHECKSUM is {digest!r}")
            content = self._read(draft, name)
            artifacts.write_text(_locate_checksum(file), f"{digest}  {file.name}\n")
        return content


@contextlib.contextmanager
def open_client(base_url: str, *, connections: int) -> Iterator[httpx.Client]:
    """Yield a client of one server: it follows no redirect to another, and logs no request."""
    logging.getLogger("httpx").setLevel(logging.WARNING)  # below, it logs a line for each request
    with httpx.Client(
        base_url=base_url,
        limits=httpx.Limits(max_connections=connections),
        headers={"Accept-Encoding": "identity"},
        follow_redirects=True,
        event_hooks={"response": [_refuse_other_server]},
    ) as client:
        yield client


def _refuse_other_server(response: httpx.Response) -> None:
    if not response.has_redirect_location:
        return
    target = response.url.join(response.headers["Location"])
    if (target.scheme, target.host, target.port) != (response.url.scheme, response.url.host, response.url.port):
        raise ConnectionError(
            f"binance: {response.url} redirects to another server, {target}; set base_url to it if you trust it, "
            "or sign in to your network"
        )


def _stream_to(draft: Path, client: httpx.Client, name: str, *, deadline: float) -> str:
    """Write the server's file to `draft` and return its sha256."""
    digest = hashlib.sha256()
    try:
        with draft.open("wb") as target, _open_stream(client, name, deadline) as chunks:
            for chunk in chunks:
                digest.update(chunk)
                target.write(chunk)
    except httpx.HTTPStatusError as error:
        if error.response.status_code != httpx.codes.NOT_FOUND:
            raise
        raise FaultyFileError(f"{name} has a CHECKSUM on the server, but is not there") from error
    return digest.hexdigest()


@contextlib.contextmanager
def _open_stream(client: httpx.Client, name: str, deadline: float) -> Iterator[Iterator[bytes]]:
    """Yield the chunks of a file, until the deadline.

    Raises:
        httpx.HTTPError: the server fails, or has no such file.
        ConnectionError: the response is a web page, or the deadline has passed.
    """
    with client.stream("GET", name, timeout=_limit_timeout(name, deadline)) as response:
        response.raise_for_status()
        yield _take_chunks(response, deadline)


def _take_chunks(response: httpx.Response, deadline: float) -> Iterator[bytes]:
    is_page = response.headers.get("Content-Type", "").startswith("text/html")
    for number, chunk in enumerate(response.iter_bytes()):
        _limit_timeout(str(response.url), deadline)
        if is_page or (number == 0 and chunk.lstrip().startswith(b"<")):
            raise ConnectionError(
                f"binance: {response.url} is a web page and no file of the archive: check base_url, and whether a "
                "proxy or a login page of your network stands in front of it"
            )
        yield chunk


def _limit_timeout(name: str, deadline: float) -> float:
    """Return the seconds that one exchange may take; ConnectionError where none are left."""
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise ConnectionError(
            f"binance: {name} took longer than timeout_s of the source allows; raise it, or try again later"
        )
    return min(TIMEOUT_S, left_s)


def _request_digest(client: httpx.Client, name: str, deadline: float) -> str | None:
    """Return the digest in the server's CHECKSUM; None where it has neither that nor the file."""
    content = b""
    try:
        with _open_stream(client, f"{name}.CHECKSUM", deadline) as chunks:
            for chunk in chunks:
                content += chunk
                if len(content) > MAX_CHECKSUM_BYTES:
                    break
    except httpx.HTTPStatusError as error:
        if error.response.status_code != httpx.codes.NOT_FOUND:
            raise
        if client.head(name, timeout=_limit_timeout(name, deadline)).is_success:
            raise FaultyFileError(f"{name} has no CHECKSUM on the server, so it cannot be verified") from error
        return None
    return _parse_digest(content.decode(errors="replace"), name)


def _parse_digest(checksum: str, name: str) -> str:
    """Return the digest in a text of sha256sum's format: digest, blanks, file name."""
    digest, *rest = [*checksum.lower().split(), ""]
    file = Path(name).name
    if not DIGEST.fullmatch(digest) or (rest[0] and Path(rest[0].lstrip("*")).name != file.lower()):
        raise ChecksumError(f"{name} has the CHECKSUM {checksum[:80]!r}, which is not a sha256 and {file}")
    return digest


def _find_digest(file: Path) -> str | None:
    """Return the digest of a local file, where it equals that of the CHECKSUM beside it."""
    checksum = _locate_checksum(file)
    if not file.is_file() or not checksum.is_file():
        return None
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return digest if checksum.read_text(errors="replace").lower().split()[:1] == [digest] else None


def _locate_checksum(file: Path) -> Path:
    return file.with_name(f"{file.name}.CHECKSUM")


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code == httpx.codes.TOO_MANY_REQUESTS or error.response.is_server_error
    if isinstance(error, httpx.UnsupportedProtocol):
        return False
    return isinstance(error, httpx.TransportError | ChecksumError)


def _choose_wait_s(state: tenacity.RetryCallState) -> float:
    """Return the seconds to wait: exponential backoff with full jitter, and at least the server's Retry-After."""
    backoff = tenacity.wait_random_exponential(multiplier=FIRST_WAIT_S, max=MAX_WAIT_S)(state)
    error = state.outcome.exception() if state.outcome else None
    minimum = _parse_retry_after_s(error.response) if isinstance(error, httpx.HTTPStatusError) else 0.0
    return max(backoff, min(minimum, MAX_RETRY_AFTER_S))


def _parse_retry_after_s(response: httpx.Response) -> float:
    """Return the seconds of a Retry-After header, a number or a date; 0 without one (RFC 9110, 10.2.3)."""
    value = response.headers.get("Retry-After", "0").strip()
    if re.fullmatch(r"[0-9]+", value):
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
