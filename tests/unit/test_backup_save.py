"""Saving: whom it asks, what it does when a node fails it, and that a failure leaves nothing."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from node import backup_file, backup_save
from node.backup_format import BackupError, Manifest
from node.backup_save import RESUMES_MAX, Save
from node.client import HivememClient
from node.client_retry import SendFailed
from node.clock import SystemClock
from node.errors import NotFound, Unauthenticated, Unavailable
from tests.unit.engine_state import checked_state
from tests.unit.test_backup_file import copy_of, fill

PIECE = 5000  # bytes that one read gives


@dataclass
class Node:
    """One node of the cluster. `state` None: it holds no replica."""

    name: str
    state: bytes | None
    index: int = 0
    healthy: bool = True
    pending: int = 0  # requests until the snapshot is ready
    breaks_after: int | None = None  # bytes of each connection
    flips: bool = False  # bits on the wire
    error: Exception | None = None
    asked: list[int | None] = field(default_factory=list)  # min_index of each request
    offsets: list[int] = field(default_factory=list)

    @property
    def http(self) -> str:
        return f"http://{self.name}"

    def snapshot(self) -> dict[str, object]:
        assert self.state is not None
        digest = hashlib.sha256(self.state).hexdigest()
        return {
            "id": f"0-{self.index}", "index": self.index, "term": 1, "size": len(self.state),
            "sha256": digest,
        }  # fmt: skip


@dataclass
class Stream:
    node: Node
    data: bytes
    given: int = 0
    closed: bool = False

    async def read(self) -> bytes:
        if self.node.breaks_after is not None and self.given >= self.node.breaks_after:
            raise SendFailed("connection reset", sent=True)
        piece = self.data[self.given : self.given + PIECE]
        self.given += len(piece)
        return bytes(len(piece)) if self.node.flips else piece

    def close(self) -> None:
        self.closed = True


class Cluster:
    """Stands in for the client. The first node leads."""

    def __init__(self, *nodes: Node) -> None:
        self.nodes = {node.http: node for node in nodes}
        self.streams: list[Stream] = []

    async def cluster(self) -> dict[str, object]:
        nodes = [
            {"id": node.name, "name": node.name, "http": node.http, "healthy": node.healthy}
            for node in self.nodes.values()
        ]
        return {"cluster_id": "c1", "leader": nodes[0]["id"], "term": 1, "nodes": nodes}

    async def snapshots(self, endpoint: str) -> dict[str, object]:
        holders = [node.name for node in self.nodes.values() if node.state is not None]
        group = {"group": 0, "slots": [[0, 16383]], "holders": holders, "snapshots": []}
        return {"cluster_id": "c1", "slots": 16384, "groups": [group]}

    async def prepare_snapshot(
        self, endpoint: str, group: int, *, min_index: int | None, timeout_ms: int
    ) -> dict[str, object]:
        node = self.nodes[endpoint]
        node.asked.append(min_index)
        if node.error is not None:
            raise node.error
        if node.state is None:
            raise NotFound("no replica", code="SNAPSHOT_NOT_FOUND")
        node.pending -= 1
        snapshot = None if node.pending >= 0 else node.snapshot()
        return {"group": group, "min_index": 7, "served_by": node.name, "snapshot": snapshot}

    async def open_snapshot(self, endpoint: str, snapshot: str, offset: int) -> Stream:
        node = self.nodes[endpoint]
        assert node.state is not None
        node.offsets.append(offset)
        self.streams.append(Stream(node, node.state[offset:]))
        return self.streams[-1]


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, int]:
    """Bytes and applied index of a sound state."""
    folder = tmp_path_factory.mktemp("state")
    with checked_state(folder / "state") as found:
        fill(found)
        return copy_of(found, folder / "copy.mdb").read_bytes(), found.machine.applied_index


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup_save, "RESUME_PAUSE_SECONDS", 0.0)


@pytest.fixture
def node(state: tuple[bytes, int]) -> Callable[..., Node]:
    def made(name: str, **more: Any) -> Node:
        return Node(name, **{"state": state[0], "index": state[1], **more})

    return made


async def saved(cluster: Cluster, folder: Path) -> tuple[Manifest, list[str]]:
    """The manifest of a backup that was read again, and what was noted on the way."""
    notes: list[str] = []
    target = folder / "b.hivemem"
    run = Save(
        cast(HivememClient, cluster), target, "0.1.0", 5.0, SystemClock(),
        on_bytes=lambda count: None, on_size=lambda size: None, on_note=notes.append,
    )  # fmt: skip
    manifest = await run.run()
    assert all(stream.closed for stream in cluster.streams)
    with target.open("rb") as file:
        assert backup_file.read_manifest(file) == manifest
        for each in backup_file.extract(file, manifest, folder, lambda count: None):
            each.path.unlink()
    assert [path.name for path in folder.iterdir()] == ["b.hivemem"]
    return manifest, notes


async def test_a_follower_gives_it_and_the_leader_is_spared(
    node: Callable[..., Node], tmp_path: Path
) -> None:
    cluster = Cluster(node("n1"), node("n2"), node("n3"))
    manifest, notes = await saved(cluster, tmp_path)
    assert [len(each.asked) for each in cluster.nodes.values()] == [0, 1, 0]
    assert notes == []
    assert manifest.groups[0].slots == ((0, 16383),)


async def test_nodes_without_the_group_or_in_trouble_come_last(
    node: Callable[..., Node], tmp_path: Path
) -> None:
    cluster = Cluster(node("n1"), node("n2", state=None), node("n3", healthy=False))
    await saved(cluster, tmp_path)
    assert [len(each.asked) for each in cluster.nodes.values()] == [1, 0, 0]


async def test_it_asks_until_the_snapshot_is_ready(
    node: Callable[..., Node], tmp_path: Path
) -> None:
    """The first answer's index, so that each request does not ask for a later one."""
    only = node("n1", pending=3)
    await saved(Cluster(only), tmp_path)
    assert only.asked == [None, 7, 7, 7]


async def test_a_broken_connection_goes_on_where_it_ended(
    node: Callable[..., Node], tmp_path: Path
) -> None:
    only = node("n1", breaks_after=2 * PIECE)
    manifest, notes = await saved(Cluster(only), tmp_path)
    size = manifest.groups[0].size
    assert only.offsets == list(range(0, size, 2 * PIECE))
    assert notes == []


async def test_a_node_that_gives_no_byte_is_given_up(
    node: Callable[..., Node], tmp_path: Path
) -> None:
    silent, other = node("n2", breaks_after=0), node("n1")
    _, notes = await saved(Cluster(other, silent), tmp_path)
    assert len(silent.offsets) == RESUMES_MAX + 1
    assert len(other.offsets) == 1
    assert "n2: the connection broke too often" in notes[0]


async def test_what_arrives_otherwise_than_it_was_sent_is_asked_of_another(
    node: Callable[..., Node], tmp_path: Path
) -> None:
    _, notes = await saved(Cluster(node("n1"), node("n2", flips=True)), tmp_path)
    assert "sha256" in notes[0]


async def test_a_damaged_replica_never_becomes_a_backup(
    node: Callable[..., Node], state: tuple[bytes, int], tmp_path: Path
) -> None:
    """Its sha256 is right: it is what the node has."""
    rotten = bytearray(state[0])
    rotten[rotten.rindex(b"again")] ^= 1
    cluster = Cluster(node("n1"), node("n2", state=bytes(rotten)))
    manifest, notes = await saved(cluster, tmp_path)
    assert manifest.groups[0].sha256 == hashlib.sha256(state[0]).hexdigest()
    assert "checksum mismatch" in notes[0]


async def test_a_state_of_another_entry_than_the_node_said(
    node: Callable[..., Node], state: tuple[bytes, int], tmp_path: Path
) -> None:
    cluster = Cluster(node("n1"), node("n2", index=state[1] + 1))
    _, notes = await saved(cluster, tmp_path)
    assert f"applied to {state[1]}" in notes[0]


async def test_where_no_node_can_give_it_nothing_is_left(
    node: Callable[..., Node], tmp_path: Path
) -> None:
    cluster = Cluster(node("n1", flips=True), node("n2", error=Unavailable("no quorum")))
    with pytest.raises(BackupError, match="no node gave group 0"):
        await saved(cluster, tmp_path)
    assert [len(each.asked) for each in cluster.nodes.values()] == [2, 2]
    assert not list(tmp_path.iterdir())
    with pytest.raises(Unavailable):
        await saved(Cluster(node("n1", error=Unavailable("no quorum"))), tmp_path)


async def test_what_no_node_would_answer_otherwise_is_said_at_once(
    node: Callable[..., Node], tmp_path: Path
) -> None:
    cluster = Cluster(node("n1"), node("n2", error=Unauthenticated("a token is needed")))
    with pytest.raises(Unauthenticated):
        await saved(cluster, tmp_path)
    assert not list(tmp_path.iterdir())


async def test_a_full_disk_here_is_not_the_nodes_fault(
    node: Callable[..., Node], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: object, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    cluster = Cluster(node("n1"), node("n2"))
    monkeypatch.setattr(backup_file, "write_all", full)
    with pytest.raises(BackupError, match="No space left"):
        await saved(cluster, tmp_path)
    assert not list(tmp_path.iterdir())
