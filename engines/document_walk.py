"""The documents that a plan leads to, each once, with the place to go on from."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

from engines.document_indexes import Index, entries
from engines.document_items import (
    IndexState,
    Items,
    Record,
    entry_id,
    entry_key,
    find_record,
    unpack_record,
)
from engines.document_plan import Plan, Range
from engines.errors import CorruptRecord
from engines.space import ITEM_KEY_BYTES_MAX, after_prefix


class GivenUp(Exception):
    """The walk led to more than it may."""


class Walk:
    """One walk; iterate over it once.

    `after`: the place of the last document of an earlier walk of the same plan. `looks_max`: of
    entries or documents; beyond it, it raises GivenUp.
    """

    def __init__(
        self,
        items: Items,
        plan: Plan,
        index: tuple[Index, IndexState] | None,
        after: bytes | None = None,
        looks_max: int | None = None,
    ) -> None:
        self._looks_max = looks_max
        self._items = items
        self.plan = plan
        self._index = index
        self._after = after
        self.entries = 0  # of the index, looked at
        self.documents = 0  # read

    def __iter__(self) -> Iterator[tuple[bytes, Record]]:
        """(place, document). Raises CorruptRecord, QueryCancelled, GivenUp."""
        looks_max = self._looks_max
        for key, value in self._keys():
            if looks_max is not None and max(self.entries, self.documents) >= looks_max:
                raise GivenUp
            if self._index is None:
                self.documents += 1
                yield key, unpack_record(key, value)
                continue
            self.entries += 1
            identity = entry_id(key, value)
            record = find_record(self._items, identity)
            if record is None:
                raise CorruptRecord("items", key, f"leads to no document {identity}")
            self.documents += 1
            if self._is_first(key, record):
                yield key, record

    def ids(self) -> Iterator[str]:
        """Ids of the documents, without reading them; one may come several times."""
        for key, value in self._keys():
            if self._index is None:
                yield unpack_record(key, value).id
            else:
                yield entry_id(key, value)

    def _keys(self) -> Iterator[tuple[bytes, bytes]]:
        ranges = self.plan.ranges
        if len(ranges) == 1 and self._after is None:
            ((low, high),) = ranges
            return self._items.range(*_storable(low, high), reverse=self.plan.reverse)
        return self._of_ranges(ranges)

    def _of_ranges(self, ranges: tuple[Range, ...]) -> Iterator[tuple[bytes, bytes]]:
        after, reverse = self._after, self.plan.reverse
        for low, high in reversed(ranges) if reverse else ranges:
            if after is not None:
                low, high = (low, min(high, after)) if reverse else (max(low, after), high)
            if low < high:
                for item in self._items.range(*_storable(low, high), reverse=reverse):
                    if item[0] != after:
                        yield item

    def _is_first(self, key: bytes, record: Record) -> bool:
        """Of a document's entries only one counts: the first that the walk comes to."""
        assert self._index is not None
        index, state = self._index
        if not state.many:
            return True
        inside = places(self.plan, index, state, record)
        if not inside:
            raise CorruptRecord("items", key, f"document {record.id} has no such entry")
        return key == (max(inside) if self.plan.reverse else min(inside))


def places(plan: Plan, index: Index, state: IndexState, record: Record) -> list[bytes]:
    """The document's entries in the ranges of a plan."""
    keys = entries(index, record.document()).keys
    made = (entry_key(state.number, values, record.id) for values in keys)
    return [place for place in made if _inside(plan.ranges, place)]


def _storable(low: bytes, high: bytes) -> tuple[bytes, bytes]:
    """A range whose ends are no longer than keys can be, with every key of the first."""
    if len(high) > ITEM_KEY_BYTES_MAX:
        shorter = after_prefix(high[:ITEM_KEY_BYTES_MAX])
        assert shorter is not None  # it starts with the letter of documents or entries
        high = shorter
    return low[:ITEM_KEY_BYTES_MAX], high


def _inside(ranges: tuple[Range, ...], key: bytes) -> bool:
    place = bisect_right(ranges, key, key=lambda each: each.low) - 1
    return place >= 0 and key < ranges[place].high
