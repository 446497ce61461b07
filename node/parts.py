"""The parts of a collection of several shards: what they are called, and so where they are. Pure.

A part is a collection in a partition of its own: that of the collection's name holds the first
shard, the following partitions the others. A partition is chosen by the name, as everything's is,
so the name ends in a number that is tried out. It holds the home's id and when it was made, too:
a collection that is made anew under the name of a dropped one has other parts. (The id alone
would not do: after a restore the partition of the home may give ids again whose parts another
partition, saved a moment later, still holds.)
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from itertools import count
from typing import Final, NamedTuple

from engines.catalog import Collection
from engines.validation import PART_MARK

_ID_BYTES: Final = 16


class Parted(NamedTuple):
    """A collection of several shards, as a node knows it."""

    home: Collection
    parts: tuple[str, ...]  # the name of each shard's part


def parted(home: Collection, partition_of: Callable[[str], int], partitions: int) -> Parted:
    """`partition_of`: name → its partition, 1 to `partitions`."""
    first = partition_of(home.name) - 1
    missing = {(first + shard) % partitions + 1: shard for shard in range(home.shards)}
    found: dict[int, str] = {}
    begin = f"{home.name}{PART_MARK}{identity_of(home)}{PART_MARK}"
    for number in count():
        if not missing:
            break
        name = f"{begin}{number}"
        shard = missing.pop(partition_of(name), None)
        if shard is not None:
            found[shard] = name
    return Parted(home, tuple(found[shard] for shard in range(home.shards)))


def identity_of(home: Collection) -> str:
    """Of which home a part is: no other one has this, under whatever name."""
    return f"{home.id.hex()}{home.created_ms:012x}"


def home_of(part: str) -> tuple[str, str]:
    """Name and `identity_of` the home that a part belongs to. Raises ValueError: no part's name."""
    name, identity, _ = part.rsplit(PART_MARK, 2)
    return name, identity


def creation_id(part: str) -> str:
    """The request id of a part's creation, and of giving it up before it was made: whichever
    comes first decides, so a creation that comes late makes nothing of what was dropped."""
    return _id_of("make", part)


def step_id(part: str, request_id: str, number: int, attempt: int) -> str:
    """The request id of what a write does to one part. `number`: of its round. `attempt`: a
    refusal because the part was not made yet is remembered, too."""
    return _id_of("step", part, request_id, f"{number} {attempt}")


def alteration_id(name: str, request_id: str) -> str:
    """The request id of altering a home: that of the caller is for a collection without parts,
    and how the caller's request was meant is not known before the home has refused it."""
    return _id_of("alter", name, request_id)


def seed_of(home: Collection, request_id: str) -> bytes:
    """What ids are made from that a request leaves to the node: a retry makes the same."""
    return _digest("seed", home.namespace, home.name, identity_of(home), request_id)


def _id_of(*words: str) -> str:
    return f"shard.{_digest(*words).hex()}"


def _digest(*words: str) -> bytes:
    return blake2b("\0".join(words).encode(), digest_size=_ID_BYTES).digest()
