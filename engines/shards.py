"""Which shard of a collection an item is in, and what engines need to ask several of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final

from engines.codec import unpack_value
from engines.digests import name_hash
from engines.engine import Engine, Settings, across_of
from engines.errors import InvalidArgument

PART: Final = "part"  # a parameter of bytes, which no caller can send: what is asked of a shard
_ID_BYTES: Final = 16
_HASH_BITS: Final = 64


def shard_of(identity: str, shards: int) -> int:
    """The shard (0..shards-1) of an item: for ever, so neither this nor the hash may change."""
    return name_hash(identity.encode()) * shards >> _HASH_BITS


def by_shard(identities: Iterable[str], shards: int) -> dict[int, list[int]]:
    """Shard → the places in `identities` that are its."""
    found: dict[int, list[int]] = {}
    for place, identity in enumerate(identities):
        found.setdefault(shard_of(identity, shards), []).append(place)
    return found


def part_of(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """What `PART` holds, packed. Only a node of this cluster made it."""
    found = unpack_value(parameters[PART])
    assert isinstance(found, dict)
    return found


def made_id(seed: bytes, place: int) -> str:
    """32 hexadecimal digits for an item that was given without id. A retry makes the same."""
    return blake2b(b"%b %d" % (seed, place), digest_size=_ID_BYTES).hexdigest()


def check_shards(engine: Engine, settings: Settings, shards: int) -> None:
    """Raises InvalidArgument: the engine, or a setting, does not go with so many shards."""
    if shards == 1:
        return
    across = across_of(engine)
    if across is None:
        raise InvalidArgument(
            "shards",
            f"collections of engine {engine.name} are not divided: its operations need all items "
            "in one place",
        )
    across.check(settings)


def in_order(
    places: Mapping[int, Sequence[int]], answers: Mapping[int, Sequence[Any]]
) -> list[Any]:
    """Answers for items of several shards, in the order of the items."""
    found = {
        at: each
        for shard, where in places.items()
        for at, each in zip(where, answers[shard], strict=True)
    }
    return [found[at] for at in sorted(found)]
