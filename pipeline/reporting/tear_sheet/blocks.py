"""The parts of a report page: sections of tables, figures and notes, which the template renders in order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

State = Literal["supported", "not supported", "not known"]


@dataclass(frozen=True)
class Note:
    """A paragraph of plain text."""

    text: str
    kind: str = "note"


@dataclass(frozen=True)
class Statement:
    """A claim about the results, whether the evidence supports it, and the figures that say so."""

    state: State
    claim: str
    evidence: str


@dataclass(frozen=True)
class Verdict:
    """A sentence that sums up, and the statements behind it."""

    summary: str
    statements: Sequence[Statement]
    kind: str = "verdict"


@dataclass(frozen=True)
class Table:
    """A table of texts; the first column names the row."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    kind: str = "table"


@dataclass(frozen=True)
class Figure:
    """A picture with its caption; the picture has its own alternative text.

    A wide one takes the whole width, and scrolls on a phone.
    """

    title: str
    svg: Markup
    note: str = ""
    is_wide: bool = False
    kind: str = "figure"


@dataclass(frozen=True)
class Section:
    """A heading with its anchor, and what stands below it."""

    anchor: str
    title: str
    blocks: Sequence[Note | Verdict | Table | Figure]
    level: int = 2
