"""The commands that use a running cluster: status, get, put, rm, ls, history, watch, …"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from node import client_wire as wire
from node import console, discovery
from node.client import HivememClient
from node.client_types import BYTES, TEXT, Event, Item, NodeView
from node.errors import BadRequest, HivememError

Work = Callable[[HivememClient, argparse.Namespace], Awaitable[int]]


def add_commands(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the commands; each sets `run`, a function from options to exit status."""
    status = _command(subparsers, "status", "show the nodes of the cluster", _status)
    del status
    get = _command(subparsers, "get", "print a record's value", _get)
    get.add_argument("path", metavar="NAMESPACE/SESSION/KEY")
    get.add_argument("--out", type=Path, metavar="F", help="write the value to a file")
    put = _command(subparsers, "put", "store a value", _put)
    put.add_argument("path", metavar="NAMESPACE/SESSION/KEY")
    put.add_argument("value", nargs="?", metavar="VALUE", help="the value; - reads standard input")
    put.add_argument("--file", type=Path, metavar="F", help="take the value from a file")
    put.add_argument("--ttl", type=float, metavar="SECONDS", help="forget it after this time")
    put.add_argument("--content-type", metavar="T")
    remove = _command(subparsers, "rm", "delete a record", _rm)
    remove.add_argument("path", metavar="NAMESPACE/SESSION/KEY")
    for command in (put, remove):
        command.add_argument(
            "--if-version", type=int, metavar="N", help="only over this version; 0: if absent"
        )
    listing = _command(subparsers, "ls", "list namespaces, sessions or keys", _ls)
    listing.add_argument("path", nargs="?", default="", metavar="[NAMESPACE[/SESSION[/PREFIX]]]")
    listing.add_argument("--values", action="store_true", help="show the values too")
    listing.add_argument("--limit", type=int, metavar="N", help="show at most N")
    history = _command(subparsers, "history", "show a record's versions, newest first", _history)
    history.add_argument("path", metavar="NAMESPACE/SESSION/KEY")
    watch = _command(subparsers, "watch", "print changes as they happen", _watch)
    watch.add_argument("path", metavar="NAMESPACE[/SESSION[/PREFIX]]")
    watch.add_argument("--since", metavar="REVISION", help="also what came after this revision")
    _transfer_commands(subparsers)
    bench = _command(subparsers, "bench", "measure writes and reads on this cluster", _bench)
    bench.add_argument("--seconds", type=float, default=5.0, help="of each case (default 5)")
    bench.add_argument("--clients", default="1,64", help="numbers of clients (default 1,64)")


def _transfer_commands(subparsers: argparse._SubParsersAction[Any]) -> None:
    load = _command(subparsers, "import", "store records from JSON Lines", _import)
    load.add_argument("file", metavar="FILE", help="JSON Lines; - reads standard input")
    load.add_argument("--namespace", metavar="N", help="store everything in this namespace")
    load.add_argument("--restart", action="store_true", help="do not resume a former import")
    load.add_argument("--skip-bad", action="store_true", help="report bad lines and go on")
    dump = _command(subparsers, "export", "write records as JSON Lines", _export)
    dump.add_argument("path", metavar="NAMESPACE[/SESSION]")
    dump.add_argument("--out", type=Path, metavar="F", help="file (default: standard output)")
    dump.add_argument("--resume", action="store_true", help="continue a partial file")


def _command(
    subparsers: argparse._SubParsersAction[Any], name: str, text: str, work: Work
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(name, help=text, description=text)
    discovery.add_endpoint_arguments(parser)
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    parser.add_argument("--timeout-ms", type=int, default=10_000, help="default 10000")
    parser.set_defaults(run=lambda options: asyncio.run(_with_client(work, options)))
    return parser


async def _with_client(work: Work, options: argparse.Namespace) -> int:
    found = discovery.from_options(options)
    async with HivememClient(
        found.endpoints,
        token=found.token,
        ca_file=found.ca_file,
        timeout_ms=options.timeout_ms,
    ) as client:
        return await work(client, options)


def _record_path(text: str) -> tuple[str, str, str]:
    parts = text.split("/", 2)
    if len(parts) != 3 or not all(parts):
        raise BadRequest(f"{text!r} is not NAMESPACE/SESSION/KEY", field="path")
    return parts[0], parts[1], parts[2]


def _prefix_path(text: str) -> tuple[str, str, str]:
    """(namespace, session, prefix); what is not given is empty."""
    parts = [*text.split("/", 2), "", ""]
    return parts[0], parts[1], parts[2]


def _time(moment: datetime | None) -> str:
    return "-" if moment is None else moment.strftime("%Y-%m-%d %H:%M:%S")


def _fields(value: Any) -> dict[str, Any]:
    """A client value as JSON: times in RFC 3339, bytes as value and encoding."""
    fields = {
        name: item.isoformat() if isinstance(item, datetime) else item
        for name, item in asdict(value).items()
    }
    data = fields.pop("value", None)
    return fields if data is None else {**fields, **wire.encoded_value(data)}


# --- Commands ------------------------------------------------------------------------


async def _status(client: HivememClient, options: argparse.Namespace) -> int:
    view = await client.cluster()
    healthy = sum(node["healthy"] for node in view["nodes"])
    quorum = view["leader"] is not None and healthy > len(view["nodes"]) // 2
    if options.output == "json":
        console.write_json({**view, "quorum": quorum})
        return 0 if quorum else 1
    headings = ("node", "id", "version", "role", "term", "log", "commit", "applied")
    rows = [_status_row(node) for node in view["nodes"]]
    console.table((*headings, "disk", "memory", "uptime", "http"), rows)
    if not quorum:
        console.say(f"no quorum: {healthy} of {len(view['nodes'])} nodes are healthy")
    return 0 if quorum else 1


def _status_row(node: NodeView) -> tuple[str, ...]:
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


async def _get(client: HivememClient, options: argparse.Namespace) -> int:
    value = await client.get(*_record_path(options.path))
    if options.out is not None:
        options.out.write_bytes(value.value)
    elif options.output == "json":
        console.write_json(_fields(value))
    else:
        ends = value.value.endswith(b"\n") or not sys.stdout.isatty()
        console.write_bytes(value.value if ends else value.value + b"\n")
    return 0


async def _put(client: HivememClient, options: argparse.Namespace) -> int:
    given = [options.value is not None, options.file is not None]
    if sum(given) != 1:
        raise BadRequest("give VALUE, - or --file, one of them", field="value")
    if options.file is not None or options.value == "-":
        source = options.file
        value = sys.stdin.buffer.read() if source is None else source.read_bytes()
        kind = options.content_type or BYTES
    else:
        value, kind = options.value.encode("utf-8", "surrogateescape"), TEXT
        kind = options.content_type or kind
    result = await client.put(
        *_record_path(options.path),
        value,
        content_type=kind,
        ttl_seconds=options.ttl,
        if_version=options.if_version,
    )
    if options.output == "json":
        console.write_json(_fields(result))
    else:
        console.write(f"version {result.version}, revision {result.revision}")
    return 0


async def _rm(client: HivememClient, options: argparse.Namespace) -> int:
    result = await client.delete(*_record_path(options.path), if_version=options.if_version)
    if options.output == "json":
        console.write_json(_fields(result))
    elif result.deleted:
        console.write(f"deleted version {result.version}, revision {result.revision}")
    else:
        console.write("nothing was there")
    return 0


async def _ls(client: HivememClient, options: argparse.Namespace) -> int:
    namespace, session, prefix = _prefix_path(options.path)
    left = options.limit if options.limit is not None else sys.maxsize
    if left < 1:
        raise BadRequest("--limit must be at least 1", field="limit")
    if not session:
        names = client.sessions(namespace) if namespace else client.namespaces()
        found: list[str] = []
        async for name in names:
            found.append(name)
            if len(found) == left:
                break
        if options.output == "json":
            console.write_json(found)
        else:
            for name in found:
                console.write(console.printable(name))
        return 0
    items: list[Item] = []
    async for item in client.list(namespace, session, prefix=prefix, values=options.values):
        items.append(item)
        if len(items) == left:
            break
    if options.output == "json":
        console.write_json([_fields(item) for item in items])
        return 0
    headings = ["key", "version", "size", "updated", "expires", "type"]
    rows = [
        [item.key, str(item.version), console.size(item.size), _time(item.updated_at)]
        + [_time(item.expires_at), item.content_type]
        for item in items
    ]
    if options.values:
        headings.append("value")
        for row, item in zip(rows, items, strict=True):
            row.append(_preview(item.value))
    console.table(headings, rows)
    return 0


def _preview(value: bytes | None) -> str:
    if value is None:
        return "-"
    text = value[:200].decode("utf-8", "replace")
    return text if len(value) <= 200 else text + "…"


async def _history(client: HivememClient, options: argparse.Namespace) -> int:
    place = _record_path(options.path)
    page = await client.history_page(*place)
    items = [item async for item in client.history(*place)]
    if options.output == "json":
        console.write_json({"items": [_fields(i) for i in items], "compacted": page.compacted})
        return 0
    rows = [
        (str(i.version), str(i.revision), i.type, _time(i.time), console.size(i.size))
        + (_preview(i.value),)
        for i in items
    ]
    console.table(("version", "revision", "change", "time", "size", "value"), rows)
    if page.compacted:
        console.say("older versions existed and are no longer kept")
    return 0


async def _watch(client: HivememClient, options: argparse.Namespace) -> int:
    namespace, session, prefix = _prefix_path(options.path)
    events = client.watch(namespace, session or None, prefix=prefix, since=options.since)
    async for event in events:
        if options.output == "json":
            console.write_json({**_fields(event), "id": str(event.id)})
        else:
            console.write(_event_line(event))
    return 0


def _event_line(event: Event) -> str:
    place = console.printable(f"{event.namespace}/{event.session}/{event.key}")
    shown = f" {console.printable(_preview(event.value))}" if event.value is not None else ""
    return f"{_time(event.time)} {event.revision} {event.type} {place} v{event.version}{shown}"


async def _import(client: HivememClient, options: argparse.Namespace) -> int:
    from node import transfer_import

    request = transfer_import.Request(
        options.file, options.namespace, options.restart, options.skip_bad
    )
    report = await transfer_import.run(client, request)
    if options.output == "json":
        console.write_json(asdict(report))
    else:
        resumed = f", {report.resumed} were there from before" if report.resumed else ""
        console.write(f"imported {report.stored} records{resumed}")
    for problem in report.problems:
        console.say(f"hivemem: {problem}")
    return 1 if report.problems else 0


async def _export(client: HivememClient, options: argparse.Namespace) -> int:
    from node import transfer_export

    namespace, session, _ = _prefix_path(options.path)
    if options.resume and options.out is None:
        raise BadRequest("--resume needs --out", field="resume")
    count = await transfer_export.run(
        client, namespace, session or None, options.out, resume=options.resume
    )
    if options.out is not None:
        console.say(f"exported {count} records to {options.out}")
    return 0


async def _bench(client: HivememClient, options: argparse.Namespace) -> int:
    from node import bench

    try:
        counts = [int(item) for item in options.clients.split(",")]
    except ValueError:
        raise BadRequest("--clients takes numbers such as 1,64", field="clients") from None
    rows = []
    view = await client.cluster()
    leader = next((n["http"] for n in view["nodes"] if n["id"] == view["leader"]), None)
    if leader is None:
        raise HivememError("there is no leader to measure", code="QUORUM_NOT_REACHED")
    for count in counts:
        for case in ("write", "read"):
            rows.append(await bench.measure(client, leader, case, count, options.seconds))
    if options.output == "json":
        for row in rows:
            console.write_json(asdict(row))
        return 0
    console.table(
        ("case", "clients", "ops/s", "p50 ms", "p99 ms", "errors"),
        [
            (r.case, str(r.clients), f"{r.ops_per_s:.0f}", f"{r.p50_ms:.2f}", f"{r.p99_ms:.2f}")
            + (str(r.errors),)
            for r in rows
        ],
    )
    console.say(bench.facts(await client.status(leader)))
    return 0
