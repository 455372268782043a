"""Name the first stage with the same inputs and other outputs on two sides: `python -m pipeline.tracking.doctor A [B]`.

A side is a revision of this repository, the folder of a clone, a dvc.lock, or a snapshot of another machine, which
`python -m pipeline.tracking.snapshot` writes there. B is the present folder unless it is named. The exit status is 1
where a stage with the same inputs has values beyond the tolerance, or values that cannot be compared.
"""

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline import cli
from pipeline.tracking.diagnosis import Comparison, OutputDifference, StageDiagnosis, Verdict
from pipeline.tracking.differences import Level, Tolerance
from pipeline.tracking.locks import list_changes
from pipeline.tracking.machine import collect_facts
from pipeline.tracking.sides import TAKE, FolderSide, Side, open_side

MAX_SHOWN = 8  # of many lines
LEVELS = {
    Level.SAME_VALUES: "same values, other bytes",
    Level.WITHIN_TOLERANCE: "values within the tolerance",
    Level.DIFFERENT: "other values",
    Level.UNKNOWN: "other bytes; values unknown",
}
TITLES = {
    Verdict.UNEXPLAINED: "same inputs, other outputs",
    Verdict.OTHER_BYTES: "same inputs, same values in other bytes",
    Verdict.OTHER_INPUTS: "other inputs of their own, no fault",
}


def diagnose(a: Side, b: Side, tolerance: Tolerance) -> tuple[str, bool]:
    """Return a report for people on two sides, and whether all that differs is explained or a rounding."""
    stages = Comparison(a, b, tolerance).diagnose()
    lines = [f"a: {a.name}", f"b: {b.name}", summarize(stages)]
    for verdict, title in TITLES.items():
        found = [stage for stage in stages if stage.verdict is verdict]
        if found:
            lines += ["", f"{title}: first {found[0].name}", *render_stage(found[0])]
            if len(found) > 1:
                lines.append(f"  then {join_names(found[1:])}")
    if follow := [stage for stage in stages if stage.verdict is Verdict.FOLLOWS]:
        lines += ["", f"follow from these: {join_names(follow)}"]
    if alone := [stage for stage in stages if stage.verdict is Verdict.ONE_SIDE]:
        lines += ["", *(f"{stage.inputs[0]}: {stage.name}" for stage in alone)]
    lines += ["", *compare_facts(a, b)]
    faults = [stage for stage in stages if stage.verdict is Verdict.UNEXPLAINED]
    return "\n".join(lines), all(stage.level <= Level.WITHIN_TOLERANCE for stage in faults)


def summarize(stages: Sequence[StageDiagnosis]) -> str:
    """Return the counts of the verdicts as a line."""
    counts = [f"{n} {verdict.value}" for verdict in Verdict if (n := sum(s.verdict is verdict for s in stages))]
    same = all(stage.verdict is Verdict.SAME for stage in stages)
    return f"{len(stages)} stages: {'identical' if same else '; '.join(counts)}"


def render_stage(stage: StageDiagnosis) -> Iterator[str]:
    """Yield the lines on inputs and outputs of a stage."""
    yield from limit_lines([f"  {line}" for line in stage.inputs])
    worst = sorted(stage.outputs, key=lambda each: -each.level)
    yield from limit_lines([line for output in worst for line in render_output(output)], MAX_SHOWN * 3)


def render_output(output: OutputDifference) -> list[str]:
    """Return the lines on an output: how far it is apart, and which parts of it are."""
    head = f"  {output.path}: {LEVELS[output.level]}"
    if output.note:
        return [f"{head}: {output.note}"]
    parts = sorted(output.parts, key=lambda each: -each.level)
    return [head, *limit_lines([f"    {part.name or 'value'}: {part.text}" for part in parts])]


def limit_lines(lines: Sequence[str], limit: int = MAX_SHOWN) -> list[str]:
    """Return the first lines, and how many more there are."""
    more = [f"    and {len(lines) - limit} more"] if len(lines) > limit else []
    return [*lines[:limit], *more]


def join_names(stages: Sequence[StageDiagnosis]) -> str:
    """Return the names of stages."""
    more = f" and {len(stages) - MAX_SHOWN} more" if len(stages) > MAX_SHOWN else ""
    return ", ".join(stage.name for stage in stages[:MAX_SHOWN]) + more


def compare_facts(a: Side, b: Side) -> list[str]:
    """Return a line for each library, fact of the machine and setting that differs; else why there is none."""
    absent = [side.name for side in (a, b) if side.facts is None]
    if a.facts is None or b.facts is None:
        return [f"libraries and CPU are not known of {' and '.join(absent)}: `{TAKE}` writes them there"]
    lines = [
        f"  {group}: {key}: {before} → {after}"
        for group in ("machine", "settings", "libraries")
        for key, before, after in list_changes(a.facts.get(group, {}), b.facts.get(group, {}))
    ]
    if not lines:
        return ["libraries, CPU and settings of threads are the same"]
    return ["libraries, CPU and settings that differ:", *limit_lines(lines, MAX_SHOWN * 3)]


def add_facts(side: Side) -> Side:
    """Return the present folder with the facts of this machine, where it has no snapshot."""
    if isinstance(side, FolderSide) and side.commit is None and side.facts is None and side.root == Path.cwd():
        return replace(side, facts=collect_facts())
    return side


def parse_arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.tracking.doctor", description=__doc__)
    parser.add_argument("a", help="a revision, a folder, a dvc.lock or a snapshot")
    parser.add_argument("b", nargs="?", default=".", help="the same; the present folder unless it is named")
    default = Tolerance()
    parser.add_argument("--rtol", type=read_tolerance, default=default.relative, help=f"relative: {default.relative}")
    parser.add_argument("--atol", type=read_tolerance, default=default.absolute, help=f"absolute: {default.absolute}")
    return parser.parse_args()


def read_tolerance(text: str) -> float:
    """Return a tolerance of the command line; an error of argparse unless it is a number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"it is {text!r}; it must be a number of at least 0")
    return value


def main() -> None:
    """Print the report; exit 1 where outputs differ and inputs do not."""
    arguments, root = parse_arguments(), Path.cwd()
    try:
        a, b = (add_facts(open_side(name, root)) for name in (arguments.a, arguments.b))
        report, is_explained = diagnose(a, b, Tolerance(arguments.rtol, arguments.atol))
    except (ValueError, OSError) as error:
        sys.exit(f"doctor: {cli.describe_error(error)}")
    sys.stdout.write(f"{report}\n")
    sys.exit(0 if is_explained else 1)


if __name__ == "__main__":
    main()
