"""Collections: what they are called, which engine they belong to, and what they hold.

`collections` holds one record for each, under namespace NUL name. A dropped one is gone from
there at once; what is left of it waits under NUL id until its items are removed
(`collections.py`). Ids are those of directories (`counters.py`): never used again.

A collection of several shards is a record without items, the *home*, and its *parts*: ordinary
collections, each in a partition of its own, under names that callers cannot say (`shards.py`).
The home says what the settings are; `settings_version` counts their changes, so that a part
takes them over in order. A home that was dropped waits under SOH and its own key until all its
parts are gone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

from engines.codec import Malformed, integer, pack_value, text, unpack_value
from engines.errors import CorruptRecord
from engines.layout import Buffer, seal, unseal

COLLECTIONS_MAX = 10_000  # of one partition
SETTINGS_BYTES_MAX = 64 << 10
DROPPED = b"\x00"  # no namespace begins with it
DROPPING = b"\x01"  # nor with this
CATALOG = b"\x02"  # every key of a collection that is there lies behind it

# What can be said in the first version is: its records, and the digests of states that hold
# nothing else, stay as they were.
_VERSION, _VERSION_SHARDS = 1, 2
SHARDS_MAX = 64  # of one collection
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
    shards: int = 1  # parts that its items are in; 1: it holds them itself
    settings_version: int = 0  # of a home and its parts: how often the home was altered

    @property
    def key(self) -> bytes:
        """Its key in `collections`."""
        return collection_key(self.namespace, self.name)


COLLECTION_FIELDS = tuple(field.name for field in fields(Collection))
_FIRST_FIELDS = COLLECTION_FIELDS[:-2]  # those of the first version


def collection_fields(collection: Collection) -> list[Any]:
    """What it consists of, as `collection_of` takes it."""
    plain = collection.shards == 1 and collection.settings_version == 0
    names = _FIRST_FIELDS if plain else COLLECTION_FIELDS
    return [getattr(collection, name) for name in names]


def collection_of(parts: Sequence[Any]) -> Collection:
    """What `collection_fields` took apart. Raises Malformed."""
    if len(parts) not in (len(_FIRST_FIELDS), len(COLLECTION_FIELDS)):
        raise Malformed("a collection of another number of fields")
    namespace, name, identity, engine, settings, *numbers = parts
    if type(identity) is not bytes or not isinstance(settings, dict):
        raise Malformed("a collection with fields of the wrong type")
    found = Collection(
        text(namespace), text(name), identity, text(engine), settings, *map(integer, numbers)
    )
    if not 1 <= found.shards <= SHARDS_MAX:
        raise Malformed(f"a collection of {found.shards} shards")
    return found


def collection_key(namespace: str, name: str) -> bytes:
    return b"%b\x00%b" % (namespace.encode(), name.encode())


def pack_collection(collection: Collection) -> bytes:
    """The sealed record."""
    return seal(collection.key, _packed(collection))


def pack_dropping(collection: Collection) -> bytes:
    """The sealed record of a home that was dropped, for `dropping_key`."""
    return seal(dropping_key(collection.key), _packed(collection))


def _packed(collection: Collection) -> bytes:
    parts = collection_fields(collection)
    version = _VERSION if len(parts) == len(_FIRST_FIELDS) else _VERSION_SHARDS
    return pack_value([version, *parts])


def unpack_collection(key: bytes, record: Buffer) -> Collection:
    """Raises CorruptRecord."""
    return _unpacked(key, bytes(record))


@lru_cache(_REMEMBERED)
def _unpacked(key: bytes, record: bytes) -> Collection:
    try:
        version, *parts = _array(unseal("collections", key, record))
        collection = collection_of(parts)
        plain = len(parts) == len(_FIRST_FIELDS)
        if version != (_VERSION if plain else _VERSION_SHARDS):
            raise Malformed("of another version")
    except (Malformed, TypeError, ValueError) as error:
        raise CorruptRecord("collections", key, str(error)) from error
    if collection.key != key.removeprefix(DROPPING):
        raise CorruptRecord("collections", key, "is under another collection's name")
    return collection


def find_collection(
    get: Callable[[bytes], Buffer | None], namespace: str, name: str
) -> Collection | None:
    """Raises CorruptRecord."""
    key = collection_key(namespace, name)
    record = get(key)
    return None if record is None else unpack_collection(key, record)


def find_dropping(get: Callable[[bytes], Buffer | None], key: bytes) -> Collection | None:
    """The home of this key that was dropped and has parts yet. Raises CorruptRecord."""
    place = dropping_key(key)
    record = get(place)
    return None if record is None else unpack_collection(place, record)


def dropping_key(key: bytes) -> bytes:
    """`key`: of the collection while it was there."""
    return DROPPING + key


def dropped_key(identity: bytes) -> bytes:
    return DROPPED + identity


def _array(packed: bytes) -> list[Any]:
    parts = unpack_value(packed)
    if not isinstance(parts, list):
        raise Malformed("not an array")
    return parts
