"""Cursors of time series: opaque text, bound to the operation and parameters it came from."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final

from engines.codec import Malformed, Value, pack_value, unpack_value
from engines.errors import InvalidArgument

_FIELD: Final = "parameters.cursor"
_CHECK_BYTES: Final = 8
_FREE: Final = frozenset({"cursor", "limit"})  # may differ from page to page


def make_cursor(operation: str, given: Mapping[str, Any], position: Value) -> str:
    packed = pack_value(position)
    raw = _check(operation, given, packed) + packed
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def read_cursor(operation: str, given: Mapping[str, Any]) -> list[Any] | None:
    """The position that `make_cursor` was given; None without a cursor.

    Raises InvalidArgument: no cursor, or another query's.
    """
    cursor = given.get("cursor")
    if cursor is None:
        return None
    if type(cursor) is not str:
        raise InvalidArgument(_FIELD, "must be text")
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        raw = base64.b64decode(padded, altchars=b"-_", validate=True)
        packed = raw[_CHECK_BYTES:]
        position = unpack_value(packed)
    except (UnicodeEncodeError, binascii.Error, Malformed):
        raise InvalidArgument(_FIELD, "is not a cursor") from None
    if raw[:_CHECK_BYTES] != _check(operation, given, packed) or not isinstance(position, list):
        raise InvalidArgument(_FIELD, "is not a cursor of this query")
    return position


def _check(operation: str, given: Mapping[str, Any], packed: bytes) -> bytes:
    bound: Value = {name: value for name, value in given.items() if name not in _FREE}
    text = pack_value([operation, _ordered(bound), packed])
    return blake2b(text, digest_size=_CHECK_BYTES).digest()


def _ordered(value: Value) -> Value:
    """Objects as lists in order of their names, which callers may give in any."""
    if isinstance(value, Mapping):
        return [[name, _ordered(value[name])] for name in sorted(value)]
    return value
