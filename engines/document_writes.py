"""Documents of one collection as one command leaves them, with their index entries."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from itertools import islice
from typing import Any, Final, NoReturn

from engines.codec import pack_value
from engines.document_indexes import Index, entries, indexes_of
from engines.document_items import (
    DOCUMENTS_END,
    STATE,
    IndexState,
    Record,
    document_key,
    entry_id,
    entry_key,
    entry_prefix,
    entry_value,
    find_record,
    load_state,
    pack_record,
    pack_state,
    unpack_record,
)
from engines.document_parameters import DOCUMENT_BYTES_MAX
from engines.engine import Refused, Stamp
from engines.interfaces import RejectCode
from engines.space import ITEM_KEY_BYTES_MAX, Space, after_prefix

CLEAR_ITEMS_MAX: Final = 64  # entries of dropped indexes that a write removes beside its own
BUILD_DOCUMENTS_MAX: Final = 1_000  # taken into new indexes by one command
RETIRED_MAX: Final = 64  # dropped indexes whose entries are not removed yet


class Documents:
    """Every write of a collection goes through one of these, and ends with `finish`."""

    def __init__(self, space: Space, settings: Mapping[str, Any], stamp: Stamp) -> None:
        self._space = space
        self._stamp = stamp
        self._made_ids = 0
        self.indexes = indexes_of(settings)
        self.state = load_state(space, len(self.indexes))
        self._before = pack_state(self.state)
        self.entries_touched = 0
        self.written_bytes = 0

    @property
    def space(self) -> Space:
        return self._space

    def find(self, identity: str) -> Record | None:
        """Raises CorruptRecord."""
        return find_record(self._space, identity)

    def make_id(self) -> str:
        """32 hexadecimal digits, later ones greater by the millisecond."""
        self._made_ids += 1
        source = b"%d %d" % (self._stamp.seed, self._made_ids)
        return f"{self._stamp.now_ms:012x}{blake2b(source, digest_size=10).hexdigest()}"

    def insert(self, document: dict[str, Any], field: str) -> Record:
        """`document` holds its id. Raises Refused: ITEM_EXISTS, and as `replace`."""
        identity = document["_id"]
        key = document_key(identity)
        if self._space.get(key) is not None:
            _exists(f"there is a document with _id {identity}", f"{field}._id")
        now = self._stamp.now_ms
        record = Record(identity, 1, now, now, self._packed(document, field))
        self._index(identity, None, document)
        self._space.put(key, pack_record(record))
        self.state.documents += 1
        return record

    def replace(self, old: Record, document: dict[str, Any], field: str) -> Record:
        """The document with the same id anew; `old` itself if nothing changes.

        Raises Refused: over a limit, or another document has a unique index's values.
        """
        packed = self._packed(document, field)
        if packed == old.packed:
            return old
        record = Record(
            old.id, old.version + 1, old.created_ms, max(old.created_ms, self._stamp.now_ms), packed
        )
        if self.indexes:
            self._index(old.id, old.document(), document)
        self._space.put(document_key(old.id), pack_record(record))
        return record

    def delete(self, old: Record) -> None:
        if self.indexes:
            self._index(old.id, old.document(), None)
        self._space.delete(document_key(old.id))
        self.state.documents -= 1

    def build(self, documents_max: int) -> int:
        """Take documents into indexes that are not complete; returns how many times one was.

        Raises Refused: two documents have the same values in a unique index.
        """
        left = documents_max
        for index, state in zip(self.indexes, self.state.indexes, strict=True):
            if state.built is None or left == 0:
                continue
            start = document_key(state.built) + b"\x00"
            found = list(islice(self._space.range(start, DOCUMENTS_END), left))
            for key, value in found:
                record = unpack_record(key, value)
                state.built = record.id
                self._change(index, state, record.id, None, record.document())
            if len(found) < left:
                state.built = None
            left -= len(found)
        return documents_max - left

    def clear(self, items_max: int) -> int:
        """Remove entries of dropped indexes; returns how many."""
        removed = 0
        while self.state.retired and removed < items_max:
            prefix = entry_prefix(self.state.retired[0])
            wanted = items_max - removed
            keys = [key for key, _ in islice(self._space.prefix(prefix), wanted)]
            for key in keys:
                self._space.delete(key)
            removed += len(keys)
            if len(keys) < wanted:
                self.state.retired.pop(0)
        return removed

    def finish(self) -> None:
        """Note what became of the collection. A command that changed nothing leaves nothing."""
        if self.state.retired and self._space.changed:
            self.clear(CLEAR_ITEMS_MAX)
        packed = pack_state(self.state)
        if packed != self._before:
            self._space.put(STATE, packed)

    def _packed(self, document: dict[str, Any], field: str) -> bytes:
        packed = pack_value(document)
        if len(packed) > DOCUMENT_BYTES_MAX:
            raise Refused(
                RejectCode.LIMIT_EXCEEDED,
                f"the document would be {len(packed)} bytes; at most {DOCUMENT_BYTES_MAX}",
                field,
            )
        self.written_bytes += len(packed)
        return packed

    def _index(self, identity: str, old: Any, new: Any) -> None:
        for index, state in zip(self.indexes, self.state.indexes, strict=True):
            if state.covers(identity):
                self._change(index, state, identity, old, new)

    def _change(self, index: Index, state: IndexState, identity: str, old: Any, new: Any) -> None:
        """None: there is no document before, or after."""
        space, number = self._space, state.number
        before = () if old is None else entries(index, old).keys
        after = None if new is None else entries(index, new)
        now = () if after is None else after.keys
        state.many += (len(now) > 1) - (len(before) > 1)
        if before == now:
            return
        removed, added = _without(before, now), _without(now, before)
        self.entries_touched += len(removed) + len(added)
        for values in removed:
            space.delete(entry_key(number, values, identity))
        for values in added:
            key = entry_key(number, values, identity)
            if len(key) > ITEM_KEY_BYTES_MAX:
                raise Refused(
                    RejectCode.LIMIT_EXCEEDED,
                    f"the values of document {identity} and its _id take {len(key)} bytes in "
                    f"index {index.name}; at most {ITEM_KEY_BYTES_MAX}",
                    "parameters",
                )
            if index.unique and after is not None and not after.absent:
                self._must_be_free(index, number, values)
            space.put(key, entry_value(values))

    def _must_be_free(self, index: Index, number: int, values: bytes) -> None:
        prefix = entry_prefix(number) + values
        for key, value in self._space.range(prefix, after_prefix(prefix)):
            _exists(
                f"document {entry_id(key, value)} has the same values in the unique index "
                f"{index.name}",
                "parameters",
            )


def _without(some: tuple[bytes, ...], others: tuple[bytes, ...]) -> tuple[bytes, ...]:
    if not others:
        return some
    known = frozenset(others)
    return tuple(each for each in some if each not in known)


def _exists(message: str, field: str) -> NoReturn:
    raise Refused(RejectCode.ITEM_EXISTS, message, field)
