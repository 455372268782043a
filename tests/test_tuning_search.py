"""Searches by Optuna itself: conditional parts, importances, and which models a search space can be given to."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from pipeline.config import ModelBlock
from pipeline.models import base
from pipeline.models.cross_fit import ModelSpec
from pipeline.models.tuning.search_space import list_searched, parse_space
from pipeline.models.tuning.study import Search, check_space, search
from pipeline.stages import tune
from tests.params import BLOCKS, PARAMS, output_of, read_market
from tests.test_tuning import DATA, FIRST, SETTINGS, SHAPE

PAGE = Path(tune.__file__).parents[1] / "models/tuning/README.md"
EXAMPLES = yaml.safe_load(PAGE.read_text().split("```yaml\n")[1].split("```")[0])
COLUMNS = {"deeplob": 40}  # the net has one layout of a book
SCHEDULES = {"choices": [{"name": "constant"}, {"name": "cosine", "eta_min": {"low": 0.0001, "high": 0.001}}]}


@dataclass
class Planted:
    """A model without a fit, whose metric follows from its hyperparameters."""

    rate: float
    leaves: int
    schedule: Mapping[str, Any]

    def fit(self, *_: object) -> None:
        """Learn nothing."""

    def measure(self) -> float:
        return -10 * (self.rate - 0.3) ** 2 + 0.001 * self.leaves + 0.001 * self.schedule.get("eta_min", 0.0)


def run_planted(**changes: Any) -> Search:
    space = parse_space(
        {"leaves": {"low": 2, "high": 31}, "schedule": SCHEDULES, "rate": {"low": 0.0, "high": 1.0}}, name="planted"
    )
    return search(
        FIRST,
        SimpleNamespace(build=lambda _, hyperparameters: Planted(**hyperparameters)),
        DATA,
        space=space,
        settings=replace(SETTINGS, pruner_startup_trials=99, **changes),
        valid_pct=0.15,
        measure=lambda model, *_: (model.measure(), ""),
    )


def test_the_hyperparameter_that_decides_is_the_most_important_and_conditional_ones_have_no_importance():
    found = run_planted(sampler="random", n_trials=40)
    shares = found.importances
    assert [trial["state"] for trial in found.trials] == ["complete"] * 40
    assert list(shares)[0] == "rate" and shares["rate"] > 0.7
    assert sum(shares.values()) == pytest.approx(1.0)
    assert set(shares) == {"rate", "leaves", "schedule"}  # not schedule.cosine.eta_min, which half of the trials have
    assert run_planted(sampler="random", n_trials=7).importances == {}  # too few


def test_a_search_over_sections_that_was_interrupted_goes_on_to_the_same_trials(tmp_path: Path):
    """Of the net `gru_tuned`, whose schedules of the learning rate are sections, one with a range of its own."""
    block = PARAMS["disabled_models"]["tuned"]["gru_tuned"]
    small = {"window": 2, "hidden_size": {"choices": [2, 4]}}
    shared = PARAMS["nets"] | {"epochs": 1, "train_stride": 16}
    spec = ModelSpec(ModelBlock("nets", block | {"plugin": "recurrent"}, "gru_tuned"), SHAPE, shared)
    calls = []

    def measure(*arguments: Any, last: int) -> tuple[float, str]:
        if len(calls) == last:
            raise KeyboardInterrupt
        calls.append(arguments)
        return tune.measure(*arguments, metric="ic")

    run = partial(
        search,
        FIRST,
        spec,
        DATA,
        space=parse_space(block["hyperparameters"] | small, name="gru_tuned"),
        settings=replace(SETTINGS, pruner_startup_trials=99),
        valid_pct=0.15,
    )
    with pytest.raises(KeyboardInterrupt):
        run(measure=partial(measure, last=7), storage=tmp_path / "0.jsonl")
    resumed = run(measure=partial(measure, last=99), storage=tmp_path / "0.jsonl")
    assert len(calls) == 7 + resumed.fits - 6  # three trials had ended; the first fit of the fourth is repeated
    assert resumed == run(measure=partial(measure, last=99))
    tried = [trial["parameters"] for trial in resumed.trials]
    assert {each["lr_schedule"] for each in tried} == {"constant", "cosine"}
    assert all(("lr_schedule.cosine.eta_min" in each) == (each["lr_schedule"] == "cosine") for each in tried)
    assert set(resumed.hyperparameters["lr_schedule"]) <= {"name", "eta_min"}


def widen(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the first fraction, at any depth, by a range below it."""
    for key, value in hyperparameters.items():
        if isinstance(value, Mapping) and (inner := widen(value)) != value:
            return {**hyperparameters, key: inner}
        if isinstance(value, float) and value > 0:
            return {**hyperparameters, key: {"low": 0.9 * value, "high": value}}
    return dict(hyperparameters)


@pytest.mark.parametrize("name", BLOCKS)
def test_every_fitted_model_of_params_takes_a_range_in_the_place_of_a_value(name: str):
    family, block = BLOCKS[name]
    columns = tuple(f"column_{i}" for i in range(COLUMNS.get(name, 98)))
    signature = base.Signature(columns=columns, output=output_of(name))
    spec = ModelSpec(ModelBlock(family, block, name), signature, PARAMS.get(family, {}), read_market(name))
    space = parse_space(widen(block["hyperparameters"]), name=name)
    assert len(list_searched(space)) == 1
    check_space(spec, space, name=name)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_of_the_page_are_allowed_by_their_plugins(name: str):
    block = EXAMPLES[name]
    family, plugin = block["plugin"].split(".")
    spec = ModelSpec(ModelBlock(family, block | {"plugin": plugin}, name), SHAPE, PARAMS[family])
    space = parse_space(block["hyperparameters"], name=name)
    given = next(own for _, own in BLOCKS.values() if own["plugin"] == plugin and own["target"] == block["target"])
    assert block["hyperparameters"].keys() == given["hyperparameters"].keys()
    check_space(spec, space, name=name)
