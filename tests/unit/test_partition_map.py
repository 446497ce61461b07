"""The partition map: rules, succession, bytes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import partition_map
from cluster.errors import InvalidPartitionMap
from cluster.partition_map import MAP_BYTES_MAX, Partition, PartitionMap

MAP = partition_map.first(3, ["abc", "bcd"])
NODES = st.sets(
    st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1), max_size=7
)


@st.composite
def maps(draw: st.DrawFn) -> PartitionMap:
    ids = draw(st.lists(NODES.filter(bool), min_size=1, max_size=8))
    made = partition_map.first(7, ids)
    others = draw(st.lists(NODES.filter(bool), max_size=len(ids)))
    return partition_map.successor(made, 7, dict(enumerate(others, 1)))


@given(maps())
def test_what_is_encoded_comes_back(given_map: PartitionMap) -> None:
    data = partition_map.encode(given_map)
    assert partition_map.decode(data) == given_map
    assert partition_map.encode(partition_map.decode(data)) == data


def test_the_bytes_are_the_format() -> None:
    assert partition_map.encode(partition_map.first(2, ["ab"])) == (
        b'{"format":1,"epoch":1,"replication_factor":2,'
        b'"partitions":[{"id":1,"founders":["a","b"],"replicas":["a","b"]}]}'
    )


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (replace(MAP, epoch=0), "epoch"),
        (replace(MAP, epoch=True), "epoch"),
        (replace(MAP, epoch=2**63), "epoch"),
        (replace(MAP, replication_factor=8), "replication_factor"),
        (replace(MAP, replication_factor=0), "replication_factor"),
        (replace(MAP, replication_factor=2), "partitions[0].replicas"),
        (replace(MAP, partitions=()), "partitions"),
        (replace(MAP, partitions=MAP.partitions * 129), "partitions"),
        (replace(MAP, partitions=MAP.partitions[1:]), "partitions[0].id"),
        (replace(MAP, partitions=(Partition(1, (), ("a",)),)), "partitions[0].founders"),
        (replace(MAP, partitions=(Partition(1, ("a",), ()),)), "partitions[0].replicas"),
        (replace(MAP, partitions=(Partition(1, ("a",), ("b", "a")),)), "partitions[0].replicas"),
        (replace(MAP, partitions=(Partition(1, ("a",), ("a", "a")),)), "partitions[0].replicas"),
        (replace(MAP, partitions=(Partition(1, ("a",), ("",)),)), "partitions[0].replicas"),
        (replace(MAP, partitions=(Partition(1, ("a",), ("\ud800",)),)), "partitions[0].replicas"),
        (replace(MAP, partitions=(Partition(1, ("a",), ("x" * 256,)),)), "partitions[0].replicas"),
    ],
)
def test_what_breaks_a_rule_is_refused_by_name(bad: PartitionMap, field: str) -> None:
    for refused in (partition_map.check, partition_map.encode):
        with pytest.raises(InvalidPartitionMap) as caught:
            refused(bad)
        assert caught.value.field == field
        assert field in str(caught.value)


def edited(**changes: object) -> bytes:
    value = json.loads(partition_map.encode(MAP)) | changes
    return json.dumps(value, separators=(",", ":")).encode()


ROW = {"id": 1, "founders": ["a"], "replicas": ["a"]}


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b"", ""),
        (b"\xff", ""),
        (b"[" * 100_000, ""),
        (b" " * (MAP_BYTES_MAX + 1), ""),
        (b"[]", ""),
        (partition_map.encode(MAP) + b" ", ""),
        (partition_map.encode(MAP)[:-1] + b',"epoch":1}', ""),  # twice
        (edited(format=2), "format"),
        (edited(format=True), "format"),
        (edited(more=1), "more"),
        (b'{"format":1}', "epoch"),
        (edited(epoch="1"), "epoch"),
        (edited(epoch=1.0), "epoch"),
        (edited(partitions={}), "partitions"),
        (edited(partitions=[1]), "partitions[0]"),
        (edited(partitions=[ROW | {"id": True}]), "partitions[0].id"),
        (edited(partitions=[ROW | {"leader": "a"}]), "partitions[0].leader"),
        (edited(partitions=[ROW | {"replicas": "a"}]), "partitions[0].replicas"),
        (edited(partitions=[ROW | {"replicas": [["a"]]}]), "partitions[0].replicas"),
        (edited(partitions=[ROW | {"replicas": ["\ud800"]}]), "partitions[0].replicas"),
    ],
)
def test_other_bytes_are_refused(data: bytes, field: str) -> None:
    with pytest.raises(InvalidPartitionMap) as caught:
        partition_map.decode(data)
    assert caught.value.field == field


@given(st.binary(max_size=12), st.data())
def test_damaged_bytes_never_pass_for_another_map(noise: bytes, data: st.DataObject) -> None:
    whole = partition_map.encode(MAP)
    place = data.draw(st.integers(0, len(whole)))
    damaged = whole[:place] + noise + whole[place + len(noise) :]
    try:
        found = partition_map.decode(damaged)
    except InvalidPartitionMap:
        return
    assert partition_map.encode(found) == damaged


def test_the_next_map_has_the_next_epoch_and_the_same_partitions_and_founders() -> None:
    following = partition_map.successor(MAP, 3, {2: "abd"})
    assert following.epoch == 2
    assert following.partitions[0] == MAP.partitions[0]
    assert following.partitions[1] == Partition(2, tuple("bcd"), tuple("abd"))
    for bad, field in (
        (MAP, "epoch"),
        (replace(following, epoch=3), "epoch"),
        (replace(following, partitions=following.partitions[:1]), "partitions"),
        (
            replace(following, partitions=(Partition(1, ("a",), ("a",)), MAP.partitions[1])),
            "partitions[0].founders",
        ),
    ):
        with pytest.raises(InvalidPartitionMap) as caught:
            partition_map.check_succession(MAP, bad)
        assert caught.value.field == field


def test_the_first_map_has_epoch_one_and_its_founders_as_replicas() -> None:
    for bad, field in (
        (replace(MAP, epoch=2), "epoch"),
        (replace(MAP, partitions=(Partition(1, ("a",), ("b",)),)), "partitions[0].founders"),
    ):
        with pytest.raises(InvalidPartitionMap) as caught:
            partition_map.check_succession(None, bad)
        assert caught.value.field == field


def test_the_replication_factor_may_change_and_replicas_follow() -> None:
    assert partition_map.successor(MAP, 1, {1: "a", 2: "d"}).replication_factor == 1
    with pytest.raises(InvalidPartitionMap, match="replicas"):
        partition_map.successor(MAP, 1, {1: "a"})


def test_even_factors_single_copies_and_missing_replicas_warn() -> None:
    assert [bool(partition_map.replication_warnings(rf)) for rf in range(1, 8)] == [
        True, True, False, True, False, True, False,
    ]  # fmt: skip
    assert "survives 1 failed nodes, as 3 does" in partition_map.replication_warnings(4)[0]
    assert partition_map.warnings(MAP) == []
    short = partition_map.first(3, ["ab", "abc"])
    assert "1 of 2 partitions have fewer than 3" in partition_map.warnings(short)[0]
