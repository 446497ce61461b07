"""What the unmodified library does: one test per hole, P1 to P15.

Each test asserts the library's failure. They are the reason for the adapter and the proof
that the schedules reach the hole; `tests/simulation/holes.py` names our test beside each.
In a fresh cluster the log is (1, 0), (2, 1); the first command of a client gets index 3.
"""

from __future__ import annotations

import subprocess
import sys

from pysyncobj.journal import FileJournal

from tests.simulation import schedules
from tests.simulation.driver import heartbeat, replicate
from tests.simulation.stock import NamedNode, StockOutcome

CHUNK_BYTES = 64  # of a snapshot, so that it takes many messages


def test_stock_p01_success_for_a_write_that_no_node_keeps(stock):
    cluster = stock(logCompactionBatchSize=CHUNK_BYTES)
    stray = schedules.p01_lone_write_before_a_snapshot(cluster)
    assert cluster.commit_index("B") == 26
    assert cluster.first("B") == (25, 2)
    assert cluster.last("A") == (6, 1)
    for _ in range(3):  # the first chunk of the snapshot is all it takes
        heartbeat(cluster, "B")
        while cluster.network.queue("B", "A") and not stray.acknowledged:
            cluster.network.deliver("B", "A", 1)
            cluster.turn("A")
            assert cluster.commit_index("A") in (5, 6)
    assert stray.acknowledged
    assert cluster.state("A")[-1] == b"X"
    cluster.settle(5, quiet=True)
    assert [cluster.last(name) for name in "ABC"] == [(26, 2)] * 3
    assert [cluster.commit_index(name) for name in "ABC"] == [26] * 3
    assert not any(b"X" in cluster.state(name) for name in "ABC")


def test_stock_p02_a_short_batch_truncates_committed_entries(stock):
    cluster = stock(appendEntriesBatchSizeBytes=200)
    cluster.elect("A")
    assert cluster.last("A") == (2, 1)
    cluster.network.isolate("C")
    outcomes = cluster.put_many("A", "k" * 38, 12)
    cluster.turn("A")
    heartbeat(cluster, "A", 0.2)
    cluster.network.drop("A", "B")
    cluster.network.cut("A", "B")
    cluster.network.heal("A", "B")
    heartbeat(cluster, "A")
    heartbeat(cluster, "A")
    cluster.network.deliver("A", "B")
    resets = cluster.messages("B", "A")
    assert [(m["reset"], m["next_node_idx"]) for m in resets] == [(True, 3), (True, 3)]
    cluster.network.deliver("B", "A", 1)
    heartbeat(cluster, "A")
    cluster.network.deliver("A", "B")
    cluster.network.deliver("B", "A", 1)  # the second reset, stale by now
    heartbeat(cluster, "A")
    cluster.network.deliver("B", "A")
    cluster.turn("A")
    assert cluster.commit_index("A") == 14
    assert all(outcome.acknowledged for outcome in outcomes)
    assert cluster.last("B") == (14, 1)
    cluster.network.deliver("A", "B", 1)
    assert cluster.last("B") == (5, 1)
    cluster.network.isolate("A")
    cluster.network.heal("B", "C")
    cluster.elect("B")
    assert len(cluster.state("B")) == 3


def test_stock_p03_several_membership_changes_at_once(stock):
    cluster = stock(strangers="DEFG", dynamicMembershipChange=True)
    cluster.elect("A")
    cluster.settle(quiet=True)
    cluster.network.isolate("A")
    outcomes = [StockOutcome(b"add " + name.encode()) for name in "DEFG"]
    for name, outcome in zip("DEFG", outcomes, strict=True):
        cluster.core("A").addNodeToCluster(NamedNode(name), outcome)
    for _ in range(3):
        cluster.turn("A")
    assert cluster.members("A") == "ABCDEFG"
    assert cluster.commit_index("A") == 2
    assert cluster.last("A") == (6, 1)
    assert [outcome.calls for outcome in outcomes] == [0] * 4  # nothing was denied
    cluster.core("A").removeNodeFromCluster(NamedNode("B"))
    cluster.core("A").removeNodeFromCluster(NamedNode("C"))
    for _ in range(3):
        cluster.turn("A")
    assert cluster.commit_index("A") == 2
    assert cluster.members("A") == "ADEFG"  # decides with A, D, E
    assert cluster.members("B") == cluster.members("C") == "ABC"  # decide with B, C


def test_stock_p04_killed_between_dump_and_compaction(stock):
    cluster = stock(files=True)
    cluster.elect("A")
    cluster.put_many("A", "a", 5)
    cluster.settle(quiet=True)
    cluster.network.isolate("C")
    second = cluster.put_many("A", "b", 5)
    replicate(cluster, "A", "B")
    assert cluster.commit_index("A") == 12
    assert cluster.applied_index("B") == 7
    cluster.compact("B")
    cluster.turn("B")  # writes the dump; the next tick would cut the journal
    third = cluster.put_many("A", "c", 5)
    replicate(cluster, "A", "B")
    assert cluster.commit_index("A") == 17
    assert all(outcome.acknowledged for outcome in second + third)
    assert cluster.last("B") == (17, 1)
    cluster.kill("B")
    cluster.restart("B")
    assert (cluster.first("B"), cluster.last("B")) == ((1, 0), (17, 1))
    cluster.no_elections()
    cluster.turn("B")
    assert (cluster.first("B"), cluster.last("B")) == ((6, 1), (7, 1))


P05_KILLED_WHILE_COMPACTING = """
import os, signal, sys
from pysyncobj.journal import FileJournal

class Killed(FileJournal):
    added = 0
    def add(self, *entry):
        super().add(*entry)
        self.added += 1
        if self.added == 1000 + 299:
            os.kill(os.getpid(), signal.SIGKILL)

journal = Killed(sys.argv[1])
for index in range(1, 1001):
    journal.add(bytes(100), index, 1)
journal.deleteEntriesTo(100)
"""


def test_stock_p05_killed_while_the_journal_is_rewritten(tmp_path):
    path = str(tmp_path / "journal")
    child = subprocess.run([sys.executable, "-c", P05_KILLED_WHILE_COMPACTING, path], check=False)
    assert child.returncode == -9
    journal = FileJournal(path)
    try:
        assert len(journal) == 299
        assert journal[0][1] == 101
        assert journal[-1][1] == 399
    finally:
        journal._destroy()


def test_stock_p06_an_ack_of_an_earlier_term_counts(stock):
    cluster = stock(5)
    cluster.elect("A")
    for other in "CDE":
        cluster.network.cut("A", other)
        cluster.network.cut("B", other)
    cluster.put_many("A", "old", 4)
    cluster.turn("A")
    heartbeat(cluster, "A", 0.2)
    cluster.network.deliver("A", "B")
    kept = cluster.messages("B", "A")
    assert kept[-1]["next_node_idx"] == 7
    cluster.network.cut("A", "B")
    cluster.elect("C")
    cluster.network.heal("C", "A")
    for _ in range(4):
        heartbeat(cluster, "C")
        cluster.turn("A")
        cluster.network.deliver("C", "A")
        cluster.network.deliver("A", "C")
    assert cluster.last("A") == (3, 2)
    for other in "ADE":
        cluster.network.cut("C", other)
    cluster.network.heal("D", "A")
    cluster.network.heal("E", "A")
    cluster.elect("A")
    assert cluster.last("A") == (4, 3)
    assert cluster.term("A") == 3
    cluster.network.cut("A", "E")
    new = cluster.put_many("A", "new", 3)
    cluster.turn("A")
    heartbeat(cluster, "A", 0.2)
    cluster.network.deliver("A", "D")
    cluster.network.deliver("D", "A")
    cluster.turn("A")
    before = cluster.commit_index("A")
    for message in kept:
        cluster.receive("A", "B", message)
    cluster.turn("A")
    assert (before, cluster.commit_index("A")) == (4, 6)
    assert [outcome.acknowledged for outcome in new] == [True, True, False]
    assert [name for name in "ABCDE" if cluster.last(name).index >= 6 and name != "B"] == [
        "A",
        "D",
    ]
    assert cluster.last("B") == (6, 1)  # other entries, of term 1


def test_stock_p07_a_snapshot_that_failed_to_load_is_acknowledged(stock, caplog):
    cluster = stock(logCompactionBatchSize=CHUNK_BYTES)
    cluster.elect("A")
    cluster.settle(quiet=True)
    cluster.network.isolate("A")
    cluster.put_many("A", "stray", 40)
    cluster.turn("A")
    cluster.turn("A")
    assert cluster.last("A") == (42, 1)
    cluster.elect("B")
    cluster.put_noise("B", 20)
    cluster.settle(quiet=True)
    cluster.compact("B")
    cluster.settle(quiet=True)
    assert (cluster.first("B"), cluster.last("B")) == ((22, 2), (23, 2))
    cluster.core("B")._SyncObj__raftNextIndex[NamedNode("A")] = 2
    cluster.network.heal("A", "B")
    heartbeat(cluster, "B", 0.2)
    del cluster.network.queue("B", "A")[2]
    cluster.network.deliver("B", "A")  # A does not tick: P1 would hide the effect
    assert "failed to load full dump" in caplog.text
    answer = cluster.messages("A", "B")[-1]
    assert (answer["success"], answer["next_node_idx"]) == (True, 43)
    cluster.network.deliver("A", "B")
    assert cluster.match_index("B", "A") == 42
    assert cluster.last("B") == (23, 2)


def test_stock_p08_a_command_that_raises_wedges_every_node(stock):
    cluster = stock()
    cluster.elect("A")
    poison, after = StockOutcome(b"poison"), StockOutcome(b"after")
    cluster.core("A").poison(callback=poison)
    cluster.core("A").put(b"after", callback=after)
    escaped = ""
    for _ in range(30):
        cluster.advance(0.11)
        for name in "ABC":
            try:
                cluster.turn(name)
            except ValueError:
                escaped += name
        cluster.network.deliver_all()
    assert escaped.count("A") == 28  # from the round in which it was committed on
    assert set(escaped) == set("ABC")
    assert (poison.calls, after.calls) == (0, 0)
    assert all(cluster.commit_index(name) >= 4 for name in "ABC")
    assert [cluster.applied_index(name) for name in "ABC"] == [2, 2, 2]


def test_stock_p09_one_vote_counts_twice(stock):
    cluster = stock(5)
    cluster.campaign("A")
    vote = {"type": "response_vote", "term": cluster.term("A")}
    cluster.receive("A", "B", vote)
    assert not cluster.is_leader("A")
    cluster.receive("A", "B", vote)
    assert cluster.is_leader("A")  # two voters of five, itself included


def test_stock_p10_a_half_connected_node_deposes_the_leader(stock):
    cluster = stock()
    cluster.elect("A")
    cluster.settle(quiet=True)
    cluster.network.cut("A", "C")
    start = cluster.time
    deposed = stepped_down = None
    while cluster.time < start + 40:
        cluster.advance(0.1)
        cluster.turn("C")
        cluster.network.deliver("C", "B")
        cluster.network.deliver("B", "C")
        cluster.no_elections("A", "B")
        for name in "AB":
            cluster.turn(name)
        cluster.network.deliver("A", "B")
        cluster.network.deliver("B", "A")
        if deposed is None and cluster.is_leader("C"):
            deposed = cluster.time - start
        if stepped_down is None and not cluster.is_leader("A"):
            stepped_down = cluster.time - start
    assert [cluster.term(name) for name in "ABC"] == [1, 2, 2]
    assert deposed is not None
    assert deposed < 1.5  # B voted although it heard from A all the time
    assert stepped_down is not None
    assert 29.5 < stepped_down - deposed < 30.5  # so long A leads a term that is over


def test_stock_p11_a_deposed_leader_reads_old_values_for_30_seconds(stock):
    cluster = stock()
    schedules.p11_deposed_leader(cluster)
    assert cluster.is_leader("A")
    assert cluster.core("A").isReady()
    assert cluster.state("A") == [b"old"]
    assert cluster.state("B") == [b"old", b"new"]
    start = cluster.time
    while cluster.is_leader("A"):
        heartbeat(cluster, "A", 0.1)
    # The answers that it had before count as well, 0.9 s of elections and puts ago.
    assert 29 < cluster.time - start < 30.2
    assert cluster.core("A").isReady()
    assert cluster.state("A") == [b"old"]


def test_stock_p11_a_new_leader_is_ready_before_it_has_caught_up(stock):
    cluster = stock()
    cluster.elect("A")
    cluster.put("A", b"v1")
    cluster.settle(quiet=True)
    second = cluster.put("A", b"v2")
    replicate(cluster, "A", "B")
    assert second.acknowledged
    cluster.network.isolate("A")
    cluster.campaign("B")
    cluster.network.deliver("B", "C")
    cluster.network.deliver("C", "B")
    cluster.turn("B")
    assert cluster.is_leader("B")
    assert cluster.core("B").isReady()
    assert (cluster.commit_index("B"), cluster.applied_index("B")) == (3, 3)
    assert cluster.last("B") == (5, 2)
    assert cluster.state("B") == [b"v1"]


def test_stock_p12_a_member_restarts_with_a_smaller_quorum(stock):
    cluster = stock(files=True, strangers="DE", dynamicMembershipChange=True)
    cluster.elect("A")
    cluster.settle(7, quiet=True)  # past the second after which the commit index is stored
    for name in "DE":
        added = StockOutcome(b"add")
        cluster.core("A").addNodeToCluster(NamedNode(name), added)
        cluster.settle(3, quiet=True)
        assert added.acknowledged
    assert [cluster.members(name) for name in "ABC"] == ["ABCDE"] * 3
    cluster.kill("B")
    cluster.start("B", peers="AC")
    assert cluster.last("B") == (4, 1)
    assert cluster.commit_index("B") == 2
    cluster.network.isolate("A")
    cluster.network.heal("B", "C")
    cluster.campaign("B")
    cluster.network.deliver("B", "C")
    cluster.network.deliver("C", "B")
    assert cluster.is_leader("B")  # with two votes of five
    assert cluster.members("B") == "ABC"
    assert cluster.members("C") == "ABCDE"


def test_stock_p13_after_an_unknown_entry_the_next_is_applied_twice(stock):
    cluster = stock()
    cluster.elect("A")
    cluster.core("A").append_version(7)
    for command in (b"a", b"b"):
        cluster.put("A", command)
    cluster.settle(quiet=True)
    cluster.put("A", b"c")
    cluster.settle(quiet=True)
    assert [cluster.state(name) for name in "ABC"] == [[b"a", b"b", b"b", b"c"]] * 3


def test_stock_p14_a_snapshot_skips_waiting_callbacks(stock):
    cluster = stock()
    outcomes = schedules.p14_waiting_clients_before_a_snapshot(cluster)
    for _ in range(10):
        cluster.advance(0.11)
        cluster.no_elections()
        cluster.turn("B")
        cluster.turn("C")
        cluster.network.deliver_all()
        cluster.turn("A")
    assert cluster.applied_index("A") == 23
    assert [outcome.calls for outcome in outcomes] == [0, 0, 0]
    assert list(cluster.core("A")._SyncObj__commandsWaitingCommit) == [3, 4, 5]


def test_stock_p15_a_flood_to_a_lagging_follower_while_a_dump_is_written(stock):
    cluster = stock()
    cluster.elect("A")
    cluster.network.isolate("C")
    cluster.put_noise("A", 20)
    cluster.settle(quiet=True)
    cluster.compact("A")
    cluster.settle(quiet=True)
    assert cluster.first("A") == (21, 1)
    core = cluster.core("A")
    core._SyncObj__raftNextIndex[NamedNode("C")] = cluster.last("C").index + 1
    cluster.network.heal("A", "C")
    for peer in "BC":
        cluster.network.drop("A", peer)
    core._SyncObj__serializer._Serializer__pid = 1  # a child is writing the dump
    cluster.clock_step = 1e-5
    core._SyncObj__sendAppendEntries()
    flood = cluster.messages("A", "C")
    assert len(flood) == 10_000  # in the 0.1 s of one heartbeat
    assert all(message["serialized"] is None for message in flood)
    assert len(cluster.messages("A", "B")) == 1
