"""What a node says of itself and its cluster, as OpenAPI describes it."""

from __future__ import annotations

from engines.interfaces import Limits
from engines.schema import Schema, boolean, listed, members, text
from node.openapi_shapes import (
    ANY_CODES,
    JSON,
    TIME,
    Described,
    Routes,
    error_responses,
    head_of,
    headers,
    operation,
    query_parameter,
    schema_of,
    uses,
)
from node.views import ClusterView, StatusView

_OPEN_CODES = ("INVALID_ARGUMENT", "UNKNOWN_PARAMETER", "INTERNAL")
_UNREADY_CODES = (
    "QUORUM_NOT_REACHED", "STALE", "STOPPING", "DISK_FULL", "REPLICA_QUARANTINED",
)  # fmt: skip
CHECK: Schema = members({"name": text(), "ok": boolean(), "message": text()})


def routes(limits: Limits) -> Routes:
    live = operation(
        "Is the process there?", members({"live": {"const": True}}), always=_OPEN_CODES
    )
    ready = _ready()
    return {
        ("GET", "/v1/status"): operation("This node", _status()),
        ("GET", "/v1/cluster"): operation(
            "The cluster, as its nodes say", schema_of(ClusterView), parameters=uses("timeout_ms")
        ),
        ("GET", "/livez"): live,
        ("HEAD", "/livez"): head_of(live),
        ("GET", "/readyz"): ready,
        ("HEAD", "/readyz"): head_of(ready),
        ("GET", "/metrics"): operation(
            "Prometheus text",
            {"description": "the metrics", "content": {"text/plain": {"schema": text()}}},
            always=tuple(code for code in ANY_CODES if code != "OVERLOADED"),
        ),
        ("GET", "/openapi.json"): operation(
            "This document",
            {
                "description": "OpenAPI 3.1",
                "headers": headers(ETag=text()),
                "content": {JSON: {"schema": {"type": "object"}}},
            },
        ),
    }


def _status() -> Schema:
    schema = schema_of(StatusView)
    properties = dict(schema["properties"])
    del properties["started_at_ms"]
    return members({**properties, "started_at": TIME})


def _ready() -> Described:
    found = operation(
        "Does the node take traffic?",
        members({"ready": {"const": True}}, {"checks": listed(CHECK)}),
        parameters=[query_parameter("verbose", {"enum": ["", "true", "false"]})],
        always=(),
    )
    found["responses"] |= error_responses(
        (*_OPEN_CODES, *_UNREADY_CODES), "#/components/schemas/Unready"
    )
    return found
