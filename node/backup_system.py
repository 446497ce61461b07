"""The system group's state for the nodes of a restored cluster.

It says where the partitions live, and what is known of nodes that the new cluster does not
have. So two entries are applied to a copy of it, in the place of those that followed in the
old cluster's log: a map on the new nodes, and the removal of the old ones' records. All else
that it holds stays. The data is in the other groups, which are taken as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cluster import partition_map
from cluster.errors import InvalidPartitionMap
from cluster.interfaces import CommittedBatch
from cluster.partition_map import PartitionMap
from cluster.placement import NodeFacts, place
from engines.command import Delete, Put, encode
from engines.environment import DATA
from engines.interfaces import Limits, Rejected
from engines.kv import KvReader
from engines.state_machine import StateMachine
from engines.store import Store
from node import system_state
from node.backup_file import PIECE_BYTES
from node.backup_format import BackupError
from node.replica import SYSTEM_GROUP

_ROOM_BYTES = 64 << 20  # in the map, beyond the state itself
_READERS_MAX = 4


class Base(NamedTuple):
    """The state, in the file at `path`, with which a group of the new cluster begins."""

    group: int
    index: int  # type: ignore[assignment]  # shadows tuple.index on purpose
    term: int
    size: int
    sha256: bytes
    path: Path


def opened_folder(state: Path) -> Path:
    """A folder of a store, into which the file `state` is moved."""
    folder = state.with_name("system")
    folder.mkdir(mode=0o700)
    state.rename(folder / DATA)
    return folder


def saved_map(path: Path) -> PartitionMap:
    """The map in the system group's state. `path`: of `opened_folder`. Raises BackupError."""
    store = Store(path, _map_bytes(path), _READERS_MAX)
    try:
        with store.read() as snapshot:
            found = system_state.records(KvReader(snapshot))
        if found.map is None:
            raise BackupError("the backup has partitions and no map of them")
        return found.map
    except InvalidPartitionMap as error:
        raise BackupError(f"the backup's partition map: {error}") from error
    finally:
        store.close()


def rewritten(path: Path, made: PartitionMap, now_ms: int) -> Base:
    """The state with the map `made`, beside `path`, which is as for `saved_map`.

    Raises BackupError, OSError.
    """
    store = Store(path, _map_bytes(path), _READERS_MAX)
    machine = StateMachine(store, Limits())
    try:
        with store.read() as snapshot:
            known = system_state.records(KvReader(snapshot)).nodes
        commands: list[Put | Delete] = [
            system_state.map_command(partition_map.encode(made), now_ms, None),
            *(system_state.forget_command(node, now_ms) for node in known),
        ]
        _apply(machine, commands)
        target = path.with_name(f"{path.name}.mdb")
        with target.open("xb") as file:
            index, term = machine.copy_to(file.fileno())
    finally:
        machine.close()
    return Base(SYSTEM_GROUP, index, term, target.stat().st_size, _sha256(target), target)


def placed(nodes: Sequence[str], saved: PartitionMap) -> PartitionMap:
    """As many partitions as there were, with as many replicas, on `nodes` (ids)."""
    facts = [NodeFacts(node) for node in nodes]
    return place(facts, len(saved.partitions), saved.replication_factor)


def _apply(machine: StateMachine, commands: Sequence[Put | Delete]) -> None:
    batch = CommittedBatch(
        machine.applied_index + 1, machine.applied_term, [encode(each) for each in commands]
    )
    for result in machine.apply([batch])[0]:
        if isinstance(result, Rejected):
            raise BackupError(f"the partition map cannot be stored: {result.message}")


def _map_bytes(path: Path) -> int:
    return (path / DATA).stat().st_size * 2 + _ROOM_BYTES


def _sha256(path: Path) -> bytes:
    found = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(PIECE_BYTES):
            found.update(piece)
    return found.digest()
