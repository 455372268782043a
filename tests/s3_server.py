"""An S3 server on loopback, by moto."""

import contextlib
import importlib.util
import io
import json
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
    """Yield the address of a server with an empty bucket `store`; the environment has the keys of its one user.

    The server checks the signature of every request: other keys are refused.
    """
    from moto import server

    with contextlib.redirect_stdout(io.StringIO()):
        running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        running.start()
    host, port = running.get_host_and_port()
    address = f"http://{host}:{port}"
    try:
        httpx.put(f"{address}/store", timeout=120).raise_for_status()  # the first request imports moto's S3
        for name, value in zip(("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"), add_user(), strict=True):
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        check_signatures_after(0, address)
        yield address
    finally:
        check_signatures_after(10**9, address)
        httpx.post(f"{address}/moto-api/reset").raise_for_status()
        running.stop()


def add_user() -> tuple[str, str]:
    """Add a user who may do everything on S3; return the id and the secret of the key."""
    from moto.iam.models import iam_backends

    users = iam_backends["123456789012"]["aws"]
    users.create_user("us-east-1", "pipeline")
    rule = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    users.put_user_policy("pipeline", "s3", json.dumps({"Version": "2012-10-17", "Statement": [rule]}))
    key = users.create_access_key("pipeline")
    return key.access_key_id, key.secret_access_key


def check_signatures_after(requests: int, address: str) -> None:
    """Have the server check the keys of all requests but the next ones, so many."""
    httpx.post(f"{address}/moto-api/reset-auth", content=str(requests)).raise_for_status()
