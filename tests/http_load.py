"""Closed loops of HTTP/1.1 requests from one thread: a load generator with little work of its own.

Each connection sends a request, waits for its answer, checks that it is a success, and sends the
next one. An answer that is none ends the run with its text.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, NamedTuple, cast
from urllib.parse import urlsplit

RAMP_SECONDS: Final = 0.2  # at the start of a run, that is not counted
CONNECT_SECONDS: Final = 10.0
_LENGTH = b"Content-Length: "


class Load(NamedTuple):
    """`make`: the next request, or None: no more. `seconds` None: until there are no more."""

    make: Callable[[], bytes | None]
    clients: int
    seconds: float | None


class Measured(NamedTuple):
    """`answered`: in all; the other figures leave out the first RAMP_SECONDS."""

    answered: int
    per_second: float
    p50_ms: float
    p99_ms: float


def request(method: str, path: str, body: bytes = b"") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


async def load(address: str, work: Load) -> Measured:
    """Raises RuntimeError: an answer that is no success."""
    place = urlsplit(address)
    run = _Run(work)
    loop = asyncio.get_running_loop()
    clients = []
    async with asyncio.timeout(CONNECT_SECONDS):
        for _ in range(work.clients):
            _, client = await loop.create_connection(
                lambda: _Client(run), place.hostname, place.port
            )
            clients.append(client)
    ended = asyncio.gather(*(client.ended for client in clients))
    if work.seconds is None:
        await ended
        return run.measured(time.perf_counter())
    await asyncio.wait({ended}, timeout=RAMP_SECONDS)
    run.begin()
    await asyncio.wait({ended}, timeout=work.seconds)
    measured = run.measured(time.perf_counter())
    run.stopped = True
    await ended
    return measured


class _Run:
    def __init__(self, work: Load) -> None:
        self.make = work.make
        self.stopped = False
        self.answered = 0
        self.times: list[float] = []
        self._begun = time.perf_counter()

    def begin(self) -> None:
        self.times.clear()
        self._begun = time.perf_counter()

    def measured(self, now: float) -> Measured:
        times = sorted(self.times)
        if not times:
            return Measured(self.answered, 0.0, 0.0, 0.0)
        p50, p99 = (times[int(share * (len(times) - 1))] * 1000 for share in (0.5, 0.99))
        return Measured(self.answered, len(times) / (now - self._begun), p50, p99)


class _Client(asyncio.Protocol):
    def __init__(self, run: _Run) -> None:
        self._run = run
        self._received = b""
        self._sent = 0.0
        self._transport: asyncio.Transport | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no class of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head = self._received.find(b"\r\n\r\n")
        if head < 0:
            return
        length = self._received.find(_LENGTH, 0, head) + len(_LENGTH)
        size = int(self._received[length : self._received.find(b"\r\n", length)])
        if len(self._received) < head + 4 + size:
            return
        if not self._received.startswith(b"HTTP/1.1 2"):
            self._end(RuntimeError(self._received.decode(errors="replace")[:500]))
            return
        self._received = b""
        self._run.answered += 1
        self._run.times.append(time.perf_counter() - self._sent)
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or RuntimeError("the connection was lost"))

    def _send(self) -> None:
        wanted = None if self._run.stopped else self._run.make()
        if wanted is None:
            self._end(None)
            return
        self._sent = time.perf_counter()
        assert self._transport is not None
        self._transport.write(wanted)

    def _end(self, error: Exception | None) -> None:
        if not self.ended.done():
            if error is None:
                self.ended.set_result(None)
            else:
                self.ended.set_exception(error)
        if self._transport is not None:
            self._transport.close()
