"""The index of all runs: `python -m pipeline.evaluation.run_index`, with `--model`, `--tag`, `--filter` and `--sort`.

A run is one version of a model's headline report, `trained/reports/evaluate/<model>.json`. It stands at the first
revision that has it: a commit of a branch, an experiment of DVC, or the work tree. The command writes all runs to
`trained/run_index.csv`, which git ignores, and prints those that pass the filters.
"""

import argparse
import fnmatch
import json
import logging
import operator
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
import yaml

from pipeline import artifacts, cli
from pipeline.evaluation import experiments
from pipeline.evaluation.trials import digest_json

log = logging.getLogger(__name__)

INDEX = artifacts.TRAINED / "run_index.csv"
REPORTS = artifacts.REPORTS / "evaluate"
COMPARISONS = artifacts.REPORTS / "compare" / "details"
PARAMS = "params.yaml"
DIGEST = "sha256"  # last key of a report: its digest, no figure
FILES = (PARAMS, f"{REPORTS}/", f"{COMPARISONS}/")
WORK_TREE = "work tree"
NOT_RUNS = ("refs/stash", "refs/exps/stash", "refs/exps/exec/*", "refs/exps/celery/*")  # what git or DVC put aside
SHOWN = ("revision", "date", "branch", "experiment", "tags", "model", "target")  # in the table; metrics follow
METRICS = ("ic", "ic_minus_linear", "sharpe_daily", "dsr", "break_even_bps")
CONDITION = re.compile(r"([\w.]+?)\s*(>=|<=|=|>|<)\s*(.*)")
OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}

Row = dict[str, Any]  # of the index: plain values by column; None where undefined


@dataclass(frozen=True)
class Revision:
    """A commit, or the work tree, with the objects of git of the files that the index reads, by path."""

    name: str
    time: int  # seconds since 1970
    objects: Mapping[str, str]
    branch: str = ""
    experiment: str = ""
    tags: tuple[str, ...] = ()

    def list_reports(self) -> Iterator[tuple[str, str]]:
        """Yield each model that has a headline report, and the object of the report."""
        for path, name in self.objects.items():
            if PurePosixPath(path).parent == PurePosixPath(REPORTS):
                yield PurePosixPath(path).stem, name


def make_index(root: Path) -> list[Row]:
    """Return a row for each run of a repository, the earliest first."""
    revisions = list_revisions(root)
    names = {name for revision in revisions for name in revision.objects.values()}
    present, texts = read_work_tree(root)
    committed = sorted(names - texts.keys())
    texts |= zip(committed, experiments.read_objects(root, committed), strict=True)
    return collect_runs([*revisions, *present], texts)


def collect_runs(revisions: Iterable[Revision], texts: Mapping[str, str]) -> list[Row]:
    """Return a row for each version of a model's report, of the first revision that has it.

    Its tags are those of all revisions that have it, its branch is the first one that has it.
    """
    rows: dict[tuple[str, str], Row] = {}
    for revision in revisions:
        for model, name in revision.list_reports():
            if (model, name) not in rows and (row := describe_run(revision, model, texts)):
                rows[model, name] = row
            if row := rows.get((model, name), {}):
                row["branch"] = row["branch"] or revision.branch
                row["tags"] = " ".join(dict.fromkeys([*row["tags"].split(), *revision.tags]))
    return list(rows.values())


def describe_run(revision: Revision, model: str, texts: Mapping[str, str]) -> Row:
    """Return the row of a model at a revision; an empty one, with a warning, where a file cannot be read."""
    contents = {path: texts[name] for path, name in revision.objects.items()}
    try:
        params = yaml.load(contents.get(PARAMS, "{}"), Loader=yaml.CSafeLoader)
        block = find_block(params, model)
        comparison = contents.get(str(COMPARISONS / f"{block['dataset']}.json"))
        leaderboard: Row = json.loads(comparison)["leaderboard"] if comparison else {}
        report = dict(flatten(json.loads(contents[str(REPORTS / f"{model}.json")])))
        report.pop(DIGEST, None)
        digest = digest_json(params)
    except (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        log.warning("%s at %s is not in the index: its files are of another kind (%r)", model, revision.name, error)
        return {}
    identity = {
        "revision": revision.name,
        "date": datetime.fromtimestamp(revision.time, UTC).strftime("%Y-%m-%d %H:%M:%S"),
        "branch": revision.branch,
        "experiment": revision.experiment,
        "tags": " ".join(revision.tags),
        "params_digest": digest,
    }
    return identity | block | {"dsr": leaderboard.get(model, {}).get("dsr")} | report


def find_block(params: Mapping[str, Any], model: str) -> Row:
    """Return name, family, dataset, target and plugin of a model; None where params.yaml does not have it."""
    blocks = {family: models[model] for family, models in params["models"].items() if model in (models or ())}
    family = next(iter(blocks), None)
    block: Mapping[str, Any] = blocks[family] if family else {}
    return {"model": model, "family": family, **{key: block.get(key) for key in ("dataset", "target", "plugin")}}


def flatten(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings by dotted keys."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def list_revisions(root: Path) -> list[Revision]:
    """Return the commits whose reports differ from those before, and those with a tag, the earliest first."""
    names, tags, branches = experiments.name_experiments(root), name_tags(root), name_branches(root)
    changed = {commit for commit, *_ in log_commits(root, str(REPORTS))}
    return [
        Revision(
            commit,
            int(time),
            list_objects(root, commit),
            branch=branches.get(commit, ""),
            experiment=names.get(commit, "").removeprefix("experiment "),
            tags=tuple(tags.get(commit, ())),
        )
        for commit, time, _ in log_commits(root)
        if commit in changed or commit in tags
    ]


def log_commits(root: Path, *paths: str) -> Iterator[list[str]]:
    """Yield hash, time and subject of each commit that a branch, a tag or an experiment reaches, the earliest first.

    With `paths`, only of commits that change one of them. What git or DVC put aside is left out.
    """
    command = ["log", "--full-history", "--reverse", "--date-order", "--format=%H%x09%ct%x09%s"]
    command += [*(f"--exclude={pattern}" for pattern in NOT_RUNS), "--all", "--"]
    yield from (line.split("\t", 2) for line in experiments.run_git(root, *command, *paths))


def list_objects(root: Path, commit: str) -> dict[str, str]:
    """Return the objects of the files that the index reads, by path, as a commit has them."""
    entries = [line.partition("\t") for line in experiments.run_git(root, "ls-tree", commit, *FILES)]
    return {path: entry.split()[2] for entry, _, path in entries if path.endswith((".json", PARAMS))}


def name_tags(root: Path) -> dict[str, list[str]]:
    """Return the names of the tags of each commit."""
    found: dict[str, list[str]] = {}
    fields = "%(objectname) %(*objectname) %(refname:strip=2)"
    for line in experiments.run_git(root, "for-each-ref", f"--format={fields}", "refs/tags"):
        *objects, name = line.split()
        found.setdefault(objects[-1], []).append(name)
    return found


def name_branches(root: Path) -> dict[str, str]:
    """Return the branch of each commit: of several the present one, else the first by name, those of remotes last."""
    present = experiments.run_git(root, "symbolic-ref", "--quiet", "--short", "HEAD")
    others = experiments.run_git(root, "for-each-ref", "--format=%(refname:strip=2)", "refs/heads", "refs/remotes")
    names = [name for name in dict.fromkeys([*present, *others]) if not name.endswith("/HEAD")]
    found: dict[str, str] = {}
    for place, name in enumerate(names):
        earlier = [f"^{other}" for other in names[:place]]
        found |= dict.fromkeys(experiments.run_git(root, "rev-list", name, *earlier, "--"), name)
    return found


def read_work_tree(root: Path) -> tuple[list[Revision], dict[str, str]]:
    """Return the present files as a revision, where there is a report, and their texts by object."""
    reports, comparisons = (sorted((root / folder).glob("*.json")) for folder in (REPORTS, COMPARISONS))
    if not reports:
        return [], {}
    files = [root / PARAMS, *reports, *comparisons]
    objects = experiments.run_git(root, "hash-object", "--", *map(str, files))
    paths = [file.relative_to(root).as_posix() for file in files]
    texts = {name: file.read_text(encoding="utf-8") for name, file in zip(objects, files, strict=True)}
    time = int(max(file.stat().st_mtime for file in reports))
    return [Revision(WORK_TREE, time, dict(zip(paths, objects, strict=True)))], texts


def list_columns(rows: Sequence[Row]) -> list[str]:
    """Return the columns of all rows, those of the last row first."""
    return list(dict.fromkeys(column for row in reversed(rows) for column in row))


def select_rows(rows: Sequence[Row], conditions: Sequence[str]) -> list[Row]:
    """Return the rows for which all conditions hold; an undefined value meets none.

    `KEY=VALUE` compares texts, where * and ? stand for any characters, and `tags=VALUE` each tag. `KEY>VALUE` and the
    like, with >=, < and <=, compare numbers.

    Raises:
        ValueError: a condition is none of these, or no row has such a column.
    """
    columns = list_columns(rows)
    for condition in conditions:
        found = CONDITION.fullmatch(condition)
        if found is None:
            raise ValueError(f"{condition!r} is no condition; write KEY=VALUE, or KEY>VALUE with >, >=, < or <=")
        key, sign, value = found.groups()
        check_column(key, columns)
        if sign != "=" and not is_number(value):
            raise ValueError(f"{condition} compares numbers; {value or 'nothing'} is none")
        rows = [row for row in rows if row.get(key) is not None and _compare(row[key], sign, value)]
    return list(rows)


def _compare(found: Any, sign: str, value: str) -> bool:
    if sign == "=":
        texts = [str(found), *(str(found).split() if isinstance(found, str) else ())]
        return any(fnmatch.fnmatchcase(text, value) for text in texts)
    return isinstance(found, int | float) and OPERATORS[sign](found, float(value))


def is_number(text: str) -> bool:
    """Return whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def sort_rows(rows: Sequence[Row], key: str, *, ascending: bool) -> list[Row]:
    """Return the rows by a column, the largest first unless `ascending`; those whose value is undefined stand last."""
    check_column(key, list_columns(rows))
    defined = [row for row in rows if row.get(key) is not None]
    as_text = any(isinstance(row[key], str) for row in defined)
    defined.sort(key=lambda row: str(row[key]) if as_text else row[key], reverse=not ascending)
    return [*defined, *(row for row in rows if row.get(key) is None)]


def check_column(key: str, columns: Sequence[str]) -> None:
    """Raise ValueError where the index has no such column."""
    if columns and key not in columns:
        raise ValueError(f"the index has no column {key}; it has {', '.join(columns)}")


def render_table(rows: Sequence[Row], metrics: Iterable[str]) -> str:
    """Return rows as a table for people: seven digits of a revision, and these metrics."""
    if not rows:
        return "no run passes the filters"
    columns = [*SHOWN, *(name for name in dict.fromkeys(metrics) if name not in SHOWN)]
    table = pd.DataFrame([{**row, "revision": shorten(row["revision"])} for row in rows], columns=columns)
    empty = [name for name in columns if (table[name].isna() | table[name].eq("")).all()]
    return table.drop(columns=empty).to_string(index=False, na_rep="–", float_format="{:.4g}".format)


def shorten(revision: str) -> str:
    """Return the name of a revision as git shortens it."""
    return revision if revision == WORK_TREE else revision[:7]


def parse_arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.evaluation.run_index", description=__doc__)
    parser.add_argument("--model", help="only runs of this model; * and ? stand for any characters")
    parser.add_argument("--tag", help="only runs of a revision with this tag")
    parser.add_argument("--filter", action="append", default=[], metavar="CONDITION", help="KEY=VALUE or KEY>VALUE")
    parser.add_argument("--sort", metavar="KEY", help="the largest first")
    parser.add_argument("--ascending", action="store_true", help="the smallest first")
    parser.add_argument("--metrics", help=f"to print, separated by commas, instead of {','.join(METRICS)}")
    return parser.parse_args()


def main() -> None:
    """Write the index of all runs, and print those that the command line selects."""
    arguments, root = parse_arguments(), Path.cwd()
    try:
        if not (root / PARAMS).exists():
            raise ValueError(f"{root} is no repository of this pipeline; run it where params.yaml is")
        rows = make_index(root)
        table = pd.DataFrame(rows, columns=list_columns(rows))
        artifacts.write_text(root / INDEX, table.to_csv(index=False))
        named = {"model": arguments.model, "tags": arguments.tag}
        conditions = [*(f"{key}={value}" for key, value in named.items() if value), *arguments.filter]
        selected = select_rows(rows, conditions)
        if arguments.sort:
            selected = sort_rows(selected, arguments.sort, ascending=arguments.ascending)
        metrics = arguments.metrics.split(",") if arguments.metrics else METRICS
        for key in metrics if arguments.metrics else ():
            check_column(key, list_columns(rows))
        text = render_table(selected, [*metrics, *([arguments.sort] if arguments.sort else [])])
        sys.stdout.write(f"{text}\n{len(selected)} of {len(rows)} runs; all are in {INDEX}\n")
    except (ValueError, OSError) as error:
        sys.exit(f"run_index: {cli.describe_error(error)}")


if __name__ == "__main__":
    main()
