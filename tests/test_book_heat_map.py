"""The heat map of an order book: sizes by price and event, and which scores are marked."""

import numpy as np
import pandas as pd
import pytest

from pipeline.reporting.book_heat_map import BookWindow, plot_book, rasterize, select_events


def make_window(score: list[float]) -> BookWindow:
    """Return three events of a book with one level on each side, at 99.5 and 100.5, then 99 and 100."""
    bid, ask = np.array([99.5, 99.5, 99.0]), np.array([100.5, 100.5, 100.0])
    columns = {"event": np.array([7, 8, 12]), "close": (bid + ask) / 2}
    for level in range(1, 11):
        best = level == 1
        columns |= {f"ask_price_{level}": ask * best, f"ask_size_{level}": np.full(3, 5.0) * best}
        columns |= {f"bid_price_{level}": bid * best, f"bid_size_{level}": np.array([1.0, 2.0, 4.0]) * best}
    return BookWindow.from_tables(pd.DataFrame(columns), pd.Series(score, index=[7, 8, 12]))


def test_a_size_stands_at_its_price_and_event_and_empty_levels_nowhere():
    size, events, prices = rasterize(make_window([0.1, 0.2, 0.3]))
    assert events.tolist() == [7, 8, 12, 12]
    assert prices.tolist() == [98.75, 99.25, 99.75, 100.25, 100.75]
    assert size.tolist() == [[0, 0, 4], [1, 2, 0], [0, 0, 5], [5, 5, 0]]


def test_the_strongest_scores_are_marked_at_the_mid():
    upper = plot_book(make_window([0.1, 0.2, -0.9]), title="book").axes[0]
    (up, down) = upper.collections[-2:]
    assert len(up.get_offsets()) == 0
    assert down.get_offsets().tolist() == [[12.0, 99.5]]


def test_an_event_without_a_prediction_has_no_mark():
    figure = plot_book(make_window([np.nan, np.nan, np.nan]), title="book")
    assert figure.axes[0].get_legend_handles_labels()[1] == ["mid"]


def test_a_first_event_of_any_segment_is_drawn_and_one_that_is_not_there_is_refused():
    clean = pd.DataFrame({"segment": [0, 0, 0, 1, 1, 1], "event": [0, 2, 4, 1, 3, 5]})
    predicted = pd.Index([3, 4])
    assert select_events(clean, predicted, first=3, events=9)["event"].tolist() == [3, 5]
    assert select_events(clean, predicted, first=None, events=1)["event"].tolist() == [2]
    with pytest.raises(ValueError, match="no event 7; it has those from 0 to 5"):
        select_events(clean, predicted, first=7, events=9)
    with pytest.raises(ValueError, match="--events is 0; it must be at least 1"):
        select_events(clean, predicted, first=3, events=0)
