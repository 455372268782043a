"""The predictions of an ensemble's members on their common rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline import artifacts
from pipeline.evaluation.position_sizing import size_scores
from pipeline.evaluation.voting import Ensemble, Member, combine_targets
from pipeline.targets import Kind, Target

KEY = ["seed", "split", "row"]  # identifies a prediction of one model
SCORES = ["score", "score_std"]


@dataclass(frozen=True, eq=False)
class MemberPredictions:
    """The predictions of one member."""

    member: Member
    kind: Kind  # of its predictions
    table: pd.DataFrame  # KEY and SCORES, in any order


@dataclass(frozen=True, eq=False)
class CommonRows:
    """The rows that all members predict, ascending by KEY, and the members' target positions there."""

    keys: pd.DataFrame  # (n) KEY
    targets: np.ndarray  # (n, M) in [-1, 1]; 0 of a member that does not predict the row's symbol
    is_full: np.ndarray  # (n, M) bool, whether a member predicts the row, from a full window

    def combine(self, weights: Sequence[float] | np.ndarray) -> np.ndarray:
        """Return the (n,) target positions of the ensemble; weights are (M,), or (M, n) where rows have their own."""
        return combine_targets(self.targets, self.is_full, np.asarray(weights, np.float64))


def read_members(folder: Path, ensemble: Ensemble, targets: Mapping[str, Target]) -> list[MemberPredictions]:
    """Return the predictions in a folder of every member."""
    return [
        MemberPredictions(
            member,
            targets[member.target].output.kind,
            artifacts.read_table(folder / f"{member.name}.parquet", columns=[*KEY, *SCORES]),
        )
        for member in ensemble.members
    ]


def find_common_rows(
    predictions: Sequence[MemberPredictions],
    *,
    symbol: np.ndarray,
    rows_so_far: np.ndarray,
    full_position_std: float,
) -> CommonRows:
    """Return the members' target positions on the rows that every member of the row's symbol predicts.

    Args:
        predictions: those of each member, by seed and split.
        symbol: (N,) the symbol of each row of the samples.
        rows_so_far: (N,) rows of its segment up to each row, itself included.
        full_position_std: of the section `trading`.
    """
    keys, places = number_keys([each.table for each in predictions])
    row, shape = keys["row"].to_numpy(), (len(keys), len(predictions))
    targets, is_full, is_common = np.zeros(shape), np.zeros(shape, bool), np.ones(len(keys), bool)
    for i, (each, place) in enumerate(zip(predictions, places, strict=True)):
        score, score_std = (each.table[name].to_numpy() for name in SCORES)
        targets[place, i] = size_scores(score, score_std, kind=each.kind, full_position_std=full_position_std)
        is_predicted = np.zeros(len(keys), bool)
        is_predicted[place] = True
        is_full[:, i] = is_predicted & (rows_so_far[row] >= each.member.window)
        symbols = each.member.symbols
        is_common &= is_predicted if symbols is None else is_predicted | ~np.isin(symbol[row], symbols)
    return CommonRows(keys[is_common].reset_index(drop=True), targets[is_common], is_full[is_common])


def number_keys(tables: Sequence[pd.DataFrame]) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """Return the distinct keys of several tables, ascending, and the place among them of each row of each table."""
    seeds, splits = (np.unique(np.concatenate([np.unique(table[name]) for table in tables])) for name in KEY[:2])
    rows = 1 + max(int(table["row"].max()) for table in tables)
    codes = []
    for table in tables:
        fit = np.searchsorted(seeds, table["seed"]) * len(splits) + np.searchsorted(splits, table["split"])
        codes.append(fit * rows + table["row"].to_numpy(np.int64))
    distinct = np.unique(np.concatenate(codes))
    fit, row = np.divmod(distinct, rows)
    seed, split = np.divmod(fit, len(splits))
    keys = pd.DataFrame(dict(zip(KEY, (seeds[seed], splits[split], row), strict=True)))
    return keys, [np.searchsorted(distinct, code) for code in codes]
