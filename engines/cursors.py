"""Cursors of queries: opaque text that says where one goes on, good for that query alone.

A cursor is base64url of `check(8)` and the packed position; `check` digests both the position
and the *scope*, whatever of the query has to be the same. It is no secret and no signature: it
has to be hard to get wrong by accident.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final, NoReturn, TypeVar

from engines.codec import Malformed, Value, pack_value, unpack_value
from engines.errors import InvalidArgument
from engines.parameters import PREFIX

T = TypeVar("T")

FIELD: Final = f"{PREFIX}.cursor"
_CHECK_BYTES: Final = 8
_FREE: Final = frozenset({"cursor", "limit"})  # may differ from page to page


def encode_cursor(scope: Value, position: Value) -> str:
    """`position`: anything but None."""
    packed = pack_value(position)
    raw = _check(scope, packed) + packed
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def decode_cursor(cursor: object, scope: Value, kind: type[T]) -> T | None:
    """The position, of type `kind`, that `encode_cursor` was given with that scope; None without
    a cursor.

    Raises InvalidArgument, code INVALID_CURSOR.
    """
    if cursor is None:
        return None
    if type(cursor) is not str:
        refuse_cursor("must be text")
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        raw = base64.b64decode(padded, altchars=b"-_", validate=True)
        packed = raw[_CHECK_BYTES:]
        position = unpack_value(packed)
    except (UnicodeEncodeError, binascii.Error, Malformed):
        refuse_cursor("is not a cursor")
    if raw[:_CHECK_BYTES] != _check(scope, packed) or type(position) is not kind:
        refuse_cursor("is not a cursor of this query")
    return position


def scope_of(operation: str, given: Mapping[str, Any]) -> Value:
    """All of a query but what may differ from page to page."""
    return [operation, {name: value for name, value in given.items() if name not in _FREE}]


def refuse_cursor(message: str) -> NoReturn:
    raise InvalidArgument(FIELD, message, "INVALID_CURSOR")


def _check(scope: Value, packed: bytes) -> bytes:
    text = pack_value([_ordered(scope), packed])
    return blake2b(text, digest_size=_CHECK_BYTES).digest()


def _ordered(value: Value) -> Value:
    """Objects as lists in order of their names, which callers may give in any."""
    if isinstance(value, Mapping):
        return [[name, _ordered(value[name])] for name in sorted(value)]
    if isinstance(value, list | tuple):
        return [_ordered(each) for each in value]
    return value
