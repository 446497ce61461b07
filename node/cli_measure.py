"""The commands that look at the cluster itself: status and bench."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from node import console
from node.cli_options import (
    EXIT_DONE,
    EXIT_FAILED,
    UsageError,
    add_client_command,
    positive,
)
from node.errors import DeadlineExceeded, Unavailable

if TYPE_CHECKING:
    from node.bench import Row
    from node.client import HivememClient, NodeView

STATUS_MS_MAX = 3000  # a status that takes longer is bad news, too
_HEADINGS = (
    *("node", "id", "version", "role", "term", "log", "commit", "applied"),
    *("disk", "memory", "uptime", "http"),
)


def add_commands(subparsers: argparse._SubParsersAction[Any]) -> None:
    add_client_command(subparsers, "status", "show the cluster's nodes", _status)
    bench = add_client_command(
        subparsers, "bench", "measure writes and linearizable reads on this cluster", _bench
    )
    bench.add_argument(
        "--seconds", type=float, default=5.0, metavar="S", help="of each case (default 5)"
    )
    bench.add_argument(
        "--clients",
        type=_counts,
        default=(1, 64),
        metavar="N[,N…]",
        help="concurrent connections (default 1,64)",
    )


def _counts(text: str) -> tuple[int, ...]:
    return tuple(positive(part) for part in text.split(","))


async def _status(client: HivememClient, options: argparse.Namespace) -> int:
    try:
        view = await client.cluster(timeout_ms=min(options.timeout_ms, STATUS_MS_MAX))
    except (Unavailable, DeadlineExceeded) as error:
        return _no_node(client, options, error)
    nodes = view["nodes"]
    voters = [node for node in nodes if node.get("voter", True)]
    healthy = sum(node["healthy"] for node in voters)
    quorum = view["leader"] is not None and healthy > len(voters) // 2
    if options.output == "json":
        console.write_json({**view, "quorum": quorum})
        return EXIT_DONE if quorum else EXIT_FAILED
    console.table(_HEADINGS, [_row(node) for node in nodes])
    if not quorum:
        # A node that answers and knows no leader is not healthy, but it is not what is missing.
        answering = sum(node["role"] is not None for node in voters)
        console.say(
            f"hivemem: no quorum: {answering} of {len(voters)} voters answer, {healthy} of them "
            "with a leader"
        )
    return EXIT_DONE if quorum else EXIT_FAILED


def _no_node(client: HivememClient, options: argparse.Namespace, error: Exception) -> int:
    """Nobody answered: all that is known are the addresses."""
    if options.output == "json":
        nodes = [{"http": address, "role": None, "healthy": False} for address in client.endpoints]
        document = {"cluster_id": None, "leader": None, "term": None, "nodes": nodes}
        console.write_json({**document, "quorum": False})
    else:
        unknown = ("-",) * (len(_HEADINGS) - 5)
        rows = [("-", "-", "-", "unreachable", *unknown, address) for address in client.endpoints]
        console.table(_HEADINGS, rows)
    console.say(
        f"hivemem: no node answered ({error}); start a cluster with `hivemem up`, or name its "
        "nodes with --endpoints"
    )
    return EXIT_FAILED


def _row(node: NodeView) -> tuple[str, ...]:
    def known(value: object) -> str:
        return "-" if value is None else str(value)

    return (
        node["name"],
        node["id"][:8],
        known(node["version"]),
        node["role"] or "unreachable",
        known(node["term"]),
        known(node["log_index"]),
        known(node["commit_index"]),
        known(node["applied_index"]),
        console.size(node["disk_bytes"]),
        console.size(node["memory_bytes"]),
        console.duration(node["uptime_seconds"]),
        known(node["http"]),
    )


async def _bench(client: HivememClient, options: argparse.Namespace) -> int:
    from node import bench, discovery

    if not 0 < options.seconds <= 3600:
        raise UsageError("--seconds must be more than 0 and at most 3600")
    report = await bench.run(
        client,
        discovery.from_options(options),
        counts=options.clients,
        seconds=options.seconds,
        on_case=lambda text: console.say(f"measuring {text}"),
    )
    if options.output == "json":
        console.write_json(asdict(report))
        return EXIT_DONE
    headings = ("case", "clients", "ops/s", "p50 ms", "p99 ms", "max ms", "errors", "generator cpu")
    console.table(headings, [_bench_row(row) for row in report.rows])
    for line in report.facts:
        console.write(line)
    return EXIT_DONE


def _bench_row(row: Row) -> tuple[str, ...]:
    latencies = (row.p50_ms, row.p99_ms, row.max_ms)
    return (
        row.case,
        str(row.clients),
        f"{row.ops_per_second:,.0f}",
        *("-" if ms is None else f"{ms:.2f}" for ms in latencies),
        str(row.errors),
        f"{row.generator_cpu_share:.0%} of a core",
    )
