"""Remove the outputs of stages that the pipeline no longer has, such as those of a model that was disabled.

DVC leaves them where they are: metrics, pictures and graphs of another market would stand beside those of the present
one. dvc.lock still names them.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from pipeline import artifacts, config
from pipeline.evaluation import experiments

log = logging.getLogger(__name__)

ROOTS = (artifacts.RAW.parts[0], artifacts.TRAINED.parts[0])  # the folders in which stages write


def remove_stale_outputs(root: Path, params: config.Block) -> None:
    """Remove the outputs of former stages whose every byte DVC's cache holds; warn of those that it does not hold."""
    lock, cache = root / "dvc.lock", experiments.find_cache(root)
    if cache is None or not lock.is_file():
        return
    stages = _read_stages(root / "dvc.yaml")
    paths = [root / path for path in find_stale_outputs(_read_stages(lock), stages, params)]
    found = {path: is_cached(path, cache) for path in paths if path.exists()}
    for path in [path for path, has_copy in found.items() if has_copy]:
        artifacts.remove(path)
    _report(log.info, [path for path in found if found[path]], root, "they are removed")
    lost = "they are not in DVC's cache: remove them, or move them away"
    _report(log.warning, [path for path in found if not found[path]], root, lost)


def _report(write: Callable[[str], None], paths: Sequence[Path], root: Path, verdict: str) -> None:
    if paths:
        names = ", ".join(str(path.relative_to(root)) for path in paths)
        write(f"outputs of stages that the pipeline no longer has: {names}; {verdict}")


def find_stale_outputs(locked: Mapping[str, Any], stages: Mapping[str, Any], params: config.Block) -> list[str]:
    """Return the paths of the outputs of `locked` stages, of dvc.lock, that `stages`, of dvc.yaml, do not have.

    An output that a present stage has as well is not among them, nor is the record of a look at the holdout.
    """
    is_present = {name: _is_present(name, stages, params) for name in locked}
    present = {path for name in locked if is_present[name] for path in _list_outputs(locked[name])}
    former = {path for name in locked if not is_present[name] for path in _list_outputs(locked[name])}
    return [path for path in sorted(former - present) if _is_removable(PurePosixPath(path))]


def is_cached(path: Path, cache: Path) -> bool:
    """Return whether DVC's cache holds the bytes of a file, or of every file of a folder."""
    files = [file for file in path.rglob("*") if not file.is_dir()] if path.is_dir() else [path]
    return all(_locate(file, cache).is_file() for file in files)


def _is_present(name: str, stages: Mapping[str, Any], params: config.Block) -> bool:
    """Return whether dvc.yaml has the stage `name`, `<template>@<key>` where it is one of several."""
    template, _, key = name.partition("@")
    if template not in stages:
        return False
    keys = stages[template].get("foreach")
    if isinstance(keys, str):  # such as ${models.nets}
        keys = config.look_up(params, keys.removeprefix("${").removesuffix("}")) or ()
    return keys is None or key in keys


def _list_outputs(stage: Mapping[str, Any]) -> Iterator[str]:
    return (str(out["path"]) for out in stage.get("outs", ()))


def _is_removable(path: PurePosixPath) -> bool:
    return path.parts[0] in ROOTS and ".." not in path.parts and not path.is_relative_to(artifacts.LOOKS)


def _locate(file: Path, cache: Path) -> Path:
    """Return where DVC's cache holds the bytes of a file, if it does."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "md5").hexdigest()
    return cache / digest[:2] / digest[2:]


def _read_stages(file: Path) -> Mapping[str, Any]:
    """Return the section `stages` of dvc.yaml or dvc.lock."""
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
        stages: Mapping[str, Any] = content["stages"]
    except (yaml.YAMLError, TypeError, KeyError) as error:
        raise ValueError(f"{file} is incomplete, as after a kill: restore it by `git checkout {file.name}`") from error
    return stages
