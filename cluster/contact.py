"""How long a follower goes without hearing its leader: a histogram, as it was measured."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final, NamedTuple

# Upper bounds in seconds. Heartbeats come every 0.1 s, elections after 0.5 to 1 s.
GAP_SECONDS: Final = (0.025, 0.05, 0.1, 0.11, 0.125, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0, 2.0)


class ContactGaps(NamedTuple):
    """Seconds between two messages of the same leader; `counts[i]`: at most GAP_SECONDS[i],
    the last: more."""

    counts: tuple[int, ...] = (0,) * (len(GAP_SECONDS) + 1)
    seconds: float = 0.0  # their sum
    longest: float = 0.0


class ContactMeter:
    """Counts gaps. Loop thread only."""

    def __init__(self) -> None:
        self._counts = [0] * (len(GAP_SECONDS) + 1)
        self._seconds = 0.0
        self._longest = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(GAP_SECONDS, seconds)] += 1
        self._seconds += seconds
        self._longest = max(self._longest, seconds)

    def read(self) -> ContactGaps:
        return ContactGaps(tuple(self._counts), self._seconds, self._longest)
