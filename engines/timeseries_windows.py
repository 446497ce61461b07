"""Window aggregates over series, of points and of the rollups that earlier ones gave way to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from engines.codec import Value
from engines.cursors import decode_cursor, encode_cursor, scope_of
from engines.errors import InvalidArgument
from engines.parameters import PREFIX, array, choice, exactly, integer
from engines.space import View
from engines.timeseries_chunks import chunks, points_of
from engines.timeseries_columns import TIME_MS_MAX, Columns, aggregate, joined
from engines.timeseries_parameters import (
    TAG_BYTES_MAX,
    TAGS_MAX,
    one_selection,
    one_text,
    time_range,
)
from engines.timeseries_rollups import Row, rows
from engines.timeseries_series import Selection, Series, walk
from engines.timeseries_settings import ROLLUP_AGGREGATES, Rollup, rollups_of

AGGREGATES: Final = (*ROLLUP_AGGREGATES, "p50", "p90", "p95", "p99", "rate")
FILLS: Final = ("none", "null", "previous")
WINDOWS_DEFAULT: Final = 1_000
WINDOWS_MAX: Final = 10_000  # of one page
SERIES_MAX: Final = 1_000  # that one query aggregates
POINTS_SCANNED_MAX: Final = 2_000_000  # for one page, which are 32 MB
_REQUIRED: Final = frozenset({"metric", "window_ms", "aggregates"})
_OPTIONAL: Final = frozenset({"tags", "from", "to", "group_by", "fill", "limit", "cursor"})
# Of rows of several series; which of their points came first or last is not kept.
_TIMELESS: Final = frozenset({"count", "sum", "avg", "min", "max"})

Group = tuple[str | None, ...]  # values of the tags that are grouped by


class Request(NamedTuple):
    selection: Selection
    first_ms: int
    end_ms: int
    window_ms: int
    aggregates: tuple[str, ...]
    group_by: tuple[str, ...]
    fill: str
    limit: int


def series_downsample(view: View, settings: Mapping[str, Any], given: Mapping[str, Any]) -> Value:
    """One object for each group, with its windows in order of time."""
    request = _request(given)
    place = _place(decode_cursor(given.get("cursor"), scope_of("series_downsample", given), list))
    groups = _groups(view, request)
    rollup = _fitting(rollups_of(settings), request)
    scan = _Scan(view, request, rollup)
    answer: list[dict[str, Any]] = []
    left = request.limit
    for group in sorted(groups, key=_group_order):
        series = groups[group]
        start, before = request.first_ms, None
        if place is not None and group == place.group:
            start, before = place.start_ms, place.previous
        elif place is not None and _group_order(group) < _group_order(place.group):
            continue
        if left == 0:
            return _page(answer, given, [group, start, None], scan)
        windows, following = scan.windows(series, start, left, before)
        if windows:
            tags = dict(zip(request.group_by, group, strict=True))
            answer.append({"tags": tags, "series": len(series), "windows": windows})
            left -= len(windows)
        if following is not None:
            last = windows[-1] if windows and request.fill == "previous" else None
            return _page(answer, given, [group, following, last], scan)
    return _page(answer, given, None, scan)


def _page(
    answer: list[dict[str, Any]],
    given: Mapping[str, Any],
    position: list[Value] | None,
    scan: _Scan,
) -> Value:
    cursor = (
        None if position is None else encode_cursor(scope_of("series_downsample", given), position)
    )
    work = scan.view.tuning.work
    work.examined = scan.scanned + scan.rows
    work.returned = sum(len(group["windows"]) for group in answer)
    if scan.view.tuning.explain:
        work.plan = {
            "chunks": scan.chunks,
            "points_scanned": scan.scanned,
            "rollup_window_ms": None if scan.rollup is None else scan.rollup.window_ms,
            "rollup_rows": scan.rows,
        }
    return {
        "groups": answer,
        "points_scanned": scan.scanned,
        "rollup_rows": scan.rows,
        "left_out": scan.left_out,
        "next_cursor": cursor,
    }


class _Place(NamedTuple):
    group: Group
    start_ms: int
    previous: dict[str, Any] | None  # the last window of the page before


@dataclass(slots=True)
class _Scan:
    """The work of one page."""

    view: View
    request: Request
    rollup: Rollup | None
    scanned: int = 0  # points
    chunks: int = 0  # that they were in
    rows: int = 0  # of rollups
    left_out: bool = False  # were there points whose rollups cannot answer this?

    def windows(
        self, series: Sequence[Series], start: int, limit: int, before: dict[str, Any] | None
    ) -> tuple[list[dict[str, Any]], int | None]:
        """At most `limit` windows, and the time from which there may be more.

        `before`: the window before these, for fill previous.
        """
        request = self.request
        found: list[dict[str, Any]] = []
        place = start
        while place < request.end_ms:
            if len(found) == limit:
                return found, place
            step = (limit - len(found)) * request.window_ms
            end = min(request.end_ms, place // request.window_ms * request.window_ms + step)
            own = self._between(series, place, end)
            if request.fill == "none":
                found.extend(own)
                place = end if own else self._next(series, end)
            else:
                filled = list(self._filled(own, place, end, before))
                before = filled[-1]
                found.extend(filled)
                place = end
        return found, None

    def _between(self, series: Sequence[Series], start: int, end: int) -> list[dict[str, Any]]:
        request = self.request
        parts = [self._points(each, start, end) for each in series]
        wanted = [name for name in request.aggregates if name != "count"]
        if self.rollup is not None and "avg" in wanted and "sum" not in wanted:
            wanted.append("sum")  # with which the averages of rows are joined
        made = aggregate(parts, request.window_ms, wanted)
        found: dict[int, dict[str, Any]] = {}
        for number, window in enumerate(made.starts):
            found[window] = {"start_ms": window, "count": made.counts[number]}
            for name in wanted:
                found[window][name] = made.columns[name][number]
        for window, row in self._rolled(series, start, end).items():
            found[window] = _with_row(found.get(window), window, row)
        return [self._shown(found[window]) for window in sorted(found)]

    def _points(self, series: Series, start: int, end: int) -> Columns:
        parts: list[Columns] = []
        if series.chunks and series.first_ms < end and series.last_ms >= start:
            for chunk in chunks(self.view, series.id, start, end):
                parts.append(points_of(series.id, chunk).between(start, end))
                self.scanned += parts[-1].count
                self.chunks += 1
                if self.scanned > POINTS_SCANNED_MAX:
                    raise InvalidArgument(
                        f"{PREFIX}.limit",
                        f"more than {POINTS_SCANNED_MAX} points for one page; ask for fewer "
                        "windows or a shorter time",
                    )
        return joined(parts)

    def _rolled(self, series: Sequence[Series], start: int, end: int) -> dict[int, Row]:
        """By window, the rows of all series."""
        found: dict[int, Row] = {}
        rolled = [each for each in series if each.rolled_ms is not None and each.rolled_ms > start]
        mixed = len(series) > 1 and not _TIMELESS.issuperset(self.request.aggregates)
        if self.rollup is None or mixed:
            self.left_out = self.left_out or bool(rolled)
            return found
        for each in rolled:
            for row_start, row in rows(self.view, each.id, self.rollup.window_ms, start, end):
                self.rows += 1
                window = row_start // self.request.window_ms * self.request.window_ms
                known = found.get(window)
                found[window] = row if known is None else known.joined(row)
        return found

    def _next(self, series: Sequence[Series], end: int) -> int:
        """The time of the next point or row at or after `end`; the request's end if none."""
        following = self.request.end_ms
        for each in series:
            if each.chunks and each.last_ms >= end:
                for chunk in chunks(self.view, each.id, end, following):
                    found = points_of(each.id, chunk).between(end, following)
                    if found.count:
                        following = found.first_ms
                        break
            if self.rollup is not None and each.rows:
                for start, _ in rows(self.view, each.id, self.rollup.window_ms, end, following):
                    following = start
                    break
        return following

    def _filled(
        self,
        own: Sequence[dict[str, Any]],
        start: int,
        end: int,
        before: dict[str, Any] | None,
    ) -> Iterator[dict[str, Any]]:
        width = self.request.window_ms
        by_start = {window["start_ms"]: window for window in own}
        for window in range(start // width * width, end, width):
            self.view.step()
            shown = by_start.get(window)
            if shown is None:
                previous = before if self.request.fill == "previous" else None
                shown = {"start_ms": window}
                for name in self.request.aggregates:
                    absent = 0 if name == "count" else None
                    shown[name] = absent if previous is None or name == "count" else previous[name]
            before = shown
            yield shown

    def _shown(self, window: dict[str, Any]) -> dict[str, Any]:
        return {name: window[name] for name in ("start_ms", *self.request.aggregates)}


def _with_row(window: dict[str, Any] | None, start: int, row: Row) -> dict[str, Any]:
    """A window's points joined with a row of earlier ones."""
    if window is None:
        joined = row
    else:
        fields = ("sum", "min", "max", "first", "last")
        joined = row.joined(Row(window["count"], *(window.get(name) for name in fields)))
    average = None if joined.sum is None else joined.sum / joined.points
    return {"start_ms": start, "count": joined.points, "avg": average, **joined._asdict()}


def _fitting(rollups: Sequence[Rollup], request: Request) -> Rollup | None:
    """The coarsest rollup that can answer."""
    edges = (request.window_ms, request.first_ms, request.end_ms)
    fitting = [
        rollup
        for rollup in rollups
        if all(edge % rollup.window_ms == 0 or abs(edge) == TIME_MS_MAX for edge in edges)
        and {*request.aggregates} - {"count"} <= {*rollup.aggregates}
    ]
    return fitting[-1] if fitting else None


def _groups(view: View, request: Request) -> dict[Group, list[Series]]:
    groups: dict[Group, list[Series]] = {}
    count = 0
    for series in walk(view, request.selection):
        view.step()
        if series is None:
            continue
        count += 1
        if count > SERIES_MAX:
            raise InvalidArgument(
                f"{PREFIX}.tags", f"more than {SERIES_MAX} series; ask for fewer of them"
            )
        tags = dict(series.name.tags)
        groups.setdefault(tuple(tags.get(tag) for tag in request.group_by), []).append(series)
    return groups


def _group_order(group: Group) -> list[tuple[bool, str]]:
    return [(value is not None, value or "") for value in group]


def _request(given: Mapping[str, Any]) -> Request:
    exactly(given, PREFIX, _REQUIRED, _OPTIONAL)
    first, end = time_range(given)
    names = array(given["aggregates"], f"{PREFIX}.aggregates", len(AGGREGATES))
    tags = given.get("group_by")
    group_by: tuple[str, ...] = ()
    if tags is not None and tags != []:
        field = f"{PREFIX}.group_by"
        group_by = tuple(
            dict.fromkeys(
                one_text(tag, f"{field}[{place}]", TAG_BYTES_MAX)
                for place, tag in enumerate(array(tags, field, TAGS_MAX))
            )
        )
    fill = choice(given.get("fill", "none"), f"{PREFIX}.fill", FILLS)
    if fill != "none" and (given.get("from") is None or given.get("to") is None):
        raise InvalidArgument(f"{PREFIX}.fill", "needs from and to: which windows are empty?")
    limit = given.get("limit")
    return Request(
        one_selection(given),
        first,
        end,
        integer(given["window_ms"], f"{PREFIX}.window_ms", 1, TIME_MS_MAX),
        tuple(
            dict.fromkeys(
                choice(name, f"{PREFIX}.aggregates[{place}]", AGGREGATES)
                for place, name in enumerate(names)
            )
        ),
        group_by,
        fill,
        WINDOWS_DEFAULT if limit is None else integer(limit, f"{PREFIX}.limit", 1, WINDOWS_MAX),
    )


def _place(position: list[Any] | None) -> _Place | None:
    match position:
        case None:
            return None
        case [list(group), int(start), dict() | None as previous] if abs(start) <= TIME_MS_MAX:
            return _Place(tuple(group), start, previous)
    raise InvalidArgument(f"{PREFIX}.cursor", "is not a cursor of this query")
