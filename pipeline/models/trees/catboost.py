"""CatBoost: symmetric trees, whose nodes of one level share one split (Prokhorenkova et al. 2018)."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import onnx
from annotated_types import Interval
from onnx import helper
from pydantic import NonNegativeFloat

from pipeline.models.trees.engine.forest import BoostedTrees, BoostingData, Fraction, LossCurves
from pipeline.models.trees.engine.forest_graph import LEAF, Tree

try:
    import catboost as cb
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"the plugin trees.catboost needs the package {error.name}; "
        "run `pip install -c .ci/constraints.txt -e '.[catboost]'`",
        name=error.name,
    ) from error

OBJECTIVES = {"l2": "RMSE", "l1": "MAE", "huber": "Huber:delta=1.0"}  # by loss, of a regression
GPU_BORDERS = 255  # at most, of one column
RANDOM_METADATA = ("train_finish_time", "model_guid")  # of a saved forest; they differ from fit to fit


@dataclass(kw_only=True, eq=False)
class CatBoost(BoostedTrees):
    """A CatBoost forest of symmetric trees. The arguments have CatBoost's own names."""

    learning_rate: Fraction
    depth: Annotated[int, Interval(ge=1, le=16)]  # CatBoost's limit
    l2_leaf_reg: NonNegativeFloat
    rsm: Fraction  # share of the columns that are tried at one split
    subsample: Fraction
    random_strength: NonNegativeFloat  # of the noise that is added to the scores of splits
    border_count: Annotated[int, Interval(ge=1, le=65_535)]
    _forest: cb.CatBoost = field(init=False, repr=False)

    def grow(self, train: BoostingData, valid: BoostingData) -> LossCurves:
        """Boost, and keep the trees up to the best iteration, with float32 leaves as in the graph."""
        forest = cb.CatBoost(self._make_parameters())
        try:
            forest.fit(_make_pool(self._complete_classes(train)), eval_set=_make_pool(valid))
        except cb.CatBoostError as error:
            raise ValueError(f"CatBoost: {error}; correct the model's hyperparameters in params.yaml") from error
        found = forest.get_evals_result()
        curves = [np.array(next(iter(found[part].values()))) for part in ("learn", "validation")]
        is_root = self.loss == "l2"  # the metric is the root of the loss
        losses = LossCurves(*(curve**2 if is_root else curve for curve in curves))
        forest.shrink(losses.best_iteration)
        forest.set_leaf_values(forest.get_leaf_values().astype(np.float32).astype(np.float64))
        for name in RANDOM_METADATA:
            del forest.get_metadata()[name]
        self._forest = forest
        return losses

    def find_gpu_fault(self) -> str | None:
        """Return which hyperparameter CatBoost has on a CPU alone."""
        if self.rsm != 1.0:
            return f"rsm is {self.rsm:g}, and CatBoost draws columns on a CPU alone: set rsm to 1.0 for a GPU"
        if self.monotone_constraints:
            return "CatBoost has monotone_constraints on a CPU alone: remove them for a GPU"
        if self.border_count > GPU_BORDERS:
            return f"border_count is {self.border_count}, and CatBoost has at most {GPU_BORDERS} borders on a GPU"
        return None

    def predict_margins(self, inputs: np.ndarray) -> np.ndarray:
        """Return CatBoost's raw values, (B, margins) float64."""
        found = self._forest.predict(inputs, prediction_type="RawFormulaVal", thread_count=1)
        return np.asarray(found, dtype=np.float64).reshape(len(inputs), self.num_margins)

    def predict_leaves(self, inputs: np.ndarray) -> np.ndarray:
        """Return the leaves, (B, trees) int64; CatBoost counts leaves alone, in `trees` they follow the splits."""
        leaves = np.asarray(self._forest.calc_leaf_indexes(inputs, thread_count=1), dtype=np.int64)
        splits = np.array([(tree.feature != LEAF).sum() for tree in self.trees], dtype=np.int64)
        return np.asarray(leaves.reshape(len(inputs), -1) + splits)

    def parse_trees(self) -> list[Tree]:
        """Return the trees of CatBoost's JSON, each a complete binary tree; the margins of a round share one tree."""
        return [
            _parse_tree(tree["splits"] or []) for tree in json.loads(_export(self._forest, "json"))["oblivious_trees"]
        ]

    def convert_to_onnx(self) -> onnx.ModelProto:
        """Return CatBoost's own graph, exact, for thresholds and leaves are float32."""
        converted = onnx.load_model_from_string(_export(self._forest, "onnx"))
        (node,) = (node for node in converted.graph.node if node.op_type.startswith("TreeEnsemble"))
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        del node.attribute[:]
        node.attribute.extend(helper.make_attribute(*pair) for pair in _adapt_attributes(attributes).items())
        return converted

    def measure_importance(self, kind: str) -> np.ndarray:
        """Return an importance over the trees up to the best iteration, (F,) float64.

        "gain" is CatBoost's PredictionValuesChange, in percent: how much the leaves on both sides of a column's splits
        differ, weighted by their train rows. "split" counts the nodes of the complete trees.
        """
        if kind == "gain":
            found = self._forest.get_feature_importance(type="PredictionValuesChange", thread_count=1)
            return np.asarray(found, dtype=np.float64)
        features = np.concatenate([tree.feature[tree.feature != LEAF] for tree in self.trees])
        return np.bincount(features, minlength=len(self.flattening.names)).astype(np.float64)

    def explain_margins(self, inputs: np.ndarray) -> np.ndarray:
        """Return CatBoost's SHAP values, (B, margins, F) float64; the last column of each margin is its expectation."""
        values = self._forest.get_feature_importance(cb.Pool(inputs), type="ShapValues", thread_count=1)
        return np.asarray(values, dtype=np.float64).reshape(len(inputs), self.num_margins, -1)[..., :-1]

    def save_forest(self, folder: Path) -> None:
        """Write CatBoost's binary format to `folder`."""
        self._forest.save_model(str(folder / "forest.cbm"), format="cbm")

    def load_forest(self, folder: Path) -> None:
        """Read CatBoost's binary format from `folder`."""
        self._forest = _load((folder / "forest.cbm").read_bytes())

    def _complete_classes(self, train: BoostingData) -> BoostingData:
        """Return the train rows with one more, of weight 0, of each class that they lack.

        CatBoost counts the classes of a baseline by the labels, whatever its parameter classes_count says.
        """
        lacking = np.setdiff1d(np.arange(self.num_margins), train.y) if self.num_margins > 1 else np.empty(0)
        if not len(lacking):
            return train
        weight = np.ones(len(train.y)) if train.weight is None else train.weight
        rows = np.append(np.arange(len(train.y)), np.zeros(len(lacking), dtype=np.int64))
        return replace(
            train,
            rows=train.rows[rows],
            y=np.append(train.y, lacking.astype(train.y.dtype)),
            base_margin=train.base_margin[rows],
            weight=np.append(weight, np.zeros(len(lacking))),
        )

    def _choose_objective(self) -> str:
        if not self.signature.is_classification:
            return OBJECTIVES[self.loss]
        return "CrossEntropy" if self.num_margins == 1 else "MultiClass"

    def _make_parameters(self) -> dict[str, Any]:
        classes = {"classes_count": self.num_margins} if self.num_margins > 1 else {}
        constraints = {"monotone_constraints": self.monotone_signs} if self.monotone_constraints else {}
        device = {"task_type": "GPU", "devices": "0"} if self.fit_device == "cuda" else {}
        return {
            "loss_function": self._choose_objective(),
            **classes,
            **constraints,
            **device,
            "iterations": self.num_boost_round,
            "od_type": "Iter",
            "od_wait": self.early_stopping_rounds,
            "use_best_model": False,  # `grow` cuts by the same loss as it reports
            "boost_from_average": False,  # boosting starts at the offset of BoostedTrees
            "allow_const_label": True,
            "nan_mode": "Forbidden",  # no input is missing
            "boosting_type": "Plain",
            "grow_policy": "SymmetricTree",
            "bootstrap_type": "Bernoulli",
            "learning_rate": self.learning_rate,
            "depth": self.depth,
            "l2_leaf_reg": self.l2_leaf_reg,
            "rsm": self.rsm,
            "subsample": self.subsample,
            "random_strength": self.random_strength,
            "border_count": self.border_count,
            "random_seed": self.seed,
            "thread_count": 1,
            "allow_writing_files": False,
            "logging_level": "Silent",
        }


def _export(forest: cb.CatBoost, file_format: str) -> bytes:
    """Return the forest in one of CatBoost's formats, which it writes to files alone."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "forest"
        forest.save_model(str(file), format=file_format)
        return file.read_bytes()


def _load(saved: bytes) -> cb.CatBoost:
    """Return a forest that saves the same bytes again; one that is loaded from a file has its parameters reordered."""
    return cb.CatBoost().load_model(blob=saved)


def _make_pool(data: BoostingData) -> cb.Pool:
    return cb.Pool(data.gather(), data.y, weight=data.weight, baseline=data.base_margin, thread_count=1)


def _adapt_attributes(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of CatBoost's tree node with splits by <= instead of >, and one margin for two classes.

    Of two classes the graph has the margin and its negative; of these the second class's is taken.
    """
    adapted = attributes | {
        "nodes_modes": [b"BRANCH_LEQ" if mode == b"BRANCH_GT" else mode for mode in attributes["nodes_modes"]],
        "nodes_truenodeids": attributes["nodes_falsenodeids"],
        "nodes_falsenodeids": attributes["nodes_truenodeids"],
    }
    if len(attributes.get("classlabels_int64s", ())) == 2:
        is_second = np.array(attributes["class_ids"]) == 1
        for name in ("class_ids", "class_nodeids", "class_treeids", "class_weights"):
            adapted[name] = np.array(attributes[name])[is_second].tolist()
    return adapted


def _parse_tree(splits: list[dict[str, Any]]) -> Tree:
    """Return a symmetric tree as a complete binary tree, root first, level by level.

    The last split is the root's. CatBoost's leaf index has a bit for each split, the first split's the lowest: leaves
    from left to right have the indices 0, 1 and so on.
    """
    inner = 2 ** len(splits) - 1
    level = np.floor(np.log2(np.arange(1, inner + 1))).astype(np.int64)  # of each split node
    feature, border = (np.array([split[key] for split in splits[::-1]]) for key in ("float_feature_index", "border"))
    leaves = np.zeros(inner + 1, dtype=np.int64)
    child = 2 * np.arange(inner) + 1
    # The decimals may be longer than those that identify a float32; parsed as float64 they would be other numbers.
    threshold = border.astype(np.float32).astype(np.float64)
    return Tree(
        np.append(feature.astype(np.int64)[level], leaves + LEAF),
        np.append(threshold[level], leaves),
        np.append(child, leaves),
        np.append(child + 1, leaves),
    )
