"""The only table from error to HTTP status and body.

Handlers raise; `as_hivemem` turns whatever was raised into a HivememError, and
`error_body` writes the one shape that every error has.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import assert_never

from cluster.errors import DiskFull, NoQuorum, NotLeader, OutcomeUnknown, Overloaded
from engines.errors import (
    Compacted,
    CorruptRecord,
    InvalidArgument,
    QueryCancelled,
    ReadersBusy,
    StoreFailed,
    UnknownFormat,
)
from engines.interfaces import RejectCode, Rejected
from node.errors import (
    BadRequest,
    CompactedError,
    Conflict,
    DeadlineExceeded,
    HivememError,
    InternalError,
    NotFound,
    OutOfSpace,
    Unavailable,
)

# Every code that crosses the API, and its status. docs/http-api.md holds the same table.
STATUS_BY_CODE: Mapping[str, int] = {
    "INVALID_ARGUMENT": 400,
    "UNKNOWN_PARAMETER": 400,
    "MALFORMED_JSON": 400,
    "INVALID_CURSOR": 400,
    "UNAUTHENTICATED": 401,
    "KEY_NOT_FOUND": 404,
    "ROUTE_NOT_FOUND": 404,
    "COLLECTION_NOT_FOUND": 404,
    "ITEM_NOT_FOUND": 404,
    "MEMBER_NOT_FOUND": 404,
    "SNAPSHOT_NOT_FOUND": 404,
    "METHOD_NOT_ALLOWED": 405,
    "VERSION_CONFLICT": 409,
    "REQUEST_ID_REUSED": 409,
    "COLLECTION_EXISTS": 409,
    "ITEM_EXISTS": 409,
    "LIMIT_EXCEEDED": 409,
    "MEMBERSHIP_CHANGE_REFUSED": 409,
    "REPAIR_REFUSED": 409,
    "NOT_PARTITIONED": 409,
    "COMPACTED": 410,
    "KEY_TOO_LARGE": 413,
    "VALUE_TOO_LARGE": 413,
    "BODY_TOO_LARGE": 413,
    "WRONG_CLUSTER": 421,
    "INTERNAL": 500,
    "QUORUM_NOT_REACHED": 503,
    "OVERLOADED": 503,
    "STALE": 503,
    "REPLICA_QUARANTINED": 503,
    "OUTCOME_UNKNOWN": 503,
    "STOPPING": 503,
    "DRAINING": 503,
    "DEADLINE_EXCEEDED": 504,
    "DISK_FULL": 507,
}

# Whoever meets one of these has to stop the node: its state is not to be served.
FATAL = (CorruptRecord, StoreFailed, UnknownFormat)

RETRY_AFTER_SECONDS = 1  # with OVERLOADED: queues drain in well under a second
_FIELD_CHARACTERS_MAX = 200  # a field's name may come from the caller

_log = logging.getLogger("hivemem.http")


def status_of(error: HivememError) -> int:
    """The status follows from the code alone, so that one code is never two statuses."""
    return STATUS_BY_CODE.get(error.code, 500)


def bad_request(field: str, message: str, code: str = "INVALID_ARGUMENT") -> BadRequest:
    """Input at fault: `field` names it, and the message repeats its name."""
    return BadRequest(
        f"{field}: {message}", code=code, field=field, status=STATUS_BY_CODE[code], definite=True
    )


def as_hivemem(error: Exception, *, writes: bool) -> HivememError:
    """The HivememError that a caller is told instead of `error`.

    `writes`: the request could have changed something. What is not expected here is a
    defect: logged with its traceback, answered without any detail.
    """
    match error:
        case HivememError():
            return error
        case InvalidArgument():
            return bad_argument(error)
        case QueryCancelled():
            return DeadlineExceeded(str(error))
        case Compacted():
            return CompactedError(str(error))
        case NotLeader() | NoQuorum():
            return Unavailable("no quorum confirmed a leader", code="QUORUM_NOT_REACHED")
        case Overloaded() | ReadersBusy():
            return Unavailable(str(error) or "a queue is full", code="OVERLOADED")
        case DiskFull():
            return OutOfSpace(str(error))
        case OutcomeUnknown():
            return Unavailable(
                "the write was proposed; whether it is applied is not known here",
                code="OUTCOME_UNKNOWN",
                definite=False,
            )
        case _:
            _log.error("unexpected error while handling a request", exc_info=error)
            return InternalError(
                "internal error; the node's log has the details", definite=not writes
            )


def bad_argument(error: InvalidArgument, path: str = "") -> HivememError:
    """An engine's refusal of input; `path` is where in the request its fields lie."""
    field = f"{path}{error.field}"
    message = str(error).removeprefix(f"{error.field}: ")
    if error.code == "COLLECTION_NOT_FOUND":
        return NotFound(message, code=error.code, field=field)
    return bad_request(field, message, error.code)


def rejection(rejected: Rejected) -> HivememError:
    """A deterministic refusal by the state machine, as the caller is told."""
    match rejected.code:
        case RejectCode.INVALID_ARGUMENT:
            return bad_request(rejected.field or "parameters", rejected.message)
        case RejectCode.COLLECTION_NOT_FOUND | RejectCode.ITEM_NOT_FOUND:
            return NotFound(rejected.message, code=rejected.code.value, field=rejected.field)
        case (
            RejectCode.VERSION_CONFLICT
            | RejectCode.REQUEST_ID_REUSED
            | RejectCode.LIMIT_EXCEEDED
            | RejectCode.COLLECTION_EXISTS
            | RejectCode.ITEM_EXISTS
        ):
            return Conflict(
                rejected.message,
                code=rejected.code.value,
                version=rejected.version,
                field=rejected.field,
                definite=True,
            )
        case RejectCode.COLLECTION_SHARDED:
            return bad_request(rejected.field or "collection", rejected.message)
        case RejectCode.COLLECTION_DROPPING:
            return Conflict(rejected.message, code="COLLECTION_EXISTS", field=rejected.field)
        case _:
            assert_never(rejected.code)


def error_fields(error: HivememError, leader: str | None) -> dict[str, object]:
    """The object under "error". `leader` stands in where the error does not name one."""
    fields: dict[str, object] = {
        "code": error.code,
        "message": error.message,
        "definite": error.definite,
        "leader": error.leader if error.leader is not None else leader,
    }
    if error.field is not None:
        fields["field"] = error.field[:_FIELD_CHARACTERS_MAX]
    if error.version is not None:
        fields["version"] = error.version
    return fields


def error_body(error: HivememError, leader: str | None, **more: object) -> bytes:
    """The JSON body of an error answer; `more` stands beside "error"."""
    # ASCII only: names in messages may hold what is not valid UTF-8.
    return json.dumps({"error": error_fields(error, leader), **more}).encode("ascii")
