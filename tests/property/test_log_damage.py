"""Cuts and flipped bits of a log that was written while it was read, on real files.

(`tests/unit/test_log_recovery.py` tries every byte of a smaller log.)

A cut at any byte recovers to a prefix of what was written, never less than what was
fsynced before the cut; a flipped bit is reported with file and offset, or was harmless. It
never silently loses anything.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from cluster.errors import CorruptLog
from cluster.interfaces import LogEntry
from cluster.log import SegmentedLog
from cluster.log_format import LogOptions
from cluster.log_writer import LogWriter

VOTER = "00000000-0000-4000-8000-000000000001"
OPTIONS = LogOptions(segment_bytes=4096, cache_bytes=300, preallocate_bytes=256)


class State(NamedTuple):
    entries: tuple[tuple[int, int, bytes], ...]
    term: int
    vote: str | None


class Step(NamedTuple):
    """What was durable after a step, and where the used part of which segment then ended."""

    state: State
    segment: str
    used: int


def content(log: SegmentedLog) -> State:
    entries = log.read(log.first_index, log.last_index + 1, 1 << 30)
    return State(tuple(tuple(item) for item in entries), log.term, log.vote)


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.seg"))


def used_bytes(path: Path) -> int:
    return len(path.read_bytes().rstrip(b"\0"))


async def write(folder: Path) -> list[Step]:
    """Entries, votes, truncations and re-appended entries over several segments."""
    loop = asyncio.get_running_loop()
    failures: list[BaseException] = []
    writer = LogWriter(loop.call_soon_threadsafe, failures.append)
    writer.start()
    log = SegmentedLog.open(folder, 0, writer, OPTIONS)
    steps = []
    term = 1
    log.set_hard_state(term, VOTER)
    for number in range(100):
        if number % 11 == 7:
            term += 1
            log.set_hard_state(term, None)
            log.set_hard_state(term, VOTER)
        if number % 13 == 9:
            log.truncate_from(log.last_index - 1)
        index = log.last_index + 1
        body = b"\x01" + b"%03d" % number * (number % 5 * 8 + 1)
        batch = [LogEntry(index, term, body)]
        if number % 4 == 0:
            batch.append(LogEntry(index + 1, term, b"\x01second"))
        log.append(batch)
        log.flush()
        while log.durable_position < log.position:
            assert not failures
            await asyncio.sleep(0)
        await asyncio.sleep(0.002)  # the writer marks what is durable when nothing else waits
        last = segments(folder)[-1]
        steps.append(Step(content(log), last.name, used_bytes(last)))
    log.close()
    writer.stop()
    assert not failures
    return steps


def recover(folder: Path) -> State:
    """What a restart finds. Raises CorruptLog."""
    writer = LogWriter(lambda callback: None, lambda error: None)
    writer.start()
    try:
        log = SegmentedLog.open(folder, 0, writer, OPTIONS)
        try:
            return content(log)
        finally:
            log.close()
    finally:
        writer.stop()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("log")
    steps = asyncio.run(write(folder))
    assert len(segments(folder)) >= 3
    return folder, steps


def damaged(written, tmp_path: Path) -> tuple[Path, list[Step]]:
    folder, steps = written
    copy = tmp_path / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    return copy, steps


def test_every_cut_of_the_tail_recovers_to_a_durable_prefix(written, tmp_path):
    folder, steps = written
    last = segments(folder)[-1]
    in_last = [step for step in steps if step.segment == last.name]
    earlier = [step for step in steps if step.segment != last.name]
    assert len(in_last) >= 3
    assert recover(damaged(written, tmp_path)[0]) == steps[-1].state
    all_states = [step.state for step in steps]
    floor = len(earlier) - 1
    for length in range(0, used_bytes(last), 5):
        copy, _ = damaged(written, tmp_path)
        with segments(copy)[-1].open("r+b") as file:
            file.truncate(length)
        try:
            found = recover(copy)
        except CorruptLog as error:
            # Only what the remaining bytes prove to have been durable may be refused.
            pytest.fail(f"cut at {length}: {error}")
        durable = [i for i, step in enumerate(steps) if step in in_last and step.used <= length]
        least = max([floor, *durable])
        allowed = all_states[least:]
        assert found in allowed or _between(found, all_states, least), f"cut at {length}"


def _between(found: State, states: list[State], least: int) -> bool:
    """A cut inside one step's records leaves part of that step: still a prefix."""
    before = states[least]
    after = states[min(least + 1, len(states) - 1)]
    kept = len(found.entries)
    grown = found.entries == after.entries[:kept] and found.entries[: kept - 1] <= after.entries
    shrunk = found.entries == before.entries[:kept] and after.entries[:kept] == found.entries
    return (grown or shrunk) and before.term <= found.term <= after.term


@pytest.mark.parametrize("which", [0, 1, -1])
def test_every_flipped_bit_is_reported_or_harmless(written, tmp_path, which):
    folder, steps = written
    original = segments(folder)[which]
    data = original.read_bytes()
    for position in range(which % 7, used_bytes(original), 7):
        copy, _ = damaged(written, tmp_path)
        target = copy / original.name
        flipped = bytearray(data)
        flipped[position] ^= 1 << (position % 8)
        target.write_bytes(flipped)
        reported: CorruptLog | None = None
        try:
            found = recover(copy)
        except CorruptLog as error:
            reported = error
        if reported is None:
            assert found == steps[-1].state, f"byte {position} was lost silently"
            continue
        assert Path(reported.path).name == original.name, f"byte {position}: {reported}"
        assert 0 <= position - reported.offset < 600, f"byte {position}: {reported}"


def test_a_missing_segment_is_reported(written, tmp_path):
    copy, _ = damaged(written, tmp_path)
    segments(copy)[1].unlink()
    with pytest.raises(CorruptLog):
        recover(copy)
