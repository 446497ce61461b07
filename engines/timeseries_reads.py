"""Reads of series: points in order, newest points, and which series there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from engines.codec import Value
from engines.cursors import decode_cursor, encode_cursor, scope_of
from engines.errors import InvalidArgument
from engines.parameters import PREFIX, exactly, integer
from engines.read_requests import PAGE_BYTES_MAX
from engines.space import View
from engines.timeseries_chunks import chunks, get_chunk, points_of
from engines.timeseries_columns import TIME_MS_MAX
from engines.timeseries_parameters import one_selection, time_range
from engines.timeseries_series import Selection, Series, walk

SERIES_DEFAULT: Final = 100
SERIES_MAX: Final = 1_000  # of one page
POINTS_DEFAULT: Final = 1_000
POINTS_MAX: Final = 10_000  # of one page
_PAGED: Final = frozenset({"limit", "cursor"})
_NAMED: Final = frozenset({"metric"})
_POINT_BYTES: Final = 20  # of a point in an answer, at most


def series_range(view: View, given: Mapping[str, Any]) -> Value:
    """Points of from <= time < to, series by series, each in order of time."""
    exactly(given, PREFIX, _NAMED, _PAGED | {"tags", "from", "to"})
    selection = one_selection(given)
    first, end = time_range(given)
    left = limit = _limit(given, POINTS_DEFAULT, POINTS_MAX)
    place = _place(decode_cursor(given.get("cursor"), scope_of("series_range", given), list))
    room = PAGE_BYTES_MAX - limit * _POINT_BYTES
    found: list[Value] = []
    for series in _from(view, selection, place):
        start = first
        if place is not None and series.key == place[0]:
            start = max(first, place[1])
        if left == 0 or room < 0:
            cursor = encode_cursor(scope_of("series_range", given), [series.key, start])
            return {"series": found, "next_cursor": cursor}
        points, following = _points(view, series, start, end, left)
        if points:
            found.append({**_named(series), "points": points})
            left -= len(points)
            room -= _named_bytes(series)
        if following is not None:
            cursor = encode_cursor(scope_of("series_range", given), [series.key, following])
            return {"series": found, "next_cursor": cursor}
    return {"series": found, "next_cursor": None}


def series_last(view: View, given: Mapping[str, Any]) -> Value:
    """The newest point of each series."""
    exactly(given, PREFIX, _NAMED, _PAGED | {"tags"})
    return _listed(view, "series_last", given)


def series_list(view: View, given: Mapping[str, Any]) -> Value:
    """Series, by metric."""
    exactly(given, PREFIX, frozenset(), _PAGED | {"metric", "tags"})
    return _listed(view, "series_list", given)


def _listed(view: View, operation: str, given: Mapping[str, Any]) -> Value:
    selection = one_selection(given)
    limit = _limit(given, SERIES_DEFAULT, SERIES_MAX)
    place = _place(decode_cursor(given.get("cursor"), scope_of(operation, given), list))
    room = PAGE_BYTES_MAX
    items: list[Value] = []
    for series in _from(view, selection, place):
        if operation == "series_last" and not series.chunks:
            continue
        room -= _named_bytes(series)
        if len(items) == limit or (room < 0 and items):
            cursor = encode_cursor(scope_of(operation, given), [series.key, 0])
            return {"items": items, "next_cursor": cursor}
        items.append(_last(view, series) if operation == "series_last" else _described(series))
    return {"items": items, "next_cursor": None}


def _last(view: View, series: Series) -> Value:
    chunk = get_chunk(view, series.id, series.open_ms)
    return {**_named(series), "time_ms": chunk.last_ms, "value": chunk.last_value}


def _described(series: Series) -> Value:
    some = series.chunks > 0
    return {
        **_named(series),
        "points": series.points,
        "chunks": series.chunks,
        "first_ms": series.first_ms if some else None,
        "last_ms": series.last_ms if some else None,
        "rollup_rows": series.rows,
    }


def _points(
    view: View, series: Series, start: int, end: int, most: int
) -> tuple[list[Value], int | None]:
    """At most `most` points; the time of the next one, if there are more."""
    found: list[Value] = []
    if not series.chunks:
        return found, None
    for chunk in chunks(view, series.id, start, end):
        points = points_of(series.id, chunk).between(start, end)
        kept = points.part(0, most - len(found))
        found.extend(kept.pairs())
        if kept.count < points.count:
            return found, int(points.times[kept.count])
    return found, None


def _from(view: View, selection: Selection, place: tuple[bytes, int] | None) -> Iterator[Series]:
    """The selection's series from the cursor's own on."""
    for series in walk(view, selection, b"" if place is None else place[0]):
        view.step()
        if series is not None:
            yield series


def _place(position: list[Any] | None) -> tuple[bytes, int] | None:
    if position is None:
        return None
    match position:
        case [bytes(key), int(time)] if key and abs(time) <= TIME_MS_MAX:
            return key, time
    raise InvalidArgument(f"{PREFIX}.cursor", "is not a cursor of this query")


def _limit(given: Mapping[str, Any], default: int, most: int) -> int:
    limit = given.get("limit")
    return default if limit is None else integer(limit, f"{PREFIX}.limit", 1, most)


def _named(series: Series) -> dict[str, Value]:
    return {"metric": series.name.metric, "tags": dict(series.name.tags)}


def _named_bytes(series: Series) -> int:
    """About what an answer takes for a series besides its points."""
    tags = sum(len(tag.encode()) + len(value.encode()) + 10 for tag, value in series.name.tags)
    return len(series.name.metric.encode()) + tags + 150
