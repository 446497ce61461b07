"""Disk space for a file that is written through a map, had before it is needed.

A store to a page for which the disk has no room ends the process by a signal, with no chance
to say why. So room beyond what a data file uses is had beforehand, by `posix_fallocate`, which
fails with an error that names its reason. The file is as long as its map all the while, and
sparse; `trim` cuts it to what is used.

Not covered: a file system that copies on write needs room for pages that are there, too, and
a transaction may use more than is had ahead. Both meet a signal only where the disk is full
already, and a node takes nothing in long before (`storage.free_bytes_min`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from engines.interfaces import MIB

# Had beyond what is used: an eighth of it, within these bounds, in bytes.
AHEAD_MIN: Final = 4 * MIB
AHEAD_MAX: Final = 64 * MIB
_AHEAD_SHARE: Final = 8

# macOS has no such call, and there the map stays read-only.
AVAILABLE: Final = hasattr(os, "posix_fallocate")


class FileSpace:
    """The space of one data file. One thread at a time."""

    def __init__(self, path: Path, bytes_max: int) -> None:
        """`bytes_max`: the length of the map. Raises OSError."""
        self._bytes_max = bytes_max
        self._held = 0  # bytes from the start for which the disk has room
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def ensure(self, used: int) -> None:
        """Have room beyond the first `used` bytes. Cheap while there is enough.

        Raises OSError: not even AHEAD_MIN is to be had.
        """
        wanted = min(max(used // _AHEAD_SHARE, AHEAD_MIN), AHEAD_MAX)
        if self._held >= min(used + wanted // 2, self._bytes_max):
            return
        while True:
            end = min(used + wanted, self._bytes_max)
            try:
                os.posix_fallocate(self._fd, 0, end)
            except OSError:
                if wanted <= AHEAD_MIN:
                    raise
                wanted = max(wanted // 2, AHEAD_MIN)
            else:
                self._held = end
                return

    def trim(self, used: int) -> None:
        """Cut the file to what is used. Once nothing maps it. Raises OSError."""
        os.ftruncate(self._fd, used)

    def close(self) -> None:
        os.close(self._fd)
