"""Dialling peers for as long as they are members: attempts, backoff, TCP."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Protocol

from cluster.connection import Connection
from cluster.transport_config import PeerAddress, TransportLimits


class Rng(Protocol):
    """The part of random.Random that jitter needs."""

    def random(self) -> float: ...


class Dialling:
    """The tasks that dial, at most one per peer that is still to be dialled."""

    def __init__(self, limits: TransportLimits, rng: Rng) -> None:
        self._limits = limits
        self._rng = rng
        self._by_peer: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # and those that are being cancelled

    def begin(self, peer: str, attempt: Callable[[], Awaitable[Connection | None]]) -> None:
        """Dial until `end`; see `dial_forever`."""
        assert peer not in self._by_peer
        loop = asyncio.get_running_loop()
        task = loop.create_task(dial_forever(attempt, self._limits, self._rng))
        self._by_peer[peer] = task
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def end(self, peer: str) -> None:
        """Dial no more, if it was dialled. An open connection stays open."""
        if (task := self._by_peer.pop(peer, None)) is not None:
            task.cancel()

    async def stop(self) -> None:
        for peer in list(self._by_peer):
            self.end(peer)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _done(self, task: asyncio.Task[None]) -> None:
        """A dialler never ends by itself; if it failed, nothing else would say so."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            task.get_loop().call_exception_handler(
                {"message": "dialling a peer failed for good", "exception": error, "task": task}
            )


async def dial_forever(
    attempt: Callable[[], Awaitable[Connection | None]], limits: TransportLimits, rng: Rng
) -> None:
    """Keep one connection open. `attempt` returns an open connection, or None."""
    failures = 0
    while True:
        connection = await attempt()
        if connection is not None:
            failures = 0
            await connection.lost
        await asyncio.sleep(backoff_seconds(limits, failures, rng.random()))
        failures += 1


def backoff_seconds(limits: TransportLimits, failures: int, jitter: float) -> float:
    """How long to wait before dialling again after `failures` failures in a row.

    Doubles from reconnect_ms_min to reconnect_ms_max; `jitter`, 0 to 1, takes off up
    to a half, so that the nodes of a cluster do not knock in step.
    """
    whole = min(limits.reconnect_ms_max, limits.reconnect_ms_min << min(failures, 16))
    return whole / 1000 * (1 - jitter / 2)


async def connected_socket(address: PeerAddress) -> socket.socket:
    """A TCP connection to the first of the host's addresses that accepts. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    failure = OSError(f"no address for {address.host}")
    for family, kind, protocol, _, target in found:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, target)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure
