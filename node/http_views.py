"""Encoding of answers: what `docs/http-api.md` shows, field by field.

Times are RFC 3339 in UTC with milliseconds. A value is text where it reads as text, and
base64 otherwise; `encoding` says which, so that every byte comes back.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from engines.command import Txn, TxnDelete, TxnGet, TxnPut
from engines.interfaces import (
    Change,
    ChangeId,
    ChangeKind,
    DeleteResult,
    GetResult,
    HistoryPage,
    PutResult,
    Record,
    TxnResult,
)
from node.errors import HivememError
from node.forget import Forgotten
from node.http_errors import error_fields, status_of
from node.json_codec import dumps
from node.members import MembersView
from node.partition_service import PartitionsView
from node.service import BatchOutcome
from node.views import ClusterView, StatusView

Json = dict[str, object]

_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]").search
_KINDS = {ChangeKind.PUT: "put", ChangeKind.DELETE: "delete", ChangeKind.EXPIRE: "expire"}


def dump(value: Json, *, finite: bool = False) -> bytes:
    """Compact JSON; text stays as it is. `finite`: every number in it is known to be one."""
    return dumps(value, finite=finite)


def rfc3339(ms: int | None) -> str | None:
    """UTC milliseconds as `2026-02-03T04:05:06.007Z`; None stays None."""
    if ms is None:
        return None
    seconds, rest = divmod(ms, 1000)  # whole numbers: a float would round the milliseconds
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:03d}Z"


def value_fields(value: bytes | None) -> Json:
    """`value` and `encoding`; both null where there is no value."""
    if value is None:
        return {"value": None, "encoding": None}
    try:
        # JSON writes a control character with six: what holds them is shown as bytes, so
        # that an answer is never more than twice its values.
        if _CONTROL(value) is None:
            return {"value": value.decode("utf-8"), "encoding": "utf-8"}
    except UnicodeDecodeError:
        pass
    return {"value": base64.b64encode(value).decode("ascii"), "encoding": "base64"}


def put(result: PutResult) -> Json:
    return {"version": result.version, "revision": result.revision}


def delete(result: DeleteResult) -> Json:
    return {"deleted": result.deleted, "version": result.version, "revision": result.revision}


def forgotten(done: Forgotten) -> Json:
    return done._asdict()


def item(record: Record, *, values: bool) -> Json:
    fields: Json = {
        "key": record.key.decode("utf-8"),
        "version": record.version,
        "revision": record.revision,
        "created_revision": record.created_revision,
        "content_type": record.content_type,
        "size": record.size,
        "created_at": rfc3339(record.created_ms),
        "updated_at": rfc3339(record.updated_ms),
        "expires_at": rfc3339(record.expires_ms),
    }
    if values:
        fields.update(value_fields(record.value))
    return fields


def page(items: Sequence[Json], next_cursor: str | None, revision: int) -> Json:
    return {"items": list(items), "next_cursor": next_cursor, "revision": revision}


def history(found: HistoryPage, next_cursor: str | None, revision: int, *, values: bool) -> Json:
    return {
        "items": [_history_item(change, values=values) for change in found.changes],
        "next_cursor": next_cursor,
        "compacted": found.compacted,
        "revision": revision,
    }


def _history_item(change: Change, *, values: bool) -> Json:
    fields: Json = {
        "type": _KINDS[change.kind],
        "version": change.version,
        "revision": change.id.revision,
        "time": rfc3339(change.time_ms),
        "size": change.size,
        "content_type": change.content_type,
    }
    if values:
        fields.update(value_fields(change.value))
    return fields


def txn(command: Txn, result: TxnResult) -> Json:
    branch = command.then if result.succeeded else command.otherwise
    results: list[Json] = []
    for op, outcome in zip(branch, result.results, strict=True):
        key = op.key.decode("utf-8")
        match op, outcome:
            case TxnPut(), PutResult():
                results.append({"op": "put", "key": key, **put(outcome)})
            case TxnDelete(), DeleteResult():
                results.append(
                    {
                        "op": "delete",
                        "key": key,
                        "deleted": outcome.deleted,
                        "version": outcome.version,
                    }
                )
            case TxnGet(), GetResult(record=None):
                results.append({"op": "get", "key": key, "found": False})
            case TxnGet(), GetResult(record=Record() as record):
                results.append({"op": "get", "found": True, **item(record, values=True)})
            case _:
                raise TypeError(f"a {type(outcome).__name__} answers a {type(op).__name__}")
    return {"succeeded": result.succeeded, "revision": result.revision, "results": results}


def batch(outcomes: Sequence[BatchOutcome], leader: str | None) -> Json:
    return {"results": [_batch_result(outcome, leader) for outcome in outcomes]}


def _batch_result(outcome: BatchOutcome, leader: str | None) -> Json:
    match outcome:
        case PutResult():
            return {"status": 200, **put(outcome)}
        case DeleteResult():
            return {"status": 200, **delete(outcome)}
        case Record():
            return {"status": 200, **item(outcome, values=True)}
        case HivememError():
            return {"status": status_of(outcome), "error": error_fields(outcome, leader)}


def event_id(change: ChangeId) -> str:
    return f"{change.revision}.{change.sub}"


def event(change: Change, *, values: bool) -> bytes:
    """One Server-Sent Event."""
    kind = _KINDS[change.kind]
    fields: Json = {
        "type": kind,
        "namespace": change.namespace,
        "session": change.session,
        "key": change.key.decode("utf-8"),
        "version": change.version,
        "revision": change.id.revision,
        "time": rfc3339(change.time_ms),
        "expires_at": rfc3339(change.expires_ms),
        "content_type": change.content_type,
        "size": change.size,
    }
    if values:
        fields.update(value_fields(change.value))
    return sse(kind, fields, event_id(change.id))


def under_id(frame: bytes, identity: str) -> bytes:
    """An event that `event` encoded, under another id."""
    kind = frame.index(b"\n")
    rest = frame.index(b"\n", kind + 1)
    return b"".join((frame[:kind], b"\nid: ", identity.encode("ascii"), memoryview(frame)[rest:]))


def sse(kind: str, fields: Json, identity: str | None = None) -> bytes:
    """A Server-Sent Event; JSON never holds a raw line break, so one data line is enough."""
    head = f"event: {kind}\n" if identity is None else f"event: {kind}\nid: {identity}\n"
    return head.encode("ascii") + b"data: " + dump(fields) + b"\n\n"


def status(view: StatusView) -> Json:
    fields: Json = asdict(view)
    started_at_ms = fields.pop("started_at_ms")
    assert isinstance(started_at_ms, int)
    # In the order of the documentation: `started_at` stands beside the uptime.
    ordered: Json = {}
    for name, value in fields.items():
        ordered[name] = value
        if name == "uptime_seconds":
            ordered["started_at"] = rfc3339(started_at_ms)
    return ordered


def cluster(view: ClusterView) -> Json:
    return asdict(view)


def partitions(view: PartitionsView) -> Json:
    return asdict(view)


def members(view: MembersView) -> Json:
    """Without the incarnations: they are the cluster's own business."""
    shown: list[Json] = [
        {
            "id": member.id,
            "name": member.name,
            "role": "voter" if member.voter else "learner",
            "peer": member.peer,
            "http": member.http,
        }
        for member in view.members
    ]
    return {"configuration_index": view.index, "leader": view.leader, "members": shown}
