"""prop_firm <dataset>: put what its models hold on every path under the rules of a prop firm's evaluation."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from pipeline import artifacts, cli, config, digests
from pipeline.datasets import kinds
from pipeline.deployment import contract
from pipeline.evaluation import voting
from pipeline.evaluation.evaluation_data import load_evaluation_data
from pipeline.evaluation.liquidity import find_missing_columns
from pipeline.evaluation.path_metrics import list_seeds, select_path
from pipeline.evaluation.portfolio import trade_predictions
from pipeline.evaluation.prop_firm import PropFirmRules
from pipeline.evaluation.prop_firm_odds import ChallengeSettings
from pipeline.evaluation.prop_firm_paths import (
    Account,
    PropFirm,
    RiskCurve,
    count_endings,
    join_tables,
    make_walks,
    measure_risks,
    open_account,
    summarize_accounts,
    walk_paths,
)
from pipeline.market.time_zones import load_zone
from pipeline.models.predictions import FINAL
from pipeline.reporting.prop_firm_page import render_page
from pipeline.reporting.source_note import note_source
from pipeline.trading_rules import read_costs
from pipeline.validation.folds import Folds

NEEDED = ["seed", "split", "row", "symbol", "score", "score_std"]


def main(dataset: str) -> None:
    """Walk and resample the paths of the signal of a dataset's bundle, and of the models that params name."""
    params = config.load_params()
    signal = contract.read_contract(contract.BUNDLES / dataset).signal
    firm = read_firm(params, dataset)
    entries = [config.find_model(params, name) for name in dict.fromkeys([signal, *firm.challenges.models])]
    own = [entry for entry in entries if entry.block["dataset"] == dataset]
    accounts = [account for entry in own for account in load_accounts(entry, params, firm)]
    curves = [measure_risks(each, firm, seed=params["seed"]) for each in accounts if each.reason is None]
    notes = note_source(params, dataset)
    write_reports(dataset, signal, firm=firm, accounts=accounts, curves=curves, notes=notes)


def read_firm(params: config.Block, dataset: str) -> PropFirm:
    """Return the section `prop_firm`, with the slippage of the dataset's source on top of the firm's own fee."""
    rules, challenges = (config.look_up(params, f"prop_firm.{part}") for part in ("rules", "challenges"))
    firm = PropFirm(
        rules=config.call_with(PropFirmRules, block=rules, name="prop_firm.rules"),
        challenges=config.call_with(ChallengeSettings, block=challenges, name="prop_firm.challenges"),
    )
    try:
        load_zone(firm.rules.timezone, key="prop_firm.rules.timezone")
    except ValueError as error:
        raise config.ParamsError(str(error)) from None
    return firm.add_fee(read_costs(params, dataset).slippage_bps)


def load_accounts(entry: config.ModelBlock, params: config.Block, firm: PropFirm) -> Iterator[Account]:
    """Yield the account of each symbol of a model: what every path of every seed holds.

    There is none where predictions are not traded, or where rows are no bars.
    """
    dataset = entry.block["dataset"]
    if (predictions := read_predictions(entry)) is None:
        return
    folds, rows = Folds.load(digests.verify(artifacts.FOLDS / f"{dataset}.parquet"))
    clock, fills = (kinds.import_part(params, dataset, part) for part in ("clock", "fills"))
    symbols = list(predictions["symbol"].unique())
    data = load_evaluation_data(params, entry.block, rows, symbols=symbols, clock=clock, fills=fills)
    if find_missing_columns(data.clean):
        return
    paths = range(len(np.unique(list_seeds(predictions))) * folds.n_paths)
    results = [trade_predictions(select_path(predictions, data, folds, path=path), data) for path in paths]
    delay_bars = data.rules.delay_bars
    for symbol in data.symbols:
        yield open_account(entry.name, results, data.clean, symbol=symbol, delay_bars=delay_bars, firm=firm)


def read_predictions(entry: config.ModelBlock) -> pd.DataFrame | None:
    """Return the predictions of the splits; None where they have no score, so that they are not traded.

    Those of the final fit are of the holdout, which stays closed.
    """
    file = artifacts.OOS / f"{entry.name}.parquet"
    if entry.family == voting.FAMILY:
        file = voting.ENSEMBLES / entry.name / voting.OUT_OF_SAMPLE
    if "score" not in pq.read_schema(digests.verify(file)).names:
        return None
    predictions = artifacts.read_table(file, NEEDED)
    return predictions[predictions["split"] != FINAL]


def make_headline(
    model: str, accounts: Sequence[Account], curves: Sequence[RiskCurve], *, phases: int
) -> dict[str, object]:
    """Return the odds of one model at its best risk, as the gate reads them."""
    return {"signal": model} | summarize_accounts(
        [account for account in accounts if account.model == model],
        {each.symbol: each for each in curves if each.model == model},
        phases=phases,
        reason=f"{model} is not traded, or its rows are no bars",
    )


def write_reports(
    dataset: str,
    signal: str,
    *,
    firm: PropFirm,
    accounts: Sequence[Account],
    curves: Sequence[RiskCurve],
    notes: Sequence[str],
) -> None:
    """Write the odds of the signal, their details with the curve by risk, and the page, with `notes` on top."""
    phases, path = len(firm.rules.targets), artifacts.report_path("prop_firm", dataset)
    headline = make_headline(signal, accounts, curves, phases=phases)
    by_path, by_risk = (join_tables(curves, name, phases=phases) for name in ("odds", "means"))
    walks = pd.concat([walk_paths(account, firm) for account in accounts] or [make_walks([])], ignore_index=True)
    details = {
        **{part: asdict(getattr(firm, part)) for part in ("rules", "challenges")},
        "by_risk": by_risk.to_dict("records"),
        "by_path": by_path.to_dict("records"),
        "paths_as_they_are": walks.to_dict("records"),
    }
    artifacts.write_report("prop_firm", dataset, headline)
    artifacts.write_report("prop_firm/details", dataset, details)
    endings = count_endings(walks, phases=phases)
    page = render_page(dataset, headline, details=details, by_risk=by_risk, endings=endings, notes=notes)
    artifacts.write_text(path.with_suffix(".md"), page)


if __name__ == "__main__":
    cli.run(main)
