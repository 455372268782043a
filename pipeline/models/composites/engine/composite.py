"""The base class of composites: models that wrap another one, the primary, which sees the same columns."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pipeline import config
from pipeline.models import plugins
from pipeline.models.base import Model, Signature, split_into_batches
from pipeline.models.stopping import StoppingCriterion
from pipeline.samples import Samples
from pipeline.targets import Output

FAMILY = "composites"


def declare_wrapped(*, family: str, plugin: str, hyperparameters: dict[str, Any]) -> None:
    """Declare the keys of a model that a composite wraps.

    Its `hyperparameters` are all that its plugin has: those that a section of params shares within the family too.
    """


@dataclass(kw_only=True, eq=False)
class Composite(Model):
    """A model around a primary one, which it builds, fits, saves and exports as a part of itself."""

    sections: ClassVar[Mapping[str, Callable[..., Any]]] = {"primary": declare_wrapped}

    primary: dict[str, Any]  # family, plugin and hyperparameters of the wrapped model
    primary_model: Model = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Build the primary model; ValueError names what of it is not allowed."""
        super().__post_init__()
        self.primary_model = self.build_primary()

    @abstractmethod
    def choose_primary_output(self) -> Output:
        """Return what the primary model predicts."""

    def build_primary(self) -> Model:
        """Return the unfitted primary model."""
        signature = Signature(self.signature.columns, self.choose_primary_output())
        return build_wrapped(self.primary, signature, seed=self.seed, name="primary")

    @property
    def lookback_bars(self) -> int:
        """The bars before its own row that an input of the primary model reads."""
        return self.primary_model.lookback_bars

    @property
    def history_fields(self) -> tuple[str, ...]:
        """The fields of the primary model's history."""
        return self.primary_model.history_fields

    @property
    def stopping(self) -> StoppingCriterion:
        """The criterion that stops the primary model's fit."""
        return self.primary_model.stopping

    @property
    def fit_device(self) -> str:
        """The device that the primary model is fitted on."""
        return self.primary_model.fit_device

    @property
    def standardization(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The standardization of the primary model."""
        return self.primary_model.standardization

    def list_unscaled(self) -> tuple[str, ...]:
        """Return the columns that the primary model leaves as they are."""
        return self.primary_model.list_unscaled()

    def inputs(self, samples: Samples, rows: np.ndarray) -> np.ndarray:
        """Return the inputs of the primary model, float32."""
        return self.primary_model.inputs(samples, rows)

    def predict_rows(self, samples: Samples, rows: np.ndarray) -> np.ndarray:
        """Return the prediction (B, len(outputs)) for these rows; windows are gathered a batch at a time."""
        batches = list(split_into_batches(rows)) or [rows]
        return np.concatenate([self.predict(self.inputs(samples, batch)) for batch in batches])

    def measure_importances(self) -> dict[str, dict[str, float]] | None:
        """Return the importance of each column for the primary model."""
        return self.primary_model.measure_importances()


def build_wrapped(described: Mapping[str, Any], signature: Signature, *, seed: int, name: str) -> Model:
    """Return the unfitted model that the section `name` of a composite's hyperparameters describes.

    Raises:
        ValueError: a key or a value is not allowed, a library is missing, or the model is itself a composite or one
            that trades; names the section.
    """
    config.check_section(declare_wrapped, described, name=name)
    family, plugin = described["family"], described["plugin"]
    if family == FAMILY or family not in plugins.list_families():
        raise ValueError(
            f"{name}.family is {family!r}; a composite wraps a model of another family, such as trees or nets"
        )
    try:
        if plugins.find_plugin(family, plugin).market_arguments:
            raise ValueError(f"{family}.{plugin} trades while it learns; choose a tree or a net")
        hyperparameters = described["hyperparameters"]
        return plugins.build_plugin(family, plugin, signature, hyperparameters=hyperparameters, seed=seed, name=name)
    except (ValueError, ModuleNotFoundError) as error:
        fault = str(error).removeprefix(config.PREFIX)
        raise ValueError(fault if fault.startswith(name) else f"{name}: {fault}") from error


def save_wrapped(model: Model, folder: Path) -> None:
    """Write what a wrapped model has learned to a folder of its own."""
    folder.mkdir(exist_ok=True)
    model.save_fitted(folder)
