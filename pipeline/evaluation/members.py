"""The predictions of an ensemble's members on their common rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline import artifacts
from pipeline.evaluation.position_sizing import size_scores
from pipeline.evaluation.ranking import learn_reference, rank_scores
from pipeline.evaluation.voting import Ensemble, Member, combine_targets
from pipeline.targets import Kind, Target

KEY = ["seed", "split", "row"]  # identifies a prediction of one model
SCORES = ["score", "score_std"]
References = dict[tuple[int, int], np.ndarray]  # (K,) by seed and split


@dataclass(frozen=True, eq=False)
class MemberPredictions:
    """The predictions of one member."""

    member: Member
    kind: Kind  # of its predictions
    table: pd.DataFrame  # KEY and SCORES, in any order
    ranks: np.ndarray | None = None  # (n,) of the rows of `table`, in [-1, 1]; None: positions are summed

    def find_targets(self, *, full_position_std: float) -> np.ndarray:
        """Return (n,) float64 in [-1, 1], which an ensemble sums: the ranks, or else the target positions."""
        if self.ranks is not None:
            return self.ranks
        score, score_std = (self.table[name].to_numpy() for name in SCORES)
        return size_scores(score, score_std, kind=self.kind, full_position_std=full_position_std)


@dataclass(frozen=True, eq=False)
class CommonRows:
    """The rows that all members predict, ascending by KEY, and the members' target positions, or ranks, there."""

    keys: pd.DataFrame  # (n) KEY
    targets: np.ndarray  # (n, M) in [-1, 1]; 0 of a member that does not predict the row's symbol
    is_full: np.ndarray  # (n, M) bool, whether a member predicts the row, from a full window

    def combine(self, weights: Sequence[float] | np.ndarray) -> np.ndarray:
        """Return the (n,) target positions of the ensemble; weights are (M,), or (M, n) where rows have their own."""
        return combine_targets(self.targets, self.is_full, np.asarray(weights, np.float64))


def read_members(folder: Path, ensemble: Ensemble, targets: Mapping[str, Target]) -> list[MemberPredictions]:
    """Return the predictions in a folder of every member, with their ranks where the ensemble sums ranks."""
    found = []
    for member in ensemble.members:
        table = artifacts.read_table(folder / f"{member.name}.parquet", columns=[*KEY, *SCORES])
        quantiles = ensemble.rank_quantiles
        ranks = None if quantiles is None else rank_table(table, learn_references(member.name, quantiles=quantiles))
        found.append(MemberPredictions(member, targets[member.target].output.kind, table, ranks))
    return found


def learn_references(model: str, *, quantiles: int) -> References:
    """Return the reference of each fit of a model: of the scores of the rows that it has seen, never of a test row."""
    table = artifacts.read_table(artifacts.IN_SAMPLE / f"{model}.parquet", columns=["seed", "split", "score"])
    score = table["score"].to_numpy()
    return {fit: learn_reference(score[places], quantiles=quantiles) for fit, places in find_fits(table).items()}


def rank_table(table: pd.DataFrame, references: References) -> np.ndarray:
    """Return (n,) the ranks of the scores of a table, each in the reference of its seed and split."""
    ranks, score = np.empty(len(table)), table["score"].to_numpy()
    for fit, places in find_fits(table).items():
        ranks[places] = rank_scores(score[places], references[fit])
    return ranks


def find_fits(table: pd.DataFrame) -> dict[tuple[int, int], np.ndarray]:
    """Return the places of the rows of each fit, by seed and split."""
    fits, number = np.unique(table[["seed", "split"]].to_numpy(), axis=0, return_inverse=True)
    return {(int(seed), int(split)): np.flatnonzero(number == i) for i, (seed, split) in enumerate(fits)}


def find_deployed_references(ensemble: Ensemble, *, final: int) -> dict[str, list[float]]:
    """Return the reference of the final fit that is deployed, by member; `final` is its split number."""
    assert ensemble.rank_quantiles is not None
    return {
        name: learn_references(name, quantiles=ensemble.rank_quantiles)[read_deployed_seed(name), final].tolist()
        for name in ensemble.weights
    }


def read_deployed_seed(model: str) -> int:
    """Return the seed of a model's final fit that is deployed."""
    return int(artifacts.read_json(artifacts.report_path("train", model))["deployed_seed"])


def join_final_fits(members: Sequence[MemberPredictions], *, final: int) -> list[MemberPredictions]:
    """Return the members with one final fit each, the deployed one, and one seed in its rows, the lowest of all.

    The seed that is deployed need not be the same for every member. `final` is the split number of the final fits.
    """
    lowest, joined = min(int(each.table["seed"].min()) for each in members), []
    for each in members:
        is_final = each.table["split"].to_numpy() == final
        chosen = ~is_final | (each.table["seed"].to_numpy() == read_deployed_seed(each.member.name))
        table = each.table.assign(seed=each.table["seed"].mask(is_final, lowest))[chosen]
        joined.append(replace(each, table=table, ranks=None if each.ranks is None else each.ranks[chosen]))
    return joined


def find_common_rows(
    predictions: Sequence[MemberPredictions],
    *,
    symbol: np.ndarray,
    rows_so_far: np.ndarray,
    full_position_std: float,
) -> CommonRows:
    """Return the members' target positions, or ranks, on the rows that every member of the row's symbol predicts.

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
        targets[place, i] = each.find_targets(full_position_std=full_position_std)
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
