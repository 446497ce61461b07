"""Who holds a session's data, and how one of them is asked: `balanced_reads.Replicas`."""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeVar

from engines.errors import ReadersBusy
from engines.read_requests import ReadRequest, Shown
from node.errors import Unavailable
from node.http_errors import as_hivemem
from node.partitions import Partitions
from node.reads import ReadOptions, ReplicaLeft
from node.remote_reads import RemoteReads

T = TypeVar("T")


class SessionReplicas:
    """Loop thread only."""

    def __init__(self, self_id: str, partitions: Partitions, remote: RemoteReads) -> None:
        self._self_id = self_id
        self._partitions = partitions
        self._remote = remote

    def holders(self, session: str) -> dict[str, str]:
        """Ids of the nodes that should hold it, and their names."""
        partitions = self._partitions
        configuration = partitions.system.group.configuration()
        names = {member.id: member.name for member in configuration.members}
        found = partitions.state.map if partitions.count else None
        if found is None:
            return {node: names.get(node, node) for node in configuration.voters}
        replicas = found.partitions[partitions.group_of(session) - 1].replicas
        return {node: names.get(node, node) for node in replicas}

    def members(self) -> Collection[str]:
        """Ids of all nodes of the cluster."""
        return self._partitions.system.group.configuration().ids

    async def read_at(
        self,
        node: str,
        session: str,
        request: ReadRequest[T],
        options: ReadOptions,
        seconds: float,
    ) -> Shown[T]:
        """Raises ClusterError or HivememError."""
        group = self._partitions.group_of(session)
        if node != self._self_id:
            return await self._remote.read(node, group, request, options, seconds)
        replica = self._partitions.serving(group)
        if replica is None:
            raise _not_here()
        deadline = replica.clock.monotonic() + seconds
        try:
            return await replica.router.read_here(request, options, deadline)
        except ReplicaLeft:
            raise _not_here() from None
        except ReadersBusy as error:
            # As another node would say it, so that others are asked.
            raise as_hivemem(error, writes=False) from error


def _not_here() -> Unavailable:
    return Unavailable("the replica is not on this node", code="QUORUM_NOT_REACHED")
