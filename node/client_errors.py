"""Errors of the API, from the wire's shape to the classes of node/errors.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast

from node.errors import (
    BadRequest,
    CompactedError,
    Conflict,
    DeadlineExceeded,
    HivememError,
    InternalError,
    MethodNotAllowed,
    NotFound,
    OutOfSpace,
    Unauthenticated,
    Unavailable,
    WrongCluster,
)

ERRORS: Mapping[int, type[HivememError]] = {
    400: BadRequest,
    401: Unauthenticated,
    404: NotFound,
    405: MethodNotAllowed,
    409: Conflict,
    410: CompactedError,
    413: BadRequest,
    421: WrongCluster,
    500: InternalError,
    503: Unavailable,
    504: DeadlineExceeded,
    507: OutOfSpace,
}


def error(status: int, body: bytes) -> HivememError:
    """The error that an answer of this status carries; also for what is not our shape."""
    try:
        return error_of(status, json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return _foreign_error(status, body)


def _foreign_error(status: int, body: bytes) -> HivememError:
    """An error that is not a node's: a proxy's, or that of another server altogether.

    It says nothing about what a node did, and its 404 nothing about a key.
    """
    shown = body[:200].decode("utf-8", "replace").strip()
    message = f"HTTP {status} that no node says: {shown}"
    if status in (502, 503, 504):
        return Unavailable(message, code="UNREACHABLE", definite=False)
    if status == 401:
        return Unauthenticated(message, definite=False)
    return InternalError(message, definite=False)


def error_of(status: int, fields: Mapping[str, object]) -> HivememError:
    kind = ERRORS.get(status, InternalError)
    return kind(
        cast(str, fields["message"]),
        code=cast(str, fields["code"]),
        definite=fields["definite"] is True,
        leader=cast("str | None", fields.get("leader")),
        field=cast("str | None", fields.get("field")),
        version=cast("int | None", fields.get("version")),
        status=status,
    )


def unexpected(reason: Exception, *, mutates: bool = False) -> InternalError:
    return InternalError(
        f"the node's answer is not what the API documents: {type(reason).__name__}: {reason}",
        definite=not mutates,
    )
