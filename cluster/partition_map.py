"""The partition map: how many partitions there are, and where each *should* live. Pure.

The system partition (group 0) replicates it as one value. Where a partition lives in fact
is the Raft configuration of its group (`membership.py`); a move is the difference between
the two and is stored nowhere, so nothing has to be resumed after a crash (`moves.py`).

Which slots a partition holds follows from the number of partitions (`slots.py`), which never
changes; nor do `founders`, the members that a group began with: a node that comes late has
to know what the first entry of a log without configuration means.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from cluster.errors import InvalidPartitionMap
from cluster.membership import TEXT_BYTES_MAX
from cluster.slots import PARTITIONS_MAX

FORMAT: Final = 1  # raised when the bytes change their shape
REPLICATION_FACTOR_MAX: Final = 7  # one more while a replica is replaced: below VOTERS_MAX
EPOCH_MAX: Final = 2**63 - 1
MAP_BYTES_MAX: Final = 1 << 20  # 256 partitions of 14 UUIDs are 150 KB


@dataclass(frozen=True, slots=True)
class Partition:
    """One share of the hash slots. Node ids ascend and are distinct."""

    id: int  # of its Raft group: 1 and up
    founders: tuple[str, ...]  # node ids of its first replicas; never changes
    replicas: tuple[str, ...]  # node ids of those it should have


@dataclass(frozen=True, slots=True)
class PartitionMap:
    """Invariant (`check`): the ids of `partitions` are 1, 2, … in this order."""

    epoch: int  # one more with each change: what a stale request is told by
    replication_factor: int  # replicas per partition, if there are so many nodes
    partitions: tuple[Partition, ...]


def check(partition_map: PartitionMap) -> None:
    """Raises InvalidPartitionMap, naming the field."""
    _check_number(partition_map.epoch, EPOCH_MAX, "epoch")
    factor = partition_map.replication_factor
    _check_number(factor, REPLICATION_FACTOR_MAX, "replication_factor")
    _check_number(len(partition_map.partitions), PARTITIONS_MAX, "partitions")
    for place, partition in enumerate(partition_map.partitions):
        field = f"partitions[{place}]"
        if type(partition.id) is not int or partition.id != place + 1:
            raise InvalidPartitionMap(f"must be {place + 1}, not {partition.id!r}", f"{field}.id")
        _check_nodes(partition.founders, REPLICATION_FACTOR_MAX, f"{field}.founders")
        _check_nodes(partition.replicas, factor, f"{field}.replicas")


def _check_number(value: object, most: int, field: str) -> None:
    if type(value) is not int or not 1 <= value <= most:
        raise InvalidPartitionMap(f"must be an integer of 1..{most}, not {value!r}", field)


def _check_nodes(nodes: tuple[str, ...], most: int, field: str) -> None:
    for node in nodes:
        if not isinstance(node, str) or not node.isprintable() or not node:
            raise InvalidPartitionMap(f"{node!r} is not a node id", field)
        if len(node.encode()) > TEXT_BYTES_MAX:
            raise InvalidPartitionMap(f"a node id is longer than {TEXT_BYTES_MAX} bytes", field)
    if not 1 <= len(nodes) <= most:
        raise InvalidPartitionMap(f"must be 1..{most} nodes, not {len(nodes)}", field)
    if list(nodes) != sorted(set(nodes)):
        raise InvalidPartitionMap("must be distinct node ids in ascending order", field)


def check_succession(current: PartitionMap | None, following: PartitionMap) -> None:
    """May `following` replace `current` (None: there is no map yet)?

    Raises InvalidPartitionMap, naming the field. That the epoch is exactly one more makes
    concurrent changes exclude each other.
    """
    check(following)
    epoch = current.epoch + 1 if current else 1
    if following.epoch != epoch:
        raise InvalidPartitionMap(f"must be {epoch}, not {following.epoch}", "epoch")
    if current is None:
        changed = (each for each in following.partitions if each.founders != each.replicas)
        for partition in changed:
            field = f"partitions[{partition.id - 1}].founders"
            raise InvalidPartitionMap("must be the replicas of the first map", field)
        return
    if len(following.partitions) != len(current.partitions):
        raise InvalidPartitionMap(f"their number is fixed: {len(current.partitions)}", "partitions")
    for old, new in zip(current.partitions, following.partitions, strict=True):
        if old.founders != new.founders:
            raise InvalidPartitionMap("never change", f"partitions[{new.id - 1}].founders")


def first(replication_factor: int, replicas: Iterable[Iterable[str]]) -> PartitionMap:
    """The map of a new cluster: replicas of partition 1, 2, … Raises InvalidPartitionMap."""
    nodes = [tuple(sorted(each)) for each in replicas]
    made = PartitionMap(
        1,
        replication_factor,
        tuple(Partition(place, each, each) for place, each in enumerate(nodes, 1)),
    )
    check_succession(None, made)
    return made


def successor(
    current: PartitionMap, replication_factor: int, replicas: Mapping[int, Iterable[str]]
) -> PartitionMap:
    """The next map: `replicas` by partition id; one that is missing stays as it is.

    Raises InvalidPartitionMap.
    """
    made = PartitionMap(
        current.epoch + 1,
        replication_factor,
        tuple(
            Partition(each.id, each.founders, tuple(sorted(replicas.get(each.id, each.replicas))))
            for each in current.partitions
        ),
    )
    check_succession(current, made)
    return made


def replication_warnings(replication_factor: int) -> list[str]:
    """What an operator should know of a replication factor that is accepted."""
    if replication_factor == 1:
        return ["replication factor 1: a partition is lost with its only node"]
    if replication_factor % 2:
        return []
    tolerated = replication_factor // 2 - 1
    return [
        f"replication factor {replication_factor} survives {tolerated} failed nodes, as "
        f"{replication_factor - 1} does, and each write waits for one node more"
    ]


def warnings(partition_map: PartitionMap) -> list[str]:
    """What an operator should know of a map that is valid."""
    factor = partition_map.replication_factor
    short = sum(len(each.replicas) < factor for each in partition_map.partitions)
    found = replication_warnings(factor)
    if short:
        found.append(
            f"{short} of {len(partition_map.partitions)} partitions have fewer than {factor} "
            "replicas: there were not enough nodes"
        )
    return found


def encode(partition_map: PartitionMap) -> bytes:
    """Canonical JSON: equal maps have equal bytes. Raises InvalidPartitionMap."""
    check(partition_map)
    data = _encoded(partition_map)
    if len(data) > MAP_BYTES_MAX:
        raise InvalidPartitionMap(f"longer than {MAP_BYTES_MAX} bytes", "partitions")
    return data


def decode(data: bytes) -> PartitionMap:
    """The map of `encode`. Raises InvalidPartitionMap for any other bytes."""
    if len(data) > MAP_BYTES_MAX:
        raise InvalidPartitionMap(f"longer than {MAP_BYTES_MAX} bytes")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise InvalidPartitionMap("not JSON") from None
    fields = _fields(value, ("format", "epoch", "replication_factor", "partitions"), "")
    if type(fields["format"]) is not int or fields["format"] != FORMAT:
        raise InvalidPartitionMap(f"this build reads {FORMAT}", "format")
    found = PartitionMap(
        fields["epoch"],  # type: ignore[arg-type]  # check() looks at the types
        fields["replication_factor"],  # type: ignore[arg-type]
        tuple(
            _partition(row, f"partitions[{place}]")
            for place, row in enumerate(_list(fields["partitions"], "partitions"))
        ),
    )
    check(found)
    # Covers what JSON can say in two ways: spaces, escapes, a field twice, order.
    if _encoded(found) != data:
        raise InvalidPartitionMap("not in canonical form")
    return found


def _encoded(partition_map: PartitionMap) -> bytes:
    rows = [
        {"id": each.id, "founders": each.founders, "replicas": each.replicas}
        for each in partition_map.partitions
    ]
    value = {
        "format": FORMAT,
        "epoch": partition_map.epoch,
        "replication_factor": partition_map.replication_factor,
        "partitions": rows,
    }
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _partition(row: object, field: str) -> Partition:
    fields = _fields(row, ("id", "founders", "replicas"), field)
    return Partition(
        fields["id"],  # type: ignore[arg-type]  # check() looks at the types
        tuple(_list(fields["founders"], f"{field}.founders")),
        tuple(_list(fields["replicas"], f"{field}.replicas")),
    )


def _fields(value: object, names: tuple[str, ...], field: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise InvalidPartitionMap("must be an object", field)
    prefix = f"{field}." if field else ""
    for name in (*value, *names):
        if name not in names:
            raise InvalidPartitionMap("unknown", f"{prefix}{name[:TEXT_BYTES_MAX]}")
        if name not in value:
            raise InvalidPartitionMap("missing", f"{prefix}{name}")
    return value


def _list(value: object, field: str) -> list[str]:
    if not isinstance(value, list):
        raise InvalidPartitionMap("must be a list", field)
    return value
