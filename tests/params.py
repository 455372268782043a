"""The repository's params.yaml, and the models that it describes, for tests."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.labels import describe_target
from pipeline.models.base import Model, Signature
from pipeline.models.plugins import build, find_plugin
from pipeline.samples import Samples
from pipeline.targets import Output
from tests.data import OUTPUTS, plant_samples

PARAMS = yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text(encoding="utf-8"))
DATASETS: dict[str, dict[str, Any]] = PARAMS["datasets"] | PARAMS["disabled_datasets"]
BLOCKS: dict[str, tuple[str, dict[str, Any]]] = {  # (family, block) of every model that is fitted, enabled or not
    name: (family, block)
    for section in ("models", "disabled_models")
    for family, blocks in PARAMS[section].items()
    if family not in ("ensembles", "pretrained", "tuned")  # for the last two see test_timesfm.py, test_tuning.py
    for name, block in blocks.items()
}
SHORT: dict[str, dict[str, Any]] = {  # of each family: a fit with these changes takes every kind of step
    "trees": {"num_boost_round": 20},
    "nets": {"epochs": 4},
    "agents": {"num_evaluations": 2, "learning_starts": 500, "num_episodes": 20, "num_envs": 64},
}


_MANY_UPDATES: dict[str, Any] = {"epochs": 6, "batch_size": 64}
_FEW_UPDATES: dict[str, Any] = {
    **{"epochs": 4, "batch_size": 64},
    "optimizer": {"name": "adamw", "learning_rate": 0.005, "weight_decay": 0.01},
}
_LOB_NETS: dict[str, Any] = {
    **{"window": 16, "hidden_size": 16, "num_layers": 1, "train_stride": 1, **_MANY_UPDATES},
    "optimizer": {"name": "adamw", "learning_rate": 0.005, "weight_decay": 0.01},
}


def _shorten(composite: str) -> dict[str, Any]:
    """The trees that a composite wraps, with fewer rounds."""
    wrapped = {key: value for key, value in BLOCKS[composite][1]["hyperparameters"].items() if isinstance(value, dict)}
    short = {"num_boost_round": 60, "learning_rate": 0.2}
    return {key: value | {"hyperparameters": value["hyperparameters"] | short} for key, value in wrapped.items()}


SMALLER: dict[str, dict[str, Any]] = {  # of blocks that would take minutes, or too few updates, in tests
    "deeplob": {
        **{"window": 19, "conv_channels": 8, "inception_channels": 4, "hidden_size": 8, "dropout": 0.0},
        **{"train_stride": 2, **_MANY_UPDATES},
        "optimizer": {"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.01},
    },
    "lstm_direction": {"window": 8, "hidden_size": 16, "train_stride": 1, **_FEW_UPDATES},
    "transformer_trend": {"window": 4, "d_model": 16, "num_layers": 1, "dim_feedforward": 16, **_FEW_UPDATES},
    "tlob": _LOB_NETS,
    "mlplob": _LOB_NETS,
    "nhits": {"window": 8, "train_stride": 1, "dropout": 0.0, **_FEW_UPDATES},
    "nhits_horizons": {"window": 8, "train_stride": 1, "dropout": 0.0, **_FEW_UPDATES},
    "patchtst": {
        "window": 8,
        "patch_len": 4,
        "stride": 2,
        "d_model": 8,
        "train_stride": 1,
        "dropout": 0.0,
        **_FEW_UPDATES,
    },
    "tft": {"window": 4, "train_stride": 1, "dropout": 0.0, **_FEW_UPDATES},
    **{name: _shorten(name) for name in ("interval", "meta_label")},
}
LEAST_WINDOWS = {"deeplob": 19, "tlob": 8, "mlplob": 8, "patchtst": 4}
SAMPLES: dict[str, dict[str, Any]] = {  # these nets look at whole windows: hardly at a signal of the last row alone
    "deeplob": {"columns": 40, "held_rows": 20, "noise": 0.1},
    "tlob": {"held_rows": 8, "noise": 0.1},
    "mlplob": {"held_rows": 8, "noise": 0.1},
}


def kind_of(name: str) -> str:
    """The kind of target that a model predicts; of an order book's, that of klines with the same outputs."""
    _, block = BLOCKS[name]
    kind: str = find_target(block)["kind"]
    return "barrier" if kind == "smoothed" else kind  # down, flat, up


def output_of(name: str) -> Output:
    """The output of a model: that of its kind of target, or the quantiles or horizons that its target asks for."""
    _, block = BLOCKS[name]
    target = find_target(block)
    if target["kind"] == "smoothed":
        return OUTPUTS[kind_of(name)]
    return describe_target(target, name="y", path="y").output


def find_target(block: Mapping[str, Any]) -> dict[str, Any]:
    """The target of a model's block, one of those that are enabled with it among them."""
    return (PARAMS["disabled_targets"] | DATASETS[block["dataset"]]["targets"])[block["target"]]


def plant_samples_of(name: str, **options: Any) -> Samples:
    """Samples as a model can take them, with the planted signal of a target of its kind; see `plant_samples`."""
    horizons = len(output_of(name).horizons)
    return plant_samples(kind_of(name), seed=1, horizons=horizons, **SAMPLES.get(name, {}), **options)


def list_hyperparameters(name: str) -> set[str]:
    """The keys of a model's hyperparameters: those of its block, those that its family shares, and those of trading."""
    family, block = BLOCKS[name]
    return {*block["hyperparameters"], *PARAMS.get(family, {}), *read_market(name)}


def read_market(name: str) -> dict[str, Any]:
    """The hyperparameters of a model that follow from the rules and costs of trading."""
    family, block = BLOCKS[name]
    return dict(find_plugin(family, block["plugin"]).read_market(PARAMS, block["dataset"]))


def build_model(name: str, signature: Signature, *, seed: int, changes: Mapping[str, Any] | None = None) -> Model:
    """The unfitted model of a block; `changes` replace hyperparameters of the block or keys that its family shares."""
    family, block = BLOCKS[name]
    changes = SMALLER.get(name, {}) | dict(changes or {})
    if "window" in changes:
        changes["window"] = max(changes["window"], LEAST_WINDOWS.get(name, 1))
    optional = {"window", "flatten", "label_uniqueness", "time_decay", "monotone_constraints"}  # of trees
    assert changes.keys() <= list_hyperparameters(name) | optional
    shared = {key: changes.get(key, value) for key, value in PARAMS.get(family, {}).items()}
    hyperparameters = {key: changes.get(key, value) for key, value in block["hyperparameters"].items()}
    hyperparameters |= {key: changes[key] for key in optional & changes.keys()}
    market = {key: changes.get(key, value) for key, value in read_market(name).items()}
    block = block | {"hyperparameters": hyperparameters}
    return build(family, block, signature, shared=shared, market=market, seed=seed)
