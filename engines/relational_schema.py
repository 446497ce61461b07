"""What operations of the relational engine take and answer, as JSON Schema."""

from __future__ import annotations

from typing import Final

from engines.relational import (
    DATABASE_BYTES_DEFAULT,
    DATABASE_BYTES_MAX,
    DATABASE_BYTES_MIN,
    ROWS_DEFAULT,
    ROWS_MAX,
    STATEMENTS_MAX,
)
from engines.schema import (
    COUNT,
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
    text,
)

_INTEGER = integer(-(1 << 63), (1 << 63) - 1)
_BLOB = members({"base64": text(contentEncoding="base64")})
_PARAM = either({"type": ["string", "number", "boolean", "null"]}, _BLOB)
_PARAMS = either(listed(_PARAM), of_any(_PARAM), description="an array for ?, an object for :name")
_CELL = either({"type": ["string", "null"]}, number(), _BLOB)
_SQL = text(least=1)
_TABLE: dict[str, Schema] = {"columns": listed(text()), "rows": listed(listed(_CELL))}
_STATEMENT = members({"sql": _SQL}, {"params": _PARAMS})

RELATIONAL: Final = Described(
    members(
        {},
        {
            "bytes_max": integer(
                DATABASE_BYTES_MIN, DATABASE_BYTES_MAX, default=DATABASE_BYTES_DEFAULT
            )
        },
    ),
    {},
    {
        "sql_execute": Operation(
            "Run statements as one transaction",
            either(_STATEMENT, members({"statements": listed(_STATEMENT, STATEMENTS_MAX, 1)})),
            members(
                {
                    "results": listed(
                        members({"changes": COUNT, "last_insert_rowid": _INTEGER}, _TABLE)
                    )
                }
            ),
            {
                "statements": [
                    {"sql": "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT, face BLOB)"},
                    {
                        "sql": "INSERT INTO people (name, face) VALUES (?, ?) RETURNING id",
                        "params": ["Ann", {"base64": "/9j/"}],
                    },
                ]
            },
        ),
        "sql_query": Operation(
            "Run one statement that reads",
            members(
                {"sql": _SQL},
                {"params": _PARAMS, "limit": integer(1, ROWS_MAX, default=ROWS_DEFAULT)},
            ),
            members({**_TABLE, "truncated": boolean()}),
            {"sql": "SELECT * FROM people WHERE name = :name", "params": {"name": "Ann"}},
        ),
        "sql_tables": Operation(
            "Tables, indexes, views and triggers",
            members(),
            members({**_TABLE, "truncated": boolean()}),
            {},
        ),
    },
)
