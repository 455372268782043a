"""The repository's params.yaml, and the models that it describes, for tests."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.models.base import Model, Signature
from pipeline.models.plugins import build, find_plugin

PARAMS = yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text(encoding="utf-8"))
DATASETS: dict[str, dict[str, Any]] = PARAMS["datasets"] | PARAMS["disabled_datasets"]
BLOCKS: dict[str, tuple[str, dict[str, Any]]] = {  # (family, block) of every model that is fitted, enabled or not
    name: (family, block)
    for section in ("models", "disabled_models")
    for family, blocks in PARAMS[section].items()
    if family != "ensembles"
    for name, block in blocks.items()
}
SHORT: dict[str, dict[str, Any]] = {  # of each family: a fit with these changes takes every kind of step
    "trees": {"num_boost_round": 20},
    "nets": {"epochs": 4},
    "agents": {"num_evaluations": 2, "learning_starts": 500, "num_episodes": 20, "num_envs": 64},
}


def kind_of(name: str) -> str:
    """The kind of target that a model predicts."""
    _, block = BLOCKS[name]
    return DATASETS[block["dataset"]]["targets"][block["target"]]["kind"]


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
    changes = changes or {}
    optional = {"window", "flatten", "label_uniqueness", "time_decay", "monotone_constraints"}  # of trees
    assert changes.keys() <= list_hyperparameters(name) | optional
    shared = {key: changes.get(key, value) for key, value in PARAMS.get(family, {}).items()}
    hyperparameters = {key: changes.get(key, value) for key, value in block["hyperparameters"].items()}
    hyperparameters |= {key: changes[key] for key in optional & changes.keys()}
    market = {key: changes.get(key, value) for key, value in read_market(name).items()}
    block = block | {"hyperparameters": hyperparameters}
    return build(family, block, signature, shared=shared, market=market, seed=seed)
