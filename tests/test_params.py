"""Wrong values of params.yaml stop their stage with one line that names the key, and nothing is written."""

import hashlib
import importlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import cli
from tests.small_repository import surroundings

FETCH, LABEL, FEATURES, TREES = "fetch klines", "label klines", "featurize klines", "train lightgbm"
INGEST, CALENDAR = "ingest klines", "datasets.klines.calendar"
STOPPING = "nets.early_stopping"
NETS, AGENTS, EVALUATE = "train lstm", "train marl", "evaluate lightgbm"
SOURCE, TARGETS = "sources.simulated", "datasets.klines.targets"
TREE, NET, AGENT = (f"models.{name}.hyperparameters" for name in ("trees.lightgbm", "nets.lstm", "agents.marl"))
WHOLE, NUMBER, TEXT, LIST = "a whole number", "a number", "text", "a list"
HOURS = {"timezone": "UTC", "open": "09:30", "close": "16:00", "weekdays": [0], "holidays": [], "early_closes": {}}
WRONG: list[tuple[str, str, Any, str]] = [  # the stage, the key, its value, and words of the message after the key
    (FETCH, f"{SOURCE}.days", "5", f"is '5'; it must be {WHOLE}"),
    (FETCH, f"{SOURCE}.days", [5], f"is [5]; it must be {WHOLE}"),
    (FETCH, f"{SOURCE}.days", None, f"is None; it must be {WHOLE}"),
    (FETCH, f"{SOURCE}.days", 2.5, f"is 2.5; it must be {WHOLE}"),
    (FETCH, f"{SOURCE}.days", True, f"is True; it must be {WHOLE}"),
    (FETCH, f"{SOURCE}.days", 0, "is 0; it must be at least 1"),
    (FETCH, f"{SOURCE}.signal", "x", f"is 'x'; it must be {NUMBER}"),
    (FETCH, f"{SOURCE}.signal", 1.0, "is 1.0; it must be below 1"),
    (FETCH, f"{SOURCE}.interval", 60, f"is 60; it must be {TEXT}"),
    (FETCH, f"{SOURCE}.predictor", "news", "is 'news'; it must be 'flow' or 'order'"),
    (FETCH, f"{SOURCE}.symbols", [5], f"is 5; it must be {TEXT}"),
    (FETCH, f"{SOURCE}.symbols", [], "is []; it must be a list of at least 1"),
    (FETCH, f"{SOURCE}.kind", "../evil", "there is no source '../evil'"),
    (f"{FETCH} binance", "sources.binance.base_url", None, f"is None; it must be {TEXT}"),
    (f"{FETCH} binance", "sources.binance.retries", -1, "is -1; it must be at least 0"),
    (f"{FETCH} binance", "sources.binance.days", 10**9, "is 1000000000; it must be at most 36525"),
    (f"{FETCH} file", "sources.file.path", 5, "path is 5; it must be text, or a list, or null"),
    (f"{FETCH} file", "sources.file.fill_gaps_bars", -1, "is -1; it must be at least 0"),
    (f"{FETCH} file", "sources.file.timezone", 2, f"is 2; it must be {TEXT}"),
    (
        f"{FETCH} file",
        "sources.file.columns",
        {"time": "ts"},
        "columns.time is 'time'; it must be 'symbol', 'open",
    ),
    (FETCH, "datasets.klines.source", "nowhere", "there is no sources.nowhere"),
    (FETCH, "datasets.klines.source", 5, f"is 5; it must be {TEXT}"),
    (FETCH, "datasets.klines.kind", "books", "is 'books'; it must be one of klines"),
    (FETCH, "datasets.klines.kind", 5, f"is 5; it must be {TEXT}"),
    (FETCH, TARGETS, None, "is None; it must be a section of keys and values"),
    (FETCH, TARGETS, {}, "is {}; it must be a section of at least 1"),
    (FETCH, TARGETS, [1], "it must be a section of keys and values"),
    (FETCH, TARGETS, {"../evil": {"kind": "direction", "horizon": 5}}, "'../evil' cannot be a name"),
    (FETCH, "seed", 1.5, f"seed is 1.5; it must be {WHOLE}"),
    (FETCH, "seed", -1, "seed is -1; it must be at least 0"),
    (TREES, "seeds", 7, f"seeds is 7; it must be {LIST}"),
    (TREES, "seeds", None, f"seeds is None; it must be {LIST}"),
    (TREES, "seeds", [1, -2], "is -2; it must be at least 0"),
    (TREES, "seeds", [1.5], f"is 1.5; it must be {WHOLE}"),
    (TREES, "seeds", [3, 1, 3], "seeds is [3, 1, 3]; it must be a list of distinct numbers"),
    (TREES, "seeds", [2**63], "is 9223372036854775808; it must be at most 9223372036854775807"),
    (FETCH, CALENDAR, None, "is None; it must be a section of keys and values"),
    (INGEST, f"{CALENDAR}.exchange", 5, "exchange is 5; it must be text, or a section of keys and values, or null"),
    (INGEST, f"{CALENDAR}.exchange", {"timezone": "UTC"}, "key 'open' is missing"),
    (INGEST, f"{CALENDAR}.exchange", HOURS | {"open": "9:30"}, "open is '9:30'; it must be HH:MM in quotes, such as"),
    (INGEST, f"{CALENDAR}.exchange", HOURS | {"holidays": ["2024-02-30"]}, "is '2024-02-30'; it must be a date that"),
    (INGEST, f"{CALENDAR}.features", "both", "is 'both'; it must be 'continue' or 'restart'"),
    (INGEST, f"{CALENDAR}.positions", "sell", "is 'sell'; it must be 'hold' or 'close'"),
    (LABEL, TARGETS, None, "is None; name one or more"),
    (LABEL, TARGETS, {"a/b": {"kind": "direction", "horizon": 5}}, "'a/b' cannot be a name; allowed are letters"),
    (LABEL, f"{TARGETS}.barrier_20.profit", "4", f"is '4'; it must be {NUMBER}"),
    (LABEL, f"{TARGETS}.barrier_20.profit", float("inf"), "is inf; it must be a finite number"),
    (LABEL, f"{TARGETS}.barrier_20.stop", None, f"is None; it must be {NUMBER}"),
    (LABEL, f"{TARGETS}.return_5.horizon", True, f"is True; it must be {WHOLE}"),
    (LABEL, f"{TARGETS}.return_5.horizon", 10**7, "is 10000000; it must be at most 1000000"),
    (LABEL, f"{TARGETS}.return_5.horizon", 10**6, "none of 5760 bars has a label"),
    (LABEL, f"{TARGETS}.return_5.kind", "up", "is 'up'; it must be one of return, direction"),
    (FEATURES, "datasets.klines.features.rsi_windows", [1e9], f"is 1000000000.0; it must be {WHOLE}"),
    (FEATURES, "datasets.klines.features.rsi_windows", [10**9], "is 1000000000; it must be at most 100000"),
    (FEATURES, "datasets.klines.features.macd_windows", [26, 12, 9], "fast below slow"),
    (FEATURES, "datasets.klines.features.groups", ["prise"], "there is no 'prise'; pipeline/features/groups has price"),
    (FEATURES, "datasets.klines.features.groups", [], "is []; it must be a list of at least 1"),
    (FEATURES, "datasets.klines.features.groups", "price", f"is 'price'; it must be {LIST}"),
    (FEATURES, "datasets.klines.features.in_pandas", {"idea": {}}, "there is no 'idea'; pipeline/features/in_pandas"),
    (FEATURES, "datasets.klines.features.in_pandas", ["idea"], "it must be a section of keys and values"),
    ("guard klines", "guard.cuts", 0, "is 0; it must be above 0"),
    ("canary klines", "canary.bars", "all", f"is 'all'; it must be {WHOLE}"),
    ("split klines", "split.method", "kfold", "is 'kfold'; it must be 'cpcv', 'purged_kfold'"),
    ("split klines", "split.embargo_pct", 1, "is 1; it must be below 1, a share of the times (embargo_bars and"),
    ("split klines", "split.embargo_pct", -0.1, "is -0.1; it must be at least 0"),
    ("split klines", "split.embargo_bars", 1.5, f"is 1.5; it must be {WHOLE}"),
    ("split klines", "split.embargo_hours", -1, "is -1; it must be at least 0"),
    (
        "split klines",
        "split.embargo",
        20,
        "unknown key 'embargo'; its keys are method, groups, test_groups, train_groups,",
    ),
    (TREES, "trees.num_boost_round", "x", f"is 'x'; it must be {WHOLE}"),
    (TREES, "trees.num_boost_round", 0, "is 0; it must be above 0"),
    (TREES, f"{TREE}.num_leaves", "15", f"is '15'; it must be {WHOLE}"),
    (TREES, f"{TREE}.learning_rate", [0.1], f"is [0.1]; it must be {NUMBER}"),
    (TREES, f"{TREE}.learning_rate", "x", f"is 'x'; it must be {NUMBER}"),
    (TREES, f"{TREE}.learning_rate", 1e9, "is 1000000000.0; it must be at most 1"),
    (TREES, "models.trees.lightgbm.dataset", "books", "there is no datasets.books"),
    (TREES, "models.trees.lightgbm.target", "return_7", "there is no datasets.klines.targets.return_7"),
    (TREES, "models.trees.lightgbm", {"dataset": "klines", "plugin": "lightgbm"}, "key 'target' is missing"),
    (TREES, "models.trees.lightgbm.plugin", "forest", "unknown plugin 'forest'"),
    (TREES, "train.valid_pct", 0, "is 0; it must be above 0"),
    (TREES, f"{TREE}.window", 0, "is 0; it must be at least 1"),
    (TREES, f"{TREE}.window", 10**5, "is 100000; it must be at most 1000"),
    (NETS, f"{STOPPING}.mode", "max", "is 'max'; of valid_loss it must be 'min'"),
    (TREES, f"{TREE}.flatten", "all", "is 'all'; it must be 'last', 'mean' or 'flatten'"),
    (TREES, "models.trees.lightgbm.columns", "rsi_14", f"is 'rsi_14'; it must be {LIST}"),
    (TREES, "models.trees.lightgbm.columns", ["flow", "rsi"], "columns has ['rsi']; allowed are the groups price,"),
    (TREES, "models.trees.lightgbm.include_symbols", ["XYZ"], "include_symbols has ['XYZ']; the dataset has BTCUSDT"),
    (TREES, "models.trees.lightgbm.exclude_neutrals", 1, "is 1; it must be true or false"),
    (TREES, "models.trees.lightgbm.exclude_neutrals", True, "return_5 has no neutral class: set it to false"),
    (LABEL, f"{TARGETS}.return_5.quantiles", 0.5, f"is 0.5; it must be {LIST}"),
    (LABEL, f"{TARGETS}.return_5.quantiles", [0.5, 1.5], "is 1.5; it must be below 1"),
    (LABEL, f"{TARGETS}.return_5.quantiles", [0.9, 0.1], "is [0.9, 0.1]; its numbers must ascend"),
    (LABEL, f"{TARGETS}.return_5.horizons", [1, 3], "its horizon is 5; the last of horizons must be the horizon"),
    (LABEL, f"{TARGETS}.barrier_20.quantiles", [0.1, 0.9], "a target of kind barrier has none"),
    (NETS, f"{STOPPING}.patience", float("nan"), f"is nan; it must be {WHOLE}"),
    (NETS, f"{STOPPING}.patience", 0, "early_stopping.patience is 0; it must be above 0"),
    (NETS, f"{STOPPING}.mode", "lowest", "early_stopping.mode is 'lowest'; it must be 'min' or 'max'"),
    (NETS, f"{STOPPING}.min_delta", -0.1, "early_stopping.min_delta is -0.1; it must be at least 0"),
    (NETS, f"{STOPPING}.min_delta", float("inf"), "is inf; it must be a finite number"),
    (NETS, f"{STOPPING}.metric", 1, f"early_stopping.metric is 1; it must be {TEXT}"),
    (NETS, f"{STOPPING}.metric", "valid_f1", "is 'valid_f1'; with the outputs return it must be one of valid_loss;"),
    (
        NETS,
        f"{STOPPING}.metric",
        "train_loss",
        "is 'train_loss'; with the outputs return it must be one of valid_loss;",
    ),
    (NETS, STOPPING, 3, "is 3; it must be a section of keys and values"),
    (NETS, STOPPING, {"patience": 3}, "early_stopping: key 'metric' is missing"),
    (NETS, "nets.patience", 3, "nets: unknown key 'patience'"),
    (NETS, f"{NET}.loss", "huber", "is 'huber'; it must be a section of keys and values"),
    (NETS, f"{NET}.loss", {"name": "huber", "delta": 0}, "loss huber.delta is 0; it must be above 0"),
    (NETS, f"{NET}.bidirectional", "no", "is 'no'; it must be true or false"),
    (NETS, f"{NET}.hidden_size", 0, "is 0; it must be above 0"),
    (NETS, f"{NET}.dropout", 2, "is 2; it must be below 1"),
    (NETS, f"{NET}.lr_schedule", {"name": "step"}, "lr_schedule.name is 'step'; it must be 'constant'"),
    (NETS, f"{NET}.optimizer", {"name": "adam"}, "optimizer: key 'learning_rate' is missing"),
    (AGENTS, "trading.no_trade_band", -1, "is -1; it must be at least 0"),
    (AGENTS, "costs.simulated.borrow_rate", 1, "is 1; it must be below 1"),
    (AGENTS, "agents.no_trade_band", 0.2, "agents: unknown key 'no_trade_band'"),
    (LABEL, "trading.delay_bars", -1, "is -1; it must be at least 0"),
    (AGENTS, "agents.episode_bars", 10**7, "is 10000000; it must be at most 1000000"),
    (AGENTS, "agents.evt", {"tail_fraction": 0.1}, "agents.evt: key 'min_exceedances' is missing"),
    (AGENTS, f"{AGENT}.hidden_size", 0, "is 0; it must be above 0"),
    (AGENTS, f"{AGENT}.num_heads", 5, "the first must be a multiple of the second"),
    (EVALUATE, "costs.simulated.fee_bps", "abc", f"is 'abc'; it must be {NUMBER}"),
    (EVALUATE, "trading.no_trade_band", 1, "is 1; it must be below 1"),
    ("compare klines", "compare.blocks", 7, "is 7; it must be a multiple of 2"),
    ("compare klines", "compare.confidence", 95, "is 95; it must be below 1"),
    (EVALUATE, "performance.risk_free_rate", "4 %", f"is '4 %'; it must be {NUMBER}"),
    (EVALUATE, "performance.risk_free_rate", -1, "is -1; it must be above -1"),
    (EVALUATE, "capacity.impact_coefficient", None, f"is None; it must be {NUMBER}"),
    (EVALUATE, "capacity.impact_window", 1, "is 1; it must be at least 2"),
    ("signals klines", "gates.signal_ic", 1.5, "is 1.5; it must be below 1"),
    ("signals klines", "gates.signal_turnover", None, f"is None; it must be {NUMBER}"),
    ("sensitivity klines", "embargo_sensitivity.embargo_factors", [0, "x"], f"is 'x'; it must be {NUMBER}"),
    ("sensitivity klines", "embargo_sensitivity.hyperparameters.max_bin", 1, "is 1; it must be at least 2"),
    ("parity lightgbm", "parity.max_abs", None, f"is None; it must be {NUMBER}"),
    ("prop_firm klines", "prop_firm.rules.daily_loss", 5, "is 5; it must be below 1"),
    ("prop_firm klines", "prop_firm.rules.timezone", "Prague", "is 'Prague'; give a name of the IANA database"),
    ("prop_firm klines", "prop_firm.challenges.risks", [0.02, 0.01], "it must be a list of ascending numbers"),
    ("prop_firm klines", "prop_firm.challenges.models", ["nobody"], "model nobody is not there; models has"),
    ("gate klines", "gate.pass_probability", 2, "is 2; it must be at most 1"),
]


def set_value(params: dict[str, Any], path: str, value: Any) -> None:
    *parents, key = path.split(".")
    for parent in parents:
        params = params[parent]
    params[key] = value


def digest_files(folder: Path) -> dict[Path, str]:
    files = (path for part in ("data", "trained") for path in (folder / part).rglob("*") if path.is_file())
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def repo(ran: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository in which the pipeline has run: other tests read the original at the same time."""
    ignored = shutil.ignore_patterns(".git", ".dvc")
    return shutil.copytree(ran, tmp_path_factory.mktemp("params") / "repo", ignore=ignored, symlinks=True)


@pytest.fixture(scope="module")
def outputs(repo: Path) -> dict[Path, str]:
    return digest_files(repo)


@pytest.mark.parametrize(
    ("stage", "path", "value", "words"), WRONG, ids=[f"{stage}, {path}={value}" for stage, path, value, _ in WRONG]
)
def test_a_wrong_value_is_one_line_that_names_its_key_and_nothing_is_written(
    stage, path, value, words, repo, outputs, monkeypatch
):
    module, key, *source = stage.split()
    before = (repo / "params.yaml").read_text()
    params = yaml.safe_load(before)
    set_value(params, path, value)
    if source:
        params["datasets"]["klines"]["source"] = source[0]
    monkeypatch.chdir(repo)
    monkeypatch.setattr(sys, "argv", [module, key])
    monkeypatch.setenv("PIPELINE_WORKERS", "1")
    try:
        Path("params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        with pytest.raises(SystemExit) as stopped:
            cli.run(importlib.import_module(f"pipeline.stages.{module}").main)
    finally:
        Path("params.yaml").write_text(before)
    message = str(stopped.value.code)
    assert "\n" not in message
    assert "params.yaml: " in message
    assert words in message
    assert path.rpartition(".")[2] in message
    assert digest_files(repo) == outputs


def test_an_error_ends_with_status_one(repo):
    words = [sys.executable, "-m", "pipeline.stages.train", "nobody"]
    done = subprocess.run(words, cwd=repo, env=surroundings({}), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "params.yaml: model nobody is not there; models has trees.lightgbm" in done.stderr
