"""The items of one collection: written within an apply (`Space`), read from a snapshot (`View`).

An item is stored under the collection's id and its own key, with a checksum over both. Keys
are ordered by their bytes; a key has at most ITEM_KEY_BYTES_MAX of them, so that engines store
longer names by a digest.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final, NamedTuple

from engines.catalog import Collection
from engines.codec import Malformed, unpack_value
from engines.environment import Cursor, Database, Transaction
from engines.errors import CorruptRecord, QueryCancelled
from engines.interfaces import PHYSICAL_KEY_BYTES_MAX
from engines.layout import Buffer, seal, unseal
from engines.overlay import Table
from engines.tuning import Tuning

ID_BYTES: Final = 8
ITEM_KEY_BYTES_MAX: Final = PHYSICAL_KEY_BYTES_MAX - ID_BYTES
STOP_ITEMS: Final = 64  # items between two looks at whether the caller still waits
STEP_BYTES_BITS: Final = 12  # of an item's bytes, 4 KiB count as much as the item itself
_CHUNK_ITEMS: Final = 256  # read at once by a range within an apply
_FIRST_ITEMS: Final = 4  # and at first, for who wants only the first item

Item = tuple[bytes, bytes]  # key, value


class ItemChange(NamedTuple):
    """For who keeps an index of a collection: the item as an apply left it."""

    collection: bytes  # its id
    key: bytes
    value: bytes | None  # None: removed


class View:
    """Reads of one collection in one snapshot. Any thread, one at a time."""

    __slots__ = (
        "_database",
        "_left",
        "_stop",
        "_txn",
        "applied_index",
        "collection",
        "index",
        "tuning",
        "volatile",
    )

    def __init__(
        self,
        txn: Transaction,
        items: Database,
        collection: Collection,
        applied_index: int,
        stop: Callable[[], bool] = lambda: False,
        index: object = None,
        tuning: Tuning | None = None,
    ) -> None:
        """`stop`: does nobody wait for the answer any more? `index`: the collection's derived
        index, which may have seen more than this snapshot holds. `tuning`: which way to the
        answer, of several."""
        self._txn = txn
        self._database = items
        self._stop = stop
        self._left = STOP_ITEMS
        self.collection = collection
        self.applied_index = applied_index
        self.index = index
        self.tuning = Tuning() if tuning is None else tuning
        self.volatile = False  # set by an engine: the answer is of more than the items

    def get(self, key: bytes) -> bytes | None:
        """The item's value. Raises CorruptRecord."""
        if len(key) > ITEM_KEY_BYTES_MAX:
            self.step()
            return None
        physical = self.collection.id + key
        record = self._txn.get(physical, db=self._database)
        if record is None:
            self.step()
            return None
        self.step(len(record) >> STEP_BYTES_BITS)
        return unseal("items", physical, record)

    def range(
        self, first: bytes = b"", last: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[Item]:
        """Items whose key is >= `first` and < `last` (None: all), in order of their keys. The
        ends may be longer than keys can be.

        Raises CorruptRecord, QueryCancelled.
        """
        identity = self.collection.id
        low, high = _bounds(identity, first, last)
        with self._txn.cursor(db=self._database) as cursor:
            # Forwards here and not in a generator of its own: most walks are a record or two.
            walk: Iterator[tuple[Buffer, Buffer]]
            if reverse:
                walk = _backwards(cursor, low, high)
            elif cursor.set_range(low):
                walk = cursor.iternext()
            else:
                return
            for place, record in walk:
                physical = bytes(place)
                if physical >= high:
                    return
                self.step(len(record) >> STEP_BYTES_BITS)
                yield physical[ID_BYTES:], unseal("items", physical, record)

    def prefix(self, prefix: bytes, *, reverse: bool = False) -> Iterator[Item]:
        """Items whose key starts with `prefix`."""
        return self.range(prefix, after_prefix(prefix), reverse=reverse)

    @property
    def written_index(self) -> int:
        """Of the log, the last entry that changed the collection."""
        return self.collection.written_index

    @property
    def stopped(self) -> bool:
        """Does nobody wait for the answer any more?"""
        return self._stop()

    def long(self) -> None:
        """What follows may take long between two steps. Raises QueryCancelled where only what is
        brief is wanted."""
        if self.tuning.brief:
            raise QueryCancelled("it may take long")

    def step(self, more: int = 0) -> None:
        """To be called in every loop that may be long; `more`: steps that this one is worth.

        Raises QueryCancelled.
        """
        self._left -= 1 + more
        if self._left <= 0:
            self._left = STOP_ITEMS
            if self._stop():
                raise QueryCancelled("the deadline passed")


class Space:
    """The items of one collection as one command leaves them. Kept only by `commit`."""

    __slots__ = ("_order", "_table", "_written", "collection", "item_bytes", "items")

    def __init__(self, table: Table, collection: Collection) -> None:
        self._table = table
        self._written: dict[bytes, bytes | None] = {}  # by key, of this command
        self._order: list[bytes] = []  # its keys, sorted
        self.collection = collection
        self.items = collection.items
        self.item_bytes = collection.item_bytes

    def get(self, key: bytes) -> bytes | None:
        """The item's value. Raises CorruptRecord."""
        try:
            return self._written[key]
        except KeyError:
            return self._stored(key)

    def put(self, key: bytes, value: bytes) -> None:
        """`key`: 1 to ITEM_KEY_BYTES_MAX bytes."""
        if not 0 < len(key) <= ITEM_KEY_BYTES_MAX:
            raise ValueError(f"an item's key of {len(key)} bytes")
        old = self.get(key)
        self._set(key, value)
        self.items += old is None
        self.item_bytes += len(value) - (-len(key) if old is None else len(old))

    def delete(self, key: bytes) -> bool:
        """Whether there was one."""
        old = self.get(key)
        if old is None:
            return False
        self._set(key, None)
        self.items -= 1
        self.item_bytes -= len(key) + len(old)
        return True

    def range(
        self, first: bytes = b"", last: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[Item]:
        """As `View.range`, with what this command has written. It may write meanwhile: an item
        that is put behind the place of the walk is seen, or not."""
        place, done = (last, False) if reverse else (first, False)
        size = _FIRST_ITEMS
        while not done:
            low, high = (first, place) if reverse else (place or b"", last)
            chunk = self._chunk(low, high, reverse, size)
            done = len(chunk) < size
            size = min(size * 8, _CHUNK_ITEMS)
            for key, _ in chunk:
                value = self.get(key)
                if value is not None:
                    yield key, value
            if chunk:
                place = chunk[-1][0] if reverse else chunk[-1][0] + b"\x00"

    def prefix(self, prefix: bytes, *, reverse: bool = False) -> Iterator[Item]:
        """Items whose key starts with `prefix`."""
        return self.range(prefix, after_prefix(prefix), reverse=reverse)

    def commit(self, changes: list[ItemChange] | None) -> None:
        """Keep what was written; `changes`: where to note it, too."""
        identity, table = self.collection.id, self._table
        for key, value in self._written.items():
            physical = identity + key
            if value is None:
                table.delete(physical)
            else:
                table.put(physical, seal(physical, value))
            if changes is not None:
                changes.append(ItemChange(identity, key, value))

    @property
    def changed(self) -> bool:
        return bool(self._written)

    def _set(self, key: bytes, value: bytes | None) -> None:
        if key not in self._written:
            insort(self._order, key)
        self._written[key] = value

    def _stored(self, key: bytes) -> bytes | None:
        if len(key) > ITEM_KEY_BYTES_MAX:
            return None
        physical = self.collection.id + key
        record = self._table.get(physical)
        return None if record is None else unseal("items", physical, record)

    def _chunk(
        self, first: bytes, last: bytes | None, reverse: bool, size: int
    ) -> list[tuple[bytes, None]]:
        """Up to `size` keys, stored or written, in order; some may be deleted."""
        low, high = _bounds(self.collection.id, first, last)
        stored = [key[ID_BYTES:] for key in self._table.keys(low, high, reverse, size)]
        begin = bisect_left(self._order, first)
        end = len(self._order) if last is None else bisect_left(self._order, last)
        own = self._order[begin:end]
        if reverse:
            own.reverse()
        # Each side alone may fill the chunk, so that its first keys are among these.
        keys = sorted({*stored, *islice(own, size)}, reverse=reverse)
        return [(key, None) for key in keys[:size]]


def unpack_object(key: bytes, packed: bytes) -> dict[str, Any]:
    """What an engine stored under `key` as a packed object. Raises CorruptRecord."""
    try:
        found = unpack_value(packed)
    except Malformed as error:
        raise CorruptRecord("items", key, str(error)) from error
    if not isinstance(found, dict):
        raise CorruptRecord("items", key, "is no object")
    return found


def after_prefix(prefix: bytes) -> bytes | None:
    """The smallest key that is greater than every key with this prefix; None: there is none."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None


def _bounds(identity: bytes, first: bytes, last: bytes | None) -> tuple[bytes, bytes]:
    """As physical keys, none of them longer than one can be: LMDB refuses those."""
    low = _storable(first)
    high = None if last is None else _storable(last)
    if low is not None and high is not None:
        return identity + low, identity + high
    following = after_prefix(identity)
    if following is None:
        raise CorruptRecord("collections", identity, "an id that cannot be")
    return (
        following if low is None else identity + low,
        following if high is None else identity + high,
    )


def _storable(end: bytes) -> bytes | None:
    """The least key that can be and is not less than `end`; None: there is none."""
    if len(end) <= ITEM_KEY_BYTES_MAX:
        return end
    return after_prefix(end[:ITEM_KEY_BYTES_MAX])


def _backwards(cursor: Cursor, low: bytes, high: bytes) -> Iterator[tuple[Buffer, Buffer]]:
    """Records with low <= key < high, the last one first."""
    # The last key below `high`: the one before the first that is not.
    found = cursor.prev() if cursor.set_range(high) else cursor.last()
    while found:
        key = bytes(cursor.key())
        if key < low:
            return
        yield key, cursor.value()
        found = cursor.prev()
