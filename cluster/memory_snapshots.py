"""The in-memory twin of `SnapshotStore`, for simulation: the disk is a dictionary.

Same contract, same tests. Work is done at once, unless `hold` is set: then it waits in a
queue, and each `step` does one piece of it, so that a simulation decides when a copy is
taken, when it becomes durable and when somebody hears of it. `crash` returns the disk as it
would be found after power loss.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random  # noqa: TID251 - the caller seeds it
from typing import Protocol

from cluster.errors import CorruptSnapshot, Overloaded
from cluster.interfaces import SnapshotMeta
from cluster.membership import Configuration
from cluster.snapshot_copy import Checkpoints
from cluster.snapshot_rules import (
    SnapshotOptions,
    check_begin,
    check_chunk,
    prunable,
    write_problem,
)

_PLACE = "memory"  # in errors, where the real store names a file


class Dumps(Protocol):
    """A machine's state as bytes, held in memory. `CheckpointDumps` adapts a real one."""

    def dump(self) -> tuple[bytes, int, int]:
        """The state, and the (index, term) applied in it."""

    def load(self, data: bytes, index: int, term: int) -> None:
        """Replace the state by that of a `dump`."""

    def examine_dump(self, data: bytes) -> None:
        """Look at every record of a `dump`. Raises DamagedContent."""


class CheckpointDumps:
    """`Dumps` of a machine with `Checkpoints`, through files in `directory`."""

    def __init__(self, checkpoints: Checkpoints, directory: Path) -> None:
        self._checkpoints = checkpoints
        self._path = directory / "dump"

    def dump(self) -> tuple[bytes, int, int]:
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            index, term = self._checkpoints.copy_to(fd)
        finally:
            os.close(fd)
        data = self._path.read_bytes()
        self._path.unlink()
        return data, index, term

    def load(self, data: bytes, index: int, term: int) -> None:
        self._path.write_bytes(data)
        self._checkpoints.replace(self._path, index, term)

    def examine_dump(self, data: bytes) -> None:
        self._path.write_bytes(data)
        self._checkpoints.examine(self._path, lambda: False)


@dataclass(slots=True)
class Stored:
    """A snapshot, or the beginning of one, on the simulated disk."""

    meta: SnapshotMeta
    data: bytearray = field(default_factory=bytearray)

    def copy(self) -> Stored:
        return Stored(self.meta, bytearray(self.data))

    def verify(self) -> None:
        """Raises CorruptSnapshot."""
        if len(self.data) != self.meta.size:
            reason = f"{len(self.data)} bytes instead of {self.meta.size}"
            raise CorruptSnapshot(_PLACE, reason)
        if hashlib.sha256(self.data).digest() != self.meta.sha256:
            raise CorruptSnapshot(_PLACE, "its sha256 is not the manifest's")


@dataclass(slots=True)
class SnapshotDisk:
    """What outlives the process: durable snapshots, and at most one partial one."""

    held: dict[int, Stored] = field(default_factory=dict)
    partial: Stored | None = None

    def corrupt(self, index: int, offset: int) -> None:
        """Flip a bit in the byte at `offset` of the snapshot at `index`."""
        self.held[index].data[offset] ^= 0x10

    def corrupt_partial(self, offset: int) -> None:
        """The same in what is being received. Raises RuntimeError if nothing is."""
        if self.partial is None:
            raise RuntimeError("there is no partial snapshot")
        self.partial.data[offset] ^= 0x10


@dataclass(slots=True)
class _Incoming:
    """`stored`: the partial one, or the whole one that is here already (`whole`)."""

    stored: Stored
    received: int
    whole: bool
    finishing: bool = False


class MemorySnapshots:
    """`Snapshots` without a disk. Loop thread only.

    With `hold`, a `create` takes three steps: the copy, durability, the answer; a `finish`
    two: durability, the answer; any other call one.
    """

    def __init__(
        self,
        machine: Dumps,
        disk: SnapshotDisk | None = None,
        options: SnapshotOptions | None = None,
        *,
        hold: bool = False,
        monotonic: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.hold = hold
        self.disk = disk or SnapshotDisk()
        self.options = options or SnapshotOptions()
        self._machine = machine
        self._monotonic = monotonic
        self._queue: deque[Callable[[], None]] = deque()
        self._chunks_waiting = 0
        self._read_at: dict[int, float] = {}
        self._creating = False
        self._distrusted = 0
        self._incoming: _Incoming | None = None
        self._prepared: Stored | None = None
        self._prepared_data = b""
        self._closed = False

    @property
    def newest(self) -> SnapshotMeta | None:
        held = self.disk.held
        return held[max(held)].meta if held else None

    @property
    def held(self) -> list[SnapshotMeta]:
        """All that are complete, the newest first."""
        return [self.disk.held[index].meta for index in sorted(self.disk.held, reverse=True)]

    @property
    def busy(self) -> bool:
        return self._creating or self._incoming is not None

    def create(
        self,
        configuration_at: Callable[[int], Configuration],
        done: Callable[[SnapshotMeta | None, Exception | None], None],
    ) -> bool:
        if self.busy or self._closed:
            return False
        self._creating = True
        distrusted = self._distrusted

        def answer(meta: SnapshotMeta | None, error: Exception | None) -> None:
            self._creating = False
            if error is None:
                self._prune()
            done(meta, error)

        def copy() -> None:
            if self._distrusted != distrusted:
                self._do(lambda: answer(None, Overloaded("the state was found damaged")))
                return
            try:
                data, index, term = self._machine.dump()
                if index < 1:
                    raise ValueError("there is no snapshot of a state without an entry")
            except Exception as error:
                failure = error
                self._do(lambda: answer(None, failure))
                return
            self._do(lambda: keep(data, index, term))

        def keep(data: bytes, index: int, term: int) -> None:
            newest = self.newest
            if self._distrusted != distrusted:
                self._do(lambda: answer(None, Overloaded("the state was found damaged")))
                return
            if newest is not None and index <= newest.index:
                self._do(lambda: answer(newest, None))
                return
            try:
                configuration = configuration_at(index)
            except Exception as error:
                failure = error
                self._do(lambda: answer(None, failure))
                return
            digest = hashlib.sha256(data).digest()
            meta = SnapshotMeta(index, term, len(data), digest, configuration)
            self.disk.held[index] = Stored(meta, bytearray(data))
            self._do(lambda: answer(meta, None))

        self._do(copy)
        return True

    def read(
        self, index: int, offset: int, size: int, done: Callable[[bytes | None], None]
    ) -> None:
        check_chunk(size, self.options)
        if offset < 0:
            raise ValueError(f"offset is {offset}")
        if self._closed:
            return
        if index not in self.disk.held:
            done(None)
            return
        self._read_at[index] = self._monotonic()

        def answer() -> None:
            stored = self.disk.held.get(index)
            done(None if stored is None else bytes(stored.data[offset : offset + size]))

        self._do_chunk(answer)

    def verify(self, done: Callable[[Exception | None], None]) -> None:
        newest = self.newest
        if newest is None:
            done(None)
            return

        def check() -> None:
            stored = self.disk.held.get(newest.index)
            try:
                if stored is not None:
                    self._look_at(stored)
            except CorruptSnapshot as error:
                del self.disk.held[newest.index]
                done(error)
            else:
                done(None)

        self._do(check)

    def prepare(self, done: Callable[[Exception | None], None]) -> None:
        newest = self.newest
        if newest is None:
            done(CorruptSnapshot(_PLACE, "there is no snapshot"))
            return

        def look() -> None:
            stored = self.disk.held.get(newest.index)
            try:
                if stored is None:
                    raise CorruptSnapshot(_PLACE, "it is gone")
                self._look_at(stored)
            except CorruptSnapshot as error:
                self.disk.held.pop(newest.index, None)
                failure = error
                self._do(lambda: done(failure))
                return
            self._prepared, self._prepared_data = stored, bytes(stored.data)
            self._do(lambda: done(None))

        self._do(look)

    def _look_at(self, stored: Stored) -> None:
        stored.verify()
        self._machine.examine_dump(bytes(stored.data))

    def distrust(self, *, held: bool) -> None:
        self._distrusted += 1
        if held:
            self.disk.held.clear()
            self._prepared = None

    def begin(self, meta: SnapshotMeta) -> int:
        if self._closed:
            raise RuntimeError("the snapshots are closed")
        check_begin(meta, self.newest)
        if self._incoming is not None and self._incoming.finishing:
            raise Overloaded("a snapshot is being verified")
        if self._incoming is None or self._incoming.stored.meta != meta:
            self._incoming = self._open_incoming(meta)
        return self._incoming.received

    def _open_incoming(self, meta: SnapshotMeta) -> _Incoming:
        held = self.disk.held.get(meta.index)
        if held is not None and held.meta == meta:
            return _Incoming(held, meta.size, whole=True)
        partial = self.disk.partial
        if partial is None or partial.meta != meta:
            partial = self.disk.partial = Stored(meta)
        return _Incoming(partial, len(partial.data), whole=False)

    def write(self, offset: int, data: bytes, done: Callable[[Exception | None], None]) -> None:
        incoming = self._receiving()
        check_chunk(len(data), self.options)
        meta = incoming.stored.meta
        problem = write_problem(offset, len(data), incoming.received, meta)
        if problem is not None:
            done(CorruptSnapshot(_PLACE, problem))
            return
        if incoming.whole:
            done(None)
            return

        def store() -> None:
            incoming.stored.data[offset : offset + len(data)] = data
            done(None)

        # First, because without `hold` `done` may write what follows.
        received, incoming.received = incoming.received, max(incoming.received, offset + len(data))
        try:
            self._do_chunk(store)
        except Overloaded:
            incoming.received = received
            raise

    def finish(self, done: Callable[[Exception | None], None], *, thorough: bool = False) -> None:
        incoming = self._receiving()
        incoming.finishing = True
        stored = incoming.stored
        meta = stored.meta

        def answer(error: Exception | None) -> None:
            self._incoming = None
            if error is None:
                self._prepared, self._prepared_data = stored, bytes(stored.data)
                self._prune()
            done(error)

        def receive() -> None:
            try:
                stored.verify()
                if thorough:
                    self._machine.examine_dump(bytes(stored.data))
            except CorruptSnapshot as error:
                failure = error
                if incoming.whole:
                    self.disk.held.pop(meta.index, None)
                else:
                    self.disk.partial = None
                self._do(lambda: answer(failure))
                return
            if not incoming.whole:
                self.disk.partial = None
                self.disk.held[meta.index] = stored
            self._do(lambda: answer(None))

        self._do(receive)

    def abandon(self) -> None:
        if self._incoming is not None and not self._incoming.finishing:
            self._incoming = None

    def install(self) -> None:
        if self._incoming is not None and self._incoming.finishing:
            raise RuntimeError("a snapshot is being verified")
        newest = self.newest
        if newest is None:
            raise CorruptSnapshot(_PLACE, "there is no snapshot")
        stored = self.disk.held[newest.index]
        data = self._prepared_data
        if self._prepared is not stored:
            try:
                stored.verify()
            except CorruptSnapshot:
                del self.disk.held[newest.index]
                raise
            data = bytes(stored.data)
        self._prepared, self._prepared_data = None, b""
        self._machine.load(data, newest.index, newest.term)

    def close(self) -> None:
        self._closed = True
        self._queue.clear()

    def _receiving(self) -> _Incoming:
        if self._closed or self._incoming is None or self._incoming.finishing:
            raise RuntimeError("no snapshot is being received")
        return self._incoming

    def _prune(self) -> None:
        held = self.disk.held
        for index in prunable(held, self._read_at, self._monotonic(), self.options):
            del held[index]
        self._read_at = {index: at for index, at in self._read_at.items() if index in held}

    # --- The simulated disk ------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Pieces of work that `step` would do."""
        return len(self._queue)

    def step(self) -> bool:
        """Do the oldest piece of work that is held back. False: there is none."""
        if not self._queue:
            return False
        self._queue.popleft()()
        return True

    def crash(self, rng: Random | None = None) -> SnapshotDisk:
        """The disk as found after power loss. Durable snapshots are there; of a partial
        one any prefix, or all that was written if there is no `rng`.

        These snapshots must not be used any more.
        """
        partial = None if self.disk.partial is None else self.disk.partial.copy()
        if partial is not None and rng is not None:
            del partial.data[rng.randrange(len(partial.data) + 1) :]
        held = {index: stored.copy() for index, stored in self.disk.held.items()}
        self.close()
        return SnapshotDisk(held, partial)

    def _do(self, work: Callable[[], None]) -> None:
        if self._closed:
            return
        if self.hold:
            self._queue.append(work)
        else:
            work()

    def _do_chunk(self, work: Callable[[], None]) -> None:
        """Raises Overloaded when `chunk_jobs_max` wait."""
        if self._chunks_waiting >= self.options.chunk_jobs_max:
            raise Overloaded(f"{self._chunks_waiting} reads and writes wait for the disk")
        self._chunks_waiting += 1

        def run() -> None:
            self._chunks_waiting -= 1
            work()

        self._do(run)
