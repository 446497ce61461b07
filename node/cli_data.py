"""The commands on records: get, put, rm, ls, search, history, watch."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from node import console
from node.cli_options import (
    EXIT_DONE,
    UsageError,
    add_client_command,
    add_path,
    add_request_id,
    as_json,
    positive,
    prefix_place,
    record_place,
    repeatable,
    shown_time,
)

if TYPE_CHECKING:
    from node.client import Event, HistoryItem, HivememClient, Item

RECORD = "NAMESPACE/SESSION/KEY"
LS_LIMIT_DEFAULT = 1000  # what a person would still look through
HISTORY_LIMIT_DEFAULT = 100
HINT_NAMES = 10  # collections that `ls` names for a person
SEARCH_LIMIT_DEFAULT = 10
PREVIEW_BYTES = 80  # of a value, in tables
_CUT = "\ufffd"  # what a character that the preview cuts in two looks like


def add_commands(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the commands; each sets `run`, a function from options to exit status."""
    _add_get(subparsers)
    _add_writes(subparsers)
    listing = add_client_command(subparsers, "ls", "list namespaces, sessions or keys", _ls)
    add_path(listing, "NAMESPACE[/SESSION[/PREFIX]]", optional=True)
    listing.add_argument("--values", action="store_true", help="show the values too")
    listing.add_argument(
        "--limit",
        type=positive,
        default=LS_LIMIT_DEFAULT,
        metavar="N",
        help=f"show at most N (default {LS_LIMIT_DEFAULT})",
    )
    _add_search(subparsers)
    history = add_client_command(
        subparsers, "history", "show a record's changes, newest first", _history
    )
    add_path(history, RECORD)
    history.add_argument(
        "--limit",
        type=positive,
        default=HISTORY_LIMIT_DEFAULT,
        metavar="N",
        help=f"show at most N (default {HISTORY_LIMIT_DEFAULT})",
    )
    watch = add_client_command(subparsers, "watch", "print changes as they happen", _watch)
    add_path(watch, "NAMESPACE[/SESSION[/PREFIX]]")
    watch.add_argument(
        "--since", metavar="REVISION", help="what came after this revision or event id, too"
    )


def _add_get(subparsers: argparse._SubParsersAction[Any]) -> None:
    get = add_client_command(subparsers, "get", "print a record's value, byte for byte", _get)
    add_path(get, RECORD)
    get.add_argument("--out", type=Path, metavar="FILE", help="write the value to a file")
    get.add_argument(
        "--version-of", action="store_true", help="print the record's version, not its value"
    )
    get.add_argument("--at-revision", type=int, metavar="R", help="the value as it was then")
    _add_consistency(get)


def _add_consistency(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--consistency",
        choices=("linearizable", "leader", "stale"),
        help="how fresh it must be (default linearizable)",
    )


def _add_search(subparsers: argparse._SubParsersAction[Any]) -> None:
    search = add_client_command(
        subparsers, "search", "find a session's records by words of their keys and values", _search
    )
    add_path(search, "NAMESPACE/SESSION[/PREFIX]")
    search.add_argument(
        "query",
        nargs="+",
        metavar="QUERY",
        help='words, "phrases", prefix*; -word, behind --, for what must not be there',
    )
    search.add_argument(
        "--mode",
        choices=("any", "all", "phrase"),
        help="one of the terms (default), each of them, or the words in a row",
    )
    search.add_argument("--values", action="store_true", help="show the values too")
    search.add_argument(
        "--limit",
        type=positive,
        default=SEARCH_LIMIT_DEFAULT,
        metavar="N",
        help=f"show at most N, up to 100 (default {SEARCH_LIMIT_DEFAULT})",
    )
    for field in ("key", "value"):
        search.add_argument(
            f"--{field}-weight",
            type=float,
            metavar="W",
            help=f"of words of the {field} (default 1)",
        )
    _add_consistency(search)


def _add_writes(subparsers: argparse._SubParsersAction[Any]) -> None:
    put = add_client_command(subparsers, "put", "store a value", _put)
    add_path(put, RECORD)
    put.add_argument("value", nargs="?", metavar="VALUE", help="the value; - is standard input")
    put.add_argument("--file", type=Path, metavar="FILE", help="take the value from a file")
    put.add_argument("--ttl", type=float, metavar="SECONDS", help="forget it after this time")
    put.add_argument(
        "--content-type",
        metavar="TYPE",
        help="default: text/plain for VALUE, application/octet-stream for what is read",
    )
    remove = add_client_command(subparsers, "rm", "delete a record", _rm)
    add_path(remove, RECORD)
    for command in (put, remove):
        command.add_argument(
            "--if-version", type=int, metavar="N", help="only over this version; 0: only if absent"
        )
        add_request_id(command)


async def _get(client: HivememClient, options: argparse.Namespace) -> int:
    place = record_place(options)
    if options.at_revision is not None:
        value = await client.get_at(*place, options.at_revision)
    else:
        value = await client.get(*place, consistency=options.consistency)
    if options.out is not None:
        options.out.write_bytes(value.value)
    if options.output == "json":
        console.write_json(as_json(value))
    elif options.version_of:
        console.write(str(value.version))
    elif options.out is None:
        # A prompt right behind the value is no part of it; a pipe gets the bytes as they are.
        ends = not console.is_terminal() or value.value.endswith(b"\n")
        console.write_bytes(value.value if ends else value.value + b"\n")
    return EXIT_DONE


async def _put(client: HivememClient, options: argparse.Namespace) -> int:
    place = record_place(options)
    value, content_type = _given_value(options)
    with repeatable(options.request_id) as request_id:
        result = await client.put(
            *place,
            value,
            content_type=options.content_type or content_type,
            ttl_seconds=options.ttl,
            if_version=options.if_version,
            request_id=request_id,
        )
    if options.output == "json":
        console.write_json({**as_json(result), "request_id": request_id})
    else:
        console.write(f"version {result.version}, revision {result.revision}")
    return EXIT_DONE


def _given_value(options: argparse.Namespace) -> tuple[bytes, str]:
    """The bytes to store, and what they are if nobody says so."""
    from node.client_types import BYTES, TEXT

    if (options.value is None) == (options.file is None):
        raise UsageError("give VALUE, - for standard input, or --file; one of them")
    if options.file is not None:
        return options.file.read_bytes(), BYTES
    if options.value == "-":
        return sys.stdin.buffer.read(), BYTES
    data = os.fsencode(options.value)
    try:
        data.decode()
    except UnicodeDecodeError:
        return data, BYTES
    return data, TEXT


async def _rm(client: HivememClient, options: argparse.Namespace) -> int:
    place = record_place(options)
    with repeatable(options.request_id) as request_id:
        result = await client.delete(*place, if_version=options.if_version, request_id=request_id)
    if options.output == "json":
        console.write_json({**as_json(result), "request_id": request_id})
    elif result.deleted:
        console.write(f"deleted version {result.version}, revision {result.revision}")
    else:
        console.write("nothing was there")
    return EXIT_DONE


async def _ls(client: HivememClient, options: argparse.Namespace) -> int:
    place = prefix_place(options)
    if not place.session:
        await _ls_names(client, place.namespace, options)
        return EXIT_DONE
    items: list[Item] = []
    cursor: str | None = None
    while len(items) <= options.limit:
        page = await client.list_page(
            place.namespace,
            place.session,
            prefix=place.rest,
            limit=min(1000, options.limit + 1 - len(items)),
            cursor=cursor,
            values=options.values,
        )
        items.extend(page.items)
        cursor = page.next_cursor
        if cursor is None:
            break
    _show_items(items, options)
    return EXIT_DONE


async def _ls_names(client: HivememClient, namespace: str, options: argparse.Namespace) -> None:
    """A namespace's sessions, and what collections it has; or all namespaces."""
    if not namespace:
        _show_names(await _first(client.namespaces(), options.limit), "namespace", options)
        return
    sessions = await _first(client.sessions(namespace), options.limit)
    infos = (each["name"] async for each in client.collections(namespace))
    collections = await _first(infos, options.limit)
    beside = {"collections": collections[: options.limit]}
    _show_names(sessions, "session", options, beside, len(collections) > options.limit)
    if collections and options.output != "json":
        names = ", ".join(collections[:HINT_NAMES])
        more = ", …" if len(collections) > HINT_NAMES else ""
        console.say(f"collections: {names}{more} (`hivemem collection list {namespace}`)")


async def _first(names: AsyncIterator[str], limit: int) -> list[str]:
    """One more than `limit`, if there are more."""
    found: list[str] = []
    async for name in names:
        found.append(name)
        if len(found) > limit:
            break
    return found


def _show_names(
    names: list[str],
    kind: str,
    options: argparse.Namespace,
    beside: Mapping[str, list[str]] | None = None,
    beside_cut: bool = False,
) -> None:
    """`beside`: what JSON shows beside them; `beside_cut`: there is more of it."""
    more = len(names) > options.limit
    shown = names[: options.limit]
    if options.output == "json":
        items = [{kind: name} for name in shown]
        console.write_json({"items": items, "truncated": more or beside_cut, **(beside or {})})
        return
    for name in shown:
        console.write(console.printable(name))
    _say_more(more, options)


def _show_items(items: list[Item], options: argparse.Namespace) -> None:
    more = len(items) > options.limit
    shown = items[: options.limit]
    if options.output == "json":
        console.write_json({"items": [as_json(item) for item in shown], "truncated": more})
        return
    headings = ["key", "version", "size", "updated", "expires", "content type"]
    rows = [
        [item.key, str(item.version), console.size(item.size), shown_time(item.updated_at)]
        + [shown_time(item.expires_at), item.content_type]
        + ([_preview(item.value)] if options.values else [])
        for item in shown
    ]
    console.table([*headings, "value"] if options.values else headings, rows)
    _say_more(more, options)


def _say_more(more: bool, options: argparse.Namespace) -> None:
    if more:
        console.say(f"there are more; these are the first {options.limit} (--limit N shows more)")


def _preview(value: bytes | None) -> str:
    if value is None:
        return "-"
    if b"\x00" in value[:PREVIEW_BYTES]:
        return "(bytes that are not text)"
    text = value[:PREVIEW_BYTES].decode("utf-8", "replace")
    return text if len(value) <= PREVIEW_BYTES else f"{text.rstrip(_CUT)}…"


async def _search(client: HivememClient, options: argparse.Namespace) -> int:
    place = prefix_place(options)
    if not place.session:
        raise UsageError(f"{options.path!r} is not NAMESPACE/SESSION[/PREFIX]")
    page = await client.search(
        place.namespace,
        place.session,
        " ".join(options.query),
        mode=options.mode or "any",
        prefix=place.rest,
        limit=options.limit,
        values=options.values,
        snippets=True,
        key_weight=options.key_weight,
        value_weight=options.value_weight,
        consistency=options.consistency,
    )
    if options.output == "json":
        items = [
            {**as_json(hit.item), "score": hit.score, "snippet": hit.snippet} for hit in page.hits
        ]
        console.write_json({"items": items, "truncated": page.more})
        return EXIT_DONE
    headings = ["score", "key", "size", "updated", "snippet"]
    rows = [
        [f"{hit.score:.3g}", hit.item.key, console.size(hit.item.size)]
        + [shown_time(hit.item.updated_at), hit.snippet or ""]
        + ([_preview(hit.item.value)] if options.values else [])
        for hit in page.hits
    ]
    console.table([*headings, "value"] if options.values else headings, rows)
    _say_more(page.more, options)
    return EXIT_DONE


async def _history(client: HivememClient, options: argparse.Namespace) -> int:
    place = record_place(options)
    items: list[HistoryItem] = []
    cursor: str | None = None
    while True:
        left = options.limit - len(items)
        page = await client.history_page(*place, limit=min(1000, left), cursor=cursor)
        items.extend(page.items)
        cursor = page.next_cursor
        if cursor is None or len(items) >= options.limit:
            break
    if options.output == "json":
        document = {"items": [as_json(item) for item in items], "truncated": cursor is not None}
        console.write_json({**document, "compacted": page.compacted})
        return EXIT_DONE
    rows = [
        (
            str(item.version),
            str(item.revision),
            item.type,
            shown_time(item.time),
            console.size(item.size),
            _preview(item.value),
        )
        for item in items
    ]
    console.table(("version", "revision", "change", "time", "size", "value"), rows)
    _say_more(cursor is not None, options)
    if page.compacted and cursor is None:
        console.say("older versions existed and are no longer kept")
    return EXIT_DONE


async def _watch(client: HivememClient, options: argparse.Namespace) -> int:
    place = prefix_place(options)
    if not place.namespace:
        raise UsageError("name a NAMESPACE to watch")
    events = client.watch(
        place.namespace, place.session or None, prefix=place.rest, since=options.since
    )
    async with events:
        async for event in events:
            if options.output == "json":
                console.write_json(as_json(event))
            else:
                console.write(_event_line(event))
    return EXIT_DONE


def _event_line(event: Event) -> str:
    place = console.printable(f"{event.namespace}/{event.session}/{event.key}")
    line = f"{shown_time(event.time)}  {event.id}  {event.type}  {place}  version {event.version}"
    if event.value is None:
        return line
    return f"{line}  {console.printable(_preview(event.value))}"
