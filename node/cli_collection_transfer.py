"""Import and export of collections: what the flags ask for, and what is said about it."""

from __future__ import annotations

import argparse
import json
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from node import console
from node.cli_options import EXIT_DONE, EXIT_FAILED, UsageError
from node.errors import BadRequest, Conflict, HivememError

if TYPE_CHECKING:
    from node.client import HivememClient
    from node.client_collections import CollectionInfo
    from node.collection_export import Report as ExportReport
    from node.transfer_import import Report as ImportReport
    from node.transfer_npy import VectorFile
    from node.transfer_rows import Rows
    from node.transfer_targets import Target
    from node.transfer_writers import Writer

NAMESPACE = "default"
SUFFIXES = {".csv": "csv"}  # of files that are no JSON Lines


def add_import_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("into a collection")
    _add_shared(group)
    group.add_argument("--part", choices=("nodes", "edges"), help="what the CSV of a graph holds")
    group.add_argument(
        "--create", action="store_true", help="make the collection if there is none yet"
    )
    group.add_argument("--engine", metavar="ENGINE", help="of a collection that is made")
    group.add_argument("--settings", metavar="JSON", help="of a collection that is made")
    group.add_argument("--shards", type=int, metavar="N", help="of a collection that is made")


def add_export_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("of a collection")
    _add_shared(group)
    group.add_argument("--sql", metavar="SELECT", help="export what a query of SQL answers")
    group.add_argument(
        "--columns", metavar="NAME[:TYPE],…", help="CSV of documents: text, number, boolean, json"
    )


def _add_shared(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--collection", metavar="[NAMESPACE/]NAME", help="instead of keys")
    group.add_argument(
        "--format", choices=("jsonl", "csv"), help="default: by the file's name, else jsonl"
    )
    group.add_argument("--table", metavar="TABLE", help="of a relational collection")
    group.add_argument(
        "--vectors", type=Path, metavar="FILE.npy", help="float32, a row for each line"
    )


def refuse_without_collection(options: argparse.Namespace, names: tuple[str, ...]) -> None:
    """Raises: UsageError for flags that mean nothing where keys are moved."""
    for name in names:
        if getattr(options, name) not in (None, False):
            raise UsageError(f"--{name.replace('_', '-')} needs --collection")


@contextmanager
def _named_flags(flags: Mapping[str, str]) -> Iterator[None]:
    """A refusal of one of these fields is wrong usage of its flag."""
    try:
        yield
    except BadRequest as error:
        if error.field is None or error.field not in flags:
            raise
        said = error.message.removeprefix(f"{error.field}: ")
        raise UsageError(f"{flags[error.field]}: {said}") from None


# --- Import ------------------------------------------------------------------------------


async def load(client: HivememClient, options: argparse.Namespace) -> int:
    """`hivemem import FILE --collection NAME`."""
    from node.collection_import import CollectionImport, Request
    from node.transfer_npy import VectorFile
    from node.transfer_targets import target_of

    if options.namespace is not None:
        raise UsageError("--namespace is for keys: write --collection NAMESPACE/NAME")
    namespace, name = _place(options.collection)
    with ExitStack() as stack:
        file, path, size = opened_input(options.file, stack)
        vectors = None
        if options.vectors is not None:
            vectors = VectorFile(stack.enter_context(options.vectors.open("rb")))
        found = await _collection(client, namespace, name, options, vectors)
        with _named_flags({"table": "--table", "part": "--part"}):
            target = target_of(found["engine"], table=options.table, part=options.part)
        rows = _rows(options, found["engine"], target, vectors)
        progress = stack.enter_context(console.progress("import", size))
        run = CollectionImport(
            client,
            Request(
                file, path, namespace, name, found["created_at"], options.restart,
                options.skip_bad,
            ),
            rows,
            target,
            on_problem=lambda problem: console.say(f"hivemem: {options.file}: {problem}"),
            on_progress=progress.update,
        )  # fmt: skip
        try:
            report = await run.run()
        except HivememError as error:
            if path is not None:
                error.message += f"; run the same command again to go on in {path.name}"
            raise
    show_import(report, options, resumable=path is not None)
    return EXIT_FAILED if report.bad_lines else EXIT_DONE


def opened_input(name: str, stack: ExitStack) -> tuple[BinaryIO, Path | None, int | None]:
    """The file, its path if an import of it can be resumed, and its size if known."""
    if name == "-":
        return sys.stdin.buffer, None, None
    path = Path(name)
    file = stack.enter_context(path.open("rb", buffering=0))
    status = os.fstat(file.fileno())
    regular = stat.S_ISREG(status.st_mode)
    return file, path if regular else None, status.st_size if regular else None


async def _collection(
    client: HivememClient,
    namespace: str,
    name: str,
    options: argparse.Namespace,
    vectors: VectorFile | None,
) -> CollectionInfo:
    """The collection, made if that was asked for. Raises: HivememError, UsageError."""
    if not options.create:
        if any(each is not None for each in (options.engine, options.settings, options.shards)):
            raise UsageError("--engine, --settings and --shards need --create")
        return await client.collection(namespace, name)
    if options.engine is None:
        raise UsageError("--create needs --engine")
    settings = _settings(options.settings)
    if vectors is not None:
        settings.setdefault("dimensions", vectors.dimensions)
    try:
        await client.create_collection(
            namespace, name, options.engine, settings, shards=options.shards or 1
        )
    except Conflict as error:
        if error.code != "COLLECTION_EXISTS":
            raise
    found = await client.collection(namespace, name)
    engines = {each["engine"]: each["aliases"] for each in await client.engines()}
    if options.engine not in (found["engine"], *engines.get(found["engine"], ())):
        raise UsageError(f"{namespace}/{name} exists, and its engine is {found['engine']}")
    return found


def _settings(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError as error:
        raise UsageError(f"--settings is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise UsageError("--settings must be a JSON object")
    return found


def _rows(
    options: argparse.Namespace, engine: str, target: Target, vectors: VectorFile | None
) -> Rows:
    from node.transfer_rows import CsvRows, JsonRows, VectorRows

    form = options.format or SUFFIXES.get(Path(options.file).suffix.lower(), "jsonl")
    if vectors is not None:
        if engine != "vector" or form != "jsonl":
            raise UsageError("--vectors goes with JSON Lines for a collection of engine vector")
        return VectorRows(vectors)
    if engine == "graph" and (form == "csv") != (options.part is not None):
        raise UsageError("--part nodes or --part edges: CSV of a graph needs it, nothing else does")
    return CsvRows(target) if form == "csv" else JsonRows()


def show_import(report: ImportReport, options: argparse.Namespace, *, resumable: bool) -> None:
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
        console.say(f"hivemem: stopped at a bad line{again}, or use --on-error skip")


# --- Export ------------------------------------------------------------------------------


async def dump(
    client: HivememClient, options: argparse.Namespace, out: Path | None, summary: str
) -> int:
    """`hivemem export --collection NAME`. `out` None: standard output."""
    from node.collection_export import CollectionExport, Request
    from node.transfer_writers import new_file

    if options.resume:
        raise UsageError("--resume is for keys: a collection is exported whole")
    namespace, name = _place(options.collection)
    found = await client.collection(namespace, name)
    with _named_flags({"table": "--table or --sql"}):
        run = CollectionExport(
            client, Request(namespace, name, options.table, options.sql), found["engine"]
        )
    with ExitStack() as stack:
        if out is None:
            file: BinaryIO = sys.stdout.buffer
        else:
            try:
                file = stack.enter_context(new_file(out, replace=options.force))
            except FileExistsError:
                raise UsageError(f"{out} exists: --force overwrites it") from None
        writer = _writer(options, out, file, found, stack)
        quiet = out is None and console.is_terminal()
        shown = None if quiet else stack.enter_context(console.progress("export", None))
        done = 0

        def write(row: dict[str, Any]) -> None:
            nonlocal done
            writer.write(row)
            done += 1
            if shown is not None:
                shown.update(done, writer.written)

        report = await run.run(write)
        file.flush()
    _show_export(report, out, summary)
    return EXIT_DONE


def _writer(
    options: argparse.Namespace,
    out: Path | None,
    file: BinaryIO,
    found: CollectionInfo,
    stack: ExitStack,
) -> Writer:
    from node.transfer_npy import VectorWriter
    from node.transfer_writers import CsvWriter, JsonWriter, new_file

    form = options.format or (SUFFIXES.get(out.suffix.lower()) if out else None) or "jsonl"
    engine = found["engine"]
    if options.columns is not None and (engine != "document" or form != "csv"):
        raise UsageError("--columns goes with CSV of a collection of engine document")
    if options.vectors is not None:
        if engine != "vector" or form != "jsonl":
            raise UsageError("--vectors goes with JSON Lines of a collection of engine vector")
        try:
            numbers = stack.enter_context(new_file(options.vectors, replace=options.force))
        except FileExistsError:
            raise UsageError(f"{options.vectors} exists: --force overwrites it") from None
        vectors = VectorWriter(numbers, found["settings"]["dimensions"])
        stack.callback(vectors.close)
        return JsonWriter(file, vectors)
    if form == "jsonl":
        return JsonWriter(file)
    if engine == "relational":
        return CsvWriter(file, None)
    if engine != "document" or options.columns is None:
        raise UsageError("CSV is for tables and queries, and for documents with --columns")
    return CsvWriter(file, _columns(options.columns))


def _columns(text: str) -> Any:
    from node.transfer_csv import Columns
    from node.transfer_lines import BadLine

    try:
        return Columns(text.split(","))
    except BadLine as bad:
        raise UsageError(f"--columns: {bad}") from None


def _show_export(report: ExportReport, out: Path | None, summary: str) -> None:
    if summary == "json":
        # Standard output may be the export itself.
        document = {**asdict(report), "out": None if out is None else str(out)}
        (console.write_json if out is not None else console.say_json)(document)
        return
    if out is not None:
        console.say(f"exported {report.exported} records to {out}")
    if report.changed:
        console.say(
            "hivemem: the collection was written to meanwhile: each page is as it was when it "
            "was read, not all of them as of one moment"
        )


def _place(text: str) -> tuple[str, str]:
    namespace, slash, name = text.partition("/")
    return (namespace, name) if slash else (NAMESPACE, namespace)
