"""A revision of the repository: what its dvc.lock records, and the bytes of a bundle in DVC's cache."""

import hashlib
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from dvc.utils.serialize import parse_yaml

from pipeline import artifacts, digests
from pipeline.deployment import contract
from pipeline.deployment.evidence import PARAMS, evidence_path, render_params
from pipeline.evaluation import experiments

FOLDER = ".dir"  # ends the md5 of a folder
INTERFACE = ("schema_version", "bars", "features", "columns", "warm_up_bars")  # of a contract: what a service relies on
MODEL_INTERFACE = ("columns", "account_columns", "window", "symbols", "output", "target")  # of each model in it
Bump = Literal["major", "minor", "patch"]
Files = Mapping[str, bytes]  # of a folder, by relative path


class RegistryError(ValueError):
    """A promotion, a rollback or a check that is refused; the message says why and what to do."""


class Locked(NamedTuple):
    """An output that dvc.lock records."""

    stage: str
    md5: str


@dataclass(frozen=True)
class Revision:
    """A commit of the repository in the folder `root`."""

    root: Path
    commit: str

    @cached_property
    def outputs(self) -> dict[str, Locked]:
        """The outputs that its dvc.lock records, by path."""
        stages = yaml.load(self.read("dvc.lock"), Loader=yaml.CSafeLoader)["stages"]
        return {
            out["path"]: Locked(name, out["md5"]) for name, stage in stages.items() for out in stage.get("outs", ())
        }

    @cached_property
    def params(self) -> dict[str, Any]:
        """The sections of its params.yaml, in which DVC and `config` read 1e-3 as a number and PyYAML as text."""
        sections: dict[str, Any] = parse_yaml(self.read("params.yaml").decode(), "params.yaml")
        return sections

    def read(self, path: Path | str) -> bytes:
        """Return the bytes of a file that is in git; RegistryError where the revision lacks it."""
        return run_git(self.root, "show", f"{self.commit}:{path}")

    def has(self, path: str, content: bytes) -> bool:
        """Return whether the revision has these bytes at a path, as dvc.lock records an output or as git has a file."""
        if (locked := self.outputs.get(path)) is not None:
            return hashlib.md5(content, usedforsecurity=False).hexdigest() == locked.md5
        return self.read(path) == content

    def find_output(self, path: Path | str) -> Locked:
        """Return what dvc.lock records of an output; RegistryError where it has none of that path."""
        if (found := self.outputs.get(str(path))) is None:
            raise RegistryError(f"dvc.lock at {self.commit[:7]} has no {path}; run `dvc repro`, then commit")
        return found


def run_git(root: Path, *arguments: str) -> bytes:
    """Return the output of a git command; RegistryError, with git's first line, where it fails."""
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, check=False)
    if done.returncode:
        fault = done.stderr.decode(errors="replace").strip().partition("\n")[0]
        raise RegistryError(f"`git {' '.join(arguments[:2])}` fails in {root}: {fault}")
    return done.stdout


def read_cached(revision: Revision, path: str) -> Files:
    """Return the files of a folder that DVC caches, as a revision has them.

    Raises:
        RegistryError: the cache lacks one, or one is damaged.
    """
    cache = experiments.find_cache(revision.root)
    if cache is None:
        raise RegistryError(f"{revision.root} is no repository of DVC; run it where dvc.yaml is")
    md5 = revision.find_output(path).md5
    if not md5.endswith(FOLDER):
        raise RegistryError(f"{path} at {revision.commit[:7]} is a file; a bundle is a folder")
    remedy = f"run `dvc fetch --all-tags {path}` where there is a remote, else `dvc repro` at that revision"
    where = f"{path} at {revision.commit[:7]}"
    if not _locate(cache, md5).is_file():
        raise RegistryError(f"DVC's cache lacks {where}; {remedy}")
    entries = json.loads(_read_verified(cache, md5, name=where))
    places = {str(entry["relpath"]): str(entry["md5"]) for entry in entries}
    if absent := [name for name, digest in places.items() if not _locate(cache, digest).is_file()]:
        raise RegistryError(
            f"DVC's cache lacks {len(absent)} of {len(places)} files of {where}, such as {absent[0]}; {remedy}"
        )
    return {name: _read_verified(cache, digest, name=f"{where}: {name}") for name, digest in places.items()}


def _locate(cache: Path, md5: str) -> Path:
    return cache / md5[:2] / md5[2:]


def _read_verified(cache: Path, md5: str, *, name: str) -> bytes:
    """Return the bytes of a cached file whose md5 is its name."""
    file = _locate(cache, md5)
    content = file.read_bytes()
    if (found := hashlib.md5(content, usedforsecurity=False).hexdigest()) != md5.removesuffix(FOLDER):
        raise RegistryError(
            f"{name} is damaged in DVC's cache: md5 is {found}, recorded is {md5}; remove {file}, then `dvc fetch` it"
        )
    return content


def collect_evidence(revision: Revision, path: str, files: Files) -> dict[str, str]:
    """Return the digests of all that a promotion rests on: sha256, but of the bundle, whose md5 is DVC's.

    `files` are those of the bundle at `path`. The commit fixes all else that git has.

    Raises:
        RegistryError: `SHA256SUMS` or the certificate of the bundle is not of these files, or the output of the stage
            `evidence` is not of this revision, or the revision lacks one.
    """
    check_bundle(files, name=f"{path} at {revision.commit[:7]}")
    check_evidence(revision, path, files)
    sources = {
        name: revision.read(name) for name in ("dvc.lock", "params.yaml", str(artifacts.LEDGER), gate_path(path))
    }
    return {
        "bundle": revision.find_output(path).md5,
        "evidence": revision.find_output(evidence_path(path)).md5,
        "contract": hash_bytes(files[contract.CONTRACT]),
        "certificate": hash_bytes(files[contract.CERTIFICATE]),
        **{name: hash_bytes(content) for name, content in sources.items()},
    }


def check_bundle(files: Files, *, name: str) -> None:
    """Raise RegistryError where `SHA256SUMS` or the certificate is not of the files of a bundle."""
    needed = (digests.SUMS, contract.CONTRACT, contract.CERTIFICATE)
    if absent := [each for each in needed if each not in files]:
        raise RegistryError(f"{name} is no bundle: it has no {', '.join(absent)}; run `dvc repro bundle`")
    check_sums(files, name=name, stage="bundle")
    certificate = json.loads(files[contract.CERTIFICATE])
    if certificate["contract_sha256"] != hash_bytes(files[contract.CONTRACT]):
        raise RegistryError(f"{name}: {contract.CERTIFICATE} is of another contract; run `dvc repro --force bundle`")


def check_evidence(revision: Revision, bundle: str, files: Files) -> None:
    """Raise RegistryError where the evidence of a bundle with these files is not of the files of its revision."""
    path = evidence_path(bundle)
    evidence, name = read_cached(revision, path), f"{path} at {revision.commit[:7]}"
    needed = (PARAMS, str(artifacts.LEDGER), gate_path(bundle), f"{bundle}/{contract.CONTRACT}")
    if absent := [each for each in (digests.SUMS, *needed) if each not in evidence]:
        raise RegistryError(f"{name} lacks {', '.join(absent)}; run `dvc repro --force evidence`")
    check_sums(evidence, name=name, stage="evidence")
    own = {f"{bundle}/{each}": content for each, content in files.items()}
    own[PARAMS] = render_params(revision.params).encode()
    listed = {each: content for each, content in evidence.items() if each != digests.SUMS}
    different = [
        each
        for each, content in listed.items()
        if not (own[each] == content if each in own else revision.has(each, content))
    ]
    if different:
        raise RegistryError(
            f"{name} has another {', '.join(different)} than the revision; run `dvc repro`, then commit"
        )


def check_sums(files: Files, *, name: str, stage: str) -> None:
    """Raise RegistryError where `SHA256SUMS` is not of the files of a folder that a stage writes."""
    lines = {f"{hash_bytes(content)}  {each}" for each, content in files.items() if each != digests.SUMS}
    if lines != set(files[digests.SUMS].decode().splitlines()):
        raise RegistryError(f"{name}: {digests.SUMS} is not that of its files; run `dvc repro --force {stage}`")


def gate_path(bundle: str) -> str:
    """Return the path of the gate's report on a bundle `trained/bundles/<dataset>`."""
    return str(artifacts.report_path("gate", Path(bundle).name))


def check_gate(revision: Revision, bundle: str) -> None:
    """Raise RegistryError where the gate did not pass at a revision, or its report is not the one of dvc.lock."""
    path = gate_path(bundle)
    locked, content = revision.find_output(path), revision.read(path)
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != locked.md5:
        raise RegistryError(f"{path} is not the report that dvc.lock records; run `dvc repro {locked.stage}`, commit")
    report = json.loads(content)
    if report["passed"] is not True:
        failed = [name for name, rule in report["rules"].items() if rule["verdict"] not in ("passed", "off")]
        raise RegistryError(f"the gate did not pass at {revision.commit[:7]}: {', '.join(failed)}; {path} has values")


def choose_bump(earlier: Revision, later: Revision, contracts: tuple[bytes, bytes]) -> Bump:
    """Return which number of the version a later revision raises.

    major: what a service relies on in the contract changed; minor: params.yaml did; patch: a new fit of the same.
    """
    before, after = (_select_interface(json.loads(content)) for content in contracts)
    if before != after:
        return "major"
    return "minor" if earlier.params != later.params else "patch"


def _select_interface(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a contract that no new fit changes and that a service relies on."""
    models = {name: {key: model.get(key) for key in MODEL_INTERFACE} for name, model in content["models"].items()}
    return {key: content.get(key) for key in INTERFACE} | {"models": models}


def hash_bytes(content: bytes) -> str:
    """Return the sha256 of bytes."""
    return hashlib.sha256(content).hexdigest()
