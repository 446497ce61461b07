"""What each node does for the membership without being asked.

A member whose address, name or data folder is no longer what the configuration says tells
the leader. The leader gives learners their vote once they have caught up, one at a time;
the group decides whether they have. And what a committed configuration says of the data
folders is noted, so that a folder which was replaced is recognised after a restart too.

`decide` is pure; `MemberDuties` looks and acts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from cluster.interfaces import Consensus
from cluster.membership import Configuration, Member, Update
from node.clock import Clock
from node.errors import HivememError
from node.members import MemberService

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 0.2  # between two looks
ACT_SECONDS_MAX = 2.0  # deadline of one change
REST_SECONDS_MIN = 0.2  # after a change that was refused; doubled each time
REST_SECONDS_MAX = 2.0  # a learner that has caught up waits at most so long for its vote


class Incarnations(Protocol):
    """What is needed of the transport."""

    def incarnation(self, peer: str) -> str | None:
        """Incarnation of the data folder at the other end of the open connection."""

    def recorded_incarnation(self, peer: str) -> str | None:
        """The one that is remembered for that peer."""

    def record_incarnation(self, peer: str, incarnation: str) -> None:
        """Remember it. Durable on return."""


@dataclass(slots=True)
class Rests:
    """When a change that was refused may be tried again: node id → monotonic seconds."""

    until: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def refused(self, node: str, now: float) -> None:
        rest = self.seconds.get(node, REST_SECONDS_MIN)
        self.until[node] = now + rest
        self.seconds[node] = min(2 * rest, REST_SECONDS_MAX)

    def made(self, node: str) -> None:
        self.until.pop(node, None)
        self.seconds.pop(node, None)

    def keep(self, nodes: frozenset[str]) -> None:
        """Forget nodes that are no members any more."""
        for node in self.until.keys() - nodes:
            self.made(node)

    def over(self, node: str, now: float) -> bool:
        return now >= self.until.get(node, now)


class Sight(NamedTuple):
    """All that the decision depends on. Maps are by node id, of the other members."""

    configuration: Configuration
    committed: bool  # the configuration is
    leads: bool  # this node
    led: bool  # a leader is known
    own: Member  # what this node is in truth; `voter` means nothing
    connected: Mapping[str, str]  # incarnation at the other end
    recorded: Mapping[str, str]


class Duties(NamedTuple):
    """What is to be done now."""

    update: Update | None  # tell the leader
    promote: str | None  # ask the group to
    record: tuple[tuple[str, str], ...]  # (node id, incarnation) to remember


def decide(sight: Sight, rests: Rests, now: float) -> Duties:
    """What is to be done in this situation. `now`: monotonic seconds."""
    if not sight.configuration.index:
        return Duties(None, None, ())  # only the file's: the log will say more
    others = [member for member in sight.configuration.members if member.id != sight.own.id]
    return Duties(
        _correction(sight) if sight.led and rests.over(sight.own.id, now) else None,
        _candidate(others, sight.connected, rests, now) if sight.leads else None,
        _unrecorded(others, sight.recorded) if sight.committed else (),
    )


def _correction(sight: Sight) -> Update | None:
    own, said = sight.own, sight.configuration.member(sight.own.id)
    if said is None or own._replace(voter=said.voter) == said:
        return None
    return Update(own.id, own.name, own.peer, own.http, own.incarnation)


def _candidate(
    others: list[Member], connected: Mapping[str, str], rests: Rests, now: float
) -> str | None:
    """A learner that is there, with the data folder that was admitted. Longest rested first."""
    ready = [
        member.id
        for member in others
        if not member.voter
        and member.incarnation
        and connected.get(member.id) == member.incarnation
        and rests.over(member.id, now)
    ]
    return min(ready, key=lambda node: rests.until.get(node, 0.0), default=None)


def _unrecorded(others: list[Member], recorded: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (member.id, member.incarnation)
        for member in others
        if member.incarnation and recorded.get(member.id) != member.incarnation
    )


class MemberDuties:
    """Runs on every node. Loop thread only."""

    def __init__(
        self,
        own: Member,
        group: Consensus,
        members: MemberService,
        transport: Incarnations,
        clock: Clock,
    ) -> None:
        """`own`: this node's id, name, addresses and incarnation."""
        self._own = own
        self._group = group
        self._members = members
        self._transport = transport
        self._clock = clock
        self._rests = Rests()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            await self.act()

    async def act(self) -> None:
        """Look once, and do what is to be done."""
        sight = self._look()
        self._rests.keep(sight.configuration.ids)
        duties = decide(sight, self._rests, self._clock.monotonic())
        for node, incarnation in duties.record:
            self._transport.record_incarnation(node, incarnation)
        if duties.update is not None:
            await self._update(duties.update)
        if duties.promote is not None:
            await self._promote(duties.promote)

    def _look(self) -> Sight:
        configuration, status = self._group.configuration(), self._group.status()
        others = [member.id for member in configuration.members if member.id != self._own.id]
        connected = {node: self._transport.incarnation(node) for node in others}
        recorded = {node: self._transport.recorded_incarnation(node) for node in others}
        return Sight(
            configuration,
            committed=configuration.index <= status.commit_index,
            leads=status.leader == self._own.id,
            led=status.leader is not None,
            own=self._own,
            connected={node: found for node, found in connected.items() if found},
            recorded={node: found for node, found in recorded.items() if found},
        )

    async def _update(self, update: Update) -> None:
        try:
            await self._members.update(update, self._deadline())
        except HivememError as error:
            logger.info("the cluster does not know yet where this node is: %s", error)
            self._rests.refused(update.id, self._clock.monotonic())
        else:
            self._rests.made(update.id)

    async def _promote(self, node: str) -> None:
        try:
            await self._members.promote(node, self._deadline(), patience_seconds=0.0)
        except HivememError as error:
            # It lags, or another change is under way: neither is worth a line each time.
            logger.debug("node %s stays a learner: %s", node, error)
            self._rests.refused(node, self._clock.monotonic())
        else:
            logger.info("node %s has caught up and has a vote now", node)
            self._rests.made(node)

    def _deadline(self) -> float:
        return self._clock.monotonic() + ACT_SECONDS_MAX
