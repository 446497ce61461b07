"""What the transport's tests are made of: nodes, listeners of events, a relay, a raw peer."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

from cluster.framing import GROUP, Frame, FrameDecoder, encode_header
from cluster.handshake import NO_BOOTSTRAP, Handshake, Hello
from cluster.transport import PeerAddress, PeerState, PeerTls, Transport, TransportLimits

SECRET = b"a secret of the tests, 32 bytes."
LOOPBACK = "127.0.0.1"
NOWHERE = PeerAddress(LOOPBACK, 1)  # For a peer that is never dialled.


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Poll until `condition` holds; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "condition did not hold in time"
        await asyncio.sleep(0.002)


class Recorder:
    """PeerEvents that remembers everything, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []  # ("connected" | "disconnected", peer)
        self.frames: list[bytes] = []
        self.log: list[str | bytes] = []  # both, interleaved

    def peer_connected(self, peer: str) -> None:
        self.events.append(("connected", peer))
        self.log.append(f"connected {peer}")

    def peer_disconnected(self, peer: str) -> None:
        self.events.append(("disconnected", peer))
        self.log.append(f"disconnected {peer}")

    def peer_message(self, peer: str, frame: bytes) -> None:
        self.frames.append(frame)
        self.log.append(frame)

    def count(self, event: str) -> int:
        return sum(name == event for name, _ in self.events)

    @property
    def connected(self) -> bool:
        return bool(self.events) and self.events[-1][0] == "connected"


class Nodes:
    """Transports with sensible defaults. The node with the largest id must come first."""

    def __init__(self) -> None:
        self._made: list[Transport] = []
        self._relays: list[Relay] = []
        self._raw: list[RawPeer] = []
        self.incarnations: dict[str, dict[str, str]] = {}  # recorded, by recording node

    def make(self, node_id: str, peers: dict[str, PeerAddress], **overrides: Any) -> Transport:
        recorded = self.incarnations.setdefault(node_id, {})
        limits: dict[str, int] = overrides.pop("limits", {})
        settings: dict[str, Any] = {
            "self_id": node_id,
            "self_name": f"name-{node_id}",
            "cluster_id": "cluster-1",
            "incarnation": f"folder-of-{node_id}",
            "secret": SECRET,
            "config_digest": b"\x01\x02",
            "peers": peers,
            "listen_host": LOOPBACK,
            "listen_port": 0,
            "tls": None,
            "limits": TransportLimits(**{"reconnect_ms_min": 5, "reconnect_ms_max": 50} | limits),
            "known_incarnations": dict(recorded),
            "on_incarnation": recorded.__setitem__,
            "clock": time.monotonic,
            "rng": random.Random(7),
        } | overrides
        transport = Transport(**settings)
        self._made.append(transport)
        return transport

    async def start(
        self, node_id: str, peers: dict[str, PeerAddress], **overrides: Any
    ) -> tuple[Transport, Recorder]:
        """A started node with a recorder registered for group 0."""
        transport = self.make(node_id, peers, **overrides)
        recorder = Recorder()
        transport.register(0, recorder)
        await transport.start()
        return transport, recorder

    async def pair(self, limits: dict[str, int] | None = None, *, relay: bool = False) -> Pair:
        """Connected nodes a (dials) and b, with a relay in between if asked for."""
        options: dict[str, Any] = {"limits": limits or {}}
        b, at_b = await self.start("b", {"a": NOWHERE}, **options)
        between = await self.relay(b.port) if relay else None
        port = between.port if between else b.port
        a, at_a = await self.start("a", {"b": PeerAddress(LOOPBACK, port)}, **options)
        await until(lambda: at_a.connected and at_b.connected)
        return Pair(a, at_a, b, at_b, between)

    async def relay(self, port: int) -> Relay:
        relay = Relay(port)
        await relay.start()
        self._relays.append(relay)
        return relay

    def raw(self, node_id: str = "a", **overrides: Any) -> RawPeer:
        peer = RawPeer(node_id, **overrides)
        self._raw.append(peer)
        return peer

    async def stop(self) -> None:
        for peer in self._raw:
            peer.close()
        await asyncio.gather(*(transport.stop() for transport in self._made))
        for relay in self._relays:
            await relay.stop()


class Pair:
    def __init__(
        self, a: Transport, at_a: Recorder, b: Transport, at_b: Recorder, relay: Relay | None
    ) -> None:
        self.a, self.at_a, self.b, self.at_b = a, at_a, b, at_b
        self._relay = relay

    @property
    def relay(self) -> Relay:
        assert self._relay is not None
        return self._relay

    @property
    def a_state(self) -> PeerState:
        """What a knows of b."""
        return self.a.peer_states()["b"]

    @property
    def b_state(self) -> PeerState:
        return self.b.peer_states()["a"]


class Relay:
    """A TCP relay that can go silent, cut, refuse, and damage what passes."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self.port = 0
        self.refusing = False
        self.silent = False  # holds bytes back and drops them
        self.flip_next = False  # flips a bit of the next bytes towards the listener
        self.connections = 0
        self.recorded: list[bytes] = []  # from the dialler

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, LOOPBACK, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Break every connection, with a reset."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.refusing:
            writer.transport.abort()
            return
        to_reader, to_writer = await asyncio.open_connection(LOOPBACK, self._to)
        self._writers += [writer, to_writer]
        for source, sink, dialler in ((reader, to_writer, True), (to_reader, writer, False)):
            task = asyncio.create_task(self._pump(source, sink, dialler))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, dialler: bool
    ) -> None:
        try:
            while data := await source.read(65536):
                if dialler:
                    self.recorded.append(data)
                    if self.flip_next:
                        self.flip_next = False
                        data = data[:-1] + bytes((data[-1] ^ 1,))
                if not self.silent:
                    sink.write(data)
                    await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()


class RawPeer:
    """A dialler under the test's control, one message at a time."""

    def __init__(self, node_id: str = "a", **overrides: Any) -> None:
        secret = overrides.pop("secret", SECRET)
        hello = Hello(
            "cluster-1", node_id, f"name-{node_id}", f"folder-of-{node_id}", b"\x01\x02",
            NO_BOOTSTRAP, b"bootboot", 1,
        )._replace(**overrides)  # fmt: skip
        self.handshake = Handshake(secret, hello, dialling=True, admit=lambda hello: None)
        self.decoder = FrameDecoder()
        self.received = b""
        self.refused: str | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def connect(self, port: int) -> None:
        self.reader, self.writer = await asyncio.open_connection(LOOPBACK, port)

    async def shake_hands(self, port: int) -> bool:
        """Connect and authenticate; False, with `refused`, when that failed."""
        await self.connect(port)
        step = self.handshake.begin()
        while True:
            if step.kind is not None:
                self.write_frame(step.kind, step.payload)
            if step.refused is not None:
                self.refused = step.refused
                return False
            if self.handshake.done:
                self.decoder.open(1 << 20)
                return True
            frame = await self.read_frame()
            if frame is None:
                return False
            step = self.handshake.receive(frame.kind, frame.payload)

    def write_frame(self, kind: int, payload: bytes, *, flags: int = 0, frame_id: int = 0) -> None:
        assert self.writer is not None
        self.writer.write(encode_header(kind, flags, 0, frame_id, payload) + payload)

    def send(self, payload: bytes, group: int = 0) -> None:
        self.write_frame(GROUP, payload, frame_id=group)

    async def read_frame(self) -> Frame | None:
        """The next frame; None at the end of the stream."""
        while not (frames := self.decoder.decode(1)):
            try:
                data = await self.reader.read(len(self.decoder.buffer()))
            except ConnectionResetError:
                return None
            if not data:
                return None
            self.received += data
            self.decoder.buffer()[: len(data)] = data
            self.decoder.filled(len(data))
        return frames[0]

    async def closed_by_other_side(self) -> bool:
        """Read to the end; True when there is one within 10 s."""
        async with asyncio.timeout(10):
            while await self.read_frame() is not None:
                pass
        return True

    def close(self) -> None:
        if self.writer is not None:
            self.writer.transport.abort()


def tls_of(files: Any) -> PeerTls:
    return PeerTls(files.cert, files.key, files.ca)
