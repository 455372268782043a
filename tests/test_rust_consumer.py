"""The replay in Rust has the bits of Python's hot path: it needs cargo, and is skipped where there is none."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest

from pipeline import digests
from pipeline.deployment import feature_library
from pipeline.features.engine import Stream, compute
from pipeline.market import bars as klines
from pipeline.market import simulated
from tests.params import PARAMS
from tests.tiny_bundle import BARS, OUTPUTS, SYMBOLS, Market, write_bundle

CRATE = Path(__file__).parents[1] / "pipeline" / "deployment" / "rust"
EXACT = ("other bits", "targets", "accounts", "positions", "decisions")  # columns of the table that count differences

CHECKS = [
    ("fmt", "--check"),
    ("clippy", "--quiet", "--offline", "--all-targets", "--", "-D", "warnings"),
    ("test", "--quiet", "--offline", "--lib"),
]
pytestmark = pytest.mark.skipif(
    shutil.which("cargo") is None,
    reason="cargo is not installed: the crate is neither built nor replayed",
)
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def cargo(tmp_path_factory) -> Command:
    """A function that runs cargo on the crate, with its build in a temporary folder."""
    (library,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so*")
    environment = {**os.environ, "CARGO_TARGET_DIR": str(tmp_path_factory.mktemp("target")), "ORT_LIB": str(library)}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["cargo", *words], cwd=CRATE, env=environment, capture_output=True, text=True, check=False
        )

    return run


@pytest.fixture
def bundle(tmp_path) -> Path:
    write_bundle(tmp_path)
    return tmp_path


def replay(cargo: Command, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return cargo("run", "--quiet", "--offline", "--locked", "--", str(folder), "--repeat", "2", *words)


def read_table(text: str, *, rows: int) -> dict[str, dict[str, str]]:
    """Return the first rows of the table of a replay: by model, by column."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("model "))
    names, *rows = [re.split(r"\s{2,}", line) for line in lines[start : start + 1 + rows]]
    return {row[0]: dict(zip(names, row, strict=True)) for row in rows}


@pytest.mark.parametrize("command", CHECKS, ids=lambda command: command[0])
def test_the_crate_is_formatted_and_passes_its_lints_and_tests(cargo, command):
    done = cargo(*command)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "trading",
    [{}, {"delay_bars": 2, "long_only": True, "max_participation": 0.5, "no_trade_band": 0.0}, {"is_ranked": True}],
    ids=["default", "delayed_long_only", "ranks"],
)
def test_a_replay_has_the_predictions_targets_and_positions_of_python_in_every_bit(cargo, tmp_path, trading):
    write_bundle(tmp_path, **trading)
    done = replay(cargo, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    table = read_table(done.stdout, rows=len(OUTPUTS) + 1)
    assert list(table) == [*OUTPUTS, "voting"]
    assert {(name, key): row[key] for name, row in table.items() for key in EXACT if row[key] != "0"} == {}
    rows = BARS - 2 * 5  # two segments, each of which warms up
    assert {name: int(row["rows"]) for name, row in table.items() if name != "up"} == dict.fromkeys(
        [*(name for name in OUTPUTS if name != "up"), "voting"], rows * len(SYMBOLS)
    )
    assert int(table["up"]["rows"]) == rows
    assert re.search(r"p99\.9 [\d.]+  max [\d.]+; allocations 0$", done.stdout)


def test_a_replay_from_bars_has_the_features_of_the_stream_in_every_bit(cargo, tmp_path):
    bars = simulate_bars()
    block = PARAMS["datasets"]["klines"]["features"]
    features = compute(bars, **block)
    x, run = np.full((len(bars), len(features.columns)), np.nan, np.float32), np.full(len(bars), -1)
    x[features.rows] = features.x
    run[features.rows] = bars.groupby("segment").cumcount().to_numpy()[features.rows]
    run[features.rows] -= max(features.warm_up_bars.values())
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    write_bundle(bundle, {"BTCUSDT": Market(bars, x, run)}, columns=features.columns, models=["net", "classes"])
    library = feature_library.write_library(tmp_path / "library", Stream(**block).layout)
    done = replay(cargo, bundle, "--features", str(library))
    assert done.returncode == 0, done.stdout + done.stderr
    found = read_table(done.stdout, rows=1)["features"]
    assert (int(found["rows"]), found["other bits"]) == (len(features.rows), "0")
    assert len(features.rows) > 4_000


def simulate_bars() -> pd.DataFrame:
    """Return 5,760 bars with two gaps."""
    market = {key: value for key, value in PARAMS["sources"]["simulated"].items() if key != "kind"}
    raw, _ = simulated.load(**market | {"days": 4})
    return klines.clean(raw.drop(index=[1_000, 1_001, 3_500]).reset_index(drop=True))[0]


def test_a_replay_fails_where_a_golden_number_is_another(cargo, bundle):
    golden = bundle / "golden.csv"
    header, *rows = [line.split(",") for line in golden.read_text().splitlines()]
    for name in ("net.position", "agent.prediction.position", "voting.target"):
        place = header.index(name)
        rows[-1][place] = str(float(rows[-1][place]) + 0.01)
    golden.write_text("\n".join(map(",".join, [header, *rows])) + "\n")
    digests.write_sums(bundle)
    done = replay(cargo, bundle)
    assert done.returncode == 1
    assert "net: positions differ at 1 of" in done.stderr
    assert "agent: max |difference| is 1.000e-2; allowed is 1e-5" in done.stderr
    assert "voting: scores or targets differ at 1 of" in done.stderr


def test_a_damaged_bundle_is_not_replayed(cargo, bundle):
    with (bundle / "net.onnx").open("ab") as stream:
        stream.write(b"\0")
    done = replay(cargo, bundle)
    assert done.returncode == 2
    assert "net.onnx: FAILED" in done.stderr
