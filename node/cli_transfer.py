"""The commands that move many records: import and export."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

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
    from node.transfer_import import Report

FORMATS = ("table", "json")


def add_commands(subparsers: argparse._SubParsersAction[Any]) -> None:
    load = add_client_command(subparsers, "import", "store records from JSON Lines", _import)
    load.add_argument("file", metavar="FILE", help="JSON Lines; - is standard input")
    load.add_argument(
        "--namespace", metavar="N", help="store every record in N, whatever its line says"
    )
    load.add_argument(
        "--restart", action="store_true", help="from the first line, not where a former run ended"
    )
    load.add_argument(
        "--skip-bad", action="store_true", help="report bad lines and go on, rather than stop"
    )
    dump = add_client_command(subparsers, "export", "write records as JSON Lines", _export)
    add_path(dump, "NAMESPACE[/SESSION]")
    dump.add_argument("--out", type=Path, metavar="FILE", help="default: standard output")
    dump.add_argument("--resume", action="store_true", help="continue a partial FILE")
    dump.add_argument("--force", action="store_true", help="overwrite FILE")
    # `-o FILE` is what most tools call the output file: anything but a format is one.
    for action in dump._actions:
        if action.dest == "output":
            action.choices = None
            action.metavar = "FILE|table|json"
            action.help = "a file like --out; or the format of the summary"


async def _import(client: HivememClient, options: argparse.Namespace) -> int:
    from node.transfer_import import Import, Request

    with ExitStack() as stack:
        file, path, size = _input(options.file, stack)
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
    _show_report(report, options, resumable=path is not None)
    return EXIT_FAILED if report.bad_lines else EXIT_DONE


def _input(name: str, stack: ExitStack) -> tuple[BinaryIO, Path | None, int | None]:
    """The file, its path if an import of it can be resumed, and its size if known."""
    if name == "-":
        return sys.stdin.buffer, None, None
    path = Path(name)
    file = stack.enter_context(path.open("rb", buffering=0))
    status = os.fstat(file.fileno())
    regular = stat.S_ISREG(status.st_mode)
    return file, path if regular else None, status.st_size if regular else None


def _show_report(report: Report, options: argparse.Namespace, *, resumable: bool) -> None:
    if options.output == "json":
        console.write_json(asdict(report))
        return
    parts = [f"imported {report.stored} records"]
    if report.resumed_lines:
        parts.append(f"{report.resumed_lines} lines were done before")
    if report.expired:
        parts.append(f"{report.expired} had expired")
    if report.bad_lines:
        parts.append(f"{report.bad_lines} bad lines")
    console.write(", ".join(parts))
    if report.bad_lines and not options.skip_bad:
        again = "; correct it and run the same command again" if resumable else ""
        console.say(f"hivemem: stopped at a bad line{again}, or use --skip-bad")


async def _export(client: HivememClient, options: argparse.Namespace) -> int:
    from node import transfer_export

    place = prefix_place(options)
    if not place.namespace or place.rest:
        raise UsageError(f"{options.path!r} is not NAMESPACE[/SESSION]")
    out, summary = _output(options)
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
