"""gate <dataset>: judge the bundle of a dataset by the rules of `gate`; `promote` refuses one that does not pass."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline import artifacts, cli, config, digests
from pipeline.deployment import contract
from pipeline.evaluation.gate import Evidence, GateRules, RuleResult, is_passed, judge
from pipeline.evaluation.ledger import Ledger, read_lines
from pipeline.evaluation.trials import parse_lines
from pipeline.reporting import markdown
from pipeline.reporting.markdown import DASH
from pipeline.reporting.source_note import note_source

HEAD = ("rule", "value", "verdict", "reason")


def main(dataset: str) -> None:
    """Write which rules the signal of a dataset's bundle passes; a rule that fails stops nothing here."""
    params = config.load_params()
    rules = config.call_with(GateRules, block=config.look_up(params, "gate"), name="gate")
    evidence = load_evidence(dataset)
    results = judge(evidence, rules)
    report = {
        "passed": is_passed(results),
        "signal": evidence.signal,
        "contract_sha256": evidence.contract_sha256,
        "rules": {name: asdict(result) for name, result in results.items()},
    }
    artifacts.write_report("gate", dataset, report)
    page = render_page(dataset, evidence.signal, results, notes=note_source(params, dataset))
    artifacts.write_text(artifacts.report_path("gate", dataset).with_suffix(".md"), page)


def load_evidence(dataset: str) -> Evidence:
    """Return the reports that the rules read; ArtifactError where one is missing or damaged."""
    bundle = contract.BUNDLES / dataset
    described = contract.read_contract(bundle)
    audits = {f"audit of {name}": artifacts.read_report("audit", name) for name in described.models}
    return Evidence(
        signal=described.signal,
        compare=artifacts.read_report("compare", dataset),
        compare_details=artifacts.read_report("compare/details", dataset),
        evaluate=artifacts.read_report("evaluate/details", described.signal),
        findings={"guard": artifacts.read_report("guard", dataset), **audits},
        canary=artifacts.read_report("canary", dataset),
        parity={name: find_parity(name) for name in described.models},
        bundle=artifacts.read_report("bundle", dataset),
        contract_sha256=contract.hash_contract(bundle),
        signals=artifacts.read_report("signals", dataset),
        prop_firm=artifacts.read_report("prop_firm", dataset),
        holdout_looks=count_looks(described.signal),
    )


def find_parity(model: str) -> Mapping[str, Any] | None:
    """Return the report on the parity of a model's graph; None where there is none."""
    exists = artifacts.report_path("parity", model).exists()
    found: Mapping[str, Any] | None = artifacts.read_report("parity", model) if exists else None
    return found


def count_looks(signal: str) -> int:
    """Return the number of looks of the ledger at the holdout of a market that the signal's trial saw."""
    file: Path = digests.verify(artifacts.TRIALS / f"{signal}.jsonl")
    own = Ledger.from_lines(parse_lines(file.read_text("utf-8"), source=str(file))).trials
    looks = Ledger.from_lines(read_lines(artifacts.LEDGER)).looks
    return sum(any(look.market.overlaps(trial.market) for trial in own) for look in looks)


def render_page(dataset: str, signal: str, results: Mapping[str, RuleResult], *, notes: Sequence[str]) -> str:
    """Return the page of a gate: its verdict, then `notes`, paragraphs on the market, then each rule."""
    verdict = "passes" if is_passed(results) else "does not pass"
    rows = [
        (result.condition, markdown.format_number(result.value), result.verdict, result.reason or DASH)
        for result in results.values()
    ]
    parts = [f"# Gate of {dataset}", f"The bundle that trades `{signal}` {verdict}.", *notes]
    return "\n\n".join([*parts, markdown.render_table(HEAD, rows)]) + "\n"


if __name__ == "__main__":
    cli.run(main)
