"""Columns of a feature table as they come about: computed from bars, delivered from elsewhere, edited afterwards."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.canaries.ground import HORIZON_BARS, Ground
from pipeline.leakage.features import feature_target, look_ahead, truncation
from pipeline.leakage.findings import Finding

HOUR_BARS, DAY_BARS = 60, 1_440  # of one-minute bars; of others as many

Formula = Callable[[pd.DataFrame], np.ndarray]  # bars, with `clock` -> (N,) float64, not finite where undefined
PartFormula = Callable[[pd.DataFrame], pd.Series]
KEY = ["symbol", "open_time"]


@dataclass(frozen=True)
class Column:
    """What stands in the feature table, (N,) for every bar, and the code that is said to have made it."""

    written: np.ndarray
    formula: Formula | None  # None: delivered from elsewhere, and merged by symbol and time


Planting = Callable[[Ground], Column]


def computed(formula: Formula) -> Planting:
    """A column that code of the pipeline computes from the bars, now as then."""
    return lambda ground: Column(formula(clocked(ground.bars, ground)), formula)


def delivered(values: Callable[[Ground, np.random.Generator], pd.Series]) -> Planting:
    """A column from elsewhere: what it was made of cannot be recomputed."""
    return lambda ground: Column(values(ground, np.random.default_rng(ground.seed)).to_numpy(np.float64), None)


def edited(formula: Formula, edit: Callable[[pd.Series], pd.Series]) -> Planting:
    """A column that was computed, and then changed in the table, segment by segment."""

    def plant(ground: Ground) -> Column:
        honest = pd.Series(formula(clocked(ground.bars, ground)))
        return Column(honest.groupby(ground.bars["segment"]).transform(edit).to_numpy(), formula)

    return plant


def asked(plantings: Mapping[str, Planting], ground: Ground) -> dict[str, list[Finding]]:
    """What the guards of features say of each column of one table, whose rows begin when a segment has warmed up."""
    names, columns = list(plantings), [plant(ground) for plant in plantings.values()]
    written = as_written([column.written for column in columns])
    file = ground.bars[KEY].assign(place=np.arange(len(ground.bars)))

    def recompute(bars: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        rows, ticking = warmed_up(bars, ground), clocked(bars, ground)
        place = bars[KEY].merge(file, on=KEY, how="left")["place"].to_numpy()
        values = [column.formula(ticking) if column.formula else column.written[place] for column in columns]
        return rows, as_written(values)[rows]

    rows, samples = warmed_up(ground.bars, ground), ground.samples
    x = written[ground.rows]  # of the rows that have a label
    limits = {"ratio": ground.look_ahead_ratio, "floor": ground.look_ahead_floor}
    cut = truncation(ground.bars, recompute, (rows, written[rows]), names, cuts=ground.cuts, seed=ground.seed)
    ahead = look_ahead(x, names, samples.move, samples.segment, **limits)
    target = f"return_{HORIZON_BARS}"
    found = {}
    for j, name in enumerate(names):
        disguised = feature_target(x[:, [j]], [name], samples.y, target, threshold=ground.correlation_threshold)
        found[name] = [of_truncation(cut, name), of_look_ahead(ahead, name, **limits), disguised]
    return found


def of_truncation(table: Finding, name: str) -> Finding:
    """What `truncation` said of one of a table's columns: its figures name them one by one."""
    changed, unlike = (table.figures[key].get(name) for key in ("changed", "unlike_bars"))
    figures = {"cuts": table.figures["cuts"], "changed": changed, "unlike_bars": unlike}
    if unlike:
        message = f"{name} of the bar at {unlike['time_ms']} is not what its bars give"
    elif changed:
        cut = changed["cut_after_ms"]
        message = f"{name} of the bar at {changed['time_ms']} changes when the bars after {cut} are cut off"
    else:
        message = f"{name} stays the same to the bit at {figures['cuts']} cuts"
    return Finding(table.guard, "critical" if changed or unlike else "ok", message, figures)


def of_look_ahead(table: Finding, name: str, *, ratio: float, floor: float) -> Finding:
    """What `look_ahead` said of one of a table's columns, by its figures: its message names the first few alone."""
    if "future" not in table.figures:  # too few rows to judge any column
        return table
    future, past = table.figures["future"][name], table.figures["past"][name]
    is_named = table.severity == "critical" and future > max(floor, ratio * past)
    message = f"{name}: correlation {future:.2f} with moves to come, {past:.2f} with those gone by"
    return Finding(table.guard, "critical" if is_named else "ok", message, {"future": future, "past": past})


def warmed_up(bars: pd.DataFrame, ground: Ground) -> np.ndarray:
    """The positions of the bars whose segment has warmed up."""
    return np.flatnonzero(bars.groupby("segment").cumcount() >= ground.warm_up_bars)


def as_written(columns: Sequence[np.ndarray]) -> np.ndarray:
    """(N, F) float32, 0 where undefined."""
    values = np.column_stack(columns)
    return np.where(np.isfinite(values), values, 0.0).astype(np.float32)


def clocked(bars: pd.DataFrame, ground: Ground) -> pd.DataFrame:
    """The bars with `clock`, the number of the bar since 1970, and a number for the symbol."""
    return bars.assign(clock=bars["open_time"] // ground.bar_ms, symbol=pd.factorize(bars["symbol"])[0])


def by(key: str, formula: PartFormula) -> Formula:
    """`formula` of the bars of each segment or symbol by themselves."""

    def of_bars(bars: pd.DataFrame) -> np.ndarray:
        borders = np.flatnonzero(np.diff(bars[key])) + 1
        parts = zip([0, *borders], [*borders, len(bars)], strict=True)
        return np.concatenate([formula(bars.iloc[first:end]).to_numpy(np.float64) for first, end in parts])

    return of_bars


def in_file(formula: PartFormula) -> Formula:
    """`formula` of all bars there are, as one file."""
    return lambda bars: formula(bars).to_numpy(np.float64)


def log_close(bars: pd.DataFrame) -> pd.Series:
    """(N,) log close."""
    return pd.Series(np.log(bars["close"]))


def log_return(bars: pd.DataFrame) -> pd.Series:
    """(N,) log return of each bar; undefined for the first of a segment."""
    return pd.Series(log_close(bars).groupby(bars["segment"]).diff())


def return_ahead(bars: pd.DataFrame) -> pd.Series:
    """(N,) log return over the next HORIZON_BARS of the segment, undefined at its end: what the target is made of."""
    return -pd.Series(log_close(bars).groupby(bars["segment"]).diff(-HORIZON_BARS))


def log_volume(bars: pd.DataFrame) -> pd.Series:
    """(N,) log(1 + volume)."""
    return pd.Series(np.log1p(bars["volume"]))


def paid_over_close(bars: pd.DataFrame) -> pd.Series:
    """(N,) log of the average price paid over the close; undefined where nothing was traded."""
    return pd.Series(np.log(bars["quote_volume"] / bars["volume"] / bars["close"]))
