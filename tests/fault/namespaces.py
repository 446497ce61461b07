"""A network of the kernel for each node: real packets that really get lost. Needs root.

Every node lives in a network namespace of its own, joined to the others by a bridge in one
more namespace; the subnet exists nowhere else, and the machine's own network is not touched.
Peers speak mutual TLS there, as they must beyond loopback. Clients' doors stay on each
namespace's loopback; a relay on the usual loopback port passes clients' connections on, from
a socket that is made inside the namespace.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from node.local_plan import LocalNode, Plan
from tests.certificates import CertificateAuthority
from tests.fault.addresses import readdress

SUBNET: Final = "10.213.77"
_CLONE_NEWNET: Final = 0x40000000
_CHUNK_BYTES: Final = 64 << 10


class Namespaced:
    """`certificates`: a folder for the nodes' certificates."""

    def __init__(self, certificates: Path) -> None:
        self._certificates = certificates
        self._prefix = f"hivemem-{os.getpid()}"
        self._hub = f"{self._prefix}-hub"
        self._numbers: dict[str, int] = {}
        self._relays: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._made: list[str] = []

    # --- Network (tests/fault/cluster.py) ------------------------------------------

    async def start(self, plan: Plan, pids: Callable[[], Mapping[str, int]]) -> None:
        self._numbers = {node.name: number for number, node in enumerate(plan.nodes, 1)}
        self._make()
        peers = {node.name: f"{self.address(node.name)}:{node.peer_port}" for node in plan.nodes}
        readdress(plan, peers)
        authority = CertificateAuthority(self._certificates)
        for node in plan.nodes:
            uri = f"urn:hivemem:node:{node.id}"
            files = authority.issue(node.name, uris=[uri])
            path = plan.config_path(node)
            path.write_text(
                path.read_text().replace(
                    '[peer]\nhost = "127.0.0.1"\n',
                    f'[peer]\nhost = "{self.address(node.name)}"\ntls_cert = "{files.cert}"\n'
                    f'tls_key = "{files.key}"\ntls_ca = "{files.ca}"\n',
                )
            )
            for port in (node.http_port, node.redis_port):
                relay = await asyncio.start_server(self._relay(node, port), "127.0.0.1", port)
                self._relays.append(relay)

    async def stop(self) -> None:
        for relay in self._relays:
            relay.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for relay in self._relays:
            await relay.wait_closed()
        self._relays.clear()
        while self._made:
            _ip("netns", "delete", self._made.pop())

    def around_start(self, node: LocalNode) -> AbstractContextManager[object]:
        return inside(self._name(node.name))

    # --- Faults --------------------------------------------------------------------

    def address(self, name: str) -> str:
        return f"{SUBNET}.{self._numbers[name]}"

    def unplug(self, name: str) -> None:
        """The node's cable is out: nothing arrives in either direction."""
        _ip("-n", self._hub, "link", "set", f"port{self._numbers[name]}", "down")

    def drop(self, source: str, target: str) -> None:
        """Packets from `source` to `target` vanish; the other direction works."""
        _ip("-n", self._name(source), "route", "add", "blackhole", f"{self.address(target)}/32")

    def heal(self) -> None:
        for name, number in self._numbers.items():
            _ip("-n", self._hub, "link", "set", f"port{number}", "up")
            _ip("-n", self._name(name), "route", "flush", "type", "blackhole")

    # --- Construction --------------------------------------------------------------

    def _name(self, node: str) -> str:
        return f"{self._prefix}-{self._numbers[node]}"

    def _make(self) -> None:
        self._add(self._hub)
        _ip("-n", self._hub, "link", "add", "hub", "type", "bridge")
        _ip("-n", self._hub, "link", "set", "hub", "up")
        for name, number in self._numbers.items():
            inner, port = self._name(name), f"port{number}"
            self._add(inner)
            pair = ("link", "add", port, "type", "veth", "peer", "name", "wire", "netns", inner)
            _ip("-n", self._hub, *pair)
            _ip("-n", self._hub, "link", "set", port, "master", "hub", "up")
            _ip("-n", inner, "address", "add", f"{self.address(name)}/24", "dev", "wire")
            _ip("-n", inner, "link", "set", "wire", "up")

    def _add(self, namespace: str) -> None:
        _ip("netns", "add", namespace)
        self._made.append(namespace)
        _ip("-n", namespace, "link", "set", "lo", "up")

    def _relay(
        self, node: LocalNode, port: int
    ) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(self._serve(node, port, reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return accept

    async def _serve(
        self, node: LocalNode, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            with contextlib.suppress(OSError):
                inner_reader, inner_writer = await asyncio.open_connection(
                    sock=await self._connected(node, port)
                )
                pumps = (_pump(reader, inner_writer), _pump(inner_reader, writer))
                try:
                    await asyncio.gather(*pumps)
                finally:
                    inner_writer.transport.abort()
        finally:
            writer.transport.abort()

    async def _connected(self, node: LocalNode, port: int) -> socket.socket:
        with inside(self._name(node.name)):
            sock = socket.socket()
        try:
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, ("127.0.0.1", port))
        except BaseException:
            sock.close()
            raise
        return sock


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
    raise ConnectionError("one side has ended")


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """This thread is in the network namespace: sockets made and processes started here stay
    there. Other threads are not concerned."""
    back = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        _enter(there)
        try:
            yield
        finally:
            _enter(back)
    finally:
        os.close(there)
        os.close(back)


def namespaces_work() -> bool:
    """Whether this process may make network namespaces."""
    return os.geteuid() == 0 and Path("/proc/self/ns/net").exists()


def _enter(descriptor: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")
