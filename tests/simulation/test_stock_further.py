"""What else the unmodified library does: holes found by reading it, H1 and further.

As in `test_stock_holes`, each test asserts the library's failure.
"""

from __future__ import annotations

import os
import shutil
from types import SimpleNamespace

import pytest
from pysyncobj import FAIL_REASON, serializer
from pysyncobj.journal import FileJournal
from pysyncobj.node import TCPNode
from pysyncobj.transport import TCPTransport

from tests.simulation.driver import heartbeat, replicate
from tests.simulation.stock import NamedNode, StockOutcome


def test_stock_h01_a_snapshot_drops_acknowledged_entries_beyond_it(stock):
    cluster = stock()
    cluster.elect("A")
    cluster.put_many("A", "k", 20)
    cluster.turn("A")
    heartbeat(cluster, "A")
    cluster.network.drop("A", "B")  # A has sent B everything; the connection breaks
    cluster.network.cut("A", "B")
    cluster.network.deliver("A", "C")
    cluster.network.deliver("C", "A")
    cluster.turn("A")
    assert cluster.commit_index("A") == 22
    cluster.compact("A")
    cluster.turn("A")
    cluster.turn("A")
    assert cluster.first("A") == (21, 1)
    cluster.network.isolate("C")
    cluster.network.heal("A", "B")
    for _ in range(2):
        heartbeat(cluster, "A")
    cluster.network.deliver("A", "B")
    assert [message["reset"] for message in cluster.messages("B", "A")] == [True, True]
    late = cluster.put_many("A", "late", 5)
    cluster.turn("A")
    cluster.network.deliver("B", "A", 1)
    heartbeat(cluster, "A")
    cluster.network.deliver("A", "B")  # the snapshot and what comes after it
    assert cluster.last("B") == (27, 1)
    cluster.network.deliver("B", "A", 1)  # the second reset, stale by now
    heartbeat(cluster, "A")
    cluster.network.deliver("B", "A")
    cluster.turn("A")
    assert cluster.commit_index("A") == 27
    assert all(outcome.acknowledged for outcome in late)
    chunks = sum("serialized" in message for message in cluster.messages("A", "B"))
    cluster.network.deliver("A", "B", chunks)
    assert cluster.last("B") == (22, 1)
    cluster.network.isolate("A")
    cluster.network.heal("B", "C")
    cluster.elect("B")
    assert len(cluster.state("B")) == 20


def test_stock_h02_the_end_of_a_large_entry_is_announced_too_early(stock):
    cluster = stock(appendEntriesBatchSizeBytes=100)
    cluster.elect("A")
    cluster.settle(quiet=True)
    command = b"x" * 150
    cluster.put("A", command)
    cluster.turn("A")
    raw = len(cluster.core("A")._SyncObj__raftLog[-1][0])
    cluster.settle(quiet=True)
    cluster.put("A", command + b"x" * (300 - raw))  # its entry has exactly three chunks
    cluster.turn("A")
    heartbeat(cluster, "A")
    marks = [message.get("transmission") for message in cluster.messages("A", "B")]
    assert marks == ["start", "process", "finish", "finish"]
    cluster.network.deliver("A", "B", 2)
    with pytest.raises(EOFError):
        cluster.network.deliver("A", "B", 1)
    # Only because the exception left the incomplete buffer behind does it work in the end.
    cluster.network.deliver("A", "B")
    assert cluster.last("B") == cluster.last("A")


def test_stock_h03_a_reset_beyond_the_leaders_end_is_answered_for_ever(stock):
    cluster = stock(5)
    cluster.elect("A")
    for other in "CDE":
        cluster.network.cut("A", other)
        cluster.network.cut("B", other)
    cluster.put_many("A", "old", 10)
    cluster.turn("A")
    heartbeat(cluster, "A", 0.2)
    cluster.network.deliver("A", "B")
    assert cluster.last("B") == (12, 1)
    cluster.put_many("A", "lost", 2)
    cluster.turn("A")
    heartbeat(cluster, "A")
    cluster.network.cut("A", "B")
    cluster.network.heal("A", "B")
    heartbeat(cluster, "A")
    cluster.network.deliver("A", "B")
    kept = cluster.messages("B", "A")[-1]
    assert (kept["reset"], kept["next_node_idx"]) == (True, 13)
    cluster.network.cut("A", "B")
    cluster.elect("C")
    for other in "CDE":
        cluster.network.heal("A", other)
    cluster.settle(quiet=True)
    cluster.network.isolate("C")
    cluster.elect("A")
    assert cluster.last("A") == (4, 3)
    cluster.network.heal("A", "B")
    cluster.receive("A", "B", kept)  # of term 1
    cluster.settle(50, quiet=True)
    assert cluster.last("B") == (12, 1)
    assert cluster.last("D") == (4, 3)
    heartbeat(cluster, "A")
    assert cluster.messages("A", "B")[-1]["prevLogIdx"] is None


def test_stock_h04_a_wiped_node_votes_twice_in_one_term(stock):
    cluster = stock(files=True)
    cluster.network.cut("A", "C")
    cluster.campaign("A")
    cluster.network.deliver("A", "B")
    cluster.network.deliver("B", "A")
    assert cluster.is_leader("A")
    cluster.crash("B")
    shutil.rmtree(cluster.place("B"))
    cluster.start("B")
    cluster.network.heal("B", "C")
    cluster.campaign("C")
    cluster.network.deliver("C", "B")
    cluster.network.deliver("B", "C")
    assert cluster.is_leader("A")
    assert cluster.is_leader("C")
    assert cluster.term("A") == cluster.term("C") == 1


def test_stock_h05_a_response_from_before_a_restart_completes_a_new_command(stock):
    cluster = stock(files=True)
    cluster.elect("A")
    cluster.settle(quiet=True)
    cluster.put("B", b"before")
    cluster.turn("B")
    cluster.network.deliver("B", "A")  # waits in A's queue, as request 1 of B
    cluster.crash("B")
    cluster.restart("B")
    heartbeat(cluster, "A")  # appends "before"; the answer waits on the new connection
    cluster.network.deliver("A", "B", 1)
    after = cluster.put("B", b"after")
    cluster.turn("B")  # forwarded, as request 1 of B
    heartbeat(cluster, "A")
    cluster.network.deliver("A", "C")
    cluster.network.deliver("C", "A")
    heartbeat(cluster, "A")
    cluster.network.deliver("A", "B")
    cluster.turn("B")
    assert after.acknowledged
    cluster.network.cut("A", "B")  # with the forwarded command
    cluster.network.heal("A", "B")
    cluster.settle(20, quiet=True)
    assert [cluster.state(name) for name in "ABC"] == [[b"before"]] * 3


def test_stock_h06_a_command_that_could_not_be_forwarded_is_never_answered(stock):
    cluster = stock()
    cluster.elect("A")
    cluster.settle(quiet=True)
    cluster.network.cut("A", "B")
    outcome = cluster.put("B", b"x")
    cluster.turn("B")
    cluster.network.heal("A", "B")
    cluster.settle(100)
    assert cluster.leader() == "A"
    assert outcome.calls == 0
    assert cluster.state("A") == []


def test_stock_h07_an_unreadable_dump_stops_replication_to_everyone(stock, monkeypatch):
    class Unreadable:
        def __init__(self, *_):
            pass

        def read(self, _):
            raise OSError("the disk cannot read this")

    cluster = stock(files=True)
    cluster.elect("A")
    cluster.network.isolate("B")
    cluster.put_noise("A", 20)
    cluster.settle(quiet=True)
    cluster.compact("A")
    cluster.settle(quiet=True)
    monkeypatch.setattr(serializer, "open", Unreadable, raising=False)
    outcome = cluster.put("A", b"x")
    cluster.turn("A")
    cluster.network.heal("A", "B")
    for _ in range(20):
        with pytest.raises(TypeError, match="not subscriptable"):
            heartbeat(cluster, "A")
        assert not cluster.network.queue("A", "C")  # not even a heartbeat
    assert outcome.calls == 0


def test_stock_h08_a_removed_member_deposes_the_leader(stock):
    cluster = stock(dynamicMembershipChange=True)
    cluster.elect("A")
    cluster.settle(quiet=True)
    cluster.network.isolate("C")
    removed = StockOutcome(b"remove")
    cluster.core("A").removeNodeFromCluster(NamedNode("C"), removed)
    cluster.settle(quiet=True)
    assert removed.acknowledged
    cluster.network.rejoin("C")
    assert cluster.members("A") == cluster.members("B") == "AB"
    assert cluster.members("C") == "ABC"  # nobody tells it
    cluster.campaign("C")
    cluster.network.deliver("C", "A")
    assert not cluster.is_leader("A")
    assert cluster.term("A") == 2


def test_stock_h09_a_late_ack_of_a_removed_member_raises(stock):
    cluster = stock(dynamicMembershipChange=True)
    cluster.elect("A")
    cluster.settle(quiet=True)
    heartbeat(cluster, "A")
    cluster.network.deliver("A", "C")
    cluster.core("A").removeNodeFromCluster(NamedNode("C"))
    cluster.turn("A")
    with pytest.raises(KeyError):
        cluster.network.deliver("C", "A")


def test_stock_h10_applying_an_older_change_undoes_a_newer_one(stock):
    cluster = stock(strangers="D", dynamicMembershipChange=True)
    cluster.elect("A")
    cluster.settle(quiet=True)
    cluster.core("A").addNodeToCluster(NamedNode("D"))
    cluster.turn("A")
    heartbeat(cluster, "A")
    cluster.core("A").removeNodeFromCluster(NamedNode("D"))
    cluster.turn("A")
    assert cluster.last("A") == (4, 1)
    assert cluster.members("A") == "ABC"  # as the newest entry says
    cluster.network.deliver("A", "B")
    cluster.network.deliver("B", "A")
    cluster.turn("A")
    assert (cluster.commit_index("A"), cluster.applied_index("A")) == (3, 3)
    assert cluster.members("A") == "ABCD"


def test_stock_h11_a_transfer_succeeds_when_it_was_sent(stock):
    cluster = stock()
    cluster.elect("A")
    cluster.settle(quiet=True)
    transfer = StockOutcome(b"transfer")
    cluster.core("A").transferLeadership(NamedNode("B"), transfer)
    assert transfer.acknowledged
    cluster.network.cut("A", "B")  # with the message
    cluster.network.heal("A", "B")
    cluster.settle(20)
    assert cluster.leader() == "A"


def test_stock_h12_a_transfer_does_not_stop_proposals_and_nobody_leads(stock):
    cluster = stock()
    cluster.elect("A")
    cluster.settle(quiet=True)
    transfer = StockOutcome(b"transfer")
    cluster.core("A").transferLeadership(NamedNode("B"), transfer)
    assert transfer.acknowledged
    outcome = cluster.put("A", b"meanwhile")
    replicate(cluster, "A", "C")
    assert outcome.acknowledged
    cluster.network.deliver("A", "B", 1)  # the request to take over; B has not got the entry
    cluster.turn("B")
    cluster.network.deliver("B", "A")
    cluster.network.deliver("B", "C")
    cluster.network.deliver("C", "B")
    cluster.network.deliver("A", "B")
    assert cluster.leader() is None
    assert [cluster.term(name) for name in "ABC"] == [2, 2, 2]


def test_stock_h13_leader_changed_is_told_of_a_command_that_commits(stock):
    cluster = stock()
    cluster.elect("A")
    cluster.settle(quiet=True)
    outcome = cluster.put("B", b"x")
    cluster.turn("B")
    cluster.network.deliver("B", "A")
    heartbeat(cluster, "A")
    cluster.network.cut("A", "B")  # with the answer
    replicate(cluster, "A", "C")
    assert cluster.state("A") == [b"x"]
    cluster.elect("C")
    assert outcome.reason == FAIL_REASON.LEADER_CHANGED  # "without command commit"
    cluster.settle(quiet=True)
    assert cluster.state("B") == [b"x"]


def test_stock_h14_success_without_any_fsync(stock, monkeypatch):
    synced: list[object] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    monkeypatch.setattr(os, "fdatasync", synced.append)
    monkeypatch.setattr(FileJournal, "flush", synced.append)
    cluster = stock(files=True)
    cluster.elect("A")
    outcome = cluster.put("A", b"x")
    cluster.settle(20, quiet=True)
    assert outcome.acknowledged
    assert not synced


class Connection:
    """As upstream's TcpConnection, without a socket."""

    def __init__(self) -> None:
        self.disconnected = False
        self.encryptor = None

    def setOnMessageReceivedCallback(self, callback) -> None:
        self.message = callback

    def setOnDisconnectedCallback(self, callback) -> None:
        pass

    def disconnect(self) -> None:
        self.disconnected = True


def test_stock_h15_messages_of_two_connections_of_one_peer_interleave():
    """The library's own TCP transport, its sockets replaced."""
    owner = SimpleNamespace(encryptor=None, addOnTickCallback=lambda callback: None)
    transport = TCPTransport(owner, None, [])
    peer = TCPNode("127.0.0.1:4001")
    transport._nodeAddrToNode[peer.address] = peer
    received: list[tuple[str, str]] = []
    transport.setOnMessageReceivedCallback(lambda node, text: received.append((node.id, text)))
    old, new = Connection(), Connection()
    for connection in (old, new):
        transport._onNewIncomingConnection(connection)
        connection.message(peer.address)
    new.message("of the new connection")
    old.message("late, of the old one")
    assert not old.disconnected
    assert [text for node, text in received] == ["of the new connection", "late, of the old one"]
    assert {node for node, text in received} == {peer.id}
