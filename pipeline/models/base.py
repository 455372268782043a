"""The interface that every model keeps, whatever its family."""

import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import pandas as pd
from annotated_types import Interval

from pipeline import config, digests
from pipeline.fills import Fills
from pipeline.models.fit_files import FitFiles
from pipeline.models.stopping import LOWEST_VALID_LOSS, StoppingCriterion
from pipeline.samples import Samples
from pipeline.targets import Kind, Output

HISTORY = ("iteration", "train_loss", "valid_loss")  # the fields of every entry of a fit's history
Window = Annotated[int, Interval(ge=1, le=1000)]  # bars of one input
DATA = "data.json"  # in the folder of a trained model: the sha256 of each file that it was fitted on
BATCH_ROWS = 4096  # rows predicted at once; it bounds memory, and the last bits of a prediction depend on it


@dataclass(frozen=True)
class Signature:
    """The columns of `x` in order, and what a prediction is."""

    columns: tuple[str, ...]
    output: Output

    @property
    def is_classification(self) -> bool:
        """Whether y is a class code, and a prediction one probability for each class."""
        return self.output.is_classification


@dataclass(kw_only=True, eq=False)
class Model(ABC):
    """The interface of all models. One fitted model = one ONNX graph with the same predictions.

    A plugin is a dataclass: its init fields are its hyperparameters. Params may leave out those with a default.
    """

    output_kinds: ClassVar[tuple[Kind, ...]]  # what it can predict
    # what checks the hyperparameters that are sections themselves: one function, or one for each `name` in the section
    sections: ClassVar[Mapping[str, Callable[..., Any] | Mapping[str, Callable[..., Any]]]] = {}

    market_arguments: ClassVar[tuple[str, ...]] = ()  # hyperparameters that `read_market` gives, not its own sections
    target_keys: ClassVar[tuple[str, ...]] = ()  # hyperparameters that must be those of the target, such as its horizon

    signature: Signature
    seed: int

    @classmethod
    def read_market(cls, params: config.Block, dataset: str) -> Mapping[str, Any]:
        """Return the hyperparameters that follow from the rules of trading and the costs; empty where none does."""
        return {}

    @classmethod
    def load_fills(cls, params: config.Block, dataset: str, rows: pd.DataFrame) -> Fills | None:
        """Return the fills of the orders decided at `rows` (segment, time); None where a model does not trade."""
        return None

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of a prediction's columns, such as ("return",) or ("down", "flat", "up")."""
        return self.signature.output.names

    @property
    def input_columns(self) -> tuple[str, ...]:
        """The names of an input's columns, in order: those of `x`, and those that a family adds."""
        return self.signature.columns

    @property
    def lookback_bars(self) -> int:
        """The number of bars before its own row that an input reads; 0 unless a family sees windows."""
        return 0

    @property
    def history_fields(self) -> tuple[str, ...]:
        """The fields of a history's entries; a family may add some to HISTORY."""
        return HISTORY

    @property
    def stopping(self) -> StoppingCriterion:
        """The criterion that finds the best iteration, whose state predicts."""
        return LOWEST_VALID_LOSS

    @property
    def fit_device(self) -> str:
        """The device that a fit runs on, "cpu" or "cuda"; raises ValueError where params name one that is missing."""
        return "cpu"

    @property
    def needs_sequential_fits(self) -> bool:
        """Whether fits must run one after another, as on a GPU that they would share."""
        return self.fit_device != "cpu"

    def estimate_fit_bytes(self, rows: int) -> int:
        """Return about the memory of a fit on so many rows, with its predictions, beside the samples; 0: not known."""
        return 0

    @property
    @abstractmethod
    def standardization(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The (mean, scale), each (F,), that inputs are standardized by; None where nothing is standardized.

        Abstract on purpose: a family that forgot it would pass the guard `normalization` unchecked.
        """

    def list_unscaled(self) -> tuple[str, ...]:
        """Return the columns that are not standardized: their mean is 0 and their scale 1, whatever the train rows."""
        return ()

    @property
    def fit_report(self) -> dict[str, Any]:
        """Facts about the last fit beside its history, JSON-able; empty by default."""
        return {}

    def __post_init__(self) -> None:
        """Raise ValueError where the plugin cannot predict what the target asks for."""
        output = self.signature.output
        if output.kind not in self.output_kinds:
            raise ValueError(
                f"{type(self).__name__} predicts {', '.join(self.output_kinds)}; its target asks for {output.kind} "
                f"({', '.join(output.names)}): choose another target or plugin"
            )

    @abstractmethod
    def fit(
        self, samples: Samples, train: np.ndarray, valid: np.ndarray, *, files: FitFiles | None = None
    ) -> list[dict[str, float]]:
        """Fit on the rows `train`, stop early by the rows `valid`, and return the history; no other row matters.

        With `files`, a long fit resumes where it was interrupted, with the same result. The history has one entry for
        each iteration (boosting round, epoch, or evaluation of a policy) with the keys `history_fields`:
        {"iteration": 1, "train_loss": 0.7, "valid_loss": 0.8}.
        """

    def inputs(self, samples: Samples, rows: np.ndarray) -> np.ndarray:
        """Return the inputs of these rows, float32: (B, F) here, (B, T, F) where a family sees windows."""
        self.check_columns(samples)
        x: np.ndarray = samples.x[rows]
        return x

    def check_columns(self, samples: Samples) -> None:
        """Raise ValueError where `samples` have other columns than the model, or another order."""
        if samples.columns != self.signature.columns:
            raise ValueError(f"model of columns {self.signature.columns} got samples of columns {samples.columns}")

    def check_fit(self, samples: Samples, train: np.ndarray, valid: np.ndarray) -> None:
        """Raise ValueError where nothing can be learned from `train`, or `valid` cannot stop a fit."""
        self.check_columns(samples)
        for name, rows in (("train", train), ("valid", valid)):
            self._check_rows(samples, rows, name=name)

    def _check_rows(self, samples: Samples, rows: np.ndarray, *, name: str) -> None:
        y = samples.learned[rows]
        if not len(rows):
            raise ValueError(f"{name} has no rows; a fit needs train rows to learn from and valid rows to stop by")
        is_finite = all(np.isfinite(samples.x[part]).all() for part in split_into_batches(rows))
        if not is_finite or not np.isfinite(y).all():
            raise ValueError(f"{name} holds values that are not finite; drop such rows where they arise")
        if self.signature.is_classification and not (
            np.issubdtype(y.dtype, np.integer) and y.min() >= 0 and y.max() < len(self.outputs)
        ):
            raise ValueError(
                f"{name}: y is {y.dtype} in [{y.min()}, {y.max()}]; classes {self.outputs} are coded 0, 1 …"
            )

    @abstractmethod
    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """Return the prediction (B, len(outputs)), of the kind of `signature.output`; classes sum to 1."""

    def predict_rows(self, samples: Samples, rows: np.ndarray) -> np.ndarray:
        """Return the prediction (B, len(outputs)) for these rows, however many."""
        return self.predict(self.inputs(samples, rows))

    def score(self, samples: Samples, rows: np.ndarray) -> np.ndarray:
        """Return the score of these rows that is traded, (B,) in [-1, 1]."""
        return self.signature.output.to_score(self.predict_rows(samples, rows))

    def measure_importances(self) -> dict[str, dict[str, float]] | None:
        """Return the importance of each column, by kind: {"gain": {"rsi_14": 3.2}}; None where it is undefined."""
        return None

    def evaluate(self, samples: Samples, rows: np.ndarray) -> dict[str, Any]:
        """Return how well the model's own forecasts, such as a value at risk, hold on unseen rows; JSON-able.

        Numbers among them become metrics, as medians over the fits; empty where a model makes no such forecast.
        """
        return {}

    def save(self, folder: Path) -> None:
        """Write to `folder` all that `load` needs, and the digests of its files; the same fit gives the same bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        family, plugin = type(self).__module__.rsplit(".", 2)[-2:]
        described = {
            "family": family,
            "plugin": plugin,
            "hyperparameters": list_hyperparameters(self),
            "seed": self.seed,
            "columns": self.signature.columns,
            "output": self.signature.output.describe(),
        }
        (folder / "model.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        self.save_fitted(folder)
        digests.write_sums(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return the model that `save` wrote to `folder`, with the same predictions."""
        described = read_description(folder)
        model = cls.from_description(described, seed=described["seed"])
        model.load_fitted(folder)
        return model

    @classmethod
    def from_description(cls, described: Mapping[str, Any], *, seed: int) -> Self:
        """Return the unfitted model that `described`, the content of a `model.json`, describes."""
        output = Output.from_description(described["output"])
        signature = Signature(columns=tuple(described["columns"]), output=output)
        return cls(signature=signature, seed=seed, **described["hyperparameters"])

    @abstractmethod
    def save_fitted(self, folder: Path) -> None:
        """Write what `fit` learned to `folder`; never a pickle."""

    @abstractmethod
    def load_fitted(self, folder: Path) -> None:
        """Read what `save_fitted` wrote to `folder`."""

    @abstractmethod
    def to_onnx(self, file: Path) -> None:
        """Write the graph "inputs" -> "answer", both float32, batch axis free; the same fit gives the same bytes."""


def split_into_batches(rows: np.ndarray, *, size: int = BATCH_ROWS) -> Iterator[np.ndarray]:
    """Yield `size` rows at a time: the windows of many rows would fill the memory."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def list_arguments(plugin: type[Model]) -> tuple[str, ...]:
    """Return the names that params must give: every constructor argument but `signature` and `seed`."""
    return tuple(name for name in inspect.signature(plugin).parameters if name not in {f.name for f in fields(Model)})


def list_hyperparameters(model: Model) -> dict[str, Any]:
    """Return what params gave, without optional keys that have their default: these may be left out of params too."""
    given = {name: getattr(model, name) for name in list_arguments(type(model))}
    optional = {each.name: each.default for each in fields(model) if each.default is not MISSING}
    optional |= {each.name: each.default_factory() for each in fields(model) if each.default_factory is not MISSING}
    return {name: value for name, value in given.items() if name not in optional or value != optional[name]}


def read_description(folder: Path) -> dict[str, Any]:
    """Return the `model.json` of a saved model: family, plugin, hyperparameters, seed, columns and output.

    Raises:
        ArtifactError: a file of the folder is missing or damaged; no library is given one, as it might abort. A graph
            that was exported into the folder is no file of the model.
    """
    file = digests.verify(folder, unlisted="*.onnx") / "model.json"
    described: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return described
