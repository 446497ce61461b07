"""What the tests of snapshots share: a machine that is bytes, and two rigs of one contract."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from cluster.errors import DamagedContent
from cluster.interfaces import SnapshotMeta, Snapshots
from cluster.membership import Configuration, Member
from cluster.memory_snapshots import MemorySnapshots
from cluster.snapshot import SnapshotStore
from cluster.snapshot_directory import INCOMING, PARTIAL
from cluster.snapshot_rules import SnapshotOptions
from cluster.snapshot_worker import Worker
from tests.log_harness import LoopQueue

GROUP = 7
SMALL = SnapshotOptions(
    copy_bytes_per_second_max=0,
    sync_bytes=4096,
    chunk_bytes_max=8192,
    chunk_jobs_max=4,
    pin_seconds=10.0,
    snapshots_pinned_max=1,
)
Errors = list[Exception | None]


class Machine:
    """A state that is plain bytes, for `Checkpoints` and for `Dumps`."""

    def __init__(self) -> None:
        self.data = b""
        self.index = 0
        self.term = 1
        self.failure: Exception | None = None
        self.released = 0
        self.examined = 0
        self.damaged: bytes | None = None  # a state that is found to be damaged

    def advance(self, size: int = 20_000) -> None:
        """Apply something: a state of `size` bytes that tells its index."""
        self.index += 10
        self.data = hashlib.sha256(b"%d" % self.index).digest() * (size // 32 + 1)
        self.data = self.data[:size]

    def copy_to(self, fd: int) -> tuple[int, int]:
        data, index, term = self.dump()
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]
        return index, term

    def replace(self, path: Path, index: int, term: int) -> None:
        self.load(path.read_bytes(), index, term)
        path.unlink()

    def release_memory(self) -> None:
        self.released += 1

    def examine(self, path: Path, cancelled: Callable[[], bool]) -> None:
        self.examine_dump(path.read_bytes())

    def examine_dump(self, data: bytes) -> None:
        self.examined += 1
        if self.damaged is not None and data == self.damaged:
            raise DamagedContent("a state", "it was made of a damaged one")

    def dump(self) -> tuple[bytes, int, int]:
        if self.failure is not None:
            raise self.failure
        return self.data, self.index, self.term

    def load(self, data: bytes, index: int, term: int) -> None:
        self.data, self.index, self.term = data, index, term


def configuration_at(index: int) -> Configuration:
    """Tells the index, so that a mix-up shows."""
    members = (Member("a", True, "first", f"h:{index}", "http://h", "i"), Member("b", False))
    return Configuration(index - 1, members)


def meta_of(data: bytes, index: int, term: int = 1) -> SnapshotMeta:
    digest = hashlib.sha256(data).digest()
    return SnapshotMeta(index, term, len(data), digest, configuration_at(index))


class SnapshotsUnderTest(Snapshots, Protocol):
    """What both twins offer beyond `Snapshots`."""

    @property
    def held(self) -> list[SnapshotMeta]: ...


class Rig(Protocol):
    machine: Machine
    now: float
    options: SnapshotOptions

    @property
    def snapshots(self) -> SnapshotsUnderTest: ...

    def run_until(self, reached: Callable[[], bool]) -> None: ...

    def run_waiting(self) -> None:
        """Do all that can be done, and deliver what was done."""

    def reopen(self) -> None:
        """A new process, with the same machine."""

    def corrupt(self, index: int, offset: int) -> None: ...

    def corrupt_partial(self, offset: int) -> None: ...

    def end(self) -> None: ...


class DiskRig:
    def __init__(self, directory: Path, options: SnapshotOptions = SMALL) -> None:
        self.directory = directory
        self.options = options
        self.machine = Machine()
        self.now = 0.0
        self.failures: list[Exception] = []
        self.snapshots = self.open()

    def open(self) -> SnapshotStore:
        self.loop = LoopQueue()
        return SnapshotStore(
            self.directory,
            GROUP,
            self.machine,
            self.loop.call_soon_threadsafe,
            self.failures.append,
            self.options,
            monotonic=lambda: self.now,
        )

    def run_until(self, reached: Callable[[], bool]) -> None:
        self.loop.run_until(reached)

    def run_waiting(self) -> None:
        # Jobs run in order: when one that comes last has been answered, so have the others.
        for _ in range(3):  # an answer may submit a further job, such as a removal
            self._pass(self.snapshots._chunks)
            self._pass(self.snapshots._jobs)

    def _pass(self, worker: Worker) -> None:
        answers: list[object] = []
        worker.submit(lambda: None, lambda *answer: answers.append(answer), bounded=False)
        self.loop.run_until(lambda: bool(answers))

    def reopen(self) -> None:
        self.snapshots.close()
        self.snapshots = self.open()

    def corrupt(self, index: int, offset: int) -> None:
        (path,) = self.directory.glob(f"{index:020d}*/state.mdb")
        flip(path, offset)

    def corrupt_partial(self, offset: int) -> None:
        flip(self.directory / INCOMING / PARTIAL, offset)

    def end(self) -> None:
        self.snapshots.close()
        assert self.failures == []


class MemoryRig:
    def __init__(self, options: SnapshotOptions = SMALL) -> None:
        self.options = options
        self.machine = Machine()
        self.now = 0.0
        self.snapshots = self.open(None)

    def open(self, before: MemorySnapshots | None) -> MemorySnapshots:
        return MemorySnapshots(
            self.machine,
            before.crash() if before else None,
            self.options,
            hold=True,
            monotonic=lambda: self.now,
        )

    def run_until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            assert self.snapshots.step(), "nothing is left to do"

    def run_waiting(self) -> None:
        while self.snapshots.step():
            pass

    def reopen(self) -> None:
        self.snapshots.close()
        self.snapshots = self.open(self.snapshots)

    def corrupt(self, index: int, offset: int) -> None:
        self.snapshots.disk.corrupt(index, offset)

    def corrupt_partial(self, offset: int) -> None:
        self.snapshots.disk.corrupt_partial(offset)

    def end(self) -> None:
        self.snapshots.close()


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def create(rig: Rig) -> tuple[SnapshotMeta | None, Exception | None]:
    """Make a snapshot, and give what `done` was called with."""
    answers: list[tuple[SnapshotMeta | None, Exception | None]] = []
    accepted = rig.snapshots.create(
        configuration_at, lambda meta, error: answers.append((meta, error))
    )
    assert accepted
    rig.run_until(lambda: bool(answers))
    assert len(answers) == 1
    return answers[0]


def created(rig: Rig) -> SnapshotMeta:
    meta, error = create(rig)
    assert error is None
    assert meta is not None
    return meta


def read(rig: Rig, index: int, offset: int, size: int) -> bytes | None:
    answers: list[bytes | None] = []
    rig.snapshots.read(index, offset, size, answers.append)
    rig.run_until(lambda: bool(answers))
    assert len(answers) == 1
    return answers[0]


def write(rig: Rig, offset: int, data: bytes) -> Exception | None:
    answers: Errors = []
    rig.snapshots.write(offset, data, answers.append)
    rig.run_until(lambda: bool(answers))
    assert len(answers) == 1
    return answers[0]


def write_all(rig: Rig, data: bytes, start: int = 0, end: int | None = None) -> None:
    """Store bytes start..end of the snapshot whose bytes are `data`."""
    end = len(data) if end is None else end
    size = rig.options.chunk_bytes_max
    for offset in range(start, end, size):
        assert write(rig, offset, data[offset : min(offset + size, end)]) is None


def finish(rig: Rig) -> Exception | None:
    answers: Errors = []
    rig.snapshots.finish(answers.append)
    rig.run_until(lambda: bool(answers))
    assert len(answers) == 1
    return answers[0]


def receive(rig: Rig, data: bytes, meta: SnapshotMeta) -> Exception | None:
    """Begin, write what is missing, finish."""
    write_all(rig, data, rig.snapshots.begin(meta))
    return finish(rig)
