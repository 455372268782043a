"""The README's section "Adding to it" holds: each addition is the files and lines that it names, and works."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests import extensions
from tests.params import PARAMS
from tests.small_repository import command, commit, copy

STAGES_OF_A_FAMILY = ("train", "audit", "export", "evaluate")


def insert_after(file: Path, line: str, text: str) -> None:
    """Insert `text` after the only line that begins with `line`."""
    lines = file.read_text().splitlines(keepends=True)
    (place,) = [number for number, each in enumerate(lines) if each.startswith(line)]
    file.write_text("".join([*lines[: place + 1], text, *lines[place + 1 :]]))


def append_to_registry(file: Path, registry: str, line: str) -> None:
    """Insert `line` before the bracket that closes the only dictionary whose first line begins with `registry`."""
    before, start, after = file.read_text().partition(f"\n{registry}")
    assert start
    file.write_text(before + start + after.replace("\n}\n", f"\n{line}}}\n", 1))


def add_target_kind(repo: Path) -> None:
    module = repo / "pipeline/labels.py"
    text = module.read_text()
    module.write_text(text.replace(extensions.TARGET_PLACE, extensions.TARGET_KIND + extensions.TARGET_PLACE))
    append_to_registry(module, extensions.TARGET_PLACE, extensions.TARGET_LINE)
    params = repo / "params.yaml"
    before, start, after = params.read_text().partition("    targets:\n      ")  # not the list of the prop firm
    assert start
    params.write_text(before + start.rstrip(" ") + extensions.TARGET_BLOCK + "      " + after)


def add_net(repo: Path) -> None:
    (repo / "pipeline/models/nets/tcn.py").write_text(extensions.NET)
    params = repo / "params.yaml"
    before, section, models = params.read_text().partition("\nmodels:\n")
    params.write_text(before + section + models.replace("\n  nets:\n", f"\n  nets:\n{extensions.NET_BLOCK}", 1))


def add_family(repo: Path) -> None:
    folder = repo / "pipeline/models/linear"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "ridge.py").write_text(extensions.MODEL)
    insert_after(repo / "params.yaml", "models:", extensions.MODEL_BLOCK)
    command(repo, sys.executable, ".ci/update_deps")


def add_source(repo: Path) -> None:
    (repo / "pipeline/market/walk.py").write_text(extensions.SOURCE)
    insert_after(repo / "params.yaml", "sources:", extensions.SOURCE_BLOCK)
    insert_after(repo / "params.yaml", "costs:", extensions.COSTS_BLOCK)
    command(repo, sys.executable, ".ci/update_deps")


ADDITIONS: dict[str, Callable[[Path], None]] = {
    "target kind": add_target_kind,
    "net": add_net,
    "family": add_family,
    "source": add_source,
}


def restore_nets(repo: Path) -> None:
    """Give the nets of a copy their budget of training again: two epochs are too few to learn anything."""
    file = repo / "params.yaml"
    params = yaml.safe_load(file.read_text()) | {"nets": PARAMS["nets"]}
    file.write_text(yaml.safe_dump(params, sort_keys=False))
    commit(repo, "The nets train as long as ever")


def list_touched_files(repo: Path) -> dict[str, tuple[int, int]]:
    """Return the lines added to and removed from each file since the last commit."""
    command(repo, "git", "add", "--all")
    rows = [line.split("\t") for line in command(repo, "git", "diff", "--cached", "--numstat").splitlines()]
    return {file: (int(added), int(removed)) for added, removed, file in rows}


def count_lines(text: str) -> int:
    return text.count("\n")


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, tuple[int, int]]]]:
    """A copy of the repository with every addition, and what each of them touched."""
    repo, touched = copy(tmp_path_factory.mktemp("extended") / "repo"), {}
    restore_nets(repo)
    for name, add in ADDITIONS.items():
        add(repo)
        touched[name] = list_touched_files(repo)
        commit(repo, f"A {name}")
    command(repo, sys.executable, ".ci/update_deps", "--check")
    return repo, touched


@pytest.fixture(scope="module")
def ran_on_walk(extended, quick_python) -> Path:
    """The copy, after the stages of the new family have run on the new source and target."""
    repo, _ = extended
    params = repo / "params.yaml"
    params.write_text(params.read_text().replace("    source: simulated\n", "    source: walk\n"))
    command(repo, "dvc", "repro", "evaluate_linear@ridge", "export_linear@ridge", PIPELINE_WORKERS="2")
    return repo


def test_a_target_kind_is_one_function_its_line_in_the_registry_and_a_block(extended):
    added = count_lines(extensions.TARGET_KIND) + 1
    assert extended[1]["target kind"] == {"pipeline/labels.py": (added, 0), "params.yaml": (1, 0)}


def test_a_net_is_one_file_and_one_block(extended):
    assert extended[1]["net"] == {
        "pipeline/models/nets/tcn.py": (count_lines(extensions.NET), 0),
        "params.yaml": (count_lines(extensions.NET_BLOCK), 0),
    }


def test_a_family_is_a_package_with_a_plugin_and_one_block_and_its_stages_are_generated(extended):
    repo, touched = extended
    generated = touched["family"].pop("dvc.yaml")
    assert touched["family"] == {
        "pipeline/models/linear/__init__.py": (0, 0),
        "pipeline/models/linear/ridge.py": (count_lines(extensions.MODEL), 0),
        "params.yaml": (count_lines(extensions.MODEL_BLOCK), 0),
    }
    stages = yaml.safe_load((repo / "dvc.yaml").read_text())["stages"]
    assert generated[1] == 0
    assert {f"{stage}_linear" for stage in STAGES_OF_A_FAMILY} <= stages.keys()
    assert stages["train_linear"]["do"]["params"][-3:] == ["train", "seed", "seeds"]
    assert "linear" not in stages["train_linear"]["do"]["params"]


def test_a_section_that_a_family_shares_is_a_param_of_its_fits_while_it_exists(extended):
    repo, _ = extended
    params, pipeline = repo / "params.yaml", repo / "dvc.yaml"
    before = params.read_text(), pipeline.read_text()
    params.write_text(f"{before[0]}linear: {{alpha: 0.01}}\n")
    command(repo, sys.executable, ".ci/update_deps")
    shared = yaml.safe_load(pipeline.read_text())["stages"]["train_linear"]["do"]["params"]
    params.write_text(before[0])
    command(repo, sys.executable, ".ci/update_deps")
    assert shared[-4:] == ["linear", "train", "seed", "seeds"]
    assert pipeline.read_text() == before[1]


def test_a_source_is_one_file_one_block_and_its_costs(extended):
    assert extended[1]["source"] == {
        ".ci/kinds/klines/fetch/pipeline.market.walk": (1, 0),
        "pipeline/market/walk.py": (count_lines(extensions.SOURCE), 0),
        "params.yaml": (count_lines(extensions.SOURCE_BLOCK + extensions.COSTS_BLOCK), 0),
    }


def test_the_added_net_and_the_added_family_keep_the_contract_of_models(extended):
    repo, _ = extended
    words = ("-p", "no:cacheprovider", "tests/test_models.py", "-k", "tcn or ridge")
    printed = command(repo, sys.executable, "-m", "pytest", *words)
    assert "skipped" not in printed
    assert "failed" not in printed


def test_the_catalogue_lists_what_was_added(extended):
    repo, _ = extended
    printed = command(repo, sys.executable, "-m", "pipeline.models")
    assert "\nnets.tcn\n" in printed
    assert printed.split("\nlinear.ridge\n")[1].startswith(
        "  A linear model of the columns with an L2 penalty.\n"
        "  predicts value; sees one bar; no GPU\n"
        "    alpha  number, at least 0\n"
    )


def test_the_added_source_target_and_family_run_through_the_pipeline(ran_on_walk):
    assert set(pd.read_parquet(ran_on_walk / "data/clean/klines.parquet", columns=["symbol"])["symbol"]) == {"WALK"}
    labels = {
        name: pd.read_parquet(ran_on_walk / f"data/labels/klines/{name}.parquet") for name in ("fade_5", "return_5")
    }
    assert labels["fade_5"]["y"].equals(-labels["return_5"]["y"])
    metrics = json.loads((ran_on_walk / "trained/reports/evaluate/ridge.json").read_text())
    assert abs(metrics["ic"]) < 0.2  # a random walk has nothing to learn
    report = json.loads((ran_on_walk / "trained/reports/parity/ridge.json").read_text())
    assert report["edge_cases"]["flipped_decisions"] == 0
    contract = json.loads((ran_on_walk / "trained/onnx/ridge/contract.json").read_text())
    assert contract["graph"] == {"inputs": [None, len(contract["columns"])], "answer": [None, 1]}
