"""Verification of collections: what the catalog says, and each engine's own invariants."""

from __future__ import annotations

from collections.abc import Iterator

from engines.catalog import DROPPED, DROPPING, Collection, unpack_collection
from engines.environment import Databases, Transaction
from engines.layout import unseal
from engines.registry import Registry
from engines.space import ID_BYTES, View


def collection_problems(
    txn: Transaction, databases: Databases, registry: Registry, collections: int
) -> Iterator[str]:
    """What is wrong, in words. `collections`: how many the counters say there are.

    Raises CorruptRecord.
    """
    found: dict[bytes, Collection] = {}
    dropped: set[bytes] = set()
    with txn.cursor(db=databases.collections) as cursor:
        for place, record in cursor.iternext():
            key = bytes(place)
            if key.startswith(DROPPED):
                unseal("collections", key, record)
                dropped.add(key[len(DROPPED) :])
                continue
            collection = unpack_collection(key, record)
            if key.startswith(DROPPING):
                continue  # it holds nothing, and is not counted
            if collection.id in found:
                yield f"collections {collection.name} and {found[collection.id].name} share an id"
            found[collection.id] = collection
    if len(found) != collections:
        yield f"the counter collections says {collections}, there are {len(found)}"
    yield from _items(txn, databases, found, dropped)
    for collection in found.values():
        engine = registry.engines.get(collection.engine)
        where = f"collection {collection.namespace}/{collection.name}"
        if engine is None:
            yield f"{where}: its engine {collection.engine} is not known to this build"
            continue
        view = View(txn, databases.items, collection, collection.written_index)
        for problem in engine.check(view, collection.settings):
            yield f"{where}: {problem}"


def _items(
    txn: Transaction, databases: Databases, found: dict[bytes, Collection], dropped: set[bytes]
) -> Iterator[str]:
    counted: dict[bytes, tuple[int, int]] = dict.fromkeys(found, (0, 0))
    with txn.cursor(db=databases.items) as cursor:
        for place, record in cursor.iternext():
            key = bytes(place)
            identity = key[:ID_BYTES]
            value = unseal("items", key, record)
            items, size = counted.get(identity, (0, 0))
            counted[identity] = items + 1, size + len(key) - ID_BYTES + len(value)
    for identity, (items, size) in counted.items():
        collection = found.get(identity)
        if collection is None:
            if identity not in dropped:
                yield f"{items} items under {identity.hex()} belong to no collection"
        elif (items, size) != (collection.items, collection.item_bytes):
            yield (
                f"collection {collection.name} holds {items} items of {size} bytes, its record "
                f"says {collection.items} of {collection.item_bytes}"
            )
