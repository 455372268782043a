"""The stacking ensemble: a voting ensemble whose weights are fitted, for each split on its own train rows.

Out-of-sample predictions of other splits cannot be reused for that: in CPCV the fits that predict a split's train rows
out of sample have learned from its test rows. So the weights come from one step of a walk-forward within the split:
every fit learns from the first part of its train rows and predicts the rest, its valid rows, which are purged of the
first part and lie apart from the test rows. A member has chosen its best iteration by these rows, and a tuned one its
hyperparameters by them and by the first part.

The plugin `best_member` chooses in each split the one member that is best on these rows. So the best member, with which
an ensemble is compared, is known without the test rows.
"""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from pipeline import artifacts, config, digests
from pipeline.evaluation.members import find_common_rows, join_final_fits, read_members
from pipeline.evaluation.stacked_weights import choose_member, fit_weights
from pipeline.evaluation.voting import Ensemble, count_rows_so_far
from pipeline.samples import open_features, read_labels
from pipeline.targets import Target
from pipeline.trading_rules import read_rules
from pipeline.validation.folds import Folds

BEST_MEMBER = "best_member"
PLUGINS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "stacking": fit_weights,
    BEST_MEMBER: choose_member,
}
Fit = tuple[int, int]  # seed and split


def fit_all_weights(
    params: config.Block, model: str, *, ensemble: Ensemble, targets: Mapping[str, Target], final: int
) -> dict[Fit, np.ndarray]:
    """Return the weights (M,) of an ensemble's members by seed and split, fitted on the valid rows of their fits.

    `targets` are those of the members and of the ensemble, by name; `final` is the split number of the final fits, of
    which those that are deployed count, under the lowest seed.

    Raises:
        ValueError: no labeled row is a valid row of every member; names the fit.
    """
    block, valid_pct = config.find_model(params, model).block, params["train"]["valid_pct"]
    dataset = block["dataset"]
    folds, rows = Folds.load(digests.verify(artifacts.FOLDS / f"{dataset}.parquet"))
    _, segment = open_features(digests.verify(artifacts.FEATURES / f"{dataset}.parquet"), rows=rows)
    common = find_common_rows(
        join_final_fits(read_members(artifacts.IN_SAMPLE, ensemble, targets), final=final),
        symbol=rows["symbol"].to_numpy(),
        rows_so_far=count_rows_so_far(segment),
        full_position_std=read_rules(params).full_position_std,
    )
    own = _read_y(dataset, block["target"], rows)
    learned = [_mark_learned(params, member.name, targets, rows) for member in ensemble.members]
    first_valid = find_first_valid(folds, learned, valid_pct=valid_pct, final=final)
    positions, found, fit = np.where(common.is_full, common.targets, 0.0), {}, PLUGINS[block["plugin"]]
    for _, part in common.keys.groupby(["seed", "split"]):
        seed, split = _name_fit(part)
        row = part["row"].to_numpy()
        is_used = (folds.time[row] >= first_valid[split]) & np.isfinite(own[row])
        if not is_used.any():
            raise ValueError(f"models.ensembles.{model}: split {split} has no valid row that all members predict")
        found[seed, split] = fit(positions[part.index[is_used]], own[row[is_used]])
    return found


def find_first_valid(folds: Folds, learned: list[np.ndarray], *, valid_pct: float, final: int) -> dict[int, int]:
    """Return the time at which the valid rows of all members have begun, by split; `learned` are (N,) bool a member."""
    first = {}
    for split in (*range(folds.n_splits), final):
        rows = folds.development() if split == final else folds.train(split)
        valid = [folds.split_validation(rows[is_learned[rows]], valid_pct)[1] for is_learned in learned]
        first[split] = max(int(folds.time[each].min()) for each in valid)
    return first


def spread_weights(weights: Mapping[Fit, np.ndarray], keys: pd.DataFrame) -> np.ndarray:
    """Return the weights of each row of `keys` (n), those of its seed and split: (M, n)."""
    spread = np.empty((len(next(iter(weights.values()))), len(keys)))
    for _, part in keys.groupby(["seed", "split"]):
        spread[:, part.index] = weights[_name_fit(part)][:, None]
    return spread


def choose_deployed(weights: Mapping[Fit, np.ndarray], *, final: int) -> np.ndarray:
    """Return the weights of the final fits, which a deployment has."""
    ((seed, _),) = (fit for fit in weights if fit[1] == final)
    return weights[seed, final]


def _name_fit(part: pd.DataFrame) -> Fit:
    """Return the seed and the split that all rows of a table have."""
    return int(part["seed"].iloc[0]), int(part["split"].iloc[0])


def _mark_learned(params: config.Block, model: str, targets: Mapping[str, Target], rows: pd.DataFrame) -> np.ndarray:
    """Return (N,) whether a member may learn from a row, as its block says."""
    block = config.find_model(params, model).block
    symbols = block.get("include_symbols")
    is_learned = np.ones(len(rows), bool) if symbols is None else rows["symbol"].isin(symbols).to_numpy()
    if block.get("exclude_neutrals"):
        output = targets[block["target"]].output
        y = _read_y(block["dataset"], block["target"], rows)
        is_learned = is_learned & (y != output.names.index(output.neutral_class or ""))
    return np.asarray(is_learned)


def _read_y(dataset: str, target: str, rows: pd.DataFrame) -> np.ndarray:
    return read_labels(digests.verify(artifacts.LABELS / dataset / f"{target}.parquet"), rows=rows)["y"]
