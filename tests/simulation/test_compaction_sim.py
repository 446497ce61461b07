"""When a snapshot is made, what is kept of the log below it, and whose members it names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cluster import entry as entries_codec
from cluster.compaction import CompactionLimits
from cluster.membership import Add, Configuration, Member, Promote, Remove, Update
from tests.simulation.safe import SafeCluster
from tests.simulation.test_snapshots_sim import converged, led


def test_a_snapshot_is_due_after_a_number_of_entries(monkeypatch):
    limits = CompactionLimits(entries_max=10, keep_entries=0)
    cluster = led(monkeypatch, limits)
    made = set()
    for i in range(40):
        before = cluster.applied_index("A")
        cluster.write("A", f"x{i}", 1)
        if (newest := cluster.nodes["A"].snapshots.newest) is not None:
            made.add(newest.index)
            assert before + 1 - newest.index <= 10 + 1
            assert cluster.first("A").index <= newest.index
    assert len(made) >= 3
    assert all(b - a >= 10 for a, b in zip(sorted(made), sorted(made)[1:], strict=False))
    assert cluster.last("A").index - cluster.first("A").index <= 12
    converged(cluster)


def test_a_snapshot_is_due_after_a_number_of_bytes(monkeypatch):
    limits = CompactionLimits(log_bytes=1000, keep_entries=0)
    cluster = led(monkeypatch, limits)
    cluster.put("A", b"x" * 700)
    cluster.settle(1, quiet=True)
    assert cluster.nodes["A"].snapshots.newest is None
    cluster.put("A", b"y" * 1300)
    cluster.settle(2, quiet=True)
    first = cluster.newest("A")
    assert first.size > 2000
    # The next one is not due before the log has grown by as much as that is large.
    cluster.put("A", b"z" * 1500)
    cluster.settle(2, quiet=True)
    assert cluster.newest("A") == first
    cluster.put("A", b"w" * 1500)
    cluster.settle(2, quiet=True)
    assert cluster.newest("A").index > first.index
    converged(cluster)


@pytest.mark.parametrize("keep", [0, 3, 100])
def test_entries_below_a_snapshot_are_kept_for_laggards(monkeypatch, keep):
    cluster = led(monkeypatch, CompactionLimits(keep_entries=keep))
    cluster.write("A", "x", 10)
    cluster.network.isolate("C")
    cluster.write("A", "y", 3)
    behind = cluster.last("C").index
    assert cluster.group("A").make_snapshot()
    cluster.cut("A")
    newest = cluster.newest("A").index
    assert cluster.first("A").index == max(newest - keep, 1)
    cluster.network.rejoin("C")
    cluster.settle(6, quiet=True)
    from_log = behind + 1 > newest - keep
    assert (cluster.nodes["C"].snapshots.newest is None) == from_log
    converged(cluster)


def test_a_connected_follower_makes_the_leader_keep_no_more_than_allowed(monkeypatch):
    limits = CompactionLimits(keep_entries=0, keep_bytes_max=2000)
    cluster = led(monkeypatch, limits)
    for i in range(20):  # C is connected, and silent
        cluster.put("A", b"%02d" % i + b"x" * 198)
        for _ in range(3):
            for name in "AB":
                cluster.turn(name)
                cluster.sync(name)
            cluster.network.deliver("A", "B")
            cluster.network.deliver("B", "A")
        needed = cluster.match_index("A", "C") + 1
        assert cluster.group("A").make_snapshot()
        size = cluster.nodes["A"].log.size_bytes
        cluster.cut("A")
        if i < 5:
            assert cluster.first("A").index <= needed
        if size > 2000:
            assert cluster.first("A").index == cluster.newest("A").index
    assert cluster.first("A").index > needed
    cluster.settle(10, quiet=True)
    converged(cluster)


# --- Members ---------------------------------------------------------------------------------


def configuration_in_log(cluster: SafeCluster, name: str, index: int) -> Configuration:
    """The newest configuration up to `index` in a log that was never cut."""
    log = cluster.nodes[name].log
    found = None
    for item in log.read(1, index + 1, 1 << 30):
        members = entries_codec.unpack_membership(item.payload)
        if members is not None:
            found = Configuration(item.index, members)
    assert found is not None
    return found


def changes(cluster: SafeCluster) -> Iterator[None]:
    """Writes and changes of the members, between which something else may happen."""
    for change in (Add(Member("D")), Promote("D"), Update("B", http="http://b"), Remove("C")):
        cluster.put("A", str(change).encode())
        cluster.turn("A")
        outcome = cluster.change("A", change)
        yield
        for _ in range(4):
            for name in cluster.up():
                cluster.turn(name)
                cluster.sync(name)
            yield
            cluster.network.deliver_all()
            yield
            cluster.advance(0.05)
            cluster.no_elections()
        cluster.settle(3, quiet=True)
        assert outcome.acknowledged, outcome.error


@pytest.mark.parametrize("maker", "AB")
def test_a_snapshot_carries_the_configuration_of_its_index(monkeypatch, maker):
    """Whenever it is made, and however long that takes, relative to changes of the members."""
    seen: set[int] = set()
    for moment in range(36):
        cluster = led(monkeypatch)
        cluster.add_node("D")
        snapshots = cluster.nodes[maker].snapshots
        snapshots.hold = True
        for step, _ in enumerate(changes(cluster)):
            if step == moment:
                assert cluster.group(maker).make_snapshot()
            if step >= moment and step % 2:
                snapshots.step()
        while snapshots.step():
            pass
        meta = cluster.newest(maker)
        assert meta.configuration == configuration_in_log(cluster, "A", meta.index)
        seen.add(meta.configuration.index)
        cluster.nodes[maker].log.drop_prefix(meta.index)
        before = cluster.group(maker).configuration()
        cluster.crash(maker)
        cluster.start(maker)
        assert cluster.group(maker).configuration() == before
    assert len(seen) >= 4
