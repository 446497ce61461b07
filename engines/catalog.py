"""Collections: what they are called, which engine they belong to, and what they hold.

`collections` holds one record for each, under namespace NUL name. A dropped one is gone from
there at once; what is left of it waits under NUL id until its items are removed
(`collections.py`). Ids are those of directories (`counters.py`): never used again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

from engines.codec import Malformed, Value, integer, pack_value, text, unpack_value
from engines.errors import CorruptRecord
from engines.layout import Buffer, seal, unseal

COLLECTIONS_MAX = 10_000  # of one partition
SETTINGS_BYTES_MAX = 64 << 10
DROPPED = b"\x00"  # no namespace begins with it

_VERSION = 1
_REMEMBERED = 256  # records that were unpacked last: every query begins with one


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection as of one state."""

    namespace: str
    name: str
    id: bytes
    engine: str
    settings: Mapping[str, Any]
    created_ms: int
    written_index: int = 0  # of the log: the entry that changed it last
    items: int = 0  # records of the engine, which may be more than a caller stored
    item_bytes: int = 0  # of their keys and values

    @property
    def key(self) -> bytes:
        """Its key in `collections`."""
        return collection_key(self.namespace, self.name)


COLLECTION_FIELDS = tuple(field.name for field in fields(Collection))


def collection_key(namespace: str, name: str) -> bytes:
    return b"%b\x00%b" % (namespace.encode(), name.encode())


def pack_collection(collection: Collection) -> bytes:
    """The sealed record."""
    body: Value = [_VERSION, *(getattr(collection, name) for name in COLLECTION_FIELDS)]
    return seal(collection.key, pack_value(body))


def unpack_collection(key: bytes, record: Buffer) -> Collection:
    """Raises CorruptRecord."""
    return _unpacked(key, bytes(record))


@lru_cache(_REMEMBERED)
def _unpacked(key: bytes, record: bytes) -> Collection:
    try:
        version, namespace, name, identity, engine, settings, *numbers = _array(
            unseal("collections", key, record)
        )
        if version != _VERSION or type(identity) is not bytes or not isinstance(settings, dict):
            raise Malformed("of another version or with fields of the wrong type")
        collection = Collection(
            text(namespace), text(name), identity, text(engine), settings, *map(integer, numbers)
        )
    except (Malformed, TypeError, ValueError) as error:
        raise CorruptRecord("collections", key, str(error)) from error
    if collection.key != key:
        raise CorruptRecord("collections", key, "is under another collection's name")
    return collection


def find_collection(
    get: Callable[[bytes], Buffer | None], namespace: str, name: str
) -> Collection | None:
    """Raises CorruptRecord."""
    key = collection_key(namespace, name)
    record = get(key)
    return None if record is None else unpack_collection(key, record)


def dropped_key(identity: bytes) -> bytes:
    return DROPPED + identity


def _array(packed: bytes) -> list[Any]:
    parts = unpack_value(packed)
    if not isinstance(parts, list):
        raise Malformed("not an array")
    return parts
