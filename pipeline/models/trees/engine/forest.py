"""The base class of boosted trees: early stopping, class probabilities, and one prediction in every form of a model."""

import json
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import onnx
from annotated_types import Interval
from pydantic import PositiveInt
from scipy.special import softmax

from pipeline.models.base import BATCH_ROWS, Model, Window, split_into_batches
from pipeline.models.fit_files import FitFiles
from pipeline.models.trees.engine.device import Device, select_device
from pipeline.models.trees.engine.flattening import Flatten, Flattening
from pipeline.models.trees.engine.forest_graph import LEAF, Tree, make_forest_graph
from pipeline.models.trees.engine.sample_weights import make_sample_weights
from pipeline.samples import Samples
from pipeline.targets import Kind

OBJECTIVE_LOSSES = {False: ("l2", "l1", "huber"), True: ("log",)}  # by whether outputs are classes
Fraction = Annotated[float, Interval(gt=0, le=1)]
TimeDecay = Annotated[float, Interval(gt=-1, le=1)]
CONTRIBUTION_ROWS = 256  # of the valid rows, evenly spread, on which the contributions of columns are measured
LEAF_BATCH_ROWS = 16384  # bounds the memory of one leaf for each row and tree
PREDICTED_BATCH_ROWS = 1 << 18  # predicted at once, without a window; no prediction depends on it
ROW_BYTES, MARGIN_BYTES = 150, 50  # of a row in the memory of a fit, beside its values, and of each of its margins
MIN_VIEW_ROWS = 4096  # rows that follow one another and are not copied; fewer are, with their neighbors


@dataclass(frozen=True)
class BoostingData:
    """The rows of one part of a fit. Boosting begins at `base_margin`, the margins before the first tree."""

    samples: Samples
    rows: np.ndarray  # (n,) of the samples
    flattening: Flattening
    y: np.ndarray  # (n,) float32 values or int32 class codes
    base_margin: np.ndarray  # (n, margins) float64
    weight: np.ndarray | None  # (n,) float64; None where all rows count the same

    def gather(self) -> np.ndarray:
        """Return the rows that trees split on, (n, F) float32."""
        x, start = np.empty((len(self.rows), len(self.flattening.names)), np.float32), 0
        for part in split_into_batches(self.rows):  # no list of batches: it would be the whole matrix once more
            inputs = self.flattening.gather(self.samples.x, self.samples.segment, part)
            x[start : start + len(part)] = self.flattening.flatten(inputs)
            start += len(part)
        return x

    def list_parts(self) -> list[np.ndarray]:
        """Return the rows of `gather` in parts (n, F), for a library that takes several: long runs are not copied."""
        if self.flattening.window > 1:
            return [self.gather()]
        return [
            self.samples.x[part[0] : part[-1] + 1] if part[-1] - part[0] == len(part) - 1 else self.samples.x[part]
            for part in split_into_runs(self.rows)
        ]


class LossCurves(NamedTuple):
    """The loss after each boosting round, in the unit of the model's `loss`."""

    train: np.ndarray  # (rounds,) float64
    valid: np.ndarray  # (rounds,) float64

    @property
    def best_iteration(self) -> int:
        """The round, from 1 on, with the lowest valid loss; the earliest of equals."""
        return int(np.argmin(self.valid)) + 1


@dataclass(kw_only=True, eq=False)
class BoostedTrees(Model):
    """A boosted forest: prediction = link(offset + sum of leaves); the link is softmax for classes, or the identity.

    The offset is fitted here on train rows, not by the library. So every class has its column, even where train has no
    row of it. And no tree carries the level of y, which would cost float32 leaves their last digits.
    Weights count for the train rows alone: the loss of the valid rows, which stops a fit, is unweighted.
    After `fit` the forest ends at its best iteration: no later tree exists that a prediction or an export might use by
    mistake. Trees see the last bar, the mean or all bars of a window, as `flatten` says. A regression has one margin,
    two classes one (of the second over the first), more classes one each.
    """

    output_kinds: ClassVar[tuple[Kind, ...]] = ("value", "position", "probability", "classes")

    loss: Literal["l2", "l1", "huber", "log"]  # see OBJECTIVE_LOSSES
    num_boost_round: PositiveInt
    early_stopping_rounds: PositiveInt
    window: Window = 1  # bars
    flatten: Flatten = "last"  # what trees see of a window
    label_uniqueness: bool = False  # whether train rows are weighted by the average uniqueness of their labels
    time_decay: TimeDecay = 1.0  # of the weights of train rows; 1: none, see `sample_weights.decay_by_age`
    monotone_constraints: dict[str, Literal[-1, 1]] = field(default_factory=dict)  # sign of the effect by column
    device: Device = "cpu"  # that grows the trees; auto: a GPU where there is one that can
    offset: np.ndarray = field(init=False, repr=False)  # (outputs,) float64
    trees: list[Tree] = field(init=False, repr=False)  # the library's own, in the order of its iterations
    report: dict[str, Any] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ValueError where the loss does not fit the outputs."""
        super().__post_init__()
        allowed = OBJECTIVE_LOSSES[self.signature.is_classification]
        if self.loss not in allowed:
            names = ", ".join(self.outputs)
            raise ValueError(f"loss is {self.loss!r}; for the outputs {names} it must be one of {', '.join(allowed)}")
        self._check_monotone_constraints()

    @property
    def num_margins(self) -> int:
        """The number of trees that one round adds."""
        return len(self.outputs) if self.signature.is_classification and len(self.outputs) > 2 else 1

    @property
    def flattening(self) -> Flattening:
        """The rule by which a window becomes the row that trees split on."""
        return Flattening(self.window, self.flatten, self.signature.columns)

    @property
    def monotone_signs(self) -> list[int]:
        """The sign of the effect of each value that trees see, 0 where it is free; empty without constraints.

        Of a whole window every bar of a column has the column's sign.
        """
        if not self.monotone_constraints:
            return []
        signs = [self.monotone_constraints.get(column, 0) for column in self.signature.columns]
        return signs * (len(self.flattening.names) // len(signs))

    @property
    def lookback_bars(self) -> int:
        """The bars of a window before its own row."""
        return self.window - 1

    @property
    def fit_device(self) -> Literal["cpu", "cuda"]:
        """The device that grows the trees; ValueError where it is cuda and no GPU can."""
        return select_device(self.device, find_fault=self.find_gpu_fault)

    def find_gpu_fault(self) -> str | None:
        """Return why a GPU cannot grow these trees; None where it can."""
        return None

    @property
    def bytes_per_value(self) -> int:
        """About the memory of a fit for each value that trees see: the gathered row, and the library's own forms."""
        return 12

    def estimate_fit_bytes(self, rows: int) -> int:
        """Return about the memory of a fit: values that trees see, margins and predictions."""
        return rows * (self.bytes_per_value * len(self.flattening.names) + ROW_BYTES + MARGIN_BYTES * self.num_margins)

    @property
    def standardization(self) -> None:
        """None: trees split on raw values."""

    @property
    def fit_report(self) -> dict[str, Any]:
        """The number of trees, the mean depth of their leaves, and the mean |SHAP value| of each column."""
        return self.report

    @abstractmethod
    def grow(self, train: BoostingData, valid: BoostingData) -> LossCurves:
        """Boost up to `num_boost_round` rounds, stop after `early_stopping_rounds`, and cut at the best iteration."""

    @abstractmethod
    def predict_margins(self, inputs: np.ndarray) -> np.ndarray:
        """Return the sums of leaves, (B, margins) float64."""

    @abstractmethod
    def predict_leaves(self, inputs: np.ndarray) -> np.ndarray:
        """Return the leaf of each row in each tree by the library itself, (B, trees) int64 positions in `trees`."""

    @abstractmethod
    def parse_trees(self) -> list[Tree]:
        """Return the trees, parsed from the library's own format."""

    @abstractmethod
    def convert_to_onnx(self) -> onnx.ModelProto:
        """Return the forest as onnxmltools writes it, every split exact for float32 inputs."""

    @abstractmethod
    def measure_importance(self, kind: str) -> np.ndarray:
        """Return (F,) float64: the loss reduction ("gain") or the number ("split") of the splits on each column."""

    @abstractmethod
    def explain_margins(self, inputs: np.ndarray) -> np.ndarray:
        """Return the library's own SHAP values (Lundberg et al. 2020) of flat rows, (B, margins, F) float64."""

    @abstractmethod
    def save_forest(self, folder: Path) -> None:
        """Write the forest to `folder` in the library's own format."""

    @abstractmethod
    def load_forest(self, folder: Path) -> None:
        """Read the forest that `save_forest` wrote to `folder`."""

    def fit(
        self, samples: Samples, train: np.ndarray, valid: np.ndarray, *, files: FitFiles | None = None
    ) -> list[dict[str, float]]:
        """Grow trees on `train` until `valid` has not improved for `early_stopping_rounds`; return the history."""
        self.check_fit(samples, train, valid)
        weight = make_sample_weights(samples, train, label_uniqueness=self.label_uniqueness, time_decay=self.time_decay)
        self.offset = self._fit_offset(samples.y[train], weight)
        losses = self.grow(
            self._make_boosting_data(samples, train, weight), self._make_boosting_data(samples, valid, None)
        )
        self.trees = self.parse_trees()
        if not (np.isfinite(losses.train).all() and np.isfinite(losses.valid).all()):
            raise ValueError(
                f"{type(self).__name__}: the loss is not finite; lower learning_rate or raise the l2 regularization"
            )
        self.report = {"trees": self._describe_trees(samples, valid)}
        pairs = enumerate(zip(losses.train, losses.valid, strict=True), start=1)
        return [{"iteration": n, "train_loss": float(train), "valid_loss": float(valid)} for n, (train, valid) in pairs]

    def inputs(self, samples: Samples, rows: np.ndarray) -> np.ndarray:
        """Return the inputs of these rows, float32: (B, F), or (B, T, F) with a window of several bars."""
        self.check_columns(samples)
        return self.flattening.gather(samples.x, samples.segment, rows)

    def predict_rows(self, samples: Samples, rows: np.ndarray) -> np.ndarray:
        """Return the prediction (B, len(outputs)) for these rows, however many."""
        size = PREDICTED_BATCH_ROWS if self.window == 1 else BATCH_ROWS
        if len(rows) <= size:
            return super().predict_rows(samples, rows)
        batches = split_into_batches(rows, size=size)
        return np.concatenate([self.predict(self.inputs(samples, part)) for part in batches])

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """Return the value, or the class probabilities in the order of the codes: (B, outputs) float32.

        Rounding happens where the graph of `make_forest_graph` rounds, and nowhere else. A prediction of 0.33 has a
        float32 step of 3e-8, which is not small beside predictions that hardly vary.
        """
        margins = self.predict_margins(self.flattening.flatten(inputs)).astype(np.float32)  # (B, margins)
        if self.signature.is_classification and self.num_margins == 1:
            margins = np.concatenate([np.zeros_like(margins), margins], axis=1)
        logits = self.offset + margins  # (B, outputs) float64
        prediction = softmax(logits, axis=1) if self.signature.is_classification else logits
        return np.asarray(prediction, dtype=np.float32)

    def measure_importances(self) -> dict[str, dict[str, float]]:
        """Return gain and number of splits of every column, up to the best iteration; zero for an unused column."""
        columns = self.flattening.names
        return {
            kind: dict(zip(columns, self.measure_importance(kind).tolist(), strict=True)) for kind in ("gain", "split")
        }

    def to_onnx(self, file: Path) -> None:
        """Write the checked graph of `make_forest_graph` to `file`."""
        is_classification = self.signature.is_classification
        model = make_forest_graph(
            self.convert_to_onnx(), offset=self.offset, flattening=self.flattening, is_classification=is_classification
        )
        file.write_bytes(model.SerializeToString(deterministic=True))

    def save_fitted(self, folder: Path) -> None:
        """Write the offset and, in the library's own format, the forest to `folder`."""
        (folder / "offset.json").write_text(json.dumps(self.offset.tolist()) + "\n", encoding="utf-8")
        self.save_forest(folder)

    def load_fitted(self, folder: Path) -> None:
        """Read the offset and the forest from `folder`."""
        self.offset = np.array(json.loads((folder / "offset.json").read_text(encoding="utf-8")))
        self.load_forest(folder)
        self.trees = self.parse_trees()

    def _check_monotone_constraints(self) -> None:
        if not self.monotone_constraints:
            return
        if self.num_margins > 1 or self.loss == "l1":
            reason = "the loss l1, whose leaves are medians" if self.loss == "l1" else "more than two classes"
            raise ValueError(f"monotone_constraints cannot hold with {reason}; remove them, or change loss or target")
        if unknown := sorted(set(self.monotone_constraints) - set(self.signature.columns)):
            raise ValueError(
                f"monotone_constraints has {unknown}; the model's columns are {', '.join(self.signature.columns)}"
            )

    def _fit_offset(self, y: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        """Return the best constant prediction of train rows before the link, (outputs,): mean or log frequencies.

        Each class is counted once more than it occurs (Laplace), so that an absent one is rare and not impossible.
        """
        if not self.signature.is_classification:
            return np.array([y.mean(dtype=np.float64) if weight is None else np.average(y, weights=weight)])
        counts = np.bincount(y, weights=weight, minlength=len(self.outputs)) + 1.0
        offset: np.ndarray = np.log(counts / counts.sum())
        return offset - offset[0] if len(offset) == 2 else offset

    def _describe_trees(self, samples: Samples, valid: np.ndarray) -> dict[str, Any]:
        """Return the facts of `fit_report`; the SHAP values are of evenly spread valid rows, all margins together."""
        chosen = valid[np.unique(np.linspace(0, len(valid) - 1, CONTRIBUTION_ROWS).astype(np.int64))]
        values = self.explain_margins(self.flattening.flatten(self.inputs(samples, chosen)))
        size = np.abs(values).mean(axis=0).sum(axis=0)  # (F,)
        return {
            "count": len(self.trees),
            "mean_leaf_depth": float(np.concatenate([measure_leaf_depths(tree) for tree in self.trees]).mean()),
            "mean_absolute_shap": dict(zip(self.flattening.names, size.tolist(), strict=True)),
        }

    def _make_boosting_data(self, samples: Samples, rows: np.ndarray, weight: np.ndarray | None) -> BoostingData:
        base_margin = np.tile(self.offset[-self.num_margins :], (len(rows), 1))  # (n, margins)
        return BoostingData(samples, rows, self.flattening, samples.y[rows], base_margin, weight)


def split_into_runs(rows: np.ndarray) -> list[np.ndarray]:
    """Return `rows` in parts: runs of at least MIN_VIEW_ROWS rows that follow one another, and what is between them."""
    edges = np.concatenate([[0], np.flatnonzero(np.diff(rows) != 1) + 1, [len(rows)]])
    is_long = np.diff(edges) >= MIN_VIEW_ROWS
    starts = edges[:-1][is_long | np.append(True, is_long[:-1])]
    return np.split(rows, starts[1:])


def apply_in_batches(function: Callable[[np.ndarray], np.ndarray], inputs: np.ndarray) -> np.ndarray:
    """Return `function(inputs)`, called on LEAF_BATCH_ROWS rows at a time."""
    batches = np.array_split(inputs, max(1, -(-len(inputs) // LEAF_BATCH_ROWS)))
    return np.concatenate([function(batch) for batch in batches])


def measure_leaf_depths(tree: Tree) -> np.ndarray:
    """Return (leaves,) the number of splits above each leaf of a tree; 0 for a tree of one leaf."""
    depth, level, nodes = [], 0, np.zeros(1, dtype=np.int64)
    while len(nodes):
        is_leaf = tree.feature[nodes] == LEAF
        depth.append(np.full(int(is_leaf.sum()), level))
        inner = nodes[~is_leaf]
        nodes, level = np.concatenate([tree.left[inner], tree.right[inner]]), level + 1
    return np.concatenate(depth)
