"""Placement: even, spread, few moves, never short; against an exhaustive search where small."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import partition_map
from cluster.errors import InvalidPartitionMap
from cluster.partition_map import PartitionMap
from cluster.placement import NODES_MAX, NodeFacts, place, rebalance

ROOT = Path(__file__).parents[2]
NAMES = "abcdefghijkl"
CALLS_MAX = 3  # what must be; what could be better; nothing


def plain(count: int) -> list[NodeFacts]:
    return [NodeFacts(name) for name in NAMES[:count]]


def counts(placed: PartitionMap, nodes: list[NodeFacts]) -> dict[str, int]:
    found = Counter(node for each in placed.partitions for node in each.replicas)
    return {node.id: found[node.id] for node in nodes}


def gap(placed: PartitionMap, nodes: list[NodeFacts]) -> int:
    held = counts(placed, nodes).values()
    return max(held) - min(held)


def arrivals(before: PartitionMap, after: PartitionMap) -> list[tuple[int, str]]:
    """(partition, node) of each replica that has to be copied."""
    return [
        (old.id, node)
        for old, new in zip(before.partitions, after.partitions, strict=True)
        for node in sorted(set(new.replicas) - set(old.replicas))
    ]


def departures(before: PartitionMap, after: PartitionMap) -> list[tuple[int, str]]:
    return arrivals(after, before)


def settled(nodes: list[NodeFacts], current: PartitionMap) -> PartitionMap:
    """Rebalanced until nothing is left to do."""
    for _ in range(CALLS_MAX):
        following = rebalance(nodes, current)
        if following is None:
            return current
        current = following
    assert rebalance(nodes, current) is None, "rebalancing does not end"
    return current


def changed(nodes: list[NodeFacts], name: str, **facts: bool) -> list[NodeFacts]:
    found = {node.id: node for node in nodes}
    found[name] = replace(found[name], **facts)  # type: ignore[arg-type]
    return list(found.values())


def check_complete(placed: PartitionMap, nodes: list[NodeFacts], factor: int) -> None:
    usable = {node.id for node in nodes if node.usable}
    for partition in placed.partitions:
        assert set(partition.replicas) <= usable
        assert len(set(partition.replicas)) == min(factor, len(usable))


SIZES = {"count": st.integers(1, 9), "partitions": st.integers(1, 40), "factor": st.integers(1, 7)}


@given(**SIZES)
def test_the_first_map_is_complete_even_and_settled(
    count: int, partitions: int, factor: int
) -> None:
    nodes = plain(count)
    placed = place(nodes, partitions, factor)
    check_complete(placed, nodes, factor)
    assert gap(placed, nodes) <= 1
    assert rebalance(nodes, placed) is None


@given(**SIZES, random=st.randoms(use_true_random=False))
def test_the_order_of_the_nodes_does_not_matter(
    count: int, partitions: int, factor: int, random: object
) -> None:
    nodes = [replace(node, labels=(f"rack={i % 3}",)) for i, node in enumerate(plain(count))]
    shuffled = list(nodes)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    placed = place(nodes, partitions, factor)
    assert place(shuffled, partitions, factor) == placed
    more = NodeFacts("z")
    assert rebalance([more, *shuffled], placed) == rebalance([*nodes, more], placed)


@given(**SIZES)
def test_one_node_more_gets_its_share_and_nothing_else_moves(
    count: int, partitions: int, factor: int
) -> None:
    count = max(count, factor)
    placed = place(plain(count), partitions, factor)
    nodes = plain(count + 1)
    after = rebalance(nodes, placed) or placed
    moved = arrivals(placed, after)
    assert {node for _, node in moved} <= {nodes[-1].id}
    assert len(moved) == partitions * factor // (count + 1)  # the least that is even
    assert gap(after, nodes) <= 1
    assert rebalance(nodes, after) is None


@pytest.mark.parametrize("facts", [{"draining": True}, {"lost": True, "alive": False}, None])
@given(**SIZES, data=st.data())
def test_a_node_that_goes_moves_only_what_it_held(
    facts: dict[str, bool] | None, count: int, partitions: int, factor: int, data: st.DataObject
) -> None:
    count = max(count, 2)
    nodes = plain(count)
    placed = place(nodes, partitions, factor)
    gone = data.draw(st.sampled_from(nodes)).id
    left = [node for node in nodes if node.id != gone]
    after_facts = changed(nodes, gone, **facts) if facts else left
    after = rebalance(after_facts, placed) or placed
    check_complete(after, left, factor)
    assert {node for _, node in departures(placed, after)} <= {gone}
    assert gap(settled(after_facts, after), left) <= 1


@given(**SIZES, data=st.data())
def test_what_is_only_dead_keeps_all_and_gets_nothing_while_others_can(
    count: int, partitions: int, factor: int, data: st.DataObject
) -> None:
    nodes = [replace(node, labels=(f"rack={i % 4}",)) for i, node in enumerate(plain(count))]
    placed = settled(nodes, place(nodes, partitions, factor))
    dead = data.draw(st.sets(st.sampled_from([node.id for node in nodes])))
    seen = [replace(node, alive=node.id not in dead) for node in nodes]
    assert rebalance(seen, placed) is None
    if len(nodes) - len(dead) >= factor:
        assert not any(counts(place(seen, partitions, factor), nodes)[node] for node in dead)


@given(partitions=st.integers(1, 24), factor=st.integers(1, 5), data=st.data())
def test_any_history_ends_complete_and_even(
    partitions: int, factor: int, data: st.DataObject
) -> None:
    nodes = plain(data.draw(st.integers(1, 6)))
    current = place(nodes, partitions, factor)
    for _ in range(data.draw(st.integers(1, 6))):
        fresh = [name for name in NAMES if name not in {node.id for node in nodes}]
        kind = data.draw(st.sampled_from(["add", "draining", "lost", "alive", "forget"]))
        name = data.draw(st.sampled_from([node.id for node in nodes]))
        if kind == "add" and fresh:
            nodes = [*nodes, NodeFacts(fresh[0])]
        elif kind == "forget" and len(nodes) > 1:
            nodes = [node for node in nodes if node.id != name]
        elif kind in ("draining", "lost", "alive"):
            nodes = changed(nodes, name, **{kind: data.draw(st.booleans())})
        if not any(node.usable for node in nodes):
            assert rebalance(nodes, current) is None
            continue
        following = rebalance(nodes, current)
        if following is not None:
            partition_map.check_succession(current, following)
            check_complete(following, nodes, factor)
        current = settled(nodes, following or current)
        check_complete(current, nodes, factor)
    nodes = [replace(node, alive=True) for node in nodes if node.usable]
    if nodes:
        assert gap(settled(nodes, current), nodes) <= 1


# --- Against an exhaustive search --------------------------------------------------------

Cost = tuple[int, int]


def cost(nodes: list[NodeFacts], sets: tuple[tuple[str, ...], ...]) -> Cost:
    """(pairs of replicas in one failure domain, squares of replicas per node)."""
    labels = {node.id: set(node.labels) for node in nodes}
    shared = sum(len(labels[a] & labels[b]) for held in sets for a, b in combinations(held, 2))
    held_by = Counter(node for held in sets for node in held)
    return shared, sum(number**2 for number in held_by.values())


def every_placement(
    nodes: list[NodeFacts], partitions: int, factor: int
) -> list[tuple[tuple[str, ...], ...]]:
    choices = list(combinations([node.id for node in nodes], min(factor, len(nodes))))
    return list(product(choices, repeat=partitions))


@st.composite
def domains(draw: st.DrawFn) -> list[NodeFacts]:
    """Up to five nodes: in racks, in racks within zones, or in nothing."""
    nodes = []
    zones = draw(st.booleans())  # for all or none: otherwise domains would form no tree
    for node in plain(draw(st.integers(1, 5))):
        rack = draw(st.sampled_from(["1", "2", "3", ""]))
        labels = (f"rack={rack}",) if rack else ()
        if rack and zones:
            labels = (f"zone={min(rack, '2')}", *labels)
        nodes.append(replace(node, labels=labels))
    return nodes


@given(nodes=domains(), partitions=st.integers(1, 3), factor=st.integers(1, 3))
def test_no_other_first_map_is_more_spread_or_more_even(
    nodes: list[NodeFacts], partitions: int, factor: int
) -> None:
    placed = place(nodes, partitions, factor)
    best = min(cost(nodes, sets) for sets in every_placement(nodes, partitions, factor))
    assert cost(nodes, tuple(each.replicas for each in placed.partitions)) == best


@given(nodes=domains(), partitions=st.integers(1, 3), factor=st.integers(1, 3), data=st.data())
def test_no_other_map_is_better_than_what_rebalancing_ends_in(
    nodes: list[NodeFacts], partitions: int, factor: int, data: st.DataObject
) -> None:
    sets = data.draw(st.sampled_from(every_placement(nodes, partitions, factor)))
    after = settled(nodes, partition_map.first(factor, sets))
    best = min(cost(nodes, other) for other in every_placement(nodes, partitions, factor))
    assert cost(nodes, tuple(each.replicas for each in after.partitions)) == best


@given(
    count=st.integers(1, 5), partitions=st.integers(1, 3), factor=st.integers(1, 3), data=st.data()
)
def test_nothing_even_is_reached_with_fewer_moves(
    count: int, partitions: int, factor: int, data: st.DataObject
) -> None:
    nodes = plain(count)
    sets = data.draw(st.sampled_from(every_placement(nodes, partitions, factor)))
    before = partition_map.first(factor, sets)
    after = rebalance(nodes, before) or before
    all_of_them = every_placement(nodes, partitions, factor)
    best = min(cost(nodes, other) for other in all_of_them)
    fewest = min(
        sum(len(set(new) - set(old)) for new, old in zip(other, sets, strict=True))
        for other in all_of_them
        if cost(nodes, other) == best
    )
    assert len(arrivals(before, after)) == fewest


# --- Failure domains at ordinary sizes, loads, limits ---------------------------------------


@given(
    racks=st.lists(st.integers(1, 4), min_size=3, max_size=5),
    partitions=st.integers(1, 40),
    factor=st.integers(1, 3),
    drained=st.integers(0, 20),
)
def test_replicas_are_in_different_racks_if_there_are_enough(
    racks: list[int], partitions: int, factor: int, drained: int
) -> None:
    nodes = [
        NodeFacts(f"{rack}-{place}", (f"rack={rack}",))
        for rack, size in enumerate(racks)
        for place in range(size)
    ]

    def check_racks(placed: PartitionMap, least: int) -> None:
        for partition in placed.partitions:
            assert len({node.partition("-")[0] for node in partition.replicas}) >= least

    placed = place(nodes, partitions, factor)
    check_racks(placed, factor)
    nodes = changed(nodes, nodes[drained % len(nodes)].id, draining=True)
    left = len({node.labels for node in nodes if node.usable})
    check_racks(settled(nodes, placed), min(factor, left))


def test_a_small_rack_is_fuller_and_the_rest_is_even() -> None:
    nodes = [
        NodeFacts(name, (f"rack={rack}",)) for name, rack in zip("abcde", "12333", strict=True)
    ]
    held = counts(place(nodes, 30, 3), nodes)
    assert held == {"a": 30, "b": 30, "c": 10, "d": 10, "e": 10}


def test_a_lost_domain_is_filled_up_by_the_others_and_spread_again_when_it_is_back() -> None:
    nodes = [
        NodeFacts(name, (f"rack={rack}",)) for name, rack in zip("abcdef", "112233", strict=True)
    ]
    placed = place(nodes, 12, 3)
    without = changed(changed(nodes, "e", lost=True), "f", lost=True)
    alone = settled(without, placed)
    check_complete(alone, without, 3)
    again = settled(nodes, alone)
    assert cost(nodes, tuple(each.replicas for each in again.partitions))[0] == 0
    assert gap(again, nodes) <= 1


def test_where_no_single_move_helps_two_do() -> None:
    nodes = [
        NodeFacts(name, (f"rack={rack}",)) for name, rack in zip("abcdef", "200120", strict=True)
    ]
    placed = partition_map.first(2, ["be", "ac", "ce"])
    after = settled(nodes, placed)
    best = min(cost(nodes, other) for other in every_placement(nodes, 3, 2))
    assert cost(nodes, tuple(each.replicas for each in after.partitions)) == best


def test_a_dead_replica_stays_where_a_living_one_can_go_for_it() -> None:
    nodes = [NodeFacts(name, (f"rack={rack}",)) for name, rack in zip("abcd", "1123", strict=True)]
    placed = partition_map.first(3, ["abc"])
    for dead, gone in (("a", "b"), ("b", "a")):
        after = rebalance(changed(nodes, dead, alive=False), placed)
        assert after is not None
        assert departures(placed, after) == [(1, gone)]


def test_the_order_of_sets_does_not_matter() -> None:
    """Node ids hash differently in each process; all must come to the same map."""
    code = """if True:
        from cluster.leadership import leader_transfers
        from cluster.membership import Configuration, Member
        from cluster.placement import NodeFacts, place, rebalance
        nodes = [NodeFacts(f"n{i}", (f"rack={i % 4}",)) for i in range(11)]
        first = place(nodes, 40, 3)
        found = {p.id: Configuration(1, tuple(map(Member, p.replicas))) for p in first.partitions}
        leaders = {p.id: p.replicas[0] for p in first.partitions}
        print(first, leader_transfers(first, found, leaders, nodes))
        print(rebalance(nodes[2:], first), rebalance([*nodes, NodeFacts("z")], first))
    """
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            cwd=ROOT,
            check=True,
            capture_output=True,
        ).stdout
        for seed in "1234"
    }
    assert len(outputs) == 1


def test_load_decides_between_equals_and_moves_nothing_alone() -> None:
    nodes = plain(3)
    placed = partition_map.first(1, ["a", "a", "b", "b"])
    heavy = [
        replace(nodes[0], load={1: 900, 2: 10}),
        replace(nodes[1], load={3: 5, 4: 6}),
        nodes[2],
    ]
    after = rebalance(heavy, placed)
    assert after is not None
    assert arrivals(placed, after) == [(1, "c")]
    assert rebalance(heavy, after) is None


def test_what_a_node_held_is_spread_over_many() -> None:
    """Nodes share partitions with all others, so that no two carry the repair of a third."""
    placed = place(plain(7), 35, 3)
    pairs = Counter(
        pair for each in placed.partitions for pair in combinations(sorted(each.replicas), 2)
    )
    assert len(pairs) == 21
    assert max(pairs.values()) - min(pairs.values()) <= 2


def test_another_replication_factor_adds_and_takes_away() -> None:
    nodes = plain(5)
    placed = place(nodes, 10, 3)
    more = rebalance(nodes, placed, 5)
    assert more is not None
    check_complete(more, nodes, 5)
    fewer = rebalance(nodes, more, 3)
    assert fewer is not None
    check_complete(fewer, nodes, 3)
    assert arrivals(more, fewer) == []
    assert gap(settled(nodes, fewer), nodes) <= 1
    assert rebalance(nodes, placed, 3) is None


@pytest.mark.parametrize(
    ("nodes", "partitions", "factor", "field"),
    [
        ([], 1, 1, "nodes"),
        ([NodeFacts("a", draining=True)], 1, 1, "nodes"),
        ([NodeFacts("a"), NodeFacts("a")], 1, 1, "nodes"),
        ([NodeFacts(str(each)) for each in range(NODES_MAX + 1)], 1, 1, "nodes"),
        ([NodeFacts("a")], 0, 1, "partitions"),
        ([NodeFacts("a")], 257, 1, "partitions"),
        ([NodeFacts("a")], 1, 0, "replication_factor"),
        ([NodeFacts("a")], 1, 8, "replication_factor"),
    ],
)
def test_bad_input_is_named(
    nodes: list[NodeFacts], partitions: int, factor: int, field: str
) -> None:
    with pytest.raises(InvalidPartitionMap) as caught:
        place(nodes, partitions, factor)
    assert caught.value.field == field
    with pytest.raises(InvalidPartitionMap):
        rebalance(plain(3), place(plain(3), 1, 1), 0)
