"""Snapshots for whoever backs up the cluster: made on request, read in pieces.

Theory of operation. A backup takes the Raft snapshots that exist anyway, of any replica,
after a barrier: the replica asks the leader for a read index (a round of heartbeats that
starts after the request arrived), waits until it has applied it, and any snapshot at or
above what it has applied then holds all that was acknowledged before the request. So a
follower can do the work, and the leader only answers a read. Log indexes are those of the
group: what one replica was told to reach holds for the others as well.

Why not the leader alone: it is the one node that every write already waits for. Why not a
snapshot that is there: it is older than what was acknowledged.

Loop thread only. Bounded: a group makes one snapshot at a time, and a snapshot that nobody
reads for a while may go (`cluster.snapshot_rules`).
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from cluster.errors import Overloaded
from cluster.interfaces import SnapshotMeta
from cluster.slots import SLOTS, slots_of
from cluster.snapshot import SnapshotStore
from node.clock import Clock
from node.errors import InternalError, NotFound, OutOfSpace, Unavailable
from node.partitions import Partitions
from node.reads import Consistency, ReadOptions
from node.replica import SYSTEM_GROUP

POLL_SECONDS = 0.02  # between looks at a snapshot that is being made
READ_PATIENCE_SECONDS = 10.0  # for the disk to give one piece
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_LINEARIZABLE = ReadOptions(Consistency.LINEARIZABLE)


@dataclass(frozen=True, slots=True)
class GroupSource:
    """One Raft group of which this node holds a replica, as far as it is needed here."""

    snapshots: SnapshotStore
    barrier: Callable[[ReadOptions, float], Awaitable[None]]
    applied_index: Callable[[], int]
    make_snapshot: Callable[[], bool]
    snapshot_failure: Callable[[], Exception | None]


class Groups(Protocol):
    """The Raft groups of the cluster."""

    def ids(self) -> Iterable[int]:
        """All of them, whether they have a replica here or not."""

    def slots(self, group: int) -> range:
        """The hash slots that a group serves."""

    def holders(self, group: int) -> tuple[str, ...]:
        """Nodes (their ids), those first that should hold a replica of the group."""

    def source(self, group: int) -> GroupSource | None:
        """The replica on this node, if there is one."""


class HeldGroups:
    """`Groups` of a node: the one place that says which a backup consists of."""

    def __init__(self, partitions: Partitions) -> None:
        self._partitions = partitions

    def ids(self) -> Iterable[int]:
        return range(self._partitions.count + 1)

    def slots(self, group: int) -> range:
        count = self._partitions.count
        if not count:
            return range(SLOTS)
        return range(0) if group == SYSTEM_GROUP else slots_of(group, count)

    def holders(self, group: int) -> tuple[str, ...]:
        if group == SYSTEM_GROUP:
            return tuple(
                member.id for member in self._partitions.system.group.configuration().members
            )
        return self._partitions.holders(group)

    def source(self, group: int) -> GroupSource | None:
        replica = self._partitions.replica(group)
        if replica is None:
            return None
        return GroupSource(
            replica.snapshots,
            replica.router.barrier,
            lambda: replica.machine.applied_index,
            replica.group.make_snapshot,
            lambda: replica.group.snapshot_failure,
        )


@dataclass(frozen=True, slots=True)
class Prepared:
    """A snapshot at or above `min_index`; None: it is still being made."""

    group: int
    min_index: int
    meta: SnapshotMeta | None


class SnapshotService:
    """The snapshots of a node's groups. `bytes_per_second_max`: of one stream; 0: unlimited."""

    def __init__(
        self,
        cluster_id: str,
        groups: Groups,
        clock: Clock,
        bytes_per_second_max: int,
    ) -> None:
        self.cluster_id = cluster_id
        self.bytes_per_second_max = bytes_per_second_max
        self.groups = groups
        self._clock = clock

    async def prepare(self, group: int, min_index: int | None, deadline: float) -> Prepared:
        """Have a snapshot of all that was acknowledged by now, or that reaches `min_index`.

        Not ready at the deadline (monotonic seconds) is no error: ask again with the answer's
        `min_index`. Raises NotFound, Unavailable, OutOfSpace, DeadlineExceeded.
        """
        source = self._source(group)
        if min_index is None:
            await source.barrier(_LINEARIZABLE, deadline)
            min_index = source.applied_index()
        begun = False
        while True:
            newest = source.snapshots.newest
            if newest is not None and newest.index >= min_index:
                return Prepared(group, min_index, newest)
            if not source.snapshots.busy and source.applied_index() >= min_index:
                if begun:
                    raise _failure(source.snapshot_failure())
                begun = source.make_snapshot()
            if self._clock.monotonic() >= deadline:
                return Prepared(group, min_index, None)
            await asyncio.sleep(POLL_SECONDS)

    def find(self, group: int, index: int) -> SnapshotMeta:
        """The snapshot at this index, if it is held. Raises NotFound."""
        for meta in self._source(group).snapshots.held:
            if meta.index == index:
                return meta
        raise NotFound(
            f"no snapshot {group}-{index} is held here (any more)", code="SNAPSHOT_NOT_FOUND"
        )

    async def read(self, group: int, index: int, offset: int, size: int) -> bytes | None:
        """Bytes of a snapshot, all of `size` that there are; None: it is not held any more.

        Raises Unavailable, NotFound.
        """
        snapshots = self._source(group).snapshots
        deadline = self._clock.monotonic() + READ_PATIENCE_SECONDS
        while True:
            future: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()

            def done(data: bytes | None, future: asyncio.Future[bytes | None] = future) -> None:
                if not future.done():
                    future.set_result(data)

            remaining = deadline - self._clock.monotonic()
            try:
                snapshots.read(index, offset, size, done)
            except Overloaded as error:
                if remaining <= 0:
                    raise Unavailable(str(error), code="OVERLOADED") from error
                await asyncio.sleep(POLL_SECONDS)
                continue
            try:
                # Snapshots that are closed, with a replica that leaves this node, call nobody.
                async with asyncio.timeout(max(remaining, 0.0)):
                    return await future
            except TimeoutError:
                raise Unavailable("the disk does not answer", code="OVERLOADED") from None

    def _source(self, group: int) -> GroupSource:
        source = self.groups.source(group)
        if source is None:
            raise NotFound(
                f"group: this node holds no replica of group {group}",
                code="SNAPSHOT_NOT_FOUND",
                field="group",
            )
        return source


def _failure(error: Exception | None) -> Exception:
    if getattr(error, "errno", None) in _NO_ROOM:
        return OutOfSpace("this node's disk has no room for a snapshot")
    if isinstance(error, Overloaded):
        return Unavailable(str(error), code="OVERLOADED")
    if error is None:
        return Unavailable("the snapshot that was made is not held any more", code="OVERLOADED")
    return InternalError("a snapshot could not be made; the node's log has the details")
