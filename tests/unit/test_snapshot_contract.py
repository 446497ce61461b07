"""The contract of `Snapshots`, kept by the snapshots on disk and by their in-memory twin."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.errors import CorruptSnapshot, Overloaded
from tests.snapshot_harness import (
    SMALL,
    DiskRig,
    Errors,
    MemoryRig,
    Rig,
    configuration_at,
    create,
    created,
    finish,
    meta_of,
    read,
    receive,
    write,
    write_all,
)

DATA = bytes(range(256)) * 80  # 20,480 bytes: three chunks, several fsyncs
META = meta_of(DATA, 50, 3)


@pytest.fixture(params=["disk", "memory"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    rig: Rig = DiskRig(tmp_path / "snapshots") if request.param == "disk" else MemoryRig()
    yield rig
    rig.end()


def whole(rig: Rig, index: int, size: int) -> bytes:
    """A snapshot's bytes, read chunk by chunk."""
    parts = [read(rig, index, offset, 8192) for offset in range(0, size, 8192)]
    assert None not in parts
    return b"".join(part for part in parts if part is not None)


def test_nothing_is_held_at_first(rig: Rig) -> None:
    assert rig.snapshots.newest is None
    assert not rig.snapshots.busy
    assert read(rig, 1, 0, 10) is None
    with pytest.raises(CorruptSnapshot, match="no snapshot"):
        rig.snapshots.install()


# -- making ------------------------------------------------------------------------------


def test_a_snapshot_is_the_state_its_place_in_the_log_and_the_members_there(rig: Rig) -> None:
    rig.machine.term = 4
    rig.machine.advance()
    meta = created(rig)
    assert meta == meta_of(rig.machine.data, 10, 4)
    assert meta.configuration == configuration_at(10)
    assert rig.snapshots.newest == meta
    assert not rig.snapshots.busy
    assert whole(rig, 10, meta.size) == rig.machine.data


def test_a_snapshot_survives_the_process(rig: Rig) -> None:
    rig.machine.advance()
    meta = created(rig)
    rig.reopen()
    assert rig.snapshots.newest == meta
    assert whole(rig, 10, meta.size) == rig.machine.data


def test_one_is_made_at_a_time(rig: Rig) -> None:
    rig.machine.advance()
    answers: list[object] = []
    assert rig.snapshots.create(configuration_at, lambda *answer: answers.append(answer))
    assert rig.snapshots.busy
    assert not rig.snapshots.create(configuration_at, lambda *answer: answers.append(answer))
    rig.run_until(lambda: not rig.snapshots.busy)
    rig.run_waiting()
    assert len(answers) == 1
    rig.snapshots.begin(META)
    assert not rig.snapshots.create(configuration_at, lambda *answer: answers.append(answer))


def test_a_state_without_news_makes_no_second_snapshot(rig: Rig) -> None:
    rig.machine.advance()
    meta = created(rig)
    rig.machine.data = b"other bytes of the same state"
    assert created(rig) == meta
    assert [each.index for each in rig.snapshots.held] == [10]
    assert whole(rig, 10, meta.size) != rig.machine.data


def test_the_empty_state_has_no_snapshot(rig: Rig) -> None:
    meta, error = create(rig)
    assert meta is None
    assert isinstance(error, ValueError)


def test_a_state_of_no_bytes_can_be_kept_and_received(rig: Rig) -> None:
    rig.machine.advance(0)
    meta = created(rig)
    assert meta.size == 0
    assert read(rig, 10, 0, 100) == b""
    assert receive(rig, b"", meta_of(b"", 20)) is None


@pytest.mark.parametrize("culprit", ["machine", "configuration"])
def test_what_fails_is_told_and_can_be_tried_again(rig: Rig, culprit: str) -> None:
    rig.machine.advance()
    answers: list[object] = []

    def unknown(index: int) -> object:
        raise LookupError(index)

    if culprit == "machine":
        rig.machine.failure = LookupError(10)
    config = unknown if culprit == "configuration" else configuration_at
    rig.snapshots.create(config, lambda *answer: answers.append(answer))  # type: ignore[arg-type]
    rig.run_until(lambda: bool(answers))
    ((meta, error),) = answers  # type: ignore[misc]
    assert meta is None
    assert isinstance(error, LookupError)
    assert not rig.snapshots.busy
    assert rig.snapshots.newest is None
    rig.machine.failure = None
    assert created(rig).index == 10


# -- keeping -----------------------------------------------------------------------------


def test_the_newest_two_are_kept(rig: Rig) -> None:
    for _ in range(4):
        rig.machine.advance()
        created(rig)
    assert [meta.index for meta in rig.snapshots.held] == [40, 30]
    assert read(rig, 20, 0, 10) is None
    rig.run_waiting()
    rig.reopen()
    assert [meta.index for meta in rig.snapshots.held] == [40, 30]


def test_one_that_is_being_read_is_kept_until_nobody_has_read_it_for_a_while(rig: Rig) -> None:
    rig.machine.advance()
    created(rig)
    read(rig, 10, 0, 10)
    for _ in range(3):
        rig.machine.advance()
        created(rig)
        rig.now += 3
    assert [meta.index for meta in rig.snapshots.held] == [40, 30, 10]
    rig.now += 1
    rig.machine.advance()
    created(rig)
    assert [meta.index for meta in rig.snapshots.held] == [50, 40]


def test_the_number_kept_for_readers_is_bounded(rig: Rig) -> None:
    for _ in range(5):
        rig.machine.advance()
        for held in rig.snapshots.held:
            read(rig, held.index, 0, 10)
        created(rig)
    assert len(rig.snapshots.held) == SMALL.snapshots_kept + SMALL.snapshots_pinned_max


def test_reading_ends_where_the_snapshot_ends(rig: Rig) -> None:
    rig.machine.advance(5000)
    created(rig)
    assert read(rig, 10, 4000, 8192) == rig.machine.data[4000:]
    assert read(rig, 10, 5000, 10) == b""
    assert read(rig, 10, 9000, 10) == b""
    assert read(rig, 11, 0, 10) is None


def test_chunks_are_bounded_in_size_and_number(rig: Rig) -> None:
    rig.machine.advance()
    created(rig)
    for offset, size in ((0, 8193), (0, -1), (-1, 10)):
        with pytest.raises(ValueError, match=r"chunk_bytes_max|offset"):
            rig.snapshots.read(10, offset, size, lambda _: None)
    answers: list[bytes | None] = []
    for _ in range(SMALL.chunk_jobs_max):
        rig.snapshots.read(10, 0, 10, answers.append)
    with pytest.raises(Overloaded):
        rig.snapshots.read(10, 0, 10, answers.append)
    rig.run_until(lambda: len(answers) == SMALL.chunk_jobs_max)
    rig.snapshots.begin(META)
    with pytest.raises(ValueError, match="chunk_bytes_max"):
        rig.snapshots.write(0, bytes(8193), lambda _: None)
    errors: Errors = []
    for number in range(SMALL.chunk_jobs_max):
        rig.snapshots.write(number, b"x", errors.append)
    with pytest.raises(Overloaded):
        rig.snapshots.write(SMALL.chunk_jobs_max, b"x", errors.append)
    # What was refused does not count as received.
    assert rig.snapshots.begin(META) == SMALL.chunk_jobs_max
    rig.run_until(lambda: len(errors) == SMALL.chunk_jobs_max)
    assert errors == [None] * SMALL.chunk_jobs_max


# -- receiving ---------------------------------------------------------------------------


def test_what_was_received_is_the_newest_and_can_be_installed(rig: Rig) -> None:
    rig.machine.advance()
    created(rig)
    assert rig.snapshots.begin(META) == 0
    assert rig.snapshots.busy
    write_all(rig, DATA)
    assert finish(rig) is None
    assert not rig.snapshots.busy
    assert rig.snapshots.newest == META
    rig.snapshots.install()
    assert (rig.machine.data, rig.machine.index, rig.machine.term) == (DATA, 50, 3)
    # The machine may do with its copy what it likes.
    rig.reopen()
    assert whole(rig, 50, META.size) == DATA


def test_at_start_the_newest_is_installed_without_having_been_received(rig: Rig) -> None:
    assert receive(rig, DATA, META) is None
    rig.reopen()
    rig.snapshots.install()
    assert (rig.machine.data, rig.machine.index, rig.machine.term) == (DATA, 50, 3)
    rig.machine.data = b""
    rig.snapshots.install()
    assert rig.machine.data == DATA


def test_a_newer_own_snapshot_is_installed_rather_than_an_older_received_one(rig: Rig) -> None:
    assert receive(rig, DATA, META) is None
    rig.machine.index = 90
    rig.machine.advance()
    newest = created(rig)
    expected, rig.machine.data = rig.machine.data, b""
    rig.snapshots.install()
    assert (rig.machine.data, rig.machine.index) == (expected, newest.index)


@pytest.mark.parametrize("restart", [True, False])
def test_receiving_goes_on_where_it_stopped(rig: Rig, restart: bool) -> None:
    rig.snapshots.begin(META)
    write_all(rig, DATA, 0, 9000)
    if restart:
        rig.reopen()
    else:
        rig.snapshots.abandon()
        rig.snapshots.abandon()
    assert not rig.snapshots.busy
    assert rig.snapshots.begin(META) == 9000
    assert rig.snapshots.busy
    assert rig.snapshots.begin(META) == 9000  # it is asked again when the leader changed
    write_all(rig, DATA, 9000)
    assert finish(rig) is None
    rig.snapshots.install()
    assert rig.machine.data == DATA


@pytest.mark.parametrize(
    "other", [meta_of(DATA[:-1] + b"x", 50, 3), meta_of(DATA, 60, 3), meta_of(DATA, 50, 4)]
)
@pytest.mark.parametrize("restart", [True, False])
def test_another_snapshot_begins_anew(rig: Rig, other: object, restart: bool) -> None:
    rig.snapshots.begin(META)
    write_all(rig, DATA[::-1], 0, 9000)
    if restart:
        rig.reopen()
    assert rig.snapshots.begin(other) == 0  # type: ignore[arg-type]
    data = DATA if other.sha256 == META.sha256 else DATA[:-1] + b"x"  # type: ignore[attr-defined]
    write_all(rig, data)
    assert finish(rig) is None
    assert rig.snapshots.newest == other
    rig.reopen()
    # The first one is gone for good.
    assert rig.snapshots.begin(meta_of(DATA, 70)) == 0


def test_writes_for_a_snapshot_that_was_given_up_do_not_reach_the_next(rig: Rig) -> None:
    rig.snapshots.begin(META)
    late: Errors = []
    for offset in range(0, 400, 100):
        rig.snapshots.write(offset, b"!" * 100, late.append)
    other = meta_of(DATA, 60)
    rig.snapshots.begin(other)
    rig.run_until(lambda: len(late) == 4)
    write_all(rig, DATA)
    assert finish(rig) is None
    rig.snapshots.install()
    assert rig.machine.data == DATA


def test_bytes_that_came_before_may_come_again(rig: Rig) -> None:
    rig.snapshots.begin(META)
    write_all(rig, DATA, 0, 9000)
    assert write(rig, 4000, DATA[4000:8000]) is None
    assert write(rig, 8000, DATA[8000:12000]) is None
    assert rig.snapshots.begin(META) == 12000
    write_all(rig, DATA, 12000)
    assert finish(rig) is None


def test_bytes_that_do_not_belong_are_refused_and_harm_nothing(rig: Rig) -> None:
    rig.snapshots.begin(META)
    write_all(rig, DATA, 0, 9000)
    for offset, data in ((9001, b"x"), (-1, b"xx"), (len(DATA), b"x"), (len(DATA) + 5, b"")):
        assert isinstance(write(rig, offset, data), CorruptSnapshot), offset
    assert rig.snapshots.begin(META) == 9000
    write_all(rig, DATA, 9000)
    assert finish(rig) is None


@pytest.mark.parametrize("damage", ["flipped", "short"])
def test_a_snapshot_that_does_not_verify_is_dropped(rig: Rig, damage: str) -> None:
    rig.machine.advance()
    before = created(rig)
    rig.snapshots.begin(META)
    write_all(rig, DATA, 0, None if damage == "flipped" else 20_000)
    if damage == "flipped":
        rig.corrupt_partial(12_345)
    assert isinstance(finish(rig), CorruptSnapshot)
    assert rig.snapshots.newest == before
    assert not rig.snapshots.busy
    assert rig.snapshots.begin(META) == 0
    write_all(rig, DATA)
    assert finish(rig) is None
    assert rig.snapshots.newest == META


def test_a_snapshot_that_is_here_already_needs_no_bytes(rig: Rig) -> None:
    assert receive(rig, DATA, META) is None
    assert rig.snapshots.begin(META) == META.size
    assert write(rig, 0, DATA[:100]) is None
    rig.snapshots.abandon()
    assert receive(rig, b"", META) is None
    rig.snapshots.install()
    assert rig.machine.data == DATA
    rig.corrupt(50, 100)
    assert isinstance(receive(rig, b"", META), CorruptSnapshot)
    assert rig.snapshots.newest is None
    assert rig.snapshots.begin(META) == 0


def test_another_snapshot_at_the_same_index_takes_the_place_of_ours(rig: Rig) -> None:
    rig.machine.index = 40
    rig.machine.advance()
    assert created(rig).index == 50
    for data in (DATA, DATA[::-1]):
        meta = meta_of(data, 50, 3)
        assert receive(rig, data, meta) is None
        assert rig.snapshots.held == [meta]
        rig.snapshots.install()
        assert rig.machine.data == data
        rig.run_waiting()
        rig.reopen()
        assert rig.snapshots.held == [meta]
        assert whole(rig, 50, meta.size) == data


def test_an_older_snapshot_is_refused(rig: Rig) -> None:
    assert receive(rig, DATA, META) is None
    with pytest.raises(ValueError, match="older than 50"):
        rig.snapshots.begin(meta_of(DATA, 49))
    for impossible in (META._replace(index=0), META._replace(size=-1), META._replace(sha256=b"")):
        with pytest.raises(ValueError, match="no snapshot has"):
            rig.snapshots.begin(impossible)


def test_nothing_else_is_received_while_one_is_being_verified(rig: Rig) -> None:
    rig.snapshots.begin(META)
    write_all(rig, DATA)
    errors: Errors = []
    rig.snapshots.finish(errors.append)
    rig.snapshots.abandon()
    assert rig.snapshots.busy
    with pytest.raises(Overloaded):
        rig.snapshots.begin(meta_of(DATA, 60))
    for call in (
        lambda: rig.snapshots.write(0, b"", errors.append),
        lambda: rig.snapshots.finish(errors.append),
        rig.snapshots.install,
    ):
        with pytest.raises(RuntimeError):
            call()
    rig.run_until(lambda: bool(errors))
    assert errors == [None]
    assert rig.snapshots.newest == META


def test_what_was_not_begun_cannot_go_on(rig: Rig) -> None:
    with pytest.raises(RuntimeError, match="being received"):
        rig.snapshots.write(0, b"", lambda _: None)
    with pytest.raises(RuntimeError, match="being received"):
        rig.snapshots.finish(lambda _: None)


def test_a_damaged_snapshot_is_not_installed_and_the_one_before_takes_over(rig: Rig) -> None:
    rig.machine.advance()
    older = created(rig)
    expected = rig.machine.data
    rig.machine.advance()
    created(rig)
    rig.corrupt(20, 777)
    rig.machine.data = b"before"
    with pytest.raises(CorruptSnapshot, match="sha256"):
        rig.snapshots.install()
    assert rig.machine.data == b"before"
    assert rig.snapshots.newest == older
    rig.snapshots.install()
    assert rig.machine.data == expected
    rig.run_waiting()
    rig.reopen()
    assert rig.snapshots.newest == older


# -- the end -----------------------------------------------------------------------------


def test_after_close_nobody_is_called_back(rig: Rig) -> None:
    rig.machine.advance()
    created(rig)
    rig.machine.advance()
    called: list[object] = []
    rig.snapshots.begin(META)
    rig.snapshots.write(0, DATA[:100], called.append)
    rig.snapshots.abandon()
    rig.snapshots.create(configuration_at, lambda *answer: called.append(answer))
    rig.snapshots.read(10, 0, 10, called.append)
    rig.snapshots.close()
    rig.snapshots.close()
    assert not rig.snapshots.create(configuration_at, lambda *answer: called.append(answer))
    rig.snapshots.read(10, 0, 10, called.append)
    rig.snapshots.read(99, 0, 10, called.append)
    with pytest.raises(RuntimeError):
        rig.snapshots.begin(META)
    rig.reopen()
    rig.run_waiting()
    assert called == []
    assert rig.snapshots.newest is not None


def test_closing_while_a_snapshot_is_verified_calls_nobody_and_loses_nothing(rig: Rig) -> None:
    rig.snapshots.begin(META)
    write_all(rig, DATA)
    called: Errors = []
    rig.snapshots.finish(called.append)
    rig.snapshots.close()
    rig.reopen()
    assert called == []
    if rig.snapshots.newest is None:
        assert rig.snapshots.begin(META) == META.size
        assert finish(rig) is None
    assert rig.snapshots.newest == META
