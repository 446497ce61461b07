"""The load generator of `hivemem bench`: a process of its own, `python -m node.bench_load`.

It reads one JSON object from standard input and writes one to standard output. Each client
is one connection that sends a request, waits for the answer and sends the next one (closed
loop, no pipelining). It speaks just enough HTTP for that, because every microsecond it
uses is taken from the cluster on the same machine; it reports what it used.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import ssl
import sys
from array import array
from collections import Counter
from dataclasses import asdict, dataclass
from typing import cast


@dataclass(frozen=True, slots=True)
class Load:
    """What to do. Times in seconds."""

    host: str
    port: int
    tls: bool
    ca_file: str | None
    token: str | None
    case: str  # write | read
    clients: int
    path: str  # of the session, encoded
    keys: int  # distinct keys, shared out among the clients
    value_bytes: int
    warmup: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was measured after the warm-up. Latencies in ms, of successful requests."""

    operations: int
    seconds: float
    p50_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    errors: dict[str, int]  # status or reason → count
    cpu_seconds: float  # used by this process in that time


class _Measure:
    """Shared by all clients. Loop times are monotonic seconds."""

    def __init__(self, start: float, end: float) -> None:
        self.start, self.end = start, end
        self.latencies = array("d")
        self.errors: Counter[str] = Counter()


class _Client(asyncio.Protocol):
    """One connection. `requests` are used in turn."""

    def __init__(self, requests: list[bytes], measure: _Measure) -> None:
        self.done = asyncio.get_running_loop().create_future()
        self._requests = requests
        self._measure = measure
        self._turn = 0
        self._buffer = b""
        self._sent_at = 0.0
        self._time = asyncio.get_running_loop().time
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self._measure.errors["connection lost"] += 1
            self.done.set_result(None)

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data if self._buffer else data
        length = _answer_length(data)
        if length is None or len(data) < length:
            self._buffer = data
            return
        self._buffer = b""
        now = self._time()
        measure = self._measure
        if measure.start <= self._sent_at and now <= measure.end:
            if data[9:12] == b"200":
                measure.latencies.append(now - self._sent_at)
            else:
                measure.errors[data[9:12].decode("ascii", "replace")] += 1
        if now < measure.end:
            self._send()
        elif not self.done.done():
            self.done.set_result(None)
            self._transport.close()

    def _send(self) -> None:
        self._turn = (self._turn + 1) % len(self._requests)
        self._sent_at = self._time()
        self._transport.write(self._requests[self._turn])


def _answer_length(data: bytes) -> int | None:
    """Bytes of the whole answer; None while its head is incomplete."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = data[:end].lower()
    at = head.find(b"content-length:")
    if at < 0:
        return end + 4
    return end + 4 + int(head[at + 15 :].split(b"\r\n", 1)[0])


def _requests(load: Load, client: int) -> list[bytes]:
    """The requests of one client: its share of the keys."""
    token = "" if load.token is None else f"Authorization: Bearer {load.token}\r\n"
    head = f"HTTP/1.1\r\nHost: {load.host}:{load.port}\r\n{token}"
    found: list[bytes] = []
    for key in range(client, max(load.keys, client + 1), load.clients):
        if load.case == "read":
            found.append(f"GET {load.path}/{key:08d} {head}\r\n".encode("ascii"))
        else:
            put = f"PUT {load.path}/{key:08d} {head}Content-Length: {load.value_bytes}\r\n\r\n"
            found.append(put.encode("ascii") + f"{key:08d}".encode().ljust(load.value_bytes, b"x"))
    return found


async def measure(load: Load) -> Outcome:
    """Run the load. Raises: OSError, if the node cannot be connected to."""
    loop = asyncio.get_running_loop()
    tls = ssl.create_default_context(cafile=load.ca_file) if load.tls else None
    start = loop.time() + load.warmup
    found = _Measure(start, start + load.seconds)
    clients: list[_Client] = []
    for number in range(load.clients):
        requests = _requests(load, number)
        _, client = await loop.create_connection(
            lambda requests=requests: _Client(requests, found),
            load.host,
            load.port,
            ssl=tls,
        )
        clients.append(client)
    await asyncio.sleep(max(0.0, start - loop.time()))
    cpu = _cpu_seconds()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(found.end + 10):  # a node that hangs answers nobody
            await asyncio.gather(*(client.done for client in clients))
    cpu = _cpu_seconds() - cpu
    latencies = sorted(found.latencies)
    return Outcome(
        operations=len(latencies),
        seconds=load.seconds,
        p50_ms=_percentile_ms(latencies, 0.50),
        p99_ms=_percentile_ms(latencies, 0.99),
        max_ms=_percentile_ms(latencies, 1.0),
        errors=dict(found.errors),
        cpu_seconds=cpu,
    )


def _percentile_ms(ordered: list[float], share: float) -> float | None:
    """Nearest-rank percentile of what was measured; None of nothing."""
    if not ordered:
        return None
    rank = max(1, -int(-share * len(ordered) // 1))  # rounded up
    return ordered[rank - 1] * 1000


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> int:
    load = Load(**json.load(sys.stdin))
    try:
        outcome = asyncio.run(measure(load))
    except OSError as error:
        sys.stdout.write(json.dumps({"failed": str(error)}))
        return 1
    sys.stdout.write(json.dumps(asdict(outcome)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
