"""The interface that every model keeps, whatever its family, and how a block of params becomes a model."""

import importlib
import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from annotated_types import Interval

from pipeline import config
from pipeline.models.fit_files import FitFiles
from pipeline.models.stopping import LOWEST_VALID_LOSS, StoppingCriterion
from pipeline.samples import Samples
from pipeline.targets import Kind, Output

MODELS = Path(__file__).parent
NO_FAMILIES = ("parity_checks", "torch_runtime")  # packages beside the families, for several of them
HISTORY = ("iteration", "train_loss", "valid_loss")  # the fields of every entry of a fit's history
Window = Annotated[int, Interval(ge=1, le=1000)]  # bars of one input
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

    signature: Signature
    seed: int

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
        y = samples.y[rows]
        if not len(rows):
            raise ValueError(f"{name} has no rows; a fit needs train rows to learn from and valid rows to stop by")
        if not np.isfinite(samples.x[rows]).all() or not np.isfinite(y).all():
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
        """Write to `folder` all that `load` needs; the same fit gives the same bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        family, plugin = type(self).__module__.rsplit(".", 2)[-2:]
        described = {
            "family": family,
            "plugin": plugin,
            "hyperparameters": list_hyperparameters(self),
            "seed": self.seed,
            "columns": self.signature.columns,
            "output": asdict(self.signature.output),
        }
        (folder / "model.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        self.save_fitted(folder)

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


def split_into_batches(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield BATCH_ROWS rows at a time: the windows of many rows would fill the memory."""
    for start in range(0, len(rows), BATCH_ROWS):
        yield rows[start : start + BATCH_ROWS]


def build(
    family: str,
    block: Mapping[str, Any],
    signature: Signature,
    *,
    shared: Mapping[str, Any],
    seed: int,
    name: str = "<model>",
) -> Model:
    """Return the unfitted model of one entry `name` of params' `models.<family>`; `shared` is the family's own section.

    Raises:
        ParamsError: a key is unknown, missing or in both sections, or a value is not allowed; names it.
    """
    entry = f"models.{family}.{name}"
    config.check_section(config.declare_model, block, name=entry)
    own = block["hyperparameters"]
    if doubled := sorted(set(own) & set(shared)):
        raise config.ParamsError(
            f"{doubled} stands both under {entry}.hyperparameters and under {family}; give it once"
        )
    try:
        plugin = find_plugin(family, block["plugin"])
    except ValueError as error:
        raise config.ParamsError(f"{entry}: {error}") from error
    known = list_arguments(plugin)
    config.check_section(plugin, shared, name=family, keys=tuple(key for key in known if key in shared))
    keys = tuple(key for key in known if key not in shared)
    config.check_section(plugin, own, name=f"{entry}.hyperparameters", keys=keys)
    try:
        return plugin(signature=signature, seed=seed, **own, **shared)
    except ValueError as error:
        fault = str(error).removeprefix(config.PREFIX)
        raise config.ParamsError(f"{entry}: {fault}") from error


def build_plugin(
    family: str, plugin: str, signature: Signature, *, hyperparameters: Mapping[str, Any], seed: int, name: str
) -> Model:
    """Return an unfitted model that is no entry of `models`; the section `name` of params has all its hyperparameters.

    Raises:
        ParamsError: a key is unknown or missing, or a value is not allowed; names it.
    """
    found = find_plugin(family, plugin)
    config.check_section(found, hyperparameters, name=f"{name}.hyperparameters", keys=list_arguments(found))
    return found(signature=signature, seed=seed, **hyperparameters)


def load(folder: Path) -> Model:
    """Return the model saved in `folder`, of whatever family."""
    described = read_description(folder)
    return find_plugin(described["family"], described["plugin"]).load(folder)


def build_like(folder: Path, *, seed: int) -> Model:
    """Return an unfitted model with the hyperparameters of the one saved in `folder`, and another seed."""
    described = read_description(folder)
    return find_plugin(described["family"], described["plugin"]).from_description(described, seed=seed)


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
    """Return the `model.json` of a saved model: family, plugin, hyperparameters, seed, columns and output."""
    described: dict[str, Any] = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    return described


def list_families() -> list[str]:
    """Return the names of the model families: each package of `pipeline/models` with plugins is one."""
    return sorted(file.parent.name for file in MODELS.glob("*/__init__.py") if file.parent.name not in NO_FAMILIES)


def list_plugins(family: str) -> list[str]:
    """Return the names of a family's plugins: each public module of its package is one."""
    return sorted(file.stem for file in (MODELS / family).glob("[!_]*.py"))


def find_plugin(family: str, plugin: str) -> type[Model]:
    """Return the one subclass of `Model` in `pipeline/models/<family>/<plugin>.py`: the file name is the registry.

    A file without one, such as that of a net, has one public class; `make_model_class` of the family's `engine/net.py`
    makes it a model. A family without such an engine has subclasses of `Model` alone.
    """
    if family not in (families := list_families()):
        raise ValueError(f"unknown family {family!r}; there are {families}")
    if plugin not in (plugins := list_plugins(family)):
        raise ValueError(f"unknown plugin {plugin!r} of family {family!r}; there are {plugins}")
    module = importlib.import_module(f"pipeline.models.{family}.{plugin}")
    public = [
        c
        for name, c in vars(module).items()
        if inspect.isclass(c) and c.__module__ == module.__name__ and not name.startswith("_")
    ]
    found = [c for c in public if issubclass(c, Model)]
    if not found and (MODELS / family / "engine/net.py").exists():
        engine = importlib.import_module(f"pipeline.models.{family}.engine.net")
        found = [engine.make_model_class(c) for c in public]
    if len(found) != 1:
        raise ValueError(
            f"pipeline/models/{family}/{plugin}.py has the public classes {[c.__name__ for c in public]}; exactly one "
            "must be a model, other classes can begin with an underscore"
        )
    return found[0]
