"""Name the rows of a kind of dataset in messages and reports, and what its user can change about them.

Stages and guards write their messages for bars. A kind with other rows has a module `words` with WORDS, which name its
rows in these messages.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

BAR = re.compile(r"(?<![\w./-])bar(s?)(?![./-]?\w)")  # the word alone: neither a key nor a part of a path
MS = re.compile(r"(?<=\d) ms\b")  # of the clock
WARM_UP = "longest warm-up of a feature"


@dataclass(frozen=True, kw_only=True)
class Words:
    """The words of a kind for its rows, and the advice that its keys allow; each stands behind a colon or semicolon."""

    row: str = "row"  # one of them; the plural adds an s
    reach: str = "warm-up"  # what an embargo spans of a feature
    few_features: str = "give more rows"  # where few rows have features, or none
    shorter_reach: str = "give more rows"  # where an embargo leaves none
    wrong_column: str = "correct column {column} of the source"  # whose values are not finite; of {folder} and {group}
    few_labels: str = "lower its windows"  # where no row has a label
    class_limits: str = "move its barriers"  # where all labels are of one class
    wide_tails: str = "limit them in the target"  # where a few labels have most of the squares

    @property
    def rows(self) -> str:
        """Several of them."""
        return f"{self.row}s"

    def adapt(self, text: str) -> str:
        """Return a message about bars with the kind's own rows; times of their clock have the same unit.

        >>> Words(row="event", reach="look-back").adapt("the bar at 7 and 50 bars after; lower embargo_bars")
        'the event at 7 and 50 events after; lower embargo_bars'
        """
        if self.row == "bar":
            return text
        text = MS.sub(f" {self.rows}", BAR.sub(rf"{self.row}\1", text))
        return text.replace(WARM_UP, f"longest {self.reach} of a feature")

    @contextmanager
    def adapt_errors(self) -> Iterator[None]:
        """Let a ValueError pass with its message adapted."""
        try:
            yield
        except ValueError as error:
            if len(error.args) == 1:
                error.args = (self.adapt(str(error)),)
            raise

    def describe_unit(self) -> dict[str, str]:
        """Return what a report has beside its counts of bars, where these are other rows."""
        return {} if self.row == "bar" else {"unit": self.rows}


def find_words(module: ModuleType | None) -> Words:
    """Return the words of a kind's module `words`; None: those of rows of any kind."""
    words: Words = Words() if module is None else module.WORDS
    return words
