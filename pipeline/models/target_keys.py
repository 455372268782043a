"""Hyperparameters that repeat a key of the target, such as a horizon: no model is built where the two differ."""

from collections.abc import Mapping
from typing import Any

from pipeline import config
from pipeline.models import plugins

WRAPPED = {"family", "plugin", "hyperparameters"}  # the keys of a model inside the hyperparameters of another one


def check_target_keys(params: config.Block, name: str, fitted: config.ModelBlock, *, horizon_bars: int) -> None:
    """Raise ParamsError where a model, or one that it wraps, has another value of a key than its target; names both.

    The keys are those of the plugin's `target_keys`. `fitted` is what fits the model `name`: of a tuned one the entry
    with the family of its plugin. `horizon_bars` is the horizon of targets whose params have none.
    """
    block = fitted.block
    place = f"datasets.{block['dataset']}.targets.{block['target']}"
    target = {"horizon": horizon_bars, **config.look_up(params, place)}
    owner = f"models.{config.find_model(params, name).family}.{name}"
    _compare(fitted, target, owner=owner, place=place)


def _compare(model: config.ModelBlock, target: Mapping[str, Any], *, owner: str, place: str) -> None:
    own = model.block["hyperparameters"]
    for key in plugins.find_plugin_of(model).target_keys:
        if key in own and key in target and own[key] != target[key]:
            raise config.ParamsError(
                f"{owner}.hyperparameters.{key} is {own[key]}, and {key} of {place} is {target[key]}: they must be "
                f"equal, since the model forecasts that target; set the first to {target[key]}"
            )
    for key, value in own.items():
        if isinstance(value, Mapping) and set(value) >= WRAPPED:
            wrapped = config.ModelBlock(value["family"], value, f"{model.name}.{key}")
            _compare(wrapped, target, owner=f"{owner}.hyperparameters.{key}", place=place)
