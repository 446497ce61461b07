"""What is measured: the loads, and the doors that each of them is tried on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from scripts.benchmarks.generator import Load
from scripts.benchmarks.systems import DOORS, Door

KEYS = 100_000
CLIENTS = (1, 16, 64, 256)
SIZES = (10_000, 100_000, 500_000)  # keys
PIPELINE = 16
BATCH = 100  # writes in one request
BATCH_CLIENTS = 8
LARGE_VALUE_BYTES = 4096

ETCD = ("etcd-grpc", "etcd-grpc-16", "etcd-grpc-64")
WRITERS = ("hivemem-redis", "hivemem-http", *ETCD, "etcd-http", "redis-wait", "nats-kv")
READERS = ("hivemem-redis", "hivemem-http", *ETCD, "etcd-http")
STALE_READERS = (*READERS, "redis")
# Doors through which a request may carry several writes, or several may be under way.
PIPELINES = ("hivemem-redis", "redis-wait")
BATCHES = ("hivemem-redis", "hivemem-http", "etcd-grpc", "redis-wait")


@dataclass(frozen=True, slots=True)
class Case:
    """`pipeline`: requests that a client has under way. The keys are stored beforehand."""

    name: str
    title: str
    doors: tuple[str, ...]
    clients: int = 64
    pipeline: int = 1
    batch: int = 1
    value_bytes: int = 100
    keys: int = KEYS
    reads_percent: int = 0
    zipfian: bool = False
    stale: bool = False

    def load(self, door: Door, port: int, *, warmup: float, seconds: float, seed: int) -> Load:
        """Clients of a door with streams share connections; elsewhere each has its own."""
        shared = min(door.streams, self.clients)
        return Load(
            protocol=door.protocol,
            port=port,
            connections=-(-self.clients // shared),
            depth=shared * self.pipeline,
            batch=self.batch,
            value_bytes=self.value_bytes,
            keys=self.keys,
            reads_percent=self.reads_percent,
            zipfian=self.zipfian,
            stale=self.stale and door.system != "redis",
            wait=door.wait,
            warmup=warmup,
            seconds=seconds,
            seed=seed,
        )


def _clients(count: int) -> str:
    return "1 client" if count == 1 else f"{count} clients"


def write(clients: int, doors: tuple[str, ...] = WRITERS) -> Case:
    return Case(
        "write", f"Writes, quorum-durable, {_clients(clients)}", _fitting(doors, clients), clients
    )


def read(clients: int, doors: tuple[str, ...] = READERS) -> Case:
    title = f"Reads, linearizable, {_clients(clients)}"
    return Case("read", title, _fitting(doors, clients), clients, reads_percent=100)


def _fitting(doors: tuple[str, ...], clients: int) -> tuple[str, ...]:
    """Too few clients to share connections as a door says would repeat another one."""
    return tuple(door for door in doors if DOORS[door].streams <= clients)


def pipelined() -> Case:
    title = f"Writes over the Redis protocol, 64 clients, pipelines of {PIPELINE}"
    return Case("write-pipelined", title, PIPELINES, pipeline=PIPELINE)


def quick() -> list[Case]:
    one_client = ("hivemem-redis", "hivemem-http", "etcd-grpc", "redis-wait")
    return [write(64), read(64), pipelined(), write(1, one_client)]


def full() -> list[Case]:
    """The last case leaves large values behind: reads of small ones come before it."""
    large = f"{LARGE_VALUE_BYTES // 1024} KiB"
    return [
        *(write(clients) for clients in CLIENTS),
        *(read(clients) for clients in CLIENTS),
        pipelined(),
        Case(
            "read-pipelined",
            f"Reads over the Redis protocol, 64 clients, pipelines of {PIPELINE}",
            ("hivemem-redis",),
            pipeline=PIPELINE,
            reads_percent=100,
        ),
        Case(
            "mix",
            "90 % reads, 10 % writes, Zipfian (0.99), 64 clients",
            READERS,
            reads_percent=90,
            zipfian=True,
        ),
        Case(
            "read-stale",
            "Reads, stale (of the node that is asked), 64 clients",
            STALE_READERS,
            reads_percent=100,
            stale=True,
        ),
        Case(
            "write-batch",
            f"Writes in requests of {BATCH}, {BATCH_CLIENTS} clients (latencies are of requests)",
            BATCHES,
            clients=BATCH_CLIENTS,
            batch=BATCH,
        ),
        Case(
            "write-4k",
            f"Writes of {large}, quorum-durable, 64 clients",
            WRITERS,
            value_bytes=LARGE_VALUE_BYTES,
        ),
    ]


def with_keys(cases: Sequence[Case], keys: int) -> list[Case]:
    return [replace(case, keys=keys) for case in cases]
