"""The Redis door: listens, and ties connections to the node. Loop thread only.

Contract: docs/redis.md. Linearizable unless a client says READONLY; a write is answered
after it is durable on a majority.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count as numbers

from engines.interfaces import Limits
from node.auth import Tokens
from node.clock import Clock
from node.resp_cluster import Overview
from node.resp_connection import Connection
from node.resp_limits import RespLimits
from node.resp_lookups import Groups, WayTo
from node.resp_reads import ReadBatches
from node.resp_server import DoorFigures, ServerCommands
from node.resp_steps import ControlSpec
from node.resp_writes import Writes
from node.service import Router, Service
from node.views import NodeInfo

TICK_SECONDS = 0.1  # how late an expired command may be answered
BACKLOG_CONNECTIONS = 1024  # not yet accepted
STOP_SECONDS_MAX = 10.0  # for commands in flight when a node stops


@dataclass(frozen=True, slots=True)
class RespParts:
    """`on_fatal` hears of damage, which has to stop the node."""

    groups: Groups
    way_to: WayTo
    router: Router  # of every session
    service: Service
    info: NodeInfo
    overview: Overview
    command_limits: Limits
    clock: Clock
    tokens: Tokens | None
    limits: RespLimits
    on_fatal: Callable[[BaseException], None]


class RespServer:
    """The `Door` of its connections."""

    def __init__(self, parts: RespParts) -> None:
        self.limits = parts.limits
        self.clock = parts.clock
        self.tokens = parts.tokens
        self.stopping = False
        self._on_fatal = parts.on_fatal
        self._figures = DoorFigures()
        self._held = 0  # bytes of commands, of all connections
        self.reads = ReadBatches(
            parts.groups,
            parts.way_to,
            parts.clock,
            parts.on_fatal,
            parts.limits.command_timeout_ms / 1000,
        )
        self.writes = Writes(parts.groups, parts.router, parts.command_limits)
        self.controls: Mapping[str, ControlSpec] = ServerCommands(
            parts.info,
            parts.groups.count,
            parts.overview,
            parts.service,
            parts.way_to,
            parts.limits,
            parts.clock,
            self._figures,
        ).specs()
        self._numbers = numbers(1)
        self._open: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._tick: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    async def start(
        self, host: str, port: int, ssl_context: ssl.SSLContext | None = None
    ) -> tuple[str, int]:
        """Listen. Returns the address bound (port 0 picks one). Raises: OSError."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self, next(self._numbers)),
            host,
            port,
            ssl=ssl_context,
            backlog=BACKLOG_CONNECTIONS,
        )
        bound = self._server.sockets[0].getsockname()
        return str(bound[0]), int(bound[1])

    async def stop(self, *, at_once: bool = False) -> None:
        """Refuse what is new, let commands in flight finish unless `at_once`, close."""
        self.stopping = True
        if self._server is not None:
            self._server.close()
        for connection in list(self._open):
            connection.close()
        if not at_once and self._open:
            try:
                async with asyncio.timeout(STOP_SECONDS_MAX):
                    await self._empty.wait()
            except TimeoutError:
                pass
        for connection in list(self._open):
            connection.abort()
        if self._tick is not None:
            self._tick.cancel()

    @property
    def open_count(self) -> int:
        return len(self._open)

    # --- For connections -----------------------------------------------------------

    def admit(self, connection: Connection) -> bool:
        if len(self._open) >= self.limits.connections_max or self.stopping:
            self._figures.connections_refused += 1
            return False
        self._open.add(connection)
        self._empty.clear()
        self._figures.connections = len(self._open)
        self._figures.connections_total += 1
        if self._tick is None:
            self._schedule_tick()
        return True

    def forget(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._figures.connections = len(self._open)
        if not self._open:
            self._empty.set()

    def fail(self, error: BaseException) -> None:
        """Damage was met: the node has to stop."""
        self._on_fatal(error)

    def hold(self, size: int) -> bool:
        self._held += size
        return self._held <= self.limits.input_bytes_max

    def count(self, command: str) -> None:
        self._figures.commands[command] += 1

    def _schedule_tick(self) -> None:
        self._tick = asyncio.get_running_loop().call_later(TICK_SECONDS, self._on_tick)

    def _on_tick(self) -> None:
        """Only while there is somebody to look after."""
        self._tick = None
        now = self.clock.monotonic()
        for connection in list(self._open):
            connection.tick(now)
        if self._open:
            self._schedule_tick()
