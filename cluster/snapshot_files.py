"""The file-system calls of snapshots that the log does not need. See `log_files`."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from cluster import log_files

_READ_BYTES = 1 << 20
# What the kernel says where it cannot copy between these two files by itself.
_CANNOT_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def make_folder(path: Path) -> None:
    """Create one folder that must not exist. Its entry is not durable yet."""
    path.mkdir(mode=0o700)


def rename(source: Path, target: Path) -> None:
    """Atomic, replaces a file at `target`. Durable once the folder is synced."""
    os.rename(source, target)


def remove_folder(path: Path) -> None:
    path.rmdir()


def remove_tree(path: Path) -> None:
    """Remove the folder, or file, at `path`; nothing there is fine."""
    if path.is_symlink() or not path.is_dir():
        if os.path.lexists(path):
            log_files.remove(path)
        return
    for child in sorted(path.iterdir()):
        remove_tree(child)
    remove_folder(path)


def read_at(fd: int, offset: int, size: int) -> bytes:
    """`size` bytes at `offset`, fewer only at the end of the file."""
    parts = []
    while size:
        part = os.pread(fd, min(size, _READ_BYTES), offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def copy_range(source: int, target: int, offset: int, size: int) -> int:
    """Copy up to `size` bytes at `offset` to the same place; how many, 0 at the end.

    Where the file system can share blocks, none is written.
    """
    if hasattr(os, "copy_file_range"):
        try:
            return os.copy_file_range(source, target, size, offset, offset)
        except OSError as error:
            if error.errno not in _CANNOT_COPY:
                raise
    data = read_at(source, offset, min(size, _READ_BYTES))
    if data:
        log_files.write_all(target, [data], offset)
    return len(data)
