"""The evidence of a promotion: what the stage `evidence` collects of a revision, each file at its own path."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import artifacts
from pipeline.deployment import contract
from pipeline.deployment.contract import Contract

EVIDENCE = artifacts.TRAINED / "evidence"  # one folder for each dataset
PARAMS = "params.json"  # the sections of params.yaml on which the results depend
OFF = ("disabled_datasets", "disabled_features", "disabled_models", "disabled_targets")
WITHOUT_RESULTS = (*OFF, "holdout", "latency", "promote", "quantize", "report", "validate_export")  # of params.yaml
OF_DATASET = ("gate", "compare", "compare/details", "bundle", "guard", "canary", "signals", "prop_firm")  # reports
OF_MODEL = ("evaluate", "audit", "parity")


def evidence_path(bundle: str) -> str:
    """Return the path of the evidence of a bundle `trained/bundles/<dataset>`."""
    return str(EVIDENCE / Path(bundle).name)


def list_files(dataset: str, bundle: Contract) -> list[Path]:
    """Return the paths of the files but the params; of an ensemble that the bundle trades, its evaluation alone."""
    folder = contract.BUNDLES / dataset
    reports = [artifacts.report_path(stage, dataset) for stage in OF_DATASET]
    reports += [artifacts.report_path(stage, model) for stage in OF_MODEL for model in bundle.models]
    reports += [artifacts.report_path(stage, bundle.signal) for stage in ("evaluate", "evaluate/details")]
    return [artifacts.LEDGER, folder / contract.CONTRACT, folder / contract.CERTIFICATE, *dict.fromkeys(reports)]


def render_params(params: Mapping[str, Any]) -> str:
    """Return the sections of params.yaml on which results depend, as JSON with sorted keys."""
    sections = {name: value for name, value in params.items() if name not in WITHOUT_RESULTS}
    return json.dumps(sections, indent=2, sort_keys=True, default=str) + "\n"
