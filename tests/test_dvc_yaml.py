"""dvc.yaml says what every stage imports: DVC does not follow imports, so a missing dependency is a stale result."""

import ast
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from dvc.repo import Repo

ROOT = Path(__file__).parents[1]


def imported(module: Path) -> set[Path]:
    """The modules of `pipeline` that a module imports by name, as files; packages themselves are empty."""
    tree = ast.parse((ROOT / module).read_text())
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: import from `pipeline`, not relatively"
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    files = {Path(name.replace(".", "/")).with_suffix(".py") for name in names if name.startswith("pipeline")}
    return {file for file in files if (ROOT / file).is_file()}


@cache
def closure(module: Path) -> frozenset[Path]:
    """A module and all it imports, however far down."""
    found, todo = set(), [module]
    while todo:
        if (file := todo.pop()) not in found:
            found.add(file)
            todo += imported(file)
    return frozenset(found)


PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())


def stages() -> list:
    """Every stage, those among them that params leave off."""
    params = PARAMS | {"quantise": PARAMS["quantise"] | {"models": ["lstm"]}}
    with TemporaryDirectory() as folder:
        (Path(folder) / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
        (Path(folder) / "params.yaml").write_text(yaml.safe_dump(params))
        with Repo.init(folder, no_scm=True) as repo:
            return list(repo.index.stages)


STAGES = stages()


def needed(stage) -> set[Path]:
    """The code that a stage runs: what its module imports, and the plugin that its params name."""
    name, _, key = stage.name.partition("@")
    code = set(closure(Path(f"pipeline/stages/{name}.py")))
    if name == "fetch":
        for source in (ROOT / "pipeline/sources").glob("[!_]*.py"):
            code |= closure(source.relative_to(ROOT))
    if name in PLUGGED:
        code |= plugin(PARAMS["probe"] if name == "probe" else PARAMS["models"][key])
    return {file.parent if file.parent.name == "engine" else file for file in code}


PLUGGED = ("train", "export", "parity", "probe")  # stages that run the plugin of a family


def plugin(block) -> set[Path]:
    """The code of a plugin, and of the whole engine of its family."""
    family = Path("pipeline/models") / block["family"]
    code = set(closure(family / f"{block['plugin']}.py"))
    for file in (ROOT / family / "engine").glob("[!_]*.py"):
        code |= closure(file.relative_to(ROOT))
    return code


def shared(stage) -> set[Path]:
    """What plugins of some family import from outside the families: a template lists it for all of them alike."""
    if stage.name.partition("@")[0] not in PLUGGED:
        return set()
    code = set().union(*(plugin(block) for block in PARAMS["models"].values()))
    families = {block["family"] for block in PARAMS["models"].values()}
    return {file for file in code if file.parts[1] != "models" or file.parts[2] not in families}


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_code_deps_are_exactly_what_the_stage_imports(stage):
    listed = {Path(dep.def_path) for dep in stage.deps if dep.def_path.startswith("pipeline")}
    folders = {file for file in listed if file.suffix != ".py"}
    assert {folder.name for folder in folders} <= {"engine"}, (
        "code deps are files, or the engine of a family as a whole"
    )
    assert needed(stage) - listed == set(), f"{stage.name} imports modules that dvc.yaml does not list"
    assert listed - needed(stage) - shared(stage) == set(), f"{stage.name} lists modules that it does not import"


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_every_stage_runs_the_module_of_its_name(stage):
    name, _, key = stage.name.partition("@")
    assert stage.cmd == f"python -m pipeline.stages.{name} {key}"


def test_packages_are_empty_so_that_importing_one_runs_no_code():
    assert [str(file) for file in (ROOT / "pipeline").rglob("__init__.py") if file.read_text().strip()] == []


def test_floors_hold_no_stage_imports_another_and_no_noun_imports_upwards():
    for file in (ROOT / "pipeline").rglob("*.py"):
        module = file.relative_to(ROOT)
        rooms = {path.parts[1] for path in imported(module)}
        assert "stages" not in rooms, f"{module} imports a stage"
        if "stages" not in module.parts and "models" not in module.parts:
            assert "models" not in rooms, f"{module} is of the first floor and imports a model"


def test_only_workspace_reads_params():
    readers = [
        f for f in (ROOT / "pipeline").rglob("*.py") if "params.yaml" in f.read_text() and "open(" in f.read_text()
    ]
    assert [file.name for file in readers] == ["workspace.py"]
