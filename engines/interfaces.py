"""Shapes that cross the engines package's border: records, changes, results, limits.

No asyncio, sockets, clock or randomness in this package: the proposer stamps them.
Times are UTC milliseconds since 1970. Keys and values are bytes.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields
from typing import NamedTuple

from engines.edits import EditResult

MIB = 1 << 20
SUB_MAX = 0xFFFF  # positions within one revision, stored in 16 bits
PHYSICAL_KEY_BYTES_MAX = 511  # LMDB's compiled-in bound on a key
INTEGER_MAX = (1 << 63) - 1  # of versions, revisions and times


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that shape replicated state: every node of a cluster must hold the same.

    They are themselves replicated state: a change arrives through the log (see
    `command.Configure`), so that all replicas switch at the same entry.
    """

    namespace_bytes_max: int = 64  # bytes
    session_bytes_max: int = 256  # bytes
    key_bytes_max: int = 4096  # bytes
    value_bytes_max: int = 8 * MIB  # bytes
    content_type_bytes_max: int = 256  # bytes
    request_id_bytes_max: int = 128  # bytes
    txn_ops_max: int = 128  # operations (compares and branches each)
    txn_bytes_max: int = 16 * MIB  # bytes of keys and values of one transaction, or of its gets
    ttl_ms_max: int = 3650 * 86_400_000  # milliseconds a record may be given to live
    history_versions_max: int = 16  # retained versions per key, the newest included
    history_bytes_max: int = 32 * MIB  # retained value bytes per key, the newest always kept
    watch_window_changes_max: int = 100_000  # changes a watch may resume over
    watch_window_bytes_max: int = 256 * MIB  # bytes of those changes
    request_ids_max: int = 100_000  # remembered request ids per group
    request_bytes_max: int = 64 * MIB  # bytes of their remembered results
    expire_batch_max: int = 500  # records per expiry command

    def problems(self) -> list[str]:
        """Every way in which these limits cannot work; [] when they can."""
        found = [
            f"{field.name} is {value!r}; it must be a whole number of at least 1"
            for field in fields(self)
            if type(value := getattr(self, field.name)) is not int or value < 1
        ]
        if found:
            return found
        names = self.namespace_bytes_max + 1
        for maximum, name, value in (
            (PHYSICAL_KEY_BYTES_MAX - names, "session_bytes_max", self.session_bytes_max),
            (PHYSICAL_KEY_BYTES_MAX - names, "request_id_bytes_max", self.request_id_bytes_max),
            (255, "namespace_bytes_max", self.namespace_bytes_max),
            (0xFFFF, "key_bytes_max", self.key_bytes_max),
            (0xFFFF, "content_type_bytes_max", self.content_type_bytes_max),
            (1024 * MIB, "value_bytes_max", self.value_bytes_max),
            (1024 * MIB, "txn_bytes_max", self.txn_bytes_max),
            (SUB_MAX, "txn_ops_max", self.txn_ops_max),
            (SUB_MAX, "expire_batch_max", self.expire_batch_max),
            (1024, "history_versions_max", self.history_versions_max),
            (INTEGER_MAX // 2, "ttl_ms_max", self.ttl_ms_max),
        ):
            if value > maximum:
                found.append(f"{name} is {value}; it can be at most {maximum}")
        return found


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
    "After the whole of revision R" is ChangeId(R, SUB_MAX).
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


class Held(NamedTuple):
    """What a reader in a hurry wants of a live record."""

    value: bytes | None  # None only where the reader asked for no values
    size: int  # bytes of the value
    expires_ms: int  # 0: never
    revision: int


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
    # Of collections.
    COLLECTION_NOT_FOUND = "COLLECTION_NOT_FOUND"
    COLLECTION_EXISTS = "COLLECTION_EXISTS"
    ITEM_NOT_FOUND = "ITEM_NOT_FOUND"
    ITEM_EXISTS = "ITEM_EXISTS"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"  # by the settings of the collection
    # To the node that asked, which then asks otherwise.
    COLLECTION_SHARDED = "COLLECTION_SHARDED"  # its parts take what this was to do
    COLLECTION_DROPPING = "COLLECTION_DROPPING"  # parts of a former one of this name are left


@dataclass(frozen=True, slots=True)
class Rejected:
    """The command was refused whole; nothing changed."""

    code: RejectCode
    message: str
    version: int | None = None  # VERSION_CONFLICT: the record's version, 0 if absent
    field: str | None = None  # INVALID_ARGUMENT: what is at fault


@dataclass(frozen=True, slots=True)
class CollectionResult:
    """What a command on a collection did: `codec.pack_value` of the engine's answer."""

    answer: bytes
    log_index: int  # of the entry that did it


@dataclass(frozen=True, slots=True)
class SweepResult:
    removed: int  # items of dropped collections


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


@dataclass(frozen=True, slots=True)
class ConfigureResult:
    changed: bool  # False: the limits already were these


@dataclass(frozen=True, slots=True)
class CheckpointResult:
    log_index: int  # of the entry after which the hash tree was noted


Result = (
    PutResult
    | DeleteResult
    | TxnResult
    | EditResult
    | ExpireResult
    | ConfigureResult
    | CheckpointResult
    | CollectionResult
    | SweepResult
    | Rejected
)


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
    keys: int  # live records
    value_bytes: int  # of live records
    changes: int  # kept for history or watch
    request_ids: int
    map_bytes_used: int  # pages that hold data, of the store's map_bytes
