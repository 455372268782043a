"""The files that are made from the tags alone, neither in git nor cached: promoted bundles, and the registry's file.

`trained/promoted/<model>/<stage>` is the bundle of the stage's present version, byte for byte; `trained/registry.json`
has the events of all models.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipeline import artifacts
from pipeline.deployment.history import History
from pipeline.deployment.revision import Files, RegistryError, Revision, read_cached

PROMOTED = artifacts.TRAINED / "promoted"
REGISTRY = artifacts.TRAINED / "registry.json"
RESTORE = "python -m pipeline.deployment.registry restore"


def publish(root: Path, histories: Sequence[History]) -> None:
    """Write the promoted bundles and the registry's file anew; RegistryError where the cache lacks a bundle."""
    bundles = {folder: read_promoted(root, history, stage) for history, stage, folder in list_folders(histories)}
    for folder, files in bundles.items():
        if find_differences(root / folder, files):
            write_folder(root / folder, files)
    for folder in find_unknown(root, histories):
        artifacts.remove(root / folder)
    artifacts.write_text(root / REGISTRY, render_registry(histories))


def list_folders(histories: Sequence[History]) -> Iterator[tuple[History, str, Path]]:
    """Yield each model's history and stage, and the folder of its bundle."""
    for history in histories:
        for stage in history.stages:
            yield history, stage, PROMOTED / history.model / stage


def read_promoted(root: Path, history: History, stage: str) -> Files:
    """Return the files of a stage's present version, from DVC's cache."""
    registered = history.versions[history.stages[stage]]
    return read_cached(Revision(root, registered.commit), str(registered.path))


def write_folder(folder: Path, files: Files) -> None:
    """Write the files of a folder, which appears as a whole."""
    with artifacts.replace_atomically(folder) as draft:
        for name, content in files.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            (draft / name).write_bytes(content)


def find_differences(folder: Path, files: Files) -> list[str]:
    """Return the names of files that a folder lacks, has besides, or has with other bytes."""
    found = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if not file.is_dir()}
    return sorted(
        name
        for name in {*found, *files}
        if name not in found or name not in files or found[name].read_bytes() != files[name]
    )


def find_unknown(root: Path, histories: Sequence[History]) -> list[Path]:
    """Return what lies among the promoted bundles and is of no stage of any model."""
    known = {folder for _, _, folder in list_folders(histories)}
    parents = {folder.parent for folder in known}
    found = [path.relative_to(root) for path in sorted((root / PROMOTED).glob("*"))]
    inner = [path.relative_to(root) for folder in found for path in sorted((root / folder).glob("*"))]
    return [path for path in found if path not in parents] + [
        path for path in inner if path.parent in parents and path not in known
    ]


def render_registry(histories: Sequence[History]) -> str:
    """Return the text of the registry's file, the same for the same tags."""
    content = {history.model: history.describe() for history in histories if history.events}
    return json.dumps(content, indent=2) + "\n"


def check_append_only(root: Path, histories: Sequence[History]) -> None:
    """Raise RegistryError where the registry's file has an event that no tag has: a tag was removed, or made again."""
    known = {event.tag_id for history in histories for event in history.events}
    if lost := [tag for tag, tag_id in _list_recorded(root).items() if tag_id not in known]:
        raise RegistryError(
            f"{REGISTRY} has events whose tags are gone or were made again: {', '.join(lost)}; get them by "
            f"`git fetch --tags --force`, or, where the tags are right, remove {REGISTRY} and run `{RESTORE}`"
        )


def _list_recorded(root: Path) -> Mapping[str, str]:
    """Return the objects of the tags in the registry's file, by tag; none where there is no file."""
    file = root / REGISTRY
    if not file.exists():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {event["tag"]: event["tag_id"] for model in content.values() for event in model["events"]}
    except (json.JSONDecodeError, TypeError, KeyError, AttributeError) as error:
        raise RegistryError(f"{REGISTRY} is damaged; remove it and run `{RESTORE}`") from error
