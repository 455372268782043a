"""Checks of a forest against its ONNX graph: inputs on every split threshold, and leaves that differ."""

from pathlib import Path

import numpy as np

from pipeline.models.parity_checks import base
from pipeline.models.trees.engine.forest import BoostedTrees, apply_in_batches
from pipeline.models.trees.engine.forest_graph import list_split_points, rank_leaves, read_onnx_trees, traverse_trees

DECISIONS = "leaves of trees"
EXTREME_ROWS = 64  # rows of the largest floats of either sign, mixed by column


def make_edge_cases(model: BoostedTrees, inputs: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """Return inputs on every split threshold and one float32 step to either side, besides odd numbers.

    One row for each threshold, with the other columns of a row of `inputs`. Then as many rows in which every column
    lies on one of its own thresholds: these also reach deep splits. The odd numbers are zeros, tiny and largest floats.
    """
    inputs = model.flattening.flatten(inputs)  # (n, flat columns)
    feature, threshold = list_split_points(model.trees)  # (S,), (S,)
    infinity = np.float32(np.inf)
    around = np.concatenate([threshold, np.nextafter(threshold, -infinity), np.nextafter(threshold, infinity)])
    column = np.tile(feature, 3)
    single = inputs[rng.integers(len(inputs), size=len(around))]
    single[np.arange(len(around)), column] = around
    dense = inputs[rng.integers(len(inputs), size=len(around))]
    for used in np.unique(column):
        dense[:, used] = rng.choice(around[column == used], size=len(dense))
    largest = np.finfo(np.float32).max
    extremes = np.full((2, inputs.shape[1]), [[largest], [-largest]], dtype=np.float32)
    mixed = rng.choice([largest, -largest], size=(EXTREME_ROWS, inputs.shape[1])).astype(np.float32)
    flat = np.concatenate([base.make_edge_cases(model, inputs, rng=rng), extremes, mixed, single, dense])
    return model.flattening.expand(flat)


def count_flips(model: BoostedTrees, inputs: np.ndarray, file: Path) -> np.ndarray:
    """Return in how many trees the ONNX graph in `file` takes another leaf than the library: (B,) int64.

    Raises:
        ValueError: the graph has another number of trees than the model.
    """
    exported, is_strict = read_onnx_trees(file)
    if len(exported) != len(model.trees):
        raise ValueError(f"{file} holds {len(exported)} trees, the model {len(model.trees)}; export it again")
    ranks = [rank_leaves(tree) for tree in model.trees]

    def count_batch_flips(batch: np.ndarray) -> np.ndarray:
        batch = model.flattening.flatten(batch)
        leaves = model.predict_leaves(batch)
        native = np.stack([rank[leaves[:, t]] for t, rank in enumerate(ranks)], axis=1)  # (B, trees)
        return np.asarray(np.count_nonzero(native != traverse_trees(exported, batch, is_strict=is_strict), axis=1))

    return apply_in_batches(count_batch_flips, inputs)
