"""The apply side's view of stored records: find, write, bury, forget.

A key is in one of three states. *Live*: a leaf in the trie. *Grave*: deleted or
expired, no leaf, but its history is remembered in `graves` until the deletion leaves
the watch window. *Unknown*: neither. Every change is written to `changes` once; leaves
and graves refer to it by id.

Invariants, which `check.py` verifies: the changes of a key that are kept are those its
leaf or grave retains, plus those after the floor; a leaf has an entry in `expiry`
exactly if it expires.
"""

from __future__ import annotations

from dataclasses import dataclass

from engines.counters import Counters
from engines.errors import CorruptRecord
from engines.interfaces import Change, ChangeId, ChangeKind, Limits
from engines.keyspace import (
    find_leaf,
    find_root,
    grave_key,
    make_leaf,
    remove_leaf,
    session_key,
)
from engines.layout import (
    CHANGE_ID,
    EXPIRY_KEY,
    RETAINED,
    Leaf,
    change_value,
    pack_change,
    pack_change_id,
    pack_leaf,
    seal,
    unpack_change,
    unpack_leaf,
)
from engines.store import Databases, Transaction

_NO_HISTORY = (0, 0, b"")


@dataclass(slots=True)
class Scope:
    """A session as seen within one apply. `root` is None while it holds no live key."""

    namespace: str
    session: str
    key: bytes  # its key in `sessions`
    root: bytes | None


class Records:
    """The records of one apply's write transaction."""

    def __init__(
        self,
        txn: Transaction,
        databases: Databases,
        counters: Counters,
        changes: list[Change] | None,
    ) -> None:
        """`changes`: where to append every change made, with its value; None: nowhere."""
        self.txn = txn
        self.databases = databases
        self.counters = counters
        self._changes = changes
        self._scopes: dict[tuple[str, str], Scope] = {}

    def scope(self, namespace: str, session: str) -> Scope:
        scope = self._scopes.get((namespace, session))
        if scope is None:
            key = session_key(namespace, session)
            scope = Scope(
                namespace, session, key, find_root(self.txn, self.databases.sessions, key)
            )
            self._scopes[namespace, session] = scope
        return scope

    def find(self, scope: Scope, key: bytes) -> Leaf | None:
        """The live leaf of `key`."""
        if scope.root is None:
            return None
        leaves = self.databases.leaves
        physical = find_leaf(self.txn, leaves, scope.root, key)
        if physical is None:
            return None
        record = self.txn.get(physical, db=leaves)
        return None if record is None else unpack_leaf("leaves", physical, record)

    def find_grave(self, scope: Scope, key: bytes) -> Leaf | None:
        """What is remembered of `key`, which is not live."""
        if self.counters.graves == 0:
            return None
        name = grave_key(scope.key, key)
        record = self.txn.get(name, db=self.databases.graves)
        return None if record is None else unpack_leaf("graves", name, record)

    def value(self, leaf: Leaf) -> bytes:
        """The value of a live leaf."""
        change_id = pack_change_id(leaf.revision, leaf.sub)
        record = self.txn.get(change_id, db=self.databases.changes)
        if record is None:
            raise CorruptRecord("changes", change_id, "the value of a live key is missing")
        return change_value(change_id, record, unpack_change(change_id, record))

    def put(
        self,
        scope: Scope,
        key: bytes,
        old: Leaf | None,
        change: ChangeId,
        value: bytes,
        content_type: str,
        now_ms: int,
        expires_ms: int | None,
        limits: Limits,
    ) -> int:
        """Store a value as the change `change`; returns the record's version.

        `old`: the live leaf, as just found.
        """
        counters = self.counters
        size = len(value)
        if old is None:
            version, created_revision, created_ms = 1, change.revision, now_ms
            retained_bytes, compacted, retained = self._exhume(scope, key)
            counters.keys += 1
            counters.value_bytes += size
        else:
            version, created_revision, created_ms = (
                old.version + 1, old.created_revision, old.created_ms,
            )  # fmt: skip
            retained_bytes, compacted, retained = old.retained_bytes, old.compacted, old.retained
            counters.value_bytes += size - old.size
            if old.expires_ms:
                self._drop_expiry(old)
        if expires_ms is not None:
            entry = EXPIRY_KEY.pack(expires_ms, *change)
            self.txn.put(entry, b"", db=self.databases.expiry)
        leaf = Leaf(
            change.revision, change.sub, ChangeKind.PUT, compacted, version, created_revision,
            created_ms, now_ms, expires_ms or 0, size, retained_bytes + size, content_type,
            retained + RETAINED.pack(*change, size),
        )  # fmt: skip
        self._record(scope, key, change, ChangeKind.PUT, leaf, value)
        self._write_leaf(scope, key, self._trimmed(leaf, limits))
        return version

    def bury(
        self,
        scope: Scope,
        key: bytes,
        old: Leaf,
        change: ChangeId,
        kind: ChangeKind,
        now_ms: int,
        limits: Limits,
    ) -> None:
        """Remove a live record as the change `change`; its history goes to its grave."""
        counters = self.counters
        counters.keys -= 1
        counters.value_bytes -= old.size
        counters.graves += 1
        if old.expires_ms:
            self._drop_expiry(old)
        assert scope.root is not None
        if remove_leaf(self.txn, self.databases.leaves, scope.root, key):
            self.txn.delete(scope.key, db=self.databases.sessions)
            scope.root = None
        grave = old._replace(
            revision=change.revision,
            sub=change.sub,
            kind=kind,
            updated_ms=now_ms,
            expires_ms=0,
            size=0,
            content_type="",
            retained=old.retained + RETAINED.pack(*change, 0),
        )
        self._record(scope, key, change, kind, grave, None)
        self.write_grave(scope, key, self._trimmed(grave, limits))

    def forget(self, scope: Scope, key: bytes, grave: Leaf) -> None:
        """Remove a grave and every change that it retains."""
        self.txn.delete(grave_key(scope.key, key), db=self.databases.graves)
        self.counters.graves -= 1
        for revision, sub, _ in RETAINED.iter_unpack(grave.retained):
            self.drop_change(pack_change_id(revision, sub))

    def drop_change(self, change_id: bytes) -> None:
        if not self.txn.delete(change_id, db=self.databases.changes):
            raise CorruptRecord("changes", change_id, "a change to be dropped is missing")
        self.counters.changes -= 1

    def write_grave(self, scope: Scope, key: bytes, grave: Leaf) -> None:
        name = grave_key(scope.key, key)
        self.txn.put(name, pack_leaf(name, grave), db=self.databases.graves)

    def _exhume(self, scope: Scope, key: bytes) -> tuple[int, int, bytes]:
        """(retained_bytes, compacted, retained) that a key which is made anew inherits."""
        grave = self.find_grave(scope, key)
        if grave is None:
            return _NO_HISTORY
        self.txn.delete(grave_key(scope.key, key), db=self.databases.graves)
        self.counters.graves -= 1
        return grave.retained_bytes, grave.compacted, grave.retained

    def _record(
        self,
        scope: Scope,
        key: bytes,
        change: ChangeId,
        kind: ChangeKind,
        leaf: Leaf,
        value: bytes | None,
    ) -> None:
        change_id = pack_change_id(*change)
        record = pack_change(change_id, scope.key, key, leaf, value or b"")
        # Ids only grow, so the tree's last page is filled to the brim and never searched for.
        if not self.txn.put(change_id, record, append=True, db=self.databases.changes):
            raise CorruptRecord("changes", change_id, "a newer change exists already")
        counters = self.counters
        counters.changes += 1
        counters.window_changes += 1
        counters.window_bytes += len(record)
        if self._changes is not None:
            made = Change(
                change, kind, scope.namespace, scope.session, key, value, leaf.size,
                leaf.content_type, leaf.version, leaf.updated_ms, leaf.expires_ms or None,
            )  # fmt: skip
            self._changes.append(made)

    def _write_leaf(self, scope: Scope, key: bytes, leaf: Leaf) -> None:
        counters = self.counters
        leaves = self.databases.leaves
        root = scope.root
        if root is None:
            root = scope.root = counters.allocate()
            self.txn.put(scope.key, seal(scope.key, root), db=self.databases.sessions)
        physical = make_leaf(self.txn, leaves, root, key, counters.allocate)
        self.txn.put(physical, pack_leaf(physical, leaf), db=leaves)

    def _drop_expiry(self, leaf: Leaf) -> None:
        entry = EXPIRY_KEY.pack(leaf.expires_ms, leaf.revision, leaf.sub)
        if not self.txn.delete(entry, db=self.databases.expiry):
            raise CorruptRecord("expiry", entry, "the deadline of a live key is missing")

    def _trimmed(self, leaf: Leaf, limits: Limits) -> Leaf:
        """`leaf` with its oldest changes dropped down to the limits, the newest kept.

        A change that the floor has not passed yet stays in the window; the sweep drops it.
        """
        count = len(leaf.retained) // RETAINED.size
        size = leaf.retained_bytes
        if count <= limits.history_versions_max and size <= limits.history_bytes_max:
            return leaf
        floor = self.counters.floor
        start = 0
        while count > 1 and (
            count > limits.history_versions_max or size > limits.history_bytes_max
        ):
            revision, sub, oldest = RETAINED.unpack_from(leaf.retained, start)
            if (revision, sub) <= floor:
                self.drop_change(CHANGE_ID.pack(revision, sub))
            start += RETAINED.size
            count -= 1
            size -= oldest
        return leaf._replace(compacted=1, retained=leaf.retained[start:], retained_bytes=size)
