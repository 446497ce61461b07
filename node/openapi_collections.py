"""Collections and queries, as OpenAPI describes them: each operation of each engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from engines.catalog import SHARDS_MAX
from engines.engine import Kind
from engines.interfaces import INTEGER_MAX, Limits
from engines.registry import Registry
from engines.schema import (
    ANY,
    Operation,
    Schema,
    boolean,
    integer,
    listed,
    members,
    of_any,
    one_of,
    or_null,
    text,
)
from engines.schemas import SCHEMAS
from node.http_collections import DEFAULT_NAMESPACE, NAMES_MAX
from node.http_limits import JSON_BODY_BYTES_MAX
from node.openapi_shapes import (
    BODY_CODES,
    READ_CODES,
    READS,
    TIME,
    TIMEOUT,
    WRITE_CODES,
    Described,
    Routes,
    json_body,
    name_schemas,
    operation,
    query_parameter,
    uses,
)
from node.reads import CONSISTENCIES, PRIORITIES, STALENESS_MS_MAX, Priority
from node.replica_choice import Breaker, LoadBalancing

_COLLECTIONS = "/v1/collections"
_COLLECTION = f"{_COLLECTIONS}/{{namespace}}/{{collection}}"
_CHANGE_CODES = (
    "COLLECTION_NOT_FOUND", "REQUEST_ID_REUSED", "LIMIT_EXCEEDED", "ITEM_EXISTS",
    "BODY_TOO_LARGE", *WRITE_CODES,
)  # fmt: skip
_QUERY_CODES = (
    "ITEM_NOT_FOUND", "ITEM_EXISTS", "VERSION_CONFLICT", "VALUE_TOO_LARGE", "INVALID_CURSOR",
    *_CHANGE_CODES, *READ_CODES, *BODY_CODES,
)  # fmt: skip
_INFO = members(
    {
        "namespace": text(),
        "name": text(),
        "engine": text(),
        "settings": of_any(),
        "items": integer(0),
        "item_bytes": integer(0),
        "created_at": TIME,
        "written_index": integer(0),
        "shards": integer(1, SHARDS_MAX),
    }
)


class Queries(NamedTuple):
    """Schemas of requests and of answers, by name, and examples of requests."""

    schemas: dict[str, Schema]
    request: Schema
    answer: Schema
    examples: dict[str, Described]


def routes(limits: Limits, registry: Registry, queries: Queries) -> Routes:
    names = name_schemas(limits)
    return {
        ("GET", "/v1/engines"): operation("The engines of this node", _engines()),
        ("GET", _COLLECTIONS): operation(
            "List a namespace's collections",
            members({"items": listed(_INFO), "next_cursor": or_null(text())}),
            ("INVALID_CURSOR", *READ_CODES),
            parameters=[
                query_parameter("namespace", _namespace(limits)),
                *uses("limit", "cursor", *READS),
            ],
        ),
        ("POST", _COLLECTIONS): _create(limits, registry),
        ("GET", _COLLECTION): operation(
            "One collection",
            _INFO,
            ("COLLECTION_NOT_FOUND", *READ_CODES),
            parameters=uses("namespace", "collection", *READS),
        ),
        ("PATCH", _COLLECTION): operation(
            "Change settings",
            members({"altered": {"type": "boolean"}, "settings": of_any()}),
            (*_CHANGE_CODES, *BODY_CODES),
            parameters=uses("namespace", "collection"),
            body=json_body(
                members(
                    {},
                    {
                        "settings": of_any(),
                        "request_id": names["request_id"],
                        "timeout_ms": TIMEOUT,
                    },
                ),
                JSON_BODY_BYTES_MAX,
            ),
        ),
        ("DELETE", _COLLECTION): operation(
            "Remove a collection and all that it holds",
            members({"dropped": {"type": "boolean"}}),
            _CHANGE_CODES,
            parameters=uses("namespace", "collection", "request_id", "timeout_ms"),
        ),
        ("POST", "/v1/query"): operation(
            "Run one operation on a collection",
            queries.answer,
            _QUERY_CODES,
            body=json_body(queries.request, JSON_BODY_BYTES_MAX, examples=queries.examples),
        ),
        ("GET", "/v1/replicas"): operation(
            "How replicas answered this node's balanced reads", _replicas()
        ),
    }


def _namespace(limits: Limits) -> Schema:
    return {**name_schemas(limits)["namespace"], "default": DEFAULT_NAMESPACE}


def _engines() -> Schema:
    item = members(
        {
            "engine": text(),
            "aliases": listed(text()),
            "capabilities": listed(text()),
            "operations": of_any(one_of([kind.value for kind in Kind])),
        }
    )
    return members({"items": listed(item)})


def _replicas() -> Schema:
    number_or_null: Schema = {"type": ["number", "null"]}
    item = members(
        {
            "node": text(),
            "in_flight": integer(0),
            "answers": integer(0),
            "failures": integer(0),
            "latency_ms": number_or_null,
            "failure_share": number_or_null,
            "breaker": one_of([each.value for each in Breaker]),
        }
    )
    return members({"items": listed(item)})


def _create(limits: Limits, registry: Registry) -> Described:
    names = name_schemas(limits)
    common: dict[str, Schema] = {
        "namespace": _namespace(limits),
        "shards": integer(1, SHARDS_MAX, default=1),
        "request_id": names["request_id"],
        "timeout_ms": TIMEOUT,
    }
    shapes, examples = [], {}
    for name, engine in registry.engines.items():
        described = SCHEMAS.get(name)
        settings = of_any() if described is None else described.settings
        own: dict[str, Schema] = {
            "name": names["collection"],
            "engine": one_of((name, *engine.aliases)),
        }
        # Settings are given where the engine requires some.
        needed = {"settings": settings} if settings.get("required") else {}
        shapes.append(members({**own, **needed}, {"settings": settings, **common}))
        value = {"name": name, "engine": name}
        if described is not None and described.example:
            value["settings"] = described.example  # type: ignore[assignment]
        examples[name] = {"value": value}
    return operation(
        "Make a collection",
        members(
            {"created": {"const": True}, "engine": text(), "settings": of_any()},
            {"shards": integer(2, SHARDS_MAX)},
        ),
        (
            "COLLECTION_EXISTS",
            *(code for code in _CHANGE_CODES if code != "COLLECTION_NOT_FOUND"),
            *BODY_CODES,
        ),
        body=json_body({"oneOf": shapes}, JSON_BODY_BYTES_MAX, examples=examples),
        status=201,
    )


def queries(limits: Limits, registry: Registry) -> Queries:
    """A schema for each operation's request and answer, told apart by `operation`."""
    schemas: dict[str, Schema] = {"Requirements": _requirements(), "Routing": _routing()}
    examples: dict[str, Described] = {}
    asked, answered = {}, {}
    others = []
    for engine_name, engine in registry.engines.items():
        described = SCHEMAS.get(engine_name)
        if described is None:
            others += [*engine.operations]
            continue
        for name, each in described.operations.items():
            kind = engine.operations[name]
            asked[name], answered[name] = f"query.{name}", f"answer.{name}"
            schemas[asked[name]] = _request(limits, (name,), each, kind)
            schemas[answered[name]] = _answer((name,), (engine_name,), each.answer)
            examples[name] = {"summary": each.summary, "value": _example(engine_name, name, each)}
    if others:  # of engines from other packages, which describe nothing
        plain = Operation("", of_any(), ANY, {})
        for name in others:
            asked[name], answered[name] = "query.other", "answer.other"
        schemas["query.other"] = _request(limits, others, plain, None)
        schemas["answer.other"] = _answer(others, None, ANY)
    return Queries(schemas, _told_apart(asked), _told_apart(answered), examples)


def _request(limits: Limits, names: Any, each: Operation, kind: Kind | None) -> Schema:
    own = name_schemas(limits)
    optional: dict[str, Schema] = {
        "namespace": _namespace(limits),
        "requirements": {"$ref": "#/components/schemas/Requirements"},
        "timeout_ms": TIMEOUT,
    }
    parameters = {"parameters": each.parameters}
    if kind is not Kind.READ and kind is not Kind.STATUS:
        optional["request_id"] = own["request_id"]
    if kind is not Kind.WRITE:
        optional["routing"] = {"$ref": "#/components/schemas/Routing"}
        optional["explain"] = boolean(default=False)
    needed: dict[str, Schema] = {"operation": one_of(names), "collection": own["collection"]}
    # What can be left out whole, since nothing in it is required.
    takes_none = not ({"required", "oneOf", "anyOf", "allOf"} & each.parameters.keys())
    if takes_none:
        optional |= parameters
    else:
        needed |= parameters
    more: dict[str, Any] = {"description": each.summary} if each.summary else {}
    if kind is not None:
        more["x-kind"] = kind.value
    return members(needed, optional, **more)


def _requirements() -> Schema:
    return members(
        {},
        {
            "consistency": one_of(CONSISTENCIES, default=CONSISTENCIES[0]),
            "max_staleness_ms": integer(0, STALENESS_MS_MAX),
            "capabilities": listed(text(), NAMES_MAX),
            "priority": one_of(PRIORITIES, default=Priority.MEDIUM),
        },
    )


def _routing() -> Schema:
    return members(
        {},
        {
            "load_balancing": one_of(
                [each.value for each in LoadBalancing], default=LoadBalancing.ROUND_ROBIN.value
            ),
            "preferred": listed(text(), NAMES_MAX),
            "excluded": listed(text(), NAMES_MAX),
        },
    )


def _answer(names: Any, engines: Any, result: Schema) -> Schema:
    return members(
        {
            "operation": one_of(names),
            "namespace": text(),
            "collection": text(),
            "engine": text() if engines is None else one_of(engines),
            "result": result,
            "log_index": integer(0, INTEGER_MAX),
        },
        {"served_by": text(), "explain": of_any()},
    )


def _example(engine: str, name: str, each: Operation) -> dict[str, Any]:
    return {"operation": name, "collection": engine, "parameters": each.example}


def _told_apart(names: Mapping[str, str]) -> Schema:
    mapping = {name: f"#/components/schemas/{schema}" for name, schema in names.items()}
    return {
        "oneOf": [{"$ref": place} for place in dict.fromkeys(mapping.values())],
        "discriminator": {"propertyName": "operation", "mapping": mapping},
    }
