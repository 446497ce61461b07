"""What disk and memory snapshots have in common: limits, and what is kept. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cluster.interfaces import SnapshotMeta

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class SnapshotOptions:
    """Bounds of one group's snapshots. Raises ValueError, naming the field."""

    snapshots_kept: int = 2  # the newest; one more than needed, should the newest turn bad
    snapshots_pinned_max: int = 2  # older ones that are kept because somebody reads them
    pin_seconds: float = 60.0  # for which a snapshot stays after it was last read
    # Of copies made while the node serves; 0: unlimited. Half of what an ordinary disk does.
    copy_bytes_per_second_max: int = 128 * MIB
    sync_bytes: int = 8 * MIB  # written between two fsyncs: the log's own waits for no more
    chunk_bytes_max: int = 4 * MIB  # of one read or write
    chunk_jobs_max: int = 32  # reads and writes waiting for the disk
    close_seconds_max: float = 10.0  # that `close` waits for the disk

    def __post_init__(self) -> None:
        positive = ("snapshots_kept", "sync_bytes", "chunk_bytes_max", "chunk_jobs_max")
        for name in positive:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        others = (
            "snapshots_pinned_max",
            "pin_seconds",
            "copy_bytes_per_second_max",
            "close_seconds_max",
        )
        for name in others:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")


def prunable(
    held: Iterable[int], read_at: Mapping[int, float], now: float, options: SnapshotOptions
) -> list[int]:
    """Which of the snapshots `held` (indexes) go. `read_at`: index → seconds, last read."""
    older = sorted(held, reverse=True)[options.snapshots_kept :]
    pinned = [
        index for index in older if index in read_at and now - read_at[index] < options.pin_seconds
    ]
    spared = pinned[: options.snapshots_pinned_max]
    return [index for index in older if index not in spared]


def check_begin(meta: SnapshotMeta, newest: SnapshotMeta | None) -> None:
    """Raises ValueError for a snapshot that cannot become the newest."""
    if meta.index < 1 or meta.size < 0 or len(meta.sha256) != 32:
        raise ValueError(f"no snapshot has index {meta.index} and size {meta.size}")
    if newest is not None and meta.index < newest.index:
        raise ValueError(f"snapshot {meta.index} is older than {newest.index}, which is here")


def write_problem(offset: int, size: int, received: int, meta: SnapshotMeta) -> str | None:
    """Why `size` bytes at `offset` do not belong to a snapshot of which `received` are here."""
    if offset < 0 or offset + size > meta.size:
        return f"bytes {offset}..{offset + size} of a snapshot of {meta.size}"
    if offset > received:
        return f"bytes {received}..{offset} are missing"
    return None


def check_chunk(size: int, options: SnapshotOptions) -> None:
    """Raises ValueError for a read or write that is larger than is ever asked for."""
    if not 0 <= size <= options.chunk_bytes_max:
        raise ValueError(f"chunk_bytes_max is {options.chunk_bytes_max}, asked for {size}")
