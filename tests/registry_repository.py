"""A repository of DVC with a tiny bundle and its gate, made in a moment, in which tests promote."""

import json
import os
from pathlib import Path

from dvc.repo import Repo

from pipeline import digests
from pipeline.deployment.evidence import render_params
from tests.small_repository import command, commit

STAGES = """\
artifacts:
  model:
    path: trained/bundles/tiny
    type: model
stages:
  bundle:
    cmd: mkdir -p trained/bundles && cp -r sources/bundle trained/bundles/tiny
    deps:
    - sources/bundle
    outs:
    - trained/bundles/tiny
  gate:
    cmd: mkdir -p trained/reports/gate && cp sources/gate.json trained/reports/gate/tiny.json
    deps:
    - sources/gate.json
    - trained/bundles/tiny
    outs:
    - trained/reports/gate/tiny.json:
        cache: false
  evidence:
    cmd: >-
      mkdir -p trained/evidence/tiny && cp --parents trained/ledger.jsonl trained/bundles/tiny/contract.json
      trained/reports/gate/tiny.json trained/evidence/tiny && cp sources/params.json trained/evidence/tiny &&
      cd trained/evidence/tiny && find * -type f -print0 | xargs -0 sha256sum > ../sums && mv ../sums SHA256SUMS
    deps:
    - sources/params.json
    - trained/bundles/tiny
    - trained/ledger.jsonl
    - trained/reports/gate/tiny.json
    outs:
    - trained/evidence/tiny
"""
CONTRACT = {"schema_version": "1.0", "columns": ["return_1"], "models": {"tree": {"window": None, "score_std": 0.1}}}
IGNORED = "/trained/promoted/\n/trained/registry.json\n/trained/measured/\n.*.draft\n"
PROMOTED = Path("trained/promoted/model/prod")
OFF = {"selection": "all", "p50_us": None, "p99_us": None, "bars_per_second": None, "memory_mb": None}  # no limit


def write_sources(root: Path, *, graph: str, contract: dict = CONTRACT, passed: bool = True) -> None:
    folder = root / "sources/bundle"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tree.onnx").write_text(graph)
    (folder / "contract.json").write_text(json.dumps(contract))
    certificate = {"contract_sha256": digests.hash_file(folder / "contract.json")}
    (folder / "certificate.json").write_text(json.dumps(certificate))
    digests.write_sums(folder)
    rules = {"dsr": {"verdict": "passed" if passed else "failed"}, "pass_probability": {"verdict": "off"}}
    (root / "sources/gate.json").write_text(json.dumps({"passed": passed, "rules": rules}))


def write_params(root: Path, **sections: object) -> None:
    """Write params.yaml, and what the evidence has of it."""
    params = {"seed": 1, "promote": OFF} | sections
    (root / "params.yaml").write_text(json.dumps(params))
    (root / "sources/params.json").write_text(render_params(params))


def run_stages(root: Path) -> None:
    before = Path.cwd()
    os.chdir(root)
    try:
        with Repo(str(root)) as repository:
            repository.reproduce()
    finally:
        os.chdir(before)


def train(root: Path, subject: str, **sources) -> None:
    """Write other sources, run the stages and commit the result."""
    write_sources(root, **sources)
    run_stages(root)
    commit(root, subject)


def make_repository(root: Path, **remote: str) -> Path:
    """A repository whose first bundle passes its gate; `remote` are the settings of its remote in .dvc/config."""
    root.mkdir()
    command(root, "git", "init", "--quiet", "--initial-branch", "main")
    with Repo.init(str(root)) as repository, repository.config.edit("repo") as config:
        config["core"] |= {"analytics": False, "check_update": False, "remote": "store"}
        config["remote"]["store"] = remote
    (root / "dvc.yaml").write_text(STAGES)
    (root / "sources").mkdir()
    write_params(root)
    (root / ".gitignore").write_text(IGNORED)
    (root / "trained").mkdir()
    (root / "trained/ledger.jsonl").write_text("")
    for key in ("name", "email"):
        command(root, "git", "config", f"user.{key}", "promoter@example.org")
    train(root, "The first fit", graph="first")
    return root


def read_folder(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}
