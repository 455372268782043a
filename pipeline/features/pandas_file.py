"""Columns in pandas, to try an idea: each file of `in_pandas/` computes those of one segment from its table of bars."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from pipeline import config
from pipeline.features.registry import list_files

FOLDER = Path(__file__).parent / "in_pandas"


@dataclass(frozen=True)
class PandasFile:
    """A file of `in_pandas/` with its windows."""

    name: str
    compute: Callable[[pd.DataFrame], pd.DataFrame]  # one segment's bars -> its columns, same index
    warm_up_bars: int  # bars at a segment's start without a value


def load_pandas_file(name: str, block: config.Block) -> PandasFile:
    """Return a file of `in_pandas/` with the windows of its block.

    Raises ParamsError where there is no such file, or where a key or value is not allowed.
    """
    known = list_files(FOLDER)
    if name not in known:
        has = ", ".join(known) or "no file"
        raise config.ParamsError(f"features.in_pandas: there is no {name!r}; pipeline/features/in_pandas has {has}")
    module, path = importlib.import_module(f"pipeline.features.in_pandas.{name}"), f"features.in_pandas.{name}"
    config.check_section(module.compute, block, name=path)
    windows = {key: block[key] for key in config.list_keys(module.count_warm_up_bars) if key in block}
    warm_up_bars = config.call_with(module.count_warm_up_bars, block=windows, name=path)
    return PandasFile(name, partial(module.compute, **block), warm_up_bars)


def compute_columns(file: PandasFile, segment: pd.DataFrame, *, warm: int, names: Sequence[str] | None) -> pd.DataFrame:
    """Return a file's columns, float32, of one segment's bars from row `warm` on; each uses its own bars alone.

    `names` are the columns of the segments before; None: there is none before.
    """
    bars = segment.reset_index(drop=True)
    table = file.compute(bars)
    _check_table(table, bars, file.name, names=names or ())
    with np.errstate(over="ignore"):  # a value beyond float32 becomes infinite, and is reported as such
        values = table.iloc[warm:].to_numpy(np.float32, na_value=np.nan)
    return pd.DataFrame(values, columns=table.columns)


def _check_table(table: object, segment: pd.DataFrame, name: str, *, names: Sequence[str]) -> None:
    """Raise ValueError where a result is not a table of numbers with the segment's index and the columns `names`."""
    if not isinstance(table, pd.DataFrame):
        fault = f"a {type(table).__name__}"
    elif not table.index.equals(segment.index):
        fault = f"another index, of {len(table)} rows for {len(segment)} bars"
    elif not all(isinstance(column, str) for column in table.columns) or table.columns.has_duplicates:
        fault = f"the columns {list(table.columns)}"
    elif not all(is_numeric_dtype(dtype) for dtype in table.dtypes):
        fault = f"columns of {', '.join(sorted({str(dtype) for dtype in table.dtypes}))}"
    elif names and list(table.columns) != names:
        fault = f"the columns {list(table.columns)} after {names}"
    else:
        return
    raise ValueError(
        f"pipeline/features/in_pandas/{name}.py: compute returned {fault}; allowed is a DataFrame with the index of "
        "its bars and the same columns of numbers for every segment"
    )
