"""Chunks: a series' points in compressed pieces, each under the time of its first point.

The bytes of a chunk are a head, and three sections that grow at their ends, so that points
which come in order are put behind what is there without decoding it. A chunk holds the points
from its own first time up to the next chunk's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from engines.codec import Malformed
from engines.errors import CorruptRecord
from engines.space import Space, View
from engines.timeseries_columns import Columns, Encoded, decode, encode

CHUNKS: Final = b"c"
CHUNK_POINTS_MAX: Final = 4_096  # of any chunk, whatever the settings were
_VERSION: Final = 1
# version, points, bytes of times, first and last time, last difference, last value
_HEAD = struct.Struct(">BIIqqqd")
_TIME = struct.Struct(">Q")
_OFFSET: Final = 1 << 63  # so that times before 1970 sort before those after

Items = Space | View


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk as it is stored; its points are decoded when asked for."""

    count: int
    first_ms: int
    last_ms: int
    last_delta_ms: int  # between the last two; 0 for one point
    last_value: float
    encoded: Encoded

    def pack(self) -> bytes:
        head = _HEAD.pack(
            _VERSION, self.count, len(self.encoded.times), self.first_ms, self.last_ms,
            self.last_delta_ms, self.last_value,
        )  # fmt: skip
        return head + self.encoded.times + self.encoded.controls + self.encoded.payload

    def columns(self) -> Columns:
        """Raises Malformed."""
        found = decode(self.encoded, self.count, self.first_ms)
        if found.first_ms != self.first_ms or found.last_ms != self.last_ms:
            raise Malformed("times are not those of the chunk's head")
        return found

    def appended(self, new: Columns) -> Chunk:
        """With points behind it, all later than its own."""
        more = encode(new, self.last_ms, self.last_delta_ms, self.last_value)
        before = int(new.times[-2]) if new.count > 1 else self.last_ms
        own = self.encoded
        return Chunk(
            self.count + new.count, self.first_ms, new.last_ms, new.last_ms - before,
            float(new.values[-1]),
            Encoded(
                own.times + more.times, own.controls + more.controls, own.payload + more.payload
            ),
        )  # fmt: skip


def make_chunk(columns: Columns) -> Chunk:
    """Of at least one point."""
    first = columns.first_ms
    return Chunk(0, first, first, 0, 0.0, Encoded(b"", b"", b"")).appended(columns)


def read_chunk(packed: bytes) -> Chunk:
    """Raises Malformed."""
    try:
        version, count, size, first, last, delta, value = _HEAD.unpack_from(packed)
    except struct.error as error:
        raise Malformed(str(error)) from error
    start = _HEAD.size + size
    if version != _VERSION or count == 0 or len(packed) < start + count:
        raise Malformed("of another version, or cut")
    times, controls = packed[_HEAD.size : start], packed[start : start + count]
    return Chunk(
        count, first, last, delta, value, Encoded(times, controls, packed[start + count :])
    )


def pack_time(time_ms: int) -> bytes:
    return _TIME.pack(time_ms + _OFFSET)


def unpack_time(packed: bytes) -> int:
    return int(_TIME.unpack(packed)[0]) - _OFFSET


def chunk_key(series: bytes, first_ms: int) -> bytes:
    return CHUNKS + series + pack_time(first_ms)


def get_chunk(items: Items, series: bytes, first_ms: int) -> Chunk:
    """Raises CorruptRecord: it is not there, or cannot be read."""
    key = chunk_key(series, first_ms)
    packed = items.get(key)
    if packed is None:
        raise CorruptRecord("items", key, "a chunk is missing")
    return chunk_of(key, packed)


def chunk_of(key: bytes, packed: bytes) -> Chunk:
    """Raises CorruptRecord."""
    try:
        return read_chunk(packed)
    except Malformed as error:
        raise CorruptRecord("items", key, str(error)) from error


def points_of(series: bytes, chunk: Chunk) -> Columns:
    """Raises CorruptRecord."""
    try:
        return chunk.columns()
    except Malformed as error:
        raise CorruptRecord("items", chunk_key(series, chunk.first_ms), str(error)) from error


def chunks(items: Items, series: bytes, first_ms: int, end_ms: int) -> Iterator[Chunk]:
    """The chunks that may hold points of first_ms <= time < end_ms, in order of time."""
    if first_ms >= end_ms:
        return
    start = chunk_at(items, series, first_ms)
    low = chunk_key(series, first_ms if start is None else start.first_ms)
    for key, packed in items.range(low, chunk_key(series, end_ms)):
        chunk = chunk_of(key, packed)
        if chunk.last_ms >= first_ms:
            yield chunk


def chunk_at(items: Items, series: bytes, time_ms: int) -> Chunk | None:
    """The last chunk whose first time is <= `time_ms`."""
    low, high = chunk_key(series, -_OFFSET), chunk_key(series, time_ms + 1)
    for key, packed in items.range(low, high, reverse=True):
        return chunk_of(key, packed)
    return None


def first_chunk(items: Items, series: bytes, after_ms: int | None = None) -> Chunk | None:
    """The first chunk whose first time is > `after_ms` (None: of all)."""
    low = chunk_key(series, -_OFFSET if after_ms is None else after_ms + 1)
    for key, packed in items.range(low, CHUNKS + series + b"\xff" * 9):
        return chunk_of(key, packed)
    return None
