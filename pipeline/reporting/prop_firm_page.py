"""The page of a prop firm's evaluation: the odds of the signal by risk, then paths as they are."""

from collections.abc import Callable, Mapping, Sequence
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
    "payout": "payout, quote currency",
}
PATHS = {"pass_probability_lowest": "lowest path", "pass_probability_highest": "highest"}


def render_page(
    dataset: str,
    headline: Mapping[str, Any],
    *,
    details: Mapping[str, Any],
    by_risk: pd.DataFrame,
    endings: pd.DataFrame,
    notes: Sequence[str],
) -> str:
    """Return the page of a dataset as markdown.

    Args:
        dataset: its name.
        headline: the odds of the signal at the best risk, see `prop_firm_paths.summarize_accounts`.
        details: with `rules`, `challenges` and `by_path`, as the stage writes them.
        by_risk: see `average_odds`, with model and symbol.
        endings: see `count_endings`.
        notes: paragraphs under the title, see `source_note.note_source`.
    """
    phases = len(details["rules"]["targets"])
    parts = [f"# Prop firm's evaluation of {dataset}", *notes, render_headline(headline, details), NOTE]
    for (model, symbol), means in by_risk.groupby(["model", "symbol"], sort=False):
        parts += [f"`{model}` on {symbol}:", render_curve(means, phases=phases)]
    if len(endings):
        parts += [AS_THEY_ARE, render_endings(endings)]
    return "\n\n".join(parts) + "\n"


def render_headline(headline: Mapping[str, Any], details: Mapping[str, Any]) -> str:
    """Return the probability to pass with its uncertainty, or why there is none."""
    if headline["reason"]:
        return f"`{headline['signal']}` has no probability to pass: {headline['reason']}."
    value, low, high = (
        markdown.format_number(headline[f"pass_probability{part}"]) for part in ("", "_lowest", "_highest")
    )
    return (
        f"`{headline['signal']}` passes with a probability of {value} on {headline['symbol']} at the best risk, "
        f"{headline['risk']:g}; {low} to {high} by path.\n"
        f"{describe_uncertainty(headline, details, show=markdown.format_number)}"
    )


def describe_uncertainty(
    headline: Mapping[str, Any], details: Mapping[str, Any], *, show: Callable[[float], str]
) -> str:
    """Return in sentences how sure a probability to pass is, and whether a larger risk may have a higher payout.

    Args:
        headline: the odds of the signal at a best risk that is defined.
        details: with `rules`, `challenges` and `by_path`.
        show: writes a share as text.
    """
    challenges, phases = details["challenges"], len(details["rules"]["targets"])
    own = [row for row in details["by_path"] if all(row[key] == headline[key] for key in ("symbol", "risk"))]
    low = min(row[f"pass_{phases}_low"] for row in own if row["model"] == headline["signal"])
    text = (
        f"Each path has {challenges['resamples']} resampled challenges; the {100 * challenges['confidence']:g} % "
        f"interval of the lowest path begins at {show(low)}."
    )
    if headline["risk"] == max(challenges["risks"]):
        text += " The best risk is the largest risk tried: a larger one may pay more."
    return text


def name_odds(phases: int) -> dict[str, str]:
    """Return the head of each column of the odds by risk, in their order."""
    passing = {f"pass_{phase}": f"pass {phase} of {phases}" for phase in range(1, phases + 1)}
    return {**passing, **PATHS, **COLUMNS}


def render_curve(means: pd.DataFrame, *, phases: int) -> str:
    """Return the odds by risk as a table."""
    columns = name_odds(phases)
    rows = ([f"{row['risk']:g}", *(format_odds(row[each]) for each in columns)] for row in list_rows(means))
    return markdown.render_table(["risk", *columns.values()], rows)


def format_odds(value: float) -> str:
    """Return four significant digits; of 1,000 and more the whole number, with separators of thousands.

    >>> format_odds(16087.4), format_odds(0.03)
    ('16,087', '0.03')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else markdown.format_number(value)


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
