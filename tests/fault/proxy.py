"""Links between nodes that can be cut, stalled, slowed down and reset, in user space.

Every node advertises the address of its proxy instead of its own. A proxy accepts the
connections to one node, finds out which node dialled, and passes bytes on as the link
between the two allows. Faults are set per direction of the *bytes*: a connection that
stands is half of each. TLS would pass through unchanged.

Which node dialled is told by the kernel: the process that owns the other end of the
connection (/proc). So nothing depends on who dials whom, nor on what the bytes mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

CHUNK_BYTES = 16 << 10  # passed on at a time
QUEUE_CHUNKS_MAX = 256  # under way on one direction of a slow link
RST_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s

Pids = Callable[[], Mapping[str, int]]  # name → pid of the nodes that run


@dataclass
class Flow:
    """One direction between two nodes."""

    open: asyncio.Event = field(default_factory=asyncio.Event)  # clear: bytes wait
    delay_seconds: float = 0.0
    bytes_per_second: float | None = None

    def __post_init__(self) -> None:
        self.open.set()


class PeerProxies:
    """A proxy in front of each node. `ports`: node → its own peer port."""

    def __init__(self, ports: Mapping[str, int], pids: Pids) -> None:
        self._ports = ports
        self._pids = pids
        self._servers: dict[str, asyncio.Server] = {}
        self._flows = {(a, b): Flow() for a in ports for b in ports if a != b}
        self._refused: set[frozenset[str]] = set()
        self._connections: dict[frozenset[str], set[tuple[socket.socket, socket.socket]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        for name in self._ports:
            self._servers[name] = await asyncio.start_server(self._acceptor(name), "127.0.0.1", 0)

    async def stop(self) -> None:
        """Close everything: no connection is left."""
        for server in self._servers.values():
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for server in self._servers.values():
            await server.wait_closed()

    def address(self, name: str) -> str:
        """Where others reach the node."""
        host, port = self._servers[name].sockets[0].getsockname()
        return f"{host}:{port}"

    # --- Faults --------------------------------------------------------------------

    def cut(self, a: str, b: str) -> None:
        """Break the connection between two nodes, and refuse new ones."""
        self._refused.add(frozenset((a, b)))
        self.reset(a, b)

    def reset(self, a: str, b: str) -> None:
        """Break the connection between two nodes; they may connect again."""
        for pair in list(self._connections.get(frozenset((a, b)), ())):
            for sock in pair:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
                    sock.shutdown(socket.SHUT_RDWR)

    def stall(self, source: str, target: str) -> None:
        """Keep what `source` sends to `target` until healed; connections stay open."""
        self._flows[source, target].open.clear()

    def slow(
        self, a: str, b: str, *, delay_seconds: float = 0.0, bytes_per_second: float | None = None
    ) -> None:
        """Delay and throttle both directions between two nodes."""
        for flow in (self._flows[a, b], self._flows[b, a]):
            flow.delay_seconds = delay_seconds
            flow.bytes_per_second = bytes_per_second

    def heal(self) -> None:
        """Make every link a good one. What was stalled is delivered, as TCP would."""
        self._refused.clear()
        for flow in self._flows.values():
            flow.delay_seconds = 0.0
            flow.bytes_per_second = None
            flow.open.set()

    def others(self, name: str) -> list[str]:
        return [other for other in self._ports if other != name]

    # --- Connections ---------------------------------------------------------------

    def _acceptor(
        self, target: str
    ) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(self._serve(target, reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return accept

    async def _serve(
        self, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            source = self._dialler(writer.get_extra_info("peername")[1])
            if source is None or frozenset((source, target)) in self._refused:
                return
            with contextlib.suppress(OSError):
                await self._pass_on(source, target, reader, writer)
        finally:
            # Without a goodbye: what a broken link does.
            writer.transport.abort()

    async def _pass_on(
        self, source: str, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Serve one connection until either side ends it."""
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._ports[target])
        pair = (_socket(writer), _socket(inner_writer))
        mine = self._connections.setdefault(frozenset((source, target)), set())
        mine.add(pair)
        pumps = [
            asyncio.create_task(_pump(reader, inner_writer, self._flows[source, target])),
            asyncio.create_task(_pump(inner_reader, writer, self._flows[target, source])),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            mine.discard(pair)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            inner_writer.transport.abort()

    def _dialler(self, port: int) -> str | None:
        """The node whose process holds this local port; None if nobody does."""
        inodes = set(_inodes(port))
        for name, pid in self._pids().items():
            if inodes & set(_sockets(pid)):
                return name
        return None


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flow: Flow) -> None:
    """Pass bytes on until the sender ends or the link breaks."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUE_CHUNKS_MAX)

    async def deliver() -> None:
        while True:
            due, data = await queue.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            if flow.bytes_per_second:
                await asyncio.sleep(len(data) / flow.bytes_per_second)
            await flow.open.wait()
            writer.write(data)
            await writer.drain()
            if not data:
                return

    delivery = asyncio.create_task(deliver())
    try:
        while not delivery.done():
            data = await reader.read(CHUNK_BYTES)
            await queue.put((loop.time() + flow.delay_seconds, data))
            if not data:
                await delivery
                return
    finally:
        delivery.cancel()
        await asyncio.gather(delivery, return_exceptions=True)


def _socket(writer: asyncio.StreamWriter) -> socket.socket:
    found = writer.get_extra_info("socket")
    return found  # type: ignore[no-any-return]  # asyncio's wrapper has the same methods


def _inodes(port: int) -> Iterator[str]:
    """Inodes of the IPv4 TCP sockets bound to a local port."""
    for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]:
        fields = line.split()
        if int(fields[1].rpartition(":")[2], 16) == port:
            yield fields[9]


def _sockets(pid: int) -> Iterator[str]:
    """Inodes of the sockets that a process holds; nothing if it has gone."""
    folder = f"/proc/{pid}/fd"
    try:
        descriptors = os.listdir(folder)
    except OSError:
        return
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            target = os.readlink(f"{folder}/{descriptor}")
            if target.startswith("socket:["):
                yield target[len("socket:[") : -1]
