"""Waiting for a leader, for as long as one may be found, and saying what went wrong.

A leader that is paused or cut off does not answer and does not refuse. What was sent to it
and may be repeated is sent to its successor as soon as there is one: waiting for the
deadline would keep clients waiting long after the cluster has recovered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn, Protocol, TypeVar

from cluster.errors import ClusterError, PeerUnreachable
from cluster.interfaces import Role
from node.clock import Clock
from node.errors import Unavailable

T = TypeVar("T")

RETRY_PAUSE_SECONDS = 0.05  # between tries when no event says that trying again is worth it


class Led(Protocol):
    """A group, as far as it is about who leads it."""

    on_leader_change: Callable[[], None]

    def role(self) -> Role: ...


class Leadership:
    """Who leads one group, for requests that wait for it. Loop thread only."""

    def __init__(
        self, self_id: str, group: Led, clock: Clock, address: Callable[[], str | None]
    ) -> None:
        """`address`: HTTP address of the leader, as far as this node knows."""
        self._self_id = self_id
        self._group = group
        self._clock = clock
        self.address = address
        self._loop = asyncio.get_running_loop()
        self._leader_waiters: set[asyncio.Future[None]] = set()
        self._asked: dict[asyncio.Timeout, str] = {}  # repeatable calls under way → asked node
        group.on_leader_change = self._leader_changed

    @property
    def leader(self) -> str | None:
        return self._group.role().leader

    @property
    def leads(self) -> bool:
        """Is it this node?"""
        return self._group.role().leader == self._self_id

    def follow(self, group: Led) -> None:
        """Who waits here asks another way to the group from now on."""
        self._group.on_leader_change = lambda: None
        self._group = group

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

    async def while_leading(self, leader: str, answer: Awaitable[T]) -> T:
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

    async def pause(self, deadline: float) -> None:
        """Wait for word of a leader, or a moment: an unreachable leader makes no event."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._leader_waiters.add(waiter)
        remaining = deadline - self._clock.monotonic()
        await asyncio.wait((waiter,), timeout=max(0.0, min(RETRY_PAUSE_SECONDS, remaining)))
        self._leader_waiters.discard(waiter)

    def remaining(self, deadline: float) -> float:
        """Seconds until it; at least a moment, for a call that has to be given some time."""
        return max(deadline - self._clock.monotonic(), 0.001)

    def past(self, deadline: float) -> bool:
        return self._clock.monotonic() >= deadline

    def unavailable(self, code: str, message: str, definite: bool) -> Unavailable:
        """The error that names the leader."""
        return Unavailable(message, code=code, definite=definite, leader=self.address())

    def outcome_unknown(self, error: ClusterError) -> NoReturn:
        role = self._group.role()
        code = "QUORUM_NOT_REACHED" if role.leader is None else "OUTCOME_UNKNOWN"
        if role.leader == self._self_id:
            code = "QUORUM_NOT_REACHED"  # proposed here, and no majority answered in time
        raise self.unavailable(
            code,
            f"the write may or may not be applied ({error}); retry it with the same request_id",
            False,
        ) from error

    def quorum_not_reached(self, applied_perhaps: bool) -> NoReturn:
        raise self.unavailable(
            "QUORUM_NOT_REACHED",
            "no leader with a quorum could be reached within the deadline",
            not applied_perhaps,
        )
