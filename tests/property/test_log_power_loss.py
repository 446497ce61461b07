"""Power loss after every single call to the disk, with arbitrary loss of what was not fsynced.

Also during recovery, and during the recovery of that. What was reported durable is there,
what is there is a prefix of what was written, and no such image is called corrupt.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from cluster.interfaces import LogEntry
from cluster.log import SegmentedLog
from cluster.log_format import LogOptions
from cluster.log_writer import LogWriter
from tests.log_harness import LoopQueue, Model, SegmentedRig, entry, state_of, unexpected
from tests.property.recording_disk import Call, RecordingDisk, after_power_loss, write_image

OPTIONS = LogOptions(segment_bytes=4096, cache_bytes=0, preallocate_bytes=600)
SEEDS = range(4)


class History:
    """A random run: every state, and what was durable and possible at each call."""

    def __init__(self, rig: SegmentedRig, disk: RecordingDisk, rng: Random) -> None:
        self.rig = rig
        self.disk = disk
        self.rng = rng
        self.states = [Model()]
        self.durable: list[int] = []  # per call so far: states known to be durable before it
        self.flushed: list[int] = []  # per call so far: states that may be on disk

    def run(self, steps: int) -> None:
        for _ in range(steps):
            for _ in range(self.rng.randrange(1, 5)):
                self._mutate()
                if self.rng.random() < 0.3:
                    self.rig.log.flush()
            before = self.rig.log.durable_position
            self.rig.settle()
            self.rig.writer.drain()
            self._drop()
            self._stamp(before)

    def _stamp(self, durable: int) -> None:
        calls = len(self.disk.calls) - len(self.durable)
        self.durable += [durable] * calls
        self.flushed += [len(self.states) - 1] * calls

    def _mutate(self) -> None:
        new = self.states[-1].copy()
        choice = self.rng.random()
        if choice < 0.05 and new.entries:
            term = max(new.term, 1)
            index = self.rng.randrange(max(1, new.first - 1), new.last + 9)
            new.reset(index, term)
            self.rig.log.reset(index, term)
        elif choice < 0.7:
            term = max(new.term, 1)
            new.entries.append(entry(new.last + 1, term, self.rng.choice([1, 30, 600, 1500])))
            self.rig.log.append([new.entries[-1]])
        elif choice < 0.85 and new.entries:
            index = self.rng.randrange(max(new.first, new.last - 6), new.last + 1)
            new.truncate_from(index)
            self.rig.log.truncate_from(index)
        else:
            new.term += 1
            new.vote = self.rng.choice([None, "a", "b"])
            self.rig.log.set_hard_state(new.term, new.vote)
        self.states.append(new)

    def _drop(self) -> None:
        """Now and then delete old segments; their entries may or may not come back."""
        if self.rng.random() < 0.2 and self.rig.log.last_index > 3:
            self.rig.log.drop_prefix(self.rig.log.last_index - 3)
            self.rig.writer.drain()
            self.states[-1] = self.states[-1].copy()
            self.states[-1].drop_below(self.rig.log.first_index)


def _same(state: Model, expected: Model) -> bool:
    """Equal where both hold entries: deletion of a prefix is not a promise.

    A reset is one: no entry from before it comes back, and the term of its base is known.
    """
    if (state.last, state.term, state.vote) != (expected.last, expected.term, expected.vote):
        return False
    if expected.base_is_recorded and (state.first, state.base_term) != (
        expected.first,
        expected.base_term,
    ):
        return False
    first = max(state.first, expected.first)

    def tail(model: Model) -> list[LogEntry]:
        return model.entries[first - model.first :]

    return state.first <= expected.last + 1 and tail(state) == tail(expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_power_loss_after_every_call(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = Random(seed)
    disk = RecordingDisk(monkeypatch)
    rig = SegmentedRig(tmp_path / "log", OPTIONS)
    history = History(rig, disk, rng)
    history._stamp(0)
    history.run(60)
    rig.end()
    calls = list(disk.calls)
    assert any(call.kind == "remove" for call in calls)
    assert sum(state.base_is_recorded for state in history.states) > 20
    writer = LogWriter(LoopQueue().call_soon_threadsafe, unexpected)
    writer.start()
    for cut in range(1, len(history.durable) + 1):
        directory = tmp_path / f"{cut}"
        files = after_power_loss({}, calls[:cut], rng)
        for _ in range(rng.choice([0, 0, 1, 2])):  # power fails again while recovering
            files = _interrupted_recovery(directory, files, disk, writer, rng)
            directory = directory.with_name(directory.name + "+")
        write_image(directory, files)
        log = SegmentedLog.open(directory, 7, writer, OPTIONS)
        state = state_of(log)
        log.close()
        low, high = history.durable[cut - 1], history.flushed[cut - 1]
        assert any(_same(state, history.states[k]) for k in range(low, high + 1)), (
            f"seed {seed}, call {cut} ({calls[cut - 1][:3]}): not one of states {low}..{high}"
        )
    writer.stop()


def _interrupted_recovery(
    directory: Path,
    files: dict[str, bytes],
    disk: RecordingDisk,
    writer: LogWriter,
    rng: Random,
) -> dict[str, bytes]:
    write_image(directory, files)
    before = len(disk.calls)
    SegmentedLog.open(directory, 7, writer, OPTIONS).close()
    calls: list[Call] = disk.calls[before:]
    return after_power_loss(files, calls[: rng.randrange(len(calls) + 1)], rng)
