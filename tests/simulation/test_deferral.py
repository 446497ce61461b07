"""What waits for company: a follower's applies, and the news of a commit. And who cannot wait."""

from __future__ import annotations

from itertools import pairwise

import pytest

from cluster import messages
from cluster.deferral import TURN_ENTRIES, DeferralLimits, has_turn
from cluster.group_limits import GroupLimits
from cluster.interfaces import LogEntry
from cluster.raft_leading import COMMIT_SECONDS_MAX
from tests.simulation.safe import SafeCluster

LIMITS = DeferralLimits()
LONG = LIMITS.seconds_max * 1.01  # enough, however it is rounded
ONE_PER_ENTRY = GroupLimits(entry_commands_max=1)


def led(monkeypatch) -> SafeCluster:
    """A leads, and everybody has applied the same."""
    cluster = SafeCluster(monkeypatch, limits=ONE_PER_ENTRY)
    cluster.elect("A")
    cluster.settle(2, quiet=True)
    return cluster


def commit(cluster: SafeCluster, *commands: bytes, hearing: bool = True) -> int:
    """Commands through to the logs of all, one entry each, in no time; and the news that they
    are committed, to those that are `hearing`. Returns the last index."""
    for command in commands:
        cluster.put("A", command)
        for _ in range(2):
            for name in cluster.ids:
                cluster.turn(name)
                cluster.sync(name)
            cluster.network.deliver_all()
        cluster.turn("A")
    if hearing:
        tell(cluster)
    return cluster.last("A").index


def tell(cluster: SafeCluster) -> None:
    """A heartbeat of the leader, and no turn of who hears it."""
    cluster.core("A").broadcast_heartbeat()
    cluster.turn("A")
    cluster.network.deliver_all()


def applied_batches(monkeypatch, cluster: SafeCluster, name: str) -> list[int]:
    """How many entries each apply of a node brings, from now on."""
    machine, counts = cluster.nodes[name].machine, []
    apply = machine.apply

    def counted(batches, decided):
        counts.append(len(batches))
        return apply(batches, decided)

    monkeypatch.setattr(machine, "apply", counted)
    return counts


def test_a_follower_applies_several_entries_at_once(monkeypatch):
    cluster = led(monkeypatch)
    counts = applied_batches(monkeypatch, cluster, "B")
    last = commit(cluster, b"a", b"b", b"c")
    assert cluster.applied_index("A") == last
    cluster.turn("B")
    assert cluster.commit_index("B") == last
    assert counts == []
    cluster.advance(LONG)
    cluster.turn("B")
    assert counts == [3]
    assert cluster.state("B") == cluster.state("A")


def test_a_leader_sends_the_next_entry_before_it_applies_the_last_one(monkeypatch):
    """It computes and waits for its disk; who acknowledges works meanwhile."""
    cluster = led(monkeypatch)
    done: list[str] = []
    node = cluster.nodes["A"]
    apply = node.machine.apply

    def applied(batches, decided):
        done.append("applied")
        return apply(batches, decided)

    monkeypatch.setattr(node.machine, "apply", applied)
    monkeypatch.setattr(cluster.group("A"), "_flush_peers", lambda: done.append("sent"))
    commit(cluster, b"a", hearing=False)
    assert done.index("applied") > 0
    assert done[done.index("applied") - 1] == "sent"


def test_a_read_is_answered_once_its_entry_is_applied(monkeypatch):
    cluster = led(monkeypatch)
    last = commit(cluster, b"a")
    seen: list[list[bytes]] = []
    cluster.group("B").when_applied(last, lambda: seen.append(list(cluster.state("B"))))
    assert seen == []
    cluster.turn("B")
    assert seen == [[b"a"]], "no time has passed"


def test_a_read_that_waited_for_the_commit_is_not_put_off(monkeypatch):
    cluster = led(monkeypatch)
    last = commit(cluster, b"a", hearing=False)
    assert cluster.commit_index("B") < last
    seen: list[list[bytes]] = []
    cluster.group("B").when_applied(last, lambda: seen.append(list(cluster.state("B"))))
    cluster.turn("B")
    assert seen == []
    tell(cluster)
    cluster.turn("B")
    assert seen == [[b"a"]]


def test_who_asks_to_catch_up_waits_for_nothing(monkeypatch):
    cluster = led(monkeypatch)
    last = commit(cluster, b"a")
    cluster.group("B").catch_up()
    cluster.turn("B")
    assert cluster.applied_index("B") == last


def test_nothing_is_put_off_while_somebody_watches(monkeypatch):
    cluster = led(monkeypatch)
    monkeypatch.setattr(cluster.group("B")._applying, "_watched", lambda: True)
    last = commit(cluster, b"a")
    cluster.turn("B")
    cluster.turn("C")
    assert (cluster.applied_index("B"), cluster.applied_index("C")) == (last, last - 1)


def test_a_former_leader_puts_off_nothing_that_its_clients_wait_for(monkeypatch):
    cluster = led(monkeypatch)
    outcome = cluster.put("A", b"x")
    cluster.turn("A")
    cluster.sync("A")
    cluster.network.deliver_all()
    for name in "BC":
        cluster.sync(name)
    cluster.core("B")._campaign(transfer=True)
    began = cluster.time
    for _ in range(10):
        for name in cluster.ids:
            cluster.turn(name)
            cluster.sync(name)
        cluster.network.deliver_all()
    assert cluster.leader() == "B"
    assert outcome.acknowledged
    assert cluster.time == began


def test_news_that_was_overtaken_does_not_make_a_state_look_fresh(monkeypatch):
    cluster = led(monkeypatch)
    last = commit(cluster, b"1", b"2", hearing=False)
    core, group, term = cluster.core("B"), cluster.group("B"), cluster.term("A")
    (entry,) = core._log.read(last, last + 1, 1 << 20)

    def append(commit_index: int, previous: int, entries=()) -> None:
        head = (term, commit_index, previous, core.term_at(previous), 0)
        group.peer_message("A", messages.encode_append(*head, entries))

    append(last - 1, last)
    cluster.turn("B")  # put off
    append(last + 1, last)  # a heartbeat, which overtook the entry that the others have by now
    cluster.advance(0.5)
    append(last, last, [LogEntry(last + 1, term, entry.payload)])  # made before that heartbeat
    cluster.turn("B")
    assert core.applied_index == last
    assert group.staleness_seconds() >= 0.5


@pytest.mark.parametrize(
    "commands",
    [[b"%d" % i for i in range(LIMITS.entries_max)], [b"x" * LIMITS.bytes_max]],
    ids=["entries", "bytes"],
)
def test_many_entries_or_bytes_are_not_put_off(monkeypatch, commands):
    cluster = led(monkeypatch)
    last = commit(cluster, *commands)
    cluster.turn("B")
    assert last - cluster.applied_index("B") < len(commands)


def test_followers_take_turns_at_applying(monkeypatch):
    """Who applies acknowledges nothing meanwhile, so that another one has to."""
    cluster = led(monkeypatch)
    command = b"x" * (LIMITS.bytes_max // (2 * TURN_ENTRIES) - 500)
    applied: dict[str, list[int]] = {"B": [], "C": []}
    for _ in range(12 * TURN_ENTRIES):
        before = {name: cluster.applied_index(name) for name in applied}
        last = commit(cluster, command)
        for name, indexes in applied.items():
            cluster.turn(name)
            if cluster.applied_index(name) > before[name]:
                indexes.append(last)
    # At first both have waited for equally much.
    assert not set(applied["B"][1:]) & set(applied["C"][1:])
    for indexes in applied.values():
        assert len(indexes) >= 6
        assert all(last - first > TURN_ENTRIES for first, last in pairwise(indexes))


def test_in_its_turn_half_of_the_time_is_enough(monkeypatch):
    cluster = led(monkeypatch)
    last = commit(cluster, b"a")
    turns = {name: has_turn(last, *cluster.core(name).place()) for name in "BC"}
    assert sorted(turns.values()) == [False, True]
    for name in "BC":
        cluster.turn(name)
    cluster.advance(LONG / 2)
    for name in "BC":
        cluster.turn(name)
    assert {name: cluster.applied_index(name) == last for name in "BC"} == turns


def test_followers_have_different_places_whoever_leads(monkeypatch):
    cluster = SafeCluster(monkeypatch, limits=ONE_PER_ENTRY)
    cluster.elect("B")
    cluster.settle(2, quiet=True)
    assert [cluster.core(name).place() for name in "AC"] == [(0, 2), (1, 2)]


@pytest.mark.parametrize("followers", range(1, 7))
def test_at_most_half_of_the_followers_have_the_turn_and_each_gets_one(followers):
    had = set()
    for index in range(0, 6 * TURN_ENTRIES, TURN_ENTRIES):
        now = {place for place in range(followers) if has_turn(index, place, followers)}
        assert now == {
            place
            for place in range(followers)
            if has_turn(index + TURN_ENTRIES - 1, place, followers)
        }
        assert len(now) <= followers // 2
        had |= now
    assert had == (set(range(followers)) if followers > 1 else set())


def test_who_campaigns_puts_nothing_off(monkeypatch):
    """It may lead the next moment, and then answers from its state."""
    cluster = led(monkeypatch)
    last = commit(cluster, b"a")
    cluster.core("B")._campaign(transfer=True)
    cluster.turn("B")
    assert cluster.applied_index("B") == last


def test_a_state_is_as_old_as_what_it_misses(monkeypatch):
    cluster = led(monkeypatch)
    began = cluster.time
    for command in (b"a", b"b", b"c"):
        commit(cluster, command)
        cluster.turn("B")
        cluster.advance(LIMITS.seconds_max / 8)
        assert cluster.group("B").staleness_seconds() >= cluster.time - began
    last_heard = cluster.time - LIMITS.seconds_max / 8
    cluster.advance(LONG)
    cluster.turn("B")
    age = cluster.group("B").staleness_seconds()
    assert age == pytest.approx(cluster.time - last_heard), "all that was heard of is there"


def test_a_state_that_misses_only_the_newest_entry_is_no_fresher(monkeypatch):
    cluster = led(monkeypatch)
    first, heard_of_it = commit(cluster, b"a"), cluster.time
    cluster.turn("B")
    cluster.advance(LONG / 2)
    cluster.put("A", b"b")
    cluster.turn("A")
    cluster.sync("A")
    cluster.network.deliver_all()
    cluster.turn("C")
    cluster.sync("C")  # and not B: what is not durable there is not applied
    cluster.network.deliver_all()
    cluster.turn("A")
    tell(cluster)
    assert cluster.commit_index("A") == first + 1
    cluster.advance(LONG)
    cluster.turn("B")
    assert cluster.applied_index("B") == first
    assert cluster.group("B").staleness_seconds() == pytest.approx(cluster.time - heard_of_it)


# --- The news of a commit -------------------------------------------------------------------


def appends(cluster: SafeCluster, name: str) -> list[tuple[int, int]]:
    """What A has sent to a node: (commit index, number of entries) of each append."""
    sent = cluster.messages("A", name)
    return [(each["commit_index"], len(each["entries"])) for each in sent]


def test_a_commit_goes_with_the_next_entry(monkeypatch):
    cluster = led(monkeypatch)
    last = commit(cluster, b"a", hearing=False)
    assert (cluster.commit_index("A"), appends(cluster, "B")) == (last, [])
    cluster.put("A", b"b")
    cluster.turn("A")
    assert appends(cluster, "B") == appends(cluster, "C") == [(last, 1)]


def test_a_commit_goes_by_itself_if_no_entry_follows(monkeypatch):
    cluster = led(monkeypatch)
    last = commit(cluster, b"a", hearing=False)
    cluster.advance(COMMIT_SECONDS_MAX * 1.01)
    cluster.turn("A")
    cluster.turn("A")
    assert appends(cluster, "B") == appends(cluster, "C") == [(last, 0)], "once"


def test_a_commit_that_somebody_waits_for_goes_at_once(monkeypatch):
    cluster = led(monkeypatch)
    monkeypatch.setattr(cluster.group("B")._applying, "_watched", lambda: True)
    for command in (b"a", b"b"):
        last = commit(cluster, command, hearing=False)
        assert appends(cluster, "B") == [(last, 0)]
        assert appends(cluster, "C") == []
        cluster.network.deliver("A", "B")
        cluster.turn("B")
        assert cluster.applied_index("B") == last


def test_who_waits_for_a_commit_asks_for_it(monkeypatch):
    cluster = led(monkeypatch)
    last = commit(cluster, b"a", hearing=False)
    seen: list[list[bytes]] = []
    cluster.group("B").when_applied(last, lambda: seen.append(list(cluster.state("B"))))
    cluster.turn("B")
    cluster.network.deliver("B", "A")
    cluster.turn("A")
    assert (appends(cluster, "B"), appends(cluster, "C")) == ([(last, 0)], [])
    cluster.network.deliver("A", "B")
    cluster.turn("B")
    assert seen == [[b"a"]], "no time has passed"


def test_who_waits_for_a_commit_before_its_entry_is_durable_hears_of_it_then(monkeypatch):
    """Its ack was made before anybody waited, and says so; what it asked for counts on."""
    cluster = led(monkeypatch)
    cluster.put("A", b"a")
    cluster.turn("A")
    cluster.sync("A")
    cluster.network.deliver("A", "B")
    cluster.network.deliver("A", "C")
    cluster.turn("C")
    cluster.sync("C")
    cluster.network.deliver("C", "A")
    cluster.turn("A")
    last = cluster.last("A").index
    assert cluster.commit_index("A") == last
    seen: list[int] = []
    cluster.group("B").when_applied(last, lambda: seen.append(cluster.applied_index("B")))
    cluster.turn("B")
    cluster.network.deliver("B", "A")
    cluster.turn("A")
    assert appends(cluster, "B") == [], "it could not use it yet"
    cluster.sync("B")
    cluster.network.deliver("B", "A")
    cluster.turn("A")
    cluster.network.deliver("A", "B")
    cluster.turn("B")
    assert seen == [last], "no time has passed"


# --- Ticks ------------------------------------------------------------------------------------


def turns(monkeypatch, cluster: SafeCluster, name: str) -> list[float]:
    """When a node has turns, from now on."""
    group, times = cluster.group(name), []
    turn = group.turn

    def counted() -> None:
        times.append(cluster.time)
        turn()

    monkeypatch.setattr(group, "turn", counted)
    return times


def test_ticks_of_a_quiet_group_do_nothing(monkeypatch):
    cluster = led(monkeypatch)
    seen = {name: turns(monkeypatch, cluster, name) for name in cluster.ids}
    for _ in range(100):
        cluster.advance(0.01)
        for name in cluster.ids:
            cluster.group(name).tick()
        cluster.network.deliver_all()
    assert cluster.leader() == "A", "it was heard"
    assert all(5 <= len(times) <= 12 for times in seen.values())


def test_a_tick_begins_an_election(monkeypatch):
    cluster = led(monkeypatch)
    cluster.network.isolate("A")
    cluster.core("B")._SyncObj__raftElectionDeadline = cluster.time + 0.05
    cluster.turn("B")
    cluster.advance(0.06)
    cluster.group("B").tick()
    assert cluster.kinds("B", "C") == ["pre_vote"]


def test_a_tick_applies_what_was_put_off(monkeypatch):
    cluster = led(monkeypatch)
    last = commit(cluster, b"a")
    cluster.turn("B")
    cluster.advance(LONG)
    cluster.group("B").tick()
    assert cluster.applied_index("B") == last


def test_a_tick_tells_of_a_commit(monkeypatch):
    cluster = led(monkeypatch)
    last = commit(cluster, b"a", hearing=False)
    cluster.advance(COMMIT_SECONDS_MAX * 1.01)
    cluster.group("A").tick()
    assert appends(cluster, "B") == [(last, 0)]
