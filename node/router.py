"""Where a request runs: here if this node leads, otherwise at the leader, until its deadline.

What is certain to have had no effect is tried again until the deadline: no leader yet, a
peer that cannot be reached, a leader that just lost its place. What may have had an effect
is tried again only if the command carries a request id, which makes the retry harmless.

A leader that is paused or cut off does not answer and does not refuse. What was sent to it
and may be repeated is sent to its successor as soon as there is one: waiting for the
deadline would keep clients waiting long after the cluster has recovered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import NoReturn, TypeVar

from cluster.errors import (
    ClusterError,
    DiskFull,
    NoQuorum,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    PeerUnreachable,
    RemoteCallFailed,
)
from cluster.interfaces import Consensus
from engines.command import Command, Configure, Expire, encode
from engines.interfaces import Result
from engines.read_requests import ReadRequest, Shown
from engines.state_machine import StateMachine
from node.clock import Clock
from node.errors import DeadlineExceeded, HivememError, OutOfSpace, Unavailable
from node.forward import Forwarder
from node.local_reads import LocalReads
from node.reads import Consistency, ReadOptions

T = TypeVar("T")

RETRY_PAUSE_SECONDS = 0.05  # between tries when no event says that trying again is worth it
REVISION_POLL_SECONDS = 0.01  # a reader that waits for a revision looks again this often


class Router:
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
    ) -> None:
        """`leader_http`: node id → HTTP address, for members of which the log says none."""
        self._self_id = self_id
        self._group = group
        self._machine = machine
        self._forwarder = forwarder
        self._clock = clock
        self._leader_http = leader_http
        self._reads = reads
        self._loop = asyncio.get_running_loop()
        self._leader_waiters: set[asyncio.Future[None]] = set()
        self._asked: dict[asyncio.Timeout, str] = {}  # repeatable calls under way → asked node
        group.on_leader_change = self._leader_changed

    def leader_address(self) -> str | None:
        """HTTP address of the leader, as far as this node knows."""
        leader = self._group.role().leader
        if leader is None:
            return None
        member = self._group.configuration().member(leader)
        return (member.http if member else "") or self._leader_http.get(leader)

    # --- Writes --------------------------------------------------------------------

    async def propose(self, command: Command, deadline: float) -> Result:
        """Replicate one command and return its result (which may be a refusal).

        deadline: clock.monotonic() seconds. Raises Unavailable: QUORUM_NOT_REACHED,
        OVERLOADED or OUTCOME_UNKNOWN, whose `definite` says whether it may have applied;
        OutOfSpace, with the same.
        """
        encoded = encode(command)
        repeatable = isinstance(command, Expire | Configure) or command.request_id is not None
        applied_perhaps = False
        while True:
            try:
                leader = self._group.role().leader
                if leader == self._self_id:
                    return await self._propose_here(encoded, deadline)
                if leader is not None and self._forwarder is not None:
                    timeout = max(deadline - self._clock.monotonic(), 0.001)
                    answer = self._forwarder.propose(leader, encoded, timeout)
                    return await (self._while_leading(leader, answer) if repeatable else answer)
            except Overloaded as error:
                raise self._unavailable("OVERLOADED", str(error), not applied_perhaps) from error
            except DiskFull as error:
                # Other nodes would only ask the same leader.
                raise OutOfSpace(
                    str(error), definite=not applied_perhaps, leader=self.leader_address()
                ) from error
            except (NotLeader, PeerUnreachable, OutcomeUnknown, RemoteCallFailed) as error:
                applied_perhaps |= not error.definite
                if not error.definite and (not repeatable or self._past(deadline)):
                    self._outcome_unknown(error)
            if self._past(deadline):
                self._quorum_not_reached(applied_perhaps)
            await self._pause(deadline)

    async def propose_many(
        self, commands: Sequence[Command], deadline: float
    ) -> list[Result | HivememError]:
        """Replicate independent commands; each has its own result or error, in order."""
        outcomes = await asyncio.gather(
            *(self.propose(command, deadline) for command in commands), return_exceptions=True
        )
        results: list[Result | HivememError] = []
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, HivememError):
                raise outcome
            results.append(outcome)
        return results

    async def _propose_here(self, encoded: bytes, deadline: float) -> Result:
        future: asyncio.Future[Result] = self._loop.create_future()

        def done(result: object, error: ClusterError | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)  # type: ignore[arg-type]
            else:
                future.set_exception(error)

        def expire() -> None:
            if not future.done():
                future.set_exception(OutcomeUnknown("no quorum confirmed it in time"))

        timer = self._loop.call_later(max(deadline - self._clock.monotonic(), 0.0), expire)
        try:
            self._group.submit(encoded, done)
            return await future
        finally:
            timer.cancel()

    # --- Reads ---------------------------------------------------------------------

    async def read(
        self, request: ReadRequest[T], options: ReadOptions, deadline: float
    ) -> Shown[T]:
        """What this node's state answers, once it may.

        Raises as `barrier`, and what the request raises; DeadlineExceeded.
        """
        await self.barrier(options, deadline)
        return await self._reads.run(request, deadline)

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
            raise self._unavailable("STALE", message, True)

    async def _wait_for_read_index(self, confirmed: bool, deadline: float) -> None:
        while True:
            try:
                index = await self._read_index(confirmed, deadline)
                if index is not None:
                    await self._wait_applied(index, deadline)
                    return
            except Overloaded as error:
                raise self._unavailable("OVERLOADED", str(error), True) from error
            except (NotLeader, NoQuorum, PeerUnreachable, RemoteCallFailed):
                pass  # a read has no effect: it may always be tried again
            if self._past(deadline):
                self._quorum_not_reached(False)
            await self._pause(deadline)

    async def _read_index(self, confirmed: bool, deadline: float) -> int | None:
        role = self._group.role()
        if role.leader is None:
            return None
        remaining = max(deadline - self._clock.monotonic(), 0.001)
        if role.leader != self._self_id:
            if self._forwarder is None:
                return None
            answer = self._forwarder.read_index(
                role.leader, confirmed=confirmed, timeout_seconds=remaining
            )
            return await self._while_leading(role.leader, answer)
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
        future: asyncio.Future[None] = self._loop.create_future()

        def done() -> None:
            if not future.done():
                future.set_result(None)

        self._group.when_applied(index, done)
        try:
            async with asyncio.timeout(max(deadline - self._clock.monotonic(), 0.0)):
                await future
        except TimeoutError:
            raise DeadlineExceeded("this node did not catch up with the leader in time") from None

    async def _wait_for_revision(self, revision: int, deadline: float) -> None:
        while self._machine.revision < revision:
            if self._past(deadline):
                raise DeadlineExceeded(
                    f"min_revision {revision} was not reached in time; "
                    f"this node is at {self._machine.revision}"
                )
            await asyncio.sleep(REVISION_POLL_SECONDS)

    # --- Waiting and failing -------------------------------------------------------

    def _leader_changed(self) -> None:
        for waiter in self._leader_waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._leader_waiters.clear()
        leader = self._group.role().leader
        if leader is None:
            return  # nobody else to ask: the answer may still come
        for call, asked in self._asked.items():
            if asked != leader and not call.expired():
                call.reschedule(self._loop.time())

    async def _while_leading(self, leader: str, answer: Awaitable[T]) -> T:
        """What `leader` answers; PeerUnreachable as soon as another node leads."""
        call = asyncio.timeout(None)
        self._asked[call] = leader
        try:
            async with call:
                return await answer
        except TimeoutError:
            raise PeerUnreachable(f"node {leader} leads no more", definite=False) from None
        finally:
            del self._asked[call]

    async def _pause(self, deadline: float) -> None:
        """Wait for word of a leader, or a moment: an unreachable leader makes no event."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._leader_waiters.add(waiter)
        remaining = deadline - self._clock.monotonic()
        await asyncio.wait((waiter,), timeout=max(0.0, min(RETRY_PAUSE_SECONDS, remaining)))
        self._leader_waiters.discard(waiter)

    def _past(self, deadline: float) -> bool:
        return self._clock.monotonic() >= deadline

    def _unavailable(self, code: str, message: str, definite: bool) -> Unavailable:
        return Unavailable(message, code=code, definite=definite, leader=self.leader_address())

    def _outcome_unknown(self, error: ClusterError) -> NoReturn:
        role = self._group.role()
        code = "QUORUM_NOT_REACHED" if role.leader is None else "OUTCOME_UNKNOWN"
        if role.leader == self._self_id:
            code = "QUORUM_NOT_REACHED"  # proposed here, and no majority answered in time
        raise self._unavailable(
            code,
            f"the write may or may not be applied ({error}); retry it with the same request_id",
            False,
        ) from error

    def _quorum_not_reached(self, applied_perhaps: bool) -> NoReturn:
        raise self._unavailable(
            "QUORUM_NOT_REACHED",
            "no leader with a quorum could be reached within the deadline",
            not applied_perhaps,
        )
