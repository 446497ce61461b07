"""The folder of one group's snapshots: names, and what of it is whole.

    <index>/manifest.json, state.mdb      a snapshot; <index>.<n>: a later one at that index
    <index>.damaged/                      one that is not whole, for somebody to look at
    incoming/manifest.json, state.mdb.part  what is being received
    making/  *.removed/  prepared.mdb     unfinished or unwanted work, removed at open

A snapshot gets its name by a rename, after its files and its folder were fsynced; it loses
it by a rename as well, before anything in it is removed. So what bears the name is whole.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from cluster import log_files, snapshot_files, snapshot_manifest
from cluster.interfaces import SnapshotMeta

MANIFEST = "manifest.json"
STATE = "state.mdb"
PARTIAL = "state.mdb.part"
INCOMING = "incoming"
MAKING = "making"
PREPARED = "prepared.mdb"
REMOVED = ".removed"
DAMAGED = ".damaged"

_NAME = re.compile(r"([0-9]{20})(?:\.([0-9]+))?")


@dataclass(frozen=True, slots=True)
class Held:
    """A complete snapshot and its folder."""

    meta: SnapshotMeta
    path: Path

    @property
    def state(self) -> Path:
        return self.path / STATE


@dataclass(slots=True)
class Found:
    held: dict[int, Held] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def recover(directory: Path, group: int) -> Found:
    """Remove unfinished work, set aside what is broken, list the rest. Raises OSError.

    Cheap: the state's length is checked, not its sha256.
    """
    log_files.make_directory(directory)
    found = Found()
    for path in sorted(directory.iterdir()):
        name = path.name
        if name in (MAKING, PREPARED) or name.endswith(REMOVED):
            snapshot_files.remove_tree(path)
        elif _NAME.fullmatch(name):
            _examine(path, group, found)
        elif name != INCOMING and not name.endswith(DAMAGED):
            found.problems.append(f"{path}: not a snapshot's name; left alone")
    if (directory / INCOMING).exists() and read_incoming(directory, group) is None:
        snapshot_files.remove_tree(directory / INCOMING)
    return found


def _examine(path: Path, group: int, found: Found) -> None:
    try:
        held = Held(read_manifest(path, group), path)
        size = held.state.stat().st_size
        if size != held.meta.size:
            raise ValueError(f"{STATE} has {size} bytes, not {held.meta.size}")
        if not path.name.startswith(f"{held.meta.index:020d}"):
            raise ValueError(f"{MANIFEST} is of snapshot {held.meta.index}")
    except (ValueError, FileNotFoundError, NotADirectoryError) as error:
        found.problems.append(f"{path}: {error}; set aside")
        set_aside(path)
        return
    previous = found.held.get(held.meta.index)
    if previous is not None and _order(previous.path) > _order(path):
        previous, held = held, previous
    found.held[held.meta.index] = held
    if previous is not None:
        retire(previous.path)


def read_manifest(path: Path, group: int) -> SnapshotMeta:
    """Raises ValueError, OSError."""
    fd = log_files.open_existing(path / MANIFEST, write=False)
    try:
        data = snapshot_files.read_at(fd, 0, snapshot_manifest.MANIFEST_BYTES_MAX)
    finally:
        os.close(fd)
    try:
        return snapshot_manifest.decode(data, group)
    except ValueError as error:
        raise ValueError(f"{MANIFEST}: {error}") from error


def write_manifest(path: Path, group: int, meta: SnapshotMeta, *, durable: bool) -> None:
    """Create the manifest in the folder `path`."""
    fd = log_files.create(path / MANIFEST)
    try:
        log_files.write_all(fd, [snapshot_manifest.encode(group, meta)], 0)
        if durable:
            log_files.sync_file(fd)
    finally:
        os.close(fd)


def read_incoming(directory: Path, group: int) -> SnapshotMeta | None:
    """What is being received; None if that is nothing that can be resumed."""
    try:
        meta = read_manifest(directory / INCOMING, group)
        size = (directory / INCOMING / PARTIAL).stat().st_size
    except (ValueError, FileNotFoundError, NotADirectoryError):
        return None
    return meta if size <= meta.size else None


def publish(path: Path, target: Path) -> None:
    """Give the finished folder `path`, whose files are durable, its name. Durable on return.

    The name `path` may have been another folder's a moment ago, with that one's removal not
    durable yet: unless it is before the rename, a disk that keeps entries in no order may
    give the snapshot's name to what is left of the other.
    """
    log_files.sync_directory(path)
    log_files.sync_directory(path.parent)
    snapshot_files.rename(path, target)
    log_files.sync_directory(target.parent)


def free_name(directory: Path, index: int) -> Path:
    """The name for a new snapshot at `index`, after all that are there."""
    orders = [_order(path) for path in directory.glob(f"{index:020d}*")]
    number = max(orders, default=-1) + 1
    return directory / (f"{index:020d}.{number}" if number else f"{index:020d}")


def retire(path: Path) -> None:
    """Remove a snapshot. Its name goes first, durably: half of it must never bear it."""
    removed = path.with_name(path.name + REMOVED)
    snapshot_files.rename(path, removed)
    log_files.sync_directory(path.parent)
    snapshot_files.remove_tree(removed)


def set_aside(path: Path) -> None:
    """Keep a broken snapshot for an operator, in place of the one set aside before.

    One that is gone altogether is no reason to fail.
    """
    if not path.exists():
        return
    for older in path.parent.glob(f"*{DAMAGED}"):
        snapshot_files.remove_tree(older)
    snapshot_files.rename(path, path.with_name(path.name + DAMAGED))
    log_files.sync_directory(path.parent)


def complete(directory: Path) -> list[Path]:
    """Folders that bear a snapshot's name, oldest first."""
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name))


def _order(path: Path) -> int:
    matched = _NAME.fullmatch(path.name)
    return int(matched[2] or 0) if matched else -1
