"""The labels of every row, the prices and the costs of trading, against which predictions of a model are measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import pandas as pd

from pipeline import artifacts, config, digests
from pipeline.evaluation import performance
from pipeline.evaluation.liquidity import COLUMNS
from pipeline.evaluation.trading_grid import TradingGrid, make_grid
from pipeline.fills import Fills, find_fills
from pipeline.row_groups import read_clean
from pipeline.samples import read_labels
from pipeline.targets import Output, Target
from pipeline.trading_rules import Costs, Rules, read_costs, read_rules


class Executable(Protocol):
    """Trades of rows (N,) at the quotes, from their order to the end of their labels; NaN without quotes."""

    @property
    def long(self) -> np.ndarray:
        """Net return of buying, a share of the value traded."""

    @property
    def short(self) -> np.ndarray:
        """Net return of selling."""

    @property
    def move(self) -> np.ndarray:
        """Return of the mid between the two executions."""

    @property
    def half_spread(self) -> np.ndarray:
        """Mean half spread of the two, relative to the mid."""


@dataclass(frozen=True)
class EvaluationData:
    """The labels of every row of a dataset, its bars, and the rules and costs of trading it."""

    rows: pd.DataFrame  # segment, time, symbol, is_labeled
    clean: pd.DataFrame  # every bar: the clock, what `find_fills` reads, and `liquidity.COLUMNS` as far as there are
    y: np.ndarray
    output: Output
    target: str  # its name
    is_included: np.ndarray  # (N,) bool, whether the model predicts the row's symbol
    symbols: tuple[str, ...]  # that it predicts
    bar_ms: int | None  # None where the clock is no grid: then no bar is missing
    bars_per_year: float
    rules: Rules
    costs: Costs
    risk_free_rate: float = 0.0  # per year
    to_ms: Callable[[np.ndarray], np.ndarray] = np.asarray  # from the clock to the instants that plots show
    time_column: str = "open_time"  # of `clean`: the clock
    find_fills: Callable[..., Fills] = find_fills  # of the dataset's kind
    strategy: Mapping[str, Any] | None = None  # of the target, whose metrics reports have
    label_end: np.ndarray | None = None  # (N,) the clock's time at which each label is known
    measure_executable: Callable[..., Executable] | None = None  # where the dataset's kind has quotes
    y_by_horizon: np.ndarray | None = None  # (N, horizons), the last is y; None of a target with one horizon

    def __post_init__(self) -> None:
        """Keep the grids that were made: each delay of an evaluation has one."""
        make = partial(
            make_grid,
            self.clean,
            self.find_fills,
            time_column=self.time_column,
            symbols=self.symbols,
            bar_ms=self.bar_ms,
        )
        object.__setattr__(self, "_make_grid", cache(lambda delay_bars: make(delay_bars=delay_bars)))

    def find_grid(self, delay_bars: int) -> TradingGrid:
        """Return the fills of all bars of the symbols, of orders with this delay."""
        grid: TradingGrid = self._make_grid(delay_bars)  # type: ignore[attr-defined]
        return grid

    @cached_property
    def symbol_code(self) -> np.ndarray:
        """(N,) the place of each row's symbol among `symbols`; -1 of one that the model does not predict."""
        return np.asarray(pd.Categorical(self.rows["symbol"], categories=list(self.symbols)).codes)

    @property
    def is_labeled(self) -> np.ndarray:
        """(N,) bool, whether a row has a label; all have one where `rows` has no such column.

        A row without a label is traded, but no forecast is measured there.
        """
        return np.asarray(self.rows.get("is_labeled", np.ones(len(self.rows), bool)))


def select_symbols(clean: pd.DataFrame, symbols: Sequence[str]) -> pd.DataFrame:
    """Return the rows of these symbols, with the attributes of the table."""
    is_selected = clean["symbol"].isin(symbols)
    selected: pd.DataFrame = clean if is_selected.all() else clean[is_selected]
    return selected


def load_evaluation_data(
    params: config.Block,
    block: config.Block,
    rows: pd.DataFrame,
    *,
    symbols: Sequence[str],
    clock: ModuleType,
    fills: ModuleType,
) -> EvaluationData:
    """Return the labels, prices and costs of the target that a model block names; `symbols` are those it predicts.

    `clock` and `fills` are the modules of these names of the dataset's kind.
    """
    dataset, file = block["dataset"], artifacts.LABELS / block["dataset"] / f"{block['target']}.parquet"
    labels = read_labels(digests.verify(file), rows=rows)
    clean = read_clean(dataset, {clock.TIME, *clock.COLUMNS, *fills.COLUMNS, *COLUMNS})
    target = Target.load(file)
    return EvaluationData(
        rows=rows,
        clean=clean,
        y=labels["y"],
        output=target.output,
        target=block["target"],
        is_included=rows["symbol"].isin(symbols).to_numpy(),
        symbols=tuple(sorted(symbols)),
        bar_ms=clock.find_step(clean),
        bars_per_year=clock.count_rows_per_year(select_symbols(clean, symbols)),
        rules=read_rules(params),
        costs=read_costs(params, dataset),
        risk_free_rate=read_risk_free_rate(params),
        to_ms=partial(clock.to_ms, clean),
        time_column=clock.TIME,
        find_fills=fills.find_fills,
        strategy=target.strategy,
        label_end=labels["label_end"],
        measure_executable=getattr(fills, "measure_executable", None),
        y_by_horizon=labels.get("y_by_horizon"),
    )


def read_risk_free_rate(params: config.Block) -> float:
    """Return the annual risk-free rate of the section `performance`."""
    section = config.look_up(params, "performance")
    return config.call_with(performance.declare_rate, block=section, name="performance")
