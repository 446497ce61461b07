"""The scrub: what it finds, what it does about it, and that writes beside it disturb nothing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.errors import CorruptLog
from cluster.interfaces import SnapshotMeta
from cluster.log_check import Extent
from cluster.membership import Configuration, Member
from cluster.snapshot import SnapshotStore
from cluster.snapshot_rules import SnapshotOptions
from engines.command import Delete, Put, encode
from engines.digests import Deltas, Watched, add
from engines.errors import StoreFailed
from engines.interfaces import Limits
from engines.scan import Piece, Position
from engines.state_machine import StateMachine
from engines.store import Store
from node import scrub
from node.clock import SystemClock
from node.replica import Checkpoints
from node.scrub import GroupScrub, Pace, Scrubber
from tests.snapshot_harness import flip
from tests.unit.engine_state import Entry

SECRET = b"a value that can be found in the file"


class Quarantine:
    """What is told, and nothing done about it."""

    def __init__(self) -> None:
        self.mark: object | None = None
        self.told: list[tuple[str, str]] = []

    def quarantine(self, found_by: str, reason: str) -> None:
        self.told.append((found_by, reason))
        self.mark = "quarantined"

    def stats(self) -> None:
        return None


class Rig:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(folder / "live", 16 << 20, 8)
        self.machine = StateMachine(self.store, Limits())
        self.quarantine = Quarantine()
        self.failures: list[BaseException] = []
        self.suspects: list[str] = []
        self.snapshots_made = 0
        self.extents: list[Extent] = []
        self.index = 0
        loop = asyncio.get_running_loop()
        damaged: Any = SimpleNamespace(damaged=False)
        self.snapshots = SnapshotStore(
            folder / "snapshots",
            0,
            Checkpoints(self.machine, damaged, lambda: 0.0),
            loop.call_soon_threadsafe,
            self.failures.append,
            SnapshotOptions(copy_bytes_per_second_max=0),
            monotonic=lambda: 0.0,
        )
        group: Any = SimpleNamespace(group=0, make_snapshot=self._make)
        log: Any = SimpleNamespace(size_bytes=0, extents=lambda: self.extents)
        told: Any = self.quarantine
        self.scrub = GroupScrub(
            group, self.machine, self.store, self.snapshots, log, told, SystemClock(),
            self.failures.append,
        )  # fmt: skip
        self.scrub.on_suspect = self.suspects.append
        self.pace = Pace(1 << 40)
        self.pace.piece_bytes = 1024
        self.executor = ThreadPoolExecutor(1)

    def _make(self) -> bool:
        self.snapshots_made += 1
        return True

    def apply(self, *commands: Any) -> None:
        self.index += 1
        self.machine.apply([Entry(self.index, 1, [encode(each) for each in commands])])

    def fill(self, count: int = 60) -> None:
        self.apply(*(Put("n", "s", b"%d" % number, SECRET, "", 1) for number in range(count)))

    def flip(self, content: bytes) -> None:
        path = self.folder / "live" / "data.mdb"
        flip(path, path.read_bytes().index(content))

    async def run(self) -> None:
        async with asyncio.timeout(60):
            await self.scrub.run(self.pace, self.executor)

    async def snapshot(self) -> SnapshotMeta:
        made: asyncio.Future[SnapshotMeta | None] = asyncio.get_running_loop().create_future()
        members = Configuration(1, (Member("a"),))
        assert self.snapshots.create(
            lambda index: members, lambda meta, error: made.set_result(meta)
        )
        found = await made
        assert found is not None
        return found

    def view(self) -> Any:
        return self.scrub.view(7)

    def close(self) -> None:
        self.executor.shutdown()
        self.snapshots.close()
        self.machine.close()


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.close()


async def test_a_pass_over_a_sound_state_finds_nothing(rig: Rig) -> None:
    rig.fill()
    await rig.run()
    view = rig.view()
    assert (view.passes, view.errors, view.running) == (1, 0, False)
    assert view.records > 120, "leaves and changes"
    assert view.last_finished_at_ms >= view.last_started_at_ms
    assert view.bytes_per_second_max == 7
    assert rig.suspects == rig.quarantine.told == rig.failures == []


async def test_a_record_that_does_not_verify_is_found_and_the_state_quarantined(rig: Rig) -> None:
    rig.fill()
    rig.flip(SECRET)
    await rig.run()
    ((found_by, reason),) = rig.quarantine.told
    assert found_by == "scrub"
    assert "checksum" in reason
    view = rig.view()
    assert (view.passes, view.errors) == (0, 1)
    assert view.last_error == reason
    assert rig.machine.on_records is None


async def test_a_record_that_verifies_and_was_not_written_is_suspect(rig: Rig) -> None:
    """Every checksum is right; the records do not add up to the hash tree."""
    rig.fill()
    with rig.store.write() as txn:
        txn.put(b"\x00" * 16, b"", db=rig.store.databases.expiry)
        txn.delete(b"\x00" * 16, db=rig.store.databases.expiry)
        txn.put(b"\x00" * 18, b"", db=rig.store.databases.expiry)
    await rig.run()
    (reason,) = rig.suspects
    assert "1 of 256 buckets" in reason
    assert rig.quarantine.told == []


@pytest.mark.parametrize("seed", range(5))
async def test_writes_during_a_pass_are_accounted_for(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Between any two pieces, and while one is read: before it, in it and behind it."""
    rng = random.Random(seed)
    rig.fill(80)
    pieces = 0

    def write() -> None:
        for _ in range(rng.randrange(4)):
            key = b"%d" % rng.randrange(120)
            if rng.random() < 0.3:
                rig.apply(Delete("n", "s", key, 2))
            else:
                rig.apply(Put("n", "s", key, rng.randbytes(rng.randrange(50)), "", 2))

    whole = scrub._uninterrupted

    async def beside(executor: Any, work: Any) -> Any:
        nonlocal pieces
        pieces += 1
        write()
        found = await whole(executor, work)
        write()
        return found

    monkeypatch.setattr(scrub, "_uninterrupted", beside)
    await rig.run()
    assert pieces > 10
    assert rig.view().passes == 1
    assert rig.suspects == []
    assert rig.quarantine.told == []


async def test_a_pass_ends_where_the_state_is_exchanged(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.fill()
    whole, pieces = scrub._uninterrupted, 0

    async def beside(executor: Any, work: Any) -> Any:
        nonlocal pieces
        pieces += 1
        if pieces == 2:
            rig.machine.reset()
        return await whole(executor, work)

    monkeypatch.setattr(scrub, "_uninterrupted", beside)
    await rig.run()
    assert (rig.view().passes, rig.view().errors, rig.suspects) == (0, 0, [])


async def test_a_flood_of_writes_gives_up_the_sums_and_nothing_else(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrub, "CHANGES_MAX", 3)
    rig.fill()
    whole = scrub._uninterrupted

    async def beside(executor: Any, work: Any) -> Any:
        rig.apply(*(Put("n", "z", b"%d" % number, b"v", "", 1) for number in range(5)))
        return await whole(executor, work)

    monkeypatch.setattr(scrub, "_uninterrupted", beside)
    rig.pace.piece_bytes = 16 << 10
    await rig.run()
    assert (rig.view().passes, rig.suspects) == (1, [])


async def test_a_rotten_snapshot_is_set_aside_and_made_anew(rig: Rig) -> None:
    rig.fill()
    await rig.snapshot()
    await rig.run()
    assert (rig.view().errors, rig.snapshots_made) == (0, 0)
    path = rig.snapshots.newest_file
    assert path is not None
    flip(path, 5000)
    await rig.run()
    assert rig.view().errors == 1
    assert rig.snapshots.newest is None
    assert rig.snapshots_made == 1
    assert "set aside" in rig.snapshots.problems[-1]
    assert rig.quarantine.told == []


async def test_a_rotten_log_stops_the_node(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.extents = [Extent(Path("a.seg"), 1, 100), Extent(Path("b.seg"), 2, 100)]
    seen: list[tuple[str, int]] = []

    def verify(extent: Extent, start: int, bytes_max: int) -> int:
        seen.append((extent.path.name, start))
        if extent.path.name == "a.seg":
            raise FileNotFoundError
        if start == 60:
            raise CorruptLog("b.seg", 60, "a durable record does not verify")
        return 60

    monkeypatch.setattr(scrub, "verify_records", verify)
    await rig.run()
    assert seen == [("a.seg", 0), ("b.seg", 0), ("b.seg", 60)]
    (failure,) = rig.failures
    assert isinstance(failure, CorruptLog)
    assert rig.view().errors == 1


async def test_damage_in_a_segment_that_is_gone_meanwhile_is_none(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.extents = [Extent(Path("a.seg"), 1, 100)]

    def verify(extent: Extent, start: int, bytes_max: int) -> int:
        rig.extents = []
        raise CorruptLog("a.seg", 60, "a durable record does not verify")

    monkeypatch.setattr(scrub, "verify_records", verify)
    await rig.run()
    assert rig.failures == []
    assert rig.view().passes == 1


async def test_passes_begin_no_more_often_than_they_may(rig: Rig) -> None:
    assert rig.scrub.is_due(60)
    await rig.run()
    assert not rig.scrub.is_due(60)
    assert rig.scrub.is_due(0)
    rig.quarantine.mark = "quarantined"
    assert not rig.scrub.is_due(0)


async def test_a_scrub_that_is_switched_off_does_nothing(rig: Rig) -> None:
    await Scrubber(lambda: [rig.scrub], rig.executor, 0, 0).run()
    assert rig.view().last_started_at_ms is None


async def test_closing_ends_a_pass(rig: Rig) -> None:
    rig.fill()
    rig.scrub.close()
    await rig.run()
    assert rig.view().passes == 0
    assert not rig.scrub.is_due(0)


def test_the_pace_is_even_also_where_it_is_slow() -> None:
    assert Pace(1 << 30).piece_bytes == scrub.PIECE_BYTES_MAX
    assert Pace(256 << 10).piece_bytes == 26214
    assert Pace(100).piece_bytes == 4096


def test_sums_tell_changes_before_in_and_behind_the_piece() -> None:
    sums = scrub._Sums()
    assert sums.begin() == Position()
    sums.read(2, b"b", b"1")
    behind, inside = Watched(2, b"x", 5), Watched(2, b"a", 7)
    sums.changed([behind, inside])
    sums.done(Piece(Position(2, b"m"), 1, 1))
    expected: Deltas = {}
    add(expected, 2, b"b", b"1")
    scrub.total([inside], expected)
    assert sums.total == expected
    sums.changed([Watched(2, b"l", 9), behind])
    scrub.total([Watched(2, b"l", 9)], expected)
    assert sums.total == expected


async def test_pages_that_lmdb_cannot_follow_are_damage(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.fill()

    def broken(*arguments: object) -> Piece:
        raise StoreFailed("mdb_cursor_get: invalid argument")

    monkeypatch.setattr(scrub, "scan", broken)
    await rig.run()
    assert rig.quarantine.told == [("scrub", "mdb_cursor_get: invalid argument")]
    rig.quarantine.mark, rig.quarantine.told = None, []
    rig.scrub.close()
    await rig.run()
    assert rig.quarantine.told == []
