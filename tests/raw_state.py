"""A state's file, changed beside the node that has it open: what no write of its own does."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import lmdb

from engines.environment import Database, Databases, Transaction

MAP_BYTES = 64 << 30  # address space, as the daemon has it


def data_bytes(file: int) -> int:
    """Up to where the open file holds something: a state's has a hole behind what is used."""
    end = 0
    with contextlib.suppress(OSError):  # ENXIO: nothing behind it
        while True:
            end = os.lseek(file, os.lseek(file, end, os.SEEK_DATA), os.SEEK_HOLE)
    os.lseek(file, 0, os.SEEK_SET)
    return end


@contextlib.contextmanager
def written_leaves(folder: Path) -> Iterator[tuple[Transaction, Database]]:
    """A write transaction and the database `leaves`.

    Not by a `Store`: as it closes it would cut the file that the node has mapped.
    """
    with lmdb.open(
        str(folder), max_dbs=len(Databases._fields), map_size=MAP_BYTES, sync=False
    ) as env:
        leaves = env.open_db(b"leaves", create=False)
        with env.begin(write=True, buffers=True) as txn:
            yield txn, leaves
