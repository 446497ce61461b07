"""Bytes of results: for the request-id table and for answers forwarded between nodes.

Versioned as commands are; a result that this build cannot read raises UnknownCommand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engines.codec import Malformed, Packable, pack, unpack
from engines.edits import EditResult, answer_parts, build_answer
from engines.errors import UnknownCommand
from engines.interfaces import (
    ConfigureResult,
    DeleteResult,
    ExpireResult,
    GetResult,
    PutResult,
    Record,
    RejectCode,
    Rejected,
    Result,
    TxnResult,
)

VERSION = 1

# Numbers on disk are forever: never reuse one.
_PUT, _DELETE, _TXN, _EXPIRE, _CONFIGURE, _REJECTED, _GET, _EDIT = 1, 2, 3, 4, 5, 6, 7, 8
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
        case Rejected(code, message, conflicting):
            return (_REJECTED, code.value, message, conflicting)
        case GetResult(record):
            return (_GET, None if record is None else _record_parts(record))


def _record_parts(record: Record) -> Packable:
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
    return PutResult(_int(version), _int(revision))


def _delete(deleted: object, version: object, revision: object) -> DeleteResult:
    return DeleteResult(_bool(deleted), _int_or_none(version), _int(revision))


def _txn(succeeded: object, revision: object, results: object) -> TxnResult:
    if type(results) is not tuple:
        raise Malformed("the results of a transaction are not an array")
    inner: list[PutResult | DeleteResult | GetResult] = []
    for item in results:
        one = _result(item)
        if not isinstance(one, PutResult | DeleteResult | GetResult):
            raise Malformed("not the result of an operation")
        inner.append(one)
    return TxnResult(_bool(succeeded), _int(revision), tuple(inner))


def _edit(succeeded: object, revision: object, answers: object) -> EditResult:
    if type(answers) is not tuple:
        raise Malformed("the answers of an edit are not an array")
    return EditResult(_bool(succeeded), _int(revision), tuple(map(build_answer, answers)))


def _rejected(code: object, message: object, version: object) -> Rejected:
    return Rejected(RejectCode(_str(code)), _str(message), _int_or_none(version))


def _get(record: object) -> GetResult:
    return GetResult(None if record is None else _record(record))


def _record(parts: object) -> Record:
    if type(parts) is not tuple or tuple(map(type, parts)) not in _RECORD_TYPES:
        raise Malformed("a record has fields of the wrong number or type")
    fields: tuple[Any, ...] = parts
    return Record(*fields)


_RECORD_TYPES = frozenset(
    (str, str, bytes, value, int, str, int, int, int, int, int, expires)
    for value in (bytes, type(None))
    for expires in (int, type(None))
)


def _int(value: object) -> int:
    if type(value) is not int:
        raise Malformed("not an integer")
    return value


def _int_or_none(value: object) -> int | None:
    return None if value is None else _int(value)


def _bool(value: object) -> bool:
    if type(value) is not bool:
        raise Malformed("not a boolean")
    return value


def _str(value: object) -> str:
    if type(value) is not str:
        raise Malformed("not a string")
    return value


_BUILDERS: dict[int, Callable[..., AnyResult]] = {
    _PUT: _put,
    _DELETE: _delete,
    _TXN: _txn,
    _EDIT: _edit,
    _EXPIRE: lambda expired: ExpireResult(_int(expired)),
    _CONFIGURE: lambda changed: ConfigureResult(_bool(changed)),
    _REJECTED: _rejected,
    _GET: _get,
}
