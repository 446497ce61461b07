"""The order of all values, as bytes: a < b exactly if order_key(a) < order_key(b).

absent < null < numbers < text < objects < arrays < bytes < false < true

Numbers compare by value, whatever their type: 1 and 1.0 are equal, and 2**53 + 1 is more than
2.0**53. Text compares by code points. Arrays compare item by item, then the shorter is less.
Objects compare as the list of their members sorted by name: JSON gives members no order.
No key is the beginning of another one, so that keys may stand behind each other (MongoDB's
order of BSON types and FoundationDB's tuple layer are the models).
"""

from __future__ import annotations

from math import inf, nextafter
from struct import Struct
from typing import Any, Final

ABSENT: Final = b"\x04"
NULL: Final = b"\x05"
_NUMBER, _TEXT, _OBJECT, _ARRAY, _BYTES = 0x10, 0x20, 0x30, 0x40, 0x50
_FALSE, _TRUE = b"\x60\x00", b"\x60\x01"
_BOOLEAN = 0x60
_END: Final = b"\x00"  # below every tag
_ESCAPED: Final = b"\x00\xff"  # a NUL within text; \x00\x01 ends it
_TEXT_END: Final = b"\x00\x01"

_DOUBLE = Struct(">d")
_BITS = Struct(">Q")
_NUMBER_KEY = Struct(">BQH")
_SIGN = 1 << 63
_ALL = (1 << 64) - 1

INVERTED: Final = bytes(255 - byte for byte in range(256))  # for `bytes.translate`: descending


def order_key(value: Any) -> bytes:
    """The key of a value that can be stored (`codec.check_value`)."""
    kind = value.__class__
    if kind is str:
        return b"\x20%b%b" % (value.encode().replace(b"\x00", _ESCAPED), _TEXT_END)
    if kind is int or kind is float:
        return _number_key(value)
    if value is None:
        return NULL
    if kind is bool:
        return _TRUE if value else _FALSE
    if kind is dict:
        members = [order_key(name) + order_key(value[name]) for name in sorted(value)]
        return b"\x30" + b"".join(members) + _END
    if kind is bytes:
        return b"\x50%b%b" % (value.replace(b"\x00", _ESCAPED), _TEXT_END)
    return b"\x40" + b"".join(map(order_key, value)) + _END


def kind_range(value: Any) -> tuple[bytes, bytes]:
    """(first, after last) of the keys of values of the same kind."""
    tag = order_key(value)[0]
    return bytes([tag]), bytes([tag + 1])


def same_kind(one: Any, other: Any) -> bool:
    """Are they compared by $gt and its like?"""
    return _tag(one) == _tag(other)


def is_number(value: Any) -> bool:
    """A bool is none."""
    kind = value.__class__
    return kind is int or kind is float


def _tag(value: Any) -> int:
    kind = value.__class__
    if kind is list:
        return _ARRAY
    return _TAGS[kind]


_TAGS = {
    int: _NUMBER, float: _NUMBER, str: _TEXT, dict: _OBJECT, tuple: _ARRAY, bytes: _BYTES,
    bool: _BOOLEAN, type(None): 0x05,
}  # fmt: skip


def _number_key(value: Any) -> bytes:
    """The largest double that is not more than the value, and what is left of an integer."""
    below = float(value)
    rest = 0
    if value.__class__ is int:
        if below > value:
            below = nextafter(below, -inf)
        rest = int(value) - int(below)
    # Adding 0.0 makes 0.0 of -0.0.
    bits: int = _BITS.unpack(_DOUBLE.pack(below + 0.0))[0]
    return _NUMBER_KEY.pack(_NUMBER, bits ^ _ALL if bits & _SIGN else bits | _SIGN, rest)
