"""report <dataset>: put the results of a dataset into one HTML page that needs no network, the verdict first.

`report <dataset> --bundle` writes the page with gate, odds at a prop firm and latency of the bundle, `report <dataset>
--compare REVISION` a page with the results of a revision or experiment beside those of the workspace. Both are outputs
of no stage: they lie in trained/measured/report.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from dvc.exceptions import DvcException

from pipeline import artifacts, cli, config, digests, remedies
from pipeline.datasets import kinds
from pipeline.deployment import contract
from pipeline.digests import ArtifactError
from pipeline.evaluation import performance, voting
from pipeline.evaluation.ledger import Ledger, read_lines
from pipeline.evaluation.path_metrics import bin_forecasts
from pipeline.evaluation.returns import Returns
from pipeline.evaluation.trials import describe_market
from pipeline.reporting import revision_files
from pipeline.reporting.source_note import is_simulated
from pipeline.reporting.tear_sheet.evidence import (
    Bars,
    BundleEvidence,
    Calibration,
    DatasetEvidence,
    Look,
    ModelEvidence,
)
from pipeline.reporting.tear_sheet.page import render_report
from pipeline.reporting.tear_sheet.revision_page import render_comparison
from pipeline.row_groups import read_clean
from pipeline.targets import Output

CALIBRATION_BINS = 10
NOT_FITTED = "an ensemble sums positions, which forecast no value"
PRICES = ("open", "high", "low", "close")
HISTORY = ["seed", "split", "iteration", "train_loss", "valid_loss"]

Report = dict[str, Any]


class Clock(NamedTuple):
    """The instants, in ms, of times of a dataset's clock, and its rows in a year."""

    to_ms: Callable[[np.ndarray], np.ndarray]
    bars_per_year: float


def main(dataset: str) -> None:
    """Write trained/reports/<dataset>.html from the reports, returns, round trips and predictions of a dataset."""
    artifacts.write_text(artifacts.REPORTS / f"{dataset}.html", render(dataset))


def run_command() -> None:
    """Write a page with what is no input of the stage, and print its path."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.stages.report", description=__doc__)
    parser.add_argument("dataset")
    wanted = parser.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--bundle", action="store_true", help="add gate, odds at a prop firm and latency")
    wanted.add_argument("--compare", metavar="REVISION", help="a branch, tag, commit or experiment")
    given = parser.parse_args()
    file = artifacts.MEASURED / "report" / f"{given.dataset}{'' if given.bundle else '_compare'}.html"
    try:
        config.check_name(given.dataset, owner=f"there is no dataset {given.dataset!r}")
        if given.bundle:
            page = render(given.dataset, bundle=read_bundle(given.dataset))
        else:
            page = compare(Path.cwd(), given.dataset, revision=given.compare)
        artifacts.write_text(file, page)
    except (ValueError, OSError, DvcException) as error:
        sys.exit(f"report {given.dataset}: {cli.describe_error(error)}")
    sys.stdout.write(f"{file}\n")


def compare(root: Path, dataset: str, *, revision: str) -> str:
    """Return the page with the reports of a revision beside those of the workspace."""
    before = revision_files.RevisionFiles.find(root, revision)
    files = (before, revision_files.WorkspaceFiles(root))
    try:
        return render_comparison(*(revision_files.load_side(each, dataset) for each in files))
    except KeyError as error:
        raise ValueError(
            f"a report of {before.name} or of the workspace has no {error}: other code wrote it; run `dvc repro` "
            "there with the present code"
        ) from error


def read_bundle(dataset: str) -> BundleEvidence:
    """Return the reports on the bundle of a dataset, with the latency where it is of the present contract."""
    folder = contract.BUNDLES / dataset
    if not (folder / contract.CONTRACT).is_file():
        raise ArtifactError(f"there is no {folder / contract.CONTRACT}; {remedies.describe_writing(folder)}")
    file, present = artifacts.MEASURED / "latency" / f"{dataset}.json", contract.hash_contract(folder)
    measured = artifacts.read_json(file) if file.is_file() else None
    reason = f"there is no {file}"
    if measured is not None and (found := measured.get("contract_sha256")) != present:
        reason = f"{file} is of the contract {str(found)[:8]}, the bundle has {present[:8]}"
        measured = None
    stages = {"gate": "gate", "prop_firm": "prop_firm", "prop_firm_details": "prop_firm/details"}
    reports = {
        name: artifacts.read_report(stage, dataset) if artifacts.report_path(stage, dataset).is_file() else None
        for name, stage in stages.items()
    }
    if reports["gate"] is not None and reports["gate"]["contract_sha256"] != present:
        file = artifacts.report_path("gate", dataset)
        raise ArtifactError(f"{file} is of another bundle; run `dvc repro gate@{dataset}`")
    return BundleEvidence(**reports, latency=measured, no_latency_reason=reason)


def render(dataset: str, *, bundle: BundleEvidence | None = None) -> str:
    """Return the page of a dataset, with the reports on its bundle where they are given."""
    params = config.load_params()
    clock = kinds.import_part(params, dataset, "clock")
    clean = read_clean(dataset, {*clock.COLUMNS, clock.TIME, *PRICES})
    to_ms, per_year = partial(clock.to_ms, clean), clock.count_rows_per_year(clean)
    rate = config.call_with(performance.declare_rate, block=config.look_up(params, "performance"), name="performance")
    compare = artifacts.read_report("compare/details", dataset)
    blocks = {
        name: (family, block)
        for family, models in params["models"].items()
        for name, block in (models or {}).items()
        if block["dataset"] == dataset
    }
    models = [
        load_model(name, *blocks[name], clock=Clock(to_ms, per_year), risk_free_rate=rate)
        for name in compare["leaderboard"]
    ]
    evidence = DatasetEvidence(
        dataset=dataset,
        source=config.look_up(params, f"datasets.{dataset}.source"),
        is_simulated=is_simulated(params, dataset),
        ingest=artifacts.read_report("ingest", dataset),
        label=artifacts.read_report("label", dataset),
        split=artifacts.read_report("split", dataset),
        guard=artifacts.read_report("guard", dataset),
        canary=artifacts.read_report("canary", dataset),
        liquidity=artifacts.read_report("liquidity", dataset),
        signals=artifacts.read_report("signals/details", dataset),
        sensitivity=artifacts.read_report("sensitivity", dataset),
        headline=artifacts.read_report("compare", dataset),
        compare=compare,
        models=models,
        not_traded=[name for name in blocks if name not in compare["leaderboard"]],
        bars=collect_bars(clean, clock.TIME, to_ms),
        looks=list_looks(clean["symbol"].to_numpy(), to_ms(clean[clock.TIME].to_numpy()), clean["close"].to_numpy()),
        bundle=bundle,
    )
    page: str = config.call_with(render_report, evidence, block=config.look_up(params, "report"), name="report")
    return page


def collect_bars(clean: pd.DataFrame, time: str, to_ms: Callable[[np.ndarray], np.ndarray]) -> dict[str, Bars]:
    """Return the prices of every symbol; none where the rows of the clean table are no bars."""
    if not set(PRICES) <= set(clean.columns):
        return {}
    return {
        str(symbol): Bars(to_ms(rows[time].to_numpy()), *(rows[name].to_numpy(np.float64) for name in PRICES))
        for symbol, rows in clean.groupby("symbol", sort=False, observed=True)
    }


def list_looks(symbol: np.ndarray, time_ms: np.ndarray, close: np.ndarray) -> list[Look]:
    """Return the looks of the ledger at the holdout of the market that these (N,) rows are, by model."""
    looks = Ledger.from_lines(read_lines(artifacts.LEDGER)).looks
    own = describe_market(symbol, time_ms, close) if looks else None
    return [
        Look(
            model=look.model,
            target=look.target,
            digest=look.digest,
            first_day=look.first_day,
            daily=look.daily,
            sharpe=look.sample.sharpe * look.bars_per_year**0.5,
        )
        for look in sorted(looks, key=lambda each: (each.model, each.digest))
        if own and look.market.overlaps(own)
    ]


def load_model(name: str, family: str, block: config.Block, *, clock: Clock, risk_free_rate: float) -> ModelEvidence:
    """Return the results of a model; one that is not fitted has no audit, training, history or predictions."""
    returns = Returns.load(artifacts.RETURNS / f"{name}.parquet")
    excess = returns.take_excess(risk_free_rate=risk_free_rate, bars_per_year=clock.bars_per_year)
    trips = artifacts.read_table(artifacts.ROUND_TRIPS / f"{name}.parquet")
    is_fitted = family != voting.FAMILY
    training = artifacts.read_report("train/details", name) if is_fitted else None
    output = read_output(block["dataset"], block["target"])
    return ModelEvidence(
        name=name,
        family=family,
        target=block["target"],
        time_ms=clock.to_ms(returns.time),
        paths=returns.paths,
        median_path=excess.median_path,
        bars_per_year=clock.bars_per_year,
        round_trips=trips[trips["path"] == excess.median_path].reset_index(drop=True),
        headline=artifacts.read_report("evaluate", name),
        details=artifacts.read_report("evaluate/details", name),
        audit=artifacts.read_report("audit", name) if is_fitted else None,
        training=training,
        history=read_history(name, training["history_sha256"]) if training else pd.DataFrame(columns=HISTORY),
        calibration=calibrate(name, block, output) if is_fitted else Calibration({}, "", NOT_FITTED),
        class_names=output["names"] if output["kind"] == "classes" else ("down", "up"),
    )


def read_output(dataset: str, target: str) -> Report:
    """Return the output that models of a target have: its kind, names and levels."""
    schema = pq.read_schema(digests.verify(artifacts.LABELS / dataset / f"{target}.parquet"))
    output: Report = artifacts.read_attributes(schema)["target"]["output"]
    return output


def read_history(name: str, digest: str) -> pd.DataFrame:
    """Return the losses of every fit by iteration; ArtifactError where the file's sha256 is not `digest`."""
    file = artifacts.HISTORY / f"{name}.csv"
    digests.verify_digest(file, digest, source=artifacts.report_path("train/details", name))
    return pd.read_csv(file, usecols=HISTORY)[HISTORY]


def calibrate(name: str, block: config.Block, output: Report) -> Calibration:
    """Return the calibration of the predictions on path 0 of the first seed; a position has none."""
    names = list(output["names"])
    table = artifacts.read_table(artifacts.OOS / f"{name}.parquet", ["seed", "split", "row", *names])
    if output["kind"] == "position":
        return Calibration({}, "", "the score is a position, which forecasts no value")
    first = table[table["seed"] == table["seed"].iloc[0]].sort_values("split", kind="stable").drop_duplicates("row")
    joined = first.assign(y=read_labels(block, first["row"].to_numpy())).dropna(subset="y").sort_values("row")
    y, predicted = joined["y"].to_numpy(np.float64), joined[names].to_numpy(np.float64)
    curves = bin_forecasts(y, predicted, Output.from_description(output), bins=CALIBRATION_BINS)
    units = {"quantiles": "share below the quantile", "classes": "probability"}
    return Calibration(curves, units.get(output["kind"], names[-1]))


def read_labels(block: config.Block, rows: np.ndarray) -> np.ndarray:
    """Return (n,) the y of rows of the folds; NaN where a row has no label."""
    keys = ["segment", "time"]
    folds = artifacts.read_table(artifacts.FOLDS / f"{block['dataset']}.parquet", [*keys, "is_labeled"])
    labels = artifacts.read_table(artifacts.LABELS / block["dataset"] / f"{block['target']}.parquet", [*keys, "y"])
    y = folds.merge(labels, on=keys, how="left", validate="one_to_one")["y"].where(folds["is_labeled"])
    return np.asarray(y.to_numpy(np.float64)[rows])


if __name__ == "__main__":
    if any(word.startswith("--") for word in sys.argv[1:]):
        run_command()
    else:
        cli.run(main)
