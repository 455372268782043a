"""Models whose hyperparameters are searched: the entries of `models.tuned`, fitted by the plugin that they name.

The stage `tune` searches, once for each split and for the final fit. `train` and `audit` read what it found.
"""

from collections.abc import Mapping
from typing import Any

from pipeline import artifacts, config, digests, remedies
from pipeline.config import ModelBlock
from pipeline.models.predictions import name_split

FAMILY = "tuned"
STAGE = "tune"  # whose report has the hyperparameters that it found


def find_fitted(params: config.Block, model: str) -> ModelBlock:
    """Return the entry of a model, a tuned one with the family and the plugin that fit it in place of its own.

    Raises:
        ParamsError: there is no such model, or a tuned one does not name its plugin as `<family>.<plugin>`.
    """
    entry = config.find_model(params, model)
    if entry.family != FAMILY:
        return entry
    family, _, plugin = entry.block["plugin"].partition(".")
    if not family or not plugin:
        raise config.ParamsError(
            f"models.{FAMILY}.{model}.plugin is {entry.block['plugin']!r}; it must be <family>.<plugin>, such as "
            "trees.lightgbm"
        )
    return ModelBlock(family, {**entry.block, "plugin": plugin}, entry.name)


def is_tuned(params: config.Block, model: str) -> bool:
    """Return whether the hyperparameters of a model are searched."""
    return config.find_model(params, model).family == FAMILY


def read_hyperparameters(model: str, *, splits: set[int]) -> dict[int, Mapping[str, Any]]:
    """Return the hyperparameters that the stage `tune` found, by split.

    Raises:
        ArtifactError: its report is missing, damaged, or of other splits.
    """
    file = artifacts.report_path(STAGE, model)
    found = artifacts.read_report(STAGE, model)["splits"]
    if set(found) != {name_split(split) for split in splits}:
        raise digests.ArtifactError(
            f"{file} is of the splits {', '.join(found)}; there are {', '.join(map(name_split, sorted(splits)))}; "
            f"{remedies.describe_writing(file)}"
        )
    return {split: found[name_split(split)]["hyperparameters"] for split in splits}
