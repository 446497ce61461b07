"""The end of one group's log on disk: encode, write, roll over, fsync.

Used by one thread at a time: by the opener during recovery, then by the log writer.

Order of operations, which recovery relies on:

1. A segment is fsynced whole before the next one is created. So a directory entry of a
   later segment proves everything in the earlier ones.
2. A new segment's header is fsynced, and then its directory entry, before any record is
   written to it. So a file longer than a header has a durable header.
3. `synced` in a record is the length that a *completed* fsync covered. So a verified record
   proves everything before its `synced`.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from cluster import log_files
from cluster.log_format import (
    ENTRY,
    HARD_STATE,
    RECORD_HEADER_BYTES,
    RESET,
    SEGMENT_HEADER_BYTES,
    SYNC,
    TRUNCATE,
    LogOptions,
    Mutation,
    SegmentHeader,
    decode_vote,
    encode_record_header,
    encode_segment_header,
    segment_name,
    segment_seed,
)
from cluster.log_index import Segment

# Smaller bodies are copied behind their headers: cheaper than one more buffer for the kernel.
_COPY_BYTES_MAX = 8192


class Placement(NamedTuple):
    """Where mutations went: first a cut, if any, then entries from `first` on."""

    segment: Segment
    cut: int  # TRUNCATE: entries >= `first` are dropped; RESET: all are; 0: none
    first: int
    offsets: array[int]
    end: int  # length of the segment's header and records after these


class SegmentTail(NamedTuple):
    """Where recovery ended, and so where appending goes on."""

    segment: Segment
    fd: int
    end: int  # length of the segment's records and header
    synced: int  # of those, known to be durable
    next_index: int
    term: int
    vote: str | None


def create_segment(directory: Path, header: SegmentHeader) -> tuple[Segment, int]:
    """Create a segment, durable with its directory entry; returns it and its descriptor."""
    path = directory / segment_name(header.sequence, header.first_index)
    encoded = encode_segment_header(header)
    fd = log_files.create(path)
    try:
        log_files.write_all(fd, [encoded], 0)
        log_files.sync_file(fd)
        log_files.sync_directory(directory)
    except BaseException:
        os.close(fd)
        raise
    return Segment(path, header.sequence, segment_seed(encoded), header.first_index), fd


def remove_segments(directory: Path, segments: Iterable[Segment]) -> None:
    """Delete segments, oldest first, each durably before the next.

    Otherwise power loss could keep an older one and lose a newer: a gap, which recovery
    must call corruption.
    """
    for segment in segments:
        log_files.remove(segment.path)
        log_files.sync_directory(directory)


class SegmentAppender:
    """Appends mutations to the newest segment of one log, and begins new segments."""

    def __init__(self, directory: Path, group: int, options: LogOptions, tail: SegmentTail) -> None:
        self._directory = directory
        self._group = group
        self._options = options
        self._segment = tail.segment
        self._fd = tail.fd
        self._end = tail.end  # written or staged up to here
        self._synced = tail.synced
        self._allocated = tail.end  # the file's length: records, then zeros
        self._next_index = tail.next_index
        self._term = tail.term
        self._vote = tail.vote
        self._staged: list[bytes | bytearray] = []
        self._staged_from = tail.end

    def write(self, mutations: Iterable[Mutation]) -> list[Placement]:
        """Write the mutations in order. Raises OSError: the log must not be used again."""
        placements: list[Placement] = []
        offsets = self._place(placements, 0)
        self._staged.append(copies := bytearray())
        segment_bytes = self._options.segment_bytes
        for kind, index, term, payload in mutations:
            size = RECORD_HEADER_BYTES + len(payload)
            if self._end + size > segment_bytes and self._end > SEGMENT_HEADER_BYTES:
                self._end_placement(placements)
                self._roll_over()
                offsets = self._place(placements, 0)
                self._staged.append(copies := bytearray())
            copies += encode_record_header(
                self._segment.seed, self._end, self._synced, kind, index, term, payload
            )
            if kind == ENTRY:
                offsets.append(self._end)
                self._next_index = index + 1
            elif kind in (TRUNCATE, RESET):
                self._next_index = index if kind == TRUNCATE else index + 1
                offsets = self._place(placements, kind)
            elif kind == HARD_STATE:
                self._term, self._vote = term, decode_vote(payload)
            if len(payload) <= _COPY_BYTES_MAX:
                copies += payload
            else:
                self._staged += (payload, copies := bytearray())
            self._end += size
        self._end_placement(placements)
        self._write_staged(self._options.preallocate_bytes)
        return placements

    def sync(self) -> None:
        """Make durable what was written. Raises OSError: it must not be tried again.

        After a failed fsync the kernel may have dropped the dirty pages and report success
        the next time ("fsyncgate", LWN 752063).
        """
        log_files.sync_file(self._fd)
        self._synced = self._end

    def mark(self) -> None:
        """Write, but do not fsync, a record that says what the last fsync covered.

        Without it, damage in the last fsynced records of an idle log would look like a torn
        tail. It is never itself worth an fsync: losing it loses a proof, not data.
        """
        if self._synced != self._end:
            return  # The last record is such a mark, or waits for its own fsync.
        record = encode_record_header(self._segment.seed, self._end, self._end, SYNC, 0, 0, b"")
        self._staged.append(record)
        self._end += len(record)
        self._write_staged(ahead_bytes=0)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _place(self, placements: list[Placement], cut: int) -> array[int]:
        """Begin a placement in the current segment; returns its offsets, to be filled.

        Every segment gets at least one, so that the loop knows each file there is.
        """
        offsets = array("Q")
        placements.append(Placement(self._segment, cut, self._next_index, offsets, self._end))
        return offsets

    def _end_placement(self, placements: list[Placement]) -> None:
        placements[-1] = placements[-1]._replace(end=self._end)

    def _write_staged(self, ahead_bytes: int) -> None:
        """Write what is staged, and zeros behind it when it outgrows the last zeros.

        An fdatasync that need not record a new file length in the file system's journal is
        much cheaper (DESIGN-log.md has the figures). Recovery cuts the zeros off like any
        torn tail.
        """
        if self._end > self._allocated:
            self._allocated = self._end
            room = self._options.segment_bytes - self._end
            if self._end - self._staged_from <= ahead_bytes <= room:
                self._staged.append(bytes(ahead_bytes))
                self._allocated += ahead_bytes
        log_files.write_all(self._fd, self._staged, self._staged_from)
        self._staged = []
        self._staged_from = self._end

    def _roll_over(self) -> None:
        self._write_staged(ahead_bytes=0)
        log_files.truncate(self._fd, self._end)
        self.sync()
        header = SegmentHeader(
            self._group,
            self._segment.sequence + 1,
            self._next_index,
            self._end,
            self._term,
            self._vote,
            self._options.salt,
        )
        self.close()
        self._segment, self._fd = create_segment(self._directory, header)
        self._end = self._synced = self._allocated = SEGMENT_HEADER_BYTES
        self._staged_from = self._end
