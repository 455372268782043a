"""evidence <dataset>: collect in one folder, which DVC caches, all that a promotion of the dataset's bundle rests on.

These are the params, the ledger, the contract and the certificate of the bundle, and the reports of the gate and of
what it judges.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path

from pipeline import artifacts, cli, config, digests, remedies
from pipeline.deployment import contract
from pipeline.deployment.evidence import EVIDENCE, PARAMS, list_files, render_params
from pipeline.digests import ArtifactError
from pipeline.evaluation.ledger_lines import verify_lines


def main(dataset: str) -> None:
    """Write the evidence of a dataset's bundle, each file at its path in the repository, and `SHA256SUMS`."""
    params = config.load_params()
    files = list_files(dataset, contract.read_contract(contract.BUNDLES / dataset))
    verify(files)
    with artifacts.replace_atomically(EVIDENCE / dataset) as draft:
        for file in files:
            (draft / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, draft / file)
        (draft / PARAMS).write_text(render_params(params), encoding="utf-8")
        digests.write_sums(draft)


def verify(files: Iterable[Path]) -> None:
    """Raise ArtifactError where a file of the evidence is missing or damaged; a bundle is verified as it is read."""
    for file in files:
        if not file.exists():
            raise ArtifactError(f"{file} does not exist; {remedies.describe_writing(file)}")
        if file == artifacts.LEDGER:
            verify_lines(file)
        elif contract.BUNDLES not in file.parents:
            digests.verify(file)


if __name__ == "__main__":
    cli.run(main)
