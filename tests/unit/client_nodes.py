"""Nodes that misbehave on purpose, and a proxy that can be cut, for tests of the client."""

from __future__ import annotations

import asyncio
import enum
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from node.views import ClusterView, MemberView
from tests.unit.http_door import OpenDoor, open_door


class Act(enum.Enum):
    """What a node may do instead of answering."""

    CLOSE = "close"  # read the request, then drop the connection
    HANG = "hang"  # read the request, then say nothing
    DIE = "die"  # like CLOSE, and refuse every later connection


class Seen(NamedTuple):
    """A request that reached a node."""

    method: str
    target: str
    body: bytes

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.target).query).items()}


class Says(NamedTuple):
    """An answer."""

    status: int
    body: bytes
    headers: str = ""


def ok(**fields: object) -> Says:
    return Says(200, json.dumps(fields).encode())


def refusal(status: int, code: str, *, definite: bool = True, **fields: object) -> Says:
    error = {"code": code, "message": code.lower(), "definite": definite, "leader": None, **fields}
    return Says(status, json.dumps({"error": error}).encode())


Behave = Callable[[Seen], Says | Act]


@dataclass
class FakeNode:
    """A node of one's own making; `behave` decides each answer."""

    behave: Behave
    seen: list[Seen] = field(default_factory=list)
    port: int = 0
    connections: int = 0
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def writes(self) -> list[Seen]:
        return [seen for seen in self.seen if seen.path != "/v1/cluster"]

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse new connections and drop those that are open."""
        if self._server is not None:
            self._server.close()
            for _ in range(8):  # what was just accepted has no task yet
                await asyncio.sleep(0)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while await self._serve(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")
        headers = {name.lower(): value for name, _, value in (x.partition(": ") for x in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        method, target, _ = first.split(" ")
        seen = Seen(method, target, body)
        self.seen.append(seen)
        answer = self.behave(seen)
        if answer is Act.HANG:
            await asyncio.Event().wait()
        if isinstance(answer, Act):
            if answer is Act.DIE and self._server is not None:
                self._server.close()
            return False
        length = f"Content-Length: {len(answer.body)}\r\n"
        writer.write(f"HTTP/1.1 {answer.status} X\r\n{length}{answer.headers}\r\n".encode())
        writer.write(answer.body)
        await writer.drain()
        return True


@asynccontextmanager
async def fake_nodes(*behaviours: Behave) -> AsyncIterator[list[FakeNode]]:
    nodes = [FakeNode(behave) for behave in behaviours]
    try:
        for node in nodes:
            await node.start()
        yield nodes
    finally:
        for node in nodes:
            await node.stop()


async def refused_address() -> str:
    """An address where nobody listens."""
    node = FakeNode(lambda seen: Act.CLOSE)
    await node.start()
    await node.stop()
    return node.address


class Proxy:
    """Passes bytes on to a port until it is cut."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.address = ""
        self.connections = 0

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.cut(refuse=True)
        await asyncio.sleep(0)  # what was accepted in the last turn is known in the next
        await self.cut()

    async def cut(self, *, refuse: bool = False) -> None:
        """Drop what is connected, and with `refuse` take no more."""
        if refuse and self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Not a coroutine: it may be cut before its first step, and is closed all the same.
        self.connections += 1
        task = asyncio.create_task(self._connect(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: writer.transport.abort())

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            return
        try:
            async with asyncio.TaskGroup() as ways:
                ways.create_task(_pass_on(reader, far_writer, writer))
                ways.create_task(_pass_on(far_reader, writer, far_writer))
        finally:
            far_writer.transport.abort()


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, source: asyncio.StreamWriter
) -> None:
    """Until one side ends; then the other way ends, too."""
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()
        source.transport.abort()


@asynccontextmanager
async def addressed_door(folder: Path, **options: Any) -> AsyncIterator[OpenDoor]:
    """A door that says its own address when a client looks for the cluster's nodes."""
    async with open_door(folder, **options) as door:
        say_addresses(door, [door_address(door)])
        yield door


def say_addresses(door: OpenDoor, addresses: Sequence[str]) -> None:
    """Have the door say that the cluster's nodes, the leader first, are at `addresses`."""
    unknown = (None,) * 7
    members = tuple(
        MemberView(
            f"n{place}", f"node{place}", None, True, address, "", None, None, None, True, *unknown
        )
        for place, address in enumerate(addresses, 1)
    )

    async def cluster_status(timeout: float) -> ClusterView:
        return ClusterView("c1", "n1", 1, members)

    door.info.leader = addresses[0]
    door.info.cluster_status = cluster_status  # type: ignore[method-assign]


def door_address(door: OpenDoor) -> str:
    return f"http://127.0.0.1:{door.port}"
