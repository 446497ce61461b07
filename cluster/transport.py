"""The peer transport: one authenticated connection per pair of nodes, all groups on it.

Of two nodes the one with the smaller id dials. When an authenticated connection of a
peer arrives while another is open, the old one is closed first and its groups hear
`peer_disconnected` before `peer_connected`; frames of the old one are never delivered
afterwards. Single frames are never lost: what a connection cannot carry closes it.

Threads: everything here is called on the event-loop thread. Events and handlers run
there too, and never from inside `send`, `call` or another event.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import ssl
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from cluster.calls import CallHandler, CallServer
from cluster.connection import Connection, describe
from cluster.dialler import Rng, connected_socket, dial_forever
from cluster.errors import HandshakeRefused, PeerUnreachable
from cluster.framing import GROUP, Frame
from cluster.handshake import Handshake, Hello, check_hello
from cluster.interfaces import PeerEvents
from cluster.listener import Listener
from cluster.peer import Peer
from cluster.peer_tls import check_certificate, client_context, server_context
from cluster.transport_config import PeerAddress, PeerState, PeerTls, TransportLimits

__all__ = ["PeerAddress", "PeerState", "PeerTls", "Transport", "TransportLimits"]

logger = logging.getLogger(__name__)

_REFUSAL_LOG_SECONDS: Final = 1.0  # strangers must not be able to flood the log


class Transport:
    """A `PeerTransport` over TCP, with calls. See the module for the contract.

    `peers`: where the other nodes listen; an entry for `self_id` is ignored.
    `known_incarnations`: the data folder that each peer had on first contact.
    `on_incarnation(peer, incarnation)` is called on the first contact with a peer,
    before its `peer_connected`, and should store it durably before it returns.
    `clock`: monotonic seconds. `rng`: jitter only; nonces come from the system.
    """

    def __init__(
        self,
        *,
        self_id: str,
        self_name: str,
        cluster_id: str,
        incarnation: str,
        secret: bytes,
        config_digest: bytes,
        peers: Mapping[str, PeerAddress],
        listen_host: str,
        listen_port: int,
        tls: PeerTls | None,
        limits: TransportLimits,
        known_incarnations: Mapping[str, str],
        on_incarnation: Callable[[str, str], None],
        clock: Callable[[], float],
        rng: Rng,
    ) -> None:
        boot = secrets.token_bytes(8)
        self._hello = Hello(cluster_id, self_id, self_name, incarnation, config_digest, boot, 0)
        self._secret = secret
        # Refuse a bad secret or name here, and not at the first connection.
        Handshake(secret, self._hello, dialling=False, admit=lambda hello: None)
        self.self_id = self_id
        self._listen_address = PeerAddress(listen_host, listen_port)
        self._tls = tls
        self._server_context: ssl.SSLContext | None = None
        self._client_context: ssl.SSLContext | None = None
        self._limits = limits
        self._incarnations = dict(known_incarnations)
        self._on_incarnation = on_incarnation
        self._clock = clock
        self._rng = rng
        now = clock()
        self._peers = {
            node_id: Peer(node_id, address, now)
            for node_id, address in sorted(peers.items())
            if node_id != self_id
        }
        self._members = frozenset(self._peers)
        self.groups: dict[int, PeerEvents] = {}
        self.frames_unclaimed = 0  # for groups that nobody has registered
        self.connections_refused = 0
        self._calls = CallServer(limits.calls_inflight_max)
        self._listener = Listener(self._serve, limits.connections_unauthenticated_max)
        self._connections: set[Connection] = set()  # until their socket is released
        self._dialling: list[asyncio.Task[None]] = []
        self._ticking: asyncio.TimerHandle | None = None
        self._tick_due = 0.0
        self._epoch = 0
        self._refusal_logged_at = now - _REFUSAL_LOG_SECONDS
        self._refusals_unlogged = 0
        self._started = False
        self._stopping = False
        self._stopped = asyncio.Event()

    # What consensus uses.

    def register(self, group: int, events: PeerEvents) -> None:
        """Deliver this group's frames to `events`; announces already-connected peers."""
        if not 0 <= group < 1 << 32:
            raise ValueError("group must fit 32 bits")
        if group in self.groups:
            raise ValueError(f"group {group} is already registered")
        self.groups[group] = events
        for peer in self._peers.values():
            if peer.announced is not None:
                events.peer_connected(peer.id)

    def unregister(self, group: int) -> None:
        """Stop delivering this group's frames. No event is delivered."""
        self.groups.pop(group, None)

    def send(self, peer: str, group: int, frame: bytes, *, bulk: bool = False) -> bool:
        """Queue one frame; False when the peer is not connected.

        Order holds within a lane of one connection. A full queue closes the connection
        (peer_disconnected, later): single frames are never dropped. Raises ValueError
        for a frame longer than `frame_bytes_max`.
        """
        known = self._peers.get(peer)
        connection = None if known is None else known.announced
        if connection is None:
            return False
        if len(frame) > self._limits.frame_bytes_max:
            raise ValueError(f"frame of {len(frame)} bytes exceeds frame_bytes_max")
        return connection.send(GROUP, 0, group, frame, bulk=bulk)

    async def call(self, peer: str, method: int, payload: bytes, timeout_seconds: float) -> bytes:
        """Ask a peer's handler of `method`; returns its answer.

        Raises PeerUnreachable (definite: the handler certainly did not run; not
        definite: it may have run, or may yet), RemoteCallFailed when the handler
        raised, ValueError for a payload longer than `frame_bytes_max`.
        """
        if not 0 <= method < 1 << 16:
            raise ValueError("method must fit 16 bits")
        if len(payload) > self._limits.frame_bytes_max:
            raise ValueError(f"call of {len(payload)} bytes exceeds frame_bytes_max")
        known = self._peers.get(peer)
        connection = None if known is None else known.connection
        if known is None or connection is None:
            reason = "not a known peer" if known is None else known.last_error
            raise PeerUnreachable(
                f"node {peer} is not connected: {reason or 'not yet'}", definite=True
            )
        if timeout_seconds <= 0:
            raise PeerUnreachable("no time left to call", definite=True)
        pending = connection.start_call(method, payload, timeout_seconds)
        try:
            return await pending.future
        finally:
            connection.end_call(pending)

    def on_call(self, method: int, handler: CallHandler) -> None:
        """Answer calls of `method` with `handler(peer, payload)`.

        It is called on the loop thread, one call after the other; what it returns is
        awaited. Returning a Future costs no task. What it raises travels to the caller.
        """
        self._calls.register(method, handler)

    # What the node uses.

    @property
    def port(self) -> int:
        """The port that peers reach this node at; the real one when 0 was asked for."""
        return self._listener.port

    def peer_states(self) -> dict[str, PeerState]:
        """Every peer by node id."""
        now = self._clock()
        return {peer.id: peer.state(now) for peer in self._peers.values()}

    async def start(self) -> None:
        """Listen and dial. Raises OSError (address in use), ssl.SSLError (bad PEM file)."""
        if self._started or self._stopping:
            raise RuntimeError("a transport starts once")
        self._started = True
        if self._tls is not None:
            self._server_context = server_context(self._tls)
            self._client_context = client_context(self._tls)
        await self._listener.start(self._listen_address.host, self._listen_address.port)
        loop = asyncio.get_running_loop()
        for peer in self._peers.values():
            if self.self_id < peer.id:
                task = loop.create_task(
                    dial_forever(partial(self._dial, peer), self._limits, self._rng)
                )
                task.add_done_callback(_report)
                self._dialling.append(task)
        self._schedule_tick()

    async def stop(self) -> None:
        """Close everything, in at most about `stop_ms_max`. Idempotent.

        Frames already queued are sent if the peer reads them in time. Every connected
        peer's `peer_disconnected` was delivered on return.
        """
        if self._stopping:
            await self._stopped.wait()
            return
        self._stopping = True
        try:
            if self._ticking is not None:
                self._ticking.cancel()
            for task in self._dialling:
                task.cancel()
            await asyncio.gather(*self._dialling, return_exceptions=True)
            await self._listener.stop()
            self._calls.close()
            for connection in list(self._connections):
                connection.shut("this node is stopping", drain=True)
            for peer in self._peers.values():
                self._settle(peer)
            await self._wait_gone(self._limits.stop_ms_max / 1000)
        finally:
            for connection in list(self._connections):
                connection.abort()
            self._stopped.set()
        await self._wait_gone(self._limits.stop_ms_max / 1000)

    async def _wait_gone(self, timeout_seconds: float) -> None:
        waiting = [connection.gone for connection in self._connections]
        if waiting:
            await asyncio.wait(waiting, timeout=timeout_seconds)

    # Connecting.

    async def _dial(self, peer: Peer) -> Connection | None:
        """One attempt: an open connection, or None with `last_error` set."""
        loop = asyncio.get_running_loop()
        timeout = self._limits.handshake_ms_max / 1000
        connection = self._new_connection(str(peer.address), dialled=peer.id)
        try:
            async with asyncio.timeout(timeout):
                # Connected here and not by create_connection: uvloop's, given up on
                # while TLS has yet to begin, reports an error that nobody can catch.
                sock = await connected_socket(peer.address)
                await loop.create_connection(
                    lambda: connection,
                    sock=sock,
                    ssl=self._client_context,
                    server_hostname=peer.address.host if self._client_context else None,
                    ssl_handshake_timeout=timeout if self._client_context else None,
                    ssl_shutdown_timeout=timeout if self._client_context else None,
                )
                if await connection.handshaken:
                    return connection
                reason = connection.reason
                await connection.gone  # The refusal is on its way.
        except TimeoutError:
            if connection.open:  # In the same turn of the loop.
                return connection
            reason = connection.reason or f"no answer within {self._limits.handshake_ms_max} ms"
        except (OSError, ValueError) as error:  # ValueError: an impossible host name.
            reason = describe(error)
        finally:
            if not connection.open:
                self._release(connection)
        self._note_failure(peer, f"cannot connect to {peer.address}: {reason}")
        return None

    async def _serve(self, sock: socket.socket, remote: str) -> None:
        """Handshake with a stranger; returns once it is open or gone."""
        loop = asyncio.get_running_loop()
        timeout = self._limits.handshake_ms_max / 1000
        connection = self._new_connection(remote, dialled=None)
        reason = "closed"
        try:
            async with asyncio.timeout(timeout):
                await loop.connect_accepted_socket(
                    lambda: connection,
                    sock,
                    ssl=self._server_context,
                    ssl_handshake_timeout=timeout if self._server_context else None,
                    ssl_shutdown_timeout=timeout if self._server_context else None,
                )
                if await connection.handshaken:
                    return
                reason = connection.reason
                await connection.gone  # The refusal is on its way.
        except TimeoutError:
            reason = connection.reason or f"no handshake within {timeout:.1f} s"
        except OSError as error:
            reason = describe(error)
        except asyncio.CancelledError:
            reason = "too many connections without a handshake"
            raise
        finally:
            if not connection.open:
                self._release(connection)
                self._note_refusal(connection, reason)

    def _new_connection(self, remote: str, *, dialled: str | None) -> Connection:
        self._epoch += 1
        connection = Connection(self, self._limits, remote, self._clock())
        admit = partial(self._admit, connection, dialled)
        hello = self._hello._replace(epoch=self._epoch)
        connection.use(Handshake(self._secret, hello, dialling=dialled is not None, admit=admit))
        self._connections.add(connection)
        connection.gone.add_done_callback(lambda _: self._connections.discard(connection))
        return connection

    def _release(self, connection: Connection) -> None:
        connection.shut("given up")
        connection.abort()

    def _admit(self, connection: Connection, dialled: str | None, hello: Hello) -> None:
        """Raise HandshakeRefused unless this peer, which knows the secret, may connect."""
        check_hello(
            self._hello,
            hello,
            dialled=dialled,
            members=self._members,
            recorded=self._incarnations.get(hello.node_id),
        )
        peer = self._peers[hello.node_id]
        if self._tls is not None:
            check_certificate(connection.certificate, hello.node_id, peer.address.name)
        if peer.overtaken(hello):
            raise HandshakeRefused(f"node {hello.node_name} has a newer connection already")

    # Events of connections.

    def connection_open(self, connection: Connection, hello: Hello) -> None:
        """Replace the peer's old connection, if any, and announce this one."""
        if self._stopping:
            connection.shut("this node is stopping")
            return
        peer = self._peers[hello.node_id]
        if peer.connection is not None:
            peer.connection.shut("replaced by a newer connection of the same peer")
        self._settle(peer)
        if self._incarnations.get(peer.id) is None:
            self._on_incarnation(peer.id, hello.incarnation)
            self._incarnations[peer.id] = hello.incarnation
        peer.connected(connection, hello, self._clock())
        logger.info(
            "peer %s (%s) connected: %s, epoch %d",
            hello.node_name, peer.id, connection.remote, hello.epoch,
        )  # fmt: skip
        for events in list(self.groups.values()):
            events.peer_connected(peer.id)

    def connection_closed(self, connection: Connection) -> None:
        """Tell the groups, unless a newer connection already made that necessary."""
        peer = self._peers[connection.peer]
        if peer.announced is connection:
            self._settle(peer)

    def call_received(self, connection: Connection, frame: Frame) -> None:
        self._calls.serve(connection, connection.peer, frame)

    def _settle(self, peer: Peer) -> None:
        """Deliver the peer_disconnected that is due for a closed connection."""
        connection = peer.announced
        if connection is None or not connection.closed:
            return
        peer.disconnected(self._clock())
        logger.warning("peer %s disconnected: %s", peer.id, connection.reason)
        for events in list(self.groups.values()):
            events.peer_disconnected(peer.id)

    def _note_failure(self, peer: Peer, reason: str) -> None:
        if reason != peer.last_error:  # The same failure again is no news.
            logger.warning("peer %s: %s", peer.id, reason)
        peer.last_error = reason

    def _note_refusal(self, connection: Connection, reason: str) -> None:
        """Keep the refusal of a stranger visible, at a bounded rate in the log."""
        self.connections_refused += 1
        claimed = connection.claimed
        peer = self._peers.get(claimed) if claimed is not None else None
        if peer is not None:  # It shows only while the peer is not connected.
            peer.last_error = f"refused a connection from {connection.remote}: {reason}"
        now = self._clock()
        if now - self._refusal_logged_at < _REFUSAL_LOG_SECONDS:
            self._refusals_unlogged += 1
            return
        logger.warning(
            "refused a peer connection from %s: %s (%d more not logged)",
            connection.remote, reason, self._refusals_unlogged,
        )  # fmt: skip
        self._refusal_logged_at = now
        self._refusals_unlogged = 0

    # Silence.

    def _schedule_tick(self) -> None:
        period = self._limits.ping_ms / 1000
        self._tick_due = self._clock() + period
        self._ticking = asyncio.get_running_loop().call_later(period, self._tick)

    def _tick(self) -> None:
        now = self._clock()
        late = max(0.0, now - self._tick_due)
        for connection in list(self._connections):
            if connection.open and not connection.closed:
                connection.tick(now, late)
        self._schedule_tick()


def _report(task: asyncio.Task[None]) -> None:
    """A dialler never ends by itself; if it failed, nothing else would say so."""
    if not task.cancelled() and (error := task.exception()) is not None:
        task.get_loop().call_exception_handler(
            {"message": "dialling a peer failed for good", "exception": error, "task": task}
        )
