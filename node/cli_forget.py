"""The command `forget`: delete a session's keys, or those of all sessions of a namespace."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from node import console
from node.cli_options import (
    EXIT_DONE,
    EXIT_FAILED,
    UsageError,
    add_client_command,
    add_path,
    prefix_place,
)
from node.errors import HivememError

if TYPE_CHECKING:
    from node.client import HivememClient


def add_commands(subparsers: argparse._SubParsersAction[Any]) -> None:
    command = add_client_command(
        subparsers, "forget", "delete a session's keys, or a namespace's", _forget
    )
    add_path(command, "NAMESPACE/SESSION")
    command.add_argument("--prefix", metavar="P", help="only keys that start with P, as it is")
    command.add_argument(
        "--all-sessions", action="store_true", help="of every session; the path is NAMESPACE"
    )
    command.add_argument("--yes", action="store_true", help="do not ask, with --all-sessions")


async def _forget(client: HivememClient, options: argparse.Namespace) -> int:
    place = prefix_place(options)
    if options.prefix == "":
        raise UsageError("--prefix is empty; leave it out to forget all keys")
    if options.all_sessions:
        if not place.namespace or "/" in options.path:
            raise UsageError(f"{options.path!r} is not NAMESPACE, which --all-sessions needs")
        if not _agreed(place.namespace, options):
            console.say("hivemem: nothing was deleted")
            return EXIT_FAILED
        sessions = client.sessions(place.namespace)
    else:
        # A third part, also an empty one: what was to be behind the slash is not known.
        if not place.session or options.path.count("/") > 1:
            raise UsageError(
                f"{options.path!r} is not NAMESPACE/SESSION; `rm` deletes one key, --prefix says "
                "with what keys start, and --all-sessions is for all of a namespace"
            )
        sessions = _one(place.session)
    seen = deleted = kept = 0
    try:
        async for session in sessions:
            done = await client.forget(place.namespace, session, prefix=options.prefix)
            seen, deleted, kept = seen + 1, deleted + done.deleted, kept + done.kept
    except HivememError as error:
        if deleted:
            error.with_effect(f"of sessions before it {deleted} keys were deleted")
        raise
    if options.output == "json":
        console.write_json({"sessions": seen, "deleted": deleted, "kept": kept})
        return EXIT_DONE
    what = f"deleted {deleted} keys" + (f" of {seen} sessions" if options.all_sessions else "")
    console.write(what + (f"; kept {kept} that were written meanwhile" if kept else ""))
    return EXIT_DONE


async def _one(session: str) -> AsyncIterator[str]:
    yield session


def _agreed(namespace: str, options: argparse.Namespace) -> bool:
    """Raises: UsageError where nobody can be asked."""
    if options.yes:
        return True
    which = f" that start with {options.prefix!r}" if options.prefix else ""
    agreed = console.confirm(
        console.printable(f"Delete the keys{which} of every session of namespace {namespace}?")
    )
    if agreed is None:
        raise UsageError("nobody can be asked here; repeat it with --yes")
    return agreed
