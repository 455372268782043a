"""A clean table of events as the compiled update takes it: integers and amounts of each event, and the segments."""

import numpy as np
import pandas as pd

from pipeline.features.rolling import Floats, Integers
from pipeline.orderbook.columns import BOOK

NUMBER_NAMES = ("time_ns", "order_id", "action", "side")
AMOUNT_NAMES = ("size", "price", *BOOK)


def read_events(events: pd.DataFrame) -> tuple[Integers, Floats]:
    """Return the integers (N, 4) and the amounts (N, 42) of events."""
    if missing := [name for name in (*NUMBER_NAMES, *AMOUNT_NAMES) if name not in events.columns]:
        raise ValueError(f"events: columns {missing} are missing; there are {list(events.columns)}")
    numbers = np.empty((len(events), len(NUMBER_NAMES)), np.int64)
    amounts = np.empty((len(events), len(AMOUNT_NAMES)))
    for i, name in enumerate(NUMBER_NAMES):
        numbers[:, i] = events[name].to_numpy()
    for i, name in enumerate(AMOUNT_NAMES):
        amounts[:, i] = events[name].to_numpy()
    return numbers, amounts


def find_segments(events: pd.DataFrame) -> tuple[Integers, Integers]:
    """Return each segment's number and first row; ValueError where there are none, or a segment's rows are apart."""
    if "segment" not in events.columns:
        raise ValueError("events: there is no column segment; give the clean table, which stage ingest writes")
    segment = events["segment"].to_numpy(np.int64)
    starts = np.flatnonzero(np.append(np.ones(min(len(segment), 1), np.bool_), segment[1:] != segment[:-1]))
    unique, runs = np.unique(segment[starts], return_counts=True)
    if (runs > 1).any():
        raise ValueError(f"events: the rows of segment {unique[runs > 1][0]} are not adjacent; sort them by segment")
    return segment[starts], starts
