"""What operations on vectors take and answer, as JSON Schema."""

from __future__ import annotations

from typing import Final

from engines.schema import (
    COUNT,
    CURSOR,
    NEXT_CURSOR,
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
from engines.text_index import TOKENIZERS
from engines.text_match import MODES
from engines.vector_graph import GRAPH_SCALARS
from engines.vector_hybrid import FUSIONS, TEXT_WEIGHT, TIME_MS_MAX
from engines.vector_parameters import (
    COMPONENT_MAX,
    DIMENSIONS_MAX,
    DOCUMENTS_MAX,
    ID_BYTES_MAX,
    MODEL_BYTES_MAX,
    QUERIES_MAX,
    TEXT_BYTES_MAX,
)
from engines.vector_reads import (
    LIMIT_DEFAULT,
    LIMIT_MAX,
    LIST_DEFAULT,
    PARTS,
    RECALL_SAMPLES_MAX,
)
from engines.vector_settings import EXPANSION_MAX, METRICS, RANGES, SCALARS

_ID = text(ID_BYTES_MAX, 1)
_VECTOR = either(
    listed(number(-COMPONENT_MAX, COMPONENT_MAX), DIMENSIONS_MAX, 1),
    members({"f32": text(contentEncoding="base64", description="little-endian f32")}),
)
_NUMBERS = listed(number())
_MODEL = or_null(text(MODEL_BYTES_MAX, 1))
_FILTER = or_null(of_any(description="conditions on metadata"))
_GIVEN = members(
    {"vector": _VECTOR},
    {
        "id": or_null(_ID),
        "metadata": or_null(of_any()),
        "text": or_null(text(TEXT_BYTES_MAX)),
    },
)
_WRITE = members({"documents": listed(_GIVEN, DOCUMENTS_MAX, 1)}, {"model": _MODEL})
_WRITTEN = members({"ids": listed(_ID), "inserted": COUNT, "replaced": COUNT})
_PARTS: dict[str, Schema] = {"metadata": of_any(), "vector": _NUMBERS, "text": or_null(text())}
_INCLUDE = listed(one_of(PARTS))
_LIMIT = integer(1, LIMIT_MAX, default=LIMIT_DEFAULT)
_EXPANSION = integer(1, EXPANSION_MAX)
_MATCHES = listed(members({"id": _ID, "distance": number()}, _PARTS))
_IDS = listed(_ID, DOCUMENTS_MAX, 1)
_LANGUAGE = members({}, {"language": one_of(tuple(TOKENIZERS))})
_INDEXED = (
    "graph_vectors", "pending_vectors", "dead_vectors", "rows_memory_bytes", "graph_memory_bytes",
)  # fmt: skip
_SETTINGS = members(
    {"dimensions": integer(1, DIMENSIONS_MAX)},
    {
        "metric": one_of(METRICS),
        "scalar": one_of(SCALARS, default=SCALARS[0]),
        "model": _MODEL,
        "text": or_null(_LANGUAGE),
        **{
            name: integer(low, high, default=default)
            for name, (default, low, high) in RANGES.items()
        },
    },
)
_SEARCH: dict[str, Schema] = {
    "filter": _FILTER,
    "exact": boolean(default=False),
    "expansion": _EXPANSION,
    "include": _INCLUDE,
    "model": _MODEL,
}

_WRITES: Final = {
    "vector_insert": Operation(
        "Insert vectors, all or none",
        _WRITE,
        _WRITTEN,
        {
            "documents": [
                {"id": "a", "vector": [1, 0, 0], "metadata": {"lang": "en"}, "text": "first"},
                {"id": "b", "vector": {"f32": "AAAAAAAAgD8AAAAA"}, "text": "second"},
            ]
        },
    ),
    "vector_upsert": Operation(
        "Insert vectors, or put them in place of those with their ids",
        _WRITE,
        _WRITTEN,
        {"documents": [{"id": "c", "vector": [0, 0, 1], "metadata": {"lang": "de"}}]},
    ),
    "vector_update": Operation(
        "Change parts of a vector",
        members(
            {
                "id": _ID,
                "data": members(
                    {},
                    {
                        "vector": _VECTOR,
                        "metadata": or_null(of_any()),
                        "text": or_null(text(TEXT_BYTES_MAX)),
                    },
                    minProperties=1,
                ),
            },
            {"model": _MODEL},
        ),
        members({"id": _ID, "changed": boolean()}),
        {"id": "b", "data": {"metadata": {"lang": "de"}}},
    ),
}
_READS: Final = {
    "vector_search": Operation(
        "The nearest vectors, nearest first",
        exactly_one(
            members(
                {},
                {
                    "vector": _VECTOR,
                    "vectors": listed(_VECTOR, QUERIES_MAX, 1),
                    "limit": _LIMIT,
                    "options": members({}, {"limit": _LIMIT}),
                    **_SEARCH,
                },
            ),
            "vector",
            "vectors",
        ),
        exactly_one(
            members({}, {"matches": _MATCHES, "results": listed(members({"matches": _MATCHES}))}),
            "matches",
            "results",
        ),
        {"vector": [0.9, 0.1, 0], "limit": 5, "filter": {"lang": "en"}},
    ),
    "hybrid_search": Operation(
        "The best by meaning and by words at once",
        members(
            {"query": text(), "vector": _VECTOR},
            {
                "limit": _LIMIT,
                "fusion": one_of(FUSIONS, default="score"),
                "text_weight": number(0, 1, default=TEXT_WEIGHT),
                "mode": one_of(MODES, default=MODES[0]),
                "recency": or_null(
                    members(
                        {
                            "field": text(least=1),
                            "half_life_ms": integer(1, TIME_MS_MAX),
                            "now_ms": integer(1, TIME_MS_MAX),
                        }
                    )
                ),
                **_SEARCH,
            },
        ),
        members(
            {
                "hits": listed(
                    members(
                        {
                            "id": _ID,
                            "score": number(),
                            "distance": number(),
                            "text_score": number(),
                        },
                        _PARTS,
                    )
                )
            }
        ),
        {"query": "first", "vector": [0.9, 0.1, 0], "text_weight": 0.5},
    ),
    "vector_get": Operation(
        "Vectors by their ids, and ids that are not there",
        members({"ids": _IDS}, {"include": _INCLUDE}),
        members({"items": listed(members({"id": _ID}, _PARTS)), "missing": listed(_ID)}),
        {"ids": ["a", "absent"]},
    ),
    "vector_list": Operation(
        "Every vector, in order of the ids, in pages",
        members(
            {},
            {
                "limit": integer(1, LIMIT_MAX, default=LIST_DEFAULT),
                "cursor": CURSOR,
                "include": _INCLUDE,
            },
        ),
        page("items", members({"id": _ID}, _PARTS)),
        {"include": ["metadata"]},
    ),
    "vector_count": Operation(
        "How many vectors a filter finds",
        members({}, {"filter": _FILTER}),
        members({"count": COUNT}),
        {"filter": {"lang": {"$in": ["en", "de"]}}},
    ),
    "vector_info": Operation(
        "What there is and how it is indexed, on the replica that answers",
        members({}, {"recall_samples": integer(0, RECALL_SAMPLES_MAX), "expansion": _EXPANSION}),
        members(
            {
                "settings": of_any(),
                "vectors": COUNT,
                "vector_bytes": COUNT,
                "recall_at_10": or_null(number(0, 1)),
                "recall_samples": COUNT,
            },
            {
                "graph_scalar": or_null(one_of(GRAPH_SCALARS)),  # null: there is no graph
                **dict.fromkeys(_INDEXED, COUNT),
            },
        ),
        {"recall_samples": 2},
    ),
}
_DELETES: Final = {
    "vector_delete": Operation(
        "Delete vectors by their ids, or those that a filter finds",
        exactly_one(
            members({}, {"ids": _IDS, "filter": of_any(), "cursor": or_null(CURSOR)}),
            "ids",
            "filter",
        ),
        members({"deleted": COUNT, "next_cursor": NEXT_CURSOR}),
        {"ids": ["b"]},
    ),
}

VECTOR: Final = Described(
    _SETTINGS,
    {"dimensions": 3, "text": {"language": "english"}},
    {**_WRITES, **_READS, **_DELETES},
)
