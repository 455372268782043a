"""Flip bits in every artifact of the workspace, and run its readers: `python benchmarks/bit_flips.py [seconds]`.

The pipeline must have run. Work is done on a copy of its files; `seconds`, by default 120, bound each run of a reader.
The first table counts the flips that the digests find, at 64 places of each file: its first and last 16 bytes and 32
between them; then cuts to nothing, to half and by one byte. The second has the result of each stage for one flipped bit
of each file that dvc.yaml says it reads, and for the file missing.
"""

import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from dvc.repo import Repo

from pipeline import artifacts, digests

EDGE, BETWEEN = 16, 32
REFUSED, CRASHED, PASSED = 10, 11, 12  # exit statuses of a reader
OUTCOMES = {REFUSED: "one error", CRASHED: "TRACEBACK", PASSED: "NOT FOUND", -signal.SIGALRM: "not reached in time"}
STAGES = "ingest liquidity featurize label guard canary split signals baseline train audit evaluate sensitivity compare"
FOLDERS = (artifacts.MODELS, artifacts.ONNX, artifacts.INT8)  # of files with a SHA256SUMS for each model


def find_unit(file: Path) -> Path:
    """Return what is verified when `file` is read: the folder of its model, or the file."""
    return next((root / file.relative_to(root).parts[0] for root in FOLDERS if root in file.parents), file)


def name_kind(file: Path) -> str:
    """Return the row of the table that a file belongs to."""
    unit = find_unit(file)
    return f"{unit.parent}/*/{file.relative_to(unit)}" if unit != file else f"{file.parent}/*{file.suffix}"


def list_places(size: int, rng: random.Random) -> list[int]:
    """Return the bytes of a file in which a bit is flipped."""
    edges = {*range(min(EDGE, size)), *range(max(size - EDGE, 0), size)}
    return sorted(edges | {rng.randrange(size) for _ in range(BETWEEN)})


def change(file: Path, content: bytes) -> None:
    """Replace a file, which may be a hard link, by one with another content."""
    file.unlink()
    file.write_bytes(content)


def flip(file: Path, place: int, bit: int) -> None:
    """Flip a bit of a file that is no hard link."""
    with file.open("r+b") as stream:
        stream.seek(place)
        value = stream.read(1)[0] ^ (1 << bit)
        stream.seek(place)
        stream.write(bytes([value]))


def is_found(file: Path) -> bool:
    """Return whether the damage of a file is found where it is verified."""
    try:
        digests.verify(find_unit(file))
    except digests.ArtifactError:
        return True
    return False


def damage_file(file: Path, rng: random.Random) -> tuple[int, int, int, int]:
    """Return flips, flips found, cuts, and cuts found, of one file; it is as before afterwards."""
    content, flips, cuts = file.read_bytes(), [], []
    change(file, content)
    for place in list_places(len(content), rng):
        bit = rng.randrange(8)
        flip(file, place, bit)
        flips.append(is_found(file))
        flip(file, place, bit)
    assert not is_found(file), f"{file} was damaged before: run `dvc repro`"
    for size in (0, len(content) // 2, len(content) - 1):
        change(file, content[:size])
        cuts.append(is_found(file))
    change(file, content)
    return len(flips), sum(flips), len(cuts), sum(cuts)


def list_artifacts() -> list[Path]:
    """Return the files that digests cover, one of each kind for each family of readers."""
    files = [*Path("data").rglob("*.parquet"), *Path("trained").rglob("*.parquet"), *Path("trained").rglob("*.jsonl")]
    files += [file for root in FOLDERS for file in root.rglob("*") if file.is_file()]
    reports = ("featurize", "guard", "sensitivity", "train/details", "evaluate/details")
    files += [file for stage in reports for file in (artifacts.REPORTS / stage).glob("*.json")]
    unread = (artifacts.ROUND_TRIPS, artifacts.LEDGER)
    first: dict[str, Path] = {}
    for file in sorted(file for file in files if not {file, file.parent} & {*unread}):
        first.setdefault(name_kind(file), file)
    return list(first.values())


def run_stage(verb: str, key: str, seconds: int) -> str:
    """Return the outcome of a stage in a process of its own."""
    if not (child := os.fork()):
        signal.alarm(seconds)
        with Path(os.devnull).open("w") as sink:
            os.dup2(sink.fileno(), 1)
            os.dup2(sink.fileno(), 2)
        status = CRASHED
        try:
            import_module(f"pipeline.stages.{verb}").main(key)
            status = PASSED
        except digests.ArtifactError:
            status = REFUSED
        finally:
            os._exit(status)
    return OUTCOMES.get(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), "ABORTED")


def list_reads(root: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield verb, key and one data file of each dependency of the stages, of one model of each family."""
    seen: set[str] = set()
    with Repo.init(str(root), no_scm=True) as repo:
        for stage in repo.index.stages:
            name, _, key = stage.addressing.partition("@")
            verb = name.partition("_")[0]
            if name in seen or verb not in (*STAGES.split(), "export"):
                continue
            seen.add(name)
            for dep in sorted(dep.def_path for dep in stage.deps if dep.def_path.startswith(("data/", "trained/"))):
                files = sorted(file for file in Path(dep).rglob("*") if file.is_file()) or [Path(dep)]
                for each in (verb, *["parity"] * (verb == "export")):
                    yield each, key, files[0]


def damage_files(rng: random.Random) -> None:
    """Print how many flips and cuts of each kind of file are found."""
    print("| file | flips | found | cuts | found |\n|---|---|---|---|---|")
    totals = [0, 0, 0, 0]
    for file in list_artifacts():
        counts = damage_file(file, rng)
        totals = [total + count for total, count in zip(totals, counts, strict=True)]
        print(f"| `{name_kind(file)}` |", " | ".join(map(str, counts)), "|", flush=True)
    print("| all |", " | ".join(map(str, totals)), "|\n")


def run_readers(seconds: int) -> None:
    """Print the outcome of each stage for each file that it reads, damaged in its middle, and missing."""
    print("| stage | file | flipped | missing |\n|---|---|---|---|")
    for verb, key, file in list_reads(Path.cwd()):
        content = file.read_bytes()
        change(file, content)
        flip(file, len(content) // 2, 0)
        flipped = run_stage(verb, key, seconds)
        file.unlink(missing_ok=True)
        missing = run_stage(verb, key, seconds)
        file.unlink(missing_ok=True)
        file.write_bytes(content)
        print(f"| {verb} {key} | `{file}` | {flipped} | {missing} |", flush=True)


def main() -> None:
    """Print both tables."""
    seconds, root = int((sys.argv[1:] or ["120"])[0]), Path.cwd()
    with tempfile.TemporaryDirectory(dir=root.parent) as folder:
        for name in ("data", "trained"):
            shutil.copytree(root / name, Path(folder) / name, copy_function=os.link)
        for name in ("dvc.yaml", "params.yaml"):
            shutil.copy(root / name, folder)
        os.chdir(folder)
        damage_files(random.Random(0))
        run_readers(seconds)
        os.chdir(root)


if __name__ == "__main__":
    main()
