"""The ground that canaries are planted in: a dataset's own bars, made to have what a leak needs in order to leak."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline import bars as klines
from pipeline import labels
from pipeline.features.engine import Features
from pipeline.samples import Samples, contiguous, keyed

HORIZON_BARS, VOLATILITY_BARS = 5, 60  # of the labels that the ground bears
HOLE_BARS, HALT_BARS = 30, 12  # bars that are missing, and bars without trade before they are
REDRAWN_BARS = 60  # how long the stretches are that a second symbol is drawn in
LEAST_BARS, LEAST_WARM_UPS = 2_000, 5  # on either side of the hole: with fewer, too few rows are left to cut folds from

Compute = Callable[[pd.DataFrame], Features]


@dataclass(frozen=True)
class Ground:
    """Bars of two symbols or more, each with a hole after a halt, the rows that they bear, and how guards are asked."""

    bars: pd.DataFrame  # a clean table, as ingest writes it
    bar_ms: int
    warm_up_bars: int
    rows: np.ndarray  # (n,) positions in `bars` of the bars that have features and a label
    samples: Samples  # of these rows: the dataset's own columns, and the return over the next HORIZON_BARS
    seed: int
    cuts: int
    look_ahead_ratio: float
    look_ahead_floor: float
    correlation_threshold: float


def first_bars(table: pd.DataFrame, *, bars: int) -> pd.DataFrame:
    """The first `bars` bars of each symbol of a clean table."""
    if not isinstance(bars, int) or bars < 1:
        raise ValueError(f"canary.bars is {bars!r}; it is a whole number of bars of each symbol, 1 or more")
    return table.groupby("symbol", sort=False).head(bars)


def prepared(
    bars: pd.DataFrame,
    compute: Compute,
    seed: int,
    *,
    cuts: int,
    look_ahead_ratio: float,
    look_ahead_floor: float,
    correlation_threshold: float,
) -> Ground:
    """The ground made of a clean table: of those of its symbols that are long enough, and a second one if need be.

    Raises ValueError where no symbol is long enough for the features' warm-up.
    """
    warm_up_bars = max(compute(bars).warm_up.values())
    long_enough = with_holes(bars, least=max(LEAST_BARS, LEAST_WARM_UPS * warm_up_bars))
    planted = with_halts(with_two_symbols(long_enough, rng=np.random.default_rng(seed)))
    features = compute(planted)
    labelled = labels.forward_return(planted, horizon=HORIZON_BARS, volatility_window=VOLATILITY_BARS).table
    rows, known, true = np.intersect1d(features.rows, labelled["row"], return_indices=True)
    return Ground(
        bars=planted,
        bar_ms=klines.interval_ms(planted),
        warm_up_bars=warm_up_bars,
        rows=rows,
        samples=_samples(features, labelled, known=known, true=true),
        seed=seed,
        cuts=cuts,
        look_ahead_ratio=look_ahead_ratio,
        look_ahead_floor=look_ahead_floor,
        correlation_threshold=correlation_threshold,
    )


def with_holes(bars: pd.DataFrame, *, least: int) -> pd.DataFrame:
    """The symbols that keep `least` bars on both sides of a hole, each with HOLE_BARS missing in the middle.

    The hole lies in a symbol's longest unbroken stretch. Raises ValueError where no symbol is long enough.
    """
    bar_ms, parts, longest = klines.interval_ms(bars), [], 0
    for _, part in bars.groupby("symbol", sort=False):
        stretch = np.concatenate([[0], np.cumsum(np.diff(part["open_time"]) != bar_ms)])
        rows = np.flatnonzero(stretch == np.argmax(np.bincount(stretch)))
        longest, before = max(longest, len(rows)), (len(rows) - HOLE_BARS) // 2
        if before >= least:
            parts.append(part.drop(part.index[rows[before : before + HOLE_BARS]]))
    if not parts:
        raise ValueError(
            f"canary: the longest unbroken stretch has {longest} bars; {2 * least + HOLE_BARS + 1} are wanted, so that "
            f"{least} stand on both sides of a hole: give more bars, raise canary.bars or shorten the features' windows"
        )
    return pd.concat(parts, ignore_index=True)


def with_two_symbols(bars: pd.DataFrame, *, rng: np.random.Generator) -> pd.DataFrame:
    """A clean table of several symbols: of the one there is and its bars drawn anew, where there is but one."""
    raw = bars.drop(columns="segment")
    table, _ = klines.clean(raw if raw["symbol"].nunique() > 1 else pd.concat([raw, redrawn(raw, rng=rng)]))
    return table


def redrawn(part: pd.DataFrame, *, rng: np.random.Generator) -> pd.DataFrame:
    """Another symbol of the same times: the bars of `part` in stretches drawn at random, each following the last."""
    count = len(part)
    first = rng.integers(0, count - REDRAWN_BARS, size=-(-count // REDRAWN_BARS))
    place = (first[:, None] + np.arange(REDRAWN_BARS)).ravel()[:count]
    close, start = part["close"].to_numpy(), float(part["open"].iloc[0])
    growth = close / np.append(start, close[:-1])
    scale = start * np.cumprod(growth[place]) / close[place]
    priced = [*klines.PRICES, "quote_volume", "taker_buy_quote"]
    drawn = part.iloc[place].reset_index(drop=True)
    drawn[priced] = drawn[priced].mul(scale, axis=0)
    drawn[["open_time", "close_time"]] = part[["open_time", "close_time"]].to_numpy()
    return drawn.assign(symbol=drawn["symbol"] + "_REDRAWN")


def with_halts(bars: pd.DataFrame) -> pd.DataFrame:
    """The last HALT_BARS of each segment stand still, without volume, at the close before them."""
    left = bars.groupby("segment").cumcount(ascending=False)
    halted = ((left < HALT_BARS) & (bars.groupby("segment").cumcount() > 0)).to_numpy()
    still = bars["close"].where(~halted).ffill()
    frozen = {name: bars[name].where(~halted, still) for name in klines.PRICES}
    empty = {name: bars[name].where(~halted, 0) for name in klines.AMOUNTS}
    return bars.assign(**frozen, **empty)


def _samples(features: Features, labelled: pd.DataFrame, *, known: np.ndarray, true: np.ndarray) -> Samples:
    table = labelled.iloc[true]
    time = table["time"].to_numpy()
    return Samples(
        time=time,
        label_end=table["label_end"].to_numpy(),
        segment=contiguous(keyed(table["segment"].to_numpy(), time)),
        x=np.ascontiguousarray(features.x[known]),
        columns=features.columns,
        y=table["y"].to_numpy(),
        move=table["move"].to_numpy(),
    )
