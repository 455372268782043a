"""Where everything lies on disk, and the only reader of params.yaml."""

import argparse
import inspect
import json
import logging
import os
import re
import shutil
import sys
import traceback
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
import yaml

from pipeline import has_avx2

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)
T = TypeVar("T")
Block = Mapping[str, Any]

RAW, CLEAN, FEATURES, LABELS, FOLDS = (Path("data") / room for room in ("raw", "clean", "features", "labels", "folds"))
MODELS, CHECKPOINTS, HISTORY, BASELINES, OOS, IN_SAMPLE, RETURNS, ONNX, INT8, REPORTS, PLOTS, MEASURED = (
    Path("trained") / room
    for room in [
        "models",
        "checkpoints",
        "history",
        "baselines",
        "oos",
        "in_sample",
        "returns",
        "onnx",
        "int8",
        "reports",
        "plots",
        "measured",  # on this machine: neither cached by DVC nor in git
    ]
)


class _Loader(yaml.SafeLoader):
    """Reads numbers as DVC writes them, by YAML 1.2: 5e-05 is a number, where PyYAML alone reads a string."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)[eE][-+]?\d+$"), list("-+.0123456789")
)


def params() -> dict[str, Any]:
    """The blocks of params.yaml."""
    with Path("params.yaml").open() as stream:
        blocks: dict[str, Any] = yaml.load(stream, Loader=_Loader)
    return blocks


def entry(blocks: Block, path: str) -> Any:
    """The value at a dotted path of params, such as `datasets.klines.source`."""
    value: Any = blocks
    done: list[str] = []
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            known = ", ".join(value) if isinstance(value, Mapping) else "nothing"
            raise ValueError(f"params.yaml: there is no {path}; {'.'.join(done) or 'the file'} has {known}")
        value, done = value[key], [*done, key]
    return value


def feed(function: Callable[..., T], *args: Any, block: Block, named: str) -> T:
    """`function` called with the keys of a params block as its keyword-only arguments.

    Raises:
        ValueError: a key is misspelt or missing; names it, the block and the keys that exist.
    """
    if not isinstance(block, Mapping):
        raise ValueError(f"{named}: is {block!r}; it is a block of keys and values")
    allowed = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for key in block:
        if key not in allowed:
            raise ValueError(f"{named}: unknown key {key!r}; its keys are {', '.join(allowed)}")
    for key in allowed:
        if key not in block:
            raise ValueError(f"{named}: key {key!r} is missing; its keys are {', '.join(allowed)}")
    return function(*args, **block)


def report(stage: str, key: str) -> Path:
    """The file of a stage's report."""
    return REPORTS / stage / f"{key}.json"


def workers() -> int:
    """How many fits run at once: PIPELINE_WORKERS, else the processors this process may use. Never changes a byte."""
    asked = os.environ.get("PIPELINE_WORKERS") or str(len(os.sched_getaffinity(0)))
    if not asked.isdecimal() or int(asked) < 1:
        raise ValueError(f"PIPELINE_WORKERS is {asked!r}; it is a number of processes, 1 or more")
    return int(asked)


def seed_for(seed: int, model: str, fold: int) -> int:
    """The seed of one fit: another for every (seed, model, fold), the same on every machine."""
    sequence = np.random.SeedSequence([seed, zlib.crc32(model.encode()), fold + 1])
    return int(sequence.generate_state(1)[0] >> 1)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file or folder that takes the place of `path` once all of it is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    remove(draft)
    try:
        yield draft
        if draft.is_dir():
            remove(path)
        draft.replace(path)
    finally:
        remove(draft)


def remove(path: Path) -> None:
    """Nothing is left at `path`."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """`table` stands at `path` as parquet, whole or not at all."""
    with replacing(path) as draft:
        table.to_parquet(draft, index=False, compression="zstd")


def read_json(path: Path) -> Any:
    """The JSON at `path`."""
    return json.loads(path.read_text())


def write_text(path: Path, text: str) -> None:
    """`text` stands at `path`."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """`content` stands at `path`; what is undefined (nan) stands as null."""
    write_text(path, json.dumps(_plain(content), indent=2, allow_nan=False) + "\n")


def write_figure(path: Path, figure: "Figure") -> None:
    """`figure` stands at `path` as PNG, the same bytes for the same figure."""
    with replacing(path) as draft:
        figure.savefig(draft, format="png", metadata={"Software": None})


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return None if value != value else float(f"{value:.10g}")
    return value


def run(stage: Callable[..., None]) -> None:
    """A stage as a command: its key from the command line, input errors as one line on stderr and exit status 1."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if not has_avx2():
        log.warning("this CPU has no AVX2: results agree with those of other machines within rounding, not to the byte")
    parser = argparse.ArgumentParser(description=inspect.getdoc(stage))
    for name in inspect.signature(stage).parameters:
        parser.add_argument(name)
    arguments = vars(parser.parse_args())
    named = " ".join([Path(sys.argv[0]).stem, *arguments.values()])
    try:
        stage(**arguments)
    except (ValueError, OSError) as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        sys.exit(f"{named}: {error}\n  (raised at {where.filename}:{where.lineno})")
