"""Meta-labeling: a secondary model learns when the bets of a primary one earn money, and sizes them (AFML 3.6)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import onnx
from annotated_types import Ge
from onnx import helper, numpy_helper
from pydantic import NonNegativeInt

from pipeline import config
from pipeline.models.base import Model, Signature
from pipeline.models.composites.engine import graphs
from pipeline.models.composites.engine.composite import Composite, build_wrapped, declare_wrapped, save_wrapped
from pipeline.models.composites.engine.inner_folds import predict_out_of_sample
from pipeline.models.fit_files import FitFiles
from pipeline.samples import Samples
from pipeline.targets import Kind, Output

BET = "primary_prediction"  # the column that the secondary model sees beside those of the samples
EARNED = Output(kind="classes", names=("lost", "earned"))


@dataclass(kw_only=True, eq=False)
class MetaLabel(Composite):
    """The prediction of a primary model times the size that a secondary one gives its bet, a number in [0, 1].

    The side of a bet is the sign of the primary's prediction. The secondary model sees the same columns and that
    prediction, and predicts the probability p that the bet earns money until the label ends. The size is 2p − 1, the
    fraction of Kelly (1956) for a bet at even odds, and 0 where p ≤ 0.5.

    The secondary model learns from train rows alone. The primary's predictions of them are out of sample: of purged
    folds within the train rows, each predicted by a fit that has not seen it. Predictions of rows that the primary has
    learned from would make its bets look better than they are. The primary model of the graph is fitted on all train
    rows. Both models are stopped by the valid rows.
    """

    output_kinds: ClassVar[tuple[Kind, ...]] = ("value",)
    sections: ClassVar[Mapping[str, Callable[..., Any]]] = {"primary": declare_wrapped, "secondary": declare_wrapped}

    secondary: dict[str, Any]  # family, plugin and hyperparameters of the model that sizes bets, of one bar
    inner_folds: Annotated[int, Ge(2)]
    embargo_bars: NonNegativeInt  # of the inner folds
    secondary_model: Model = field(init=False, repr=False)
    report: dict[str, Any] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Build both models; ValueError names what of them is not allowed."""
        super().__post_init__()
        if not self.signature.output.has_direction:
            names = ", ".join(self.outputs)
            raise ValueError(f"meta_label bets on the sign of a return; {names} has no direction: choose a return")
        signature = Signature((*self.signature.columns, BET), EARNED)
        self.secondary_model = build_wrapped(self.secondary, signature, seed=self.seed, name="secondary")
        if self.secondary_model.lookback_bars:
            raise ValueError("secondary has a window of several bars; it sees the last one: set its window to 1")

    def choose_primary_output(self) -> Output:
        """Return what the target asks for."""
        return self.signature.output

    @property
    def fit_report(self) -> dict[str, Any]:
        """Return what the secondary model has learned from, beside the facts of the primary model's fit."""
        return {**self.primary_model.fit_report, "meta_label": self.report}

    def fit(
        self, samples: Samples, train: np.ndarray, valid: np.ndarray, *, files: FitFiles | None = None
    ) -> list[dict[str, float]]:
        """Fit the primary model on inner folds and on all train rows, then the secondary; return the primary's history.

        Raises:
            ValueError: inner folds leave nothing to fit on, or no bet has an outcome to learn from.
        """
        self.check_fit(samples, train, valid)
        bets = predict_out_of_sample(
            self._build_inner, samples, train, valid, folds=self.inner_folds, embargo_bars=self.embargo_bars
        )
        history = self.primary_model.fit(samples, train, valid, files=files)
        parts = [(train, bets), (valid, self.primary_model.predict_rows(samples, valid))]
        self._fit_secondary([make_meta_samples(samples, rows, each[:, 0]) for rows, each in parts])
        return history

    def _build_inner(self, fold: int) -> Model:
        """Return the unfitted primary model of an inner fold, with a seed of its own."""
        seed = config.derive_seed(self.seed, "inner", fold)
        return build_wrapped(self.primary, self.primary_model.signature, seed=seed, name="primary")

    def _fit_secondary(self, parts: list[Samples]) -> None:
        """Fit the secondary model on the samples of train and valid bets, which become one table."""
        learned, stopping = parts
        if min(len(part.y) for part in parts) == 0:
            raise ValueError("the primary model bets on no train or no valid row whose y is not 0")
        joined = Samples(
            time=np.concatenate([part.time for part in parts]),
            label_end=np.concatenate([part.label_end for part in parts]),
            segment=np.concatenate([part.segment for part in parts]),
            x=np.concatenate([part.x for part in parts]),
            columns=learned.columns,
            y=np.concatenate([part.y for part in parts]),
        )
        rows = np.arange(len(joined.y))
        history = self.secondary_model.fit(joined, rows[: len(learned.y)], rows[len(learned.y) :])
        size = self.size_bets(self.secondary_model.predict_rows(joined, rows[len(learned.y) :]))
        self.report = {
            "bets": len(learned.y),
            "earned_share": float(learned.y.mean()),
            "valid_earned_share": float(stopping.y.mean()),
            "valid_bet_share": float((size > 0).mean()),
            "valid_mean_size": float(size.mean()),
            "secondary_iterations": len(history),
            "secondary_best": self.secondary_model.stopping.find_best_entry(history),
        }

    def size_bets(self, probabilities: np.ndarray) -> np.ndarray:
        """Return the size (B,) float32 in [0, 1] of bets whose outcomes have the probabilities (B, 2)."""
        size = np.asarray(probabilities, np.float32)[:, 1] * np.float32(2) - np.float32(1)
        return np.asarray(np.maximum(size, np.float32(0)))

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """Return the primary's prediction times the size of its bet, (B, 1) float32."""
        bet = np.asarray(self.primary_model.predict(inputs), np.float32)  # (B, 1)
        last = inputs[:, -1] if inputs.ndim == 3 else inputs  # (B, F)
        seen = np.concatenate([last, bet], axis=1)
        probabilities = self.secondary_model.predict(seen[:, None] if self._sees_windows else seen)
        return np.asarray(bet * self.size_bets(probabilities)[:, None])

    @property
    def _sees_windows(self) -> bool:
        """Whether the inputs of the secondary model have an axis of bars, of which there is one."""
        columns, one = self.secondary_model.signature.columns, np.zeros(1, np.int64)
        row = Samples(one, one, one.astype(np.int32), np.zeros((1, len(columns)), np.float32), columns, one)
        return self.secondary_model.inputs(row, one).ndim == 3

    def to_onnx(self, file: Path) -> None:
        """Write both graphs as one: the secondary reads the last bar and the primary's prediction."""
        models = {"primary": self.primary_model, "secondary": self.secondary_model}
        primary, secondary = graphs.align_opsets([graphs.export_part(model, name) for name, model in models.items()])
        shape = graphs.find_input_shape(primary)
        steps: list[onnx.ModelProto | onnx.NodeProto] = [
            helper.make_node("Identity", [graphs.INPUTS], ["primary/inputs"]),
            primary,
            helper.make_node("Gather", [graphs.INPUTS, "last_bar"], ["last"], axis=1)
            if len(shape) > 1
            else helper.make_node("Identity", [graphs.INPUTS], ["last"]),
            helper.make_node("Concat", ["last", "primary/answer"], ["seen"], axis=1),
            helper.make_node("Unsqueeze", ["seen", "bars"], ["secondary/inputs"])
            if self._sees_windows
            else helper.make_node("Identity", ["seen"], ["secondary/inputs"]),
            secondary,
            helper.make_node("Gather", ["secondary/answer", "earned"], ["probability"], axis=1),
            helper.make_node("Mul", ["probability", "two"], ["doubled"]),
            helper.make_node("Sub", ["doubled", "one"], ["edge"]),
            helper.make_node("Relu", ["edge"], ["size"]),
            helper.make_node("Mul", ["primary/answer", "size"], [graphs.OUTPUT]),
        ]
        constants = {"earned": np.array([1]), "two": np.array([2], np.float32), "one": np.array([1], np.float32)}
        constants |= {"last_bar": np.array(shape[0] - 1)} if len(shape) > 1 else {}
        constants |= {"bars": np.array([1])} if self._sees_windows else {}
        tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
        graphs.write_graph(steps, tensors, shape=shape, outputs=1, file=file)

    def save_fitted(self, folder: Path) -> None:
        """Write both models, each to a folder of its own."""
        save_wrapped(self.primary_model, folder / "primary")
        save_wrapped(self.secondary_model, folder / "secondary")

    def load_fitted(self, folder: Path) -> None:
        """Read both models."""
        self.primary_model.load_fitted(folder / "primary")
        self.secondary_model.load_fitted(folder / "secondary")


def make_meta_samples(samples: Samples, rows: np.ndarray, bet: np.ndarray) -> Samples:
    """Return the bets of rows as samples: `bet` (n,) is a column more, and y whether its side earned money.

    Rows without a bet, or whose y is 0, have no outcome and are left out.
    """
    profit = np.sign(bet) * samples.y[rows]
    has_outcome = profit != 0
    rows = rows[has_outcome]
    return Samples(
        time=samples.time[rows],
        label_end=samples.label_end[rows],
        segment=samples.segment[rows],
        x=np.column_stack([samples.x[rows], bet[has_outcome]]).astype(np.float32),
        columns=(*samples.columns, BET),
        y=(profit[has_outcome] > 0).astype(np.int32),
    )
