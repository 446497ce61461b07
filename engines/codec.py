"""MessagePack, narrowed to what this package stores: the only importer of msgpack.

Values are None, bool, int, str, bytes and tuples of these. Maps and extension
types are refused: nothing here needs them, and an extension type could carry
meaning that another build reads differently.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import msgpack  # type: ignore[import-untyped]

Packable = None | bool | int | str | bytes | Sequence["Packable"]
Unpacked = None | bool | int | str | bytes | tuple["Unpacked", ...]


class Malformed(ValueError):
    """The bytes are not a value that this codec wrote."""


def pack(value: Packable) -> bytes:
    """Encode; equal values give equal bytes."""
    # A shared Packer is 0.3 us faster but keeps its buffer at the largest value it ever saw.
    packed: bytes = msgpack.packb(value)
    return packed


def unpack(data: bytes | memoryview) -> Unpacked:
    """Decode exactly one value. Raises Malformed, also for trailing bytes."""
    try:
        value: Unpacked = msgpack.unpackb(
            data, use_list=False, object_pairs_hook=_refuse, ext_hook=_refuse
        )
    except ValueError as error:
        # Truncation, trailing bytes, bad UTF-8, and too deep nesting are all ValueErrors.
        raise Malformed(str(error) or type(error).__name__) from error
    return value


def _refuse(*_: object) -> NoReturn:
    raise Malformed("maps and extension types are not used")
