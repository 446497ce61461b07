"""A whole node in one process behind a real Redis door, for redis-py and for raw bytes.

Commands go through the real router and state machine on groups in memory, which a test
may make refuse, or hold back what they are given. Each partition is a group of its own, of
which a test says whether it is on this node.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import redis.asyncio as redis

from cluster.errors import ClusterError
from cluster.inmem import InMemoryGroup
from cluster.interfaces import Role
from cluster.membership import Configuration, Member
from cluster.slots import partition_of, session_slot
from engines.interfaces import Limits
from engines.read_requests import ReadRequest, Shown
from engines.state_machine import StateMachine
from engines.store import Store
from node.auth import Tokens
from node.clock import SystemClock
from node.local_reads import LocalReads, Readers, ReaderThreads
from node.overview import PartitionFacts, ReplicaFacts, Sight
from node.partition_router import PartitionRouter
from node.partitions import Partitions
from node.reads import ReadOptions
from node.replica import Shared
from node.resp import RespParts, RespServer
from node.resp_limits import RespLimits
from node.router import Away, Router
from node.service import Service
from node.views import ClusterView, MemberView
from tests.unit.http_door import ScriptedInfo, open_state

WAIT_SECONDS = 10.0
Done = Callable[[object, ClusterError | None], None]


class ScriptedGroup(InMemoryGroup):
    """`error`: what every command is refused with. `held`: they wait until `release`."""

    def __init__(self, self_id: str, machine: StateMachine) -> None:
        super().__init__(self_id, machine)
        self.error: ClusterError | None = None
        self.leads = True
        self.holds = False
        self.held: list[tuple[bytes, Done]] = []
        self.held_reads: list[Callable[[int | None, ClusterError | None], None]] = []
        self.submitted: list[bytes] = []
        self.rounds = 0

    def submit(self, command: bytes, done: Done) -> None:
        self.submitted.append(command)
        if self.error is not None:
            done(None, self.error)
        elif self.holds:
            self.held.append((command, done))
        else:
            super().submit(command, done)

    def read_index(self, done: Callable[[int | None, ClusterError | None], None]) -> None:
        self.rounds += 1
        if self.error is not None:
            done(None, self.error)
        elif self.holds:
            self.held_reads.append(done)
        else:
            super().read_index(done)

    def role(self) -> Role:
        return Role("leader", self._self_id, 1) if self.leads else Role("follower", None, 1)

    def release(self) -> None:
        """Commit what was held, in order, and go on without holding."""
        self.holds = False
        held, self.held = self.held, []
        for command, done in held:
            InMemoryGroup.submit(self, command, done)
        reads, self.held_reads = self.held_reads, []
        for read in reads:
            InMemoryGroup.read_index(self, read)


ONE, TWO = "11111111-0000-4000-8000-000000000000", "22222222-0000-4000-8000-000000000000"


class Info(ScriptedInfo):
    """Two nodes; the first leads, the second may be down."""

    port = 0
    second_answers = False
    asked = 0

    async def cluster_status(self, timeout: float) -> ClusterView:
        self.asked += 1
        member = MemberView(
            ONE, "one", "leader", True, "http://127.0.0.1:1", "127.0.0.1:2",
            f"127.0.0.1:{self.port}", 1, "0", True, 3, 4, 5, 6, None, None, None,
        )  # fmt: skip
        role = "follower" if self.second_answers else None
        other = replace(
            member, id=TWO, name="two", role=role, healthy=self.second_answers, redis="[::1]:7"
        )
        return ClusterView("c", ONE, 3, (other, member))


@dataclass
class Part:
    """One group with its state."""

    id: int
    group: ScriptedGroup
    machine: StateMachine
    store: Store
    readers: Readers
    router: Router
    requests: list[ReadRequest[Any]] = field(default_factory=list)  # as if from elsewhere

    async def read(
        self, request: ReadRequest[Any], options: ReadOptions, deadline: float
    ) -> Shown[Any]:
        """What another node would answer."""
        self.requests.append(request)
        return await self.router.read(request, options, deadline)


class OtherWay:
    """To a group that has left this node."""

    attempt_seconds_max = WAIT_SECONDS

    def __init__(self, part: Part) -> None:
        self.elsewhere = cast(Away, part.group)
        self.read = part.read

    def leader_address(self) -> str | None:
        return None


@dataclass
class Groups:
    """`here`: the groups that are on this node."""

    parts: dict[int, Part]
    count: int
    here: set[int]

    def group_of(self, session: str) -> int:
        return partition_of(session_slot(session), self.count) if self.count else 0

    def data_groups(self) -> Iterable[int]:
        return self.parts.keys()

    def replica(self, group: int) -> Part | None:
        return self.parts[group] if group in self.here else None

    serving = replica

    def of(self, session: str) -> Part:
        return self.parts[self.group_of(session)]


class Everywhere(Groups):
    """Where a router finds the groups: another node's are as good as ours."""

    def replica(self, group: int) -> Part | None:
        return self.parts[group]

    serving = replica


class ScriptedOverview:
    """The first node leads the odd partitions, the second the even ones, unless a test says
    otherwise."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self.leaders = {group: ONE if group % 2 else TWO for group in groups.parts}
        self.leaders_named: dict[int, str | None] = {}  # by the replicas, where it is not so

    async def gather(self, nodes: Iterable[str], timeout_seconds: float) -> Sight:
        answered = sorted({ONE, *nodes})
        return Sight(
            frozenset(answered),
            {
                group: PartitionFacts(group, {node: self._facts(node, group) for node in answered})
                for group in self.leaders
            },
        )

    def own(self) -> list[ReplicaFacts]:
        return [self._facts(ONE, group) for group in (0, *self.leaders)]

    def _facts(self, node: str, group: int) -> ReplicaFacts:
        leader = self.leaders.get(group)
        role = "leader" if node == leader else "follower"
        keys = self._groups.parts[group].machine.stats().keys if group else 5
        named = self.leaders_named.get(group, leader)
        members = Configuration(1, (Member(ONE), Member(TWO)))
        return ReplicaFacts(node, group, role, named, 4, 9, 8, 7, 1, keys, 0, members, True)


@dataclass
class OpenDoor:
    port: int
    group: ScriptedGroup
    machine: StateMachine
    server: RespServer
    store: Store
    groups: Groups
    info: Info
    overview: ScriptedOverview
    threads: ReaderThreads
    fatal: list[BaseException] = field(default_factory=list)

    def moved(self, part: Part) -> Part:
        """The same group on another node."""
        reads = LocalReads(part.readers, self.threads)
        router = Router("n1", part.group, part.machine, None, SystemClock(), {}, reads)
        return replace(part, router=router, requests=[])

    def client(self, **options: object) -> redis.Redis:
        """A client with one connection, which does not try again by itself."""
        return redis.Redis(
            host="127.0.0.1", port=self.port, single_connection_client=True, retry=None, **options
        )

    async def raw(self, data: bytes, replies: int | None = None) -> bytes:
        """Send bytes; what comes back until the node closes, or so many lines have come."""
        async with asyncio.timeout(WAIT_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                writer.write(data)
                if replies is None:
                    return await reader.read(-1)
                return b"".join([await reader.readline() for _ in range(replies)])
            finally:
                writer.close()


@asynccontextmanager
async def open_door(
    folder: Path,
    *,
    limits: RespLimits | None = None,
    state_limits: Limits | None = None,
    tokens: Tokens | None = None,
    partitions: int = 0,
    here: Iterable[int] | None = None,
) -> AsyncIterator[OpenDoor]:
    """`here`: the partitions on this node; None: all."""
    clock = SystemClock()
    state_limits = state_limits or Limits()
    async with AsyncExitStack() as stack:
        threads = ReaderThreads(stack.enter_context(ThreadPoolExecutor(2)), clock)
        ids = range(1, partitions + 1) if partitions else range(1)
        parts = {group: _part(group, folder, state_limits, threads, stack) for group in ids}
        groups = Groups(parts, partitions, set(ids if here is None else here))
        ways = PartitionRouter(
            cast(Partitions, Everywhere(parts, partitions, set())),
            cast(Shared, SimpleNamespace(config=SimpleNamespace(node=SimpleNamespace(id="n1")))),
        )
        first = parts[min(parts)]
        info = Info(first.machine, first.group)
        overview = ScriptedOverview(groups)
        fatal: list[BaseException] = []
        server = RespServer(
            RespParts(
                groups, parts.__getitem__, ways, Service(ways, state_limits, clock, threads), info,
                overview, state_limits, clock, tokens, limits or RespLimits(), fatal.append,
            )
        )  # fmt: skip
        _, info.port = await server.start("127.0.0.1", 0)
        try:
            yield OpenDoor(
                info.port, first.group, first.machine, server, first.store, groups, info, overview,
                threads, fatal,
            )  # fmt: skip
        finally:
            await server.stop(at_once=True)


def _part(
    group: int, folder: Path, limits: Limits, threads: ReaderThreads, stack: AsyncExitStack
) -> Part:
    place = folder / str(group) if group else folder
    place.mkdir(exist_ok=True)
    store, machine, readers = stack.enter_context(open_state(place, limits))
    scripted = ScriptedGroup("n1", machine)
    reads = LocalReads(readers, threads)
    router = Router("n1", scripted, machine, None, SystemClock(), {}, reads)
    return Part(group, scripted, machine, store, readers, router)
