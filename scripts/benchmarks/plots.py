"""The plots of a full run: throughput over clients, latency over load, cost over data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from scripts.benchmarks.cases import CLIENTS
from scripts.benchmarks.measure import Footprint, Result
from scripts.benchmarks.svg import Panel, document

MIB = 1 << 20
COLOURS = {
    "hivemem-redis": "#c2410c",
    "hivemem-http": "#f59e0b",
    "etcd-grpc": "#1d4ed8",
    "etcd-grpc-16": "#60a5fa",
    "etcd-grpc-64": "#a5b4fc",
    "etcd-http": "#0891b2",
    "redis-wait": "#15803d",
    "nats-kv": "#7c3aed",
    "hivemem": "#c2410c",
    "etcd": "#1d4ed8",
    "redis": "#15803d",
    "nats": "#7c3aed",
}
CASES = {"write": "Writes, durable on a majority", "read": "Reads, linearizable"}
Lines = dict[str, list[tuple[float, float]]]


def draw(folder: Path, results: Sequence[Result], footprints: Sequence[Footprint]) -> list[Path]:
    """Write what there are figures for; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {
        "benchmark-throughput.svg": _throughput(results),
        "benchmark-latency.svg": _latency(results),
        "benchmark-size.svg": _size(footprints),
    }
    written = []
    for name, panels in found.items():
        if panels:
            (folder / name).write_text(document(panels, COLOURS), encoding="utf-8")
            written.append(folder / name)
    return written


def _throughput(results: Sequence[Result]) -> list[Panel]:
    return [
        Panel(
            title,
            "clients",
            "operations/s",
            lines,
            x_log=True,
            x_ticks=tuple(float(count) for count in CLIENTS),
        )
        for case, title in CASES.items()
        if (lines := _lines(results, case, lambda each: (each.case.clients, each.ops_per_s)))
    ]


def _latency(results: Sequence[Result]) -> list[Panel]:
    return [
        Panel(
            f"{title}: p99 over load",
            f"operations/s, at {', '.join(map(str, CLIENTS))} clients",
            "p99, ms",
            lines,
            y_log=True,
        )
        for case, title in CASES.items()
        if (lines := _lines(results, case, lambda each: (each.ops_per_s, each.p99_ms)))
    ]


def _lines(
    results: Iterable[Result], case: str, point: Callable[[Result], tuple[float, float]]
) -> Lines:
    """Door → points, by the number of clients."""
    lines: Lines = {}
    for each in sorted(results, key=lambda each: each.case.clients):
        if each.case.name == case and each.ops_per_s > 0:
            lines.setdefault(each.door, []).append(point(each))
    return lines


def _size(footprints: Sequence[Footprint]) -> list[Panel]:
    memory: Lines = {}
    disk: Lines = {}
    for each in footprints:
        memory.setdefault(each.system, []).append((each.keys, max(each.resident_bytes, 0) / MIB))
        disk.setdefault(each.system, []).append((each.keys, max(each.disk_bytes, 0) / MIB))
    if not footprints:
        return []
    stored = f"keys, with values of {footprints[0].value_bytes} bytes"
    return [
        Panel("Memory of one daemon", stored, "resident, MiB more than empty", memory),
        Panel("Disk of one daemon", stored, "allocated, MiB more than empty", disk),
    ]
