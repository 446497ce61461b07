"""Snapshots on disk: files, leftovers, damage, a failing disk; and what only the twin does."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from cluster import log_files, snapshot_manifest
from cluster.errors import CorruptSnapshot, Overloaded, StorageFailed
from cluster.interfaces import SnapshotMeta
from cluster.memory_snapshots import CheckpointDumps, MemorySnapshots
from cluster.snapshot import SnapshotStore
from cluster.snapshot_copy import Cancelled, Pace
from cluster.snapshot_rules import SnapshotOptions
from cluster.snapshot_worker import Worker
from engines.check import check
from tests.log_harness import LoopQueue, wait_for
from tests.snapshot_harness import (
    GROUP,
    SMALL,
    DiskRig,
    Errors,
    Machine,
    configuration_at,
    create,
    created,
    finish,
    flip,
    meta_of,
    read,
    receive,
    write,
    write_all,
)
from tests.unit.engine_state import State

DATA = bytes(range(256)) * 80
META = meta_of(DATA, 50, 3)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[DiskRig]:
    rig = DiskRig(tmp_path / "a" / "snapshots")
    yield rig
    rig.snapshots.close()


def names(rig: DiskRig) -> list[str]:
    return sorted(path.name for path in rig.directory.iterdir())


def two(rig: DiskRig) -> tuple[Path, Path]:
    """Make snapshots 10 and 20; their folders."""
    for _ in range(2):
        rig.machine.advance()
        created(rig)
    return rig.directory / f"{10:020d}", rig.directory / f"{20:020d}"


# -- files -------------------------------------------------------------------------------


def test_the_files_are_where_an_operator_looks_for_them(rig: DiskRig) -> None:
    rig.machine.advance()
    meta = created(rig)
    folder = rig.directory / "00000000000000000010"
    assert (folder / "state.mdb").read_bytes() == rig.machine.data
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["checksum"]
    assert manifest == {
        "format": 1,
        "group": GROUP,
        "index": 10,
        "term": 1,
        "size": 20_000,
        "sha256": meta.sha256.hex(),
        "configuration": {
            "index": 9,
            "members": [
                ["a", True, "first", "h:10", "http://h", "i"],
                ["b", False, "", "", "", ""],
            ],
        },
    }
    assert names(rig) == ["00000000000000000010"]


def test_after_installing_nothing_is_left_over(rig: DiskRig) -> None:
    assert receive(rig, DATA, META) is None
    rig.snapshots.install()
    assert names(rig) == ["00000000000000000050"]


def test_unfinished_work_is_removed_at_open(rig: DiskRig) -> None:
    older, newer = two(rig)
    for name in ("making", "incoming.3.removed", older.name + ".removed"):
        (rig.directory / name).mkdir()
        (rig.directory / name / "state.mdb").write_bytes(b"half")
    (rig.directory / "prepared.mdb").write_bytes(b"half")
    (rig.directory / "incoming").mkdir()
    (rig.directory / "incoming" / "manifest.json").write_bytes(b'{"format": 1')
    rig.reopen()
    assert names(rig) == [older.name, newer.name]
    assert rig.snapshots.problems == []
    assert created(rig).index == 20


def test_a_partial_snapshot_longer_than_itself_is_dropped(rig: DiskRig) -> None:
    rig.snapshots.begin(META)
    write_all(rig, DATA)
    with (rig.directory / "incoming" / "state.mdb.part").open("ab") as file:
        file.write(b"!")
    rig.reopen()
    assert rig.snapshots.begin(META) == 0


def test_what_is_not_ours_is_left_alone_and_told(rig: DiskRig) -> None:
    two(rig)
    (rig.directory / "notes.txt").write_text("do not delete")
    rig.reopen()
    (problem,) = rig.snapshots.problems
    assert "notes.txt" in problem
    assert (rig.directory / "notes.txt").read_text() == "do not delete"


# -- damage ------------------------------------------------------------------------------


def no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def torn_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_bytes(path.read_bytes()[:-40])


def short_state(folder: Path) -> None:
    os.truncate(folder / "state.mdb", 19_999)


def no_state(folder: Path) -> None:
    (folder / "state.mdb").unlink()


def other_index(folder: Path) -> None:
    path = folder.parent / f"{10:020d}" / "manifest.json"
    (folder / "manifest.json").write_bytes(path.read_bytes())


def other_group(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_bytes(snapshot_manifest.encode(8, snapshot_manifest.decode(path.read_bytes(), 7)))


def a_file(folder: Path) -> None:
    folder.rename(folder.with_name("moved"))
    (folder.parent / "moved" / "state.mdb").rename(folder)


DAMAGES = (no_manifest, torn_manifest, short_state, no_state, other_index, other_group, a_file)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_snapshot_is_set_aside_and_the_one_before_is_the_newest(
    rig: DiskRig, damage: Callable[[Path], None]
) -> None:
    _, newer = two(rig)
    damage(newer)
    rig.reopen()
    assert [meta.index for meta in rig.snapshots.held] == [10]
    assert newer.name in rig.snapshots.problems[0]
    assert "set aside" in rig.snapshots.problems[0]
    assert (rig.directory / f"{newer.name}.damaged").exists()
    assert not newer.exists()
    # Its place can be taken again.
    assert created(rig).index == 20


def test_one_damaged_snapshot_is_kept(rig: DiskRig) -> None:
    older, newer = two(rig)
    short_state(older)
    rig.reopen()
    short_state(newer)
    rig.reopen()
    assert names(rig) == [f"{newer.name}.damaged"]
    assert rig.snapshots.newest is None
    rig.reopen()
    assert names(rig) == [f"{newer.name}.damaged"]


def test_a_manifest_with_any_byte_changed_is_refused_or_says_the_same() -> None:
    data = snapshot_manifest.encode(GROUP, META)
    assert snapshot_manifest.decode(data, GROUP) == META
    for place in range(len(data)):
        for bit in (0x01, 0x20):
            changed = bytearray(data)
            changed[place] ^= bit
            try:
                meta = snapshot_manifest.decode(bytes(changed), GROUP)
            except ValueError:
                continue
            assert meta == META, (place, bit)


def test_a_read_of_a_vanished_snapshot_sets_it_aside(rig: DiskRig) -> None:
    older, newer = two(rig)
    no_state(newer)
    assert read(rig, 20, 0, 100) is None
    assert [meta.index for meta in rig.snapshots.held] == [10]
    os.truncate(older / "state.mdb", 50)
    assert read(rig, 10, 0, 50) is not None
    assert read(rig, 10, 0, 100) is None
    assert rig.snapshots.newest is None
    rig.run_waiting()
    assert len(rig.snapshots.problems) == 2
    assert rig.failures == []
    assert names(rig) == [f"{older.name}.damaged"]


def test_verifying_finds_what_the_length_does_not_tell(rig: DiskRig) -> None:
    errors: Errors = []

    def verify() -> Exception | None:
        errors.clear()
        rig.snapshots.verify(errors.append)
        rig.run_until(lambda: bool(errors))
        return errors[0]

    assert verify() is None
    _, newer = two(rig)
    assert verify() is None
    flip(newer / "state.mdb", 7)
    assert isinstance(verify(), CorruptSnapshot)
    assert [meta.index for meta in rig.snapshots.held] == [10]
    assert verify() is None


# -- a disk that fails -------------------------------------------------------------------


def failing(code: int, after: int = 0) -> Callable[..., None]:
    """A call that fails with `code`, from the call numbered `after` on; works before."""
    real = log_files.write_all
    calls = [0]

    def call(*arguments: object, **more: object) -> None:
        calls[0] += 1
        if calls[0] > after:
            raise OSError(code, os.strerror(code))
        real(*arguments, **more)  # type: ignore[arg-type]

    return call


def source_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "snapshot-source"]


def test_a_full_disk_is_told_and_the_room_is_given_back(
    rig: DiskRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.machine.advance(3_000_000)  # more than a pipe holds: the source is still writing
    with monkeypatch.context() as patch:
        patch.setattr(log_files, "write_all", failing(errno.ENOSPC, after=1))
        meta, error = create(rig)
    assert meta is None
    assert isinstance(error, StorageFailed)
    assert error.errno == errno.ENOSPC
    assert names(rig) == []
    wait_for(lambda: not source_threads())
    assert created(rig).index == 10


@pytest.mark.parametrize("call", ["write_all", "sync_file", "sync_directory"])
def test_every_disk_error_while_making_is_told(
    rig: DiskRig, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    rig.machine.advance()
    with monkeypatch.context() as patch:
        patch.setattr(log_files, call, failing(errno.EIO))
        _, error = create(rig)
    assert isinstance(error, StorageFailed)
    assert error.errno == errno.EIO
    assert rig.snapshots.newest is None


def test_disk_errors_while_receiving_are_told(
    rig: DiskRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.snapshots.begin(META)
    with monkeypatch.context() as patch:
        patch.setattr(log_files, "write_all", failing(errno.EIO))
        assert isinstance(write(rig, 0, b"x"), StorageFailed)
    write_all(rig, DATA)
    with monkeypatch.context() as patch:
        patch.setattr(log_files, "sync_file", failing(errno.EIO))
        assert isinstance(finish(rig), StorageFailed)
    assert rig.snapshots.newest is None
    with monkeypatch.context() as patch:
        patch.setattr(log_files, "write_all", failing(errno.ENOSPC))
        with pytest.raises(StorageFailed):
            rig.snapshots.begin(meta_of(DATA, 60))


def test_a_disk_that_cannot_read_stops_the_node(
    rig: DiskRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.machine.advance()
    created(rig)
    with monkeypatch.context() as patch:
        patch.setattr(log_files, "open_existing", failing(errno.EIO))
        assert read(rig, 10, 0, 10) is None
        with pytest.raises(StorageFailed):
            rig.snapshots.install()
    (failure,) = rig.failures
    assert isinstance(failure, StorageFailed)
    assert rig.snapshots.newest is not None


def test_a_failed_removal_stops_the_node(rig: DiskRig, monkeypatch: pytest.MonkeyPatch) -> None:
    two(rig)
    rig.machine.advance()
    monkeypatch.setattr(log_files, "remove", failing(errno.EIO))
    created(rig)
    rig.run_waiting()
    (failure,) = rig.failures
    assert isinstance(failure, StorageFailed)


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageFailed, match="file"):
        DiskRig(tmp_path / "file" / "snapshots")


# -- the copy ----------------------------------------------------------------------------


def test_a_copy_reaches_the_disk_piece_by_piece(
    rig: DiskRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.options = replace(SMALL, sync_bytes=1 << 20)
    rig.reopen()
    rig.machine.advance(20 << 20)
    unsynced, most = [0], [0]
    real = log_files.write_all

    def write(fd: int, buffers: list[bytes], offset: int) -> None:
        unsynced[0] += sum(map(len, buffers))
        most[0] = max(most[0], unsynced[0])
        real(fd, buffers, offset)

    monkeypatch.setattr(log_files, "write_all", write)
    monkeypatch.setattr(log_files, "sync_file", lambda fd: unsynced.__setitem__(0, 0))
    meta = created(rig)
    assert most[0] < 3 << 20
    assert rig.machine.released >= 10
    most[0] = 0
    rig.snapshots._held.clear()
    assert rig.snapshots.begin(meta._replace(term=2)) == 0
    write_all(rig, rig.machine.data)
    assert finish(rig) is None
    assert most[0] < 3 << 20


def test_what_was_copied_and_synced_leaves_the_page_cache(
    rig: DiskRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.options = replace(SMALL, sync_bytes=1 << 20)
    rig.reopen()
    rig.machine.advance(20 << 20)
    written, synced, forgotten = [0], [0], [0]
    real = log_files.write_all

    def write(fd: int, buffers: list[bytes], offset: int) -> None:
        written[0] = offset + sum(map(len, buffers))
        real(fd, buffers, offset)

    def forget(fd: int, offset: int, length: int) -> None:
        # Of what is not on the disk yet the kernel would keep everything.
        assert (offset, offset + length) == (forgotten[0], synced[0])
        forgotten[0] = offset + length

    monkeypatch.setattr(log_files, "write_all", write)
    monkeypatch.setattr(log_files, "sync_file", lambda fd: synced.__setitem__(0, written[0]))
    monkeypatch.setattr(log_files, "forget_cached", forget)
    assert created(rig).size - (1 << 20) <= forgotten[0]


class Waiting(threading.Event):
    """Notes how long it was waited for, and does not wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waited.append(timeout)
        return self.is_set()


def test_a_copy_keeps_its_pace() -> None:
    now = [100.0]
    cancelled = Waiting()
    pace = Pace(replace(SMALL, copy_bytes_per_second_max=1000), cancelled, lambda: now[0])
    pace.keep(500)
    assert cancelled.waited == [0.5]
    now[0] += 3.0
    pace.keep(2900)  # behind: nothing to wait for
    assert cancelled.waited == [0.5]
    pace.keep(4000)
    assert cancelled.waited == [0.5, 1.0]
    Pace(SMALL, cancelled, lambda: now[0]).keep(10**12)
    assert cancelled.waited == [0.5, 1.0]
    cancelled.set()
    with pytest.raises(Cancelled):
        pace.keep(1)


def test_closing_ends_a_copy_under_way(tmp_path: Path) -> None:
    rig = DiskRig(tmp_path / "slow", replace(SMALL, copy_bytes_per_second_max=1))
    rig.machine.advance(3_000_000)
    called: list[object] = []
    rig.snapshots.create(configuration_at, lambda *answer: called.append(answer))
    wait_for(lambda: bool(source_threads()))
    rig.snapshots.close()  # at that pace the copy would take a month
    wait_for(lambda: not source_threads())
    rig.loop.run_waiting()
    assert called == []
    rig.reopen()
    assert rig.snapshots.newest is None
    assert names(rig) == []
    rig.end()


def test_streaming_does_not_wait_for_a_copy(rig: DiskRig) -> None:
    rig.machine.advance()
    created(rig)
    rig.machine.advance()
    copying, go_on = threading.Event(), threading.Event()
    real = rig.machine.copy_to

    def copy_to(fd: int) -> tuple[int, int]:
        copying.set()
        go_on.wait(20)
        return real(fd)

    rig.machine.copy_to = copy_to  # type: ignore[method-assign]
    metas: list[SnapshotMeta | None] = []
    rig.snapshots.create(configuration_at, lambda meta, _: metas.append(meta))
    assert copying.wait(20)
    assert read(rig, 10, 0, 100) is not None
    rig.snapshots.begin(META)
    assert write(rig, 0, DATA[:100]) is None
    assert metas == []
    go_on.set()
    rig.run_until(lambda: bool(metas))


def test_one_received_while_ours_was_made_stays(rig: DiskRig) -> None:
    """Both at one index: neither overwrites the other's files, and the received one wins."""
    rig.machine.index = 40
    rig.machine.advance()
    go_on = threading.Event()
    real = rig.machine.copy_to

    def copy_to(fd: int) -> tuple[int, int]:
        go_on.wait(20)
        return real(fd)

    rig.machine.copy_to = copy_to  # type: ignore[method-assign]
    metas: list[SnapshotMeta | None] = []
    rig.snapshots.create(configuration_at, lambda meta, _: metas.append(meta))
    rig.snapshots.begin(META)
    write_all(rig, DATA)
    errors: Errors = []
    rig.snapshots.finish(errors.append)
    go_on.set()
    rig.run_until(lambda: bool(errors and metas))
    assert errors == [None]
    assert rig.snapshots.held == [META]
    rig.run_waiting()
    rig.reopen()
    assert rig.snapshots.held == [META]
    rig.end()


# -- workers and options -----------------------------------------------------------------


def test_a_worker_bounds_its_queue_and_survives_a_failing_job() -> None:
    loop = LoopQueue()
    worker = Worker("test", loop.call_soon_threadsafe, 2)
    answers: list[object] = []

    def fail() -> None:
        raise LookupError

    worker.submit(fail, lambda _, error: answers.append(type(error)))
    worker.submit(lambda: 5, lambda result, _: answers.append(result))
    with pytest.raises(Overloaded, match="2 test jobs"):
        worker.submit(lambda: 6, lambda result, _: answers.append(result))
    worker.submit(lambda: 7, lambda result, _: answers.append(result), bounded=False)
    loop.run_until(lambda: len(answers) == 3)
    assert answers == [LookupError, 5, 7]
    worker.submit(lambda: 8, lambda result, _: answers.append(result))
    assert worker.close(20)
    loop.run_waiting()
    assert answers == [LookupError, 5, 7]


def test_a_worker_outlives_a_closed_loop() -> None:
    def closed(callback: Callable[[], None]) -> None:
        raise RuntimeError("Event loop is closed")

    worker = Worker("test", closed, 2)
    worker.submit(lambda: None, lambda *_: None)
    assert worker.close(20)


@pytest.mark.parametrize(
    ("name", "value"),
    [("snapshots_kept", 0), ("sync_bytes", 0), ("chunk_jobs_max", 0), ("pin_seconds", -1.0)],
)
def test_options_that_cannot_work_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        SnapshotOptions(**{name: value})  # type: ignore[arg-type]


# -- with a real state -------------------------------------------------------------------


@pytest.fixture
def states(tmp_path: Path) -> Iterator[tuple[State, State]]:
    states = State(tmp_path / "one" / "live"), State(tmp_path / "two" / "live")
    yield states
    for state in states:
        state.machine.close()


def store_of(state: State, loop: LoopQueue) -> SnapshotStore:
    def fail(error: Exception) -> None:
        raise AssertionError from error

    directory = state.path.parent / "snapshots"
    soon = loop.call_soon_threadsafe
    return SnapshotStore(directory, 0, state.machine, soon, fail, monotonic=lambda: 0.0)


def test_a_state_travels_from_one_node_to_another(states: tuple[State, State]) -> None:
    one, two = states
    for number in range(300):
        one.put(b"k%d" % number, b"v" * 3000, ttl=10)
    two.put(b"other", b"x")
    loop = LoopQueue()
    source, target = store_of(one, loop), store_of(two, loop)
    metas: list[SnapshotMeta | None] = []
    source.create(configuration_at, lambda meta, _: metas.append(meta))
    loop.run_until(lambda: bool(metas))
    (meta,) = metas
    assert meta is not None
    assert (meta.index, meta.term) == (300, 1)
    one.put(b"later", b"x")
    offset = target.begin(meta)
    while offset < meta.size:
        offset = _forward(source, target, loop, meta, offset)
    errors: Errors = []
    target.finish(errors.append)
    loop.run_until(lambda: bool(errors))
    assert errors == [None]
    target.install()
    assert (two.machine.applied_index, two.machine.revision) == (300, 300)
    assert two.value(b"k7") == b"v" * 3000
    assert two.get(b"other") is None
    assert two.get(b"later") is None
    two.put(b"later", b"x")
    assert one.digest() == two.digest()
    with two.store.read() as snapshot:
        assert check(snapshot) == []
    source.close()
    target.close()


def _forward(
    source: SnapshotStore, target: SnapshotStore, loop: LoopQueue, meta: SnapshotMeta, offset: int
) -> int:
    chunks: list[bytes | None] = []
    source.read(meta.index, offset, 1 << 16, chunks.append)
    loop.run_until(lambda: bool(chunks))
    (chunk,) = chunks
    assert chunk
    errors: Errors = []
    target.write(offset, chunk, errors.append)
    loop.run_until(lambda: bool(errors))
    assert errors == [None]
    return offset + len(chunk)


def test_the_twin_takes_a_real_state_too(states: tuple[State, State], tmp_path: Path) -> None:
    one, two = states
    one.put(b"k", b"v")
    source = MemorySnapshots(CheckpointDumps(one.machine, tmp_path))
    target = MemorySnapshots(CheckpointDumps(two.machine, tmp_path))
    metas: list[SnapshotMeta | None] = []
    assert source.create(configuration_at, lambda meta, _: metas.append(meta))
    (meta,) = metas
    assert meta is not None
    assert target.begin(meta) == 0
    chunks: list[bytes | None] = []
    source.read(meta.index, 0, meta.size, chunks.append)
    assert chunks[0] is not None
    errors: Errors = []
    target.write(0, chunks[0], errors.append)
    target.finish(errors.append)
    assert errors == [None, None]
    target.install()
    assert one.digest() == two.digest()


# -- what only the twin does -------------------------------------------------------------


def memory(machine: Machine, *, hold: bool = False) -> MemorySnapshots:
    return MemorySnapshots(machine, options=SMALL, hold=hold)


def test_a_held_snapshot_is_of_when_it_was_copied_and_durable_a_step_before_it_is_told() -> None:
    machine = Machine()
    machine.advance()
    snapshots = memory(machine, hold=True)
    told: list[SnapshotMeta | None] = []
    snapshots.create(configuration_at, lambda meta, _: told.append(meta))
    machine.advance()
    assert snapshots.waiting == 1
    assert snapshots.step()
    machine.advance()
    assert snapshots.newest is None
    assert snapshots.step()
    assert told == []
    assert snapshots.newest is not None
    assert snapshots.newest.index == 20
    disk = snapshots.crash()
    assert list(disk.held) == [20]
    assert not snapshots.step()
    assert told == []


def test_a_crash_loses_what_is_not_durable_and_keeps_some_prefix_of_the_partial_one() -> None:
    kept = set()
    for seed in range(30):
        machine = Machine()
        machine.advance()
        snapshots = memory(machine)
        snapshots.begin(META)
        for offset in range(0, 8192 * 2, 8192):
            snapshots.write(offset, DATA[offset : offset + 8192], lambda _: None)
        snapshots.hold = True
        snapshots.write(8192 * 2, DATA[8192 * 2 :], lambda _: None)
        disk = snapshots.crash(Random(seed))
        assert disk.partial is not None
        assert disk.partial.data == DATA[: len(disk.partial.data)]
        again = MemorySnapshots(machine, disk, SMALL)
        assert again.begin(META) == len(disk.partial.data)
        kept.add(len(disk.partial.data))
    assert len(kept) > 10
    assert max(kept) <= 8192 * 2


def test_the_disk_of_the_dead_is_not_that_of_the_living() -> None:
    machine = Machine()
    machine.advance()
    snapshots = memory(machine)
    snapshots.create(configuration_at, lambda *_: None)
    disk = snapshots.crash()
    disk.corrupt(10, 3)
    snapshots.install()
    with pytest.raises(CorruptSnapshot):
        MemorySnapshots(machine, disk, SMALL).install()
    with pytest.raises(RuntimeError):
        disk.corrupt_partial(0)
