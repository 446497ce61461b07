"""Schedules that broke the stock library, on the safe core. Numbers are the audit's."""

from __future__ import annotations

import pytest

from cluster import messages
from cluster.errors import NotLeader
from cluster.group_limits import GroupLimits
from cluster.raft import FlowLimits
from tests.simulation.harness import Cluster

ONE_PER_ENTRY = GroupLimits(entry_commands_max=1)


def grow(cluster: Cluster, name: str, prefix: str, count: int) -> list:
    """Put commands one entry each, through to the log of `name` but not beyond."""
    outcomes = []
    for i in range(count):
        outcomes.append(cluster.put(name, f"{prefix}{i}".encode()))
        cluster.turn(name)
        cluster.sync(name)
    return outcomes


def test_election_and_replication(monkeypatch):
    cluster = Cluster(monkeypatch)
    cluster.settle(20)
    leader = cluster.leader()
    assert leader is not None
    outcome = cluster.put(leader, b"x")
    cluster.settle(4)
    assert outcome.acknowledged
    assert all(node.machine.commands == [b"x"] for node in cluster.nodes.values())


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_clusters_of_any_size_elect_and_commit(monkeypatch, size):
    cluster = Cluster(monkeypatch, size)
    cluster.settle(30)
    outcome = cluster.put(cluster.leader(), b"x")
    cluster.settle(3)
    assert outcome.acknowledged
    cluster.check_healed()


def test_commands_that_arrive_together_become_one_entry(monkeypatch):
    cluster = Cluster(monkeypatch)
    cluster.elect("A")
    before = cluster.nodes["A"].log.last_index
    outcomes = [cluster.put("A", b"c%d" % i) for i in range(50)]
    cluster.settle(2, quiet=True)
    assert cluster.nodes["A"].log.last_index == before + 1
    assert all(outcome.acknowledged for outcome in outcomes)
    assert [outcome.result for outcome in outcomes] == list(range(50))


def test_commands_wait_while_an_entry_is_being_fsynced(monkeypatch):
    cluster = Cluster(monkeypatch)
    cluster.elect("A")
    before = cluster.nodes["A"].log.last_index
    cluster.put("A", b"first")
    cluster.turn("A")
    cluster.put("A", b"second")
    cluster.turn("A")
    cluster.put("A", b"third")
    cluster.turn("A")
    assert cluster.nodes["A"].log.last_index == before + 1
    cluster.sync("A")
    cluster.turn("A")
    assert cluster.nodes["A"].log.last_index == before + 2


def test_nothing_is_acknowledged_before_a_majority_has_fsynced(monkeypatch):
    cluster = Cluster(monkeypatch)
    cluster.elect("A")
    cluster.network.isolate("C")
    outcome = cluster.put("A", b"x")
    cluster.turn("A")
    cluster.network.deliver("A", "B")
    cluster.turn("B")  # B has the entry, not yet on disk
    cluster.network.deliver("B", "A")
    cluster.sync("A")
    cluster.turn("A")
    assert outcome.calls == 0
    cluster.sync("B")
    cluster.network.deliver("B", "A")
    cluster.turn("A")
    assert outcome.acknowledged


def test_the_leader_does_not_count_its_own_unsynced_log(monkeypatch):
    cluster = Cluster(monkeypatch)
    cluster.elect("A")
    cluster.network.isolate("C")
    before = cluster.core("A").commit_index
    outcome = cluster.put("A", b"x")
    cluster.turn("A")
    cluster.network.deliver("A", "B")
    cluster.turn("B")
    cluster.sync("B")
    cluster.network.deliver("B", "A")
    cluster.turn("A")  # B has it durably, A does not
    assert cluster.core("A").commit_index == before
    cluster.sync("A")
    cluster.turn("A")
    assert outcome.acknowledged


def test_a_vote_is_durable_before_it_is_sent(monkeypatch):
    cluster = Cluster(monkeypatch)
    cluster.no_elections()
    core = cluster.core("A")
    core._pre_votes = {"A", "B"}
    core._campaign_if_supported()
    cluster.turn("A")
    assert not cluster.network.queue("A", "B"), "the request outran the candidate's own vote"
    cluster.sync("A")
    cluster.network.deliver("A", "B")
    cluster.turn("B")
    assert not cluster.network.queue("B", "A")
    cluster.sync("B")
    kinds = [messages.decode(f.payload)["type"] for f in cluster.network.queue("B", "A")]
    assert kinds == ["response_vote"]


def test_a_crash_before_the_fsync_forgets_the_vote_and_its_answer(monkeypatch):
    cluster = Cluster(monkeypatch)
    cluster.no_elections()
    for name in ("A", "C"):
        core = cluster.core(name)
        core._pre_votes = {"A", "B", "C"}
        core._campaign_if_supported()
        cluster.turn(name)
        cluster.sync(name)
    cluster.network.deliver("A", "B")
    cluster.turn("B")
    assert not cluster.network.queue("B", "A"), "the vote outran the disk"
    cluster.crash("B")  # granted A in memory only
    cluster.restart("B")
    cluster.no_elections()
    cluster.network.deliver_all()
    assert cluster.leader() is None  # nobody ever got B's vote


def test_p2_matching_entries_are_never_truncated(monkeypatch):
    flow = FlowLimits(append_bytes_max=64, inflight_bytes_max=200)
    cluster = Cluster(monkeypatch, limits=ONE_PER_ENTRY, flow=flow)
    cluster.elect("A")
    cluster.network.isolate("C")
    grow(cluster, "A", "k" * 40, 12)
    frames = []
    for _ in range(20):
        cluster.turn("A")
        frames += list(cluster.network.queue("A", "B"))
        cluster.network.deliver("A", "B")
        cluster.turn("B")
        cluster.sync("B")
        cluster.network.deliver("B", "A")
    log = cluster.nodes["B"].log
    last = log.last_index
    assert last == cluster.nodes["A"].log.last_index
    for frame in frames:  # every append again, oldest first: each is short of B's end
        cluster.network.queue("A", "B").append(frame)
        cluster.network.deliver("A", "B")
        cluster.turn("B")
        assert log.last_index == last
    cluster.settle(3, quiet=True)
    assert len(cluster.nodes["B"].machine.commands) == 12


def test_an_append_commits_no_further_than_it_proves(monkeypatch):
    """P1 for appends: a heartbeat must not commit a tail that it says nothing about."""
    cluster = Cluster(monkeypatch, limits=ONE_PER_ENTRY)
    cluster.elect("A")
    cluster.network.isolate("A")
    stray = cluster.put("A", b"stray")
    cluster.turn("A")
    cluster.sync("A")
    stray_index = cluster.nodes["A"].log.last_index
    cluster.elect("B")
    for i in range(5):
        cluster.put("B", b"new%d" % i)
        cluster.settle(1, quiet=True)
    commit = cluster.core("B").commit_index
    assert commit > stray_index
    cluster.network.heal("A", "B")
    heartbeat = messages.encode_append(cluster.core("B").term, commit, 1, 0, 0, ())
    cluster.group("A").peer_message("B", heartbeat)
    cluster.turn("A")
    assert b"stray" not in cluster.nodes["A"].machine.commands
    cluster.network.rejoin("A")
    cluster.settle(5, quiet=True)
    assert isinstance(stray.error, NotLeader)
    cluster.check_healed()


def test_p9_a_vote_counts_once_per_sender(monkeypatch):
    cluster = Cluster(monkeypatch, 5)
    cluster.no_elections()
    core = cluster.core("A")
    core._pre_votes = set("ABC")
    core._campaign_if_supported()
    vote = messages.encode({"type": "response_vote", "term": core.term})
    for _ in range(3):
        cluster.group("A").peer_message("B", vote)
    assert cluster.leader() is None
    cluster.group("A").peer_message("Z", vote)  # not a member
    assert cluster.leader() is None
    cluster.group("A").peer_message("C", vote)
    assert cluster.leader() == "A"


def test_p10_a_half_connected_node_does_not_depose_the_leader(monkeypatch):
    cluster = Cluster(monkeypatch)
    cluster.elect("A")
    cluster.network.cut("A", "C")
    term = cluster.core("A").term
    for i in range(100):
        for name in "AB":
            cluster.no_elections(name)
        cluster.advance(0.1)
        for name in "ABC":
            cluster.turn(name)
            cluster.sync(name)
        cluster.network.deliver_all()
        if i % 10 == 0:
            cluster.put("A", b"x%d" % i)
    cluster.settle(1, quiet=True)
    assert {cluster.core(name).term for name in "ABC"} == {term}
    assert all(outcome.acknowledged for outcome in cluster.outcomes)


def test_p11_a_leader_without_answers_steps_down(monkeypatch):
    cluster = Cluster(monkeypatch)
    cluster.elect("A")
    cluster.network.isolate("A")
    cluster.advance(cluster.timing.election_seconds_max + 0.01)
    cluster.turn("A")
    assert cluster.group("A").role().name == "follower"
    refused = cluster.put("A", b"x")
    assert isinstance(refused.error, NotLeader)
    assert refused.error.definite


def read(cluster: Cluster, name: str) -> list:
    answers: list = []
    cluster.group(name).read_index(lambda index, error: answers.append((index, error)))
    return answers


def test_reads_share_one_round_and_wait_for_a_majority(monkeypatch):
    cluster = Cluster(monkeypatch)
    cluster.elect("A")
    first, second = read(cluster, "A"), read(cluster, "A")
    cluster.turn("A")
    assert not first
    assert not second
    assert len(cluster.network.queue("A", "B")) == 1
    cluster.network.deliver_all()
    cluster.turn("A")
    commit = cluster.core("A").commit_index
    assert first == second == [(commit, None)]


def test_a_deposed_leader_never_confirms_a_read(monkeypatch):
    cluster = Cluster(monkeypatch)
    cluster.elect("A")
    cluster.network.isolate("A")
    cluster.elect("B")
    answers = read(cluster, "A")
    cluster.turn("A")
    assert not answers
    cluster.network.rejoin("A")
    cluster.settle(3, quiet=True)
    assert len(answers) == 1
    assert answers[0][0] is None


def test_an_echo_of_an_earlier_round_does_not_confirm(monkeypatch):
    cluster = Cluster(monkeypatch)
    cluster.elect("A")
    read(cluster, "A")
    cluster.turn("A")
    cluster.network.deliver("A", "B")
    stale = list(cluster.network.queue("B", "A"))
    cluster.network.deliver_all()
    cluster.turn("A")
    answers = read(cluster, "A")
    cluster.turn("A")
    for frame in stale:
        cluster.group("A").peer_message("B", frame.payload)
    cluster.turn("A")
    assert not answers


def test_a_new_leader_answers_reads_only_after_its_no_op(monkeypatch):
    cluster = Cluster(monkeypatch, limits=ONE_PER_ENTRY)
    cluster.elect("A")
    written = cluster.put("A", b"v2")
    cluster.turn("A")
    cluster.sync("A")
    cluster.network.deliver("A", "B")
    cluster.turn("B")
    cluster.sync("B")
    cluster.network.deliver("B", "A")
    cluster.turn("A")
    assert written.acknowledged
    cluster.network.isolate("A")
    core = cluster.core("B")
    cluster.no_elections()
    cluster.core("C")._leader_heard_at = float("-inf")
    core._pre_votes = {"B", "C"}
    core._campaign_if_supported()
    cluster.turn("B")
    cluster.sync("B")
    cluster.network.deliver("B", "C")
    cluster.turn("C")
    cluster.sync("C")
    cluster.network.deliver("C", "B")
    assert cluster.group("B").role().name == "leader"
    answers = read(cluster, "B")
    cluster.turn("B")
    assert not answers
    cluster.settle(3, quiet=True)
    assert answers[0][0] >= cluster.core("B")._SyncObj__noopIDx
    assert cluster.nodes["B"].machine.commands == [b"v2"]


def test_a_divergent_tail_costs_one_round_trip_per_term(monkeypatch):
    cluster = Cluster(monkeypatch, limits=ONE_PER_ENTRY)
    cluster.elect("A")
    cluster.network.isolate("A")
    grow(cluster, "A", "stray", 30)
    cluster.elect("B")
    grow(cluster, "B", "good", 3)
    cluster.settle(2, quiet=True)
    cluster.network.rejoin("A")
    cluster.settle(2, quiet=True)
    assert cluster.nodes["A"].log.last_index == cluster.nodes["B"].log.last_index
    cluster.settle(1, quiet=True)
    cluster.check_healed()


def test_losing_the_leaders_connection_brings_a_new_leader_soon(monkeypatch):
    cluster = Cluster(monkeypatch)
    cluster.elect("A")
    cluster.settle(2)
    cluster.crash("A")
    cluster.settle(6, seconds=0.05)
    assert cluster.leader() in ("B", "C")


def test_a_stalled_follower_is_sent_a_bounded_amount(monkeypatch):
    flow = FlowLimits(append_bytes_max=1000, inflight_bytes_max=4000)
    cluster = Cluster(monkeypatch, limits=ONE_PER_ENTRY, flow=flow)
    cluster.elect("A")
    for i in range(60):
        cluster.put("A", b"%04d" % i + b"x" * 500)
        cluster.turn("A")
        cluster.sync("A")
        cluster.network.deliver("A", "B")
        cluster.turn("B")
        cluster.sync("B")
        cluster.network.deliver("B", "A")
    queued = sum(len(frame.payload) for frame in cluster.network.queue("A", "C") if frame.bulk)
    assert queued <= 4000 + 1000 + 500
    cluster.settle(30, quiet=True)
    cluster.check_healed()
    assert all(outcome.acknowledged for outcome in cluster.outcomes)


def test_entries_of_earlier_terms_are_not_committed_by_counting(monkeypatch):
    """Raft, section 5.4.2 and figure 8: they commit only together with one of the own term."""
    flow = FlowLimits(append_bytes_max=1, inflight_bytes_max=1)
    cluster = Cluster(monkeypatch, 5, limits=ONE_PER_ENTRY, flow=flow)
    cluster.elect("A")
    for other in "CDE":
        cluster.network.cut("A", other)
    old = grow(cluster, "A", "old", 1)[0]
    cluster.turn("A")
    cluster.network.deliver("A", "B")
    cluster.turn("B")
    cluster.sync("B")
    index = cluster.nodes["A"].log.last_index
    assert cluster.nodes["B"].log.last_index == index
    cluster.network.isolate("A")
    core = cluster.core("E")
    cluster.no_elections()
    for name in "CD":  # E wins with C and D and appends its no-op to itself alone
        cluster.core(name)._leader_heard_at = float("-inf")
    core._pre_votes = set("CDE")
    core._campaign_if_supported()
    cluster.turn("E")
    cluster.sync("E")
    for name in "CD":
        cluster.network.deliver("E", name, 1)
        cluster.turn(name)
        cluster.sync(name)
        cluster.network.deliver(name, "E")
    cluster.network.isolate("E")
    for other in "BCD":
        cluster.network.heal("A", other)
    for name in "ABCD":
        cluster.core(name)._leader_heard_at = float("-inf")
    core = cluster.core("A")
    core._pre_votes = set("ABC")
    cluster.settle(2, quiet=True)  # hears of E's term
    core._pre_votes = set("ABC")
    core._campaign_if_supported()
    cluster.turn("A")
    cluster.sync("A")
    for name in "BCD":
        cluster.network.deliver("A", name)
        cluster.turn(name)
        cluster.sync(name)
        cluster.network.deliver(name, "A")
    assert cluster.group("A").role().name == "leader"
    for _ in range(8):  # until A, B and C hold the old entry, and C not yet the new no-op
        cluster.turn("A")
        cluster.sync("A")
        for name in "BC":
            if cluster.core("A").match_index[name] < index:
                cluster.network.deliver("A", name, 1)
                cluster.turn(name)
                cluster.sync(name)
                cluster.network.deliver(name, "A")
    assert cluster.core("A").match_index["B"] >= index
    assert cluster.core("A").match_index["C"] == index
    cluster.turn("A")
    assert cluster.nodes["C"].log.term_at(index) < cluster.core("A").term
    assert cluster.core("A").commit_index < index
    assert old.calls == 0


def only_connected(cluster: Cluster, *pairs: str) -> None:
    """Exactly these pairs can talk; everything in flight is lost."""
    for a in cluster.ids:
        for b in cluster.ids:
            if a < b:
                cluster.network.cut(a, b)
                if a + b in pairs or b + a in pairs:
                    cluster.network.heal(a, b)


def campaign(cluster: Cluster, name: str, voters: str) -> None:
    """`name` wins with these votes and has sent nothing as leader yet."""
    cluster.no_elections()
    for other in cluster.up():
        cluster.core(other)._leader_heard_at = float("-inf")
    core = cluster.core(name)
    core._pre_votes = set(cluster.ids)
    core._campaign_if_supported()
    for _ in range(6):
        for each in (name, *voters):
            cluster.turn(each)
            cluster.sync(each)
        for voter in voters:
            cluster.network.deliver(name, voter)
            cluster.turn(voter)
            cluster.sync(voter)
            cluster.network.deliver(voter, name)
        if cluster.group(name).role().name == "leader":
            break
    assert cluster.group(name).role().name == "leader"
    for voter in voters:
        cluster.network.drop(name, voter)


def exchange(cluster: Cluster, a: str, b: str, rounds: int = 6) -> None:
    for _ in range(rounds):
        for name in (a, b):
            cluster.turn(name)
            cluster.sync(name)
        cluster.network.deliver(a, b)
        cluster.network.deliver(b, a)


def test_a_definite_refusal_only_for_what_can_never_commit(monkeypatch):
    """A node that led twice has proposals of two terms at one index. A conflict refuses
    those of its own term only: an older proposal further on may still be committed."""
    cluster = Cluster(monkeypatch, 5, limits=ONE_PER_ENTRY)
    cluster.elect("A")
    cluster.settle(3, quiet=True)
    only_connected(cluster, "AC")
    old = [cluster.put("A", name) for name in (b"x", b"y", b"w", b"v")]
    exchange(cluster, "A", "C", 10)  # on A and C: two of five
    only_connected(cluster, "BD", "BE")
    campaign(cluster, "B", "DE")
    only_connected(cluster, "AB")
    exchange(cluster, "A", "B")  # B's no-op takes the place of all four on A
    only_connected(cluster, "AD", "AE")
    campaign(cluster, "A", "DE")
    only_connected(cluster)
    new = cluster.put("A", b"z")
    exchange(cluster, "A", "B", 2)  # z stays on A, at an index where A once had w
    only_connected(cluster, "CD", "CE")
    cluster.core("C")._SyncObj__setCurrentTerm(cluster.core("A").term, None)
    campaign(cluster, "C", "DE")
    for name in cluster.ids:
        cluster.network.rejoin(name)
    cluster.settle(12, quiet=True)
    assert cluster.nodes["A"].machine.commands[-4:] == [b"x", b"y", b"w", b"v"]
    cluster.check_healed()
    assert [outcome.calls for outcome in (*old, new)] == [1] * 5
    assert cluster.group("A").status().proposals_inflight == 0


def test_a_late_grant_of_the_former_round_starts_no_election(monkeypatch):
    cluster = Cluster(monkeypatch)
    cluster.no_elections()
    core = cluster.core("A")
    core._ask_for_pre_votes()
    cluster.network.drop("A", "B")
    grant = {"type": "pre_vote_response", "round": core._pre_vote_round, "granted": True}
    core._SyncObj__setCurrentTerm(core.term + 1, None)  # it voted in somebody's election
    term = core.term
    cluster.group("A").peer_message("C", messages.encode({**grant, "term": term - 1}))
    cluster.turn("A")
    assert core.term == term


def test_a_leader_whose_disk_stalls_gives_way(monkeypatch):
    cluster = Cluster(monkeypatch)
    cluster.elect("A")
    cluster.put("A", b"stuck")
    cluster.turn("A")
    stalled = cluster.timing.disk_stall_seconds_max
    for _ in range(int((stalled + 5) / 0.1)):
        cluster.advance(0.1)
        for name in "ABC":
            cluster.turn(name)
            if name != "A":
                cluster.sync(name)
        cluster.network.deliver_all()
    assert cluster.leader() in ("B", "C")


def test_staleness_is_the_age_of_the_state_and_not_of_the_last_heartbeat(monkeypatch):
    cluster = Cluster(monkeypatch, limits=ONE_PER_ENTRY)
    cluster.elect("A")
    cluster.settle(2, quiet=True)
    assert cluster.group("C").staleness_seconds() < 1
    for i in range(3):
        cluster.put("A", b"x%d" % i)
    for _ in range(100):  # C hears heartbeats and gets no entry
        cluster.no_elections()
        cluster.advance(0.1)
        for name in "ABC":
            cluster.turn(name)
            cluster.sync(name)
        for src, dst in ("AB", "BA", "CA"):
            cluster.network.deliver(src, dst)
        cluster.network.deliver("A", "C", bulk=False)
    assert cluster.group("B").staleness_seconds() < 1
    assert cluster.group("C").staleness_seconds() > 5


def test_answers_to_heartbeats_do_not_wait_for_a_slow_disk(monkeypatch):
    cluster = Cluster(monkeypatch)
    cluster.elect("A")
    cluster.put("A", b"x")
    cluster.turn("A")
    cluster.sync("A")
    cluster.network.deliver("A", "B")
    cluster.turn("B")  # B's disk is slow from here on
    for _ in range(20):
        answers = read(cluster, "A")
        cluster.turn("A")
        cluster.network.deliver("A", "B")
        cluster.turn("B")
        cluster.network.deliver("B", "A")
        cluster.turn("A")
        assert len(answers) == 1
    assert len(cluster.core("B")._outbox) <= 2


def test_a_group_that_failed_does_nothing_more(monkeypatch):
    cluster = Cluster(monkeypatch)
    cluster.elect("A")
    machine = cluster.nodes["B"].machine
    calls: list = []

    def broken(batches, decided):
        calls.append(batches)
        raise OSError("disk")

    monkeypatch.setattr(machine, "apply", broken)
    cluster.put("A", b"x")
    failed = cluster.nodes["B"]
    for _ in range(5):
        cluster.advance(0.11)
        for name in "ABC":
            cluster.group(name).turn()
            cluster.sync(name)
        cluster.network.deliver_all()
    assert isinstance(failed.failure, OSError)
    assert len(calls) == 1
    assert not cluster.network.queue("B", "A")
    refused: list = []
    cluster.group("B").submit(b"y", lambda result, error: refused.append(error))
    assert isinstance(refused[0], NotLeader)


def test_a_halted_leader_leaves_its_place_though_its_connections_are_open(monkeypatch):
    cluster = Cluster(monkeypatch)
    cluster.elect("A")
    answers = cluster.put("A", b"x")
    cluster.group("A").halt()
    refused: list = []
    cluster.group("A").transfer_leadership(None, lambda result, error: refused.append(error))
    assert isinstance(refused[0], NotLeader), "nothing waits for a group that does nothing"
    # Nobody disconnects: A's process is still on its way out.
    for _ in range(20):
        cluster.advance(0.11)
        for name in "ABC":
            cluster.group(name).turn()
            cluster.sync(name)
        cluster.network.deliver_all()
    assert {cluster.group("B").role().leader, cluster.group("C").role().leader} <= {"B", "C"}
    assert cluster.group("B").role().leader == cluster.group("C").role().leader
    assert not answers.calls, "nothing is acknowledged by a group that was halted"


def test_a_frame_that_does_not_parse_ends_a_connection_and_not_the_node(monkeypatch):
    cluster = Cluster(monkeypatch)
    with pytest.raises(messages.MalformedMessage):
        cluster.group("A").peer_message("B", b"\x63 a newer build's message")
    assert cluster.nodes["A"].failure is None
    cluster.elect("A")
