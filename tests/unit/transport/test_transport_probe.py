"""A look at an address before its node is admitted: is a peer there, and if not, why."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from cluster import connector
from cluster.errors import PeerUnreachable
from cluster.framing import CHALLENGE, encode_header
from cluster.transport import Transport
from cluster.transport_config import PeerAddress
from tests.unit.transport.nodes import LOOPBACK, NOWHERE, Nodes, until

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]


@asynccontextmanager
async def _server(answer: Answer) -> AsyncIterator[str]:
    """A server that reads something, lets `answer` write, and waits for the end."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read(1)
            answer(reader, writer)
            await reader.read(-1)
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, LOOPBACK, 0)
    try:
        yield f"{LOOPBACK}:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


async def test_a_peer_is_found_whoever_it_is(nodes: Nodes) -> None:
    """Not even the secret matters: it is proved when the node joins."""
    a, at_a = await nodes.start("a", {})
    c, at_c = await nodes.start("c", {}, cluster_id="another", secret=b"x" * 32)
    await a.probe(f"{LOOPBACK}:{c.port}", 5.0)
    await c.probe(f"{LOOPBACK}:{a.port}", 5.0)
    await a.probe(f"{LOOPBACK}:{a.port}", 5.0)
    assert at_a.events == at_c.events == []
    await until(lambda: not a._connector.connections and not c._connector.connections)


async def _reason(nodes: Nodes, address: str, timeout_seconds: float = 10.0) -> str:
    a, _ = await nodes.start("a", {})
    with pytest.raises(PeerUnreachable) as caught:
        await a.probe(address, timeout_seconds)
    assert caught.value.definite
    await until(lambda: not a._connector.connections)
    return str(caught.value)


async def test_nobody_there(nodes: Nodes) -> None:
    reason = await _reason(nodes, str(NOWHERE))
    assert reason.startswith("no hivemem peer answers at 127.0.0.1:1: Connection refused")


async def test_another_kind_of_server(nodes: Nodes) -> None:
    async with _server(lambda _, writer: writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as at:
        reason = await _reason(nodes, at)
    assert f"no hivemem peer answers at {at}: protocol error" in reason
    assert "must be the peer port of a running node" in reason


async def test_a_server_that_hangs_up(nodes: Nodes) -> None:
    async with _server(lambda _, writer: writer.close()) as at:
        assert f"no hivemem peer answers at {at}: " in await _reason(nodes, at)


async def test_a_server_that_says_nothing(nodes: Nodes) -> None:
    async with _server(lambda *_: None) as at:
        assert "no answer within 40 ms" in await _reason(nodes, at, 0.04)


async def test_another_version_is_named(nodes: Nodes) -> None:
    def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        challenge = b"HVMP\x01\x00" + bytes(32)
        writer.write(encode_header(CHALLENGE, 0, 0, 0, challenge) + challenge)

    async with _server(answer) as at:
        assert "peer protocol version 1 is not spoken here" in await _reason(nodes, at)


async def test_what_is_no_address(nodes: Nodes) -> None:
    assert "is not host:port" in await _reason(nodes, "somewhere")
    assert "cannot" not in await _reason(nodes, "127.0.0.1:0")


async def test_a_probe_needs_a_running_transport(nodes: Nodes) -> None:
    a = nodes.make("a", {})
    with pytest.raises(RuntimeError, match="after its start"):
        await a.probe(str(NOWHERE), 1.0)
    await a.start()
    probing = asyncio.ensure_future(_mute_probe(a))
    await until(lambda: a._connector.connections)
    await a.stop()
    for probe in (probing, a.probe(str(NOWHERE), 1.0)):
        with pytest.raises(PeerUnreachable, match="this node is stopping"):
            await probe


async def test_a_socket_that_nobody_wants_any_more_is_closed_once(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its descriptor belongs to the loop's transport; the object must not keep the number."""
    sockets: list[socket.socket] = []
    connect = connector.connected_socket

    async def connected(address: PeerAddress) -> socket.socket:
        sockets.append(await connect(address))
        for connection in a._connector.connections:
            connection.shut("given up")
        return sockets[-1]

    monkeypatch.setattr(connector, "connected_socket", connected)
    a, _ = await nodes.start("a", {})
    async with _server(lambda *_: None) as at:
        with pytest.raises(PeerUnreachable, match="given up"):
            await a.probe(at, 10.0)
        await until(lambda: sockets[0].fileno() == -1)


async def _mute_probe(transport: Transport) -> None:
    async with _server(lambda *_: None) as at:
        await transport.probe(at, 60.0)
