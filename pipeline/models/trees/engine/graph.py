"""Trees as tables of nodes, native or read out of an ONNX graph, and the graph that a forest is deployed as."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSETS = {"": 15, "ai.onnx.ml": 3}  # the highest that onnxmltools writes
IR_VERSION = 8  # the one that belongs to opset 15
LEAF = -1


class Tree(NamedTuple):
    """The nodes of one tree, root first. Children are positions in these arrays; a leaf's `feature` is LEAF."""

    feature: np.ndarray  # (nodes,) int64
    threshold: np.ndarray  # (nodes,) float64, a float32 number wherever inputs are told apart exactly
    left: np.ndarray  # (nodes,) int64, taken where the condition holds
    right: np.ndarray  # (nodes,) int64


def leaf_ranks(tree: Tree) -> np.ndarray:
    """For each node its place among the leaves from left to right, (nodes,) int64; -1 for what is no leaf.

    Libraries and converters number leaves each in their own way; the order from left to right they all share.
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


def split_points(trees: Sequence[Tree]) -> tuple[np.ndarray, np.ndarray]:
    """Each (feature, threshold) that some tree splits on, once, in order: (S,) int64 and (S,) float32."""
    feature = np.concatenate([tree.feature for tree in trees])
    threshold = np.concatenate([tree.threshold for tree in trees])
    pairs = np.unique(np.stack([feature, threshold])[:, feature != LEAF], axis=1)
    return pairs[0].astype(np.int64), pairs[1].astype(np.float32)


def leaves_taken(trees: Sequence[Tree], x: np.ndarray, *, is_strict: bool) -> np.ndarray:
    """The leaf that each row of float32 `x` reaches in each tree, as its rank from left to right: (B, trees) int64.

    Left is taken where x < threshold (`is_strict`), else where x <= threshold, in float64 as in the graph.
    """
    starts = np.cumsum([0, *(len(tree.feature) for tree in trees)])
    feature, threshold = (np.concatenate(arrays) for arrays in list(zip(*trees, strict=True))[:2])
    left = np.concatenate([tree.left + start for tree, start in zip(trees, starts, strict=False)])
    right = np.concatenate([tree.right + start for tree, start in zip(trees, starts, strict=False)])
    reached = _walk(x, starts[:-1], feature, threshold, left, right, is_strict)
    ranks: np.ndarray = np.concatenate([leaf_ranks(tree) for tree in trees])[reached]
    return ranks


@numba.njit(cache=True)
def _walk(
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


def deployed(converted: onnx.ModelProto, *, offset: np.ndarray, columns: int) -> onnx.ModelProto:
    """The graph "inputs" (batch, columns) -> "answer" (batch, outputs) around the trees of a converted model.

    The trees sum corrections to `offset`, (outputs,) float64, which is added afterwards. Sums, offset and softmax are
    float64: in float32 a sum would depend on how many threads take part, and each would cost digits that predictions
    which vary little do not have to spare.
    Two classes grow one margin, of the second over the first; the first class then has no leaf and stays at zero.
    """
    trees = _tree_attributes(converted)
    if len(offset) == 2:
        trees["target_ids"] = [1] * len(trees["target_ids"])
    nodes = [
        helper.make_node("Cast", ["inputs"], ["inputs64"], to=TensorProto.DOUBLE),
        helper.make_node(
            "TreeEnsembleRegressor", ["inputs64"], ["margins"], domain="ai.onnx.ml", n_targets=len(offset), **trees
        ),
        helper.make_node("Cast", ["margins"], ["margins64"], to=TensorProto.DOUBLE),
        helper.make_node("Add", ["margins64", "offset"], ["logits"]),
        helper.make_node("Softmax" if len(offset) > 1 else "Identity", ["logits"], ["answer64"]),
        helper.make_node("Cast", ["answer64"], ["answer"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "trees",
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, ["batch", columns])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["batch", len(offset)])],
        [helper.make_tensor("offset", TensorProto.DOUBLE, [1, len(offset)], offset)],
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="pipeline")
    onnx.checker.check_model(model, full_check=True)
    return model


def _tree_attributes(converted: onnx.ModelProto) -> dict[str, Any]:
    """The arrays of the one tree node, under a regressor's names, without what stands around the sum of leaves."""
    (node,) = (node for node in converted.graph.node if node.op_type.startswith("TreeEnsemble"))
    read = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    for part in ("treeids", "nodeids", "ids", "weights"):
        if f"class_{part}" in read:
            read[f"target_{part}"] = read[f"class_{part}"]
    trees = {key: value for key, value in read.items() if key.startswith(("nodes_", "target_")) and len(value)}
    for key in ("nodes_values", "target_weights"):
        trees[f"{key}_as_tensor"] = numpy_helper.from_array(np.array(trees.pop(key), dtype=np.float64), key)
    return trees


def read_trees(file: Path) -> tuple[list[Tree], bool]:
    """The trees as the ONNX graph in `file` holds them, and whether they split by `<` rather than `<=`."""
    (node,) = (node for node in onnx.load(file).graph.node if node.op_type.startswith("TreeEnsemble"))
    read = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    names = ("treeids", "nodeids", "featureids", "truenodeids", "falsenodeids")
    tree, name, feature, left, right = (np.asarray(read[f"nodes_{n}"]) for n in names)
    threshold = numpy_helper.to_array(read["nodes_values_as_tensor"])
    modes = np.asarray(read["nodes_modes"])
    splits = set(modes) - {b"LEAF"}
    if len(splits) > 1 or not splits <= {b"BRANCH_LT", b"BRANCH_LEQ"}:
        raise ValueError(f"{file}: trees split by {sorted(splits)}; understood is BRANCH_LT or BRANCH_LEQ, one of them")
    feature = np.where(modes == b"LEAF", LEAF, feature)
    trees = []
    for rows in np.split(np.arange(len(tree)), np.flatnonzero(np.diff(tree)) + 1):
        place = np.zeros(name[rows].max() + 1, dtype=np.int64)
        place[name[rows]] = np.arange(len(rows))
        children = np.where(feature[rows] == LEAF, 0, (left[rows], right[rows]))
        trees.append(Tree(feature[rows], threshold[rows], *place[children]))
    return trees, splits == {b"BRANCH_LT"}
