"""The values of a file, part by part, whatever its bytes: columns of a table, arrays, keys of JSON, tensors of a graph.

A new version of a library may write the same table with other bytes. Compression, row groups, the order of keys and the
names of writers are no values. A sha256 within a file, which stands for the bytes of other files, is none either.
"""

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import artifacts

Parts = Mapping[str, Any]  # arrays, numbers and text by name
Source = Path | bytes

SHA256 = re.compile(r"\b[0-9a-f]{64}\b")
NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.])")
DIGEST_LENGTH = 16  # hexadecimal digits of the digest of a part
FIRST_KEY = re.compile(r"[.\[ ]")  # where the first key of a part's name ends
MAX_PARTS = 100  # of a file that have a digest of their own
TEXT, NUMBERS, BYTES, ALL = "text", "numbers", "bytes", "all values"
ONNX_WRITER = ("producer_name", "producer_version", "doc_string")


class TableColumns(Mapping[str, Any]):
    """The columns of a parquet file, each read when it is needed, and its `attrs`."""

    def __init__(self, source: Source) -> None:
        """Open the file."""
        self._file = pq.ParquetFile(io.BytesIO(source) if isinstance(source, bytes) else source)
        schema = self._file.schema_arrow
        self._names = schema.names
        self._attributes = dict(flatten_json(artifacts.read_attributes(schema), "attrs"))

    def __getitem__(self, name: str) -> Any:
        """Return a column as an array, or a value of `attrs`."""
        if name in self._attributes:
            return self._attributes[name]
        if name not in self._names:
            raise KeyError(name)
        column = self._file.read(columns=[name]).column(name)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        return column.to_pandas().to_numpy()

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of columns, then those of `attrs`."""
        return iter((*self._names, *self._attributes))

    def __len__(self) -> int:
        """Return the number of columns and values of `attrs`."""
        return len(self._names) + len(self._attributes)


def open_parts(name: str, source: Source) -> Parts:
    """Return the parts of a file of this name; its ending says how it is read, and `bytes` is all of another kind.

    Raises:
        ValueError: the content is not of the kind that the name says; names the file.
    """
    path = PurePosixPath(name)
    reader = READERS.get(path.suffix, _read_text)
    try:
        return reader(source)
    except UnicodeDecodeError:
        return {BYTES: hashlib.sha256(read_bytes(source)).hexdigest()[:DIGEST_LENGTH]}
    except (ValueError, pa.ArrowException) as error:
        raise ValueError(f"{name} cannot be read as {path.suffix}: {' '.join(str(error).split())}") from error


def read_bytes(source: Source) -> bytes:
    """Return all bytes of a file."""
    return source if isinstance(source, bytes) else source.read_bytes()


def digest_parts(parts: Parts) -> dict[str, str]:
    """Return the digest of each part's values; where there are many, of all parts whose names begin alike."""
    digests = {name: digest_value(parts[name]) for name in parts}
    if len(digests) > MAX_PARTS:
        groups: dict[str, dict[str, str]] = {}
        for name, digest in digests.items():
            groups.setdefault(FIRST_KEY.split(name, maxsplit=1)[0], {})[name] = digest
        digests = {name: digest_value(group) for name, group in groups.items()}
    return digests if len(digests) <= MAX_PARTS else {ALL: digest_value(digests)}


def digest_value(value: Any) -> str:
    """Return a digest of an array, a number or a text; all NaN are alike, and so are 0 and −0.

    >>> digest_value(np.float64([0.0, np.nan])) == digest_value(np.float64([-0.0, -np.nan]))
    True
    >>> digest_value(np.float32([1.0])) == digest_value(np.float64([1.0]))
    False
    """
    if isinstance(value, np.ndarray) and value.dtype != object:
        head = f"{value.dtype.str}{value.shape}".encode()
        content = np.ascontiguousarray(value)
        if content.dtype.kind == "f":
            content = content + np.zeros(1, content.dtype)
            content[np.isnan(content)] = np.nan
        return hashlib.sha256(head + content.tobytes()).hexdigest()[:DIGEST_LENGTH]
    listed = value.tolist() if isinstance(value, np.ndarray) else value
    text = json.dumps(listed, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]


def flatten_json(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of JSON by dotted keys; a list of numbers is one array. Digests are left out.

    Whole numbers stay whole: they are compared without tolerance.

    >>> dict(flatten_json({"rows": [1, 2], "ic": [0.5, 1]}))
    {'ic': array([0.5, 1. ]), 'rows': array([1, 2])}
    """
    if isinstance(content, Mapping):
        for key in sorted(content):
            yield from flatten_json(content[key], f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(content, list) and content and all(is_number(each) for each in content):
        yield prefix, np.array(content)
    elif isinstance(content, list) and content:
        for place, each in enumerate(content):
            yield from flatten_json(each, f"{prefix}[{place}]")
    elif isinstance(content, str):
        if not SHA256.fullmatch(content):
            yield prefix, SHA256.sub("", content)
    else:
        yield prefix, content


def is_number(value: Any) -> bool:
    """Return whether a value of JSON is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _read_json(source: Source) -> Parts:
    return dict(flatten_json(json.loads(read_bytes(source))))


def _read_json_lines(source: Source) -> Parts:
    lines = [json.loads(line) for line in read_bytes(source).decode().splitlines() if line]
    return dict(flatten_json(lines))


def _read_csv(source: Source) -> Parts:
    content = io.BytesIO(read_bytes(source))
    table = pd.read_csv(content)
    return {str(name): table[name].to_numpy() for name in table}


def _read_arrays(source: Source) -> Parts:
    loaded = np.load(io.BytesIO(read_bytes(source)), allow_pickle=False)
    return {"array": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}


def _read_text(source: Source) -> Parts:
    """Return the numbers of a text, and the rest of it."""
    text = SHA256.sub("", read_bytes(source).decode())
    return {NUMBERS: np.array(NUMBER.findall(text), dtype=float), TEXT: NUMBER.sub("#", text)}


def _read_pixels(source: Source) -> Parts:
    from PIL import Image

    with Image.open(io.BytesIO(read_bytes(source))) as image:
        return {"pixels": np.asarray(image)}


def _read_graph(source: Source) -> Parts:
    """Return tensors and attributes of a graph of ONNX, and its other fields; its writer is left out."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_from_string(read_bytes(source))
    except DecodeError as error:
        raise ValueError(str(error)) from error
    parts: dict[str, Any] = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    del model.graph.initializer[:]
    for place, node in enumerate(model.graph.node):
        for attribute in node.attribute:
            value = onnx.helper.get_attribute_value(attribute)
            if isinstance(value, onnx.TensorProto):
                parts[f"node {place} {node.op_type}.{attribute.name}"] = onnx.numpy_helper.to_array(value)
            else:
                is_numbers = isinstance(value, list | float | int) and not any(map(_is_message, np.atleast_1d(value)))
                parts[f"node {place} {node.op_type}.{attribute.name}"] = np.array(value) if is_numbers else str(value)
        del node.attribute[:]
    for field in ONNX_WRITER:
        model.ClearField(field)
    return parts | {"graph": SHA256.sub("", str(model))}


def _is_message(value: Any) -> bool:
    return not isinstance(value, int | float | np.number)


def _read_booster(source: Source) -> Parts:
    """Return the keys of a model of XGBoost, as its JSON has them."""
    import xgboost

    booster = xgboost.Booster()
    booster.load_model(bytearray(read_bytes(source)))
    return dict(flatten_json(json.loads(booster.save_raw("json"))))


READERS: dict[str, Callable[[Source], Parts]] = {
    ".parquet": TableColumns,
    ".json": _read_json,
    ".jsonl": _read_json_lines,
    ".csv": _read_csv,
    ".npz": _read_arrays,
    ".npy": _read_arrays,
    ".onnx": _read_graph,
    ".png": _read_pixels,
    ".ubj": _read_booster,
}
