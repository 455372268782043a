"""An S3 server on loopback, by moto."""

import contextlib
import importlib.util
import io
from collections.abc import Iterator

import httpx
import pytest

PACKAGES = ("dvc_s3", "flask", "flask_cors", "moto")
ABSENT = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
MARKS = [
    pytest.mark.skipif(bool(ABSENT), reason=f"S3 on loopback needs the extra `dev`: there is no {', '.join(ABSENT)}"),
    pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning"),  # of pygtrie, which DVC uses
]


@contextlib.contextmanager
def serve_bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yield the address of a server with an empty bucket `store`, with credentials in the environment."""
    from moto import server

    for name, value in {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    with contextlib.redirect_stdout(io.StringIO()):
        running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        running.start()
    host, port = running.get_host_and_port()
    address = f"http://{host}:{port}"
    try:
        httpx.put(f"{address}/store", timeout=120).raise_for_status()  # the first request imports moto's S3
        yield address
    finally:
        running.stop()


@contextlib.contextmanager
def refuse_keys(address: str) -> Iterator[None]:
    """Refuse every request within the block, as a server does with a wrong key."""
    httpx.post(f"{address}/moto-api/reset-auth", content="0").raise_for_status()
    try:
        yield
    finally:
        httpx.post(f"{address}/moto-api/reset-auth", content="1e9").raise_for_status()
