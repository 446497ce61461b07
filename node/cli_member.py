"""The commands about who belongs to the cluster and who leads it, and the last resort."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from node import console
from node.cli_options import (
    EXIT_CODES,
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_UNAVAILABLE,
    UsageError,
    add_client_command,
)
from node.cli_partitions import remove_when_drained, show_partitions, wait_until_drained
from node.clock import SystemClock
from node.errors import HivememError, NotFound, Unavailable

if TYPE_CHECKING:
    from node.client import HivememClient, Member, Members
    from node.local_members import Newcomer
    from node.recover import Outlook

WAIT_SECONDS_DEFAULT = 300.0  # for a new node to catch up: a gigabyte and its log
POLL_SECONDS = 0.2
PROGRESS_SECONDS = 2.0  # between two lines about a node that catches up
_HEADINGS = ("node", "id", "role", "peer", "http")


def add_commands(subparsers: argparse._SubParsersAction[Any]) -> None:
    group = subparsers.add_parser(
        "member", help="list, add, promote, update, drain or remove nodes", epilog=EXIT_CODES
    )
    actions = group.add_subparsers(dest="member_command", required=True, metavar="COMMAND")
    add_client_command(actions, "list", "show who belongs to the cluster", _list)
    _add_add(actions)
    node = "NODE"
    remove = add_client_command(actions, "remove", "take a node out; it stops by itself", _remove)
    promote = add_client_command(actions, "promote", "give a learner its vote now", _promote)
    update = add_client_command(actions, "update", "change a node's name or addresses", _update)
    drain = add_client_command(actions, "drain", "move a node's partitions to others", _drain)
    drain.add_argument("--undo", action="store_true", help="let it hold partitions again")
    _add_wait(drain, "for its partitions to leave")
    _add_wait(remove, "for its partitions to leave")
    for command in (remove, promote, update, drain):
        command.add_argument("node", metavar=node, help="name or id")
    update.add_argument("--name", metavar="NAME")
    update.add_argument("--peer", metavar="HOST:PORT")
    update.add_argument("--http", metavar="URL")
    transfer = add_client_command(
        subparsers, "transfer-leadership", "have another node lead", _transfer
    )
    transfer.add_argument(
        "node", nargs="?", metavar=node, help="name or id (default: whoever is furthest)"
    )
    recover = subparsers.add_parser(
        "recover",
        help="make a new cluster of one node, when a quorum is lost for good",
        description="Offline: the node must be stopped. Says what may be lost, and asks.",
        epilog=EXIT_CODES,
    )
    recover.add_argument("--force-new-cluster", action="store_true", help="say that you mean it")
    recover.add_argument("--config", type=Path, required=True, metavar="FILE")
    recover.add_argument("--yes", action="store_true", help="do not ask")
    recover.add_argument("-o", "--output", choices=("table", "json"), default="table")
    recover.set_defaults(run=_recover)


def _add_add(actions: argparse._SubParsersAction[Any]) -> None:
    add = add_client_command(actions, "add", "add a node, and wait until it has a vote", _add)
    add.add_argument("name", metavar="NAME")
    add.add_argument("--id", metavar="UUID", help="of a node that runs with cluster.join")
    add.add_argument("--peer", metavar="HOST:PORT", help="where other nodes reach it")
    add.add_argument("--http", metavar="URL", help="where clients reach it")
    _add_wait(add, "for it to catch up")
    add.epilog = (
        "without --id, --peer and --http: makes and starts a new node of the cluster that "
        f"`hivemem up` keeps on this machine. {EXIT_CODES}"
    )


def _add_wait(command: argparse.ArgumentParser, reason: str) -> None:
    command.add_argument(
        "--wait-seconds",
        type=float,
        default=WAIT_SECONDS_DEFAULT,
        metavar="S",
        help=f"{reason} (default {WAIT_SECONDS_DEFAULT:.0f}; 0: do not wait)",
    )


# --- Members ---------------------------------------------------------------------------


async def _list(client: HivememClient, options: argparse.Namespace) -> int:
    _show(await client.members(), options)
    return EXIT_DONE


def _show(view: Members, options: argparse.Namespace) -> None:
    if options.output == "json":
        console.write_json(view)
        return
    rows = [
        (
            each["name"],
            each["id"],
            "leader" if each["id"] == view["leader"] else each["role"],
            each["peer"],
            each["http"],
        )
        for each in sorted(view["members"], key=lambda each: each["name"])
    ]
    console.table(_HEADINGS, rows)


def find(view: Members, text: str) -> Member:
    """The member of this name or id. Raises: NotFound."""
    for each in view["members"]:
        if text in (each["id"], each["name"]):
            return each
    raise NotFound(f"no member has the name or id {text}", code="MEMBER_NOT_FOUND", field="node")


async def _promote(client: HivememClient, options: argparse.Namespace) -> int:
    node = find(await client.members(), options.node)
    _show(await client.promote_member(node["id"]), options)
    return EXIT_DONE


async def _update(client: HivememClient, options: argparse.Namespace) -> int:
    if not (options.name or options.peer or options.http):
        raise UsageError("give --name, --peer or --http")
    node = find(await client.members(), options.node)
    changed = await client.update_member(
        node["id"], name=options.name, peer=options.peer, http=options.http
    )
    _show(changed, options)
    return EXIT_DONE


async def _transfer(client: HivememClient, options: argparse.Namespace) -> int:
    members = await client.members()
    target = find(members, options.node)["id"] if options.node else None
    leader = await client.transfer_leadership(target)
    name = next((each["name"] for each in members["members"] if each["id"] == leader), leader)
    if options.output == "json":
        console.write_json({"leader": leader, "name": name})
    else:
        console.write(f"{name} leads now")
    return EXIT_DONE


async def _remove(client: HivememClient, options: argparse.Namespace) -> int:
    from node import discovery, local_members
    from node.environment import environment

    environ = environment()
    cluster = await client.cluster()
    node = find(await client.members(), options.node)
    left = await remove_when_drained(client, node, options.wait_seconds)
    root = discovery.data_dir(options.data_dir, environ)
    plan = local_members.local_plan(root, cluster["cluster_id"])
    own = next((each for each in plan.nodes if each.id == node["id"]), None) if plan else None
    if plan is None or own is None:
        _show(left, options)
        return EXIT_DONE
    departed = await asyncio.to_thread(local_members.forget, plan, own, SystemClock(), environ)
    _show(left, options)
    if departed.pid is not None:
        console.say(f"hivemem: {own.name} has not ended yet (pid {departed.pid}); stop it")
    console.say(f"hivemem: {own.name} was removed; its data stays in {departed.folder}")
    return EXIT_DONE


async def _drain(client: HivememClient, options: argparse.Namespace) -> int:
    node = find(await client.members(), options.node)
    await client.drain_member(node["id"], draining=not options.undo)
    if options.undo:
        console.say(f"hivemem: {node['name']} may hold partitions again")
    elif not await wait_until_drained(client, node, options.wait_seconds):
        return EXIT_DONE if not options.wait_seconds else EXIT_UNAVAILABLE
    show_partitions(await client.partitions(), options.output)
    return EXIT_DONE


# --- Adding ----------------------------------------------------------------------------


async def _add(client: HivememClient, options: argparse.Namespace) -> int:
    given = [options.id, options.peer, options.http]
    if all(given):
        await client.add_member(options.id, options.name, options.peer, options.http)
        return await _wait_for_vote(client, options, options.id, None)
    if any(given):
        raise UsageError("--id, --peer and --http go together; without them the node is local")
    return await _add_local(client, options)


async def _add_local(client: HivememClient, options: argparse.Namespace) -> int:
    from node import discovery, local_members
    from node.environment import environment

    environ = environment()
    root = discovery.data_dir(options.data_dir, environ)
    cluster, members = await client.cluster(), await client.members()
    plan = local_members.local_plan(root, cluster["cluster_id"])
    if plan is None:
        raise UsageError(
            f"{root} does not hold the cluster that answers; give --id, --peer and --http of a "
            "node that runs, or say with --data-dir where the local cluster is"
        )
    console.say(f"hivemem: starting {options.name} in {root / options.name}")
    ids = frozenset(each["id"] for each in members["members"])
    newcomer = await asyncio.to_thread(
        local_members.start_newcomer, plan, options.name, ids, SystemClock(), environ
    )
    node = newcomer.node
    try:
        await client.add_member(node.id, node.name, node.peer, node.http)
    except HivememError as error:
        if error.definite:
            await asyncio.to_thread(local_members.abandon, newcomer)
        else:
            console.say(f"hivemem: {node.name} keeps running, because it may have been added")
        raise
    return await _wait_for_vote(client, options, node.id, newcomer)


async def _wait_for_vote(
    client: HivememClient, options: argparse.Namespace, node: str, newcomer: Newcomer | None
) -> int:
    """Say how far the new member is until it has a vote, or the time is over."""
    clock = SystemClock()
    deadline = clock.monotonic() + options.wait_seconds
    said_at = clock.monotonic()
    while not (votes := await _votes(client, node)):
        now = clock.monotonic()
        if newcomer is not None:
            newcomer.check_alive()
        if now >= deadline:
            break
        if now - said_at >= PROGRESS_SECONDS:
            said_at = now
            console.say(await _progress(client, options.name, node))
        await asyncio.sleep(POLL_SECONDS)
    _show(await client.members(), options)
    if votes:
        return EXIT_DONE
    console.say(
        f"hivemem: {options.name} is a learner still; it gets its vote by itself once it has "
        "caught up (hivemem member list)"
    )
    return EXIT_DONE if not options.wait_seconds else EXIT_UNAVAILABLE


async def _votes(client: HivememClient, node: str) -> bool:
    try:
        view = await client.members()
    except Unavailable:
        return False  # a leader is being elected: look again
    # A node that lags may answer, and not know the new one yet.
    return any(each["id"] == node and each["role"] == "voter" for each in view["members"])


async def _progress(client: HivememClient, name: str, node: str) -> str:
    try:
        nodes = (await client.cluster())["nodes"]
    except HivememError:
        return f"hivemem: {name} is catching up"
    own = next((each["applied_index"] for each in nodes if each["id"] == node), None)
    furthest = max((each["commit_index"] or 0 for each in nodes), default=0)
    shown = "no answer from it yet" if own is None else f"entry {own} of {furthest}"
    return f"hivemem: {name} is catching up: {shown}"


# --- The last resort -------------------------------------------------------------------


def _recover(options: argparse.Namespace) -> int:
    from node.environment import environment
    from node.recover import prepared

    if not options.force_new_cluster:
        raise UsageError("only --force-new-cluster is known; it gives up what other nodes hold")
    with prepared(options.config, environment(), SystemClock()) as recovery:
        outlook = recovery.outlook
        for line in _warning(outlook):
            console.say(line)
        if not options.yes:
            agreed = console.confirm("Make a new cluster of this node?")
            if agreed is None:
                raise UsageError("nobody can be asked here; repeat it with --yes")
            if not agreed:
                console.say("hivemem: nothing was changed")
                return EXIT_FAILED
        recovery.carry_out()
    if options.output == "json":
        console.write_json(_outlook_json(outlook))
    else:
        for line in _next_steps(outlook):
            console.write(line)
    return EXIT_DONE


def _warning(outlook: Outlook) -> list[str]:
    configuration = outlook.configuration
    source = f"log index {configuration.index}" if configuration.index else "the settings file"
    voters = [each for each in configuration.members if each.voter]
    lines = [
        f"{outlook.node.name} ({outlook.node.id}) in {outlook.data_dir}",
        f"  log: up to index {outlook.last_index}, term {outlook.last_term}",
        f"  cluster {outlook.former_cluster_id}: {len(configuration.members)} members, "
        f"{len(voters)} of them voters, by {source}",
    ]
    lines += [
        f"  left behind: {each.name} ({each.id}), {'voter' if each.voter else 'learner'}"
        for each in outlook.dropped
    ]
    return [
        *lines,
        "Writes that a majority acknowledged and this node never received are lost.",
        "Entries that it holds and that were never committed become committed.",
        f"It becomes cluster {outlook.cluster_id}; nodes left behind cannot come back with "
        "their data.",
    ]


def _next_steps(outlook: Outlook) -> list[str]:
    lines = [f"{outlook.node.name} is cluster {outlook.cluster_id} now. To go on:"]
    if outlook.local is not None:
        return [
            *lines,
            f"  hivemem up --data-dir {outlook.local}",
            f"  hivemem member add NAME --data-dir {outlook.local}    # once for each other node",
        ]
    return [
        *lines,
        f"  hivemem start --config {outlook.config_path}",
        "  on each other node: delete its data folder, set cluster.id to the one above and",
        "  cluster.join = true, start it, and then",
        f"  hivemem member add NAME --id UUID --peer HOST:PORT --http URL "
        f"--endpoints {outlook.node.http}",
    ]


def _outlook_json(outlook: Outlook) -> dict[str, object]:
    return {
        "node": {"id": outlook.node.id, "name": outlook.node.name},
        "data_dir": str(outlook.data_dir),
        "cluster_id": outlook.cluster_id,
        "former_cluster_id": outlook.former_cluster_id,
        "last_index": outlook.last_index,
        "last_term": outlook.last_term,
        "dropped": [{"id": each.id, "name": each.name} for each in outlook.dropped],
    }
