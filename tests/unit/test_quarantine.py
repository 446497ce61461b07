"""A state that is found damaged: who meets it, what is told, and what a start does then."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster import membership
from cluster.errors import DamagedContent, StateDamaged
from cluster.group import RaftGroup
from cluster.interfaces import CommittedBatch
from cluster.membership import Member
from cluster.memory_log import MemoryLog
from cluster.memory_snapshots import CheckpointDumps, MemorySnapshots
from cluster.memory_transport import MemoryNetwork
from cluster.raft import Identity
from engines.command import Put, encode
from engines.errors import CorruptRecord, StoreFailed
from engines.interfaces import Limits
from engines.state_machine import StateMachine
from engines.store import Store
from node.clock import SystemClock
from node.quarantine import (
    MARK,
    GuardedMachine,
    Mark,
    Quarantine,
    ReplicaQuarantined,
    StateGuard,
    clear_mark,
    read_mark,
    write_mark,
)
from node.replica import Checkpoints

SECRET = b"a value that can be found in the file"


class DataDir:
    damaged = False


class Rig:
    """One node alone: the real state machine, group and quarantine, over a log in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(folder / "live", 16 << 20, 8)
        self.machine = StateMachine(self.store, Limits())
        self.guard = StateGuard(self.store)
        folder_view: Any = DataDir()
        checkpoints = Checkpoints(self.machine, folder_view, SystemClock().monotonic)
        self.log = MemoryLog()
        self.failures: list[BaseException] = []
        self.calls: list[Callable[[], None]] = []
        self.published: list[object] = []
        self.replaced = 0
        self.snapshots = MemorySnapshots(_Dumps(checkpoints, folder))
        self.group = RaftGroup(
            0,
            Identity("a"),
            membership.bootstrap([Member("a")]),
            self.log,
            GuardedMachine(self.machine, self.guard),
            self.snapshots,
            MemoryNetwork(["a"]).transport("a"),
            wake=lambda: None,
            fail=self.failures.append,
            rng=random.Random(1),
        )
        self.machine.on_changes = self.published.extend
        self.machine.on_replaced = self._replaced
        self.quarantine = Quarantine(
            folder, self.group, self.machine, self.guard, SystemClock(), self.calls.append
        )
        self.group._core._SyncObj__raftElectionDeadline = 0.0
        self.turns(3)
        assert self.group.role().name == "leader"

    def _replaced(self) -> None:
        self.replaced += 1
        with self.guard.readers() as reader:
            assert reader.revision >= 0

    def turns(self, count: int = 1) -> None:
        for _ in range(count):
            while self.calls:
                self.calls.pop(0)()
            self.group.turn()
            self.log.sync()
        assert self.failures == []

    def put(self, key: bytes, value: bytes = b"v") -> None:
        answers: list[object] = []
        self.group.submit(
            encode(Put("n", "s", key, value, "", 1)), lambda result, error: answers.append(error)
        )
        self.turns(3)
        assert answers == [None]

    def get(self, key: bytes) -> bytes | None:
        with self.guard.readers() as reader:
            record = reader.get("n", "s", key)
        return None if record is None else record.value

    def flip(self, content: bytes = SECRET) -> None:
        path = self.folder / "live" / "data.mdb"
        data = path.read_bytes()
        at = data.index(content)
        with path.open("r+b") as file:
            while at >= 0:
                file.seek(at)
                file.write(bytes([content[0] ^ 0x10]))
                at = data.find(content, at + 1)


class _Dumps(CheckpointDumps):
    def __init__(self, checkpoints: Checkpoints, folder: Path) -> None:
        super().__init__(checkpoints, folder)

    def examine_dump(self, data: bytes) -> None:
        self._path.write_bytes(data)
        self._checkpoints.examine(self._path, lambda: False)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_a_read_that_meets_damage_is_refused_and_the_state_comes_back(rig: Rig) -> None:
    rig.put(b"k", SECRET)
    rig.put(b"other")
    changes, revision = len(rig.published), rig.machine.revision
    rig.flip()
    with pytest.raises(ReplicaQuarantined) as told:
        rig.get(b"k")
    assert (told.value.code, told.value.definite) == ("REPLICA_QUARANTINED", True)
    with pytest.raises(ReplicaQuarantined):
        rig.get(b"other")  # No other read trusts the state either.
    assert rig.quarantine.stats() is None
    rig.turns(4)
    assert rig.get(b"k") == SECRET
    assert rig.machine.revision == revision
    assert dict(rig.quarantine.found) == {"read": 1}
    assert rig.quarantine.mark is None
    assert rig.quarantine.last is not None
    assert "changes" in rig.quarantine.last.reason
    assert len(rig.published) == changes, "what is applied again is no news"
    assert rig.replaced == 1, "who watches reads on from the store"
    rig.put(b"k", b"new")
    assert len(rig.published) == changes + 1


def test_the_mark_is_durable_before_anything_is_dropped(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.put(b"k")
    marks: list[Mark | None] = []
    clear = rig.store.clear
    monkeypatch.setattr(rig.store, "clear", lambda: (marks.append(read_mark(rig.folder)), clear()))
    rig.quarantine.quarantine("digest", "it differs", 0)
    assert marks
    assert marks[0] is not None
    assert marks[0].reason == "it differs"
    rig.turns(2)
    assert read_mark(rig.folder) is None


def test_damage_found_by_an_apply(rig: Rig) -> None:
    """The retained change of the key is looked at when it is trimmed or swept."""
    rig.put(b"k", SECRET)

    def apply(batches: object, decided: object) -> list[list[object]]:
        del rig.machine.apply  # type: ignore[attr-defined]
        raise CorruptRecord("leaves", b"k", "checksum mismatch")

    rig.machine.apply = apply  # type: ignore[method-assign]
    answers: list[object] = []
    rig.group.submit(encode(Put("n", "s", b"x", b"1", "", 1)), lambda *a: answers.append(a))
    rig.turns(6)
    assert answers
    assert rig.get(b"x") == b"1"
    assert dict(rig.quarantine.found) == {"apply": 1}


def test_a_read_that_began_before_damage_was_found_is_not_used(rig: Rig) -> None:
    rig.put(b"k")

    def read() -> None:
        with rig.guard.readers() as reader:
            assert reader.get("n", "s", b"k") is not None
            rig.quarantine.quarantine("scrub", "a bit flipped")

    with pytest.raises(ReplicaQuarantined):
        read()


def test_what_a_late_read_meets_in_the_former_state_is_no_news(rig: Rig) -> None:
    rig.put(b"k")

    def read() -> None:
        with rig.guard.readers():
            rig.quarantine.quarantine("scrub", "a bit flipped")
            rig.turns(3)
            assert rig.quarantine.mark is None
            raise CorruptRecord("leaves", b"k", "checksum mismatch")

    with pytest.raises(ReplicaQuarantined):
        read()
    rig.turns(2)
    assert dict(rig.quarantine.found) == {"scrub": 1}


def test_several_reads_that_meet_it_are_one_quarantine(rig: Rig) -> None:
    rig.put(b"k", SECRET)
    for _ in range(3):
        rig.guard.on_damage(CorruptRecord("changes", b"k", "checksum mismatch"))
    rig.calls, calls = [], rig.calls
    for call in calls:
        call()
    rig.turns(3)
    assert rig.quarantine.found["read"] == 1


def test_a_start_goes_on_where_a_crash_interrupted(tmp_path: Path) -> None:
    write_mark(tmp_path, Mark("a bit flipped", 0, 5))
    rig = Rig(tmp_path)
    rig.quarantine.resume()
    with pytest.raises(ReplicaQuarantined):
        rig.get(b"k")
    rig.turns(3)
    assert rig.get(b"k") is None
    assert read_mark(tmp_path) is None
    assert rig.quarantine.found["start"] == 1


def test_a_mark_that_cannot_be_understood_is_one(tmp_path: Path) -> None:
    assert read_mark(tmp_path) is None
    write_mark(tmp_path, Mark("why", 7, 5))
    assert read_mark(tmp_path) == Mark("why", 7, 5)
    (tmp_path / MARK).write_text("{")
    found = read_mark(tmp_path)
    assert found is not None
    assert "damaged" in found.reason
    clear_mark(tmp_path)
    assert read_mark(tmp_path) is None
    clear_mark(tmp_path)


def test_a_copy_of_damage_is_found_before_a_state_is_rebuilt_from_it(rig: Rig) -> None:
    """The snapshot's sha256 is right. There is nobody else: the log does."""
    rig.put(b"k", SECRET)
    rig.flip()
    assert rig.group.make_snapshot()
    rig.turns(2)
    assert rig.snapshots.newest is not None
    with pytest.raises(ReplicaQuarantined):
        rig.get(b"k")
    rig.turns(6)
    assert rig.get(b"k") == SECRET
    assert rig.snapshots.newest is None


def test_guarded_machine_tells_damage_from_failure(rig: Rig) -> None:
    machine = GuardedMachine(rig.machine, rig.guard)

    def broken(batches: object, decided: object) -> list[list[object]]:
        raise CorruptRecord("leaves", b"k", "checksum mismatch")

    rig.machine.apply = broken  # type: ignore[method-assign]
    with pytest.raises(StateDamaged, match="leaves"):
        machine.apply([CommittedBatch(2, 1, ())], lambda batch, results: None)
    assert rig.guard.closed


@pytest.mark.parametrize("error", [CorruptRecord("store", b"", "torn"), StoreFailed("EINVAL")])
def test_a_snapshot_that_cannot_be_read_was_made_of_damage(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    def examine(path: Path, pace: object) -> int:
        raise error

    monkeypatch.setattr("node.replica.examine_file", examine)
    folder: Any = DataDir()
    checkpoints = Checkpoints(rig.machine, folder, lambda: 0.0)
    with pytest.raises(DamagedContent):
        checkpoints.examine(tmp_path, lambda: False)
