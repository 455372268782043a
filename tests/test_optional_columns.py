"""Bars with prices and volume alone go through the stages; the columns that need more are left out by name."""

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from pipeline import artifacts
from pipeline.market import bars, simulated
from tests.params import PARAMS
from tests.small_repository import command, copy

RUN = """
import sys
from importlib import import_module
for word in sys.argv[1].split():
    import_module(f"pipeline.stages.{word}").main("lightgbm" if word in ("train", "export") else "klines")
"""
STAGES = "ingest featurize liquidity label guard canary split signals baseline train export"


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory, quick_python: None) -> Path:
    """A copy of the repository after its stages have run on bars without the optional columns."""
    repo = copy(tmp_path_factory.mktemp("optional") / "repo")
    params = yaml.safe_load((repo / "params.yaml").read_text())
    params["models"] = {
        "trees": {"lightgbm": params["models"]["trees"]["lightgbm"]},
        "nets": {},
        "agents": {},
        "ensembles": {},
    }
    (repo / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    block = {key: value for key, value in PARAMS["sources"]["simulated"].items() if key != "kind"}
    loaded = simulated.load(**block | {"days": 3, "signal": 0.05, "half_life_bars": 5.0})
    table = loaded[0] if isinstance(loaded, tuple) else loaded
    (repo / "data/raw").mkdir(parents=True, exist_ok=True)
    artifacts.write_table(repo / "data/raw/klines.parquet", table.drop(columns=list(bars.OPTIONAL)))
    command(repo, "python", "-c", RUN, STAGES, PIPELINE_WORKERS="1")
    return repo


def test_the_report_names_every_column_that_is_left_out_and_the_field_that_it_needs(repo):
    report = json.loads((repo / "trained/reports/featurize/klines.json").read_text())
    assert report["left_out"] == {
        "trade_intensity": "trades",
        "avg_trade_size": "trades",
        "order_flow_imbalance": "taker_buy_base",
        "taker_buy_ratio": "taker_buy_base",
        "vpin": "taker_buy_base",
        "kyle_lambda": "taker_buy_base",
        "amihud": "quote_volume",
        "signed_volume_autocorr": "taker_buy_base",
    }
    assert len(report["columns"]) == 44 - 8
    assert report["params"]["absent_fields"] == ["quote_volume", "trades", "taker_buy_base"]


def test_the_contract_names_the_bars_and_the_trading_rules(repo):
    contract = json.loads((repo / "trained/onnx/lightgbm/contract.json").read_text())
    assert contract["bars"]["interval_ms"] == 60_000
    assert contract["bars"]["symbols"] == ["BTCUSDT"]
    assert contract["bars"]["calendar"] == {"exchange": None, "features": "continue", "positions": "hold"}
    assert contract["bars"]["time_unit"] == "ms"
    assert set(contract["bars"]["columns"]) == set(bars.COLUMNS) - set(bars.OPTIONAL)
    assert contract["trading"] == {
        "full_position_std": 2.0,
        "no_trade_band": 0.02,
        "delay_bars": 0,
        "long_only": False,
    }
    assert contract["features"]["absent_fields"] == ["quote_volume", "trades", "taker_buy_base"]


def test_quote_volume_is_volume_times_close_where_bars_have_none(repo):
    clean = pd.read_parquet(repo / "data/clean/klines.parquet")
    assert [name for name in bars.OPTIONAL if name in clean] == []
    period = json.loads((repo / "trained/reports/liquidity/klines.json").read_text())["periods"][0]
    assert period["quote_volume_median"] == pytest.approx((clean["volume"] * clean["close"]).median())


def test_a_model_that_asks_for_a_column_that_was_left_out_is_refused_by_name(repo):
    params = yaml.safe_load((repo / "params.yaml").read_text())
    block = params["models"]["trees"]["lightgbm"]
    (repo / "params.yaml").write_text(
        yaml.safe_dump(params | {"models": {"trees": {"lightgbm": block | {"columns": ["return_1", "vpin"]}}}})
    )
    with pytest.raises(AssertionError, match="vpin.*left out: the bars have no taker_buy_base"):
        command(repo, "python", "-c", RUN, "train", PIPELINE_WORKERS="1")
    (repo / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
