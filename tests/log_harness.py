"""What the tests of the Raft log share: a stand-in for the loop, a plain model, two disks."""

from __future__ import annotations

import queue
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
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
    base_term: int | None = None  # of the index before `first`; None: not known
    base_is_recorded: bool = field(default=False, compare=False)  # by a reset

    @property
    def last(self) -> int:
        return self.first + len(self.entries) - 1

    @property
    def last_term(self) -> int:
        return self.entries[-1].term if self.entries else self.base_term or 0

    def append(self, entries: Iterable[LogEntry]) -> None:
        self.entries += entries

    def truncate_from(self, index: int) -> None:
        del self.entries[index - self.first :]

    def reset(self, index: int, term: int) -> None:
        self.first, self.entries = index + 1, []
        self.base_term, self.base_is_recorded = term, True

    def drop_below(self, index: int) -> None:
        if index > self.first:
            self.base_term = self.entries[index - 1 - self.first].term
            self.base_is_recorded = False
            self.entries = self.entries[index - self.first :]
            self.first = index

    def found(self) -> Model:
        """What an opening shows: the term of a base that no reset recorded is not known."""
        return replace(self.copy(), base_term=self.base_term if self.base_is_recorded else None)

    def copy(self) -> Model:
        return replace(self, entries=list(self.entries))


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
    assert log.term_at(log.first_index - 2) is None
    assert log.term_at(log.last_index + 1) is None
    base_term = log.term_at(log.first_index - 1)
    state = Model(log.first_index, entries, log.term, log.vote, base_term)
    assert log.last_term == state.last_term
    return state


class LogUnderTest(RaftLog, Protocol):
    """What both logs offer beyond `RaftLog`."""

    @property
    def backlog_bytes(self) -> int: ...


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
        self.writer.drain()  # what the first one delivered may have files deleted
        copy = self.directory.with_name(self.directory.name + "+")
        shutil.copytree(self.directory, copy)
        self.log.close()
        self.directory = copy
        self.log = self.open()

    def end(self) -> None:
        self.log.close()
        self.writer.stop()
        self.loop.run_waiting()


class Recorder:
    """Mutates a log and a model alike, and keeps every state, from the one before the first."""

    def __init__(self, rig: SegmentedRig) -> None:
        self.rig = rig
        self.states = [Model()]

    def append(self, count: int, term: int, size: int = 16) -> None:
        for _ in range(count):
            new = self.states[-1].copy()
            new.entries.append(entry(new.last + 1, term, size))
            self.rig.log.append([new.entries[-1]])
            self.states.append(new)

    def truncate(self, index: int) -> None:
        new = self.states[-1].copy()
        new.truncate_from(index)
        self.rig.log.truncate_from(index)
        self.states.append(new)

    def reset(self, index: int, term: int) -> None:
        new = self.states[-1].copy()
        new.reset(index, term)
        self.rig.log.reset(index, term)
        self.states.append(new)

    def hard_state(self, term: int, vote: str | None) -> None:
        new = self.states[-1].copy()
        new.term, new.vote = term, vote
        self.rig.log.set_hard_state(term, vote)
        self.states.append(new)


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
