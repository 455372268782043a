"""The promise that every model keeps, whatever its family, and how a block of params becomes one."""

import importlib
import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from pipeline.samples import Samples

MODELS = Path(__file__).parent
HISTORY = ("round", "train", "valid")  # what every entry of a fit's history tells
ROWS_AT_ONCE = 4096  # that are answered together; it bounds memory, and the last bits of an answer depend on it
BLOCK_KEYS = ("dataset", "target", "family", "plugin", "build")


@dataclass(frozen=True)
class Shape:
    """What goes in and what comes out: the columns of `x` in order, and the names of what is answered."""

    columns: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def is_classification(self) -> bool:
        """Several outputs are the probabilities of as many classes; a single one is a regression."""
        return len(self.outputs) > 1


def score_of(answer: np.ndarray, outputs: tuple[str, ...]) -> np.ndarray:
    """What trading uses, (B,) in [-1, 1], from the answer (B, len(outputs)) of a model or of its ONNX graph.

    A return, in units of volatility, and a position stand for themselves, a trend in [0, 1] is centred, and classes,
    which are named from the lowest to the highest, count P(highest) - P(lowest).
    """
    score: np.ndarray
    if len(outputs) > 1:
        score = answer[:, -1] - answer[:, 0]
    elif outputs in (("return",), ("position",)):
        score = answer[:, 0]
    elif outputs == ("trend",):
        score = 2 * answer[:, 0] - 1
    else:
        raise ValueError(
            f"outputs {outputs} have no score; known: ('return',), ('position',), ('trend',) or two and more classes"
        )
    return score.clip(-1.0, 1.0)


@dataclass(frozen=True)
class Bench:
    """Where a long fit may leave what it needs to go on after an interruption, and tell how it goes."""

    folder: Path  # of checkpoints, shared by the fits of a model
    metrics: Path  # a CSV that every fit adds its epochs to
    name: str  # of the fit, as a file name
    labels: Mapping[str, object]  # of the fit, the first columns of its lines in the CSV


@dataclass(kw_only=True, eq=False)
class Model(ABC):
    """What every model promises. One fitted model = one ONNX graph with the same answers.

    A plugin is a dataclass: its init fields are its tunables, none with a default, so that params give them all.
    """

    tells: ClassVar[tuple[str, ...]] = HISTORY  # what an entry of the history may tell; a family adds its own

    shape: Shape
    seed: int

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the answer's columns, such as ("return",) or ("down", "flat", "up")."""
        return self.shape.outputs

    @property
    def input_columns(self) -> tuple[str, ...]:
        """The names of what an input holds, in order: the columns, and what a family adds of its own."""
        return self.shape.columns

    @property
    def reach_bars(self) -> int:
        """How many bars before its own row an input reads: none, but where a family sees windows."""
        return 0

    @property
    def fits_alone(self) -> bool:
        """Whether one fit must follow another, as on a GPU that they would share."""
        return False

    @abstractmethod
    def fit(
        self, samples: Samples, train: np.ndarray, valid: np.ndarray, *, bench: Bench | None = None
    ) -> list[dict[str, float]]:
        """The model has learnt from `train` and stopped by `valid`, both row indices; no other row matters.

        With a `bench`, a fit that takes long goes on from where it was interrupted; what it learns is the same.
        Returns the history, one entry a round or epoch, of what `tells` names, with the loss on both parts:
        {"round": 1, "train": 0.7, "valid": 0.8}.
        """

    def inputs(self, samples: Samples, rows: np.ndarray) -> np.ndarray:
        """What the model is fed for these rows, float32: (B, F) here, (B, T, F) where a family sees windows."""
        self.check_columns(samples)
        x: np.ndarray = samples.x[rows]
        return x

    def check_columns(self, samples: Samples) -> None:
        """Raises ValueError where `samples` have other columns than the model, or in another order."""
        if samples.columns != self.shape.columns:
            raise ValueError(f"model of columns {self.shape.columns} got samples of columns {samples.columns}")

    def check_fit(self, samples: Samples, train: np.ndarray, valid: np.ndarray) -> None:
        """Raises ValueError where `train` are no rows to learn from, or `valid` none to stop by."""
        self.check_columns(samples)
        for name, rows in (("train", train), ("valid", valid)):
            self._check_rows(samples, rows, name=name)

    def _check_rows(self, samples: Samples, rows: np.ndarray, *, name: str) -> None:
        y = samples.y[rows]
        if not len(rows):
            raise ValueError(f"{name} has no rows; a fit needs some to learn from and some to stop by")
        if not np.isfinite(samples.x[rows]).all() or not np.isfinite(y).all():
            raise ValueError(f"{name} holds values that are not finite; drop such rows where they are born")
        if self.shape.is_classification and not (
            np.issubdtype(y.dtype, np.integer) and y.min() >= 0 and y.max() < len(self.outputs)
        ):
            raise ValueError(
                f"{name}: y is {y.dtype} in [{y.min()}, {y.max()}]; classes {self.outputs} are coded 0, 1 …"
            )

    @abstractmethod
    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """The answer (B, len(outputs)): a value, or one probability for each class, which sum to one."""

    def answer(self, samples: Samples, rows: np.ndarray) -> np.ndarray:
        """The answer (B, len(outputs)) for these rows, however many."""
        return self.predict(self.inputs(samples, rows))

    def score(self, samples: Samples, rows: np.ndarray) -> np.ndarray:
        """What trading uses, (B,) in [-1, 1]."""
        return score_of(self.answer(samples, rows), self.outputs)

    @abstractmethod
    def standardisation(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The (mean, scale), each (F,), that the model standardises with; None where it standardises nothing.

        Every family says so itself: one that forgot would else pass the guard `normalization` unseen.
        """

    def importances(self) -> dict[str, dict[str, float]] | None:
        """How much each column counts, by kind of importance: {"gain": {"rsi_14": 3.2}}; None where undefined."""
        return None

    def diagnosis(self) -> dict[str, Any]:
        """What the last fit says of itself, JSON-able; nothing where there is nothing to say."""
        return {}

    def examined(self, samples: Samples, rows: np.ndarray) -> dict[str, Any]:
        """What a fitted model's own forecasts are worth on rows that it has not seen; nothing where it makes none.

        JSON-able; its numbers are told among the metrics, medians over the fits.
        """
        return {}

    def hard_inputs(self, inputs: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
        """Inputs, made from ordinary ones, on which deployments go wrong: zeros of both signs and tiny numbers.

        A family adds its own: the places where it decides, and the extremes that it defines.
        """
        tiny = np.finfo(np.float32)
        odd = np.array([0.0, -0.0, tiny.tiny, -tiny.tiny, tiny.smallest_subnormal], dtype=np.float32)
        constant = np.broadcast_to(odd.reshape(-1, *[1] * (inputs.ndim - 1)), (len(odd), *inputs.shape[1:]))
        some = inputs[rng.integers(len(inputs), size=min(len(inputs), 256))]
        sprinkled = np.where(rng.random(some.shape) < 0.2, rng.choice(odd, size=some.shape), some)
        return np.concatenate([constant, sprinkled])

    def flipped(self, inputs: np.ndarray, file: Path) -> np.ndarray:
        """How many discrete decisions the ONNX graph in `file` takes otherwise, (B,) int64; none where none exist."""
        return np.zeros(len(inputs), dtype=np.int64)

    def save(self, folder: Path) -> None:
        """`folder` holds all that `load` needs; the same fit gives the same bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        family, plugin = type(self).__module__.rsplit(".", 2)[-2:]
        described = {
            "family": family,
            "plugin": plugin,
            "arguments": {name: getattr(self, name) for name in arguments_of(type(self))},
            "seed": self.seed,
            "columns": self.shape.columns,
            "outputs": self.shape.outputs,
        }
        (folder / "model.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        self.save_fitted(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The model that `save` wrote into `folder`, with the same answers."""
        described = _described(folder)
        shape = Shape(columns=tuple(described["columns"]), outputs=tuple(described["outputs"]))
        model = cls(shape=shape, seed=described["seed"], **described["arguments"])
        model.load_fitted(folder)
        return model

    @abstractmethod
    def save_fitted(self, folder: Path) -> None:
        """`folder` holds what `fit` learnt; never a pickle."""

    @abstractmethod
    def load_fitted(self, folder: Path) -> None:
        """This model has learnt what `save_fitted` wrote into `folder`."""

    @abstractmethod
    def to_onnx(self, file: Path) -> None:
        """`file` holds the graph "inputs" -> "answer", both float32, batch axis free; the same fit, the same bytes."""


def in_parts(rows: np.ndarray) -> Iterator[np.ndarray]:
    """ROWS_AT_ONCE of them at a time: the windows of many rows would fill the memory."""
    for start in range(0, len(rows), ROWS_AT_ONCE):
        yield rows[start : start + ROWS_AT_ONCE]


def build(block: Mapping[str, Any], shape: Shape, *, shared: Mapping[str, Any], seed: int) -> Model:
    """The model that one entry of params' `models` describes; `shared` is the block of its family.

    Raises ValueError, naming the key and the keys that exist, where a key of either is unknown, missing or doubled.
    """
    _check_keys("a block of models", given=tuple(block), known=BLOCK_KEYS)
    name = f"{block['family']}.{block['plugin']}"
    plugin = _plugin(block["family"], block["plugin"])
    doubled = sorted(set(block["build"]) & set(shared))
    if doubled:
        raise ValueError(f"{name}: {doubled} stands both under build and under {block['family']}; give it once")
    _check_keys(name, given=(*block["build"], *shared), known=arguments_of(plugin))
    return plugin(shape=shape, seed=seed, **block["build"], **shared)


def load(folder: Path) -> Model:
    """The model saved in `folder`, of whatever family."""
    described = _described(folder)
    return _plugin(described["family"], described["plugin"]).load(folder)


def arguments_of(plugin: type[Model]) -> tuple[str, ...]:
    """What params must give: every constructor argument but the two that follow from data and from `seed`."""
    return tuple(name for name in inspect.signature(plugin).parameters if name not in {f.name for f in fields(Model)})


def _described(folder: Path) -> dict[str, Any]:
    described: dict[str, Any] = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    return described


def _check_keys(name: str, *, given: tuple[str, ...], known: tuple[str, ...]) -> None:
    for fault, keys in (("unknown", set(given) - set(known)), ("missing", set(known) - set(given))):
        if keys:
            raise ValueError(f"{name}: {fault} {sorted(keys)}; its keys are {sorted(known)}")


def _plugin(family: str, plugin: str) -> type[Model]:
    """The one public class in `pipeline/models/<family>/<plugin>.py`: the file name is the registry.

    Where it is not a model itself, such as the module of a net, the family's `engine/promise.py` makes it one.
    """
    families = sorted(folder.parents[1].name for folder in MODELS.glob("*/engine/__init__.py"))
    if family not in families:
        raise ValueError(f"unknown family {family!r}; there are {families}")
    plugins = sorted(p.stem for p in (MODELS / family).glob("[!_]*.py"))
    if plugin not in plugins:
        raise ValueError(f"unknown plugin {plugin!r} of family {family!r}; there are {plugins}")
    module = importlib.import_module(f"pipeline.models.{family}.{plugin}")
    (found,) = (
        c
        for name, c in vars(module).items()
        if inspect.isclass(c) and c.__module__ == module.__name__ and not name.startswith("_")
    )
    if issubclass(found, Model):
        return found
    promise = importlib.import_module(f"pipeline.models.{family}.engine.promise")
    promised: type[Model] = promise.promised(found)
    return promised
