"""What a node remembers about a state in which it met damage."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.errors import Removed
from cluster.interfaces import CommittedBatch, LogEntry, SnapshotMeta
from cluster.membership import Configuration, Member
from cluster.memory_log import MemoryLog
from cluster.reconcile import reconcile
from cluster.snapshot import SnapshotStore
from cluster.snapshot_rules import SnapshotOptions
from engines.check import check
from engines.command import Put, encode
from engines.errors import CorruptRecord
from engines.interfaces import Limits
from engines.state_machine import StateMachine
from engines.store import Store
from node import daemon, replica
from node.clock import SystemClock
from node.datadir import DataDir
from tests.log_harness import LoopQueue

BOOT = "this-boot"


def opened(root: Path) -> DataDir:
    found = DataDir.open(root, node_id="n", cluster_id="c", name="node", clock=SystemClock())
    found.prepare_live(BOOT)
    return found


def shared(folder: DataDir, failure: Exception | None = None) -> Any:
    """What a group's state needs of its node."""
    storage = SimpleNamespace(map_bytes=16 << 20)
    return SimpleNamespace(
        config=SimpleNamespace(storage=storage), data_dir=folder, failure=lambda: failure
    )


def test_damage_met_while_starting_makes_the_next_start_rebuild_the_state(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    with pytest.raises(CorruptRecord), replica.opened_state(shared(folder), 0):
        raise CorruptRecord("meta", b"counters", "does not verify")
    assert not folder.live_is_trustworthy(BOOT)
    assert folder.prepare_live(BOOT), "the damaged state is discarded"
    folder.close()


def test_what_fails_halts_the_group_at_once_and_being_removed_does_not() -> None:
    halted = []

    async def fail(error: Exception) -> daemon.Node:
        found = daemon.Node(SimpleNamespace(), SystemClock())  # type: ignore[arg-type]
        found.halt = lambda: halted.append(error)
        found.fail(error)
        await found.wait_for_stop()
        return found

    disk = OSError("disk")
    assert asyncio.run(fail(disk)).broken
    assert not asyncio.run(fail(Removed("another member says so"))).broken
    assert halted == [disk]


def test_another_failure_while_starting_leaves_the_state_as_it_is(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    with pytest.raises(RuntimeError), replica.opened_state(shared(folder), 0):
        raise RuntimeError("the port is taken")
    assert folder.live_is_trustworthy(BOOT)
    folder.close()


def test_damage_met_while_running_makes_the_next_start_rebuild_the_state(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    with replica.opened_state(shared(folder, CorruptRecord("leaves", b"k", "bad")), 0):
        pass
    assert not folder.live_is_trustworthy(BOOT)
    folder.close()


# --- A damaged state that was copied into a snapshot ----------------------------------------

SECRET = b"a value that can be found in the file"


class Folder:
    """The part of a data folder that snapshots ask."""

    def __init__(self, damaged: bool) -> None:
        self.damaged = damaged


def put(machine: StateMachine, index: int, key: bytes, value: bytes) -> None:
    command = encode(Put("n", "s", key, value, "", 1))
    machine.apply([CommittedBatch(index, 1, (command,))])


def snapshots_of(
    root: Path, machine: StateMachine, damaged: bool
) -> tuple[SnapshotStore, LoopQueue]:
    loop = LoopQueue()
    folder: Any = Folder(damaged)
    checkpoints = replica.Checkpoints(machine, folder, lambda: 0.0)
    failures: list[Exception] = []
    options = SnapshotOptions(copy_bytes_per_second_max=0)
    store = SnapshotStore(
        root / "snapshots",
        0,
        checkpoints,
        loop.call_soon_threadsafe,
        failures.append,
        options,
        monotonic=lambda: 0.0,
    )
    return store, loop


def make(snapshots: SnapshotStore, loop: LoopQueue) -> None:
    made: list[object] = []
    members = Configuration(1, (Member("a"),))
    assert snapshots.create(lambda index: members, lambda meta, error: made.append(meta or error))
    loop.run_until(lambda: bool(made))
    assert isinstance(made[0], SnapshotMeta), made


def flip(path: Path, content: bytes) -> None:
    data = path.read_bytes()
    with path.open("r+b") as file:
        for at in (found.start() for found in re.finditer(re.escape(content), data)):
            file.seek(at)
            file.write(bytes([content[0] ^ 0x10]))


@pytest.mark.parametrize("damaged", [True, False])
def test_what_a_damaged_state_is_rebuilt_from_is_looked_at(tmp_path: Path, damaged: bool) -> None:
    """The newest snapshot is a faithful copy of the damage: its sha256 verifies."""
    store = Store(tmp_path / "live", 16 << 20, 8)
    machine = StateMachine(store, Limits())
    snapshots, loop = snapshots_of(tmp_path, machine, damaged)
    put(machine, 2, b"k", SECRET)
    make(snapshots, loop)
    flip(tmp_path / "live" / "data.mdb", SECRET)
    put(machine, 3, b"other", b"v")
    make(snapshots, loop)
    store.close()

    fresh = Store(tmp_path / "rebuilt", 16 << 20, 8)
    rebuilt = StateMachine(fresh, Limits())
    snapshots.close()
    snapshots, loop = snapshots_of(tmp_path, rebuilt, damaged)
    log = MemoryLog()
    log.append([LogEntry(1, 0, b"\x01"), LogEntry(2, 1, b"x"), LogEntry(3, 1, b"x")])
    done = reconcile(log, snapshots, lambda: rebuilt.applied_index)
    with fresh.read() as snapshot:
        problems = check(snapshot)
    if damaged:
        assert (rebuilt.applied_index, problems, len(done.damaged)) == (2, [], 1)
    else:
        assert rebuilt.applied_index == 3, "without a reason nobody reads the whole state"
        assert problems
    snapshots.close()
    fresh.close()


def test_a_state_stays_damaged_until_it_is_rebuilt(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    folder.distrust_live()
    folder.close()
    folder = DataDir.open(tmp_path, node_id="n", cluster_id="c", name="node", clock=SystemClock())
    assert folder.prepare_live(BOOT)
    assert folder.damaged, "a crash before it is rebuilt must not hide it"
    assert not folder.live_is_trustworthy(BOOT)
    folder.mark_running(BOOT)
    assert not folder.damaged
    assert folder.live_is_trustworthy(BOOT)
    folder.close()
