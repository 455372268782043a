"""canary <dataset>: plant known leaks in a dataset's own bars, and check that the named guard catches each."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd

from pipeline import artifacts, cli, config, digests
from pipeline.datasets import kinds
from pipeline.features.engine import Features
from pipeline.leakage.canaries import runner
from pipeline.leakage.canaries.canary import Outcome, list_critical_guards
from pipeline.leakage.canaries.canary_market import find_first_bars, make_market
from pipeline.leakage.findings import LeakageError
from pipeline.leakage.settings import GuardSettings
from pipeline.reporting import markdown
from pipeline.row_groups import TableFile

CAUGHT, MISSED, ALSO_CRITICAL, NOT_CRITICAL = "●", "✗", "○", "·"


def main(dataset: str) -> None:
    """Run every canary on the bars of a dataset; stop at a missed leak or at a false alarm."""
    blocks = config.load_params()
    kind = kinds.import_part(blocks, dataset, "guard")
    compute: Callable[..., Features] | None = kind.compute
    own = kinds.find_optional_part(blocks, dataset, "canaries")
    if kind.compute_parts is None:
        write_reason(dataset, "rows come from an export and cannot be recomputed")
    elif own is not None:
        run_own_canaries(dataset, own, blocks)
    elif compute is None:
        write_reason(dataset, "canaries are planted in bars, and this dataset has none")
    else:
        run_canaries(dataset, compute, blocks)


def run_own_canaries(dataset: str, own: ModuleType, blocks: config.Block) -> None:
    """Plant the leaks of a kind of datasets and write what the guards find; LeakageError where one fails."""
    settings, rows = read_settings(blocks), read_first_rows(dataset, blocks)
    block = config.look_up(blocks, f"datasets.{dataset}.features")
    write_outcomes(dataset, list(own.run_canaries(rows, block, settings=settings, seed=blocks["seed"])), own.GUARDS)


def run_canaries(dataset: str, compute_features: Callable[..., Features], blocks: config.Block) -> None:
    """Plant leaks in the bars of a dataset and write what the guards find; LeakageError where one fails."""
    bars, settings = read_first_rows(dataset, blocks), read_settings(blocks)
    block = config.look_up(blocks, f"datasets.{dataset}.features")

    def compute(table: pd.DataFrame) -> Features:
        return config.call_with(compute_features, table, block=block, name="features")

    outcomes = list(runner.run_canaries(make_market(bars, compute, settings=settings, seed=blocks["seed"])))
    write_outcomes(dataset, outcomes, runner.GUARDS)


def read_settings(blocks: config.Block) -> GuardSettings:
    """Return the settings of the guards."""
    return config.call_with(GuardSettings, block=config.look_up(blocks, "guard"), name="guard")


def read_first_rows(dataset: str, blocks: config.Block) -> pd.DataFrame:
    """Return the first rows of each symbol of a clean table, as many as `canary.bars`."""
    clean = TableFile(digests.verify(artifacts.CLEAN / f"{dataset}.parquet"))
    symbol = clean.read(["symbol"])["symbol"]
    rows = config.call_with(find_first_bars, symbol, block=config.look_up(blocks, "canary"), name="canary")
    del symbol
    return read_rows(clean, rows)


def write_outcomes(dataset: str, outcomes: Sequence[Outcome], guards: Sequence[str]) -> None:
    """Write the report and the page of a dataset; LeakageError where a guard fails."""
    artifacts.write_report("canary", dataset, make_report(outcomes))
    artifacts.write_text(name_page(dataset), render_markdown(dataset, outcomes, guards))
    raise_if_failed(outcomes)


def read_rows(file: TableFile, positions: np.ndarray) -> pd.DataFrame:
    """Return the rows of a table at ascending positions, which index it; row groups without any are not read."""
    runs = np.split(positions, np.flatnonzero(np.diff(positions) != 1) + 1)
    return pd.concat([file.read(start=int(run[0]), stop=int(run[-1]) + 1) for run in runs])


def write_reason(dataset: str, reason: str) -> None:
    """Write the report of a dataset that no leak is planted in."""
    artifacts.write_report("canary", dataset, make_report([]) | {"reason": reason})
    artifacts.write_text(name_page(dataset), f"# {dataset}: no canary planted, as {reason}\n")


def name_page(dataset: str) -> Path:
    """Return the page of markdown beside the report."""
    return artifacts.report_path("canary", dataset).with_suffix(".md")


def raise_if_failed(outcomes: Sequence[Outcome]) -> None:
    """Raise LeakageError with one line for each missed leak and for each false alarm, if there are any."""
    failures = [failure for outcome in outcomes for failure in outcome.list_failures()]
    if failures:
        raise LeakageError("\n".join(failures))


def make_report(outcomes: Sequence[Outcome]) -> dict[str, object]:
    """Return the counts, and every finding about every leak and clean counterpart."""
    return {
        "canaries": len(outcomes),
        "caught": sum(outcome.is_caught for outcome in outcomes),
        "false_alarms": sum(outcome.is_false_alarm for outcome in outcomes),
        "outcomes": {outcome.name: {"caught": outcome.is_caught, **asdict(outcome)} for outcome in outcomes},
    }


def render_markdown(dataset: str, outcomes: Sequence[Outcome], guards: Sequence[str] = runner.GUARDS) -> str:
    """Return a page with one table, canary by guard, and one sentence for each canary."""
    caught = sum(outcome.is_caught for outcome in outcomes)
    title = f"# {dataset}: {caught} of {len(outcomes)} canaries caught by their named guard"
    legend = (
        f"{CAUGHT} the named guard catches the leak; {MISSED} the named guard misses it; {ALSO_CRITICAL} another guard "
        f"calls it critical too, which does not count; {NOT_CRITICAL} another guard does not. "
        "The clean counterpart is the same thing without the leak."
    )
    rows = (
        [f"`{outcome.name}`", *(mark_leak(outcome, guard) for guard in guards), describe_counterpart(outcome)]
        for outcome in outcomes
    )
    head = ["canary", *guards, "clean counterpart"]
    table = markdown.render_table(head, rows, centered=guards)
    sentences = [f"- `{outcome.name}`: {outcome.mistake}. Clean: {outcome.correction}." for outcome in outcomes]
    return "\n".join([title, "", legend, "", table, "", *sentences, ""])


def mark_leak(outcome: Outcome, guard: str) -> str:
    """Return the mark of a guard's finding about a leak; empty where the guard does not check that kind."""
    is_critical = guard in list_critical_guards(outcome.leak)
    if guard == outcome.guard:
        return CAUGHT if is_critical else MISSED
    if is_critical:
        return ALSO_CRITICAL
    return NOT_CRITICAL if any(finding.guard == guard for finding in outcome.leak) else ""


def describe_counterpart(outcome: Outcome) -> str:
    """Return the guards with false alarms and with warnings about the clean counterpart, or "ok"."""
    alarms = [f"{guard}: false alarm" for guard in list_critical_guards(outcome.clean)]
    warnings = [f"{finding.guard}: warning" for finding in outcome.clean if finding.severity == "warning"]
    return ", ".join(alarms + warnings) or "ok"


if __name__ == "__main__":
    cli.run(main)
