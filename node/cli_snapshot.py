"""`hivemem snapshot save | verify | restore`: backups."""

from __future__ import annotations

import argparse
import os
import shlex
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from node import console, discovery
from node.cli_options import (
    EXIT_CODES,
    EXIT_DONE,
    EXIT_FAILED,
    UsageError,
    add_client_command,
    positive,
)
from node.clock import SystemClock
from node.environment import environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from node.backup_format import Manifest
    from node.backup_restore import Restored
    from node.client import HivememClient
    from node.local_plan import Plan

WAIT_SECONDS_DEFAULT = 600.0  # for a node to make a snapshot: its disk may be slow and full


def add_commands(subparsers: argparse._SubParsersAction[Any]) -> None:
    group = subparsers.add_parser(
        "snapshot", help="back up a cluster, check a backup, restore one", epilog=EXIT_CODES
    )
    actions = group.add_subparsers(dest="snapshot_command", required=True, metavar="COMMAND")
    save = add_client_command(actions, "save", "save a running cluster to a file", _save)
    save.add_argument("file", type=Path, metavar="FILE")
    save.add_argument("--force", action="store_true", help="replace FILE once the new one is whole")
    save.add_argument(
        "--wait-seconds",
        type=float,
        default=WAIT_SECONDS_DEFAULT,
        metavar="S",
        help=f"for a node to make a snapshot (default {WAIT_SECONDS_DEFAULT:.0f})",
    )
    verify = actions.add_parser(
        "verify",
        help="check a backup to the last record, offline",
        description="Reads FILE once. Exit status 0: whole and sound; 1: damaged.",
        epilog=EXIT_CODES,
    )
    verify.add_argument("file", type=Path, metavar="FILE")
    verify.add_argument(
        "--temp-dir",
        type=Path,
        metavar="D",
        help="folder with room for the largest state (default: that of FILE, if it is writable)",
    )
    verify.set_defaults(run=_verify)
    restore = actions.add_parser(
        "restore",
        help="make a new cluster on this machine from a backup",
        description="Checks FILE first. `hivemem up` then starts the new cluster.",
        epilog=EXIT_CODES,
    )
    restore.add_argument("file", type=Path, metavar="FILE")
    restore.add_argument(
        "--data-dir",
        type=Path,
        metavar="D",
        help="empty folder of the new cluster (default: HIVEMEM_DATA_DIR, else one of the user's)",
    )
    restore.add_argument(
        "--nodes", type=positive, default=3, metavar="N", help="of the new cluster (default 3)"
    )
    restore.add_argument(
        "--port",
        type=int,
        metavar="BASE",
        help="first HTTP port; peers use BASE+10 and up, Redis BASE+20 and up",
    )
    restore.set_defaults(run=_restore)
    for command in (verify, restore):
        command.add_argument("-o", "--output", choices=("table", "json"), default="table")


# --- save ------------------------------------------------------------------------------


async def _save(client: HivememClient, options: argparse.Namespace) -> int:
    import importlib.metadata

    from node.backup_save import Save

    target = _target(options)
    with console.progress("save", None, "") as progress:
        count = _Counter(progress)
        run = Save(
            client,
            target,
            importlib.metadata.version("hivemem"),
            options.wait_seconds,
            SystemClock(),
            on_bytes=count.add,
            on_size=count.expect,
            on_note=lambda note: console.say(f"hivemem: {note}; trying on"),
        )
        manifest = await run.run()
    _show(manifest, target, options.output, "saved")
    return EXIT_DONE


def _target(options: argparse.Namespace) -> Path:
    """The file to write. Raises: UsageError."""
    target: Path = options.file
    if target.exists() and not target.is_file():
        raise UsageError(f"{target} is not a file")
    if target.exists() and not options.force:
        raise UsageError(f"{target} exists: --force replaces it")
    return target


class _Counter:
    """Bytes done so far, shown."""

    def __init__(self, progress: console.Progress) -> None:
        self._progress = progress
        self._bytes = 0
        self._total = 0

    def expect(self, count: int) -> None:
        """So many more bytes are to come."""
        self._total = self._bytes + count
        self._progress.expect(self._total)

    def add(self, count: int) -> None:
        self._bytes += count
        self._progress.update(0, self._bytes)


# --- verify ----------------------------------------------------------------------------


def _verify(options: argparse.Namespace) -> int:
    from node import backup_file
    from node.backup_format import DamagedBackup

    path: Path = options.file
    try:
        with path.open("rb", buffering=0) as file:
            manifest = backup_file.read_manifest(file)
            with _scratch(path, options.temp_dir) as folder:
                _examine(file, manifest, folder)
    except DamagedBackup as error:
        if options.output == "json":
            console.write_json({"file": str(path), "sound": False, "problem": str(error)})
        else:
            console.say(f"hivemem: {path} is damaged: {error}")
        return EXIT_FAILED
    _show(manifest, path, options.output, "whole and sound")
    return EXIT_DONE


def _examine(file: BinaryIO, manifest: Manifest, folder: Path) -> None:
    from node import backup_file

    with console.progress("verify", manifest.size, "") as progress:
        count = _Counter(progress)
        for each in backup_file.extract(file, manifest, folder, count.add):
            each.path.unlink()  # room for one at a time


@contextmanager
def _scratch(path: Path, chosen: Path | None) -> Iterator[Path]:
    """A folder for what is taken out, gone at the end."""
    beside = path.absolute().parent
    parent = chosen or (beside if os.access(beside, os.W_OK) else None)
    with tempfile.TemporaryDirectory(".verifying", f".{path.name}.", parent) as name:
        yield Path(name)


# --- restore ---------------------------------------------------------------------------


def _restore(options: argparse.Namespace) -> int:
    root = discovery.data_dir(options.data_dir, environment())
    restored = restored_cluster(options.file, root, options.nodes, options.port)
    if options.output == "json":
        console.write_json(
            {
                "cluster_id": restored.plan.cluster_id,
                "data_dir": str(restored.plan.root),
                "nodes": [
                    {"name": node.name, "id": node.id, "http": node.http, "peer": node.peer}
                    for node in restored.plan.nodes
                ],
                "backup": _document(restored.manifest),
            }
        )
        return EXIT_DONE
    said = restored_text(restored)
    console.write(f"{said}\nstart it: hivemem up{_flag(restored.plan)}")
    return EXIT_DONE


def restored_cluster(file: Path, root: Path, nodes: int, port: int | None) -> Restored:
    """Restore with progress shown. Raises BackupError, LaunchError."""
    from node.backup_restore import Request, restore

    with console.progress("restore", None, "") as progress:
        return restore(Request(file, root, nodes, port), SystemClock(), _Counter(progress).add)


def restored_text(restored: Restored) -> str:
    """One line about a cluster that was restored."""
    manifest, plan = restored.manifest, restored.plan
    keys = sum(state.keys for state in manifest.groups)
    return (
        f"restored {keys} keys as of {manifest.created_at} to {len(plan.nodes)} "
        f"node{'s' if len(plan.nodes) > 1 else ''} in {plan.root}, as the new cluster "
        f"{plan.cluster_id}"
    )


def _flag(plan: Plan) -> str:
    if plan.root == discovery.data_dir(None, environment()).absolute():
        return ""
    return f" --data-dir {shlex.quote(str(plan.root))}"


# --- What a backup holds ---------------------------------------------------------------


def _show(manifest: Manifest, path: Path, output: str, outcome: str) -> None:
    if output == "json":
        console.write_json({"file": str(path), "sound": True, **_document(manifest)})
        return
    console.write(
        f"{path} is {outcome}: {console.size(manifest.file_size)}, cluster {manifest.cluster_id} "
        f"as of {manifest.created_at}\nchecksum {manifest.checksum}"
    )
    rows = [
        (
            str(state.group),
            str(state.keys),
            str(state.revision),
            str(state.index),
            str(state.term),
            console.size(state.size),
            state.digest,
        )
        for state in manifest.groups
    ]
    console.table(("group", "keys", "revision", "index", "term", "size", "digest"), rows)


def _document(manifest: Manifest) -> dict[str, object]:
    """The manifest as JSON."""
    from dataclasses import asdict

    return {
        "cluster_id": manifest.cluster_id,
        "created_at": manifest.created_at,
        "hivemem": manifest.hivemem,
        "size": manifest.file_size,
        "checksum": manifest.checksum,
        "slots": manifest.slots,
        "partitions": manifest.partitions,
        "groups": [asdict(state) for state in manifest.groups],
    }
