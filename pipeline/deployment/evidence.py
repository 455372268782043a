"""The evidence of a promotion: which files of a revision the stage `evidence` collects, each at its own path."""

from pathlib import Path

from pipeline import artifacts
from pipeline.deployment import contract
from pipeline.deployment.contract import Contract

EVIDENCE = artifacts.TRAINED / "evidence"  # one folder for each dataset
PARAMS = "params.yaml"
OF_DATASET = ("gate", "compare", "compare/details", "bundle", "guard", "canary", "signals")  # reports
OF_MODEL = ("evaluate", "audit", "parity")


def evidence_path(bundle: str) -> str:
    """Return the path of the evidence of a bundle `trained/bundles/<dataset>`."""
    return str(EVIDENCE / Path(bundle).name)


def list_files(dataset: str, bundle: Contract) -> list[Path]:
    """Return the paths of the files; of an ensemble that the bundle trades, its evaluation alone."""
    folder = contract.BUNDLES / dataset
    reports = [artifacts.report_path(stage, dataset) for stage in OF_DATASET]
    reports += [artifacts.report_path(stage, model) for stage in OF_MODEL for model in bundle.models]
    reports += [artifacts.report_path(stage, bundle.signal) for stage in ("evaluate", "evaluate/details")]
    others = [Path(PARAMS), artifacts.LEDGER, folder / contract.CONTRACT, folder / contract.CERTIFICATE]
    return [*others, *dict.fromkeys(reports)]
