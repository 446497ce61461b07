"""What the commands share: flags, paths such as NAMESPACE/SESSION/KEY, running with a client.

The client is imported when a command runs, not when the command line is read: `--version`
and `--help` need no HTTP library.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote_to_bytes

from node import discovery
from node.clock import SystemClock
from node.errors import HivememError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from node.client import HivememClient

    Work = Callable[[HivememClient, argparse.Namespace], Awaitable[int]]

TIMEOUT_MS_DEFAULT = 10_000  # a person waits longer than a program, and a failover passes
UNREACHABLE_MS_MAX = 1000  # but nobody waits for a cluster that is not there

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_FOUND = 3
EXIT_CONFLICT = 4
EXIT_UNAVAILABLE = 5
EXIT_INTERRUPTED = 130
EXIT_CODES = (
    "exit status: 0 done; 1 failed, or no quorum; 2 wrong usage; 3 not found; 4 conflict: the "
    "version is another, or the change is refused now; 5 unavailable: no node, no quorum, no room "
    "or no answer in time; 130 interrupted"
)


class UsageError(Exception):
    """The command line makes no sense; the message says what to change."""


class Place(NamedTuple):
    """Where a path points; `session` and `rest` (key or prefix) are "" if not given."""

    namespace: str
    session: str
    rest: str

    def __str__(self) -> str:
        return "/".join(self).rstrip("/")


def add_client_command(
    subparsers: argparse._SubParsersAction[Any], name: str, text: str, work: Work
) -> argparse.ArgumentParser:
    """A command that needs a cluster; its `run` gives `work` an open client."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=EXIT_CODES
    )
    discovery.add_endpoint_arguments(parser)
    parser.add_argument(
        "--timeout-ms",
        type=_milliseconds,
        default=TIMEOUT_MS_DEFAULT,
        metavar="MS",
        help=f"deadline of each request (default {TIMEOUT_MS_DEFAULT})",
    )
    parser.add_argument(
        "-o",
        "--output",
        choices=("table", "json"),
        default="table",
        help="for people (default) or for programs",
    )
    parser.set_defaults(run=lambda options: asyncio.run(_with_client(work, options)))
    return parser


def add_request_id(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--request-id", metavar="ID", help="repeats with the same id are applied only once"
    )


@contextmanager
def repeatable(given: str | None) -> Iterator[str]:
    """The request id of a write, made unless given; an error that leaves its outcome unknown says
    how to repeat it."""
    request_id = given or SystemClock().new_id()
    try:
        yield request_id
    except HivememError as error:
        if not error.definite:
            error.request_id = request_id
            error.message += f" (here: --request-id {request_id})"
        raise


def add_path(parser: argparse.ArgumentParser, shape: str, *, optional: bool = False) -> None:
    """The path argument, and --encoded for names that a path cannot hold as they are."""
    if optional:
        parser.add_argument("path", nargs="?", default="", metavar=shape)
    else:
        parser.add_argument("path", metavar=shape)
    parser.add_argument(
        "--encoded",
        action="store_true",
        help="the path's parts are percent-encoded (%%2F for a slash in a session, …)",
    )


async def _with_client(work: Work, options: argparse.Namespace) -> int:
    from node.client import HivememClient

    found = discovery.from_options(options)
    async with HivememClient(
        found.endpoints,
        token=found.token,
        ca_file=found.ca_file,
        cluster_id=found.cluster_id,
        timeout_ms=options.timeout_ms,
        unreachable_ms_max=UNREACHABLE_MS_MAX,
    ) as client:
        return await work(client, options)


def record_place(options: argparse.Namespace) -> Place:
    """NAMESPACE/SESSION/KEY; the key may hold slashes. Raises: UsageError."""
    place = prefix_place(options)
    if not all(place):
        raise UsageError(f"{options.path!r} is not NAMESPACE/SESSION/KEY")
    return place


def prefix_place(options: argparse.Namespace) -> Place:
    """[NAMESPACE[/SESSION[/PREFIX]]]. Raises: UsageError."""
    parts = [*options.path.split("/", 2), "", ""][:3]
    if options.encoded:
        parts = [_unquoted(part) for part in parts]
    if (parts[1] and not parts[0]) or (parts[2] and not parts[1]):
        raise UsageError(f"{options.path!r} is not NAMESPACE[/SESSION[/…]]: a part is empty")
    return Place(*parts)


def _unquoted(text: str) -> str:
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise UsageError(f"{text!r} does not decode to UTF-8") from None


def positive(text: str) -> int:
    """An argument that is a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return number


def _milliseconds(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 60_000:
        raise argparse.ArgumentTypeError(f"must be from 1 to 60000, not {text}")
    return number


def as_json(value: DataclassInstance) -> dict[str, object]:
    """A result of the client as JSON: times in RFC 3339, bytes as value and encoding."""
    from node import client_wire as wire

    found: dict[str, object] = {}
    for each in fields(value):
        item = getattr(value, each.name)
        if isinstance(item, datetime):
            found[each.name] = rfc3339(item)
        elif isinstance(item, bytes):
            found.update(wire.encoded_value(item))
        elif each.name == "id":
            found["id"] = str(item)
        elif each.name != "value":
            found[each.name] = item
    return found


def rfc3339(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def shown_time(moment: datetime | None) -> str:
    """In UTC, to the second; "-" if there is none."""
    return "-" if moment is None else moment.strftime("%Y-%m-%d %H:%M:%SZ")
