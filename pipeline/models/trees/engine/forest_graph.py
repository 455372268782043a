"""Trees as tables of nodes, as a library or an ONNX graph holds them, and the graph that a forest is deployed as."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.models.trees.engine.flattening import FLAT, Flattening

OPSETS = {"": 15, "ai.onnx.ml": 3}  # the highest that onnxmltools writes
IR_VERSION = 8  # the one that belongs to opset 15
LEAF = -1
SPLIT_MODES = {b"BRANCH_LT", b"BRANCH_LEQ"}


class Tree(NamedTuple):
    """The nodes of one tree, root first. Children are positions in these arrays; a leaf's `feature` is LEAF."""

    feature: np.ndarray  # (nodes,) int64
    threshold: np.ndarray  # (nodes,) float64, a float32 number wherever float32 inputs must be split exactly
    left: np.ndarray  # (nodes,) int64, taken where the condition holds
    right: np.ndarray  # (nodes,) int64


def rank_leaves(tree: Tree) -> np.ndarray:
    """Return the place of each node among the leaves from left to right, (nodes,) int64; -1 for a split.

    Libraries and converters number leaves each in their own way; the order from left to right is common to all.
    """
    ranks = np.full(len(tree.feature), -1, dtype=np.int64)
    open_nodes, found = [0], 0
    while open_nodes:
        node = open_nodes.pop()
        if tree.feature[node] == LEAF:
            ranks[node], found = found, found + 1
        else:
            open_nodes += [tree.right[node], tree.left[node]]
    return ranks


def list_split_points(trees: Sequence[Tree]) -> tuple[np.ndarray, np.ndarray]:
    """Return each (feature, threshold) that some tree splits on, once, in order: (S,) int64 and (S,) float32."""
    feature = np.concatenate([tree.feature for tree in trees])
    threshold = np.concatenate([tree.threshold for tree in trees])
    pairs = np.unique(np.stack([feature, threshold])[:, feature != LEAF], axis=1)
    return pairs[0].astype(np.int64), pairs[1].astype(np.float32)


def traverse_trees(trees: Sequence[Tree], x: np.ndarray, *, is_strict: bool) -> np.ndarray:
    """Return the leaf that each row of float32 `x` reaches in each tree, as its rank of `rank_leaves`.

    Left is taken where x < threshold (`is_strict`) or where x <= threshold, in float64 as in the graph.
    The result is (B, trees) int64.
    """
    starts = np.cumsum([0, *(len(tree.feature) for tree in trees)])
    feature, threshold = (np.concatenate(arrays) for arrays in list(zip(*trees, strict=True))[:2])
    left = np.concatenate([tree.left + start for tree, start in zip(trees, starts, strict=False)])
    right = np.concatenate([tree.right + start for tree, start in zip(trees, starts, strict=False)])
    reached = _traverse(x, starts[:-1], feature, threshold, left, right, is_strict)
    ranks: np.ndarray = np.concatenate([rank_leaves(tree) for tree in trees])[reached]
    return ranks


@numba.njit(cache=True)
def _traverse(
    x: np.ndarray,
    roots: np.ndarray,
    feature: np.ndarray,
    threshold: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    is_strict: bool,
) -> np.ndarray:
    reached = np.empty((len(x), len(roots)), dtype=np.int64)
    for row in range(len(x)):
        for tree in range(len(roots)):
            node = roots[tree]
            while feature[node] >= 0:
                value = x[row, feature[node]]
                goes_left = value < threshold[node] if is_strict else value <= threshold[node]
                node = left[node] if goes_left else right[node]
            reached[row, tree] = node
    return reached


def make_forest_graph(
    converted: onnx.ModelProto, *, offset: np.ndarray, flattening: Flattening, is_classification: bool
) -> onnx.ModelProto:
    """Return the graph "inputs" (batch, [bars,] columns) -> "answer" (batch, outputs) around a converted model's trees.

    The trees sum corrections to `offset`, (outputs,) float64, which is added afterwards. Sums, offset and softmax are
    float64. In float32 a sum depends on the number of threads, and rounding is large beside predictions that vary
    little. Two classes have one margin, of the second over the first; the first class has no leaf and stays at zero.
    """
    trees = _extract_tree_attributes(converted)
    if len(offset) == 2:
        trees["target_ids"] = [1] * len(trees["target_ids"])
    flatten_nodes, constants, shape = flattening.make_nodes()
    rows = FLAT if flatten_nodes else "inputs"
    nodes = [
        *flatten_nodes,
        helper.make_node("Cast", [rows], ["inputs64"], to=TensorProto.DOUBLE),
        helper.make_node(
            "TreeEnsembleRegressor", ["inputs64"], ["margins"], domain="ai.onnx.ml", n_targets=len(offset), **trees
        ),
        helper.make_node("Cast", ["margins"], ["margins64"], to=TensorProto.DOUBLE),
        helper.make_node("Add", ["margins64", "offset"], ["logits"]),
        helper.make_node("Softmax" if is_classification else "Identity", ["logits"], ["answer64"]),
        helper.make_node("Cast", ["answer64"], ["answer"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "trees",
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["batch", len(offset)])],
        [*constants, helper.make_tensor("offset", TensorProto.DOUBLE, [1, len(offset)], offset)],
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="pipeline")
    onnx.checker.check_model(model, full_check=True)
    return model


def _extract_tree_attributes(converted: onnx.ModelProto) -> dict[str, Any]:
    """Return the arrays of the one tree node, under a regressor's names, without the converter's own base values."""
    attributes = _read_tree_node(converted)
    for part in ("treeids", "nodeids", "ids", "weights"):
        if f"class_{part}" in attributes:
            attributes[f"target_{part}"] = attributes[f"class_{part}"]
    trees = {key: value for key, value in attributes.items() if key.startswith(("nodes_", "target_")) and len(value)}
    for key in ("nodes_values", "target_weights"):
        trees[f"{key}_as_tensor"] = numpy_helper.from_array(np.array(trees.pop(key), dtype=np.float64), key)
    return trees


def read_onnx_trees(file: Path) -> tuple[list[Tree], bool]:
    """Return the trees that the ONNX graph in `file` holds, and whether they split by `<` rather than `<=`."""
    attributes = _read_tree_node(onnx.load(file))
    names = ("treeids", "nodeids", "featureids", "truenodeids", "falsenodeids")
    tree, node, feature, left, right = (np.asarray(attributes[f"nodes_{name}"]) for name in names)
    threshold = numpy_helper.to_array(attributes["nodes_values_as_tensor"])
    modes = np.asarray(attributes["nodes_modes"])
    splits = set(modes) - {b"LEAF"}
    if len(splits) > 1 or not splits <= SPLIT_MODES:
        raise ValueError(f"{file}: trees split by {sorted(splits)}; allowed is one of {sorted(SPLIT_MODES)}")
    feature = np.where(modes == b"LEAF", LEAF, feature)
    trees = []
    for rows in np.split(np.arange(len(tree)), np.flatnonzero(np.diff(tree)) + 1):
        position = np.zeros(node[rows].max() + 1, dtype=np.int64)  # by node id
        position[node[rows]] = np.arange(len(rows))
        children = np.where(feature[rows] == LEAF, 0, (left[rows], right[rows]))
        trees.append(Tree(feature[rows], threshold[rows], *position[children]))
    return trees, splits == {b"BRANCH_LT"}


def _read_tree_node(model: onnx.ModelProto) -> dict[str, Any]:
    """Return the attributes of the one tree node of a model, by name."""
    (node,) = (node for node in model.graph.node if node.op_type.startswith("TreeEnsemble"))
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
