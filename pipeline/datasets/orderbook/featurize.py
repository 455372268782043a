"""The features of an order book: those of the compiled engine, standardized where params say so."""

import inspect
from collections.abc import Iterator
from typing import Any

import pandas as pd

from pipeline import config
from pipeline.orderbook import engine
from pipeline.orderbook.normalization import normalize_parts
from pipeline.orderbook.settings import read_settings
from pipeline.row_groups import TableFile

__all__ = ["compute_parts"]


def compute_parts(
    clean: pd.DataFrame | TableFile, *, normalization: config.Block | None = None, **settings: Any
) -> Iterator[engine.BookFeatures]:
    """Yield the features of consecutive rows: the columns of `settings`, standardized as `normalization` says.

    See `engine.compute_parts` and `normalize_parts`. `settings` are the arguments of `read_settings`, which
    `inspect.signature` (so `config.call_with` too) lists.
    """
    return normalize_parts(engine.compute_parts(clean, **settings), clean, normalization)


_FIRST, _NORMALIZATION, _ = inspect.signature(compute_parts).parameters.values()
_KEYS = inspect.signature(read_settings).parameters.values()
vars(compute_parts)["__signature__"] = inspect.Signature([_FIRST, *_KEYS, _NORMALIZATION])
