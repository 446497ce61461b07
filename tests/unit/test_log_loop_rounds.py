"""Rounds of the log that the loop does itself: when it may, and that order and proofs hold."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster import log_files
from cluster.errors import StorageFailed
from cluster.log import SegmentedLog
from cluster.log_format import SYNC, LogOptions
from cluster.log_rounds import STALL_SHARE
from cluster.log_writer import LogWriter, WriterOptions
from tests.log_harness import LoopQueue, entry, segment_paths, spans, state_of, wait_for

BRIEF = 0.00005
LONG = 0.02


class ScriptedLoop(LoopQueue):
    """A loop whose turns and timers the test runs, and a disk whose fsyncs take what it says."""

    def __init__(self) -> None:
        super().__init__()
        self.soon: list[Callable[[], None]] = []
        self.timers: list[Callable[[], None]] = []
        self.sync_seconds = BRIEF
        self.syncing = False
        self._now = 0.0

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def call_later(self, delay: float, callback: Callable[[], None]) -> None:
        assert delay > 0
        self.timers.append(callback)

    def monotonic(self) -> float:
        """Asked before and after each fsync."""
        self.syncing = not self.syncing
        if not self.syncing:
            self._now += self.sync_seconds
        return self._now

    def pass_time(self, seconds: float) -> None:
        self._now += seconds

    def turn(self) -> None:
        soon, self.soon = self.soon, []
        for callback in soon:
            callback()

    def ring(self) -> None:
        timers, self.timers = self.timers, []
        for callback in timers:
            callback()


class Threads:
    """Which thread each write to the disk came from; they may be held or fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.syncs: list[str] = []
        self.error: OSError | None = None
        self.held = threading.Event()
        self.held.set()
        self._sync_file = log_files.sync_file
        monkeypatch.setattr(log_files, "sync_file", self._sync)

    def _sync(self, fd: int) -> None:
        here = threading.current_thread() is threading.main_thread()
        self.syncs.append("loop" if here else "thread")
        if not here:
            assert self.held.wait(20)
        if self.error is not None:
            raise self.error
        self._sync_file(fd)


class Rig:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loop = ScriptedLoop()
        self.failures: list[StorageFailed] = []
        self.writer = LogWriter(
            self.loop.call_soon_threadsafe,
            self.failures.append,
            WriterOptions(loop_bytes_max=4096),
            loop=self.loop,
            monotonic=self.loop.monotonic,
        )
        self.writer.start()
        self.log = self.open("log")
        self.append()
        while self.writer._rounds.expected_seconds > 2 * BRIEF:
            self.round()

    def open(self, name: str) -> SegmentedLog:
        return SegmentedLog.open(self.folder / name, 7, self.writer, LogOptions())

    def append(self, size: int = 16) -> int:
        self.log.append([entry(self.log.last_index + 1, size=size)])
        self.log.flush()
        return self.log.last_index

    def round(self) -> None:
        """A brief round, to its end."""
        self.append()
        self.settle()

    def settle(self) -> None:
        """All is durable, and the thread rests."""
        self.loop.turn()
        self.loop.run_until(lambda: self.log.durable_index == self.log.last_index)
        wait_for(lambda: self.writer._thread_rests)

    def last_span(self) -> int:
        return spans(segment_paths(self.folder / "log")[-1])[-1].kind

    def end(self) -> None:
        self.log.close()
        self.writer.stop()
        self.loop.run_waiting()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.end()


@pytest.fixture
def threads(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Iterator[Threads]:
    threads = Threads(monkeypatch)
    yield threads
    threads.held.set()


def test_a_disk_of_which_nothing_is_known_is_written_by_the_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = Threads(monkeypatch)
    rig = Rig(tmp_path)
    opening, first, *_, last = threads.syncs
    assert (opening, first, last) == ("loop", "thread", "loop")
    rig.end()


def test_a_small_round_is_done_in_the_next_turn_of_the_loop(rig: Rig, threads: Threads) -> None:
    before = rig.writer.figures()
    last = rig.append()
    assert rig.log.durable_index == last - 1
    assert threads.syncs == []
    rig.loop.turn()
    assert rig.log.durable_index == last
    assert threads.syncs == ["loop"]
    after = rig.writer.figures()
    assert after.loop_rounds == before.loop_rounds + 1
    assert sum(after.counts) == sum(before.counts) + 1
    assert after.counts[0] == before.counts[0] + 1
    assert after.seconds == pytest.approx(before.seconds + BRIEF)


def test_what_comes_before_that_turn_shares_its_fsync(rig: Rig, threads: Threads) -> None:
    rig.append()
    last = rig.append()
    rig.loop.turn()
    assert rig.log.durable_index == last
    assert threads.syncs == ["loop"]
    assert rig.loop.soon == []


def test_peers_are_sent_to_before_the_fsync_and_after_who_waits_heard_of_it(
    rig: Rig, threads: Threads
) -> None:
    heard: list[tuple[str, int]] = []
    threads.syncs.clear()
    rig.log.on_durable = lambda: heard.append(("durable", len(threads.syncs)))
    rig.writer.flush_peers = lambda: heard.append(("sent", len(threads.syncs)))
    rig.append()
    rig.loop.turn()
    assert heard == [("sent", 0), ("durable", 1), ("sent", 1)]


def test_a_disk_that_becomes_slow_goes_to_the_thread_and_comes_back(
    rig: Rig, threads: Threads
) -> None:
    rig.loop.sync_seconds = LONG
    for _ in range(3):
        rig.round()
    assert threads.syncs == ["loop", "loop", "thread"]
    rig.loop.sync_seconds = BRIEF
    for _ in range(60):
        rig.round()
    assert threads.syncs[-1] == "loop"
    assert threads.syncs.count("thread") > 3


def test_one_long_stall_is_enough(rig: Rig, threads: Threads) -> None:
    rig.loop.sync_seconds = 1.0
    rig.round()
    rig.loop.sync_seconds = BRIEF
    for _ in range(20):
        rig.round()
    assert threads.syncs == ["loop"] + ["thread"] * 20


@pytest.mark.parametrize("whose", ["loop", "thread"])
def test_after_a_stall_the_loop_leaves_the_disk_alone_by_the_clock(
    rig: Rig, threads: Threads, whose: str
) -> None:
    if whose == "thread":
        rig.append(5_000)
        rig.loop.sync_seconds = 0.1
        rig.settle()
    else:
        rig.loop.sync_seconds = 0.1
        rig.round()
    assert threads.syncs == [whose]
    rig.loop.sync_seconds = BRIEF
    for _ in range(100):  # of brief rounds alone a few dozen would be enough
        rig.round()
    rig.loop.pass_time(0.1 / STALL_SHARE - 1)
    rig.round()
    assert threads.syncs == [whose] + ["thread"] * 101
    rig.loop.pass_time(1)
    rig.round()  # which finds that it is over
    rig.round()
    assert threads.syncs[102:] == ["thread", "loop"]


def test_what_took_long_now_and_then_was_not_the_disk(rig: Rig, threads: Threads) -> None:
    """But the wait for a processor, which would be longer still with the thread."""
    for number in range(40):
        rig.loop.sync_seconds = 0.002 if number % 2 else BRIEF
        rig.round()
    assert set(threads.syncs) == {"loop"}


def test_a_large_round_is_the_threads_and_takes_what_waits_before_it(
    rig: Rig, threads: Threads
) -> None:
    threads.held.clear()
    small = rig.append()
    large = rig.append(size=5000)
    rig.loop.turn()
    assert rig.log.durable_index == small - 1
    threads.held.set()
    rig.settle()
    assert set(threads.syncs) == {"thread"}
    assert rig.log.durable_index == large
    assert [e.index for e in state_of(rig.log).entries] == list(range(1, large + 1))


def test_while_the_thread_writes_the_loop_does_not(rig: Rig, threads: Threads) -> None:
    threads.held.clear()
    rig.append(size=5000)
    wait_for(lambda: threads.syncs == ["thread"])
    last = rig.append()
    assert rig.loop.soon == []
    rig.loop.turn()
    assert threads.syncs == ["thread"]
    threads.held.set()
    rig.settle()
    assert rig.log.durable_index == last
    assert threads.syncs == ["thread", "thread"]


def test_the_thread_is_not_done_before_it_has_marked(
    rig: Rig, threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark moves the end of the file, where the loop would write."""
    marking, go_on = threading.Event(), threading.Event()
    mark = type(rig.log._appender).mark

    def slowly(appender: object) -> None:
        if threading.current_thread() is not threading.main_thread():
            marking.set()
            assert go_on.wait(20)
        mark(appender)

    monkeypatch.setattr(type(rig.log._appender), "mark", slowly)
    rig.append(size=5000)
    assert marking.wait(20)
    rig.append()
    assert rig.loop.soon == []
    go_on.set()
    rig.settle()
    assert threads.syncs == ["thread", "thread"]


def test_rounds_of_several_logs_are_the_threads(rig: Rig, threads: Threads) -> None:
    """Their fsyncs would add up in the loop."""
    other = rig.open("other")
    threads.syncs.clear()
    rig.append()
    other.append([entry(1)])
    other.flush()
    rig.loop.turn()
    rig.settle()
    rig.loop.run_until(lambda: other.durable_index == 1)
    assert set(threads.syncs) == {"thread"}
    other.close()


def test_the_last_fsync_is_marked_once_nothing_waits(rig: Rig, threads: Threads) -> None:
    rig.append()
    rig.loop.turn()
    assert rig.last_span() != SYNC
    assert len(rig.loop.timers) == 1
    rig.append()
    rig.loop.turn()
    assert len(rig.loop.timers) == 1
    rig.loop.ring()
    assert rig.last_span() == SYNC
    assert threads.syncs == ["loop", "loop"]
    assert rig.loop.timers == []


def test_a_mark_that_is_due_while_the_thread_writes_is_left_to_it(
    rig: Rig, threads: Threads
) -> None:
    rig.append()
    rig.loop.turn()
    threads.held.clear()
    rig.append(size=5000)
    wait_for(lambda: threads.syncs == ["loop", "thread"])
    rig.loop.ring()
    threads.held.set()
    rig.settle()
    assert rig.last_span() == SYNC


def test_a_log_is_marked_and_whole_when_it_is_closed_with_a_round_to_do(
    rig: Rig, threads: Threads
) -> None:
    last = rig.append()
    rig.log.close()
    assert rig.log.durable_index == last
    assert threads.syncs == ["thread"]
    assert rig.last_span() == SYNC
    rig.loop.turn()
    rig.loop.ring()
    rig.log = rig.open("log")
    assert rig.log.last_index == last


def test_stopping_makes_what_waits_durable(rig: Rig, threads: Threads) -> None:
    last = rig.append()
    rig.writer.stop()
    assert rig.log.durable_index == last
    rig.loop.turn()
    assert threads.syncs == ["thread"]
    with pytest.raises(StorageFailed, match="does not run"):
        rig.writer.run_in_writer(lambda: None)


def test_a_failed_fsync_in_the_loop_ends_the_writer_for_good(rig: Rig, threads: Threads) -> None:
    threads.error = OSError(errno.EIO, "Input/output error")
    last = rig.append()
    rig.loop.turn()
    assert rig.log.durable_index == last - 1
    assert [failure.errno for failure in rig.failures] == [errno.EIO]
    threads.error = None
    with pytest.raises(StorageFailed, match="Input/output error"):
        rig.append()
    rig.loop.turn()
    assert threads.syncs == ["loop"]
    assert len(rig.failures) == 1


def test_a_failed_mark_in_the_loop_ends_it_too(
    rig: Rig, threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.append()
    rig.loop.turn()

    def full(fd: int, buffers: list[bytes], offset: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(log_files, "write_all", full)
    rig.loop.ring()
    assert [failure.errno for failure in rig.failures] == [errno.ENOSPC]


def test_a_task_for_the_thread_comes_after_what_the_loop_was_to_write(
    rig: Rig, threads: Threads
) -> None:
    syncs_before_it: list[int] = []
    rig.append()
    rig.writer.run_in_writer(lambda: syncs_before_it.append(len(threads.syncs)))
    rig.settle()
    assert syncs_before_it == [1]
    assert threads.syncs == ["thread"]
