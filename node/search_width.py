"""The width of approximate searches, held to a recall that is sampled. Pure.

A search of an HNSW graph looks at so many candidates; more of them find more of what is near,
and take longer. Now and then a search is done exactly as well, and of the nearest ones it is
counted how many the graph had found. Where that share is below the target, the width doubles;
where it is well above, a narrower one is tried, down to the one that the collection's settings
name. Exact searches take a bounded share of the time that searches take.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

FIRST_EXECUTIONS: Final = 20  # of a pattern, before its recall is looked at
EXACT_SHARE_MAX: Final = 0.02  # of the time of all searches
WINDOW_HITS: Final = 400  # that were looked for, for a verdict
EARLY_HITS: Final = 80  # for one that is plain
EARLY_Z: Final = 4.0  # standard deviations below the target; neighbours of one search go together
AMPLE: Final = 0.5  # of what the target leaves to miss: with less missed, less width may do
HISTORY_MAX: Final = 16


class Step(NamedTuple):
    """A recall that was measured, and the width that followed."""

    width: int
    recall: float
    following: int


class Width:
    """One pattern's. One thread at a time."""

    def __init__(self, target: float) -> None:
        self.target = target
        self.doublings = 0
        self.recall: float | None = None  # of the last full window
        self.samples = 0  # searches that were compared
        self.exact_seconds = 0.0
        self.search_seconds = 0.0
        self.searches = 0
        self.history: deque[Step] = deque(maxlen=HISTORY_MAX)
        self._at_most = False
        self._too_narrow = -1  # doublings whose recall was below the target
        self._size = 0  # of the collection, when that was seen
        self._found = 0
        self._wanted = 0

    def width(self, least: int, most: int) -> int:
        return min(least << self.doublings, max(least, most))

    @property
    def due(self) -> bool:
        """Is the next search to be compared with an exact one?"""
        if self.searches < FIRST_EXECUTIONS:
            return False
        return self.exact_seconds <= EXACT_SHARE_MAX * self.search_seconds

    @property
    def exhausted(self) -> bool:
        """Is the recall below the target, and the width what it can be at most?"""
        return self._at_most and self.recall is not None and self.recall < self.target

    def searched(self, seconds: float, searches: int = 1) -> None:
        """So many of them, each of which took so long."""
        self.searches += searches
        self.search_seconds += seconds * searches

    def compared(
        self, width: int, least: int, most: int, found: int, wanted: int, seconds: float, size: int
    ) -> None:
        """Of `wanted` nearest ones, a search of this width had `found`; the exact one took so
        long. `size`: of the collection."""
        self.samples += 1
        self.exact_seconds += seconds
        if width != self.width(least, most):
            return  # it has changed meanwhile
        self._found += found
        self._wanted += wanted
        if self._wanted < WINDOW_HITS and not self._plainly_short():
            return
        self._at_most = width >= most
        recall = self.recall = self._found / self._wanted
        self._found = self._wanted = 0
        if size > 2 * self._size:
            self._size, self._too_narrow = size, -1
        if recall < self.target:
            self._too_narrow = self.doublings
            if width < most:
                self.doublings += 1
        elif self.doublings > self._too_narrow + 1 and self._ample(recall):
            self.doublings -= 1
        following = self.width(least, most)
        if following != width or not self.history or self.history[-1].width != width:
            self.history.append(Step(width, recall, following))

    def _plainly_short(self) -> bool:
        """Is what was found so far below the target by more than chance explains?"""
        wanted = self._wanted
        deviation = (self.target * (1 - self.target) * wanted) ** 0.5
        return wanted >= EARLY_HITS and self._found < self.target * wanted - EARLY_Z * deviation

    def _ample(self, recall: float) -> bool:
        return 1 - recall <= AMPLE * (1 - self.target)
