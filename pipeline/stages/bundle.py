"""bundle <dataset>: put its models' graphs into one folder with a contract, golden rows and a replay certificate."""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import artifacts, cli, config, digests
from pipeline.deployment import certificate, contract, golden
from pipeline.deployment.certificate import Market, ReplaySettings
from pipeline.deployment.hot_path import HotPath
from pipeline.deployment.replay import Reference
from pipeline.feature_file import FeatureFile
from pipeline.models import plugins
from pipeline.models.agents.engine.market_env import POSITION_COLUMNS
from pipeline.models.base import Model
from pipeline.models.ensembles.weights import resolve_weights
from pipeline.models.onnx_session import open_session
from pipeline.row_groups import TableFile, read_clean
from pipeline.samples import KEY
from pipeline.trading_rules import read_costs, read_rules

log = logging.getLogger(__name__)
Contracts = Mapping[str, Mapping[str, Any]]  # of export, by model


def main(dataset: str) -> None:
    """Write the bundle of a dataset; one that the pipeline's own computations contradict is not written."""
    params = config.load_params()
    names = list_models(params, dataset)
    exported = {name: artifacts.read_json(digests.verify(artifacts.ONNX / name) / "contract.json") for name in names}
    models = {name: plugins.load(artifacts.MODELS / name) for name in names}
    market = load_market(dataset)
    settings = config.call_with(ReplaySettings, block=config.look_up(params, "replay"), name="replay")
    with artifacts.replace_atomically(artifacts.BUNDLES / dataset) as folder:
        folder.mkdir()
        for name in names:
            shutil.copy(artifacts.ONNX / name / "model.onnx", folder / f"{name}.onnx")
        described = describe(params, dataset, exported, market.bars)
        artifacts.write_json(folder / contract.CONTRACT, described)
        artifacts.write_json(folder / contract.SCHEMA, contract.make_schema())
        digests.write_sums(folder)
        bundle = contract.read_contract(folder)
        rows = config.look_up(params, "deployment.golden_bars")
        golden.write_golden(golden.make_golden(bundle, models, market.bars, rows=rows), folder)
        digests.write_sums(folder)
        limits = config.look_up(params, "parity")
        sessions = {name: open_session(folder / f"{name}.onnx") for name in names}
        found, measured = certificate.certify(
            partial(HotPath.load, folder),
            market,
            Reference(models, sessions, **limits),
            settings=settings,
            restarts_at_closings=config.look_up(params, f"datasets.{dataset}.calendar.features") == "restart",
            seed=params["seed"],
        )
        passed = certificate.describe(folder, found, limits, names)
        artifacts.write_json(folder / contract.CERTIFICATE, passed)
        digests.write_sums(folder)
    artifacts.write_json(artifacts.report_path("bundle", dataset), passed)
    artifacts.write_json(artifacts.MEASURED / "bundle" / f"{dataset}.json", measured)


def list_models(params: config.Block, dataset: str) -> list[str]:
    """Return the names of the models of a dataset that have a graph; an ensemble has none."""
    families = plugins.list_families()
    return [
        name
        for family, models in params["models"].items()
        if family in families
        for name, block in (models or {}).items()
        if block["dataset"] == dataset
    ]


def load_market(dataset: str) -> Market:
    """Return the clean bars of a dataset and their features."""
    file = digests.verify(artifacts.FEATURES / f"{dataset}.parquet")
    stored = FeatureFile(file, keys=KEY)
    x = np.empty(stored.shape, stored.dtype)
    for column in range(len(stored.columns)):
        x[:, column] = stored[:, column]
    clean = artifacts.CLEAN / f"{dataset}.parquet"
    bars = artifacts.read_table(digests.verify(clean))
    return Market(bars, x, stored.columns, TableFile(file).read(KEY))


def describe(params: config.Block, dataset: str, exported: Contracts, bars: pd.DataFrame) -> dict[str, Any]:
    """Return the content of a bundle's contract."""
    first = next(iter(exported.values()))
    symbols = [str(symbol) for symbol in bars["symbol"].unique()]
    columns = artifacts.read_report("featurize", dataset)
    ensembles = {n: b for n, b in (params["models"].get("ensembles") or {}).items() if b["dataset"] == dataset}
    ensemble, signal = None, config.look_up(params, "deployment.signal")
    if ensembles:
        name = signal if signal in ensembles else next(iter(ensembles))
        weights = resolve_weights(params, name)
        ensemble = {"name": name, "weights": {member: weight for member, weight in weights.items() if member in exported}}
    default = ensemble["name"] if ensemble else next(iter(exported))
    return {
        "schema_version": contract.SCHEMA_VERSION,
        "dataset": dataset,
        "signal": signal or default,
        "bars": {**first["bars"], "symbols": symbols},
        "features": first["features"],
        "columns": columns,
        "models": {name: describe_model(name, each) for name, each in exported.items()},
        "ensemble": ensemble,
        "trading": asdict(read_rules(params)) | asdict(read_costs(params, dataset)),
        "sha256": describe_sources(exported),
        "versions": contract.list_versions(),
    }


def describe_model(name: str, exported: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a contract that a model has."""
    account = [column for column in exported["columns"] if column in POSITION_COLUMNS]
    _, *axes = exported["graph"]["inputs"]
    return {
        "family": exported["model_spec"]["family"],
        "plugin": exported["model_spec"]["plugin"],
        "graph": f"{name}.onnx",
        "columns": [column for column in exported["columns"] if column not in account],
        "account_columns": account,
        "window": axes[0] if len(axes) > 1 else None,
        "symbols": exported["bars"]["symbols"],
        "output": exported["output"],
        "target": exported["target"],
        "score_std": exported["score_std"],
    }


def describe_sources(exported: Contracts) -> dict[str, Any]:
    """Return the sha256 of what a bundle is made from."""
    return {
        "graphs": {name: digests.hash_file(artifacts.ONNX / name / "model.onnx") for name in exported},
        "models": {name: each["sha256"]["model"] for name, each in exported.items()},
        "data": {file: digest for each in exported.values() for file, digest in each["sha256"]["data"].items()},
        "code": contract.hash_code(),
    }


if __name__ == "__main__":
    cli.run(main)
