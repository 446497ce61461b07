"""Changes of who belongs to the cluster, and of who leads it: run at the leader, by deadline.

A change can be repeated: adding a member that is there already under the same addresses,
promoting a voter and transferring leadership to the leader succeed. So what is definite is
tried again here until the deadline, and a caller whose outcome is unknown may repeat it.

A leader is not removed by itself: it hands over first, and its successor removes it. It
would otherwise lead, and count, a majority that it does not belong to.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol, TypeVar

from cluster.errors import (
    ChangeRefused,
    ClusterError,
    DiskFull,
    NoQuorum,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    PeerUnreachable,
)
from cluster.interfaces import Consensus
from cluster.membership import Add, Change, Configuration, Member, Promote, Remove, Update
from node.clock import Clock
from node.errors import Conflict, HivememError, NotFound, OutOfSpace, Unavailable
from node.forward import UnknownMember

T = TypeVar("T")

RETRY_PAUSE_SECONDS = 0.05  # between tries; no event says that trying again is worth it
PATIENCE_SECONDS = 1.0  # for a refusal that is only for the moment to pass
PROBE_SECONDS_MAX = 3.0  # for a new member to take a connection

logger = logging.getLogger(__name__)


class MembersView(NamedTuple):
    """Who belongs to the cluster, as of the configuration at log index `index` (0: the file)."""

    index: int  # type: ignore[assignment]  # shadows tuple.index on purpose
    leader: str | None  # node id, as this node knows it
    members: tuple[Member, ...]


class Prober(Protocol):
    """What is needed of the transport."""

    async def probe(self, address: str, timeout_seconds: float) -> None:
        """Raises PeerUnreachable unless a hivemem node answers at "host:port"."""


class Forward(Protocol):
    """What is needed of the forwarder; see node/forward.py."""

    def on_membership(
        self,
        change: Callable[[Change, float], Awaitable[Configuration]],
        transfer: Callable[[str | None, float], Awaitable[str]],
    ) -> None: ...

    async def change_membership(
        self, leader: str, change: Change, timeout_seconds: float
    ) -> Configuration: ...

    async def transfer_leadership(
        self, leader: str, target: str | None, timeout_seconds: float
    ) -> str: ...


class MemberService:
    """Membership and leadership of one group. Loop thread only.

    Deadlines are `Clock.monotonic()` seconds. Each change returns the members after it and
    raises Conflict MEMBERSHIP_CHANGE_REFUSED (`field` names what of the request is wrong, if
    anything is), NotFound MEMBER_NOT_FOUND, OutOfSpace, or Unavailable, whose `definite` says
    whether the change may have been made.
    """

    def __init__(
        self, self_id: str, group: Consensus, transport: Prober, forwarder: Forward, clock: Clock
    ) -> None:
        self._self_id = self_id
        self._group = group
        self._transport = transport
        self._forwarder = forwarder
        self._clock = clock
        forwarder.on_membership(self._change_here, self._transfer_here)

    def members(self) -> MembersView:
        """The newest configuration that this node knows."""
        return self._view(self._group.configuration())

    async def add(self, member: Member, deadline: float) -> MembersView:
        """Admit a node that runs with `cluster.join`, as a learner; it is promoted by itself."""
        return await self._change(Add(member), deadline)

    async def promote(
        self, node: str, deadline: float, patience_seconds: float = PATIENCE_SECONDS
    ) -> MembersView:
        """Give a learner its vote; refused if it still lags after `patience_seconds`."""
        return await self._change(Promote(node), deadline, patience_seconds)

    async def remove(self, node: str, deadline: float) -> MembersView:
        """Take a member out; it stops by itself. Refused if a quorum would be lost."""
        return await self._change(Remove(node), deadline)

    async def update(self, update: Update, deadline: float) -> MembersView:
        """Change what is known of a member; empty texts leave what is known."""
        return await self._change(update, deadline)

    async def transfer(self, target: str | None, deadline: float) -> str:
        """Hand leadership to `target` (None: whoever is furthest); returns who leads then."""
        return await self._at_leader(
            lambda seconds: self._transfer_here(target, seconds),
            lambda leader, seconds: self._forwarder.transfer_leadership(leader, target, seconds),
            deadline,
            PATIENCE_SECONDS,
        )

    async def _change(
        self, change: Change, deadline: float, patience_seconds: float = PATIENCE_SECONDS
    ) -> MembersView:
        configuration = await self._at_leader(
            lambda seconds: self._change_here(change, seconds),
            lambda leader, seconds: self._forwarder.change_membership(leader, change, seconds),
            deadline,
            patience_seconds,
        )
        return self._view(configuration)

    def _view(self, configuration: Configuration) -> MembersView:
        return MembersView(configuration.index, self._group.role().leader, configuration.members)

    # --- Where it runs -------------------------------------------------------------

    async def _at_leader(
        self,
        here: Callable[[float], Awaitable[T]],
        there: Callable[[str, float], Awaitable[T]],
        deadline: float,
        patience_seconds: float,
    ) -> T:
        """Run it at the leader, trying again what certainly had no effect.

        What is refused only for the moment is tried again for `patience_seconds` after the
        first refusal. HivememError only.
        """
        patient_until: float | None = None
        problem: ClusterError = NoQuorum("no leader is known")
        while True:
            now = self._clock.monotonic()
            remaining = deadline - now
            if remaining <= 0:
                raise _as_hivemem(problem)
            leader = self._group.role().leader
            try:
                if leader == self._self_id:
                    return await here(remaining)
                if leader is not None:
                    return await there(leader, remaining)
            except ClusterError as error:
                if isinstance(error, ChangeRefused) and not error.field:
                    # Another change is under way, a leader is new: that often passes at once.
                    patient_until = patient_until or now + patience_seconds
                    final = now >= patient_until
                else:
                    final = isinstance(error, ChangeRefused | Overloaded | DiskFull)
                if final or not error.definite:
                    raise _as_hivemem(error) from error
                problem = error
            await asyncio.sleep(RETRY_PAUSE_SECONDS)

    # --- At the leader -------------------------------------------------------------

    async def _change_here(self, change: Change, seconds: float) -> Configuration:
        """Make a change as the leader. Raises ClusterError."""
        deadline = self._clock.monotonic() + seconds
        self._check_leads()
        if isinstance(change, Add):
            change = await self._admissible(change, seconds)
        else:
            self._check_known(change.id, "id")
        if isinstance(change, Remove) and change.id == self._self_id and self._has_heirs():
            raise NotLeader(await self._heir(seconds / 2))  # it makes the change
        remaining = deadline - self._clock.monotonic()
        result = await decided(lambda done: self._group.change_membership(change, done), remaining)
        assert isinstance(result, Configuration)
        return result

    async def _admissible(self, add: Add, seconds: float) -> Change:
        """The change that admits a member, having seen that it can be reached."""
        member = add.member
        known = self._group.configuration().member(member.id)
        if known is not None:
            given = (member.name, member.peer, member.http)
            if given != (known.name, known.peer, known.http):
                raise ChangeRefused(
                    f"node {member.id} is a member already, as {known.name} at {known.peer}", "id"
                )
            return Update(member.id, *given)  # changes nothing, and is confirmed
        try:
            await self._transport.probe(member.peer, min(PROBE_SECONDS_MAX, seconds / 2))
        except PeerUnreachable as error:
            raise ChangeRefused(
                f"{member.peer} cannot be reached from the leader: {error}; the node must be "
                "running, with cluster.join",
                "peer",
            ) from error
        return add

    async def _transfer_here(self, target: str | None, seconds: float) -> str:
        """Hand over as the leader; returns who leads then. Raises ClusterError."""
        self._check_leads()
        if target == self._self_id:
            return target
        if target is not None:
            member = self._check_known(target, "target")
            if not member.voter:
                raise ChangeRefused(f"node {target} is a learner, which cannot lead", "target")
        leader = await decided(lambda done: self._group.transfer_leadership(target, done), seconds)
        return str(leader)

    async def _heir(self, seconds: float) -> str:
        """Who leads once this node handed over. Raises ClusterError, definite: no change."""
        try:
            return await self._transfer_here(None, seconds)
        except (OutcomeUnknown, ChangeRefused) as error:
            raise ChangeRefused(f"leadership could not be handed over first: {error}") from error

    def _check_leads(self) -> None:
        role = self._group.role()
        if role.leader != self._self_id:
            raise NotLeader(role.leader)

    def _check_known(self, node: str, field: str) -> Member:
        member = self._group.configuration().member(node)
        if member is None:
            raise UnknownMember(f"node {node} is not a member", field)
        return member

    def _has_heirs(self) -> bool:
        return len(self._group.configuration().voters) > 1


def _as_hivemem(error: ClusterError) -> HivememError:
    """What a caller is told. The door adds who leads."""
    text = str(error)
    match error:
        case UnknownMember():
            return NotFound(text, code="MEMBER_NOT_FOUND", field=error.field)
        case ChangeRefused():
            message = f"{error.field}: {text}" if error.field else text
            return Conflict(message, code="MEMBERSHIP_CHANGE_REFUSED", field=error.field or None)
        case DiskFull():
            return OutOfSpace(text)
        case Overloaded():
            return Unavailable(text, code="OVERLOADED")
        case _ if not error.definite:
            message = f"the change may or may not have been made ({text}); look at the members"
            return Unavailable(message, code="OUTCOME_UNKNOWN", definite=False)
        case _:
            return Unavailable(f"no leader with a quorum could be reached in time ({text})")


Done = Callable[[object, ClusterError | None], None]


async def decided(start: Callable[[Done], None], seconds: float) -> object:
    """What `start` calls its `done` with, within `seconds`. Raises ClusterError."""
    future: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    def done(result: object, error: ClusterError | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    start(done)
    try:
        async with asyncio.timeout(max(seconds, 0.0)):
            return await future
    except TimeoutError:
        raise OutcomeUnknown("it was not confirmed in time") from None


async def hand_over(group: Consensus, seconds: float) -> None:
    """Before a leader stops: have another lead, so that writes go on without an election.

    Waits at most `seconds`. Never raises for what prevents it: the node stops anyway.
    """
    if group.role().name != "leader" or len(group.configuration().voters) < 2:
        return
    try:
        leader = await decided(lambda done: group.transfer_leadership(None, done), seconds)
    except ClusterError as error:
        logger.info("stopping as the leader: %s", error)
    else:
        logger.info("leadership was handed to node %s", leader)
