"""Calls about snapshots: each asks one node, because a snapshot is that node's. No I/O here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol, TypedDict, cast

from node import client_wire as wire
from node.client_retry import Call, Reply
from node.client_types import JSON

_SNAPSHOTS = "/v1/snapshots"


class Snapshot(TypedDict):
    """One snapshot that a node holds: the state of a group up to log index `index`."""

    id: str
    index: int
    term: int
    size: int  # bytes
    sha256: str


class SnapshotGroup(TypedDict):
    """One Raft group. `slots`: inclusive ranges of the hash slots that it serves; `holders`:
    ids of the nodes to ask for it, the likeliest first."""

    group: int
    slots: list[list[int]]
    holders: list[str]
    snapshots: list[Snapshot]


class SnapshotList(TypedDict):
    """Answer of `GET /v1/snapshots`."""

    cluster_id: str
    slots: int
    groups: list[SnapshotGroup]


class SnapshotPrepared(TypedDict):
    """Answer of `POST /v1/snapshots`. `snapshot` None: still being made; ask again with this
    `min_index`, this node or another."""

    group: int
    min_index: int
    served_by: str
    snapshot: Snapshot | None


class Stream(Protocol):
    """An open answer whose body goes on."""

    async def read(self) -> bytes:
        """The next bytes, b"" at the end. Raises: SendFailed."""

    def close(self) -> None: ...


class SnapshotCalls(ABC):
    """Part of `ClientApi`. `endpoint`: the node that is asked."""

    @abstractmethod
    async def _once(self, endpoint: str, call: Call, timeout_ms: int | None) -> Reply:
        """The answer of one node, asked once. Raises: HivememError."""

    @abstractmethod
    async def _stream(self, endpoint: str, target: str) -> Stream:
        """Open a long answer of one node. Raises: SendFailed, HivememError."""

    async def snapshots(self, endpoint: str, *, timeout_ms: int | None = None) -> SnapshotList:
        """The cluster's groups, and the snapshots that this node holds of them."""
        call = Call("GET", _SNAPSHOTS, timed=False)
        return wire.parsed((await self._once(endpoint, call, timeout_ms)).body, _listed)

    async def prepare_snapshot(
        self,
        endpoint: str,
        group: int,
        *,
        min_index: int | None = None,
        timeout_ms: int | None = None,
    ) -> SnapshotPrepared:
        """Have the node make a snapshot of all that is acknowledged by now.

        `min_index`: of an earlier answer; what reaches it will do. Raises NotFound
        SNAPSHOT_NOT_FOUND (the node holds no such group), Unavailable, OutOfSpace, ….
        """
        wanted = wire.without_none({"group": group, "min_index": min_index})
        headers = {"Content-Type": JSON}
        call = Call("POST", _SNAPSHOTS, headers=headers, document=wire.dumps(wanted))
        return wire.parsed((await self._once(endpoint, call, timeout_ms)).body, _prepared)

    async def open_snapshot(self, endpoint: str, snapshot: str, offset: int) -> Stream:
        """A snapshot's bytes from `offset` on; close it.

        Raises SendFailed, NotFound SNAPSHOT_NOT_FOUND (it is gone), Unavailable, ….
        """
        name = wire.one_name("id", snapshot)
        return await self._stream(endpoint, f"{_SNAPSHOTS}/{name}?offset={offset}")


def _listed(fields: wire.Fields) -> SnapshotList:
    return {
        "cluster_id": str(fields["cluster_id"]),
        "slots": _number(fields["slots"]),
        "groups": [_group(each) for each in cast("list[wire.Fields]", fields["groups"])],
    }


def _group(fields: wire.Fields) -> SnapshotGroup:
    return {
        "group": _number(fields["group"]),
        "slots": [list(each) for each in cast("list[list[int]]", fields["slots"])],
        "holders": [str(each) for each in cast("list[str]", fields["holders"])],
        "snapshots": [_snapshot(each) for each in cast("list[wire.Fields]", fields["snapshots"])],
    }


def _prepared(fields: wire.Fields) -> SnapshotPrepared:
    found = fields["snapshot"]
    return {
        "group": _number(fields["group"]),
        "min_index": _number(fields["min_index"]),
        "served_by": str(fields["served_by"]),
        "snapshot": None if found is None else _snapshot(cast("wire.Fields", found)),
    }


def _snapshot(fields: wire.Fields) -> Snapshot:
    return {
        "id": str(fields["id"]),
        "index": _number(fields["index"]),
        "term": _number(fields["term"]),
        "size": _number(fields["size"]),
        "sha256": str(fields["sha256"]),
    }


def _number(value: object) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"{value!r} is no count")
    return value
