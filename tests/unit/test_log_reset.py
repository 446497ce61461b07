"""`RaftLog.reset`, kept by the log on disk and by its in-memory twin.

A follower whose log is behind, or diverges from, a snapshot that it installed begins anew
behind that snapshot (Raft, section 7). `test_log_reset_recovery.py` has the disk's part.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.memory_log import MemoryLog
from tests.log_harness import MemoryRig, Model, Rig, SegmentedRig, entry, state_of


@pytest.fixture(params=["disk", "memory"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    rig: Rig = SegmentedRig(tmp_path / "log") if request.param == "disk" else MemoryRig()
    yield rig
    rig.end()


@pytest.mark.parametrize("index", [1, 3, 5, 6, 40])
def test_a_reset_leaves_nothing_but_its_base(rig: Rig, index: int) -> None:
    """Within the log, at its end, beyond it: what was held is gone either way."""
    rig.log.set_hard_state(4, "a")
    rig.log.append([entry(i, 2, size=1500) for i in range(1, 6)])
    rig.settle()
    rig.log.reset(index, 3)
    for _ in range(3):
        assert (rig.log.first_index, rig.log.last_index) == (index + 1, index)
        assert (rig.log.last_term, rig.log.durable_index) == (3, index)
        terms = [rig.log.term_at(i) for i in range(index + 4)]
        assert terms == [None] * index + [3, None, None, None]
        assert rig.log.read(1, 99, 1000) == rig.log.read(index, 99, 1000) == []
        assert rig.log.read(index + 1, 99, 1000) == []
        assert (rig.log.term, rig.log.vote) == (4, "a")
        rig.reopen()


def test_entries_go_on_behind_a_reset(rig: Rig) -> None:
    rig.log.append([entry(i, 1) for i in range(1, 6)])
    rig.log.reset(3, 2)
    for wrong in (3, 5, 6):
        with pytest.raises(ValueError, match="where 4 is due"):
            rig.log.append([entry(wrong, 2)])
    rig.log.append([entry(4, 2), entry(5, 3)])
    expected = Model(4, [entry(4, 2), entry(5, 3)], 0, None, 2)
    assert state_of(rig.log) == expected
    rig.reopen()
    assert state_of(rig.log) == expected
    rig.log.append([entry(6, 3, size=6000), entry(7, 3)])
    expected.append([entry(6, 3, size=6000), entry(7, 3)])
    rig.kill()
    assert state_of(rig.log).entries == expected.entries[:2]
    rig.reopen()
    assert state_of(rig.log).base_term == 2


def test_the_base_is_durable_at_once_and_what_follows_when_it_is_fsynced(rig: Rig) -> None:
    rig.log.append([entry(1), entry(2)])
    rig.settle()
    seen: list[tuple[int, int]] = []
    rig.log.on_durable = lambda: seen.append((rig.log.durable_position, rig.log.durable_index))
    rig.log.reset(9, 2)
    rig.log.append([entry(10, 2)])
    assert (rig.log.durable_position, rig.log.durable_index) == (2, 9)
    rig.log.flush()
    assert (rig.log.durable_position, rig.log.durable_index) == (2, 9)
    rig.settle()
    assert seen == [(4, 10)]


def test_a_reset_that_was_not_flushed_did_not_happen(rig: Rig) -> None:
    rig.log.append([entry(1), entry(2)])
    rig.settle()
    rig.log.reset(9, 2)
    rig.log.append([entry(10, 2)])
    rig.kill()
    assert state_of(rig.log) == Model(1, [entry(1), entry(2)], 0, None)
    assert rig.log.durable_index == 2


def test_truncation_behind_a_reset_reaches_down_to_its_base(rig: Rig) -> None:
    rig.log.append([entry(i, 1) for i in range(1, 9)])
    rig.log.reset(5, 4)
    rig.log.append([entry(6, 4), entry(7, 5)])
    rig.settle()
    with pytest.raises(ValueError, match="begins at 6"):
        rig.log.truncate_from(5)
    rig.log.truncate_from(6)
    assert (rig.log.durable_index, rig.log.last_term) == (5, 4)
    rig.reopen()
    assert state_of(rig.log) == Model(6, [], 0, None, 4)
    rig.log.append([entry(6, 9)])
    rig.reopen()
    assert state_of(rig.log) == Model(6, [entry(6, 9)], 0, None, 4)


@pytest.mark.parametrize(("index", "term"), [(0, 0), (-1, 1), (3, 1), (9, -1)])
def test_a_reset_below_the_base_is_refused_whole(rig: Rig, index: int, term: int) -> None:
    rig.log.reset(4, 1)
    rig.log.append([entry(5, 2)])
    rig.settle()
    with pytest.raises(ValueError, match="cannot reset to"):
        rig.log.reset(index, term)
    assert state_of(rig.log) == Model(5, [entry(5, 2)], 0, None, 1)
    assert (rig.log.position, rig.log.durable_index) == (2, 5)


def test_a_new_log_is_not_reset_to_nothing(rig: Rig) -> None:
    with pytest.raises(ValueError, match="cannot reset to 0"):
        rig.log.reset(0, 0)
    assert rig.log.position == 0


def test_resets_follow_each_other(rig: Rig) -> None:
    rig.log.append([entry(1)])
    rig.log.reset(7, 2)
    rig.log.append([entry(8, 2)])
    rig.log.flush()
    rig.log.reset(7, 3)  # the lowest that is allowed: its own base
    rig.log.append([entry(8, 4), entry(9, 4)])
    rig.log.truncate_from(9)
    rig.log.reset(20, 5)
    rig.log.append([entry(21, 6)])
    assert (rig.log.durable_position, rig.log.durable_index) == (0, 20)
    assert rig.log.position == 9
    expected = Model(21, [entry(21, 6)], 0, None, 5)
    rig.settle()
    assert (state_of(rig.log), rig.log.durable_index) == (expected, 21)
    rig.kill()
    assert state_of(rig.log) == expected


def test_a_truncation_before_a_reset_holds_nothing_back(rig: Rig) -> None:
    rig.log.append([entry(i) for i in range(1, 6)])
    rig.settle()
    rig.log.truncate_from(2)
    assert rig.log.durable_index == 1
    rig.log.reset(8, 2)
    assert rig.log.durable_index == 8
    rig.log.append([entry(9, 2)])
    rig.settle()
    assert rig.log.durable_index == 9


def test_nothing_is_dropped_while_a_reset_is_not_durable(rig: Rig) -> None:
    rig.log.append([entry(i, size=1500) for i in range(1, 13)])
    rig.settle()
    rig.log.reset(12, 1)
    rig.log.append([entry(13, 2)])
    rig.log.drop_prefix(13)
    rig.kill()
    assert state_of(rig.log).entries == [entry(i, size=1500) for i in range(1, 13)]


def test_the_base_of_a_reset_is_known_until_entries_are_dropped(rig: Rig) -> None:
    """Also where the reset has a segment to itself, which a drop might take for an empty one."""
    rig.log.append([entry(1, size=4000 - 512 - 41)])
    rig.log.reset(10, 3)
    rig.log.append([entry(i, 4, size=3900) for i in range(11, 15)])
    rig.settle()
    rig.log.drop_prefix(11)
    rig.reopen()
    assert [rig.log.term_at(i) for i in (9, 10, 11)] == [None, 3, 4]
    rig.log.drop_prefix(13)
    assert [rig.log.term_at(i) for i in (10, 11, 12, 13)] == [None, None, 4, 4]
    rig.reopen()
    assert [rig.log.term_at(i) for i in (10, 11, 12, 13)] == [None, None, None, 4]
    with pytest.raises(ValueError, match="begins at 13"):
        rig.log.reset(11, 4)
    rig.log.reset(12, 4)
    rig.reopen()
    assert state_of(rig.log) == Model(13, [], 0, None, 4)


def test_a_late_sync_of_entries_before_a_reset_does_not_count() -> None:
    """In memory; `test_log_reset_recovery.py` has the same for the log on disk."""
    log = MemoryLog()
    log.append([entry(i, 1) for i in range(1, 6)])
    log.truncate_from(5)
    log.reset(3, 2)
    log.append([entry(4, 2), entry(5, 2)])
    log.truncate_from(5)
    log.append([entry(5, 3)])
    log.flush()
    seen = []
    for _ in range(11):
        log.sync(1)
        seen.append(log.durable_index)
    assert seen == [3] * 7 + [4] * 3 + [5]


def test_a_log_that_was_never_written_may_be_reset(rig: Rig) -> None:
    """A new node receives a snapshot first."""
    rig.log.reset(1000, 0)
    rig.settle()
    assert rig.log.durable_position == rig.log.position == 1
    rig.reopen()
    assert state_of(rig.log) == Model(1001, [], 0, None, 0)
