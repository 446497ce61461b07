"""Appending points: what callers give, and how a series takes it in.

Points later than all others of their series go behind its last chunk, whose own points are not
decoded for that. Others are merged into the chunk whose time it is; a chunk that grows beyond
its bound is split evenly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, Final

from engines.codec import Value
from engines.engine import Refused
from engines.errors import InvalidArgument
from engines.interfaces import RejectCode
from engines.parameters import PREFIX, array, exactly
from engines.space import Space
from engines.timeseries_chunks import (
    chunk_at,
    chunk_key,
    first_chunk,
    get_chunk,
    make_chunk,
    points_of,
)
from engines.timeseries_columns import (
    EMPTY,
    TIME_MS_MAX,
    Columns,
    DuplicateTime,
    SumOverflow,
    from_bytes,
    from_lists,
    merged,
    to_bytes,
)
from engines.timeseries_parameters import one_name, one_number, one_time
from engines.timeseries_retention import Budget, cutoff_ms, drop_expired
from engines.timeseries_series import Name, Series, find_series, keep_series

APPEND_POINTS_MAX: Final = 10_000  # of one append
APPEND_SERIES_MAX: Final = 1_000
APPEND_CHUNKS_MAX: Final = 256  # chunks that one append's late points are merged into
_EXPIRED_CHUNKS: Final = 2  # that an append drops of each of its series
_EXPIRED_CHUNKS_MAX: Final = 32  # and of all of them together
_EXPIRED_ROWS_MAX: Final = 64
_POINT: Final = frozenset({"metric", "time_ms", "value"})
_COLUMNS: Final = frozenset({"metric", "times", "values"})
_TAGS: Final = frozenset({"tags"})


def prepare_append(given: Mapping[str, Any]) -> Value:
    """[[metric, tags, times, values], …]: one for each series, times sorted, columns as bytes.

    Raises InvalidArgument.
    """
    exactly(given, PREFIX, frozenset(), frozenset({"points", "columns"}))
    if ("points" in given) == ("columns" in given):
        raise InvalidArgument(f"{PREFIX}.points", "give either points or columns")
    found: dict[Name, tuple[list[int], list[float]]] = {}
    for name, times, values in _points(given) if "points" in given else _columns(given):
        own = found.setdefault(name, ([], []))
        own[0].extend(times)
        own[1].extend(values)
    if len(found) > APPEND_SERIES_MAX:
        raise InvalidArgument(PREFIX, f"points of more than {APPEND_SERIES_MAX} series")
    return [
        [name.metric, dict(name.tags), *to_bytes(from_lists(*columns))]
        for name, columns in found.items()
    ]


def apply_append(space: Space, settings: Mapping[str, Any], body: Any, now_ms: int) -> Value:
    """Raises Refused, CorruptRecord, Malformed."""
    writer = _Appender(space, settings)
    expired = Budget(_EXPIRED_CHUNKS_MAX, _EXPIRED_ROWS_MAX)
    given = added = late = 0
    for metric, tags, times, values in body:
        columns = from_bytes(times, values)
        # Names are looked at again: one that is none would be a damaged record afterwards.
        series = find_series(space, one_name(metric, tags, PREFIX))
        kept = columns.between(cutoff_ms(series, settings, now_ms), TIME_MS_MAX)
        before = series.points
        series = writer.write(series, kept)
        given += columns.count
        late += columns.count - kept.count
        added += series.points - before
        own = expired.share(_EXPIRED_CHUNKS)
        keep_series(space, drop_expired(space, series, settings, now_ms, own))
        expired.spend(own)
    return {
        "points": given,
        "added": added,
        "duplicates": given - late - added,
        "expired": late,
        "series": len(body),
        "dropped_chunks": expired.chunks_spent,
        "dropped_points": expired.points_spent,
    }


@dataclass(slots=True)
class _Appender:
    """One append."""

    space: Space
    settings: Mapping[str, Any]
    merges: int = 0

    def write(self, series: Series, new: Columns) -> Series:
        """With these points; Raises Refused."""
        if not new.count:
            return series
        try:
            if not series.chunks:
                return self._chunked(series, self._merge(EMPTY, new))
            behind = series.last_ms + 1
            late = new.between(-TIME_MS_MAX, behind)
            series = self._insert(series, late)
            return self._behind(series, self._merge(EMPTY, new.part(late.count, new.count)))
        except DuplicateTime as error:
            raise Refused(
                RejectCode.ITEM_EXISTS, f"{error} in a series of {series.name.metric}",
                f"{PREFIX}.points",
            ) from None  # fmt: skip
        except SumOverflow as error:
            raise Refused(RejectCode.INVALID_ARGUMENT, str(error), f"{PREFIX}.points") from None

    def _insert(self, series: Series, late: Columns) -> Series:
        """Points that are not later than the series' last."""
        identity = series.id
        while late.count:
            self.merges += 1
            if self.merges > APPEND_CHUNKS_MAX:
                raise Refused(
                    RejectCode.LIMIT_EXCEEDED,
                    f"points out of order that belong to more than {APPEND_CHUNKS_MAX} chunks; "
                    "append fewer at once",
                    f"{PREFIX}.points",
                )
            time = late.first_ms
            if time >= series.open_ms:
                chunk, end = get_chunk(self.space, identity, series.open_ms), TIME_MS_MAX
            else:
                chunk = chunk_at(self.space, identity, time) or get_chunk(
                    self.space, identity, series.first_ms
                )
                following = first_chunk(self.space, identity, chunk.first_ms)
                end = TIME_MS_MAX if following is None else following.first_ms
            group = late.between(time, end)
            points = self._merge(points_of(identity, chunk), group)
            self.space.delete(chunk_key(identity, chunk.first_ms))
            left = replace(series, points=series.points - chunk.count, chunks=series.chunks - 1)
            series = self._chunked(left, points, before=series)
            late = late.part(group.count, late.count)
        return series

    def _behind(self, series: Series, new: Columns) -> Series:
        """Points that are later than all others."""
        if not new.count:
            return series
        identity = series.id
        chunk = get_chunk(self.space, identity, series.open_ms)
        room = self._points_max - chunk.count
        if room > 0:
            chunk = chunk.appended(new.part(0, room))
            self.space.put(chunk_key(identity, chunk.first_ms), chunk.pack())
            added = min(room, new.count)
            series = replace(series, points=series.points + added, last_ms=chunk.last_ms)
            new = new.part(added, new.count)
        for start in range(0, new.count, self._points_max):
            series = self._chunked(series, new.part(start, start + self._points_max), series)
        return series

    def _chunked(self, series: Series, points: Columns, before: Series | None = None) -> Series:
        """With chunks of these points; `before`: whose times are to be extended, if any."""
        identity = series.id
        first, last, opened = points.first_ms, points.last_ms, points.first_ms
        count = 0
        for piece in _pieces(points, self._points_max):
            self.space.put(chunk_key(identity, piece.first_ms), make_chunk(piece).pack())
            opened = piece.first_ms
            count += 1
        if before is not None:
            first = min(first, before.first_ms)
            # The open chunk was replaced, or there are chunks behind these.
            opened = opened if last >= before.open_ms else before.open_ms
            last = max(last, before.last_ms)
        return replace(
            series, points=series.points + points.count, chunks=series.chunks + count,
            first_ms=first, last_ms=last, open_ms=opened,
        )  # fmt: skip

    def _merge(self, old: Columns, new: Columns) -> Columns:
        return merged(old, new, self.settings["duplicates"])

    @property
    def _points_max(self) -> int:
        points_max: int = self.settings["chunk_points_max"]
        return points_max


def _pieces(points: Columns, points_max: int) -> Iterator[Columns]:
    """As few as can be, evenly filled: the next late point does not split one again."""
    count = -(-points.count // points_max)
    for number in range(count):
        yield points.part(points.count * number // count, points.count * (number + 1) // count)


Run = tuple[Name, list[int], list[float]]


def _points(given: Mapping[str, Any]) -> Iterator[Run]:
    field = f"{PREFIX}.points"
    names: dict[tuple[str, ...], Name] = {}
    for place, point in enumerate(array(given["points"], field, APPEND_POINTS_MAX)):
        own = f"{field}[{place}]"
        exactly(point, own, _POINT, _TAGS)
        name = _known_name(names, point["metric"], point.get("tags", {}), own)
        time = one_time(point["time_ms"], f"{own}.time_ms")
        yield name, [time], [one_number(point["value"], f"{own}.value")]


def _known_name(names: dict[tuple[str, ...], Name], metric: object, tags: object, own: str) -> Name:
    """The points of a batch are of few series: each name is checked once."""
    key = None
    if type(metric) is str and isinstance(tags, dict):
        parts = (metric, *tags, *tags.values())
        key = parts if all(type(part) is str for part in parts) else None
    name = None if key is None else names.get(key)
    if name is None:
        name = one_name(metric, tags, own)
        if key is not None:
            names[key] = name
    return name


def _columns(given: Mapping[str, Any]) -> Iterator[Run]:
    field = f"{PREFIX}.columns"
    single = isinstance(given["columns"], Mapping)
    runs = [given["columns"]] if single else array(given["columns"], field, APPEND_SERIES_MAX)
    left = APPEND_POINTS_MAX
    for number, run in enumerate(runs):
        own = field if single else f"{field}[{number}]"
        exactly(run, own, _COLUMNS, _TAGS)
        name = one_name(run["metric"], run.get("tags", {}), own)
        times = array(run["times"], f"{own}.times", APPEND_POINTS_MAX)
        values = array(run["values"], f"{own}.values", APPEND_POINTS_MAX)
        if len(times) != len(values):
            raise InvalidArgument(f"{own}.values", f"are {len(values)}, times {len(times)}")
        left -= len(times)
        if left < 0:
            raise InvalidArgument(field, f"more than {APPEND_POINTS_MAX} points")
        # A field's name for each of ten thousand values would take longer than the checks.
        for place, time in enumerate(times):
            if type(time) is not int or not -TIME_MS_MAX < time < TIME_MS_MAX:
                one_time(time, f"{own}.times[{place}]")
        for place, value in enumerate(values):
            if type(value) is not float or not isfinite(value):
                one_number(value, f"{own}.values[{place}]")
        yield name, list(times), list(values)
