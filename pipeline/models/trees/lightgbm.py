"""LightGBM: leaf-wise trees on histograms (Ke et al. 2017)."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
from annotated_types import Interval
from onnxmltools import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType
from pydantic import NonNegativeFloat, NonNegativeInt

from pipeline.models.trees.engine.forest import BoostedTrees, BoostingData, Fraction, LossCurves
from pipeline.models.trees.engine.forest_graph import LEAF, OPSETS, Tree
from pipeline.models.trees.engine.hidden_packages import hide_scikit_learn

with hide_scikit_learn():
    import lightgbm as lgb

ZERO_THRESHOLD = np.float32(1e-35)  # LightGBM's kZeroThreshold: smaller magnitudes are read as zero


@dataclass(kw_only=True, eq=False)
class LightGBM(BoostedTrees):
    """A LightGBM forest. The arguments have LightGBM's own names."""

    learning_rate: Fraction
    num_leaves: Annotated[int, Interval(ge=2, le=131_072)]  # LightGBM's limit
    min_data_in_leaf: NonNegativeInt
    feature_fraction: Fraction
    bagging_fraction: Fraction
    lambda_l2: NonNegativeFloat
    max_bin: Annotated[int, Interval(ge=2, le=65_535)]
    _forest: lgb.Booster = field(init=False, repr=False)

    @property
    def bytes_per_value(self) -> int:
        """About the memory of a fit for each value: its bins by column, by row and in a bag; windows are gathered."""
        return 3 if self.window == 1 else 7

    def grow(self, train: BoostingData, valid: BoostingData) -> LossCurves:
        """Boost, and keep the trees up to the best iteration, with float32 thresholds and leaves as in the graph."""
        parameters = self._make_parameters()
        train_set = lgb.Dataset(
            train.list_parts(), train.y, weight=train.weight, init_score=train.base_margin.ravel("F"), params=parameters
        )
        valid_set = train_set.create_valid(valid.list_parts(), valid.y, init_score=valid.base_margin.ravel("F"))
        curves: dict[str, dict[str, list[float]]] = {}
        try:
            booster = lgb.train(
                parameters,
                train_set,
                num_boost_round=self.num_boost_round,
                valid_sets=[train_set, valid_set],
                valid_names=["train", "valid"],
                callbacks=[
                    lgb.early_stopping(self.early_stopping_rounds, verbose=False),
                    lgb.record_evaluation(curves),
                ],
            )
        except lgb.basic.LightGBMError as error:
            raise ValueError(f"LightGBM: {error}; correct the model's hyperparameters in params.yaml") from error
        losses = LossCurves(*(np.array(next(iter(curves[part].values()))) for part in ("train", "valid")))
        text = booster.model_to_string(num_iteration=losses.best_iteration)
        self._forest = lgb.Booster(model_str=round_leaves_to_float32(round_thresholds_to_float32(text)))
        return losses

    def find_gpu_fault(self) -> str | None:
        """Return that the installed LightGBM has no CUDA, as that of pip has none."""
        if has_cuda():
            return None
        return "this build of LightGBM has no CUDA: its pip wheel has none, a build with -DUSE_CUDA=1 has"

    def predict_margins(self, inputs: np.ndarray) -> np.ndarray:
        """Return LightGBM's raw scores, (B, margins) float64."""
        return np.asarray(self._forest.predict(inputs, raw_score=True, num_threads=1)).reshape(len(inputs), -1)

    def predict_leaves(self, inputs: np.ndarray) -> np.ndarray:
        """Return the leaves, (B, trees) int64; LightGBM counts leaves alone, in `trees` they follow the splits."""
        leaves = np.asarray(self._forest.predict(inputs, pred_leaf=True, num_threads=1)).reshape(len(inputs), -1)
        splits = np.array([(tree.feature != LEAF).sum() for tree in self.trees], dtype=np.int64)
        return np.asarray(leaves + splits)

    def parse_trees(self) -> list[Tree]:
        """Return the trees of LightGBM's text: the splits of each tree, then its leaves."""
        return [_parse_tree(part) for part in self._forest.model_to_string().split("\nTree=")[1:]]

    def convert_to_onnx(self) -> onnx.ModelProto:
        """Return the converted forest; it is exact, for thresholds and leaves are float32 numbers since `grow`."""
        input_types = [("inputs", FloatTensorType([None, len(self.flattening.names)]))]
        converted: onnx.ModelProto = convert_lightgbm(
            self._forest, name="trees", initial_types=input_types, zipmap=False, target_opset=OPSETS[""]
        )
        return converted

    def measure_importance(self, kind: str) -> np.ndarray:
        """Return LightGBM's own importance over the trees up to the best iteration, (F,) float64."""
        return np.asarray(self._forest.feature_importance(kind), dtype=np.float64)

    def explain_margins(self, inputs: np.ndarray) -> np.ndarray:
        """Return LightGBM's SHAP values, (B, margins, F) float64; the last column of each margin is its expectation."""
        values = np.asarray(self._forest.predict(inputs, pred_contrib=True, num_threads=1), dtype=np.float64)
        return values.reshape(len(inputs), self.num_margins, -1)[..., :-1]

    def save_forest(self, folder: Path) -> None:
        """Write LightGBM's text to `folder`."""
        (folder / "forest.txt").write_text(self._forest.model_to_string(), encoding="utf-8")

    def load_forest(self, folder: Path) -> None:
        """Read LightGBM's text from `folder`."""
        self._forest = lgb.Booster(model_str=(folder / "forest.txt").read_text(encoding="utf-8"))

    def _choose_objective(self) -> str:
        if not self.signature.is_classification:
            return self.loss
        return "binary" if self.num_margins == 1 else "multiclass"

    def _make_parameters(self) -> dict[str, object]:
        constraints = {"monotone_constraints": self.monotone_signs} if self.monotone_constraints else {}
        device = {"device_type": "cuda"} if self.fit_device == "cuda" else {}
        return {
            **constraints,
            **device,
            "objective": self._choose_objective(),
            "num_class": self.num_margins,
            "boost_from_average": False,  # boosting starts at the offset of BoostedTrees
            "use_missing": False,  # no input is missing, and 0.0 is a number like any other
            "learning_rate": self.learning_rate,
            "num_leaves": self.num_leaves,
            "min_data_in_leaf": self.min_data_in_leaf,
            "feature_fraction": self.feature_fraction,
            "bagging_fraction": self.bagging_fraction,
            "bagging_freq": 1,
            "lambda_l2": self.lambda_l2,
            "max_bin": self.max_bin,
            "seed": self.seed,
            "num_threads": 1,
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
        }


@cache
def has_cuda() -> bool:
    """Return whether the installed LightGBM can grow trees on a GPU: it refuses a booster for one otherwise."""
    quiet = {"device_type": "cuda", "verbosity": -2}
    try:
        lgb.Booster(quiet, lgb.Dataset(np.zeros((2, 1)), np.zeros(2), params=quiet))
    except lgb.basic.LightGBMError:
        return False
    return True


def round_thresholds_to_float32(text: str) -> str:
    """Return LightGBM's text with every threshold rounded down to float32: float32 rows take the same leaves.

    LightGBM compares x <= t in float64 after reading |x| <= ZERO_THRESHOLD as zero. So x = -ZERO_THRESHOLD goes right
    of a threshold at -ZERO_THRESHOLD, and that threshold moves one more step down.
    """

    def round_down(exact: np.ndarray) -> np.ndarray:
        nearest = exact.astype(np.float32)
        is_above = (nearest.astype(np.float64) > exact) | (nearest == -ZERO_THRESHOLD)
        return np.where(is_above, np.nextafter(nearest, np.float32(-np.inf)), nearest)

    return _rewrite_numbers(text, "threshold", round_down)


def round_leaves_to_float32(text: str) -> str:
    """Return LightGBM's text with every leaf value rounded to the nearest float32, as ONNX's tree nodes hold it."""
    return _rewrite_numbers(text, "leaf_value", lambda exact: exact.astype(np.float32))


def _rewrite_numbers(text: str, key: str, function: Callable[[np.ndarray], np.ndarray]) -> str:
    """Return the text with `function` applied to the numbers of each line `key=`.

    `tree_sizes`, which counts bytes, is removed; LightGBM reads a text without it.
    """

    def rewrite_line(found: re.Match[str]) -> str:
        numbers = function(np.array(found[1].split(), dtype=np.float64))
        return f"{key}=" + " ".join(repr(float(number)) for number in numbers)

    return re.sub(rf"(?m)^{key}=(.+)$", rewrite_line, re.sub(r"(?m)^tree_sizes=.*\n", "", text))


def _parse_tree(part: str) -> Tree:
    lines = dict(line.split("=", 1) for line in part.splitlines() if "=" in line)
    leaves = int(lines["num_leaves"])
    feature, left, right = (
        np.array(lines[key].split(), dtype=np.int64) for key in ("split_feature", "left_child", "right_child")
    )  # each (leaves - 1,)
    threshold = np.array(lines["threshold"].split(), dtype=np.float64)
    none = np.zeros(leaves, dtype=np.int64)
    left, right = (np.where(child < 0, len(feature) + ~child, child) for child in (left, right))  # ~child is a leaf
    return Tree(
        np.append(feature, none + LEAF),
        np.append(threshold, none),
        *np.append([left, right], [none, none], axis=1),
    )
