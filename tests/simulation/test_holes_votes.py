"""The holes of the library that its elections, reads and fsyncs have, on the adapter.

See `holes.py`.
"""

from __future__ import annotations

from cluster import messages
from cluster.errors import NotLeader
from cluster.group_limits import GroupLimits
from cluster.membership import Add, Member
from cluster.messages import Message
from cluster.raft import FOLLOWER, FlowLimits
from tests.simulation.driver import heartbeat
from tests.simulation.harness import Outcome
from tests.simulation.safe import SafeCluster

ONE_PER_ENTRY = GroupLimits(entry_commands_max=1)


def led(monkeypatch) -> SafeCluster:
    cluster = SafeCluster(monkeypatch)
    cluster.elect("A")
    cluster.settle(3, quiet=True)
    return cluster


def answers_to(cluster: SafeCluster, voter: str, candidate: str, request: Message) -> list[str]:
    """The types of what `voter` answers to a request that no stickiness holds up."""
    cluster.core(voter)._leader_heard_at = float("-inf")
    cluster.network.drop(voter, candidate)
    cluster.group(voter).peer_message(candidate, messages.encode(request))
    cluster.turn(voter)
    cluster.sync(voter)
    return cluster.kinds(voter, candidate)


def vote_request(cluster: SafeCluster, candidate: str, term: int) -> Message:
    last = cluster.last(candidate)
    request = {"type": "request_vote", "term": term, "transfer": True}
    return {**request, "last_log_index": last.index, "last_log_term": last.term}


def with_learner(monkeypatch) -> SafeCluster:
    """A leads; D is a learner and has everything."""
    cluster = SafeCluster(monkeypatch)
    cluster.elect("A")
    cluster.settle(3, quiet=True)
    cluster.add_node("D")
    cluster.change("A", Add(Member("D")))
    cluster.settle(4, quiet=True)
    assert cluster.group("D").configuration().voters == set("ABC")
    return cluster


def test_p09_a_learners_vote_does_not_count(monkeypatch):
    cluster = with_learner(monkeypatch)
    core = cluster.core("B")
    core._ask_for_pre_votes()
    grant = {"type": "pre_vote_response", "round": core._pre_vote_round, "granted": True}
    cluster.group("B").peer_message("D", messages.encode({**grant, "term": core.term}))
    assert core.state == FOLLOWER
    core._campaign(transfer=True)
    vote = messages.encode({"type": "response_vote", "term": core.term})
    cluster.group("B").peer_message("D", vote)
    assert not cluster.is_leader("B")
    cluster.group("B").peer_message("C", vote)
    assert cluster.is_leader("B")


def test_p11_a_learners_echo_confirms_no_read(monkeypatch):
    cluster = with_learner(monkeypatch)
    cluster.network.isolate("B")
    cluster.network.isolate("C")
    answers: list = []
    cluster.group("A").read_index(lambda index, error: answers.append(index))
    for _ in range(3):
        cluster.pair_round("A", "D")
    assert not answers


def test_p11_an_echo_for_an_earlier_leader_confirms_no_read(monkeypatch):
    """C has seen many rounds of A's. Its answer to an append that B sent before a read came
    says nothing about B's round, although that has a lower number."""
    cluster = SafeCluster(monkeypatch)
    cluster.elect("A")
    for _ in range(5):
        cluster.group("A").read_index(lambda index, error: None)
        cluster.settle(1, quiet=True)
    cluster.network.isolate("A")
    cluster.elect("B")
    heartbeat(cluster, "B")
    cluster.network.deliver("B", "C")
    assert cluster.network.queue("C", "B")
    answers: list = []
    cluster.group("B").read_index(lambda index, error: answers.append(index))
    cluster.turn("B")
    cluster.network.deliver("C", "B")
    cluster.turn("B")
    assert not answers
    cluster.settle(1, quiet=True)
    assert answers


def test_h14_a_vote_outlives_a_crash(monkeypatch):
    cluster = SafeCluster(monkeypatch)
    cluster.no_elections()
    cluster.network.cut("A", "C")
    for name in "AC":
        cluster.core(name)._campaign(transfer=True)
        cluster.turn(name)
        cluster.sync(name)
    cluster.network.deliver("A", "B")
    cluster.turn("B")
    cluster.sync("B")
    asked = list(cluster.network.queue("C", "B"))
    cluster.network.deliver("B", "A")
    assert cluster.is_leader("A")
    cluster.crash("B")
    cluster.start("B")
    cluster.network.heal("B", "C")
    cluster.network.queue("C", "B").extend(asked)
    cluster.network.deliver("C", "B")
    cluster.turn("B")
    cluster.sync("B")
    cluster.network.deliver("B", "C")
    assert cluster.term("B") == cluster.term("C")
    assert not cluster.is_leader("C")


def test_h14_nothing_is_applied_before_it_is_durable_here(monkeypatch):
    cluster = SafeCluster(monkeypatch)
    cluster.elect("A")
    cluster.settle(2, quiet=True)
    outcome = cluster.put("A", b"x")
    for _ in range(4):
        cluster.turn("A")
        for name in "BC":
            cluster.network.deliver("A", name)
            cluster.turn(name)
            cluster.sync(name)
            cluster.network.deliver(name, "A")
    assert cluster.commit_index("A") == cluster.last("A").index  # B and C have it on disk
    assert cluster.state("A") == []
    assert outcome.calls == 0
    cluster.sync("A")
    cluster.turn("A")
    assert outcome.acknowledged


def test_p09_a_vote_of_a_former_term_does_not_count(monkeypatch):
    cluster = led(monkeypatch)
    core = cluster.core("B")
    core._campaign(transfer=True)
    vote = messages.encode({"type": "response_vote", "term": core.term})
    core._campaign(transfer=True)
    cluster.group("B").peer_message("C", vote)
    assert not cluster.is_leader("B")


def test_p10_a_request_for_votes_does_not_depose_a_leader_that_is_heard(monkeypatch):
    cluster = led(monkeypatch)
    cluster.settle(1, quiet=True)
    term = cluster.term("A")
    request = vote_request(cluster, "C", term + 1) | {"transfer": False}
    for name in "AB":
        cluster.group(name).peer_message("C", messages.encode(request))
    cluster.settle(2, quiet=True)
    assert cluster.is_leader("A")
    assert {cluster.term(name) for name in "ABC"} == {term}


# --- Counting -------------------------------------------------------------------------------


def grow(cluster: SafeCluster, name: str, prefix: str, count: int) -> list[Outcome]:
    """Commands in the log of `name`, on its disk and on their way, one entry each."""
    outcomes = []
    for i in range(count):
        outcomes.append(cluster.put(name, f"{prefix}{i}".encode()))
        cluster.turn(name)
        cluster.sync(name)
    cluster.turn(name)
    return outcomes


def to_and_fro(cluster: SafeCluster, a: str, b: str, rounds: int = 5) -> None:
    for _ in range(rounds):
        cluster.pair_round(a, b)


def test_p06_an_ack_of_an_earlier_term_does_not_count(monkeypatch):
    """The audit's schedule: A and D hold new entries, and B once acknowledged others there."""
    cluster = SafeCluster(monkeypatch, 5, limits=ONE_PER_ENTRY)
    cluster.elect("A")
    cluster.settle(2, quiet=True)
    for other in "CDE":
        cluster.network.cut("A", other)
        cluster.network.cut("B", other)
    grow(cluster, "A", "old", 4)
    cluster.network.deliver("A", "B")
    cluster.turn("B")
    cluster.sync("B")
    for _ in range(3):  # the first of them is a probe
        kept = list(cluster.network.queue("B", "A"))
        cluster.network.deliver("B", "A", 1)
        cluster.turn("A")
        cluster.network.deliver("A", "B")
        cluster.turn("B")
        cluster.sync("B")
    kept += cluster.network.queue("B", "A")
    claimed = cluster.last("B").index
    assert claimed == cluster.last("A").index
    cluster.network.isolate("A")
    cluster.elect("C")
    cluster.network.heal("C", "A")
    to_and_fro(cluster, "C", "A")
    cluster.network.isolate("C")
    for other in "DE":
        cluster.network.heal("A", other)
    cluster.elect("A")
    cluster.network.cut("A", "E")
    new = grow(cluster, "A", "new", claimed - cluster.last("A").index)
    assert len(new) > 1
    assert cluster.last("A").index == claimed
    to_and_fro(cluster, "A", "D")
    assert cluster.match_index("A", "D") == claimed
    before = cluster.commit_index("A")
    for frame in kept:
        cluster.group("A").peer_message("B", frame.payload)
    cluster.turn("A")
    assert cluster.commit_index("A") == before < claimed
    assert all(outcome.calls == 0 for outcome in new)


def test_h04_an_ack_of_another_folder_does_not_count(monkeypatch):
    cluster = led(monkeypatch)
    cluster.network.isolate("C")
    cluster.wipe("B")
    cluster.start("B")
    cluster.group("A")._readmit_replaced = lambda: None  # the next turn would
    cluster.network.heal("A", "B")
    outcome = grow(cluster, "A", "x", 1)[0]
    ack = {"type": "next_node_idx", "term": cluster.term("A"), "read_seq": 0}
    ack |= {"next_node_idx": cluster.last("A").index + 1, "reset": False, "success": True}
    ack |= {"full": False, "stateless": False, "awaited": False}
    cluster.group("A").peer_message("B", messages.encode(ack))
    cluster.turn("A")
    assert outcome.calls == 0
    assert cluster.commit_index("A") < cluster.last("A").index


def test_learners_make_no_majority(monkeypatch):
    """Three of five have it, two of whom are learners; then two of three voters have it."""
    cluster = with_learner(monkeypatch)
    cluster.add_node("E")
    cluster.change("A", Add(Member("E")))
    cluster.settle(4, quiet=True)
    cluster.network.isolate("B")
    cluster.network.isolate("C")
    outcome = cluster.put("A", b"x")
    for learner in "DE":
        to_and_fro(cluster, "A", learner, 1)
        cluster.pair_round("A", learner)
    assert cluster.match_index("A", "D") == cluster.match_index("A", "E")
    assert cluster.commit_index("A") < cluster.match_index("A", "D")
    assert outcome.calls == 0
    cluster.network.isolate("D")
    cluster.network.isolate("E")
    cluster.network.heal("A", "B")
    to_and_fro(cluster, "A", "B")
    assert outcome.acknowledged


def test_h14_the_leader_does_not_count_what_only_its_memory_holds(monkeypatch):
    """B alone has it on its disk: it is not committed, and B does not apply it."""
    cluster = led(monkeypatch)
    cluster.network.isolate("C")
    before = cluster.commit_index("A")
    cluster.put("A", b"x")
    for _ in range(5):
        cluster.advance(0.11)
        cluster.no_elections()
        cluster.turn("A")
        cluster.network.deliver("A", "B")
        cluster.turn("B")
        cluster.sync("B")
        cluster.network.deliver("B", "A")
    assert cluster.match_index("A", "B") == cluster.last("A").index
    assert cluster.commit_index("A") == before
    assert cluster.state("B") == []


def test_h13_what_follows_a_lost_command_is_refused_with_it(monkeypatch):
    """Three commands are lost with A's leadership. Only the first one's place is taken: no log
    that holds the others can win, and their clients need not wait."""
    cluster = SafeCluster(monkeypatch, limits=ONE_PER_ENTRY)
    cluster.elect("A")
    cluster.settle(2, quiet=True)
    cluster.network.isolate("A")
    lost = grow(cluster, "A", "lost", 3)
    cluster.elect("B")
    cluster.network.rejoin("A")
    cluster.settle(3, quiet=True)
    assert cluster.last("B").index == cluster.commit_index("A")
    assert [type(outcome.error) for outcome in lost] == [NotLeader] * 3
    assert cluster.group("A").status().proposals_inflight == 0


# --- Lost folders ---------------------------------------------------------------------------


def test_h04_a_candidate_does_not_count_the_vote_of_another_folder(monkeypatch):
    cluster = led(monkeypatch)
    cluster.network.isolate("A")
    cluster.wipe("B")
    cluster.start("B")
    cluster.network.heal("B", "C")
    core = cluster.core("C")
    core._campaign(transfer=True)
    vote = messages.encode({"type": "response_vote", "term": core.term})
    cluster.group("C").peer_message("B", vote)
    assert not cluster.is_leader("C")


def test_h04_a_folder_that_the_configuration_does_not_mean_has_no_vote(monkeypatch):
    """B has got the log again up to the first configuration, which names its former folder."""
    cluster = led(monkeypatch)
    cluster.network.isolate("A")
    cluster.wipe("B")
    log = cluster.nodes["B"].log
    log.append(cluster.nodes["A"].log.read(1, cluster.last("A").index + 1, 1 << 20))
    log.set_hard_state(cluster.term("A"), None)
    log.flush()
    log.sync()
    cluster.start("B")
    cluster.network.heal("B", "C")
    assert cluster.group("B").configuration().member("B").incarnation == "B-1"
    request = vote_request(cluster, "C", cluster.term("C") + 1)
    assert "response_vote" not in answers_to(cluster, "B", "C", request)


# --- Probing --------------------------------------------------------------------------------


def diverged(monkeypatch) -> SafeCluster:
    """A has 20 entries that nobody else has; B leads and has 20 others; appends are small."""
    flow = FlowLimits(append_bytes_max=1)
    cluster = SafeCluster(monkeypatch, limits=ONE_PER_ENTRY, flow=flow)
    cluster.elect("A")
    cluster.settle(2, quiet=True)
    cluster.network.isolate("A")
    for i in range(20):
        cluster.put("A", b"stray%d" % i)
        cluster.turn("A")
        cluster.sync("A")
    cluster.elect("B")
    cluster.write("B", "x", 20)
    cluster.network.heal("A", "B")
    return cluster


def appends(cluster: SafeCluster) -> int:
    """How many appends with entries are on their way from B to A."""
    return sum(frame.bulk for frame in cluster.network.queue("B", "A"))


def test_a_follower_that_diverged_is_probed_with_one_append_at_a_time(monkeypatch):
    cluster = diverged(monkeypatch)
    rounds = 0
    while cluster.match_index("B", "A") == 0:
        heartbeat(cluster, "B")
        assert appends(cluster) <= 1
        cluster.network.deliver("B", "A")
        cluster.turn("A")
        cluster.sync("A")
        cluster.network.deliver("A", "B")
        rounds += 1
    assert 1 < rounds < 6
    cluster.turn("B")
    assert appends(cluster) > 5  # from here on it streams
    cluster.settle(3, quiet=True)
    assert cluster.last("A") == cluster.last("B")


def test_a_refusal_of_an_older_append_does_not_move_a_probe(monkeypatch):
    cluster = diverged(monkeypatch)
    heartbeat(cluster, "B")
    cluster.network.deliver("B", "A")
    cluster.turn("A")
    cluster.sync("A")
    refusals = [
        frame
        for frame, message in zip(
            cluster.network.queue("A", "B"), cluster.messages("A", "B"), strict=True
        )
        if message.get("reset")
    ]
    assert refusals
    cluster.network.deliver("A", "B")
    cluster.turn("B")
    assert appends(cluster) == 1  # the probe at the place that the refusal named
    for frame in refusals:
        cluster.group("B").peer_message("A", frame.payload)
        cluster.turn("B")
        assert appends(cluster) == 1
