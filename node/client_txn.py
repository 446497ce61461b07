"""Transactions for the client: compares and operations, and their wire form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from node import client_wire as wire

Target = Literal["version", "revision", "value", "exists"]
CompareOp = Literal["==", "!=", "<", "<=", ">", ">="]


@dataclass(frozen=True, slots=True)
class Compare:
    """A condition on a key. An absent record has version and revision 0."""

    key: str
    target: Target
    op: CompareOp
    value: int | bool | str | bytes


@dataclass(frozen=True, slots=True)
class Put:
    key: str
    value: bytes | str
    content_type: str | None = None
    ttl_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    key: str


@dataclass(frozen=True, slots=True)
class Get:
    key: str


TxnOp = Put | Delete | Get


def compare_fields(compare: Compare) -> wire.Fields:
    fields: wire.Fields = {"key": compare.key, "target": compare.target, "op": compare.op}
    if isinstance(compare.value, str | bytes):
        return {**fields, **wire.encoded_value(compare.value)}
    return {**fields, "value": compare.value}


def op_fields(op: TxnOp) -> wire.Fields:
    match op:
        case Get(key):
            return {"op": "get", "key": key}
        case Delete(key):
            return {"op": "delete", "key": key}
        case Put(key, value, content_type, ttl_seconds):
            return {
                "op": "put",
                "key": key,
                **wire.encoded_value(value),
                "content_type": wire.content_type_of(value, content_type),
                **wire.without_none({"ttl_seconds": ttl_seconds}),
            }
