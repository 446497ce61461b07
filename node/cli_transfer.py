"""The commands that move many records: import and export."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from node import cli_collection_transfer as collections
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
    from node.transfer_export import Position

FORMATS = ("table", "json")


def add_commands(subparsers: argparse._SubParsersAction[Any]) -> None:
    load = add_client_command(
        subparsers, "import", "store records, or rows of a collection", _import
    )
    load.add_argument("file", metavar="FILE", help="JSON Lines, or CSV; - is standard input")
    load.add_argument(
        "--namespace", metavar="N", help="store every record in N, whatever its line says"
    )
    load.add_argument(
        "--restart", action="store_true", help="from the first line, not where a former run ended"
    )
    load.add_argument(
        "--on-error",
        choices=("stop", "skip"),
        default="stop",
        help="at a bad line: stop before it (default), or report it and go on",
    )
    load.add_argument("--skip-bad", action="store_true", help="the same as --on-error skip")
    collections.add_import_flags(load)
    dump = add_client_command(subparsers, "export", "write records as JSON Lines, or CSV", _export)
    add_path(dump, "NAMESPACE[/SESSION]", optional=True)
    dump.add_argument("--out", type=Path, metavar="FILE", help="default: standard output")
    dump.add_argument("--resume", action="store_true", help="continue a partial FILE")
    dump.add_argument("--force", action="store_true", help="overwrite FILE")
    collections.add_export_flags(dump)
    # `-o FILE` is what most tools call the output file: anything but a format is one.
    for action in dump._actions:
        if action.dest == "output":
            action.choices = None
            action.metavar = "FILE|table|json"
            action.help = "a file like --out; or the format of the summary"


async def _import(client: HivememClient, options: argparse.Namespace) -> int:
    from node.transfer_import import Import, Request

    options.skip_bad = options.skip_bad or options.on_error == "skip"
    if options.collection is not None:
        return await collections.load(client, options)
    collections.refuse_without_collection(
        options, ("format", "table", "vectors", "part", "create", "engine", "settings", "shards")
    )
    with ExitStack() as stack:
        file, path, size = collections.opened_input(options.file, stack)
        progress = stack.enter_context(console.progress("import", size))
        request = Request(file, path, options.namespace, options.restart, options.skip_bad)
        run = Import(
            client,
            request,
            on_problem=lambda problem: console.say(f"hivemem: {options.file}: {problem}"),
            on_progress=progress.update,
        )
        try:
            report = await run.run()
        except HivememError as error:
            if path is not None:
                error.message += f"; run the same command again to go on in {path.name}"
            raise
    collections.show_import(report, options, resumable=path is not None)
    return EXIT_FAILED if report.bad_lines else EXIT_DONE


async def _export(client: HivememClient, options: argparse.Namespace) -> int:
    from node import transfer_export

    out, summary = _output(options)
    if options.collection is not None:
        if options.path:
            raise UsageError("give one of NAMESPACE[/SESSION] and --collection")
        return await collections.dump(client, options, out, summary)
    collections.refuse_without_collection(options, ("format", "table", "vectors", "sql", "columns"))
    place = prefix_place(options)
    if not place.namespace or place.rest:
        raise UsageError(f"{options.path!r} is not NAMESPACE[/SESSION]")
    session = place.session or None
    with ExitStack() as stack:
        after: Position | None = None
        if out is None:
            file: BinaryIO = sys.stdout.buffer
        else:
            file = stack.enter_context(_opened(out, options))
            if options.resume:
                after = transfer_export.resume_position(file, place.namespace, session)
        # A bar in the middle of the records would spoil both.
        quiet = out is None and console.is_terminal()
        shown = None if quiet else stack.enter_context(console.progress("export", None))
        request = transfer_export.Request(place.namespace, session, after)
        count = await transfer_export.run(
            client, request, file, shown.update if shown else _nothing
        )
        if out is not None:
            os.fsync(file.fileno())
    _show_count(count, out, summary, resumed=after is not None)
    return EXIT_DONE


def _nothing(items: int, done_bytes: int) -> None:
    pass


def _output(options: argparse.Namespace) -> tuple[Path | None, str]:
    """The file to write, None for standard output; and the summary's format."""
    named = None if options.output in FORMATS else Path(options.output)
    if named is not None and options.out is not None:
        raise UsageError("give one of -o FILE and --out FILE")
    out = named or options.out
    if out is None and (options.resume or options.force):
        raise UsageError("--resume and --force need --out FILE")
    if options.resume and options.force:
        raise UsageError("give one of --resume and --force")
    return out, "table" if named is not None else options.output


def _opened(out: Path, options: argparse.Namespace) -> BinaryIO:
    if options.resume:
        return open(os.open(out, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
    try:
        return out.open("wb" if options.force else "xb")
    except FileExistsError:
        raise UsageError(f"{out} exists: --resume continues it, --force overwrites it") from None


def _show_count(count: int, out: Path | None, summary: str, *, resumed: bool) -> None:
    if summary == "json":
        # Standard output may be the export itself.
        document = {"exported": count, "out": None if out is None else str(out)}
        (console.write_json if out is not None else console.say_json)(document)
    elif out is not None:
        more = " more" if resumed else ""
        console.say(f"exported {count}{more} records to {out}")
