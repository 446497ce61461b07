"""Pages of several partitions as one page: what a single state would have shown.

Pure. Revisions are left out: those of different partitions have nothing to do with each
other.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from engines.collection_requests import CollectionPage
from engines.interfaces import Record, RecordPage
from engines.read_requests import (
    PAGE_BYTES_MAX,
    WALK_BYTES_MAX,
    ListedPage,
    NamePage,
    listed_bytes,
)

T = TypeVar("T")


def merge_names(pages: Sequence[NamePage], limit: int) -> NamePage:
    """The first page of all of them together; a name that several have is shown once.

    Each page: from the same `after`.
    """
    merged = _merge([(page.names, page.more) for page in pages], limit, lambda name: name)
    return NamePage(*merged)


def merge_collections(pages: Sequence[CollectionPage], limit: int) -> CollectionPage:
    """The first page of all of them together. Each page: from the same `after`."""
    parts = [(page.collections, page.more) for page in pages]
    return CollectionPage(*_merge(parts, limit, lambda one: one.name))


def merge_listed(
    pages: Sequence[ListedPage], limit: int, bytes_max: int = WALK_BYTES_MAX
) -> ListedPage:
    """The first page of all of them together. Each page: from the same `after`."""
    parts = [(page.records, page.more) for page in pages]
    return ListedPage(*_merge(parts, limit, lambda one: one[:2], bytes_max, listed_bytes))


def merge_records(
    pages: Sequence[RecordPage], limit: int, bytes_max: int = PAGE_BYTES_MAX
) -> RecordPage:
    """The first page of all of them together. Each page: of the same ScanSession."""
    parts = [(page.records, page.more) for page in pages]
    return RecordPage(*_merge(parts, limit, lambda one: one.key, bytes_max, _record_bytes))


def within(
    records: Iterable[Record | None], bytes_max: int = PAGE_BYTES_MAX
) -> list[Record | None]:
    """Several answers to GetMany, put in order, as one: values beyond `bytes_max` left out."""
    kept: list[Record | None] = []
    room = bytes_max
    for record in records:
        if record is not None and record.value is not None:
            if record.size <= room or room == bytes_max:
                room -= record.size
            else:
                record = replace(record, value=None)
        kept.append(record)
    return kept


def _merge(
    pages: Sequence[tuple[Sequence[T], bool]],
    limit: int,
    position: Callable[[T], Any],
    bytes_max: int = 1,
    size_of: Callable[[T], int] = lambda item: 0,
) -> tuple[tuple[T, ...], bool]:
    """The items in order of `position`, each position once, and whether there are more.

    A page that has more behind it says nothing of what follows its last item, so nothing
    that lies further can be shown.
    """
    horizon = min((position(items[-1]) for items, more in pages if more), default=None)
    merged: list[T] = []
    size = 0
    last: Any = None
    for item in heapq.merge(*(items for items, _ in pages), key=position):
        where = position(item)
        if merged and where == last:
            continue
        beyond = horizon is not None and where > horizon
        if beyond or len(merged) >= limit or size >= bytes_max:
            return tuple(merged), True
        merged.append(item)
        size += size_of(item)
        last = where
    return tuple(merged), horizon is not None


def _record_bytes(record: Record) -> int:
    return len(record.key) + (0 if record.value is None else record.size)
