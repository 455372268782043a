"""The types of the windows that a feature file declares."""

from typing import Annotated

from annotated_types import Interval, MinLen

MAX_BARS = 100_000
Window = Annotated[int, Interval(ge=1, le=MAX_BARS)]
LongWindow = Annotated[int, Interval(ge=2, le=MAX_BARS)]
Windows = Annotated[list[Window], MinLen(1)]
LongWindows = Annotated[list[LongWindow], MinLen(1)]
