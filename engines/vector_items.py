"""How a vector is stored: one item under its id.

`version(1) has_text(1) vector_bytes(4) metadata_bytes(4) vector metadata text`: the vector as
little-endian f32, or as bits; metadata as `codec.pack_value` of an object; text as UTF-8.
"""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple

from engines.codec import Malformed
from engines.errors import CorruptRecord
from engines.space import unpack_object

PREFIX: Final = b"v"
_VERSION: Final = 1
_HEAD: Final = struct.Struct(">BBII")


class Item(NamedTuple):
    vector: bytes
    metadata: bytes  # packed
    text: str | None


def item_key(identity: str) -> bytes:
    return PREFIX + identity.encode()


def item_id(key: bytes) -> str:
    return key[len(PREFIX) :].decode()


def pack_item(item: Item) -> bytes:
    text = b"" if item.text is None else item.text.encode()
    head = _HEAD.pack(_VERSION, item.text is not None, len(item.vector), len(item.metadata))
    return head + item.vector + item.metadata + text


def unpack_item(key: bytes, value: bytes) -> Item:
    """Raises CorruptRecord."""
    try:
        version, has_text, vector_bytes, metadata_bytes = _HEAD.unpack_from(value)
        middle = _HEAD.size + vector_bytes
        end = middle + metadata_bytes
        if version != _VERSION or end > len(value):
            raise Malformed("of another version, or cut short")
        text = value[end:].decode() if has_text else None
    except (struct.error, UnicodeDecodeError, Malformed) as error:
        raise CorruptRecord("items", key, str(error)) from error
    return Item(value[_HEAD.size : middle], value[middle:end], text)


def unpack_metadata(packed: bytes, key: bytes = b"") -> dict[str, Any]:
    """Raises CorruptRecord."""
    return unpack_object(key, packed)
