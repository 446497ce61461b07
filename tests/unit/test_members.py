"""Changes of membership and leadership: where they run, and what their errors claim."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from cluster.errors import (
    ChangeRefused,
    ClusterError,
    DiskFull,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    PeerUnreachable,
    RemoteCallFailed,
)
from cluster.membership import Add, Change, Configuration, Promote, Remove, Update
from node.clock import SystemClock
from node.errors import Conflict, HivememError, NotFound, OutOfSpace, Unavailable
from node.forward import Forwarder, UnknownMember
from node.members import MemberService, hand_over
from tests.unit.member_group import IDS, Network, ScriptedGroup, configuration, member

CLOCK = SystemClock()


class Cluster:
    """Nodes 1, 2 and 3, which see one configuration; node 1 leads, and node 2 is asked."""

    def __init__(self, found: Configuration | None = None) -> None:
        self.network = Network()
        self.groups = {place: ScriptedGroup(found, self_id=IDS[place]) for place in (1, 2, 3)}
        self.services = {}
        for place, group in self.groups.items():
            transport = self.network.transport(IDS[place])
            forwarder = Forwarder(transport, group)
            self.services[place] = MemberService(IDS[place], group, transport, forwarder, CLOCK)

    def lead(self, place: int) -> None:
        """All know the new leader, and all that the old one knew."""
        found = max(group.found for group in self.groups.values())
        for group in self.groups.values():
            group.leader, group.found = IDS[place], found


def soon(seconds: float = 0.3) -> float:
    return CLOCK.monotonic() + seconds


def new_member():
    return member(4, voter=False, incarnation="")


@pytest.mark.parametrize("asked", [1, 2])
async def test_a_change_runs_at_the_leader_whoever_is_asked(asked: int) -> None:
    cluster = Cluster()
    view = await cluster.services[asked].add(new_member(), soon())
    assert cluster.groups[1].changes == [Add(new_member())]
    assert view.index == 4
    assert view.leader == IDS[1]
    assert new_member() in view.members
    view = await cluster.services[asked].promote(IDS[4], soon())
    assert new_member()._replace(voter=True) in view.members
    moved = Update(IDS[4], peer="127.0.0.1:9", http="http://127.0.0.1:8")
    view = await cluster.services[asked].update(moved, soon())
    assert {each.peer for each in view.members} >= {"127.0.0.1:9"}
    view = await cluster.services[asked].remove(IDS[4], soon())
    assert [each.id for each in view.members] == IDS[1:4]
    assert not cluster.groups[2].changes
    assert cluster.network.calls == (4 if asked == 2 else 0)


async def test_a_node_that_cannot_be_reached_is_not_added() -> None:
    cluster = Cluster()
    cluster.network.reachable = set()
    with pytest.raises(Conflict) as caught:
        await cluster.services[2].add(new_member(), soon())
    assert (caught.value.code, caught.value.field) == ("MEMBERSHIP_CHANGE_REFUSED", "peer")
    assert "127.0.0.1:7425 cannot be reached from the leader" in caught.value.message
    assert caught.value.definite
    assert not cluster.groups[1].changes


async def test_adding_a_member_again_changes_nothing_and_is_confirmed() -> None:
    cluster = Cluster()
    first = await cluster.services[2].add(new_member(), soon())
    cluster.network.reachable = set()  # it may be down by now: it is a member
    assert await cluster.services[2].add(new_member(), soon()) == first
    assert cluster.groups[1].changes[1:], "the group must say that it is committed"
    with pytest.raises(Conflict, match="is a member already, as node4") as caught:
        await cluster.services[2].add(new_member()._replace(peer="h:1"), soon())
    assert caught.value.field == "id"


async def test_names_and_addresses_are_each_members_own() -> None:
    cluster = Cluster()
    twin = new_member()._replace(name="node2")
    with pytest.raises(Conflict, match=r"name: .*node2") as caught:
        await cluster.services[2].add(twin, soon())
    assert caught.value.field == "name"


@pytest.mark.parametrize("asked", [1, 2])
async def test_a_change_of_a_stranger_is_not_found(asked: int) -> None:
    service = Cluster().services[asked]
    changes: list[Callable[[], Awaitable[object]]] = [
        lambda: service.remove(IDS[5], soon()),
        lambda: service.promote(IDS[5], soon()),
        lambda: service.update(Update(IDS[5], name="x"), soon()),
        lambda: service.transfer(IDS[5], soon()),
    ]
    for change in changes:
        with pytest.raises(NotFound, match="is not a member") as caught:
            await change()
        assert caught.value.code == "MEMBER_NOT_FOUND"
        assert caught.value.definite


async def test_what_is_refused_for_the_moment_is_tried_again_for_a_moment() -> None:
    cluster = Cluster()
    cluster.groups[1].refusals = [ChangeRefused("another change is under way")] * 2
    await cluster.services[2].update(Update(IDS[2], name="x"), soon(5))
    assert len(cluster.groups[1].changes) == 3
    cluster.groups[1].refusals = [ChangeRefused("it lags")] * 1000
    with pytest.raises(Conflict, match="it lags") as caught:
        await cluster.services[2].promote(IDS[2], soon(5), patience_seconds=0.0)
    assert (caught.value.code, caught.value.field) == ("MEMBERSHIP_CHANGE_REFUSED", None)
    assert len(cluster.groups[1].changes) == 4


async def test_a_refusal_that_names_a_field_is_final() -> None:
    cluster = Cluster()
    cluster.groups[1].refusals = [ChangeRefused("the last voter cannot be removed", "id")]
    with pytest.raises(Conflict, match=r"^id: the last voter") as caught:
        await cluster.services[2].remove(IDS[3], soon(5))
    assert caught.value.field == "id"


async def test_without_a_leader_nothing_was_changed() -> None:
    cluster = Cluster()
    cluster.groups[2].leader = None
    with pytest.raises(Unavailable) as caught:
        await cluster.services[2].remove(IDS[3], soon())
    assert (caught.value.code, caught.value.definite) == ("QUORUM_NOT_REACHED", True)


async def test_a_change_goes_on_when_a_leader_is_elected() -> None:
    cluster = Cluster()
    cluster.lead(3)
    cluster.groups[3].leader = None  # it does not know yet that it leads
    task = asyncio.create_task(cluster.services[2].remove(IDS[1], soon(10)))
    while not cluster.network.calls:
        await asyncio.sleep(0.001)
    cluster.groups[3].leader = IDS[3]
    assert [each.id for each in (await task).members] == [IDS[2], IDS[3]]


@pytest.mark.parametrize(
    ("error", "kind", "code", "definite"),
    [
        (PeerUnreachable("gone", definite=False), Unavailable, "OUTCOME_UNKNOWN", False),
        (RemoteCallFailed("broke", definite=False), Unavailable, "OUTCOME_UNKNOWN", False),
        (PeerUnreachable("not connected", definite=True), Unavailable, "QUORUM_NOT_REACHED", True),
        (NotLeader(None), Unavailable, "QUORUM_NOT_REACHED", True),
    ],
)
async def test_errors_say_whether_the_change_may_have_been_made(
    error: ClusterError, kind: type[HivememError], code: str, definite: bool
) -> None:
    cluster = Cluster()
    cluster.network.errors = [error] * 100
    with pytest.raises(kind) as caught:
        await cluster.services[2].remove(IDS[3], soon())
    assert (caught.value.code, caught.value.definite) == (code, definite)


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (DiskFull("no room"), OutOfSpace, "DISK_FULL"),
        (Overloaded("full"), Unavailable, "OVERLOADED"),
        (UnknownMember("who?", "id"), NotFound, "MEMBER_NOT_FOUND"),
    ],
)
async def test_errors_of_the_leader_travel(
    error: ClusterError, kind: type[HivememError], code: str
) -> None:
    cluster = Cluster()
    cluster.groups[1].refusals = [error]
    with pytest.raises(kind, match=str(error).replace("?", ".")) as caught:
        await cluster.services[2].remove(IDS[3], soon())
    assert (caught.value.code, caught.value.definite) == (code, True)


async def test_a_change_that_no_quorum_confirms_is_unknown() -> None:
    cluster = Cluster()
    cluster.groups[1].silent = True
    with pytest.raises(Unavailable, match="may or may not have been made") as caught:
        await cluster.services[1].remove(IDS[3], soon(0.05))
    assert (caught.value.code, caught.value.definite) == ("OUTCOME_UNKNOWN", False)


@pytest.mark.parametrize("asked", [1, 2])
async def test_a_leader_hands_over_before_its_successor_removes_it(asked: int) -> None:
    cluster = Cluster()
    cluster.groups[1].on_leader_change = lambda: cluster.lead(2)
    view = await cluster.services[asked].remove(IDS[1], soon(5))
    assert view.leader == IDS[2]
    assert [each.id for each in view.members] == [IDS[2], IDS[3]]
    assert cluster.groups[1].transfers == [None]
    assert not cluster.groups[1].changes
    assert cluster.groups[2].changes == [Remove(IDS[1])]


async def test_a_successor_that_is_new_is_given_a_moment() -> None:
    cluster = Cluster()
    cluster.groups[1].on_leader_change = lambda: cluster.lead(2)
    cluster.groups[2].refusals = [ChangeRefused("the leader is new")] * 3
    view = await cluster.services[1].remove(IDS[1], soon(5))
    assert [each.id for each in view.members] == [IDS[2], IDS[3]]


async def test_a_leader_that_nobody_can_follow_is_not_removed() -> None:
    cluster = Cluster()
    cluster.groups[1].refusals = [ChangeRefused("no other voter is connected", "target")] * 1000
    with pytest.raises(Conflict, match="no other voter is connected") as caught:
        await cluster.services[2].remove(IDS[1], soon(0.2))
    assert caught.value.field is None, "no field of this request is at fault"
    assert not cluster.groups[1].changes


async def test_a_leader_that_cannot_hand_over_is_certainly_not_removed() -> None:
    cluster = Cluster()
    cluster.groups[1].silent = True
    with pytest.raises(Conflict, match="could not be handed over") as caught:
        await cluster.services[1].remove(IDS[1], soon(0.1))
    assert caught.value.definite
    assert not cluster.groups[1].changes


async def test_the_last_voter_has_nobody_to_hand_over_to() -> None:
    cluster = Cluster(configuration(member(1), member(2, voter=False)))
    with pytest.raises(Conflict, match="the last voter cannot be removed"):
        await cluster.services[1].remove(IDS[1], soon())
    assert not cluster.groups[1].transfers


@pytest.mark.parametrize("asked", [1, 2])
@pytest.mark.parametrize("target", [None, IDS[3]])
async def test_leadership_is_transferred(asked: int, target: str | None) -> None:
    cluster = Cluster()
    leader = await cluster.services[asked].transfer(target, soon())
    assert leader == (target or IDS[2])
    assert cluster.groups[1].transfers == [target]


async def test_the_leader_keeps_a_leadership_that_it_has() -> None:
    cluster = Cluster()
    assert await cluster.services[2].transfer(IDS[1], soon()) == IDS[1]
    assert not cluster.groups[1].transfers


async def test_a_learner_cannot_lead() -> None:
    cluster = Cluster(configuration(member(1), member(2), member(3, voter=False)))
    with pytest.raises(Conflict, match=r"target: .* is a learner") as caught:
        await cluster.services[2].transfer(IDS[3], soon())
    assert caught.value.field == "target"


async def test_a_stopping_leader_hands_over() -> None:
    group = ScriptedGroup()
    await hand_over(group, 1.0)
    assert group.leader == IDS[2]


async def test_handing_over_never_keeps_a_node_from_stopping() -> None:
    group = ScriptedGroup()
    group.silent = True
    await hand_over(group, 0.01)
    group.silent = False
    group.refusals = [ChangeRefused("nobody has caught up")]
    await hand_over(group, 1.0)
    follower = ScriptedGroup(self_id=IDS[2])
    await hand_over(follower, 1.0)
    alone = ScriptedGroup(configuration(member(1), member(2, voter=False)))
    await hand_over(alone, 1.0)
    assert not follower.transfers
    assert not alone.transfers


@pytest.mark.parametrize(
    "change",
    [
        Add(member(4)),
        Promote(IDS[2]),
        Remove(IDS[2]),
        Update(IDS[2], "n", "p:1", "http://h:1", "inc"),
    ],
)
async def test_changes_travel_as_they_are(change: Change) -> None:
    network = Network()
    seen: list[Change] = []

    async def serve(received: Change, seconds: float) -> Configuration:
        seen.append(received)
        return configuration(member(1, incarnation="x"), index=9)

    async def transfer(target: str | None, seconds: float) -> str:
        raise OutcomeUnknown("?")

    Forwarder(network.transport(IDS[1]), ScriptedGroup()).on_membership(serve, transfer)
    asking = Forwarder(network.transport(IDS[2]), ScriptedGroup())
    answer = await asking.change_membership(IDS[1], change, 1.0)
    assert answer == configuration(member(1, incarnation="x"), index=9)
    assert seen == [change]
    with pytest.raises(OutcomeUnknown):
        await asking.transfer_leadership(IDS[1], None, 1.0)
