"""What all boosted trees share: early stopping, class codes, the same answers natively, from disk and from ONNX."""

import json
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from scipy.special import softmax

from pipeline.models.base import Bench, Model
from pipeline.models.trees.engine.graph import Tree, deployed, leaf_ranks, leaves_taken, read_trees, split_points
from pipeline.samples import Samples

LOSSES = {False: ("l2", "l1", "huber"), True: ("log",)}  # by whether outputs are classes
ROWS_AT_ONCE = 16384  # bounds the memory that a leaf for each row and tree takes


class Known(NamedTuple):
    """The rows of one part of a fit. `start` is where boosting begins, the margins before the first tree."""

    x: np.ndarray  # (n, F) float32
    y: np.ndarray  # (n,) float32 values or int32 class codes
    start: np.ndarray  # (n, margins) float64


class Losses(NamedTuple):
    """The loss after each round, in the unit of the loss that was asked for."""

    train: np.ndarray  # (rounds,) float64
    valid: np.ndarray  # (rounds,) float64

    @property
    def best_round(self) -> int:
        """The round, from 1 on, after which the valid part was predicted best; the earliest of equals."""
        return int(np.argmin(self.valid)) + 1


@dataclass(kw_only=True, eq=False)
class Trees(Model):
    """A boosted forest: answer = link(offset + sum of leaves), the link being softmax for classes, else none.

    The offset comes from train rows here, not from the library, so that every class has its column even where train
    has no row of it, and so that no tree carries the level of y, which would cost float32 leaves their last digits.
    After `fit` the forest ends at its best round: no later tree exists that predicting, saving or exporting might use
    by mistake. A regression has one margin, two classes one (of the second over the first), more classes one each.
    """

    loss: str  # one of LOSSES
    rounds: int
    patience: int
    offset: np.ndarray = field(init=False, repr=False)  # (outputs,) float64
    trees: list[Tree] = field(init=False, repr=False)  # the forest as the library holds it, in the order of its rounds

    def __post_init__(self) -> None:
        """The loss is one that the outputs can be learnt by."""
        allowed = LOSSES[self.shape.is_classification]
        if self.loss not in allowed:
            raise ValueError(f"loss {self.loss!r} for outputs {self.outputs}; allowed are {allowed}")

    @property
    def margin_count(self) -> int:
        """How many trees a round grows."""
        return len(self.outputs) if len(self.outputs) > 2 else 1

    @abstractmethod
    def grow(self, train: Known, valid: Known) -> Losses:
        """The library has boosted for up to `rounds`, stopped by `patience`, and kept the trees of the best round."""

    @abstractmethod
    def margins(self, inputs: np.ndarray) -> np.ndarray:
        """Sums of leaves, (B, margins) float64."""

    @abstractmethod
    def native_leaves(self, inputs: np.ndarray) -> np.ndarray:
        """The node that each row reaches in each tree by the library itself, (B, trees) int64 positions in `trees`."""

    @abstractmethod
    def read(self) -> list[Tree]:
        """The trees, out of what the library saves."""

    @abstractmethod
    def converted(self) -> onnx.ModelProto:
        """The forest as onnxmltools writes it, every split exact for float32 inputs."""

    @abstractmethod
    def importance(self, kind: str) -> np.ndarray:
        """(F,) float64: the loss saved by ("gain"), or the number of ("split"), all splits on each column."""

    def fit(
        self, samples: Samples, train: np.ndarray, valid: np.ndarray, *, bench: Bench | None = None
    ) -> list[dict[str, float]]:
        """Grows trees on `train` until `valid` has not improved for `patience` rounds, and keeps the best round's."""
        self.check_fit(samples, train, valid)
        self.offset = self._starting_point(samples.y[train])
        losses = self.grow(self._known(samples, train), self._known(samples, valid))
        self.trees = self.read()
        if not (np.isfinite(losses.train).all() and np.isfinite(losses.valid).all()):
            raise ValueError(f"{type(self).__name__}: the loss is not finite; lower learning_rate or raise l2")
        pairs = enumerate(zip(losses.train, losses.valid, strict=True), start=1)
        return [{"round": n, "train": float(on_train), "valid": float(on_valid)} for n, (on_train, on_valid) in pairs]

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """(B, outputs) float32: the value, or the probabilities of the classes in the order of their codes.

        Rounded where the graph of `deployed` rounds, and nowhere else: an answer of 0.33 has a float32 step of 3e-8,
        which is not small beside predictions that hardly vary, so graph and model had better take the same.
        """
        margins = self.margins(inputs).astype(np.float32)  # (B, margins)
        if len(self.outputs) == 2:
            margins = np.concatenate([np.zeros_like(margins), margins], axis=1)
        logits = self.offset + margins  # (B, outputs) float64
        answer = softmax(logits, axis=1) if self.shape.is_classification else logits
        return np.asarray(answer, dtype=np.float32)

    def standardisation(self) -> None:
        """Trees split on raw values and standardise nothing."""

    def importances(self) -> dict[str, dict[str, float]]:
        """Gain and number of splits of every column, up to the best round; zero for a column that is never used."""
        columns = self.shape.columns
        return {kind: dict(zip(columns, self.importance(kind).tolist(), strict=True)) for kind in ("gain", "split")}

    def hard_inputs(self, inputs: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
        """Rows on every split threshold and one float32 step to either side, besides zeros, tiny numbers and extremes.

        One row for each, all else as in a given row; then as many rows with every column on one of its own thresholds,
        which also reach splits that lie deep.
        """
        feature, threshold = split_points(self.trees)  # (S,), (S,)
        edge = np.float32(np.inf)
        around = np.concatenate([threshold, np.nextafter(threshold, -edge), np.nextafter(threshold, edge)])
        column = np.tile(feature, 3)
        single = inputs[rng.integers(len(inputs), size=len(around))]
        single[np.arange(len(around)), column] = around
        dense = inputs[rng.integers(len(inputs), size=len(around))]
        for used in np.unique(column):
            dense[:, used] = rng.choice(around[column == used], size=len(dense))
        largest = np.finfo(np.float32).max
        extremes = np.full((2, inputs.shape[1]), [[largest], [-largest]], dtype=np.float32)
        mixed = rng.choice([largest, -largest], size=(64, inputs.shape[1])).astype(np.float32)
        return np.concatenate([super().hard_inputs(inputs, rng=rng), extremes, mixed, single, dense])

    def flipped(self, inputs: np.ndarray, file: Path) -> np.ndarray:
        """In how many trees the ONNX graph in `file` sends each row to another leaf than the library does: (B,)."""
        exported, is_strict = read_trees(file)
        if len(exported) != len(self.trees):
            raise ValueError(f"{file} holds {len(exported)} trees, the model {len(self.trees)}; export it again")
        ranks = [leaf_ranks(tree) for tree in self.trees]

        def flips(part: np.ndarray) -> np.ndarray:
            reached = self.native_leaves(part)
            native = np.stack([rank[reached[:, t]] for t, rank in enumerate(ranks)], axis=1)
            return np.asarray(np.count_nonzero(native != leaves_taken(exported, part, is_strict=is_strict), axis=1))

        return by_parts(flips, inputs)

    def to_onnx(self, file: Path) -> None:
        """`file` holds the checked graph; see `deployed` for what stands around the trees."""
        model = deployed(self.converted(), offset=self.offset, columns=len(self.shape.columns))
        file.write_bytes(model.SerializeToString(deterministic=True))

    def save_fitted(self, folder: Path) -> None:
        """`folder` holds the offset and, in the library's own format, the forest."""
        (folder / "offset.json").write_text(json.dumps(self.offset.tolist()) + "\n", encoding="utf-8")
        self.save_forest(folder)

    def load_fitted(self, folder: Path) -> None:
        """The offset and the forest are those of `folder`."""
        self.offset = np.array(json.loads((folder / "offset.json").read_text(encoding="utf-8")))
        self.load_forest(folder)
        self.trees = self.read()

    @abstractmethod
    def save_forest(self, folder: Path) -> None:
        """`folder` holds the forest in the library's own format."""

    @abstractmethod
    def load_forest(self, folder: Path) -> None:
        """The forest is the one that `save_forest` wrote into `folder`."""

    def _starting_point(self, y: np.ndarray) -> np.ndarray:
        """The best constant answer on train rows before the link, (outputs,): the mean or the log frequencies.

        Each class is counted once more than it occurs (Laplace), so that an absent one is rare and not impossible.
        """
        if not self.shape.is_classification:
            return np.array([y.mean(dtype=np.float64)])
        counts = np.bincount(y, minlength=len(self.outputs)) + 1.0
        offset: np.ndarray = np.log(counts / counts.sum())
        return offset - offset[0] if len(offset) == 2 else offset

    def _known(self, samples: Samples, rows: np.ndarray) -> Known:
        start = self.offset[-self.margin_count :]  # (margins,)
        return Known(x=self.inputs(samples, rows), y=samples.y[rows], start=np.tile(start, (len(rows), 1)))


def by_parts(answer: Callable[[np.ndarray], np.ndarray], inputs: np.ndarray) -> np.ndarray:
    """`answer(inputs)`, asked for ROWS_AT_ONCE rows at a time."""
    parts = np.array_split(inputs, max(1, -(-len(inputs) // ROWS_AT_ONCE)))
    return np.concatenate([answer(part) for part in parts])
