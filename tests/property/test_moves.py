"""Moves: whatever fails on the way, partitions end where they should and keep a majority."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cluster import partition_map
from cluster.leadership import leader_transfers
from cluster.membership import VOTERS_MAX, Add, Configuration, Member, Promote, Remove
from cluster.moves import (
    Action,
    Health,
    MoveLimits,
    Progress,
    Step,
    TransferLeadership,
    next_steps,
    progress,
)
from cluster.partition_map import PartitionMap
from cluster.placement import NodeFacts, place, rebalance
from tests.property.move_cluster import MoveCluster

NAMES = "abcdefghijkl"
ROUNDS_MAX = 600  # without faults: far more than any of these needs


def configuration(voters: str, learners: str = "", index: int = 5) -> Configuration:
    members = [Member(node) for node in voters] + [Member(node, False) for node in learners]
    return Configuration(index, tuple(sorted(members)))


# --- With faults -------------------------------------------------------------------------


def next_map(random: Random, current: PartitionMap, nodes: list[str]) -> PartitionMap | None:
    """What an operator may ask for: a node drains or comes, or anything at all."""
    factor = current.replication_factor
    if random.random() < 0.5:
        drained = set(random.sample(nodes, random.randint(0, len(nodes) - factor)))
        return rebalance([NodeFacts(node, draining=node in drained) for node in nodes], current)
    anywhere = {each.id: random.sample(nodes, factor) for each in current.partitions}
    return partition_map.successor(current, factor, anywhere)


def check_majorities(cluster: MoveCluster) -> None:
    """Invariants of every moment, as long as no more are dead than a partition survives."""
    factor = cluster.map.replication_factor
    for group in cluster.groups.values():
        voters = group.configuration.voters
        healthy = voters & cluster.alive
        assert len(healthy) > len(voters) // 2
        assert len(healthy) >= factor // 2 + 1
        assert len(voters) <= VOTERS_MAX


@given(
    seed=st.integers(0, 2**32),
    factor=st.integers(1, 7),
    spare=st.integers(0, 4),
    partitions=st.integers(1, 10),
    limits=st.builds(MoveLimits, st.integers(1, 5), st.integers(1, 3)),
)
def test_moves_end_where_they_should_and_every_moment_has_a_majority(
    seed: int, factor: int, spare: int, partitions: int, limits: MoveLimits
) -> None:
    random = Random(seed)
    nodes = list(NAMES[: factor + spare])
    first = place([NodeFacts(node) for node in nodes], partitions, factor)
    cluster = MoveCluster(random, nodes, first, limits, tolerated=(factor - 1) // 2)
    for _ in range(random.randint(1, 4)):
        if random.random() < 0.3 and len(nodes) < len(NAMES):
            nodes.append(NAMES[len(nodes)])
        cluster.map = next_map(random, cluster.map, nodes) or cluster.map
        for _ in range(random.randint(0, 30)):
            cluster.round(faults=True)
            check_majorities(cluster)
    cluster.dead.clear()
    rounds = 0
    while not cluster.settled:
        cluster.round(faults=False)
        check_majorities(cluster)
        rounds += 1
        assert rounds < ROUNDS_MAX, "it does not end"
    assert progress(
        cluster.map, {each: group.configuration for each, group in cluster.groups.items()}
    ) == Progress(partitions, partitions, partitions * factor, partitions * factor, 0, 0)
    cluster.known_under_way.clear()
    cluster.on_their_way.clear()
    cluster.done.clear()
    cluster.round(faults=False)
    assert cluster.done == [], "something is done where nothing is to be done"


@given(seed=st.integers(0, 2**32), partitions=st.integers(1, 8))
def test_without_faults_a_node_is_drained_with_the_fewest_changes(
    seed: int, partitions: int
) -> None:
    """Add, promote, remove for each replica that goes, and at no time a voter less."""
    nodes = list(NAMES[:5])
    first = place([NodeFacts(node) for node in nodes], partitions, 3)
    drained = rebalance([NodeFacts(node, draining=node == "a") for node in nodes], first)
    cluster = MoveCluster(Random(seed), nodes, drained or first, MoveLimits(), 0)
    while not cluster.settled:
        cluster.round(faults=False)
        for group in cluster.groups.values():
            assert 3 <= len(group.configuration.voters) <= 4
    kinds = Counter(type(step.action) for step in cluster.done)
    held = sum("a" in each.replicas for each in first.partitions)
    assert kinds == Counter({kind: held for kind in (Add, Promote, Remove) if held})


# --- One look ------------------------------------------------------------------------------

WANTED = "bcd"


def looked(
    voters: str,
    learners: str = "",
    *,
    dead: str = "",
    leader: str = "b",
    caught_up: str = "",
    wanted: str = WANTED,
) -> Action | None:
    current = partition_map.first(7, [wanted])
    health = Health(
        answering=frozenset("abcdefgh") - frozenset(dead),
        members={node: Member(node, peer=f"{node}:1") for node in "abcdefgh"},
        leaders={1: leader},
        caught_up={1: frozenset(caught_up)},
    )
    steps = next_steps(current, {1: configuration(voters, learners)}, health)
    assert all(step.leader == leader and step.index == 5 for step in steps)
    return steps[0].action if steps else None


ADD_D = Add(Member("d", peer="d:1"))


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        # As it should be, and one step after the other.
        (looked("bcd"), None),
        (looked("abc"), ADD_D),
        (looked("abc", "d"), None),
        (looked("abc", "d", caught_up="d"), Promote("d")),
        (looked("abcd"), Remove("a")),
        # The leader hands over to one that stays, and is not asked to remove itself.
        (looked("abcd", leader="a"), TransferLeadership("b")),
        (looked("abcd", leader="a", dead="b"), None),
        (looked("abcde", leader="a"), Remove("e")),
        # Learners: what is not wanted goes, what is dead waits and holds up nothing.
        (looked("bcd", "e"), Remove("e")),
        (looked("bcd", "e", dead="e"), Remove("e")),
        (looked("abc", "d", caught_up="d", dead="d"), None),
        (looked("abe", "c", dead="c"), ADD_D),
        (looked("abe", "c"), None),
        # A wanted voter is dead: no healthy one goes before it is back.
        (looked("abcd", dead="d"), None),
        (looked("abcd", dead="a"), Remove("a")),
        (looked("abc", dead="a"), ADD_D),
        (looked("abc", "d", dead="a", caught_up="d"), Promote("d")),
        (looked("abcde", dead="a"), Remove("a")),
        (looked("abcde", dead="b", leader="c"), Remove("a")),
        # No fewer replicas than before in the middle of an exchange of all.
        (looked("efg", leader="e"), Add(Member("b", peer="b:1"))),
        (looked("befg", leader="e"), Remove("f")),
        (looked("efg", dead="bcd", leader="e"), None),
        # Fewer replicas are wanted.
        (looked("bcdef", wanted="bcd"), Remove("e")),
        (looked("bcdef", wanted="bcd", dead="c"), Remove("e")),
        (looked("bcdf", wanted="bcd", dead="c"), None),
        (looked("abc", wanted="bc", dead="a"), Remove("a")),
        (looked("abcdef", wanted="bcdef", dead="af"), Remove("a")),
        # Without a majority nothing can be changed.
        (looked("abc", wanted="bc", dead="ac"), None),
        # Nobody to ask.
        (looked("abcd", dead="b", leader="b"), None),
    ],
)
def test_a_look_decides_on_one_step(action: Action | None, expected: Action | None) -> None:
    assert action == expected


def test_what_is_not_known_of_is_left_alone_and_not_counted_as_done() -> None:
    current = partition_map.first(3, ["abc", "abc", "abc"])
    found = {1: configuration("abe"), 2: configuration("abc", "d")}
    health = Health(frozenset("abcde"), {}, {1: "a"}, {})
    assert next_steps(current, found, health) == []  # 1: nobody knows where c is
    assert progress(current, found) == Progress(0, 3, 5, 9, 1, 1)


def test_the_partition_with_the_fewest_healthy_voters_comes_first() -> None:
    current = partition_map.first(3, ["abd", "abd", "abd"])
    found = {each: configuration("abc" if each < 3 else "abe") for each in (1, 2, 3)}
    health = Health(frozenset("abcd"), {"d": Member("d")}, {1: "a", 2: "b", 3: "a"}, {})
    steps = next_steps(current, found, health, MoveLimits(1, 1))
    assert steps == [Step(3, "a", 5, Add(Member("d")))]
    begun = replace(health, under_way=steps)
    assert next_steps(current, found, begun, MoveLimits(1, 1)) == []
    assert next_steps(current, found, begun, MoveLimits(3, 1)) == []
    assert [step.partition for step in next_steps(current, found, begun, MoveLimits(2, 2))] == [1]


# --- Leaders -------------------------------------------------------------------------------


Led = tuple[PartitionMap, dict[int, Configuration], dict[int, str]]


@st.composite
def led(draw: st.DrawFn) -> Led:
    nodes = NAMES[: draw(st.integers(1, 4))]
    held = draw(
        st.lists(st.sets(st.sampled_from(nodes), min_size=1, max_size=3), min_size=1, max_size=6)
    )
    current = partition_map.first(3, held)
    leaders = {each.id: draw(st.sampled_from(each.replicas)) for each in current.partitions}
    found = {each.id: configuration("".join(each.replicas)) for each in current.partitions}
    return current, found, leaders


def after(leaders: dict[int, str], steps: list[Step]) -> dict[int, str]:
    result = dict(leaders)
    for step in steps:
        assert result[step.partition] == step.leader
        assert isinstance(step.action, TransferLeadership)
        result[step.partition] = step.action.target
    return result


def squares(leaders: dict[int, str]) -> int:
    return sum(number**2 for number in Counter(leaders.values()).values())


def held_and_led(*partitions: str) -> Led:
    """Replicas of each, its leader first."""
    current = partition_map.first(3, partitions)
    found = {each.id: configuration("".join(each.replicas)) for each in current.partitions}
    return current, found, {place: held[0] for place, held in enumerate(partitions, 1)}


@given(led())
@example(held_and_led("a", "d", "ab", "dab", "abc"))  # evening out alone takes one too many
def test_no_other_choice_of_leaders_is_more_even_and_none_with_fewer_transfers(
    given_leaders: Led,
) -> None:
    current, found, leaders = given_leaders
    nodes = [NodeFacts(node) for node in NAMES[:4]]
    steps = leader_transfers(current, found, leaders, nodes)
    spread = after(leaders, steps)
    assert all(spread[each.id] in each.replicas for each in current.partitions)
    choices = [
        dict(enumerate(choice, 1))
        for choice in product(*(each.replicas for each in current.partitions))
    ]
    best = min(squares(choice) for choice in choices)
    assert squares(spread) == best
    fewest = min(
        sum(choice[each] != leaders[each] for each in leaders)
        for choice in choices
        if squares(choice) == best
    )
    assert len(steps) == fewest
    assert leader_transfers(current, found, spread, nodes) == []


@given(count=st.integers(3, 9), partitions=st.integers(1, 64), seed=st.integers(0, 2**32))
def test_leaders_of_a_placed_map_differ_by_one(count: int, partitions: int, seed: int) -> None:
    nodes = [NodeFacts(node) for node in NAMES[:count]]
    placed = place(nodes, partitions, 3)
    found = {each.id: configuration("".join(each.replicas)) for each in placed.partitions}
    random = Random(seed)
    leaders = {each.id: random.choice(each.replicas) for each in placed.partitions}
    steps = leader_transfers(placed, found, leaders, nodes)
    held = Counter(after(leaders, steps).values())
    assert max(held[node.id] for node in nodes) - min(held[node.id] for node in nodes) <= 1
    assert leader_transfers(placed, found, leaders, list(reversed(nodes))) == steps


def test_nodes_that_drain_hand_over_and_get_nothing() -> None:
    current = partition_map.first(3, ["abc"] * 4)
    found = {each: configuration("abc") for each in (1, 2, 3, 4)}
    nodes = [NodeFacts("a", draining=True), NodeFacts("b"), NodeFacts("c", alive=False)]
    steps = leader_transfers(current, found, {1: "a", 2: "a", 3: "b", 4: "c"}, nodes)
    # 4: its leader is dead, so it is elected and not handed over.
    assert [(step.partition, step.action) for step in steps] == [
        (1, TransferLeadership("b")),
        (2, TransferLeadership("b")),
    ]


def test_partitions_in_motion_keep_their_leaders_and_are_counted() -> None:
    current = partition_map.first(3, ["abc"] * 4)
    found = {1: configuration("abc", "d"), 2: configuration("abd"), 3: configuration("abc")}
    nodes = [NodeFacts(node) for node in "abcd"]
    steps = leader_transfers(current, found, {1: "a", 2: "a", 3: "a", 4: "a"}, nodes)
    assert [(step.partition, step.action) for step in steps] == [(3, TransferLeadership("b"))]
