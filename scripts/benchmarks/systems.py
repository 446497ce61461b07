"""What a run asks of a system, and the ways into it that are compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from scripts.benchmarks import daemons
from scripts.benchmarks.daemons import Usage
from scripts.benchmarks.generator import Load


@dataclass(frozen=True, slots=True)
class Door:
    """One way into a system, as the tables name it.

    `streams`: clients that share a connection. `wait`: Redis replicas that must have a write.
    """

    name: str
    system: str
    protocol: str
    note: str
    streams: int = 1
    wait: int = 0


class System(Protocol):
    """Three daemons on loopback. Methods block; they raise BenchmarkError."""

    name: str
    folder: Path  # of all their data

    def start(self, folder: Path) -> None:
        """Until the three serve."""

    def stop(self) -> None: ...

    def pids(self) -> list[int]: ...

    def port(self, protocol: str) -> int:
        """Of the leader (master), as it is now."""

    def fill(self, keys: int, value_bytes: int) -> Load:
        """The quickest way to store so many keys."""

    def facts(self) -> str:
        """Version, and what there is to know about durability."""


def usage(system: System) -> Usage:
    pids = system.pids()
    return Usage(
        daemons.cpu_seconds(pids),
        daemons.resident_bytes(pids),
        daemons.disk_bytes(system.folder),
    )


DOORS = {
    door.name: door
    for door in (
        Door("hivemem-redis", "hivemem", "resp", "Redis protocol, leader"),
        Door("hivemem-http", "hivemem", "http-hivemem", "HTTP/1.1, leader"),
        Door("etcd-grpc", "etcd", "grpc-etcd", "gRPC, leader, a connection per client"),
        Door("etcd-grpc-16", "etcd", "grpc-etcd", "the same, 16 clients a connection", streams=16),
        Door("etcd-grpc-64", "etcd", "grpc-etcd", "the same, 64 clients a connection", streams=64),
        Door("etcd-http", "etcd", "http-etcd", "HTTP gateway, leader"),
        Door("redis-wait", "redis", "resp", "master, WAIT 1 after each batch of writes", wait=1),
        Door("redis", "redis", "resp", "master alone: its reads are not linearizable"),
        Door("nats-kv", "nats", "nats-kv", "JetStream key-value bucket, R3, stream's leader"),
    )
}
