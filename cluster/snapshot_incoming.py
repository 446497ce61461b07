"""The snapshot that is being received: a partial file, resumed where it ends.

Opened on the loop thread; written by the chunk thread, completed by the snapshot thread.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path

from cluster import log_files, snapshot_files
from cluster.errors import CorruptSnapshot
from cluster.interfaces import SnapshotMeta
from cluster.snapshot_copy import verify
from cluster.snapshot_directory import (
    INCOMING,
    MANIFEST,
    PARTIAL,
    STATE,
    Held,
    free_name,
    publish,
    read_incoming,
    write_manifest,
)


@dataclass(slots=True)
class Incoming:
    """`received`: bytes from the start that are here or handed to the chunk thread.

    `fd`: of the partial file; None if the snapshot is here already, whole, as `held`.
    """

    meta: SnapshotMeta
    received: int
    fd: int | None = None
    held: Held | None = None
    synced: int = 0  # chunk thread
    finishing: bool = False


def resume(directory: Path, group: int, meta: SnapshotMeta) -> Incoming | None:
    """The partial snapshot that is here, if it is this one. Raises OSError."""
    if read_incoming(directory, group) != meta:
        return None
    fd = log_files.open_existing(directory / INCOMING / PARTIAL, write=True)
    return Incoming(meta, os.fstat(fd).st_size, fd)


def start(directory: Path, group: int, meta: SnapshotMeta) -> Incoming:
    """A new partial snapshot; there must be none. Raises OSError."""
    incoming = directory / INCOMING
    snapshot_files.make_folder(incoming)
    # Power loss may tear it: then the partial snapshot is dropped, no more.
    write_manifest(incoming, group, meta, durable=False)
    return Incoming(meta, 0, log_files.create(incoming / PARTIAL))


def write_chunk(incoming: Incoming, fd: int, offset: int, data: bytes, sync_bytes: int) -> None:
    """Chunk thread. Raises OSError."""
    log_files.write_all(fd, [data], offset)
    end = offset + len(data)
    if end - incoming.synced >= sync_bytes:
        log_files.sync_file(fd)
        incoming.synced = end


def close(incoming: Incoming) -> None:
    """Chunk thread, after the last write. Idempotent."""
    fd, incoming.fd = incoming.fd, None
    if fd is not None:
        os.close(fd)


def complete(directory: Path, meta: SnapshotMeta, cancelled: threading.Event) -> Held:
    """Verify the closed partial file and make it a snapshot, durably. Snapshot thread.

    Raises CorruptSnapshot, with the partial file removed, OSError, Cancelled.
    """
    folder = directory / INCOMING
    try:
        verify(folder / PARTIAL, meta, cancelled)
    except CorruptSnapshot:
        snapshot_files.remove_tree(folder)
        raise
    for name in (PARTIAL, MANIFEST):
        fd = log_files.open_existing(folder / name, write=True)
        try:
            log_files.sync_file(fd)
        finally:
            os.close(fd)
    snapshot_files.rename(folder / PARTIAL, folder / STATE)
    held = Held(meta, free_name(directory, meta.index))
    publish(folder, held.path)
    return held
