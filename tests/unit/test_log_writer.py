"""The log writer: what it joins, what it promises late, and how it fails."""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from cluster import log_files
from cluster.errors import Overloaded, StorageFailed
from cluster.interfaces import LogEntry
from cluster.log import SegmentedLog
from cluster.log_format import SYNC, LogOptions
from cluster.log_writer import LogWriter, WriterOptions
from tests.log_harness import (
    LoopQueue,
    SegmentedRig,
    entry,
    segment_paths,
    spans,
    state_of,
    unexpected,
    wait_for,
)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[SegmentedRig]:
    rig = SegmentedRig(tmp_path / "log", LogOptions(cache_bytes=0))
    yield rig
    rig.end()


class Disk:
    """Counts the calls that reach the disk, and holds or fails every fsync on demand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.writes = 0
        self.syncs = 0
        self.fail_write: OSError | None = None
        self.fail_sync: OSError | None = None
        self._tickets = threading.Semaphore(0)
        self.held = False
        self._write_all, self._sync_file = log_files.write_all, log_files.sync_file
        monkeypatch.setattr(log_files, "write_all", self._write)
        monkeypatch.setattr(log_files, "sync_file", self._sync)

    def release(self, count: int = 1) -> None:
        """Let `count` of the fsyncs that wait, or will wait, return."""
        self._tickets.release(count)

    def let_go(self) -> None:
        self.held = False
        self._tickets.release(1000)

    def _write(self, fd: int, buffers: list[bytes], offset: int) -> None:
        self.writes += 1
        if self.fail_write is not None:
            raise self.fail_write
        self._write_all(fd, buffers, offset)

    def _sync(self, fd: int) -> None:
        self.syncs += 1
        if self.held:
            assert self._tickets.acquire(timeout=20)
        if self.fail_sync is not None:
            raise self.fail_sync
        self._sync_file(fd)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch, rig: SegmentedRig) -> Iterator[Disk]:
    disk = Disk(monkeypatch)
    yield disk
    disk.let_go()


def _hold(rig: SegmentedRig, disk: Disk) -> None:
    """Put one entry into an fsync that does not return."""
    disk.held = True
    before = disk.syncs
    rig.log.append([entry(rig.log.last_index + 1)])
    rig.log.flush()
    wait_for(lambda: disk.syncs == before + 1)


def test_what_waits_becomes_one_write_one_fsync_and_one_wakeup(
    rig: SegmentedRig, disk: Disk
) -> None:
    _hold(rig, disk)
    for index in range(2, 52):
        rig.log.append([entry(index)])
        rig.log.flush()
    writes, syncs, wakeups = disk.writes, disk.syncs, rig.loop.wakeups
    told: list[int] = []
    rig.log.on_durable = lambda: told.append(rig.log.durable_index)
    disk.release(2)
    rig.settle()
    wait_for(lambda: spans(segment_paths(rig.directory)[0])[-1].kind == SYNC)
    assert told == [1, 51]
    assert disk.syncs - syncs == 1
    assert disk.writes - writes == 2  # the batch, and the mark after it
    assert rig.loop.wakeups - wakeups == 2


def test_groups_share_rounds_and_wakeups(tmp_path: Path, rig: SegmentedRig, disk: Disk) -> None:
    logs = [SegmentedLog.open(tmp_path / str(group), group, rig.writer) for group in (1, 2, 3)]
    _hold(rig, disk)
    for log in logs:
        log.append([entry(1), entry(2)])
        log.flush()
    syncs, wakeups = disk.syncs, rig.loop.wakeups
    disk.release(4)
    rig.loop.run_until(lambda: all(log.durable_index == 2 for log in logs))
    assert disk.syncs - syncs == 3
    assert rig.loop.wakeups - wakeups == 2
    for log in logs:
        log.close()


def test_a_late_fsync_of_truncated_entries_does_not_count(rig: SegmentedRig, disk: Disk) -> None:
    """Old entries 2..4 are in flight while they are truncated and replaced."""
    rig.log.append([entry(1, 1)])
    rig.settle()
    disk.held = True
    rig.log.append([entry(i, 1) for i in (2, 3, 4)])
    rig.log.flush()
    wait_for(lambda: disk.syncs == 2)
    rig.log.truncate_from(2)
    rig.log.append([entry(i, 2) for i in (2, 3, 4)])
    rig.log.flush()
    rig.log.truncate_from(4)
    rig.log.append([entry(4, 3)])
    seen: list[tuple[int, int]] = []
    rig.log.on_durable = lambda: seen.append((rig.log.durable_position, rig.log.durable_index))
    disk.release(1)
    rig.loop.run_until(lambda: rig.log.durable_position == 4)
    assert rig.log.durable_index == 1
    disk.release(1)
    rig.loop.run_until(lambda: rig.log.durable_position == 8)
    assert rig.log.durable_index == 3, "entry 4 was replaced again, and that is only buffered"
    rig.log.flush()
    disk.release(1)
    rig.loop.run_until(lambda: rig.log.durable_position == 10)
    assert seen == [(4, 1), (8, 3), (10, 4)]
    assert state_of(rig.log).entries == [entry(1, 1), entry(2, 2), entry(3, 2), entry(4, 3)]


def test_entries_in_flight_are_read_from_memory(rig: SegmentedRig, disk: Disk) -> None:
    """Also when an earlier fsync has just made room for the cache to be trimmed."""
    _hold(rig, disk)
    rig.log.append([entry(2, 1), entry(3, 2)])
    assert rig.log.read(1, 4, 1000) == [entry(1), entry(2, 1), entry(3, 2)]
    disk.release(1)
    rig.loop.run_until(lambda: rig.log.durable_index == 1)
    assert rig.log.read(1, 4, 1000) == [entry(1), entry(2, 1), entry(3, 2)]


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_failed_fsync_is_final(rig: SegmentedRig, disk: Disk, code: int) -> None:
    """Never repeated: the second fsync would report success without the data (fsyncgate)."""
    disk.fail_sync = OSError(code, os.strerror(code))
    _hold(rig, disk)
    rig.log.set_hard_state(1, "a")
    rig.log.flush()  # waits behind the fsync that is about to fail
    syncs = disk.syncs
    disk.release(1)
    rig.loop.run_until(lambda: bool(rig.failures))
    disk.fail_sync = None
    disk.let_go()
    assert [failure.errno for failure in rig.failures] == [code]
    assert (rig.log.durable_index, rig.log.durable_position) == (0, 0)
    rig.log.append([entry(2)])
    with pytest.raises(StorageFailed):
        rig.log.flush()
    rig.log.close()
    rig.writer.stop()
    rig.loop.run_waiting()
    assert disk.syncs == syncs
    assert len(rig.failures) == 1, "reported once"
    assert rig.log.durable_index == 0


def test_a_failed_write_stops_the_writer_with_the_errno(rig: SegmentedRig, disk: Disk) -> None:
    disk.fail_write = OSError(errno.ENOSPC, "No space left on device")
    rig.log.set_hard_state(1, "a")
    rig.log.flush()
    rig.loop.run_until(lambda: bool(rig.failures))
    assert rig.failures[0].errno == errno.ENOSPC
    assert "No space left" in str(rig.failures[0])
    assert rig.writer.failure is rig.failures[0]


def test_a_failure_is_reported_by_a_close_that_meets_it(rig: SegmentedRig, disk: Disk) -> None:
    disk.fail_sync = OSError(errno.EIO, "I/O error")
    rig.log.append([entry(1)])
    rig.log.close()
    assert [failure.errno for failure in rig.failures] == [errno.EIO]


def test_a_failed_write_after_part_of_it_leaves_a_log_that_recovers(
    rig: SegmentedRig, disk: Disk
) -> None:
    rig.log.append([entry(i) for i in range(1, 5)])
    rig.settle()

    def half(fd: int, buffers: Sequence[bytes | bytearray], offset: int) -> None:
        data = b"".join(buffers)
        os.pwrite(fd, data[:100], offset)
        raise OSError(errno.ENOSPC, "No space left on device")

    whole, disk._write_all = disk._write_all, half
    rig.log.append([entry(i) for i in range(5, 20)])
    rig.log.flush()
    rig.loop.run_until(lambda: bool(rig.failures))
    disk._write_all = whole
    writer = LogWriter(LoopQueue().call_soon_threadsafe, unexpected)
    log = SegmentedLog.open(rig.directory, 7, writer)
    assert 4 <= log.last_index < 19
    assert state_of(log).entries == [entry(i) for i in range(1, log.last_index + 1)]
    log.close()


def test_short_writes_are_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwritev, pwrite = os.pwritev, os.pwrite
    monkeypatch.setattr(os, "pwritev", lambda fd, b, at: pwritev(fd, [b"".join(b)[:5]], at))
    monkeypatch.setattr(os, "pwrite", lambda fd, b, at: pwrite(fd, bytes(b)[:7], at))
    buffers = [bytes([k % 251]) * (k % 9) for k in range(2500)]
    fd = log_files.create(tmp_path / "file")
    log_files.write_all(fd, buffers, 3)
    os.close(fd)
    assert (tmp_path / "file").read_bytes() == bytes(3) + b"".join(buffers)


def test_a_disk_that_accepts_nothing_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pwritev", lambda fd, buffers, at: 0)
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: 0)
    fd = log_files.create(tmp_path / "file")
    with pytest.raises(OSError, match="accepts no more"):
        log_files.write_all(fd, [b"x"], 0)
    os.close(fd)


def test_a_full_queue_refuses_appends_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = SegmentedRig(tmp_path / "log", LogOptions(), WriterOptions(writer_queue_bytes_max=5000))
    disk = Disk(monkeypatch)
    disk.held = True
    rig.log.append([entry(1, size=9000)])  # an idle writer takes an entry of any size
    position = rig.log.position
    with pytest.raises(Overloaded):
        rig.log.append([entry(2)])
    assert (rig.log.last_index, rig.log.position) == (1, position)
    assert rig.writer.backlog_bytes == rig.log.backlog_bytes > 9000
    rig.log.set_hard_state(2, "a")  # votes are never refused
    rig.log.flush()
    disk.let_go()
    rig.loop.run_until(lambda: rig.log.durable_position == rig.log.position)
    assert rig.writer.backlog_bytes == rig.log.backlog_bytes == 0
    rig.log.append([entry(2, size=3000)])
    rig.end()


def test_memory_is_bounded_by_cache_and_backlog(tmp_path: Path) -> None:
    rig = SegmentedRig(tmp_path / "log", LogOptions(cache_bytes=20_000))
    for index in range(1, 101):
        rig.log.append([LogEntry(index, 1, bytes(1000))])
        rig.settle()
        assert rig.log.cached_bytes <= 20_000
    assert rig.log.cached_bytes > 15_000
    assert [e.index for e in rig.log.read(1, 101, 1 << 20)] == list(range(1, 101))
    assert rig.log.cached_bytes <= 20_000, "reading old entries keeps nothing"
    rig.reopen()
    assert 15_000 < rig.log.cached_bytes <= 20_000
    rig.end()


def test_stop_drains_and_may_be_repeated(tmp_path: Path) -> None:
    rig = SegmentedRig(tmp_path / "log")
    rig.log.append([entry(i) for i in range(1, 100)])
    rig.log.flush()
    rig.writer.stop()
    assert rig.log.durable_index == 99
    rig.writer.stop()
    rig.log.append([entry(100)])
    with pytest.raises(StorageFailed, match="does not run"):
        rig.log.flush()


def test_a_disk_that_hangs_bounds_close_and_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = SegmentedRig(tmp_path / "log", LogOptions(), WriterOptions(drain_seconds_max=0.05))
    disk = Disk(monkeypatch)
    disk.held = True
    rig.log.append([entry(1)])
    with pytest.raises(StorageFailed, match=r"within 0\.05 s"):
        rig.log.close()
    with pytest.raises(StorageFailed, match=r"within 0\.05 s"):
        rig.writer.stop()
    assert rig.log.durable_index == 0
    disk.let_go()
    rig.writer.stop()
    assert rig.log.durable_index == 1
    rig.log.close()


def test_a_closed_loop_does_not_lose_what_stop_delivers(tmp_path: Path) -> None:
    def closed(callback: Callable[[], None]) -> None:
        raise RuntimeError("Event loop is closed")

    writer = LogWriter(closed, unexpected)
    writer.start()
    log = SegmentedLog.open(tmp_path / "log", 1, writer)
    log.append([entry(1)])
    log.flush()
    writer.stop()
    assert log.durable_index == 1
    log.close()


def test_the_interpreter_switches_fast_while_the_writer_runs(tmp_path: Path) -> None:
    """A busy loop must not starve the writer; see `WriterOptions.switch_interval_seconds`."""
    before = sys.getswitchinterval()
    writer = LogWriter(LoopQueue().call_soon_threadsafe, unexpected)
    writer.start()
    assert sys.getswitchinterval() < 100e-6 < before
    writer.stop()
    assert sys.getswitchinterval() == before


def test_a_task_that_arrives_with_the_news_does_not_cost_the_mark(tmp_path: Path) -> None:
    """Such as the deletion of segments that a reset made unnecessary."""

    def queue_a_task(deliver: Callable[[], None]) -> None:
        writer.run_in_writer(lambda: None)

    writer = LogWriter(queue_a_task, unexpected)
    writer.start()
    log = SegmentedLog.open(tmp_path / "log", 1, writer)
    log.append([entry(1)])
    log.flush()
    path = segment_paths(tmp_path / "log")[0]
    wait_for(lambda: spans(path)[-1].kind == SYNC)
    log.close()
    writer.stop()


def test_a_log_is_marked_before_it_is_closed_however_much_waits(rig: SegmentedRig) -> None:
    busy = threading.Event()
    busy.set()

    def more() -> None:
        if busy.is_set():
            rig.writer.run_in_writer(more)

    more()
    rig.log.append([entry(1)])
    rig.log.close()
    last = spans(segment_paths(rig.directory)[0])[-1]
    busy.clear()
    assert last.kind == SYNC


def test_the_sync_mark_proves_the_last_fsync_and_costs_none(rig: SegmentedRig, disk: Disk) -> None:
    rig.log.append([entry(1)])
    rig.settle()
    path = segment_paths(rig.directory)[0]
    wait_for(lambda: spans(path)[-1].kind == SYNC)
    mark = spans(path)[-1]
    assert mark.synced == mark.start
    assert disk.syncs == 1
