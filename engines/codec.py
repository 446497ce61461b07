"""MessagePack, narrowed to what this package stores: the only importer of msgpack.

`pack` and `unpack` are for the package's own records: None, bool, int, float, str, bytes and
tuples of these. `pack_value` and `unpack_value` are for what callers store in collections: JSON's
values, and bytes. Extension types are refused: one could carry meaning that another build
reads differently.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import NoReturn, TypeVar

import msgpack  # type: ignore[import-untyped]

from engines.errors import InvalidArgument

Packable = None | bool | int | float | str | bytes | Sequence["Packable"]
Unpacked = None | bool | int | float | str | bytes | tuple["Unpacked", ...]

# What callers store: JSON's values, and bytes.
Value = None | bool | int | float | str | bytes | Sequence["Value"] | Mapping[str, "Value"]

T = TypeVar("T")

VALUE_DEPTH_MAX = 32  # arrays and objects within each other
BODY_DEPTH_MAX = VALUE_DEPTH_MAX + 8  # what engines put around callers' values in the log
_NO_NUMBER = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]|\xca[\x7f\xff][\x80-\xff]").search
_VECTOR_MIN = 16  # numbers; shorter ones are looked at one by one
_INTEGER_MIN, _INTEGER_MAX = -(1 << 63), (1 << 64) - 1  # what MessagePack can hold


class Malformed(ValueError):
    """The bytes are not a value that this codec wrote."""


def pack(value: Packable) -> bytes:
    """Encode; equal values give equal bytes."""
    # A shared Packer is 0.3 us faster but keeps its buffer at the largest value it ever saw.
    packed: bytes = msgpack.packb(value)
    return packed


def unpack(packed: bytes | memoryview) -> Unpacked:
    """Decode exactly one value. Raises Malformed, also for trailing bytes."""
    try:
        value: Unpacked = msgpack.unpackb(
            packed, use_list=False, object_pairs_hook=_refuse, ext_hook=_refuse
        )
    except ValueError as error:
        # Truncation, trailing bytes, bad UTF-8, and too deep nesting are all ValueErrors.
        raise Malformed(str(error) or type(error).__name__) from error
    return value


def _refuse(*_: object) -> NoReturn:
    raise Malformed("maps and extension types are not used")


def pack_value(value: Value) -> bytes:
    """Encode a value that `check_value` accepts; an object's members keep their order."""
    packed: bytes = msgpack.packb(value)
    return packed


def unpack_value(packed: bytes | memoryview) -> Value:
    """The value that `pack_value` wrote: lists for arrays. Raises Malformed."""
    try:
        value: Value = msgpack.unpackb(packed, ext_hook=_refuse)
    except ValueError as error:
        raise Malformed(str(error) or type(error).__name__) from error
    return value


def may_hold_no_number(packed: bytes) -> bool:
    """Could a value that `pack_value` wrote hold NaN or Infinity? False: certainly not.

    Such a float is a mark and an exponent of ones; the same bytes may stand within something else.
    """
    return _NO_NUMBER(packed) is not None


def check_value(value: object, field: str, depth_max: int = VALUE_DEPTH_MAX) -> None:
    """Raises InvalidArgument, naming the place within `field`, for what cannot be stored."""
    try:
        _check(value, depth_max)
    except _Unfit as error:
        path = "".join(reversed(error.path))
        raise InvalidArgument(f"{field}{path}", str(error)) from None


class _Unfit(Exception):
    """`path`: of the value that is at fault, innermost first. Put together only then."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.path: list[str] = []


def _check(value: object, depth: int) -> None:
    kind = type(value)
    if kind is float:
        if not isfinite(value):  # type: ignore[arg-type]
            raise _Unfit("must be a finite number")
    elif kind is int:
        if not _INTEGER_MIN <= value <= _INTEGER_MAX:  # type: ignore[operator]
            raise _Unfit("does not fit 64 bits")
    elif kind is str:
        _check_text(value)  # type: ignore[arg-type]
    elif isinstance(value, Mapping):
        _check_members(value, depth)
    elif isinstance(value, list | tuple):
        if depth == 0:
            raise _Unfit(f"is nested deeper than {VALUE_DEPTH_MAX}")
        # A vector: their sum is finite only if each of them is.
        if len(value) >= _VECTOR_MIN and set(map(type, value)) == {float} and isfinite(sum(value)):
            return
        place = -1
        try:
            for item in value:
                place += 1
                _check(item, depth - 1)
        except _Unfit as error:
            error.path.append(f"[{place}]")
            raise
    elif kind is not bool and kind is not bytes and value is not None:
        raise _Unfit(f"a {kind.__name__} cannot be stored")


def _check_members(value: Mapping[object, object], depth: int) -> None:
    if depth == 0:
        raise _Unfit(f"is nested deeper than {VALUE_DEPTH_MAX}")
    for name, member in value.items():
        if type(name) is not str:
            raise _Unfit("has a member whose name is not text")
        _check_text(name)
        try:
            _check(member, depth - 1)
        except _Unfit as error:
            error.path.append(f".{name}")
            raise


def _check_text(value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _Unfit("is not text that UTF-8 can hold") from None


# Checks of one decoded value. Types are compared exactly: a bool is not taken for an int.


def integer(value: object) -> int:
    if type(value) is not int:
        raise Malformed("not an integer")
    return value


def number(value: object) -> float:
    if type(value) is not float or not isfinite(value):
        raise Malformed("not a finite number")
    return value


def boolean(value: object) -> bool:
    if type(value) is not bool:
        raise Malformed("not a boolean")
    return value


def text(value: object) -> str:
    if type(value) is not str:
        raise Malformed("not a string")
    return value


def data(value: object) -> bytes:
    if type(value) is not bytes:
        raise Malformed("not bytes")
    return value


def array(value: object) -> tuple[object, ...]:
    if type(value) is not tuple:
        raise Malformed("not an array")
    return value


def optional(check: Callable[[object], T]) -> Callable[[object], T | None]:
    """`check`, or None."""
    return lambda value: None if value is None else check(value)
