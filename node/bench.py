"""A load generator for `hivemem bench`: raw HTTP over asyncio, one connection per client.

It shares the machine with the cluster, and is Python: above a few thousand operations a
second it is itself a good part of what is measured. `docs/benchmarks.md` uses wrk too.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from node.client import HivememClient
from node.client_types import NodeStatus
from node.clock import SystemClock
from node.errors import BadRequest

VALUE_BYTES = 100
READ_KEYS = 1000  # keys that reads are spread over
NAMESPACE = "hivemem-bench"
Case = Literal["write", "read"]


@dataclass(frozen=True, slots=True)
class Row:
    """Measured figures of one case. Latencies are of single requests, in ms."""

    case: str
    clients: int
    seconds: float
    operations: int
    ops_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int  # answers other than 200


async def measure(
    client: HivememClient, endpoint: str, case: str, clients: int, seconds: float
) -> Row:
    """Run one case against one node (the leader). Raises BadRequest for https endpoints."""
    if case == "read":
        value = "x" * VALUE_BYTES
        for number in range(READ_KEYS):
            await client.put(NAMESPACE, "read", str(number), value)
    address = urlsplit(endpoint)
    if address.scheme != "http" or address.hostname is None or address.port is None:
        raise BadRequest("bench speaks plain http with a port", field="endpoints")
    clock = SystemClock()
    latencies: list[float] = []
    errors = 0
    started = clock.monotonic()
    until = started + seconds

    async def one(number: int) -> None:
        nonlocal errors
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        sent = 0
        run = clock.new_id()
        while (before := clock.monotonic()) < until:
            writer.write(_request(case, run, number, sent))
            sent += 1
            status = await _answer(reader)
            latencies.append(clock.monotonic() - before)
            errors += status != 200
        writer.close()

    await asyncio.gather(*(one(number) for number in range(clients)))
    elapsed = clock.monotonic() - started
    latencies.sort()
    count = len(latencies)
    return Row(
        case=case,
        clients=clients,
        seconds=round(elapsed, 3),
        operations=count,
        ops_per_s=round(count / elapsed, 1),
        p50_ms=round(latencies[count // 2] * 1000, 3),
        p99_ms=round(latencies[min(count - 1, count * 99 // 100)] * 1000, 3),
        errors=errors,
    )


def _request(case: str, run: str, client: int, number: int) -> bytes:
    if case == "read":
        key = (client * 7919 + number) % READ_KEYS
        return f"GET /v1/kv/{NAMESPACE}/read/{key} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()
    head = (
        f"PUT /v1/kv/{NAMESPACE}/write/{run}-{client}-{number} HTTP/1.1\r\n"
        f"Host: bench\r\nContent-Length: {VALUE_BYTES}\r\n\r\n"
    )
    return head.encode() + b"x" * VALUE_BYTES


async def _answer(reader: asyncio.StreamReader) -> int:
    """Status of one answer; its body is read and dropped."""
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head[9:12])
    lowered = head.lower()
    at = lowered.find(b"content-length:")
    length = int(lowered[at + 15 : lowered.index(b"\r\n", at)]) if at >= 0 else 0
    await reader.readexactly(length)
    return status


def facts(status: NodeStatus) -> str:
    """What the figures depend on."""
    return (
        f"{VALUE_BYTES}-byte values, all requests to the leader {status['name']}, fsync "
        f"{status['durability'].get('fsync')}, {os.cpu_count()} cores shared by the nodes and this "
        "generator (Python, one process, no pipelining)"
    )
