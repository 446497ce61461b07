"""One connection to one peer: handshake, then frames in both directions.

A connection is one epoch: it opens once and closes once, and what was queued or half
received on it dies with it. `shut` only marks it closed; the owner hears of it from
the loop, so that no event is ever delivered from inside a `send`.

Writing stops while the socket's buffer is above WRITE_BUFFER_BYTES_MAX. What waits is
kept in the lanes of the send queue and not in that buffer, or nothing could overtake.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Mapping
from typing import Final, Protocol, cast

from cluster.calls import CallTable, PendingCall
from cluster.errors import PeerUnreachable
from cluster.framing import (
    CALL,
    GROUP,
    JOINED,
    PING,
    PONG,
    REPLY,
    REPLY_ERROR,
    REPLY_REFUSED,
    Frame,
    FrameDecoder,
    FrameError,
    encode_header,
)
from cluster.handshake import Handshake, Hello, Step
from cluster.interfaces import PeerEvents
from cluster.send_queue import Lane, SendQueue
from cluster.transport_config import TransportLimits

WRITE_BUFFER_BYTES_MAX: Final = 128 * 1024
_WRITE_BUFFER_BYTES_MIN: Final = 32 * 1024
_WRITE_BYTES: Final = 64 * 1024  # joined into one write
_TURN_BYTES: Final = 1024 * 1024  # written before the loop gets a turn for other work
_UNSENT_BYTES: Final = 128 * 1024  # that the kernel may hold beyond what is in flight
_ANSWERS: Final = frozenset((REPLY, REPLY_ERROR, REPLY_REFUSED))


class ConnectionOwner(Protocol):
    """What a connection tells the transport; all from the loop."""

    groups: dict[int, PeerEvents]
    unsent: set[Connection]  # with frames for the end of this turn of the loop
    frames_unclaimed: int

    def connection_open(self, connection: Connection, hello: Hello) -> None:
        """The handshake is done; the next frames of this connection are the peer's."""

    def connection_closed(self, connection: Connection) -> None:
        """Called once, from the loop, after `shut` of one whose `peer` is proved."""

    def call_received(self, connection: Connection, frame: Frame) -> None: ...

    def group_joined(self, connection: Connection, group: int) -> None: ...


class Connection(asyncio.BufferedProtocol):
    """The asyncio protocol of one connection."""

    def __init__(
        self, owner: ConnectionOwner, limits: TransportLimits, remote: str, now: float
    ) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._owner = owner
        self._groups = owner.groups
        self._limits = limits
        self._frames_max = limits.send_queue_frames_max
        self._bytes_max = limits.send_queue_bytes_max
        self._decoder = FrameDecoder()
        self._queue = SendQueue(limits.chunk_bytes)
        self._calls = CallTable(limits.calls_inflight_max)
        self._transport: asyncio.Transport | None = None
        self._handshake: Handshake | None = None
        self._writable = False
        self._flush_scheduled = False
        self._heard_at = now
        self._heard_bytes = 0
        self.remote = remote
        self.peer = ""  # node id, once proved
        self.open = False  # the owner has taken it; stays True after closing
        self.closed = False
        self.reason = ""  # why it closed
        self.bytes_sent = 0
        self.bytes_received = 0
        # True: open. False: closed before that.
        self.handshaken: asyncio.Future[bool] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()  # closed
        self.gone: asyncio.Future[None] = loop.create_future()  # and the socket released

    def use(self, handshake: Handshake) -> None:
        """Set the handshake; before the connection is made."""
        self._handshake = handshake

    @property
    def claimed(self) -> str | None:
        """The node id that the other side claims, proved or not."""
        return self._handshake.claimed if self._handshake else None

    @property
    def answered(self) -> bool:
        """Whether the other side speaks this protocol; on the dialling side."""
        return self._handshake is not None and self._handshake.answered

    @property
    def certificate(self) -> Mapping[str, object] | None:
        """The verified certificate of the other side; None without TLS."""
        found: Mapping[str, object] | None = None
        if self._transport is not None:
            found = self._transport.get_extra_info("peercert")
        return found

    @property
    def queue_bytes(self) -> int:
        """Bytes accepted by `send` that the kernel has not taken."""
        unsent = 0
        if self._transport is not None and not self.closed:
            unsent = self._transport.get_write_buffer_size()
        return self._queue.bytes + unsent

    # Sending.

    def send(self, kind: int, tag: int, frame_id: int, payload: bytes, *, bulk: bool) -> bool:
        """Queue one frame of an open connection; False if closed or overflowing."""
        if self.closed:
            return False
        queue = self._queue
        if queue.bytes >= self._bytes_max or queue.frames >= self._frames_max:
            self.shut(f"send queue full: {queue.bytes} bytes in {queue.frames} frames")
            return False
        queue.put(queue.bulk if bulk else queue.control, kind, tag, frame_id, payload)
        if self._writable and not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self.flush)
            self._owner.unsent.add(self)
        return True

    def start_call(self, method: int, payload: bytes, timeout_seconds: float) -> PendingCall:
        """Send a call; end it with `end_call`. Raises PeerUnreachable, definite."""
        queue = self._queue
        if self._calls.full:
            raise PeerUnreachable("too many calls in flight to this peer", definite=True)
        if queue.bytes >= self._bytes_max or queue.frames >= self._frames_max:
            # A refused call is an answer; only frames that nobody waits for must close.
            raise PeerUnreachable("send queue to this peer is full", definite=True)
        call_id = self._calls.next_id()
        lane = self._lane_for(payload)
        if not self.send(CALL, method, call_id, payload, bulk=lane is queue.bulk):
            raise PeerUnreachable(self.reason, definite=True)
        return self._calls.add(call_id, lane, timeout_seconds)

    def end_call(self, call: PendingCall) -> None:
        self._calls.forget(call)

    def answer(self, kind: int, tag: int, call_id: int, payload: bytes) -> None:
        """Send the answer to a call; dropped when the connection has closed meanwhile."""
        if len(payload) > self._limits.frame_bytes_max:
            kind, tag = REPLY_ERROR, 0
            payload = b"the answer is larger than frame_bytes_max"
        bulk = self._lane_for(payload) is self._queue.bulk
        self.send(kind, tag, call_id, payload, bulk=bulk)

    def _lane_for(self, payload: bytes) -> Lane:
        # Calls have no order to keep, so a long one need not hold up heartbeats.
        long = len(payload) > self._limits.chunk_bytes
        return self._queue.bulk if long else self._queue.control

    def flush(self) -> None:
        """Send what is queued, as far as the socket takes it."""
        self._owner.unsent.discard(self)
        self._flush_scheduled = False
        transport, queue = self._transport, self._queue
        if transport is None:
            return
        budget = _TURN_BYTES
        while self._writable and queue.frames and budget > 0:
            data = queue.take(_WRITE_BYTES)
            budget -= len(data)
            self.bytes_sent += len(data)
            transport.write(data)
        if queue.frames:
            if self._writable:
                self._flush_scheduled = True
                self._loop.call_soon(self.flush)
        elif self.closed:
            transport.close()  # Drained: see shut().

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        if self._queue.frames and not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self.flush)

    # Receiving.

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._decoder.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        if self.closed:
            return
        self.bytes_received += nbytes
        try:
            self._decoder.filled(nbytes)
            if not self.open:
                self._continue_handshake()
            if self.open:
                self._dispatch()
        except FrameError as error:
            self.shut(f"protocol error: {error}")
        except Exception as error:
            # A handler's failure must reach whoever decides to stop the node, and
            # must not be followed by the next frame as if nothing had happened.
            self.shut(f"a handler failed: {type(error).__name__}: {error}")
            self._loop.call_exception_handler(
                {"message": "handler of a peer's frame failed", "exception": error}
            )

    def _dispatch(self) -> None:
        groups, peer = self._groups, self.peer
        for frame in self._decoder.decode():
            if self.closed:
                return
            kind = frame.kind
            if kind == GROUP:
                events = groups.get(frame.id)
                if events is not None:
                    events.peer_message(peer, frame.payload)
                else:
                    self._owner.frames_unclaimed += 1
            elif kind == CALL:
                self._owner.call_received(self, frame)
            elif kind in _ANSWERS:
                self._calls.answered(frame)
            elif kind == JOINED:
                self._owner.group_joined(self, frame.id)
            elif kind == PING:
                self.send(PONG, 0, 0, b"", bulk=False)
            elif kind != PONG:
                raise FrameError(f"unknown kind {kind}")

    def _continue_handshake(self) -> None:
        assert self._handshake is not None
        while not self.open and not self.closed:
            # One at a time: what follows the last message may be larger than a
            # handshake allows.
            frames = self._decoder.decode(1)
            if not frames:
                return
            self._take_step(self._handshake.receive(frames[0].kind, frames[0].payload))

    def _take_step(self, step: Step) -> None:
        assert self._transport is not None
        assert self._handshake is not None
        if step.kind is not None:
            wire = encode_header(step.kind, 0, 0, 0, step.payload) + step.payload
            self.bytes_sent += len(wire)
            self._transport.write(wire)
        if step.refused is not None:
            self.shut(step.refused, drain=True)
        elif self._handshake.done:
            assert self._handshake.peer is not None
            self.peer = self._handshake.peer.node_id
            self._decoder.open(self._limits.frame_bytes_max)
            self._transport.set_write_buffer_limits(
                high=WRITE_BUFFER_BYTES_MAX, low=_WRITE_BUFFER_BYTES_MIN
            )
            self._writable = True
            self._owner.connection_open(self, self._handshake.peer)
            self.open = True
            if not self.handshaken.done():
                self.handshaken.set_result(True)

    # Life.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert self._handshake is not None
        # uvloop's transports need not inherit from asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        if self.closed:
            # Given up while connecting: whoever connects releases it. Aborted in here, uvloop
            # has not taken the socket over, and its object would close the number of the
            # descriptor once more, whosever that is by then.
            return
        _set_options(transport.get_extra_info("socket"))
        self._take_step(self._handshake.begin())

    def connection_lost(self, exc: Exception | None) -> None:
        self.shut("closed by the other side" if exc is None else describe(exc))
        self._queue.clear()
        self._set_gone()

    def tick(self, now: float, late_seconds: float) -> None:
        """Ask a silent peer for a sign of life, give up on one silent for too long.

        Time in which this process did not run (`late_seconds`) is not held against
        the peer: its bytes may be waiting in the socket.
        """
        if self.bytes_received != self._heard_bytes:
            self._heard_bytes = self.bytes_received
            self._heard_at = now
            return
        self._heard_at += late_seconds
        silence_ms = (now - self._heard_at) * 1000
        if silence_ms > self._limits.silence_ms_max:
            self.shut(f"silent for {silence_ms:.0f} ms")
        elif not self._queue.frames:
            self.send(PING, 0, 0, b"", bulk=False)

    def shut(self, reason: str, *, drain: bool = False) -> None:
        """Close. `drain`: after what is queued was sent, as far as the peer reads it."""
        if self.closed:
            return
        self.closed = True
        self.reason = reason
        self._calls.fail(reason, still_sending=drain)
        if not self.handshaken.done():
            self.handshaken.set_result(False)
        if not self.lost.done():
            self.lost.set_result(None)
        if not drain:
            self.abort()
        elif self._transport is not None and not self._queue.frames:
            self._transport.close()
        if self.peer:
            self._loop.call_soon(self._owner.connection_closed, self)

    def abort(self) -> None:
        """Release the socket without waiting for anything."""
        self._queue.clear()
        if self._transport is not None:
            self._transport.abort()
        # Not left to connection_lost: uvloop does not call it for a connection that was
        # just made when the task that was making it is cancelled.
        self._loop.call_soon(self._set_gone)

    def _set_gone(self) -> None:
        if not self.gone.done():
            self.gone.set_result(None)


def describe(error: BaseException) -> str:
    """One line for an operator."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: the certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    if isinstance(error, socket.gaierror):
        return error.strerror or "the host name does not resolve"
    if isinstance(error, OSError):
        # The loops word it differently, and less clearly than the system.
        known = os.strerror(error.errno) if error.errno else error.strerror
        return known or str(error) or type(error).__name__
    return str(error) or type(error).__name__


def _set_options(sock: socket.socket) -> None:
    """No Nagle delay; dead peers found by the kernel too; a short unsent queue."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # Not every platform has these, and none is needed for correctness.
    for name, value in (
        ("TCP_KEEPIDLE", 10),
        ("TCP_KEEPINTVL", 5),
        ("TCP_KEEPCNT", 3),
        # Frames in the kernel's buffer can no longer be overtaken.
        ("TCP_NOTSENT_LOWAT", _UNSENT_BYTES),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
