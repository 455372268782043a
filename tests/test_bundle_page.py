"""The part of a report on the bundle: gate, odds at a prop firm, latency; each or why it is not there."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import artifacts
from pipeline.digests import ArtifactError
from pipeline.reporting.tear_sheet import bundle_page
from pipeline.reporting.tear_sheet.blocks import Figure, Note, Table
from pipeline.reporting.tear_sheet.evidence import BundleEvidence
from pipeline.reporting.tear_sheet.page import render_page
from pipeline.stages import report
from tests.report_evidence import make_evidence, parse

GATE = {
    "passed": False,
    "signal": "tree",
    "rules": {
        "dsr": {"value": 0.5, "limit": 0.95, "condition": "dsr ≥ 0.95", "verdict": "failed", "reason": None},
        "accuracy": {"value": None, "limit": None, "condition": "accuracy ≥ null", "verdict": "off", "reason": "null"},
    },
}
ODDS = {"pass_probability": 0.25, "pass_probability_lowest": 0.125, "pass_probability_highest": 0.5, "ruin": 0.75}
PROP_FIRM = {"signal": "tree", "symbol": "BTC", "risk": 0.02, **ODDS, "reason": None}
BY_RISK = [
    {"model": model, "symbol": "BTC", "risk": risk, **ODDS} for model in ("tree", "net") for risk in (0.01, 0.02)
]
DETAILS = {
    "rules": {"targets": [0.1]},
    "challenges": {"resamples": 40, "confidence": 0.95, "risks": [0.01, 0.02]},
    "by_risk": BY_RISK,
    "by_path": [{"model": "tree", "symbol": "BTC", "risk": 0.02, "pass_1_low": low} for low in (0.4, 0.0625)],
}
LATENCY = {
    "machine": {"cpus": 2, "numpy": "2.0"},
    "selections": {
        "all": {
            "models": ["tree"],
            "verdicts": {"p50_us": {"value": 80.0, "limit": 100.0, "holds": True}},
            "schedules": [{"arrivals": "poisson", "bars_per_second": 250, "warms_caches": True, "p99_us": 300.0}],
        }
    },
}
NOTHING = BundleEvidence(None, None, None, None, no_latency_reason="there is no measurement")


def make_blocks(bundle: BundleEvidence | None) -> list:
    section = bundle_page.make_bundle(replace(make_evidence(), bundle=bundle))
    parse(render_page("bundle", [section]))
    return list(section.blocks)


def test_the_page_of_the_stage_says_which_command_shows_the_bundle():
    (note,) = make_blocks(None)
    assert "`python -m pipeline.stages.report made_up --bundle` writes this page with them" in note.text


def test_what_a_bundle_lacks_is_replaced_by_its_reason():
    gate, prop_firm, latency = make_blocks(NOTHING)
    assert gate.note.startswith("No gate judges this bundle")
    assert prop_firm.text == "Odds at a prop firm: no stage has estimated them for this bundle."
    remedy = "measure it with `dvc exp run -S 'latency.datasets=[made_up]'`"
    assert latency.text == f"Latency: there is no measurement; {remedy}."


def test_the_rules_of_the_gate_stand_with_their_verdicts():
    gate = make_blocks(replace(NOTHING, gate=GATE))[0]
    assert gate.rows == [
        ["dsr", "failed", "0.5", "dsr ≥ 0.95", ""],
        ["accuracy", "off", "–", "off", "null"],
    ]
    assert gate.note == "The bundle that trades tree does not pass."


def test_the_odds_are_those_of_the_signal_by_risk():
    _, table, figure, _ = make_blocks(replace(NOTHING, prop_firm=PROP_FIRM, prop_firm_details=DETAILS))
    assert isinstance(table, Table)
    assert isinstance(figure, Figure)
    assert [row[0] for row in table.rows] == ["0.01", "0.02"]  # not those of the net
    assert table.note.startswith(
        "tree on BTC passes with a probability of 25.0 % at the best risk, 0.02; 12.5 % to 50.0 %"
    )
    assert "Each path has 40 resampled challenges; the 95 % interval of the lowest path begins at 6.2 %." in table.note
    assert "The best risk is the largest risk tried: a larger one may pay more." in table.note
    assert table.head == ["risk", "pass probability", "lowest path", "highest", "ruin"]  # as on the page in markdown
    assert "at 0.01: 25.0 % and 75.0 %" in figure.svg


def test_a_signal_without_odds_has_its_reason():
    undefined = {**PROP_FIRM, "reason": "its rows are no bars"}
    block = make_blocks(replace(NOTHING, prop_firm=undefined, prop_firm_details={"by_risk": []}))[1]
    assert isinstance(block, Note)
    assert block.text == "Odds at a prop firm: tree has none: its rows are no bars."


def test_latency_stands_beside_its_limits_with_units():
    *_, machine, figures, rates = make_blocks(replace(NOTHING, latency=LATENCY))
    assert machine.text.startswith("Latency was measured on this machine: cpus 2, numpy 2.0.")
    assert figures.rows == [["p50, µs", "80", "100", "holds"]]
    assert figures.note == "Models: tree."
    assert rates.head == ["arrivals", "bars per second", "warms caches", "p99, µs"]
    assert rates.rows == [["poisson", "250", "yes", "300"]]


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_latency_of_another_contract_is_not_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(artifacts.TRAINED / "bundles/bars/contract.json", {})
    assert report.read_bundle("bars").no_latency_reason == "there is no trained/measured/latency/bars.json"
    file, digest = artifacts.MEASURED / "latency/bars.json", hashlib.sha256(b"{}").hexdigest()
    write(file, {"contract_sha256": "0123456789"})
    found = report.read_bundle("bars")
    assert found.latency is None
    assert found.no_latency_reason == f"{file} is of the contract 01234567, the bundle has {digest[:8]}"
    write(file, {"contract_sha256": digest})
    gate = GATE | {"contract_sha256": digest}
    artifacts.write_report("gate", "bars", gate)
    found = report.read_bundle("bars")
    assert (found.latency, found.gate, found.prop_firm) == ({"contract_sha256": digest}, gate, None)
    artifacts.write_report("gate", "bars", GATE | {"contract_sha256": "0123456789"})
    with pytest.raises(ArtifactError, match=r"gate/bars.json is of another bundle; run `dvc repro gate@bars`"):
        report.read_bundle("bars")


def test_a_dataset_without_a_bundle_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match=r"there is no trained/bundles/bars/contract.json; "):
        report.read_bundle("bars")
