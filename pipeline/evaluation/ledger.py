"""The ledger of all trials: `python -m pipeline.evaluation.ledger harvest`.

`harvest` adds the records of the workspace, of all commits and experiments, and of DVC's run cache to the committed
file `trained/ledger.jsonl`, which no stage writes. `check` names those that it lacks, with exit status 1. Each line of
the ledger ends in its own digest, so that the lines of two branches can be merged.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dvc.exceptions import DvcException

from pipeline import artifacts, cli
from pipeline.evaluation import experiments
from pipeline.evaluation.ledger_lines import HARVEST, add_digests, verify_lines
from pipeline.evaluation.trials import Line, Trial, parse_lines, render_lines


@dataclass(frozen=True)
class Ledger:
    """The trials and looks of several files."""

    trials: list[Trial]
    looks: list[Trial]

    @classmethod
    def from_lines(cls, lines: Iterable[Line]) -> "Ledger":
        """Return the ledger of lines."""
        entries = [Trial.from_line(line) for line in lines]
        return cls(*([entry for entry in entries if entry.kind == kind] for kind in ("trial", "look")))

    def list_others(self, own: Sequence[Trial]) -> list[Trial]:
        """Return the trials whose market overlaps one of `own`, of each other set of parameters the first."""
        return select_overlapping(self.trials, own)

    def list_looks(self, own: Sequence[Trial]) -> list[Trial]:
        """Return the looks whose market overlaps one of `own`, of each other set of parameters the first."""
        return select_overlapping(self.looks, own)

    def find_unknown(self, found: Iterable[Line]) -> list[Line]:
        """Return the trials and looks among `found` that are not in the ledger, once each."""
        have = {(entry.digest, entry.kind, entry.market.digest) for entry in (*self.trials, *self.looks)}
        return [line for line in merge_lines(found) if identify_line(line) not in have]


def select_overlapping(entries: Sequence[Trial], own: Sequence[Trial]) -> list[Trial]:
    """Return the entries whose market overlaps one of `own`, of each other set of parameters the first."""
    markets = {entry.market.digest: entry.market for entry in (*entries, *own)}
    seen = {entry.market.digest for entry in own}
    overlapping = {
        digest for digest, market in markets.items() if any(market.overlaps(markets[other]) for other in seen)
    }
    known, first = {entry.digest for entry in own}, dict[str, Trial]()
    for entry in entries:
        if entry.market.digest in overlapping and entry.digest not in known:
            first.setdefault(entry.digest, entry)
    return list(first.values())


def read_lines(file: Path, *, needs_digests: bool = True) -> list[Line]:
    """Return the lines of the ledger, without their digests; none where the file does not exist.

    Raises:
        ArtifactError: a line is damaged; see `verify_lines`.
    """
    return parse_lines(verify_lines(file, needs_digests=needs_digests), source=str(file))


def identify_line(line: Line) -> tuple[str, str, str]:
    """Return what makes two lines the same: digest, kind and market; the result may differ after a change of code."""
    return line["digest"], line["kind"], line["market"]


def merge_lines(*sources: Iterable[Line]) -> list[Line]:
    """Return the lines of all sources sorted by digest; of lines that are the same, that of the first source."""
    merged: dict[tuple[str, str, str], Line] = {}
    for line in (line for source in sources for line in source):
        merged.setdefault(identify_line(line), line)
    return [merged[key] for key in sorted(merged)]


def harvest(root: Path) -> tuple[list[Line], list[Line]]:
    """Add all records that can be found to the ledger; return its lines, and those that are new."""
    known = read_lines(root / artifacts.LEDGER, needs_digests=False)  # lines of an earlier version have none
    found = experiments.find_records(root)
    lines = merge_lines(known, found)
    new = Ledger.from_lines(known).find_unknown(found)
    artifacts.write_text(root / artifacts.LEDGER, add_digests(render_lines(lines)))
    return lines, new


def describe_line(line: Line) -> str:
    """Return a trial or a look in a line for people."""
    return f"  {line['kind']} {line['digest']}: {line['model']} on {line['target']}, from {line['origin']}"


def main() -> None:
    """Harvest all records into the ledger, or check that it has them."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.evaluation.ledger", description=__doc__)
    parser.add_argument("command", choices=("harvest", "check"))
    command, root = parser.parse_args().command, Path.cwd()
    try:
        if not (root / "params.yaml").exists():
            raise ValueError(f"{root} is no repository of this pipeline; run it where params.yaml is")
        if command == "harvest":
            lines, new = harvest(root)
            counts = Counter(line["kind"] for line in lines)
            total = f"{counts['trial']} trials and {counts['look']} looks at a holdout"
            sys.stdout.write("\n".join([*map(describe_line, new), f"{len(new)} new; the ledger has {total}", ""]))
            return
        ledger = Ledger.from_lines(read_lines(root / artifacts.LEDGER))
        if new := ledger.find_unknown(experiments.find_records(root)):
            advice = f"run `{HARVEST}`, then `dvc repro`"
            sys.exit("\n".join([f"the ledger lacks {len(new)} trials or looks; {advice}", *map(describe_line, new)]))
    except (ValueError, OSError, DvcException) as error:
        sys.exit(f"ledger {command}: {cli.describe_error(error)}")


if __name__ == "__main__":
    main()
