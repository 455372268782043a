"""LightGBM: leaf-wise trees on histograms (Ke et al. 2017)."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import lightgbm as lgb
import numpy as np
import onnx
from onnxmltools import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType

from pipeline.models.trees.engine.forest import Known, Losses, Trees
from pipeline.models.trees.engine.graph import LEAF, OPSETS, Tree

ZERO = np.float32(1e-35)  # LightGBM's kZeroThreshold: what is no larger than this is read as zero


@dataclass(kw_only=True, eq=False)
class LightGBM(Trees):
    """A LightGBM forest. The arguments bear LightGBM's own names."""

    learning_rate: float
    num_leaves: int
    min_data_in_leaf: int
    feature_fraction: float
    bagging_fraction: float
    lambda_l2: float
    max_bin: int
    _forest: lgb.Booster = field(init=False, repr=False)

    def grow(self, train: Known, valid: Known) -> Losses:
        """The forest of the best round, in float32 numbers as it will be deployed."""
        parameters = self._parameters()
        on_train = lgb.Dataset(train.x, train.y, init_score=train.start.ravel("F"), params=parameters)
        on_valid = on_train.create_valid(valid.x, valid.y, init_score=valid.start.ravel("F"))
        curves: dict[str, dict[str, list[float]]] = {}
        try:
            grown = lgb.train(
                parameters,
                on_train,
                num_boost_round=self.rounds,
                valid_sets=[on_train, on_valid],
                valid_names=["train", "valid"],
                callbacks=[lgb.early_stopping(self.patience, verbose=False), lgb.record_evaluation(curves)],
            )
        except lgb.basic.LightGBMError as error:
            raise ValueError(f"lightgbm: {error}; mend the model's build") from error
        losses = Losses(*(np.array(next(iter(curves[part].values()))) for part in ("train", "valid")))
        text = grown.model_to_string(num_iteration=losses.best_round)
        self._forest = lgb.Booster(model_str=with_float32_leaves(with_float32_thresholds(text)))
        return losses

    def margins(self, inputs: np.ndarray) -> np.ndarray:
        """LightGBM's raw scores, float64."""
        return np.asarray(self._forest.predict(inputs, raw_score=True, num_threads=1)).reshape(len(inputs), -1)

    def native_leaves(self, inputs: np.ndarray) -> np.ndarray:
        """LightGBM counts leaves alone; in `trees` they stand behind the splits of their tree."""
        leaves = np.asarray(self._forest.predict(inputs, pred_leaf=True, num_threads=1)).reshape(len(inputs), -1)
        splits = np.array([(tree.feature != LEAF).sum() for tree in self.trees], dtype=np.int64)
        return np.asarray(leaves + splits)

    def read(self) -> list[Tree]:
        """Read out of the saved text: the splits, then the leaves, of each tree."""
        return [_read(part) for part in self._forest.model_to_string().split("\nTree=")[1:]]

    def converted(self) -> onnx.ModelProto:
        """Exact, for thresholds and leaves are float32 numbers since `grow`."""
        typed = [("inputs", FloatTensorType([None, len(self.shape.columns)]))]
        converted: onnx.ModelProto = convert_lightgbm(
            self._forest, name="trees", initial_types=typed, zipmap=False, target_opset=OPSETS[""]
        )
        return converted

    def importance(self, kind: str) -> np.ndarray:
        """LightGBM's own count, over the trees that were kept."""
        return np.asarray(self._forest.feature_importance(kind), dtype=np.float64)

    def save_forest(self, folder: Path) -> None:
        """LightGBM's text."""
        (folder / "forest.txt").write_text(self._forest.model_to_string(), encoding="utf-8")

    def load_forest(self, folder: Path) -> None:
        """From LightGBM's text."""
        self._forest = lgb.Booster(model_str=(folder / "forest.txt").read_text(encoding="utf-8"))

    def _parameters(self) -> dict[str, object]:
        return {
            "objective": {1: self.loss, 2: "binary"}.get(len(self.outputs), "multiclass"),
            "num_class": self.margin_count,
            "boost_from_average": False,  # the engine's offset is where boosting starts
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


def with_float32_thresholds(text: str) -> str:
    """LightGBM's text, every threshold now the largest float32 that is no larger: float32 rows take the same leaves.

    LightGBM compares x <= t in float64 after reading |x| <= ZERO as zero; so a threshold at -ZERO, which x = -ZERO
    therefore passes on the right, goes one step further down.
    """

    def lowered(exact: np.ndarray) -> np.ndarray:
        nearest = exact.astype(np.float32)
        is_above = (nearest.astype(np.float64) > exact) | (nearest == -ZERO)
        return np.where(is_above, np.nextafter(nearest, np.float32(-np.inf)), nearest)

    return _rewritten(text, "threshold", lowered)


def with_float32_leaves(text: str) -> str:
    """LightGBM's text, every leaf now the nearest float32, which is what ONNX's tree nodes hold."""
    return _rewritten(text, "leaf_value", lambda exact: exact.astype(np.float32))


def _rewritten(text: str, key: str, change: Callable[[np.ndarray], np.ndarray]) -> str:
    """The text with the numbers of each line `key=` changed; `tree_sizes`, which counts bytes, is left out unread."""

    def line(found: re.Match[str]) -> str:
        numbers = change(np.array(found[1].split(), dtype=np.float64))
        return f"{key}=" + " ".join(repr(float(number)) for number in numbers)

    return re.sub(rf"(?m)^{key}=(.+)$", line, re.sub(r"(?m)^tree_sizes=.*\n", "", text))


def _read(part: str) -> Tree:
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
