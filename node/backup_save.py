"""Saving a running cluster: each group's state fetched from one of its replicas, and checked.

Theory of operation. For each group a node is asked for a snapshot that holds all that was
acknowledged by then (`snapshot_service`), a follower before the leader. It is streamed into
a file beside the backup, and a broken connection goes on where it ended. When it is whole
every record in it is looked at; only then does it become part of the backup. What a node
cannot give, or gives damaged, is asked of the next one.

The cut is consistent within each group, not over several: no transaction spans two.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from node import backup_file
from node.backup_file import BackupWriter, OnBytes
from node.backup_format import BackupError, DamagedBackup, GroupState, Manifest, ranges
from node.client import HivememClient
from node.client_retry import SendFailed
from node.client_snapshots import Snapshot, SnapshotGroup, SnapshotList
from node.clock import Clock
from node.errors import (
    DeadlineExceeded,
    HivememError,
    InternalError,
    NotFound,
    OutOfSpace,
    Unavailable,
)

ASK_MS = 10_000  # ms; of one request for a snapshot, which is repeated while it is being made
IDLE_SECONDS_MAX = 60.0  # without a byte; then the connection counts as broken
RESUMES_MAX = 10  # broken connections in a row without a byte between them
RESUME_PAUSE_SECONDS = 0.5
ROUNDS_MAX = 2  # times that each node is asked
# What one node answers and another may not.
_ELSEWHERE = (NotFound, Unavailable, OutOfSpace, DeadlineExceeded, InternalError)


class Broken(Exception):
    """This node cannot give the snapshot (any more); another may."""


@dataclass(slots=True)
class Save:
    """One run. `wait_seconds_max`: for a node to make one snapshot.

    `on_size` hears of the bytes of each state before it comes; `on_note` of what went wrong
    on the way and is made up for.
    """

    client: HivememClient
    target: Path
    hivemem: str  # this version
    wait_seconds_max: float
    clock: Clock
    on_bytes: OnBytes
    on_size: Callable[[int], None]
    on_note: Callable[[str], None]
    _nodes: dict[str, str] = field(default_factory=dict)  # id → endpoint, in order

    async def run(self) -> Manifest:
        """Write the backup; durable on return. Raises BackupError, HivememError."""
        created_ms = self.clock.now_ms()
        self._nodes = await self._candidates()
        listed = await self._groups()
        with backup_file.writing(self.target, created_ms, len(listed["groups"])) as writer:
            states = [await self._save_group(each, writer) for each in listed["groups"]]
            manifest = Manifest(
                listed["cluster_id"], created_ms, self.hivemem, tuple(states), listed["slots"]
            )
            await asyncio.to_thread(writer.finish, manifest)
        return manifest

    async def _candidates(self) -> dict[str, str]:
        """Nodes to ask: healthy followers, the leader, the rest."""
        view = await self.client.cluster()
        nodes = sorted(
            view["nodes"],
            key=lambda node: (not node["healthy"], node["id"] == view["leader"], node["name"]),
        )
        return {node["id"]: node["http"] for node in nodes if node["http"]}

    async def _groups(self) -> SnapshotList:
        problem: HivememError | None = None
        for node in self._nodes.values():
            try:
                return await self.client.snapshots(node)
            except HivememError as error:
                if isinstance(error, NotFound) and error.code == "ROUTE_NOT_FOUND":
                    raise BackupError(f"{node} runs a version without snapshots") from error
                problem = error
        raise problem or BackupError("the cluster names no node that could be asked")

    # --- One group -----------------------------------------------------------------

    async def _save_group(self, group: SnapshotGroup, writer: BackupWriter) -> GroupState:
        path = writer.folder / f"{group['group']}.mdb"
        problem: Exception | None = None
        # Those that hold no replica are asked as well: it may have moved since.
        order = sorted(self._nodes, key=lambda node: node not in group["holders"])
        for node in [self._nodes[each] for each in order] * ROUNDS_MAX:
            path.unlink(missing_ok=True)
            try:
                snapshot = await self._fetch(node, group["group"], path)
                state = await asyncio.to_thread(_state, group, snapshot, path)
            except (Broken, DamagedBackup, *_ELSEWHERE) as error:
                problem = error
            else:
                await asyncio.to_thread(writer.add, state, path)
                path.unlink()
                return state
            self.on_note(f"group {group['group']} was not had from {node}: {problem}")
        if isinstance(problem, HivememError):
            raise problem
        raise BackupError(f"no node gave group {group['group']}: {problem}")

    async def _fetch(self, node: str, group: int, path: Path) -> Snapshot:
        """A snapshot of what was acknowledged before, in the file at `path`."""
        snapshot = await self._prepared(node, group)
        self.on_size(snapshot["size"])
        with backup_file.created(path) as file:
            digest = await self._download(node, snapshot, file)
        if digest != snapshot["sha256"]:
            raise Broken("what arrived has not the sha256 that the node said")
        return snapshot

    async def _prepared(self, node: str, group: int) -> Snapshot:
        deadline = self.clock.monotonic() + self.wait_seconds_max
        min_index: int | None = None
        while True:
            answer = await self.client.prepare_snapshot(
                node, group, min_index=min_index, timeout_ms=ASK_MS
            )
            if answer["snapshot"] is not None:
                return answer["snapshot"]
            min_index = answer["min_index"]
            if self.clock.monotonic() >= deadline:
                raise Broken(f"it made no snapshot within {self.wait_seconds_max:.0f} s")

    async def _download(self, node: str, snapshot: Snapshot, file: BinaryIO) -> str:
        """The sha256 of what arrived, all of it."""
        digest, received, failures = hashlib.sha256(), 0, 0
        while received < snapshot["size"]:
            try:
                stream = await self.client.open_snapshot(node, snapshot["id"], received)
                try:
                    while received < snapshot["size"]:
                        async with asyncio.timeout(IDLE_SECONDS_MAX):
                            piece = await stream.read()
                        if not piece:
                            raise SendFailed("it ended too early", sent=True)
                        if received + len(piece) > snapshot["size"]:
                            raise Broken("more arrived than the node said")
                        backup_file.write_all(file, piece)
                        digest.update(piece)
                        received += len(piece)
                        failures = 0
                        self.on_bytes(len(piece))
                finally:
                    stream.close()
            except (SendFailed, TimeoutError, Unavailable) as error:
                failures += 1
                if failures > RESUMES_MAX:
                    raise Broken(f"the connection broke too often: {error}") from error
                await asyncio.sleep(RESUME_PAUSE_SECONDS)
        return digest.hexdigest()


def _state(group: SnapshotGroup, snapshot: Snapshot, path: Path) -> GroupState:
    """What the manifest says of a state that was fetched. Raises DamagedBackup."""
    name = f"group {group['group']}"
    facts = backup_file.facts_of(path, name)
    if (facts.index, facts.term) != (snapshot["index"], snapshot["term"]):
        raise DamagedBackup(
            f"{name}: it is applied to {facts.index}, term {facts.term}; "
            f"the node said {snapshot['index']}, {snapshot['term']}"
        )
    return GroupState(
        group["group"],
        ranges(group["slots"]),
        facts.index,
        facts.term,
        facts.revision,
        facts.keys,
        snapshot["size"],
        snapshot["sha256"],
        facts.content.hex(),
    )
