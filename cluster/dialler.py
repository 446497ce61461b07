"""Dialling one peer for as long as the node runs: attempts, backoff, TCP."""

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
