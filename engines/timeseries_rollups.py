"""Rollups: what stays of points that the retention drops, one row for each window of a series.

A row is made or added to as a chunk is dropped, so that writing a point costs nothing for them,
and no point is in a row and in a chunk at once.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple

from engines.codec import Malformed, pack_value, unpack_value
from engines.errors import CorruptRecord
from engines.space import Space
from engines.timeseries_chunks import Items, pack_time, unpack_time
from engines.timeseries_columns import TIME_MS_MAX, Columns
from engines.timeseries_settings import Rollup

ROLLUPS: Final = b"r"


class Row(NamedTuple):
    """What is known of a window's points; None: not kept, or no finite number."""

    points: int
    sum: float | None
    min: float | None
    max: float | None
    first: float | None
    last: float | None

    def joined(self, later: Row) -> Row:
        """With points that all come later."""
        return Row(
            self.points + later.points,
            _finite(self.sum + later.sum)
            if self.sum is not None and later.sum is not None
            else None,
            None if self.min is None or later.min is None else min(self.min, later.min),
            None if self.max is None or later.max is None else max(self.max, later.max),
            self.first,
            later.last,
        )


def row_key(series: bytes, window_ms: int, start_ms: int) -> bytes:
    return ROLLUPS + series + pack_time(window_ms) + pack_time(start_ms)


def make_rows(points: Columns, window_ms: int) -> Iterator[tuple[int, Row]]:
    """(start, row) of every window that has points, in order."""
    times, values = points.times.tolist(), points.values.tolist()
    begin = 0
    while begin < len(times):
        start = times[begin] // window_ms * window_ms
        end = bisect_left(times, start + window_ms, begin)
        own = values[begin:end]
        yield start, Row(len(own), total(own), min(own), max(own), own[0], own[-1])
        begin = end


def total(values: Sequence[float]) -> float | None:
    """Rounded once: the same on every machine. None: beyond what a float holds."""
    try:
        return math.fsum(values)
    except OverflowError:
        return None


def keep_rows(space: Space, series: bytes, points: Columns, rollup: Rollup) -> int:
    """Take a dropped chunk's points in; returns how many rows are new. Raises CorruptRecord."""
    made = 0
    for start, row in make_rows(points, rollup.window_ms):
        key = row_key(series, rollup.window_ms, start)
        row = _narrowed(row, rollup.aggregates)
        packed = space.get(key)
        made += packed is None
        space.put(
            key, pack_value([*(row if packed is None else read_row(key, packed).joined(row))])
        )
    return made


def drop_rows(
    space: Space, series: bytes, window_ms: int, first_ms: int, end_ms: int, most: int
) -> int:
    """Remove rows whose whole window lies in first_ms <= time < end_ms; returns how many."""
    low = row_key(series, window_ms, max(first_ms, -TIME_MS_MAX))
    high = row_key(
        series, window_ms, max(min(end_ms, TIME_MS_MAX) - window_ms, -2 * TIME_MS_MAX) + 1
    )
    if low >= high:
        return 0
    keys = [key for key, _ in islice(space.range(low, high), most)]
    for key in keys:
        space.delete(key)
    return len(keys)


def rows(
    items: Items, series: bytes, window_ms: int, first_ms: int, end_ms: int
) -> Iterator[tuple[int, Row]]:
    """(start, row) of windows that start in first_ms <= time < end_ms. Raises CorruptRecord."""
    low, high = row_key(series, window_ms, first_ms), row_key(series, window_ms, end_ms)
    for key, packed in items.range(low, high):
        yield unpack_time(key[-8:]), read_row(key, packed)


def read_row(key: bytes, packed: bytes) -> Row:
    """Raises CorruptRecord."""
    try:
        found = unpack_value(packed)
        if not isinstance(found, list) or type(found[0]) is not int:
            raise Malformed("not a row")
        row = Row(*found)
        if not all(value is None or type(value) is float for value in row[1:]):
            raise Malformed("a row of something else than numbers")
    except (Malformed, TypeError, IndexError) as error:
        raise CorruptRecord("items", key, str(error)) from error
    return row


def _narrowed(row: Row, aggregates: Sequence[str]) -> Row:
    kept = {"avg": "sum", "count": "points", **{name: name for name in Row._fields}}
    fields = {kept[name] for name in aggregates}
    return Row(
        row.points, *(getattr(row, name) if name in fields else None for name in Row._fields[1:])
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
