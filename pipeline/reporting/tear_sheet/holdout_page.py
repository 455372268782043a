"""The section of a report on the sealed holdout: who has looked at it, and what was seen there."""

from pipeline.reporting.tear_sheet.blocks import Note, Section, Table
from pipeline.reporting.tear_sheet.evidence import DatasetEvidence, Look
from pipeline.reporting.tear_sheet.formats import format_day, format_number, format_percent
from pipeline.reporting.tear_sheet.series import DAY_MS

NOT_OPENED = (
    "The ledger has no look at the holdout of this market. `dvc exp run -S 'holdout.models=[trees.lightgbm]'` opens it "
    "for one model, here `trees.lightgbm`; each look lowers the significance of all of them."
)
NOTE = (
    "Looks of the ledger at the last times of this market, of any revision or experiment. Sharpe ratios are "
    "annualized, net of costs, of bars."
)
HARVEST = "A look counts once `python -m pipeline.evaluation.ledger harvest` has added it."
HEAD = ("model", "target", "parameters", "first day", "last day", "net return", "Sharpe, bars")


def make_holdout(evidence: DatasetEvidence) -> Section:
    """Return every look of the ledger at the holdout, or that there is none."""
    rows = [describe_look(look) for look in evidence.looks]
    title = f"Looks at the holdout: {len(rows)}"
    blocks = [Table(title, HEAD, rows, note=f"{NOTE} {HARVEST}")] if rows else [Note(f"{NOT_OPENED} {HARVEST}")]
    return Section("holdout", "Holdout", blocks)


def describe_look(look: Look) -> list[str]:
    """Return the cells of one look; the parameters are named by their digest."""
    last_day = look.first_day + len(look.daily) - 1
    return [
        look.model,
        look.target,
        look.digest,
        format_day(look.first_day * DAY_MS),
        format_day(last_day * DAY_MS),
        format_percent(look.net_return),
        format_number(look.sharpe),
    ]
