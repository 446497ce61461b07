"""Bodies of `/v1/txn` and `/v1/batch`, decoded into commands."""

from __future__ import annotations

from engines.command import (
    Compare,
    CompareOp,
    CompareTarget,
    Delete,
    Put,
    Txn,
    TxnDelete,
    TxnGet,
    TxnOp,
    TxnPut,
)
from engines.interfaces import Limits
from node.http_bodies import Fields, parse_object
from node.http_limits import BATCH_OPERATIONS_MAX
from node.service import BatchOperation, Get

_TXN = frozenset({"namespace", "session", "compare", "then", "else", "request_id", "timeout_ms"})
_COMPARE = frozenset({"key", "target", "op", "value"})
_COMPARE_VALUE = _COMPARE | {"encoding"}
_VALUE = frozenset({"value", "encoding", "content_type", "ttl_seconds"})
_KNOWN_IN_TXN = {
    "put": frozenset({"op", "key"}) | _VALUE,
    "delete": frozenset({"op", "key"}),
    "get": frozenset({"op", "key"}),
}
_NAMES = frozenset({"op", "namespace", "session", "key"})
_KNOWN_IN_BATCH = {
    "put": _NAMES | _VALUE | {"if_version", "request_id"},
    "delete": _NAMES | {"if_version", "request_id"},
    "get": _NAMES,
}
_OPS = tuple(_KNOWN_IN_TXN)
_TARGETS = tuple(target.value for target in CompareTarget)
_COMPARE_OPS = tuple(op.value for op in CompareOp)


def decode_txn(body: bytes, limits: Limits, now_ms: int) -> tuple[Txn, int]:
    """The transaction, stamped, and its timeout in ms. Raises: BadRequest."""
    fields = Fields(parse_object(body), "", _TXN)
    count_max = limits.txn_ops_max
    txn = Txn(
        fields.text("namespace"),
        fields.text("session"),
        tuple(
            _compare(item, f"compare[{place}]")
            for place, item in enumerate(fields.array("compare", count_max))
        ),
        _branch(fields, "then", count_max, now_ms),
        _branch(fields, "else", count_max, now_ms),
        now_ms,
        fields.optional_text("request_id"),
    )
    if not txn.compare and not txn.then and not txn.otherwise:
        fields.refuse("then", "is missing: the transaction would do nothing")
    return txn, fields.timeout_ms()


def _compare(item: object, path: str) -> Compare:
    fields = Fields(item, path, _COMPARE_VALUE)
    target = CompareTarget(fields.choice("target", _TARGETS))
    op = CompareOp(fields.choice("op", _COMPARE_OPS))
    value: int | bytes | bool
    if target is CompareTarget.VALUE:
        value = fields.data()
    else:
        if "encoding" in fields:
            fields.refuse("encoding", "is only for the target value")
        value = (
            fields.boolean("value")
            if target is CompareTarget.EXISTS
            else fields.integer("value", 0)
        )
    return Compare(fields.key(), target, op, value)


def _branch(fields: Fields, name: str, count_max: int, now_ms: int) -> tuple[TxnOp, ...]:
    return tuple(
        _txn_op(item, f"{name}[{place}]", now_ms)
        for place, item in enumerate(fields.array(name, count_max))
    )


def _txn_op(item: object, path: str, now_ms: int) -> TxnOp:
    op, fields = _operation(item, path, _KNOWN_IN_TXN)
    if op == "get":
        return TxnGet(fields.key())
    if op == "delete":
        return TxnDelete(fields.key())
    return TxnPut(
        fields.key(), fields.data(), fields.content_type(), expires_ms(fields.ttl_ms(), now_ms)
    )


def _operation(item: object, path: str, known: dict[str, frozenset[str]]) -> tuple[str, Fields]:
    """Read `op` first: which other fields are known depends on it."""
    op = Fields(item, path, known["put"]).choice("op", _OPS)
    return op, Fields(item, path, known[op])


def decode_batch(body: bytes, now_ms: int) -> tuple[list[BatchOperation], int]:
    """The operations, stamped, and the timeout in ms. Raises: BadRequest."""
    fields = Fields(parse_object(body), "", frozenset({"operations", "timeout_ms"}))
    if "operations" not in fields:
        fields.refuse("operations", "is missing")
    operations = [
        _batch_operation(item, f"operations[{place}]", now_ms)
        for place, item in enumerate(fields.array("operations", BATCH_OPERATIONS_MAX))
    ]
    return operations, fields.timeout_ms()


def _batch_operation(item: object, path: str, now_ms: int) -> BatchOperation:
    op, fields = _operation(item, path, _KNOWN_IN_BATCH)
    namespace, session, key = fields.text("namespace"), fields.text("session"), fields.key()
    if op == "get":
        return Get(namespace, session, key)
    if_version = fields.optional_integer("if_version", 0)
    request_id = fields.optional_text("request_id")
    if op == "delete":
        return Delete(namespace, session, key, now_ms, if_version, request_id)
    return Put(
        namespace,
        session,
        key,
        fields.data(),
        fields.content_type(),
        now_ms,
        expires_ms(fields.ttl_ms(), now_ms),
        if_version,
        request_id,
    )


def expires_ms(ttl_ms: int | None, now_ms: int) -> int | None:
    """The moment at which a record expires; None: never."""
    return None if ttl_ms is None else now_ms + ttl_ms
