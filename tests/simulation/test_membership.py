"""Members come, go, move and lose their folders; leadership is handed over."""

from __future__ import annotations

import pytest

from cluster import messages
from cluster.compaction import CompactionLimits
from cluster.errors import (
    ChangeRefused,
    CorruptSnapshot,
    DiskFull,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
)
from cluster.interfaces import SnapshotMeta
from cluster.membership import Add, Member, Promote, Remove, Update
from tests.simulation.harness import Cluster, Outcome


def led(monkeypatch, size: int = 3) -> Cluster:
    cluster = Cluster(monkeypatch, size)
    cluster.elect("A")
    cluster.settle(3, quiet=True)
    return cluster


def done(cluster: Cluster, outcome, rounds: int = 8):
    cluster.settle(rounds, quiet=True)
    assert outcome.acknowledged, outcome.error
    return outcome.result


def transfer(cluster: Cluster, target: str | None) -> Outcome:
    """Ask A to hand over."""
    outcome = Outcome(b"")
    cluster.group("A").transfer_leadership(target, outcome)
    return outcome


def test_the_first_leader_writes_the_members_into_the_log(monkeypatch):
    cluster = led(monkeypatch)
    for name in cluster.ids:
        configuration = cluster.group(name).configuration()
        assert configuration.index == 3
        assert configuration.voters == {"A", "B", "C"}
        assert [m.incarnation for m in configuration.members] == ["A-1", "B-1", "C-1"]


def test_a_new_node_is_a_learner_until_it_has_caught_up(monkeypatch):
    cluster = led(monkeypatch)
    for i in range(20):
        cluster.put("A", b"%d" % i)
        cluster.settle(1, quiet=True)
    cluster.add_node("D")
    done(cluster, cluster.change("A", Add(Member("D", peer="d:1", http="http://d"))))
    assert cluster.group("D").configuration().member("D").voter is False
    assert cluster.nodes["D"].machine.commands == cluster.nodes["A"].machine.commands
    done(cluster, cluster.change("A", Promote("D")))
    assert cluster.group("C").configuration().voters == {"A", "B", "C", "D"}
    for other in "BC":
        cluster.network.isolate(other)
    outcome = cluster.put("A", b"two of four")
    cluster.settle(3, quiet=True)
    assert outcome.calls == 0


def test_a_learner_neither_votes_nor_counts(monkeypatch):
    """With two of them A would have three of five, if they counted."""
    cluster = led(monkeypatch)
    for name in "DE":
        cluster.add_node(name)
        done(cluster, cluster.change("A", Add(Member(name))))
    cluster.network.isolate("B")
    cluster.network.isolate("C")
    outcome = cluster.put("A", b"x")
    cluster.settle(3, quiet=True)
    assert outcome.calls == 0, "learners' acks made a majority"
    cluster.settle(30)
    assert cluster.leader() is None, "learners' answers kept a leader in office"


def test_a_learner_that_lags_is_not_promoted(monkeypatch):
    cluster = led(monkeypatch)
    cluster.add_node("D")
    done(cluster, cluster.change("A", Add(Member("D"))))
    cluster.network.isolate("D")
    refused = cluster.change("A", Promote("D"))
    assert isinstance(refused.error, ChangeRefused)
    assert "not connected" in str(refused.error)


def test_one_change_at_a_time(monkeypatch):
    """P3."""
    cluster = led(monkeypatch)
    cluster.network.isolate("A")
    last = cluster.nodes["A"].log.last_index
    first = cluster.change("A", Add(Member("D")))
    cluster.turn("A")
    for change in (Add(Member("E")), Remove("B"), Remove("C")):
        refused = cluster.change("A", change)
        assert isinstance(refused.error, ChangeRefused)
        cluster.turn("A")
    assert first.calls == 0
    assert cluster.nodes["A"].log.last_index == last + 1


def test_no_change_before_an_entry_of_the_own_term_is_committed(monkeypatch):
    cluster = led(monkeypatch)
    cluster.no_elections()
    core = cluster.core("B")
    core._leader_heard_at = cluster.core("C")._leader_heard_at = float("-inf")
    core._campaign(transfer=True)
    for _ in range(3):
        for name in "BC":
            cluster.turn(name)
            cluster.sync(name)
        cluster.network.deliver("B", "C")
        cluster.network.deliver("C", "B", 1)
    assert cluster.group("B").role().name == "leader"
    assert not core.noop_committed
    assert isinstance(cluster.change("B", Remove("C")).error, ChangeRefused)


def test_a_removed_member_is_told_and_stops(monkeypatch):
    cluster = led(monkeypatch)
    done(cluster, cluster.change("A", Remove("C")))
    assert cluster.removed == {"C"}
    assert cluster.group("B").configuration().ids == {"A", "B"}
    outcome = cluster.put("A", b"x")
    cluster.settle(3, quiet=True)
    assert outcome.acknowledged


def test_a_member_removed_while_it_was_away_disturbs_nobody(monkeypatch):
    cluster = led(monkeypatch)
    cluster.crash("C")
    done(cluster, cluster.change("A", Remove("C")))
    term = cluster.core("A").term
    cluster.restart("C")
    cluster.settle(40)
    assert cluster.core("A").term == term
    assert cluster.leader() == "A"


def test_the_leader_does_not_remove_itself_and_a_quorum_is_not_given_away(monkeypatch):
    cluster = led(monkeypatch)
    assert "hand over" in str(cluster.change("A", Remove("A")).error)
    cluster.crash("B")
    cluster.settle(12, quiet=True)
    refused = cluster.change("A", Remove("C"))
    assert isinstance(refused.error, ChangeRefused)
    done(cluster, cluster.change("A", Remove("B")))
    assert isinstance(cluster.change("A", Remove("nobody")).error, ChangeRefused)


def test_a_follower_refuses_a_change(monkeypatch):
    cluster = led(monkeypatch)
    assert isinstance(cluster.change("B", Remove("C")).error, NotLeader)


def test_the_configuration_survives_restarts_whoever_asks(monkeypatch):
    """P12: from the log, committed or not, and from a snapshot; never from the file."""
    cluster = led(monkeypatch)
    for name in "DE":
        cluster.add_node(name)
        done(cluster, cluster.change("A", Add(Member(name))))
        done(cluster, cluster.change("A", Promote(name)))
    cluster.crash("B")
    cluster.start("B")
    assert cluster.group("B").configuration().voters == set("ABCDE")
    cluster.crash("B")
    cluster.start("B")
    cluster.network.heal("B", "C")
    cluster.settle(40)
    assert cluster.group("B").role().name != "leader", "two of five voters elected a leader"
    cluster.network.rejoin("B")
    cluster.settle(20)
    cluster.compact("B")
    cluster.crash("B")
    cluster.start("B")
    assert cluster.group("B").configuration().voters == set("ABCDE")


def test_a_truncated_change_is_undone(monkeypatch):
    cluster = led(monkeypatch)
    cluster.change("A", Remove("C"))
    cluster.network.isolate("A")
    cluster.turn("A")
    cluster.sync("A")
    assert cluster.group("A").configuration().voters == {"A", "B"}
    cluster.elect("B")
    cluster.put("B", b"x")
    cluster.settle(2, quiet=True)
    cluster.network.rejoin("A")
    cluster.settle(6, quiet=True)
    assert cluster.group("A").configuration().voters == {"A", "B", "C"}
    cluster.check_healed()


def test_a_node_that_was_away_while_the_members_changed_finds_the_leader(monkeypatch):
    """Only D and E lead in the end, of whom C has never heard."""
    cluster = led(monkeypatch)
    cluster.network.isolate("C")
    for name in "DE":
        cluster.add_node(name)
        cluster.network.cut(name, "C")
        done(cluster, cluster.change("A", Add(Member(name))))
        done(cluster, cluster.change("A", Promote(name)))
    done(cluster, transfer(cluster, "D"))
    cluster.put("D", b"x")
    cluster.network.rejoin("C")
    cluster.settle(20)
    cluster.check_healed()
    assert cluster.group("C").configuration().voters == set("ABCDE")


def test_addresses_change_through_the_log(monkeypatch):
    cluster = led(monkeypatch)
    done(cluster, cluster.change("A", Update("B", peer="b:9", http="http://b:9")))
    assert cluster.group("C").configuration().member("B").peer == "b:9"
    again = cluster.change("A", Update("B", peer="b:9"))
    assert again.acknowledged, "nothing to change is a success at once"


# --- Lost folders -------------------------------------------------------------------


def test_a_wiped_node_returns_as_a_learner_and_is_promoted_when_it_has_everything(monkeypatch):
    cluster = led(monkeypatch)
    outcomes = [cluster.put("A", b"%d" % i) for i in range(10)]
    cluster.settle(3, quiet=True)
    cluster.wipe("C")
    cluster.restart("C")
    cluster.settle(2, quiet=True)
    member = cluster.group("A").configuration().member("C")
    assert (member.voter, member.incarnation) == (False, "C-2")
    cluster.settle(4, quiet=True)
    assert cluster.nodes["C"].machine.commands == [o.command for o in outcomes]
    done(cluster, cluster.change("A", Promote("C")))
    cluster.check_healed()


def test_a_wiped_node_does_not_vote_a_lagging_leader_into_office(monkeypatch):
    """x is on A and B. B loses its folder, A is away: B and C must not elect each other."""
    cluster = led(monkeypatch)
    cluster.network.isolate("C")
    outcome = cluster.put("A", b"x")
    cluster.settle(2, quiet=True)
    assert outcome.acknowledged
    cluster.network.isolate("A")
    cluster.wipe("B")
    cluster.start("B")
    cluster.network.heal("B", "C")
    cluster.settle(60)
    assert cluster.group("B").role().name != "leader"
    assert cluster.group("C").role().name != "leader"
    cluster.network.rejoin("A")
    cluster.settle(40)
    cluster.check_healed()


def test_a_learner_whose_replica_was_made_anew_is_sent_everything_again(monkeypatch):
    """The folder of one group was deleted and made anew; the node's own folder, by whose
    incarnation nodes are known, is the same. The leader believed what the former said, and
    ignored that the new one has nothing."""
    cluster = led(monkeypatch)
    outcomes = [cluster.put("A", b"%d" % i) for i in range(10)]
    cluster.add_node("D")
    done(cluster, cluster.change("A", Add(Member("D"))))
    cluster.crash("D")
    cluster.nodes["D"] = cluster.new_node("D")
    cluster.restart("D")
    cluster.settle(8, quiet=True)
    assert cluster.nodes["D"].machine.commands == [o.command for o in outcomes]
    done(cluster, cluster.change("A", Promote("D")))
    cluster.check_healed()


def test_an_amnesiac_does_not_vote_twice_in_a_term(monkeypatch):
    cluster = Cluster(monkeypatch)
    cluster.settle(20)
    leader = cluster.leader()
    cluster.no_elections()
    first, second = (name for name in cluster.ids if name != leader)
    voter = cluster.core(first)
    candidate = cluster.core(leader)
    candidate._campaign(transfer=True)  # a vote of `first` in this term
    cluster.turn(leader)
    cluster.sync(leader)
    cluster.network.cut(leader, second)
    cluster.network.deliver(leader, first)
    cluster.turn(first)
    cluster.sync(first)
    assert voter.term == candidate.term
    cluster.wipe(first)
    cluster.start(first)
    cluster.network.heal(first, second)
    rival = cluster.core(second)
    rival._campaign(transfer=True)
    assert rival.term == candidate.term
    cluster.settle(2, quiet=True)
    assert cluster.group(second).role().name != "leader"


def test_acks_of_the_former_folder_do_not_commit_anything(monkeypatch):
    cluster = led(monkeypatch, 5)
    for other in "CDE":
        cluster.network.isolate(other)
    outcome = cluster.put("A", b"x")
    cluster.turn("A")
    cluster.sync("A")
    cluster.network.deliver("A", "B")
    cluster.turn("B")
    cluster.sync("B")
    cluster.network.deliver("B", "A")
    cluster.turn("A")
    cluster.wipe("B")  # two of five had x, now one
    cluster.start("B")
    cluster.network.heal("A", "B")
    cluster.network.heal("A", "C")
    for _ in range(3):
        cluster.turn("A")
        cluster.sync("A")
        cluster.network.deliver("A", "C")
        cluster.turn("C")
        cluster.sync("C")
        cluster.network.deliver("C", "A")
    cluster.turn("A")
    assert outcome.calls == 0, "a wiped folder's ack made a majority"


# --- Handing over ---------------------------------------------------------------------


@pytest.mark.parametrize("target", ["C", None])
def test_leadership_is_handed_over_without_a_timeout(monkeypatch, target):
    cluster = led(monkeypatch)
    cluster.put("A", b"x")
    outcome = transfer(cluster, target)
    refused = cluster.put("A", b"y")
    assert isinstance(refused.error, NotLeader), "proposals stop meanwhile"
    assert done(cluster, outcome, 2) == cluster.leader() != "A"
    assert target in (None, cluster.leader())
    later = cluster.put(cluster.leader(), b"z")
    cluster.settle(4, quiet=True)
    assert later.acknowledged
    cluster.check_healed()


def test_a_transfer_that_does_not_come_off_says_so_and_the_leader_goes_on(monkeypatch):
    """Section 8: upstream calls it done once the message is sent."""
    cluster = led(monkeypatch)
    outcome = transfer(cluster, "C")
    cluster.turn("A")
    cluster.network.drop("A", "C")
    cluster.settle(12, quiet=True)
    assert isinstance(outcome.error, ChangeRefused)
    again = cluster.put("A", b"x")
    cluster.settle(2, quiet=True)
    assert again.acknowledged


def test_only_the_leader_can_make_a_node_campaign(monkeypatch):
    cluster = led(monkeypatch)
    term = cluster.core("A").term
    stale = messages.encode({"type": "timeout_now", "term": term})
    cluster.group("C").peer_message("B", stale)
    stale = messages.encode({"type": "timeout_now", "term": term - 1})
    cluster.group("C").peer_message("A", stale)
    cluster.settle(2, quiet=True)
    assert cluster.core("C").term == term


# --- Disks without room -----------------------------------------------------------------


def test_a_follower_without_room_takes_nothing_and_the_others_go_on(monkeypatch):
    cluster = led(monkeypatch)
    cluster.group("C").set_room(False)
    last = cluster.nodes["C"].log.last_index
    outcomes = []
    for i in range(5):
        outcomes.append(cluster.put("A", b"%d" % i))
        cluster.settle(1, quiet=True)
    assert all(o.acknowledged for o in outcomes)
    assert cluster.nodes["C"].log.last_index == last
    cluster.group("C").set_room(True)
    cluster.settle(4, quiet=True)
    cluster.check_healed()


def test_a_leader_without_room_hands_over(monkeypatch):
    cluster = led(monkeypatch)
    cluster.group("A").set_room(False)
    refused = cluster.put("A", b"x")
    assert isinstance(refused.error, DiskFull)
    cluster.settle(4, quiet=True)
    leader = cluster.leader()
    assert leader in ("B", "C")
    outcome = cluster.put(leader, b"y")
    cluster.settle(2, quiet=True)
    assert outcome.acknowledged


def test_without_room_anywhere_reads_still_have_a_leader(monkeypatch):
    cluster = led(monkeypatch)
    for name in cluster.ids:
        cluster.group(name).set_room(False)
    cluster.crash("A")
    cluster.settle(80)
    leader = cluster.leader()
    assert leader is not None
    answers: list = []
    cluster.group(leader).read_index(lambda index, error: answers.append(index))
    cluster.settle(2)
    assert answers[0] is not None


def test_what_a_snapshot_replaces_is_told_as_unknown(monkeypatch):
    """P14."""
    cluster = led(monkeypatch)
    cluster.network.isolate("A")
    lost = [cluster.put("A", b"lost%d" % i) for i in range(3)]
    cluster.turn("A")
    cluster.sync("A")
    cluster.elect("B")
    for i in range(20):
        cluster.put("B", b"%d" % i)
        cluster.settle(1, quiet=True)
    cluster.compact("B")
    cluster.network.rejoin("A")
    cluster.settle(8, quiet=True)
    assert all(isinstance(o.error, OutcomeUnknown) for o in lost)
    assert cluster.group("A").status().proposals_inflight == 0
    cluster.check_healed()


# --- What campaigns found ---------------------------------------------------------------


def test_a_wiped_candidate_gets_no_vote_from_who_knew_its_former_folder(monkeypatch):
    """x is on B and C, A never had anything. B loses its folder: A must not elect it."""
    cluster = Cluster(monkeypatch)
    cluster.network.isolate("A")
    cluster.elect("C")
    outcome = cluster.put("C", b"x")
    cluster.settle(2, quiet=True)
    assert outcome.acknowledged
    cluster.network.isolate("C")
    cluster.wipe("B")
    cluster.start("B")
    cluster.network.heal("A", "B")
    cluster.settle(60)
    assert not {"leader"} & {cluster.group(name).role().name for name in "AB"}
    cluster.network.rejoin("C")
    cluster.settle(40)
    cluster.check_healed()


def test_a_member_that_never_had_an_entry_can_replace_one_that_died(monkeypatch):
    cluster = Cluster(monkeypatch)
    cluster.network.isolate("A")
    cluster.elect("C")
    outcome = cluster.put("C", b"x")
    cluster.settle(2, quiet=True)
    cluster.crash("B")
    cluster.network.heal("A", "C")
    cluster.settle(40)
    assert cluster.leader() == "C"
    assert outcome.acknowledged
    assert cluster.nodes["A"].machine.commands == [b"x"]


def test_a_learner_has_to_hold_the_entry_that_admitted_it(monkeypatch):
    """With less it would have no vote yet, and count as a voter all the same."""
    cluster = led(monkeypatch)
    cluster.add_node("D")
    admitted = cluster.change("A", Add(Member("D")))
    for name in "ABC":
        cluster.turn(name)
        cluster.sync(name)
    for _ in range(4):
        for peer in "BC":
            cluster.network.deliver("A", peer)
            cluster.turn(peer)
            cluster.sync(peer)
            cluster.network.deliver(peer, "A")
        cluster.turn("A")
    assert admitted.acknowledged
    refused = cluster.change("A", Promote("D"))
    assert isinstance(refused.error, ChangeRefused)
    assert "lags" in str(refused.error)


def test_a_node_whose_removal_is_not_committed_may_lead_to_commit_it(monkeypatch):
    """Ongaro 2014, section 4.2.2. A is gone; D alone has the entry that removes D. B and C
    need a third vote of four, which D, with the longer log, does not give; D needs theirs."""
    cluster = led(monkeypatch, 4)
    cluster.change("A", Remove("D"))
    cluster.turn("A")
    cluster.sync("A")
    cluster.network.deliver("A", "D")
    cluster.turn("D")
    cluster.sync("D")
    cluster.crash("A")
    assert cluster.core("D").configuration.voters == {"A", "B", "C"}
    cluster.settle(60)
    assert cluster.removed == {"D"}
    assert cluster.leader() in ("B", "C")


def test_a_node_without_its_state_leads_only_to_bring_its_log_to_another(monkeypatch):
    """B has the longest log, and nothing to serve from."""
    cluster = led(monkeypatch)
    for i in range(5):
        cluster.put("A", b"%d" % i)
        cluster.settle(1, quiet=True)
    cluster.compact("B")
    cluster.network.isolate("C")
    outcome = cluster.put("A", b"x")
    cluster.settle(2, quiet=True)
    assert outcome.acknowledged
    snapshot = cluster.nodes["B"].snapshots.newest
    cluster.crash("A")
    cluster.crash("B")
    cluster.nodes["B"].snapshots.disk.corrupt(snapshot.index, 0)
    cluster.start("B")
    assert cluster.core("B").stateless
    cluster.network.heal("B", "C")
    cluster.settle(80)
    assert cluster.leader() == "C"
    assert b"x" in cluster.nodes["C"].machine.commands
    cluster.restart("A")
    cluster.settle(20)
    cluster.check_healed()


def test_what_is_not_applied_is_not_cut_from_the_log(monkeypatch):
    """The snapshot that holds it may be damaged; then the log is all there is."""
    limits = CompactionLimits(keep_entries=0)
    cluster = Cluster(monkeypatch, compaction=limits)
    cluster.elect("A")
    for i in range(5):
        cluster.put("A", b"%d" % i)
        cluster.settle(1, quiet=True)
    node = cluster.nodes["B"]
    node.log.drop_prefix = lambda index: None  # killed right before the log was cut
    assert cluster.group("B").make_snapshot()
    del node.log.drop_prefix
    cluster.crash("B")
    node = cluster.nodes["B"]
    newest = node.snapshots.newest
    node.snapshots.disk.corrupt(newest.index, 0)
    cluster.start("B")
    cluster.settle(1, quiet=True)
    assert node.log.first_index == 1
    assert not cluster.core("B").stateless
    cluster.network.rejoin("B")
    cluster.settle(4, quiet=True)
    cluster.check_healed()


def test_a_snapshot_that_turns_out_damaged_at_the_last_moment_is_fetched_again(monkeypatch):
    """Between its check and its installation the disk altered it: no reason to stop."""
    cluster = led(monkeypatch)
    cluster.network.isolate("C")
    for i in range(5):
        cluster.put("A", b"%d" % i)
        cluster.settle(1, quiet=True)
    cluster.compact("A")
    snapshots = cluster.nodes["C"].snapshots
    install, tries = snapshots.install, []

    def damaged_once() -> None:
        tries.append(1)
        if len(tries) == 1:
            del snapshots.disk.held[snapshots.newest.index]
            raise CorruptSnapshot("memory", "altered")
        install()

    monkeypatch.setattr(snapshots, "install", damaged_once)
    cluster.network.rejoin("C")
    cluster.settle(12, quiet=True)
    assert len(tries) == 2
    cluster.check_healed()


@pytest.mark.parametrize("name", ["write", "verify", "read"])
def test_a_disk_that_is_too_busy_for_a_snapshot_delays_it_and_stops_nobody(monkeypatch, name):
    cluster = led(monkeypatch)
    cluster.network.isolate("C")
    for i in range(5):
        cluster.put("A", b"%d" % i)
        cluster.settle(1, quiet=True)
    cluster.compact("A")
    refused: list[str] = []
    for node in "AC":
        snapshots = cluster.nodes[node].snapshots
        original = getattr(snapshots, name)

        def busy_once(*arguments, original=original, **named):
            if not refused:
                refused.append(name)
                raise Overloaded("busy")
            return original(*arguments, **named)

        monkeypatch.setattr(snapshots, name, busy_once)
    if name == "verify":  # asked for by a follower that found what it got damaged
        refusal = {"type": "snapshot_pull", "term": 1, "index": 5, "offset": 0, "size": 0}
        cluster.group("A").peer_message("B", messages.encode(refusal))
    cluster.network.rejoin("C")
    cluster.settle(20, quiet=True)
    assert refused == [name]
    cluster.check_healed()


def forgotten_base(cluster: Cluster, name: str) -> SnapshotMeta:
    """Cut the log of `name` right above its snapshot, as when a newer one was set aside, and
    restart it: it has forgotten the term of what lies right below its log."""
    cluster.compact(name)
    node = cluster.nodes[name]
    snapshot = node.snapshots.newest
    assert snapshot is not None
    cluster.put(cluster.leader(), b"above the snapshot")
    cluster.settle(2, quiet=True)
    node.log.drop_prefix(snapshot.index + 1)
    cluster.crash(name)
    cluster.start(name)
    log = cluster.nodes[name].log
    assert (log.first_index, log.term_at(snapshot.index)) == (snapshot.index + 1, None)
    return snapshot


def test_a_log_that_begins_right_above_its_snapshot_still_serves_who_ends_there(monkeypatch):
    """C has exactly the snapshot, and A's log what follows; A offered the snapshot for ever."""
    cluster = led(monkeypatch)
    cluster.put("A", b"x")
    cluster.settle(2, quiet=True)
    cluster.network.isolate("C")
    forgotten_base(cluster, "A")
    cluster.network.heal("A", "B")
    cluster.elect("A")
    cluster.network.rejoin("C")
    cluster.settle(8, quiet=True)
    cluster.check_healed()


def test_a_vote_is_not_cheaper_where_the_last_term_is_forgotten(monkeypatch):
    """An emptied log above a base of unknown term must not look like one of term 0."""
    cluster = led(monkeypatch)
    cluster.put("A", b"x")
    cluster.settle(2, quiet=True)
    snapshot = forgotten_base(cluster, "B")
    core = cluster.core("B")
    core._SyncObj__raftCommitIndex = snapshot.index
    core._SyncObj__deleteEntriesFrom(snapshot.index + 1)
    older = {"last_log_index": snapshot.index + 9, "last_log_term": snapshot.term - 1}
    assert core.last_term == snapshot.term
    assert not core._log_is_current(older)
    cluster.nodes["B"].snapshots.disk.held.clear()
    assert core.last_term is None
    assert not core._log_is_current(older)
    assert not core._can_lead(core.now()), "it cannot say how current its log is"
