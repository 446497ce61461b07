"""What operations of the text engine take and answer, as JSON Schema."""

from __future__ import annotations

from typing import Final

from engines.interfaces import INTEGER_MAX
from engines.schema import (
    COUNT,
    CURSOR,
    Described,
    Operation,
    Schema,
    boolean,
    either,
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
from engines.text import (
    DOCUMENTS_MAX,
    FIELDS_MAX,
    ID_BYTES_MAX,
    IDS_MAX,
    INCLUDE,
    LIMIT_DEFAULT,
    LIMIT_MAX,
    LIST_DEFAULT,
    WEIGHT_MAX,
)
from engines.text_index import TOKENIZERS
from engines.text_match import MODES

_ID = text(ID_BYTES_MAX, 1)
_TIME = integer(0, INTEGER_MAX)
_WEIGHTS = of_any(number(0, WEIGHT_MAX), maxProperties=FIELDS_MAX)
_OWN = {
    "id": or_null(_ID),
    "metadata": of_any(),
    "session": or_null(text(least=1)),
    "time_ms": or_null(_TIME),
}
_GIVEN = either(
    members({"text": text(least=1)}, {**_OWN, "fields": of_any(text(), maxProperties=0)}),
    members({"fields": of_any(text(), minProperties=1, maxProperties=FIELDS_MAX)}, _OWN),
)
_WRITE = members({"documents": listed(_GIVEN, DOCUMENTS_MAX, 1)})
_WRITTEN = members({"ids": listed(_ID), "inserted": COUNT, "replaced": COUNT})
_IDS = members({"ids": listed(_ID, IDS_MAX, 1)})
_SHOWN: dict[str, Schema] = {
    "fields": of_any(text()),
    "metadata": of_any(),
    "session": or_null(text()),
    "time_ms": _TIME,
}
_DOCUMENT = members({"id": _ID, **_SHOWN, "created_ms": integer(), "updated_ms": integer()})

TEXT: Final = Described(
    members(
        {},
        {
            "fields": {**_WEIGHTS, "minProperties": 1},
            "language": one_of(tuple(TOKENIZERS)),
        },
    ),
    {"fields": {"title": 3, "text": 1}},
    {
        "text_insert": Operation(
            "Insert texts, all or none",
            _WRITE,
            _WRITTEN,
            {
                "documents": [
                    {"id": "n1", "fields": {"title": "Bees", "text": "They dance"}},
                    {"text": "Flowers wait", "session": "s1", "metadata": {"lang": "en"}},
                ]
            },
        ),
        "text_upsert": Operation(
            "Insert texts, or put them in place of those with their ids",
            _WRITE,
            _WRITTEN,
            {"documents": [{"id": "n1", "text": "They dance to tell where flowers are"}]},
        ),
        "text_get": Operation(
            "Texts by their ids; null where there is none",
            _IDS,
            members({"documents": listed(or_null(_DOCUMENT))}),
            {"ids": ["n1", "absent"]},
        ),
        "text_list": Operation(
            "Every text, in order of the ids, in pages",
            members(
                {},
                {
                    "limit": integer(1, LIMIT_MAX, default=LIST_DEFAULT),
                    "cursor": CURSOR,
                    "include": one_of(tuple(INCLUDE), default="all"),
                },
            ),
            page("documents", members({"id": _ID}, _SHOWN)),
            {"limit": 10},
        ),
        "text_search": Operation(
            "Texts by their words, best first (BM25)",
            members(
                {"query": text(least=1, description='words, "phrases", prefix* and -words')},
                {
                    "limit": integer(1, LIMIT_MAX, default=LIMIT_DEFAULT),
                    "mode": one_of(MODES, default="any"),
                    "weights": _WEIGHTS,
                    "snippets": boolean(default=False),
                    "include": one_of(tuple(INCLUDE), default="all"),
                    "sessions": listed(_ID, IDS_MAX),
                    "from_ms": or_null(_TIME),
                    "to_ms": or_null(_TIME),
                    "metadata": of_any(),
                },
            ),
            members(
                {
                    "hits": listed(
                        members(
                            {"score": number(), "id": _ID}, {**_SHOWN, "snippet": or_null(text())}
                        )
                    ),
                    "exhaustive": boolean(),
                }
            ),
            {"query": "dancing flowers", "snippets": True},
        ),
        "text_count": Operation(
            "How many texts there are", members(), members({"count": COUNT}), {}
        ),
        "text_delete": Operation(
            "Delete texts by their ids", _IDS, members({"deleted": COUNT}), {"ids": ["n1"]}
        ),
    },
)
