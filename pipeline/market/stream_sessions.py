"""The sessions of a market around the bars of a stream: which bar follows which, as `ingest` numbers them."""

from datetime import UTC, datetime

import numpy as np

from pipeline.market.sessions import OUTSIDE, AtOpen, Hours, Overnight, Sessions, list_years, number_bars

NEVER_MS = int(np.iinfo(np.int64).max)  # when a market closes that has no calendar


class StreamSessions:
    """The sessions of the whole years of the bars so far, listed again where a bar of a further year comes."""

    def __init__(self, *, exchange: str | Hours, restarts: bool, bar_ms: int) -> None:
        """Begin without a session: the first bar says which years are listed."""
        self.exchange, self.restarts, self.bar_ms = exchange, restarts, bar_ms
        never = np.empty(0, np.int64)
        self._years, self._sessions = (0, -1), Sessions(never, never, np.empty(0, dtype=np.bool_))

    def count_steps(self, from_ms: int, to_ms: int) -> int | None:
        """Return how many bars after that at `from_ms` the bar at `to_ms` is; None where none of a session opens then.

        Closed hours have no bars: the first bar of a session is one bar after the last of the session before.
        """
        self._list_years(from_ms, to_ms)
        numbers, _ = number_bars(np.array([from_ms, to_ms]), self._sessions, bar_ms=self.bar_ms)
        first, last = numbers.tolist()
        return None if OUTSIDE in (first, last) else last - first

    def find_close(self, time_ms: int) -> int:
        """Return when the market closes after a time within a session."""
        self._list_years(time_ms, time_ms)
        place = np.searchsorted(self._sessions.open_ms, time_ms, side="right") - 1
        return int(self._sessions.close_ms[place])

    def ends_session(self, time_ms: int) -> bool:
        """Return whether a time lies in the last interval of its session: a break ends none."""
        self._list_years(time_ms, time_ms)
        place = np.searchsorted(self._sessions.open_ms, time_ms, side="right") - 1
        return bool(self._sessions.ends_session[place])

    def _list_years(self, first_ms: int, last_ms: int) -> None:
        first, last = (datetime.fromtimestamp(ms / 1000, UTC).year for ms in (first_ms, last_ms))
        if not self._years[0] <= first <= last <= self._years[1]:
            self._sessions, self._years = list_years(first_ms, last_ms, exchange=self.exchange), (first, last)


def make_stream_sessions(
    *,
    exchange: str | Hours | None,
    features: AtOpen,
    positions: Overnight,
    bar_ms: int | None,
) -> StreamSessions | None:
    """Return the sessions of a section `calendar`; None where `exchange` is null: the market never closes.

    `positions` is for the trades of a deployment, and changes no features. Raises ValueError without a bar length.
    """
    if exchange is None:
        return None
    if bar_ms is None:
        raise ValueError("calendar: its bars cannot be numbered without their length; give Stream its interval_ms too")
    return StreamSessions(exchange=exchange, restarts=features == "restart", bar_ms=bar_ms)
