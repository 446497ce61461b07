"""The few file-system calls of the Raft log. Each either did all it says or raises OSError.

Kept apart so that tests can record, stop or fail every call that reaches the disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path

if sys.platform == "darwin":  # there, fsync does not reach the platter
    import fcntl

_BUFFERS_MAX = 1024  # buffers in one call (IOV_MAX on Linux and macOS)


def create(path: Path) -> int:
    """Create a file that must not exist; returns a descriptor for reading and writing."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def open_existing(path: Path, *, write: bool) -> int:
    return os.open(path, (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC)


def write_all(fd: int, buffers: Sequence[bytes | bytearray], offset: int) -> None:
    """Write the buffers one after another at `offset`. Not durable before `sync_file`."""
    for start in range(0, len(buffers), _BUFFERS_MAX):
        chunk = buffers[start : start + _BUFFERS_MAX]
        size = sum(map(len, chunk))
        written = os.pwritev(fd, chunk, offset)
        if written < size:
            _write_rest(fd, chunk, offset, written)
        offset += size


def _write_rest(fd: int, buffers: Sequence[bytes | bytearray], offset: int, written: int) -> None:
    """Finish a short write (the kernel moves at most 2 GiB; a disk may be nearly full)."""
    rest = memoryview(b"".join(buffers))[written:]
    offset += written
    while rest:
        written = os.pwrite(fd, rest, offset)
        if written == 0:
            raise OSError(errno.EIO, "the disk accepts no more bytes")
        rest = rest[written:]
        offset += written


def sync_file(fd: int) -> None:
    """Make the file's contents and length durable."""
    if sys.platform == "darwin":
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(fd)


def forget_cached(fd: int, offset: int, length: int) -> None:
    """Let go of the page cache of a part that was synced and is not read soon: a copy of a large
    state would push out the state itself. Advice: what cannot be followed is not."""
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)


def sync_directory(path: Path) -> None:
    """Make the directory's entries durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def truncate(fd: int, size: int) -> None:
    os.ftruncate(fd, size)


def remove(path: Path) -> None:
    os.unlink(path)


def make_directory(path: Path) -> None:
    """Create `path` and its missing parents, each entry durable. Private to the user."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    sync_directory(path.parent)
