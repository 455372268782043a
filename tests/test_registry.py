"""Promotions in a repository of a test's own: a tiny bundle of DVC, tags by GTO, an identity of its own."""

import hashlib
import json
import platform
import shutil
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo
from dvc.repo.artifacts import Artifacts

from pipeline import artifacts, config
from pipeline.deployment import history, latency_rule, registry, revision
from pipeline.deployment.latency_rule import LatencyRule
from pipeline.deployment.registry import RegistryError, promote, restore, rollback, verify
from tests.registry_repository import (
    CONTRACT,
    OFF,
    PROMOTED,
    make_repository,
    read_folder,
    train,
    write_params,
    write_sources,
)
from tests.small_repository import ROOT, command, commit

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # of pygtrie, which DVC uses


@pytest.fixture(scope="module")
def origin(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("registry")
    return make_repository(folder / "repo", url=str(folder / "store"))  # beside each copy and clone, too


@pytest.fixture
def repo(origin, tmp_path) -> Path:
    return shutil.copytree(origin, tmp_path / "repo", symlinks=True)


@pytest.fixture(scope="module")
def two_versions(origin, tmp_path_factory) -> Path:
    """A repository with v1.0.0 and v1.0.1 in production."""
    root = shutil.copytree(origin, tmp_path_factory.mktemp("two") / "repo", symlinks=True)
    promote(root)
    train(root, "The second fit", graph="second")
    promote(root)
    return root


@pytest.fixture
def promoted(two_versions, tmp_path) -> Path:
    return shutil.copytree(two_versions, tmp_path / "repo", symlinks=True)


def test_a_rollback_restores_the_earlier_bundle_byte_for_byte_and_adds_to_the_history(promoted):
    assert verify(promoted) == []
    assert (promoted / PROMOTED / "tree.onnx").read_text() == "second"
    before = history.read_history(promoted, "model").events
    assert "v1.0.0 is in prod again" in rollback(promoted)
    command(promoted, "git", "checkout", "--quiet", "HEAD~1")
    assert read_folder(promoted / PROMOTED) == read_folder(promoted / "sources/bundle")
    assert verify(promoted) == []
    after = history.read_history(promoted, "model").events
    assert after[:-1] == before
    tags = command(promoted, "git", "tag").split()
    assert tags == ["model#prod#1", "model#prod#2", "model#prod#3", "model@v1.0.0", "model@v1.0.1"]
    with pytest.raises(RegistryError, match="no earlier version in prod: v1.0.0 has none before it"):
        rollback(promoted)
    rollback(promoted, to="v1.0.1")
    assert history.read_history(promoted, "model").stages == {"prod": "v1.0.1"}
    assert [line.split()[1:4] for line in registry.list_events(promoted)] == [
        ["v1.0.0", "register", line_commit(promoted, "v1.0.0")],
        ["v1.0.0", "promote", "prod"],
        ["v1.0.1", "register", line_commit(promoted, "v1.0.1")],
        ["v1.0.1", "promote", "prod"],
        ["v1.0.0", "rollback", "prod"],
        ["v1.0.1", "rollback", "prod"],
    ]


def line_commit(root: Path, version: str) -> str:
    return command(root, "git", "rev-parse", f"model@{version}^{{commit}}")[:7]


def test_gto_and_dvc_read_the_registry_from_another_clone(promoted, tmp_path):
    clone = tmp_path / "clone"
    with Repo(str(promoted)) as repository:
        repository.push(all_tags=True)
    rollback(promoted)
    Artifacts.get(str(promoted), "model", stage="prod", out=str(tmp_path / "got"))
    assert read_folder(tmp_path / "got") == read_folder(promoted / PROMOTED)
    command(tmp_path, "git", "clone", "--quiet", str(promoted), str(clone))
    with pytest.raises(RegistryError, match=r"lacks trained/bundles/tiny .*dvc fetch --all-tags trained/bundles/tiny"):
        restore(clone)
    with Repo(str(clone)) as repository:
        repository.fetch(all_tags=True)
    assert any("registry restore" in fault for fault in verify(clone))
    restore(clone)
    assert verify(clone) == []
    for path in ("trained/promoted/model/prod/tree.onnx", "trained/registry.json"):
        assert (clone / path).read_bytes() == (promoted / path).read_bytes()


def make_dirty(root: Path) -> None:
    (root / "params.yaml").write_text("seed: 2\n")


def fail_gate(root: Path) -> None:
    train(root, "A worse fit", graph="worse", passed=False)


def leave_gate_behind(root: Path) -> None:
    write_sources(root, graph="another")
    commit(root, "Sources whose stages have not run")


def forge_report(root: Path) -> None:
    (root / "trained/reports/gate/tiny.json").write_text('{"passed": true, "rules": {}}')
    commit(root, "A forged report")


def leave_evidence_behind(root: Path) -> None:
    (root / "params.yaml").write_text(json.dumps({"seed": 2, "promote": OFF}))
    commit(root, "Params that the evidence has not")


def damage_evidence(root: Path) -> None:
    damage_cached(root, root / "trained/evidence/tiny/params.json")


def empty_cache(root: Path) -> None:
    shutil.rmtree(root / ".dvc/cache/files")


def damage_cache(root: Path) -> None:
    damage_cached(root, root / "sources/bundle/tree.onnx")


def damage_cached(root: Path, source: Path) -> None:
    digest = hashlib.md5(source.read_bytes()).hexdigest()
    file = root / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
    file.chmod(0o644)
    file.write_text("damaged")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (make_dirty, "the work tree is dirty: params.yaml; commit or stash first"),
        (fail_gate, r"the gate did not pass at \w{7}: dsr;"),
        (leave_gate_behind, "the gate did not pass on this very revision: bundle"),
        (forge_report, "is not the report that dvc.lock records; run `dvc repro gate`"),
        (empty_cache, "DVC's cache lacks trained/bundles/tiny at"),
        (damage_cache, "tree.onnx is damaged in DVC's cache"),
        (
            leave_evidence_behind,
            r"trained/evidence/tiny at \w{7} has another params.json than the revision; run",
        ),
    ],
)
def test_a_promotion_is_refused_and_leaves_no_tag(repo, change, message):
    change(repo)
    with pytest.raises(RegistryError, match=message) as error:
        promote(repo)
    assert "\n" not in str(error.value)
    assert command(repo, "git", "tag") == ""
    assert not (repo / PROMOTED).exists()


def test_two_promotions_at_once_are_refused_and_so_is_the_same_one_again(promoted):
    with registry.hold_lock(promoted), pytest.raises(RegistryError, match="another promotion or rollback is running"):
        promote(promoted)
    with pytest.raises(RegistryError, match=r"model v1\.0\.1 is in prod already"):
        promote(promoted)
    promote(promoted, stage="staging")
    assert history.read_history(promoted, "model").stages == {"prod": "v1.0.1", "staging": "v1.0.1"}
    with pytest.raises(RegistryError, match="there is no model other; dvc.yaml has model"):
        rollback(promoted, "other")


def test_a_rollback_without_its_bundle_in_the_cache_is_refused_and_changes_nothing(promoted):
    empty_cache(promoted)
    tags, files = command(promoted, "git", "tag"), read_folder(promoted / PROMOTED)
    with pytest.raises(RegistryError, match="DVC's cache lacks trained/bundles/tiny at"):
        rollback(promoted)
    assert (command(promoted, "git", "tag"), read_folder(promoted / PROMOTED)) == (tags, files)


def edit_bundle(root: Path) -> None:
    (root / PROMOTED / "tree.onnx").write_text("edited")


def add_file(root: Path) -> None:
    (root / PROMOTED / "more.onnx").write_text("")


def add_folder(root: Path) -> None:
    (root / PROMOTED.parent / "staging").mkdir()


def edit_registry(root: Path) -> None:
    file = root / "trained/registry.json"
    file.write_text(file.read_text().replace("v1.0.1", "v1.0.0"))


def delete_last_tag(root: Path) -> None:
    command(root, "git", "tag", "--delete", "model#prod#2")


def delete_tag_between(root: Path) -> None:
    command(root, "git", "tag", "--delete", "model#prod#1")


def move_tag(root: Path) -> None:
    message = command(root, "git", "for-each-ref", "--format=%(contents)", "refs/tags/model@v1.0.1")
    command(root, "git", "tag", "--force", "--annotate", "--message", message, "model@v1.0.1", "HEAD~1")


def tag_by_hand(root: Path) -> None:
    command(root, "git", "tag", "--annotate", "--message", "by hand", "model#prod#3", "HEAD~1")


def tag_without_annotation(root: Path) -> None:
    command(root, "git", "tag", "model@v3.0.0")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit_bundle, "trained/promoted/model/prod: tree.onnx are not those of v1.0.1"),
        (add_file, "trained/promoted/model/prod: more.onnx are not those of v1.0.1"),
        (add_folder, "trained/promoted/model/staging is of no stage"),
        (edit_registry, "trained/registry.json is not that of the tags"),
        (delete_last_tag, "has events whose tags are gone or were made again: model#prod#2"),
        (delete_tag_between, "tags are missing, or were made again, before model#prod#2, model@v1.0.1"),
        (move_tag, "tags are missing, or were made again, before model#prod#2"),
        (tag_by_hand, "model#prod#3: its message is not of this registry"),
        (tag_without_annotation, "model@v3.0.0 is not annotated"),
        (damage_cache, "tree.onnx is damaged in DVC's cache"),
        (damage_evidence, "params.json is damaged in DVC's cache"),
    ],
)
def test_verification_finds_tampering(promoted, change, message):
    assert verify(promoted) == []
    change(promoted)
    assert any(message in fault for fault in verify(promoted)), verify(promoted)


@pytest.mark.parametrize("change", [delete_last_tag, delete_tag_between, move_tag, tag_by_hand])
def test_nothing_is_promoted_on_top_of_a_history_that_was_tampered_with(promoted, change):
    change(promoted)
    with pytest.raises(RegistryError, match="git fetch --tags --force"):
        rollback(promoted)


@pytest.mark.parametrize(
    ("contract", "params", "expected"),
    [
        (CONTRACT, "seed: 1\n", "v1.0.1"),
        (CONTRACT | {"models": {"tree": {"window": None, "score_std": 0.2}}}, "# a comment\nseed: 1\n", "v1.0.1"),
        (CONTRACT, "seed: 2\n", "v1.1.0"),
        (CONTRACT | {"columns": ["return_2"]}, "seed: 2\n", "v2.0.0"),
        (CONTRACT | {"models": {"tree": {"window": 9, "score_std": 0.1}}}, "seed: 1\n", "v2.0.0"),
    ],
)
def test_a_new_fit_is_a_patch_other_params_a_minor_and_another_contract_a_major_version(
    monkeypatch, contract, params, expected
):
    texts = {"a": "seed: 1\n", "b": params}
    monkeypatch.setattr(revision.Revision, "read", lambda self, path: texts[self.commit].encode())
    old = {"contract.json": json.dumps(CONTRACT).encode()}
    monkeypatch.setattr(revision, "read_cached", lambda found, path: old)
    event = history.Event("model@v1.0.0", "1", "a", 0, "x", "register", "v1.0.0", None, None, {}, "trained/bundles/t")
    past = history.History("model", (event,))
    head = revision.Revision(Path(), "b")
    assert registry.choose_version(past, head, json.dumps(contract).encode()) == expected


def make_events(*steps: tuple[str, str]) -> history.History:
    events = [
        history.Event(f"m#prod#{n}", str(n), "c", n, "x", action, version, "prod", None, None, None)
        for n, (action, version) in enumerate(steps)
    ]
    return history.History("m", tuple(events))


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([("promote", "a"), ("promote", "b"), ("rollback", "a")], ["a"]),
        ([("promote", "a"), ("promote", "b"), ("rollback", "a"), ("promote", "c")], ["a", "c"]),
        ([("promote", "a"), ("promote", "b"), ("promote", "c"), ("rollback", "a")], ["a"]),
        ([("promote", "a"), ("promote", "b"), ("promote", "a"), ("rollback", "b")], ["a", "b"]),
        ([("promote", "a"), ("promote", "b"), ("rollback", "a"), ("rollback", "b")], ["a", "b"]),
    ],
)
def test_a_rollback_undoes_promotions_and_never_an_earlier_rollback(steps, expected):
    assert make_events(*steps).list_stage("prod") == expected


def test_the_command_prints_one_line_and_exits_with_status_one_where_it_is_refused(repo, monkeypatch, capsys):
    monkeypatch.chdir(repo)
    monkeypatch.setattr("sys.argv", ["registry", "list"])
    registry.main()
    assert capsys.readouterr().out == "nothing is registered\n"
    monkeypatch.setattr("sys.argv", ["registry", "rollback"])
    with pytest.raises(SystemExit, match=r"^registry rollback: model has no earlier version in prod: nothing was"):
        registry.main()


def test_without_a_registration_nothing_is_verified_whatever_other_tags_there_are(repo):
    command(repo, "git", "tag", "before_lunch")
    assert registry.run(repo, {"command": "verify"}) == ["nothing is registered"]


LIMITS = {"selection": "trees", "p50_us": 80.0, "p99_us": None, "bars_per_second": 1000, "memory_mb": 500.0}
FIGURES = {"p50_us": 79.0, "p99_us": 9999.0, "bars_per_second": 1000.0, "memory_mb": 499.0}


def measure(root: Path, *, contract: bytes | None = None, selection: str = "trees", **figures: float) -> None:
    """Write what the stage `latency` writes, with other figures, or of another contract."""
    content = (root / "sources/bundle/contract.json").read_bytes() if contract is None else contract
    report = {
        "contract_sha256": hashlib.sha256(content).hexdigest(),
        "host": latency_rule.describe_host(),
        "selections": {selection: {"models": ["tree"], "figures": FIGURES | figures}},
    }
    artifacts.write_json(root / latency_rule.REPORTS / "tiny.json", report)


@pytest.fixture(scope="module")
def limited_origin(origin, tmp_path_factory) -> Path:
    root = shutil.copytree(origin, tmp_path_factory.mktemp("limited") / "repo", symlinks=True)
    write_params(root, promote=LIMITS)
    train(root, "Limits of the latency", graph="first")
    return root


@pytest.fixture
def limited(limited_origin, tmp_path) -> Path:
    """A repository whose params limit the latency."""
    return shutil.copytree(limited_origin, tmp_path / "repo", symlinks=True)


def test_a_promotion_within_the_limits_of_the_latency_names_and_records_what_was_measured(limited):
    measure(limited)
    measured = "p50_us 79.0 µs, bars_per_second 1,000.0 bars a second, memory_mb 499.0 MB"
    assert promote(limited).endswith(f"on {platform.node()}: {measured}")
    event = history.read_history(limited, "model").events[-1]
    assert event.latency["figures"] == {"p50_us": 79.0, "bars_per_second": 1000.0, "memory_mb": 499.0}
    assert event.latency["models"] == ["tree"]
    assert verify(limited) == []


def test_a_promotion_without_limits_says_that_latency_is_not_judged(repo):
    measure(repo, p50_us=1e9)
    assert promote(repo).endswith("; latency is not judged: promote in params.yaml sets no limit")
    assert history.read_history(repo, "model").events[-1].latency is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {},
            "tiny.json does not exist, and params.yaml sets promote.p50_us, promote.bars_per_second, "
            "promote.memory_mb; run `python -m",
        ),
        ({"p50_us": 80.1}, "'trees' is beyond its limits: p50_us is 80.1 µs, above 80.0;"),
        ({"p50_us": 99, "bars_per_second": 999}, "above 80.0; bars_per_second is 999.0 bars a second, below 1,000.0;"),
        (
            {"contract": b"another"},
            "tiny.json is not of this contract_sha256: it has .* run `python -m pipeline.stages",
        ),
    ],
)
def test_a_bundle_that_is_not_measured_or_too_slow_is_not_promoted(limited, change, message):
    if change:
        measure(limited, **change)
    with pytest.raises(ValueError, match=message):
        promote(limited)
    assert command(limited, "git", "tag") == ""


def test_a_latency_of_another_machine_or_selection_does_not_count(limited, monkeypatch):
    measure(limited, selection="nets")
    with pytest.raises(ValueError, match="promote.selection is 'trees'; .* has nets; choose one"):
        promote(limited)
    monkeypatch.setattr(platform, "node", lambda: "elsewhere")
    with pytest.raises(ValueError, match="is not of this host: .* expected is {'name': 'elsewhere'"):
        promote(limited)


def test_the_section_promote_has_limits_above_zero_or_none():
    section = yaml.safe_load((ROOT / "params.yaml").read_text())["promote"]
    assert config.call_with(LatencyRule, block=section, name="promote").limits == {}
    assert config.call_with(LatencyRule, block=section | {"p99_us": 300}, name="promote").limits == {"p99_us": 300}
    for value, words in {"80": "is '80'; it must be a number", 0: "is 0; it must be above 0"}.items():
        with pytest.raises(config.ParamsError, match=f"params.yaml: promote.p50_us {words}"):
            config.call_with(LatencyRule, block=section | {"p50_us": value}, name="promote")
    with pytest.raises(config.ParamsError, match="promote: unknown key 'p5_us'"):
        config.call_with(LatencyRule, block=section | {"p5_us": 1}, name="promote")
