"""Durable snapshots of one group: made, read, received, installed. DESIGN-snapshots.md.

Threads: every method belongs to the loop thread. Two workers do what is slow: the *snapshot
thread* makes, verifies and removes whole snapshots, one at a time; the *chunk thread* reads
and writes pieces of them, so that a long copy does not stall what is being streamed.
A third one, the source, lives for the length of a copy (`snapshot_copy`). What they share
with the loop is handed over by the workers' queues; there are no locks.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cluster import log_files, snapshot_files, snapshot_incoming
from cluster.errors import CorruptSnapshot, Overloaded, StorageFailed
from cluster.interfaces import SnapshotMeta
from cluster.membership import Configuration
from cluster.snapshot_copy import Checkpoints, Copied, Pace, clone, copy_state, verify
from cluster.snapshot_directory import (
    INCOMING,
    MAKING,
    PREPARED,
    REMOVED,
    STATE,
    Held,
    free_name,
    publish,
    recover,
    retire,
    set_aside,
    write_manifest,
)
from cluster.snapshot_incoming import Incoming
from cluster.snapshot_rules import (
    SnapshotOptions,
    check_begin,
    check_chunk,
    prunable,
    write_problem,
)
from cluster.snapshot_worker import CallSoon, Worker

PROBLEMS_MAX = 16  # the newest are kept
_JOBS_MAX = 8  # of the snapshot thread: one being made or received, verified, removed

Created = Callable[[SnapshotMeta | None, Exception | None], None]
Finished = Callable[[Exception | None], None]


class SnapshotStore:
    """`Snapshots` in the folder `directory`.

    `fail` hears of a failure that belongs to no call: the node must stop. `monotonic`:
    seconds. Opening removes unfinished work and lists what is not whole in `problems`.
    Raises StorageFailed.
    """

    def __init__(
        self,
        directory: Path,
        group: int,
        checkpoints: Checkpoints,
        call_soon_threadsafe: CallSoon,
        fail: Callable[[Exception], None],
        options: SnapshotOptions | None = None,
        *,
        monotonic: Callable[[], float],
    ) -> None:
        self.directory = directory
        self.options = options or SnapshotOptions()
        self._group = group
        self._checkpoints = checkpoints
        self._fail = fail
        self._monotonic = monotonic
        try:
            found = recover(directory, group)
        except OSError as error:
            raise self._translated(error) from error
        self.problems = found.problems[-PROBLEMS_MAX:]
        self._held = found.held
        self._read_at: dict[int, float] = {}
        self._creating = False
        self._distrusted = 0  # times that the state was found damaged
        self._incoming: Incoming | None = None
        self._dropped = 0  # partial ones, which are then removed by the snapshot thread
        self._prepared: Path | None = None  # the snapshot of which PREPARED is a copy
        self._cancelled = threading.Event()
        self._closed = False
        self._jobs = Worker("snapshot", call_soon_threadsafe, _JOBS_MAX)
        self._chunks = Worker("snapshot-chunks", call_soon_threadsafe, self.options.chunk_jobs_max)

    @property
    def newest(self) -> SnapshotMeta | None:
        return self._held[max(self._held)].meta if self._held else None

    @property
    def held(self) -> list[SnapshotMeta]:
        """All that are complete, the newest first."""
        return [self._held[index].meta for index in sorted(self._held, reverse=True)]

    @property
    def newest_file(self) -> Path | None:
        """The state's file of the newest one. It may be removed at any time."""
        return self._held[max(self._held)].state if self._held else None

    @property
    def busy(self) -> bool:
        return self._creating or self._incoming is not None

    # --- Making ----------------------------------------------------------------------

    def create(self, configuration_at: Callable[[int], Configuration], done: Created) -> bool:
        """See `Snapshots.create`. A copy that is not newer than `newest` is dropped again,
        and `newest` is the answer."""
        if self.busy or self._closed:
            return False
        self._creating = True
        distrusted = self._distrusted

        def copied(copy: Copied | None, error: Exception | None) -> None:
            newest = self.newest
            if self._distrusted != distrusted:
                # Whatever it is a copy of, or why there is none.
                self._drop_copy(None, Overloaded("the state was found damaged"), done)
                return
            if copy is None:
                self._created(None, error, done)
                return
            if newest is not None and copy.index <= newest.index:
                self._drop_copy(newest, None, done)
                return
            try:
                meta = SnapshotMeta(*copy, configuration_at(copy.index))
            except Exception as failure:
                self._created(None, failure, done)
                return
            self._jobs.submit(lambda: self._publish(meta), published, bounded=False)

        def published(held: Held | None, error: Exception | None) -> None:
            if held is None:
                self._created(None, error, done)
                return
            if self._distrusted != distrusted:
                self._in_background(lambda: retire(held.path))
                self._created(None, Overloaded("the state was found damaged"), done)
                return
            if held.meta.index in self._held:  # received meanwhile
                self._in_background(lambda: retire(held.path))
            else:
                self._held[held.meta.index] = held
            self._created(held.meta, None, done)

        self._jobs.submit(self._copy, copied, bounded=False)
        return True

    def _copy(self) -> Copied:
        """Snapshot thread."""
        making = self.directory / MAKING
        self._remove_making()
        snapshot_files.make_folder(making)
        try:
            copy = copy_state(self._checkpoints, making / STATE, self.options, self._pace())
            if copy.index < 1:
                raise ValueError("there is no snapshot of a state to which nothing was applied")
            return copy
        except BaseException:
            self._remove_making()  # A full disk needs the room.
            raise

    def _drop_copy(self, meta: SnapshotMeta | None, error: Exception | None, done: Created) -> None:
        """The copy that was made is not wanted: `done` hears `meta`, or why not."""

        def removed(_: None, failure: Exception | None) -> None:
            self._created(None if failure else meta, failure or error, done)

        self._jobs.submit(self._remove_making, removed, bounded=False)

    def _remove_making(self) -> None:
        snapshot_files.remove_tree(self.directory / MAKING)

    def _publish(self, meta: SnapshotMeta) -> Held:
        """Snapshot thread."""
        making = self.directory / MAKING
        write_manifest(making, self._group, meta, durable=True)
        held = Held(meta, free_name(self.directory, meta.index))
        publish(making, held.path)
        return held

    def _created(self, meta: SnapshotMeta | None, error: Exception | None, done: Created) -> None:
        self._creating = False
        if error is not None:
            done(None, self._translated(error))
            return
        self._prune()
        done(meta, None)

    # --- Keeping ---------------------------------------------------------------------

    def read(
        self, index: int, offset: int, size: int, done: Callable[[bytes | None], None]
    ) -> None:
        """See `Snapshots.read`. Fewer bytes than `size` only at the end of the snapshot.

        Raises Overloaded, ValueError (negative, or more than `chunk_bytes_max`).
        """
        check_chunk(size, self.options)
        if offset < 0:
            raise ValueError(f"offset is {offset}")
        if self._closed:
            return
        held = self._held.get(index)
        if held is None:
            done(None)
            return
        self._read_at[index] = self._monotonic()
        expected = max(0, min(size, held.meta.size - offset))

        def answered(data: bytes | None, error: Exception | None) -> None:
            missing = isinstance(error, FileNotFoundError)
            if error is not None and not missing:
                self._fail(self._translated(error))
            elif missing or data is None or len(data) != expected:
                self._damaged(held, "the state's file is missing or too short")
                data = None
            done(data)

        self._chunks.submit(lambda: _read_file(held.state, offset, expected), answered)

    def verify(self, done: Finished) -> None:
        """See `Snapshots.verify`. Raises Overloaded."""
        if self._closed:
            return
        if not self._held:
            done(None)
            return
        held = self._held[max(self._held)]

        def verified(_: None, error: Exception | None) -> None:
            if isinstance(error, CorruptSnapshot):
                self._damaged(held, str(error))
            done(None if error is None else self._translated(error))

        self._jobs.submit(lambda: self._look_at(held), verified)

    def prepare(self, done: Finished) -> None:
        """See `Snapshots.prepare`. Where there is none: CorruptSnapshot."""
        if self._closed:
            return
        if not self._held:
            done(CorruptSnapshot(str(self.directory), "there is no snapshot"))
            return
        held = self._held[max(self._held)]

        def look_and_copy() -> None:
            self._look_at(held)
            clone(held.state, self.directory / PREPARED, self.options, self._pace())

        def prepared(_: None, error: Exception | None) -> None:
            if isinstance(error, CorruptSnapshot):
                self._damaged(held, str(error))
            elif error is None:
                self._prepared = held.path
            done(None if error is None else self._translated(error))

        self._jobs.submit(look_and_copy, prepared, bounded=False)

    def _look_at(self, held: Held) -> None:
        """Snapshot thread: the bytes, and what they hold. Raises CorruptSnapshot."""
        verify(held.state, held.meta, self._cancelled)
        self._checkpoints.examine(held.state, self._cancelled.is_set)

    def distrust(self, *, held: bool) -> None:
        """See `Snapshots.distrust`. The newest one that is set aside is kept for a person."""
        self._distrusted += 1
        if held:
            for index in sorted(self._held):
                self._damaged(self._held[index], "it was made of a state that was damaged")

    def _prune(self) -> None:
        for index in prunable(self._held, self._read_at, self._monotonic(), self.options):
            self._in_background(partial(retire, self._held.pop(index).path))
        self._read_at = {i: at for i, at in self._read_at.items() if i in self._held}

    def _damaged(self, held: Held, reason: str) -> None:
        if self._held.get(held.meta.index) is held:
            del self._held[held.meta.index]
            self._problem(f"{held.path}: {reason}; set aside")
            self._in_background(lambda: set_aside(held.path))

    def _in_background(self, job: Callable[[], None], worker: Worker | None = None) -> None:
        """A failure of `job` stops the node."""

        def finished(_: None, error: Exception | None) -> None:
            if error is not None:
                self._fail(self._translated(error))

        (worker or self._jobs).submit(job, finished, bounded=False)

    def _problem(self, text: str) -> None:
        self.problems.append(text)
        del self.problems[:-PROBLEMS_MAX]

    # --- Receiving -------------------------------------------------------------------

    def begin(self, meta: SnapshotMeta) -> int:
        """See `Snapshots.begin`. How much of a partial one is here is told by its length,
        which power loss may have made a lie; the sha256 has the last word.

        Raises ValueError (older than the newest one), Overloaded (`finish` is under way),
        StorageFailed.
        """
        if self._closed:
            raise RuntimeError("the snapshots are closed")
        check_begin(meta, self.newest)
        if self._incoming is not None and self._incoming.finishing:
            raise Overloaded("a snapshot is being verified")
        if self._incoming is None or self._incoming.meta != meta:
            self.abandon()
            try:
                self._incoming = self._open_incoming(meta)
            except OSError as error:
                raise self._translated(error) from error
        return self._incoming.received

    def _open_incoming(self, meta: SnapshotMeta) -> Incoming:
        held = self._held.get(meta.index)
        if held is not None and held.meta == meta:
            return Incoming(meta, meta.size, held=held)
        resumed = snapshot_incoming.resume(self.directory, self._group, meta)
        if resumed is not None:
            return resumed
        incoming = self.directory / INCOMING
        if incoming.exists():
            # Removing gigabytes takes a while.
            self._dropped += 1
            dropped = self.directory / f"{INCOMING}.{self._dropped}{REMOVED}"
            snapshot_files.rename(incoming, dropped)
            self._in_background(lambda: snapshot_files.remove_tree(dropped))
        return snapshot_incoming.start(self.directory, self._group, meta)

    def write(self, offset: int, data: bytes, done: Finished) -> None:
        """See `Snapshots.write`. In order; what is here already may come again.

        Bytes outside the snapshot, or beyond a gap: CorruptSnapshot, and nothing changes.
        Raises Overloaded, ValueError (`chunk_bytes_max`), RuntimeError (nothing is begun).
        """
        incoming = self._receiving()
        check_chunk(len(data), self.options)
        problem = write_problem(offset, len(data), incoming.received, incoming.meta)
        if problem is not None:
            done(CorruptSnapshot(str(self.directory / INCOMING), problem))
            return
        fd = incoming.fd
        if fd is None:
            done(None)
            return
        sync_bytes = self.options.sync_bytes
        self._chunks.submit(
            lambda: snapshot_incoming.write_chunk(incoming, fd, offset, data, sync_bytes),
            lambda _, error: done(None if error is None else self._translated(error)),
        )
        incoming.received = max(incoming.received, offset + len(data))

    def finish(self, done: Finished, *, thorough: bool = False) -> None:
        """See `Snapshots.finish`. Raises RuntimeError: nothing is begun."""
        incoming = self._receiving()
        incoming.finishing = True

        def written(_: None, error: Exception | None) -> None:
            if error is not None:
                received(None, error)
            else:
                self._jobs.submit(
                    lambda: self._receive(incoming, thorough), received, bounded=False
                )

        def received(held: Held | None, error: Exception | None) -> None:
            self._incoming = None
            if held is None:
                if incoming.held is not None and isinstance(error, CorruptSnapshot):
                    self._damaged(incoming.held, str(error))
                done(None if error is None else self._translated(error))
                return
            previous = self._held.get(held.meta.index)
            self._held[held.meta.index] = held
            self._prepared = held.path
            if previous is not None and previous.path != held.path:
                self._in_background(lambda: retire(previous.path))
            self._prune()
            done(None)

        # After the writes that are still waiting.
        self._chunks.submit(lambda: snapshot_incoming.close(incoming), written, bounded=False)

    def _receive(self, incoming: Incoming, thorough: bool) -> Held:
        """Snapshot thread: verify, publish, and copy for `install`."""
        held = incoming.held
        if held is None:
            held = snapshot_incoming.complete(self.directory, incoming.meta, self._cancelled)
        else:
            verify(held.state, held.meta, self._cancelled)
        if thorough:
            try:
                self._checkpoints.examine(held.state, self._cancelled.is_set)
            except CorruptSnapshot:
                set_aside(held.path)
                raise
        clone(held.state, self.directory / PREPARED, self.options, self._pace())
        return held

    def abandon(self) -> None:
        """See `Snapshots.abandon`. A `finish` under way goes on, and answers."""
        incoming = self._incoming
        if incoming is None or incoming.finishing:
            return
        self._incoming = None
        self._in_background(lambda: snapshot_incoming.close(incoming), self._chunks)

    def _receiving(self) -> Incoming:
        if self._closed or self._incoming is None or self._incoming.finishing:
            raise RuntimeError("no snapshot is being received")
        return self._incoming

    # --- Installing ------------------------------------------------------------------

    def install(self) -> None:
        """See `Snapshots.install`. A snapshot that does not verify, or that the machine finds
        damaged, is set aside, so that `newest` is the one before. What else
        `Checkpoints.replace` raises passes through.

        Not while `finish` is under way: RuntimeError."""
        if self._incoming is not None and self._incoming.finishing:
            raise RuntimeError("a snapshot is being verified")
        newest = self.newest
        if newest is None:
            raise CorruptSnapshot(str(self.directory), "there is no snapshot")
        held = self._held[newest.index]
        prepared = self.directory / PREPARED
        try:
            if self._prepared != held.path:
                verify(held.state, newest, self._cancelled)
                unpaced = SnapshotOptions(copy_bytes_per_second_max=0)
                clone(held.state, prepared, unpaced, self._pace(unpaced))
            self._prepared = None
            self._checkpoints.replace(prepared, newest.index, newest.term)
        except CorruptSnapshot as error:
            self._damaged(held, str(error))
            raise
        except OSError as error:
            raise self._translated(error) from error

    def close(self) -> None:
        """See `Snapshots.close`. Waits up to `close_seconds_max` for the disk."""
        if self._closed:
            return
        self._closed = True
        self._cancelled.set()
        seconds = self.options.close_seconds_max
        ended = [worker.close(seconds) for worker in (self._jobs, self._chunks)]
        if self._incoming is not None and all(ended):
            snapshot_incoming.close(self._incoming)

    def _pace(self, options: SnapshotOptions | None = None) -> Pace:
        return Pace(options or self.options, self._cancelled, self._monotonic)

    def _translated(self, error: Exception) -> Exception:
        if isinstance(error, OSError):
            return StorageFailed(f"snapshots in {self.directory}: {error}", error.errno)
        return error


def _read_file(path: Path, offset: int, size: int) -> bytes:
    """Chunk thread."""
    fd = log_files.open_existing(path, write=False)
    try:
        return snapshot_files.read_at(fd, offset, size)
    finally:
        os.close(fd)
