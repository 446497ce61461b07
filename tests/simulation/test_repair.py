"""A state that is found damaged: dropped, rebuilt, and nothing answered from it meanwhile."""

from __future__ import annotations

import pytest

from cluster.compaction import CompactionLimits
from cluster.errors import NotLeader, StateDamaged
from cluster.group_limits import GroupLimits
from tests.simulation.harness import DAMAGE
from tests.simulation.safe import SafeCluster

ONE_PER_ENTRY = GroupLimits(entry_commands_max=1)
KEEP_NOTHING = CompactionLimits(keep_entries=0)


def led(monkeypatch, *, size: int = 3, writes: int = 10, hold: bool = False) -> SafeCluster:
    """A leads, and everybody has applied the same."""
    cluster = SafeCluster(monkeypatch, size, limits=ONE_PER_ENTRY, compaction=KEEP_NOTHING)
    cluster.elect("A")
    cluster.settle(2, quiet=True)
    cluster.write("A", "x", writes)
    for node in cluster.nodes.values():
        node.snapshots.hold = hold
    return cluster


def step_all(cluster: SafeCluster, name: str) -> None:
    while cluster.nodes[name].snapshots.step():
        pass


def watch(cluster: SafeCluster, name: str) -> list[str]:
    """What the owner of a repair hears."""
    heard: list[str] = []
    repair = cluster.group(name).repair
    repair.on_begun = lambda reason, reseed_from: heard.append("begun")
    repair.on_done = lambda: heard.append("done")
    return heard


def answered(cluster: SafeCluster, name: str, index: int) -> list[int]:
    """Where the answer to a read of entry `index` goes: what was applied when it came."""
    answers: list[int] = []
    cluster.group(name).when_applied(index, lambda: answers.append(cluster.applied_index(name)))
    return answers


def converged(cluster: SafeCluster, rounds: int = 20) -> None:
    for name in cluster.up():
        cluster.network.rejoin(name)
        cluster.nodes[name].snapshots.hold = False
        step_all(cluster, name)
    cluster.settle(rounds, quiet=True)
    cluster.check_healed()
    assert not any(cluster.group(name).status().repairing for name in cluster.up())


# --- From what the node has itself ------------------------------------------------------------


def test_a_log_that_was_never_cut_is_applied_again(monkeypatch):
    cluster = led(monkeypatch)
    heard, term = watch(cluster, "B"), cluster.term("A")
    before = cluster.state("B")
    cluster.network.isolate("B")
    cluster.group("B").quarantine("a bit flipped")
    assert cluster.state("B") == []
    cluster.turn("B")
    assert cluster.state("B") == before, "nobody else is needed for that"
    cluster.turn("B")
    assert heard == ["begun", "done"]
    converged(cluster)
    assert cluster.term("A") == term
    assert not cluster.nodes["A"].snapshots.newest


def test_the_own_snapshot_does_if_it_verifies(monkeypatch):
    cluster = led(monkeypatch)
    cluster.compact("B")
    cluster.write("A", "y", 3)
    before = cluster.state("B")
    assert cluster.first("B").index > 2
    cluster.network.isolate("B")
    cluster.group("B").quarantine("a bit flipped")
    for _ in range(3):
        cluster.turn("B")
    assert cluster.state("B") == before
    converged(cluster)
    assert cluster.nodes["A"].snapshots.newest is None, "the leader had to make one"


def test_while_the_own_snapshot_is_looked_at_the_leader_is_not_asked_for_one(monkeypatch):
    cluster = led(monkeypatch)
    cluster.compact("B")
    cluster.write("A", "y", 3)
    cluster.nodes["B"].snapshots.hold = True
    cluster.group("B").quarantine("a bit flipped")
    cluster.settle(3, quiet=True)
    assert cluster.state("B") == []
    assert cluster.nodes["A"].snapshots.newest is None
    step_all(cluster, "B")
    converged(cluster)


@pytest.mark.parametrize("how", ["bytes", "content"])
def test_an_own_snapshot_that_is_damaged_is_replaced_by_the_leaders(monkeypatch, how):
    """Its content may be a faithful copy of the damage: only a look at every record shows."""
    cluster = led(monkeypatch)
    if how == "content":
        cluster.nodes["B"].machine.commands.append(DAMAGE)
        cluster.check = lambda: None  # it serves the damage until it is found
    cluster.compact("B")
    if how == "bytes":
        cluster.nodes["B"].snapshots.disk.corrupt(cluster.newest("B").index, 3)
    cluster.group("B").quarantine("a bit flipped")
    cluster.__dict__.pop("check", None)
    cluster.turn("B")
    assert cluster.core("B").stateless
    assert cluster.nodes["B"].snapshots.newest is None
    converged(cluster)


def test_an_apply_that_meets_damage_quarantines(monkeypatch):
    cluster = led(monkeypatch)
    heard, machine = watch(cluster, "B"), cluster.nodes["B"].machine

    def apply(batches, decided):
        del machine.apply
        raise StateDamaged("a record does not verify")

    machine.apply = apply
    written = cluster.put("A", b"z")
    cluster.settle(3, quiet=True)
    assert written.acknowledged
    assert heard == ["begun", "done"]
    converged(cluster)


def test_what_a_leader_proposed_is_answered_when_it_is_applied_again(monkeypatch):
    """The command is committed; the state that should take it turns out to be damaged."""
    cluster = led(monkeypatch)
    machine = cluster.nodes["A"].machine

    def apply(batches, decided):
        del machine.apply
        raise StateDamaged("a record does not verify")

    machine.apply = apply
    written = cluster.put("A", b"z")
    cluster.settle(8)
    assert written.calls == 1
    assert written.error is None
    converged(cluster)


def test_who_was_told_before_the_state_turned_out_damaged_is_told_once(monkeypatch):
    """The transaction ends in damage after the answers: the entry is committed all the same."""
    cluster = led(monkeypatch)
    machine = cluster.nodes["A"].machine

    def apply(batches, decided):
        del machine.apply
        for batch in batches:
            decided(batch, ["told"] * len(batch.commands))
        raise StateDamaged("a record does not verify")

    machine.apply = apply
    written = cluster.put("A", b"z")
    cluster.settle(8)
    assert (written.calls, written.result, written.error) == (1, "told", None)
    converged(cluster)
    assert b"z" in cluster.state("A")


# --- From the leader --------------------------------------------------------------------------


def test_a_state_that_differs_from_the_majoritys_comes_from_the_leader(monkeypatch):
    """Neither its log nor its snapshot is used, though both verify: what was made of them
    was wrong, or what it was made of is not known."""
    cluster = led(monkeypatch)
    cluster.compact("B")
    cluster.write("A", "y", 2)
    own = cluster.newest("B")
    index = cluster.applied_index("B")
    cluster.group("B").quarantine("its digest is not the majority's", index)
    assert cluster.nodes["B"].snapshots.newest is None
    cluster.turn("B")
    assert cluster.state("B") == []
    assert cluster.core("B").stateless
    converged(cluster)
    assert cluster.newest("B") == cluster.newest("A") != own
    assert cluster.newest("B").index >= index


def test_a_snapshot_from_before_the_difference_is_not_taken(monkeypatch):
    cluster = led(monkeypatch)
    cluster.compact("A")
    cluster.write("A", "y", 4)
    old = cluster.newest("A")
    cluster.group("B").quarantine("its digest is not the majority's", cluster.applied_index("B"))
    leader = cluster.group("A")
    make_snapshot, leader.make_snapshot = leader.make_snapshot, lambda: False
    for _ in range(6):
        cluster.pair_round("A", "B")
        assert cluster.state("B") == []
    leader.make_snapshot = make_snapshot
    converged(cluster)
    assert cluster.newest("B").index > old.index


def test_what_the_leader_sends_is_looked_at_and_the_leader_too(monkeypatch):
    """A leader that has not met its own damage made a snapshot of it: its sha256 is right."""
    cluster = led(monkeypatch)
    cluster.check = lambda: None  # A serves the damage until it hears of it
    cluster.nodes["A"].machine.commands.append(DAMAGE)
    heard = watch(cluster, "A")
    cluster.group("B").quarantine("its digest is not the majority's", cluster.applied_index("B"))
    cluster.settle(30)
    assert "begun" in heard
    del cluster.check
    cluster.settle(30)
    converged(cluster)
    assert all(DAMAGE not in cluster.state(name) for name in "ABC")


def test_damage_that_comes_back_is_not_rebuilt_from_what_is_here(monkeypatch):
    cluster = led(monkeypatch)
    cluster.compact("B")
    cluster.write("A", "y", 2)
    cluster.nodes["B"].snapshots.hold = True
    cluster.group("B").quarantine("a bit flipped")
    cluster.group("B").quarantine("and another")
    assert cluster.nodes["B"].snapshots.newest is None
    converged(cluster)
    assert cluster.nodes["A"].snapshots.newest is not None


def test_a_snapshot_that_is_being_made_of_the_damaged_state_is_dropped(monkeypatch):
    cluster = led(monkeypatch, hold=True)
    assert cluster.group("B").make_snapshot()
    cluster.nodes["B"].snapshots.step()  # the copy is taken
    cluster.group("B").quarantine("a bit flipped")
    step_all(cluster, "B")
    assert cluster.nodes["B"].snapshots.newest is None
    assert cluster.nodes["B"].failure is None
    converged(cluster)


# --- Nothing is answered meanwhile ------------------------------------------------------------


def test_reads_wait_until_the_state_is_back_where_it_was(monkeypatch):
    cluster = led(monkeypatch)
    cluster.compact("B")
    cluster.write("A", "y", 3)
    floor = cluster.applied_index("B")
    assert cluster.group("B").staleness_seconds() < 1
    cluster.nodes["B"].snapshots.hold = True
    cluster.group("B").quarantine("a bit flipped")
    answers = answered(cluster, "B", 3)
    assert answers == [], "it was applied once, and is not any more"
    assert cluster.group("B").staleness_seconds() == float("inf")
    cluster.settle(2, quiet=True)
    assert answers == []
    assert cluster.group("B").status().repairing
    converged(cluster)
    assert answers
    assert answers[0] >= floor
    assert cluster.group("B").staleness_seconds() < 1


def test_reads_do_not_see_a_state_on_its_way(monkeypatch):
    """Entry by entry it comes back; whoever saw more must not see less."""
    limits = GroupLimits(entry_commands_max=1, apply_entries_max=1)
    cluster = SafeCluster(monkeypatch, limits=limits)
    cluster.elect("A")
    cluster.write("A", "x", 6)
    floor = cluster.applied_index("B")
    cluster.group("B").quarantine("a bit flipped")
    answers = answered(cluster, "B", 3)
    late: list[int] = []
    while not answers:
        assert cluster.group("B").status().repairing
        cluster.turn("B")
        if cluster.applied_index("B") == 4:
            late = answered(cluster, "B", 3)
            assert late == []
    assert answers == late == [floor]


def test_a_leader_hands_over_and_answers_nobody(monkeypatch):
    cluster = led(monkeypatch)
    cluster.compact("A")
    cluster.write("A", "y", 3)
    cluster.nodes["A"].snapshots.hold = True
    waits = cluster.put("A", b"waits")
    reads: list[int | None] = []
    cluster.group("A").read_index(lambda index, error: reads.append(index))
    cluster.group("A").quarantine("a bit flipped")
    assert isinstance(waits.error, NotLeader)
    assert isinstance(cluster.put("A", b"later").error, NotLeader)
    assert reads == [None]
    cluster.settle(2, quiet=True)
    assert cluster.leader() in ("B", "C"), "it takes no election timeout"
    converged(cluster)


def test_a_leader_that_has_no_heir_leads_on_and_still_answers_nobody(monkeypatch):
    cluster = led(monkeypatch)
    cluster.compact("A")
    cluster.write("A", "y", 3)
    cluster.nodes["A"].snapshots.hold = True
    cluster.core("A").heir = lambda: None
    cluster.group("A").quarantine("a bit flipped")
    reads: list[int | None] = []
    cluster.group("A").read_index(lambda index, error: reads.append(index))
    cluster.settle(3, quiet=True)
    assert cluster.is_leader("A")
    assert reads == []
    assert not cluster.group("A").make_snapshot()
    assert isinstance(cluster.put("A", b"z").error, NotLeader)
    step_all(cluster, "A")
    cluster.settle(2, quiet=True)
    assert reads
    assert reads[0] is not None
    del cluster.core("A").heir
    converged(cluster)


def test_two_of_three_lose_their_state_and_get_it_back(monkeypatch):
    cluster = led(monkeypatch)
    for name in "BC":
        cluster.group(name).quarantine("its digest is wrong", cluster.applied_index(name))
    cluster.settle(2, quiet=True)
    assert cluster.put("A", b"on").calls <= 1
    converged(cluster)


# --- Crashes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("reseed", [False, True])
@pytest.mark.parametrize("steps", range(8))
def test_a_crash_at_any_moment_ends_well(monkeypatch, steps, reseed):
    """The owner's note makes the next start begin without a state: as after power loss."""
    cluster = led(monkeypatch, hold=True)
    cluster.group("B").make_snapshot()
    step_all(cluster, "B")
    cluster.cut("B")
    cluster.write("A", "y", 3)
    cluster.group("B").quarantine("a bit flipped", cluster.applied_index("B") if reseed else 0)
    for number in range(steps):
        cluster.advance(0.11)
        cluster.no_elections()
        for name in "AB":
            cluster.turn(name)
            cluster.sync(name)
        cluster.network.deliver("A", "B")
        cluster.network.deliver("B", "A")
        cluster.nodes["AB"[number % 2]].snapshots.step()
    cluster.crash_and_restart("B")
    converged(cluster)


def test_a_node_alone_repairs_itself(monkeypatch):
    cluster = led(monkeypatch, size=1)
    cluster.compact("A")
    cluster.write("A", "y", 3)
    before = cluster.state("A")
    cluster.group("A").quarantine("a bit flipped")
    cluster.settle(3)
    assert cluster.state("A") == before
    assert cluster.put("A", b"z").calls <= 1
    converged(cluster)
