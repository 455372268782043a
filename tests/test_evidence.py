"""The evidence of a promotion has the very files of the revision, each at its path."""

import json
from pathlib import Path

import yaml

from pipeline import artifacts, digests
from pipeline.deployment.evidence import OF_DATASET, PARAMS, WITHOUT_RESULTS, render_params
from pipeline.deployment.revision import Revision, check_evidence
from tests.test_architecture import ROOT


def test_the_evidence_has_params_ledger_contract_certificate_and_reports_as_they_are(ran: Path):
    folder = ran / artifacts.TRAINED / "evidence/klines"
    names = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    assert {"trained/ledger.jsonl", "trained/bundles/klines/contract.json"} <= names
    others = names - {digests.SUMS, PARAMS}
    assert all((folder / name).read_bytes() == (ran / name).read_bytes() for name in others)
    bundle = {file.name: file.read_bytes() for file in (ran / "trained/bundles/klines").iterdir()}
    check_evidence(Revision(ran, "HEAD"), "trained/bundles/klines", bundle)
    assert json.loads((folder / PARAMS).read_text())["trading"]["no_trade_band"] == 0.02
    digests.verify(folder)


def test_the_evidence_has_every_report_that_the_gate_reads():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    read, collected = (
        {dep.removesuffix("/details") for dep in stages[name]["do"]["deps"] if dep.startswith("trained/reports/")}
        for name in ("gate", "evidence")
    )
    assert read <= collected
    of_dataset = {f"trained/reports/{stage}/${{item}}.json" for stage in OF_DATASET}
    assert {dep for dep in read if dep.endswith(".json")} <= of_dataset


def test_the_evidence_depends_on_every_section_of_the_params_that_can_change_a_result():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    sections = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert set(stages["evidence"]["do"]["params"]) == set(sections) - set(WITHOUT_RESULTS)
    assert set(WITHOUT_RESULTS) < set(sections)


def test_numbers_of_params_are_read_as_dvc_reads_them(monkeypatch):
    texts = {"params.yaml": b"tolerance: 1e-3\nopen: 13:00\npromote: {}\n"}
    monkeypatch.setattr(Revision, "read", lambda self, path: texts[path])
    found = Revision(Path(), "a").params
    assert (found["tolerance"], found["open"]) == (0.001, "13:00")
    assert render_params(found) == '{\n  "open": "13:00",\n  "tolerance": 0.001\n}\n'
