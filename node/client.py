"""The typed async client: everything a program, the CLI or the MCP server does to a cluster.

    async with HivememClient(["http://127.0.0.1:7411"]) as memory:
        await memory.put("app", "chat", "turn-1", "hello")
        value = await memory.get("app", "chat", "turn-1")

It finds the leader and follows it, fails over to other nodes, and retries within the
deadline with one request id per write (node/client_retry.py). Errors are those of
node/errors.py; `definite` says whether the request certainly had no effect. Two codes can
be the client's own: UNREACHABLE (no node could be connected to), and OUTCOME_UNKNOWN where
the answer to a write was lost. One client belongs to one event loop; its calls may run
concurrently. The calls themselves are in node/client_api.py.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from node import client_wire as wire
from node.client_api import ClientApi
from node.client_http import Connections
from node.client_retry import Call, Reply, Retrier, SendFailed
from node.client_snapshots import Stream
from node.client_txn import Branch, Transaction
from node.client_types import (
    BatchDelete,
    BatchGet,
    BatchOperation,
    BatchPut,
    BatchResult,
    ClusterView,
    Consistency,
    DeleteResult,
    Event,
    EventId,
    Forgotten,
    GetResult,
    HistoryItem,
    HistoryPage,
    Hit,
    HitPage,
    Item,
    Member,
    Members,
    NamePage,
    NodeStatus,
    NodeView,
    Page,
    PutResult,
    TxnResult,
    Value,
)
from node.client_watch import Watch
from node.clock import Clock, SystemClock
from node.errors import BadRequest, HivememError, Unavailable
from node.topology import Topology, normalised

__all__ = [
    "BatchDelete",
    "BatchGet",
    "BatchOperation",
    "BatchPut",
    "BatchResult",
    "Branch",
    "ClusterView",
    "Consistency",
    "DeleteResult",
    "Event",
    "EventId",
    "Forgotten",
    "GetResult",
    "HistoryItem",
    "HistoryPage",
    "Hit",
    "HitPage",
    "HivememClient",
    "Item",
    "Member",
    "Members",
    "NamePage",
    "NodeStatus",
    "NodeView",
    "Page",
    "PutResult",
    "Transaction",
    "TxnResult",
    "Value",
    "Watch",
    "connect",
]

TIMEOUT_MS_DEFAULT = 5000
TIMEOUT_MS_MAX = 60_000
CONNECTIONS_MAX_DEFAULT = 100  # connections per node
WATCHES_MAX_DEFAULT = 100  # open watches; each holds a connection of its own
PATIENCE_MS_DEFAULT = 60_000  # how long a watch looks for a node that answers
DISCOVERY_SECONDS_MAX = 1.0  # for one look at the cluster
DISCOVERY_SECONDS_PERIOD = 10.0  # between looks while all is well
DISCOVERY_SECONDS_PAUSE = 0.2  # between looks while calls fail


def connect(
    endpoints: Sequence[str] | None = None,
    *,
    token: str | None = None,
    token_file: Path | None = None,
    ca_file: Path | None = None,
    data_dir: Path | None = None,
    timeout_ms: int = TIMEOUT_MS_DEFAULT,
) -> HivememClient:
    """A client for the given endpoints, or for those that node/discovery.py's rule finds.

    Raises: BadRequest, if what was found cannot be used.
    """
    from node.discovery import find  # only who asks for the rule pays for reading settings

    found = find(endpoints, data_dir=data_dir, token_file=token_file, ca_file=ca_file)
    return HivememClient(
        found.endpoints,
        token=found.token if token is None else token,
        ca_file=found.ca_file,
        cluster_id=found.cluster_id,
        timeout_ms=timeout_ms,
    )


class HivememClient(ClientApi):
    """Calls to one cluster. Use it as `async with`, or call `aclose` at the end."""

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        token: str | None = None,
        ca_file: Path | str | None = None,
        cluster_id: str | None = None,
        timeout_ms: int = TIMEOUT_MS_DEFAULT,
        connections_max: int = CONNECTIONS_MAX_DEFAULT,
        watches_max: int = WATCHES_MAX_DEFAULT,
        unreachable_ms_max: int | None = None,
        clock: Clock | None = None,
        follow: bool = True,
    ) -> None:
        """`ca_file`: PEM certificates to trust for https; None: the system's. `cluster_id`: nodes
        of another cluster refuse every call (WrongCluster); None: the endpoints decide. `follow`
        False: ask only the given endpoints, whoever leads; to see what one node answers.

        `unreachable_ms_max`: give up sooner than the deadline where no node at all takes a
        connection for so long; None: wait for one. Connects to nothing yet, and needs no
        event loop. Raises: BadRequest.
        """
        self._clock = clock or SystemClock()
        self._topology = Topology([endpoints] if isinstance(endpoints, str) else endpoints)
        self._follow = follow
        self._connections = Connections(
            token=token,
            ca_file=None if ca_file is None else str(ca_file),
            cluster_id=cluster_id,
            connections_max=connections_max,
            streams_max=watches_max,
        )
        self._retrier = Retrier(
            self._topology,
            self._connections.send,
            self._clock,
            self._leader_may_have_changed,
            unreachable_ms_max,
        )
        self._timeout_ms = _checked(timeout_ms)
        self._watches_max = watches_max
        self._watches: set[Watch] = set()
        self._discovery: asyncio.Task[None] | None = None
        self._discover_at = float("-inf")
        self._cluster_id = cluster_id  # None: until the first node says it
        self._calls = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End watches and close connections. Idempotent."""
        for watch in list(self._watches):
            watch.close()
        if self._discovery is not None:
            self._discovery.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._discovery
        await self._connections.aclose()

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Every address that is known, the given ones first."""
        return self._topology.known

    def watch(
        self,
        namespace: str,
        session: str | None = None,
        *,
        prefix: str | None = None,
        since: int | str | EventId | None = None,
        values: bool = True,
        patience_ms: int = PATIENCE_MS_DEFAULT,
    ) -> Watch:
        """Changes from now on, or after `since`: a revision, or an event's id.

        Goes on at another node by itself, each event once and in order. Iterate it, and
        close it (`async with`). Raises, when iterated: CompactedError, Unavailable after
        `patience_ms` without a node, BadRequest. Raises at once: Unavailable OVERLOADED
        beyond the client's `watches_max`.
        """
        if len(self._watches) >= self._watches_max:
            message = f"watches_max: this client has {self._watches_max} open watches"
            raise Unavailable(message, code="OVERLOADED")
        parameters = {
            "namespace": namespace,
            "session": session,
            "prefix": prefix or None,
            "values": values,
        }
        found = Watch(
            lambda after: f"/v1/watch{wire.query({**parameters, 'since': after})}",
            since,
            topology=self._topology,
            open_stream=self._connections.open,
            clock=self._clock,
            patience_ms=patience_ms,
            look=self._leader_may_have_changed,
            on_close=self._watches.discard,
        )
        self._watches.add(found)
        return found

    def _deadline(self, timeout_ms: int | None) -> float:
        total_ms = self._timeout_ms if timeout_ms is None else _checked(timeout_ms)
        return self._clock.monotonic() + total_ms / 1000

    async def _reply(self, call: Call, timeout_ms: int | None) -> Reply:
        self._calls += 1
        if self._calls > 1:
            # Whoever makes a single call gains nothing from knowing the leader.
            self._discover(DISCOVERY_SECONDS_PERIOD)
        total_ms = self._timeout_ms if timeout_ms is None else _checked(timeout_ms)
        return await self._retrier.run(call, total_ms)

    async def _once(self, endpoint: str, call: Call, timeout_ms: int | None) -> Reply:
        total_ms = self._timeout_ms if timeout_ms is None else _checked(timeout_ms)
        return await self._retrier.once(normalised(endpoint), call, total_ms)

    async def _stream(self, endpoint: str, target: str) -> Stream:
        return await self._connections.open(
            normalised(endpoint), target, accept="application/octet-stream"
        )

    # --- Finding the leader --------------------------------------------------------

    def _leader_may_have_changed(self) -> None:
        self._discover(DISCOVERY_SECONDS_PAUSE)

    def _discover(self, pause: float) -> None:
        """Look at the cluster in the background, unless that was done `pause` seconds ago."""
        now = self._clock.monotonic()
        if not self._follow or now < self._discover_at + pause or self._discovery is not None:
            return
        self._discover_at = now
        self._discovery = asyncio.create_task(self._look())

    async def _look(self) -> None:
        """Learn nodes and leader from the first node that knows a leader."""
        tried: set[str] = set()
        try:
            await asyncio.gather(*(self._prove(each) for each in self._topology.unproven))
            while True:
                now = self._clock.monotonic()
                address = self._topology.next(tried, now, leader=False)
                if address is None:
                    return
                tried.add(address)
                view = await self._view(address)
                if view is not None and await self._learn(view):
                    return
        finally:
            self._discovery = None

    async def _view(self, address: str) -> ClusterView | None:
        """The cluster as the node there sees it; None if it does not say."""
        # A node that hangs must not make the others' answers late.
        call = Call("GET", "/v1/cluster?timeout_ms=400", timed=False)
        try:
            reply = await self._connections.send(address, call, DISCOVERY_SECONDS_MAX)
            return None if reply.status != 200 else wire.parsed(reply.body, wire.cluster_view)
        except (SendFailed, HivememError):
            return None

    async def _learn(self, view: ClusterView) -> bool:
        """Take in the nodes that prove to be of this cluster; False if no leader is known."""
        self._cluster_id = self._cluster_id or view["cluster_id"]
        if view["cluster_id"] != self._cluster_id:
            return False
        addresses = {node["id"]: node["http"] for node in view["nodes"] if node["http"]}
        await asyncio.gather(*(self._prove(each) for each in addresses.values() if each))
        leader = addresses.get(view["leader"] or "")
        return leader is not None and self._topology.led_by(leader)

    async def _prove(self, address: str) -> None:
        found = self._topology.acceptable(address)
        if found is None or found in self._topology.known:
            return
        view = await self._view(found)
        if view is not None and view["cluster_id"] == self._cluster_id:
            self._topology.learn(found)


def _checked(timeout_ms: int) -> int:
    if isinstance(timeout_ms, bool) or not isinstance(timeout_ms, int):
        raise BadRequest("timeout_ms: must be a whole number", field="timeout_ms")
    if not 1 <= timeout_ms <= TIMEOUT_MS_MAX:
        raise BadRequest(f"timeout_ms: must be from 1 to {TIMEOUT_MS_MAX}", field="timeout_ms")
    return timeout_ms
