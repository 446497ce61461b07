"""`hivemem partitions`, and waiting for partitions that leave a node."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING, Any

from node import console
from node.cli_options import EXIT_DONE, add_client_command
from node.clock import SystemClock
from node.errors import HivememError

if TYPE_CHECKING:
    from node.client import HivememClient, Member, Members
    from node.client_types import Partition, Partitions

POLL_SECONDS = 0.3
REMOVE_MS = 3_000  # ms; of one try, after which is said what is left
PROGRESS_SECONDS = 2.0  # between two lines about partitions on their way
_HEADINGS = ("partition", "slots", "leader", "keys", "replicas", "moving")
_NODE_HEADINGS = ("node", "replicas", "leads", "labels", "state")


def add_commands(subparsers: argparse._SubParsersAction[Any]) -> None:
    add_client_command(subparsers, "partitions", "show where the partitions are", _partitions)


async def _partitions(client: HivememClient, options: argparse.Namespace) -> int:
    show_partitions(await client.partitions(), options.output)
    return EXIT_DONE


def show_partitions(view: Partitions, output: str) -> None:
    if output == "json":
        console.write_json(view)
        return
    names = {node["id"]: node["name"] for node in view["nodes"]}
    console.table(_HEADINGS, [_row(each, names) for each in view["partitions"]])
    console.write("")
    console.table(
        _NODE_HEADINGS,
        [
            (
                node["name"],
                str(node["replicas"]),
                str(node["leaders"]),
                ", ".join(node["labels"]) or "-",
                _state(node["answering"], node["draining"], node["removing"]),
            )
            for node in view["nodes"]
        ],
    )
    for line in _summary(view):
        console.write(line)


def _row(each: Partition, names: dict[str, str]) -> tuple[str, ...]:
    holders = {replica["node"] for replica in each["replicas"]}
    coming = [f"+{names.get(node, node)}" for node in each["target"] if node not in holders]
    coming += [
        f"+{replica['name'] or replica['node']}"
        for replica in each["replicas"]
        if replica["role"] == "learner" and replica["wanted"]
    ]
    going = [
        f"-{replica['name'] or replica['node']}"
        for replica in each["replicas"]
        if not replica["wanted"]
    ]
    leader = each["leader"]
    return (
        str(each["id"]),
        f"{each['first_slot']}-{each['last_slot']}",
        names.get(leader, leader) if leader else "none",
        "?" if each["keys"] is None else str(each["keys"]),
        " ".join(replica["name"] or replica["node"] for replica in each["replicas"]),
        " ".join(coming + going) or "-",
    )


def _state(answering: bool, draining: bool, removing: bool) -> str:
    words = ["up" if answering else "no answer"]
    if removing:
        words.append("leaving")
    elif draining:
        words.append("draining")
    return ", ".join(words)


def _summary(view: Partitions) -> list[str]:
    if view["progress"] is None:
        return ["", "not partitioned: every node holds everything"]
    progress = view["progress"]
    lines = [
        "",
        f"map {view['epoch']}, replication factor {view['replication_factor']}: "
        f"{progress['partitions_done']} of {progress['partitions_total']} partitions are where "
        "they should be",
    ]
    return lines + [f"warning: {line}" for line in view["warnings"]]


async def wait_until_drained(client: HivememClient, node: Member, seconds: float) -> bool:
    """Say how many partitions are still to leave, until none is or the time is over."""
    clock = SystemClock()
    deadline = clock.monotonic() + seconds
    said_at = clock.monotonic()
    while True:
        left = await _left(client, node["id"])
        if left == 0:
            return True
        now = clock.monotonic()
        if now >= deadline:
            console.say(
                f"hivemem: {_shown(left)} still to leave {node['name']}; they go on by themselves "
                "(hivemem partitions)"
            )
            return False
        if now - said_at >= PROGRESS_SECONDS:
            said_at = now
            console.say(f"hivemem: {_shown(left)} still to leave {node['name']}")
        await asyncio.sleep(POLL_SECONDS)


async def _left(client: HivememClient, node: str) -> int | None:
    """Partitions that a node holds; None: nobody could say."""
    try:
        view = await client.partitions()
    except HivememError:
        return None
    return next((each["replicas"] for each in view["nodes"] if each["id"] == node), 0)


def _shown(left: int | None) -> str:
    return "partitions are" if left is None else f"{left} partition{'s are' if left > 1 else ' is'}"


async def remove_when_drained(client: HivememClient, node: Member, seconds: float) -> Members:
    """Take a node out, waiting for its partitions to leave. Raises HivememError."""
    clock = SystemClock()
    deadline = clock.monotonic() + seconds
    while True:
        try:
            return await client.remove_member(node["id"], timeout_ms=REMOVE_MS)
        except HivememError as error:
            if error.code != "DRAINING" or clock.monotonic() >= deadline:
                raise
            console.say(f"hivemem: {error.message}")
