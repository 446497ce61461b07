"""Both logs against a list: any mutations, in any order, with closes, kills and reopenings."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cluster.interfaces import LogEntry
from cluster.log_format import LogOptions
from tests.log_harness import MemoryRig, Model, Rig, SegmentedRig, state_of

BODIES = st.one_of(
    st.binary(max_size=40),
    st.builds(lambda size, byte: bytes([byte]) * size, st.integers(0, 3000), st.integers(0, 255)),
)
OPTIONS = LogOptions(segment_bytes=4096, cache_bytes=1500, preallocate_bytes=700)


class LogMachine(RuleBasedStateMachine):
    """`model` is what the log shows; `flushed` what a killed process would find again."""

    rig: Rig

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.flushed = Model()
        self.durable_position = 0

    @rule(bodies=st.lists(BODIES, min_size=1, max_size=4), term_step=st.integers(0, 2))
    def append(self, bodies: list[bytes], term_step: int) -> None:
        term = self.rig.log.last_term + term_step
        entries = [LogEntry(self.model.last + 1 + k, term, b) for k, b in enumerate(bodies)]
        self.rig.log.append(entries)
        self.model.append(entries)

    @precondition(lambda self: self.model.entries)
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(self.model.first, self.model.last + 1))
        self.rig.log.truncate_from(index)
        self.model.truncate_from(index)
        assert self.rig.log.durable_index < index or index > self.model.last

    @rule(distance=st.integers(-1, 60), term_step=st.integers(0, 2))
    def reset(self, distance: int, term_step: int) -> None:
        index, term = max(1, self.model.first + distance), self.model.last_term + term_step
        self.rig.log.reset(index, term)
        self.model.reset(index, term)
        assert self.rig.log.durable_index == index

    @rule(step=st.integers(1, 3), vote=st.sampled_from([None, "a", "node-å"]))
    def hard_state(self, step: int, vote: str | None) -> None:
        self.model.term += step
        self.model.vote = vote
        self.rig.log.set_hard_state(self.model.term, vote)

    @rule()
    def flush(self) -> None:
        self.rig.log.flush()
        self.flushed = self.model.copy()

    @rule()
    def settle(self) -> None:
        self.rig.settle()
        self.flushed = self.model.copy()
        assert self.rig.log.durable_index == self.model.last
        assert self.rig.log.durable_position == self.rig.log.position

    @rule(data=st.data())
    def drop_prefix(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(self.model.first, self.model.last + 1))
        durable_index = self.rig.log.durable_index
        self.rig.log.drop_prefix(index)
        first = self.rig.log.first_index
        assert self.model.first <= first <= max(self.model.first, min(index, durable_index))
        if first > self.model.first:
            self.model.drop_below(first)
            self.flushed.drop_below(first)

    @rule()
    def reopen(self) -> None:
        self.rig.reopen()
        self.durable_position = 0
        self.model = self.model.found()
        self.flushed = self.model.copy()
        assert self.rig.log.durable_index == self.model.last

    @rule()
    def kill(self) -> None:
        self.rig.kill()
        self.durable_position = 0
        self.flushed = self.flushed.found()
        self.model = self.flushed.copy()
        assert self.rig.log.durable_index == self.model.last

    @invariant()
    def shows_the_model(self) -> None:
        assert state_of(self.rig.log) == self.model

    @invariant()
    def durability_is_bounded(self) -> None:
        log = self.rig.log
        assert self.durable_position <= log.durable_position <= log.position
        assert log.durable_index <= log.last_index
        self.durable_position = log.durable_position

    def teardown(self) -> None:
        self.rig.end()


class SegmentedMachine(LogMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.disk = SegmentedRig(self.folder / "log", OPTIONS)
        self.rig = self.disk

    @rule()
    def hear_from_the_writer(self) -> None:
        """Let whatever has finished by now count, at any point between mutations."""
        self.disk.loop.run_waiting()

    @invariant()
    def memory_is_bounded(self) -> None:
        log = self.disk.log
        largest = 3000 + 128 + 100 * 128  # the newest entry, and overhead of entries in flight
        assert log.cached_bytes <= OPTIONS.cache_bytes + 4 * log.backlog_bytes + largest

    def teardown(self) -> None:
        super().teardown()
        assert not self.disk.failures
        shutil.rmtree(self.folder)


class MemoryMachine(LogMachine):
    def __init__(self) -> None:
        super().__init__()
        self.memory = MemoryRig()
        self.rig = self.memory

    @rule(count=st.integers(1, 5))
    def sync_some(self, count: int) -> None:
        self.memory.log.sync(count)


@pytest.mark.parametrize("machine", [SegmentedMachine, MemoryMachine])
def test_the_log_is_a_list(machine: type[LogMachine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
