"""What the transport remembers of one peer, across its connections."""

from __future__ import annotations

from cluster.connection import Connection
from cluster.handshake import Hello
from cluster.transport_config import PeerAddress, PeerState


class Peer:
    """One other node of the cluster.

    Invariant: `announced` is the connection whose peer_connected the groups have heard
    and whose peer_disconnected they have not; it may be closed already.
    """

    def __init__(self, node_id: str, address: PeerAddress, now: float) -> None:
        self.id = node_id
        self.address = address
        self.announced: Connection | None = None
        self._hello: Hello | None = None  # of `announced`
        self._since = now
        self.last_error: str | None = None
        self._bytes_sent = 0  # of earlier connections
        self._bytes_received = 0

    @property
    def connection(self) -> Connection | None:
        """The open connection."""
        found = self.announced
        return None if found is None or found.closed else found

    def overtaken(self, hello: Hello) -> bool:
        """Whether the open connection was begun later, by the same process of the peer."""
        current = self._hello
        return (
            self.connection is not None
            and current is not None
            and current.boot == hello.boot
            and current.epoch >= hello.epoch
        )

    def connected(self, connection: Connection, hello: Hello, now: float) -> None:
        self.announced = connection
        self._hello = hello
        self._since = now
        self.last_error = None

    def disconnected(self, now: float) -> None:
        connection = self.announced
        assert connection is not None
        self.announced = None
        self._since = now
        self.last_error = connection.reason
        self._bytes_sent += connection.bytes_sent
        self._bytes_received += connection.bytes_received

    def state(self, now: float) -> PeerState:
        connection, announced = self.connection, self.announced
        return PeerState(
            connected=connection is not None,
            address=str(self.address),
            since_ms=int((now - self._since) * 1000),
            last_error=self.last_error if announced is None else announced.reason or None,
            bytes_sent=self._bytes_sent + (announced.bytes_sent if announced else 0),
            bytes_received=self._bytes_received + (announced.bytes_received if announced else 0),
            queue_bytes=connection.queue_bytes if connection else 0,
        )
