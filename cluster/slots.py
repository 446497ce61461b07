"""Hash slots: what a session or collection is hashed to, and which partition holds it. Pure.

Slots are those of Redis Cluster, so that its clients find them without asking. Partitions
hold contiguous ranges whose sizes differ by at most one; which ones is a function of their
number alone, so it is stored nowhere and nodes cannot disagree about it.
"""

from __future__ import annotations

from binascii import crc_hqx
from typing import Final

SLOTS: Final = 16_384
PARTITIONS_MAX: Final = 256


def hash_slot(name: bytes) -> int:
    """The slot (0..16383) of a name without hash tag: CRC16-XMODEM, modulo their number.

    Source: the Redis Cluster specification, appendix A.
    """
    return crc_hqx(name, 0) % SLOTS


def session_slot(session: str) -> int:
    """The slot of a session. Its namespace does not count."""
    return hash_slot(session.encode())


def partition_of(slot: int, partitions: int) -> int:
    """Id (1..partitions) of the partition that holds a slot. Raises ValueError."""
    _check(partitions)
    if not 0 <= slot < SLOTS:
        raise ValueError(f"slot must be 0..{SLOTS - 1}, not {slot}")
    return slot * partitions // SLOTS + 1


def slots_of(partition: int, partitions: int) -> range:
    """The slots that a partition (1..partitions) holds: never none. Raises ValueError."""
    _check(partitions)
    if not 1 <= partition <= partitions:
        raise ValueError(f"partition must be 1..{partitions}, not {partition}")
    return range(_first(partition, partitions), _first(partition + 1, partitions))


def _first(partition: int, partitions: int) -> int:
    return -(-(partition - 1) * SLOTS // partitions)  # rounded up


def _check(partitions: int) -> None:
    if not 1 <= partitions <= PARTITIONS_MAX:
        raise ValueError(f"partitions must be 1..{PARTITIONS_MAX}, not {partitions}")
