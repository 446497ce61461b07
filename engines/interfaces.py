"""Shapes that cross the engines package's border: records, changes, results, limits.

No asyncio, sockets, clock or randomness in this package: the proposer stamps them.
Times are UTC milliseconds since 1970. Keys and values are bytes.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that shape replicated state: every node of a cluster must hold the same."""

    namespace_bytes_max: int = 64  # bytes
    session_bytes_max: int = 256  # bytes
    key_bytes_max: int = 4096  # bytes
    value_bytes_max: int = 8 * MIB  # bytes
    content_type_bytes_max: int = 256  # bytes
    request_id_bytes_max: int = 128  # bytes
    txn_ops_max: int = 128  # operations (compares and branches each)
    txn_bytes_max: int = 16 * MIB  # bytes of one encoded command
    history_versions_max: int = 16  # retained versions per key, the newest included
    history_bytes_max: int = 32 * MIB  # retained value bytes per key, the newest always kept
    watch_window_changes_max: int = 100_000  # changes a watch may resume over
    watch_window_bytes_max: int = 256 * MIB  # bytes of those changes
    request_ids_max: int = 100_000  # remembered request ids per group
    expire_batch_max: int = 500  # records per expiry command


class ChangeKind(enum.IntEnum):
    """What happened to a record."""

    PUT = 1
    DELETE = 2
    EXPIRE = 3


class ChangeId(NamedTuple):
    """Place of a change in a group's history: revision, then position within it.

    One command takes one revision however many records it changes (etcd's main and
    sub revision), so a transaction's changes share it. Revisions grow by one per
    command that changed something, in apply order, equal on every replica.
    """

    revision: int
    sub: int


@dataclass(frozen=True, slots=True)
class Record:
    """A live record. Invariant: 1 <= version; created_revision <= revision."""

    namespace: str
    session: str
    key: bytes
    value: bytes | None  # None only where the reader asked for no values
    size: int  # bytes of the value
    content_type: str
    version: int
    revision: int  # revision of its last change
    created_revision: int
    created_ms: int
    updated_ms: int
    expires_ms: int | None


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one record, as kept for history and watch."""

    id: ChangeId
    kind: ChangeKind
    namespace: str
    session: str
    key: bytes
    value: bytes | None  # None for DELETE and EXPIRE, or where no values were asked for
    size: int
    content_type: str
    version: int  # for DELETE and EXPIRE: the version that ended
    time_ms: int
    expires_ms: int | None


class RejectCode(enum.StrEnum):
    """Deterministic refusals: values returned by apply, the same on each replica."""

    VERSION_CONFLICT = "VERSION_CONFLICT"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    LIMIT_EXCEEDED = "LIMIT_EXCEEDED"


@dataclass(frozen=True, slots=True)
class Rejected:
    """The command was refused whole; nothing changed."""

    code: RejectCode
    message: str
    version: int | None = None  # VERSION_CONFLICT: the record's version, 0 if absent


@dataclass(frozen=True, slots=True)
class PutResult:
    version: int
    revision: int


@dataclass(frozen=True, slots=True)
class DeleteResult:
    deleted: bool
    version: int | None  # the version that ended; None if nothing was there
    revision: int  # the revision of the delete, or the current one if nothing was there


@dataclass(frozen=True, slots=True)
class GetResult:
    """Result of a get inside a transaction."""

    record: Record | None


@dataclass(frozen=True, slots=True)
class TxnResult:
    succeeded: bool  # True: `then` ran; False: `otherwise` ran
    revision: int
    results: tuple[PutResult | DeleteResult | GetResult, ...]


@dataclass(frozen=True, slots=True)
class ExpireResult:
    expired: int  # records removed


Result = PutResult | DeleteResult | TxnResult | ExpireResult | Rejected


@dataclass(frozen=True, slots=True)
class RecordPage:
    records: tuple[Record, ...]
    more: bool  # True: continue after records[-1].key


@dataclass(frozen=True, slots=True)
class HistoryPage:
    changes: tuple[Change, ...]  # newest first
    more: bool  # True: continue before changes[-1].id
    compacted: bool  # True: older versions existed and are no longer kept


@dataclass(frozen=True, slots=True)
class DueRecord:
    """A record whose deadline has passed, for the leader to propose its expiry."""

    namespace: str
    session: str
    key: bytes
    revision: int  # expiry applies only if this is still the record's revision


@dataclass(frozen=True, slots=True)
class StateStats:
    """Figures of one group's state, read from its counters."""

    applied_index: int
    revision: int
    compacted_revision: int  # a watch may resume from this revision or later
    keys: int
    value_bytes: int
    changes: int
    request_ids: int
    map_bytes_used: int
