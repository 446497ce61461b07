"""The engine `timeseries`: what it refuses, answers and drops."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engines.errors import InvalidArgument
from engines.interfaces import RejectCode, Rejected
from engines.registry import Registry
from engines.timeseries_append import APPEND_CHUNKS_MAX, APPEND_POINTS_MAX
from engines.timeseries_drops import DROP_CHUNKS_MAX
from tests.unit.series_state import SeriesState, series_state


@pytest.fixture
def state(tmp_path: Path) -> Iterator[SeriesState]:
    with series_state(tmp_path / "state", chunk_points_max=16) as made:
        yield made


def test_it_is_built_in() -> None:
    engine = Registry().named("timeseries")
    assert engine is not None
    assert len(engine.operations) == 7


# --- Bad input -----------------------------------------------------------------------------

POINT = {"metric": "m", "tags": {"host": "a"}, "time_ms": 1, "value": 1.5}
RUN = {"metric": "m", "tags": {}, "times": [1, 2], "values": [1, 2]}


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({}, "points"),
        ({"points": [POINT], "columns": RUN}, "points"),
        ({"points": []}, "points"),
        ({"points": POINT}, "points"),
        ({"points": [POINT] * (APPEND_POINTS_MAX + 1)}, "points"),
        ({"points": [POINT], "more": 1}, "more"),
        ({"points": [POINT, 7]}, "points[1]"),
        ({"points": [{**POINT, "time": 1}]}, "points[0].time"),
        ({"points": [{"metric": "m", "value": 1}]}, "points[0].time_ms"),
        ({"points": [{**POINT, "metric": ""}]}, "points[0].metric"),
        ({"points": [{**POINT, "metric": "m" * 257}]}, "points[0].metric"),
        ({"points": [{**POINT, "metric": "a\x00b"}]}, "points[0].metric"),
        ({"points": [{**POINT, "metric": 5}]}, "points[0].metric"),
        ({"points": [{**POINT, "tags": ["a"]}]}, "points[0].tags"),
        ({"points": [{**POINT, "tags": {"host": 1}}]}, "points[0].tags.host"),
        ({"points": [{**POINT, "tags": {"host": ""}}]}, "points[0].tags.host"),
        ({"points": [{**POINT, "tags": {str(n): "v" for n in range(33)}}]}, "points[0].tags"),
        ({"points": [POINT, {**POINT, "time_ms": 1.0}]}, "points[1].time_ms"),
        ({"points": [{**POINT, "time_ms": True}]}, "points[0].time_ms"),
        ({"points": [{**POINT, "time_ms": 1 << 53}]}, "points[0].time_ms"),
        ({"points": [{**POINT, "value": "1"}]}, "points[0].value"),
        ({"points": [{**POINT, "value": None}]}, "points[0].value"),
        ({"points": [{**POINT, "value": True}]}, "points[0].value"),
        ({"points": [{**POINT, "value": math.nan}]}, "points[0].value"),
        ({"points": [{**POINT, "value": math.inf}]}, "points[0].value"),
        ({"points": [{**POINT, "value": (1 << 53) + 1}]}, "points[0].value"),
        ({"columns": {**RUN, "values": [1]}}, "columns.values"),
        ({"columns": {**RUN, "values": [1, math.inf]}}, "columns.values[1]"),
        ({"columns": {**RUN, "times": [1, "2"]}}, "columns.times[1]"),
        ({"columns": [RUN, {**RUN, "metric": None}]}, "columns[1].metric"),
        ({"columns": [{**RUN, "times": [1] * 6000, "values": [1] * 6000}] * 2}, "columns"),
    ],
)
def test_an_append_that_is_wrong_stores_nothing(
    state: SeriesState, parameters: dict[str, Any], field: str
) -> None:
    before = state.digest()
    with pytest.raises(InvalidArgument) as raised:
        state.write("series_append", **parameters)
    assert raised.value.field == f"parameters.{field}"
    assert state.digest() == before


@pytest.mark.parametrize(
    ("operation", "parameters", "field"),
    [
        ("series_range", {}, "metric"),
        ("series_range", {"metric": "m", "limit": 0}, "limit"),
        ("series_range", {"metric": "m", "limit": 10_001}, "limit"),
        ("series_range", {"metric": "m", "from": 5, "to": 5}, "to"),
        ("series_range", {"metric": "m", "from": "now"}, "from"),
        ("series_range", {"metric": "m", "tags": {"host": {"in": ["a"]}}}, "tags.host.in"),
        ("series_range", {"metric": "m", "tags": {"host": {"$in": []}}}, "tags.host.$in"),
        ("series_range", {"metric": "m", "tags": {"host": {"$in": [1]}}}, "tags.host.$in[0]"),
        ("series_range", {"metric": "m", "cursor": "no"}, "cursor"),
        ("series_range", {"metric": "m", "cursor": 1}, "cursor"),
        ("series_last", {"metric": "m", "from": 1}, "from"),
        ("series_list", {"limit": 1_001}, "limit"),
        ("series_downsample", {"metric": "m", "window_ms": 1}, "aggregates"),
        ("series_downsample", {"metric": "m", "window_ms": 0, "aggregates": ["avg"]}, "window_ms"),
        (
            "series_downsample",
            {"metric": "m", "window_ms": 1, "aggregates": ["avg", "mean"]},
            "aggregates[1]",
        ),
        (
            "series_downsample",
            {"metric": "m", "window_ms": 1, "aggregates": ["avg"], "fill": "null"},
            "fill",
        ),
        (
            "series_downsample",
            {"metric": "m", "window_ms": 1, "aggregates": ["avg"], "group_by": "host"},
            "group_by",
        ),
    ],
)
def test_a_query_that_is_wrong_names_its_field(
    state: SeriesState, operation: str, parameters: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidArgument) as raised:
        state.query(operation, **parameters)
    assert raised.value.field == f"parameters.{field}"


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"ttl": 1}, "ttl"),
        ({"retention_ms": 0}, "retention_ms"),
        ({"retention_ms": "1d"}, "retention_ms"),
        ({"duplicates": "any"}, "duplicates"),
        ({"chunk_points_max": 15}, "chunk_points_max"),
        ({"chunk_points_max": 4_097}, "chunk_points_max"),
        ({"rollups": {}}, "rollups"),
        ({"rollups": [{"window_ms": 1_000}]}, "rollups[0].aggregates"),
        ({"rollups": [{"window_ms": 10, "aggregates": ["avg"]}]}, "rollups[0].window_ms"),
        ({"rollups": [{"window_ms": 1_000, "aggregates": ["p50"]}]}, "rollups[0].aggregates[0]"),
        ({"rollups": [{"window_ms": 1_000, "aggregates": ["avg"]}] * 2}, "rollups[1].window_ms"),
        ({"rollups": [{"window_ms": 1_000, "aggregates": ["avg"]}]}, "retention_ms"),
        (
            {
                "rollups": [{"window_ms": 1_000, "aggregates": ["avg"], "retention_ms": 5}],
                "retention_ms": 5,
            },
            "retention_ms",
        ),
    ],
)
def test_settings_that_are_wrong_make_no_collection(
    tmp_path: Path, settings: dict[str, Any], field: str
) -> None:
    state = SeriesState(tmp_path)
    result = state.create(**settings)
    assert isinstance(result, Rejected)
    assert result.field == f"settings.{field}"
    state.machine.close()


def test_settings_change_in_part(state: SeriesState) -> None:
    state.alter(retention_ms=5_000)
    answer = state.alter(duplicates="max")
    assert answer["settings"] == {
        "retention_ms": 5_000, "duplicates": "max", "rollups": [], "chunk_points_max": 16,
    }  # fmt: skip
    answer = state.alter(rollups=[{"window_ms": 1_000, "aggregates": ["avg"]}])
    assert isinstance(answer, Rejected)
    assert answer.field == "settings.rollups"


def test_rollups_keep_the_retention_that_drops_their_rows(tmp_path: Path) -> None:
    """Upkeep looks at no collection without one: their rows would stay for good."""
    state = SeriesState(tmp_path)
    rollup = {"window_ms": 1_000, "aggregates": ["avg"], "retention_ms": 50_000}
    assert not isinstance(state.create(retention_ms=5_000, rollups=[rollup]), Rejected)
    for change in ({"retention_ms": None}, {"retention_ms": None, "rollups": []}):
        answer = state.alter(**change)
        assert isinstance(answer, Rejected)
        assert answer.field in ("settings.retention_ms", "settings.rollups")
    state.machine.close()


# --- Points --------------------------------------------------------------------------------


def test_values_come_back_as_they_were(state: SeriesState) -> None:
    values = [0, -0.0, 1, 2**53, -(2**53), 0.1, 5e-324, 1.7976931348623157e308]
    points = [
        {"metric": "m", "time_ms": 10 * n - 40, "value": value} for n, value in enumerate(values)
    ]
    answer = state.write("series_append", points=points)
    assert answer["added"] == len(values)
    found = state.points()
    assert [time for time, _ in found] == [10 * n - 40 for n in range(len(values))]
    assert [value.hex() for _, value in found] == [float(value).hex() for value in values]


def test_a_series_is_named_by_its_tags_in_any_order(state: SeriesState) -> None:
    for place, tags in enumerate([{"a": "1", "b": "2"}, {"b": "2", "a": "1"}, {"a": "1"}, {}]):
        point = {"metric": "m", "tags": tags, "time_ms": place, "value": place}
        state.write("series_append", points=[point])
    counts = {tuple(sorted(each["tags"])): each["points"] for each in state.series()}
    assert counts == {("a", "b"): 2, ("a",): 1, (): 1}


@pytest.mark.parametrize(
    ("policy", "expected"), [("last", 4), ("first", 5), ("sum", 12), ("max", 5), ("min", 3)]
)
def test_duplicates(tmp_path: Path, policy: str, expected: float) -> None:
    """5 is stored; 3 and 4 come in one batch, in this order, behind and before other points."""
    for others in ([], [(1, 0.0), (99, 0.0)]):
        with series_state(tmp_path / f"{len(others)}", duplicates=policy) as state:
            state.append((7, 5), *others)
            answer = state.append((7, 3), (7, 4))
            assert (answer["added"], answer["duplicates"]) == (0, 2)
            assert [7, expected] in state.points()
            assert len(state.points()) == 1 + len(others)


def test_duplicates_refused(tmp_path: Path) -> None:
    with series_state(tmp_path, duplicates="reject") as state:
        state.append((1, 1), (2, 2))
        for points in ([(3, 3), (2, 2)], [(5, 1), (5, 1)]):
            answer = state.append(*points)
            assert isinstance(answer, Rejected)
            assert answer.code is RejectCode.ITEM_EXISTS
        assert state.points() == [[1, 1.0], [2, 2.0]]
        assert state.series()[0]["points"] == 2


def test_a_sum_that_is_no_number_is_refused(tmp_path: Path) -> None:
    with series_state(tmp_path, duplicates="sum") as state:
        state.append((1, 1.7e308))
        answer = state.append((0, 1), (1, 1.7e308))
        assert isinstance(answer, Rejected)
        assert answer.code is RejectCode.INVALID_ARGUMENT
        assert state.points() == [[1, 1.7e308]]


def test_points_in_order_fill_chunks_and_late_ones_split_them(state: SeriesState) -> None:
    for first in range(0, 100, 7):
        state.append(*((10 * time, time) for time in range(first, first + 7)))
    (series,) = state.series()
    assert series["chunks"] == -(-series["points"] // 16)
    state.append(*((10 * time + 5, time) for time in range(50, 60)))
    state.append((-1, -1))
    (series,) = state.series()
    assert (series["points"], series["first_ms"]) == (105 + 11, -1)
    assert len(state.points()) == 116
    assert series["chunks"] > 8


def test_late_points_of_too_many_chunks_are_refused(state: SeriesState) -> None:
    for first in range(0, 16 * (APPEND_CHUNKS_MAX + 2), 8_000):
        state.append(*((10 * time, time) for time in range(first, first + 8_000)))
    late = [(160 * chunk + 5, 0) for chunk in range(APPEND_CHUNKS_MAX + 1)]
    answer = state.append(*late)
    assert isinstance(answer, Rejected)
    assert answer.code is RejectCode.LIMIT_EXCEEDED
    assert state.series()[0]["points"] == 8_000
    assert state.append(*late[1:])["added"] == APPEND_CHUNKS_MAX


# --- Reads ---------------------------------------------------------------------------------


def test_pages_of_several_series(state: SeriesState) -> None:
    for host in "abc":
        state.append(*((time, time) for time in range(20)), host=host, zone="z" + host)
    state.append((1, 1), metric="other")
    wanted = {"metric": "m", "tags": {"host": {"$in": ["a", "c"]}}, "from": 5}
    seen: list[tuple[str, int]] = []
    cursor = None
    while True:
        page = state.query("series_range", **wanted, limit=7, cursor=cursor)
        for each in page["series"]:
            seen.extend((each["tags"]["host"], time) for time, _ in each["points"])
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert sorted(seen) == [(host, time) for host in "ac" for time in range(5, 20)]
    assert len(seen) == len(set(seen))


def test_a_cursor_belongs_to_its_query(state: SeriesState) -> None:
    state.append(*((time, time) for time in range(20)))
    cursor = state.query("series_range", metric="m", limit=5)["next_cursor"]
    assert state.query("series_range", metric="m", limit=9, cursor=cursor)["series"]
    for other in ({"metric": "n"}, {"metric": "m", "from": 1}):
        with pytest.raises(InvalidArgument, match="cursor"):
            state.query("series_range", **other, cursor=cursor)
    with pytest.raises(InvalidArgument, match="cursor"):
        state.query("series_last", metric="m", cursor=cursor)


def test_series_are_listed_by_metric(state: SeriesState) -> None:
    for metric in ("b", "a", "aa", "ä"):
        for host in ("1", "2"):
            state.append((1, 1), metric=metric, host=host)
    first = state.query("series_list", limit=5)
    rest = state.query("series_list", limit=5, cursor=first["next_cursor"])
    metrics = [each["metric"] for each in first["items"] + rest["items"]]
    assert metrics == ["a", "a", "aa", "aa", "b", "b", "ä", "ä"]
    assert rest["next_cursor"] is None
    assert len(state.query("series_list", metric="a")["items"]) == 2
    assert len(state.query("series_list", tags={"host": "2"})["items"]) == 4
    assert state.query("series_list", metric="a", tags={"host": "3"})["items"] == []


def test_the_newest_points(state: SeriesState) -> None:
    state.append((5, 0.5), (9, 0.9), host="a")
    state.append((7, 0.7), (9, 0.8), (1, 0.1), host="b")
    items = state.query("series_last", metric="m")["items"]
    assert sorted((each["tags"]["host"], each["time_ms"], each["value"]) for each in items) == [
        ("a", 9, 0.9), ("b", 9, 0.8),
    ]  # fmt: skip


# --- Windows -------------------------------------------------------------------------------

VALUES = [5.0, -2.0, 7.5, 7.5, 0.25, 3.0, 11.0, -8.0, 4.0, 1.0]


def windows(state: SeriesState, **parameters: Any) -> list[dict[str, Any]]:
    given = {"metric": "m", "window_ms": 100, "aggregates": ["count"], **parameters}
    (group,) = state.query("series_downsample", **given)["groups"]
    found: list[dict[str, Any]] = group["windows"]
    return found


def test_aggregates(state: SeriesState) -> None:
    state.append(*((1_000 + 9 * place, value) for place, value in enumerate(VALUES)))
    names = ["avg", "min", "max", "sum", "count", "first", "last", "p50", "p90", "p99"]
    (window,) = windows(state, aggregates=names)
    cuts = statistics.quantiles(VALUES, n=100, method="inclusive")
    assert window["start_ms"] == 1_000
    exact = ("min", "max", "count", "first", "last")
    assert [window[name] for name in exact] == [-8.0, 11.0, 10, 5.0, 1.0]
    assert window["sum"] == pytest.approx(math.fsum(VALUES))
    assert window["avg"] == pytest.approx(statistics.fmean(VALUES))
    for name, place in (("p50", 49), ("p90", 89), ("p99", 98)):
        assert window[name] == pytest.approx(cuts[place])


def test_windows_begin_at_multiples_of_their_width(state: SeriesState) -> None:
    state.append((-101, 1), (-100, 1), (-1, 1), (0, 1), (99, 1), (100, 1))
    found = [(each["start_ms"], each["count"]) for each in windows(state)]
    assert found == [(-200, 1), (-100, 2), (0, 2), (100, 1)]
    found = [(each["start_ms"], each["count"]) for each in windows(state, **{"from": -1, "to": 99})]
    assert found == [(-100, 1), (0, 1)]


def test_a_rate_takes_a_fall_for_a_counter_that_began_again(state: SeriesState) -> None:
    state.append((0, 10), (20, 16), (40, 4), (60, 7), host="a")
    state.append((0, 0), (50, 5), (130, 9), host="b")
    (first, second) = windows(state, aggregates=["rate"])
    assert first["rate"] == pytest.approx((6 + 4 + 3) / 0.06 + 5 / 0.05)
    assert second["rate"] is None


def test_a_sum_beyond_a_float_is_null(state: SeriesState) -> None:
    state.append((0, 1.7e308), (1, 1.7e308))
    assert windows(state, aggregates=["sum", "max"]) == [
        {"start_ms": 0, "sum": None, "max": 1.7e308}
    ]


def test_fill(state: SeriesState) -> None:
    state.append((110, 1), (410, 4))
    between = {"aggregates": ["avg", "count"], "from": 0, "to": 600}
    assert [each["avg"] for each in windows(state, **between)] == [1, 4]
    filled = windows(state, **between, fill="null")
    assert [each["avg"] for each in filled] == [None, 1, None, None, 4, None]
    assert [each["count"] for each in filled] == [0, 1, 0, 0, 1, 0]
    filled = windows(state, **between, fill="previous")
    assert [each["avg"] for each in filled] == [None, 1, 1, 1, 4, 4]


@pytest.mark.parametrize("fill", ["none", "null", "previous"])
def test_pages_of_windows_are_those_of_one(state: SeriesState, fill: str) -> None:
    for host in ("a", "b"):
        state.append(*((1_000 * time * time, time) for time in range(1, 12)), host=host)
    state.append((5_000, 7))
    given = {
        "metric": "m", "window_ms": 500, "aggregates": ["last", "count"], "group_by": ["host"],
        "from": 250, "to": 150_000, "fill": fill,
    }  # fmt: skip
    whole = state.query("series_downsample", **given, limit=10_000)
    assert [group["tags"]["host"] for group in whole["groups"]] == [None, "a", "b"]
    assert whole["next_cursor"] is None
    paged: dict[str | None, list[Any]] = {}
    cursor = None
    while True:
        page = state.query("series_downsample", **given, limit=7, cursor=cursor)
        for group in page["groups"]:
            paged.setdefault(group["tags"]["host"], []).extend(group["windows"])
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert paged == {group["tags"]["host"]: group["windows"] for group in whole["groups"]}


# --- Dropping ------------------------------------------------------------------------------


def test_delete_a_time_and_then_all(state: SeriesState) -> None:
    state.append(*((time, time) for time in range(100)), host="a")
    state.append((50, 50), host="b")
    answer = state.write("series_delete", metric="m", tags={"host": "a"}, **{"from": 10, "to": 75})
    assert (answer["points"], answer["series"], answer["more"]) == (65, 0, False)
    assert [time for time, _ in state.points(host="a")] == [*range(10), *range(75, 100)]
    assert state.write("series_delete", metric="m", tags={"host": "none"})["points"] == 0
    answer = state.write("series_delete", metric="m")
    assert (answer["points"], answer["series"]) == (36, 2)
    assert state.series() == []


def test_a_long_delete_goes_on_from_its_cursor(state: SeriesState) -> None:
    chunks = DROP_CHUNKS_MAX + 20
    for host in ("a", "b"):
        state.append(*((time, time) for time in range(16 * chunks)), host=host)
    parameters: dict[str, Any] = {"metric": "m", "from": 100}
    deleted, calls = 0, 0
    while True:
        answer = state.write("series_delete", **parameters)
        assert answer["chunks"] <= DROP_CHUNKS_MAX
        deleted += answer["points"]
        calls += 1
        assert answer["more"] is (answer["next_cursor"] is not None)
        if not answer["more"]:
            break
        parameters["cursor"] = answer["next_cursor"]
    assert (deleted, calls) == (2 * (16 * chunks - 100), 3)
    assert [each["points"] for each in state.series()] == [100, 100]


def test_retention_drops_by_chunk_and_takes_no_expired_point(tmp_path: Path) -> None:
    with series_state(tmp_path, retention_ms=1_000, chunk_points_max=16) as state:
        state.now = 500
        state.append(*((time, time) for time in range(160)))
        state.now = 1_140
        answer = state.append((139, 1), (140, 0), (900, 9))
        assert (answer["added"], answer["expired"], answer["duplicates"]) == (1, 1, 1)
        assert (answer["dropped_chunks"], answer["dropped_points"]) == (2, 32)
        answer = state.write("series_retain")
        assert (answer["chunks"], answer["points"], answer["more"]) == (6, 96, False)
        assert state.points()[0] == [128, 128.0]  # its chunk holds points that are not expired
        state.now = 5_000
        assert state.write("series_retain")["series"] == 1
        assert state.series() == []


def test_rollups_stay_when_points_go(tmp_path: Path) -> None:
    rollups = [{"window_ms": 1_000, "aggregates": ["avg", "first"], "retention_ms": 100_000}]
    with series_state(tmp_path, retention_ms=1, rollups=rollups) as state:
        state.now = 0
        state.append(*((100 * time, time) for time in range(40)))
        ask = {"window_ms": 2_000, "aggregates": ["avg", "count", "first"]}
        before = windows(state, **ask)
        state.now = 4_000
        assert state.write("series_retain")["points"] == 40
        (series,) = state.series()
        assert (series["points"], series["first_ms"], series["rollup_rows"]) == (0, None, 4)
        assert windows(state, **ask) == before
        assert state.query("series_last", metric="m")["items"] == []
        answer = state.append((3_950, 1), (4_100, 1))
        assert (answer["added"], answer["expired"]) == (1, 1)
        for other in (
            {"window_ms": 1_500, "aggregates": ["avg"]},
            {"window_ms": 1_000, "aggregates": ["max"]},
            {"window_ms": 1_000, "aggregates": ["avg"], "from": 500},
        ):
            found = state.query("series_downsample", metric="m", **other)
            assert (found["left_out"], found["rollup_rows"]) == (True, 0)
        state.now = 104_100
        state.write("series_retain")
        state.now = 105_001
        state.write("series_retain")
        assert state.series() == []


def test_a_command_makes_a_bounded_number_of_rows(tmp_path: Path) -> None:
    rollups = [{"window_ms": 1_000, "aggregates": ["avg"]}]
    with series_state(tmp_path, retention_ms=1, rollups=rollups, chunk_points_max=512) as state:
        state.now = 0
        state.append(*((1_000 * time, time) for time in range(5 * 512)))
        state.now = 10_000_000
        parameters: dict[str, Any] = {}
        chunks = []
        while True:
            answer = state.write("series_retain", **parameters)
            chunks.append(answer["chunks"])
            if not answer["more"]:
                break
            parameters["cursor"] = answer["next_cursor"]
        assert chunks == [2, 2, 1]
        assert state.series()[0]["rollup_rows"] == 5 * 512


def test_what_rollups_stand_for_is_not_stored_again(tmp_path: Path) -> None:
    """A longer retention does not bring dropped points back: they would be counted twice."""
    rollups = [{"window_ms": 1_000, "aggregates": ["sum"]}]
    with series_state(tmp_path, retention_ms=1, rollups=rollups) as state:
        state.now = 0
        state.append((100, 1), (900, 2))
        state.now = 2_000
        state.write("series_retain")
        state.alter(retention_ms=60_000)
        answer = state.append((100, 1), (900, 2), (901, 4))
        assert (answer["added"], answer["expired"]) == (1, 2)
        (window,) = windows(state, window_ms=1_000, aggregates=["count", "sum"])
        assert window == {"start_ms": 0, "count": 3, "sum": 7}
