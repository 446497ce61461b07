"""The key-value engine, read side: every read of one snapshot.

A reader may be used from any thread, as its snapshot may; everything it returns is a
copy that outlives the snapshot. Each call is bounded by `limit` and `bytes_max`, so
that a snapshot is never held for long; a page always makes progress: its first item is
returned whatever its size. Names are looked up as they are: one that cannot exist is
not found. All raise CorruptRecord when a checksum does not verify.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from engines.catalog import CATALOG
from engines.collection_reader import CollectionReader
from engines.counters import Counters, read_counters
from engines.derived import DerivedIndexes
from engines.environment import Database, Databases, Transaction
from engines.errors import Compacted, CorruptRecord, InvalidArgument
from engines.interfaces import (
    Change,
    ChangeId,
    ChangeKind,
    DueRecord,
    Held,
    HistoryPage,
    Record,
    RecordPage,
    StateStats,
)
from engines.keyspace import (
    find_leaf,
    find_root,
    grave_key,
    session_key,
    split_session_key,
    walk,
)
from engines.layout import (
    EXPIRY_KEY,
    ChangeHead,
    Leaf,
    change_id_of,
    change_value,
    pack_change_id,
    retained_changes,
    unpack_change,
    unpack_leaf,
    value_of,
)
from engines.registry import Registry
from engines.session_indexes import SessionIndexes
from engines.store import Snapshot
from engines.tuning import Tuning


class KvReader:
    """Reads the state as of one snapshot."""

    __slots__ = (
        "_databases",
        "_indexes",
        "_last_root",
        "_loaded",
        "_registry",
        "_snapshot",
        "stop",
        "tuning",
    )

    def __init__(
        self,
        snapshot: Snapshot,
        registry: Registry | None = None,
        indexes: DerivedIndexes | None = None,
    ) -> None:
        """`registry`, `indexes`: for reads of collections."""
        self._registry = registry
        self._indexes = indexes
        self.stop: Callable[[], bool] = lambda: False  # does nobody wait any more?
        self.tuning: Tuning | None = None  # of the one query that is read
        self._snapshot = snapshot
        self._databases = snapshot.databases
        self._loaded: Counters | None = None
        self._last_root: tuple[bytes, bytes | None] | None = None  # a session's key, its root

    @property
    def _txn(self) -> Transaction:
        # Not kept: the transaction must end with the snapshot, even if the reader stays.
        return self._snapshot.txn

    @property
    def _counters(self) -> Counters:
        if self._loaded is None:
            self._loaded = read_counters(self._txn, self._databases)
        return self._loaded

    @property
    def collections(self) -> CollectionReader:
        """Reads of collections."""
        assert self._registry is not None
        return CollectionReader(
            self._snapshot, self._counters.applied_index, self._registry, self._indexes, self.stop,
            self.tuning,
        )  # fmt: skip

    @property
    def session_indexes(self) -> SessionIndexes | None:
        """Full-text indexes of sessions, which know of more than this snapshot; None: there are
        none for it."""
        return None if self._indexes is None else self._indexes.sessions

    @property
    def databases(self) -> Databases:
        """Of which state it is: another one has others."""
        return self._databases

    @property
    def applied_index(self) -> int:
        """Of the log: the last entry whose effects are there."""
        return self._counters.applied_index

    @property
    def revision(self) -> int:
        """Revision of the newest change; 0 in an empty state."""
        return self._counters.revision

    @property
    def compacted_revision(self) -> int:
        """A watch may resume from this revision or a later one."""
        return self._counters.floor_revision

    def stats(self) -> StateStats:
        counters = self._counters
        return StateStats(
            applied_index=counters.applied_index,
            revision=counters.revision,
            compacted_revision=counters.floor_revision,
            keys=counters.keys,
            value_bytes=counters.value_bytes,
            changes=counters.changes,
            request_ids=counters.request_ids,
            map_bytes_used=self._snapshot.bytes_used(),
        )

    def get(
        self, namespace: str, session: str, key: bytes, *, values: bool = True
    ) -> Record | None:
        """The live record, or None."""
        owner = session_key(namespace, session)
        leaf = self._leaf(owner, key)
        if leaf is None:
            return None
        value = self._value(owner, key, leaf) if values else None
        return _record(namespace, session, key, leaf, value)

    def held(self, namespace: str, session: str, key: bytes, *, values: bool) -> Held | None:
        """The live record, briefly, or None."""
        owner = session_key(namespace, session)
        leaf = self._leaf(owner, key)
        if leaf is None:
            return None
        value = self._value(owner, key, leaf) if values else None
        return Held(value, leaf.size, leaf.expires_ms, leaf.revision)

    def get_at(self, namespace: str, session: str, key: bytes, revision: int) -> Record | None:
        """The record as it was right after `revision`; None if it was absent then.

        Raises Compacted when that is no longer known, InvalidArgument for a revision
        that is yet to come.
        """
        if revision > self.revision:
            raise InvalidArgument(
                "at_revision", f"{revision} lies in the future; the newest is {self.revision}"
            )
        owner = session_key(namespace, session)
        leaf = self._leaf(owner, key) or self._grave(owner, key)
        retained = list(retained_changes(leaf)) if leaf else []
        for change_revision, sub, _ in reversed(retained):
            if change_revision <= revision:
                return self._record_at(namespace, session, ChangeId(change_revision, sub))
        # Older than all that is retained. Had the key existed then and been forgotten since,
        # its deletion would have left the window: at or after the floor it was absent,
        # unless its own history was cut.
        if leaf is not None and leaf.compacted:
            raise Compacted(retained[0][0])
        if revision < self.compacted_revision:
            raise Compacted(self.compacted_revision)
        return None

    def scan(
        self,
        namespace: str,
        session: str,
        prefix: bytes,
        after: bytes | None,
        limit: int,
        bytes_max: int,
        values: bool,
    ) -> RecordPage:
        """Live records whose key starts with `prefix` and is > `after`, in byte order.

        At most `limit` records; the page ends with the one whose value (if asked for)
        and key bring it to `bytes_max` bytes.
        """
        owner = session_key(namespace, session)
        root = self._root(owner)
        records: list[Record] = []
        if root is None:
            return RecordPage((), False)
        # after + NUL is the smallest key that is greater than `after`.
        start = prefix if after is None else max(prefix, after + b"\x00")
        size = 0
        with self._txn.cursor(db=self._databases.leaves) as cursor:
            for key, physical, view in walk(cursor, root, start):
                if not key.startswith(prefix):
                    break
                if len(records) >= limit or size >= bytes_max:
                    return RecordPage(tuple(records), True)
                leaf = unpack_leaf("leaves", physical, view)
                value = self._value(owner, key, leaf) if values else None
                records.append(_record(namespace, session, key, leaf, value))
                size += len(key) + (leaf.size if values else 0)
        return RecordPage(tuple(records), False)

    def history(
        self,
        namespace: str,
        session: str,
        key: bytes,
        before: ChangeId | None,
        limit: int,
        bytes_max: int,
        values: bool,
    ) -> HistoryPage:
        """The key's retained changes older than `before` (None: all), newest first.

        A key keeps its history through deletions, until it is forgotten whole: once its
        last deletion has left the watch window.
        """
        owner = session_key(namespace, session)
        leaf = self._leaf(owner, key) or self._grave(owner, key)
        if leaf is None:
            return HistoryPage((), False, False)
        changes: list[Change] = []
        size = 0
        more = False
        for revision, sub, value_bytes in reversed(list(retained_changes(leaf))):
            change_id = ChangeId(revision, sub)
            if before is not None and change_id >= before:
                continue
            if len(changes) >= limit or size >= bytes_max:
                more = True
                break
            changes.append(self._retained(change_id, values))
            size += value_bytes if values else 0
        return HistoryPage(tuple(changes), more, bool(leaf.compacted))

    def namespaces(self, after: str | None, limit: int) -> list[str]:
        """Namespaces with a live record or a collection, in byte order, those > `after`."""
        start = CATALOG if after is None else after.encode() + b"\x01"
        # Each gives its first ones, so that the first ones of both are among them.
        found: set[bytes] = set()
        for database in (self._databases.sessions, self._databases.collections):
            found.update(self._namespaces_in(database, start, limit))
        return [namespace.decode() for namespace in sorted(found)[:limit]]

    def _namespaces_in(self, database: Database, start: bytes, limit: int) -> list[bytes]:
        """What comes before the NUL in keys from `start` on, each once."""
        found: list[bytes] = []
        with self._txn.cursor(db=database) as cursor:
            while len(found) < limit and cursor.set_range(start):
                namespace = bytes(cursor.key()).partition(b"\x00")[0]
                found.append(namespace)
                # A namespace holds neither NUL nor 0x01: this skips all else that is in it. What
                # is left of dropped collections lies before CATALOG, and all namespaces behind.
                start = namespace + b"\x01"
        return found

    def sessions(self, namespace: str, after: str | None, limit: int) -> list[str]:
        """Sessions of the namespace that hold a live record, in byte order, those > `after`."""
        found: list[str] = []
        prefix = session_key(namespace, "")
        position = prefix if after is None else session_key(namespace, after) + b"\x00"
        with self._txn.cursor(db=self._databases.sessions) as cursor:
            available = cursor.set_range(position)
            while available and len(found) < limit:
                key = bytes(cursor.key())
                if not key.startswith(prefix):
                    break
                found.append(key[len(prefix) :].decode())
                available = cursor.next()
        return found

    def changes(self, since: ChangeId, limit: int, bytes_max: int, values: bool) -> list[Change]:
        """Every change strictly after `since`, oldest first; a full page may have more behind.

        "After revision R" is ChangeId(R, SUB_MAX). Raises Compacted when changes after
        `since` are no longer kept.
        """
        if since < self._counters.floor:
            raise Compacted(self.compacted_revision)
        changes: list[Change] = []
        size = 0
        with self._txn.cursor(db=self._databases.changes) as cursor:
            # One NUL more: the smallest key that is greater.
            available = cursor.set_range(pack_change_id(*since) + b"\x00")
            while available and len(changes) < limit and size < bytes_max:
                change_id = bytes(cursor.key())
                change = _change(change_id, cursor.value(), values)
                changes.append(change)
                size += len(change.key) + (change.size if values else 0)
                available = cursor.next()
        return changes

    def change(self, change_id: ChangeId, values: bool) -> Change | None:
        """One change, if it is still kept."""
        key = pack_change_id(*change_id)
        view = self._txn.get(key, db=self._databases.changes)
        return None if view is None else _change(key, view, values)

    def due(self, now_ms: int, limit: int) -> list[DueRecord]:
        """Records whose deadline is at or before `now_ms`, the longest overdue first."""
        found: list[DueRecord] = []
        with self._txn.cursor(db=self._databases.expiry) as cursor:
            available = cursor.first()
            while available and len(found) < limit:
                expires_ms, revision, sub = EXPIRY_KEY.unpack(cursor.key())
                if expires_ms > now_ms:
                    break
                _, head = self._head(pack_change_id(revision, sub))
                found.append(DueRecord(*split_session_key(head.owner), head.key, revision))
                available = cursor.next()
        return found

    def next_due_ms(self) -> int | None:
        """The earliest deadline, UTC milliseconds; None if no record has one."""
        with self._txn.cursor(db=self._databases.expiry) as cursor:
            if not cursor.first():
                return None
            expires_ms: int = EXPIRY_KEY.unpack(cursor.key())[0]
            return expires_ms

    def _root(self, owner: bytes) -> bytes | None:
        """As `find_root`. Those who read together often read of one session."""
        last = self._last_root
        if last is None or last[0] != owner:
            get = partial(self._txn.get, db=self._databases.sessions)
            last = self._last_root = (owner, find_root(get, owner))
        return last[1]

    def _leaf(self, owner: bytes, key: bytes) -> Leaf | None:
        txn, databases = self._txn, self._databases
        root = self._root(owner)
        if root is None:
            return None
        physical = find_leaf(partial(txn.get, db=databases.leaves), root, key)
        if physical is None:
            return None
        view = txn.get(physical, db=databases.leaves)
        return None if view is None else unpack_leaf("leaves", physical, view)

    def _grave(self, owner: bytes, key: bytes) -> Leaf | None:
        name = grave_key(owner, key)
        view = self._txn.get(name, db=self._databases.graves)
        return None if view is None else unpack_leaf("graves", name, view)

    def _stored(self, change_id: bytes) -> memoryview:
        """A change that something refers to, as it is stored."""
        view = self._txn.get(change_id, db=self._databases.changes)
        if view is None:
            raise CorruptRecord("changes", change_id, "a change that is referred to is missing")
        return view

    def _head(self, change_id: bytes) -> tuple[memoryview, ChangeHead]:
        view = self._stored(change_id)
        return view, unpack_change(change_id, view)

    def _value(self, owner: bytes, key: bytes, leaf: Leaf) -> bytes:
        change_id = pack_change_id(leaf.revision, leaf.sub)
        # The tenant's boundary: whatever an index says, no other session's value is returned.
        return value_of(change_id, self._stored(change_id), owner, key)

    def _retained(self, change_id: ChangeId, values: bool) -> Change:
        key = pack_change_id(*change_id)
        return _change(key, self._head(key)[0], values)

    def _record_at(self, namespace: str, session: str, change_id: ChangeId) -> Record | None:
        key = pack_change_id(*change_id)
        view, head = self._head(key)
        if head.kind != ChangeKind.PUT:
            return None
        return Record(
            namespace, session, head.key, change_value(key, view, head), head.size,
            head.content_type, head.version, change_id.revision, head.created_revision,
            head.created_ms, head.time_ms, head.expires_ms or None,
        )  # fmt: skip


def _record(namespace: str, session: str, key: bytes, leaf: Leaf, value: bytes | None) -> Record:
    return Record(
        namespace, session, key, value, leaf.size, leaf.content_type, leaf.version,
        leaf.revision, leaf.created_revision, leaf.created_ms, leaf.updated_ms,
        leaf.expires_ms or None,
    )  # fmt: skip


def _change(change_id: bytes, view: memoryview, values: bool) -> Change:
    head = unpack_change(change_id, view)
    namespace, session = split_session_key(head.owner)
    value = None
    if values and head.kind == ChangeKind.PUT:
        value = change_value(change_id, view, head)
    return Change(
        change_id_of(change_id), ChangeKind(head.kind), namespace, session, head.key, value,
        head.size, head.content_type, head.version, head.time_ms, head.expires_ms or None,
    )  # fmt: skip
