"""What operations on time series take and answer, as JSON Schema."""

from __future__ import annotations

from typing import Final

from engines.schema import (
    COUNT,
    CURSOR,
    Described,
    Operation,
    Schema,
    boolean,
    either,
    exactly_one,
    integer,
    listed,
    members,
    number,
    of_any,
    one_of,
    or_null,
    page,
    text,
)
from engines.timeseries_append import APPEND_POINTS_MAX, APPEND_SERIES_MAX
from engines.timeseries_chunks import CHUNK_POINTS_MAX
from engines.timeseries_columns import TIME_MS_MAX
from engines.timeseries_parameters import (
    METRIC_BYTES_MAX,
    TAG_BYTES_MAX,
    TAG_CHOICES_MAX,
    TAGS_MAX,
)
from engines.timeseries_reads import POINTS_DEFAULT, POINTS_MAX, SERIES_DEFAULT, SERIES_MAX
from engines.timeseries_settings import (
    CHUNK_POINTS_DEFAULT,
    CHUNK_POINTS_MIN,
    DUPLICATES,
    ROLLUP_AGGREGATES,
    ROLLUP_WINDOW_MS_MIN,
    ROLLUPS_MAX,
)
from engines.timeseries_windows import AGGREGATES, FILLS, WINDOWS_DEFAULT, WINDOWS_MAX

_METRIC = text(METRIC_BYTES_MAX, 1)
_TAG = text(TAG_BYTES_MAX, 1)
_TAGS = of_any(_TAG, maxProperties=TAGS_MAX)
_TIME = integer(1 - TIME_MS_MAX, TIME_MS_MAX - 1)
_SPAN = or_null(integer(1, TIME_MS_MAX))
_NAMED: dict[str, Schema] = {"metric": _METRIC, "tags": _TAGS}
_POINT = members({"metric": _METRIC, "time_ms": _TIME, "value": number()}, {"tags": _TAGS})
_RUN = members(
    {
        "metric": _METRIC,
        "times": listed(_TIME, APPEND_POINTS_MAX, 1),
        "values": listed(number(), APPEND_POINTS_MAX, 1),
    },
    {"tags": _TAGS},
)
_CHOSEN = of_any(
    either(_TAG, members({"$in": listed(_TAG, TAG_CHOICES_MAX, 1)})), maxProperties=TAGS_MAX
)
_BETWEEN: dict[str, Schema] = {"from": or_null(_TIME), "to": or_null(_TIME)}
_OF_SERIES: dict[str, Schema] = {
    "limit": or_null(integer(1, SERIES_MAX, default=SERIES_DEFAULT)),
    "cursor": CURSOR,
}
_DROPPED = members(
    {
        "points": COUNT,
        "chunks": COUNT,
        "rollup_rows": COUNT,
        "series": COUNT,
        "more": boolean(),
        "next_cursor": or_null(text()),
    }
)
_WINDOW = members({"start_ms": integer()}, {name: or_null(number()) for name in AGGREGATES})

TIMESERIES: Final = Described(
    members(
        {},
        {
            "retention_ms": _SPAN,
            "duplicates": one_of(DUPLICATES, default=DUPLICATES[0]),
            "chunk_points_max": integer(
                CHUNK_POINTS_MIN, CHUNK_POINTS_MAX, default=CHUNK_POINTS_DEFAULT
            ),
            "rollups": listed(
                members(
                    {
                        "window_ms": integer(ROLLUP_WINDOW_MS_MIN, TIME_MS_MAX),
                        "aggregates": listed(one_of(ROLLUP_AGGREGATES), len(ROLLUP_AGGREGATES), 1),
                    },
                    {"retention_ms": _SPAN},
                ),
                ROLLUPS_MAX,
            ),
        },
    ),
    {"duplicates": "last"},
    {
        "series_append": Operation(
            "Append points, in any order",
            exactly_one(
                members(
                    {},
                    {
                        "points": listed(_POINT, APPEND_POINTS_MAX, 1),
                        "columns": either(_RUN, listed(_RUN, APPEND_SERIES_MAX, 1)),
                    },
                ),
                "points",
                "columns",
            ),
            members(
                {
                    "points": COUNT,
                    "added": COUNT,
                    "duplicates": COUNT,
                    "expired": COUNT,
                    "series": COUNT,
                    "dropped_chunks": COUNT,
                    "dropped_points": COUNT,
                }
            ),
            {
                "points": [
                    {
                        "metric": "cpu",
                        "tags": {"host": "a"},
                        "time_ms": 1764374400000,
                        "value": 0.25,
                    },
                    {
                        "metric": "cpu",
                        "tags": {"host": "a"},
                        "time_ms": 1764374401000,
                        "value": 0.5,
                    },
                ]
            },
        ),
        "series_range": Operation(
            "Points between two times, series by series",
            members(
                {"metric": _METRIC},
                {
                    "tags": _CHOSEN,
                    **_BETWEEN,
                    "limit": or_null(integer(1, POINTS_MAX, default=POINTS_DEFAULT)),
                    "cursor": CURSOR,
                },
            ),
            page(
                "series",
                members(
                    {
                        **_NAMED,
                        "points": listed(
                            {
                                "type": "array",
                                "prefixItems": [_TIME, number()],
                                "minItems": 2,
                                "maxItems": 2,
                            }
                        ),
                    }
                ),
            ),
            {"metric": "cpu", "tags": {"host": {"$in": ["a", "b"]}}, "from": 1764374400000},
        ),
        "series_last": Operation(
            "The newest point of each series",
            members({"metric": _METRIC}, {"tags": _CHOSEN, **_OF_SERIES}),
            page("items", members({**_NAMED, "time_ms": _TIME, "value": number()})),
            {"metric": "cpu"},
        ),
        "series_list": Operation(
            "The series that there are",
            members({}, {"metric": or_null(_METRIC), "tags": _CHOSEN, **_OF_SERIES}),
            page(
                "items",
                members(
                    {
                        **_NAMED,
                        "points": COUNT,
                        "chunks": COUNT,
                        "first_ms": or_null(_TIME),
                        "last_ms": or_null(_TIME),
                        "rollup_rows": COUNT,
                    }
                ),
            ),
            {"tags": {"host": "a"}},
        ),
        "series_downsample": Operation(
            "Aggregates of windows of time, over groups of series",
            members(
                {
                    "metric": _METRIC,
                    "window_ms": integer(1, TIME_MS_MAX),
                    "aggregates": listed(one_of(AGGREGATES), len(AGGREGATES), 1),
                },
                {
                    "tags": _CHOSEN,
                    **_BETWEEN,
                    "group_by": listed(_TAG, TAGS_MAX),
                    "fill": one_of(FILLS, default=FILLS[0]),
                    "limit": or_null(integer(1, WINDOWS_MAX, default=WINDOWS_DEFAULT)),
                    "cursor": CURSOR,
                },
            ),
            page(
                "groups",
                members(
                    {
                        "tags": of_any(or_null(_TAG)),
                        "series": COUNT,
                        "windows": listed(_WINDOW),
                    }
                ),
                points_scanned=COUNT,
                rollup_rows=COUNT,
                left_out=boolean(),
            ),
            {
                "metric": "cpu",
                "from": 1764374400000,
                "to": 1764374520000,
                "window_ms": 60000,
                "aggregates": ["avg", "p95", "count"],
                "group_by": ["host"],
                "fill": "null",
            },
        ),
        "series_retain": Operation(
            "Drop what has expired, of all series",
            members({}, {"cursor": CURSOR}),
            _DROPPED,
            {},
        ),
        "series_delete": Operation(
            "Delete points, or whole series",
            members({"metric": _METRIC}, {"tags": _CHOSEN, **_BETWEEN, "cursor": CURSOR}),
            _DROPPED,
            {"metric": "cpu", "tags": {"host": "a"}},
        ),
    },
)
