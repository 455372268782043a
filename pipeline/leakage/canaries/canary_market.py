"""The market that canaries are planted in: a dataset's own bars, changed so that every leak can show."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pydantic import PositiveInt

from pipeline import labels
from pipeline.features.engine import Features
from pipeline.leakage.settings import GuardSettings
from pipeline.market import bars as klines
from pipeline.samples import Samples, number_runs

HORIZON_BARS, VOLATILITY_BARS = 5, 60  # of the market's labels
GAP_BARS, HALT_BARS = 30, 12  # missing bars, and bars without trade before them
REDRAWN_BARS = 60  # length of the blocks that a second symbol is drawn in
MIN_BARS, MIN_WARM_UPS = 2_000, 5  # on either side of the gap: with fewer, too few rows are left to make folds

Compute = Callable[[pd.DataFrame], Features]


@dataclass(frozen=True)
class CanaryMarket:
    """Bars of two symbols or more, each with a gap after a halt, their rows, and the settings of the guards."""

    bars: pd.DataFrame  # a clean table, as ingest writes it
    bar_ms: int
    warm_up_bars: int
    rows: np.ndarray  # (n,) positions in `bars` of the bars that have features and a label
    samples: Samples  # of these rows: the dataset's own columns, and the return over the next HORIZON_BARS
    settings: GuardSettings
    seed: int


def find_first_bars(symbol: pd.Series, *, bars: PositiveInt) -> np.ndarray:
    """Return (n,) the positions of the first `bars` bars of each symbol; `symbol` has that of every bar."""
    return np.flatnonzero(symbol.groupby(symbol, sort=False).cumcount() < bars)


def make_market(bars: pd.DataFrame, compute: Compute, *, settings: GuardSettings, seed: int) -> CanaryMarket:
    """Return the canary market made of a clean table: its symbols that are long enough, or one and a redrawn second.

    `compute` returns the features of a clean table.

    Raises:
        ValueError: no symbol is long enough for the features' warm-up.
    """
    bars = remove_closings(bars)
    warm_up_bars = max(compute(bars).warm_up_bars.values())
    long_symbols = cut_gaps(bars, min_bars=max(MIN_BARS, MIN_WARM_UPS * warm_up_bars))
    changed = add_halts(ensure_two_symbols(long_symbols, rng=np.random.default_rng(seed)))
    features = compute(changed)
    labeled = labels.forward_return(changed, horizon=HORIZON_BARS, volatility_window=VOLATILITY_BARS).table
    rows, feature_rows, label_rows = np.intersect1d(features.rows, labeled["row"], return_indices=True)
    return CanaryMarket(
        bars=changed,
        bar_ms=klines.find_interval_ms(changed),
        warm_up_bars=warm_up_bars,
        rows=rows,
        samples=_make_samples(features, labeled.iloc[label_rows], rows=feature_rows),
        settings=settings,
        seed=seed,
    )


def remove_closings(bars: pd.DataFrame) -> pd.DataFrame:
    """Return clean bars of a market with sessions as those of one that never closes; others as they are.

    The bars of a calendar follow one another on a grid of times, and only missing ones leave a gap.
    """
    if "bar_number" not in bars.columns:
        return bars
    bar_ms, number = klines.find_interval_ms(bars), bars["bar_number"]
    time = int(bars["open_time"].min()) + (number - number.min()) * bar_ms
    table = bars.drop(columns=["bar_number", "closes_positions"])
    table = table.assign(open_time=time, close_time=time + bar_ms - 1)
    return table.assign(segment=klines.number_segments(table))


def cut_gaps(bars: pd.DataFrame, *, min_bars: int) -> pd.DataFrame:
    """Return the symbols that keep `min_bars` bars on both sides of a gap, each with GAP_BARS missing in the middle.

    The gap lies in the middle of a symbol's longest unbroken run.

    Raises:
        ValueError: no symbol is long enough.
    """
    bar_ms, parts, longest = klines.find_interval_ms(bars), [], 0
    for _, part in bars.groupby("symbol", sort=False):
        run = np.concatenate([[0], np.cumsum(np.diff(part["open_time"]) != bar_ms)])
        rows = np.flatnonzero(run == np.argmax(np.bincount(run)))
        longest, before = max(longest, len(rows)), (len(rows) - GAP_BARS) // 2
        if before >= min_bars:
            parts.append(part.drop(part.index[rows[before : before + GAP_BARS]]))
    if not parts:
        raise ValueError(
            f"canary: the longest unbroken run has {longest} bars; at least {2 * min_bars + GAP_BARS + 1} are needed, "
            f"{min_bars} on both sides of a gap: give more bars, raise canary.bars or shorten the features' windows"
        )
    return pd.concat(parts, ignore_index=True)


def ensure_two_symbols(bars: pd.DataFrame, *, rng: np.random.Generator) -> pd.DataFrame:
    """Return a clean table of several symbols; to a single symbol, a redrawn one is added."""
    raw = bars.drop(columns="segment")
    table, _ = klines.clean(raw if raw["symbol"].nunique() > 1 else pd.concat([raw, redraw_symbol(raw, rng=rng)]))
    return table


def redraw_symbol(part: pd.DataFrame, *, rng: np.random.Generator) -> pd.DataFrame:
    """Return another symbol of the same times: random blocks of the bars of `part`, chained by return."""
    count = len(part)
    first = rng.integers(0, count - REDRAWN_BARS, size=-(-count // REDRAWN_BARS))
    position = (first[:, None] + np.arange(REDRAWN_BARS)).ravel()[:count]
    close, start = part["close"].to_numpy(), float(part["open"].iloc[0])
    growth = close / np.append(start, close[:-1])
    scale = start * np.cumprod(growth[position]) / close[position]
    priced = [*klines.PRICES, *(name for name in ("quote_volume", "taker_buy_quote") if name in part)]
    drawn = part.iloc[position].reset_index(drop=True)
    drawn[priced] = drawn[priced].mul(scale, axis=0)
    drawn[["open_time", "close_time"]] = part[["open_time", "close_time"]].to_numpy()
    return drawn.assign(symbol=drawn["symbol"] + "_REDRAWN")


def add_halts(bars: pd.DataFrame) -> pd.DataFrame:
    """Return the bars with the last HALT_BARS of each segment frozen at the close before them, without volume."""
    left = bars.groupby("segment").cumcount(ascending=False)
    is_halted = ((left < HALT_BARS) & (bars.groupby("segment").cumcount() > 0)).to_numpy()
    last_close = bars["close"].where(~is_halted).ffill()
    frozen = {name: bars[name].where(~is_halted, last_close) for name in klines.PRICES}
    empty = {name: bars[name].where(~is_halted, 0) for name in klines.AMOUNTS if name in bars}
    return bars.assign(**frozen, **empty)


def _make_samples(features: Features, table: pd.DataFrame, *, rows: np.ndarray) -> Samples:
    """Return the samples of a table of labels and of these `rows` of the features."""
    time = table["time"].to_numpy()
    return Samples(
        time=time,
        label_end=table["label_end"].to_numpy(),
        segment=number_runs(table["segment"].to_numpy(), table["row"].to_numpy()),
        x=np.ascontiguousarray(features.x[rows]),
        columns=features.columns,
        y=table["y"].to_numpy(),
    )
