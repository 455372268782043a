"""The features of an order book: those of the compiled engine, standardized where params say so."""

from collections.abc import Iterator

import pandas as pd

from pipeline import config
from pipeline.orderbook import engine
from pipeline.orderbook.normalization import normalize_parts
from pipeline.orderbook.settings import READY_EVENTS, TICK_SIZE, TIMEZONE, Count, Session, TickSize, Windows
from pipeline.row_groups import TableFile

__all__ = ["compute_parts"]


def compute_parts(
    clean: pd.DataFrame | TableFile,
    *,
    columns: list[str] | str | None = None,
    windows: Windows | None = None,
    timezone: str = TIMEZONE,
    session: Session | None = None,
    tick_size: TickSize = TICK_SIZE,
    ready_events: Count = READY_EVENTS,
    normalization: config.Block | None = None,
) -> Iterator[engine.BookFeatures]:
    """Yield the features of consecutive rows; see `engine.compute_parts`, and `normalize_parts` for `normalization`."""
    parts = engine.compute_parts(
        clean,
        columns=columns,
        windows=windows,
        timezone=timezone,
        session=session,
        tick_size=tick_size,
        ready_events=ready_events,
    )
    return normalize_parts(parts, clean, normalization)
