"""The holes of the library, on the adapter: what `test_scenarios.py` does not show already.

`holes.py` is the table of both sides; that the tests it names exist is checked here.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from cluster import messages
from cluster.entry import UnknownEntry
from cluster.errors import ChangeRefused, NotLeader
from cluster.group_limits import GroupLimits
from cluster.interfaces import CommittedBatch, LogEntry
from cluster.membership import Add, Member, Remove
from cluster.raft import FlowLimits
from tests.simulation import schedules
from tests.simulation.driver import heartbeat
from tests.simulation.harness import ListMachine, Outcome
from tests.simulation.holes import HOLES
from tests.simulation.safe import SafeCluster

ONE_PER_ENTRY = GroupLimits(entry_commands_max=1)
TESTS = Path(__file__).parent.parent
REFUSED = "refused"


def settle_unchecked(cluster: SafeCluster, rounds: int = 5) -> None:
    """As `settle`, for clusters in which nodes are expected to stop."""
    for _ in range(rounds):
        cluster.advance(0.11)
        cluster.no_elections()
        for name in cluster.up():
            cluster.group(name).turn()
            cluster.sync(name)
        cluster.network.deliver_all()


class PickyMachine(ListMachine):
    """Refuses some commands, with a value, as the engines do."""

    def answered(self, batch: CommittedBatch, answers: list[object]) -> None:
        answers[:] = [
            REFUSED if command.startswith(b"bad") else answer
            for command, answer in zip(batch.commands, answers, strict=True)
        ]


def test_p08_a_refused_command_is_answered_and_the_next_one_applied(monkeypatch):
    monkeypatch.setattr("tests.simulation.harness.ListMachine", PickyMachine)
    cluster = SafeCluster(monkeypatch, limits=ONE_PER_ENTRY)
    cluster.elect("A")
    bad, good = cluster.put("A", b"bad"), cluster.put("A", b"good")
    cluster.settle(quiet=True)
    assert (bad.result, bad.error) == (REFUSED, None)
    assert good.acknowledged
    assert good.result == 1
    assert {cluster.applied_index(name) for name in "ABC"} == {cluster.last("A").index}
    cluster.check_healed()


def test_p11_a_deposed_leader_confirms_no_read_of_the_old_value(monkeypatch):
    cluster = SafeCluster(monkeypatch)
    schedules.p11_deposed_leader(cluster)
    assert cluster.state("A") == [b"old"]
    assert cluster.state("B") == [b"old", b"new"]
    answers: list = []
    cluster.group("A").read_index(lambda index, error: answers.append((index, error)))
    for _ in range(11):
        heartbeat(cluster, "A", cluster.timing.election_seconds_max / 10)
    assert not cluster.is_leader("A")
    assert [index for index, error in answers] == [None]
    assert answers[0][1].definite


def test_p13_an_unknown_entry_stops_the_node(monkeypatch):
    cluster = SafeCluster(monkeypatch, limits=ONE_PER_ENTRY)
    cluster.elect("A")
    log = cluster.nodes["A"].log
    log.append([LogEntry(log.last_index + 1, cluster.term("A"), b"\x07 of a newer build")])
    after = cluster.put("A", b"after")
    settle_unchecked(cluster)
    assert any(cluster.nodes[name].failure for name in "ABC")
    for name in "ABC":
        assert isinstance(cluster.nodes[name].failure, UnknownEntry | None)
        assert cluster.state(name) == []
        assert cluster.applied_index(name) < log.last_index
    assert after.calls == 0


def test_p15_at_most_one_message_per_heartbeat_while_nothing_can_be_sent(monkeypatch):
    flow = FlowLimits(append_bytes_max=1, inflight_bytes_max=1)
    cluster = SafeCluster(monkeypatch, limits=ONE_PER_ENTRY, flow=flow)
    cluster.elect("A")
    for i in range(10):  # C gets the first of these and never answers
        cluster.put("A", b"x%d" % i)
        for _ in range(3):
            cluster.turn("A")
            cluster.sync("A")
            cluster.network.deliver("A", "B")
            cluster.turn("B")
            cluster.sync("B")
            cluster.network.deliver("B", "A")
    assert all(outcome.acknowledged for outcome in cluster.outcomes)
    cluster.turn("A")
    cluster.network.drop("A", "C")
    for _ in range(100):  # ten heartbeats
        cluster.advance(cluster.timing.heartbeat_seconds / 10)
        cluster.turn("A")
        cluster.network.deliver("A", "B")
        cluster.network.deliver("B", "A")
    assert cluster.is_leader("A")
    assert 9 <= len(cluster.network.queue("A", "C")) <= 11


def test_h03_a_hint_beyond_the_leaders_end_does_no_harm(monkeypatch):
    cluster = SafeCluster(monkeypatch)
    cluster.elect("A")
    heartbeat(cluster, "A")
    cluster.network.deliver("A", "B")
    cluster.turn("B")
    cluster.sync("B")
    ack = messages.decode(cluster.network.queue("B", "A")[-1].payload)
    beyond = {**ack, "success": False, "reset": True, "next_node_idx": 1000}
    cluster.group("A").peer_message("B", messages.encode(beyond))
    outcome = cluster.put("A", b"x")
    cluster.settle(quiet=True)
    assert outcome.acknowledged
    cluster.check_healed()


def test_h05_a_follower_refuses_commands_and_forwards_nothing(monkeypatch):
    cluster = SafeCluster(monkeypatch)
    cluster.elect("A")
    heartbeat(cluster, "A")
    cluster.network.deliver_all()
    outcome = cluster.put("B", b"x")
    cluster.turn("B")
    assert isinstance(outcome.error, NotLeader)
    assert outcome.error.definite
    assert outcome.error.leader == "A"
    assert not cluster.network.queue("B", "A")


# --- Members ------------------------------------------------------------------------------


@pytest.mark.parametrize("committed", [False, True])
def test_p12_a_configuration_is_found_in_the_log_whether_committed_or_not(monkeypatch, committed):
    cluster = SafeCluster(monkeypatch)
    cluster.elect("A")
    cluster.settle(3, quiet=True)
    cluster.add_node("D")
    cluster.change("A", Add(Member("D")))
    if committed:
        cluster.settle(3, quiet=True)
    else:
        cluster.network.isolate("C")
        cluster.turn("A")
        cluster.network.deliver("A", "B", bulk=True)
        cluster.turn("B")
        cluster.sync("B")
    index = cluster.last("B").index
    assert (cluster.commit_index("B") >= index) == committed
    cluster.crash("B")
    cluster.start("B")
    configuration = cluster.group("B").configuration()
    assert configuration.index == index
    assert configuration.ids == set("ABCD")


def test_p12_a_configuration_that_only_the_snapshot_holds_is_found(monkeypatch):
    cluster = SafeCluster(monkeypatch, limits=ONE_PER_ENTRY)
    cluster.elect("A")
    cluster.settle(3, quiet=True)
    cluster.add_node("D")
    cluster.change("A", Add(Member("D")))
    cluster.settle(3, quiet=True)
    index = cluster.group("B").configuration().index
    cluster.write("A", "x", 3)
    cluster.compact("B")
    assert cluster.first("B").index > index
    cluster.crash_and_restart("B")
    assert cluster.group("B").configuration() == cluster.group("A").configuration()
    assert cluster.group("B").configuration().index == index


def test_h08_a_member_that_missed_its_removal_deposes_nobody(monkeypatch):
    cluster = SafeCluster(monkeypatch)
    cluster.elect("A")
    cluster.settle(3, quiet=True)
    cluster.network.isolate("C")
    removed = cluster.change("A", Remove("C"))
    cluster.settle(8, quiet=True)
    assert removed.acknowledged
    term = cluster.term("A")
    core = cluster.core("C")
    core._leader_heard_at = float("-inf")
    core._campaign(transfer=True)  # as if it had won its pre-vote; no stickiness helps
    cluster.turn("C")
    cluster.sync("C")
    request = {"type": "request_vote", "term": core.term, "transfer": True}
    request |= {"last_log_index": 1 << 30, "last_log_term": core.term}
    for name in "AB":
        cluster.group(name).peer_message("C", messages.encode(request))
    cluster.settle(8, quiet=True)
    assert cluster.is_leader("A")
    assert cluster.term("A") == cluster.term("B") == term


def test_h09_late_messages_of_a_removed_member_do_no_harm(monkeypatch):
    cluster = SafeCluster(monkeypatch)
    cluster.elect("A")
    cluster.settle(3, quiet=True)
    heartbeat(cluster, "A")
    cluster.network.deliver("A", "C")
    late = list(cluster.network.queue("C", "A"))
    assert late
    removed = cluster.change("A", Remove("C"))
    cluster.settle(8, quiet=True)
    assert removed.acknowledged
    term = cluster.term("A")
    pull = {"type": "snapshot_pull", "term": term, "index": 1, "offset": 0, "size": 10}
    vote = {"type": "response_vote", "term": term}
    for frame in (*(f.payload for f in late), messages.encode(pull), messages.encode(vote)):
        cluster.group("A").peer_message("C", frame)
        cluster.turn("A")
    outcome = cluster.put("A", b"x")
    cluster.settle(3, quiet=True)
    assert outcome.acknowledged
    assert cluster.term("A") == term
    assert "C" not in cluster.core("A").match_index


def test_h10_a_change_is_made_once_when_it_is_appended(monkeypatch):
    """Two changes, of which B has both in its log and knows neither to be committed: that
    the older one is committed changes nothing."""
    cluster = SafeCluster(monkeypatch)
    cluster.elect("A")
    cluster.settle(3, quiet=True)
    cluster.add_node("D")
    cluster.network.isolate("C")
    added = cluster.change("A", Add(Member("D")))
    refused = cluster.change("A", Remove("D"))
    assert isinstance(refused.error, ChangeRefused)
    cluster.settle(1, quiet=True)
    assert added.acknowledged
    applied = cluster.applied_index("B")
    cluster.change("A", Remove("D"))
    cluster.turn("A")
    cluster.network.deliver("A", "B", bulk=True)
    cluster.turn("B")
    assert cluster.group("B").configuration().ids == set("ABC")
    cluster.sync("B")
    cluster.turn("B")
    assert cluster.applied_index("B") >= applied
    assert cluster.group("B").configuration().ids == set("ABC")
    cluster.crash("B")
    cluster.start("B")
    assert cluster.group("B").configuration().ids == set("ABC")


# --- Handing over -------------------------------------------------------------------------


def test_h12_the_target_campaigns_only_with_everything_in_its_log(monkeypatch):
    cluster = SafeCluster(monkeypatch, limits=ONE_PER_ENTRY)
    cluster.elect("A")
    cluster.settle(2, quiet=True)
    before = cluster.put("A", b"before")
    cluster.turn("A")  # in A's log, and on its way
    transfer = Outcome(b"")
    cluster.group("A").transfer_leadership("B", transfer)
    meanwhile = cluster.put("A", b"meanwhile")
    cluster.turn("A")
    cluster.sync("A")
    assert isinstance(meanwhile.error, NotLeader)
    assert "timeout_now" not in cluster.kinds("A", "B"), "B lacks an entry"
    cluster.settle(4, quiet=True)
    assert cluster.leader() == "B"
    assert transfer.result == "B"
    assert before.acknowledged
    cluster.check_healed()


# --- The table ----------------------------------------------------------------------------


@cache
def functions_of(path: str) -> set[str]:
    tree = ast.parse((TESTS / path).read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


@pytest.mark.parametrize("hole", HOLES, ids=lambda hole: hole.id)
def test_the_table_names_tests_that_exist(hole):
    assert hole.ours
    assert hole.our_tests
    for name in (hole.stock_test, *hole.our_tests):
        path, _, function = name.partition("::")
        assert function in functions_of(path), f"{hole.id} names {name}"


def test_every_stock_test_is_in_the_table():
    named = {hole.stock_test.partition("::")[2] for hole in HOLES}
    for path in Path(__file__).parent.glob("test_stock_*.py"):
        tree = ast.parse(path.read_text())
        tests = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert {name for name in tests if name.startswith("test_")} <= named


def test_holes_have_one_row_each():
    assert len({hole.id for hole in HOLES}) == len(HOLES)
    assert len({hole.stock_test for hole in HOLES}) == len(HOLES)
