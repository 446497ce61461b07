"""The commands of the log and their bytes.

An encoded command is one byte of codec version and a MessagePack array whose first
element is the kind. Every field's type is checked on decoding: the bytes come from
disk and from peers. A version or kind that is not known raises UnknownCommand; a
replica that skipped it would silently differ from the others from then on.

This module is the package's door for commands: the dataclasses (`mutations`), their
validation (`validation`) and the bytes of results (`result_codec`) are re-exported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import fields
from itertools import product
from types import NoneType
from typing import Any, NamedTuple

from engines.codec import Malformed, Packable, pack, unpack
from engines.edits import Edit, build_op, op_parts
from engines.errors import UnknownCommand
from engines.interfaces import DueRecord, Limits
from engines.mutations import (
    Checkpoint,
    CollectionCommand,
    Command,
    Compare,
    CompareOp,
    CompareTarget,
    Configure,
    Delete,
    Expire,
    Put,
    Sweep,
    Txn,
    TxnDelete,
    TxnGet,
    TxnOp,
    TxnPut,
)
from engines.result_codec import decode_result, encode_result
from engines.validation import (
    validate,
    validate_key,
    validate_namespace,
    validate_session,
)

__all__ = [
    "Checkpoint",
    "CollectionCommand",
    "Command",
    "Compare",
    "CompareOp",
    "CompareTarget",
    "Configure",
    "Delete",
    "DueRecord",
    "Edit",
    "Expire",
    "Put",
    "Sweep",
    "Txn",
    "TxnDelete",
    "TxnGet",
    "TxnOp",
    "TxnPut",
    "decode",
    "decode_result",
    "encode",
    "encode_result",
    "request_digest",
    "validate",
    "validate_key",
    "validate_namespace",
    "validate_session",
]

VERSION = 1
REQUEST_DIGEST_BYTES = 16

# Numbers in the log are forever: never reuse one.
_PUT, _DELETE, _TXN, _EXPIRE, _CONFIGURE, _EDIT, _CHECKPOINT = 1, 2, 3, 4, 5, 6, 7
_COLLECTION, _SWEEP = 8, 9
_OP_PUT, _OP_DELETE, _OP_GET = 1, 2, 3
_TARGETS = {
    CompareTarget.VERSION: 1,
    CompareTarget.REVISION: 2,
    CompareTarget.VALUE: 3,
    CompareTarget.EXISTS: 4,
}
_OPS = {
    CompareOp.EQ: 1,
    CompareOp.NE: 2,
    CompareOp.LT: 3,
    CompareOp.LE: 4,
    CompareOp.GT: 5,
    CompareOp.GE: 6,
}
_TARGET_OF = {number: target for target, number in _TARGETS.items()}
_OP_OF = {number: op for op, number in _OPS.items()}
_LIMIT_NAMES = tuple(sorted(field.name for field in fields(Limits)))
_VERSION_BYTE = bytes([VERSION])
_new_tuple = tuple.__new__


def encode(command: Command) -> bytes:
    """The command's bytes for the log."""
    if type(command) is Put:
        return _VERSION_BYTE + pack((_PUT, *command))
    return _VERSION_BYTE + pack(_parts(command, stamped=True))


def decode(data: bytes) -> Command:
    """The command that `encode` wrote. Raises UnknownCommand."""
    if not data or data[0] != VERSION:
        version = data[0] if data else None
        raise UnknownCommand(f"command codec version {version}; this build knows {VERSION}")
    try:
        parts = unpack(memoryview(data)[1:])
        if type(parts) is tuple and tuple(map(type, parts)) in _PUT_TYPES and parts[0] == _PUT:
            return _new_tuple(Put, parts[1:])
        if type(parts) is not tuple or not parts:
            raise Malformed("not an array that begins with a kind")
        command: Command = _build(_COMMANDS, "command", parts)
    except Malformed as error:
        raise UnknownCommand(f"malformed command: {error}") from error
    return command


def request_digest(command: Command) -> bytes:
    """Fingerprint of what the caller asked for; equal for a retry that was stamped anew.

    The stamps `now_ms` and `expires_ms` differ between tries; the time to live that
    they were made from does not. The request id is the key that this is stored under.
    """
    parts = pack(_parts(command, stamped=False))
    return hashlib.blake2b(parts, digest_size=REQUEST_DIGEST_BYTES).digest()


def _parts(command: Command, *, stamped: bool) -> Packable:
    """The array to pack. Not stamped: times count from now_ms, and no request id."""
    match command:
        case Put(ns, session, key, value, content_type, now, expires, if_version, request_id):
            epoch, request_id = (0, request_id) if stamped else (now, None)
            expires = None if expires is None else expires - epoch
            return (
                _PUT, ns, session, key, value, content_type, now - epoch, expires, if_version,
                request_id,
            )  # fmt: skip
        case Delete(ns, session, key, now, if_version, request_id):
            epoch, request_id = (0, request_id) if stamped else (now, None)
            return (_DELETE, ns, session, key, now - epoch, if_version, request_id)
        case Txn(ns, session, compare, then, otherwise, now, request_id):
            epoch, request_id = (0, request_id) if stamped else (now, None)
            branches = [[_op_parts(op, epoch) for op in branch] for branch in (then, otherwise)]
            return (_TXN, ns, session, _compares(compare), *branches, now - epoch, request_id)
        case Edit(ns, session, compare, ops, now, request_id):
            epoch, request_id = (0, request_id) if stamped else (now, None)
            edits = [op_parts(op, epoch) for op in ops]
            return (_EDIT, ns, session, _compares(compare), edits, now - epoch, request_id)
        case Expire(due, now):
            records = [(d.namespace, d.session, d.key, d.revision) for d in due]
            return (_EXPIRE, records, now)
        case Configure(limits):
            return (_CONFIGURE, [(name, getattr(limits, name)) for name in _LIMIT_NAMES])
        case Checkpoint():
            return (_CHECKPOINT,)
        case CollectionCommand(ns, collection, operation, body, now, seed, request_id):
            if not stamped:
                now, seed, request_id = 0, 0, None
            return (_COLLECTION, ns, collection, operation, body, now, seed, request_id)
        case Sweep(items_max):
            return (_SWEEP, items_max)


def _compares(compare: Sequence[Compare]) -> Packable:
    return [(c.key, _TARGETS[c.target], _OPS[c.op], c.value) for c in compare]


def _op_parts(op: TxnOp, epoch: int) -> Packable:
    match op:
        case TxnPut(key, value, content_type, expires):
            expires = None if expires is None else expires - epoch
            return (_OP_PUT, key, value, content_type, expires)
        case TxnDelete(key):
            return (_OP_DELETE, key)
        case TxnGet(key):
            return (_OP_GET, key)


class _Shape(NamedTuple):
    """How one kind of array is read: the types it may hold, and what is made of it."""

    signatures: frozenset[tuple[type, ...]]
    build: Callable[..., Any]


def _shape(build: Callable[..., Any], *elements: tuple[type, ...]) -> _Shape:
    """Every combination of the elements' types, so that checking one is one lookup.

    Types are compared exactly: a bool is not taken for an int.
    """
    return _Shape(frozenset(product((int,), *elements)), build)


def _build(shapes: dict[int, _Shape], what: str, parts: tuple[Any, ...]) -> Any:
    kind = parts[0] if parts else None
    if type(kind) is not int:
        raise Malformed(f"{what} does not begin with its kind")
    shape = shapes.get(kind)
    if shape is None:
        raise UnknownCommand(f"{what} kind {kind} is not known to this build")
    if tuple(map(type, parts)) not in shape.signatures:
        raise Malformed(f"{what} kind {kind} has fields of the wrong number or type")
    return shape.build(*parts[1:])


def _txn(
    namespace: str,
    session: str,
    compare: tuple[Any, ...],
    then: tuple[Any, ...],
    otherwise: tuple[Any, ...],
    now_ms: int,
    request_id: str | None,
) -> Txn:
    compares = tuple(_compare(item) for item in compare)
    branches = [tuple(_op(item) for item in branch) for branch in (then, otherwise)]
    return Txn(namespace, session, compares, branches[0], branches[1], now_ms, request_id)


def _edit(
    namespace: str,
    session: str,
    compare: tuple[Any, ...],
    ops: tuple[Any, ...],
    now_ms: int,
    request_id: str | None,
) -> Edit:
    compares = tuple(_compare(item) for item in compare)
    return Edit(namespace, session, compares, tuple(map(build_op, ops)), now_ms, request_id)


def _compare(item: object) -> Compare:
    match item:
        case (bytes() as key, int() as target, int() as op, int() | bytes() as value):
            if target not in _TARGET_OF or op not in _OP_OF:
                raise UnknownCommand(f"comparison {target}/{op} is not known to this build")
            return Compare(key, _TARGET_OF[target], _OP_OF[op], value)
        case _:
            raise Malformed("a comparison has fields of the wrong number or type")


def _op(item: object) -> TxnOp:
    if type(item) is not tuple:
        raise Malformed("an operation is not an array")
    op: TxnOp = _build(_OPERATIONS, "operation", item)
    return op


def _expire(due: tuple[Any, ...], now_ms: int) -> Expire:
    return Expire(tuple(_due(item) for item in due), now_ms)


def _due(item: object) -> DueRecord:
    match item:
        case (str() as namespace, str() as session, bytes() as key, int() as revision):
            return DueRecord(namespace, session, key, revision)
        case _:
            raise Malformed("a due record has fields of the wrong number or type")


def _configure(values: tuple[Any, ...]) -> Configure:
    # A limit that an older build did not know takes its default, the same on each replica.
    return Configure(Limits(**dict(_limit(item) for item in values)))


def _limit(item: object) -> tuple[str, int]:
    match item:
        case (str() as name, int() as value) if type(value) is int:
            if name not in _LIMIT_NAMES:
                raise UnknownCommand(f"limit {name} is not known to this build")
            return name, value
        case _:
            raise Malformed("a limit has fields of the wrong number or type")


_STR, _BYTES, _INT, _TUPLE = (str,), (bytes,), (int,), (tuple,)
_OPT_INT, _OPT_STR = (int, NoneType), (str, NoneType)
_COMMANDS = {
    _PUT: _shape(Put, _STR, _STR, _BYTES, _BYTES, _STR, _INT, _OPT_INT, _OPT_INT, _OPT_STR),
    _DELETE: _shape(Delete, _STR, _STR, _BYTES, _INT, _OPT_INT, _OPT_STR),
    _TXN: _shape(_txn, _STR, _STR, _TUPLE, _TUPLE, _TUPLE, _INT, _OPT_STR),
    _EDIT: _shape(_edit, _STR, _STR, _TUPLE, _TUPLE, _INT, _OPT_STR),
    _EXPIRE: _shape(_expire, _TUPLE, _INT),
    _CONFIGURE: _shape(_configure, _TUPLE),
    _CHECKPOINT: _shape(Checkpoint),
    _COLLECTION: _shape(CollectionCommand, _STR, _STR, _STR, _BYTES, _INT, _INT, _OPT_STR),
    _SWEEP: _shape(Sweep, _INT),
}
_PUT_TYPES = _COMMANDS[_PUT].signatures
_OPERATIONS = {
    _OP_PUT: _shape(TxnPut, _BYTES, _BYTES, _STR, _OPT_INT),
    _OP_DELETE: _shape(TxnDelete, _BYTES),
    _OP_GET: _shape(TxnGet, _BYTES),
}
