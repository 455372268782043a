"""Write what another machine needs to compare itself with this one: `python -m pipeline.tracking.snapshot [FILE]`.

The file, `trained/measured/snapshot.json` unless it is named, has three parts: `lock`, the stages of dvc.lock;
`digests`, logical digests of every output's values; `facts`, the versions of libraries, the CPU, and settings of
threads. Take it where the pipeline ran, right after it ran: facts are of the moment.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml

from pipeline import artifacts, cli
from pipeline.tracking.locks import Lock
from pipeline.tracking.logical import digest_parts, open_parts
from pipeline.tracking.machine import collect_facts
from pipeline.tracking.sides import LOCK, SNAPSHOT, FolderSide, MissingFilesError, hash_source


def take_snapshot(root: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the snapshot of a clone, and a message for each output whose files it lacks."""
    file = root / LOCK
    if not file.is_file():
        raise ValueError(f"{root} has no {LOCK}; run it where dvc.yaml is, after `dvc repro`")
    text = file.read_text(encoding="utf-8")
    side = FolderSide(".", Lock.parse(text, name=LOCK), root=root)
    digests: dict[str, dict[str, str]] = {}
    missing = []
    for stage in side.lock.stages.values():
        for path, md5 in stage.outputs.items():
            try:
                files = side.read_output(path, md5)
            except MissingFilesError as error:
                missing.append(str(error))
                continue
            for name, source in files.items():
                key = digest_key(name, hash_source(source))
                if key not in digests:
                    digests[key] = digest_parts(open_parts(name, source))
    lock = yaml.load(text, Loader=yaml.CSafeLoader)
    return {"facts": collect_facts(), "lock": lock, "digests": digests}, missing


def digest_key(name: str, md5: str) -> str:
    """Return the name of a file in a snapshot: its path and its bytes."""
    return f"{name}:{md5}"


def main() -> None:
    """Write the snapshot of the present folder; what it lacks goes to standard error."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.tracking.snapshot", description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, default=SNAPSHOT, help=f"to write: {SNAPSHOT}")
    target = parser.parse_args().file
    if target.is_dir():
        sys.exit(f"snapshot: {target} is a folder; name a file in it, such as {target / SNAPSHOT.name}")
    try:
        content, missing = take_snapshot(Path.cwd())
        artifacts.write_text(target, json.dumps(content) + "\n")
    except (ValueError, OSError) as error:
        sys.exit(f"snapshot: {cli.describe_error(error)}")
    for message in missing:
        sys.stderr.write(f"not in the snapshot: {message}\n")
    sys.stdout.write(f"{target}: {len(content['digests'])} files, {len(content['facts']['libraries'])} libraries\n")


if __name__ == "__main__":
    main()
