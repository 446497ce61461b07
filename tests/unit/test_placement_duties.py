"""What the system group's leader does about the partitions, by what the nodes say."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.membership import Add, Configuration, Member, Promote, Remove
from cluster.moves import Action, TransferLeadership
from cluster.partition_map import Partition, PartitionMap, warnings
from node.clock import SystemClock
from node.errors import Conflict, Unavailable
from node.overview import PartitionFacts, ReplicaFacts, Sight
from node.placement_duties import PlacementDuties
from node.system_state import NodeRecord
from tests.unit.member_group import IDS, member

ONE, TWO, THREE, FOUR = IDS[1:5]
ALL = (ONE, TWO, THREE, FOUR)


def configured(index: int, *voters: str, learners: tuple[str, ...] = ()) -> Configuration:
    found = [*(Member(node) for node in voters), *(Member(node, False) for node in learners)]
    return Configuration(index, tuple(sorted(found)))


def said(node: str, found: Configuration, leader: str | None, **changes: Any) -> ReplicaFacts:
    facts = {
        "node": node, "group": 1, "role": "leader" if leader == node else "follower",
        "leader": leader, "term": 2, "last_index": 50, "commit_index": 50, "applied_index": 50,
        "revision": 9, "keys": 5, "value_bytes": 5, "configuration": found, "committed": True,
    }  # fmt: skip
    return ReplicaFacts(**{**facts, **changes})


class State:
    """`SystemState`: what is put into it is there at once."""

    def __init__(self, found: PartitionMap | None) -> None:
        self.map = found
        self.nodes: dict[str, NodeRecord] = {}
        self.done: list[object] = []

    def refresh(self) -> bool:
        return True

    def node(self, node: str) -> NodeRecord:
        return self.nodes.get(node, NodeRecord())

    async def put_map(self, changed: PartitionMap, deadline: float) -> None:
        self.map = changed

    async def put_node(self, node: str, record: NodeRecord, deadline: float) -> None:
        self.nodes[node] = record

    async def forget_node(self, node: str, deadline: float) -> None:
        self.done.append(("forget", node))
        self.nodes.pop(node, None)


class Leader:
    """Node 1, which leads the system group of `nodes`; one partition, whose first replicas
    are on the first three."""

    def __init__(self, nodes: tuple[str, ...] = ALL, **changes: Any) -> None:
        self.members = Configuration(5, tuple(sorted(member(IDS.index(node)) for node in nodes)))
        self.committed = self.members
        self.facts: Mapping[str, ReplicaFacts] = {
            node: said(node, configured(3, ONE, TWO, THREE), TWO) for node in (ONE, TWO, THREE)
        }
        self.answered = frozenset(nodes)
        self.steps: list[Action] = []
        self.removed: list[str] = []
        self.state = State(self.map_of(2, (ONE, TWO, THREE)))
        group = SimpleNamespace(
            configuration=lambda: self.members,
            committed_configuration=lambda: self.committed,
            role=lambda: SimpleNamespace(leader=ONE),
        )
        partitions = SimpleNamespace(
            state=self.state,
            count=1,
            system=SimpleNamespace(group=group),
            replica=lambda group: SimpleNamespace(steps=self),
        )
        config = SimpleNamespace(
            node=SimpleNamespace(id=ONE, labels=()),
            cluster=SimpleNamespace(partitions=1, replication_factor=3),
        )
        calls = SimpleNamespace(of=lambda group: self)
        parts: Any = (config, partitions, self, self, calls, SystemClock())
        self.duties = PlacementDuties(*parts)

    @staticmethod
    def map_of(epoch: int, *replicas: tuple[str, ...]) -> PartitionMap:
        founders = (ONE, TWO, THREE)
        return PartitionMap(
            epoch,
            3,
            tuple(Partition(number, founders, nodes) for number, nodes in enumerate(replicas, 1)),
        )

    # --- What it asks: Overview, MemberService, Caller, Steps ------------------------------

    async def gather(self, nodes: object, timeout_seconds: float) -> Sight:
        groups = {1: PartitionFacts(1, self.facts)} if self.facts else {}
        return Sight(self.answered, groups)

    async def remove(self, node: str, deadline: float) -> None:
        self.removed.append(node)

    async def call(self, node: str, method: int, payload: bytes, seconds: float) -> bytes:
        self.steps.append(payload)  # type: ignore[arg-type]
        return b"\x00"

    async def take(self, action: Action, index: int, seconds: float) -> None:
        self.steps.append(action)

    def moved(self, found: Configuration, **changes: Any) -> None:
        """All members say that this is in force."""
        self.facts = {node: said(node, found, ONE, **changes) for node in found.ids}


# --- The first map -----------------------------------------------------------------------


async def test_the_first_map_is_made_of_all_members() -> None:
    leader = Leader((ONE, TWO, THREE))
    leader.state.map = None
    assert await leader.duties.act()
    assert leader.state.map is not None
    assert (leader.state.map.epoch, set(leader.state.map.partitions[0].replicas)) == (
        1, {ONE, TWO, THREE},
    )  # fmt: skip


UNSETTLED = [
    said(TWO, configured(3, ONE, TWO, THREE), None),  # nobody leads
    said(TWO, configured(3, ONE, TWO, THREE), TWO, committed=False),
    said(TWO, configured(0, ONE, TWO, THREE), TWO),  # the log names nobody
    None,  # nobody answers
]


@pytest.mark.parametrize("newest", UNSETTLED)
async def test_the_first_map_stays_until_the_members_are_committed(
    newest: ReplicaFacts | None,
) -> None:
    """A founder that restarts under a later map has no vote unless its log gives it one."""
    leader = Leader()
    leader.state.map = Leader.map_of(1, (ONE, TWO, THREE))
    leader.state.nodes[THREE] = NodeRecord(draining=True)
    facts = leader.facts
    leader.facts = {TWO: newest} if newest else {}
    assert await leader.duties.act()
    assert leader.state.map.epoch == 1
    leader.facts = facts
    await leader.duties.act()
    assert leader.state.map.epoch == 2
    assert set(leader.state.map.partitions[0].replicas) == {ONE, TWO, FOUR}


# --- Steps ---------------------------------------------------------------------------------


async def test_a_learner_is_added_once_its_replica_is_there() -> None:
    leader = Leader()
    leader.state.map = Leader.map_of(3, (ONE, TWO, FOUR))
    leader.moved(configured(3, ONE, TWO, THREE))
    await leader.duties.act()
    assert leader.steps == []
    leader.facts = {**leader.facts, FOUR: said(FOUR, configured(0, learners=(FOUR,)), None, term=0)}
    await leader.duties.act()
    (step,) = leader.steps
    assert isinstance(step, Add)
    assert step.member.id == FOUR


@pytest.mark.parametrize(
    ("last_index", "applied_index", "promoted"),
    [(50, 50, True), (50, 10, True), (2, 2, False), (4000, 10, False)],
)
async def test_a_learner_that_has_caught_up_is_promoted(
    last_index: int, applied_index: int, promoted: bool
) -> None:
    leader = Leader()
    leader.state.map = Leader.map_of(3, (ONE, TWO, FOUR))
    found = configured(7, ONE, TWO, THREE, learners=(FOUR,))
    leader.moved(found, last_index=max(50, last_index))
    late = said(FOUR, found, ONE, last_index=last_index, applied_index=applied_index)
    leader.facts = {**leader.facts, FOUR: late}
    await leader.duties.act()
    assert (leader.steps == [Promote(FOUR)]) is promoted


async def test_a_voter_too_many_is_removed() -> None:
    leader = Leader()
    leader.state.map = Leader.map_of(3, (ONE, TWO, FOUR))
    leader.moved(configured(9, ONE, TWO, THREE, FOUR))
    assert await leader.duties.act()
    assert leader.steps == [Remove(THREE)]


async def test_a_leader_that_is_to_go_hands_over_first() -> None:
    leader = Leader()
    leader.state.map = Leader.map_of(3, (TWO, THREE, FOUR))
    leader.moved(configured(9, ONE, TWO, THREE, FOUR))
    await leader.duties.act()
    (step,) = leader.steps
    assert isinstance(step, TransferLeadership)


# --- Leaving -------------------------------------------------------------------------------


def leaving() -> Leader:
    """Node 4 is to leave. It holds nothing and is to hold nothing."""
    leader = Leader()
    leader.state.nodes[FOUR] = NodeRecord(draining=True, removing=True)
    return leader


async def test_a_node_that_holds_nothing_is_let_go() -> None:
    leader = leaving()
    await leader.duties.act()
    assert leader.removed == [FOUR]


@pytest.mark.parametrize(
    "found",
    [
        configured(9, ONE, TWO, THREE, FOUR),
        configured(9, ONE, TWO, THREE, learners=(FOUR,)),
    ],
)
async def test_a_node_that_still_holds_something_stays(found: Configuration) -> None:
    leader = leaving()
    leader.moved(found)
    assert await leader.duties.act(), "there is more to do"
    assert leader.removed == []


@pytest.mark.parametrize("newest", UNSETTLED)
async def test_only_what_a_leader_says_and_has_committed_counts(
    newest: ReplicaFacts | None,
) -> None:
    """A follower may be behind, what is not committed may be taken back, and who does not
    answer may hold anything."""
    leader = leaving()
    leader.facts = {TWO: newest} if newest else {}
    assert await leader.duties.act()
    assert leader.removed == []


async def test_too_few_nodes_keep_what_there_can_be_and_say_so() -> None:
    """Three replicas wanted, three nodes, one of them leaves: two are left."""
    leader = Leader((ONE, TWO, THREE))
    leader.state.nodes[THREE] = NodeRecord(draining=True, removing=True)
    await leader.duties.act()
    assert leader.state.map is not None
    assert leader.state.map.partitions[0].replicas == (ONE, TWO)
    assert any("fewer than 3 replicas" in each for each in warnings(leader.state.map))
    await leader.duties.act()
    assert leader.removed == []
    assert len(leader.steps) == 1
    leader.moved(configured(9, ONE, TWO))
    await leader.duties.act()
    assert leader.removed == [THREE]


async def test_a_node_is_forgotten_once_its_removal_is_committed() -> None:
    leader = leaving()
    leader.members = Configuration(8, tuple(member(place) for place in (1, 2, 3)))
    await leader.duties.act()
    assert leader.state.done == [], "a new leader may take the removal back"
    leader.committed = leader.members
    await leader.duties.act()
    assert leader.state.done == [("forget", FOUR)]
    assert leader.state.nodes == {}


# --- Going on ----------------------------------------------------------------------------


@pytest.mark.parametrize("error", [Conflict("changed meanwhile"), Unavailable("no quorum")])
async def test_what_is_refused_is_looked_at_again(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = Leader()
    leader.state.nodes[THREE] = NodeRecord(draining=True)

    async def refuse(changed: PartitionMap, deadline: float) -> None:
        raise error

    with monkeypatch.context() as refusing:
        refusing.setattr(leader.state, "put_map", refuse)
        assert await leader.duties._act_safely()
    assert await leader.duties._act_safely()
    assert leader.state.map is not None
    assert leader.state.map.epoch == 3
