"""Flip bits in every artifact of the workspace, and run its readers: `python benchmarks/bit_flips.py`.

The pipeline must have run. Work is done on a copy of its files; `--seconds` bound each run of a reader, and `--stages`
are the only ones that run.
The first table counts the flips that the digests find, at 64 places of each file: its first and last 16 bytes and 32
between them; then cuts to nothing, to half and by one byte. The second has the outcome of each command of each stage,
for a flipped bit in each data file that dvc.yaml says it reads, and for the file missing. `one line` is exit status 1
with one line that names the file, or the folder of its model. The last table counts these outcomes by command.
"""

import argparse
import functools
import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from dvc.repo import Repo

from pipeline import artifacts, cli, config, digests
from pipeline.deployment import contract
from pipeline.evaluation import ledger
from pipeline.models import plugins

EDGE, BETWEEN = 16, 32
SEED = 0
# of folders with a SHA256SUMS of their files, one for each model or bundle
FOLDERS = (artifacts.MODELS, artifacts.ONNX, artifacts.INT8, contract.BUNDLES)
CODE = "pipeline.stages."
REFUSED, PASSED, NOT_READ = "one line", "NOT FOUND", "not read"
ABORTED, OTHER_MESSAGE = "ABORTED", "OTHER MESSAGE"
EXIT_PASSED, EXIT_REFUSED, EXIT_CRASHED = 10, 11, 12  # exit statuses of a reader
OUTCOMES = {EXIT_PASSED: PASSED, EXIT_CRASHED: "TRACEBACK", -signal.SIGALRM: "not over in time"}


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
    file.unlink(missing_ok=True)
    file.write_bytes(content)


def flip(file: Path, place: int, bit: int) -> None:
    """Flip a bit of a file that is no hard link."""
    with file.open("r+b") as stream:
        stream.seek(place)
        value = stream.read(1)[0] ^ (1 << bit)
        stream.seek(place)
        stream.write(bytes([value]))


def verify(file: Path) -> None:
    """Verify a file as its readers do: the history of fits by the digest in the report of the same run."""
    if file == artifacts.LEDGER:
        ledger.read_lines(file)
    elif file.parent == artifacts.HISTORY:
        recorded = artifacts.read_report("train/details", file.stem)["history_sha256"]
        digests.verify_digest(file, recorded, source=artifacts.report_path("train/details", file.stem))
    else:
        digests.verify(find_unit(file))


def is_found(file: Path) -> bool:
    """Return whether the damage of a file is found where it is verified."""
    try:
        verify(file)
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
    files += artifacts.HISTORY.glob("*.csv")
    reports = ("featurize", "guard", "sensitivity", "train/details", "evaluate/details")
    files += [file for stage in reports for file in (artifacts.REPORTS / stage).glob("*.json")]
    first: dict[str, Path] = {}
    for file in sorted(file for file in files if artifacts.ROUND_TRIPS not in file.parents):  # which no stage reads
        first.setdefault(name_kind(file), file)
    return list(first.values())


def damage_files(rng: random.Random) -> None:
    """Print how many flips and cuts of each kind of file are found."""
    print("| file | flips | found | cuts | found |\n|---|---|---|---|---|")
    totals = [0, 0, 0, 0]
    for file in list_artifacts():
        counts = damage_file(file, rng)
        totals = [total + count for total, count in zip(totals, counts, strict=True)]
        print(f"| `{name_kind(file)}` |", " | ".join(map(str, counts)), "|", flush=True)
    print("| all |", " | ".join(map(str, totals)), "|\n")


def import_libraries() -> None:
    """Import what stages and plugins import, once for all runs of readers, which are forks of this process."""
    for file in sorted((Path(cli.__file__).parent / "stages").glob("[!_]*.py")):
        import_module(f"{CODE}{file.stem}")
    for family in plugins.list_families():
        for plugin in plugins.list_plugins(family):
            plugins.find_plugin(family, plugin)


def run_command(words: list[str], file: Path, *, seconds: int) -> tuple[str, str]:
    """Return the outcome of a stage's command in a process of its own, where `file` is damaged, and its message."""
    with tempfile.TemporaryFile("w+") as errors:
        if not (child := os.fork()):
            signal.alarm(seconds)
            become_command(words, errors.fileno())
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        errors.seek(0)
        message = errors.read().strip()
    if status == EXIT_REFUSED:
        is_clear = len(message.splitlines()) == 1 and str(find_unit(file)) in message
        return REFUSED if is_clear else OTHER_MESSAGE, message
    return OUTCOMES.get(status, ABORTED), message


def become_command(words: list[str], errors: int) -> None:
    """Run a command of dvc.yaml, `python -m pipeline.stages.<verb> <key>`, in this process; end it with its status."""
    status = EXIT_CRASHED
    try:
        with Path(os.devnull).open("w") as sink:
            os.dup2(sink.fileno(), 1)
            os.dup2(sink.fileno(), 2)  # progress and warnings: what counts is the message at the end
        sys.argv = words[2:]
        cli.run(import_module(words[2]).main)
        status = EXIT_PASSED
    except SystemExit as stopped:
        os.write(errors, str(stopped.code).encode())
        status = EXIT_REFUSED
    finally:
        if status == EXIT_CRASHED:
            os.write(errors, traceback.format_exc().encode())
        os._exit(status)


def list_reads(names: list[str]) -> Iterator[tuple[list[str], Path]]:
    """Yield each command of the stages of these names, or of all, with each data file that it may read.

    These are the files that the stage depends on, or that its first command wrote.
    """
    with Repo.init(no_scm=True) as repo:
        stages = sorted(repo.index.stages, key=lambda stage: stage.addressing)
        for stage in stages:
            if names and stage.addressing.partition("@")[0] not in names:
                continue
            read = {dep.def_path for dep in stage.deps if dep.def_path.startswith(("data/", "trained/"))}
            for command in [stage.cmd] if isinstance(stage.cmd, str) else stage.cmd:
                for path in sorted(read):
                    found = list_files(Path(path), key=command.split()[-1])
                    yield from ((command.split(), file) for file in found)
                read |= {out.def_path for out in stage.outs if artifacts.ONNX in Path(out.def_path).parents}


def list_files(path: Path, *, key: str) -> list[Path]:
    """Return a file, or the files of a folder; of a folder that all models share, those of the one that `key` names."""
    model = key.rpartition(".")[2]
    found = sorted(file for file in path.rglob("*") if file.is_file())
    return [file for file in found if "." not in key or model in str(file) or path.parent.name == "data"] or [path]


def run_readers(names: list[str], *, seconds: int) -> None:
    """Print the outcome of each command for each file that its stage reads, damaged in its middle, and missing."""
    print("| command | file | flipped | missing |\n|---|---|---|---|")
    counts: dict[str, Counter[tuple[str, str]]] = {}
    faults = []
    for words, file in [*list_reads(names)]:
        content = file.read_bytes()
        change(file, content)
        flip(file, len(content) // 2, 0)
        flipped, message = run_command(words, file, seconds=seconds)
        file.unlink(missing_ok=True)
        missing, other = run_command(words, file, seconds=seconds)
        change(file, content)
        if flipped == missing == PASSED:
            flipped = missing = NOT_READ
        command = f"{words[2].removeprefix(CODE)} {words[3]}"
        print(f"| `{command}` | `{file}` | {flipped} | {missing} |", flush=True)
        counts.setdefault(words[2].removeprefix(CODE), Counter())[flipped, missing] += 1
        faults += [
            f"{command}, {file} {damage}: {outcome}: {text}"
            for damage, outcome, text in (("flipped", flipped, message), ("missing", missing, other))
            if outcome not in (REFUSED, NOT_READ)
        ]
    print_counts(counts)
    print("\n".join(faults))


def print_counts(counts: dict[str, Counter[tuple[str, str]]]) -> None:
    """Print how many files each command reads, and how many of them, flipped or missing, are refused in one line."""
    print("\n| command | files | flipped: one line | missing: one line | not read |\n|---|---|---|---|---|")
    for verb, found in counts.items():
        flipped = sum(count for (outcome, _), count in found.items() if outcome == REFUSED)
        missing = sum(count for (_, outcome), count in found.items() if outcome == REFUSED)
        not_read = found[NOT_READ, NOT_READ]
        print(f"| `{verb}` | {found.total() - not_read} | {flipped} | {missing} | {not_read} |")
    print()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--stages", nargs="*", default=[], help="names of dvc.yaml, such as train_nets; all by default")
    arguments, root = parser.parse_args(), Path.cwd()
    config.load_params = functools.cache(config.load_params)  # which each message of a damaged file calls
    os.environ["PIPELINE_WORKERS"] = "1"  # no process of joblib outlives a reader that is stopped
    with tempfile.TemporaryDirectory(dir=root.parent) as folder:
        for name in ("data", "trained"):
            shutil.copytree(root / name, Path(folder) / name, copy_function=os.link)
        for name in ("dvc.yaml", "params.yaml", ".dvcignore"):
            shutil.copy(root / name, folder)
        os.chdir(folder)
        config.load_params()
        if not arguments.stages:
            damage_files(random.Random(SEED))
        import_libraries()
        run_readers(arguments.stages, seconds=arguments.seconds)
        os.chdir(root)


if __name__ == "__main__":
    main()
