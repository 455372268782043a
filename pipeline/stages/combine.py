"""combine <ensemble>: predict by the weighted positions of other models, on every split and on the holdout."""

import logging
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from pipeline import artifacts, cli, config, digests
from pipeline.evaluation import stacking, voting
from pipeline.evaluation.members import KEY, SCORES, CommonRows, find_common_rows, join_final_fits, read_members
from pipeline.evaluation.voting import Ensemble
from pipeline.models.predictions import FINAL, make_predictions
from pipeline.samples import open_features
from pipeline.targets import Target
from pipeline.trading_rules import read_rules
from pipeline.validation.folds import Folds

log = logging.getLogger(__name__)


def main(model: str) -> None:
    """Combine the predictions of the members of an ensemble, by given weights, or by those that stacking fits."""
    params = config.load_params()
    block, fitted = config.find_model(params, model).block, dict(voting.list_fitted(params))
    remove_other_files(fitted)
    targets = load_targets(block["dataset"], [block, *fitted.values()])
    ensemble = voting.resolve_weights(params, model, {name: target.output for name, target in targets.items()})
    for reason in ensemble.left_out:
        log.warning("models.%s.%s: %s: it is left out", voting.FAMILY, model, reason)
    weights = None
    if block["plugin"] in stacking.PLUGINS:
        weights = stacking.fit_all_weights(params, model, ensemble=ensemble, targets=targets, final=FINAL)
        ensemble = ensemble.replace_weights(stacking.choose_deployed(weights, final=FINAL))
    parameters = list_parameters(params, model, ensemble)
    _, rows = Folds.load(digests.verify(artifacts.FOLDS / f"{block['dataset']}.parquet"))
    _, segment = open_features(digests.verify(artifacts.FEATURES / f"{block['dataset']}.parquet"), rows=rows)
    own, so_far, trading = targets[block["target"]], voting.count_rows_so_far(segment), read_rules(params)
    with artifacts.replace_atomically(voting.ENSEMBLES / model) as folder:
        folder.mkdir()
        for source, file in ((artifacts.IN_SAMPLE, voting.IN_SAMPLE), (artifacts.OOS, voting.OUT_OF_SAMPLE)):
            common = find_common_rows(
                join_final_fits(read_members(source, ensemble, targets), final=FINAL),
                symbol=rows["symbol"].to_numpy(),
                rows_so_far=so_far,
                full_position_std=trading.full_position_std,
            )
            table = tabulate(common, find_weights(ensemble, weights, common.keys), rows, own)
            artifacts.write_table(folder / file, table if source == artifacts.OOS else table[[*KEY, *SCORES]])
    artifacts.write_report("combine/details", model, {"parameters": parameters})
    artifacts.write_json(artifacts.report_path("combine", model), summarize(ensemble, common, weights))


def remove_other_files(names: Collection[str]) -> None:
    """Remove the predictions and the reports on fits of models that params do not name.

    The folders are dependencies, which DVC hashes when the stage has ended: other files there would change dvc.lock.
    """
    reports = [artifacts.report_path(stage, "*") for stage in ("train", "train/details", "audit")]
    patterns = [artifacts.OOS / "*.parquet", artifacts.IN_SAMPLE / "*.parquet", *reports]
    for file in [file for pattern in patterns for file in pattern.parent.glob(pattern.name)]:
        if file.stem not in names:
            file.unlink()


def load_targets(dataset: str, blocks: Iterable[config.Block]) -> dict[str, Target]:
    """Return the targets of those blocks of models that are of a dataset, by name."""
    names = dict.fromkeys(block["target"] for block in blocks if block["dataset"] == dataset)
    files = {name: digests.verify(artifacts.LABELS / dataset / f"{name}.parquet") for name in names}
    return {name: Target.load(file) for name, file in files.items()}


def list_parameters(params: config.Block, model: str, ensemble: Ensemble) -> dict[str, Any]:
    """Return the parameters that the predictions of an ensemble depend on, which identify its trials.

    Those of its members' fits and labels are among them; the way in which params give the weights is not.

    Raises:
        ValueError: the members were fitted with different seeds.
    """
    family, block, name = config.find_model(params, model)
    members, seeds = {}, {}
    for member in ensemble.members:
        fitted = dict(artifacts.read_report("train/details", member.name)["parameters"])
        seeds[member.name] = fitted.pop("seeds")
        labels = config.look_up(params, f"datasets.{block['dataset']}.targets.{member.target}")
        members[member.name] = {**fitted, "labels": labels}
    (first, expected), *_ = seeds.items()
    for other, found in seeds.items():
        if found != expected:
            raise ValueError(
                f"{name}: its members {first} and {other} were fitted with the seeds {expected} and {found}; "
                "run `dvc repro` to fit all of them with the same"
            )
    return {
        "model": name,
        "family": family,
        "plugin": block["plugin"],
        **({} if block["plugin"] in stacking.PLUGINS else {"weights": ensemble.weights}),
        **({} if ensemble.rank_quantiles is None else {"rank_quantiles": ensemble.rank_quantiles}),
        "members": members,
        "seeds": expected,
    }


def find_weights(
    ensemble: Ensemble, weights: Mapping[stacking.Fit, np.ndarray] | None, keys: pd.DataFrame
) -> np.ndarray:
    """Return the weights of the members, (M,), or (M, n) where those of each seed and split are fitted."""
    if weights is None:
        return np.array(list(ensemble.weights.values()))
    return stacking.spread_weights(weights, keys)


def tabulate(common: CommonRows, weights: np.ndarray, rows: pd.DataFrame, target: Target) -> pd.DataFrame:
    """Return the positions of an ensemble as a table like those of `train`, but float64: as a deployment computes them.

    `rows` has the time and symbol of all rows of the samples.
    """
    position = common.combine(weights)
    tables = []
    for _, part in common.keys.groupby(["seed", "split"]):
        own = position[part.index]
        seed, split = (int(part[name].iloc[0]) for name in ("seed", "split"))
        table = make_predictions(split, rows, part["row"].to_numpy(), prediction=own[:, None], target=target)
        table.insert(0, "seed", np.full(len(part), seed, np.int64))
        tables.append(table.assign(**{target.output.names[0]: own, "score": own}))
    return pd.concat(tables)


def summarize(
    ensemble: Ensemble, common: CommonRows, weights: Mapping[stacking.Fit, np.ndarray] | None
) -> dict[str, object]:
    """Return the weights, and the share of the rows out of sample on which each member counts.

    Where weights are fitted they are those of the final fits, beside the range of each over all fits.
    """
    counted = common.is_full.mean(axis=0)
    fitted = {} if weights is None else {"weight_ranges": summarize_range(ensemble, weights)}
    return {
        "weights": ensemble.weights,
        **fitted,
        "left_out": list(ensemble.left_out),
        "rows": len(common.keys),
        "counted_share": dict(zip(ensemble.weights, counted, strict=True)),
    }


def summarize_range(ensemble: Ensemble, weights: Mapping[stacking.Fit, np.ndarray]) -> dict[str, list[float]]:
    """Return the lowest and the highest weight of each member over all fits."""
    stacked = np.stack(list(weights.values()))  # (fits, M)
    lowest, highest = stacked.min(axis=0).tolist(), stacked.max(axis=0).tolist()
    return {name: [low, high] for name, low, high in zip(ensemble.weights, lowest, highest, strict=True)}


if __name__ == "__main__":
    cli.run(main)
