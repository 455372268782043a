"""The repository's params.yaml, and the models that it describes, for tests."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.models.base import Model, Signature
from pipeline.models.plugins import build, find_plugin
from pipeline.samples import Samples
from tests.data import plant_samples

PARAMS = yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text(encoding="utf-8"))
DATASETS: dict[str, dict[str, Any]] = PARAMS["datasets"] | PARAMS["disabled_datasets"]
BLOCKS: dict[str, tuple[str, dict[str, Any]]] = {  # (family, block) of every model that is fitted, enabled or not
    name: (family, block)
    for section in ("models", "disabled_models")
    for family, blocks in PARAMS[section].items()
    if family not in ("ensembles", "tuned")
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
SMALLER: dict[str, dict[str, Any]] = {  # of blocks that would take minutes, or too few updates, in tests
    "deeplob": {
        **{"window": 19, "conv_channels": 8, "inception_channels": 4, "hidden_size": 8, "dropout": 0.0},
        **{"train_stride": 2, **_MANY_UPDATES},
        "optimizer": {"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.01},
    },
    "tlob": _LOB_NETS,
    "mlplob": _LOB_NETS,
    "nhits": {"window": 8, "train_stride": 1, "dropout": 0.0, **_FEW_UPDATES},
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
    if block["dataset"] not in PARAMS["datasets"]:
        return "barrier"  # down, flat, up
    return PARAMS["datasets"][block["dataset"]]["targets"][block["target"]]["kind"]


def plant_samples_of(name: str, **options: Any) -> Samples:
    """Samples as a model can take them, with the planted signal of a target of its kind; see `plant_samples`."""
    return plant_samples(kind_of(name), seed=1, **SAMPLES.get(name, {}), **options)


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
