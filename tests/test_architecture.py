"""Who may import whom: packages import downward, modules form no circle, and stay small."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = [  # from the top; a package imports what stands below it, and itself
    {"stages", "tracking"},
    {"reporting", "deployment"},
    {"datasets"},
    {"evaluation", "leakage", "models"},
    {"orderbook"},
    {"validation", "features"},
    {"market"},
    {"cluster"},
    {"samples", "labels", "volatility", "trading", "trading_rules", "fills", "tail_risk"},
    {"targets", "target_kinds", "prediction_sets"},
    {
        "config",
        "artifacts",
        "cli",
        "digests",
        "remedies",
        "by_symbol",
        "row_groups",
        "mapped_rows",
        "feature_file",
        "scale",
    },
]
LEVEL = {package: level for level, packages in enumerate(LAYERS) for package in packages}
MODULES = sorted(file.relative_to(ROOT) for file in (ROOT / "pipeline").rglob("*.py") if file.stat().st_size)
SINGLE_MODULES = LAYERS[-3] | LAYERS[-2] | LAYERS[-1]  # each is one module, and may import its neighbors
LONGEST_MODULE, LONGEST_BODY = 350, 45


@cache
def find_imports(module: Path) -> frozenset[Path]:
    """The modules of the package that a module imports."""
    names = []
    for node in ast.walk(ast.parse((ROOT / module).read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: import from `pipeline`, not relatively"
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    files = {Path(name.replace(".", "/") + ".py") for name in names if name.startswith("pipeline.")}
    return frozenset(file for file in files if (ROOT / file).is_file())


def package_of(module: Path) -> str:
    return module.parts[1].removesuffix(".py")


@pytest.mark.parametrize("module", MODULES[1:], ids=str)
def test_imports_go_downward_or_stay_within_a_package(module):
    own = package_of(module)
    upward = [
        str(file)
        for file in find_imports(module)
        if package_of(file) != own and LEVEL[package_of(file)] <= LEVEL[own] - (own in SINGLE_MODULES)
    ]
    assert upward == []


def test_no_stage_imports_a_stage_but_export_with_parity_which_runs_two():
    stages = [module for module in MODULES if module.parts[1] == "stages"]
    importing = [str(m) for m in stages if any(f.parts[1] == "stages" for f in find_imports(m))]
    assert importing == ["pipeline/stages/export_with_parity.py"]


def test_trees_import_nothing_of_torch_or_of_other_families():
    trees = [module for module in MODULES if module.parts[1:3] == ("models", "trees")]
    foreign = {"torch_runtime", "nets", "agents"}
    assert [str(m) for m in trees if any(f.parts[2] in foreign for f in find_imports(m) if len(f.parts) > 2)] == []


def test_no_module_imports_itself_by_way_of_others():
    def reaches(start: Path) -> set[Path]:
        found, pending = set(), list(find_imports(start))
        while pending:
            if (module := pending.pop()) not in found:
                found.add(module)
                pending += find_imports(module)
        return found

    assert [str(module) for module in MODULES if module in reaches(module)] == []


def test_modules_and_function_bodies_stay_small():
    long = [str(m) for m in MODULES if len((ROOT / m).read_text().splitlines()) > LONGEST_MODULE]
    for module in MODULES:
        for node in ast.walk(ast.parse((ROOT / module).read_text())):
            if isinstance(node, ast.FunctionDef):
                first = node.body[min(bool(ast.get_docstring(node)), len(node.body) - 1)]
                nested = sum(n.end_lineno - n.lineno + 1 for n in node.body if isinstance(n, ast.FunctionDef))
                if node.end_lineno - first.lineno + 1 - nested > LONGEST_BODY:
                    long.append(f"{module}:{node.name}")
    assert long == []
