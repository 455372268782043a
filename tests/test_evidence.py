"""The evidence of a promotion has the very files of the revision, each at its path."""

import json
from pathlib import Path

import yaml

from pipeline import artifacts, digests
from pipeline.deployment.evidence import PARAMS, WITHOUT_RESULTS, render_params
from pipeline.deployment.revision import Revision
from tests.test_architecture import ROOT

NAMES = (
    "trained/ledger.jsonl",
    "trained/bundles/klines/contract.json",
    "trained/bundles/klines/certificate.json",
    "trained/reports/gate/klines.json",
    "trained/reports/compare/klines.json",
    "trained/reports/compare/details/klines.json",
    "trained/reports/guard/klines.json",
    "trained/reports/evaluate/voting.json",
    "trained/reports/evaluate/details/voting.json",
    "trained/reports/parity/lstm.json",
    "trained/reports/audit/marl.json",
)


def test_the_evidence_has_params_ledger_contract_certificate_and_reports_as_they_are(ran: Path):
    folder = ran / artifacts.TRAINED / "evidence/klines"
    names = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    assert set(NAMES) <= names
    others = names - {digests.SUMS, PARAMS}
    assert all((folder / name).read_bytes() == (ran / name).read_bytes() for name in others)
    assert json.loads((folder / PARAMS).read_text())["trading"]["no_trade_band"] == 0.02
    digests.verify(folder)


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
