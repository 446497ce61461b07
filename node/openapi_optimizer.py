"""What a node's optimizer shows of itself, as OpenAPI describes it."""

from __future__ import annotations

from engines.schema import (
    COUNT,
    Schema,
    boolean,
    integer,
    listed,
    members,
    number,
    of_any,
    one_of,
    or_null,
    text,
)
from node.openapi_shapes import Routes, operation, uses
from node.recommendations import RECOMMENDATIONS_MAX
from node.trials import State

_FIGURE = or_null(number(0))
_SAMPLES = members({"control": COUNT, "candidate": COUNT})
_VERDICT = members(
    {
        "candidate": text(),
        "outcome": text(),
        "control_ms": _FIGURE,
        "candidate_ms": _FIGURE,
        "samples": _SAMPLES,
        "z": or_null(number()),
        "executions": COUNT,
    }
)
_TRIAL = members(
    {
        "point": text(),
        "state": one_of([each.value for each in State]),
        "control": or_null(text()),
        "alternatives": listed(text()),
        "candidate": or_null(text()),
        "adopted": or_null(text()),
        "executions": COUNT,
        "samples": _SAMPLES,
        "history": listed(_VERDICT),
    }
)
_WIDTH = members(
    {
        "doublings": COUNT,
        "recall": or_null(number(0, 1)),
        "recall_min": number(0, 1),
        "samples": COUNT,
        "exact_seconds": number(0),
        "search_seconds": number(0),
        "history": listed(
            members({"width": integer(1), "recall": number(0, 1), "following": integer(1)})
        ),
    }
)
PATTERN: Schema = members(
    {
        "namespace": text(),
        "collection": text(),
        "operation": text(),
        "shape": text(),
        "executions": COUNT,
        "cache_hits": COUNT,
        "computed": COUNT,
        "failures": COUNT,
        "latency_ms": members({"mean": _FIGURE, "p50": _FIGURE, "p99": _FIGURE}),
        "total_seconds": number(0),
        "examined": or_null(COUNT),
        "returned": or_null(COUNT),
        "indexes": of_any(description="{name of an index: executions that it served}"),
        "last_used_ms": or_null(COUNT),
        "trials": listed(_TRIAL),
        "width": or_null(_WIDTH),
    }
)
_CACHE = members(
    {
        "group": COUNT,
        "hits": COUNT,
        "misses": COUNT,
        "hit_rate": or_null(number(0, 1)),
        "evictions": COUNT,
        "entries": COUNT,
        "bytes": COUNT,
        "bytes_max": COUNT,
    }
)
_RECOMMENDATION = members(
    {
        "type": text(),
        "description": text(),
        "priority": one_of(("high", "medium", "low")),
        "evidence": of_any(),
    }
)


def routes() -> Routes:
    answer = members(
        {
            "node": or_null(text()),
            "enabled": boolean(),
            "since_ms": COUNT,
            "patterns": members({"count": COUNT, "max": COUNT, "forgotten": COUNT}),
            "executions": COUNT,
            "cache_hits": COUNT,
            "trials": members(
                {"trying": COUNT, "adopted": COUNT, "rolled_back": COUNT, "rejected": COUNT}
            ),
            "cache": listed(_CACHE),
            "recommendations": listed(_RECOMMENDATION, RECOMMENDATIONS_MAX),
            "items": listed(PATTERN),
        }
    )
    return {
        ("GET", "/v1/optimizer"): operation(
            "What the optimizer of the node that answers has seen and done",
            answer,
            parameters=uses("limit"),
        )
    }
