"""The durable log of one Raft group: entries and hard state in append-only segments.

Two views, joined by the positions of the mutations:

- what the loop sees: `last_index`, `term_at`, `read`, hard state, with every buffered
  mutation applied;
- what is durable: the segment index, changed only when the writer reports an fsync.

A truncation takes effect in the first view at once and in the second when it is durable.
Between the two, entries on disk at or beyond the truncation are dead although the segment
index still lists them, and an fsync of such entries that completes late must not count.
Hence `durable_index` is the end of the segment index, held below every truncation that is
not durable yet. While a reset is not durable, it is the index of the reset, which a snapshot
covers, and the segment index still describes the log before it. Entries above
`durable_index` are always in memory; those at or below it are in memory while the cache has
room, and are read from disk, and verified, otherwise.

Loop thread only; `log_writer` has the other one. DESIGN-log.md: format and recovery.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from cluster.errors import CorruptLog, Overloaded, StorageFailed
from cluster.interfaces import LogEntry
from cluster.log_check import Extent
from cluster.log_format import (
    ENTRY,
    HARD_STATE,
    RECORD_HEADER_BYTES,
    RESET,
    TRUNCATE,
    LogOptions,
    Mutation,
    decode_record_header,
    encode_vote,
    payload_verifies,
)
from cluster.log_index import Segment
from cluster.log_reader import SegmentReader
from cluster.log_recovery import Recovered, RecoveryReport, recover
from cluster.log_rounds import Batch, Done
from cluster.log_rules import check_append, check_hard_state, check_reset, check_truncation
from cluster.log_segment import Placement, SegmentAppender, remove_segments
from cluster.log_writer import LogWriter


class SegmentedLog:
    """`RaftLog` on disk. Made by `open`."""

    def __init__(
        self, directory: Path, group: int, writer: LogWriter, options: LogOptions, found: Recovered
    ) -> None:
        self.on_durable: Callable[[], None] | None = None
        self._directory = directory
        self._writer = writer
        self._options = options
        self._segments = found.segments
        self._terms = found.terms
        self._recent = found.recent
        self._report = found.report
        self._term = found.tail.term
        self._vote = found.tail.vote
        self._first_index = found.segments.first_index
        self._last_index = found.segments.last_index
        self._durable_index = self._last_index
        self._position = 0
        self._durable_position = 0
        self._backlog_bytes = 0
        self._buffer: list[Mutation] = []
        self._buffer_bytes = 0
        self._truncations: deque[tuple[int, int]] = deque()  # (position, index), not durable
        self._reset: tuple[int, int] | None = None  # the newest one, likewise
        self._reader: tuple[Segment, SegmentReader] | None = None
        self._closed = False
        self._appender = SegmentAppender(directory, group, options, found.tail)
        if found.report.reproved_bytes:
            self._appender.mark()

    @classmethod
    def open(
        cls,
        directory: Path,
        group: int,
        writer: LogWriter,
        options: LogOptions | None = None,
    ) -> SegmentedLog:
        """Recover or create the log in `directory`; blocks. All it then holds is durable.

        Raises: CorruptLog; StorageFailed (the disk refused, or a newer build's format).
        """
        options = options or LogOptions()
        try:
            found = recover(directory, group, options)
            return cls(directory, group, writer, options, found)
        except OSError as error:
            raise StorageFailed(f"cannot open the log: {error}", error.errno) from error

    # --- State ---------------------------------------------------------------------

    @property
    def report(self) -> RecoveryReport:
        """What opening this log found and did."""
        return self._report

    @property
    def first_index(self) -> int:
        return self._first_index

    @property
    def last_index(self) -> int:
        return self._last_index

    @property
    def last_term(self) -> int:
        return self._terms.last

    @property
    def size_bytes(self) -> int:
        """Bytes of headers and durable records in the segment files, without zeros ahead.

        Dead records count too, until the segment that holds them is deleted.
        """
        return self._segments.bytes

    @property
    def term(self) -> int:
        return self._term

    @property
    def vote(self) -> str | None:
        return self._vote

    @property
    def position(self) -> int:
        return self._position

    @property
    def durable_position(self) -> int:
        return self._durable_position

    @property
    def durable_index(self) -> int:
        return self._durable_index

    @property
    def backlog_bytes(self) -> int:
        """Bytes buffered, queued or being fsynced, of this log."""
        return self._backlog_bytes

    @property
    def cached_bytes(self) -> int:
        """Bytes of entries in memory: at most `cache_bytes` plus what is not durable."""
        return self._recent.bytes

    def extents(self) -> list[Extent]:
        """What is durable of each file, for `log_check`; oldest first."""
        return [Extent(each.path, each.seed, each.bytes) for each in self._segments.segments]

    def term_at(self, index: int) -> int | None:
        if index == self._first_index - 1:
            return self._terms.base_term
        if not self._first_index <= index <= self._last_index:
            return None
        return self._terms.at(index)

    def read(self, start: int, end: int, bytes_max: int) -> list[LogEntry]:
        """As in `RaftLog`. Raises CorruptLog, StorageFailed: stop the node."""
        if not self._first_index <= start <= self._last_index:
            return []
        entries = []
        size = 0
        for index in range(start, min(end, self._last_index + 1)):
            body = self._recent.get(index)
            if body is None:
                body = self._read_from_disk(index)
            entries.append(LogEntry(index, self._terms.at(index), body))
            size += len(body)
            if size >= bytes_max:
                break
        return entries

    # --- Mutations -----------------------------------------------------------------

    def append(self, entries: Sequence[LogEntry]) -> None:
        """As in `RaftLog`. Refused whole, with nothing buffered, by:

        ValueError: indexes not consecutive from last_index + 1, or a body too large.
        Overloaded: the writer's queue is full. An idle writer takes an entry of any size.
        """
        size = check_append(entries, self._last_index, self._options.record_bytes_max)
        backlog = self._writer.backlog_bytes
        if backlog and backlog + size > self._writer.options.writer_queue_bytes_max:
            raise Overloaded(f"{backlog} bytes wait for the log writer")
        index = self._last_index
        for index, term, body in entries:
            self._terms.append(index, term)
            self._recent.append(index, body)
            self._buffer.append(Mutation(ENTRY, index, term, body))
        self._last_index = index
        self._buffered(len(entries), size)

    def truncate_from(self, index: int) -> None:
        """As in `RaftLog`; nothing to drop is no mutation. ValueError below first_index."""
        if index > self._last_index:
            return
        check_truncation(index, self._first_index)
        self._terms.truncate(index)
        self._recent.truncate(index)
        self._last_index = index - 1
        self._durable_index = min(self._durable_index, index - 1)
        self._buffer.append(Mutation(TRUNCATE, index, 0, b""))
        self._buffered(1, RECORD_HEADER_BYTES)
        self._truncations.append((self._position, index))

    def reset(self, index: int, term: int) -> None:
        """As in `RaftLog`. ValueError below the base, or for index 0 or a negative term.

        Once it is durable, the segments before the one that holds it are deleted.
        """
        check_reset(index, term, self._first_index)
        self._terms.reset(term)
        self._recent.reset(index + 1)
        self._first_index = index + 1
        self._last_index = self._durable_index = index
        self._buffer.append(Mutation(RESET, index, term, b""))
        self._buffered(1, RECORD_HEADER_BYTES)
        self._reset = self._position, index

    def set_hard_state(self, term: int, vote: str | None) -> None:
        """As in `RaftLog`; what is set already is no mutation.

        Raises ValueError for what Raft never does: a lower term, another vote in the term.
        """
        if (term, vote) == (self._term, self._vote):
            return
        check_hard_state(self._term, self._vote, term, vote)
        encoded = encode_vote(vote)
        self._term, self._vote = term, vote
        self._buffer.append(Mutation(HARD_STATE, 0, term, encoded))
        self._buffered(1, RECORD_HEADER_BYTES + len(encoded))

    def flush(self) -> None:
        """As in `RaftLog`. Raises StorageFailed once the writer has failed or is stopped."""
        if not self._buffer:
            return
        self._writer.submit(
            Batch(self._appender, self._buffer, self._position, self._buffer_bytes, self._on_done)
        )
        self._buffer = []
        self._buffer_bytes = 0

    def drop_prefix(self, index: int) -> None:
        """Delete whole segments all of whose entries lie below `index`.

        For use once a durable snapshot covers them: first_index then is the first entry
        kept, at most `index`. The newest durable entry and the newest segment stay, so that
        last_term is known after a crash. Does nothing while a reset is not durable.
        Not a mutation: after a crash, some of them may be there again.
        """
        if self._reset is not None:
            return
        dropped = self._segments.drop_below(min(index, self._durable_index))
        if not dropped:
            return
        self._first_index = self._segments.first_index
        self._terms.drop_below(self._first_index)
        self._recent.drop_below(self._first_index)
        self._forget_reader(dropped)
        self._writer.run_in_writer(partial(remove_segments, self._directory, dropped))

    def close(self) -> None:
        """Flush, wait for the fsync, close files. Idempotent.

        If the writer has failed, what it did not write is lost, as `on_failure` was told.
        Raises StorageFailed if the disk does not answer in time.
        """
        if self._closed:
            return
        if self._writer.failure is None:
            self.flush()
        self._writer.drain()
        self._writer.drain()  # the first may have told us of a reset: files to delete
        self._closed = True
        self._close_reader()
        self._appender.close()

    # --- Inside --------------------------------------------------------------------

    def _buffered(self, count: int, size: int) -> None:
        self._position += count
        self._buffer_bytes += size
        self._backlog_bytes += size
        self._writer.backlog_bytes += size

    def _on_done(self, done: Done) -> None:
        """Take over what the writer made durable."""
        self._take_placements(done.placements)
        self._durable_position = done.position
        self._backlog_bytes -= done.bytes
        self._writer.backlog_bytes -= done.bytes
        while self._truncations and self._truncations[0][0] <= done.position:
            self._truncations.popleft()
        if self._reset is not None and self._reset[0] <= done.position:
            self._reset = None
        if self._reset is None:
            cuts = (index - 1 for _, index in self._truncations)
            self._durable_index = min((self._segments.last_index, *cuts))
        self._recent.trim(self._options.cache_bytes, self._durable_index)
        if self.on_durable is not None:
            self.on_durable()

    def _take_placements(self, placements: Sequence[Placement]) -> None:
        dead: list[Segment] = []
        for segment, cut, first, offsets, end in placements:
            if segment is not self._segments.segments[-1]:
                self._segments.add(segment)
            if cut == TRUNCATE:
                self._segments.truncate(first)
            elif cut == RESET:
                dead += self._segments.reset(first)
            assert first == self._segments.last_index + 1, "entries out of order"
            segment.offsets.extend(offsets)
            segment.bytes = end
            if self._reader is not None and self._reader[0] is segment:
                self._reader[1].forget()
        self._forget_reader(dead)
        if dead and self._writer.running and self._writer.failure is None:
            # Otherwise the next opening deletes them.
            self._writer.run_in_writer(partial(remove_segments, self._directory, dead))

    def _read_from_disk(self, index: int) -> bytes:
        segment, offset = self._segments.find(index)
        try:
            reader = self._reader_of(segment)
            encoded = reader.at(offset, RECORD_HEADER_BYTES)
            header = decode_record_header(segment.seed, offset, encoded)
            if header is None or (header.kind, header.index) != (ENTRY, index):
                raise CorruptLog(str(segment.path), offset, f"entry {index} does not verify")
            body = reader.at(offset + RECORD_HEADER_BYTES, header.length)
        except OSError as error:
            raise StorageFailed(f"cannot read the log: {error}", error.errno) from error
        if not payload_verifies(segment.seed, offset, header, body):
            raise CorruptLog(str(segment.path), offset, f"entry {index} does not verify")
        return body

    def _reader_of(self, segment: Segment) -> SegmentReader:
        """One open reader per log: old entries are read in order, by a peer that lags."""
        if self._reader is None or self._reader[0] is not segment:
            self._close_reader()
            self._reader = segment, SegmentReader(segment.path)
        return self._reader[1]

    def _forget_reader(self, dropped: Sequence[Segment]) -> None:
        if self._reader is not None and self._reader[0] in dropped:
            self._close_reader()

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader[1].close()
            self._reader = None
