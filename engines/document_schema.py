"""What operations on documents take and answer, as JSON Schema."""

from __future__ import annotations

from typing import Final

from engines.document_aggregate import STAGES_MAX
from engines.document_indexes import FIELDS_MAX, INDEXES_MAX, NAME_BYTES_MAX
from engines.document_parameters import (
    DOCUMENTS_MAX,
    ID_BYTES_MAX,
    IDS_MAX,
    LIMIT_DEFAULT,
    LIMIT_MAX,
    VERSION_MAX,
)
from engines.document_search import LIMIT_DEFAULT as SEARCH_LIMIT_DEFAULT
from engines.document_search import LIMIT_MAX as SEARCH_LIMIT_MAX
from engines.document_writes import BUILD_DOCUMENTS_MAX
from engines.schema import (
    ANY,
    COUNT,
    CURSOR,
    NEXT_CURSOR,
    Described,
    Operation,
    boolean,
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

_ID = text(ID_BYTES_MAX, 1)
_DOCUMENT = of_any(properties={"_id": _ID})
_ITEM = members(
    {
        "id": _ID,
        "version": integer(1),
        "created_ms": integer(),
        "updated_ms": integer(),
        "document": of_any(),
    }
)
_HIT = members({**_ITEM["properties"], "score": number()}, {"snippet": or_null(text())})
_FILTER = of_any(description="MongoDB's language: {path: value}, {path: {operator: operand}}")
_LIMIT = integer(1, LIMIT_MAX, default=LIMIT_DEFAULT)
_PROJECTION = of_any()
_IF_VERSION = integer(0, VERSION_MAX)
_GIVEN = {"document": _DOCUMENT, "documents": listed(_DOCUMENT, DOCUMENTS_MAX, 1)}
_INDEX = members(
    {"fields": listed(text(least=1), FIELDS_MAX, 1)},
    {"unique": boolean(default=False), "name": text(NAME_BYTES_MAX, 1)},
)
_TEXT = members(
    {"fields": of_any(description="{path: weight}")}, {"language": one_of(tuple(TOKENIZERS))}
)
_EXPLANATION = members(
    {
        "plan": one_of(("index", "ids", "all_documents")),
        "index": or_null(text()),
        "ranges": COUNT,
        "equality_fields": COUNT,
        "range_field": boolean(),
        "sorted_by_plan": boolean(),
        "examined_entries": COUNT,
        "examined_documents": COUNT,
        "returned": COUNT,
    }
)
_STEPPED = {"more": boolean(), "next_cursor": NEXT_CURSOR}
_STEPS = {"limit": integer(1, LIMIT_MAX), "cursor": CURSOR}

_WRITES: Final = {
    "document_insert": Operation(
        "Insert documents, all or none",
        exactly_one(members({}, _GIVEN), "document", "documents"),
        members({"inserted": COUNT, "ids": listed(_ID)}),
        {"documents": [{"_id": "t1", "state": "open", "tags": ["api"]}, {"state": "done"}]},
    ),
    "document_upsert": Operation(
        "Insert documents, or put them in place of those with their ids",
        exactly_one(members({}, {**_GIVEN, "if_version": _IF_VERSION}), "document", "documents"),
        members(
            {
                "inserted": COUNT,
                "replaced": COUNT,
                "ids": listed(_ID),
                "versions": listed(integer(1)),
            }
        ),
        {"document": {"_id": "t2", "state": "open", "priority": 3}, "if_version": 0},
    ),
    "document_update": Operation(
        "Change a document, or those that a filter finds, by operators or by a JSON Merge Patch",
        members(
            {},
            {
                "id": _ID,
                "filter": _FILTER,
                "update": of_any(),
                "merge": of_any(),
                "upsert": boolean(default=False),
                "if_version": _IF_VERSION,
                **_STEPS,
            },
            allOf=[
                {"oneOf": [{"required": ["id"]}, {"required": ["filter"]}]},
                {"oneOf": [{"required": ["update"]}, {"required": ["merge"]}]},
            ],
        ),
        members(
            {"matched": COUNT, "modified": COUNT, "upserted_id": or_null(_ID)},
            {"version": or_null(integer(1)), **_STEPPED},
        ),
        {"id": "t1", "if_version": 1, "update": {"$set": {"owner": "a7"}, "$push": {"tags": "x"}}},
    ),
    "document_delete": Operation(
        "Delete a document, or those that a filter finds",
        exactly_one(
            members({}, {"id": _ID, "filter": _FILTER, "if_version": _IF_VERSION, **_STEPS}),
            "id",
            "filter",
        ),
        members({"deleted": COUNT}, _STEPPED),
        {"filter": {"state": "done"}},
    ),
    "document_index_build": Operation(
        "Go on with indexes that are not complete, and with what dropped ones left",
        members({}, {"limit": integer(1, BUILD_DOCUMENTS_MAX, default=BUILD_DOCUMENTS_MAX)}),
        members({"indexed": COUNT, "ready": boolean(), "cleared": boolean()}),
        {},
    ),
}
_READS: Final = {
    "document_find": Operation(
        "Documents that a filter finds, in an order, in pages",
        members(
            {},
            {
                "filter": _FILTER,
                "projection": _PROJECTION,
                "sort": ANY,
                "limit": _LIMIT,
                "cursor": CURSOR,
                "explain": boolean(default=False),
            },
        ),
        page("items", _ITEM, explain=_EXPLANATION),
        {"filter": {"state": "open"}, "sort": {"priority": -1}, "explain": True},
    ),
    "document_get": Operation(
        "Documents by their ids; null where there is none",
        exactly_one(
            members(
                {},
                {
                    "id": _ID,
                    "ids": listed(_ID, IDS_MAX, 1),
                    "projection": _PROJECTION,
                    "cursor": CURSOR,
                },
            ),
            "id",
            "ids",
        ),
        page("items", or_null(_ITEM)),
        {"ids": ["t1", "absent"], "projection": {"state": 1}},
    ),
    "document_count": Operation(
        "How many documents a filter finds, exactly",
        members({}, {"filter": _FILTER}),
        members({"count": COUNT}),
        {"filter": {"priority": {"$gte": 2}}},
    ),
    "document_distinct": Operation(
        "The values of a path, in order",
        members({"field": text(least=1)}, {"filter": _FILTER, "limit": _LIMIT, "cursor": CURSOR}),
        page("values", ANY),
        {"field": "tags"},
    ),
    "document_aggregate": Operation(
        "What a pipeline makes of the documents",
        members({"pipeline": listed(of_any(), STAGES_MAX)}, {"limit": _LIMIT, "cursor": CURSOR}),
        page("items", ANY),
        {"pipeline": [{"$unwind": "$tags"}, {"$group": {"_id": "$tags", "n": {"$sum": 1}}}]},
    ),
    "document_search": Operation(
        "Documents by the words of their texts, best first",
        members(
            {"query": text(least=1)},
            {
                "mode": one_of(MODES, default=MODES[0]),
                "weights": of_any(description="{path: weight}, instead of those of the settings"),
                "filter": _FILTER,
                "projection": _PROJECTION,
                "limit": integer(1, SEARCH_LIMIT_MAX, default=SEARCH_LIMIT_DEFAULT),
                "snippets": boolean(default=False),
            },
        ),
        members({"hits": listed(_HIT), "exhaustive": boolean()}),
        {"query": "rotate tokens", "filter": {"state": "open"}, "snippets": True},
    ),
    "document_indexes": Operation(
        "The indexes, and whether they are ready",
        members(),
        members(
            {
                "items": listed(
                    members(
                        {
                            "name": text(),
                            "fields": listed(text()),
                            "unique": boolean(),
                            "ready": boolean(),
                            "documents_with_several_entries": COUNT,
                        }
                    )
                ),
                "documents": COUNT,
            }
        ),
        {},
    ),
}

DOCUMENT: Final = Described(
    members({}, {"indexes": listed(_INDEX, INDEXES_MAX), "text": or_null(_TEXT)}),
    {"indexes": [{"fields": ["state", "priority"]}], "text": {"fields": {"title": 2, "tags": 1}}},
    {**_WRITES, **_READS},
)
