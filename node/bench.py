"""`hivemem bench`: what this cluster does on this machine, measured now.

For each number of clients: writes (each acknowledged after a majority's fsync), then
linearizable reads of what was written, both against the leader. The load comes from a
process of its own (node/bench_load.py), and its share of the machine is reported, since it
sets the limit when it is the one that is busy.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from urllib.parse import urlsplit

from node import client_wire as wire
from node.bench_load import Load, Outcome
from node.client import BatchDelete, BatchPut, HivememClient, NodeStatus
from node.clock import SystemClock
from node.discovery import Attachment
from node.errors import HivememError, Unavailable

NAMESPACE = "hivemem-bench"
VALUE_BYTES = 100
KEYS = 10_000  # distinct keys; deleted at the end
WARMUP_SECONDS = 0.5  # not counted
CHUNK_KEYS = 500  # keys in one request, when filling and deleting
_CPU_INFO = "/proc/cpuinfo"


@dataclass(frozen=True, slots=True)
class Row:
    """One case. Latencies in ms are of single requests; None where none succeeded."""

    case: str
    clients: int
    seconds: float
    operations: int
    ops_per_second: float
    p50_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    errors: int
    errors_by_kind: dict[str, int]
    generator_cpu_share: float  # of one core


@dataclass(frozen=True, slots=True)
class Report:
    rows: tuple[Row, ...]
    facts: tuple[str, ...]


async def run(
    client: HivememClient,
    attachment: Attachment,
    *,
    counts: Sequence[int],
    seconds: float,
    on_case: Callable[[str], None],
) -> Report:
    """Measure, and delete what was written. Raises: HivememError, if there is no leader."""
    view = await client.cluster()
    leader = next((node["http"] for node in view["nodes"] if node["id"] == view["leader"]), None)
    if leader is None:
        raise Unavailable("there is no leader to measure", code="QUORUM_NOT_REACHED")
    session = f"run-{SystemClock().new_id()}"
    load = _load(leader, attachment, session, seconds)
    rows: list[Row] = []
    try:
        await _fill(client, session)
        for count in counts:
            for case in ("write", "read"):
                on_case(f"{case}s, {count} {'clients' if count > 1 else 'client'}")
                rows.append(await _measure(replace(load, case=case, clients=count)))
    finally:
        await _clean_up(client, session)
    return Report(tuple(rows), _facts(await client.status(leader), len(view["nodes"])))


def _load(leader: str, attachment: Attachment, session: str, seconds: float) -> Load:
    address = urlsplit(leader if "://" in leader else f"http://{leader}")
    tls = address.scheme == "https"
    return Load(
        host=address.hostname or "127.0.0.1",
        port=address.port or (443 if tls else 80),
        tls=tls,
        ca_file=attachment.ca_file,
        token=attachment.token,
        case="write",
        clients=1,
        path=f"/v1/kv/{wire.path(NAMESPACE, session)}",
        keys=KEYS,
        value_bytes=VALUE_BYTES,
        warmup=WARMUP_SECONDS,
        seconds=seconds,
    )


async def _measure(load: Load) -> Row:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "node.bench_load",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        output, _ = await process.communicate(json.dumps(asdict(load)).encode())
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    try:
        fields = json.loads(output)
    except ValueError:
        raise HivememError(f"the load generator ended with {process.returncode}") from None
    if "failed" in fields:
        raise Unavailable(f"{load.host}:{load.port}: {fields['failed']}", code="UNREACHABLE")
    found = Outcome(**fields)
    return Row(
        case=load.case,
        clients=load.clients,
        seconds=found.seconds,
        operations=found.operations,
        ops_per_second=found.operations / found.seconds,
        p50_ms=found.p50_ms,
        p99_ms=found.p99_ms,
        max_ms=found.max_ms,
        errors=sum(found.errors.values()),
        errors_by_kind=found.errors,
        generator_cpu_share=found.cpu_seconds / found.seconds,
    )


async def _fill(client: HivememClient, session: str) -> None:
    """Write every key once, so that reads find what they ask for."""
    value = "x" * VALUE_BYTES
    for start in range(0, KEYS, CHUNK_KEYS):
        keys = [f"{key:08d}" for key in range(start, min(start + CHUNK_KEYS, KEYS))]
        for result in await client.batch([BatchPut(NAMESPACE, session, k, value) for k in keys]):
            if isinstance(result, HivememError):
                raise result


async def _clean_up(client: HivememClient, session: str) -> None:
    keys = [item.key async for item in client.list(NAMESPACE, session)]
    for start in range(0, len(keys), CHUNK_KEYS):
        chunk = keys[start : start + CHUNK_KEYS]
        await client.batch([BatchDelete(NAMESPACE, session, key) for key in chunk])


def _facts(status: NodeStatus, nodes: int) -> tuple[str, ...]:
    durability = ", ".join(f"{name} {value}" for name, value in status["durability"].items())
    return (
        f"{VALUE_BYTES}-byte values, {KEYS} keys, {nodes} nodes, all requests to the leader "
        f"{status['name']} (hivemem {status['version']})",
        f"durability: {durability}",
        f"machine: {os.cpu_count()} cores ({_cpu_model()}), {platform.system()} "
        f"{platform.release()}, Python {platform.python_version()}",
        "generator: Python asyncio, one process on this machine, one connection per client, "
        f"no pipelining; {WARMUP_SECONDS} s of warm-up not counted",
    )


def _cpu_model() -> str:
    try:
        with open(_CPU_INFO, encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()
