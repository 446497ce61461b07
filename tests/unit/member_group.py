"""A group with members and a network that are what a test says, for membership changes.

`ScriptedGroup` is a `Consensus`. Changes follow cluster/membership.py and commit at once,
unless a test has put an error into `refusals`, or says `silent`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from cluster.errors import ChangeRefused, ClusterError, NotLeader, PeerUnreachable
from cluster.interfaces import GroupStatus, Role
from cluster.membership import Change, Configuration, Member, changed

IDS = [f"00000000-0000-4000-8000-00000000000{i}" for i in range(6)]


def member(place: int, *, voter: bool = True, incarnation: str | None = None) -> Member:
    """node<place>, with data folder i<place> unless another is named."""
    return Member(
        IDS[place],
        voter,
        f"node{place}",
        f"127.0.0.1:{7421 + place}",
        f"http://127.0.0.1:{7411 + place}",
        f"i{place}" if incarnation is None else incarnation,
    )


def configuration(*members: Member, index: int = 3) -> Configuration:
    return Configuration(index, tuple(sorted(members)))


class ScriptedGroup:
    """Node `self_id` of a group that `leader` leads."""

    def __init__(
        self,
        found: Configuration | None = None,
        *,
        self_id: str = IDS[1],
        leader: str | None = IDS[1],
    ) -> None:
        self.on_leader_change: Callable[[], None] = lambda: None
        self.self_id = self_id
        self.leader = leader
        self.found = found or configuration(member(1), member(2), member(3))
        self.commit_index = 100
        self.refusals: list[ClusterError] = []  # each answers one change
        self.silent = False  # what is asked for is never answered
        self.changes: list[Change] = []
        self.transfers: list[str | None] = []
        self.staleness = 0.0
        self.room = True
        self.has_quorum = True

    def submit(self, command: bytes, done: Callable[[object, ClusterError | None], None]) -> None:
        raise NotImplementedError

    def read_index(self, done: Callable[[int | None, ClusterError | None], None]) -> None:
        raise NotImplementedError

    def when_applied(self, index: int, done: Callable[[], None]) -> None:
        raise NotImplementedError

    def catch_up(self) -> None:
        raise NotImplementedError

    def staleness_seconds(self) -> float:
        return self.staleness

    def role(self) -> Role:
        return Role("leader" if self.leader == self.self_id else "follower", self.leader, 2)

    def configuration(self) -> Configuration:
        return self.found

    def change_membership(
        self, change: Change, done: Callable[[object, ClusterError | None], None]
    ) -> None:
        self.changes.append(change)
        if self.silent:
            return
        if self.leader != self.self_id:
            done(None, NotLeader(self.leader))
            return
        if self.refusals:
            done(None, self.refusals.pop(0))
            return
        try:
            members = changed(self.found, change)
        except ChangeRefused as error:
            done(None, error)
            return
        if members != self.found.members:
            self.found = Configuration(self.found.index + 1, members)
        done(self.found, None)

    def transfer_leadership(
        self, target: str | None, done: Callable[[object, ClusterError | None], None]
    ) -> None:
        self.transfers.append(target)
        if self.silent:
            return
        if self.refusals:
            done(None, self.refusals.pop(0))
            return
        self.leader = target or min(self.found.voters - {self.self_id})
        self.on_leader_change()
        done(self.leader, None)

    def status(self) -> GroupStatus:
        role = self.role()
        return GroupStatus(
            group=0,
            role=role.name,
            leader=role.leader,
            term=role.term,
            last_index=self.commit_index,
            durable_index=self.commit_index,
            commit_index=self.commit_index,
            applied_index=self.commit_index,
            match_index={},
            proposals_inflight=0,
            has_quorum=self.has_quorum,
            configuration=self.found,
            snapshot_index=40,
            log_first_index=31,
            room=self.room,
        )


class Network:
    """Peer connections in one process, for calls; and who answers a probe."""

    def __init__(self) -> None:
        self.handlers: dict[str, dict[int, Callable[[str, bytes], Awaitable[bytes]]]] = {}
        self.errors: list[ClusterError] = []  # each answers one call
        self.calls = 0
        self.reachable: set[str] | None = {member(i).peer for i in range(6)}  # None: all

    def transport(self, node: str) -> NetworkTransport:
        return NetworkTransport(self, node)


class NetworkTransport:
    def __init__(self, network: Network, node: str) -> None:
        self._network = network
        self._node = node
        self._handlers = network.handlers.setdefault(node, {})

    def on_call(self, method: int, handler: Callable[[str, bytes], Awaitable[bytes]]) -> None:
        self._handlers[method] = handler

    async def call(self, peer: str, method: int, payload: bytes, timeout_seconds: float) -> bytes:
        self._network.calls += 1
        if self._network.errors:
            raise self._network.errors.pop(0)
        async with asyncio.timeout(timeout_seconds):
            return await self._network.handlers[peer][method](self._node, payload)

    async def probe(self, address: str, timeout_seconds: float) -> None:
        assert timeout_seconds > 0
        reachable = self._network.reachable
        if reachable is not None and address not in reachable:
            raise PeerUnreachable("connection refused", definite=True)
