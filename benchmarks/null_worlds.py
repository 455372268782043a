"""Does the gate pass where there is nothing to find? `python benchmarks/null_worlds.py --csv FILE`.

Simulated markets, some without any predictable move and some with a planted one, run through the stages up to the gate
in this one process. Every model is judged in turn as if the bundle traded it. Worlds that FILE holds are not repeated.
Beside a tree stands a linear model or, with `--beside meta_label`, the same tree whose bets a second one sizes.

Worlds with a planted move, and the first without, are whole. The others are short: the reports of guards, canaries and
the embargo's sensitivity are those of the first world, and certificates and guards count as without a fault, which
makes the gate easier to pass. No world draws pictures.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, chdir, contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pandas as pd
from null_markets import DATASET, Market, list_models, make_params, write_params

from pipeline import artifacts, config
from pipeline.evaluation.gate import Evidence, GateRules, is_passed, judge
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

TREE, LINEAR, META_LABEL, TARGET = "lightgbm", "linear", "meta_label", "return_5"
RULES = [name for name in GateRules.__dataclass_fields__ if name != "path_quantile"]
SMALL = {  # what the verdicts do not depend on, made cheap
    "deployment": {"datasets": [DATASET], "signal": None, "golden_bars": 60},
    "replay": {"bars": 400, "restarts": 1, "holes": 1, "hole_bars": 1000},
    "embargo_sensitivity": {"embargo_factors": [0, 1], "resamples": 99},
    "split": {"groups": 4},  # 6 splits and 3 paths
    "compare": {"resamples": 200},  # of intervals, which no rule reads
}
GATE, GATE_WITHOUT = "gate", "gate, pass_probability off"

Row = dict[str, Any]


def make_blocks(market: Market, *, beside: str) -> dict[str, Any]:
    """Return the blocks of params.yaml: a tree, and beside it one other model of the same target.

    LINEAR is a net without hidden layers; META_LABEL has the tree as its primary model.
    """
    blocks = make_small_params(market)
    if beside == META_LABEL:
        blocks["models"]["composites"] = {META_LABEL: blocks["disabled_models"]["composites"][META_LABEL]}
        return blocks
    mlp = blocks["disabled_models"]["nets"]["mlp"]
    linear = {**mlp, "hyperparameters": {**mlp["hyperparameters"], "hidden_sizes": [], "dropout": 0.0}}
    blocks["models"]["nets"] = {LINEAR: linear}
    return blocks


def make_small_params(market: Market) -> dict[str, Any]:
    """Return the blocks of params.yaml with one tree, one target and cheap guards."""
    blocks = make_params(market, models=(TREE,))
    blocks["models"] = {"trees": blocks["models"]["trees"]}
    targets = blocks["datasets"][DATASET]["targets"]
    blocks["datasets"][DATASET]["targets"] = {TARGET: targets[TARGET]}
    for section, changes in SMALL.items():
        blocks[section] |= changes
    blocks["embargo_sensitivity"]["hyperparameters"]["num_boost_round"] = 2
    return blocks


def run_world(market: Market, *, reports: Path, is_whole: bool, beside: str) -> list[Row]:
    """Return the verdicts on every model of a market; `reports` has those that short worlds share."""
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        blocks = make_blocks(market, beside=beside)
        write_params(blocks)
        try:
            run_stages(list_models(blocks), reports=reports, is_whole=is_whole)
            evidence = gate.load_evidence(DATASET) if is_whole else make_faultless_evidence()
            rows = judge_models(list_models(blocks), evidence)
        except LeakageError as error:
            rows = [{"model": model, "stopped": str(error).split(":")[0]} for model in list_models(blocks)]
    common = {"signal": market.signal, "seed": market.seed, "days": market.days, "is_whole": is_whole}
    return [{**common, **row, "cpu_s": time.process_time() - start} for row in rows]


def run_stages(models: Sequence[str], *, reports: Path, is_whole: bool) -> None:
    """Run the stages that the gate reads in the current folder."""
    artifacts.write_text(artifacts.LEDGER, "")
    run_all(fetch, ingest, featurize, label, key=DATASET)
    share_report("guard", guard, reports=reports)
    share_report("canary", canary, reports=reports)
    run_all(split, key=DATASET)
    share_report("sensitivity", sensitivity, reports=reports)
    run_all(*((guard,) if is_whole else ()), signals, baseline, key=DATASET)
    for model in models:
        run_all(*((train, audit, evaluate, export_with_parity) if is_whole else (train, audit, evaluate)), key=model)
    run_all(compare, *((bundle, prop_firm, gate) if is_whole else ()), key=DATASET)


def run_all(*stages: ModuleType, key: str) -> None:
    """Run stages one after another."""
    for stage in stages:
        stage.main(key)


def share_report(name: str, stage: ModuleType, *, reports: Path) -> None:
    """Write the report of a stage as it is in `reports`; run the stage where it is not there yet."""
    report, shared = artifacts.report_path(name, DATASET), reports / f"{name}.json"
    if shared.exists():
        artifacts.write_text(report, shared.read_text())
        return
    run_all(stage, key=DATASET)
    shared.parent.mkdir(exist_ok=True)
    shutil.copy(report, shared)


def make_faultless_evidence() -> Evidence:
    """Return the reports of a short world, with certificates and guards that found nothing."""
    return Evidence(
        signal="",
        compare=artifacts.read_report("compare", DATASET),
        compare_details=artifacts.read_report("compare/details", DATASET),
        evaluate={},
        findings={},
        canary={"canaries": 0, "caught": 0, "false_alarms": 0},
        parity={},
        bundle={"contract_sha256": "", "recorded": {}, "holes": {}},
        contract_sha256="",
        signals=artifacts.read_report("signals", DATASET),
        prop_firm={},
        holdout_looks=0,
    )


def judge_models(models: Sequence[str], evidence: Evidence) -> list[Row]:
    """Return the verdict and the value of every rule, and of the gate with and without P(pass), by model."""
    params = config.load_params()
    rules = config.call_with(GateRules, block=params["gate"], name="gate")
    firm = prop_firm.read_firm(params, DATASET)
    rows = []
    for model in models:
        accounts = list(prop_firm.load_accounts(config.find_model(params, model), params, firm))
        curves = [measure_risks(each, firm, seed=params["seed"]) for each in accounts if each.reason is None]
        own = replace(
            evidence,
            signal=model,
            evaluate=artifacts.read_report("evaluate/details", model),
            prop_firm=prop_firm.make_headline(model, accounts, curves, phases=len(firm.rules.targets)),
        )
        results = judge(own, rules)
        without = judge(own, replace(rules, pass_probability=None))
        verdicts: Row = {name: result.verdict for name, result in results.items()}
        verdicts |= {GATE: name_verdict(is_passed(results)), GATE_WITHOUT: name_verdict(is_passed(without))}
        rows.append({"model": model, **verdicts} | {f"{name}_value": results[name].value for name in RULES})
    return rows


def name_verdict(passes: bool) -> str:
    """Return the word for a gate's verdict."""
    return "passed" if passes else "failed"


def extend_file(file: Path, markets: Mapping[Market, bool], *, seconds: float, beside: str) -> pd.DataFrame:
    """Return the rows of a file after those of the markets that it lacks; none begins after `seconds` of CPU."""
    start, reports = time.process_time(), file.with_suffix(".reports")
    table = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=["signal", "seed"])
    for market, is_whole in markets.items():
        known = (table["signal"] == market.signal) & (table["seed"] == market.seed)
        if known.any() or time.process_time() - start > seconds:
            continue
        rows = pd.DataFrame(run_world(market, reports=reports, is_whole=is_whole, beside=beside))
        table = pd.concat([table, rows], ignore_index=True) if len(table) else rows
        table.to_csv(file, index=False)
        print(f"{market.name}, seed {market.seed}: {rows['cpu_s'].iloc[0]:.0f} s of CPU", flush=True)
    return table


def render_passes(table: pd.DataFrame) -> str:
    """Return how often each rule alone, and the gate, passes: one row for each, by signal and model."""
    groups = table.groupby(["signal", "model"], sort=False)
    parts: dict[Any, pd.DataFrame] = {key: table.loc[rows] for key, rows in groups.groups.items()}
    names = [name for name in [*RULES, GATE_WITHOUT, GATE] if (table[name] != "off").any()]
    head = ["rule", *(f"signal {signal:g}, `{model}`" for signal, model in parts)]
    rows = [[name, *(f"{(part[name] == 'passed').sum()} of {len(part)}" for part in parts.values())] for name in names]
    return markdown.render_table(head, rows)


def list_markets(options: argparse.Namespace) -> dict[Market, bool]:
    """Return the markets, and whether each is whole: one of each kind first, then nulls and planted ones in turn."""
    nulls = {Market("simulated", seed, options.days): seed == 1 for seed in range(1, options.nulls + 1)}
    planted = [Market("simulated", seed, options.days, options.signal) for seed in range(1, options.seeds + 1)]
    return dict.fromkeys(planted[:1], True) | nulls | dict.fromkeys(planted, True)


@contextmanager
def skip_pictures() -> Iterator[None]:
    """Let no stage draw a picture."""
    with ExitStack() as patches:
        patches.enter_context(patch.object(artifacts, "write_figure"))
        for name in [name for name in vars(evaluate) if name.startswith("draw_")]:
            patches.enter_context(patch.object(evaluate, name))
        patches.enter_context(patch.object(compare, "plot_comparison", return_value={}))
        yield


def main() -> None:
    """Run the worlds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, required=True, help="file of the worlds, to which new ones are added")
    parser.add_argument("--nulls", type=int, default=64, help="worlds without a signal")
    parser.add_argument("--signal", type=float, default=0.02, help="planted")
    parser.add_argument("--seeds", type=int, default=4, help="worlds of it")
    parser.add_argument("--days", type=int, default=20, help="of each world")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="of CPU, after which no world begins")
    parser.add_argument("--beside", choices=[LINEAR, META_LABEL], default=LINEAR, help="the model beside the tree")
    options = parser.parse_args()
    os.environ |= {"PIPELINE_WORKERS": "1", "TQDM_DISABLE": "1"}
    with skip_pictures():
        markets = list_markets(options)
        table = extend_file(options.csv.resolve(), markets, seconds=options.seconds, beside=options.beside)
    print(render_passes(table))
    worlds = table.drop_duplicates(["signal", "seed"])
    print(f"\n{len(worlds)} worlds of {options.days} days in {worlds['cpu_s'].sum():.0f} s of CPU")


if __name__ == "__main__":
    main()
