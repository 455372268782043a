"""Compare two sides stage by stage: which stages read the same and wrote something else, and how far it is apart."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from pipeline.tracking.differences import Level, PartDifference, Tolerance, compare_digests, compare_parts
from pipeline.tracking.locks import Stage, find_related, list_changes
from pipeline.tracking.logical import Source, digest_parts, open_parts
from pipeline.tracking.sides import FOLDER, Files, MissingFilesError, Side, hash_folder, hash_source


class Verdict(Enum):
    """The outcome of one stage on two sides."""

    SAME = "the same outputs"
    OTHER_BYTES = "the same values, in other bytes"
    UNEXPLAINED = "the same inputs, other outputs"
    OTHER_INPUTS = "another command, code or params, and other outputs"
    FOLLOWS = "other data from an earlier stage, and other outputs"
    ONE_SIDE = "only on one side"


@dataclass(frozen=True)
class OutputDifference:
    """An output, or a file of one, that differs in bytes."""

    path: str
    level: Level
    parts: tuple[PartDifference, ...] = ()
    note: str = ""  # why its values are not compared


@dataclass(frozen=True)
class StageDiagnosis:
    """The verdict on a stage, and what it rests on."""

    name: str
    verdict: Verdict
    inputs: tuple[str, ...] = ()  # a line for each input of its own that differs
    outputs: tuple[OutputDifference, ...] = ()

    @property
    def level(self) -> Level:
        """The largest difference of its outputs."""
        return max((each.level for each in self.outputs), default=Level.SAME)


@dataclass
class Comparison:
    """Two sides, and the stages compared so far; a stage is compared after those that it reads from."""

    a: Side
    b: Side
    tolerance: Tolerance = Tolerance()
    _levels: dict[str, Level] = field(default_factory=dict)  # of each output that differs, by path

    def diagnose(self) -> list[StageDiagnosis]:
        """Return the diagnosis of each stage, in the order of the pipeline."""
        known = [side.lock.sort_stages() for side in (self.a, self.b)]
        return [self._diagnose_stage(name) for name in dict.fromkeys((*known[0], *known[1]))]

    def _diagnose_stage(self, name: str) -> StageDiagnosis:
        a, b = (side.lock.stages.get(name) for side in (self.a, self.b))
        if a is None or b is None:
            return StageDiagnosis(name, Verdict.ONE_SIDE, inputs=(f"only in {'b' if a is None else 'a'}",))
        outputs = tuple(
            found for path, *digests in list_changes(a.outputs, b.outputs) for found in self._compare(path, *digests)
        )
        own, data = self._compare_inputs(a, b)
        level = max((each.level for each in outputs), default=Level.SAME)
        if not outputs:
            verdict = Verdict.SAME
        elif own:
            verdict = Verdict.OTHER_INPUTS
        elif data > Level.SAME_VALUES:
            verdict = Verdict.FOLLOWS
        else:
            verdict = Verdict.OTHER_BYTES if level == Level.SAME_VALUES else Verdict.UNEXPLAINED
        return StageDiagnosis(name, verdict, own, outputs)

    def _compare_inputs(self, a: Stage, b: Stage) -> tuple[tuple[str, ...], Level]:
        """Return a line for each change of command, params and files that no stage wrote, and the level of the data."""
        lines = [] if a.command == b.command else [f"command: {a.command} → {b.command}"]
        lines += [f"params: {key}: {before} → {after}" for key, before, after in list_changes(a.params, b.params)]
        data = Level.SAME
        for path, *_ in list_changes(a.inputs, b.inputs):
            written = [each for side in (self.a, self.b) for each in find_related(path, self._list_outputs(side))]
            if written:
                data = max(data, *(self._levels.get(each, Level.SAME) for each in written))
            else:
                lines.append(f"file: {path}")
        return tuple(lines), data

    def _list_outputs(self, side: Side) -> Mapping[str, str]:
        return {path: md5 for stage in side.lock.stages.values() for path, md5 in stage.outputs.items()}

    def _compare(self, path: str, a: str, b: str) -> list[OutputDifference]:
        """Return a difference for each file of an output whose bytes differ."""
        found = self._compare_files(path, (a, b))
        self._levels[path] = max((each.level for each in found), default=Level.SAME_VALUES)
        return found

    def _compare_files(self, path: str, md5s: tuple[str, str]) -> list[OutputDifference]:
        found = []
        sides = [self._list_files(side, path, md5) for side, md5 in zip((self.a, self.b), md5s, strict=True)]
        notes = [each for each in sides if isinstance(each, str)]
        if notes:
            return [OutputDifference(path, Level.UNKNOWN, note="; ".join(dict.fromkeys(notes)))]
        a, b = (each for each in sides if not isinstance(each, str))
        for name in dict.fromkeys((*a, *b)):
            if name not in a or name not in b:
                missing = PartDifference("file", Level.DIFFERENT, f"only in {'a' if name in a else 'b'}")
                found.append(OutputDifference(name, Level.DIFFERENT, (missing,)))
            elif a[name].md5 != b[name].md5:
                found.append(self._compare_file(name, a[name], b[name]))
        return found

    def _compare_file(self, name: str, a: "KnownFile", b: "KnownFile") -> OutputDifference:
        if a.source is not None and b.source is not None:
            parts = compare_parts(open_parts(name, a.source), open_parts(name, b.source), self.tolerance)
        else:
            parts = compare_digests(a.digest(name), b.digest(name))
        return OutputDifference(name, max((each.level for each in parts), default=Level.SAME_VALUES), tuple(parts))

    def _list_files(self, side: Side, path: str, md5: str) -> "dict[str, KnownFile] | str":
        """Return the files of an output on a side, or why it has none."""
        try:
            files: Files = side.read_output(path, md5)
        except MissingFilesError as error:
            known = find_digests(side, path, md5)
            return known or str(error)
        return {name: KnownFile(hash_source(source), source) for name, source in files.items()}


@dataclass(frozen=True)
class KnownFile:
    """A file of which a side has the bytes, or the digests of its values."""

    md5: str
    source: Source | None = None
    digests: Mapping[str, str] = field(default_factory=dict)

    def digest(self, name: str) -> Mapping[str, str]:
        """Return the digests of its parts."""
        return self.digests if self.source is None else digest_parts(open_parts(name, self.source))


def find_digests(side: Side, path: str, md5: str) -> dict[str, KnownFile]:
    """Return the files of an output that a side's snapshot describes; none where it has others of that path."""
    found = {}
    for key, digests in side.digests.items():
        name, _, own = key.rpartition(":")
        if (name == path and own == md5) or name.startswith(f"{path}/"):
            found[name] = KnownFile(own, digests=digests)
    is_whole = not md5.endswith(FOLDER) or hash_folder(path, {name: file.md5 for name, file in found.items()}) == md5
    return found if is_whole else {}
