"""The partitions of which this node holds a replica: opened, and given up, as the map says.

The map (`system_state.py`) says where a partition should live; the group's own
configuration says where it does. A node opens an empty replica as soon as the map wants one
here, so that the leader can admit it as a learner, and deletes it once a committed
configuration without this node was seen, never because of the map alone.

A replica that is deleted forgets what it acknowledged and how it voted. So it is halted the
moment that is decided, and one that is opened afresh has no vote of its own: only the first
replicas of all have, while the first map is in force. A node whose own view of the map may be
old asks a quorum whether it still is.
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
from node.errors import HivememError
from node.members import hand_over
from node.reads import Consistency, ReadOptions
from node.replica import SYSTEM_GROUP, Replica, Shared
from node.system_state import SystemState

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 0.1  # between two looks at the map
LEADERLESS_SECONDS_MAX = 3.0  # then a replica that should not be here asks whether it is missed
ASK_SECONDS_MAX = 2.0
CONFIRM_SECONDS_MAX = 2.0  # for a quorum of the system group to confirm the first map
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
        # Before a replica's files are closed: requests that wait for it go elsewhere.
        self.on_leave: Callable[[Replica], None] = lambda replica: None
        self._shared = shared
        self._self_id = shared.config.node.id
        self._held: dict[int, Replica] = {}
        self._map_seen = False
        self._removed: set[int] = set()  # groups that learned that this node is none of theirs
        self._voteless: set[int] = set()  # opened at the start, with a log that names nobody
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
        return found if found is not None and found.votes else None

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
                self._open(known[group], founds=False)
                if not self._held[group].group.configuration().index:
                    self._voteless.add(group)

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
        for group in sorted(self._removed):
            self._removed.discard(group)
            await self._give_up(group)
        await self._begin_missing()
        unwanted = self._held.keys() - self._wanted().keys()
        await asyncio.gather(*(self._ask_whether_missed(group) for group in sorted(unwanted)))

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

    async def _begin_missing(self) -> None:
        """Open what is to be here and is not."""
        founds = self._founding()
        if founds and self._missing():
            if not await self._first_map_is_in_force():
                return
            founds = self._founding()  # of what is known now
        for partition in self._missing():
            await self._begin(partition, founds)

    def _missing(self) -> list[Partition]:
        """Partitions that are to be opened here, and those that are to be opened anew because
        this node may vote in them after all."""
        again = self._voteless if self._founding() else set()
        return [
            partition
            for group, partition in self._wanted().items()
            if group not in self._held or (group in again and self._names_nobody(group))
        ]

    def _names_nobody(self, group: int) -> bool:
        return not self._held[group].group.configuration().index

    def _founding(self) -> bool:
        """Is the first map in force, as far as this node knows?"""
        return self.state.map is not None and self.state.map.epoch == 1

    async def _first_map_is_in_force(self) -> bool:
        """Does a quorum say so? This node may have been away, or its state may be old."""
        options = ReadOptions(Consistency.LINEARIZABLE)
        deadline = self._shared.clock.monotonic() + CONFIRM_SECONDS_MAX
        try:
            await self.system.router.barrier(options, deadline)
        except HivememError as error:
            logger.info("the first map is not confirmed yet: %s", error)
            return False
        self.state.refresh()
        return True

    async def _begin(self, partition: Partition, founds: bool) -> None:
        logger.info("this node holds a replica of partition %d from now on", partition.id)
        self._voteless.discard(partition.id)
        before = self._held.pop(partition.id, None)
        if before is not None:
            await self._close(before)
        self._open(partition, founds)
        await self._held[partition.id].start()
        self.on_change()

    def _open(self, partition: Partition, founds: bool) -> None:
        group = partition.id

        def fail(error: BaseException) -> None:
            if isinstance(error, Removed):
                self._removed.add(group)  # closed later: this comes from within its turn
            else:
                self._shared.fail(error)

        bootstrap = self._bootstrap(partition, founds)
        self._held[group] = Replica(
            group, self._shared, bootstrap, fail, lambda: group in self._wanted()
        )

    def _bootstrap(self, partition: Partition, founds: bool) -> Configuration:
        """The members while the group's log names none.

        The founders agree on each other, while the first map is in force. Who comes later
        listens to every node of the cluster, since any of them may lead by now, and has no
        vote before the log gives it one: it may have been here before, and have forgotten how
        it voted. So the first map must stay in force until the members of every group are
        committed (`placement_duties.py`).
        """
        founders = set(partition.founders)
        if founds:
            return membership.bootstrap(Member(node) for node in founders)
        known = {member.id for member in self.system.group.configuration().members}
        return membership.bootstrap(
            Member(node, node in founders and node != self._self_id) for node in founders | known
        )

    async def _give_up(self, group: int) -> None:
        """Delete a replica that is none of its group's. It is halted before anything else
        can run: what it acknowledged from here on would be forgotten."""
        replica = self._held.pop(group, None)
        if replica is None:
            return
        replica.group.halt()
        logger.info("this node holds no replica of partition %d any more", group)
        self._leaderless.pop(group, None)
        self._voteless.discard(group)
        await self._close(replica, keep=False)
        self._shared.data_dir.remove_group(group)

    async def _close(self, replica: Replica, *, keep: bool = True) -> None:
        replica.group.halt()
        self.on_leave(replica)
        self.on_change()
        await replica.stop()
        replica.close(keep=keep)

    # --- A replica that was away while it was removed ----------------------------------

    async def _ask_whether_missed(self, group: int) -> None:
        """A removed replica is told, unless it is away then. Nobody of the group talks to it
        later, so it asks: those that it knows as members, and those that the map names, since
        none of the former may be left."""
        now = self._shared.clock.monotonic()
        replica = self._held[group]
        if replica.group.role().leader is not None:
            self._leaderless.pop(group, None)
            return
        since = self._leaderless.setdefault(group, now)
        if now - since < LEADERLESS_SECONDS_MAX:
            return
        self._leaderless[group] = now
        peers = {*replica.group.configuration().ids, *self.holders(group)} - {self._self_id}
        answers = await asyncio.gather(*(self._members_at(replica, peer) for peer in sorted(peers)))
        if group in self._wanted() or self._held.get(group) is not replica:
            return
        if any(self._left_out(replica, found) for found in answers if found is not None):
            await self._give_up(group)

    async def _members_at(self, replica: Replica, peer: str) -> Configuration | None:
        """The newest committed configuration that a peer knows of; None: it knows none."""
        try:
            return await replica.forwarder.committed_members(peer, ASK_SECONDS_MAX)
        except ClusterError:
            return None

    def _left_out(self, replica: Replica, found: Configuration) -> bool:
        """Is it without this node, and as new as what the replica's own log says? It may hold
        that very entry, and not know that it was committed."""
        return found.index >= replica.group.configuration().index and self._self_id not in found.ids
