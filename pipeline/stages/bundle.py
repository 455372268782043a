"""bundle <dataset>: put its models' graphs into one folder with a contract, golden rows and a replay certificate."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
from pydantic import PositiveInt

from pipeline import artifacts, cli, config, digests
from pipeline.deployment import certificate, contract, golden
from pipeline.deployment.certificate import Market, ReplaySettings
from pipeline.deployment.hot_path import HotPath
from pipeline.deployment.merged_graph import open_graph
from pipeline.deployment.replay import Reference
from pipeline.evaluation import stacking
from pipeline.evaluation.members import find_deployed_references
from pipeline.evaluation.voting import FAMILY, list_fitted, resolve_weights
from pipeline.feature_file import FeatureFile
from pipeline.features.engine import Stream
from pipeline.features.params import separate_cross_section
from pipeline.models import plugins
from pipeline.models.agents.engine.market_env import POSITION_COLUMNS
from pipeline.models.onnx_session import open_session
from pipeline.models.predictions import FINAL
from pipeline.row_groups import TableFile
from pipeline.samples import KEY
from pipeline.targets import Output, Target
from pipeline.trading_rules import read_costs, read_rules

Contracts = Mapping[str, Mapping[str, Any]]  # of export, by model


@dataclass(frozen=True, kw_only=True)
class DeploymentSettings:
    """The section `deployment` of params.yaml."""

    datasets: list[str]  # that have a bundle
    signal: str | None  # whose target is traded: an ensemble or a model; None: the ensemble, or else the first model
    golden_bars: PositiveInt  # with features and signals


def main(dataset: str) -> None:
    """Write the bundle of a dataset; one that the pipeline's own computations contradict is not written."""
    params = config.load_params()
    names, deployment = list_models(params, dataset), read_settings(params, dataset)
    exported = {name: artifacts.read_json(digests.verify(artifacts.ONNX / name) / "contract.json") for name in names}
    check_bars(dataset, exported)
    models = {name: plugins.load(artifacts.MODELS / name) for name in names}
    market = load_market(dataset)
    settings = config.call_with(ReplaySettings, block=config.look_up(params, "replay"), name="replay")
    with artifacts.replace_atomically(contract.BUNDLES / dataset) as folder:
        folder.mkdir()
        for name in names:
            shutil.copy(artifacts.ONNX / name / "model.onnx", folder / f"{name}.onnx")
        of_market = [str(symbol) for symbol in market.bars["symbol"].unique()]
        described = describe(params, dataset, exported, signal=deployment.signal, of_market=of_market)
        artifacts.write_json(folder / contract.CONTRACT, described)
        schema = contract.make_schema(has_cross_section="cross_section" in described)
        artifacts.write_json(folder / contract.SCHEMA, schema)
        digests.write_sums(folder)
        bundle = contract.read_contract(folder)
        golden.write_golden(golden.make_golden(bundle, models, market.bars, rows=deployment.golden_bars), folder)
        digests.write_sums(folder)
        limits = config.look_up(params, "parity")
        sessions = {name: open_session(folder / f"{name}.onnx") for name in names}
        single = {name: open_graph(onnx.load(folder / f"{name}.onnx")) for name in names}
        found, measured = certificate.certify(
            partial(HotPath.load, folder),
            market,
            Reference(models, sessions, single_sessions=single, **limits),
            settings=settings,
            restarts_at_closings=config.look_up(params, f"datasets.{dataset}.calendar.features") == "restart",
            seed=params["seed"],
        )
        passed = certificate.describe(folder, found, limits=limits, models=names)
        artifacts.write_json(folder / contract.CERTIFICATE, passed)
        digests.write_sums(folder)
    artifacts.write_report("bundle", dataset, passed)
    artifacts.write_json(artifacts.MEASURED / "bundle" / f"{dataset}.json", measured)


def read_settings(params: config.Block, dataset: str) -> DeploymentSettings:
    """Return the section `deployment`; ParamsError where its signal is neither a model nor an ensemble of a dataset."""
    settings = config.call_with(DeploymentSettings, block=config.look_up(params, "deployment"), name="deployment")
    known = [*list_models(params, dataset), *list_ensembles(params, dataset)]
    if settings.signal is not None and settings.signal not in known:
        raise config.ParamsError(f"deployment.signal is {settings.signal!r}; {dataset} has {', '.join(known)}")
    return settings


def check_bars(dataset: str, exported: Contracts) -> None:
    """Raise ParamsError where the rows of a dataset are no bars: nothing that a bundle has could replay them."""
    if any("interval_ms" not in (each["bars"] or {}) for each in exported.values()):
        raise config.ParamsError(
            f"deployment.datasets has {dataset}, whose rows are no bars; a hot path takes bars, and charges no half "
            f"spread: take {dataset} out. `python -m pipeline.deployment.replay_events` replays models of order books"
        )


def list_models(params: config.Block, dataset: str) -> list[str]:
    """Return the names of the models of a dataset that have a graph; an ensemble has none."""
    return [name for name, block in list_fitted(params) if block["dataset"] == dataset]


def list_ensembles(params: config.Block, dataset: str) -> list[str]:
    """Return the names of the ensembles of a dataset."""
    return [name for name, block in (params["models"].get(FAMILY) or {}).items() if block["dataset"] == dataset]


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


def describe(
    params: config.Block, dataset: str, exported: Contracts, *, signal: str | None, of_market: Sequence[str]
) -> dict[str, Any]:
    """Return the content of a bundle's contract; ParamsError where features cannot be streamed.

    `of_market` are the symbols of the clean table, which take part in columns among symbols.
    """
    first = next(iter(exported.values()))
    symbols = list(dict.fromkeys(symbol for each in exported.values() for symbol in each["bars"]["symbols"]))
    ensemble = describe_ensemble(params, dataset, exported, signal=signal)
    default = ensemble["name"] if ensemble else next(iter(exported))
    own, among = separate_cross_section(first["features"])
    try:
        stream = Stream(**own)
    except ValueError as error:
        raise config.ParamsError(f"{error}; or take {dataset} out of deployment.datasets") from error
    return {
        "schema_version": contract.choose_version(
            has_ranks="references" in (ensemble or {}), has_cross_section=among is not None
        ),
        "dataset": dataset,
        "signal": signal or default,
        "bars": {**first["bars"], "symbols": symbols},
        "features": first["features"],
        "columns": [*stream.columns, *(among.meanings if among else ())],
        "warm_up_bars": max(stream.layout.warm_up_bars, *(among.warm_up_bars.values() if among else ()), 0),
        "models": {name: describe_model(name, each) for name, each in exported.items()},
        "ensemble": ensemble,
        "trading": asdict(read_rules(params)) | asdict(read_costs(params, dataset)),
        "sha256": describe_sources(exported),
        "versions": contract.list_versions(),
        **({"cross_section": {"symbols": sorted(of_market), "columns": among.meanings}} if among else {}),
    }


def describe_ensemble(
    params: config.Block, dataset: str, exported: Contracts, *, signal: str | None
) -> dict[str, Any] | None:
    """Return the ensemble of a dataset that is the signal, or else its first one; None where there is none."""
    names = list_ensembles(params, dataset)
    if not names:
        return None
    name = signal if signal is not None and signal in names else names[0]
    outputs = {each["target"]["name"]: Output.from_description(each["output"]) for each in exported.values()}
    target = config.find_model(params, name).block["target"]
    outputs.setdefault(target, Target.load(digests.verify(artifacts.LABELS / dataset / f"{target}.parquet")).output)
    ensemble = resolve_weights(params, name, outputs)
    if config.find_model(params, name).block["plugin"] in stacking.PLUGINS:
        own = {target, *(member.target for member in ensemble.members)}
        targets = {each: Target.load(digests.verify(artifacts.LABELS / dataset / f"{each}.parquet")) for each in own}
        fitted = stacking.fit_all_weights(params, name, ensemble=ensemble, targets=targets, final=FINAL)
        ensemble = ensemble.replace_weights(stacking.choose_deployed(fitted, final=FINAL))
    if ensemble.rank_quantiles is None:
        return {"name": name, "weights": ensemble.weights}
    return {
        "name": name,
        "weights": ensemble.weights,
        "references": find_deployed_references(ensemble, final=FINAL),
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
        **({"prediction_set": exported["prediction_set"]} if "prediction_set" in exported else {}),
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
