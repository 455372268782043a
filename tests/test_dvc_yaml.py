"""dvc.yaml lists the code that each stage runs: a missing file is a stale result, a superfluous one a needless fit."""

import json
import re
import subprocess
import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from tempfile import TemporaryDirectory
from types import ModuleType

import pytest
import yaml
from dvc.repo import Repo

from pipeline.stages import export, export_with_parity, parity
from tests.small_repository import command

ROOT = Path(__file__).parents[1]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
DATASETS = PARAMS["datasets"] | PARAMS["disabled_datasets"]
FAMILIES = tuple(PARAMS["models"])
MODELS = PARAMS["models"] | {family: PARAMS["disabled_models"][family] for family in ("pretrained", "tuned")}
IN_PANDAS = ROOT / "pipeline/features/in_pandas"
RUN_MODELS = ("train", "audit", "export")
VERBS = {"train_ensembles": "combine"} | {
    name: name for name in ("prop_firm", "validate_export")
}  # of stages whose module has not their name
OF_NAMES = ("evaluate", "holdout", "export", "prop_firm")  # of whose items DVC knows no kind: they list all kinds
PARTS = {  # modules of a kind of dataset, by the stage that runs them
    "fetch": ("fetch",),
    "ingest": ("ingest",),
    "featurize": ("featurize", "clock", "words"),
    "label": ("label", "clock", "words"),
    "guard": ("guard", "clock", "label", "words"),
    "canary": ("guard", "canaries"),
    "split": ("clock", "words"),
    "evaluate": ("clock", "fills"),
    "compare": ("clock",),
    "report": ("clock",),
    "holdout": ("clock", "fills"),
    "prop_firm": ("clock", "fills"),
    "export": ("contract",),
}


def load_stages() -> list:
    """Every stage, those among them that params leave off."""
    params = PARAMS | {"quantize": PARAMS["quantize"] | {"models": ["nets.lstm"]}, "holdout": {"models": ["nets.lstm"]}}
    params["validate_export"] = {"exports": ["orderbook"]}
    params["datasets"], params["models"] = DATASETS, MODELS
    with TemporaryDirectory() as folder:
        (Path(folder) / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
        (Path(folder) / "params.yaml").write_text(yaml.safe_dump(params))
        with Repo.init(folder, no_scm=True) as repo:
            return list(repo.index.stages)


STAGES = load_stages()


THIRD_PARTY = (
    "joblib lightgbm matplotlib numba onnx onnxruntime pandas scipy.stats sklearn.linear_model timesfm torch xgboost"
)
CHILD = """
import importlib, os, sys
import pipeline
for name in sys.argv[1].split(): importlib.import_module(name)
for line in sys.stdin:  # each line in a fork of its own, in which none of the package's modules is loaded yet
    reader, writer = os.pipe()
    if not os.fork():
        for name in line.split(): importlib.import_module(name)
        own = (m.__file__ for n, m in sys.modules.items() if n.split(".")[0] == "pipeline" and m.__file__)
        os.write(writer, " ".join(own).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as lines: print(lines.read(), flush=True)
    os.wait()
"""


@cache
def start_child() -> subprocess.Popen[str]:
    """A process that has the third-party libraries loaded, so that each import takes moments."""
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, THIRD_PARTY], cwd=ROOT, stdin=pipe, stdout=pipe, text=True, bufsize=1
    )


@pytest.fixture(scope="module", autouse=True)
def end_child():
    yield
    child = start_child()
    child.stdin.close()
    child.wait()
    child.stdout.close()
    start_child.cache_clear()  # a worker of pytest-xdist may take up this module again


@cache
def import_in_new_process(*modules: str) -> frozenset[str]:
    """The files of the package that are loaded once these modules have been imported."""
    child = start_child()
    child.stdin.write(" ".join(modules) + "\n")
    files = {Path(file).relative_to(ROOT) for file in child.stdout.readline().split()}
    return frozenset(file.as_posix() for file in files if (ROOT / file).read_text().strip())


def list_sources(fetch: ModuleType) -> list[str]:
    """The modules of all sources of a kind of dataset, given its module `fetch`."""
    names = [module.name for module in iter_modules(import_module(fetch.SOURCES).__path__)]
    return [f"{fetch.SOURCES}.{name}" for name in names if name not in fetch.NOT_SOURCES]


def import_stage(stage) -> frozenset[str]:
    """The files that are loaded when a stage runs: its module, and the plugin that it builds or loads."""
    name, _, key = stage.name.partition("@")
    verb, _, family = name.partition("_")
    verb = VERBS.get(name, verb)
    modules = [f"pipeline.stages.{verb}"]
    parts = [
        file
        for part in PARTS.get(verb, ())
        for file in (ROOT / "pipeline/datasets").glob(f"{'*' if verb in OF_NAMES else DATASETS[key]['kind']}/{part}.py")
    ]
    modules += [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in parts]
    if verb == "fetch":
        modules += list_sources(import_module(modules[-1]))
    if verb in ("featurize", "guard", "canary", "bundle"):
        modules += [f"pipeline.features.in_pandas.{file.stem}" for file in IN_PANDAS.glob("[!_]*.py")]
    if verb == "sensitivity":
        modules.append(f"pipeline.models.trees.{PARAMS['embargo_sensitivity']['plugin']}")
    models = ROOT / "pipeline/models"
    runs_any = verb in ("bundle", "tune") or (verb in RUN_MODELS and family == "tuned")  # a model of any family
    wrapped = sorted(set(FAMILIES) - {"agents", "composites", "ensembles", "tuned"}) if family == "composites" else []
    if verb in RUN_MODELS and not runs_any:
        modules.append(f"pipeline.models.{family}.{MODELS[family][key]['plugin']}")
        shared = (models / family / "engine").glob("[!_]*.py")  # by any plugin: a new one needs no line of dvc.yaml
        modules += [f"pipeline.models.{family}.engine.{file.stem}" for file in shared]
        files = [file for each in wrapped for file in (models / each).glob("**/[!_]*.py")]
        modules += [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    families = [each for each in FAMILIES if (models / each).is_dir()] if runs_any else [family, *wrapped]
    if runs_any or verb == "latency":
        families = ["trees"] if verb == "latency" else families
        files = [file for family in families for file in (models / family).glob("[!_]*.py")]
        files += [file for family in families if (file := models / family / "engine/net.py").exists()]
        modules += [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    if verb == "audit":
        own = [each for each in families if (models / each / "_diagnostics.py").exists()]
        modules += [f"pipeline.models.{each}._diagnostics" for each in own]
    if verb == "export":
        modules.append("pipeline.stages.export_with_parity")
        own = [each for each in families if (models / f"parity_checks/{each}.py").exists()]
        modules += [f"pipeline.models.parity_checks.{each}" for each in own]
    return import_in_new_process(*modules)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_code_deps_are_the_modules_that_the_stage_loads(stage):
    listed, loaded = list_code(stage), import_stage(stage)
    assert loaded - listed == set(), f"{stage.name} loads modules that dvc.yaml lacks: run .ci/update_deps"
    assert listed - loaded == set(), f"{stage.name} lists modules that it does not load: run .ci/update_deps"


@cache
def list_code(stage) -> frozenset[str]:
    """The modules among the dependencies of a stage, those of a folder one by one; empty ones hold no code.

    A folder of `.ci/kinds` has links to modules.
    """
    listed = {dep.def_path for dep in stage.deps if dep.def_path.startswith("pipeline")}
    files = {
        file for path in listed for file in ((ROOT / path).rglob("*.py") if (ROOT / path).is_dir() else [ROOT / path])
    }
    linked = [dep.def_path for dep in stage.deps if dep.def_path.startswith(".ci/kinds/")]
    files |= {link.resolve(strict=True) for path in linked for link in (ROOT / path).iterdir()}
    return frozenset(file.relative_to(ROOT).as_posix() for file in files if file.read_text().strip())


def test_dvc_yaml_is_what_the_generator_writes():
    done = subprocess.run([sys.executable, ".ci/update_deps", "--check"], cwd=ROOT, check=False)
    assert done.returncode == 0


def test_dvc_sees_only_modules_in_the_folders_of_code():
    folders = {ROOT / dep.def_path for stage in STAGES for dep in stage.deps if (ROOT / dep.def_path).is_dir()}
    with Repo(ROOT) as repo:
        seen = {
            Path(root, name)
            for folder in folders
            if folder.is_relative_to(ROOT / "pipeline")
            for root, _, names in repo.dvcignore.walk(repo.fs, str(folder))
            for name in names
        }
    assert seen
    assert {file.suffix for file in seen} == {".py"}


LINKED = """
stages:
  label:
    foreach: {book: {kind: orderbook}, bars: {kind: klines}}
    do:
      cmd: "true"
      deps:
        - .ci/kinds/${item.kind}/label
"""


def test_an_edit_of_a_module_makes_stale_the_stages_of_the_kinds_that_link_to_it(tmp_path):
    for kind in ("orderbook", "klines"):
        folder = tmp_path / ".ci/kinds" / kind / "label"
        folder.mkdir(parents=True)
        (tmp_path / f"{kind}.py").write_text("HORIZON = 1")
        (folder / kind).symlink_to(f"../../../../{kind}.py")
    (tmp_path / "dvc.yaml").write_text(LINKED)
    (tmp_path / ".dvcignore").write_text((ROOT / ".dvcignore").read_text())
    command(tmp_path, "dvc", "init", "--no-scm", "--quiet")
    command(tmp_path, "dvc", "repro")
    assert json.loads(command(tmp_path, "dvc", "status", "--json")) == {}
    (tmp_path / "orderbook.py").write_text("HORIZON = 2")  # of the same size
    assert list(json.loads(command(tmp_path, "dvc", "status", "--json"))) == ["label@book"]


RUN_BY = {  # file: the stages that run it, and run again after a comment in it
    "pipeline/reporting/plots.py": r"evaluate_|holdout@|compare@|signals@|liquidity@|report@",
    "pipeline/evaluation/overfitting.py": r"evaluate_|holdout@|compare@|gate@|report@",
    "pipeline/evaluation/comparison.py": r"compare@|report@",
    "pipeline/evaluation/performance.py": r"evaluate_|holdout@|compare@|prop_firm@|gate@|report@",
    "pipeline/leakage/fits.py": r"canary@|audit_|compare@",
    "pipeline/models/torch_runtime/device.py": r"(train|audit|export)_(nets|agents|pretrained)@|bundle@",
    "pipeline/models/nets/recurrent.py": r"(train|audit|export)_nets@lstm|bundle@",
    "pipeline/models/agents/marl.py": r"(train|audit|export)_agents@marl|bundle@",
    "pipeline/trading.py": r"evaluate_|holdout@|(train|audit|export)_agents@|bundle@|(prop_firm|gate|evidence|report)@",
    "pipeline/tail_risk.py": r"(train|audit|export)_agents@|bundle@",
}


@pytest.mark.parametrize("file", RUN_BY)
def test_a_comment_makes_stale_what_runs_the_file_and_nothing_else(file):
    """A stage that lists the file is what DVC runs again: tests/test_stages.py."""
    stale = sorted(stage.name for stage in STAGES if file in list_code(stage))
    stale = [name for name in stale if "tune" not in name.partition("@")[0]]  # of models of any family, off by default
    assert stale
    assert [name for name in stale if not re.match(RUN_BY[file], name)] == []


TOUCHES = {  # file: the stages that must not run again when it changes
    "pipeline/reporting/plots.py": {"train", "export", "audit"},
    "pipeline/reporting/learning_curves.py": {"train", "export", "audit"},
    "pipeline/evaluation/overfitting.py": {"train", "export", "audit"},
    "pipeline/evaluation/path_metrics.py": {"train", "export", "audit"},
    "pipeline/evaluation/voting.py": {"train_trees", "train_nets", "train_agents", "export", "audit"},
    "pipeline/leakage/fits.py": {"train", "export", "baseline"},
    "pipeline/leakage/findings.py": {"train", "export", "baseline"},
    "pipeline/models/torch_runtime/device.py": {"train_trees", "audit_trees", "export_trees"},
    "pipeline/models/nets/engine/net.py": {"train_trees", "train_agents", "export_trees", "export_agents"},
    "pipeline/models/nets/cnn.py": {"train_trees", "train_agents", "train_nets@lstm"},
    "pipeline/models/agents/marl.py": {"train_trees", "train_nets", "train_agents@d4pg"},
    "pipeline/trading.py": {"train_trees", "train_nets", "export_trees", "export_nets", "label", "split"},
    "pipeline/trading_rules.py": {"train_trees", "train_nets", "export_trees", "export_nets", "split"},
    "pipeline/tail_risk.py": {"train_trees", "train_nets", "export_trees", "export_nets"},
}


@pytest.mark.parametrize("file", TOUCHES)
def test_a_change_makes_nothing_stale_that_does_not_run_it(file):
    stale = {stage.name for stage in STAGES if file in list_code(stage)}
    assert stale, f"no stage depends on {file}"
    assert [name for name in sorted(stale) if name.startswith(tuple(TOUCHES[file]))] == []


def test_costs_of_trading_train_neither_trees_nor_nets():
    by_params = {stage.name for stage in STAGES for dep in stage.deps if "trading" in getattr(dep, "params", []) or ()}
    fits = ("train", "audit", "export", "parity")
    assert {name.partition("@")[0] for name in by_params if name.startswith(fits)} == {"train_agents", "train_tuned"}


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_every_stage_runs_the_module_of_its_name_and_export_checks_parity(stage):
    name, _, key = stage.name.partition("@")
    verb = VERBS.get(name, name.partition("_")[0])
    assert stage.cmd == f"python -m pipeline.stages.{'export_with_parity' if verb == 'export' else verb} {key}"


def test_export_with_parity_runs_both(monkeypatch):
    calls = []
    for stage in (export, parity):
        monkeypatch.setattr(stage, "main", lambda model, name=stage.__name__: calls.append((name, model)))
    export_with_parity.main("lstm")
    assert calls == [("pipeline.stages.export", "lstm"), ("pipeline.stages.parity", "lstm")]


def test_subpackages_are_empty_so_that_importing_one_runs_no_code():
    packages = [file for file in (ROOT / "pipeline").rglob("__init__.py") if file.read_text().strip()]
    assert packages == [ROOT / "pipeline/__init__.py"]


def test_only_config_reads_params():
    readers = [file for file in (ROOT / "pipeline").rglob("*.py") if 'Path("params.yaml")' in file.read_text()]
    assert [file.name for file in readers] == ["config.py"]
