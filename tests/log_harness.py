"""What the tests of the Raft log share: a stand-in for the loop, a plain model, two disks."""

from __future__ import annotations

import queue
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cluster.errors import StorageFailed
from cluster.interfaces import LogEntry, RaftLog
from cluster.log import SegmentedLog
from cluster.log_format import (
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    LogOptions,
    decode_record_header,
    segment_seed,
)
from cluster.log_writer import LogWriter, WriterOptions
from cluster.memory_log import MemoryLog

DEADLINE_SECONDS = 20.0
SMALL = LogOptions(segment_bytes=4096, cache_bytes=0, preallocate_bytes=1024)


class LoopQueue:
    """Stands in for the event loop: callbacks wait until a test runs them."""

    def __init__(self) -> None:
        self.wakeups = 0
        self._callbacks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def call_soon_threadsafe(self, callback: Callable[[], None]) -> None:
        self.wakeups += 1
        self._callbacks.put(callback)

    def run_until(self, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not reached():
            left = deadline - time.monotonic()
            assert left > 0, "not reached within the deadline"
            try:
                self._callbacks.get(timeout=left)()
            except queue.Empty:
                continue

    def run_waiting(self) -> None:
        while not self._callbacks.empty():
            self._callbacks.get_nowait()()


def wait_for(reached: Callable[[], bool]) -> None:
    """Poll something that another thread changes."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not reached():
        assert time.monotonic() < deadline, "not reached within the deadline"
        time.sleep(0.0005)


def unexpected(failure: StorageFailed) -> None:
    raise AssertionError("the log writer failed") from failure


@dataclass
class Model:
    """The log as plain data: what any implementation must show."""

    first: int = 1
    entries: list[LogEntry] = field(default_factory=list)
    term: int = 0
    vote: str | None = None

    @property
    def last(self) -> int:
        return self.first + len(self.entries) - 1

    def append(self, entries: Iterable[LogEntry]) -> None:
        self.entries += entries

    def truncate_from(self, index: int) -> None:
        del self.entries[index - self.first :]

    def copy(self) -> Model:
        return Model(self.first, list(self.entries), self.term, self.vote)


def state_of(log: RaftLog) -> Model:
    """Everything `log` holds, read entry by entry and checked against itself."""
    entries = []
    index = log.first_index
    while index <= log.last_index:
        some = log.read(index, log.last_index + 1, 64)
        assert some, f"entry {index} is held but not read"
        entries += some
        index += len(some)
    assert [e.index for e in entries] == list(range(log.first_index, log.last_index + 1))
    assert [log.term_at(e.index) for e in entries] == [e.term for e in entries]
    assert log.term_at(log.first_index - 1) is None
    assert log.term_at(log.last_index + 1) is None
    assert log.last_term == (entries[-1].term if entries else 0)
    return Model(log.first_index, entries, log.term, log.vote)


class LogUnderTest(RaftLog, Protocol):
    """What both logs offer beyond `RaftLog`."""

    @property
    def backlog_bytes(self) -> int: ...

    def drop_prefix(self, index: int) -> None: ...


class Rig(Protocol):
    """One log on one simulated or real disk."""

    @property
    def log(self) -> LogUnderTest: ...

    def settle(self) -> None:
        """Flush, and wait until all is durable."""

    def reopen(self) -> None:
        """Close cleanly and open again."""

    def kill(self) -> None:
        """Lose the process, then open again: what was not flushed is gone."""

    def end(self) -> None: ...


class SegmentedRig:
    def __init__(
        self,
        directory: Path,
        options: LogOptions = SMALL,
        writer_options: WriterOptions | None = None,
    ) -> None:
        self.directory = directory
        self.options = options
        self.loop = LoopQueue()
        self.failures: list[StorageFailed] = []
        self.writer = LogWriter(
            self.loop.call_soon_threadsafe, self.failures.append, writer_options
        )
        self.writer.start()
        self.log = self.open()

    def open(self) -> SegmentedLog:
        return SegmentedLog.open(self.directory, 7, self.writer, self.options)

    def settle(self) -> None:
        self.log.flush()
        self.loop.run_until(lambda: self.log.durable_position == self.log.position)

    def reopen(self) -> None:
        self.log.close()
        self.log = self.open()

    def kill(self) -> None:
        # What was flushed reaches the page cache; the rest dies with the process. The old
        # files stay open under the old log, so recovery works on a copy, like a new process.
        self.writer.drain()
        copy = self.directory.with_name(self.directory.name + "+")
        shutil.copytree(self.directory, copy)
        self.log.close()
        self.directory = copy
        self.log = self.open()

    def end(self) -> None:
        self.log.close()
        self.writer.stop()
        self.loop.run_waiting()


class MemoryRig:
    def __init__(self) -> None:
        self.log = MemoryLog()

    def settle(self) -> None:
        self.log.flush()
        self.log.sync()

    def reopen(self) -> None:
        self.log.close()
        self.log = self.log.crash()

    def kill(self) -> None:
        self.log = self.log.crash(kept=self.log.submitted)

    def end(self) -> None:
        self.log.close()


@dataclass(frozen=True)
class Span:
    """Where one record, or the header (kind 0), lies in a segment file."""

    start: int
    end: int
    kind: int
    synced: int


def spans(path: Path) -> list[Span]:
    """The header and every record of an undamaged segment file, zero padding left out."""
    data = path.read_bytes()
    seed = segment_seed(data)
    found = [Span(0, SEGMENT_HEADER_BYTES, 0, 0)]
    while True:
        at = found[-1].end
        header = decode_record_header(seed, at, data[at : at + RECORD_HEADER_BYTES])
        if header is None:
            return found
        end = at + RECORD_HEADER_BYTES + header.length
        found.append(Span(at, end, header.kind, header.synced))


def segment_paths(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.seg"))


def entry(index: int, term: int = 1, size: int = 16) -> LogEntry:
    """An entry whose body tells index and term, so that a mix-up shows."""
    return LogEntry(index, term, f"{index}@{term}:".encode().ljust(size, b"."))
