"""The catalogue of models names every plugin and hyperparameter, in the words of params.yaml."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Interval, Len, MinLen
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

import pipeline.models
from pipeline.models import catalogue, plugins
from pipeline.models.__main__ import main
from pipeline.models.allowed_values import describe_type, list_allowed_values
from pipeline.models.catalogue import Entry
from tests.params import BLOCKS, PARAMS

ROOT = Path(__file__).parents[1]


@cache
def list_entries() -> dict[str, Entry]:
    return {entry.name: entry for entry in catalogue.list_entries(PARAMS)}


def run_catalogue(*words: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.models", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (PositiveInt, "whole number, at least 1"),
        (NonNegativeInt, "whole number, at least 0"),
        (Annotated[int, Interval(ge=2, le=64)], "whole number, at least 2 and at most 64"),
        (Annotated[int, Interval(lt=8)], "whole number, at most 7"),
        (Annotated[float, Interval(gt=0, le=1)], "number above 0 and at most 1"),
        (Annotated[float, Interval(ge=0, lt=1)], "number, at least 0 and below 1"),
        (float, "number"),
        (bool, "true or false"),
        (str, "text"),
        (Literal["auto", "cpu"], "one of auto, cpu"),
        (Literal["auto"], "auto"),
        (Annotated[list[PositiveInt], MinLen(1)], "list of at least 1, each a whole number, at least 1"),
        (Annotated[list[float], Len(2, 2)], "list of 2, each a number"),
        (list[Literal["a", "b"]], "list, each one of a, b"),
        (PositiveFloat | None, "number above 0, or null"),
        (dict[str, Any], "section of keys and values"),
        (Any, "any value"),
    ],
)
def test_a_type_is_described_in_the_words_of_params(annotation: Any, words: str) -> None:
    assert describe_type(annotation) == words


def test_a_section_is_expanded_into_its_keys_by_its_dataclass_or_by_what_checks_it() -> None:
    @dataclass(kw_only=True)
    class Tail:
        window: PositiveInt

    def shrink(*, factor: PositiveFloat) -> None: ...

    def build(*, tail: Tail, schedule: dict[str, Any], loss: dict[str, Any], depth: int = 3) -> None: ...

    sections = {"schedule": {"constant": lambda: None, "shrink": shrink}, "loss": shrink}
    found = list_allowed_values(build, ("tail", "schedule", "loss", "depth"), sections=sections)
    assert dict(found) == {
        "tail.window": "whole number, at least 1",
        "schedule.name": "one of constant, shrink",
        "schedule.factor": "number above 0 (of shrink)",
        "loss.factor": "number above 0",
        "depth": "whole number; 3 by default",
    }


def test_every_plugin_is_listed_with_what_it_predicts_sees_and_needs() -> None:
    facts = {name: entry.facts for name, entry in list_entries().items()}
    assert list(facts) == [f"{family}.{p}" for family in plugins.list_families() for p in plugins.list_plugins(family)]
    assert facts["trees.xgboost"] == (
        "predicts value, position, probability, classes",
        "sees windows of bars",
        "GPU optional",
    )
    assert facts["nets.cnn"][1:] == ("sees windows of bars", "GPU optional")
    assert facts["agents.marl"] == ("predicts position", "sees one bar and columns of its own", "GPU optional")


@pytest.mark.parametrize("name", BLOCKS)
def test_every_hyperparameter_of_every_model_is_named_where_it_stands(name: str) -> None:
    family, block = BLOCKS[name]
    entry = list_entries()[f"{family}.{block['plugin']}"]
    for keys, given in ((entry.own, block["hyperparameters"]), (entry.shared, PARAMS.get(family, {}))):
        required = {key.name.split(".")[0] for key in keys if "by default" not in key.allowed}
        assert required <= set(given) <= {key.name.split(".")[0] for key in keys}
        sections = {f"{key}.{inner}" for key, value in given.items() if isinstance(value, dict) for inner in value}
        assert sections <= {key.name for key in keys}
    assert name in {model.split()[0] for model in entry.models}


def test_the_text_has_every_plugin_and_key_and_fits_a_hundred_columns() -> None:
    entries = list(list_entries().values())
    for text in (catalogue.format_overview(entries), *map(catalogue.format_details, entries)):
        assert max(map(len, text.splitlines())) <= 100
    overview = catalogue.format_overview(entries)
    for entry in entries:
        details = catalogue.format_details(entry)
        for key in (*entry.own, *entry.shared):
            assert f"    {key.name} " in details
            assert f"    {key.name} " in overview
    assert overview.count("    num_boost_round ") == 1  # shared by both plugins of the trees


BROKEN = '"""Symmetric trees: one split a level."""\n\nimport forest_library.core\n'


@pytest.fixture
def plugin_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The only plugin of the only family, whose text a test writes."""
    folder = tmp_path / "models/symmetric"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    monkeypatch.setattr(plugins, "MODELS", folder.parent)
    monkeypatch.setattr(pipeline.models, "__path__", [str(folder.parent)])
    yield folder / "oblivious.py"
    for name in ("pipeline.models.symmetric", "pipeline.models.symmetric.oblivious"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("extras", "needs"),
    [
        ("", "needs forest_library"),
        ('forests = ["forest-library>=1"]\n', "needs forest_library: pip install -e '.[forests]'"),
    ],
)
def test_a_plugin_that_cannot_be_imported_says_what_it_needs(
    plugin_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extras: str, needs: str
) -> None:
    plugin_file.write_text(BROKEN)
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text(f"[project]\n[project.optional-dependencies]\n{extras}")
    monkeypatch.setattr(catalogue, "PYPROJECT", pyproject)
    (entry,) = catalogue.list_entries({})
    expected = f"symmetric.oblivious\n  Symmetric trees: one split a level.\n  {needs}\n"
    assert catalogue.format_overview([entry]) == catalogue.format_details(entry) == expected


@pytest.mark.parametrize("text", ["", "class A: ...\n", "class _Hidden: ...\n", "class A: ...\nclass B: ...\n"])
def test_a_plugin_file_without_exactly_one_model_is_refused_by_its_name(plugin_file: Path, text: str) -> None:
    plugin_file.write_text(text)
    with pytest.raises(ValueError, match=r"pipeline/models/symmetric/oblivious.py has the public classes"):
        plugins.find_plugin("symmetric", "oblivious")


def test_the_command_needs_params_alone_and_prints_one_plugin_in_detail(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    done = run_catalogue("lightgbm", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("trees.lightgbm\n")
    assert "    num_leaves            whole number, at least 2 and at most 131072\n" in done.stdout


def test_an_unknown_plugin_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["pipeline.models", "forest"])
    with pytest.raises(SystemExit, match=r"^unknown plugin 'forest'; there are agents\.d4pg, .*$") as stopped:
        main()
    assert "\n" not in str(stopped.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("import numpy as np\n\ndef broken(:\n", "line 3 is no Python: invalid syntax"),
        ("import pipeline.models.nothing\n", "cannot be imported: No module named 'pipeline.models.nothing'"),
        ("from pipeline.models.base import Modell\n", "cannot be imported: cannot import name 'Modell'"),
    ],
)
def test_a_broken_plugin_is_listed_with_what_is_wrong_and_hides_no_other(
    plugin_file: Path, text: str, why: str
) -> None:
    plugin_file.write_text(text)
    (entry,) = catalogue.list_entries({})
    assert entry.plugin == "oblivious"
    assert entry.facts[0].startswith(why)
