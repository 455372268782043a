"""Does the gate pass where there is nothing to find? `python benchmarks/null_worlds.py --csv FILE`.

Simulated markets, some without any predictable move and some with a planted one, run through the stages up to the gate
in this one process. Every model is judged in turn as if the bundle traded it. Worlds that FILE holds are not repeated.
Pictures are not drawn, and the report of the canaries is that of the first world: they test the guards, not a market.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
from null_markets import DATASET, Market, list_models, make_params, write_params

from pipeline import artifacts, config
from pipeline.evaluation.gate import GateRules, is_passed, judge
from pipeline.evaluation.prop_firm_paths import measure_risks
from pipeline.leakage.findings import LeakageError
from pipeline.reporting import markdown
from pipeline.stages import (
    audit,
    baseline,
    bundle,
    canary,
    compare,
    evaluate,
    export_with_parity,
    featurize,
    fetch,
    gate,
    guard,
    ingest,
    label,
    prop_firm,
    sensitivity,
    signals,
    split,
    train,
)

TREES, LINEAR = ("lightgbm", "xgboost"), "linear"
RULES = [name for name in GateRules.__dataclass_fields__ if name != "path_quantile"]
SMALL = {  # what the verdicts do not depend on, made cheap
    "deployment": {"datasets": [DATASET], "signal": None, "golden_bars": 60},
    "replay": {"bars": 400, "restarts": 1, "holes": 1, "hole_bars": 1000},
    "embargo_sensitivity": {"embargo_factors": [0, 1], "resamples": 99},
    "split": {"groups": 4},  # 6 splits and 3 paths
}
GATE, GATE_WITHOUT = "gate", "gate, pass_probability off"

Row = dict[str, Any]


def make_blocks(market: Market) -> dict[str, Any]:
    """Return the blocks of params.yaml for a market: trees, and a linear model by a net without hidden layers."""
    blocks = make_params(market, models=TREES)
    mlp = blocks["disabled_models"]["nets"]["mlp"]
    linear = {**mlp, "hyperparameters": {**mlp["hyperparameters"], "hidden_sizes": [], "dropout": 0.0}}
    blocks["models"] = {"trees": blocks["models"]["trees"], "nets": {LINEAR: linear}}
    for section, changes in SMALL.items():
        blocks[section] |= changes
    return blocks


def run_world(market: Market, *, canaries: Path) -> list[Row]:
    """Return the verdicts on every model of a market; `canaries` is the report of the first world."""
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        blocks = make_blocks(market)
        write_params(blocks)
        try:
            run_stages(blocks, canaries=canaries)
            rows = judge_models(list_models(blocks))
        except LeakageError as error:
            rows = [{"model": model, "stopped": str(error).split(":")[0]} for model in list_models(blocks)]
    common = {"signal": market.signal, "seed": market.seed, "days": market.days}
    return [{**common, **row, "cpu_s": time.process_time() - start} for row in rows]


def run_stages(blocks: dict[str, Any], *, canaries: Path) -> None:
    """Run all stages that the gate reads in the current folder."""
    models = list_models(blocks)
    artifacts.write_text(artifacts.LEDGER, "")
    for stage in (fetch, ingest, featurize, label, guard, split, signals, baseline, sensitivity):
        stage.main(DATASET)
    for model in models:
        for stage in (train, audit, evaluate, export_with_parity):
            stage.main(model)
    compare.main(DATASET)
    bundle.main(DATASET)
    report = artifacts.report_path("canary", DATASET)
    if canaries.exists():
        artifacts.write_text(report, canaries.read_text())
    else:
        canary.main(DATASET)
        canaries.write_text(report.read_text())
    prop_firm.main(DATASET)
    gate.main(DATASET)


def judge_models(models: Sequence[str]) -> list[Row]:
    """Return the verdict and the value of every rule, and of the gate with and without P(pass), by model."""
    params = config.load_params()
    rules = config.call_with(GateRules, block=params["gate"], name="gate")
    firm, evidence = prop_firm.read_firm(params, DATASET), gate.load_evidence(DATASET)
    rows = []
    for model in models:
        accounts = list(prop_firm.load_accounts(config.find_model(params, model), params, firm))
        curves = [measure_risks(each, firm, seed=params["seed"]) for each in accounts if each.reason is None]
        own = replace(
            evidence,
            signal=model,
            evaluate=artifacts.read_report("evaluate/details", model),
            prop_firm=prop_firm.make_headline(model, accounts, curves, phases=len(firm.rules.targets)),
            holdout_looks=gate.count_looks(model),
        )
        results = judge(own, rules)
        verdicts = {name: result.verdict for name, result in results.items()}
        verdicts[GATE] = "passed" if is_passed(results) else "failed"
        without = is_passed(judge(own, replace(rules, pass_probability=None)))
        verdicts[GATE_WITHOUT] = "passed" if without else "failed"
        rows.append({"model": model, "verdicts": verdicts, "values": {name: results[name].value for name in RULES}})
    return rows


def flatten(row: Row) -> Row:
    """Return a row of the file: the verdicts by name, and the values with `_value` after the name."""
    values = {f"{name}_value": value for name, value in row.pop("values", {}).items()}
    return {**{key: value for key, value in row.items() if key != "verdicts"}, **row.get("verdicts", {}), **values}


def extend_file(file: Path, markets: Sequence[Market], *, seconds: float) -> pd.DataFrame:
    """Return the rows of a file after those of the markets that it lacks; none begins after `seconds` of CPU."""
    start, canaries = time.process_time(), file.with_suffix(".canary.json")
    table = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=["signal", "seed"])
    for market in markets:
        known = (table["signal"] == market.signal) & (table["seed"] == market.seed)
        if known.any() or time.process_time() - start > seconds:
            continue
        rows = pd.DataFrame([flatten(row) for row in run_world(market, canaries=canaries)])
        table = pd.concat([table, rows], ignore_index=True) if len(table) else rows
        table.to_csv(file, index=False)
        print(f"{market.name}, seed {market.seed}: {rows['cpu_s'].iloc[0]:.0f} s of CPU", flush=True)
    return table


def render_passes(table: pd.DataFrame) -> str:
    """Return how often each rule alone, and the gate, passes: one row for each, by signal and model."""
    keys = list(table.groupby(["signal", "model"], sort=False).groups)
    names = [name for name in [*RULES, GATE_WITHOUT, GATE] if (table[name] != "off").any()]
    parts = {key: table[(table["signal"] == key[0]) & (table["model"] == key[1])] for key in keys}
    head = ["rule", *(f"signal {signal:g}, `{model}`" for signal, model in keys)]
    rows = [[name, *(f"{(part[name] == 'passed').sum()} of {len(part)}" for part in parts.values())] for name in names]
    return markdown.render_table(head, rows)


def main() -> None:
    """Run the worlds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, required=True, help="file of the worlds, to which new ones are added")
    parser.add_argument("--nulls", type=int, default=64, help="worlds without a signal")
    parser.add_argument("--signal", type=float, default=0.02, help="planted")
    parser.add_argument("--seeds", type=int, default=4, help="worlds of it")
    parser.add_argument("--days", type=int, default=20, help="of each world")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="of CPU, after which no world begins")
    options = parser.parse_args()
    os.environ |= {"PIPELINE_WORKERS": "1", "TQDM_DISABLE": "1"}
    planted = [Market("simulated", seed, options.days, options.signal) for seed in range(1, options.seeds + 1)]
    nulls = [Market("simulated", seed, options.days) for seed in range(1, options.nulls + 1)]
    with patch.object(artifacts, "write_figure"):
        table = extend_file(options.csv.resolve(), [*planted[:1], *nulls, *planted[1:]], seconds=options.seconds)
    print(render_passes(table))
    worlds = table.drop_duplicates(["signal", "seed"])
    print(f"\n{len(worlds)} worlds of {options.days} days in {worlds['cpu_s'].sum():.0f} s of CPU")


if __name__ == "__main__":
    main()
