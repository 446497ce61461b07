"""Snapshots in a running cluster: made, sent, resumed, installed, and the log cut below."""

from __future__ import annotations

import pytest

from cluster.compaction import CompactionLimits
from cluster.errors import NotLeader
from cluster.group_limits import GroupLimits
from cluster.membership import Add, Member, Promote
from tests.simulation import schedules
from tests.simulation.driver import heartbeat
from tests.simulation.safe import SafeCluster

ONE_PER_ENTRY = GroupLimits(entry_commands_max=1)
KEEP_NOTHING = CompactionLimits(keep_entries=0)


def led(monkeypatch, compaction: CompactionLimits | None = None, size: int = 3) -> SafeCluster:
    cluster = SafeCluster(monkeypatch, size, limits=ONE_PER_ENTRY, compaction=compaction)
    cluster.elect("A")
    cluster.settle(2, quiet=True)
    return cluster


def lagging(monkeypatch, compaction: CompactionLimits | None = None) -> SafeCluster:
    """C was away while A and B went on; A and B have the same snapshot, and no log below."""
    cluster = led(monkeypatch, compaction)
    cluster.network.isolate("C")
    schedules.fill(cluster, "A", 20)
    cluster.settle(3, quiet=True)
    for name in "AB":
        cluster.compact(name)
    assert cluster.newest("A") == cluster.newest("B")
    return cluster


def receive_some(cluster: SafeCluster, leader: str = "A") -> int:
    """Let C get a part of the snapshot; returns its bytes."""
    receiver = cluster.group("C")._state.receiver
    while receiver.held_bytes == 0:
        heartbeat(cluster, leader)
        cluster.network.deliver("C", leader)
        while cluster.network.queue(leader, "C") and receiver.held_bytes == 0:
            cluster.network.deliver(leader, "C", 1)
        assert cluster.time < 1100, "nothing arrives"
    assert 0 < receiver.held_bytes < receiver.receiving.size
    return receiver.held_bytes


def first_pull(cluster: SafeCluster, leader: str) -> dict:
    """What C asks of `leader` first."""
    for _ in range(20):
        cluster.pair_round(leader, "C", None)
        cluster.advance(0.5)  # what was asked before is taken for lost
        heartbeat(cluster, leader)
        cluster.network.deliver(leader, "C", bulk=False)
        for message in cluster.messages("C", leader):
            if message["type"] == "snapshot_pull":
                return message
    raise AssertionError("nothing was asked for")


def converged(cluster: SafeCluster, rounds: int = 12) -> None:
    for name in cluster.up():
        cluster.network.rejoin(name)
    cluster.settle(rounds, quiet=True)
    cluster.check_healed()


# --- Sending and resuming --------------------------------------------------------------------


@pytest.mark.usefixtures("small_chunks")
def test_a_lagging_follower_gets_a_snapshot_while_writes_go_on(monkeypatch):
    cluster = lagging(monkeypatch, KEEP_NOTHING)
    snapshot = cluster.newest("A")
    cluster.network.rejoin("C")
    for i in range(12):
        outcome = cluster.put("A", b"on%d" % i)
        cluster.advance(0.11)
        cluster.no_elections()
        for name in "ABC":
            cluster.turn(name)
            cluster.sync(name)
        for pair in ("AB", "AC", "BA", "CA"):
            cluster.network.deliver(*pair, 3)
        cluster.turn("A")
        if i:
            assert cluster.outcomes[-2].acknowledged, "the others waited for the snapshot"
    assert outcome.calls <= 1
    converged(cluster)
    assert cluster.newest("C") == snapshot


@pytest.mark.usefixtures("small_chunks")
def test_receiving_goes_on_after_a_lost_connection(monkeypatch):
    cluster = lagging(monkeypatch)
    cluster.network.heal("A", "C")
    held = receive_some(cluster)
    cluster.network.cut("A", "C")
    cluster.network.heal("A", "C")
    heartbeat(cluster, "A")
    cluster.turn("C")
    while not (pulls := [m for m in cluster.messages("C", "A") if m["type"] == "snapshot_pull"]):
        cluster.network.deliver("C", "A")
        heartbeat(cluster, "A")
        cluster.network.deliver("A", "C", bulk=False)
        cluster.network.deliver("A", "C", 0)
        assert cluster.time < 1100
    assert pulls[0]["offset"] == held
    converged(cluster)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("seed", range(4))
def test_receiving_goes_on_after_a_crash_with_what_the_disk_kept(monkeypatch, seed):
    cluster = lagging(monkeypatch)
    cluster.rng.seed(seed)
    cluster.network.heal("A", "C")
    held = receive_some(cluster)
    cluster.crash("C")
    partial = cluster.nodes["C"].snapshots.disk.partial
    kept = len(partial.data) if partial is not None else 0
    assert kept <= held
    cluster.start("C")
    cluster.network.heal("A", "C")
    cluster.no_elections()
    assert first_pull(cluster, "A")["offset"] >= kept
    converged(cluster)


@pytest.mark.usefixtures("small_chunks")
def test_receiving_goes_on_from_another_leader_that_has_the_same_bytes(monkeypatch):
    cluster = lagging(monkeypatch)
    cluster.network.heal("A", "C")
    held = receive_some(cluster)
    cluster.network.isolate("A")
    cluster.network.heal("B", "C")
    cluster.no_elections()
    core = cluster.core("B")
    for name in "BC":
        cluster.core(name)._leader_heard_at = float("-inf")
    core._pre_votes = {"B", "C"}
    core._campaign_if_supported()
    offsets = []
    for _ in range(12):
        cluster.pair_round("B", "C")
        offsets += [m["offset"] for m in cluster.messages("C", "B") if m["type"] == "snapshot_pull"]
    assert cluster.is_leader("B")
    assert not offsets or offsets[0] >= held
    assert cluster.applied_index("C") >= cluster.newest("B").index
    converged(cluster)


@pytest.mark.usefixtures("small_chunks")
def test_the_next_leaders_other_snapshot_takes_the_place_of_the_first(monkeypatch):
    cluster = lagging(monkeypatch)
    cluster.network.heal("A", "C")
    receive_some(cluster)
    cluster.network.isolate("C")
    cluster.write("A", "more", 3)
    cluster.compact("B")
    cluster.network.isolate("A")
    cluster.network.heal("B", "C")
    cluster.elect("B")
    cluster.settle(12, quiet=True)
    assert cluster.newest("C") == cluster.newest("B")
    converged(cluster)


@pytest.mark.usefixtures("small_chunks")
def test_a_snapshot_that_is_not_needed_any_more_is_given_up(monkeypatch):
    """C gets a part of A's snapshot; then B leads, whose log still holds what C lacks."""
    cluster = led(monkeypatch)
    cluster.network.isolate("C")
    schedules.fill(cluster, "A", 20)
    cluster.settle(3, quiet=True)
    cluster.compact("A")
    cluster.network.heal("A", "C")
    receive_some(cluster)
    cluster.network.isolate("A")
    cluster.network.heal("B", "C")
    cluster.elect("B")
    cluster.settle(3, quiet=True)
    assert cluster.state("C") == cluster.state("B")
    assert not cluster.nodes["C"].snapshots.busy
    assert cluster.group("C").make_snapshot()
    converged(cluster)


@pytest.mark.usefixtures("small_chunks")
def test_a_snapshot_that_arrives_too_late_costs_no_state(monkeypatch):
    """It is whole when the log has already told C that everything in it is committed; C has
    not applied that yet, and cuts its log no further than it has."""
    limits = GroupLimits(entry_commands_max=1, apply_entries_max=1)
    cluster = SafeCluster(monkeypatch, limits=limits, compaction=KEEP_NOTHING)
    cluster.elect("A")
    cluster.settle(2, quiet=True)
    cluster.network.isolate("C")
    schedules.fill(cluster, "A", 20)
    cluster.settle(20, quiet=True)
    cluster.compact("A")
    cluster.nodes["C"].snapshots.hold = True
    cluster.network.heal("A", "C")
    snapshots = cluster.nodes["C"].snapshots
    receiver = cluster.group("C")._state.receiver
    while not receiver._finishing:
        cluster.pair_round("A", "C")
        snapshots.step()
        assert cluster.time < 1100
    cluster.network.isolate("A")
    cluster.network.heal("B", "C")
    cluster.elect("B")
    index = cluster.newest("B").index if cluster.nodes["B"].snapshots.newest else 0
    assert cluster.commit_index("C") > index
    while snapshots.step():
        cluster.turn("C")
        cluster.sync("C")
        assert not cluster.core("C").stateless
    snapshots.hold = False
    converged(cluster, 40)


@pytest.mark.usefixtures("small_chunks")
def test_what_follows_a_snapshot_that_is_being_sent_is_kept(monkeypatch):
    cluster = lagging(monkeypatch, KEEP_NOTHING)
    sent = cluster.newest("A")
    cluster.network.heal("A", "C")
    receive_some(cluster)
    for i in range(3):
        cluster.put("A", b"on%d" % i)
        for _ in range(3):
            for name in "AB":
                cluster.turn(name)
                cluster.sync(name)
            cluster.network.deliver("A", "B")
            cluster.network.deliver("B", "A")
        assert cluster.group("A").make_snapshot()
        cluster.cut("A")
    assert cluster.newest("A").index > sent.index
    assert cluster.first("A").index <= sent.index + 1
    cluster.settle(12, quiet=True)
    assert cluster.newest("C") == sent, "a second snapshot was needed"
    converged(cluster)


@pytest.mark.usefixtures("small_chunks")
def test_many_followers_at_once_do_not_stop_the_leader(monkeypatch):
    cluster = led(monkeypatch)
    schedules.fill(cluster, "A", 20)
    cluster.settle(3, quiet=True)
    cluster.compact("A")
    learners = "DEFGHIJKL"
    for name in learners:
        cluster.add_node(name)
        cluster.network.isolate(name)
        cluster.change("A", Add(Member(name)))
        cluster.settle(2, quiet=True)
    cluster.nodes["A"].snapshots.hold = True  # its disk is slow
    for name in learners:
        cluster.network.heal("A", name)
    for _ in range(8):
        cluster.settle(1, quiet=True)
    assert cluster.is_leader("A")
    cluster.nodes["A"].snapshots.hold = False
    while cluster.nodes["A"].snapshots.step():
        pass
    converged(cluster, 20)


def test_a_learner_joins_by_snapshot(monkeypatch):
    cluster = led(monkeypatch)
    cluster.write("A", "x", 10)
    cluster.compact("A")
    cluster.write("A", "y", 2)
    cluster.add_node("D")
    joined = cluster.change("A", Add(Member("D")))
    cluster.settle(6, quiet=True)
    assert joined.acknowledged
    assert cluster.newest("D") == cluster.newest("A")
    assert cluster.state("D") == cluster.state("A")
    assert cluster.group("D").configuration() == cluster.group("A").configuration()
    promoted = cluster.change("A", Promote("D"))
    cluster.settle(4, quiet=True)
    assert promoted.acknowledged
    converged(cluster)


# --- A node that lost its state ----------------------------------------------------------------


def test_a_node_without_its_state_is_repaired_and_meanwhile_does_nothing(monkeypatch):
    cluster = led(monkeypatch)
    cluster.write("A", "x", 10)
    cluster.compact("B")
    cluster.write("A", "y", 3)
    last = cluster.last("B")
    cluster.lose_state("B")
    assert cluster.last("B") == last
    assert cluster.core("B").applicable_index() == 0
    # It is alone with C, and would win. It leaves that to others for a while.
    cluster.network.heal("B", "C")
    term = cluster.term("B")
    for _ in range(3):
        cluster.core("B")._SyncObj__raftElectionDeadline = cluster.time
        cluster.advance(0.1)
        cluster.turn("B")
        cluster.sync("B")
        assert "pre_vote" not in cluster.kinds("B", "C")
    assert cluster.term("B") == term
    assert cluster.state("B") == []
    assert not cluster.group("B").make_snapshot()
    cluster.network.rejoin("B")
    cluster.elect("A")
    converged(cluster)
    assert not cluster.core("B").stateless


def test_a_leader_without_its_state_answers_nobody(monkeypatch):
    """It leads only to bring its log to another. What it took it could not answer."""
    cluster = led(monkeypatch)
    cluster.write("A", "x", 10)
    cluster.compact("B")
    cluster.write("A", "y", 3)
    cluster.lose_state("B")
    cluster.network.isolate("A")
    cluster.network.heal("B", "C")
    cluster.core("C")._leader_heard_at = float("-inf")
    cluster.core("B")._campaign(transfer=True)
    cluster.turn("B")
    cluster.sync("B")
    cluster.network.deliver("B", "C")
    cluster.turn("C")
    cluster.sync("C")
    cluster.network.deliver("C", "B")
    assert cluster.is_leader("B")
    assert cluster.core("B").stateless
    refused = cluster.put("B", b"z")
    assert isinstance(refused.error, NotLeader)
    answers: list = []
    cluster.group("B").read_index(lambda index, error: answers.append(index))
    for _ in range(3):
        cluster.pair_round("B", "C", 2)
        assert not any(index is not None for index in answers if cluster.core("B").stateless)
    cluster.network.rejoin("A")
    cluster.settle(20)
    cluster.check_healed()
    assert not cluster.core("B").stateless


def test_a_node_without_its_state_does_not_become_heir(monkeypatch):
    cluster = led(monkeypatch)
    cluster.write("A", "x", 10)
    cluster.compact("C")
    cluster.write("A", "y", 3)
    cluster.lose_state("C")
    cluster.network.isolate("B")
    cluster.network.heal("A", "C")
    cluster.group("A").make_snapshot = lambda: False  # busy with something else
    for _ in range(2):
        cluster.pair_round("A", "C")
    assert cluster.core("A")._flows["C"].stateless
    assert cluster.core("A").heir() is None


def test_what_a_node_without_its_state_acknowledged_stays_whatever_it_is_offered(monkeypatch):
    """The leader's snapshot is of the entry right below B's log, whose term B does not know
    any more after a restart."""
    cluster = led(monkeypatch)
    cluster.write("A", "x", 7)
    cluster.compact("A")
    base = cluster.newest("A").index
    cluster.network.isolate("C")
    cluster.write("A", "y", 5)  # on A and B alone
    assert cluster.group("B").make_snapshot()
    cluster.nodes["B"].log.drop_prefix(base + 1)
    last = cluster.last("B")
    cluster.lose_state("B")
    assert cluster.nodes["B"].log.term_at(base) is None
    cluster.group("A").make_snapshot = lambda: False  # busy with something else
    cluster.network.heal("A", "B")
    for _ in range(8):
        cluster.pair_round("A", "B")
        assert cluster.last("B") == last
    assert cluster.applied_index("B") == last.index
    converged(cluster)


@pytest.mark.parametrize("older", [1, 3])
def test_a_snapshot_that_is_too_old_for_the_log_is_not_taken(monkeypatch, older):
    """It would leave a gap. The leader makes one that helps as soon as it can."""
    cluster = led(monkeypatch)
    cluster.write("A", "x", 7)
    cluster.compact("A")
    cluster.write("A", "y", 5)
    assert cluster.group("B").make_snapshot()
    cluster.nodes["B"].log.drop_prefix(cluster.newest("A").index + 1 + older)
    cluster.lose_state("B")
    leader = cluster.group("A")
    make_snapshot, leader.make_snapshot = leader.make_snapshot, lambda: False
    cluster.network.heal("A", "B")
    for _ in range(8):
        cluster.pair_round("A", "B")
        assert cluster.core("B").stateless
        assert cluster.nodes["B"].failure is None
    leader.make_snapshot = make_snapshot
    for _ in range(8):
        cluster.pair_round("A", "B")
    assert not cluster.core("B").stateless
    converged(cluster)


def test_a_follower_refuses_writes_while_it_receives(monkeypatch):
    cluster = lagging(monkeypatch)
    cluster.network.heal("A", "C")
    heartbeat(cluster, "A")
    cluster.network.deliver("A", "C")
    refused = cluster.put("C", b"x")
    assert isinstance(refused.error, NotLeader)
    converged(cluster)
