"""The files that stages exchange: where each lies, how it is written whole, and read once its digest is verified."""

import json
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import digests

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RAW, CLEAN, FEATURES, LABELS, FOLDS = (Path("data") / name for name in ("raw", "clean", "features", "labels", "folds"))
TRAINED = Path("trained")
MODELS, CHECKPOINTS, HISTORY, BASELINES = (TRAINED / name for name in ("models", "checkpoints", "history", "baselines"))
OOS, IN_SAMPLE, STATISTICS, RETURNS = (TRAINED / name for name in ("oos", "in_sample", "statistics", "returns"))
ONNX, INT8, REPORTS, PLOTS = (TRAINED / name for name in ("onnx", "int8", "reports", "plots"))
LEDGER, TRIALS, LOOKS, ROUND_TRIPS = (TRAINED / name for name in ("ledger.jsonl", "trials", "looks", "round_trips"))
ATTRIBUTES_KEY = b"PANDAS_ATTRS"  # under which pandas stores the `attrs` of a table in parquet
MEASURED = TRAINED / "measured"  # on this machine: neither cached by DVC nor in git


def report_path(stage: str, key: str) -> Path:
    """Return the file of a stage's report."""
    return REPORTS / stage / f"{key}.json"


@contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary file or folder that replaces `path` once all of it is written; a table gets its digest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    remove(draft)
    try:
        yield draft
        if path.suffix == ".parquet":
            digests.add_table_digest(draft)
        if draft.is_dir():
            remove(path)
        draft.replace(path)
    finally:
        remove(draft)


def remove(path: Path) -> None:
    """Remove the file or folder at `path`, if there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write `table` to `path` as parquet."""
    with replace_atomically(path) as draft:
        table.to_parquet(draft, index=False, compression="zstd")


def read_table(path: Path, columns: Collection[str] | None = None) -> pd.DataFrame:
    """Return the table in the parquet at `path`, or these columns of it; ArtifactError where the file is damaged."""
    return pd.read_parquet(digests.verify(path), columns=None if columns is None else list(columns))


def list_labels(dataset: str, targets: Collection[str]) -> list[Path]:
    """Return the labels of a dataset, one file for each target, by name; ArtifactError where one is damaged."""
    return [digests.verify(LABELS / dataset / f"{target}.parquet") for target in sorted(targets)]


def read_clean(dataset: str, columns: Collection[str]) -> pd.DataFrame:
    """Return those of these columns that the clean table of a dataset has, in its order."""
    file = digests.verify(CLEAN / f"{dataset}.parquet")
    return pd.read_parquet(file, columns=[name for name in pq.read_schema(file).names if name in columns])


def read_attributes(schema: pa.Schema) -> dict[str, Any]:
    """Return the `attrs` of the table that was written as parquet with this schema."""
    attributes: dict[str, Any] = json.loads((schema.metadata or {}).get(ATTRIBUTES_KEY, b"{}"))
    return attributes


def read_json(path: Path) -> Any:
    """Return the content of the JSON file at `path`."""
    return json.loads(path.read_text())


def read_report(stage: str, key: str) -> Any:
    """Return the content of a report that `write_report` wrote; ArtifactError where the file is damaged."""
    content = read_json(digests.verify(report_path(stage, key)))
    del content["sha256"]
    return content


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`."""
    with replace_atomically(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write `content` to `path` as JSON; NaN becomes null."""
    write_text(path, _render_json(content))


def write_report(stage: str, key: str, content: Mapping[str, Any]) -> None:
    """Write a report that another stage reads, with its digest as the last key; NaN becomes null."""
    write_text(report_path(stage, key), digests.add_report_digest(_render_json(content)))


def write_figure(path: Path, figure: "Figure") -> None:
    """Write `figure` to `path` as PNG, the same bytes for the same figure."""
    with replace_atomically(path) as draft:
        figure.savefig(draft, format="png", metadata={"Software": None})


def write_record(path: Path, lines: str) -> None:
    """Write lines of JSON to `path`, and a last one with their digest."""
    write_text(path, digests.add_record_digest(lines))


def _render_json(content: Any) -> str:
    return json.dumps(_to_plain(content), indent=2, allow_nan=False) + "\n"


def _to_plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _to_plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(inner) for inner in value]
    if isinstance(value, np.ndarray):
        return _to_plain(value.tolist())
    if isinstance(value, np.generic):
        return _to_plain(value.item())
    if isinstance(value, float):
        return None if value != value else float(f"{value:.10g}")
    return value
