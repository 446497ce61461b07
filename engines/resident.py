"""Giving back memory that a memory-mapped file occupies.

LMDB maps its file, and every page that was ever read through the map counts as the
process's memory until the kernel runs short. A copy of the state reads all of it.

`madvise(MADV_DONTNEED)` on a shared mapping of a file drops the process's page-table
entries and nothing else: the pages stay in the page cache, the next access finds them there
again (a minor fault), and dirty ones are written back as ever, whether written through the
map or not. (On *private* mappings it does lose data, which is why the mapping is checked to be
a shared one.) So it is safe beside readers and the writer.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from pathlib import Path
from typing import NamedTuple


class Mapping(NamedTuple):
    """Where a file is mapped; valid for as long as it stays so."""

    address: int
    length: int  # bytes


def find_mapping(path: Path) -> Mapping | None:
    """The shared mapping of the file at `path` in this process.

    None where the system does not tell: only Linux does.
    """
    if sys.platform != "linux":
        return None
    wanted = os.path.realpath(path)
    try:
        lines = Path("/proc/self/maps").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    for line in lines:
        addresses, protection, offset, _, _, *name = line.split(maxsplit=5)
        if protection[-1] == "s" and int(offset, 16) == 0 and name == [wanted]:
            start, _, end = addresses.partition("-")
            return Mapping(int(start, 16), int(end, 16) - int(start, 16))
    return None


def release(mapping: Mapping) -> None:
    """Drop the mapping's pages from this process's memory. Any thread.

    The caller makes sure that the file stays mapped meanwhile.
    """
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    # A refusal leaves everything as it was: the memory is then given back later.
    libc.madvise(mapping.address, mapping.length, mmap.MADV_DONTNEED)
