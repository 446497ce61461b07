"""Making connections: dialling, accepting, and deciding who may have one."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from functools import partial

from cluster.connection import Connection, ConnectionOwner, describe
from cluster.dialler import connected_socket
from cluster.errors import HandshakeRefused, PeerUnreachable
from cluster.handshake import Handshake, Hello, check_hello
from cluster.listener import RefusalLog
from cluster.peer import Peer
from cluster.peer_tls import check_certificate, client_context, server_context
from cluster.peers import Peers
from cluster.transport_config import PeerAddress, PeerTls, TransportLimits

logger = logging.getLogger(__name__)


class Connector:
    """Makes this node's connections and keeps hold of each until its socket is released.

    `hello`: what this node says of itself; what changes of it counts from the next
    handshake on. Raises ValueError for a bad secret or a hello that cannot be sent.
    """

    def __init__(
        self,
        owner: ConnectionOwner,
        hello: Hello,
        secret: bytes,
        tls: PeerTls | None,
        limits: TransportLimits,
        peers: Peers,
        clock: Callable[[], float],
    ) -> None:
        # Refuse a bad secret or name here, and not at the first connection.
        Handshake(secret, hello, dialling=False, admit=lambda hello: None)
        self.hello = hello
        self.connections: set[Connection] = set()
        self.refusals = RefusalLog(clock)
        self._owner = owner
        self._secret = secret
        self._tls = tls
        self._server_context: ssl.SSLContext | None = None
        self._client_context: ssl.SSLContext | None = None
        self._limits = limits
        self._peers = peers
        self._clock = clock
        self._epoch = 0

    def load_certificates(self) -> None:
        """Before anything else. Raises OSError, ssl.SSLError (bad PEM file)."""
        if self._tls is not None:
            self._server_context = server_context(self._tls)
            self._client_context = client_context(self._tls)

    async def wait_gone(self) -> None:
        """Wait for every socket to be released, for at most `stop_ms_max`."""
        waiting = [connection.gone for connection in self.connections]
        if waiting:
            await asyncio.wait(waiting, timeout=self._limits.stop_ms_max / 1000)

    async def dial(self, peer: Peer) -> Connection | None:
        """One attempt at each address: an open connection, or None with `last_error` set."""
        failures = []
        for address in peer.addresses:
            connection = self._new_connection(str(address), dialled=peer.id)
            timeout_seconds = self._limits.handshake_ms_max / 1000
            reason = await self._connect(connection, address, timeout_seconds)
            if reason is None:
                return connection
            failures.append(f"cannot connect to {address}: {reason}")
        self._note_failure(peer, "; ".join(failures) or "no address of it is known")
        return None

    async def probe(self, address: str, timeout_seconds: float) -> None:
        """See `Transport.probe`."""
        try:
            target = PeerAddress.parse(address)
        except ValueError as error:
            raise PeerUnreachable(str(error), definite=True) from None
        connection = self._new_connection(address, dialled="", probing=True)
        reason = await self._connect(connection, target, timeout_seconds)
        if not connection.answered:
            raise PeerUnreachable(
                f"no hivemem peer answers at {address}: {reason}. That must be the peer port of"
                " a running node, and TLS between peers must be on at both or at neither",
                definite=True,
            )

    async def _connect(
        self, connection: Connection, address: PeerAddress, timeout: float
    ) -> str | None:
        """Connect and shake hands; None once `connection` is open, else why it is not."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                # Connected here and not by create_connection: uvloop's, given up on
                # while TLS has yet to begin, reports an error that nobody can catch.
                sock = await connected_socket(address)
                await loop.create_connection(
                    lambda: connection,
                    sock=sock,
                    ssl=self._client_context,
                    server_hostname=address.host if self._client_context else None,
                    ssl_handshake_timeout=timeout if self._client_context else None,
                    ssl_shutdown_timeout=timeout if self._client_context else None,
                )
                if await connection.handshaken:
                    return None
                reason = connection.reason
                await connection.gone  # The refusal is on its way.
        except TimeoutError:
            if connection.open and not connection.closed:  # In the same turn of the loop.
                return None
            reason = connection.reason or f"no answer within {timeout * 1000:.0f} ms"
        except (OSError, ValueError) as error:  # ValueError: an impossible host name.
            reason = describe(error)
        finally:
            if not connection.open:
                self._release(connection)
        return reason

    async def serve(self, sock: socket.socket, remote: str) -> None:
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

    def _new_connection(
        self, remote: str, *, dialled: str | None, probing: bool = False
    ) -> Connection:
        """`dialled`: the node id that should answer; None when this side accepted."""
        self._epoch += 1
        connection = Connection(self._owner, self._limits, remote, self._clock())
        handshake = Handshake(
            self._secret,
            self.hello._replace(epoch=self._epoch),
            dialling=dialled is not None,
            admit=partial(self._admit, connection, dialled),
            probing=probing,
        )
        connection.use(handshake)
        self.connections.add(connection)
        connection.gone.add_done_callback(lambda _: self.connections.discard(connection))
        return connection

    def _release(self, connection: Connection) -> None:
        connection.shut("given up")
        connection.abort()

    def _admit(self, connection: Connection, dialled: str | None, hello: Hello) -> None:
        """Raise HandshakeRefused unless this peer, which knows the secret, may connect."""
        check_hello(self.hello, hello, dialled=dialled, members=self._peers.members)
        peer = self._peers.get(hello.node_id)
        assert peer is not None
        if self._tls is not None:
            check_certificate(connection.certificate, hello.node_id, peer.name)
        if peer.overtaken(hello):
            raise HandshakeRefused(f"node {hello.node_name} has a newer connection already")
        if peer.contested(hello, self._peers.recorded_incarnation(peer.id)):
            raise HandshakeRefused(
                f"node {hello.node_name} is connected already, with another data folder: stop"
                f" one of the two processes that run as node id {hello.node_id}"
            )

    def _note_failure(self, peer: Peer, reason: str) -> None:
        if reason != peer.last_error:  # The same failure again is no news.
            logger.warning("peer %s: %s", peer.id, reason)
        peer.last_error = reason

    def _note_refusal(self, connection: Connection, reason: str) -> None:
        """Keep the refusal of a stranger visible."""
        claimed = connection.claimed
        peer = self._peers.get(claimed) if claimed is not None else None
        if peer is not None:  # It shows only while the peer is not connected.
            peer.last_error = f"refused a connection from {connection.remote}: {reason}"
        self.refusals.note(connection.remote, reason)
