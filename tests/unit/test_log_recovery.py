"""Recovery: a torn tail is cut, never more; damage to what was durable is reported.

Source of the rules: DESIGN-log.md. The exhaustive tests damage a log of about a hundred
records, with entries, truncations and hard states, in several segments.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cluster import log_files
from cluster.errors import CorruptLog, StorageFailed
from cluster.interfaces import LogEntry
from cluster.log import SegmentedLog
from cluster.log_format import (
    ENTRY,
    SEGMENT_HEADER_BYTES,
    SYNC,
    LogOptions,
    SegmentHeader,
    encode_record_header,
    encode_segment_header,
    segment_name,
    segment_seed,
)
from cluster.log_segment import SegmentAppender
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


@dataclass(frozen=True)
class Sample:
    """A log directory as a crash left it, and every state it went through."""

    directory: Path
    states: list[Model]  # after 0, 1, 2, … mutations
    durable: int  # mutations that were durable

    @property
    def newest(self) -> Path:
        return segment_paths(self.directory)[-1]


def _history(recorder: Recorder) -> None:
    """Several segments; the last truncation reaches back into an earlier one."""
    recorder.hard_state(1, "a")
    recorder.append(30, 1, size=40)
    recorder.rig.settle()
    recorder.append(40, 1, size=60)
    recorder.truncate(50)
    recorder.hard_state(2, None)
    recorder.append(30, 2)
    recorder.rig.settle()
    recorder.hard_state(3, "b")
    recorder.append(20, 3, size=90)
    recorder.truncate(75)
    recorder.hard_state(4, "c")
    recorder.append(12, 4)
    recorder.rig.settle()


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[Sample]:
    """Everything fsynced, and the sync mark written."""
    rig = SegmentedRig(tmp_path / "log", OPTIONS)
    recorder = Recorder(rig)
    _history(recorder)
    newest = segment_paths(rig.directory)[-1]
    wait_for(lambda: spans(newest)[-1].kind == SYNC)
    yield Sample(rig.directory, recorder.states, len(recorder.states) - 1)
    rig.end()


@pytest.fixture
def torn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sample]:
    """As `idle`, then a last batch that is written and whose fsync never returns."""
    rig = SegmentedRig(tmp_path / "live", OPTIONS)
    recorder = Recorder(rig)
    _history(recorder)
    durable = len(recorder.states) - 1
    newest = segment_paths(rig.directory)[-1]
    wait_for(lambda: spans(newest)[-1].kind == SYNC)
    copy = tmp_path / "log"

    def crash_before_the_fsync(fd: int) -> None:
        shutil.copytree(rig.directory, copy)
        monkeypatch.undo()
        log_files.sync_file(fd)

    recorder.truncate(80)
    recorder.hard_state(5, None)
    recorder.append(6, 5, size=50)
    recorder.truncate(82)
    recorder.append(2, 6, size=20)
    monkeypatch.setattr(log_files, "sync_file", crash_before_the_fsync)
    rig.settle()
    assert segment_paths(copy)[-1].name == newest.name, "the batch must not begin a segment"
    yield Sample(copy, recorder.states, durable)
    rig.end()


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[Path], SegmentedLog]]:
    """Opens logs with a writer of its own; everything is closed at the end."""
    writer = LogWriter(LoopQueue().call_soon_threadsafe, unexpected)
    writer.start()
    logs: list[SegmentedLog] = []

    def open_log(directory: Path) -> SegmentedLog:
        logs.append(SegmentedLog.open(directory, 7, writer, OPTIONS))
        return logs[-1]

    yield open_log
    for log in logs:
        log.close()
    writer.stop()


def _recover(directory: Path, opened: Callable[[Path], SegmentedLog]) -> Model:
    log = opened(directory)
    state = state_of(log)
    log.close()
    return state


def _patch(path: Path, at: int, replacement: bytes) -> None:
    """Change bytes in place (rewriting the whole file would make ext4 flush it each time)."""
    with path.open("rb+", buffering=0) as file:
        file.seek(at)
        file.write(replacement)


@pytest.fixture
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """For thousands of openings that are about what is read, not about durability."""
    monkeypatch.setattr(log_files, "sync_file", lambda fd: None)
    monkeypatch.setattr(log_files, "sync_directory", lambda path: None)


def _content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


# --- The promise: every cut, every flipped bit -------------------------------------------


def test_a_cut_at_every_byte_of_the_tail(
    torn: Sample, tmp_path: Path, opened: Callable[[Path], SegmentedLog], no_fsync: None
) -> None:
    """Prefix of what was written, never less than what was fsynced; twice the same."""
    data = torn.newest.read_bytes()
    records = spans(torn.newest)
    durable_bytes = max(span.synced for span in records)
    assert len(segment_paths(torn.directory)) >= 3
    assert sum(len(spans(path)) for path in segment_paths(torn.directory)) > 100
    seen = set()
    for cut in range(durable_bytes, len(data) + 1):
        victim = tmp_path / "cut"
        shutil.copytree(torn.directory, victim)
        with (victim / torn.newest.name).open("rb+") as file:
            file.truncate(cut)
        state = _recover(victim, opened)
        kept = [k for k in range(torn.durable, len(torn.states)) if torn.states[k] == state]
        assert kept, f"cut at {cut}: not a state after the durable one"
        whole = sum(span.end <= cut and span.kind not in (0, SYNC) for span in records)
        seen.add(whole)
        assert _recover(victim, opened) == state, f"cut at {cut}: the second opening differs"
        shutil.rmtree(victim)
    assert state == torn.states[-1]
    assert len(seen) == len(torn.states) - torn.durable, "every record of the tail was cut once"


def test_a_cut_below_what_was_fsynced_still_leaves_a_prefix(
    idle: Sample, tmp_path: Path, opened: Callable[[Path], SegmentedLog], no_fsync: None
) -> None:
    """A disk that lies about fsync leaves no proof; what is left must still be consistent."""
    for cut in range(0, idle.newest.stat().st_size, 7):
        victim = tmp_path / "cut"
        shutil.copytree(idle.directory, victim)
        with (victim / idle.newest.name).open("rb+") as file:
            file.truncate(cut)
        assert _recover(victim, opened) in idle.states
        shutil.rmtree(victim)


def test_a_flipped_bit_in_every_byte_is_reported_with_file_and_offset(
    idle: Sample, opened: Callable[[Path], SegmentedLog], no_fsync: None
) -> None:
    newest = idle.newest
    proven = max(span.synced for span in spans(newest))
    intact = 0
    for path in segment_paths(idle.directory):
        data = path.read_bytes()
        for span in spans(path):
            for at in range(span.start, span.end):
                flipped = bytes([data[at] ^ 1 << at % 8])
                _patch(path, at, flipped)
                if path == newest and span.start >= proven:
                    # The mark itself: without it nothing is lost.
                    assert span.kind == SYNC
                    assert _recover(idle.directory, opened) == idle.states[-1]
                    intact += 1
                    path.write_bytes(data)  # it was cut there, and goes on with a new mark
                else:
                    with pytest.raises(CorruptLog) as caught:
                        opened(idle.directory)
                    assert (caught.value.path, caught.value.offset) == (str(path), span.start)
                    assert path.read_bytes() == data[:at] + flipped + data[at + 1 :]
                    _patch(path, at, data[at : at + 1])
    assert intact == 41


def test_a_flipped_bit_in_the_unproven_tail_loses_nothing_durable(
    torn: Sample, tmp_path: Path, opened: Callable[[Path], SegmentedLog], no_fsync: None
) -> None:
    data = torn.newest.read_bytes()
    durable_bytes = max(span.synced for span in spans(torn.newest))
    end = spans(torn.newest)[-1].end
    for at in range(durable_bytes, end):
        victim = tmp_path / "flip"
        shutil.copytree(torn.directory, victim)
        _patch(victim / torn.newest.name, at, bytes([data[at] ^ 1 << at % 8]))
        state = _recover(victim, opened)
        assert state in torn.states[torn.durable :], f"flip at {at}"
        shutil.rmtree(victim)


def test_a_hole_in_the_unproven_tail_is_cut_there(
    torn: Sample, opened: Callable[[Path], SegmentedLog]
) -> None:
    """Power loss may keep a later sector and lose an earlier one."""
    records = spans(torn.newest)
    hole = records[-3]
    data = bytearray(torn.newest.read_bytes())
    data[hole.start : hole.end] = bytes(hole.end - hole.start)
    torn.newest.write_bytes(data)
    log = opened(torn.directory)
    assert state_of(log) == torn.states[-4]
    assert log.report.cut_path == str(torn.newest)
    assert log.report.cut_offset == hole.start
    assert log.report.cut_bytes == records[-1].end - hole.start


def test_records_beyond_a_cut_never_come_back(
    torn: Sample,
    opened: Callable[[Path], SegmentedLog],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A record survives behind a hole, and the next writes end exactly where it begins."""
    entries = [span for span in spans(torn.newest) if span.end - span.start == 41 + 50]
    hole, survivor = entries[-2:]
    assert hole.end == survivor.start
    _patch(torn.newest, hole.start, bytes(hole.end - hole.start))
    monkeypatch.setattr(f"{__name__}.OPTIONS", replace(OPTIONS, preallocate_bytes=0))
    log = opened(torn.directory)
    expected = state_of(log)
    assert log.report.cut_offset == hole.start
    monkeypatch.setattr(SegmentAppender, "mark", lambda self: None)  # the next crash is sooner
    new = entry(log.last_index + 1, 9, size=hole.end - hole.start - 2 * 41)
    log.append([new])
    log.close()
    end = next(span.end for span in reversed(spans(torn.newest)) if span.kind == ENTRY)
    assert end == survivor.start
    expected.append([new])
    assert _recover(torn.directory, opened) == expected


# --- What else a crash can leave ---------------------------------------------------------


def _new_segment(sample: Sample, **changed: object) -> bytes:
    """The header that a segment after the sample's newest one would have."""
    last = sample.states[-1]
    sequence = len(segment_paths(sample.directory)) + 1
    end = sample.newest.stat().st_size
    header = SegmentHeader(7, sequence, last.last + 1, end, last.term, last.vote, 0)
    return encode_segment_header(header._replace(**changed))  # type: ignore[arg-type]


def _cut_padding(path: Path) -> None:
    with path.open("rb+") as file:
        file.truncate(spans(path)[-1].end)


def test_an_interrupted_creation_at_every_byte(
    idle: Sample, tmp_path: Path, opened: Callable[[Path], SegmentedLog]
) -> None:
    _cut_padding(idle.newest)
    header = _new_segment(idle)
    name = segment_name(len(segment_paths(idle.directory)) + 1, idle.states[-1].last + 1)
    for size in [0, 1, 8, 43, 100, 507, 511, 512]:
        for kept in (header[:size], bytes(size), header[: size // 2].ljust(size, b"\0")):
            victim = tmp_path / "interrupted"
            shutil.copytree(idle.directory, victim)
            (victim / name).write_bytes(kept)
            log = opened(victim)
            assert state_of(log) == idle.states[-1]
            assert (victim / name).exists() == (kept == header)
            log.append([entry(log.last_index + 1, 9, size=3000), entry(log.last_index + 2, 9)])
            log.close()
            assert _recover(victim, opened).last == idle.states[-1].last + 2
            shutil.rmtree(victim)


def test_an_interrupted_creation_of_the_first_segment(
    tmp_path: Path, opened: Callable[[Path], SegmentedLog]
) -> None:
    for size in (0, 100, 512):
        directory = tmp_path / str(size)
        directory.mkdir()
        (directory / segment_name(1, 1)).write_bytes(bytes(size))
        assert _recover(directory, opened) == Model()


def test_a_damaged_segment_before_an_interrupted_creation_is_corruption(
    idle: Sample, opened: Callable[[Path], SegmentedLog]
) -> None:
    """The next segment's directory entry proves that this one was durable to its end."""
    _cut_padding(idle.newest)
    last = spans(idle.newest)[-1]
    with idle.newest.open("rb+") as file:
        file.truncate(last.end - 1)
    sequence = len(segment_paths(idle.directory)) + 1
    (idle.directory / segment_name(sequence, idle.states[-1].last + 1)).write_bytes(b"")
    with pytest.raises(CorruptLog) as caught:
        opened(idle.directory)
    assert caught.value.offset == last.start


@pytest.mark.parametrize(
    "changed",
    [
        {"group": 8},
        {"first_index": 9},
        {"previous_bytes": 700},
        {"term": 99},
        {"vote": "zz"},
        {"sequence": 99},
    ],
)
def test_a_segment_that_does_not_continue_the_log_is_refused(
    idle: Sample, opened: Callable[[Path], SegmentedLog], changed: dict[str, object]
) -> None:
    _cut_padding(idle.newest)
    sequence = len(segment_paths(idle.directory)) + 1
    path = idle.directory / segment_name(sequence, idle.states[-1].last + 1)
    path.write_bytes(_new_segment(idle, **changed))
    with pytest.raises(CorruptLog) as caught:
        opened(idle.directory)
    assert (caught.value.path, caught.value.offset) == (str(path), 0)


def test_a_newer_format_is_refused_without_calling_it_corrupt(
    idle: Sample, opened: Callable[[Path], SegmentedLog]
) -> None:
    _cut_padding(idle.newest)
    sequence = len(segment_paths(idle.directory)) + 1
    path = idle.directory / segment_name(sequence, idle.states[-1].last + 1)
    path.write_bytes(_new_segment(idle, version=2))
    with pytest.raises(StorageFailed, match="format 2"):
        opened(idle.directory)


def test_a_missing_segment_is_corruption(
    idle: Sample, opened: Callable[[Path], SegmentedLog]
) -> None:
    paths = segment_paths(idle.directory)
    paths[1].unlink()
    with pytest.raises(CorruptLog, match="expected segment 2") as caught:
        opened(idle.directory)
    assert caught.value.path == str(paths[2])


def test_a_shortened_earlier_segment_is_corruption_even_at_a_record(
    idle: Sample, opened: Callable[[Path], SegmentedLog]
) -> None:
    first, second = segment_paths(idle.directory)[:2]
    with first.open("rb+") as file:
        file.truncate(spans(first)[-2].end)
    with pytest.raises(CorruptLog) as caught:
        opened(idle.directory)
    assert caught.value.path == str(second)


def test_files_that_are_not_ours(idle: Sample, opened: Callable[[Path], SegmentedLog]) -> None:
    (idle.directory / "notes.txt").write_text("left alone")
    (idle.directory / "lost+found").mkdir()
    assert _recover(idle.directory, opened) == idle.states[-1]
    for name in ("1.seg", "copy of 0000000001.seg", "0000000009-1.seg"):
        stranger = idle.directory / name
        stranger.write_bytes(b"")
        with pytest.raises(CorruptLog, match="not a segment file") as caught:
            opened(idle.directory)
        assert caught.value.path == str(stranger)
        stranger.unlink()


def test_records_that_verify_but_cannot_follow_are_corruption(
    tmp_path: Path, opened: Callable[[Path], SegmentedLog]
) -> None:
    """For example a write that went to the wrong place with a right checksum."""
    header = encode_segment_header(SegmentHeader(7, 1, 1, 0, 0, None, 0))
    record = encode_record_header(
        segment_seed(header), SEGMENT_HEADER_BYTES, SEGMENT_HEADER_BYTES, ENTRY, 2, 1, b""
    )
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / segment_name(1, 1)).write_bytes(header + record)
    with pytest.raises(CorruptLog, match="entry 2 follows entry 0") as caught:
        opened(tmp_path / "log")
    assert caught.value.offset == SEGMENT_HEADER_BYTES


def test_an_unknown_record_kind_stops_the_node(
    tmp_path: Path, opened: Callable[[Path], SegmentedLog]
) -> None:
    header = encode_segment_header(SegmentHeader(7, 1, 1, 0, 0, None, 0))
    record = encode_record_header(segment_seed(header), SEGMENT_HEADER_BYTES, 0, 9, 0, 0, b"")
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / segment_name(1, 1)).write_bytes(header + record)
    with pytest.raises(StorageFailed, match="kind 9"):
        opened(tmp_path / "log")


def test_a_log_stored_as_a_value_does_not_pass_for_records(
    tmp_path: Path, opened: Callable[[Path], SegmentedLog]
) -> None:
    """Recovery searches torn tails for records; a tenant's bytes must not be found there.

    The body is a longer first segment of another cluster, whose header and so whose seed is
    the same. Its records claim large durable offsets. It lies where a header is torn.
    """
    options = replace(OPTIONS, segment_bytes=1 << 20)
    other = SegmentedRig(tmp_path / "other", options)
    for index in range(1, 40):
        other.log.append([entry(index, size=500)])
        other.settle()
    source = segment_paths(other.directory)[0]
    body = source.read_bytes()[: spans(source)[-1].end]
    other.end()
    rig = SegmentedRig(tmp_path / "log", options)
    rig.log.append([entry(1)])
    rig.settle()
    rig.log.append([LogEntry(2, 1, body)])
    rig.log.close()
    path = segment_paths(rig.directory)[0]
    victim = next(span for span in spans(path) if span.end - span.start > len(body))
    with path.open("rb+") as file:  # as if its fsync had not happened
        file.truncate(victim.end)
    _patch(path, victim.start, bytes(41))
    log = opened(rig.directory)
    assert state_of(log).entries == [entry(1)]
    assert log.report.cut_bytes > len(body)
    rig.end()


def test_first_indexes_repeat_when_a_truncation_spans_segments(
    tmp_path: Path, opened: Callable[[Path], SegmentedLog]
) -> None:
    """Why segments are named by a sequence number, not by first index alone."""
    rig = SegmentedRig(tmp_path / "log", OPTIONS)
    expected: list[LogEntry] = []
    for term in range(1, 5):
        rig.log.append([entry(i, term, size=1500) for i in range(len(expected) + 1, 8)])
        rig.settle()
        rig.log.truncate_from(2)
        expected = [entry(1, 1, size=1500)]
    rig.log.append([entry(2, 9, size=1500)])
    rig.settle()
    firsts = [int(path.stem.split("-")[1]) for path in segment_paths(rig.directory)]
    assert sorted(firsts) != firsts
    assert len(set(firsts)) < len(firsts)
    assert state_of(rig.log).entries == [*expected, entry(2, 9, size=1500)]
    assert _recover(rig.directory, opened).entries == [*expected, entry(2, 9, size=1500)]
    rig.end()


# --- What opening makes durable ----------------------------------------------------------


def test_recovered_entries_are_written_again_before_they_count_as_durable(
    torn: Sample, opened: Callable[[Path], SegmentedLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their fsync may have failed before: the pages then look clean, and must be dirtied."""
    proven = max(span.synced for span in spans(torn.newest))
    end = spans(torn.newest)[-1].end
    calls: list[tuple[str, int, int]] = []
    write_all, sync_file = log_files.write_all, log_files.sync_file

    def write(fd: int, buffers: list[bytes], offset: int) -> None:
        calls.append(("write", offset, sum(map(len, buffers))))
        write_all(fd, buffers, offset)

    def sync(fd: int) -> None:
        calls.append(("sync", 0, 0))
        sync_file(fd)

    monkeypatch.setattr(log_files, "write_all", write)
    monkeypatch.setattr(log_files, "sync_file", sync)
    log = opened(torn.directory)
    assert calls[:2] == [("write", proven, end - proven), ("sync", 0, 0)]
    assert log.durable_index == log.last_index == torn.states[-1].last
    assert log.report.reproved_bytes == end - proven


def test_opening_an_idle_log_again_and_again_does_not_grow_it(
    torn: Sample, opened: Callable[[Path], SegmentedLog]
) -> None:
    _recover(torn.directory, opened)
    content = _content(torn.directory)
    _recover(torn.directory, opened)
    _recover(torn.directory, opened)
    assert _content(torn.directory) == content


def test_damage_after_a_reopening_is_still_told_from_a_torn_tail(
    torn: Sample, opened: Callable[[Path], SegmentedLog]
) -> None:
    """What recovery made durable is proven by a mark, like any other fsync."""
    _recover(torn.directory, opened)
    last = next(span for span in reversed(spans(torn.newest)) if span.kind != SYNC)
    data = bytearray(torn.newest.read_bytes())
    data[last.end - 1] ^= 1
    torn.newest.write_bytes(data)
    with pytest.raises(CorruptLog) as caught:
        opened(torn.directory)
    assert caught.value.offset == last.start


def test_the_log_goes_on_after_recovery(
    torn: Sample, opened: Callable[[Path], SegmentedLog]
) -> None:
    expected = torn.states[-1].copy()
    for _ in range(4):
        log = opened(torn.directory)
        new = [entry(expected.last + k, 7, size=700) for k in range(1, 9)]
        expected.append(new)
        log.append(new)
        log.close()
        assert _recover(torn.directory, opened) == expected


def test_damage_that_appears_while_running_stops_the_read(tmp_path: Path) -> None:
    rig = SegmentedRig(tmp_path / "log", OPTIONS)
    rig.log.append([entry(i, size=100) for i in range(1, 10)])
    rig.settle()
    path = segment_paths(rig.directory)[0]
    damaged = spans(path)[5]
    with path.open("rb+") as file:
        file.seek(damaged.end - 1)
        file.write(b"!")
    assert rig.log.read(4, 5, 1) == [entry(4, size=100)]
    with pytest.raises(CorruptLog) as caught:
        rig.log.read(5, 6, 1)
    assert (caught.value.path, caught.value.offset) == (str(path), damaged.start)
    rig.end()


def test_segments_are_deleted_durably_one_by_one_oldest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Power loss between two deletions must not leave a gap."""
    rig = SegmentedRig(tmp_path / "log", OPTIONS)
    rig.log.append([entry(i, size=1500) for i in range(1, 12)])
    rig.settle()
    paths = segment_paths(rig.directory)
    calls: list[object] = []
    monkeypatch.setattr(log_files, "remove", calls.append)
    monkeypatch.setattr(log_files, "sync_directory", lambda path: calls.append("sync"))
    rig.log.drop_prefix(7)
    rig.writer.drain()
    assert calls == [paths[0], "sync", paths[1], "sync", paths[2], "sync"]
    assert rig.log.first_index == 7
    rig.end()
