"""Disk space for a file that is written through a map, had before it is needed.

A store to a page for which the disk has no room ends the process by a signal, with no chance
to say why. So room beyond what a data file uses is had beforehand, by `posix_fallocate`, which
fails with an error that names its reason. The file is as long as its map all the while, and
sparse; `trim` cuts it to what is used.

How much: what the transaction is expected to need, and some beyond, so that the disk is asked
now and then only. Not covered: a file system that copies on write needs room for pages that are
there, too, and a transaction may need far more than its commands let expect. Both meet a signal
only where the disk is full already, and a node takes nothing in long before
(`storage.free_bytes_min`).
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from engines.interfaces import MIB

# Had beyond what is used: an eighth of it, within these bounds, in bytes. Of a disk that has
# little left no more than a sixteenth of that, or a state that nobody writes to would fill it.
AHEAD_MIN: Final = 4 * MIB
AHEAD_MAX: Final = 64 * MIB
_AHEAD_SHARE: Final = 8
_FREE_SHARE: Final = 16

# macOS has no such call, and there the map stays read-only.
AVAILABLE: Final = hasattr(os, "posix_fallocate")
_UNSUPPORTED: Final = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)

_PREFETCH_BYTES: Final = 32 * MIB  # asked for by one call


class FileSpaceUnavailableError(OSError):
    """The file system has no such call."""


class FileSpace:
    """The space of one data file. One thread at a time, but for `prefetch`."""

    def __init__(self, path: Path, bytes_max: int) -> None:
        """`bytes_max`: the length of the map. Raises OSError."""
        self._bytes_max = bytes_max
        self._held = 0  # bytes from the start for which the disk has room
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def ensure(self, used: int, expected: int = 0) -> None:
        """Have room for `expected` bytes beyond the first `used`. Cheap while there is enough.

        Raises OSError: there is not so much, or (FileSpaceUnavailableError) no such call.
        """
        least = max(expected, AHEAD_MIN // 2)
        if self._held >= min(used + least, self._bytes_max):
            return
        ahead = min(max(used // _AHEAD_SHARE, AHEAD_MIN), AHEAD_MAX)
        disk = os.fstatvfs(self._fd)
        modest = max(disk.f_bavail * disk.f_frsize // _FREE_SHARE, AHEAD_MIN)
        wanted = max(min(ahead, modest), least)
        while not self._allocated(min(used + wanted, self._bytes_max), last=wanted == least):
            wanted = max(wanted // 2, least)

    def _allocated(self, end: int, *, last: bool) -> bool:
        """Raises, if it is the `last` try, OSError."""
        try:
            # From what is held on: where a library imitates the call, it reads all blocks.
            os.posix_fallocate(self._fd, self._held, end - self._held)
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                raise FileSpaceUnavailableError(error.errno, error.strerror) from error
            if last:
                raise
            return False
        self._held = end
        return True

    def prefetch(self, used: int) -> None:
        """Have the kernel read the first `used` bytes in their order: a walk in the order of keys
        would read what is not in memory page by page. Any thread. Raises OSError."""
        for start in range(0, used, _PREFETCH_BYTES):
            os.posix_fadvise(self._fd, start, _PREFETCH_BYTES, os.POSIX_FADV_WILLNEED)

    def trim(self, used: int) -> None:
        """Cut the file to what is used. Once nothing maps it. Raises OSError."""
        os.ftruncate(self._fd, used)

    def close(self) -> None:
        os.close(self._fd)
