"""The evidence of a promotion has the very files of the revision, each at its path."""

from pathlib import Path

from pipeline import artifacts, digests

NAMES = (
    "params.yaml",
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
    assert all((folder / name).read_bytes() == (ran / name).read_bytes() for name in names - {digests.SUMS})
    digests.verify(folder)
