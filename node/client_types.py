"""What the client takes and returns: the HTTP API's answers as typed, frozen values.

Times are aware datetimes in UTC. Values are bytes, exactly as stored. No I/O here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple, TypedDict

Json = dict[str, object] | list[object] | str | int | float | bool | None
Consistency = Literal["linearizable", "leader", "stale", "strong", "weak", "eventual"]
Priority = Literal["low", "medium", "high", "critical"]
ChangeType = Literal["put", "delete", "expire"]

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
BYTES = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Value:
    """A record as read. `version` counts its writes; `revision` is that of its last change."""

    value: bytes
    content_type: str
    version: int
    revision: int
    expires_at: datetime | None = None
    served_by: str | None = None  # name of the node that answered, where the answer says it

    def text(self) -> str:
        """The value as UTF-8. Raises: UnicodeDecodeError for bytes that are not text."""
        return self.value.decode()

    def json(self) -> Json:
        """The value parsed as JSON. Raises: ValueError."""
        parsed: Json = json.loads(self.value)
        return parsed


@dataclass(frozen=True, slots=True)
class PutResult:
    version: int
    revision: int


@dataclass(frozen=True, slots=True)
class DeleteResult:
    deleted: bool
    version: int | None  # the version that ended; None if nothing was there
    revision: int


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Keys that were deleted, and kept: those that were seen and changed after `revision`.

    `more`: there may be others.
    """

    deleted: int
    kept: int
    more: bool
    revision: int


@dataclass(frozen=True, slots=True)
class Item:
    """A listed record. `value` is None where the listing was asked for no values."""

    key: str
    version: int
    revision: int
    created_revision: int
    content_type: str
    size: int  # bytes of the value
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None
    value: bytes | None = None

    def text(self) -> str:
        """The value as UTF-8. Raises: UnicodeDecodeError; ValueError if it was not asked for."""
        if self.value is None:
            raise ValueError("this item was listed without its value; ask with values=True")
        return self.value.decode()


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing, keys in byte order; `next_cursor` is None at the end."""

    items: tuple[Item, ...]
    next_cursor: str | None
    revision: int


@dataclass(frozen=True, slots=True)
class Hit:
    """A record that a search found. `score`: greater is better, within one search; `snippet`: a
    piece of its key or value with the found words in [ ], None where none was asked for."""

    item: Item
    score: float
    snippet: str | None = None


@dataclass(frozen=True, slots=True)
class HitPage:
    """What a search found, best first. `more`: more records match."""

    hits: tuple[Hit, ...]
    more: bool
    revision: int


@dataclass(frozen=True, slots=True)
class NamePage:
    """One page of session or namespace names."""

    names: tuple[str, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class HistoryItem:
    """One past change of a record; `value` is None for delete and expire."""

    type: ChangeType
    version: int
    revision: int
    time: datetime
    size: int
    content_type: str
    value: bytes | None


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Newest first. `compacted`: older versions existed and are no longer kept."""

    items: tuple[HistoryItem, ...]
    next_cursor: str | None
    compacted: bool
    revision: int


class EventId(NamedTuple):
    """A change's place in the order of all changes; `str()` gives the API's form."""

    revision: int
    position: int

    def __str__(self) -> str:
        return f"{self.revision}.{self.position}"

    @classmethod
    def parse(cls, text: str) -> EventId:
        """Raises: ValueError."""
        revision, _, position = text.partition(".")
        return cls(int(revision), int(position))

    @classmethod
    def of(cls, text: str) -> EventId | str:
        """The id in the API's form, or as it is if its parts are the node's business.

        Raises: ValueError.
        """
        if not text:
            raise ValueError("an event without id")
        return cls.parse(text) if text[:1].isdecimal() else text


@dataclass(frozen=True, slots=True)
class Event:
    """One watched change.

    `id`: an EventId; of a namespace's watch in a cluster with partitions, the text in which
    the node says where each partition stands. Either way what another watch goes on from.
    """

    id: EventId | str
    type: ChangeType
    namespace: str
    session: str
    key: str
    version: int
    revision: int
    time: datetime
    expires_at: datetime | None
    content_type: str
    size: int
    value: bytes | None  # None for delete and expire, or where no values were asked for


@dataclass(frozen=True, slots=True)
class GetResult:
    """Result of a get inside a transaction; `item` is None if the key is absent."""

    item: Item | None


@dataclass(frozen=True, slots=True)
class TxnResult:
    """`succeeded`: every compare held and `then` ran; otherwise `otherwise` ran."""

    succeeded: bool
    revision: int
    results: tuple[PutResult | DeleteResult | GetResult, ...]


@dataclass(frozen=True, slots=True)
class BatchPut:
    """`content_type` None: text for a str, octet-stream for bytes."""

    namespace: str
    session: str
    key: str
    value: bytes | str
    content_type: str | None = None
    ttl_seconds: float | None = None
    if_version: int | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class BatchGet:
    namespace: str
    session: str
    key: str


@dataclass(frozen=True, slots=True)
class BatchDelete:
    namespace: str
    session: str
    key: str
    if_version: int | None = None
    request_id: str | None = None


BatchOperation = BatchPut | BatchGet | BatchDelete
BatchResult = PutResult | DeleteResult | Value


class NodeView(TypedDict):
    """A node as another sees it; what an unreachable node would say is None."""

    id: str
    name: str
    role: str | None
    voter: bool
    http: str | None
    peer: str | None
    redis: str | None
    pid: int | None
    version: str | None
    healthy: bool
    term: int | None
    log_index: int | None
    commit_index: int | None
    applied_index: int | None
    disk_bytes: int | None
    memory_bytes: int | None
    uptime_seconds: float | None


class ClusterView(TypedDict):
    """Answer of `/v1/cluster`; `leader` is a node id."""

    cluster_id: str
    leader: str | None
    term: int | None
    nodes: list[NodeView]


class Member(TypedDict):
    """One member of the cluster. A learner receives the log and has no vote."""

    id: str
    name: str
    role: Literal["voter", "learner"]
    peer: str
    http: str


class Members(TypedDict):
    """Answer of `/v1/cluster/members`, and of each change: the members after it.

    `leader` is a node id. `configuration_index`: the log index that set the members; 0: they
    are those of the settings file.
    """

    configuration_index: int
    leader: str | None
    members: list[Member]


class PartitionReplica(TypedDict):
    """A partition on one node; None: the node did not say."""

    node: str  # id
    name: str
    role: str  # leader | follower | candidate | learner
    wanted: bool  # False: on its way out
    answering: bool
    applied_index: int | None
    log_index: int | None


class Partition(TypedDict):
    """One partition; None: not known now. Slots are inclusive; `target`: ids of nodes."""

    id: int
    first_slot: int
    last_slot: int
    leader: str | None
    term: int | None
    revision: int | None
    keys: int | None
    value_bytes: int | None
    replicas: list[PartitionReplica]
    target: list[str]


class PartitionNode(TypedDict):
    """A node as far as partitions are concerned."""

    id: str
    name: str
    labels: list[str]
    draining: bool
    removing: bool
    answering: bool
    replicas: int
    leaders: int


class MoveProgress(TypedDict):
    """How far the partitions are on their way to where they should be."""

    partitions_done: int
    partitions_total: int
    replicas_done: int
    replicas_total: int
    learners: int  # catching up
    surplus: int  # still to be removed


class Partitions(TypedDict):
    """Answer of `/v1/partitions`. `epoch` 0: every node holds everything."""

    epoch: int
    replication_factor: int | None
    warnings: list[str]
    progress: MoveProgress | None
    nodes: list[PartitionNode]
    partitions: list[Partition]


class NodeStatus(TypedDict):
    """Answer of `/v1/status`, as the node says it of itself."""

    id: str
    name: str
    version: str
    role: str
    voter: bool
    leader: str | None
    term: int
    log_first_index: int
    log_index: int
    durable_index: int
    commit_index: int
    applied_index: int
    snapshot_index: int
    configuration_index: int
    revision: int
    pid: int
    uptime_seconds: float
    started_at: str
    http: str
    peer: str
    redis: str | None
    data_dir: str
    disk: Mapping[str, int | bool | None]
    memory: Mapping[str, int]
    keys: int
    limits: Mapping[str, Mapping[str, object]]
    security: Mapping[str, object]
    durability: Mapping[str, object]
