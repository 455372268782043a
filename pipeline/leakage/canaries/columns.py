"""Columns of a feature table, computed, external or edited, and the guards that check them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.leakage.canaries.canary_market import HORIZON_BARS, CanaryMarket
from pipeline.leakage.features import Part, look_ahead, take_next_moves, target_leakage, truncation
from pipeline.leakage.findings import Finding

GUARDS = ("truncation", "look_ahead", "target_leakage")
HOUR_BARS, DAY_BARS = 60, 1_440  # of one-minute bars; of others as many

Formula = Callable[[pd.DataFrame], np.ndarray]  # bars, with `clock` -> (N,) float64, not finite where undefined
PartFormula = Callable[[pd.DataFrame], pd.Series]
KEY = ["symbol", "open_time"]


@dataclass(frozen=True)
class CanaryColumn:
    """One column of the feature table, (N,) for every bar, and the code that is declared to have computed it."""

    values: np.ndarray
    formula: Formula | None  # None: delivered from outside, and merged by symbol and time


ColumnMaker = Callable[[CanaryMarket], CanaryColumn]


def define_computed(formula: Formula) -> ColumnMaker:
    """Return the maker of a column that the pipeline computes from the bars; it is recomputed in the same way."""
    return lambda market: CanaryColumn(formula(add_clock(market.bars, market)), formula)


def define_external(values: Callable[[CanaryMarket, np.random.Generator], pd.Series]) -> ColumnMaker:
    """Return the maker of a column that is delivered from outside: its inputs are not at hand to recompute it."""
    return lambda market: CanaryColumn(values(market, np.random.default_rng(market.seed)).to_numpy(np.float64), None)


def define_edited(formula: Formula, edit: Callable[[pd.Series], pd.Series]) -> ColumnMaker:
    """Return the maker of a column that is computed, and then changed in the table, segment by segment."""

    def make_column(market: CanaryMarket) -> CanaryColumn:
        computed = pd.Series(formula(add_clock(market.bars, market)))
        return CanaryColumn(computed.groupby(market.bars["segment"]).transform(edit).to_numpy(), formula)

    return make_column


def run_guards(makers: Mapping[str, ColumnMaker], market: CanaryMarket) -> dict[str, list[Finding]]:
    """Return the findings about each column of one table, whose rows begin when a segment has warmed up."""
    names, columns = list(makers), [make(market) for make in makers.values()]
    stored = make_column_table([column.values for column in columns])
    positions = market.bars[KEY].assign(position=np.arange(len(market.bars)))

    def recompute(bars: pd.DataFrame) -> list[Part]:
        rows, with_clock = find_warm_rows(bars, market), add_clock(bars, market)
        position = bars[KEY].merge(positions, on=KEY, how="left")["position"].to_numpy()
        values = [column.formula(with_clock) if column.formula else column.values[position] for column in columns]
        return [(rows, make_column_table(values)[rows])]

    rows, samples, settings = find_warm_rows(market.bars, market), market.samples, market.settings
    x = stored[market.rows]  # of the rows that have a label
    limits = {"ratio": settings.look_ahead_ratio, "floor": settings.look_ahead_floor}
    after_cut = truncation(market.bars, recompute, (rows, stored[rows]), names, cuts=settings.cuts, seed=market.seed)
    with_moves = look_ahead(x, names, take_next_moves(market.bars, market.rows), samples.segment, **limits)
    targets, threshold = {f"return_{HORIZON_BARS}": samples.y}, settings.correlation_threshold
    return {
        name: [
            select_truncation(after_cut, name),
            select_look_ahead(with_moves, name, **limits),
            *target_leakage(x[:, [j]], [name], targets, threshold=threshold),
        ]
        for j, name in enumerate(names)
    }


def select_truncation(table: Finding, name: str) -> Finding:
    """Return the finding about one column, given that of `truncation` about its table."""
    changed, not_reproduced = (table.measurements[key].get(name) for key in ("changed", "not_reproduced"))
    measurements = {"cuts": table.measurements["cuts"], "changed": changed, "not_reproduced": not_reproduced}
    if not_reproduced:
        message = f"{name} of the bar at {not_reproduced['time_ms']} is not reproduced from the bars"
    elif changed:
        cut_ms = changed["cut_after_ms"]
        message = f"{name} of the bar at {changed['time_ms']} changes when the bars after {cut_ms} are removed"
    else:
        message = f"{name} stays the same to the bit at {measurements['cuts']} cut times"
    return Finding(table.guard, "critical" if changed or not_reproduced else "ok", message, measurements)


def select_look_ahead(table: Finding, name: str, *, ratio: float, floor: float) -> Finding:
    """Return the finding about one column, given that of `look_ahead`, whose message names only the first few."""
    if "future_correlation" not in table.measurements:  # too few rows to judge any column
        return table
    future, past = (table.measurements[key][name] for key in ("future_correlation", "past_correlation"))
    is_critical = table.severity == "critical" and future > max(floor, ratio * past)
    message = f"{name}: correlation {future:.2f} with future moves, {past:.2f} with past ones"
    measurements = {"future_correlation": future, "past_correlation": past}
    return Finding(table.guard, "critical" if is_critical else "ok", message, measurements)


def find_warm_rows(bars: pd.DataFrame, market: CanaryMarket) -> np.ndarray:
    """Return the positions of the bars whose segment has warmed up."""
    return np.flatnonzero(bars.groupby("segment").cumcount() >= market.warm_up_bars)


def make_column_table(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Return the columns as (N, F) float32, 0 where undefined."""
    values = np.column_stack(columns)
    return np.where(np.isfinite(values), values, 0.0).astype(np.float32)


def add_clock(bars: pd.DataFrame, market: CanaryMarket) -> pd.DataFrame:
    """Return the bars with `clock`, the number of the bar since 1970, and a number for the symbol."""
    return bars.assign(clock=bars["open_time"] // market.bar_ms, symbol=pd.factorize(bars["symbol"])[0])


def apply_by(key: str, formula: PartFormula) -> Formula:
    """Return the formula that applies `formula` to each segment or symbol by itself."""

    def apply(bars: pd.DataFrame) -> np.ndarray:
        borders = np.flatnonzero(np.diff(bars[key])) + 1
        parts = zip([0, *borders], [*borders, len(bars)], strict=True)
        return np.concatenate([formula(bars.iloc[first:end]).to_numpy(np.float64) for first, end in parts])

    return apply


def apply_to_file(formula: PartFormula) -> Formula:
    """Return the formula that applies `formula` to all bars at once, as one file."""
    return lambda bars: formula(bars).to_numpy(np.float64)
