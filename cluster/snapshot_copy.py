"""The long work on a snapshot's bytes, done in the snapshot thread.

Nothing here holds more than a chunk of the state in memory. What is written is fsynced
every `sync_bytes`: one flush of a gigabyte would make the log's fsync wait for seconds. Then it
leaves the page cache, which is the live state's.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from cluster import log_files, snapshot_files
from cluster.errors import CorruptSnapshot
from cluster.interfaces import SnapshotMeta
from cluster.snapshot_rules import SnapshotOptions

_READ_BYTES = 1 << 20
_SOURCE_SECONDS_MAX = 10.0  # for the source to notice that nobody reads any more


class Checkpoints(Protocol):
    """A machine's state as bytes. What each raises is passed on as it is."""

    def copy_to(self, fd: int) -> tuple[int, int]:
        """Write a consistent copy of the state; returns (index, term) applied in it.

        Called from a thread of its own while the machine goes on. The copy is that of one
        moment after the call began. `fd` is a pipe or a file, and stays open.
        """

    def replace(self, path: Path, index: int, term: int) -> None:
        """Make the copy in the file at `path` the state; the file is taken away.

        Loop thread. Raises CorruptSnapshot, with the state as it was, if it is not that of
        `index`, `term`, or is damaged.
        """

    def examine(self, path: Path, cancelled: Callable[[], bool]) -> None:
        """Look at every record of the copy in the file at `path`, which stays as it is.

        Snapshot thread. Ends early, without a word, once `cancelled()`. Raises DamagedContent.
        """

    def release_memory(self) -> None:
        """Called now and then during a copy, from the snapshot thread."""


class Cancelled(Exception):
    """The store is being closed."""


class Copied(NamedTuple):
    """A new copy of the state."""

    index: int  # type: ignore[assignment]  # shadows tuple.index on purpose
    term: int
    size: int
    sha256: bytes


class Pace:
    """Keeps a copy at `copy_bytes_per_second_max` and ends it when the store is closed."""

    def __init__(
        self, options: SnapshotOptions, cancelled: threading.Event, monotonic: Callable[[], float]
    ) -> None:
        self._rate = options.copy_bytes_per_second_max
        self._cancelled = cancelled
        self._monotonic = monotonic
        self._started = monotonic()

    def keep(self, size: int) -> None:
        """Wait until `size` bytes may have been copied. Raises Cancelled."""
        if self._rate:
            ahead = size / self._rate - (self._monotonic() - self._started)
            if ahead > 0:
                self._cancelled.wait(ahead)
        if self._cancelled.is_set():
            raise Cancelled


def copy_state(
    checkpoints: Checkpoints, path: Path, options: SnapshotOptions, pace: Pace
) -> Copied:
    """Write the machine's state to the new file `path`, durably.

    A thread of its own runs `copy_to` into a pipe. This one reads the pipe, hashes and
    writes: the copy need not be read again, and a slow disk slows the source.
    Raises OSError, Cancelled, what `copy_to` raises.
    """
    source = _Source(checkpoints)
    fd = log_files.create(path)
    try:
        size, digest = _drain(source.read_end, fd, checkpoints, options, pace)
        log_files.sync_file(fd)
    finally:
        os.close(fd)
        # With no reader left, a source that still writes gets EPIPE and ends.
        os.close(source.read_end)
    index, term = source.result()
    return Copied(index, term, size, digest)


def _drain(
    pipe: int, fd: int, checkpoints: Checkpoints, options: SnapshotOptions, pace: Pace
) -> tuple[int, bytes]:
    digest = hashlib.sha256()
    size = synced = 0
    while data := os.read(pipe, _READ_BYTES):
        digest.update(data)
        log_files.write_all(fd, [data], size)
        size += len(data)
        if size - synced >= options.sync_bytes:
            log_files.sync_file(fd)
            log_files.forget_cached(fd, synced, size - synced)
            checkpoints.release_memory()
            synced = size
        pace.keep(size)
    checkpoints.release_memory()
    return size, digest.digest()


class _Source:
    """The thread that writes the state into a pipe. It works outside of Python's lock."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints
        self._position: tuple[int, int] | None = None
        self._error: Exception | None = None
        self.read_end, self._write_end = os.pipe()
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            with contextlib.suppress(OSError):  # Not allowed so much: only slower.
                fcntl.fcntl(self.read_end, fcntl.F_SETPIPE_SZ, _READ_BYTES)
        self._thread = threading.Thread(target=self._run, name="snapshot-source", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._position = self._checkpoints.copy_to(self._write_end)
        except Exception as error:
            self._error = error
        finally:
            os.close(self._write_end)

    def result(self) -> tuple[int, int]:
        """(index, term), once the pipe was read to its end. Raises what `copy_to` raised."""
        self._thread.join(_SOURCE_SECONDS_MAX)
        if self._error is not None:
            raise self._error
        if self._position is None:
            raise OSError("the state's source ended its copy and did not return")
        return self._position


def verify(path: Path, meta: SnapshotMeta, cancelled: threading.Event) -> None:
    """Check length and sha256 of a state's file. Raises CorruptSnapshot, OSError, Cancelled."""
    digest = hashlib.sha256()
    try:
        fd = log_files.open_existing(path, write=False)
    except FileNotFoundError as error:
        raise CorruptSnapshot(str(path), "the file is missing") from error
    try:
        size = os.fstat(fd).st_size
        if size != meta.size:
            raise CorruptSnapshot(str(path), f"{size} bytes instead of {meta.size}")
        offset = 0
        while data := snapshot_files.read_at(fd, offset, _READ_BYTES):
            digest.update(data)
            offset += len(data)
            if cancelled.is_set():
                raise Cancelled
    finally:
        os.close(fd)
    if digest.digest() != meta.sha256:
        raise CorruptSnapshot(str(path), "its sha256 is not the manifest's")


def clone(source: Path, target: Path, options: SnapshotOptions, pace: Pace) -> None:
    """Copy a state's file: LMDB writes in place, and the snapshot must stay as it is.

    Replaces `target`. Not durable at the end: the live state never is.
    """
    snapshot_files.remove_tree(target)
    from_fd = log_files.open_existing(source, write=False)
    try:
        to_fd = log_files.create(target)
        try:
            offset = 0
            while copied := snapshot_files.copy_range(from_fd, to_fd, offset, options.sync_bytes):
                offset += copied
                # Writeback would bring it all to the disk at once some seconds later.
                log_files.sync_file(to_fd)
                pace.keep(offset)
        finally:
            os.close(to_fd)
    finally:
        os.close(from_fd)
