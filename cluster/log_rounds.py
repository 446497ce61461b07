"""A round of the log's writing: each log once to the disk, each file one fsync.

Used by one thread at a time; `log_writer.py` says by which. What is counted here may be read
by the loop at any time.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Final, NamedTuple

from cluster.log_format import Mutation
from cluster.log_segment import Placement, SegmentAppender

# Upper bounds in seconds of what an fsync took: 0.1 ms on a fast disk, 10 on one that turns.
SYNC_SECONDS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
)  # fmt: skip
_DOUBTFUL_SECONDS: Final = 0.01  # of a disk of which nothing is known yet
# How much of the newest fsync is in what is expected of the next one. Who waits for a processor
# measures that, too, so what took less than expected says more of the disk.
_SHARE_OF_LESS: Final = 1 / 8
_SHARE_OF_MORE: Final = 1 / 32
# An fsync that takes this long is a stall, and holds up whoever waits for it. Disks that stall
# once do it again, so for a time in proportion no fsync counts as brief: a loop that does none
# meanwhile loses at most this share of its time to stalls.
STALL_SECONDS: Final = 0.05
STALL_SHARE: Final = 1 / 500


class Done(NamedTuple):
    """What one round made durable for one log."""

    position: int  # of its newest mutation
    bytes: int  # that leave the backlog
    placements: list[Placement]


class Batch(NamedTuple):
    """Mutations of one log, and whom to tell when they are durable."""

    appender: SegmentAppender
    mutations: list[Mutation]
    position: int
    bytes: int
    on_done: Callable[[Done], None]


class SyncFigures(NamedTuple):
    """The fsyncs of the log since the start."""

    counts: tuple[int, ...]  # by SYNC_SECONDS, and those that took longer
    seconds: float  # all together
    loop_rounds: int  # rounds that the loop did


class Rounds:
    """Writes and fsyncs. `monotonic`: seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._unmarked: dict[SegmentAppender, None] = {}  # in the order of their last fsyncs
        self.expected_seconds = _DOUBTFUL_SECONDS  # that the next fsync takes the disk
        self.stalls = False  # did an fsync stall of late, as of the newest one?
        self._stalls_until = 0.0  # by `monotonic`
        self._seconds = 0.0
        self._counts = [0] * (len(SYNC_SECONDS) + 1)

    def run(self, batches: Sequence[Batch]) -> list[tuple[Callable[[Done], None], Done]]:
        """Make the batches durable; returns whom to tell what. Raises OSError: no log among
        them must be used again."""
        by_appender: dict[SegmentAppender, list[Batch]] = {}
        for batch in batches:
            by_appender.setdefault(batch.appender, []).append(batch)
        finished: list[tuple[Callable[[Done], None], Done]] = []
        for appender, group in by_appender.items():
            placements = appender.write(chain.from_iterable(b.mutations for b in group))
            done = Done(group[-1].position, sum(b.bytes for b in group), placements)
            finished.append((group[-1].on_done, done))
        for appender in by_appender:
            started = self._monotonic()
            appender.sync()
            ended = self._monotonic()
            self._observe(ended - started, ended)
        self._unmarked.update(dict.fromkeys(by_appender))
        return finished

    def mark(self) -> None:
        """Once nothing waits: note in each log what its last fsync covered. Raises OSError."""
        for appender in self._unmarked:
            appender.mark()
        self._unmarked.clear()

    def figures(self, loop_rounds: int) -> SyncFigures:
        return SyncFigures(tuple(self._counts), self._seconds, loop_rounds)

    def _observe(self, seconds: float, now: float) -> None:
        if seconds >= STALL_SECONDS:
            self._stalls_until = max(self._stalls_until, now + seconds / STALL_SHARE)
        self.stalls = now < self._stalls_until
        more = seconds - self.expected_seconds
        self.expected_seconds += more * (_SHARE_OF_MORE if more > 0 else _SHARE_OF_LESS)
        self._seconds += seconds
        self._counts[bisect_left(SYNC_SECONDS, seconds)] += 1
