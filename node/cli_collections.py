"""The commands on collections: collection list, create, show, alter, drop; query."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from node import console
from node.cli_answers import cell, show_result
from node.cli_options import (
    EXIT_DONE,
    UsageError,
    add_client_command,
    add_request_id,
    repeatable,
)

if TYPE_CHECKING:
    from node.client import HivememClient

NAMESPACE = "default"
_HEADINGS = ("collection", "engine", "shards", "items", "bytes", "settings")


def add_commands(subparsers: argparse._SubParsersAction[Any]) -> None:
    _add_collection(subparsers)
    query = add_client_command(subparsers, "query", "run one operation on a collection", _query)
    query.add_argument("collection", metavar="[NAMESPACE/]COLLECTION")
    query.add_argument("operation", metavar="OPERATION", help="such as document_find")
    query.add_argument(
        "parameters", nargs="?", default="{}", metavar="JSON", help="- is standard input"
    )
    query.add_argument("--consistency", choices=("linearizable", "leader", "stale"))
    query.add_argument(
        "--priority",
        choices=("low", "medium", "high", "critical"),
        help="of a read, while the node has more to do than threads",
    )
    query.add_argument(
        "--explain", action="store_true", help="how the answer comes about, instead of the answer"
    )
    add_request_id(query)


def _add_collection(subparsers: argparse._SubParsersAction[Any]) -> None:
    collection = subparsers.add_parser("collection", help="list, make, change and drop collections")
    actions = collection.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = add_client_command(actions, "list", "the collections of a namespace", _list)
    listing.add_argument("namespace", nargs="?", default=NAMESPACE, metavar="NAMESPACE")
    create = add_client_command(actions, "create", "make a collection", _create)
    create.add_argument("collection", metavar="[NAMESPACE/]COLLECTION")
    create.add_argument("engine", metavar="ENGINE", help="`hivemem collection engines` lists them")
    create.add_argument(
        "--shards",
        type=int,
        default=1,
        metavar="N",
        help="partitions that its items are spread over, for good (default 1)",
    )
    show = add_client_command(actions, "show", "what a collection is and holds", _show)
    alter = add_client_command(actions, "alter", "change settings", _alter)
    drop = add_client_command(actions, "drop", "remove a collection and all it holds", _drop)
    for command in (show, alter, drop):
        command.add_argument("collection", metavar="[NAMESPACE/]COLLECTION")
    for command in (create, alter, drop):
        add_request_id(command)
    for command in (create, alter):
        command.add_argument("--settings", default="{}", metavar="JSON", help="an object")
    add_client_command(actions, "engines", "the engines of the cluster's nodes", _engines)


async def _list(client: HivememClient, options: argparse.Namespace) -> int:
    found = [each async for each in client.collections(options.namespace)]
    if options.output == "json":
        console.write_json({"items": found})
    else:
        console.table(
            _HEADINGS,
            [
                (
                    each["name"],
                    each["engine"],
                    str(each.get("shards", 1)),
                    str(each["items"]),
                    console.size(each["item_bytes"]),
                    cell(each["settings"]),
                )
                for each in found
            ],
        )
    return EXIT_DONE


async def _create(client: HivememClient, options: argparse.Namespace) -> int:
    namespace, name = _place(options.collection)
    settings = _object(options.settings, "--settings")
    with repeatable(options.request_id) as request_id:
        answer = await client.create_collection(
            namespace,
            name,
            options.engine,
            settings,
            shards=options.shards,
            request_id=request_id,
        )
    said = f"created {namespace}/{name}, engine {answer['engine']}"
    if options.shards != 1:
        said += f", in {options.shards} shards"
    return _answered(options, answer, said)


async def _show(client: HivememClient, options: argparse.Namespace) -> int:
    found = await client.collection(*_place(options.collection))
    if options.output == "json":
        console.write_json(found)
    else:
        rows = [(name, cell(value)) for name, value in found.items() if name != "settings"]
        rows += [(f"settings.{name}", cell(each)) for name, each in found["settings"].items()]
        console.table(("what", "value"), rows)
    return EXIT_DONE


async def _alter(client: HivememClient, options: argparse.Namespace) -> int:
    namespace, name = _place(options.collection)
    settings = _object(options.settings, "--settings")
    with repeatable(options.request_id) as request_id:
        answer = await client.alter_collection(namespace, name, settings, request_id=request_id)
    said = "changed" if answer["altered"] else "nothing to change in"
    return _answered(options, answer, f"{said} {namespace}/{name}")


async def _drop(client: HivememClient, options: argparse.Namespace) -> int:
    namespace, name = _place(options.collection)
    with repeatable(options.request_id) as request_id:
        dropped = await client.drop_collection(namespace, name, request_id=request_id)
    said = "dropped" if dropped else "there is no collection"
    return _answered(options, {"dropped": dropped}, f"{said} {namespace}/{name}")


async def _engines(client: HivememClient, options: argparse.Namespace) -> int:
    found = await client.engines()
    if options.output == "json":
        console.write_json({"items": found})
        return EXIT_DONE
    rows = [
        (
            each["engine"],
            ", ".join(each["aliases"]) or "-",
            " ".join(f"{name}*" if kind == "write" else name for name, kind in operations.items()),
        )
        for each in found
        if (operations := each["operations"])
    ]
    console.table(("engine", "also called", "operations (* writes)"), rows)
    return EXIT_DONE


async def _query(client: HivememClient, options: argparse.Namespace) -> int:
    namespace, name = _place(options.collection)
    text = sys.stdin.read() if options.parameters == "-" else options.parameters
    parameters = _object(text, "JSON")
    writes = await client.is_write(options.operation)
    with repeatable(options.request_id) if writes else nullcontext() as request_id:
        answer = await client.query(
            namespace,
            name,
            options.operation,
            parameters,
            writes=writes,
            consistency=options.consistency,
            priority=options.priority,
            request_id=request_id,
            explain=options.explain,
        )
    if options.output == "json":
        console.write_json(answer)
    elif options.explain:
        show_result(answer.get("explain"), reads=False)
    else:
        show_result(answer["result"], reads=not writes)
    return EXIT_DONE


def _answered(options: argparse.Namespace, answer: Any, said: str) -> int:
    if options.output == "json":
        console.write_json(answer)
    else:
        console.write(said)
    return EXIT_DONE


def _place(text: str) -> tuple[str, str]:
    namespace, slash, name = text.partition("/")
    return (namespace, name) if slash else (NAMESPACE, namespace)


def _object(text: str, what: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{what} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise UsageError(f"{what} must be a JSON object")
    return found
