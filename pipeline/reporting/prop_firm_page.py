"""The page of a prop firm's evaluation: the odds of the signal by risk, then paths as they are."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from pipeline.reporting import markdown

NOTE = """\
Risk: the loss of a full position in a move of one daily standard deviation, a share of the equity. The best one has
the highest expected payout. Challenges trade resampled days of a path; shares are of all challenges, averaged over the
paths. Ruin: a limit is broken in a phase or by the funded account. Payout: of the trader, less the challenge's fee."""
AS_THEY_ARE = """\
One challenge on each path as it is, from its first day on: how many paths pass all phases / break the daily limit /
break the maximum loss / end undecided."""
COLUMNS = {
    "daily_breach": "daily breach",
    "max_breach": "maximum breach",
    "undecided": "undecided",
    "ruin": "ruin",
    "days_to_pass": "days to pass",
    "payout": "payout",
}


def render_page(
    dataset: str, headline: Mapping[str, Any], *, phases: int, by_risk: pd.DataFrame, endings: pd.DataFrame
) -> str:
    """Return the page of a dataset as markdown.

    Args:
        dataset: its name.
        headline: the odds of the signal at the best risk, see `prop_firm_paths.summarize_accounts`.
        phases: of an evaluation.
        by_risk: see `average_odds`, with model and symbol.
        endings: see `count_endings`.
    """
    parts = [f"# Prop firm's evaluation of {dataset}", render_headline(headline), NOTE]
    for (model, symbol), means in by_risk.groupby(["model", "symbol"], sort=False):
        parts += [f"`{model}` on {symbol}:", render_curve(means, phases=phases)]
    if len(endings):
        parts += [AS_THEY_ARE, render_endings(endings)]
    return "\n\n".join(parts) + "\n"


def render_headline(headline: Mapping[str, Any]) -> str:
    """Return the probability to pass in one sentence, or why there is none."""
    if headline["reason"]:
        return f"`{headline['signal']}` has no probability to pass: {headline['reason']}."
    value, low, high = (
        markdown.format_number(headline[f"pass_probability{part}"]) for part in ("", "_lowest", "_highest")
    )
    return (
        f"`{headline['signal']}` passes with a probability of {value} on {headline['symbol']} at the best risk, "
        f"{headline['risk']:g}; {low} to {high} by path."
    )


def render_curve(means: pd.DataFrame, *, phases: int) -> str:
    """Return the odds by risk as a table."""
    passing = {f"pass_{phase}": f"pass {phase} of {phases}" for phase in range(1, phases + 1)}
    columns = {**passing, "pass_probability_lowest": "lowest path", "pass_probability_highest": "highest", **COLUMNS}
    rows = ([f"{row['risk']:g}", *(markdown.format_number(row[each]) for each in columns)] for row in list_rows(means))
    return markdown.render_table(["risk", *columns.values()], rows)


def render_endings(endings: pd.DataFrame) -> str:
    """Return how the paths of each model end, by risk, as a table."""
    names = ["passed", "daily_breach", "max_breach", "undecided"]
    cells = endings.assign(cell=[" / ".join(str(row[name]) for name in names) for row in list_rows(endings)])
    table = cells.pivot(index=["model", "symbol"], columns="risk", values="cell")
    rows = ([f"`{model}`", symbol, *row] for (model, symbol), row in zip(table.index, table.to_numpy(), strict=True))
    return markdown.render_table(["model", "symbol", *(f"risk {risk:g}" for risk in table.columns)], rows)


def list_rows(table: pd.DataFrame) -> list[dict[Any, Any]]:
    """Return the rows of a table."""
    return table.to_dict("records")
