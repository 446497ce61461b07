"""From what the client returns to what the MCP tools answer. Pure: no I/O.

Errors become text for an agent: what happened, whether anything was changed, what to do next.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from mcp_results import AnswerTooLarge
from mcp_schemas import (
    BackendsHealth,
    Component,
    Components,
    CoordinatorHealth,
    DistributeResult,
    GetAnswer,
    HealthAnswer,
    HistoryAnswer,
    HistoryItem,
    ListAnswer,
    ListItem,
    OptimizerHealth,
)
from mcp_values import VALUE_BYTES_MAX, Shown, ValueRefused, show
from node import client
from node.client_collections import OptimizerStatus
from node.errors import HivememError

# Beside its value an item has its own fields; with a name of a few bytes, about so much JSON.
ITEM_BYTES = 250

_RETRY = "Wait a second and call again; memory_health_check says what is wrong."
_ADVICE = {
    "INVALID_ARGUMENT": "Correct the argument and call again.",
    "INVALID_CURSOR": "Call again without a cursor to start over, with the same other arguments.",
    "KEY_TOO_LARGE": "Use a shorter key.",
    "VALUE_TOO_LARGE": "Split the value over several keys.",
    "BODY_TOO_LARGE": "Split the value over several keys.",
    "LIMIT_EXCEEDED": "Do it in smaller steps.",
    "COMPACTED": "Call history without at_revision to see which versions are still kept.",
    "UNAUTHENTICATED": "Ask the operator to start this server with a token (HIVEMEM_TOKEN).",
    "QUORUM_NOT_REACHED": _RETRY,
    "UNREACHABLE": "No node can be reached: ask the operator to start the cluster (hivemem up).",
    "OVERLOADED": "Wait a second and call again.",
    "STOPPING": "Wait a second and call again.",
    "STALE": "Wait a second and call again, or read with consistency=linearizable.",
    "DEADLINE_EXCEEDED": _RETRY,
}
_QUERY_ADVICE = _ADVICE | {
    "COLLECTION_NOT_FOUND": "database_describe lists the collections, database_collection makes "
    "one.",
    "COLLECTION_EXISTS": "Use it as it is, or choose another name.",
    "ITEM_EXISTS": "Choose another id, or use the engine's upsert or update.",
    "ITEM_NOT_FOUND": "Look for it first, or insert it.",
    "VERSION_CONFLICT": "Read it, merge your change, and retry with the version you read.",
    "REQUEST_ID_REUSED": "Give a new requestId: this one belongs to another write.",
    "INVALID_CURSOR": "Call again without a cursor to start over.",
    "VALUE_TOO_LARGE": "Split it.",
    "BODY_TOO_LARGE": "Write in several calls.",
    "STALE": "Wait a second and call again, or use requirements.consistency strong.",
    "DEADLINE_EXCEEDED": "Ask for less, or allow more time (requirements.timeout).",
}
# By the first part of the field's path.
_FIELD_ADVICE = {
    "operation": "database_describe lists the operations of every engine.",
    "parameters": "database_describe(about=the operation) shows its parameters.",
    "engine": "database_describe lists the engines.",
    "settings": "database_describe(about=the engine) shows its settings.",
}
_CHECK_FIRST = "Get the key and compare before you write again."


def error_text(error: HivememError, *, writes: bool) -> str:
    """What an agent needs to know of an error, and what it should do next."""
    said = error.message.rstrip(".")
    if error.code == "VERSION_CONFLICT" and error.version is not None:
        now = f"version {error.version}" if error.version else "absent (version 0)"
        return (
            f"VERSION_CONFLICT: nothing was changed; the record is now {now}. "
            f"Get it, merge your change, and retry with expect_version={error.version}."
        )
    if writes and not error.definite:
        return (
            f"OUTCOME_UNKNOWN: {said}. The change may or may not have been applied. {_CHECK_FIRST}"
        )
    parts = [f"{error.code}: {said}."]
    if writes:
        parts.append("Nothing was changed.")
    parts.append(_ADVICE.get(error.code, "If it stays so, tell the operator."))
    return " ".join(parts).replace("if_version", "expect_version")


class Refused(Exception):
    """What an agent is told instead of an answer."""


@contextlib.contextmanager
def explained(*, writes: bool) -> Iterator[None]:
    """Turn what calls of records raise into Refused, which says what to do next."""
    try:
        yield
    except HivememError as error:
        raise Refused(error_text(error, writes=writes)) from error
    except ValueRefused as error:
        raise Refused(f"INVALID_ARGUMENT: {error}. Nothing was changed.") from error
    except UnicodeEncodeError as error:
        raise Refused(
            "INVALID_ARGUMENT: a name holds half of a surrogate pair, which is no text. "
            "Nothing was changed."
        ) from error


@contextlib.contextmanager
def query_explained(*, writes: bool, repeat: str | None = None) -> Iterator[None]:
    """Turn what calls of collections raise into Refused, which says what to do next.

    `repeat`: what makes it safe to call again when the outcome of a write is not known.
    """
    try:
        yield
    except HivememError as error:
        raise Refused(query_error_text(error, writes=writes, repeat=repeat)) from error
    except AnswerTooLarge as error:
        raise Refused(f"ANSWER_TOO_LARGE: {error}.") from error
    except ValueRefused as error:
        raise Refused(f"INVALID_ARGUMENT: {error}. Nothing was changed.") from error


def query_error_text(error: HivememError, *, writes: bool, repeat: str | None) -> str:
    said = error.message.rstrip(".")
    if writes and not error.definite:
        todo = "Look before you do it again."
        if repeat is not None:
            todo = f"Call again with {repeat} and the same other arguments: it is applied once."
        return f"OUTCOME_UNKNOWN: {said}. It may or may not have been done. {todo}"
    parts = [f"{error.code}: {said}."]
    if error.code == "VERSION_CONFLICT" and error.version is not None:
        parts.append(f"The version is now {error.version}.")
    if writes:
        parts.append("Nothing was changed.")
    advice = _QUERY_ADVICE.get(error.code, "If it stays so, tell the operator.")
    if error.code == "INVALID_ARGUMENT" and error.field is not None:
        advice = _FIELD_ADVICE.get(error.field.partition(".")[0], advice)
    parts.append(advice)
    return " ".join(parts)


def value_answer(found: client.Value, offset: int) -> GetAnswer:
    shown = show(found.value, found.content_type, VALUE_BYTES_MAX, offset)
    return GetAnswer(
        found=True,
        value=shown.value,
        encoding=shown.encoding,  # type: ignore[arg-type]  # pydantic checks the literal
        content_type=found.content_type,
        version=found.version,
        revision=found.revision,
        size=shown.size,
        truncated=shown.next_offset is not None,
        next_offset=shown.next_offset,
        expires_at=rfc3339(found.expires_at) if found.expires_at else None,
        served_by=found.served_by,
    )


def shown_fields(value: bytes | None, content_type: str) -> dict[str, Any]:
    """The fields `value`, `encoding`, `truncated` of an answer; none of them without a value."""
    if value is None:
        return {}
    shown: Shown = show(value, content_type, VALUE_BYTES_MAX)
    return {
        "value": shown.value,
        "encoding": shown.encoding,
        "truncated": shown.next_offset is not None,
    }


def item_sizes(items: Sequence[client.Item | client.HistoryItem]) -> list[int]:
    """Bytes that each item takes in an answer, near enough to bound it."""
    return [
        ITEM_BYTES
        + (len(item.key.encode()) if isinstance(item, client.Item) else 0)
        + (len(item.value) if item.value is not None else 0)
        for item in items
    ]


def list_answer(page: client.Page) -> ListAnswer:
    keys = [
        ListItem(
            key=item.key,
            version=item.version,
            revision=item.revision,
            size=item.size,
            content_type=item.content_type,
            updated_at=rfc3339(item.updated_at),
            expires_at=rfc3339(item.expires_at) if item.expires_at else None,
            **shown_fields(item.value, item.content_type),
        )
        for item in page.items
    ]
    more = page.next_cursor is not None
    return ListAnswer(
        keys=keys, truncated=more, next_cursor=page.next_cursor, revision=page.revision
    )


def history_answer(page: client.HistoryPage) -> HistoryAnswer:
    items = [
        HistoryItem(
            type=item.type,
            version=item.version,
            revision=item.revision,
            time=rfc3339(item.time),
            size=item.size,
            content_type=item.content_type,
            **shown_fields(item.value, item.content_type),
        )
        for item in page.items
    ]
    return HistoryAnswer(
        items=items,
        compacted=page.compacted,
        truncated=page.next_cursor is not None,
        next_cursor=page.next_cursor,
    )


def past_answer(found: client.Value | None) -> HistoryAnswer:
    """The one version that was there at a revision; none if the key did not exist then."""
    items = []
    if found is not None:
        past = HistoryItem(
            type="put",
            version=found.version,
            revision=found.revision,
            time=None,
            size=len(found.value),
            content_type=found.content_type,
            **shown_fields(found.value, found.content_type),
        )
        items.append(past)
    return HistoryAnswer(items=items, compacted=False, truncated=False)


def distributed_read(found: client.Value | None) -> DistributeResult:
    if found is None:
        return DistributeResult(found=False)
    return DistributeResult(
        found=True,
        version=found.version,
        revision=found.revision,
        served_by=found.served_by,
        **shown_fields(found.value, found.content_type),
    )


def distributed_write(data: bytes, content_type: str, done: client.PutResult) -> DistributeResult:
    return DistributeResult(
        found=True,
        version=done.version,
        revision=done.revision,
        **shown_fields(data, content_type),
    )


def decision_id(cluster_id: str | None, revision: int | None) -> str | None:
    """Names the place in the cluster's history; None for what left no trace in it."""
    if revision is None:
        return None
    return f"{cluster_id}/{revision}" if cluster_id else str(revision)


def healthy_names(view: client.ClusterView) -> list[str]:
    return [node["name"] for node in view["nodes"] if node["healthy"]]


def optimizer_health(seen: OptimizerStatus | None, *, detailed: bool) -> OptimizerHealth:
    if seen is None:
        return OptimizerHealth(status=None)
    if not seen["enabled"]:
        return OptimizerHealth(status="not_initialized")
    executions, hits = seen["executions"], seen["cache_hits"]
    return OptimizerHealth(
        status="healthy",
        metrics={
            "executions": executions,
            "cacheHits": hits,
            "cacheHitRate": hits / executions if executions else None,
            "patterns": seen["patterns"]["count"],
            "adopted": seen["trials"]["adopted"],
        },
        details={"recommendations": seen["recommendations"], "cache": seen["cache"]}
        if detailed
        else None,
    )


def health_answer(
    view: client.ClusterView | HivememError,
    status: client.NodeStatus | None,
    tuned: OptimizerStatus | None,
    wanted: Sequence[Component],
    now: str,
    *,
    detailed: bool,
) -> HealthAnswer:
    """Assess what `/v1/cluster` said, or the error met in asking.

    `status` is the leader's, for details, `tuned` its optimizer's; None if it did not answer.
    Critical: no node answers, or no quorum serves. Degraded: a node is down. What is not known
    is null.
    """
    if isinstance(view, HivememError):
        coordinator = CoordinatorHealth(status="critical")
        backends = BackendsHealth(total=None, healthy=None)
        issues = [f"the cluster cannot be reached: {view.message}"]
        advice = [
            "Start the cluster with `hivemem up`, or check the addresses given to this server"
        ]
    else:
        coordinator, issues, advice = _assess(view)
        healthy = len(healthy_names(view))
        backends = BackendsHealth(total=len(view["nodes"]), healthy=healthy)
        if detailed:
            coordinator.details = _coordinator_details(view, status)
            backends.details = [dict(node) for node in view["nodes"]]
    named = {"coordinator", "optimizer", "backends"} if "all" in wanted else set(wanted)
    return HealthAnswer(
        overall=coordinator.status,
        timestamp=now,
        components=Components(
            coordinator=coordinator if "coordinator" in named else None,
            optimizer=optimizer_health(tuned, detailed=detailed) if "optimizer" in named else None,
            backends=backends if "backends" in named else None,
        ),
        issues=issues,
        recommendations=advice,
    )


def _assess(view: client.ClusterView) -> tuple[CoordinatorHealth, list[str], list[str]]:
    nodes = view["nodes"]
    down = [node for node in nodes if not node["healthy"]]
    quorum = len(nodes) // 2 + 1
    issues = [
        f"node {node['name']} {'knows no leader' if _answers(node) else 'does not answer'}"
        for node in down
    ]
    advice = [
        f"Look into the log of {node['name']} if it stays so"
        if _answers(node)
        else f"Start {node['name']} again, or look into its log"
        for node in down
    ]
    leader = next((node for node in nodes if node["id"] == view["leader"]), None)
    if len(nodes) - len(down) < quorum:
        answering = sum(map(_answers, nodes))
        issues.insert(
            0,
            f"no quorum: {answering} of {len(nodes)} nodes answer, {len(nodes) - len(down)} of "
            "them with a leader",
        )
        return CoordinatorHealth(status="critical"), issues, advice
    if leader is None or not leader["healthy"]:
        issues.insert(0, "no leader is known")
        advice.insert(0, "Wait for the election, a second or two, and check again")
        return CoordinatorHealth(status="critical"), issues, advice
    return CoordinatorHealth(status="degraded" if down else "healthy"), issues, advice


def _answers(node: client.NodeView) -> bool:
    return node["role"] is not None


def _coordinator_details(
    view: client.ClusterView, status: client.NodeStatus | None
) -> dict[str, object]:
    details: dict[str, object] = {
        "clusterId": view["cluster_id"],
        "leader": view["leader"],
        "term": view["term"],
    }
    if status is None:
        return details
    return details | {
        "revision": status["revision"],
        "keys": status["keys"],
        "commitIndex": status["commit_index"],
        "appliedIndex": status["applied_index"],
        "durability": dict(status["durability"]),
    }


def brief_text(fields: dict[str, Any]) -> str:
    """An answer as compact JSON, without what is null; a stored null stays."""
    return json.dumps(_brief(fields), ensure_ascii=False, separators=(",", ":"))


def _brief(fields: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, item in fields.items():
        if _is_verbatim(name, fields):
            kept[name] = item  # as stored, with all nulls in it
        elif isinstance(item, str | int | float):
            kept[name] = item
        elif isinstance(item, dict):
            kept[name] = _brief(item)
        elif isinstance(item, list):
            kept[name] = [_brief(each) if isinstance(each, dict) else each for each in item]
    return kept


def _is_verbatim(name: str, fields: dict[str, Any]) -> bool:
    if name == "value":
        return fields.get("encoding") is not None
    if name == "result":
        return "logIndex" in fields  # of a query; other results are our own fields
    return name in _VERBATIM and fields[name] is not None


_VERBATIM = frozenset(
    {"details", "metadata", "settings", "settings_schema", "settings_example"}
    | {"parameters_schema", "parameters_example", "result_schema"}
)


def rfc3339(moment: datetime) -> str:
    """An aware UTC time, to the millisecond."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
