"""Keys, history, transactions, batches and watches, as OpenAPI describes them."""

from __future__ import annotations

from typing import Any

from engines.command import CompareOp, CompareTarget
from engines.interfaces import INTEGER_MAX, Limits
from engines.schema import (
    Schema,
    boolean,
    either,
    integer,
    listed,
    members,
    number,
    one_of,
    or_null,
    text,
)
from engines.session_search import HITS_DEFAULT, HITS_MAX, WEIGHT_DEFAULT, WEIGHT_MAX
from engines.text_match import MODES, QUERY_CHARACTERS_MAX
from node.http_bodies import BYTES_TYPE
from node.http_limits import (
    BATCH_OPERATIONS_MAX,
    FORGET_KEYS_DEFAULT,
    FORGET_KEYS_MAX,
    JSON_BODY_BYTES_MAX,
)
from node.openapi_shapes import (
    BODY_CODES,
    ENCODING,
    JSON,
    OR_NULL_TIME,
    READ_CODES,
    READS,
    REVISION,
    TIME,
    TIMEOUT,
    VERSION,
    WRITE_CODES,
    Described,
    Routes,
    head_of,
    headers,
    json_body,
    name_schemas,
    operation,
    query_parameter,
    uses,
)

_KEY = ("namespace", "session", "key")
_KEY_PATH = "/v1/kv/{namespace}/{session}/{key}"
_PAGE = (*READS, "limit", "cursor")
_CHANGE_CODES = ("VERSION_CONFLICT", "REQUEST_ID_REUSED", "KEY_TOO_LARGE", *WRITE_CODES)
_LIST_CODES = ("INVALID_CURSOR", *READ_CODES)
_CURSOR = or_null(text())

_PUT = members({"version": VERSION, "revision": REVISION})
_DELETED: dict[str, Schema] = {"deleted": boolean(), "version": or_null(VERSION)}
_ITEM: dict[str, Schema] = {
    "key": text(),
    "version": VERSION,
    "revision": REVISION,
    "created_revision": REVISION,
    "content_type": text(),
    "size": integer(0),
    "created_at": TIME,
    "updated_at": TIME,
    "expires_at": OR_NULL_TIME,
}
_VALUE: dict[str, Schema] = {"value": text(), "encoding": ENCODING}
_NO_VALUE: dict[str, Schema] = {"value": or_null(text()), "encoding": or_null(ENCODING)}
_KIND = one_of(("put", "delete", "expire"))
_EVENT = members(
    {
        "type": _KIND,
        "namespace": text(),
        "session": text(),
        "key": text(),
        "version": VERSION,
        "revision": REVISION,
        "time": TIME,
        "expires_at": OR_NULL_TIME,
        "content_type": or_null(text()),
        "size": integer(0),
    },
    _NO_VALUE,
)
_RECORD: Described = {
    "description": "the value, byte for byte, with the content type it was stored with",
    "headers": headers(
        ETag=text(description="the version in quotes"),
        X_Hivemem_Version=VERSION,
        X_Hivemem_Revision=REVISION,
        X_Hivemem_Served_By=text(description="name of the node"),
        X_Hivemem_Expires_At=TIME,
    ),
    "content": {"*/*": {}},
}


def routes(limits: Limits) -> Routes:
    get = operation(
        "Read a key",
        _RECORD,
        ("KEY_NOT_FOUND", "KEY_TOO_LARGE", *READ_CODES),
        parameters=uses(*_KEY, *READS),
    )
    return {
        ("PUT", _KEY_PATH): operation(
            "Store a value",
            _PUT,
            ("VALUE_TOO_LARGE", *_CHANGE_CODES),
            parameters=uses(*_KEY, "ttl_seconds", "if_version", "request_id", "timeout_ms"),
            body={
                "required": False,
                "description": f"the value, at most {limits.value_bytes_max} bytes",
                "content": {"*/*": {}, BYTES_TYPE: {}},
            },
        ),
        ("GET", _KEY_PATH): get,
        ("HEAD", _KEY_PATH): head_of(get),
        ("DELETE", _KEY_PATH): operation(
            "Delete a key",
            members({**_DELETED, "revision": REVISION}),
            _CHANGE_CODES,
            parameters=uses(*_KEY, "if_version", "request_id", "timeout_ms"),
        ),
        ("DELETE", "/v1/kv/{namespace}/{session}"): _forget(limits),
        **_listings(),
        ("GET", "/v1/history/{namespace}/{session}/{key}"): _history(),
        ("GET", "/v1/search/{namespace}/{session}"): _search(),
        ("POST", "/v1/txn"): _txn(limits),
        ("POST", "/v1/batch"): _batch(limits),
        ("GET", "/v1/watch"): _watch(limits),
    }


def _forget(limits: Limits) -> Described:
    count = integer(0, FORGET_KEYS_MAX)
    return operation(
        "Delete a session's keys, in steps",
        members({"deleted": count, "kept": integer(0), "more": boolean(), "revision": REVISION}),
        ("KEY_TOO_LARGE", *WRITE_CODES),
        parameters=[
            *uses("namespace", "session"),
            query_parameter("prefix", text(limits.key_bytes_max, 1)),
            query_parameter("limit", integer(1, FORGET_KEYS_MAX, default=FORGET_KEYS_DEFAULT)),
            query_parameter(
                "max_revision",
                integer(0, INTEGER_MAX, description="keys that changed after it are kept"),
            ),
            *uses("timeout_ms"),
        ],
    )


def _listings() -> Routes:
    def listing(summary: str, item: Schema, *names: str, more: tuple[str, ...] = ()) -> Described:
        return operation(
            summary,
            members({"items": listed(item), "next_cursor": _CURSOR, "revision": REVISION}),
            (*_LIST_CODES, *(("KEY_TOO_LARGE",) if more else ())),
            parameters=uses(*names, *more, *_PAGE),
        )

    return {
        ("GET", "/v1/kv/{namespace}/{session}"): listing(
            "List a session's keys, in byte order",
            members(_ITEM, _VALUE),
            "namespace",
            "session",
            more=("prefix", "values"),
        ),
        ("GET", "/v1/kv/{namespace}"): listing(
            "List a namespace's sessions", members({"session": text()}), "namespace"
        ),
        ("GET", "/v1/kv"): listing(
            "List the namespaces that hold keys or collections", members({"namespace": text()})
        ),
    }


def _search() -> Described:
    weight = number(0, WEIGHT_MAX, default=WEIGHT_DEFAULT, description="with at most nine decimals")
    item = members({**_ITEM, "score": number()}, {**_VALUE, "snippet": text()})
    return operation(
        "Find a session's records by words of their keys and values",
        members({"items": listed(item, HITS_MAX), "more": boolean(), "revision": REVISION}),
        ("KEY_TOO_LARGE", *READ_CODES),
        parameters=[
            *uses("namespace", "session"),
            query_parameter(
                "query",
                text(
                    QUERY_CHARACTERS_MAX,
                    1,
                    description='words, "phrases", prefix* and -words; at least one word',
                ),
                required=True,
            ),
            query_parameter("mode", one_of(MODES, default=MODES[0])),
            *uses("prefix"),
            query_parameter("limit", integer(1, HITS_MAX, default=HITS_DEFAULT)),
            *uses("values"),
            query_parameter("snippets", boolean()),
            query_parameter("key_weight", weight),
            query_parameter("value_weight", weight),
            *uses(*READS),
        ],
    )


def _history() -> Described:
    change = members(
        {
            "type": _KIND,
            "version": VERSION,
            "revision": REVISION,
            "time": TIME,
            "size": integer(0),
            "content_type": or_null(text()),
        },
        _NO_VALUE,
    )
    page = members(
        {
            "items": listed(change),
            "next_cursor": _CURSOR,
            "compacted": boolean(),
            "revision": REVISION,
        }
    )
    answer: Described = {
        "description": "the retained changes, newest first; with at_revision the value of then",
        "headers": {
            name: {**header, "required": False} for name, header in _RECORD["headers"].items()
        },
        # The value of then may be JSON as well, of any kind.
        "content": {JSON: {"schema": either(page, {})}, "*/*": {}},
    }
    return operation(
        "Read a key's history, or its past",
        answer,
        ("KEY_NOT_FOUND", "KEY_TOO_LARGE", "COMPACTED", *_LIST_CODES),
        parameters=uses(*_KEY, "values", "at_revision", *_PAGE),
    )


def _put_fields(limits: Limits) -> tuple[dict[str, Schema], dict[str, Schema]]:
    names = name_schemas(limits)
    return {"value": text()}, {
        "encoding": ENCODING,
        "content_type": names["content_type"],
        "ttl_seconds": names["ttl_seconds"],
    }


def _txn(limits: Limits) -> Described:
    names = name_schemas(limits)
    key = {"key": names["key"]}
    value, options = _put_fields(limits)
    compare = members(
        {
            **key,
            "target": one_of([each.value for each in CompareTarget]),
            "op": one_of([each.value for each in CompareOp]),
            "value": {"type": ["integer", "string", "boolean"]},
        },
        {"encoding": ENCODING},
    )
    branch = listed(
        either(
            members({"op": one_of(("put",)), **key, **value}, options),
            members({"op": one_of(("delete", "get")), **key}),
        ),
        limits.txn_ops_max,
    )
    body = members(
        {"namespace": names["namespace"], "session": names["session"]},
        {
            "compare": listed(compare, limits.txn_ops_max),
            "then": branch,
            "else": branch,
            "request_id": names["request_id"],
            "timeout_ms": TIMEOUT,
        },
    )
    done = either(
        members({"op": one_of(("put",)), "key": text(), "version": VERSION, "revision": REVISION}),
        members({"op": one_of(("delete",)), "key": text(), **_DELETED}),
        members({"op": one_of(("get",)), "key": text(), "found": {"const": False}}),
        members({"op": one_of(("get",)), "found": {"const": True}, **_ITEM, **_VALUE}),
    )
    return operation(
        "Compare and write within a session, all or nothing",
        members({"succeeded": boolean(), "revision": REVISION, "results": listed(done)}),
        (
            "REQUEST_ID_REUSED",
            "LIMIT_EXCEEDED",
            "KEY_TOO_LARGE",
            "VALUE_TOO_LARGE",
            *BODY_CODES,
            *WRITE_CODES,
        ),
        body=json_body(
            body,
            bytes_max=JSON_BODY_BYTES_MAX,
            examples={
                "compare and set": {
                    "value": {
                        "namespace": "demo",
                        "session": "plan",
                        "compare": [{"key": "k", "target": "version", "op": "==", "value": 0}],
                        "then": [{"op": "put", "key": "k", "value": "v"}],
                        "else": [{"op": "get", "key": "k"}],
                    }
                }
            },
        ),
    )


def _batch(limits: Limits) -> Described:
    names = name_schemas(limits)
    where = {name: names[name] for name in _KEY}
    value, options = _put_fields(limits)
    conditions: dict[str, Any] = {
        "if_version": integer(0, INTEGER_MAX),
        "request_id": names["request_id"],
    }
    each = either(
        members({"op": one_of(("put",)), **where, **value}, {**options, **conditions}),
        members({"op": one_of(("delete",)), **where}, conditions),
        members({"op": one_of(("get",)), **where}),
    )
    ok = {"status": {"const": 200}}
    failed = {"$ref": "#/components/schemas/Error/properties/error"}
    result = either(
        members({**ok, "version": VERSION, "revision": REVISION}),
        members({**ok, **_DELETED, "revision": REVISION}),
        members({**ok, **_ITEM, **_VALUE}),
        members({"status": integer(400, 599), "error": failed}),
    )
    return operation(
        "Run many operations, each with its own result",
        members({"results": listed(result, BATCH_OPERATIONS_MAX)}),
        ("KEY_TOO_LARGE", "VALUE_TOO_LARGE", *BODY_CODES, *WRITE_CODES, *READ_CODES),
        body=json_body(
            members({"operations": listed(each, BATCH_OPERATIONS_MAX)}, {"timeout_ms": TIMEOUT}),
            bytes_max=JSON_BODY_BYTES_MAX,
            examples={
                "two writes": {
                    "value": {
                        "operations": [
                            {
                                "op": "put",
                                "namespace": "demo",
                                "session": "plan",
                                "key": key,
                                "value": "v",
                            }
                            for key in ("a", "b")
                        ]
                    }
                }
            },
        ),
    )


def _watch(limits: Limits) -> Described:
    names = name_schemas(limits)
    ready = members({"revision": REVISION, "served_by": text()})
    compacted = members(
        {"compacted_revision": REVISION}, {"partition": integer(0), "since": text()}
    )
    stream: Described = {
        "description": "Server-Sent Events: ready, then put, delete and expire; x-events has the "
        "data of each",
        "content": {
            "text/event-stream": {
                "schema": text(),
                "x-events": {
                    "ready": ready,
                    "put": _EVENT,
                    "delete": _EVENT,
                    "expire": _EVENT,
                    "compacted": compacted,
                },
            }
        },
    }
    last_seen = {
        "name": "Last-Event-ID",
        "in": "header",
        "required": False,
        "schema": text(description="as since, which it goes before"),
    }
    return operation(
        "Follow changes",
        stream,
        ("KEY_TOO_LARGE", "QUORUM_NOT_REACHED", "REPLICA_QUARANTINED"),
        parameters=[
            query_parameter("namespace", names["namespace"], required=True),
            query_parameter("session", names["session"]),
            *uses("prefix"),
            query_parameter("since", text(description="a revision, or an event's id")),
            *uses("values"),
            last_seen,
        ],
    )
