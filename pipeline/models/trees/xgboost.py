"""XGBoost: depth-wise trees on histograms (Chen & Guestrin 2016)."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import xgboost as xgb
from onnxmltools import convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType

from pipeline.models.trees.engine.forest import Known, Losses, Trees, by_parts
from pipeline.models.trees.engine.graph import LEAF, OPSETS, Tree

OBJECTIVES = {  # by loss and number of margins: XGBoost's objective, and the metric that is this loss or its root
    ("l2", 1): ("reg:squarederror", "rmse"),
    ("l1", 1): ("reg:absoluteerror", "mae"),
    ("huber", 1): ("reg:pseudohubererror", "mphe"),
    ("log", 1): ("binary:logistic", "logloss"),
}
SEVERAL_CLASSES = ("multi:softprob", "mlogloss")


@dataclass(kw_only=True, eq=False)
class XGBoost(Trees):
    """An XGBoost forest. The arguments bear XGBoost's own names."""

    learning_rate: float
    max_depth: int
    min_child_weight: float
    colsample_bytree: float
    subsample: float
    reg_lambda: float
    max_bin: int
    _forest: xgb.Booster = field(init=False, repr=False)

    def grow(self, train: Known, valid: Known) -> Losses:
        """The forest of the best round."""
        parameters = self._parameters()
        on_train = self._matrix(train, like=None)
        on_valid = self._matrix(valid, like=on_train)
        curves: dict[str, dict[str, list[float]]] = {}
        grown = xgb.train(
            parameters,
            on_train,
            num_boost_round=self.rounds,
            evals=[(on_train, "train"), (on_valid, "valid")],
            early_stopping_rounds=self.patience,
            evals_result=curves,
            verbose_eval=False,
        )
        train_curve, valid_curve = (
            np.array(curves[part][str(parameters["eval_metric"])]) for part in ("train", "valid")
        )
        losses = Losses(train_curve**2, valid_curve**2) if self.loss == "l2" else Losses(train_curve, valid_curve)
        self._forest = grown[: losses.best_round]
        return losses

    def margins(self, inputs: np.ndarray) -> np.ndarray:
        """The leaves that XGBoost finds, summed in float64: its own sums are float32, with an error one would see."""
        values = np.concatenate([tree.threshold for tree in self.trees])  # where a split has its threshold
        starts = np.cumsum([0, *(len(tree.threshold) for tree in self.trees[:-1])])

        def sums(part: np.ndarray) -> np.ndarray:
            leaves = values[self.native_leaves(part) + starts]  # (B, rounds * margins), the margins of a round together
            return np.asarray(leaves.reshape(len(part), -1, self.margin_count).sum(axis=1))

        return by_parts(sums, inputs)

    def native_leaves(self, inputs: np.ndarray) -> np.ndarray:
        """XGBoost numbers a tree's nodes as `trees` does."""
        leaves = self._forest.predict(xgb.DMatrix(inputs, nthread=1), pred_leaf=True)
        return np.asarray(leaves).reshape(len(inputs), -1).astype(np.int64)

    def read(self) -> list[Tree]:
        """Read out of the saved JSON."""
        saved = json.loads(self._forest.save_raw("json"))
        return [_read(tree) for tree in saved["learner"]["gradient_booster"]["model"]["trees"]]

    def converted(self) -> onnx.ModelProto:
        """Exact as it is, for XGBoost's thresholds and leaves are float32; its columns are unnamed, as must be."""
        typed = [("inputs", FloatTensorType([None, len(self.shape.columns)]))]
        converted: onnx.ModelProto = convert_xgboost(
            self._forest, name="trees", initial_types=typed, target_opset=OPSETS[""]
        )
        return converted

    def importance(self, kind: str) -> np.ndarray:
        """XGBoost's own count, over the trees that were kept."""
        found = self._forest.get_score(importance_type={"gain": "total_gain", "split": "weight"}[kind])
        return np.array([found.get(f"f{i}", 0.0) for i in range(len(self.shape.columns))])

    def save_forest(self, folder: Path) -> None:
        """XGBoost's universal binary JSON."""
        (folder / "forest.ubj").write_bytes(self._forest.save_raw("ubj"))

    def load_forest(self, folder: Path) -> None:
        """From XGBoost's universal binary JSON."""
        self._forest = xgb.Booster({"nthread": 1}, model_file=bytearray((folder / "forest.ubj").read_bytes()))

    def _parameters(self) -> dict[str, object]:
        objective, metric = OBJECTIVES.get((self.loss, self.margin_count), SEVERAL_CLASSES)
        return {
            "objective": objective,
            "eval_metric": metric,
            "num_class": self.margin_count if self.margin_count > 1 else 0,
            "base_score": 0.5
            if objective == "binary:logistic"
            else 0.0,  # a margin of zero: the offset is the engine's
            "learning_rate": self.learning_rate,
            "max_depth": self.max_depth,
            "min_child_weight": self.min_child_weight,
            "colsample_bytree": self.colsample_bytree,
            "subsample": self.subsample,
            "reg_lambda": self.reg_lambda,
            "max_bin": self.max_bin,
            "tree_method": "hist",
            "seed": self.seed,
            "nthread": 1,
            "verbosity": 0,
        }

    def _matrix(self, known: Known, *, like: xgb.QuantileDMatrix | None) -> xgb.QuantileDMatrix:
        return xgb.QuantileDMatrix(known.x, known.y, base_margin=known.start, max_bin=self.max_bin, ref=like, nthread=1)


def _read(tree: dict[str, list[float]]) -> Tree:
    left, right, feature = (
        np.array(tree[key], dtype=np.int64) for key in ("left_children", "right_children", "split_indices")
    )
    is_leaf = left == -1
    # The decimals are the shortest that tell one float32 from the next; as float64 they would be other numbers.
    threshold = np.array(tree["split_conditions"], dtype=np.float32).astype(np.float64)
    return Tree(np.where(is_leaf, LEAF, feature), threshold, left, right)
