"""The holes of the library that its snapshots have, on the adapter. See `holes.py`."""

from __future__ import annotations

import pytest

from cluster import messages
from cluster.compaction import CompactionLimits
from cluster.group_limits import GroupLimits
from cluster.interfaces import LogEntry
from tests.simulation import schedules
from tests.simulation.driver import heartbeat
from tests.simulation.safe import SafeCluster

ONE_PER_ENTRY = GroupLimits(entry_commands_max=1)


@pytest.mark.usefixtures("small_chunks")
def test_p01_a_snapshot_commits_nothing_before_it_is_installed(monkeypatch):
    cluster = SafeCluster(monkeypatch)
    stray = schedules.p01_lone_write_before_a_snapshot(cluster)
    before = cluster.commit_index("A")
    assert cluster.last("A").index == before + 1  # X, of which only A knows
    snapshot = cluster.newest("B")
    assert snapshot.index > before + 1
    chunks = 0
    while cluster.applied_index("A") < snapshot.index:
        heartbeat(cluster, "B")
        while cluster.network.queue("B", "A") and cluster.applied_index("A") < snapshot.index:
            chunks += cluster.kinds("B", "A")[0] == "snapshot_chunk"
            cluster.network.deliver("B", "A", 1)
            cluster.turn("A")
            cluster.sync("A")
            assert not stray.acknowledged
            assert b"X" not in cluster.state("A")
            installed = cluster.applied_index("A") == snapshot.index
            assert cluster.commit_index("A") == (snapshot.index if installed else before)
        cluster.network.deliver("A", "B")
        assert cluster.time < 1100, "the snapshot does not arrive"
    assert chunks > 5
    cluster.settle(5, quiet=True)
    assert stray.calls == 1
    assert stray.error is not None
    assert not any(b"X" in cluster.state(name) for name in "ABC")
    cluster.check_healed()


def diverged(monkeypatch) -> SafeCluster:
    """A has cut its log, and holds 40 entries that nobody else has; B leads and has compacted
    its own beyond what it shares with A; C has all of B's."""
    cluster = SafeCluster(monkeypatch, limits=ONE_PER_ENTRY)
    cluster.elect("A")
    cluster.write("A", "shared", 4)
    cluster.compact("A")
    cluster.settle(quiet=True)
    cluster.network.isolate("A")
    for i in range(40):
        cluster.put("A", b"stray%d" % i)
        cluster.turn("A")
        cluster.sync("A")
    cluster.elect("B")
    schedules.fill(cluster, "B", 20)
    cluster.settle(quiet=True)
    cluster.compact("B")
    cluster.settle(quiet=True)
    assert cluster.last("A").index > cluster.last("B").index
    return cluster


def chunks_on_the_wire(cluster: SafeCluster) -> list[int]:
    """Places in the queue B→A, after moving the cluster to where there are some."""
    for _ in range(20):
        cluster.pair_round("B", "A")
        found = [i for i, kind in enumerate(cluster.kinds("B", "A")) if kind == "snapshot_chunk"]
        if found:
            return found
        cluster.turn("B")
        found = [i for i, kind in enumerate(cluster.kinds("B", "A")) if kind == "snapshot_chunk"]
        if found:
            return found
    raise AssertionError("no chunk was sent")


def lose_a_chunk(cluster: SafeCluster) -> None:
    del cluster.network.queue("B", "A")[chunks_on_the_wire(cluster)[0]]


def damage_a_chunk(cluster: SafeCluster) -> None:
    queue, place = cluster.network.queue("B", "A"), chunks_on_the_wire(cluster)[0]
    frame = bytearray(queue[place].payload)
    frame[-1] ^= 1
    queue[place] = queue[place]._replace(payload=bytes(frame))


def damage_the_partial(cluster: SafeCluster) -> None:
    chunks_on_the_wire(cluster)
    cluster.network.deliver("B", "A", chunks_on_the_wire(cluster)[0] + 1)
    cluster.nodes["A"].snapshots.disk.corrupt_partial(0)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("damage", [lose_a_chunk, damage_a_chunk, damage_the_partial])
def test_p07_an_incomplete_or_damaged_snapshot_is_never_acknowledged(monkeypatch, damage):
    cluster = diverged(monkeypatch)
    cluster.network.heal("A", "B")
    damage(cluster)
    corrupt = 0
    while cluster.match_index("B", "A") == 0:
        assert cluster.applied_index("A") < cluster.newest("B").index or not corrupt
        cluster.pair_round("B", "A")
        corrupt = cluster.group("A")._state.receiver.corrupt_count
        assert cluster.time < 1100, "it is not repaired"
    # Exactly what the snapshot holds, and not where A's own log ended.
    assert cluster.match_index("B", "A") == cluster.newest("A").index <= cluster.last("B").index
    assert cluster.applied_index("A") >= cluster.newest("A").index
    assert corrupt == (damage is not lose_a_chunk)
    cluster.network.rejoin("A")
    cluster.write("B", "more", 3)
    cluster.settle(5, quiet=True)
    assert not any(command.startswith(b"stray") for command in cluster.state("A"))
    cluster.check_healed()


def test_p07_the_ack_of_a_snapshot_covers_no_divergent_tail(monkeypatch):
    """A's log holds the snapshot's last entry, so it is kept, and two entries of C beyond it,
    which nobody else has. B leads and writes others there."""
    cluster = SafeCluster(monkeypatch, 5, limits=ONE_PER_ENTRY)
    cluster.elect("C")
    cluster.settle(2, quiet=True)
    committed = cluster.commit_index("A")
    for i in range(8):
        cluster.put("C", b"k%d" % i)
        cluster.turn("C")
        cluster.sync("C")
        cluster.turn("C")
        cluster.network.deliver("C", "A", bulk=True)
        cluster.turn("A")
        cluster.sync("A")
    cluster.network.isolate("A")  # before it hears that they are committed
    assert cluster.commit_index("A") == committed
    stray = [(cluster.last("A").index + i, cluster.term("C"), b"\0stray") for i in (1, 2)]
    cluster.settle(3, quiet=True)
    cluster.compact("B")
    index = cluster.newest("B").index
    assert index == cluster.last("A").index == cluster.last("B").index
    cluster.nodes["A"].log.append([LogEntry(*item) for item in stray])  # C's last words
    cluster.nodes["A"].log.flush()
    cluster.sync("A")
    cluster.network.isolate("C")
    cluster.elect("B")
    cluster.write("B", "new", 5)
    cluster.network.heal("A", "B")
    while cluster.match_index("B", "A") == 0:
        cluster.pair_round("B", "A")
        assert cluster.time < 1100
    assert cluster.match_index("B", "A") == index
    assert cluster.applied_index("A") == index
    cluster.network.rejoin("C")
    cluster.network.rejoin("A")
    cluster.settle(5, quiet=True)
    cluster.check_healed()


def test_p04_killed_at_any_step_of_a_snapshot_and_its_compaction(monkeypatch):
    """C is away, so that what A and B acknowledge is on these two alone."""
    kept: set[int] = set()
    for crash_after in range(9):
        cluster = SafeCluster(
            monkeypatch, limits=ONE_PER_ENTRY, compaction=CompactionLimits(keep_entries=0)
        )
        cluster.elect("A")
        cluster.write("A", "first", 5)
        cluster.network.isolate("C")
        cluster.write("A", "second", 5)
        snapshots = cluster.nodes["B"].snapshots
        snapshots.hold = True
        moves = [
            cluster.group("B").make_snapshot,
            snapshots.step,  # the copy is taken
            lambda cluster=cluster: cluster.write("A", "third", 5),
            snapshots.step,  # it is durable
            lambda cluster=cluster: cluster.write("A", "fourth", 1),
            snapshots.step,  # B hears of it
            lambda cluster=cluster: cluster.cut("B"),  # cuts its log
            lambda cluster=cluster: cluster.write("A", "fifth", 1),
        ]
        for move in moves[:crash_after]:
            move()
        assert all(outcome.acknowledged for outcome in cluster.outcomes)
        last = cluster.last("B")
        cluster.crash("B")
        cluster.start("B")
        assert cluster.last("B") == last
        kept.add(cluster.first("B").index)
        cluster.network.isolate("A")
        cluster.network.heal("B", "C")
        cluster.elect("B")
        assert len(cluster.state("B")) == len(cluster.outcomes)
        cluster.network.rejoin("A")
        cluster.settle(5, quiet=True)
        cluster.check_healed()
    assert len(kept) == 2, "the log was never cut"


@pytest.mark.parametrize("keep_unsynced", [0, 100])
def test_p05_killed_at_any_step_of_an_installation(monkeypatch, keep_unsynced):
    """After each of these steps, what A has acknowledged is on its disk."""
    monkeypatch.setattr("cluster.snapshot_transfer.CHUNK_BYTES", 8192)
    crash_after = 0
    while _crash_while_installing(monkeypatch, crash_after, keep_unsynced):
        crash_after += 1
    assert crash_after > 30


def _crash_while_installing(monkeypatch, crash_after: int, keep_unsynced: int) -> bool:
    """False: the installation was over before."""
    cluster = diverged(monkeypatch)
    cluster.nodes["A"].snapshots.hold = True
    cluster.network.heal("A", "B")
    index = cluster.newest("B").index
    steps = 0
    while cluster.match_index("B", "A") < index and steps < crash_after:
        heartbeat(cluster, "B")
        for move in (
            lambda: cluster.network.deliver("B", "A", 1),
            lambda: cluster.turn("A"),
            cluster.nodes["A"].snapshots.step,
            lambda: cluster.sync("A"),
        ):
            if steps < crash_after:
                move()
                steps += 1
        cluster.network.deliver("A", "B")
    counted = cluster.match_index("B", "A")
    cluster.crash("A", keep_unsynced)
    cluster.start("A")
    cluster.nodes["A"].snapshots.hold = False
    assert cluster.last("A").index >= counted
    if counted:
        assert cluster.applied_index("A") == index
    cluster.network.rejoin("A")
    cluster.write("B", "more", 2)
    cluster.settle(8, quiet=True)
    cluster.check_healed()
    return counted < index


@pytest.mark.parametrize("ready", [False, True])
def test_p15_at_most_one_message_per_heartbeat_to_who_needs_a_snapshot(monkeypatch, ready):
    cluster = SafeCluster(monkeypatch, limits=ONE_PER_ENTRY)
    cluster.elect("A")
    cluster.network.isolate("C")
    cluster.write("A", "x", 20)
    cluster.compact("A")
    behind = cluster.last("C").index + 1
    assert behind < cluster.first("A").index
    if not ready:  # as while the first one is being written
        cluster.nodes["A"].snapshots.disk.held.clear()
        cluster.nodes["A"].snapshots.hold = True
    cluster.network.heal("A", "C")
    cluster.core("A")._SyncObj__raftNextIndex[cluster.core("A")._nodes["C"]] = behind
    cluster.turn("A")
    cluster.network.drop("A", "C")
    for _ in range(100):  # ten heartbeats
        cluster.advance(cluster.timing.heartbeat_seconds / 10)
        cluster.turn("A")
        cluster.network.deliver("A", "B")
        cluster.network.deliver("B", "A")
    assert cluster.is_leader("A")
    kinds = cluster.kinds("A", "C")
    assert 9 <= len(kinds) <= 11
    assert set(kinds) == {"snapshot_offer" if ready else "append_entries"}


def test_h01_a_snapshot_keeps_the_entries_beyond_it(monkeypatch):
    """B holds everything; offers and chunks of an earlier snapshot arrive late, or again."""
    cluster = SafeCluster(monkeypatch, limits=ONE_PER_ENTRY)
    cluster.elect("A")
    cluster.network.isolate("B")
    cluster.write("A", "k", 20)
    cluster.compact("A")
    cluster.network.heal("A", "B")
    frames = []
    for _ in range(8):
        cluster.pair_round("A", "B", 0)
        frames += cluster.network.queue("A", "B")
        cluster.network.deliver("A", "B")
        cluster.network.deliver("B", "A")
    kinds = {messages.decode(frame.payload)["type"] for frame in frames}
    assert {"snapshot_offer", "snapshot_chunk"} <= kinds
    cluster.network.isolate("C")
    cluster.write("A", "late", 5)  # on A and B alone
    last = cluster.last("B")
    assert all(outcome.acknowledged for outcome in cluster.outcomes)
    for frame in frames * 2:
        cluster.network.queue("A", "B").append(frame)
        cluster.network.deliver("A", "B")
        cluster.turn("B")
        assert cluster.last("B") == last
    cluster.network.isolate("A")
    cluster.network.heal("B", "C")
    cluster.elect("B")
    cluster.network.rejoin("A")
    cluster.settle(5, quiet=True)
    cluster.check_healed()


def test_h01_an_installed_snapshot_keeps_what_follows_it_in_the_log(monkeypatch):
    """B holds the snapshot's last entry and one more, and does not know that it is committed:
    so it wants the snapshot that a late offer names, and what it acknowledged stays."""
    cluster = SafeCluster(monkeypatch, limits=ONE_PER_ENTRY)
    cluster.elect("A")
    cluster.settle(2, quiet=True)
    cluster.network.isolate("C")
    for i in range(11):
        cluster.put("A", b"k%d" % i)
        cluster.turn("A")
        cluster.sync("A")
        cluster.turn("A")
        cluster.network.deliver("A", "B", bulk=True)
        cluster.turn("B")
        cluster.sync("B")
    last = cluster.last("B")
    assert last == cluster.last("A")
    cluster.network.deliver("B", "A", len(cluster.network.queue("B", "A")) - 1)
    cluster.turn("A")
    assert [outcome.acknowledged for outcome in cluster.outcomes] == [True] * 10 + [False]
    cluster.compact("A")
    meta = cluster.newest("A")
    assert cluster.commit_index("B") < meta.index == last.index - 1
    offer = messages.encode_offer(cluster.term("A"), meta.index, 0, meta)
    cluster.group("B").peer_message("A", offer)
    assert cluster.group("B")._state.receiver.receiving == meta
    cluster.network.deliver("B", "A")
    cluster.network.deliver("A", "B", bulk=True)
    assert cluster.applied_index("B") == meta.index
    assert cluster.last("B") == last
    cluster.turn("B")
    cluster.sync("B")
    cluster.crash("B")
    cluster.start("B")
    assert cluster.last("B") == last


def test_h07_a_snapshot_that_cannot_be_read_holds_up_only_who_needs_it(monkeypatch):
    cluster = SafeCluster(monkeypatch, limits=ONE_PER_ENTRY)
    cluster.elect("A")
    cluster.network.isolate("B")
    cluster.write("A", "x", 20)
    cluster.compact("A")
    store = cluster.nodes["A"].snapshots
    monkeypatch.setattr(store, "read", lambda index, offset, size, done: done(None))
    cluster.network.heal("A", "B")
    cluster.settle(10, quiet=True)
    assert cluster.applied_index("B") < cluster.newest("A").index
    outcome = cluster.put("A", b"y")
    cluster.settle(3, quiet=True)
    assert outcome.acknowledged
    assert cluster.state("C") == cluster.state("A")
    heartbeat(cluster, "A")
    assert cluster.network.queue("A", "C")
    monkeypatch.undo()
