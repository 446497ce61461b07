"""The in-memory twin of `SegmentedLog`, for simulation: the disk is a list.

Same contract, same tests. There is no writer thread: `sync` plays its part, so that a
simulation decides when, and up to where, mutations become durable, and `crash` returns the
log as it would be found after power loss. `drop_prefix` is durable at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from cluster.interfaces import LogEntry
from cluster.log_format import (
    ENTRY,
    HARD_STATE,
    RECORD_HEADER_BYTES,
    RESET,
    TRUNCATE,
    LogOptions,
    Mutation,
    decode_vote,
    encode_vote,
)
from cluster.log_rules import check_append, check_hard_state, check_reset, check_truncation


@dataclass(slots=True)
class _Image:
    """Entries first, first + 1, … and the hard state."""

    first: int = 1
    entries: list[LogEntry] = field(default_factory=list)
    term: int = 0
    vote: str | None = None
    base_term: int | None = None  # of the index before `first`; None: not known
    base_is_recorded: bool = False  # by a reset, so that a crash does not lose it
    bytes: int = 0  # of the entries, as records

    @property
    def last(self) -> int:
        return self.first + len(self.entries) - 1

    def apply(self, mutation: Mutation) -> None:
        if mutation.kind == ENTRY:
            self.entries.append(LogEntry(mutation.index, mutation.term, mutation.payload))
            self.bytes += RECORD_HEADER_BYTES + len(mutation.payload)
        elif mutation.kind == TRUNCATE:
            self._delete(slice(mutation.index - self.first, None))
        elif mutation.kind == RESET:
            self._delete(slice(None))
            self.first = mutation.index + 1
            self.base_term, self.base_is_recorded = mutation.term, True
        else:
            self.term, self.vote = mutation.term, decode_vote(mutation.payload)

    def drop_below(self, index: int) -> None:
        """Forget entries below `index`, which is held, as is the one before it."""
        self.base_term, self.base_is_recorded = self.entries[index - 1 - self.first].term, False
        self._delete(slice(index - self.first))
        self.first = index

    def copy(self) -> _Image:
        return replace(self, entries=list(self.entries))

    def found(self) -> _Image:
        """What an opening finds: a base that no reset recorded has no known term."""
        return replace(self, base_term=self.base_term if self.base_is_recorded else None)

    def _delete(self, dead: slice) -> None:
        self.bytes -= sum(RECORD_HEADER_BYTES + len(e.payload) for e in self.entries[dead])
        del self.entries[dead]


class MemoryLog:
    """`RaftLog` without a disk. Loop thread only.

    Invariant: `_disk` is `_view` without the mutations in `_pending`, of which the first
    `_submitted` were flushed.
    """

    def __init__(self, disk: _Image | None = None) -> None:
        self.on_durable: Callable[[], None] | None = None
        self._disk = disk or _Image()
        self._view = self._disk.copy()
        self._pending: deque[Mutation] = deque()
        self._submitted = 0
        self._position = 0
        self._durable_index = self._disk.last
        self._body_bytes_max = LogOptions().record_bytes_max
        self._closed = False

    @property
    def first_index(self) -> int:
        return self._view.first

    @property
    def last_index(self) -> int:
        return self._view.last

    @property
    def last_term(self) -> int:
        view = self._view
        return view.entries[-1].term if view.entries else view.base_term or 0

    @property
    def size_bytes(self) -> int:
        """Bytes that the entries held would take as records, durable or not."""
        return self._view.bytes

    @property
    def term(self) -> int:
        return self._view.term

    @property
    def vote(self) -> str | None:
        return self._view.vote

    @property
    def position(self) -> int:
        return self._position

    @property
    def durable_position(self) -> int:
        return self._position - len(self._pending)

    @property
    def durable_index(self) -> int:
        return self._durable_index

    @property
    def backlog_bytes(self) -> int:
        """Bytes buffered or submitted, not yet synced."""
        return sum(RECORD_HEADER_BYTES + len(mutation.payload) for mutation in self._pending)

    @property
    def submitted(self) -> int:
        """Mutations that were flushed and are not durable: `crash` may keep so many."""
        return self._submitted

    def term_at(self, index: int) -> int | None:
        if index == self._view.first - 1:
            return self._view.base_term
        if not self._view.first <= index <= self._view.last:
            return None
        return self._view.entries[index - self._view.first].term

    def read(self, start: int, end: int, bytes_max: int) -> list[LogEntry]:
        first = self._view.first
        if not first <= start <= self._view.last:
            return []
        entries = []
        size = 0
        for entry in self._view.entries[start - first : max(end - first, 0)]:
            entries.append(entry)
            size += len(entry.payload)
            if size >= bytes_max:
                break
        return entries

    def append(self, entries: Sequence[LogEntry]) -> None:
        check_append(entries, self._view.last, self._body_bytes_max)
        for index, term, body in entries:
            self._mutate(Mutation(ENTRY, index, term, body))

    def truncate_from(self, index: int) -> None:
        if index > self._view.last:
            return
        check_truncation(index, self._view.first)
        self._durable_index = min(self._durable_index, index - 1)
        self._mutate(Mutation(TRUNCATE, index, 0, b""))

    def reset(self, index: int, term: int) -> None:
        """As in `RaftLog`. ValueError below the base, or for index 0 or a negative term."""
        check_reset(index, term, self._view.first)
        self._durable_index = index
        self._mutate(Mutation(RESET, index, term, b""))

    def set_hard_state(self, term: int, vote: str | None) -> None:
        if (term, vote) == (self._view.term, self._view.vote):
            return
        check_hard_state(self._view.term, self._view.vote, term, vote)
        self._mutate(Mutation(HARD_STATE, 0, term, encode_vote(vote)))

    def flush(self) -> None:
        self._submitted = len(self._pending)

    def drop_prefix(self, index: int) -> None:
        """Forget exactly the entries below `index`, where the log on disk drops whole segments.

        The newest durable entry stays. Does nothing while a reset is not durable.
        """
        first = min(index, self._durable_index)
        if first > self._view.first:
            self._view.drop_below(first)
            self._disk.drop_below(first)

    def close(self) -> None:
        """Flush and sync, as the real log waits for its fsync. Idempotent."""
        if not self._closed:
            self._closed = True
            self.flush()
            self.sync()

    # --- The simulated disk --------------------------------------------------------

    def sync(self, count: int | None = None) -> None:
        """Make the oldest `count` submitted mutations durable (None: all); tell `on_durable`.

        Without any submitted mutation nothing happens, and nobody is told.
        """
        count = self._submitted if count is None else min(count, self._submitted)
        if not count:
            return
        for _ in range(count):
            self._disk.apply(self._pending.popleft())
        self._submitted -= count
        self._durable_index = self._disk.last
        for kind, index, _, _ in self._pending:
            if kind == RESET:
                self._durable_index = index
            elif kind == TRUNCATE:
                self._durable_index = min(self._durable_index, index - 1)
        if self.on_durable is not None:
            self.on_durable()

    def crash(self, kept: int = 0) -> MemoryLog:
        """The log as found after a crash that kept the oldest `kept` unsynced mutations.

        Only submitted ones can be kept: what was buffered was in the dead process. This
        log is left as it is, and must not be used any more.
        """
        disk = self._disk.copy()
        for mutation in islice(self._pending, min(kept, self._submitted)):
            disk.apply(mutation)
        return MemoryLog(disk.found())

    def _mutate(self, mutation: Mutation) -> None:
        self._view.apply(mutation)
        self._pending.append(mutation)
        self._position += 1
