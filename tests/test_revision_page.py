"""Two revisions side by side: what is read of each from git and DVC's cache, and what the page says."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline import artifacts
from pipeline.reporting.revision_files import RevisionError, RevisionFiles, WorkspaceFiles, load_side
from pipeline.reporting.tear_sheet.revision_page import flatten, format_difference, render_comparison
from pipeline.stages import report
from tests.report_evidence import make_evidence, make_model, parse

PARAMS = {
    "sources": {"simulated": {"kind": "simulated"}},
    "datasets": {"bars": {"source": "simulated"}},
    "models": {"trees": {"tree": {"plugin": "lightgbm"}}},
    "seed": 1,
}
DETAILS = artifacts.report_path("evaluate/details", "tree")


def git(root: Path, *words: str) -> None:
    names = ("-c", "user.name=tester", "-c", "user.email=tester@example.org")
    subprocess.run(["git", *names, *words], cwd=root, check=True, capture_output=True)


def write(root: Path, path: Path, content: object) -> str:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content)
    (root / path).write_text(text)
    return text


def write_reports(root: Path, *, dsr: float, seed: int) -> str:
    """Write params and reports into a folder; return the text of the one that git does not have."""
    evidence = make_evidence(make_model("tree"), dsr=dsr)
    (root / "params.yaml").write_text(yaml.safe_dump(PARAMS | {"seed": seed}))
    contents = {"split": evidence.split, "guard": evidence.guard, "canary": evidence.canary}
    contents |= {"compare": evidence.headline, "compare/details": evidence.compare}
    for stage, content in contents.items():
        write(root, artifacts.report_path(stage, "bars"), content)
    rule = {"value": dsr, "limit": 0.95, "condition": "dsr ≥ 0.95", "verdict": "passed", "reason": None}
    gate = {"passed": dsr > 0.95, "signal": "tree", "rules": {"dsr": rule}}
    write(root, artifacts.report_path("gate", "bars"), gate)
    write(root, artifacts.report_path("evaluate", "tree"), evidence.models[0].headline)
    return write(root, DETAILS, evidence.models[0].details)


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A repository whose tag `first` has a report in DVC's cache, and tag `second` one that the cache lacks."""
    root = tmp_path_factory.mktemp("repository")
    git(root, "init", "-q")
    (root / ".dvc").mkdir()
    (root / ".dvc/config").touch()
    for tag, dsr, seed in (("first", 0.5, 1), ("second", 0.6, 2), ("present", 0.99, 3)):
        text = write_reports(root, dsr=dsr, seed=seed)
        digest = hashlib.md5(f"{text}{tag if tag == 'second' else ''}".encode(), usedforsecurity=False).hexdigest()
        lock = {"stages": {"evaluate": {"outs": [{"path": str(DETAILS), "md5": digest}]}}}
        (root / "dvc.lock").write_text(yaml.safe_dump(lock))
        if tag == "first":
            file = root / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
            file.parent.mkdir(parents=True)
            file.write_text(text)
        (root / ".gitignore").write_text(f"/{DETAILS}\n")
        git(root, "add", "--all")
        git(root, "commit", "-qm", tag)
        git(root, "tag", tag)
    git(root, "update-ref", "refs/exps/aa/bb/leaves63", "first")
    return root


def test_a_side_is_read_from_git_and_the_cache(repository):
    side = load_side(RevisionFiles.find(repository, "first"), "bars")
    assert side.params["seed"] == 1
    assert side.reports.compare["leaderboard"]["tree"]["dsr"] == 0.5
    (model,) = side.reports.models
    assert (model.name, model.audit) == ("tree", None)
    assert model.details["execution"]["break_even_bps"] == 3.0


def test_an_experiment_is_found_by_its_name(repository):
    commit = RevisionFiles.find(repository, "first").commit
    assert RevisionFiles.find(repository, "leaves63").commit == commit


@pytest.mark.parametrize(
    ("revision", "dataset", "words"),
    [
        (
            "third",
            "bars",
            "there is no revision or experiment 'third'; `git log` and `dvc exp list --all-commits` list",
        ),
        (
            "second",
            "bars",
            f"DVC's cache lacks {DETAILS} of second; run `dvc fetch --all-commits`, or `dvc repro` there",
        ),
        ("first", "ticks", "params.yaml of first has no dataset 'ticks'"),
        ("--all", "bars", "there is no revision or experiment '--all'"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_what_to_do(repository, revision, dataset, words):
    with pytest.raises(RevisionError, match=re.escape(words)):
        load_side(RevisionFiles.find(repository, revision), dataset)


def test_a_report_that_the_workspace_lacks_is_named(tmp_path):
    with pytest.raises(
        RevisionError, match="the workspace has no params.yaml; run `dvc repro` or `dvc checkout` first"
    ):
        load_side(WorkspaceFiles(tmp_path), "bars")


@pytest.fixture(scope="module")
def texts(repository) -> list[str]:
    before = load_side(RevisionFiles.find(repository, "first"), "bars")
    return parse(render_comparison(before, load_side(WorkspaceFiles(repository), "bars"))).texts


def test_the_page_has_both_sides_and_their_differences(texts):
    def find_cells(name: str, count: int) -> list[str]:
        cells = [text for text in texts if text.strip()]
        return cells[cells.index(name) + 1 :][:count]

    assert find_cells("tree", 7)[3:6] == ["0.5", "0.99", "+0.49"]  # DSR after the Sharpe ratios
    assert find_cells("seed", 2) == ["1", "3"]
    assert find_cells("bundle", 2) == ["does not pass, trades tree", "passes, trades tree"]
    claim = find_cells("Returns are more than the luck of many trials", 3)
    assert claim[0] == "changed"
    assert [text.split(":")[0] for text in claim[1:]] == ["not supported", "supported"]


def test_the_page_needs_no_network(repository):
    sides = (
        load_side(files, "bars") for files in (RevisionFiles.find(repository, "first"), WorkspaceFiles(repository))
    )
    assert not re.search(r"https?:|url\(|<script|src=", render_comparison(*sides))


def test_a_revision_of_other_code_is_refused_by_the_key_that_its_report_lacks(repository):
    side = load_side(RevisionFiles.find(repository, "first"), "bars")
    del side.reports.compare["superiority"]
    with pytest.raises(ValueError, match="a report of first has no 'superiority': other code wrote it"):
        render_comparison(side, side)


@pytest.mark.parametrize(
    ("before", "now", "shown"),
    [(1.0, 3.5, "+2.5"), (3.5, 1.0, "−2.5"), (2, 2, "0"), (None, 1.0, "–"), (float("nan"), 1.0, "–"), ("a", 1.0, "–")],
)
def test_a_difference_has_its_sign(before, now, shown):
    assert format_difference(before, now) == shown


def test_params_are_compared_by_their_full_keys():
    assert flatten({"a": {"b": None, "c": {}}, "d": "x"}) == {"a.b": "null", "a.c": "{}", "d": '"x"'}


def run(monkeypatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["report", *words])
    report.run_command()


def test_the_command_writes_the_page_beside_the_measurements(repository, monkeypatch, capsys):
    monkeypatch.chdir(repository)
    run(monkeypatch, "bars", "--compare", "first")
    file = Path(capsys.readouterr().out.strip())
    assert file == Path("trained/measured/report/bars_compare.html")
    assert "bars: first and workspace" in file.read_text()


def test_the_command_refuses_in_one_line(repository, monkeypatch):
    monkeypatch.chdir(repository)
    with pytest.raises(SystemExit) as refusal:
        run(monkeypatch, "bars", "--compare", "third")
    assert str(refusal.value).startswith("report bars: there is no revision or experiment 'third'")
    assert "\n" not in str(refusal.value)
