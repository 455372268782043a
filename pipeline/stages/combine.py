"""combine <ensemble>: predict by the weighted positions of other models, on every split and on the holdout."""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import artifacts, cli, config, digests
from pipeline.evaluation import voting
from pipeline.evaluation.members import KEY, SCORES, CommonRows, MemberPredictions, find_common_rows
from pipeline.evaluation.voting import Ensemble
from pipeline.models.predictions import FINAL, make_predictions
from pipeline.samples import open_features
from pipeline.targets import Target
from pipeline.trading_rules import read_rules
from pipeline.validation.folds import Folds

log = logging.getLogger(__name__)


def main(model: str) -> None:
    """Combine the predictions of the members of an ensemble; nothing is fitted."""
    params = config.load_params()
    block, fitted = config.find_model(params, model).block, dict(voting.list_fitted(params))
    remove_other_files(fitted)
    targets = load_targets(block["dataset"], [block, *fitted.values()])
    ensemble = voting.resolve_weights(params, model, {name: target.output for name, target in targets.items()})
    for reason in ensemble.left_out:
        log.warning("models.%s.%s: %s: it is left out", voting.FAMILY, model, reason)
    parameters = list_parameters(params, model, ensemble)
    _, rows = Folds.load(digests.verify(artifacts.FOLDS / f"{block['dataset']}.parquet"))
    _, segment = open_features(digests.verify(artifacts.FEATURES / f"{block['dataset']}.parquet"), rows=rows)
    own, so_far, trading = targets[block["target"]], voting.count_rows_so_far(segment), read_rules(params)
    with artifacts.replace_atomically(voting.ENSEMBLES / model) as folder:
        folder.mkdir()
        for source, file in ((artifacts.IN_SAMPLE, voting.IN_SAMPLE), (artifacts.OOS, voting.OUT_OF_SAMPLE)):
            members = read_members(source, ensemble, targets)
            common = find_common_rows(
                join_final_fits(members) if source == artifacts.OOS else members,
                symbol=rows["symbol"].to_numpy(),
                rows_so_far=so_far,
                full_position_std=trading.full_position_std,
            )
            table = tabulate(common, ensemble, rows, own)
            artifacts.write_table(folder / file, table if source == artifacts.OOS else table[[*KEY, *SCORES]])
    artifacts.write_report("combine/details", model, {"parameters": parameters})
    artifacts.write_json(artifacts.report_path("combine", model), summarize(ensemble, common))


def remove_other_files(names: Collection[str]) -> None:
    """Remove the predictions and the reports on fits of models that params do not name.

    The folders are dependencies, which DVC hashes when the stage has ended: other files there would change dvc.lock.
    """
    reports = [artifacts.report_path(stage, "*") for stage in ("train/details", "audit")]
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
        "weights": ensemble.weights,
        "members": members,
        "seeds": expected,
    }


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


def join_final_fits(members: Sequence[MemberPredictions]) -> list[MemberPredictions]:
    """Return the members with one seed, the lowest, in all rows of the final fit.

    Of the final fits that of one seed predicts the holdout: it need not be the same for every member.
    """
    lowest = min(int(each.table["seed"].min()) for each in members)
    return [
        replace(
            each,
            table=each.table.assign(seed=each.table["seed"].where(each.table["split"] != FINAL, lowest)),
        )
        for each in members
    ]


def tabulate(common: CommonRows, ensemble: Ensemble, rows: pd.DataFrame, target: Target) -> pd.DataFrame:
    """Return the positions of an ensemble as a table like those of `train`, but float64: as a deployment computes them.

    `rows` has the time and symbol of all rows of the samples.
    """
    position = common.combine(list(ensemble.weights.values()))
    tables = []
    for _, part in common.keys.groupby(["seed", "split"]):
        own = position[part.index]
        seed, split = (int(part[name].iloc[0]) for name in ("seed", "split"))
        table = make_predictions(split, rows, part["row"].to_numpy(), prediction=own[:, None], target=target)
        table.insert(0, "seed", np.full(len(part), seed, np.int64))
        tables.append(table.assign(**{target.output.names[0]: own, "score": own}))
    return pd.concat(tables)


def summarize(ensemble: Ensemble, common: CommonRows) -> dict[str, object]:
    """Return the weights, and the share of the rows out of sample on which each member counts."""
    counted = common.is_full.mean(axis=0)
    return {
        "weights": ensemble.weights,
        "left_out": list(ensemble.left_out),
        "rows": len(common.keys),
        "counted_share": dict(zip(ensemble.weights, counted, strict=True)),
    }


if __name__ == "__main__":
    cli.run(main)
