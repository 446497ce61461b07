"""What the transport remembers of one peer, across its connections."""

from __future__ import annotations

from cluster.connection import Connection
from cluster.handshake import Hello
from cluster.transport_config import PeerAddress, PeerState


class Peer:
    """One other node of the cluster. `addresses`: where it may listen, best first.

    It is kept after it left (`member` False) until its last peer_disconnected is delivered.
    Invariant: `announced` is the connection whose peer_connected the groups have heard
    and whose peer_disconnected they have not; it may be closed already.
    """

    def __init__(self, node_id: str, now: float) -> None:
        self.id = node_id
        self.addresses: tuple[PeerAddress, ...] = ()
        self.name = ""  # by which a certificate may name it; never the one that it claims
        self.member = False
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

    @property
    def incarnation(self) -> str | None:
        """Of the data folder at the other end of the open connection."""
        return None if self.connection is None or self._hello is None else self._hello.incarnation

    def contested(self, hello: Hello, recorded: str | None) -> bool:
        """Whether the open connection is of another data folder, and none the less right.

        Two processes under one id would otherwise cut each other off for ever.
        """
        return self.incarnation not in (None, hello.incarnation) and hello.incarnation != recorded

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

    def state(self, now: float, recorded: str | None) -> PeerState:
        connection, announced = self.connection, self.announced
        return PeerState(
            connected=connection is not None,
            address=str(self.addresses[0]) if self.addresses else "",
            since_ms=int((now - self._since) * 1000),
            last_error=self.last_error if announced is None else announced.reason or None,
            bytes_sent=self._bytes_sent + (announced.bytes_sent if announced else 0),
            bytes_received=self._bytes_received + (announced.bytes_received if announced else 0),
            queue_bytes=connection.queue_bytes if connection else 0,
            replaced=self._hello is not None and self._hello.incarnation != recorded,
        )
