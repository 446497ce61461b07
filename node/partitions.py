"""The partitions of which this node holds a replica: opened, and given up, as the map says.

The map (`system_state.py`) says where a partition should live; the group's own
configuration says where it does. A node opens an empty replica as soon as the map wants one
here, so that the leader can admit it as a learner, and deletes it once a committed
configuration without this node was seen, never because of the map alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import ExitStack

from cluster import membership
from cluster.errors import ClusterError, Removed
from cluster.membership import Configuration, Member
from cluster.partition_map import Partition
from cluster.slots import partition_of, session_slot
from node.members import hand_over
from node.replica import SYSTEM_GROUP, Replica, Shared
from node.system_state import SystemState

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 0.1  # between two looks at the map
LEADERLESS_SECONDS_MAX = 3.0  # then a replica that should not be here asks whether it is missed
ASK_SECONDS_MAX = 2.0
HAND_OVER_SECONDS_MAX = 1.5  # that the leaders of a stopping node give others to take over


class Partitions:
    """All groups of one node: the system group, and of the data those that live here.

    Loop thread only. Without partitions (`count` 0) the system group holds the data.
    """

    def __init__(self, shared: Shared, system: Replica) -> None:
        """`system` is open; `open` opens the others."""
        self.system = system
        self.count = shared.config.cluster.partitions
        self.state = SystemState(system.machine, system.readers, system.router, shared.clock)
        self.on_change: Callable[[], None] = lambda: None  # which groups are here
        self._shared = shared
        self._self_id = shared.config.node.id
        self._held: dict[int, Replica] = {}
        self._map_seen = False
        self._removed: set[int] = set()  # groups that learned that this node is none of theirs
        self._leaderless: dict[int, float] = {}  # since when, of those that should not be here

    # --- Which are here ------------------------------------------------------------

    def group_of(self, session: str) -> int:
        """The group that holds a session's records."""
        return partition_of(session_slot(session), self.count) if self.count else SYSTEM_GROUP

    def data_groups(self) -> range:
        """The groups that hold records, whether here or elsewhere."""
        return range(1, self.count + 1) if self.count else range(1)

    def holders(self, group: int) -> tuple[str, ...]:
        """Whom to ask about a partition: the nodes that should hold it, then all the others,
        since it may be on its way."""
        found = self.state.map
        first = found.partitions[group - 1].replicas if found is not None else ()
        members = self.system.group.configuration().members
        return (*first, *(member.id for member in members if member.id not in first))

    def http_of(self, node: str) -> str | None:
        """HTTP address of a node of the cluster."""
        member = self.system.group.configuration().member(node)
        return member.http or None if member is not None else None

    def replica(self, group: int) -> Replica | None:
        """The replica of a group on this node."""
        return self.system if group == SYSTEM_GROUP else self._held.get(group)

    def serving(self, group: int) -> Replica | None:
        """The replica of a group on this node, if it has a vote: one that is still catching up
        would make its readers wait. Without partitions there is nobody else to ask."""
        if not self.count:
            return self.system
        found = self.replica(group)
        if found is None or self._self_id not in found.group.configuration().voters:
            return None
        return found

    def here(self) -> list[Replica]:
        """Every replica of this node, the system group's first."""
        return [self.system, *(self._held[group] for group in sorted(self._held))]

    def data(self) -> list[Replica]:
        """The replicas of partitions on this node."""
        return [self._held[group] for group in sorted(self._held)]

    def halt(self) -> None:
        """Take part in nothing any more: the node has failed."""
        for replica in self.here():
            replica.group.halt()

    def set_room(self, room: bool) -> None:
        """Tell every group whether the disk has room for more entries."""
        for replica in self.here():
            replica.group.set_room(room)

    def release_memory(self) -> None:
        for replica in self.here():
            replica.machine.release_memory()

    # --- Start and end ---------------------------------------------------------------

    def open(self) -> None:
        """Open what this node held, before its peers hear of it; as far as the map is known."""
        self.state.refresh()
        self._map_seen = self.state.map is not None
        known = {each.id: each for each in self.state.map.partitions} if self.state.map else {}
        for group in self._shared.data_dir.groups():
            if group in known and group not in self._held:
                self._open(known[group])

    async def start(self) -> None:
        for replica in self.here():
            await replica.start()

    async def stop(self) -> None:
        """End what the groups do by themselves, and have others lead."""
        for replica in self.here():
            await replica.stop()
        await asyncio.gather(
            *(hand_over(replica.group, HAND_OVER_SECONDS_MAX) for replica in self.here())
        )

    def close(self) -> None:
        with ExitStack() as closers:
            for replica in self.here():
                closers.callback(replica.close)

    async def run(self) -> None:
        """Follow the map until cancelled."""
        while self.count:
            await self.look()
            await asyncio.sleep(INTERVAL_SECONDS)

    async def look(self) -> None:
        """Open what the map wants here, and give up what is no longer this node's."""
        if self.state.refresh() and not self._map_seen and self.state.map is not None:
            self._map_seen = True
            await self._begin_what_is_here()
        wanted = self._wanted()
        for group in sorted(self._removed):
            self._removed.discard(group)
            await self._give_up(group)
        for group, partition in wanted.items():
            if group not in self._held and self._self_id in partition.replicas:
                await self._begin(partition)
        for group in self._held.keys() - wanted.keys():
            await self._ask_whether_missed(group)

    async def _begin_what_is_here(self) -> None:
        """The map was not known at the start: the system group's state had been lost."""
        before = set(self._held)
        self.open()
        for group in self._held.keys() - before:
            await self._held[group].start()
        self.on_change()

    def _wanted(self) -> dict[int, Partition]:
        """By group, the partitions that are to be here."""
        found = self.state.map
        return {
            partition.id: partition
            for partition in (found.partitions if found else ())
            if self._self_id in partition.replicas
        }

    async def _begin(self, partition: Partition) -> None:
        logger.info("this node holds a replica of partition %d from now on", partition.id)
        self._open(partition)
        await self._held[partition.id].start()
        self.on_change()

    def _open(self, partition: Partition) -> None:
        group = partition.id

        def fail(error: BaseException) -> None:
            if isinstance(error, Removed):
                self._removed.add(group)  # closed later: this comes from within its turn
            else:
                self._shared.fail(error)

        self._held[group] = Replica(group, self._shared, self._bootstrap(partition), fail)

    def _bootstrap(self, partition: Partition) -> Configuration:
        """The members while the group's log names none.

        The founders agree on each other. Who comes later listens to every node of the cluster,
        since any of them may lead by now, and has no vote before the log gives it one: it may
        have been here before, and have forgotten how it voted. So the first map must stay in
        force until every group has a leader (`placement_duties.py`).
        """
        assert self.state.map is not None
        founders = set(partition.founders)
        if self.state.map.epoch == 1:
            return membership.bootstrap(Member(node) for node in founders)
        known = {member.id for member in self.system.group.configuration().members}
        return membership.bootstrap(
            Member(node, node in founders and node != self._self_id) for node in founders | known
        )

    async def _give_up(self, group: int) -> None:
        replica = self._held.pop(group, None)
        if replica is None:
            return
        logger.info("this node holds no replica of partition %d any more", group)
        self._leaderless.pop(group, None)
        self.on_change()
        await replica.stop()
        replica.close(keep=False)
        self._shared.data_dir.remove_group(group)

    # --- A replica that was away while it was removed ----------------------------------

    async def _ask_whether_missed(self, group: int) -> None:
        """A removed replica is told, unless it is away then. Nobody of the group talks to it
        later, so it asks."""
        now = self._shared.clock.monotonic()
        replica = self._held[group]
        if replica.group.role().leader is not None:
            self._leaderless.pop(group, None)
            return
        since = self._leaderless.setdefault(group, now)
        if now - since < LEADERLESS_SECONDS_MAX:
            return
        self._leaderless[group] = now
        own = replica.group.configuration()
        for member in own.members:
            if member.id != self._self_id and await self._left_out(replica, member.id):
                await self._give_up(group)
                return

    async def _left_out(self, replica: Replica, peer: str) -> bool:
        """Does a peer hold a newer, committed configuration without this node?"""
        try:
            found = await replica.forwarder.committed_members(peer, ASK_SECONDS_MAX)
        except ClusterError:
            return False
        return found.index > replica.group.configuration().index and self._self_id not in found.ids
