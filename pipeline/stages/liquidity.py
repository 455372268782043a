"""liquidity <dataset>: measure the spread that the bars imply, by month, and warn where the costs do not cover it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import artifacts, cli, config
from pipeline.evaluation.liquidity import COLUMNS, find_missing_columns, find_uncovered, measure_liquidity
from pipeline.reporting import markdown
from pipeline.reporting.liquidity_plots import HalfSpreads, plot_half_spreads
from pipeline.reporting.plots import plot_message
from pipeline.trading_rules import Costs, read_costs

HEAD = (
    "symbol",
    "month",
    "bars",
    "idle",
    "quote volume, median",
    "5th percentile",
    "tick",
    "bounce",
    "Roll",
    "Corwin–Schultz",
    "spread",
    "half spread",
    "slippage charged",
    "cost charged",
)
NOTE = """\
Spreads, slippage and costs are in bps; costs (fee and slippage) are charged on each side of a trade. Spread: the larger
of the tick and the bounce, which is twice the mean difference of an open and the close before. Roll and Corwin–Schultz
are second opinions, which volatility blurs. Idle: the share of bars without a trade. Quote volume is that of a bar."""


def main(dataset: str) -> None:
    """Measure the liquidity of a dataset's bars and compare it with the costs that are charged."""
    params = config.load_params()
    source, clean = config.look_up(params, f"datasets.{dataset}.source"), artifacts.read_table(find_bars(dataset))
    title = f"{dataset}: half the implied spread by month"
    if missing := find_missing_columns(clean):
        reason = f"not measured: the clean table lacks {', '.join(missing)}; bars have {', '.join(COLUMNS)}"
        report = {"source": source, "reason": reason, "warnings": [], "periods": []}
        page, figure = f"# {dataset}: liquidity\n\n{reason}\n", plot_message(f"{dataset}: rows are not bars")
    else:
        costs, table = read_costs(params, dataset), measure_liquidity(clean)
        warnings = list_warnings(table, costs, source=source)
        report = make_report(table, costs, source=source, warnings=warnings)
        page = render_page(dataset, table, costs, warnings=warnings)
        figure = plot_half_spreads(split_symbols(table), slippage_bps=costs.slippage_bps, title=title)
    artifacts.write_report("liquidity", dataset, report)
    artifacts.write_text(artifacts.report_path("liquidity", dataset).with_suffix(".md"), page)
    artifacts.write_figure(artifacts.PLOTS / f"liquidity_{dataset}" / "half_spread.png", figure)


def find_bars(dataset: str) -> Path:
    """Return the file of the clean bars of a dataset."""
    return artifacts.CLEAN / f"{dataset}.parquet"


def list_warnings(table: pd.DataFrame, costs: Costs, *, source: str) -> list[str]:
    """Return one warning for each symbol and month whose half spread exceeds the slippage that is charged."""
    return [
        f"{row['symbol']} in {row['period']}: half the implied spread is {row['half_spread_bps']:.2f} bps, the "
        f"slippage charged is {costs.slippage_bps:g} bps; raise costs.{source}.slippage_bps to it, or trade less"
        for row in find_uncovered(table, slippage_bps=costs.slippage_bps).to_dict("records")
    ]


def make_report(table: pd.DataFrame, costs: Costs, *, source: str, warnings: list[str]) -> dict[str, Any]:
    """Return the liquidity of every symbol and month, the costs that are charged, and the warnings."""
    return {
        "source": source,
        "reason": None,
        "fee_bps": costs.fee_bps,
        "slippage_bps": costs.slippage_bps,
        "cost_bps": costs.fee_bps + costs.slippage_bps,
        "warnings": warnings,
        "periods": table.astype(object).where(table.notna(), None).to_dict("records"),
    }


def render_page(dataset: str, table: pd.DataFrame, costs: Costs, *, warnings: list[str]) -> str:
    """Return the liquidity as a page of markdown."""
    title = f"# {dataset}: liquidity of {table['symbol'].nunique()} symbols, {len(warnings)} warnings"
    rows = (render_row(row, costs) for row in table.to_dict("records"))
    reasons = [
        f"- {row['symbol']} in {row['period']}: {row['reason']}"
        for row in table[table["reason"].notna()].to_dict("records")
    ]
    parts = [title, NOTE, "\n".join(f"- {each}" for each in warnings), markdown.render_table(HEAD, rows)]
    return "\n\n".join(part for part in [*parts, "\n".join(reasons)] if part) + "\n"


def render_row(row: Mapping[Any, Any], costs: Costs) -> list[str]:
    """Return the cells of one symbol and month."""
    spreads = ("tick_bps", "bounce_bps", "roll_bps", "corwin_schultz_bps", "spread_bps", "half_spread_bps")
    return [
        row["symbol"],
        row["period"],
        f"{row['bars']:,}",
        f"{row['idle_share']:.2%}",
        f"{row['quote_volume_median']:,.0f}",
        f"{row['quote_volume_low']:,.0f}",
        *(markdown.format_number(row[name]) for name in spreads),
        f"{costs.slippage_bps:g}",
        f"{costs.fee_bps + costs.slippage_bps:g}",
    ]


def split_symbols(table: pd.DataFrame) -> dict[str, HalfSpreads]:
    """Return the half spreads of every symbol, as the picture shows them."""
    return {
        str(symbol): HalfSpreads(part["start_ms"].to_numpy(np.int64), part["half_spread_bps"].to_numpy(np.float64))
        for symbol, part in table.groupby("symbol", sort=True)
    }


if __name__ == "__main__":
    cli.run(main)
