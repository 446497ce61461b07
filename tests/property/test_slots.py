"""Slots: Redis Cluster's, and each in exactly one partition."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.slots import (
    PARTITIONS_MAX,
    SLOTS,
    hash_slot,
    partition_of,
    session_slot,
    slots_of,
)
from node.resp_names import slot_of

PARTITIONS = st.integers(1, PARTITIONS_MAX)


def bitwise_crc16(data: bytes) -> int:
    """CRC16-XMODEM by its definition: polynomial 0x1021, no reflection, starts at zero."""
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1) ^ (0x1021 if crc & 0x8000 else 0)
            crc &= 0xFFFF
    return crc


def test_the_check_value_of_the_redis_cluster_specification() -> None:
    assert bitwise_crc16(b"123456789") == 0x31C3
    assert hash_slot(b"123456789") == 0x31C3 % SLOTS
    assert hash_slot(b"foo") == 12_182  # CLUSTER KEYSLOT foo


@given(st.binary(max_size=64))
def test_a_slot_is_the_crc_of_the_name(name: bytes) -> None:
    assert hash_slot(name) == bitwise_crc16(name) % SLOTS


@given(st.text(st.characters(exclude_characters="{}", codec="utf-8"), min_size=1), st.text("ab{}"))
def test_a_session_has_the_slot_that_a_redis_client_computes(session: str, key: str) -> None:
    plain, tagged = session.encode(), b"{%b}%b" % (session.encode(), key.encode())
    assert session_slot(session) == slot_of(plain) == slot_of(tagged)


@given(PARTITIONS)
def test_partitions_share_the_slots_evenly_and_in_order(partitions: int) -> None:
    ranges = [slots_of(each, partitions) for each in range(1, partitions + 1)]
    assert ranges[0].start == 0
    assert ranges[-1].stop == SLOTS
    assert all(before.stop == after.start for before, after in pairwise(ranges))
    sizes = {len(each) for each in ranges}
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1


@given(PARTITIONS)
def test_both_directions_agree(partitions: int) -> None:
    for partition in range(1, partitions + 1):
        held = slots_of(partition, partitions)
        assert partition_of(held[0], partitions) == partition
        assert partition_of(held[-1], partitions) == partition


def test_one_partition_has_all_and_nothing_else_is_accepted() -> None:
    assert slots_of(1, 1) == range(SLOTS)
    for slot, partitions in ((-1, 1), (SLOTS, 1), (0, 0), (0, PARTITIONS_MAX + 1)):
        with pytest.raises(ValueError, match="must be"):
            partition_of(slot, partitions)
    for partition, partitions in ((0, 4), (5, 4), (1, 0)):
        with pytest.raises(ValueError, match="must be"):
            slots_of(partition, partitions)
