"""What a Raft log keeps in memory: terms, places on disk, recent bodies. Pure.

All three describe the entries of one log, contiguous from `first_index`.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from operator import attrgetter
from pathlib import Path

from cluster.log_format import SEGMENT_HEADER_BYTES

RECENT_OVERHEAD_BYTES = 128  # bytes that one cached entry costs besides its body

_first_of = attrgetter("first")


class TermRuns:
    """Term of each index, run-length encoded: terms change rarely."""

    __slots__ = ("_starts", "_terms", "base_term")

    def __init__(self) -> None:
        self.base_term: int | None = None  # of the index before the first; None: not known
        self._starts: list[int] = []
        self._terms: list[int] = []

    @property
    def last(self) -> int:
        """Term of the last entry; without one, of the base (0 where it is not known)."""
        return self._terms[-1] if self._terms else self.base_term or 0

    def append(self, index: int, term: int) -> None:
        """Invariant: `index` follows the last one appended or kept."""
        if not self._terms or self._terms[-1] != term:
            self._starts.append(index)
            self._terms.append(term)

    def truncate(self, index: int) -> None:
        while self._starts and self._starts[-1] >= index:
            self._starts.pop()
            self._terms.pop()

    def reset(self, base_term: int) -> None:
        """Forget every entry; the next one follows an index that had `base_term`."""
        self._starts.clear()
        self._terms.clear()
        self.base_term = base_term

    def drop_below(self, index: int) -> None:
        """Forget entries below `index`, which is held, as is the one before it."""
        self.base_term = self.at(index - 1)
        run = bisect_right(self._starts, index) - 1
        del self._starts[:run]
        del self._terms[:run]
        self._starts[0] = index

    def at(self, index: int) -> int:
        """Term of a held index; the caller checks that it is held."""
        if index >= self._starts[-1]:
            return self._terms[-1]
        return self._terms[bisect_right(self._starts, index) - 1]


class Segment:
    """One segment file and where in it entries first, first + 1, … begin."""

    __slots__ = ("bytes", "first", "offsets", "path", "seed", "sequence")

    def __init__(self, path: Path, sequence: int, seed: int, first: int) -> None:
        self.path = path
        self.sequence = sequence
        self.seed = seed
        self.first = first
        self.offsets: array[int] = array("Q")
        self.bytes = SEGMENT_HEADER_BYTES  # header and durable records, without zeros ahead


class SegmentIndex:
    """The segments of one log, oldest first. Never empty after `add`.

    Invariant: segments[k + 1].first == segments[k].first + len(segments[k].offsets).
    """

    __slots__ = ("segments",)

    def __init__(self) -> None:
        self.segments: list[Segment] = []

    @property
    def first_index(self) -> int:
        return self.segments[0].first

    @property
    def last_index(self) -> int:
        newest = self.segments[-1]
        return newest.first + len(newest.offsets) - 1

    @property
    def bytes(self) -> int:
        return sum(segment.bytes for segment in self.segments)

    def add(self, segment: Segment) -> None:
        self.segments.append(segment)

    def truncate(self, index: int) -> None:
        """Drop entries >= `index`. The files stay: what they hold beyond it is dead."""
        for segment in reversed(self.segments):
            if segment.first < index:
                del segment.offsets[index - segment.first :]
                return
            segment.first = index
            del segment.offsets[:]

    def reset(self, first: int) -> list[Segment]:
        """Drop every entry: the next one is `first`, in the newest segment.

        Takes out and returns the others, which nothing needs once that is durable.
        """
        newest = self.segments.pop()
        dead, self.segments = self.segments, [newest]
        newest.first = first
        del newest.offsets[:]
        return dead

    def find(self, index: int) -> tuple[Segment, int]:
        """Segment and offset of a held index."""
        segment = self.segments[bisect_right(self.segments, index, key=_first_of) - 1]
        return segment, segment.offsets[index - segment.first]

    def drop_below(self, index: int) -> list[Segment]:
        """Take out the oldest segments all of whose entries are < `index`, but the newest.

        None if that would drop no entry: one of them may hold the reset that says what
        term the base had.
        """
        count = 0
        while count + 1 < len(self.segments) and self.segments[count + 1].first <= index:
            count += 1
        if self.segments[count].first == self.first_index:
            return []
        dropped = self.segments[:count]
        del self.segments[:count]
        return dropped


class RecentEntries:
    """Bodies of the newest entries, a contiguous run that ends at the last index."""

    __slots__ = ("_bodies", "_first", "bytes")

    def __init__(self, next_index: int) -> None:
        self._bodies: dict[int, bytes] = {}
        self._first = next_index
        self.bytes = 0  # bodies and overhead

    def get(self, index: int) -> bytes | None:
        return self._bodies.get(index)

    def append(self, index: int, body: bytes) -> None:
        self._bodies[index] = body
        self.bytes += len(body) + RECENT_OVERHEAD_BYTES

    def truncate(self, index: int) -> None:
        for dead in range(max(index, self._first), self._first + len(self._bodies)):
            self.bytes -= len(self._bodies.pop(dead)) + RECENT_OVERHEAD_BYTES
        self._first = min(self._first, index)

    def trim(self, bytes_max: int, durable_index: int) -> None:
        """Forget the oldest bodies until `bytes_max` is kept, but none that is not on disk."""
        while self.bytes > bytes_max and self._bodies and self._first <= durable_index:
            self.bytes -= len(self._bodies.pop(self._first)) + RECENT_OVERHEAD_BYTES
            self._first += 1

    def reset(self, next_index: int) -> None:
        self._bodies.clear()
        self._first = next_index
        self.bytes = 0

    def drop_below(self, index: int) -> None:
        while self._bodies and self._first < index:
            self.bytes -= len(self._bodies.pop(self._first)) + RECENT_OVERHEAD_BYTES
            self._first += 1
        if not self._bodies:
            self._first = max(self._first, index)
