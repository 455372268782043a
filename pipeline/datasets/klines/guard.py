"""The functions that recompute features and labels of klines, for the guards that remove or alter bars."""

from pipeline import config
from pipeline.features.chunks import FIELDS
from pipeline.features.engine import compute, compute_parts
from pipeline.labels import make_labels

__all__ = ["compute", "compute_parts", "list_columns", "make_labels"]

HAS_GATES = False


def list_columns(block: config.Block) -> list[str] | None:
    """Return the columns of the clean table that features read; None: all, where columns in pandas may read any."""
    if block.get("in_pandas"):
        return None
    return ["segment", *(["symbol"] if block.get("symbol_flags") else []), *FIELDS]
