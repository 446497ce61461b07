"""Reads the bytes of one segment file through a small window."""

from __future__ import annotations

import os
from pathlib import Path

from cluster import log_files
from cluster.log_format import KIB

_READ_AHEAD_BYTES = 64 * KIB


class SegmentReader:
    """Reads one segment through a small window; `forget` it when the file has grown."""

    def __init__(self, path: Path) -> None:
        self._fd = log_files.open_existing(path, write=False)
        self._window = b""
        self._window_at = 0

    def at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes; fewer only at the end of the file."""
        start = offset - self._window_at
        if start < 0 or start + size > len(self._window):
            self._window = self._read(offset, max(size, _READ_AHEAD_BYTES))
            self._window_at, start = offset, 0
            if size > _READ_AHEAD_BYTES:
                large, self._window = self._window, b""
                return large
        return self._window[start : start + size]

    def forget(self) -> None:
        """Drop what was read ahead. It may lie where zeros were and records are now."""
        self._window = b""

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def close(self) -> None:
        os.close(self._fd)

    def _read(self, offset: int, size: int) -> bytes:
        """One call may move at most 2 GiB and stops at signals; the end of file ends it."""
        data = os.pread(self._fd, size, offset)
        while len(data) < size:
            more = os.pread(self._fd, size - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data
