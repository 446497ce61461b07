"""The data folder of one node: who it belongs to, who uses it now, and what may be trusted.

    <data>/identity.json              node id, cluster id, incarnation: written once, atomically
    <data>/lock                       flock'ed while a daemon runs; holds its pid
    <data>/boot.json                  boot id of the last run and whether it ended cleanly
    <data>/groups/<gid>/log           the Raft log: truth
    <data>/groups/<gid>/snapshots     truth below the log
    <data>/groups/<gid>/live          the log applied, without fsync: a process crash keeps it
                                      (the page cache survives), a machine crash may tear it

Trust in `live/`: it is kept if the machine has not restarted since the last run (same boot
id), or if the last run ended cleanly, which means that it synced `live/` before `mark_clean`.
Otherwise it is discarded and rebuilt from snapshot and log. `prepare_live` does this in the
only safe order: discard first, and only then note that this boot is writing.

All methods are called from one thread; `usage` from any. What is written here is durable on
return (file and folder fsynced).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from node.clock import Clock
from node.errors import DataDirError, DataDirInUse

IDENTITY_FORMAT = 1  # raised when identity.json changes its shape
LOCK_WAIT_MS = 1000  # ms; a dying owner, or somebody who only looks, lets go within it
_LOCK_POLL_MS = 20
_REMOVED = ".removed"  # ends the name of a group that is being deleted


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose folder this is. `incarnation` differs each time a folder is made for a node.

    `known_incarnations`: node id → incarnation last seen from that peer, so that a peer
    which lost its disk is told apart from one that merely restarted.
    """

    node_id: str
    cluster_id: str
    incarnation: str
    name: str
    created_at: str  # RFC 3339, UTC
    known_incarnations: Mapping[str, str]


class DiskUsage(NamedTuple):
    """Bytes allocated on disk below the groups, and bytes free to this user."""

    log_bytes: int
    live_bytes: int
    snapshot_bytes: int
    free_bytes: int


class DataDir:
    """An open, locked data folder. Use `open`; `close` releases the lock."""

    def __init__(self, root: Path, lock: int, identity: Identity) -> None:
        self.root = root
        self.identity = identity
        self._lock = lock

    @classmethod
    def open(cls, root: Path, *, node_id: str, cluster_id: str, name: str, clock: Clock) -> DataDir:
        """Lock the folder and check that it belongs to this node; make it if it is new.

        Raises DataDirInUse, or DataDirError: another node's or cluster's folder,
        unreadable identity, read-only or full disk.
        """
        with _explained(root):
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = _acquire(root)
        try:
            with _explained(root):
                identity = _read_identity(root)
                if identity is None:
                    identity = _new_identity(root, node_id, cluster_id, name, clock)
                _check_owner(root, identity, node_id, cluster_id)
                if identity.name != name:
                    identity = replace(identity, name=name)
                # Written on every start: proves now, not at the first vote, that the disk takes it.
                _write_identity(root, identity)
        except BaseException:
            os.close(lock)
            raise
        return cls(root, lock, identity)

    def log_path(self, group: int) -> Path:
        return self.root / "groups" / str(group) / "log"

    def group_path(self, group: int) -> Path:
        return self.root / "groups" / str(group)

    def live_path(self, group: int) -> Path:
        return self.root / "groups" / str(group) / "live"

    def snapshots_path(self, group: int) -> Path:
        return self.root / "groups" / str(group) / "snapshots"

    def groups(self) -> list[int]:
        """The groups that have a folder here, in order. Finishes interrupted removals."""
        found = []
        for folder in _folders(self.root / "groups"):
            if folder.name.endswith(_REMOVED):
                shutil.rmtree(folder, ignore_errors=True)
            elif folder.name.isdecimal():
                found.append(int(folder.name))
        return sorted(found)

    def remove_group(self, group: int) -> None:
        """Delete a group's folder, at once as far as later starts can see. Its files are closed."""
        folder = self.root / "groups" / str(group)
        doomed = folder.with_name(f"{group}{_REMOVED}")
        with _explained(self.root):
            shutil.rmtree(doomed, ignore_errors=True)
            if folder.exists():
                folder.rename(doomed)
                sync_folder(folder.parent)
            shutil.rmtree(doomed, ignore_errors=True)

    def remember_incarnation(self, node_id: str, incarnation: str) -> None:
        """Note a peer's incarnation. Durable on return; writes only when it changes."""
        known = self.identity.known_incarnations
        if known.get(node_id) == incarnation:
            return
        identity = replace(self.identity, known_incarnations={**known, node_id: incarnation})
        with _explained(self.root):
            _write_identity(self.root, identity)
        self.identity = identity

    def change_cluster(self, cluster_id: str) -> None:
        """Let the folder belong to another cluster, whose nodes are yet unknown. Durable."""
        identity = replace(self.identity, cluster_id=cluster_id, known_incarnations={})
        with _explained(self.root):
            _write_identity(self.root, identity)
        self.identity = identity

    def live_is_trustworthy(self, boot_id: str) -> bool:
        """Whether `live/` may be opened as it is, on a machine whose boot has this id."""
        marker = self._read_marker()
        if marker is None:
            return not any(True for _ in self._live_folders())
        return not marker.damaged and (
            marker.clean or (bool(boot_id) and marker.boot_id == boot_id)
        )

    def discard_live(self, group: int | None = None) -> None:
        """Remove every `live/`, or that of one group. Safe to repeat when interrupted."""
        wanted = None if group is None else self.live_path(group)
        with _explained(self.root):
            for folder in list(self._live_folders()):
                if wanted not in (None, folder):
                    continue
                shutil.rmtree(folder)
                sync_folder(folder.parent)

    def mark_running(self, boot_id: str) -> None:
        """Note that this boot writes `live/`: call before opening it."""
        self._write_marker(_BootMarker(boot_id, clean=False))

    def mark_clean(self) -> None:
        """Note a clean end: call after every `live/` was synced and closed."""
        marker = self._read_marker() or _BootMarker("", clean=True)
        self._write_marker(replace(marker, clean=True))

    def distrust_live(self) -> None:
        """Note that `live/` was found damaged: the next start rebuilds it, and looks at what
        it is rebuilt from, until `mark_running` notes that this is done."""
        self._write_marker(_BootMarker("", clean=False, damaged=True))

    @property
    def damaged(self) -> bool:
        """Whether `live/` was found damaged and has not been rebuilt since."""
        marker = self._read_marker()
        return marker is not None and marker.damaged

    def prepare_live(self, boot_id: str) -> bool:
        """Discard `live/` unless it can be trusted, then mark running. True: discarded."""
        trustworthy = self.live_is_trustworthy(boot_id)
        if not trustworthy:
            self.discard_live()
        self._write_marker(_BootMarker(boot_id, clean=False, damaged=self.damaged))
        return not trustworthy

    def usage(self) -> DiskUsage:
        """Measure disk use. Files that vanish meanwhile count as nothing."""
        totals = {"log": 0, "live": 0, "snapshots": 0}
        for group in _folders(self.root / "groups"):
            for kind in totals:
                totals[kind] += _allocated(group / kind)
        disk = os.statvfs(self.root)
        free = disk.f_bavail * disk.f_frsize
        return DiskUsage(totals["log"], totals["live"], totals["snapshots"], free)

    def log_bytes(self, group: int) -> int:
        """Bytes allocated for the log of one group."""
        return _allocated(self.log_path(group))

    def close(self) -> None:
        """Release the folder. Idempotent."""
        if self._lock >= 0:
            os.ftruncate(self._lock, 0)
            os.close(self._lock)
            self._lock = -1

    def _live_folders(self) -> Iterator[Path]:
        for group in _folders(self.root / "groups"):
            if (group / "live").is_dir():
                yield group / "live"

    def _read_marker(self) -> _BootMarker | None:
        """The marker; None if there is none. One that cannot be understood vouches for nothing."""
        try:
            fields = json.loads((self.root / "boot.json").read_bytes())
            boot_id, clean = str(fields["boot_id"]), fields["clean"] is True
            return _BootMarker(boot_id, clean, fields.get("damaged") is True)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            return _BootMarker("", clean=False)

    def _write_marker(self, marker: _BootMarker) -> None:
        with _explained(self.root):
            write_durably(self.root / "boot.json", _json(asdict(marker)))


@dataclass(frozen=True, slots=True)
class _BootMarker:
    boot_id: str
    clean: bool
    damaged: bool = False  # `live/` was found damaged, and is not rebuilt yet


def owner_pid(root: Path) -> int | None:
    """Pid of the process that holds the folder's lock; None when nobody does.

    The pid in the file is believed only while the lock is held. Raises DataDirError when
    the lock is held but the file names no pid.
    """
    try:
        descriptor = os.open(root / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataDirError(explain(root, error)) from error
    try:
        waited_ms = 0
        while not _try_lock(descriptor, fcntl.LOCK_SH):
            pid = _pid_in(descriptor)
            if pid is not None:
                return pid
            # The owner has locked and is about to write its pid, or is closing.
            if waited_ms >= LOCK_WAIT_MS:
                raise DataDirError(f"{root} is locked by a process that left no pid")
            time.sleep(_LOCK_POLL_MS / 1000)
            waited_ms += _LOCK_POLL_MS
        return None
    finally:
        os.close(descriptor)


def write_durably(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace a file atomically: temporary file, fsync, rename, fsync of the folder."""
    temporary = path.with_name(f"{path.name}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def explain(folder: Path, error: OSError) -> str:
    """Say in a sentence why a folder cannot be used."""
    reasons = {
        errno.EROFS: "it is on a read-only disk",
        errno.EACCES: "this user may not write there",
        errno.EPERM: "this user may not write there",
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the disk quota is used up",
        errno.ENOTDIR: "a part of the path is a file",
        errno.EEXIST: "it is a file, not a folder",
    }
    reason = reasons.get(error.errno or 0, error.strerror or str(error))
    return f"data folder {folder} cannot be used: {reason}"


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataDirError(explain(folder, error)) from error


def _acquire(root: Path) -> int:
    """Take the folder's lock and write our pid into it. Raises DataDirInUse."""
    descriptor = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    waited_ms = 0
    while not _try_lock(descriptor, fcntl.LOCK_EX):
        if waited_ms >= LOCK_WAIT_MS:
            pid = _pid_in(descriptor)
            os.close(descriptor)
            raise DataDirInUse(root, pid)
        time.sleep(_LOCK_POLL_MS / 1000)
        waited_ms += _LOCK_POLL_MS
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _pid_in(descriptor: int) -> int | None:
    text = os.pread(descriptor, 32, 0).strip()
    return int(text) if text.isdigit() and int(text) > 0 else None


def _read_identity(root: Path) -> Identity | None:
    path = root / "identity.json"
    try:
        fields = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataDirError(f"{path} is damaged: {error}") from error
    if not isinstance(fields, dict) or fields.pop("format", None) != IDENTITY_FORMAT:
        raise DataDirError(f"{path} is not of format {IDENTITY_FORMAT}: made by another version?")
    try:
        return Identity(**fields)
    except TypeError as error:
        raise DataDirError(f"{path} is damaged: {error}") from error


def _new_identity(root: Path, node_id: str, cluster_id: str, name: str, clock: Clock) -> Identity:
    if (root / "groups").exists():
        raise DataDirError(
            f"data folder {root} holds groups but no identity.json, so its owner is not known; "
            "restore the file or use another folder"
        )
    created = datetime.fromtimestamp(clock.now_ms() / 1000, UTC).isoformat(timespec="milliseconds")
    return Identity(node_id, cluster_id, clock.new_id(), name, created, {})


def _check_owner(root: Path, identity: Identity, node_id: str, cluster_id: str) -> None:
    for what, found, expected in (
        ("cluster", identity.cluster_id, cluster_id),
        ("node", identity.node_id, node_id),
    ):
        if found != expected:
            raise DataDirError(
                f"data folder {root} belongs to {what} {found}, "
                f"but the configuration says {what} {expected}"
            )


def _write_identity(root: Path, identity: Identity) -> None:
    write_durably(root / "identity.json", _json({"format": IDENTITY_FORMAT, **asdict(identity)}))


def _json(fields: Mapping[str, object]) -> bytes:
    return json.dumps(fields, indent=2).encode() + b"\n"


def sync_folder(folder: Path) -> None:
    """Make the entries of a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _folders(parent: Path) -> list[Path]:
    try:
        return sorted(entry for entry in parent.iterdir() if entry.is_dir())
    except FileNotFoundError:
        return []


def _allocated(folder: Path) -> int:
    """Bytes allocated to the files below `folder`; sparse holes do not count."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(parent, name)).st_blocks * 512
    return total
