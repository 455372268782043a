"""The README tells what the code is."""

import json
import re
from pathlib import Path

import yaml

from pipeline.features.engine import Stream

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())


def test_the_catalogue_is_that_of_the_code():
    columns = Stream(**PARAMS["datasets"]["klines"]["features"]).layout.columns
    listed = [f"| `{c.name}` | {c.meaning.replace('|', chr(92) + '|')} | {c.warm_up} |" for c in columns]
    assert (
        re.findall(r"^\| `[a-z_0-9]+` \| .+ \| \d+ \|$", README.split("## The columns")[1], flags=re.MULTILINE)
        == listed
    )


def test_every_stage_is_described():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    described = re.findall(
        r"^\| `(\w+)` \|", README.split("## The line")[1].split("### Adding to it")[0], flags=re.MULTILINE
    )
    assert described == list(stages)


def test_the_canaries_are_those_of_the_report():
    report = (ROOT / "trained/reports/canary/klines.md").read_text()
    table = [line for line in report.splitlines() if line.startswith("|")]
    assert "\n".join(table) in README


def test_every_guard_of_the_reports_is_described():
    reports = [json.loads(file.read_text()) for file in (ROOT / "trained/reports").rglob("*.json")]
    parts = [part for report in reports for part in (report, *report.get("fits", []))]
    found = {finding["guard"] for part in parts for finding in part.get("guards", [])}
    described = re.findall(r"^\| `(\w+)` \|", README.split("### Guards")[1].split("<details>")[0], flags=re.MULTILINE)
    assert sorted(described) == sorted(found)


def test_every_file_that_it_names_exists():
    named = set(re.findall(r"`?((?:pipeline|tests|benchmarks|\.ci)/[\w./]+\.?\w*)`?", README))
    assert {name for name in named if not (ROOT / name.rstrip(".")).exists()} == set()
