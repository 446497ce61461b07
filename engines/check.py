"""Verification of a whole state: every checksum and every invariant; and its digest.

For tests, `doctor` and comparing replicas. Reads everything: time and page cache are in
proportion to the store, memory is not. The snapshot is held meanwhile (see store.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b

from engines.check_collections import collection_problems
from engines.counters import Counters, load_counters
from engines.digests import BUCKETS, Deltas, add, differing, load_buckets
from engines.environment import Database, Databases, Transaction
from engines.errors import CorruptRecord
from engines.interfaces import ChangeKind
from engines.keyspace import ID_BYTES, find_leaf, find_root, grave_key, is_directory, walk
from engines.layout import (
    CHANGE_ID,
    EXPIRY_KEY,
    RETAINED,
    Leaf,
    change_value,
    pack_change_id,
    unpack_change,
    unpack_leaf,
    unseal,
)
from engines.registry import Registry, load_registry
from engines.store import Snapshot

PROBLEMS_MAX = 100  # a check stops there: a broken store would repeat itself


def digest(snapshot: Snapshot) -> bytes:
    """32 bytes over everything stored: equal on replicas with the same applied index."""
    state = blake2b(digest_size=32)
    for name, database in zip(Databases._fields, snapshot.databases, strict=True):
        state.update(name.encode())
        with snapshot.txn.cursor(db=database) as cursor:
            for key, value in cursor.iternext():
                state.update(b"%d %d " % (len(key), len(value)))
                state.update(key)
                state.update(value)
    return state.digest()


def check(snapshot: Snapshot, registry: Registry | None = None) -> list[str]:
    """What is wrong with the state, in words, at most PROBLEMS_MAX; [] if nothing is.

    `registry`: the engines of its collections; None: those of this build.
    """
    return problems(snapshot.txn, snapshot.databases, registry)


def problems(txn: Transaction, databases: Databases, registry: Registry | None = None) -> list[str]:
    """The same for a transaction of a store that is not in use yet."""
    try:
        examination = _Examination(txn, databases, registry or load_registry())
    except CorruptRecord as error:
        return [str(error)]
    found: list[str] = []
    for part in (
        examination.meta,
        examination.leaves,
        examination.graves,
        examination.changes,
        examination.leaving,
        examination.expiry,
        examination.requests,
        examination.collections,
        examination.totals,
        examination.digests,
    ):
        found.extend(_first(part, PROBLEMS_MAX - len(found)))
    return found


def _first(part: Callable[[], Iterator[str]], limit: int) -> list[str]:
    problems: list[str] = []
    try:
        for problem in part():
            if len(problems) >= limit:
                break
            problems.append(problem)
    except CorruptRecord as error:
        problems.append(str(error))
    return problems


@dataclass(slots=True)
class _Totals:
    """What the counters should say."""

    keys: int = 0
    value_bytes: int = 0
    graves: int = 0
    changes: int = 0
    window_changes: int = 0
    window_bytes: int = 0
    leaving: int = 0
    request_ids: int = 0
    request_bytes: int = 0


class _Examination:
    def __init__(self, txn: Transaction, databases: Databases, registry: Registry) -> None:
        self._registry = registry
        self._txn = txn
        self._databases = databases
        self._counters: Counters = load_counters(txn, databases)
        self._counted = _Totals()
        self._deadlines = 0

    def meta(self) -> Iterator[str]:
        for key, record in self._entries(self._databases.meta):
            unseal("meta", key, record)
        yield from ()

    def leaves(self) -> Iterator[str]:
        """Sessions, the trie under each, and what the leaves refer to."""
        reached = 0
        for owner, record in self._entries(self._databases.sessions):
            root = unseal("sessions", owner, record)
            before = self._counted.keys
            with self._txn.cursor(db=self._databases.leaves) as cursor:
                previous = b""
                for key, physical, view in walk(cursor, root, b""):
                    if key <= previous:
                        yield f"key {key[:64].hex()} of {owner!r} is out of order"
                    previous = key
                    leaf = unpack_leaf("leaves", physical, view)
                    yield from self._live(owner, key, leaf)
            if self._counted.keys == before:
                yield f"session {owner!r} is empty"
        directories = 0
        for physical, record in self._entries(self._databases.leaves):
            if not is_directory(physical):
                reached += 1
                continue
            directories += 1
            yield from self._directory(physical, unseal("leaves", physical, record))
        if reached != self._counted.keys:
            yield f"{reached} leaves are stored, {self._counted.keys} belong to a session"

    def _directory(self, physical: bytes, child: bytes) -> Iterator[str]:
        with self._txn.cursor(db=self._databases.leaves) as cursor:
            if not cursor.set_range(child) or cursor.key()[:ID_BYTES] != child:
                yield f"directory {physical.hex()} is empty"

    def _live(self, owner: bytes, key: bytes, leaf: Leaf) -> Iterator[str]:
        self._counted.keys += 1
        self._counted.value_bytes += leaf.size
        if leaf.kind != ChangeKind.PUT:
            yield f"leaf {key[:64].hex()} of {owner!r} is not a put"
        yield from self._history(owner, key, leaf)
        if leaf.expires_ms:
            self._deadlines += 1
            entry = EXPIRY_KEY.pack(leaf.expires_ms, leaf.revision, leaf.sub)
            if self._txn.get(entry, db=self._databases.expiry) is None:
                yield f"leaf {key[:64].hex()} of {owner!r} has no entry in expiry"

    def _history(self, owner: bytes, key: bytes, leaf: Leaf) -> Iterator[str]:
        """The retained list of a leaf or grave, and the changes that it refers to."""
        where = f"key {key[:64].hex()} of {owner!r}"
        retained = list(RETAINED.iter_unpack(leaf.retained))
        if not retained or retained[-1] != (leaf.revision, leaf.sub, leaf.size):
            yield f"{where}: its newest change is not the last one retained"
        if retained != sorted(retained):
            yield f"{where}: its retained changes are out of order"
        if sum(size for _, _, size in retained) != leaf.retained_bytes:
            yield f"{where}: its retained bytes are miscounted"
        for revision, sub, size in retained:
            change_id = pack_change_id(revision, sub)
            view = self._txn.get(change_id, db=self._databases.changes)
            if view is None:
                yield f"{where}: retained change {revision}.{sub} is missing"
                continue
            head = unpack_change(change_id, view)
            if (head.owner, head.key, head.size) != (owner, key, size):
                yield f"{where}: retained change {revision}.{sub} is another key's"

    def graves(self) -> Iterator[str]:
        for name, record in self._entries(self._databases.graves):
            self._counted.graves += 1
            grave = unpack_leaf("graves", name, record)
            change_id = pack_change_id(grave.revision, grave.sub)
            view = self._txn.get(change_id, db=self._databases.changes)
            if view is None:
                yield f"grave {name.hex()}: its deletion is missing"
                continue
            head = unpack_change(change_id, view)
            yield from self._history(head.owner, head.key, grave)
            if grave_key(head.owner, head.key) != name:
                yield f"grave {name.hex()} is under another key's name"
            if grave.kind == ChangeKind.PUT:
                yield f"grave {name.hex()} is not a deletion"
            if self._leaf(head.owner, head.key) is not None:
                yield f"grave {name.hex()} is of a live key"
            if (grave.revision, grave.sub) <= self._counters.floor:
                yield f"grave {name.hex()} has outlived the window"
            if self._leaving(change_id) != name:
                yield f"grave {name.hex()}: its deletion is not in leaving"

    def changes(self) -> Iterator[str]:
        for change_id, view in self._entries(self._databases.changes):
            head = unpack_change(change_id, view)
            change_value(change_id, view, head)
            place = CHANGE_ID.unpack(change_id)
            self._counted.changes += 1
            leaf = self._leaf(head.owner, head.key) or self._grave(head.owner, head.key)
            if leaf is None:
                yield f"change {place} is of a key that is neither live nor in a grave"
            if place > self._counters.floor:
                self._counted.window_changes += 1
                self._counted.window_bytes += len(view)
            retained = leaf and place in {x[:2] for x in RETAINED.iter_unpack(leaf.retained)}
            if leaf and not retained:
                if place <= self._counters.floor:
                    yield f"change {place} has left the window and is not retained"
                elif self._leaving(change_id) != b"":
                    yield f"change {place} is not retained and not in leaving"

    def leaving(self) -> Iterator[str]:
        """Each entry is of a grave's deletion, or of a change that is not retained."""
        for change_id, record in self._entries(self._databases.leaving):
            name = unseal("leaving", change_id, record)
            self._counted.leaving += 1
            place = CHANGE_ID.unpack(change_id)
            view = self._txn.get(change_id, db=self._databases.changes)
            if view is None or place <= self._counters.floor:
                yield f"leaving {place}: there is no such change in the window"
                continue
            head = unpack_change(change_id, view)
            leaf = self._leaf(head.owner, head.key) or self._grave(head.owner, head.key)
            if leaf and not name and place in {x[:2] for x in RETAINED.iter_unpack(leaf.retained)}:
                yield f"leaving {place}: the change is retained"
            if (
                leaf
                and name
                and (name != grave_key(head.owner, head.key) or leaf.kind == ChangeKind.PUT)
            ):
                yield f"leaving {place}: the change is not a grave's deletion"

    def expiry(self) -> Iterator[str]:
        entries = self._txn.stat(self._databases.expiry)["entries"]
        if entries != self._deadlines:
            yield f"expiry has {entries} entries, {self._deadlines} live records expire"

    def requests(self) -> Iterator[str]:
        first = self._counters.request_first
        for place, (order, record) in enumerate(self._entries(self._databases.request_order)):
            if int.from_bytes(order) != first + place:
                yield f"request order {order.hex()} is out of sequence"
            key = unseal("request_order", order, record)
            remembered = self._txn.get(key, db=self._databases.requests)
            if remembered is None:
                yield f"request id {key!r} is missing"
                continue
            unseal("requests", key, remembered)
            self._counted.request_bytes += len(remembered)
        self._counted.request_ids = self._txn.stat(self._databases.requests)["entries"]

    def collections(self) -> Iterator[str]:
        return collection_problems(
            self._txn, self._databases, self._registry, self._counters.collections
        )

    def totals(self) -> Iterator[str]:
        for name in _Totals.__slots__:
            counted, stored = getattr(self._counted, name), getattr(self._counters, name)
            if counted != stored:
                yield f"the counter {name} says {stored}, there are {counted}"

    def digests(self) -> Iterator[str]:
        """The hash tree: the sums of what is stored."""
        sums: Deltas = {}
        for number, database in enumerate(self._databases):
            for key, value in self._entries(database):
                add(sums, number, key, value)
        wrong = differing(load_buckets(self._txn, self._databases), sums)
        if wrong:
            yield f"{len(wrong)} of {BUCKETS} buckets of the hash tree are not the records' sums"

    def _leaf(self, owner: bytes, key: bytes) -> Leaf | None:
        root = find_root(partial(self._txn.get, db=self._databases.sessions), owner)
        physical = root and find_leaf(partial(self._txn.get, db=self._databases.leaves), root, key)
        if not physical:
            return None
        record = self._txn.get(physical, db=self._databases.leaves)
        return None if record is None else unpack_leaf("leaves", physical, record)

    def _grave(self, owner: bytes, key: bytes) -> Leaf | None:
        name = grave_key(owner, key)
        record = self._txn.get(name, db=self._databases.graves)
        return None if record is None else unpack_leaf("graves", name, record)

    def _leaving(self, change_id: bytes) -> bytes | None:
        record = self._txn.get(change_id, db=self._databases.leaving)
        return None if record is None else unseal("leaving", change_id, record)

    def _entries(self, database: Database) -> Iterator[tuple[bytes, memoryview]]:
        with self._txn.cursor(db=database) as cursor:
            for key, value in cursor.iternext():
                yield bytes(key), value
