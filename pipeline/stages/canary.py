"""canary <dataset>: leaks planted in a dataset's own bars are caught, each by the guard that is named for it."""

from collections.abc import Sequence
from dataclasses import asdict

import pandas as pd

from pipeline import pages, workspace
from pipeline.canaries import catalogue
from pipeline.canaries.canary import Outcome, critical
from pipeline.canaries.ground import first_bars, prepared
from pipeline.features import engine
from pipeline.leakage.findings import LeakageError

CAUGHT, MISSED, ALSO, QUIET = "●", "✗", "○", "·"


def main(dataset: str) -> None:
    """Plant every canary in the bars of a dataset, and stop where a guard misses one or accuses its clean twin."""
    blocks = workspace.params()
    clean = pd.read_parquet(workspace.CLEAN / f"{dataset}.parquet")
    bars = workspace.feed(first_bars, clean, block=workspace.entry(blocks, "canary"), named="canary")
    block, named = workspace.entry(blocks, f"datasets.{dataset}.features"), "features"

    def compute(table: pd.DataFrame) -> engine.Features:
        return workspace.feed(engine.compute, table, block=block, named=named)

    guard = workspace.entry(blocks, "guard")
    ground = workspace.feed(prepared, bars, compute, blocks["seed"], block=guard, named="guard")
    outcomes = list(catalogue.questioned(ground))
    folder = workspace.REPORTS / "canary"
    workspace.write_json(folder / f"{dataset}.json", report(outcomes))
    workspace.write_text(folder / f"{dataset}.md", markdown(dataset, outcomes))
    raise_if_wrong(outcomes)


def raise_if_wrong(outcomes: Sequence[Outcome]) -> None:
    """Raises LeakageError that names each canary which its guard misses, and each twin that a guard accuses."""
    complaints = [complaint for outcome in outcomes for complaint in outcome.complaints()]
    if complaints:
        raise LeakageError("\n".join(complaints))


def report(outcomes: Sequence[Outcome]) -> dict[str, object]:
    """Every finding of every leak and twin."""
    return {
        "canaries": len(outcomes),
        "caught": sum(outcome.caught for outcome in outcomes),
        "twins_accused": sum(bool(critical(outcome.twin)) for outcome in outcomes),
        "outcomes": {outcome.name: {"caught": outcome.caught, **asdict(outcome)} for outcome in outcomes},
    }


def markdown(dataset: str, outcomes: Sequence[Outcome]) -> str:
    """One table, canary by guard, and a sentence for each canary, as a code host renders them."""
    guards = [guard for asked in catalogue.GUARDS.values() for guard in asked]
    caught = sum(outcome.caught for outcome in outcomes)
    title = f"# {dataset}: {caught} of {len(outcomes)} canaries caught by the guard that is named for them"
    legend = (
        f"{CAUGHT} named, and caught it; {MISSED} named, and missed it; {ALSO} speaks as well, which does not count; "
        f"{QUIET} asked, and quiet. The clean twin is the same thing without the leak."
    )
    rows = ([f"`{o.name}`", *(mark(o, guard) for guard in guards), twin(o)] for o in outcomes)
    table = pages.table(["canary", *guards, "clean twin"], rows, centred=guards)
    sentences = [f"- `{o.name}`: {o.mistake}. Clean: {o.instead}." for o in outcomes]
    return "\n".join([title, "", legend, "", table, "", *sentences, ""])


def mark(outcome: Outcome, guard: str) -> str:
    """What a guard said of a leak."""
    spoke = guard in critical(outcome.leak)
    if guard == outcome.guard:
        return CAUGHT if spoke else MISSED
    asked = any(finding.guard == guard for finding in outcome.leak)
    return ALSO if spoke else QUIET if asked else ""


def twin(outcome: Outcome) -> str:
    """The guards that accuse a twin, or warn of it."""
    warning = [finding.guard for finding in outcome.twin if finding.severity == "warning"]
    said = [f"{guard} accuses it" for guard in critical(outcome.twin)] + [f"{guard} warns" for guard in warning]
    return ", ".join(said) or "quiet"


if __name__ == "__main__":
    workspace.run(main)
