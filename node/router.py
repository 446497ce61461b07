"""Where a request of one group runs: here, or at the leader, until its deadline.

Writes: `proposals.py`. A read is answered by this node's state, once that may answer it.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, TypeVar

from cluster.errors import (
    ClusterError,
    NoQuorum,
    NotLeader,
    Overloaded,
    PeerUnreachable,
    RemoteCallFailed,
)
from cluster.interfaces import Consensus
from engines.errors import StoreFailed
from engines.read_requests import ReadRequest, Shown
from engines.state_machine import StateMachine
from node.clock import Clock
from node.errors import DeadlineExceeded
from node.forward import Forwarder
from node.leadership import Leadership, Led
from node.local_reads import LocalReads
from node.proposals import Elsewhere, Proposals, WritePath
from node.quarantine import ReplicaQuarantined
from node.read_failover import ReadFailover
from node.read_indexes import ReadIndexes
from node.reads import Consistency, ReadOptions, ReplicaLeft

T = TypeVar("T")

REVISION_POLL_SECONDS = 0.01  # a reader that waits for a revision looks again this often


class Away(Led, Elsewhere, Protocol):
    """A group that is not here: who may lead it, and how that node is asked."""


class OtherWay(Protocol):
    """The way to a group that is not here: `RemoteRouter`."""

    attempt_seconds_max: float

    @property
    def elsewhere(self) -> Away: ...

    def leader_address(self) -> str | None: ...

    async def read(
        self, request: ReadRequest[T], options: ReadOptions, deadline: float
    ) -> Shown[T]: ...


class Router(WritePath):
    """Write and read paths of one group. Loop thread only."""

    def __init__(
        self,
        self_id: str,
        group: Consensus,
        machine: StateMachine,
        forwarder: Forwarder | None,
        clock: Clock,
        leader_http: dict[str, str],
        reads: LocalReads,
        failover: ReadFailover | None = None,
    ) -> None:
        """`leader_http`: node id → HTTP address, for members of which the log says none.
        `failover`: who answers while the state here is damaged."""
        self._failover = failover
        self._group = group
        self._machine = machine
        self._clock = clock
        self._leader_http = leader_http
        self._reads = reads
        self._loop = asyncio.get_running_loop()
        self._leadership = Leadership(self_id, group, clock, self.leader_address)
        self._indexes = None if forwarder is None else ReadIndexes(forwarder)
        super().__init__(Proposals(self._leadership, group, forwarder))
        self._applied_waiters: set[asyncio.Future[None]] = set()
        self._other_way: OtherWay | None = None  # once the replica has left this node

    def leave(self, other_way: OtherWay) -> None:
        """The replica leaves this node: who waits for it, and who comes yet, goes that way.

        To be called before the replica's files are closed.
        """
        self._other_way = other_way
        self._leadership.follow(other_way.elsewhere)
        self._proposals.leave(other_way.elsewhere, other_way.attempt_seconds_max)
        for waiter in self._applied_waiters:
            if not waiter.done():
                waiter.set_exception(ReplicaLeft())

    def leader_address(self) -> str | None:
        """HTTP address of the leader, as far as this node knows."""
        if self._other_way is not None:
            return self._other_way.leader_address()
        leader = self._group.role().leader
        if leader is None:
            return None
        member = self._group.configuration().member(leader)
        return (member.http if member else "") or self._leader_http.get(leader)

    # --- Reads ---------------------------------------------------------------------

    async def read(
        self, request: ReadRequest[T], options: ReadOptions, deadline: float
    ) -> Shown[T]:
        """What this node's state answers, once it may; another replica's, if the one here is
        damaged, or leaves.

        Raises as `barrier`, and what the request raises; DeadlineExceeded, ReplicaQuarantined.
        """
        if self._other_way is None:
            try:
                return await self.read_here(request, options, deadline)
            except ReplicaQuarantined as error:
                if self._failover is None:
                    raise
                return await self._failover.read(request, options, deadline, error)
            except ReplicaLeft:
                assert self._other_way is not None
        return await self._other_way.read(request, options, deadline)

    async def read_here(
        self, request: ReadRequest[T], options: ReadOptions, deadline: float
    ) -> Shown[T]:
        """As `read`, from this node's state alone. Raises ReplicaLeft, too."""
        self._check_here()
        self._reads.check()
        await self.barrier(options, deadline)
        try:
            return await self._reads.run(request, deadline, options.priority)
        except StoreFailed:
            self._check_here()  # it was closed because the replica left, which is no failure
            raise

    async def barrier(self, read: ReadOptions, deadline: float) -> None:
        """Return when this node's state may answer the read.

        Raises Unavailable (STALE, QUORUM_NOT_REACHED) or DeadlineExceeded.
        """
        if read.consistency is Consistency.STALE:
            self._check_staleness(read.max_staleness_ms)
        else:
            confirmed = read.consistency is Consistency.LINEARIZABLE
            await self._wait_for_read_index(confirmed, deadline)
        if read.min_revision is not None:
            await self._wait_for_revision(read.min_revision, deadline)

    def _check_staleness(self, max_staleness_ms: int | None) -> None:
        if max_staleness_ms is None:
            return
        if self._group.staleness_seconds() * 1000 > max_staleness_ms:
            message = f"this node's state may be older than {max_staleness_ms} ms"
            raise self._leadership.unavailable("STALE", message, True)

    async def _wait_for_read_index(self, confirmed: bool, deadline: float) -> None:
        while True:
            self._check_here()
            try:
                index = await self._read_index(confirmed, deadline)
                if index is not None:
                    await self._wait_applied(index, deadline)
                    return
            except Overloaded as error:
                raise self._leadership.unavailable("OVERLOADED", str(error), True) from error
            except (NotLeader, NoQuorum, PeerUnreachable, RemoteCallFailed):
                pass  # a read has no effect: it may always be tried again
            if self._leadership.past(deadline):
                self._leadership.quorum_not_reached(False)
            await self._leadership.pause(deadline)

    def _check_here(self) -> None:
        if self._other_way is not None:
            raise ReplicaLeft

    async def _read_index(self, confirmed: bool, deadline: float) -> int | None:
        leadership = self._leadership
        leader = leadership.leader
        if leader is None:
            return None
        remaining = leadership.remaining(deadline)
        if not leadership.leads:
            if self._indexes is None:
                return None
            answer = self._indexes.get(leader, confirmed=confirmed, seconds=remaining)
            return await leadership.while_leading(leader, answer)
        if not confirmed:
            return self._group.status().applied_index
        future: asyncio.Future[int] = self._loop.create_future()

        def done(index: int | None, error: ClusterError | None) -> None:
            if future.done():
                return
            if index is not None:
                future.set_result(index)
            else:
                future.set_exception(error or NoQuorum("no read index"))

        def expire() -> None:
            if not future.done():
                future.set_exception(NoQuorum("no quorum confirmed the read in time"))

        timer = self._loop.call_later(remaining, expire)
        try:
            self._group.read_index(done)
            return await future
        finally:
            timer.cancel()

    async def _wait_applied(self, index: int, deadline: float) -> None:
        if self._machine.applied_index >= index:
            return
        self._check_here()
        future: asyncio.Future[None] = self._loop.create_future()

        def done() -> None:
            if not future.done():
                future.set_result(None)

        self._group.when_applied(index, done)
        self._applied_waiters.add(future)
        try:
            async with asyncio.timeout(max(deadline - self._clock.monotonic(), 0.0)):
                await future
        except TimeoutError:
            raise DeadlineExceeded("this node did not catch up with the leader in time") from None
        finally:
            self._applied_waiters.discard(future)

    async def _wait_for_revision(self, revision: int, deadline: float) -> None:
        while self._machine.revision < revision:
            self._check_here()
            if self._leadership.past(deadline):
                raise DeadlineExceeded(
                    f"min_revision {revision} was not reached in time; "
                    f"this node is at {self._machine.revision}"
                )
            self._group.catch_up()
            await asyncio.sleep(REVISION_POLL_SECONDS)
