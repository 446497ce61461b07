"""What a node does for the membership by itself: the decision, and what it does with it."""

from __future__ import annotations

import pytest

from cluster.errors import ChangeRefused
from cluster.membership import Configuration, Promote, Update
from node.clock import SystemClock
from node.member_duties import (
    REST_SECONDS_MAX,
    REST_SECONDS_MIN,
    MemberDuties,
    Rests,
    Sight,
    decide,
)
from tests.unit.member_group import IDS, configuration, member
from tests.unit.test_members import Cluster

NOTHING = (None, None, ())
LEARNER = member(3, voter=False)
WITH_LEARNER = configuration(member(1), member(2), LEARNER)
ALL = {IDS[place]: f"i{place}" for place in (2, 3)}


def sight(found: Configuration, **changes: object) -> Sight:
    """Node 1, which leads, is connected to all and remembers all."""
    usual = Sight(
        found, committed=True, leads=True, led=True, own=member(1), connected=ALL, recorded=ALL
    )
    return usual._replace(**changes)  # type: ignore[arg-type]


def test_nothing_is_done_where_nothing_is_amiss() -> None:
    assert decide(sight(configuration(member(1), member(2), member(3))), Rests(), 0.0) == NOTHING


def test_nothing_is_done_before_the_log_names_members() -> None:
    first = configuration(member(1)._replace(incarnation=""), LEARNER, index=0)
    assert decide(sight(first), Rests(), 0.0) == NOTHING


@pytest.mark.parametrize(
    "said",
    [
        {"name": "other"},
        {"peer": "127.0.0.1:1"},
        {"http": "http://127.0.0.1:1"},
        {"incarnation": "former"},
        {"incarnation": ""},
    ],
)
@pytest.mark.parametrize("voter", [True, False])
def test_a_node_tells_the_leader_what_it_is(said: dict[str, str], voter: bool) -> None:
    own = member(1)
    found = configuration(own._replace(voter=voter, **said), member(2), member(3))
    expected = Update(own.id, own.name, own.peer, own.http, own.incarnation)
    assert decide(sight(found), Rests(), 0.0).update == expected
    assert decide(sight(found, led=False), Rests(), 0.0).update is None
    rests = Rests()
    rests.refused(own.id, 0.0)
    assert decide(sight(found), rests, REST_SECONDS_MIN / 2).update is None
    assert decide(sight(found), rests, REST_SECONDS_MIN).update == expected


def test_a_node_that_is_no_member_has_nothing_to_tell() -> None:
    assert decide(sight(configuration(member(2), member(3))), Rests(), 0.0) == NOTHING


def test_the_leader_promotes_a_learner_that_is_there() -> None:
    assert decide(sight(WITH_LEARNER), Rests(), 0.0).promote == IDS[3]
    assert decide(sight(WITH_LEARNER, leads=False), Rests(), 0.0).promote is None


@pytest.mark.parametrize("connected", [{}, {IDS[3]: "another"}])
def test_a_learner_that_is_not_there_is_not_promoted(connected: dict[str, str]) -> None:
    assert decide(sight(WITH_LEARNER, connected=connected), Rests(), 0.0).promote is None


def test_a_learner_whose_data_folder_is_not_known_is_not_promoted() -> None:
    found = configuration(member(1), member(2), LEARNER._replace(incarnation=""))
    assert decide(sight(found), Rests(), 0.0).promote is None


def test_learners_that_lag_do_not_keep_others_waiting() -> None:
    found = configuration(member(1), member(2, voter=False), LEARNER)
    rests = Rests()
    assert decide(sight(found), rests, 0.0).promote == IDS[2]
    rests.refused(IDS[2], 0.0)
    assert decide(sight(found), rests, 0.0).promote == IDS[3]
    rests.refused(IDS[3], 0.1)
    assert decide(sight(found), rests, 0.1).promote is None
    assert decide(sight(found), rests, 1.0).promote == IDS[2], "it rested longest"


def test_rests_grow_to_a_bound_and_end_with_success() -> None:
    rests, now = Rests(), 0.0
    for expected in (0.2, 0.4, 0.8, 1.6, 2.0, 2.0):
        rests.refused(IDS[3], now)
        assert rests.until[IDS[3]] == pytest.approx(now + expected)
        now += expected
    assert REST_SECONDS_MAX == 2.0
    rests.made(IDS[3])
    rests.refused(IDS[3], now)
    assert rests.until[IDS[3]] == pytest.approx(now + REST_SECONDS_MIN)
    rests.keep(frozenset(IDS[:2]))
    assert not rests.until
    assert not rests.seconds


def test_data_folders_of_a_committed_configuration_are_remembered() -> None:
    found = configuration(member(1), member(2, incarnation="new"), member(3, incarnation=""))
    assert decide(sight(found), Rests(), 0.0).record == ((IDS[2], "new"),)
    assert decide(sight(found, committed=False), Rests(), 0.0).record == ()
    assert decide(sight(found, recorded={}), Rests(), 0.0).record == ((IDS[2], "new"),)


class Peers:
    def __init__(self) -> None:
        self.connected = dict(ALL)
        self.recorded = dict(ALL)

    def incarnation(self, peer: str) -> str | None:
        return self.connected.get(peer)

    def recorded_incarnation(self, peer: str) -> str | None:
        return self.recorded.get(peer)

    def record_incarnation(self, peer: str, incarnation: str) -> None:
        self.recorded[peer] = incarnation


def duties(cluster: Cluster, place: int, peers: Peers) -> MemberDuties:
    return MemberDuties(
        member(place), cluster.groups[place], cluster.services[place], peers, SystemClock()
    )


async def test_the_leader_acts() -> None:
    cluster, peers = Cluster(WITH_LEARNER), Peers()
    peers.recorded = {}
    acting = duties(cluster, 1, peers)
    cluster.groups[1].refusals = [ChangeRefused("it lags")]
    await acting.act()
    assert peers.recorded == ALL
    await acting.act()
    assert cluster.groups[1].changes == [Promote(IDS[3])], "it rests"
    cluster.groups[1].commit_index = 2  # the configuration's is 3
    peers.recorded = {}
    await acting.act()
    assert peers.recorded == {}
    while IDS[3] not in cluster.groups[1].found.voters:
        await acting.act()


async def test_a_follower_reports_itself_to_the_leader() -> None:
    former = member(2, incarnation="former")
    cluster = Cluster(configuration(member(1), former, member(3)))
    await duties(cluster, 2, Peers()).act()
    own = member(2)
    assert cluster.groups[1].changes == [
        Update(own.id, own.name, own.peer, own.http, own.incarnation)
    ]
    assert cluster.groups[1].found.member(IDS[2]) == own._replace(voter=False)
    cluster.groups[2].found = cluster.groups[1].found
    await duties(cluster, 2, Peers()).act()
    assert len(cluster.groups[1].changes) == 1


async def test_a_report_that_fails_is_repeated_later() -> None:
    cluster = Cluster(configuration(member(1), member(2, incarnation=""), member(3)))
    cluster.groups[1].refusals = [ChangeRefused("the disk", "id")]
    acting = duties(cluster, 2, Peers())
    await acting.act()
    await acting.act()
    assert len(cluster.groups[1].changes) == 1
    while len(cluster.groups[1].changes) < 2:
        await acting.act()
