"""What the system partition holds: where the partitions are to be, and facts about nodes.

They are ordinary records of the system group, changed by compare-and-set. No door leads to
that group's records, so no user's key can be taken for them.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from cluster import partition_map
from cluster.partition_map import PartitionMap
from engines.command import Delete, Put
from engines.interfaces import Rejected
from engines.kv import KvReader
from engines.state_machine import StateMachine
from node.clock import Clock
from node.http_errors import rejection
from node.local_reads import Readers
from node.quarantine import ReplicaQuarantined
from node.service import Router

_NAMESPACE, _SESSION = "system", "placement"
_MAP = b"map"
_NODE = b"node/"
_RECORDS_MAX = 1000  # the map and one for each node, of which there are at most 18
_RECORD_BYTES_MAX = 8 << 20


class NodeRecord(NamedTuple):
    """What is decided about a node, or said by it."""

    labels: tuple[str, ...] = ()  # failure domains: name=value
    draining: bool = False  # its replicas move elsewhere
    removing: bool = False  # and when they have, it leaves the cluster

    def encode(self) -> bytes:
        fields = {
            "labels": list(self.labels),
            "draining": self.draining,
            "removing": self.removing,
        }
        return json.dumps(fields, sort_keys=True).encode()

    @staticmethod
    def decode(data: bytes) -> NodeRecord:
        fields = json.loads(data)
        return NodeRecord(
            tuple(str(label) for label in fields["labels"]),
            fields["draining"] is True,
            fields["removing"] is True,
        )


class Records(NamedTuple):
    """All that the system group holds. `versions`: of the records, by key."""

    map: PartitionMap | None
    nodes: dict[str, NodeRecord]
    versions: dict[bytes, int]
    revision: int


def records(reader: KvReader) -> Records:
    """What `reader` sees. Raises InvalidPartitionMap."""
    revision = reader.revision
    page = reader.scan(_NAMESPACE, _SESSION, b"", None, _RECORDS_MAX, _RECORD_BYTES_MAX, True)
    versions, nodes, found = {}, {}, None
    for record in page.records:
        assert record.value is not None
        versions[record.key] = record.version
        if record.key == _MAP:
            found = partition_map.decode(record.value)
        elif record.key.startswith(_NODE):
            nodes[record.key[len(_NODE) :].decode()] = NodeRecord.decode(record.value)
    return Records(found, nodes, versions, revision)


def map_command(encoded: bytes, now_ms: int, if_version: int | None) -> Put:
    """Replace the map."""
    return _put_command(_MAP, encoded, now_ms, if_version)


def forget_command(node: str, now_ms: int) -> Delete:
    """Remove what is known about a node."""
    return Delete(_NAMESPACE, _SESSION, _NODE + node.encode(), now_ms)


def _put_command(key: bytes, value: bytes, now_ms: int, if_version: int | None) -> Put:
    return Put(_NAMESPACE, _SESSION, key, value, "application/json", now_ms, if_version=if_version)


class SystemState:
    """The records as this node has applied them, and changes of them. Loop thread only."""

    def __init__(
        self, machine: StateMachine, readers: Readers, router: Router, clock: Clock
    ) -> None:
        """`machine`, `readers` and `router` are the system group's."""
        self._machine = machine
        self._readers = readers
        self._router = router
        self._clock = clock
        self._revision = -1
        self._versions: dict[bytes, int] = {}
        self.map: PartitionMap | None = None
        self.nodes: dict[str, NodeRecord] = {}

    def refresh(self) -> bool:
        """Look at what was applied since; True if there was anything. While the state is being
        rebuilt, what was known stays."""
        if self._machine.revision == self._revision:
            return False
        try:
            with self._readers() as reader:
                found = records(reader)
        except ReplicaQuarantined:
            return False
        self._versions, self.nodes, self.map = found.versions, found.nodes, found.map
        self._revision = found.revision
        return True

    def node(self, node: str) -> NodeRecord:
        return self.nodes.get(node, NodeRecord())

    async def put_map(self, changed: PartitionMap, deadline: float) -> None:
        """Replace the map that was read last. Raises Conflict: somebody else has changed it."""
        await self._put(_MAP, partition_map.encode(changed), deadline)

    async def put_node(self, node: str, record: NodeRecord, deadline: float) -> None:
        """Replace what was read last about a node. Raises Conflict."""
        await self._put(_NODE + node.encode(), record.encode(), deadline)

    async def forget_node(self, node: str, deadline: float) -> None:
        """Remove what is known about a node that left the cluster."""
        await self._router.propose(forget_command(node, self._clock.now_ms()), deadline)

    async def _put(self, key: bytes, value: bytes, deadline: float) -> None:
        version = self._versions.get(key, 0)
        command = _put_command(key, value, self._clock.now_ms(), version)
        result = await self._router.propose(command, deadline)
        if isinstance(result, Rejected):
            raise rejection(result)
