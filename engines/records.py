"""The apply side's view of stored records: find, write, bury, forget.

A key is in one of three states. *Live*: a leaf in the trie. *Grave*: deleted or
expired, no leaf, but its history is remembered in `graves` until the deletion leaves
the watch window. *Unknown*: neither. Every change is written to `changes` once; leaves
and graves refer to it by id.

`leaving` says what goes when the floor passes a change, so that the sweep needs no look
at records: the change itself, which its key's history has dropped already, or a whole
key, whose deletion it is.

Invariants, which `check.py` verifies: the changes of a key that are kept are those its
leaf or grave retains, plus those after the floor; of the latter, those not retained are
in `leaving`, and so is the deletion of each grave, and nothing else; a leaf has an entry
in `expiry` exactly if it expires.
"""

from __future__ import annotations

from engines.counters import Counters
from engines.errors import CorruptRecord
from engines.interfaces import ChangeId, ChangeKind, Limits
from engines.keyspace import (
    SEGMENT_BYTES,
    find_leaf,
    find_root,
    grave_key,
    make_leaf,
    remove_leaf,
    session_key,
)
from engines.layout import (
    EXPIRY_KEY,
    RETAINED,
    Leaf,
    change_value,
    pack_change,
    pack_change_id,
    pack_leaf,
    pack_leaf_fields,
    seal,
    unpack_change,
    unpack_leaf,
    unseal,
)
from engines.made_changes import MadeChanges, Scope
from engines.overlay import Overlay

_NO_HISTORY = (0, 0, b"")
_DROP = b""  # in `leaving`: the change goes; else the name of the grave that goes


class Records:
    """The records of one apply's write transaction."""

    def __init__(self, overlay: Overlay, counters: Counters, made: MadeChanges | None) -> None:
        """`made`: where to append every change made, with its value; None: nowhere."""
        self.overlay = overlay
        self.counters = counters
        self._made = None if made is None else made.parts
        self._scopes: dict[tuple[str, str], Scope] = {}

    def scope(self, namespace: str, session: str) -> Scope:
        scope = self._scopes.get((namespace, session))
        if scope is None:
            key = session_key(namespace, session)
            scope = Scope(namespace, session, key, find_root(self.overlay.sessions.get, key))
            self._scopes[namespace, session] = scope
        return scope

    def find(self, scope: Scope, key: bytes) -> Leaf | None:
        """The live leaf of `key`."""
        if scope.root is None:
            return None
        leaves = self.overlay.leaves
        if len(key) <= SEGMENT_BYTES:
            physical = scope.root + key
        elif (found := find_leaf(leaves.get, scope.root, key)) is not None:
            physical = found
        else:
            return None
        record = leaves.get(physical)
        return None if record is None else unpack_leaf("leaves", physical, record)

    def find_grave(self, scope: Scope, key: bytes) -> Leaf | None:
        """What is remembered of `key`, which is not live."""
        if self.counters.graves == 0:
            return None
        name = grave_key(scope.key, key)
        record = self.overlay.graves.get(name)
        return None if record is None else unpack_leaf("graves", name, record)

    def value(self, leaf: Leaf) -> bytes:
        """The value of a live leaf."""
        change_id = pack_change_id(leaf.revision, leaf.sub)
        record = self.overlay.changes.get(change_id)
        if record is None:
            raise CorruptRecord("changes", change_id, "the value of a live key is missing")
        return change_value(change_id, record, unpack_change(change_id, record))

    def put(
        self,
        scope: Scope,
        key: bytes,
        old: Leaf | None,
        revision: int,
        sub: int,
        value: bytes,
        content_type: str,
        now_ms: int,
        expires_ms: int | None,
        limits: Limits,
    ) -> int:
        """Store a value as the change (revision, sub); returns the record's version.

        `old`: the live leaf, as just found.
        """
        counters, overlay = self.counters, self.overlay
        size = len(value)
        if old is None:
            version, created_revision, created_ms = 1, revision, now_ms
            retained_bytes, compacted, retained = self._exhume(scope, key)
            counters.keys += 1
            counters.value_bytes += size
        else:
            # By place: a name would cost a call for each.
            _, _, _, compacted, version, created_revision, created_ms, _, expired_ms, old_size, \
                retained_bytes, _, retained = old  # fmt: skip
            version += 1
            counters.value_bytes += size - old_size
            if expired_ms:
                self._drop_expiry(old)
        expires = 0
        if expires_ms is not None:
            expires = expires_ms
            overlay.expiry.put(EXPIRY_KEY.pack(expires, revision, sub), b"")
        type_bytes = content_type.encode()
        self._record(
            scope, key, revision, sub, ChangeKind.PUT, type_bytes, value, version,
            created_revision, created_ms, now_ms, expires,
        )  # fmt: skip
        retained += RETAINED.pack(revision, sub, size)
        retained_bytes += size
        if (
            len(retained) > limits.history_versions_max * RETAINED.size
            or retained_bytes > limits.history_bytes_max
        ):
            retained, retained_bytes, cut = self._trimmed(retained, retained_bytes, limits)
            compacted |= cut
        root = scope.root or self._make_root(scope)
        if len(key) <= SEGMENT_BYTES:
            physical = root + key
        else:
            physical = make_leaf(overlay.leaves, root, key, counters.allocate)
        record = pack_leaf_fields(
            physical, type_bytes, retained, revision, sub, ChangeKind.PUT, compacted, version,
            created_revision, created_ms, now_ms, expires, size, retained_bytes,
        )  # fmt: skip
        overlay.leaves.put(physical, record)
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
        if remove_leaf(self.overlay.leaves, scope.root, key):
            self.overlay.sessions.delete(scope.key)
            scope.root = None
        self._record(
            scope, key, change.revision, change.sub, kind, b"", None, old.version,
            old.created_revision, old.created_ms, now_ms, 0,
        )  # fmt: skip
        retained, retained_bytes, cut = self._trimmed(
            old.retained + RETAINED.pack(*change, 0), old.retained_bytes, limits
        )
        grave = old._replace(
            revision=change.revision,
            sub=change.sub,
            kind=kind,
            compacted=old.compacted | cut,
            updated_ms=now_ms,
            expires_ms=0,
            size=0,
            retained_bytes=retained_bytes,
            content_type="",
            retained=retained,
        )
        name = grave_key(scope.key, key)
        self._leave(pack_change_id(*change), name)
        self.overlay.graves.put(name, pack_leaf(name, grave))

    def let_go(self, change_id: bytes) -> None:
        """The floor has passed a change: let go what only the window kept."""
        sealed = self.overlay.leaving.pop(change_id)
        if sealed is None:
            return
        self.counters.leaving -= 1
        name = unseal("leaving", change_id, sealed)
        if name == _DROP:
            self._drop_change(change_id)
        else:
            self._forget(name)

    def _forget(self, name: bytes) -> None:
        """Remove a grave and every change that it retains."""
        record = self.overlay.graves.pop(name)
        if record is None:
            raise CorruptRecord("graves", name, "what is remembered of a deleted key is missing")
        self.counters.graves -= 1
        grave = unpack_leaf("graves", name, record)
        for revision, sub, _ in RETAINED.iter_unpack(grave.retained):
            self._drop_change(pack_change_id(revision, sub))

    def _drop_change(self, change_id: bytes) -> None:
        self.overlay.changes.drop(change_id)
        self.counters.changes -= 1

    def _leave(self, change_id: bytes, what: bytes) -> None:
        """Have `what` go once the floor passes `change_id`."""
        self.overlay.leaving.put(change_id, seal(change_id, what))
        self.counters.leaving += 1

    def _exhume(self, scope: Scope, key: bytes) -> tuple[int, int, bytes]:
        """(retained_bytes, compacted, retained) that a key which is made anew inherits."""
        grave = self.find_grave(scope, key)
        if grave is None:
            return _NO_HISTORY
        self.overlay.graves.delete(grave_key(scope.key, key))
        self.counters.graves -= 1
        deletion = pack_change_id(grave.revision, grave.sub)
        if not self.overlay.leaving.delete(deletion):
            raise CorruptRecord("leaving", deletion, "the deletion of a grave is missing")
        self.counters.leaving -= 1
        return grave.retained_bytes, grave.compacted, grave.retained

    def _record(
        self,
        scope: Scope,
        key: bytes,
        revision: int,
        sub: int,
        kind: ChangeKind,
        content_type: bytes,
        value: bytes | None,
        version: int,
        created_revision: int,
        created_ms: int,
        time_ms: int,
        expires_ms: int,
    ) -> None:
        """Append the change."""
        change_id = pack_change_id(revision, sub)
        record = pack_change(
            change_id, scope.key, key, content_type, value or b"", kind, version,
            created_revision, created_ms, time_ms, expires_ms,
        )  # fmt: skip
        self.overlay.changes.append(change_id, record)
        counters = self.counters
        counters.changes += 1
        counters.window_changes += 1
        counters.window_bytes += len(record)
        if self._made is not None:
            self._made.append(
                (revision, sub, kind, scope, key, value, content_type, version, time_ms, expires_ms)
            )

    def _make_root(self, scope: Scope) -> bytes:
        root = scope.root = self.counters.allocate()
        self.overlay.sessions.put(scope.key, seal(scope.key, root))
        return root

    def _drop_expiry(self, leaf: Leaf) -> None:
        entry = EXPIRY_KEY.pack(leaf.expires_ms, leaf.revision, leaf.sub)
        if not self.overlay.expiry.delete(entry):
            raise CorruptRecord("expiry", entry, "the deadline of a live key is missing")

    def _trimmed(self, retained: bytes, size: int, limits: Limits) -> tuple[bytes, int, int]:
        """Drop the oldest changes down to the limits, the newest kept.

        Returns (what is retained, its bytes, 1 if something was dropped). A change that the
        floor has not passed yet stays in the window until it does.
        """
        count = len(retained) // RETAINED.size
        floor = (self.counters.floor_revision, self.counters.floor_sub)
        start = 0
        while count > 1 and (
            count > limits.history_versions_max or size > limits.history_bytes_max
        ):
            revision, sub, oldest = RETAINED.unpack_from(retained, start)
            change_id = pack_change_id(revision, sub)
            if (revision, sub) <= floor:
                self._drop_change(change_id)
            else:
                self._leave(change_id, _DROP)
            start += RETAINED.size
            count -= 1
            size -= oldest
        return retained[start:], size, int(start > 0)
