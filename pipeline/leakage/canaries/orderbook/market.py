"""The order book that canaries are planted in: a dataset's own events, in two segments or more."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.features.engine import Features
from pipeline.leakage.settings import GuardSettings

HORIZON, WINDOW = 50, 10  # of the smoothed label, in events
ALPHA = 0.3  # of the label, in half spreads
MIN_EVENTS = 2_000  # of the longest segment
REMOVED_EVENTS = 20  # where a segment is cut in two
GATED_EVENTS = 1_500  # of each of two segments, whose columns are computed again and again

ComputeParts = Callable[[pd.DataFrame], Iterable[Features]]


@dataclass(frozen=True)
class BookMarket:
    """Events in segments, the features of the dataset, and the settings of the guards."""

    events: pd.DataFrame  # a clean table, whose clock is named open_time, as guards know it
    compute_parts: ComputeParts
    settings: GuardSettings
    seed: int


def make_market(events: pd.DataFrame, compute_parts: ComputeParts, *, settings: GuardSettings, seed: int) -> BookMarket:
    """Return the market of a clean table, its longest segment cut in two where it is the only one.

    Raises:
        ValueError: no segment is long enough.
    """
    events = events.rename(columns={"event": "open_time"}).reset_index(drop=True)
    sizes = events["segment"].value_counts()
    if sizes.iloc[0] < MIN_EVENTS:
        raise ValueError(
            f"canary: the longest segment has {sizes.iloc[0]} events; at least {MIN_EVENTS} are needed: raise "
            "canary.bars or give more events"
        )
    if len(sizes) == 1:
        events = cut_segment(events)
    return BookMarket(events, compute_parts, settings, seed)


def cut_segment(events: pd.DataFrame) -> pd.DataFrame:
    """Return the events of one segment as those of two, with REMOVED_EVENTS missing between them."""
    row = np.arange(len(events))
    middle = (len(events) - REMOVED_EVENTS) // 2
    remaining = (row < middle) | (row >= middle + REMOVED_EVENTS)
    segment = events["segment"].to_numpy() + (row >= middle)
    return events.assign(segment=segment.astype(np.int32))[remaining].reset_index(drop=True)


def take_first(events: pd.DataFrame, *, count: int) -> pd.DataFrame:
    """Return the first events of each of the first two segments."""
    place = events.groupby("segment").cumcount()
    own = events["segment"].drop_duplicates().iloc[:2]
    return events[(place < count) & events["segment"].isin(own)].reset_index(drop=True)
