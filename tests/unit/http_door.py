"""A whole node in one process behind a real HTTP door, and a client that hides nothing.

Commands go through the real router and state machine on an in-memory group. The client
writes requests byte for byte: ready-made ones tidy up targets, which is what is tested.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from cluster.inmem import InMemoryGroup
from cluster.log_rounds import SYNC_SECONDS, SyncFigures
from cluster.membership import Member, bootstrap
from cluster.slots import SLOTS
from cluster.snapshot import SnapshotStore
from engines.command import Command
from engines.interfaces import Change, Limits, Result
from engines.kv import KvReader
from engines.registry import Registry
from engines.state_machine import StateMachine
from engines.store import Store
from node.auth import Tokens
from node.balanced_reads import BalancedReads
from node.clock import SystemClock
from node.collection_service import CollectionService
from node.errors import HivememError
from node.forward import Forwarder
from node.http import HttpParts, HttpServer
from node.http_limits import HttpLimits
from node.integrity_service import IntegrityService
from node.local_reads import LocalReads, Readers, ReaderThreads
from node.members import MemberService
from node.optimizer import Optimizer
from node.optimizer_service import OptimizerService
from node.partition_service import PartitionsView
from node.reads import ReadOptions
from node.router import Router
from node.service import Service
from node.snapshot_service import GroupSource, SnapshotService
from node.views import (
    ClusterView,
    DiskView,
    GroupFigures,
    IntegrityView,
    LimitView,
    MemberView,
    MemoryView,
    ReadinessCheck,
    StatusView,
)
from node.watch import WatchHub
from node.watch_sources import HubWatches, Watches
from tests.unit.member_group import IDS, Network, ScriptedGroup

WAIT_SECONDS = 10.0
LEADER = "http://127.0.0.1:7411"


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    def json(self) -> dict:
        assert self.headers["content-type"] == "application/json; charset=utf-8"
        parsed = json.loads(self.body)
        assert isinstance(parsed, dict)
        return parsed

    @property
    def code(self) -> str:
        """The error's code, having checked the shape that every error has."""
        error = self.json()["error"]
        required = {"code", "message", "definite", "leader"}
        assert required <= error.keys() <= required | {"field", "version"}, error
        assert isinstance(error["definite"], bool)
        assert error["message"]
        assert self.headers["x-hivemem-error"] == error["code"]
        return error["code"]


class ScriptedRouter(Router):
    """The real router, which a test may make fail or wait. Remembers what reached it."""

    error: Exception | None = None
    barrier_error: Exception | None = None
    hold: asyncio.Event | None = None  # requests wait here
    reads: list[ReadOptions]

    async def propose(self, command: Command, deadline: float) -> Result:
        if self.hold is not None:
            await self.hold.wait()
        if self.error is not None:
            raise self.error
        return await super().propose(command, deadline)

    async def propose_many(
        self, commands: Sequence[Command], deadline: float
    ) -> list[Result | HivememError]:
        if isinstance(self.error, HivememError):
            return [self.error] * len(commands)
        if self.error is not None:
            raise self.error
        return await super().propose_many(commands, deadline)

    async def barrier(self, read: ReadOptions, deadline: float) -> None:
        self.reads.append(read)
        if self.hold is not None:
            await self.hold.wait()
        if self.barrier_error is not None:
            raise self.barrier_error
        await super().barrier(read, deadline)


class ScriptedPartitions:
    """The part of node/partition_service.py that the door asks. `view`: what it shows."""

    def __init__(self) -> None:
        self.view_of = PartitionsView(0, None, (), None, (), ())
        self.drained: list[tuple[str, bool]] = []

    async def view(self) -> PartitionsView:
        return self.view_of

    async def drain(self, node: str, draining: bool, deadline: float) -> None:
        self.drained.append((node, draining))


@dataclass
class ScriptedInfo:
    machine: StateMachine
    group: InMemoryGroup
    checks: tuple[ReadinessCheck, ...] = (ReadinessCheck("leader", True, "leader is n1"),)
    leader: str | None = LEADER

    def local_status(self) -> StatusView:
        status = self.group.status()
        return StatusView(
            "n1", "one", "0.1.0", "leader", True, "n1", 1, status.log_first_index,
            status.last_index, status.durable_index, status.commit_index, status.applied_index,
            status.snapshot_index, status.configuration.index, self.machine.revision, 42, 1.5,
            1_760_000_000_123, LEADER, "127.0.0.1:7421", "127.0.0.1:7431", "/data",
            DiskView(1, 2, 3, None, 4, True),
            MemoryView(None), self.machine.stats().keys,
            (IntegrityView(0, "serving", None, None, {}, None, None),),
            {"http.watches_max": LimitView(7, "watches")}, {"tokens": False}, {"voters": 1},
        )  # fmt: skip

    async def cluster_status(self, timeout: float) -> ClusterView:
        assert 0 < timeout <= 60
        dead = MemberView(
            "n2", "two", None, True, "http://127.0.0.1:7412", "127.0.0.1:7422", None, None, None,
            False, None, None, None, None, None, None, None,
        )  # fmt: skip
        return ClusterView("c1", "n1", 1, (dead,))

    def readiness(self) -> tuple[ReadinessCheck, ...]:
        return self.checks

    def leader_http(self) -> str | None:
        return self.leader

    def group_figures(self) -> tuple[GroupFigures, ...]:
        return (GroupFigures(self.group.status(), self.machine.stats(), None),)

    def sync_figures(self) -> SyncFigures:
        return SyncFigures((2, *[0] * (len(SYNC_SECONDS) - 1), 1), 6.5, 2)


@dataclass
class OpenDoor:
    port: int
    member_group: ScriptedGroup  # what membership calls change; records do not know of it
    network: Network
    machine: StateMachine
    router: ScriptedRouter
    info: ScriptedInfo
    hub: WatchHub
    server: HttpServer
    service: Service
    snapshots: SnapshotStore
    fatal: list[BaseException] = field(default_factory=list)
    partitions: ScriptedPartitions = field(default_factory=ScriptedPartitions)

    async def request(
        self,
        method: str,
        target: str | bytes,
        body: bytes | None = None,
        headers: Mapping[str, str | bytes] | None = None,
    ) -> Reply:
        """One request on a connection of its own."""
        head = [method.encode(), target if isinstance(target, bytes) else target.encode()]
        lines = [b" ".join(head) + b" HTTP/1.1", b"Connection: close"]
        given = {"Host": f"127.0.0.1:{self.port}", **(headers or {})}
        if body is not None and "Transfer-Encoding" not in given:
            given.setdefault("Content-Length", str(len(body)))
        lines += [
            name.encode() + b": " + (value if isinstance(value, bytes) else value.encode())
            for name, value in given.items()
        ]
        return await self.raw(b"\r\n".join(lines) + b"\r\n\r\n" + (body or b""), method)

    async def raw(self, data: bytes, method: str = "GET") -> Reply:
        """Send bytes, read until the node closes, and parse the one answer."""
        async with asyncio.timeout(WAIT_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                writer.write(data)
                answer = await reader.read(-1)
            finally:
                writer.close()
        return parse_reply(answer, method)

    async def post(self, path: str, document: object) -> Reply:
        return await self.request("POST", path, json.dumps(document).encode())

    async def put(self, key: str, value: bytes = b"v", query: str = "") -> Reply:
        return await self.request("PUT", f"/v1/kv/n/s/{quote(key, safe='')}{query}", value)


def parse_reply(answer: bytes, method: str) -> Reply:
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *rest = head.decode().split("\r\n")
    headers = {}
    for line in rest:
        name, _, value = line.partition(": ")
        headers[name.lower()] = value
    if headers.get("transfer-encoding") == "chunked":
        body = b"".join(chunks(body))
    elif "content-length" in headers and method != "HEAD":
        assert len(body) == int(headers["content-length"]), answer[:500]
    return Reply(int(first.split(" ")[1]), headers, body)


def chunks(body: bytes) -> Iterator[bytes]:
    while body:
        size, _, body = body.partition(b"\r\n")
        yield body[: int(size, 16)]
        body = body[int(size, 16) + 2 :]


@contextmanager
def open_state(
    folder: Path, limits: Limits, registry: Registry | None = None
) -> Iterator[tuple[Store, StateMachine, Readers]]:
    """A state of its own in `folder`, and how doors read it."""
    store = Store(folder / "state", 1 << 30, 32)
    machine = StateMachine(store, limits, registry=registry)

    @contextmanager
    def readers() -> Iterator[KvReader]:
        with store.read() as snapshot:
            yield KvReader(snapshot, machine.registry, machine.indexes)

    try:
        yield store, machine, readers
    finally:
        machine.close()


@asynccontextmanager
async def open_door(
    folder: Path,
    *,
    limits: HttpLimits | None = None,
    state_limits: Limits | None = None,
    tokens: Tokens | None = None,
    clock: SystemClock | None = None,
    watches: Watches | None = None,
    registry: Registry | None = None,
) -> AsyncIterator[OpenDoor]:
    """`watches`: others than those of the door's own state."""
    clock = clock or SystemClock()
    limits = limits or HttpLimits()
    state_limits = state_limits or Limits()
    with (
        open_state(folder, state_limits, registry) as (_, machine, readers),
        ThreadPoolExecutor(2) as executor,
    ):
        group = InMemoryGroup("n1", machine)
        threads = ReaderThreads(executor, clock, limits)
        optimizer = Optimizer(clock, node="one")
        reads = LocalReads(readers, threads, optimizer=optimizer)
        router = ScriptedRouter("n1", group, machine, None, clock, {"n1": LEADER}, reads)
        router.reads = []
        service = Service(router, state_limits, clock, threads)
        hub = WatchHub(
            readers,
            executor,
            watches_max=limits.watches_max,
            queue_changes_max=limits.watch_queue_changes_max,
        )
        publish: Callable[[Sequence[Change]], None] = hub.publish
        machine.on_changes = publish
        info = ScriptedInfo(machine, group)
        fatal: list[BaseException] = []
        member_group = ScriptedGroup()
        network = Network()
        transport = network.transport(IDS[1])
        forwarder = Forwarder(transport, member_group)
        members = MemberService(IDS[1], member_group, transport, forwarder, clock)
        partitions = ScriptedPartitions()
        watches = watches or HubWatches(hub)
        snapshots = SnapshotStore(
            folder / "snapshots", 0, machine, asyncio.get_running_loop().call_soon_threadsafe,
            fatal.append, monotonic=clock.monotonic,
        )  # fmt: skip
        saved = snapshot_service(snapshots, router, machine, clock)
        balanced = BalancedReads("n1", OneReplica(router), clock, clock.random().random)
        collections = CollectionService(
            router, machine.registry, state_limits, clock, balanced, threads, NoPartitions(),
            OptimizerService(optimizer, lambda: [(0, machine.indexes.results.figures())]),
        )  # fmt: skip
        parts = HttpParts(
            service, collections, members, partitions, saved,
            IntegrityService("n1", list, clock), watches, info, clock, "one", tokens, "c1",
            limits, fatal.append,
        )  # fmt: skip
        server = HttpServer(parts)
        _, port = await server.start("127.0.0.1", 0)
        try:
            yield OpenDoor(
                port, member_group, network, machine, router, info, hub, server, service,
                snapshots, fatal, partitions,
            )  # fmt: skip
        finally:
            await server.stop()
            snapshots.close()


class NoPartitions:
    """A cluster whose system group holds the data."""

    count = 0

    def group_of(self, session: str) -> int:
        return 0


class OneReplica:
    """Node n1 holds everything."""

    def __init__(self, router: ScriptedRouter) -> None:
        self._router = router

    def holders(self, session: str) -> dict[str, str]:
        return {"n1": "one"}

    def members(self) -> list[str]:
        return ["n1"]

    async def read_at(
        self, node: str, session: str, request: Any, options: Any, seconds: float
    ) -> Any:
        return await self._router.read(request, options, SystemClock().monotonic() + seconds)


class OneGroup(NamedTuple):
    """A cluster of node n1 with group 0."""

    held: GroupSource

    def ids(self) -> tuple[int, ...]:
        return (0,)

    def slots(self, group: int) -> range:
        return range(SLOTS)

    def holders(self, group: int) -> tuple[str, ...]:
        return ("n1",)

    def source(self, group: int) -> GroupSource | None:
        return self.held if group == 0 else None


def snapshot_service(
    snapshots: SnapshotStore, router: Router, machine: StateMachine, clock: SystemClock
) -> SnapshotService:
    """Of one group, 0, whose snapshots name one member."""
    failures: list[Exception | None] = [None]

    def make_snapshot() -> bool:
        return snapshots.create(
            lambda index: bootstrap([Member("n1")]),
            lambda meta, error: failures.append(error),
        )

    source = GroupSource(
        snapshots,
        router.barrier,
        lambda: machine.applied_index,
        make_snapshot,
        lambda: failures[-1],
    )
    return SnapshotService("c1", OneGroup(source), clock, 0)


async def until(condition: Callable[[], bool], what: str) -> None:
    """Poll until `condition` holds."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():
            await asyncio.sleep(0.002)
    assert condition(), what
