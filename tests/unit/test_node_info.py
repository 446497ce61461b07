"""What a node says of itself and of the others: roles, addresses, readiness."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster.errors import PeerUnreachable
from cluster.log_rounds import SyncFigures
from cluster.membership import Configuration
from engines.interfaces import StateStats
from node import config_schema
from node.clock import SystemClock
from node.config_schema import ClusterSection, NodeConfig, NodeSection, RedisSection
from node.datadir import DiskUsage
from node.node_info import LEARNER_STALENESS_SECONDS_MAX, LocalNodeInfo, redis_address
from node.views import IntegrityView
from tests.unit.member_group import IDS, ScriptedGroup, configuration, member

CLUSTER = "11111111-1111-4111-8111-111111111111"
LEARNER = configuration(member(1, voter=False), member(2), member(3))


class Peers:
    """A forwarder between the nodes of one test."""

    def __init__(self) -> None:
        self.handlers: dict[str, Callable[[], bytes]] = {}

    def of(self, node: str) -> SimpleNamespace:
        async def status(peer: str, timeout_seconds: float) -> bytes:
            if peer not in self.handlers:
                raise PeerUnreachable("gone", definite=True)
            return self.handlers[peer]()

        def on_status(handler: Callable[[], bytes]) -> None:
            self.handlers[node] = handler

        return SimpleNamespace(status=status, on_status=on_status)


def config(place: int, *, join: bool = False) -> NodeConfig:
    members = tuple(
        config_schema.Member(each.id, each.name, each.peer, each.http)
        for each in map(member, (1, 2, 3))
    )
    return NodeConfig(
        node=NodeSection(IDS[place], f"node{place}", Path("data")),
        cluster=ClusterSection(CLUSTER, Path("secret"), members, join),
    )


SOUND = IntegrityView(0, "serving", None, None, {}, None, None)


def info(
    group: ScriptedGroup,
    place: int = 1,
    *,
    join: bool = False,
    peers: Peers | None = None,
    redis: RedisSection | None = None,
    integrity: IntegrityView = SOUND,
) -> LocalNodeInfo:
    data_dir = SimpleNamespace(root=Path("data"), usage=lambda: DiskUsage(10, 20, 30, 40))
    state = StateStats(*(0 for _ in StateStats.__dataclass_fields__))
    machine = SimpleNamespace(revision=9, stats=lambda: state)
    return LocalNodeInfo(
        replace(config(place, join=join), redis=redis or RedisSection()),
        data_dir,
        group,
        machine,
        (peers or Peers()).of(IDS[place]),
        SystemClock(),
        SimpleNamespace(stats=machine.stats, view=lambda: integrity),
        lambda: SyncFigures((), 0.0, 0),
    )


def test_status_tells_membership_log_and_room() -> None:
    group = ScriptedGroup()
    status = info(group).local_status()
    assert (status.role, status.voter, status.configuration_index) == ("leader", True, 3)
    assert (status.log_first_index, status.snapshot_index) == (31, 40)
    assert status.durability["log_compaction"] is True
    assert status.durability["voters"] == 3
    disk = status.disk
    assert (disk.snapshot_bytes, disk.free_bytes, disk.room) == (30, 40, True)
    assert disk.free_bytes_min == 128 << 20
    group.room = False
    assert not info(group).local_status().disk.room


def test_a_node_whose_state_is_being_rebuilt_says_so_and_is_not_ready() -> None:
    group = ScriptedGroup()
    damaged = IntegrityView(0, "quarantined", "a bit flipped", 9, {"read": 1}, None, None)
    found = info(group, integrity=damaged)
    assert found.local_status().integrity == (damaged,)
    (failed,) = [check for check in found.readiness() if not check.ok]
    assert (failed.name, failed.code) == ("state", "REPLICA_QUARANTINED")
    assert "a bit flipped" in failed.message
    assert all(check.ok for check in info(group).readiness())


def test_a_node_without_a_vote_is_a_learner() -> None:
    group = ScriptedGroup(LEARNER, leader=IDS[2])
    status = info(group).local_status()
    assert (status.role, status.voter) == ("learner", False)
    assert status.durability["voters"] == 2


def checks(about: LocalNodeInfo) -> dict[str, tuple[bool, str, str]]:
    return {each.name: (each.ok, each.code, each.message) for each in about.readiness()}


def test_a_voter_that_keeps_up_is_ready() -> None:
    found = checks(info(ScriptedGroup()))
    assert list(found) == ["leader", "quorum", "applied", "member", "disk", "state"]
    assert all(ok for ok, _, _ in found.values())


def test_a_node_whose_disk_is_full_is_not_ready() -> None:
    group = ScriptedGroup()
    group.room = False
    about = info(group)
    ok, code, message = checks(about)["disk"]
    assert (ok, code) == (False, "DISK_FULL")
    assert "storage.free_bytes_min" in message
    failed = next(each for each in about.readiness() if not each.ok).error()
    assert (failed.code, failed.status) == ("DISK_FULL", 507)


@pytest.mark.parametrize(
    ("found", "join", "staleness", "ready"),
    [
        (LEARNER, True, LEARNER_STALENESS_SECONDS_MAX + 1, False),
        (LEARNER, True, 0.1, True),
        (configuration(member(2), member(3)), True, 0.0, False),
        (LEARNER._replace(index=0), True, 0.1, False),
        (configuration(member(1), member(2), index=0), False, float("inf"), True),
    ],
)
def test_a_node_is_ready_once_it_is_a_member_that_keeps_up(
    found: Configuration, join: bool, staleness: float, ready: bool
) -> None:
    group = ScriptedGroup(found, leader=IDS[2])
    group.staleness = staleness
    ok, code, _ = checks(info(group, join=join))["member"]
    assert ok == ready
    assert ready or code == "STALE"


async def test_the_members_of_the_log_are_asked_and_not_those_of_the_file() -> None:
    peers = Peers()
    found = configuration(
        member(1), member(2)._replace(peer="", http=""), member(4, voter=False, incarnation="")
    )
    info(ScriptedGroup(found, self_id=IDS[4]), 3, peers=peers)  # somebody else's words
    peers.handlers[IDS[4]] = peers.handlers.pop(IDS[3])
    view = await info(ScriptedGroup(found), peers=peers).cluster_status(1.0)
    own, silent, learner = view.nodes
    assert (own.id, own.role, own.voter, own.healthy) == (IDS[1], "leader", True, True)
    assert (silent.id, silent.role, silent.voter, silent.healthy) == (IDS[2], None, True, False)
    assert (silent.peer, silent.http) == (member(2).peer, member(2).http), "from the file"
    assert (learner.voter, learner.healthy) == (False, True)


async def test_each_node_says_where_its_redis_door_is() -> None:
    peers = Peers()
    info(ScriptedGroup(self_id=IDS[2]), 2, peers=peers, redis=RedisSection(port=1000))
    about = info(ScriptedGroup(), peers=peers, redis=RedisSection(enabled=False))
    own, other, silent = (await about.cluster_status(1.0)).nodes
    assert (own.redis, other.redis, silent.redis) == (None, "127.0.0.1:1000", None)
    assert about.local_status().redis is None
    assert info(ScriptedGroup()).local_status().redis == "127.0.0.1:7431"
    assert info(ScriptedGroup()).local_status().security["redis_tls"] is False


@pytest.mark.parametrize(
    ("host", "http", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:7411", "127.0.0.1:7431"),
        ("::1", "http://127.0.0.1:7411", "[::1]:7431"),
        ("redis.example", "https://node1.example:7411", "redis.example:7431"),
        # Where it listens on all addresses, it is found as the HTTP door is.
        ("0.0.0.0", "https://node1.example:7411", "node1.example:7431"),
        ("::", "https://[fd00::1]:7411", "[fd00::1]:7431"),
    ],
)
def test_the_address_of_the_redis_door_is_one_that_others_can_use(
    host: str, http: str, address: str
) -> None:
    usual = config(1)
    members = (replace(usual.cluster.members[0], http=http), *usual.cluster.members[1:])
    cluster = replace(usual.cluster, members=members)
    assert redis_address(replace(usual, cluster=cluster, redis=RedisSection(host=host))) == address


async def test_nodes_of_other_versions_may_say_more_or_less() -> None:
    """As during a rolling restart: what is unknown is null, and nothing fails."""
    peers = Peers()
    info(ScriptedGroup(self_id=IDS[2]), 2, peers=peers)
    said = json.loads(peers.handlers[IDS[2]]())
    assert said.pop("redis")
    peers.handlers[IDS[2]] = lambda: json.dumps({**said, "novel": 1}).encode()
    other = (await info(ScriptedGroup(), peers=peers).cluster_status(1.0)).nodes[1]
    assert asdict(other) == {**said, "redis": None}


async def test_another_node_does_not_decide_who_has_a_vote() -> None:
    peers = Peers()
    # Node 2 does not know yet that it was promoted.
    old = configuration(member(1), member(2, voter=False))
    info(ScriptedGroup(old, self_id=IDS[2]), 2, peers=peers)
    assert json.loads(peers.handlers[IDS[2]]())["role"] == "learner"
    new = configuration(member(1), member(2), index=4)
    view = await info(ScriptedGroup(new), peers=peers).cluster_status(1.0)
    assert (view.nodes[1].role, view.nodes[1].voter) == ("learner", True)


def test_the_leader_is_where_the_log_says() -> None:
    group = ScriptedGroup(leader=IDS[2])
    about = info(group)
    assert about.leader_http() == member(2).http
    group.found = configuration(member(1), member(2)._replace(http="http://moved:1"))
    assert about.leader_http() == "http://moved:1"
    group.found = configuration(member(1), member(2)._replace(http=""))
    assert about.leader_http() == member(2).http
    group.leader = None
    assert about.leader_http() is None
