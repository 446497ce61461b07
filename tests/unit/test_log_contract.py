"""The contract of `RaftLog`, kept by the log on disk and by its in-memory twin."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.interfaces import LogEntry
from tests.log_harness import MemoryRig, Model, Rig, SegmentedRig, entry, state_of


@pytest.fixture(params=["disk", "memory"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    rig: Rig = SegmentedRig(tmp_path / "log") if request.param == "disk" else MemoryRig()
    yield rig
    rig.end()


def test_a_new_log_is_empty(rig: Rig) -> None:
    assert (rig.log.first_index, rig.log.last_index, rig.log.last_term) == (1, 0, 0)
    assert (rig.log.term, rig.log.vote) == (0, None)
    assert (rig.log.position, rig.log.durable_position, rig.log.durable_index) == (0, 0, 0)
    assert rig.log.read(1, 2, 100) == []


def test_reads_see_buffered_mutations_before_they_are_durable(rig: Rig) -> None:
    rig.log.set_hard_state(1, "a")
    rig.log.append([entry(1), entry(2)])
    rig.log.truncate_from(2)
    assert state_of(rig.log) == Model(1, [entry(1)], 1, "a")
    assert rig.log.position == 4
    assert (rig.log.durable_position, rig.log.durable_index) == (0, 0)


def test_nothing_is_durable_before_it_is_flushed(rig: Rig) -> None:
    rig.log.append([entry(1)])
    rig.log.flush()
    rig.log.append([entry(2)])
    rig.kill()
    assert state_of(rig.log).entries == [entry(1)]


def test_settled_mutations_are_durable_and_announced(rig: Rig) -> None:
    seen: list[int] = []
    rig.log.on_durable = lambda: seen.append(rig.log.durable_index)
    rig.log.append([entry(1), entry(2)])
    rig.log.set_hard_state(3, None)
    rig.settle()
    assert seen == [2]
    assert rig.log.durable_position == rig.log.position == 3
    rig.log.flush()
    rig.settle()
    assert seen == [2], "a flush of nothing is no fsync"


def test_everything_survives_a_clean_close_and_a_kill(rig: Rig) -> None:
    rig.log.set_hard_state(2, "node-å")
    rig.log.append([entry(1, 1), entry(2, 1), entry(3, 2)])
    rig.log.truncate_from(3)
    rig.log.append([entry(3, 4, size=5000)])
    rig.log.set_hard_state(5, None)
    expected = state_of(rig.log)
    rig.reopen()
    assert state_of(rig.log) == expected
    rig.kill()
    assert state_of(rig.log) == expected
    assert rig.log.durable_index == 3
    assert rig.log.durable_position == rig.log.position


def test_terms_are_found_where_they_change(rig: Rig) -> None:
    terms = [0, 1, 1, 4, 4, 4, 9]
    rig.log.append([entry(i, term) for i, term in enumerate(terms, 1)])
    assert [rig.log.term_at(i) for i in range(9)] == [None, *terms, None]
    rig.log.truncate_from(5)
    assert [rig.log.term_at(i) for i in range(6)] == [None, 0, 1, 1, 4, None]
    assert rig.log.last_term == 4


@pytest.mark.parametrize(
    ("start", "end", "bytes_max", "indexes"),
    [
        (1, 4, 1000, [1, 2, 3]),
        (2, 3, 1000, [2]),
        (2, 99, 1000, [2, 3, 4, 5]),
        (1, 6, 100, [1]),  # the entry that reaches the limit is the last
        (1, 6, 101, [1, 2]),
        (1, 6, 0, [1]),  # at least one
        (5, 6, 1, [5]),
        (6, 9, 1000, []),
        (0, 3, 1000, []),
        (3, 3, 1000, []),
    ],
)
def test_read_is_bounded_by_end_and_bytes(
    rig: Rig, start: int, end: int, bytes_max: int, indexes: list[int]
) -> None:
    rig.log.append([entry(i, size=100) for i in range(1, 6)])
    for _ in range(2):
        assert rig.log.read(start, end, bytes_max) == [entry(i, size=100) for i in indexes]
        rig.settle()  # then once more, from the disk


@pytest.mark.parametrize("body", [b"", b"\0", b"\0" * 41, b"\xf5\xc1HR" * 20, b"x" * 9000])
def test_bodies_come_back_as_stored(rig: Rig, body: bytes) -> None:
    rig.log.append([LogEntry(1, 1, body), entry(2)])
    rig.reopen()
    assert rig.log.read(1, 2, 1) == [LogEntry(1, 1, body)]


def test_an_entry_of_17_mib(rig: Rig) -> None:
    body = bytes(range(256)) * (17 << 12)
    rig.log.append([entry(1), LogEntry(2, 1, body), entry(3)])
    rig.settle()
    assert rig.log.read(2, 4, 1 << 30) == [LogEntry(2, 1, body), entry(3)]
    rig.reopen()
    assert rig.log.read(1, 4, 1 << 30) == [entry(1), LogEntry(2, 1, body), entry(3)]


@pytest.mark.parametrize("indexes", [[3], [1], [2, 4], [2, 2], [0], [2, 3, 5]])
def test_a_gap_is_refused_whole(rig: Rig, indexes: list[int]) -> None:
    rig.log.append([entry(1)])
    with pytest.raises(ValueError, match="appended where"):
        rig.log.append([entry(i) for i in indexes])
    assert state_of(rig.log) == Model(1, [entry(1)], 0, None)
    assert rig.log.position == 1


def test_an_oversize_entry_is_refused_whole(rig: Rig) -> None:
    with pytest.raises(ValueError, match="at most"):
        rig.log.append([entry(1), LogEntry(2, 1, bytes((64 << 20) + 1))])
    assert (rig.log.last_index, rig.log.position, rig.log.backlog_bytes) == (0, 0, 0)


def test_truncation_beyond_the_end_changes_nothing(rig: Rig) -> None:
    rig.log.append([entry(1)])
    rig.log.truncate_from(2)
    rig.log.truncate_from(7)
    assert (rig.log.position, rig.log.last_index) == (1, 1)
    with pytest.raises(ValueError, match="begins at 1"):
        rig.log.truncate_from(0)


def test_truncating_everything_leaves_an_empty_log(rig: Rig) -> None:
    rig.log.append([entry(1), entry(2)])
    rig.settle()
    rig.log.truncate_from(1)
    assert (rig.log.first_index, rig.log.last_index, rig.log.last_term) == (1, 0, 0)
    rig.reopen()
    assert (rig.log.first_index, rig.log.last_index) == (1, 0)
    rig.log.append([entry(1, 5)])
    rig.reopen()
    assert state_of(rig.log).entries == [entry(1, 5)]


def test_an_unchanged_hard_state_costs_nothing(rig: Rig) -> None:
    rig.log.set_hard_state(4, "a")
    rig.log.set_hard_state(4, "a")
    assert rig.log.position == 1


@pytest.mark.parametrize(("term", "vote"), [(3, None), (3, "a"), (4, "b"), (4, None)])
def test_term_and_vote_are_never_taken_back(rig: Rig, term: int, vote: str | None) -> None:
    rig.log.set_hard_state(4, "a")
    rig.settle()
    with pytest.raises(ValueError, match=r"term|vote"):
        rig.log.set_hard_state(term, vote)
    rig.reopen()
    assert (rig.log.term, rig.log.vote) == (4, "a")
    with pytest.raises(ValueError, match=r"term|vote"):
        rig.log.set_hard_state(term, vote)


def test_a_vote_that_does_not_fit_is_refused(rig: Rig) -> None:
    with pytest.raises(ValueError, match="at most 255"):
        rig.log.set_hard_state(1, "å" * 128)
    assert (rig.log.term, rig.log.vote, rig.log.position) == (0, None, 0)


def test_durable_index_stays_below_a_truncation_until_its_entries_are_durable(rig: Rig) -> None:
    rig.log.append([entry(i, 1) for i in range(1, 6)])
    rig.settle()
    assert rig.log.durable_index == 5
    rig.log.truncate_from(3)
    assert (rig.log.durable_index, rig.log.last_index) == (2, 2)
    rig.log.append([entry(3, 2), entry(4, 2), entry(5, 2), entry(6, 2)])
    rig.log.flush()
    assert rig.log.durable_index == 2
    rig.settle()
    assert rig.log.durable_index == 6


def test_backlog_counts_what_is_not_durable(rig: Rig) -> None:
    rig.log.append([entry(1, size=1000)])
    before = rig.log.backlog_bytes
    assert before > 1000
    rig.log.flush()
    assert rig.log.backlog_bytes == before
    rig.settle()
    assert rig.log.backlog_bytes == 0


def test_drop_prefix_keeps_what_it_must(rig: Rig) -> None:
    rig.log.append([entry(i, 1 + i // 8, size=1000) for i in range(1, 21)])
    rig.settle()
    rig.log.append([entry(21, 9), entry(22, 9)])
    rig.log.drop_prefix(1)
    assert rig.log.first_index == 1
    rig.log.drop_prefix(15)
    first = rig.log.first_index
    assert 1 < first <= 15
    rig.log.drop_prefix(99)
    assert first < rig.log.first_index <= 20, "the newest durable entry stays"
    expected = state_of(rig.log)
    assert expected.entries[-1] == entry(22, 9)
    rig.reopen()
    assert state_of(rig.log) == expected.found()
    rig.log.truncate_from(rig.log.first_index)
    rig.log.append([entry(rig.log.first_index, 11)])
    rig.kill()
    rig.log.set_hard_state(30, "b")
    rig.reopen()
    assert (rig.log.term, rig.log.vote) == (30, "b")


def test_the_term_of_a_dropped_base_is_known_until_the_process_ends(rig: Rig) -> None:
    rig.log.append([entry(i, i // 3, size=1000) for i in range(1, 21)])
    rig.settle()
    rig.log.drop_prefix(15)
    base = rig.log.first_index - 1
    assert base > 1
    assert [rig.log.term_at(base - 1), rig.log.term_at(base)] == [None, base // 3]
    rig.log.truncate_from(base + 1)
    assert rig.log.last_term == base // 3
    rig.reopen()
    assert (rig.log.last_index, rig.log.last_term, rig.log.term_at(base)) == (base, 0, None)


def test_dropping_everything_keeps_the_newest_durable_entry(rig: Rig) -> None:
    """Also where it alone fills a segment, and hard states fill the one after it."""
    rig.log.append([entry(i, 3, size=4000) for i in range(1, 5)])
    for term in range(1, 100):
        rig.log.set_hard_state(term, None)
    rig.settle()
    rig.log.append([entry(5, 9)])
    rig.log.drop_prefix(99)
    assert rig.log.first_index == 4
    rig.kill()
    assert (rig.log.first_index, rig.log.last_index, rig.log.last_term) == (4, 4, 3)


def test_size_grows_with_entries_and_shrinks_with_what_is_dropped(rig: Rig) -> None:
    sizes = [rig.log.size_bytes]
    for last in (10, 20):
        rig.log.append([entry(i, size=1000) for i in range(last - 9, last + 1)])
        rig.settle()
        sizes.append(rig.log.size_bytes)
    assert sizes[0] + 10_000 < sizes[1] < sizes[2] - 10_000
    assert sizes[2] < 20_000 + 20 * 41 + 10 * 600
    rig.log.drop_prefix(15)
    dropped = rig.log.size_bytes
    assert 6_000 < dropped < sizes[2] - 10_000
    rig.reopen()
    assert rig.log.size_bytes == pytest.approx(dropped, abs=100)  # a mark is not counted yet
    rig.log.reset(30, 1)
    rig.settle()
    assert rig.log.size_bytes < 6_000
    rig.log.append([entry(31, size=3000)])
    rig.settle()
    assert 3_000 < rig.log.size_bytes < 9_000
    rig.log.truncate_from(31)
    rig.reopen()
    assert rig.log.size_bytes < 9_000


def test_close_makes_durable_and_may_be_repeated(rig: Rig) -> None:
    rig.log.append([entry(1)])
    rig.log.close()
    assert rig.log.durable_index == 1
    rig.log.close()
