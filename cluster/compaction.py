"""When a snapshot is made, and how much of the log is kept below it.

A snapshot is due once the log has grown by a number of entries, or by bytes: at least
`log_bytes` and at least the size of the last snapshot, so that writing snapshots costs at
most as much again as writing the log. After it the log is cut, but not all of it: a
follower that was away for a moment is served from the log, and one that is receiving a
snapshot needs what follows it. Both only within `keep_bytes_max`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cluster.errors import Overloaded
from cluster.interfaces import RaftLog, SnapshotMeta, Snapshots
from cluster.membership import Configuration

RETRY_ENTRIES: Final = 1000  # entries between two tries where a snapshot is missing
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class CompactionLimits:
    """Bounds of one group's log."""

    entries_max: int = 100_000  # entries applied since the last snapshot
    log_bytes: int = 64 << 20  # payload bytes applied since then; see the module
    keep_entries: int = 10_000  # entries kept below a snapshot
    keep_bytes_max: int = 512 << 20  # log bytes that followers may make this node keep


class Compactor:
    """Snapshots and compaction of one group. Loop thread only."""

    def __init__(
        self,
        log: RaftLog,
        snapshots: Snapshots,
        limits: CompactionLimits,
        on_snapshot: Callable[[SnapshotMeta], None],
        fail: Callable[[Exception], None],
    ) -> None:
        self._log = log
        self._snapshots = snapshots
        self._limits = limits
        self._on_snapshot = on_snapshot
        self._fail = fail
        self._bytes_since = 0
        self._making = False
        self._entries_from = 0  # counting begins here after one that did not come off
        self.failure: Exception | None = None  # why the last one did not; None: it did

    def started(self, applied_index: int) -> None:
        """Guess, from its share of the log, what was applied since the last snapshot."""
        entries = self._log.last_index - self._log.first_index + 1
        newest = self._snapshots.newest
        since = applied_index - (newest.index if newest else 0)
        if entries > 0:
            self._bytes_since = self._log.size_bytes * min(max(since, 0), entries) // entries

    def applied(self, payload_bytes: int) -> None:
        self._bytes_since += payload_bytes

    def is_due(self, applied_index: int) -> bool:
        newest = self._snapshots.newest
        since = applied_index - max(newest.index if newest else 0, self._entries_from)
        size = newest.size if newest else 0
        if (newest.index if newest else 0) < self._log.first_index - 1 <= applied_index:
            # It was set aside as damaged: nothing joins the log. Try again, but not at once.
            return self._entries_from == 0 or since >= RETRY_ENTRIES
        return since >= self._limits.entries_max or (
            since > 0 and self._bytes_since >= max(self._limits.log_bytes, size)
        )

    def begin(self, configuration_at: Callable[[int], Configuration]) -> bool:
        """Start a snapshot of what is applied now. False: one is under way."""
        if self._making or self._snapshots.busy:
            return False
        counted = self._bytes_since

        def done(meta: SnapshotMeta | None, error: Exception | None) -> None:
            self._making = False
            self.failure = error
            if meta is None:
                self._failed(error or AssertionError("a snapshot ended without a word"))
                return
            self._bytes_since -= counted
            self._on_snapshot(meta)

        self._making = True
        begun = self._snapshots.create(configuration_at, done)
        self._making = self._making and begun
        return begun

    def _failed(self, error: Exception) -> None:
        """Without a snapshot the log only grows on. So what may pass is tried again later:
        no room for the copy, or too many readers to begin one. The rest stops the node."""
        if isinstance(error, Overloaded) or getattr(error, "errno", None) in _NO_ROOM:
            self._bytes_since = 0
            self._entries_from = self._log.last_index
        else:
            self._fail(error)

    def installed(self) -> None:
        """The state came from a snapshot: counting starts there."""
        self._bytes_since = 0

    def cut(self, applied_index: int, needed_index: int) -> None:
        """Forget what nobody needs. `needed_index`: the lowest that a follower lacks.

        What is not applied here stays, though a snapshot may hold it: that snapshot could
        turn out to be damaged, and then the log is all there is.
        """
        newest = self._snapshots.newest
        if newest is None or self._log.first_index > newest.index:
            return
        keep = newest.index - self._limits.keep_entries
        if self._log.size_bytes <= self._limits.keep_bytes_max:
            keep = min(keep, needed_index)
        else:
            keep = newest.index
        # The snapshot's own entry stays: its term joins log and snapshot.
        keep = min(keep, newest.index, applied_index + 1)
        if keep > self._log.first_index:
            self._log.drop_prefix(keep)
