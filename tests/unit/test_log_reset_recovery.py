"""Recovery of a log that was reset: what a crash at any point leaves, and what damage does.

Source of the rules: DESIGN-log.md.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster import log, log_files
from cluster.errors import CorruptLog, StorageFailed
from cluster.log import SegmentedLog
from cluster.log_format import (
    ENTRY,
    RESET,
    SEGMENT_HEADER_BYTES,
    SYNC,
    TRUNCATE,
    LogOptions,
    SegmentHeader,
    encode_record_header,
    encode_segment_header,
    segment_name,
    segment_seed,
)
from cluster.log_writer import LogWriter
from tests.log_harness import (
    LoopQueue,
    Model,
    Recorder,
    SegmentedRig,
    entry,
    segment_paths,
    spans,
    state_of,
    unexpected,
    wait_for,
)

OPTIONS = LogOptions(segment_bytes=4096, cache_bytes=0, preallocate_bytes=512)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[SegmentedRig]:
    rig = SegmentedRig(tmp_path / "live", OPTIONS)
    yield rig
    rig.end()


@pytest.fixture
def undeleted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Crashes always come before the log deletes segments; recovery is not affected."""
    monkeypatch.setattr(log, "remove_segments", lambda directory, segments: None)


@pytest.fixture
def opened() -> Iterator[Callable[[Path], SegmentedLog]]:
    writer = LogWriter(LoopQueue().call_soon_threadsafe, unexpected)
    writer.start()
    logs: list[SegmentedLog] = []

    def open_log(directory: Path) -> SegmentedLog:
        logs.append(SegmentedLog.open(directory, 7, writer, OPTIONS))
        return logs[-1]

    yield open_log
    for each in logs:
        each.close()
    writer.stop()


@pytest.fixture
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_files, "sync_file", lambda fd: None)
    monkeypatch.setattr(log_files, "sync_directory", lambda path: None)


def _recover(directory: Path, opened: Callable[[Path], SegmentedLog]) -> Model:
    found = opened(directory)
    state = state_of(found)
    found.close()
    return state


def _kinds(path: Path) -> list[int]:
    return [span.kind for span in spans(path) if span.kind not in (0, SYNC)]


def _flip(path: Path, at: int) -> None:
    with path.open("rb+", buffering=0) as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << at % 8]))


def _wait_for_mark(rig: SegmentedRig) -> None:
    wait_for(lambda: spans(segment_paths(rig.directory)[-1])[-1].kind == SYNC)


def _history(recorder: Recorder, *, rolls_over: bool) -> None:
    """Four segments, then a reset inside the newest, entries around it, and perhaps more."""
    recorder.hard_state(1, "a")
    recorder.append(40, 1, size=250)
    recorder.truncate(38)
    recorder.append(5, 2, size=90)
    recorder.reset(30, 2)
    recorder.append(4, 3, size=60)
    recorder.truncate(31)
    recorder.hard_state(3, "b")
    recorder.append(3, 3, size=60)
    if rolls_over:
        recorder.append(30, 3, size=250)
    recorder.rig.settle()


# --- What a crash leaves -----------------------------------------------------------------


@pytest.mark.parametrize("rolls_over", [False, True])
def test_segments_before_a_reset_are_needed_by_nothing(
    rig: SegmentedRig,
    tmp_path: Path,
    undeleted: None,
    opened: Callable[[Path], SegmentedLog],
    rolls_over: bool,
) -> None:
    """All, some or none of them are deleted before the crash; the next opening finishes it."""
    recorder = Recorder(rig)
    _history(recorder, rolls_over=rolls_over)
    paths = segment_paths(rig.directory)
    holder = next(k for k, path in enumerate(paths) if RESET in _kinds(path))
    assert holder >= 2
    assert _kinds(paths[holder])[0] == _kinds(paths[holder])[-1] == ENTRY, "not at an end of it"
    assert (holder < len(paths) - 1) == rolls_over
    for deleted in range(holder + 1):
        victim = tmp_path / f"{deleted}"
        shutil.copytree(rig.directory, victim)
        for path in segment_paths(victim)[:deleted]:
            path.unlink()
        found = opened(victim)
        assert state_of(found) == recorder.states[-1]
        assert [path.name for path in segment_paths(victim)] == [p.name for p in paths[holder:]]
        new = [entry(found.last_index + k, 7, size=700) for k in range(1, 9)]
        found.append(new)
        found.close()
        assert _recover(victim, opened).entries == recorder.states[-1].entries + new


def test_what_several_resets_left_is_deleted_oldest_first(
    rig: SegmentedRig,
    undeleted: None,
    opened: Callable[[Path], SegmentedLog],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorder = Recorder(rig)
    for base in (50, 100):
        recorder.append(20, 1, size=400)
        recorder.reset(base, 1)
    recorder.append(20, 2, size=400)
    rig.settle()
    paths = segment_paths(rig.directory)
    holders = [k for k, path in enumerate(paths) if RESET in _kinds(path)]
    assert 2 <= holders[0] < holders[1] - 1
    assert holders[1] < len(paths) - 1
    removed: list[Path] = []
    monkeypatch.setattr(log_files, "remove", removed.append)
    found = opened(rig.directory)
    assert removed == paths[: holders[1]]
    assert state_of(found) == recorder.states[-1]


def test_a_cut_at_every_byte_around_a_reset(
    rig: SegmentedRig,
    tmp_path: Path,
    undeleted: None,
    opened: Callable[[Path], SegmentedLog],
    no_fsync: None,
) -> None:
    """The log before the reset with all its entries, or the one after it: nothing between."""
    recorder = Recorder(rig)
    _history(recorder, rolls_over=False)
    newest = segment_paths(rig.directory)[-1]
    records = [span for span in spans(newest) if span.kind != SYNC]
    reset = next(span for span in records if span.kind == RESET)
    resets = next(k for k, state in enumerate(recorder.states) if state.first > 1)
    seen = set()
    for cut in range(reset.start, records[-1].end + 1):
        victim = tmp_path / "cut"
        shutil.copytree(rig.directory, victim)
        with (victim / newest.name).open("rb+") as file:
            file.truncate(cut)
        whole = sum(reset.start < span.end <= cut for span in records)
        assert _recover(victim, opened) == recorder.states[resets - 1 + whole], f"cut at {cut}"
        assert len(segment_paths(victim)) == (1 if whole else len(segment_paths(rig.directory)))
        seen.add(whole)
        shutil.rmtree(victim)
    assert len(seen) == len(recorder.states) - resets + 1, "every record was cut once"


@pytest.mark.parametrize("deleted", [False, True])
@pytest.mark.parametrize("rolls_over", [False, True])
def test_a_flipped_bit_in_a_reset_is_reported_with_file_and_offset(
    rig: SegmentedRig,
    undeleted: None,
    opened: Callable[[Path], SegmentedLog],
    no_fsync: None,
    rolls_over: bool,
    deleted: bool,
) -> None:
    recorder = Recorder(rig)
    _history(recorder, rolls_over=rolls_over)
    _wait_for_mark(rig)
    paths = segment_paths(rig.directory)
    path = next(path for path in paths if RESET in _kinds(path))
    if deleted:
        for dead in paths[: paths.index(path)]:
            dead.unlink()
    before = [path.name for path in segment_paths(rig.directory)]
    reset = next(span for span in spans(path) if span.kind == RESET)
    for at in range(reset.start, reset.end):
        _flip(path, at)
        with pytest.raises(CorruptLog) as caught:
            opened(rig.directory)
        assert (caught.value.path, caught.value.offset) == (str(path), reset.start)
        assert [path.name for path in segment_paths(rig.directory)] == before
        _flip(path, at)
    assert _recover(rig.directory, opened) == recorder.states[-1]


def test_a_torn_reset_deletes_nothing(
    rig: SegmentedRig, tmp_path: Path, opened: Callable[[Path], SegmentedLog]
) -> None:
    """Its fsync never returned, and a bit of it is wrong: the log before it is all there is."""
    recorder = Recorder(rig)
    recorder.append(30, 1, size=250)
    rig.settle()
    _wait_for_mark(rig)
    copy = tmp_path / "copy"
    with pytest.MonkeyPatch.context() as patch:

        def crash_before_the_fsync(fd: int) -> None:
            shutil.copytree(rig.directory, copy)
            patch.undo()

        patch.setattr(log_files, "sync_file", crash_before_the_fsync)
        recorder.reset(90, 5)
        recorder.append(2, 5)
        rig.settle()
    newest = segment_paths(copy)[-1]
    reset = next(span for span in spans(newest) if span.kind == RESET)
    _flip(newest, reset.start + 30)
    names = [path.name for path in segment_paths(copy)]
    found = opened(copy)
    assert state_of(found) == recorder.states[30]
    assert found.report.cut_offset == reset.start
    assert [path.name for path in segment_paths(copy)] == names


def test_recovery_deletes_only_after_the_reset_is_durable(
    rig: SegmentedRig,
    undeleted: None,
    opened: Callable[[Path], SegmentedLog],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorder = Recorder(rig)
    _history(recorder, rolls_over=False)
    paths = segment_paths(rig.directory)
    with paths[-1].open("rb+") as file:  # no mark: nothing proves the newest records
        file.truncate(next(s.end for s in reversed(spans(paths[-1])) if s.kind != SYNC))
    calls: list[object] = []
    monkeypatch.setattr(log_files, "sync_file", lambda fd: calls.append("sync"))
    monkeypatch.setattr(log_files, "sync_directory", lambda path: calls.append("directory"))
    monkeypatch.setattr(log_files, "remove", calls.append)
    opened(rig.directory)
    removals = [call for path in paths[:-1] for call in (path, "directory")]
    assert calls == ["directory", "sync", *removals]


# --- What the running log deletes, and when ----------------------------------------------


def test_segments_are_deleted_once_the_reset_is_durable(
    rig: SegmentedRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(rig)
    recorder.append(40, 1, size=250)
    rig.settle()
    paths = segment_paths(rig.directory)
    assert len(paths) >= 3
    fsync, arrived = threading.Event(), threading.Event()
    calls: list[object] = []
    remove, sync_file, sync_directory = (
        log_files.remove,
        log_files.sync_file,
        log_files.sync_directory,
    )

    def sync(fd: int) -> None:
        arrived.set()
        assert fsync.wait(20)
        calls.append("sync")
        sync_file(fd)

    monkeypatch.setattr(log_files, "sync_file", sync)
    monkeypatch.setattr(log_files, "remove", lambda path: (calls.append(path), remove(path)))
    monkeypatch.setattr(
        log_files, "sync_directory", lambda path: (calls.append("dir"), sync_directory(path))
    )
    recorder.reset(100, 2)
    rig.log.flush()
    assert arrived.wait(20)
    assert segment_paths(rig.directory) == paths
    fsync.set()
    rig.settle()
    rig.writer.drain()
    assert calls == ["sync", *(call for path in paths[:-1] for call in (path, "dir"))]
    assert segment_paths(rig.directory) == paths[-1:]
    assert state_of(rig.log) == recorder.states[-1]


def test_a_late_fsync_of_entries_before_a_reset_does_not_count(
    rig: SegmentedRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old entries 2..5 are in flight while the log is reset to 3 and 4..5 are replaced."""
    tickets, arrived = threading.Semaphore(0), threading.Semaphore(0)
    sync_file = log_files.sync_file

    def sync(fd: int) -> None:
        arrived.release()
        assert tickets.acquire(timeout=20)
        sync_file(fd)

    monkeypatch.setattr(log_files, "sync_file", sync)
    seen: list[tuple[int, int]] = []
    rig.log.on_durable = lambda: seen.append((rig.log.durable_position, rig.log.durable_index))
    rig.log.append([entry(i, 1) for i in range(1, 6)])
    rig.log.flush()
    assert arrived.acquire(timeout=20)
    rig.log.reset(3, 2)
    rig.log.append([entry(4, 2)])
    rig.log.flush()
    rig.log.append([entry(5, 2)])
    tickets.release()
    rig.loop.run_until(lambda: rig.log.durable_position == 5)
    assert rig.log.durable_index == 3
    assert rig.log.read(4, 9, 1000) == [entry(4, 2), entry(5, 2)]
    tickets.release()
    rig.loop.run_until(lambda: rig.log.durable_position == 7)
    assert rig.log.durable_index == 4, "entry 5 is only buffered"
    tickets.release(100)
    rig.settle()
    assert seen == [(5, 3), (7, 4), (8, 5)]
    assert state_of(rig.log) == Model(4, [entry(4, 2), entry(5, 2)], 0, None, 2)


def test_a_reset_that_is_delivered_after_the_writer_stopped_waits_for_the_next_opening(
    tmp_path: Path, opened: Callable[[Path], SegmentedLog]
) -> None:
    rig = SegmentedRig(tmp_path / "log", OPTIONS)
    recorder = Recorder(rig)
    recorder.append(40, 1, size=250)
    recorder.reset(100, 2)
    rig.log.flush()
    rig.writer.stop()
    assert rig.log.durable_position == rig.log.position
    assert len(segment_paths(rig.directory)) > 1
    rig.log.close()
    assert _recover(rig.directory, opened) == recorder.states[-1]
    assert len(segment_paths(rig.directory)) == 1


def test_a_reset_empties_the_cache(tmp_path: Path) -> None:
    rig = SegmentedRig(tmp_path / "log", LogOptions())
    rig.log.append([entry(1, size=1000), entry(2, size=1000)])
    rig.settle()
    rig.log.append([entry(3)])
    assert rig.log.cached_bytes > 2000
    rig.log.reset(2, 1)
    assert rig.log.cached_bytes == 0
    rig.settle()
    rig.reopen()
    assert rig.log.cached_bytes == 0
    rig.end()


def test_close_waits_for_the_deletion(rig: SegmentedRig) -> None:
    rig.log.append([entry(i, size=1500) for i in range(1, 9)])
    rig.log.reset(20, 1)
    rig.log.close()
    assert len(segment_paths(rig.directory)) == 1


def test_a_deletion_that_fails_stops_the_writer(
    rig: SegmentedRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path) -> None:
        raise OSError(5, "I/O error")

    rig.log.append([entry(i, size=1500) for i in range(1, 9)])
    monkeypatch.setattr(log_files, "remove", refused)
    rig.log.reset(20, 1)
    rig.settle()
    rig.loop.run_until(lambda: bool(rig.failures))
    assert isinstance(rig.failures[0], StorageFailed)


# --- What verifies but cannot follow -----------------------------------------------------


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ([(RESET, 0, 1)], "reset to 0"),
        ([(RESET, 9, 1), (RESET, 8, 1)], "reset to 8; the base is 9"),
        ([(ENTRY, 1, 1), (RESET, 9, 1), (TRUNCATE, 9, 0)], "truncation at 9"),
        ([(RESET, 9, 1), (TRUNCATE, 10, 0)], "truncation at 10 follows entry 9"),
        ([(RESET, 9, 1), (ENTRY, 9, 1)], "entry 9 follows entry 9"),
        ([(RESET, 9, 1), (ENTRY, 11, 1)], "entry 11 follows entry 9"),
    ],
)
def test_what_cannot_follow_a_reset_is_corruption(
    tmp_path: Path,
    opened: Callable[[Path], SegmentedLog],
    records: list[tuple[int, int, int]],
    reason: str,
) -> None:
    header = encode_segment_header(SegmentHeader(7, 1, 1, 0, 0, None, 0))
    data = header
    for kind, index, term in records:
        last = len(data)
        data += encode_record_header(segment_seed(header), last, 0, kind, index, term, b"")
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / segment_name(1, 1)).write_bytes(data)
    with pytest.raises(CorruptLog, match=reason) as caught:
        opened(tmp_path / "log")
    assert caught.value.offset == last


def test_a_truncation_below_what_deletion_left_is_replayed(
    tmp_path: Path, opened: Callable[[Path], SegmentedLog]
) -> None:
    """It reached into segments that a later reset, in the same segment, made unnecessary."""
    header = encode_segment_header(SegmentHeader(7, 3, 50, 4000, 6, "a", 0))
    data = header
    for kind, index in [(TRUNCATE, 40), (ENTRY, 40), (RESET, 39), (ENTRY, 40)]:
        data += encode_record_header(segment_seed(header), len(data), 0, kind, index, 6, b"")
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / segment_name(3, 50)).write_bytes(data)
    assert len(data) > SEGMENT_HEADER_BYTES
    state = _recover(tmp_path / "log", opened)
    assert (state.first, state.last, state.base_term) == (40, 40, 6)
    assert (state.term, state.vote) == (6, "a")
