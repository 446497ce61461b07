"""A whole node in one process behind a real Redis door, for redis-py and for raw bytes.

Commands go through the real router and state machine on a group in memory, which a test
may make refuse, or hold back what it is given.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import redis.asyncio as redis

from cluster.errors import ClusterError
from cluster.inmem import InMemoryGroup
from cluster.interfaces import Role
from engines.interfaces import Limits
from engines.state_machine import StateMachine
from engines.store import Store
from node.auth import Tokens
from node.clock import SystemClock
from node.local_reads import LocalReads, ReaderThreads
from node.resp import RespParts, RespServer
from node.resp_limits import RespLimits
from node.router import Router
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


class Info(ScriptedInfo):
    """Two nodes; the first leads."""

    port = 0

    async def cluster_status(self, timeout: float) -> ClusterView:
        one, two = "11111111-0000-4000-8000-000000000000", "22222222-0000-4000-8000-000000000000"
        member = MemberView(
            one, "one", "leader", True, "http://127.0.0.1:1", "127.0.0.1:2",
            f"127.0.0.1:{self.port}", 1, "0", True, 3, 4, 5, 6, None, None, None,
        )  # fmt: skip
        down = replace(member, id=two, name="two", role=None, healthy=False, redis="[::1]:7")
        return ClusterView("c", one, 3, (down, member))


@dataclass
class OpenDoor:
    port: int
    group: ScriptedGroup
    machine: StateMachine
    server: RespServer
    store: Store
    fatal: list[BaseException] = field(default_factory=list)

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
) -> AsyncIterator[OpenDoor]:
    clock = SystemClock()
    state_limits = state_limits or Limits()
    with (
        open_state(folder, state_limits) as (store, machine, readers),
        ThreadPoolExecutor(2) as executor,
    ):
        group = ScriptedGroup("n1", machine)
        threads = ReaderThreads(executor, clock)
        reads = LocalReads(readers, threads)
        router = Router("n1", group, machine, None, clock, {}, reads)
        service = Service(router, state_limits, clock, threads)
        info = Info(machine, group)
        fatal: list[BaseException] = []
        server = RespServer(
            RespParts(
                group, router, router, service, readers, info, state_limits, clock, tokens,
                limits or RespLimits(), fatal.append,
            )
        )  # fmt: skip
        _, info.port = await server.start("127.0.0.1", 0)
        try:
            yield OpenDoor(info.port, group, machine, server, store, fatal)
        finally:
            await server.stop(at_once=True)
