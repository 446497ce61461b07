"""What operators see of the partitions, and ask of them: where they are, drain, remove.

Removing a node drains it first: its replicas move elsewhere, and the leader of the system
group lets it go once it holds nothing. That may take longer than one request; asking again
continues where it stands.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from cluster.membership import Configuration, Member, Update
from cluster.moves import Progress
from cluster.partition_map import Partition, warnings
from cluster.slots import SLOTS, slots_of
from node.clock import Clock
from node.errors import Conflict, NotFound, Unavailable
from node.members import MemberService, MembersView
from node.overview import PartitionFacts
from node.partitions import Partitions
from node.placement_duties import PlacementDuties, Situation
from node.replica import SYSTEM_GROUP

POLL_SECONDS = 0.1  # between two looks at whether a node has left
CONFLICTS_MAX = 5  # tries at a record that somebody else changes at the same time


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """A partition on one node. None: the node did not say."""

    node: str  # id
    name: str
    role: str  # leader | follower | candidate | learner
    wanted: bool  # False: it is on its way out
    answering: bool
    applied_index: int | None
    log_index: int | None


@dataclass(frozen=True, slots=True)
class PartitionView:
    """One partition. None: not known here and now."""

    id: int
    first_slot: int
    last_slot: int  # inclusive
    leader: str | None  # node id
    term: int | None
    revision: int | None
    keys: int | None
    value_bytes: int | None
    replicas: tuple[ReplicaView, ...]
    target: tuple[str, ...]  # node ids: where it should be


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node as far as partitions are concerned."""

    id: str
    name: str
    labels: tuple[str, ...]
    draining: bool
    removing: bool
    answering: bool
    replicas: int  # partitions that it holds, learners included
    leaders: int  # partitions that it leads


@dataclass(frozen=True, slots=True)
class PartitionsView:
    """`epoch` 0: the cluster has no partitions, and every node holds everything."""

    epoch: int
    replication_factor: int | None
    warnings: tuple[str, ...]
    progress: Progress | None
    nodes: tuple[NodeView, ...]
    partitions: tuple[PartitionView, ...]


class PartitionService:
    """Deadlines are `Clock.monotonic()` seconds. Loop thread only."""

    def __init__(
        self,
        partitions: Partitions,
        placement: PlacementDuties,
        members: MemberService,
        clock: Clock,
    ) -> None:
        """`members`: of the system group."""
        self._partitions = partitions
        self._placement = placement
        self._members = members
        self._clock = clock

    async def view(self) -> PartitionsView:
        """Where everything is, as the nodes say now."""
        found = await self._placement.look()
        members = {member.id: member for member in self._members.members().members}
        if found.map is None:
            return _unpartitioned(found, members, self._members.members())
        views = tuple(
            _partition(found, each, len(found.map.partitions), members)
            for each in found.map.partitions
        )
        nodes = tuple(self._node(member, found) for member in members.values())
        return PartitionsView(
            found.map.epoch,
            found.map.replication_factor,
            tuple(warnings(found.map)),
            found.progress,
            tuple(sorted(nodes, key=lambda node: (node.name, node.id))),
            views,
        )

    def _node(self, member: Member, found: Situation) -> NodeView:
        record = self._partitions.state.node(member.id)
        return NodeView(
            member.id,
            member.name,
            record.labels,
            record.draining,
            record.removing,
            member.id in found.sight.answered,
            sum(member.id in each.ids for each in found.configurations.values()),
            sum(leader == member.id for leader in found.leaders.values()),
        )

    async def drain(self, node: str, draining: bool, deadline: float) -> None:
        """Have a node's replicas move elsewhere, or allow it replicas again.

        Raises NotFound, Conflict: the cluster has no partitions; Unavailable.
        """
        if not self._partitions.count:
            raise Conflict(
                "the cluster has no partitions: every node holds everything",
                code="NOT_PARTITIONED",
            )
        await self._mark(node, deadline, draining=draining, removing=False)

    async def _mark(self, node: str, deadline: float, *, draining: bool, removing: bool) -> None:
        if node not in self._partitions.system.group.configuration().ids:
            raise NotFound(f"node {node} is not a member", code="MEMBER_NOT_FOUND", field="id")
        state = self._partitions.state
        for attempt in range(CONFLICTS_MAX):
            state.refresh()
            record = state.node(node)
            changed = record._replace(draining=draining, removing=removing)
            if record == changed:
                return
            try:
                await state.put_node(node, changed, deadline)
                return
            except Conflict:
                if attempt + 1 == CONFLICTS_MAX:
                    raise
            await asyncio.sleep(POLL_SECONDS)  # until this node has applied what came between

    # --- Members: see MemberService ------------------------------------------------------

    def members(self) -> MembersView:
        return self._members.members()

    async def add(self, member: Member, deadline: float) -> MembersView:
        """One that was removed before is not to leave again at once."""
        known = member.id in self._partitions.system.group.configuration().ids
        if self._partitions.count and not known:
            self._partitions.state.refresh()
            if self._partitions.state.node(member.id).removing:
                await self._partitions.state.forget_node(member.id, deadline)
        return await self._members.add(member, deadline)

    async def promote(self, node: str, deadline: float) -> MembersView:
        return await self._members.promote(node, deadline)

    async def update(self, update: Update, deadline: float) -> MembersView:
        return await self._members.update(update, deadline)

    async def transfer(self, target: str | None, deadline: float) -> str:
        return await self._members.transfer(target, deadline)

    async def remove(self, node: str, deadline: float) -> MembersView:
        """Take a member out once its replicas are elsewhere.

        Raises Unavailable DRAINING when that takes longer: it goes on by itself.
        """
        if not self._partitions.count:
            return await self._members.remove(node, deadline)
        await self._mark(node, deadline, draining=True, removing=True)
        while node in self._committed().ids:
            if self._clock.monotonic() >= deadline:
                raise await self._still_draining(node)
            await asyncio.sleep(POLL_SECONDS)
        return self._members.members()

    def _committed(self) -> Configuration:
        return self._partitions.system.group.committed_configuration()

    async def _still_draining(self, node: str) -> Unavailable:
        found = await self._placement.look()
        left = sum(node in each.ids for each in found.configurations.values())
        return Unavailable(
            f"{left} partitions are still to leave node {node}; it is removed by itself after that",
            code="DRAINING",
            definite=False,
        )


def _partition(
    found: Situation, partition: Partition, count: int, members: dict[str, Member]
) -> PartitionView:
    slots = slots_of(partition.id, count)
    facts = found.sight.partitions.get(partition.id) or PartitionFacts(partition.id, {})
    return _shown(facts, (slots[0], slots[-1]), partition.replicas, found, members)


def _shown(
    facts: PartitionFacts,
    slots: tuple[int, int],
    target: tuple[str, ...],
    found: Situation,
    members: dict[str, Member],
) -> PartitionView:
    newest, configuration = facts.newest, facts.configuration
    listed = configuration.members if configuration else ()
    # A configuration that names nobody yet: who holds the group says so himself.
    nodes = {member.id: member.voter for member in listed} or dict.fromkeys(facts.replicas, True)
    replicas = []
    for node, voter in nodes.items():
        said = facts.replicas.get(node)
        role = "follower" if said is None else said.role
        known = members.get(node)
        replicas.append(
            ReplicaView(
                node,
                known.name if known else "",
                role if voter else "learner",
                node in target,
                node in found.sight.answered,
                said.applied_index if said else None,
                said.last_index if said else None,
            )
        )
    replicas.sort(key=lambda each: (each.role != "leader", each.name, each.node))
    return PartitionView(
        facts.group,
        *slots,
        facts.leader,
        newest.term if newest else None,
        newest.revision if newest else None,
        newest.keys if newest else None,
        newest.value_bytes if newest else None,
        tuple(replicas),
        target,
    )


def _unpartitioned(
    found: Situation, members: dict[str, Member], view: MembersView
) -> PartitionsView:
    facts = found.sight.partitions[SYSTEM_GROUP]
    everybody = tuple(sorted(members))
    nodes = tuple(
        NodeView(
            member.id, member.name, (), False, False, member.id in found.sight.answered, 1,
            int(view.leader == member.id),
        )
        for member in members.values()
    )  # fmt: skip
    whole = _shown(facts, (0, SLOTS - 1), everybody, found, members)
    return PartitionsView(0, None, (), None, nodes, (whole,))
