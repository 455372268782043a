"""The commands of every README run as printed, on a small market."""

import functools
import hashlib
import http.server
import re
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.small_repository import ROOT, command, commit

BLOCKS = [
    pytest.param(block, id=f"{file.parent.name}-{number}")
    for file in (ROOT / "README.md", *sorted((ROOT / "pipeline").rglob("README.md")))
    for number, block in enumerate(re.findall(r"^```bash\n(.*?)^```", file.read_text(), re.MULTILINE | re.DOTALL))
    if ". .ci/setup" not in block  # that is what .ci/run runs
]
KLINE = ("open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "trades")
KLINE += ("taker_buy_base", "taker_buy_quote")


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Print nothing."""


def write_archive(bars: pd.DataFrame, folder: Path) -> None:
    """Write bars as Binance's archive has them: a zip for each day, and its checksum."""
    for day, part in bars.groupby(pd.to_datetime(bars["open_time"], unit="ms").dt.strftime("%Y-%m-%d")):
        name = f"BTCUSDT-1m-{day}.zip"
        file = folder / "data/spot/daily/klines/BTCUSDT/1m" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(file, "w") as target:
            text = part[list(KLINE)].assign(ignore=0).to_csv(header=False, index=False)
            target.writestr(name.replace(".zip", ".csv"), text)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        file.with_name(f"{name}.CHECKSUM").write_text(f"{digest}  {name}\n")


def select_models(params: dict, block: str) -> None:
    """Remove all models from `params` but lightgbm and those that the block names, to take less time."""
    for blocks in params["models"].values():
        for name in list(blocks):
            if name != "lightgbm" and not re.search(rf"\b{name}\b", block):
                del blocks[name]


@pytest.fixture
def readme_repo(repo, block, tmp_path) -> Iterator[Path]:
    """A repository in which the pipeline has run, with a user's file of bars, and Binance's archive on loopback.

    Commands that read no bundle make none, which takes less time.
    """
    bars = pd.read_parquet(repo / "data/raw/klines.parquet").drop(columns="symbol")
    bars.to_parquet(repo / "bars.parquet", index=False)
    write_archive(bars, tmp_path / "archive")
    handler = functools.partial(QuietHandler, directory=str(tmp_path / "archive"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        params = yaml.safe_load((repo / "params.yaml").read_text())
        params["sources"]["binance"]["base_url"] = f"http://127.0.0.1:{server.server_port}"
        select_models(params, block)
        params["deployment"]["datasets"] = ["klines"] * ("bundles" in block)
        (repo / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        commit(repo, "A loopback archive")
        yield repo
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("block", BLOCKS)
def test_the_commands_of_every_readme_run_as_printed(block, readme_repo):
    command(readme_repo, "bash", "-euo", "pipefail", "-c", block)
