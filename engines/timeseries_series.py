"""Series: their names, their records, and the walk over those that a selection names.

A series is a metric and tags. Its id is a digest of that name, so that it needs no counter; the
record is under the metric and the id, and for each tag there is a posting, which finds the
series of a metric that carry the tag.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import islice
from typing import Final, NamedTuple

from engines.codec import Malformed, Packable, array, integer, pack, text, unpack
from engines.errors import CorruptRecord
from engines.space import Space
from engines.timeseries_chunks import Items

SERIES: Final = b"s"
POSTINGS: Final = b"t"
ID_BYTES: Final = 16
_VERSION: Final = 1
_IDS_KEPT_MAX: Final = 1_024  # one write asks for the same id several times
_PROBE_POSTINGS: Final = 64  # looked at to choose the tag that names the fewest series


class Name(NamedTuple):
    """A metric, and (tag, value) in order of the tags."""

    metric: str
    tags: tuple[tuple[str, str], ...]


class Selection(NamedTuple):
    """Series of a metric (None: of any) that carry all of these tags, each with one of these
    values."""

    metric: str | None
    tags: Mapping[str, tuple[str, ...]]

    def takes(self, name: Name) -> bool:
        own = dict(name.tags)
        return (self.metric is None or name.metric == self.metric) and all(
            own.get(tag) in values for tag, values in self.tags.items()
        )


@dataclass(frozen=True, slots=True)
class Series:
    """A series as of one state. Without chunks the times say nothing."""

    name: Name
    points: int = 0
    chunks: int = 0
    first_ms: int = 0  # of its points
    last_ms: int = 0
    open_ms: int = 0  # the last chunk's first time
    rows: int = 0  # of its rollups
    rolled_ms: int | None = None  # points before this time have given way to rollups

    @property
    def id(self) -> bytes:
        return series_id(self.name)

    @property
    def key(self) -> bytes:
        return series_key(self.name.metric, self.id)

    @property
    def empty(self) -> bool:
        return not self.chunks and not self.rows


def make_name(metric: str, tags: Mapping[str, str]) -> Name:
    return Name(metric, tuple(sorted(tags.items())))


@lru_cache(_IDS_KEPT_MAX)
def series_id(name: Name) -> bytes:
    return _digest((name.metric, *(part for tag in name.tags for part in tag)))


def series_key(metric: str, identity: bytes) -> bytes:
    return b"%b%b\x00%b" % (SERIES, metric.encode(), identity)


def find_series(items: Items, name: Name) -> Series:
    """A series without points if there is none. Raises CorruptRecord."""
    key = series_key(name.metric, series_id(name))
    packed = items.get(key)
    return Series(name) if packed is None else read_series(key, packed)


def keep_series(space: Space, series: Series) -> None:
    """Store its record; a series that holds nothing any more goes, with its postings."""
    identity = series.id
    key = series_key(series.name.metric, identity)
    if series.empty:
        space.delete(key)
        for posting in _postings(series.name, identity):
            space.delete(posting)
        return
    if space.get(key) is None:
        for posting in _postings(series.name, identity):
            space.put(posting, b"")
    space.put(key, pack_series(series))


def pack_series(series: Series) -> bytes:
    return pack(
        (
            _VERSION, series.name.metric, series.name.tags, series.points, series.chunks,
            series.first_ms, series.last_ms, series.open_ms, series.rows, series.rolled_ms,
        )
    )  # fmt: skip


def read_series(key: bytes, packed: bytes) -> Series:
    """Raises CorruptRecord."""
    try:
        version, metric, tags, *numbers, rolled = array(unpack(packed))
        if version != _VERSION:
            raise Malformed("of another version")
        pairs = tuple((text(tag), text(value)) for tag, value in map(array, array(tags)))
        points, chunks, first, last, opened, rows = map(integer, numbers)
        rolled_ms = None if rolled is None else integer(rolled)
        name = Name(text(metric), pairs)
        series = Series(name, points, chunks, first, last, opened, rows, rolled_ms)
    except (Malformed, TypeError, ValueError) as error:
        raise CorruptRecord("items", key, str(error)) from error
    if series.key != key:
        raise CorruptRecord("items", key, "is under another series' name")
    return series


def walk(items: Items, selection: Selection, start: bytes = b"") -> Iterator[Series | None]:
    """The selection's series whose key is >= `start`, by metric and then in one fixed order;
    None for a series that was looked at in vain.

    Raises CorruptRecord.
    """
    metric = selection.metric
    if metric is None or not selection.tags:
        prefix = SERIES if metric is None else series_key(metric, b"")
        end = SERIES + b"\xff" if metric is None else series_key(metric, b"\xff" * (ID_BYTES + 1))
        for key, packed in items.range(max(prefix, start), end):
            series = read_series(key, packed)
            yield series if selection.takes(series.name) else None
        return
    first = start[len(series_key(metric, b"")) :]
    tag = min(selection.tags, key=lambda tag: _spread(items, metric, tag, selection))
    for identity in _ids(items, metric, tag, selection, first):
        key = series_key(metric, identity)
        record = items.get(key)
        if record is None:
            raise CorruptRecord("items", key, "a posting names a series that is not there")
        series = read_series(key, record)
        yield series if selection.takes(series.name) else None


def posting_key(metric: str, tag: str, value: str, identity: bytes = b"") -> bytes:
    return POSTINGS + _digest((metric, tag, value)) + identity


def _postings(name: Name, identity: bytes) -> Iterator[bytes]:
    return (posting_key(name.metric, tag, value, identity) for tag, value in name.tags)


def _ids(
    items: Items, metric: str, tag: str, selection: Selection, start: bytes
) -> Iterator[bytes]:
    """Ids >= `start` of the series with this tag, in order."""
    prefixes = [posting_key(metric, tag, value) for value in selection.tags[tag]]
    ranges = [items.range(prefix + start, prefix + b"\xff" * 17) for prefix in prefixes]
    for key, _ in heapq.merge(*ranges, key=lambda item: item[0][-ID_BYTES:]):
        yield key[-ID_BYTES:]


def _spread(items: Items, metric: str, tag: str, selection: Selection) -> tuple[int, str]:
    """About how many series carry the tag; the name, so that the choice is fixed."""
    return sum(1 for _ in islice(_ids(items, metric, tag, selection, b""), _PROBE_POSTINGS)), tag


def _digest(parts: Packable) -> bytes:
    return blake2b(pack(parts), digest_size=ID_BYTES).digest()
