"""Valid requests of texts, series and vectors, to be made odd by `odd_parameters.py`."""

from __future__ import annotations

from tests.property.odd_parameters import Odd

TEXT = Odd(
    "text",
    (
        {"fields": {"title": 3, "text": 1}},
        {"fields": {"A": 1, "rank": 0, "text": 1000}, "language": "none"},
        {},
    ),
    (
        (
            "text_insert",
            {
                "documents": [
                    {
                        "id": "n1",
                        "fields": {"text": "the bees dance"},
                        "metadata": {"k": 1},
                        "session": "s",
                        "time_ms": 5,
                    },
                    {"id": "n2", "text": "flowers and bees", "metadata": {"k": [1, 2]}},
                ]
            },
        ),
    ),
    (
        (
            "text_insert",
            {
                "documents": [
                    {"id": "n3", "text": "a third text", "metadata": {"k": None}},
                    {"text": "made id"},
                ]
            },
        ),
        (
            "text_upsert",
            {
                "documents": [
                    {"id": "n1", "fields": {"text": "other bees"}, "time_ms": 7, "session": "t"}
                ]
            },
        ),
        ("text_delete", {"ids": ["n2", "n9"]}),
    ),
    (
        ("text_get", {"ids": ["n1", "nix"]}),
        (
            "text_search",
            {
                "query": 'dancing "bees dance" flow* -third',
                "limit": 2,
                "mode": "any",
                "snippets": True,
                "weights": {"text": 2},
                "include": "all",
            },
        ),
        (
            "text_search",
            {
                "query": "bees",
                "sessions": ["s"],
                "from_ms": 0,
                "to_ms": 100,
                "metadata": {"k": [1, 2]},
            },
        ),
        ("text_search", {"query": "bees text", "mode": "phrase"}),
        ("text_search", {"query": "the bees", "mode": "all", "include": "ids"}),
        ("text_count", {}),
        ("text_list", {"limit": 1, "include": "ids"}),
    ),
)

TIMESERIES = Odd(
    "timeseries",
    (
        {
            "duplicates": "sum",
            "chunk_points_max": 16,
            "retention_ms": 500,
            "rollups": [
                {
                    "window_ms": 1_000,
                    "aggregates": ["avg", "sum", "first", "last", "min", "max", "count"],
                    "retention_ms": 5_000,
                }
            ],
        },
        {
            "duplicates": "reject",
            "retention_ms": 1,
            "rollups": [{"window_ms": 2**53, "aggregates": ["avg"]}],
        },
        {"duplicates": "last"},
    ),
    (
        (
            "series_append",
            {
                "points": [
                    {"metric": "m", "tags": {"h": "a"}, "time_ms": time, "value": time / 3}
                    for time in (0, 100, 900, 950, 1_000)
                ]
            },
        ),
        (
            "series_append",
            {
                "columns": {
                    "metric": "m",
                    "tags": {"h": "b"},
                    "times": list(range(900, 950)),
                    "values": [0.5] * 50,
                }
            },
        ),
    ),
    (
        (
            "series_append",
            {
                "points": [
                    {"metric": "m", "tags": {"h": "a"}, "time_ms": 990, "value": 1e308},
                    {"metric": "m", "tags": {"h": "a"}, "time_ms": 990, "value": 1e308},
                    {"metric": "m", "time_ms": 1 - 2**53, "value": 1},
                    {"metric": "m", "time_ms": 2**53 - 1, "value": -0.0},
                ]
            },
        ),
        (
            "series_append",
            {
                "columns": [
                    {
                        "metric": "m",
                        "tags": {"h": "b"},
                        "times": [901, 2_000, 1 - 2**53],
                        "values": [1, 2.5, 3],
                    }
                ]
            },
        ),
        (
            "series_delete",
            {"metric": "m", "tags": {"h": {"$in": ["a", "b"]}}, "from": 0, "to": 910},
        ),
        ("series_delete", {"metric": "m"}),
        ("series_retain", {}),
    ),
    (
        (
            "series_range",
            {"metric": "m", "tags": {"h": "a"}, "from": 1 - 2**53, "to": 2**53 - 1, "limit": 3},
        ),
        ("series_last", {"metric": "m", "limit": 1}),
        ("series_list", {"metric": "m", "tags": {"h": {"$in": ["a"]}}}),
        ("series_list", {}),
        (
            "series_downsample",
            {
                "metric": "m",
                "from": 0,
                "to": 4_000,
                "window_ms": 1_000,
                "group_by": ["h"],
                "fill": "null",
                "limit": 3,
                "aggregates": [
                    "avg",
                    "sum",
                    "min",
                    "max",
                    "count",
                    "first",
                    "last",
                    "p50",
                    "p99",
                    "rate",
                ],
            },
        ),
        (
            "series_downsample",
            {
                "metric": "m",
                "window_ms": 2**53 - 1,
                "aggregates": ["sum", "avg", "p95", "rate"],
                "fill": "none",
            },
        ),
        (
            "series_downsample",
            {
                "metric": "m",
                "from": 1 - 2**53,
                "to": 2**53 - 1,
                "window_ms": 2**50,
                "aggregates": ["sum", "avg"],
                "fill": "previous",
            },
        ),
    ),
)

VECTOR = Odd(
    "vector",
    (
        {"dimensions": 3, "text": {"language": "english"}},
        {"dimensions": 3, "metric": "l2sq", "scalar": "f16", "text": {"language": "none"}},
        {"dimensions": 8, "scalar": "b1", "metric": "l2sq"},
        {"dimensions": 3, "scalar": "i8", "model": "m", "vectors_max": 4, "text": {}},
        {"dimensions": 3, "metric": "ip"},
    ),
    (),
    (
        (
            "vector_insert",
            {
                "documents": [
                    {
                        "id": "a",
                        "vector": [1, 0, 0],
                        "metadata": {"lang": "en", "at": 5, "deep": {"x": [1, 2]}},
                        "text": "first bee",
                    },
                    {"id": "b", "vector": [0, 1e15, 0], "metadata": {"lang": "de"}},
                    {"vector": {"f32": "AACAPwAAAAAAAAAA"}},
                ]
            },
        ),
        (
            "vector_insert",
            {
                "documents": [
                    {
                        "id": "bits",
                        "vector": [0, 1, 1, 0, 1, 0, 0, 1],
                        "metadata": {"n": 1},
                        "text": "t",
                    }
                ]
            },
        ),
        (
            "vector_upsert",
            {
                "documents": [
                    {
                        "id": "a",
                        "vector": [1e-15, 0, 1e-20],
                        "metadata": {"lang": None, "at": 1e300},
                        "text": "",
                    }
                ],
                "model": "m",
            },
        ),
        (
            "vector_update",
            {"id": "a", "data": {"vector": [3, 2, 1], "metadata": {"n": 2**64 - 1}, "text": "new"}},
        ),
        ("vector_update", {"id": "b", "data": {"text": None}}),
        ("vector_delete", {"ids": ["b", "nix"]}),
        (
            "vector_delete",
            {
                "filter": {
                    "$or": [{"lang": "de"}, {"n": {"$gt": 1}}, {"$not": {"deep.x": {"$in": [1]}}}]
                }
            },
        ),
    ),
    (
        (
            "vector_search",
            {
                "vector": [0.9, 0.1, 0],
                "limit": 2,
                "filter": {"lang": "en", "at": {"$gte": 1}},
                "include": ["metadata", "vector", "text"],
            },
        ),
        (
            "vector_search",
            {"vectors": [[1, 1, 1], [1e15, -1e15, 1e15]], "exact": True, "options": {"limit": 3}},
        ),
        ("vector_search", {"vector": [0, 1, 1, 0, 1, 0, 0, 1], "expansion": 10}),
        ("vector_get", {"ids": ["a", "b", "nix"], "include": ["vector"]}),
        (
            "vector_count",
            {
                "filter": {
                    "deep.x": {"$in": [1, 2.5, None, "x"]},
                    "lang": {"$exists": True, "$ne": "fr"},
                }
            },
        ),
        ("vector_list", {"limit": 1, "include": ["vector"]}),
        ("vector_info", {"recall_samples": 2, "expansion": 4}),
        (
            "hybrid_search",
            {
                "query": "bee first",
                "vector": [1, 0, 0],
                "mode": "any",
                "fusion": "rrf",
                "text_weight": 0.3,
                "recency": {"field": "at", "half_life_ms": 1, "now_ms": 10},
            },
        ),
        (
            "hybrid_search",
            {
                "query": "bee",
                "vector": [1e-14, 0, 0],
                "fusion": "score",
                "filter": {"lang": "en"},
                "exact": True,
                "recency": {"field": "at", "half_life_ms": 1, "now_ms": 2**53},
            },
        ),
    ),
)
