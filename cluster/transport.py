"""The peer transport: one authenticated connection per pair of nodes, all groups on it.

Of two nodes the one with the smaller id dials. When an authenticated connection of a
peer arrives while another is open, the old one is closed first and its groups hear
`peer_disconnected` before `peer_connected`; frames of the old one are never delivered
afterwards. Single frames are never lost: what a connection cannot carry closes it.

Who the peers are changes with the configuration: see `set_members` and `cluster.peers`.

Threads: everything here is called on the event-loop thread. Events and handlers run
there too, and never from inside `send`, `call`, `set_members` or another event.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping
from functools import partial

from cluster.calls import CallHandler, CallServer
from cluster.connection import Connection
from cluster.connector import Connector
from cluster.dialler import Dialling, Rng
from cluster.errors import PeerUnreachable
from cluster.framing import GROUP, JOINED, Frame
from cluster.handshake import NO_BOOTSTRAP, Hello
from cluster.interfaces import PeerEvents
from cluster.listener import Listener
from cluster.membership import Configuration
from cluster.peer import Peer
from cluster.peers import Peers
from cluster.transport_config import PeerAddress, PeerState, PeerTls, TransportLimits

__all__ = ["PeerAddress", "PeerState", "PeerTls", "Transport", "TransportLimits"]

logger = logging.getLogger(__name__)


class Transport:
    """A `PeerTransport` over TCP, with calls. See the module for the contract.

    `peers`: where the settings file says that the other nodes listen; an entry for
    `self_id` is ignored. They are the members until `set_members` says otherwise.
    `bootstrap_digest`: over the initial voters' ids; b"-" for a node that joins.
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
        bootstrap_digest: bytes = NO_BOOTSTRAP,
    ) -> None:
        self._bootstrap = bootstrap_digest
        self.self_id = self_id
        self._listen_address = PeerAddress(listen_host, listen_port)
        self._limits = limits
        self._clock = clock
        self._peers = Peers(self_id, peers, known_incarnations, on_incarnation, clock)
        self.groups: dict[int, PeerEvents] = {}
        self.unsent: set[Connection] = set()
        self.frames_unclaimed = 0  # for groups that nobody has registered
        self._calls = CallServer(limits.calls_inflight_max)
        hello = Hello(
            cluster_id, self_id, self_name, incarnation, config_digest, bootstrap_digest,
            boot=secrets.token_bytes(8), epoch=0,
        )  # fmt: skip
        self._connector = Connector(self, hello, secret, tls, limits, self._peers, clock)
        self._listener = Listener(self._connector.serve, limits.connections_unauthenticated_max)
        self._dialling = Dialling(limits, rng)
        self._ticking: asyncio.TimerHandle | None = None
        self._tick_due = 0.0
        self._started = False
        self._listening = False
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
        for peer in self._peers:
            if peer.announced is not None:
                events.peer_connected(peer.id)
                # What it was sent for this group until now was lost.
                peer.announced.send(JOINED, 0, group, b"", bulk=False)

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

    def flush(self) -> None:
        """Send what is queued now, and not at the end of this turn of the loop."""
        while self.unsent:
            self.unsent.pop().flush()

    def flush_if_alone(self) -> None:
        """The same, unless several groups share the connections: what these send in a turn
        leaves together."""
        if len(self.groups) == 1:
            self.flush()

    def incarnation(self, peer: str) -> str | None:
        """Incarnation of the data folder at the other end of the open connection."""
        known = self._peers.get(peer)
        return None if known is None else known.incarnation

    def recorded_incarnation(self, peer: str) -> str | None:
        """The one seen on first contact, or set by `record_incarnation` since."""
        return self._peers.recorded_incarnation(peer)

    def record_incarnation(self, peer: str, incarnation: str) -> None:
        """Replace the record, for a committed configuration that names a new data folder.

        Durable on return, as far as `on_incarnation` is. Raises what that raises.
        """
        self._peers.record_incarnation(peer, incarnation)

    def set_members(self, configuration: Configuration) -> None:
        """Connect to these nodes, at these addresses, and to no others. Idempotent.

        Index 0: the members of the settings file, and these. May precede `start`. The
        connection of a node that left is closed at once; its peer_disconnected comes later.
        """
        bootstrap = NO_BOOTSTRAP if configuration.index else self._bootstrap
        self._connector.hello = self._connector.hello._replace(bootstrap=bootstrap)
        joined, left = self._peers.set_members(configuration)
        for peer in left:
            self._dialling.end(peer.id)
            if peer.connection is not None:
                self._take_leave(peer.connection)
        for peer in joined:
            self._dial_if_due(peer)

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
        known = self._peers.member(peer)
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

    @property
    def connections_refused(self) -> int:
        """Accepted connections that did not get through the handshake, since start."""
        return self._connector.refusals.count

    def peer_states(self) -> dict[str, PeerState]:
        """Every other member by node id."""
        return self._peers.states()

    async def probe(self, address: str, timeout_seconds: float) -> None:
        """See that a hivemem peer answers at "host:port", over TLS where that is set.

        It learns nothing but that somebody knocked; who it is remains to be proved. Raises
        PeerUnreachable, always definite, with a reason that a person can act on.
        """
        if not self._listening:
            raise RuntimeError("a transport probes after its start")
        if self._stopping:
            raise PeerUnreachable("this node is stopping", definite=True)
        await self._connector.probe(address, timeout_seconds)

    async def start(self) -> None:
        """Listen and dial. Raises OSError (address in use), ssl.SSLError (bad PEM file)."""
        if self._started or self._stopping:
            raise RuntimeError("a transport starts once")
        self._started = True
        self._connector.load_certificates()
        await self._listener.start(self._listen_address.host, self._listen_address.port)
        self._listening = True
        for peer in self._peers:
            self._dial_if_due(peer)
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
            await self._dialling.stop()
            await self._listener.stop()
            self._calls.close()
            for connection in list(self._connector.connections):
                connection.shut("this node is stopping", drain=True)
            for peer in self._peers:
                self._settle(peer)
            await self._connector.wait_gone()
        finally:
            for connection in list(self._connector.connections):
                connection.abort()
            self._stopped.set()
        await self._connector.wait_gone()

    def _dial_if_due(self, peer: Peer) -> None:
        if self._listening and not self._stopping and peer.member and self.self_id < peer.id:
            self._dialling.begin(peer.id, partial(self._connector.dial, peer))

    # Events of connections.

    def connection_open(self, connection: Connection, hello: Hello) -> None:
        """Replace the peer's old connection, if any, and announce this one."""
        if self._stopping:
            connection.shut("this node is stopping")
            return
        peer = self._peers.get(hello.node_id)
        if peer is not None:
            if peer.connection is not None:
                peer.connection.shut("replaced by a newer connection of the same peer")
            self._settle(peer)
        if peer is None or not peer.member:  # It left after it was admitted.
            connection.shut("no longer a member")
            return
        recorded = self._peers.recorded_incarnation(peer.id)
        if recorded is None:
            self._peers.record_incarnation(peer.id, hello.incarnation)
        elif recorded != hello.incarnation:
            logger.warning("peer %s has another data folder: it may lack entries", peer.id)
        peer.connected(connection, hello, self._clock())
        logger.info(
            "peer %s (%s) connected: %s, epoch %d",
            hello.node_name, peer.id, connection.remote, hello.epoch,
        )  # fmt: skip
        for events in list(self.groups.values()):
            events.peer_connected(peer.id)

    def connection_closed(self, connection: Connection) -> None:
        """Tell the groups, unless a newer connection already made that necessary."""
        peer = self._peers.get(connection.peer)
        if peer is not None and peer.announced is connection:
            self._settle(peer)

    def group_joined(self, connection: Connection, group: int) -> None:
        """The peer takes part in a group from now on, on a connection that was open before."""
        peer, events = self._peers.get(connection.peer), self.groups.get(group)
        if events is not None and peer is not None and peer.announced is connection:
            events.peer_connected(peer.id)

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
        self._peers.forget(peer)

    def _take_leave(self, connection: Connection) -> None:
        """Close for good, after what is queued has been sent, if the peer reads it in time."""
        connection.shut("no longer a member", drain=True)
        seconds = self._limits.stop_ms_max / 1000
        deadline = asyncio.get_running_loop().call_later(seconds, connection.abort)
        connection.gone.add_done_callback(lambda _: deadline.cancel())

    # Silence.

    def _schedule_tick(self) -> None:
        period = self._limits.ping_ms / 1000
        self._tick_due = self._clock() + period
        self._ticking = asyncio.get_running_loop().call_later(period, self._tick)

    def _tick(self) -> None:
        now = self._clock()
        late = max(0.0, now - self._tick_due)
        for connection in list(self._connector.connections):
            if connection.open and not connection.closed:
                connection.tick(now, late)
        self._schedule_tick()
