"""The READMEs describe the code as it is."""

import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
READMES = [ROOT / "README.md", ROOT / "benchmarks/README.md", *sorted((ROOT / "pipeline").rglob("README.md"))]


def test_every_stage_is_described_in_order():
    families = "|".join(yaml.safe_load((ROOT / "params.yaml").read_text())["models"])
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    names = [re.sub(rf"_({families})$", "", name) for name in stages]
    table = README.split("## Stages")[1].split("## Adding")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE) == list(dict.fromkeys(names))


def test_the_number_of_planted_leaks_is_that_of_the_report():
    rows = (ROOT / "trained/reports/canary/klines.md").read_text().splitlines()
    planted = [row for row in rows if row.startswith("| `")]
    assert f"{len(planted)} leaks planted" in README


def test_every_guard_of_the_reports_is_described():
    reports = [json.loads(file.read_text()) for file in (ROOT / "trained/reports").rglob("*.json")]
    parts = [part for report in reports for part in (report, *report.get("fits", [])) if isinstance(part, dict)]
    found = {finding["guard"] for part in parts for finding in part.get("findings", [])}
    text = (ROOT / "pipeline/leakage/README.md").read_text()
    described = re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)
    assert found - set(described) == set()


@pytest.mark.parametrize("readme", READMES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_file_that_a_readme_names_or_links_to_exists(readme):
    text = readme.read_text()
    named = {
        ROOT / name.rstrip(".") for name in re.findall(r"((?:pipeline|tests|benchmarks|\.ci)/[\w./]+\.?\w*)", text)
    }
    linked = {(readme.parent / target).resolve() for target in re.findall(r"\]\((?!http)([^)#]+)", text)}
    assert {str(path) for path in named | linked if not path.exists()} == set()


def test_the_readme_can_be_read_in_one_go():
    assert len(README.splitlines()) <= 220
