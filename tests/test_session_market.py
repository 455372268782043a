"""A market of 390-bar days runs through the stages: one warm-up is lost, and years are those of its hours."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from pipeline.market.sessions import OUTSIDE, list_years, number_bars
from pipeline.market.simulated import MarketSettings, simulate
from tests.small_repository import command, copy
from tests.test_sessions import MINUTE, NEW_YORK

STAGES = "fetch ingest featurize label guard canary split baseline train audit evaluate sensitivity compare"
RUN = """
import sys
from importlib import import_module
for word in sys.argv[1].split():
    import_module(f"pipeline.stages.{word}").main("lightgbm" if word in ("train", "audit", "evaluate") else "klines")
"""
DAYS, WARM_UP_BARS = 26, 449


def cut_hours(bars: pd.DataFrame) -> pd.DataFrame:
    """Return the bars of New York's hours: the price moves on while the market is closed."""
    time = bars["open_time"].to_numpy()
    sessions = list_years(int(time[0]), int(time[-1]), exchange=NEW_YORK)
    return bars[number_bars(time, sessions, bar_ms=MINUTE)[0] != OUTSIDE].reset_index(drop=True)


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory, quick_python: None) -> Path:
    """A copy of the repository whose market closes, and positions with it, after its stages have run in one process."""
    repo = copy(tmp_path_factory.mktemp("sessions") / "repo")
    settings = MarketSettings(signal=0.05, predictor="flow", half_life_bars=5.0, spread_bps=0.0, idle_share=0.0, seed=1)
    bars = simulate(settings, symbols=["AAA"], interval="1m", start="2024-02-26", days=DAYS)[0]
    cut_hours(bars).to_parquet(repo / "bars.parquet")
    digest = hashlib.sha256((repo / "bars.parquet").read_bytes()).hexdigest()
    params = yaml.safe_load((repo / "params.yaml").read_text())
    params["sources"]["file"] |= {"path": "bars.parquet", "sha256": digest, "symbol": None}
    params["datasets"]["klines"] |= {"source": "file"}
    params["datasets"]["klines"]["calendar"] = {
        "exchange": NEW_YORK,
        "features": "continue",
        "positions": "close",
        "off_grid": "refuse",
    }
    params["canary"]["bars"] = 5000
    params["costs"]["file"] |= {"fee_bps": 0.0, "slippage_bps": 0.0}
    tree = params["models"]["trees"]["lightgbm"]
    params["models"] = {"trees": {"lightgbm": tree}, "nets": {}, "agents": {}, "ensembles": {}}
    (repo / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    command(repo, "python", "-c", RUN, STAGES, PIPELINE_WORKERS="1")
    return repo


def read_report(repo: Path, stage: str, name: str = "klines") -> dict:
    return json.loads((repo / f"trained/reports/{stage}/{name}.json").read_text())


def test_twenty_days_are_one_segment_without_gaps(repo):
    report = read_report(repo, "ingest")
    sessions = report["sessions"]["symbols"]["AAA"]["sessions"]
    assert report["rows"] == 390 * sessions
    assert (report["segments"], report["missing_bars"]) == (1, 0)
    assert sessions == np.busday_count("2024-02-26", "2024-03-23")


def test_only_the_warm_up_of_the_first_segment_is_lost(repo):
    report = read_report(repo, "featurize")
    assert report["lost"] == {"warm_up": WARM_UP_BARS}
    assert report["rows"] == report["bars"] - WARM_UP_BARS


def test_the_last_bars_of_every_day_but_the_last_have_no_label(repo):
    report, sessions = read_report(repo, "label"), read_report(repo, "ingest")["sessions"]["symbols"]["AAA"]["sessions"]
    assert report["return_5"]["lost"]["closing"] == 5 * (sessions - 1)
    assert report["return_5"]["lost"]["label_horizon"] == 5
    lost = read_report(repo, "split")["lost"]
    assert lost["closing"] == 20 * (sessions - 2)  # of the longest label; the first day has no features
    assert lost["label_horizon"] == 20


def test_the_embargo_is_the_warm_up_and_the_longest_label_though_nights_lie_between(repo):
    report = read_report(repo, "split")
    assert report["embargo_bars"] == WARM_UP_BARS + 20
    assert "steps of the clock" not in report["embargo_reason"]


def test_no_guard_objects_and_every_canary_is_caught(repo):
    assert {finding["severity"] for finding in read_report(repo, "guard")["findings"]} == {"ok"}
    canaries = read_report(repo, "canary")
    assert canaries["caught"] == canaries["canaries"]
    assert canaries["false_alarms"] == 0


def test_nothing_is_held_overnight(repo):
    trips = pd.read_parquet(repo / "trained/round_trips/lightgbm.parquet")
    assert len(trips) > 20
    time = pd.read_parquet(repo / "data/clean/klines.parquet")["open_time"]
    places = pd.Series(time.index, index=time)
    fill = {edge: places[trips[f"{edge}_time"]].to_numpy() + 1 for edge in ("entry", "exit")}  # one bar after its row
    assert (fill["entry"] // 390 == fill["exit"] // 390).all()
    assert (fill["entry"] < fill["exit"]).all()


def test_results_are_annualized_by_the_bars_of_the_sessions(repo):
    year = read_report(repo, "ingest")["sessions"]["bars_per_year"]
    assert year == pytest.approx(97_740 * 365 / 366)
    trial = json.loads((repo / "trained/trials/lightgbm.jsonl").read_text().splitlines()[0])
    assert trial["bars_per_year"] == pytest.approx(year)
