"""What descriptions of routes are made of: parameters, answers, errors, shapes of views. Pure.

A description of a route says what is its own; what all share is put in here, so that a bound,
a code or a header is written once, and taken from where the code has it.
"""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Final

from engines.interfaces import INTEGER_MAX, Limits
from engines.read_requests import PAGE_ITEMS_MAX
from engines.schema import Schema, boolean, integer, listed, members, of_any, one_of, text
from engines.validation import COLLECTION_BYTES_MAX, NAME_PATTERN
from node.http_errors import STATUS_BY_CODE
from node.http_limits import PAGE_ITEMS_DEFAULT, TIMEOUT_MS_DEFAULT, TIMEOUT_MS_MAX
from node.reads import CONSISTENCIES, STALENESS_MS_MAX

Described = dict[str, Any]  # an object of OpenAPI
Routes = dict[tuple[str, str], Described]  # method and path → operation

JSON: Final = "application/json"
UUID_PATTERN: Final = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
TTL_SECONDS_MIN: Final = 0

TIME: Final = text(format="date-time")
OR_NULL_TIME: Final = {"anyOf": [TIME, {"type": "null"}]}
REVISION: Final = integer(0, INTEGER_MAX)
VERSION: Final = integer(1, INTEGER_MAX)
ENCODING: Final = one_of(("utf-8", "base64"))
TIMEOUT: Final = integer(1, TIMEOUT_MS_MAX, default=TIMEOUT_MS_DEFAULT)
UUID: Final = text(pattern=UUID_PATTERN)

# Codes that a route may answer whatever it does, and those of kinds of routes.
ANY_CODES: Final = (
    "INVALID_ARGUMENT", "UNKNOWN_PARAMETER", "UNAUTHENTICATED", "INTERNAL", "OVERLOADED",
    "STOPPING", "WRONG_CLUSTER",
)  # fmt: skip
READ_CODES: Final = ("QUORUM_NOT_REACHED", "STALE", "REPLICA_QUARANTINED", "DEADLINE_EXCEEDED")
WRITE_CODES: Final = (
    "QUORUM_NOT_REACHED", "OUTCOME_UNKNOWN", "REPLICA_QUARANTINED", "DEADLINE_EXCEEDED",
    "DISK_FULL",
)  # fmt: skip
BODY_CODES: Final = ("MALFORMED_JSON", "BODY_TOO_LARGE", "DEADLINE_EXCEEDED")
_ERROR: Final = "#/components/schemas/Error"


def name_schemas(limits: Limits) -> dict[str, Schema]:
    """What names may be."""
    return {
        "namespace": text(
            limits.namespace_bytes_max, 1, pattern=f"^{NAME_PATTERN}$", description="not . or .."
        ),
        "session": text(
            limits.session_bytes_max, 1, description="UTF-8 without control characters"
        ),
        "key": text(limits.key_bytes_max, 1, description="any UTF-8; a slash is part of the key"),
        "collection": text(COLLECTION_BYTES_MAX, 1, pattern=f"^{NAME_PATTERN}$"),
        "request_id": text(
            limits.request_id_bytes_max,
            1,
            pattern="^[ -~]+$",
            description="a repetition with the same id is applied once",
        ),
        "content_type": text(limits.content_type_bytes_max, pattern="^[ -~]*$"),
        "ttl_seconds": {
            "type": "number",
            "exclusiveMinimum": TTL_SECONDS_MIN,
            "maximum": limits.ttl_ms_max // 1000,
            "description": "seconds; in a query in decimals, with at most nine of them",
        },
    }


def parameters(limits: Limits) -> dict[str, Described]:
    """Every parameter that several routes take, by the name that `uses` knows it by."""
    names = name_schemas(limits)
    found = {
        name: _parameter(name, names[name], "path")
        for name in ("namespace", "session", "key", "collection")
    }
    found["id"] = _parameter("id", UUID, "path")
    queries = {
        "timeout_ms": TIMEOUT,
        "consistency": one_of(CONSISTENCIES, default=CONSISTENCIES[0]),
        "max_staleness_ms": integer(0, STALENESS_MS_MAX, description="only with consistency=stale"),
        "min_revision": REVISION,
        "limit": integer(1, PAGE_ITEMS_MAX, default=PAGE_ITEMS_DEFAULT),
        "cursor": text(least=1, description="next_cursor of the page before"),
        "if_version": integer(0, INTEGER_MAX, description="0: must not exist"),
        "request_id": names["request_id"],
        "ttl_seconds": names["ttl_seconds"],
        "prefix": text(limits.key_bytes_max),
        "values": boolean(),
        "at_revision": REVISION,
    }
    return {**found, **{name: _parameter(name, each, "query") for name, each in queries.items()}}


def query_parameter(name: str, schema: Schema, *, required: bool = False) -> Described:
    """One that only one route takes."""
    return {**_parameter(name, schema, "query"), "required": required}


def _parameter(name: str, schema: Schema, place: str) -> Described:
    return {"name": name, "in": place, "required": place == "path", "schema": schema}


def uses(*names: str) -> list[Described]:
    return [{"$ref": f"#/components/parameters/{name}"} for name in names]


READS: Final = ("consistency", "max_staleness_ms", "min_revision", "timeout_ms")


def operation(
    summary: str,
    answer: Schema | Described,
    codes: Sequence[str] = (),
    *,
    parameters: Sequence[Described] = (),
    body: Described | None = None,
    status: int = 200,
    always: Sequence[str] = ANY_CODES,
) -> Described:
    """`answer`: a schema of JSON, or a whole response (it has a `description`, and a schema
    here has none at its top)."""
    whole = answer if "description" in answer else {
        "description": "done", "content": {JSON: {"schema": answer}}
    }  # fmt: skip
    found: Described = {"summary": summary}
    if parameters:
        found["parameters"] = [*parameters]
    if body is not None:
        found["requestBody"] = body
    found["responses"] = {str(status): whole, **error_responses((*always, *codes))}
    return found


def head_of(get: Described) -> Described:
    """HEAD of a GET: the same without a body."""
    responses = {
        status: {name: part for name, part in answer.items() if name != "content"}
        for status, answer in get["responses"].items()
    }
    return {**get, "responses": responses}


def json_body(
    schema: Schema, bytes_max: int, *, required: bool = True, examples: Any = None
) -> Described:
    content: Described = {"schema": schema}
    if examples is not None:
        content["examples"] = examples
    return {
        "required": required,
        "description": f"at most {bytes_max} bytes",
        "content": {JSON: content},
    }


# --- Errors ------------------------------------------------------------------------------


def error_schema() -> Schema:
    """The one shape of errors."""
    return members({"error": _error_fields()})


def _error_fields() -> Schema:
    return members(
        {
            "code": one_of(tuple(STATUS_BY_CODE)),
            "message": text(least=1),
            "definite": boolean(description="true: the request certainly had no effect"),
            "leader": {"type": ["string", "null"], "description": "HTTP address of the leader"},
        },
        {
            "field": text(description="the input at fault, by its path"),
            "version": integer(0, description="VERSION_CONFLICT: the record's version"),
        },
    )


def error_responses(codes: Sequence[str], schema: str = _ERROR) -> dict[str, Described]:
    """By status: which codes it can be."""
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys(codes):
        by_status.setdefault(STATUS_BY_CODE[code], []).append(code)
    return {
        str(status): {
            "description": ", ".join(sorted(found)),
            "headers": _error_headers(status, found),
            "content": {JSON: {"schema": _only(sorted(found), schema)}},
        }
        for status, found in sorted(by_status.items())
    }


def _only(codes: Sequence[str], schema: str) -> Schema:
    narrowed = {"properties": {"error": {"properties": {"code": {"enum": [*codes]}}}}}
    return {"allOf": [{"$ref": schema}, narrowed]}


def _error_headers(status: int, codes: Sequence[str]) -> dict[str, Described]:
    headers: dict[str, Schema] = {"X-Hivemem-Error": one_of(sorted(codes))}
    if "OVERLOADED" in codes:
        headers["Retry-After"] = integer(0, description="seconds, with OVERLOADED")
    if status == 401:
        headers["WWW-Authenticate"] = one_of(("Bearer",))
    return {name: {"schema": schema} for name, schema in headers.items()}


def headers(**of: Schema) -> dict[str, Described]:
    """Headers of an answer; `_` in a name stands for `-`."""
    return {name.replace("_", "-"): {"schema": schema} for name, schema in of.items()}


# --- Views -------------------------------------------------------------------------------


def schema_of(kind: Any, **renamed: Schema) -> Schema:
    """What `dataclasses.asdict` makes of a dataclass (or of what its fields are), as JSON.

    `renamed`: members that are shown otherwise than the fields are typed.
    """
    if kind is Any or kind is object:
        return {}
    simple = {str: text(), int: integer(), float: {"type": "number"}, bool: boolean()}
    if kind in simple:
        return dict(simple[kind])
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return _union(arguments)
    if origin in (tuple, list) or (origin is not None and issubclass(origin, Sequence)):
        return listed(schema_of(arguments[0]))
    if origin is not None and issubclass(origin, Mapping):
        return of_any(schema_of(arguments[1]))
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return one_of([each.value for each in kind])
    hints = typing.get_type_hints(kind)
    fields = {each.name: schema_of(hints[each.name]) for each in dataclasses.fields(kind)}
    return members({**fields, **renamed})


def _union(kinds: Sequence[Any]) -> Schema:
    schemas = [{"type": "null"} if kind is types.NoneType else schema_of(kind) for kind in kinds]
    return {"anyOf": schemas}
