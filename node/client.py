"""The typed async client: everything a program, the CLI or the MCP server does to a cluster.

    async with connect() as memory:
        await memory.put("app", "chat", "turn-1", "hello")
        value = await memory.get("app", "chat", "turn-1")

It finds the leader and follows it, fails over to other nodes, and retries within the
deadline with one request id per write (node/client_retry.py). Errors are those of
node/errors.py; `definite` says whether the request certainly had no effect. Two codes are
the client's own: UNREACHABLE (no node could be connected to) and, from its own deadline,
OUTCOME_UNKNOWN. One client belongs to one event loop; its calls may run concurrently.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Self, TypeVar

import aiohttp
from yarl import URL

from node import client_wire as wire
from node.client_operations import Branch, Transaction, batch_document
from node.client_retry import Call, Reply, Retrier, SendFailed, node_timeout_ms
from node.client_types import (
    JSON,
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
    HistoryItem,
    HistoryPage,
    Item,
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
from node.discovery import find
from node.errors import BadRequest, HivememError, Unavailable
from node.topology import Topology

T = TypeVar("T")

TIMEOUT_MS_DEFAULT = 5000
CONNECTIONS_MAX_DEFAULT = 100  # connections per node, so that a dead one cannot take them all
WATCHES_MAX_DEFAULT = 100  # open watches; each holds a connection of its own
PATIENCE_MS_DEFAULT = 60_000  # how long a watch looks for a node that answers
CONNECT_SECONDS_MAX = 1.0  # for one TCP and TLS handshake
DISCOVERY_SECONDS_MAX = 1.0
DISCOVERY_SECONDS_PERIOD = 10.0  # while calls are made
PAGE_ITEMS = 1000


def connect(
    endpoints: Sequence[str] | None = None,
    *,
    token: str | None = None,
    token_file: Path | None = None,
    ca_file: Path | None = None,
    data_dir: Path | None = None,
    timeout_ms: int = TIMEOUT_MS_DEFAULT,
    connections_max: int = CONNECTIONS_MAX_DEFAULT,
) -> HivememClient:
    """A client for the given endpoints, or for those found by node/discovery.py's rule.

    Raises: BadRequest, if what was found cannot be used.
    """
    found = find(endpoints, data_dir=data_dir, token_file=token_file, ca_file=ca_file)
    return HivememClient(
        found.endpoints,
        token=token or found.token,
        ca_file=found.ca_file,
        timeout_ms=timeout_ms,
        connections_max=connections_max,
    )


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes


class HivememClient:
    """Calls to one cluster. Use it as `async with`, or call `aclose` at the end.

    Every method raises HivememError's subclasses. `timeout_ms` (1 to 60,000) bounds a whole
    call with its retries; None: the client's. Values are bytes, or str for UTF-8 text.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        token: str | None = None,
        ca_file: Path | str | None = None,
        timeout_ms: int = TIMEOUT_MS_DEFAULT,
        connections_max: int = CONNECTIONS_MAX_DEFAULT,
        watches_max: int = WATCHES_MAX_DEFAULT,
        clock: Clock | None = None,
    ) -> None:
        """`ca_file`: PEM certificates to trust for https; None: the system's."""
        self.topology = Topology([endpoints] if isinstance(endpoints, str) else endpoints)
        self._token = token
        self._ca_file = ca_file
        self._timeout_ms = _checked_timeout(timeout_ms)
        self._connections_max = connections_max
        self._watches_max = watches_max
        self._clock = clock or SystemClock()
        self._retrier = Retrier(self.topology, self._send, self._clock, self._look_again)
        self._session: aiohttp.ClientSession | None = None
        self._watch_session: aiohttp.ClientSession | None = None
        self._watches: set[Watch] = set()
        self._calls = 0
        self._discovery: asyncio.Task[None] | None = None
        self._discovered_at = float("-inf")
        self._closed = False

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
        self._closed = True
        for watch in list(self._watches):
            watch.close()
        if self._discovery is not None:
            self._discovery.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._discovery
        for session in (self._session, self._watch_session):
            if session is not None:
                await session.close()

