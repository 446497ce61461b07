"""The command `optimizer`: what the node that answers has learned of its queries."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from node import console
from node.cli_options import EXIT_DONE, add_client_command, positive

if TYPE_CHECKING:
    from node.client import HivememClient

PATTERNS_DEFAULT = 20
SHAPE_CHARACTERS_MAX = 60  # in tables
_HEADINGS = (
    *("collection", "operation", "shape", "executions", "cached", "p50 ms", "p99 ms"),
    *("examined", "returned", "trial"),
)


def add_commands(subparsers: argparse._SubParsersAction[Any]) -> None:
    command = add_client_command(
        subparsers, "optimizer", "patterns of queries, trials and recommendations", _optimizer
    )
    command.add_argument(
        "--limit", type=positive, default=PATTERNS_DEFAULT, metavar="N",
        help=f"patterns that took the most time (default {PATTERNS_DEFAULT})",
    )  # fmt: skip


async def _optimizer(client: HivememClient, options: argparse.Namespace) -> int:
    found = await client.optimizer(limit=options.limit)
    if options.output == "json":
        console.write_json(found)
        return EXIT_DONE
    if not found["enabled"]:
        console.write("the optimizer is off: optimizer.patterns_max is 0")
    patterns, trials = found["patterns"], found["trials"]
    console.write(
        f"{found['node'] or 'this node'}: {patterns['count']} patterns, "
        f"{found['executions']} executions, "
        f"{found['cache_hits']} from the cache; trials: {trials['trying']} under way, "
        f"{trials['adopted']} adopted, {trials['rejected']} rejected, "
        f"{trials['rolled_back']} rolled back"
    )
    for cache in found["cache"]:
        rate = "-" if cache["hit_rate"] is None else f"{cache['hit_rate']:.0%}"
        console.write(
            f"cache of group {cache['group']}: {cache['entries']} answers, "
            f"{console.size(cache['bytes'])} of {console.size(cache['bytes_max'])}, hits {rate}, "
            f"{cache['evictions']} evicted"
        )
    if found["items"]:
        console.table(_HEADINGS, [_row(each) for each in found["items"]])
    for each in found["recommendations"]:
        console.write(console.printable(f"{each['priority']}: {each['description']}"))
    return EXIT_DONE


def _row(pattern: dict[str, Any]) -> tuple[str, ...]:
    shape = pattern["shape"]
    if len(shape) > SHAPE_CHARACTERS_MAX:
        shape = shape[: SHAPE_CHARACTERS_MAX - 1] + "…"
    latency = pattern["latency_ms"]
    return (
        f"{pattern['namespace']}/{pattern['collection']}",
        pattern["operation"],
        console.printable(shape),
        str(pattern["executions"]),
        str(pattern["cache_hits"]),
        _number(latency["p50"]),
        _number(latency["p99"]),
        _number(pattern["examined"]),
        _number(pattern["returned"]),
        "; ".join(map(_trial, pattern["trials"])) or "-",
    )


def _trial(trial: dict[str, Any]) -> str:
    candidate = trial["candidate"]
    return console.printable(trial["state"] + (f" {candidate}" if candidate else ""))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
