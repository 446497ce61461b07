"""A new cluster from a backup. Offline: it writes folders, and `hivemem up` does the rest.

Theory of operation. Each node of the new cluster gets, for each Raft group that it holds, one
Raft snapshot: the saved state at the saved index and term, with the *new* members in the
configuration, all of them voters, named by the incarnations of the folders that are made
here. Partitions are placed as in any new cluster (`backup_system`). A node that starts with a
snapshot and no log begins its log after the snapshot (`cluster.reconcile`), which is what a
node does that received it from a leader. All nodes have the same snapshot of a group, so
whoever is elected first has everything that is committed.

The old cluster and the new one never meet: ids of cluster and nodes, incarnations and the
secret are new, and peers prove the secret and name the cluster before anything else.

Everything is made in a folder of its own beside the target, from a backup that was checked
to its end first, and gets its name by one rename. So a refusal or a crash leaves no cluster
that might start half: nodes of which only some had the snapshot could elect one without it.

Why not one node with the snapshot and the others joining it: that cluster could lose its
only voter while they catch up, and each would fetch a copy that is here already.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from cluster import snapshot_directory, snapshot_files
from cluster.interfaces import SnapshotMeta
from cluster.membership import Configuration, Member
from cluster.partition_map import PartitionMap
from engines.interfaces import Limits
from node import backup_file, backup_system
from node.backup_file import Extracted, OnBytes, sync_folder
from node.backup_format import BackupError, DamagedBackup, Manifest
from node.backup_system import Base
from node.clock import Clock
from node.console import size as shown_size
from node.datadir import DataDir, explain
from node.errors import LaunchError
from node.local_plan import LocalNode, Plan, new_plan, read_plan, with_ports, write_plan
from node.replica import SYSTEM_GROUP


@dataclass(frozen=True, slots=True)
class Request:
    """What is restored, and where to. `base`, `spare`: see local_plan.with_ports."""

    file: Path
    root: Path
    count: int
    base: int | None = None
    spare: bool = False


@dataclass(frozen=True, slots=True)
class Restored:
    """The new cluster, which has not been started yet."""

    manifest: Manifest
    plan: Plan


def restore(request: Request, clock: Clock, on_bytes: OnBytes) -> Restored:
    """Make a cluster of `count` nodes on this machine. Durable on return.

    `on_bytes` hears of bytes read and of bytes copied.
    Raises BackupError or LaunchError, with `root` as it was.
    """
    root = request.root.absolute()
    new_plan(root, request.count, clock)  # refuses a count that cannot be
    check_empty(root)
    try:
        with request.file.open("rb", buffering=0) as file, _staging(root) as staging:
            manifest = _checked(request, file)
            _check_room(manifest.size, staging)
            plan = _build(request, manifest, file, staging, clock, on_bytes)
            _publish(staging, root)
    except OSError as error:
        if error.filename == str(request.file):
            raise BackupError(f"{request.file} cannot be read: {error.strerror}") from error
        raise LaunchError(explain(root, error)) from error
    found = read_plan(root)
    assert found is not None
    assert found.cluster_id == plan.cluster_id
    return Restored(manifest, found)


def check_empty(root: Path) -> None:
    """Raises LaunchError where something is in the way; a former `up` leaves its lock."""
    if root.is_mount():
        raise LaunchError(f"{root} is a mount point; choose a folder in it with --data-dir")
    if root.is_dir():
        entries = [entry.name for entry in root.iterdir() if entry.name != "launch.lock"]
        if not entries:
            return
        raise LaunchError(
            f"{root} is not empty; a restored cluster is a new one, in a folder of its own: "
            "choose another with --data-dir"
        )
    if root.exists() or root.is_symlink():
        raise LaunchError(f"{root} is in the way: it is not a folder")


def holders(group: int, nodes: Sequence[LocalNode], made: PartitionMap | None) -> list[LocalNode]:
    """Which nodes of the new cluster hold a group: the one place that says so."""
    if made is None or group == SYSTEM_GROUP:
        return list(nodes)
    replicas = made.partitions[group - 1].replicas
    return [node for node in nodes if node.id in replicas]


@contextmanager
def _staging(root: Path) -> Iterator[Path]:
    """A folder on the file system of `root`; what is left in it at the end goes away, and so do
    the folders above it that were made for it, if there is no `root` in them."""
    made = [folder for folder in root.parents if not folder.exists()]  # the innermost first
    root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(".restoring", f".{root.name}.", root.parent))
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        with contextlib.suppress(OSError):
            for folder in made:
                folder.rmdir()


def _checked(request: Request, file: BinaryIO) -> Manifest:
    try:
        return backup_file.read_manifest(file)
    except DamagedBackup as error:
        raise _refusal(request.file, error) from error


def _refusal(file: Path, error: DamagedBackup) -> BackupError:
    return BackupError(f"{file} is damaged, and nothing was restored: {error}")


def _check_room(needed: int, staging: Path) -> None:
    free = shutil.disk_usage(staging).free
    if needed > free:
        raise BackupError(
            f"the new nodes' snapshots need {shown_size(needed)}, and as much again once they "
            f"run; {shown_size(free)} is free in {staging.parent}"
        )


def _build(
    request: Request,
    manifest: Manifest,
    file: BinaryIO,
    staging: Path,
    clock: Clock,
    on_bytes: OnBytes,
) -> Plan:
    states = staging / "states"
    states.mkdir(mode=0o700)
    try:
        extracted = list(backup_file.extract(file, manifest, states, on_bytes))
    except DamagedBackup as error:
        raise _refusal(request.file, error) from error
    plan, made, bases = _planned(request, staging, [_base(each) for each in extracted], clock)
    held = {base.group: holders(base.group, plan.nodes, made) for base in bases}
    _check_room(sum(base.size * (len(held[base.group]) - 1) for base in bases), staging)
    _write_limits(plan, extracted[-1].limits)
    write_plan(plan)
    members = {node.id: _member(plan, node, clock) for node in plan.nodes}
    for base in bases:
        nodes = held[base.group]
        configuration = Configuration(base.index, tuple(sorted(members[node.id] for node in nodes)))
        meta = SnapshotMeta(base.index, base.term, base.size, base.sha256, configuration)
        for node in nodes[1:]:
            _write_snapshot(plan.folder(node), base, meta, on_bytes, move=False)
        _write_snapshot(plan.folder(nodes[0]), base, meta, on_bytes, move=True)
    shutil.rmtree(states)
    return plan


def _base(extracted: Extracted) -> Base:
    state = extracted.state
    sha256 = bytes.fromhex(state.sha256)
    return Base(state.group, state.index, state.term, state.size, sha256, extracted.path)


def _planned(
    request: Request, staging: Path, bases: list[Base], clock: Clock
) -> tuple[Plan, PartitionMap | None, list[Base]]:
    """The new cluster, where its partitions live (None: it has none), what each group begins
    with."""
    partitions = len(bases) - 1
    if not partitions:
        plan, made = new_plan(staging, request.count, clock), None
    else:
        folder = backup_system.opened_folder(bases[0].path)
        saved = backup_system.saved_map(folder)
        plan = new_plan(staging, request.count, clock, partitions, saved.replication_factor)
        made = backup_system.placed([node.id for node in plan.nodes], saved)
        bases = [backup_system.rewritten(folder, made, clock.now_ms()), *bases[1:]]
        shutil.rmtree(folder)
    plan = with_ports(plan, request.base, clock, spare=request.spare)
    return plan, made, bases


def _write_limits(plan: Plan, limits: Limits) -> None:
    """The limits that were in force, as settings: with others, the first leader would have
    the cluster keep less history than it was told to. `write_plan` adds the rest."""
    usual = asdict(Limits())
    lines = [f"{name} = {value}" for name, value in asdict(limits).items() if value != usual[name]]
    if not lines:
        return
    for node in plan.nodes:
        plan.folder(node).mkdir(mode=0o700)
        plan.config_path(node).write_text("\n".join(("[limits]", *lines, "")))


def _member(plan: Plan, node: LocalNode, clock: Clock) -> Member:
    """Make the node's data folder its own; what the cluster will know of it."""
    data_dir = DataDir.open(
        plan.folder(node),
        node_id=node.id,
        cluster_id=plan.cluster_id,
        name=node.name,
        clock=clock,
    )
    try:
        incarnation = data_dir.identity.incarnation
    finally:
        data_dir.close()
    return Member(node.id, True, node.name, node.peer, node.http, incarnation)


def _write_snapshot(
    folder: Path, base: Base, meta: SnapshotMeta, on_bytes: OnBytes, *, move: bool
) -> None:
    """Give a node this snapshot. `move`: nobody needs `base.path` any more."""
    directory = folder / "groups" / str(base.group) / "snapshots"
    making = directory / snapshot_directory.MAKING
    making.mkdir(mode=0o700, parents=True)
    state = making / snapshot_directory.STATE
    if move:
        base.path.rename(state)
    else:
        _copy(base.path, state, on_bytes)
    descriptor = os.open(state, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    snapshot_directory.write_manifest(making, base.group, meta, durable=True)
    snapshot_directory.publish(making, snapshot_directory.free_name(directory, meta.index))
    for parent in (directory.parent, directory.parent.parent, folder):
        sync_folder(parent)


def _copy(source: Path, target: Path, on_bytes: OnBytes) -> None:
    """Where the file system can share blocks, none is written."""
    from_fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        to_fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            offset = 0
            while copied := snapshot_files.copy_range(
                from_fd, to_fd, offset, backup_file.SYNC_BYTES
            ):
                offset += copied
                os.fsync(to_fd)
                on_bytes(copied)
        finally:
            os.close(to_fd)
    finally:
        os.close(from_fd)


def _publish(staging: Path, root: Path) -> None:
    """Give the finished folder its name."""
    for folder in (staging, staging.parent):
        sync_folder(folder)
    check_empty(root)  # somebody may have been quicker
    (root / "launch.lock").unlink(missing_ok=True)
    os.rename(staging, root)  # replaces an empty folder, and no other
    sync_folder(root.parent)
