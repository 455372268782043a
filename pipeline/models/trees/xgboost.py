"""XGBoost: depth-wise trees on histograms (Chen & Guestrin 2016)."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
from annotated_types import Interval
from onnxmltools import convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType
from pydantic import NonNegativeFloat

from pipeline.models.trees.engine.forest import BoostedTrees, BoostingData, Fraction, LossCurves, apply_in_batches
from pipeline.models.trees.engine.forest_graph import LEAF, OPSETS, Tree
from pipeline.models.trees.engine.hidden_packages import hide_scikit_learn

with hide_scikit_learn():
    import xgboost as xgb

OBJECTIVES = {  # by loss and number of margins: XGBoost's objective, and the metric that is this loss or its root
    ("l2", 1): ("reg:squarederror", "rmse"),
    ("l1", 1): ("reg:absoluteerror", "mae"),
    ("huber", 1): ("reg:pseudohubererror", "mphe"),
    ("log", 1): ("binary:logistic", "logloss"),
}
MULTICLASS_OBJECTIVE = ("multi:softprob", "mlogloss")


@dataclass(kw_only=True, eq=False)
class XGBoost(BoostedTrees):
    """An XGBoost forest. The arguments have XGBoost's own names."""

    learning_rate: Fraction
    max_depth: Annotated[int, Interval(ge=1, le=64)]
    min_child_weight: NonNegativeFloat
    colsample_bytree: Fraction
    subsample: Fraction
    reg_lambda: NonNegativeFloat
    max_bin: Annotated[int, Interval(ge=2, le=65_535)]
    _forest: xgb.Booster = field(init=False, repr=False)

    def grow(self, train: BoostingData, valid: BoostingData) -> LossCurves:
        """Boost, and keep the trees up to the best iteration."""
        parameters = self._make_parameters()
        train_matrix = self._make_matrix(train, ref=None)
        valid_matrix = self._make_matrix(valid, ref=train_matrix)
        curves: dict[str, dict[str, list[float]]] = {}
        booster = xgb.train(
            parameters,
            train_matrix,
            num_boost_round=self.num_boost_round,
            evals=[(train_matrix, "train"), (valid_matrix, "valid")],
            early_stopping_rounds=self.early_stopping_rounds,
            evals_result=curves,
            verbose_eval=False,
        )
        train_curve, valid_curve = (
            np.array(curves[part][str(parameters["eval_metric"])]) for part in ("train", "valid")
        )
        is_root = self.loss == "l2"  # the metric is rmse
        losses = LossCurves(train_curve**2, valid_curve**2) if is_root else LossCurves(train_curve, valid_curve)
        if self.fit_device == "cuda":
            booster.set_param({"device": "cpu"})  # predictions are those of a CPU
        self._forest = booster[: losses.best_iteration]
        return losses

    def find_gpu_fault(self) -> str | None:
        """Return that the installed XGBoost has no CUDA; that of pip has it."""
        return None if xgb.build_info()["USE_CUDA"] else "this build of XGBoost has no CUDA: its pip wheel has"

    def predict_margins(self, inputs: np.ndarray) -> np.ndarray:
        """Return XGBoost's leaves summed in float64, (B, margins): its own sums are float32, with a visible error."""
        values = np.concatenate([tree.threshold for tree in self.trees])  # a leaf's value stands as its threshold
        starts = np.cumsum([0, *(len(tree.threshold) for tree in self.trees[:-1])])

        def sum_leaves(batch: np.ndarray) -> np.ndarray:
            leaves = values[
                self.predict_leaves(batch) + starts
            ]  # (B, rounds * margins), the margins of a round together
            return np.asarray(leaves.reshape(len(batch), -1, self.num_margins).sum(axis=1))

        return apply_in_batches(sum_leaves, inputs)

    def predict_leaves(self, inputs: np.ndarray) -> np.ndarray:
        """Return the leaves, (B, trees) int64; XGBoost numbers a tree's nodes as `trees` does."""
        leaves = self._forest.predict(xgb.DMatrix(inputs, nthread=1), pred_leaf=True)
        return np.asarray(leaves).reshape(len(inputs), -1).astype(np.int64)

    def parse_trees(self) -> list[Tree]:
        """Return the trees of XGBoost's JSON."""
        model = json.loads(self._forest.save_raw("json"))
        return [_parse_tree(tree) for tree in model["learner"]["gradient_booster"]["model"]["trees"]]

    def convert_to_onnx(self) -> onnx.ModelProto:
        """Return the converted forest; it is exact, for XGBoost's thresholds and leaves are float32.

        The converter needs a booster without column names, as `grow` makes it.
        """
        input_types = [("inputs", FloatTensorType([None, len(self.flattening.names)]))]
        converted: onnx.ModelProto = convert_xgboost(
            self._forest, name="trees", initial_types=input_types, target_opset=OPSETS[""]
        )
        return converted

    def measure_importance(self, kind: str) -> np.ndarray:
        """Return XGBoost's own importance over the trees up to the best iteration, (F,) float64."""
        found = self._forest.get_score(importance_type={"gain": "total_gain", "split": "weight"}[kind])
        return np.array([found.get(f"f{i}", 0.0) for i in range(len(self.flattening.names))])

    def explain_margins(self, inputs: np.ndarray) -> np.ndarray:
        """Return XGBoost's SHAP values, (B, margins, F) float64; the last column of each margin is its expectation."""
        values = self._forest.predict(xgb.DMatrix(inputs, nthread=1), pred_contribs=True, strict_shape=True)
        return np.asarray(values, dtype=np.float64)[..., :-1]

    def save_forest(self, folder: Path) -> None:
        """Write XGBoost's universal binary JSON to `folder`."""
        (folder / "forest.ubj").write_bytes(self._forest.save_raw("ubj"))

    def load_forest(self, folder: Path) -> None:
        """Read XGBoost's universal binary JSON from `folder`."""
        self._forest = xgb.Booster({"nthread": 1}, model_file=bytearray((folder / "forest.ubj").read_bytes()))

    def _make_parameters(self) -> dict[str, object]:
        constraints = {"monotone_constraints": tuple(self.monotone_signs)} if self.monotone_constraints else {}
        device = {"device": "cuda"} if self.fit_device == "cuda" else {}
        objective, metric = OBJECTIVES.get((self.loss, self.num_margins), MULTICLASS_OBJECTIVE)
        return {
            **constraints,
            **device,
            "objective": objective,
            "eval_metric": metric,
            "num_class": self.num_margins if self.num_margins > 1 else 0,
            # a margin of zero: boosting starts at the offset of BoostedTrees
            "base_score": 0.5 if objective == "binary:logistic" else 0.0,
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

    def _make_matrix(self, data: BoostingData, *, ref: xgb.QuantileDMatrix | None) -> xgb.QuantileDMatrix:
        return xgb.QuantileDMatrix(
            data.gather(),
            data.y,
            weight=data.weight,
            base_margin=data.base_margin,
            max_bin=self.max_bin,
            ref=ref,
            nthread=1,
        )


def _parse_tree(tree: dict[str, list[float]]) -> Tree:
    left, right, feature = (
        np.array(tree[key], dtype=np.int64) for key in ("left_children", "right_children", "split_indices")
    )
    is_leaf = left == -1
    # The decimals are the shortest that identify a float32; parsed as float64 they would be other numbers.
    threshold = np.array(tree["split_conditions"], dtype=np.float32).astype(np.float64)
    return Tree(np.where(is_leaf, LEAF, feature), threshold, left, right)
