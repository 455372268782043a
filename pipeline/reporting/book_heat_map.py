"""Draw an order book over its events, with the scores of a model: the size that rests at each price, as a heat map.

`python -m pipeline.reporting.book_heat_map MODEL FILE.png --first EVENT --events 2000` draws out-of-sample predictions,
of the lowest split that tests the events.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from pipeline import artifacts, cli, config, digests
from pipeline.reporting.plots import BLUE, GRAY, INK, ORANGE, RED, style_axes

PIXELS = 700  # events of a window are averaged into at most so many columns
MAX_ROWS = 400  # prices: wider ticks are merged
STRONG = 0.9  # quantile of |score| from which on a prediction is marked
MAX_MARKS = 60
LEVELS = 10


@dataclass(frozen=True, eq=False)
class BookWindow:
    """Consecutive events of one symbol: ten levels of each side, an empty one with size 0, and the mid."""

    event: np.ndarray  # (N,)
    price: np.ndarray  # (N, 20) in the quote currency
    size: np.ndarray  # (N, 20)
    mid: np.ndarray  # (N,)
    score: np.ndarray  # (N,) in [-1, 1]; NaN where nothing is predicted

    @classmethod
    def from_tables(cls, clean: pd.DataFrame, score: pd.Series) -> "BookWindow":
        """Return the window of rows of a clean table; `score` is indexed by event."""
        names = [f"{side}_{{}}_{level}" for side in ("ask", "bid") for level in range(1, LEVELS + 1)]
        price, size = (clean[[name.format(field) for name in names]].to_numpy() for field in ("price", "size"))
        event = clean["event"].to_numpy()
        return cls(event, price, size, clean["close"].to_numpy(), score.reindex(event).to_numpy(np.float64))


def rasterize(window: BookWindow) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean size at each price and stretch of events, (P, E), with the edges (E + 1,) and (P + 1,).

    Prices are counted in ticks, the smallest difference of two prices in the window.
    """
    known = np.unique(window.price[window.size > 0])
    steps = np.diff(known)
    tick = float(steps[steps > 1e-9 * known[-1]].min()) if len(known) > 1 else 1.0
    rows = int(round((known[-1] - known[0]) / tick)) + 1
    tick *= -(-rows // MAX_ROWS)
    columns = np.arange(len(window.event)) * min(PIXELS, len(window.event)) // len(window.event)
    is_known = window.size > 0
    place = np.round((window.price[is_known] - known[0]) / tick).astype(np.int64)
    column = np.broadcast_to(columns[:, None], window.size.shape)[is_known]
    total = np.zeros((int(place.max()) + 1, int(columns[-1]) + 1))
    np.add.at(total, (place, column), window.size[is_known])
    count = np.bincount(columns)
    starts = np.append(np.flatnonzero(np.diff(columns, prepend=-1)), len(columns) - 1)
    return total / count, window.event[starts], known[0] + tick * (np.arange(len(total) + 1) - 0.5)


def plot_book(window: BookWindow, *, title: str) -> Figure:
    """Return the heat map of the sizes with the mid and the strongest scores on it, and all scores below."""
    figure = Figure(figsize=(11.0, 6.4), dpi=100, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1.0])
    size, events, prices = rasterize(window)
    style_axes(upper, title)
    shown = np.where(size > 0, size, np.nan)
    norm = LogNorm(*np.nanquantile(shown, [0.02, 0.995]))
    mesh = upper.pcolormesh(events, prices, shown, norm=norm, cmap="Greys", shading="flat", rasterized=True)
    figure.colorbar(mesh, ax=upper, pad=0.01).set_label("resting size, mean of the events of a pixel")
    upper.plot(window.event, window.mid, color=ORANGE, lw=1.2, label="mid")
    mark_scores(upper, window)
    upper.set_ylabel("price")
    upper.legend(frameon=True, loc="upper left", fontsize=9)
    upper.grid(visible=False)
    style_axes(lower, "")
    for color, part in ((BLUE, np.fmax(window.score, 0)), (RED, np.fmin(window.score, 0))):
        lower.fill_between(window.event, 0, np.nan_to_num(part), color=color, lw=0, step="mid")
    lower.axhline(0.0, color=INK, lw=0.6)
    lower.set_ylabel("score")
    lower.set_xlabel("event")
    return figure


def mark_scores(axes: Axes, window: BookWindow) -> None:
    """Mark the strongest scores at the mid: triangles up and down; of many, evenly spaced ones."""
    strength = np.abs(np.nan_to_num(window.score))
    if not strength.any():
        return
    strong = np.flatnonzero(strength >= np.quantile(strength, STRONG))
    note = ""
    if len(strong) > MAX_MARKS:
        note = f", {MAX_MARKS} of {len(strong):,}"
        strong = strong[np.linspace(0, len(strong) - 1, MAX_MARKS).astype(np.int64)]
    for sign, marker, color, word in ((1, "^", BLUE, "up"), (-1, "v", RED, "down")):
        rows = strong[np.sign(window.score[strong]) == sign]
        label = f"strongest {1 - STRONG:.0%} of scores, {word}{note}"
        axes.scatter(window.event[rows], window.mid[rows], marker=marker, s=36, c=color, ec=GRAY, lw=0.4, label=label)


def load_window(model: str, *, first: int | None, events: int) -> BookWindow:
    """Return events that a model has predicted out of sample, see `select_events`.

    Raises:
        ValueError: the model's dataset is no order book, or it has no prediction of these events.
    """
    params = config.load_params()
    block = config.find_model(params, model).block
    clean_file = digests.verify(artifacts.CLEAN / f"{block['dataset']}.parquet")
    predictions = artifacts.read_table(artifacts.OOS / f"{model}.parquet", ["split", "time", "symbol", "score"])
    predictions = predictions[predictions["split"] >= 0].drop_duplicates("time").sort_values("time")
    clean = artifacts.read_table(clean_file)
    if "ask_price_1" not in clean.columns:
        raise ValueError(f"{model}: {block['dataset']} has no order book; name a model of a dataset of kind orderbook")
    score = predictions.set_index("time")["score"]
    window = BookWindow.from_tables(select_events(clean, score.index, first=first, events=events), score)
    if np.isnan(window.score).all():
        raise ValueError(f"{model} has no prediction of the {len(window.event):,} events; name another --first")
    return window


def select_events(clean: pd.DataFrame, predicted: pd.Index, *, first: int | None, events: int) -> pd.DataFrame:
    """Return `events` rows of one segment: from the event `first` on, or from the middle of the first predicted one.

    Raises:
        ValueError: `events` is below 1, no predicted event is there, or the table has no event `first`.
    """
    if events < 1:
        raise ValueError(f"--events is {events}; it must be at least 1")
    is_wanted = clean["event"].isin(predicted) if first is None else clean["event"] == first
    if not is_wanted.any():
        known = clean["event"]
        reason = f"no event {first}" if first is not None else "no event with a prediction"
        raise ValueError(f"the clean table has {reason}; it has those from {known.min()} to {known.max()}")
    own = clean[clean["segment"] == clean.loc[is_wanted, "segment"].min()]
    start = len(own) // 2 if first is None else int(np.searchsorted(own["event"].to_numpy(), first))
    selected: pd.DataFrame = own.iloc[start : start + events]
    return selected


def main() -> None:
    """Write the picture that the command line names; exit 1 with one line where it cannot be drawn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="of a dataset of kind orderbook")
    parser.add_argument("file", type=Path, help="PNG to write")
    parser.add_argument("--first", type=int, help="event; default: the middle of the first segment with a prediction")
    parser.add_argument("--events", type=int, default=2000, help="default: 2000")
    arguments = parser.parse_args()
    try:
        window = load_window(arguments.model, first=arguments.first, events=arguments.events)
    except (ValueError, OSError) as error:
        sys.exit(" ".join(cli.describe_error(error).split()))
    title = f"{arguments.model}: scores out of sample over the book, events {window.event[0]:,} to {window.event[-1]:,}"
    artifacts.write_figure(arguments.file, plot_book(window, title=title))


if __name__ == "__main__":
    main()
