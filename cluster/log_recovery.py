"""Open a log directory: replay, tell a torn tail from corruption, repair the tail.

What verifies is replayed in order. What does not verify is judged by what proves that it
was once durable (`log_segment` lists the order of operations behind these proofs):

- A later segment exists: then this one was durable whole, and anything wrong in it is
  corruption.
- In the newest segment, a verified record, anywhere in the file, whose `synced` lies beyond
  the damage: corruption. To find such records the file is searched past the damage.
- Otherwise the damage begins where nothing is known to be durable: a torn tail. It is cut.
- A newest segment no longer than a header, whose header does not verify: its creation was
  interrupted. It holds nothing, so it is deleted.

Segments before a reset are replayed like all others and then, once what was replayed is
durable, deleted: a crash came before the log could do that.

Corruption raises CorruptLog with file and offset and changes nothing. The caller may
reseed the node from its peers; to drop acknowledged entries here could elect a leader
without them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from cluster import log_files
from cluster.errors import CorruptLog, StorageFailed
from cluster.log_format import (
    ENTRY,
    FORMAT_VERSION,
    HARD_STATE,
    KINDS,
    MIB,
    RECORD_HEADER_BYTES,
    RECORD_MARK,
    RESET,
    SEGMENT_HEADER_BYTES,
    SYNC,
    TRUNCATE,
    LogOptions,
    RecordHeader,
    SegmentHeader,
    decode_record_header,
    decode_segment_header,
    decode_vote,
    parse_segment_name,
    payload_verifies,
    segment_name,
    segment_seed,
)
from cluster.log_index import RecentEntries, Segment, SegmentIndex, TermRuns
from cluster.log_reader import SegmentReader
from cluster.log_segment import SegmentTail, create_segment, remove_segments

_COPY_BYTES = MIB


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """What opening a log found and did, for the operator."""

    segments: int
    entries: int
    cut_path: str | None  # file whose torn tail was cut; None: nothing was torn
    cut_offset: int
    cut_bytes: int  # bytes that were not zero padding
    reproved_bytes: int  # bytes written again since nothing proved them durable


class Recovered(NamedTuple):
    segments: SegmentIndex
    terms: TermRuns
    recent: RecentEntries
    tail: SegmentTail
    report: RecoveryReport


def recover(directory: Path, group: int, options: LogOptions) -> Recovered:
    """Open or create the log in `directory`.

    On return every record in the result is durable. Raises: CorruptLog, StorageFailed
    (a newer build's format), OSError.
    """
    log_files.make_directory(directory)
    paths = _segment_paths(directory)
    replay = _Replay(directory, group, options)
    ends = [replay.segment(path, newest=path is paths[-1]) for path in paths]
    interrupted = paths[-1] if ends and ends[-1] is None else None
    if interrupted is not None:
        log_files.remove(interrupted)
        ends.pop()
    log_files.sync_directory(directory)
    if not ends:
        return replay.begin()
    end = ends[-1]
    assert end is not None, "only the newest segment may be an interrupted creation"
    return replay.finish(end)


class LogFacts(NamedTuple):
    """What a log at rest holds."""

    first_index: int
    last_index: int
    term: int
    vote: str | None
    torn_bytes: int  # a torn tail, which the next opening cuts


def inspect(directory: Path, group: int) -> LogFacts | None:
    """Read a log that nobody has open, and change nothing. None: there is none.

    Raises CorruptLog, StorageFailed (a newer build's format), OSError.
    """
    paths = _segment_paths(directory)
    replay = _Replay(directory, group, LogOptions(cache_bytes=0))
    ends = [replay.segment(path, newest=path is paths[-1]) for path in paths]
    return replay.facts(ends[-1]) if any(ends) else None


class _SegmentEnd(NamedTuple):
    """How far one segment verified."""

    end: int  # everything before this offset verified
    size: int  # of the file
    proven: int  # known to be durable from `synced` of some record
    unmarked_end: int  # end of the last record that is not a sync mark
    cut_bytes: int


class _Replay:
    """The state that the records so far lead to."""

    def __init__(self, directory: Path, group: int, options: LogOptions) -> None:
        self._directory = directory
        self._group = group
        self._options = options
        self._index = SegmentIndex()
        self._terms = TermRuns()
        self._recent = RecentEntries(1)
        self._term = 0
        self._vote: str | None = None
        self._previous_bytes = 0
        self._floor = 1  # the index after the newest reset: no truncation goes below it
        self._dead: list[Segment] = []  # before the newest reset, and not yet deleted

    def segment(self, path: Path, *, newest: bool) -> _SegmentEnd | None:
        """Replay one segment. None: an interrupted creation, which holds nothing."""
        reader = SegmentReader(path)
        try:
            size = reader.size()
            encoded = reader.at(0, SEGMENT_HEADER_BYTES)
            header = decode_segment_header(encoded)
            if header is None:
                self._check_interrupted(path, size, newest)
                return None
            self._begin_segment(path, header, encoded)
            end = self._records(reader, path, size)
            if end.end < size:
                end = self._judge(reader, path, end, newest)
            self._previous_bytes = self._index.segments[-1].bytes = end.end
            return end
        finally:
            reader.close()

    def facts(self, end: _SegmentEnd | None) -> LogFacts:
        first, last = self._index.first_index, self._index.last_index
        return LogFacts(first, last, self._term, self._vote, end.cut_bytes if end else 0)

    def begin(self) -> Recovered:
        """A log without segments: create the first."""
        header = SegmentHeader(self._group, 1, 1, 0, 0, None, self._options.salt)
        segment, fd = create_segment(self._directory, header)
        self._index.add(segment)
        return self._result(fd, SEGMENT_HEADER_BYTES, SEGMENT_HEADER_BYTES, None, 0)

    def finish(self, end: _SegmentEnd) -> Recovered:
        """Cut the newest segment's torn tail and make durable what is left.

        Then no segment before a reset is needed any more.
        """
        fd = log_files.open_existing(self._index.segments[-1].path, write=True)
        try:
            if end.size > end.end:
                log_files.truncate(fd, end.end)
            reproved = end.end - end.proven if end.unmarked_end > end.proven else 0
            if reproved:
                _write_again(fd, end.proven, end.end)
            if reproved or end.size > end.end:
                log_files.sync_file(fd)
            remove_segments(self._directory, self._dead)
        except BaseException:
            os.close(fd)
            raise
        synced = end.end if reproved else end.proven
        return self._result(fd, end.end, synced, end if end.cut_bytes else None, reproved)

    def _result(
        self, fd: int, end: int, synced: int, cut: _SegmentEnd | None, reproved: int
    ) -> Recovered:
        newest = self._index.segments[-1]
        next_index = self._index.last_index + 1
        report = RecoveryReport(
            segments=len(self._index.segments),
            entries=next_index - self._index.first_index,
            cut_path=str(newest.path) if cut else None,
            cut_offset=cut.end if cut else 0,
            cut_bytes=cut.cut_bytes if cut else 0,
            reproved_bytes=reproved,
        )
        tail = SegmentTail(newest, fd, end, synced, next_index, self._term, self._vote)
        return Recovered(self._index, self._terms, self._recent, tail, report)

    def _check_interrupted(self, path: Path, size: int, newest: bool) -> None:
        """Raise unless this unreadable header can only be an unfinished creation."""
        alone = not self._index.segments
        if not newest:
            raise CorruptLog(str(path), 0, "the segment header does not verify")
        if size > SEGMENT_HEADER_BYTES:
            raise CorruptLog(str(path), 0, "records follow a header that does not verify")
        parsed = parse_segment_name(path.name)
        if alone and parsed is not None and parsed[0] != 1:
            raise CorruptLog(str(path), 0, "the only segment's header does not verify")

    def _begin_segment(self, path: Path, header: SegmentHeader, encoded: bytes) -> None:
        if header.version != FORMAT_VERSION:
            raise StorageFailed(
                f"{path}: log format {header.version}; this build reads {FORMAT_VERSION}"
            )
        first_segment = not self._index.segments
        if first_segment:
            self._term, self._vote = header.term, header.vote
            self._recent = RecentEntries(header.first_index)
        expected = SegmentHeader(
            self._group,
            header.sequence,
            header.first_index if first_segment else self._index.last_index + 1,
            header.previous_bytes if first_segment else self._previous_bytes,
            self._term,
            self._vote,
            header.salt,
        )
        for field, found, due in zip(header._fields, header, expected, strict=True):
            if found != due:
                raise CorruptLog(str(path), 0, f"header: {field} is {found!r}, expected {due!r}")
        if path.name != segment_name(header.sequence, header.first_index):
            raise CorruptLog(str(path), 0, "the file's name is not the one in its header")
        self._index.add(Segment(path, header.sequence, segment_seed(encoded), header.first_index))

    def _records(self, reader: SegmentReader, path: Path, size: int) -> _SegmentEnd:
        """Replay records until one does not verify."""
        segment = self._index.segments[-1]
        offset = unmarked_end = SEGMENT_HEADER_BYTES
        proven = 0
        while offset < size:
            encoded = reader.at(offset, RECORD_HEADER_BYTES)
            header = decode_record_header(segment.seed, offset, encoded)
            if header is None:
                break
            payload = reader.at(offset + RECORD_HEADER_BYTES, header.length)
            if not payload_verifies(segment.seed, offset, header, payload):
                break
            self._apply(path, segment, offset, header, payload)
            proven = max(proven, header.synced)
            offset += RECORD_HEADER_BYTES + header.length
            if header.kind != SYNC:
                unmarked_end = offset
        return _SegmentEnd(offset, size, proven, unmarked_end, 0)

    def _apply(
        self, path: Path, segment: Segment, offset: int, header: RecordHeader, payload: bytes
    ) -> None:
        """Apply one verified record. What verifies but cannot follow is corruption too."""
        if header.kind not in KINDS:
            raise StorageFailed(
                f"{path} at offset {offset}: record kind {header.kind} is unknown to this build"
            )
        if header.synced > offset:
            raise CorruptLog(str(path), offset, "the record claims to be older than itself")
        last_index = self._index.last_index
        if header.kind == ENTRY:
            if header.index != last_index + 1:
                raise CorruptLog(
                    str(path), offset, f"entry {header.index} follows entry {last_index}"
                )
            segment.offsets.append(offset)
            self._terms.append(header.index, header.term)
            self._recent.append(header.index, payload)
            self._recent.trim(self._options.cache_bytes, header.index)
        elif header.kind == TRUNCATE:
            if not self._floor <= header.index <= last_index:
                raise CorruptLog(
                    str(path), offset, f"truncation at {header.index} follows entry {last_index}"
                )
            self._index.truncate(header.index)
            self._terms.truncate(header.index)
            self._recent.truncate(header.index)
        elif header.kind == RESET:
            if header.index < max(1, self._floor - 1):
                raise CorruptLog(
                    str(path), offset, f"reset to {header.index}; the base is {self._floor - 1}"
                )
            self._floor = header.index + 1
            self._dead += self._index.reset(self._floor)
            self._terms.reset(header.term)
            self._recent.reset(self._floor)
        elif header.kind == HARD_STATE:
            self._term, self._vote = header.term, decode_vote(payload)

    def _judge(
        self, reader: SegmentReader, path: Path, end: _SegmentEnd, newest: bool
    ) -> _SegmentEnd:
        """Decide whether what does not verify is a torn tail. Raises CorruptLog if not."""
        if not newest:
            raise CorruptLog(
                str(path), end.end, "a record does not verify, and a later segment exists"
            )
        proven, cut_bytes = _search(reader, self._index.segments[-1].seed, end)
        if proven > end.end:
            raise CorruptLog(
                str(path), end.end, f"a record does not verify; {proven} bytes were durable"
            )
        return end._replace(cut_bytes=cut_bytes)


def _search(reader: SegmentReader, seed: int, end: _SegmentEnd) -> tuple[int, int]:
    """Look past the damage: (largest `synced` of a verified header, bytes up to the last nonzero).

    A header alone is proof enough: it has a checksum of its own, and its body may be torn.
    """
    proven, content_end = end.proven, end.end
    at = end.end
    while at < end.size:
        chunk = reader.at(at, min(_COPY_BYTES, end.size - at))
        content = len(chunk.rstrip(b"\0"))
        if content:
            content_end = at + content
        found = chunk.find(RECORD_MARK)
        while found >= 0:
            offset = at + found
            header = decode_record_header(seed, offset, reader.at(offset, RECORD_HEADER_BYTES))
            if header is not None and header.synced <= offset:
                proven = max(proven, header.synced)
            found = chunk.find(RECORD_MARK, found + 1)
        # A mark may straddle two chunks: the next one starts a little earlier.
        at += max(len(chunk) - len(RECORD_MARK) + 1, 1)
    return proven, content_end - end.end


def _write_again(fd: int, start: int, end: int) -> None:
    """Write these bytes over themselves, so that the next fsync really covers them.

    An earlier process may have written them and failed to fsync; the kernel then shows them
    as clean, and an fsync alone would succeed without writing anything.
    """
    for offset in range(start, end, _COPY_BYTES):
        data = os.pread(fd, min(_COPY_BYTES, end - offset), offset)
        log_files.write_all(fd, [data], offset)


def _segment_paths(directory: Path) -> list[Path]:
    """Paths of all segments, oldest first. Raises CorruptLog if one is missing between.

    Names without our suffix are left alone (`lost+found`, notes). A name with it that is
    not ours is refused: it may be a segment that somebody renamed.
    """
    found: list[tuple[int, Path]] = []
    for path in directory.iterdir():
        if path.suffix != ".seg":
            continue
        parsed = parse_segment_name(path.name)
        if parsed is None or not path.is_file():
            raise CorruptLog(str(path), 0, "not a segment file of this log; move it away")
        found.append((parsed[0], path))
    found.sort()
    for (before, _), (sequence, path) in pairwise(found):
        if sequence != before + 1:
            raise CorruptLog(
                str(path), 0, f"follows segment {before}; expected segment {before + 1}"
            )
    return [path for _, path in found]
