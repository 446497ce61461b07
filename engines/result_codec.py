"""Bytes of results: for the request-id table and for answers forwarded between nodes.

Versioned as commands are; a result that this build cannot read raises UnknownCommand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engines.codec import (
    Malformed,
    Packable,
    array,
    boolean,
    data,
    integer,
    optional,
    pack,
    text,
    unpack,
)
from engines.edits import EditResult, answer_parts, build_answer
from engines.errors import UnknownCommand
from engines.interfaces import (
    CheckpointResult,
    CollectionResult,
    ConfigureResult,
    DeleteResult,
    ExpireResult,
    GetResult,
    PutResult,
    Record,
    RejectCode,
    Rejected,
    Result,
    SweepResult,
    TxnResult,
)

VERSION = 1

# Numbers on disk are forever: never reuse one.
_PUT, _DELETE, _TXN, _EXPIRE, _CONFIGURE, _REJECTED, _GET, _EDIT, _CHECKPOINT = range(1, 10)
_COLLECTION, _SWEEP = 10, 11
_VERSION_BYTE = bytes([VERSION])

AnyResult = Result | GetResult


def encode_result(result: Result) -> bytes:
    """The result's bytes. Equal results give equal bytes."""
    return _VERSION_BYTE + pack(_parts(result))


def decode_result(data: bytes) -> Result:
    """The result that `encode_result` wrote. Raises UnknownCommand."""
    if not data or data[0] != VERSION:
        version = data[0] if data else None
        raise UnknownCommand(f"result codec version {version}; this build knows {VERSION}")
    try:
        result = _result(unpack(memoryview(data)[1:]))
    except (Malformed, TypeError, ValueError) as error:
        raise UnknownCommand(f"malformed result: {error}") from error
    if isinstance(result, GetResult):
        raise UnknownCommand("malformed result: a get outside a transaction")
    return result


def _parts(result: AnyResult) -> Packable:
    match result:
        case PutResult(version, revision):
            return (_PUT, version, revision)
        case DeleteResult(deleted, ended, revision):
            return (_DELETE, deleted, ended, revision)
        case TxnResult(succeeded, revision, results):
            return (_TXN, succeeded, revision, [_parts(one) for one in results])
        case EditResult(succeeded, revision, answers):
            return (_EDIT, succeeded, revision, [answer_parts(one) for one in answers])
        case ExpireResult(expired):
            return (_EXPIRE, expired)
        case ConfigureResult(changed):
            return (_CONFIGURE, changed)
        case CheckpointResult(log_index):
            return (_CHECKPOINT, log_index)
        case CollectionResult(answer, log_index):
            return (_COLLECTION, answer, log_index)
        case SweepResult(removed):
            return (_SWEEP, removed)
        case Rejected(code, message, conflicting, None):
            return (_REJECTED, code.value, message, conflicting)
        case Rejected(code, message, conflicting, field):
            return (_REJECTED, code.value, message, conflicting, field)
        case GetResult(record):
            return (_GET, None if record is None else record_parts(record))


def record_parts(record: Record) -> Packable:
    return (
        record.namespace, record.session, record.key, record.value, record.size,
        record.content_type, record.version, record.revision, record.created_revision,
        record.created_ms, record.updated_ms, record.expires_ms,
    )  # fmt: skip


def _result(parts: object) -> AnyResult:
    match parts:
        case (int() as kind, *fields) if kind in _BUILDERS:
            return _BUILDERS[kind](*fields)
    raise Malformed("not a result of a known kind")


def _put(version: object, revision: object) -> PutResult:
    return PutResult(integer(version), integer(revision))


def _delete(deleted: object, version: object, revision: object) -> DeleteResult:
    return DeleteResult(boolean(deleted), _optional_integer(version), integer(revision))


def _txn(succeeded: object, revision: object, results: object) -> TxnResult:
    inner: list[PutResult | DeleteResult | GetResult] = []
    for item in array(results):
        one = _result(item)
        if not isinstance(one, PutResult | DeleteResult | GetResult):
            raise Malformed("not the result of an operation")
        inner.append(one)
    return TxnResult(boolean(succeeded), integer(revision), tuple(inner))


def _edit(succeeded: object, revision: object, answers: object) -> EditResult:
    return EditResult(
        boolean(succeeded), integer(revision), tuple(map(build_answer, array(answers)))
    )


def _rejected(code: object, message: object, version: object, field: object = None) -> Rejected:
    return Rejected(
        RejectCode(text(code)), text(message), _optional_integer(version), _optional_text(field)
    )


def _collection(answer: object, log_index: object) -> CollectionResult:
    return CollectionResult(data(answer), integer(log_index))


def _get(record: object) -> GetResult:
    return GetResult(None if record is None else build_record(record))


def build_record(parts: object) -> Record:
    """The record that `record_parts` took apart. Raises Malformed."""
    if type(parts) is not tuple or tuple(map(type, parts)) not in _RECORD_TYPES:
        raise Malformed("a record has fields of the wrong number or type")
    fields: tuple[Any, ...] = parts
    return Record(*fields)


_RECORD_TYPES = frozenset(
    (str, str, bytes, value, int, str, int, int, int, int, int, expires)
    for value in (bytes, type(None))
    for expires in (int, type(None))
)


_optional_integer = optional(integer)
_optional_text = optional(text)
_BUILDERS: dict[int, Callable[..., AnyResult]] = {
    _PUT: _put,
    _DELETE: _delete,
    _TXN: _txn,
    _EDIT: _edit,
    _EXPIRE: lambda expired: ExpireResult(integer(expired)),
    _CONFIGURE: lambda changed: ConfigureResult(boolean(changed)),
    _CHECKPOINT: lambda log_index: CheckpointResult(integer(log_index)),
    _REJECTED: _rejected,
    _GET: _get,
    _COLLECTION: _collection,
    _SWEEP: lambda removed: SweepResult(integer(removed)),
}
