"""The hash tree: the sums of what is stored, kept by every write, compared at one index."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engines import digests
from engines.check import check, digest
from engines.command import Checkpoint, Command, Configure, Delete, Expire, Put, encode
from engines.digests import (
    BUCKETS,
    DIGESTS_KEY,
    Deltas,
    add,
    change,
    differing,
    digest_of,
    load_buckets,
    place_of,
    save_buckets,
    total,
)
from engines.errors import CorruptRecord
from engines.interfaces import CheckpointResult, Limits
from engines.kv import KvReader
from engines.layout import change_value, pack_leaf, unpack_change, unpack_leaf
from engines.scan import Position, examine_file, pieces, scan
from engines.state_machine import DIGESTS_KEPT, StateMachine
from engines.store import Store
from tests.unit.engine_state import Entry

SMALL = replace(Limits(), watch_window_changes_max=5, history_versions_max=2, request_ids_max=3)


class State:
    def __init__(self, folder: Path, limits: Limits = SMALL) -> None:
        self.folder = folder
        self.store = Store(folder / "live", 16 << 20, 8)
        self.machine = StateMachine(self.store, limits)
        self.index = 0

    def apply(self, *commands: Command, entries: int = 1) -> list[list[object]]:
        """Spread over so many entries, applied at once."""
        share = -(-len(commands) // entries)
        batches = []
        for start in range(0, len(commands), share):
            self.index += 1
            batches.append(
                Entry(self.index, 1, [encode(each) for each in commands[start : start + share]])
            )
        return self.machine.apply(batches)

    def buckets(self) -> list[int]:
        with self.store.read() as snapshot:
            return list(load_buckets(snapshot.txn, snapshot.databases))

    def sums(self) -> Deltas:
        sums: Deltas = {}
        with self.store.read() as snapshot:
            for _ in pieces(
                snapshot.txn, snapshot.databases, 1 << 10, lambda *record: add(sums, *record)
            ):
                pass
        return sums

    def problems(self) -> list[str]:
        with self.store.read() as snapshot:
            return check(snapshot)

    def close(self) -> None:
        self.machine.close()


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path)


def put(number: int, value: bytes = b"v", request_id: str | None = None) -> Put:
    return Put("n", "s", b"%d" % number, value, "text/plain", 5, request_id=request_id)


WORK: list[Command] = [
    *(put(number % 7, b"value %d" % number, request_id=f"r{number}") for number in range(30)),
    Put("n", "s", b"long" * 400, b"x", "", 5),
    Put("n", "t", b"k", b"due", "", 5, expires_ms=9),
    *(Delete("n", "s", b"%d" % number, 6) for number in range(3)),
    Delete("n", "s", b"long" * 400, 6),
    *(put(number, b"again") for number in range(9)),
]


def test_the_tree_is_the_sum_of_what_is_stored_whatever_was_done(state: State) -> None:
    """Overwritten, deleted, expired, swept, forgotten: what goes is subtracted."""
    assert differing(state.buckets(), state.sums()) == []
    for start in range(0, len(WORK), 5):
        state.apply(*WORK[start : start + 5])
        assert differing(state.buckets(), state.sums()) == []
    with state.store.read() as snapshot:
        due = tuple(KvReader(snapshot).due(10, 10))
    assert due
    state.apply(Expire(due, 10), Configure(replace(SMALL, request_ids_max=1)))
    state.apply(*(put(1, b"%d" % number, request_id=f"q{number}") for number in range(9)))
    assert differing(state.buckets(), state.sums()) == []
    assert state.problems() == []


@pytest.mark.parametrize("entries", [1, 4, len(WORK)])
def test_it_does_not_depend_on_how_entries_are_batched(tmp_path: Path, entries: int) -> None:
    one, other = State(tmp_path / "a"), State(tmp_path / "b")
    one.apply(*WORK, entries=len(WORK))
    for command in WORK:
        other.apply(command)
    assert one.buckets() == other.buckets()
    with one.store.read() as a, other.store.read() as b:
        assert digest(a) == digest(b)
        found = digest_of(a.txn, a.databases, 7)
        assert found.root == digest_of(b.txn, b.databases, 7).root
        assert len(found.root) == digests.ROOT_BYTES
    again = State(tmp_path / f"c{entries}")
    again.apply(*WORK, entries=entries)
    assert again.buckets() == one.buckets()


def test_a_checkpoint_notes_the_state_after_its_whole_entry(tmp_path: Path) -> None:
    """Whatever is applied in the same breath, before or after."""
    one, other = State(tmp_path / "a"), State(tmp_path / "b")
    commands = [put(1), Checkpoint(), put(2), put(3), put(4), put(5)]
    results = one.apply(*commands, entries=2)
    other.apply(*commands[:3])
    with other.store.read() as snapshot:
        expected = digest_of(snapshot.txn, snapshot.databases, 1)
    other.apply(*commands[3:])
    assert results[0][1] == CheckpointResult(1)
    assert len(results) == 2
    assert one.machine.digests == other.machine.digests == {1: expected}
    assert one.machine.applied_index == 2


def test_each_entry_is_told_once_wherever_checkpoints_are(tmp_path: Path) -> None:
    commands = [put(1), Checkpoint(), put(2), Checkpoint(), put(3)]
    entries = [Entry(index, 1, [encode(each)]) for index, each in enumerate(commands, 1)]
    heard: list[int] = []
    machine = State(tmp_path / "a").machine
    machine.apply(entries, lambda batch, results: heard.append(batch.index))
    assert heard == [1, 2, 3, 4, 5]


def test_the_newest_checkpoints_are_kept(state: State) -> None:
    for _ in range(DIGESTS_KEPT + 3):
        state.apply(Checkpoint())
    assert sorted(state.machine.digests) == list(range(4, DIGESTS_KEPT + 4))
    state.machine.reset()
    assert state.machine.digests == {}


def test_the_root_covers_what_the_buckets_do_not(state: State) -> None:
    state.apply(put(1), Checkpoint())
    state.apply(Configure(replace(SMALL, ttl_ms_max=77)), Checkpoint())
    first, second = state.machine.digests.values()
    assert first.buckets == second.buckets
    assert first.root != second.root


def tamper(state: State, value: bytes = b"another value") -> None:
    """Change a record, and its checksums with it."""
    with state.store.write() as txn:
        databases = state.store.databases
        with txn.cursor(db=databases.changes) as cursor:
            assert cursor.last()
            key, record = bytes(cursor.key()), bytes(cursor.value())
        head = unpack_change(key, record)
        found = bytes(txn.get(b"\x00" * 7 + b"\x01" + head.key, db=databases.leaves) or b"")
        leaf = unpack_leaf("leaves", b"\x00" * 7 + b"\x01" + head.key, found)
        leaf = leaf._replace(updated_ms=leaf.updated_ms + 1)
        physical = b"\x00" * 7 + b"\x01" + head.key
        txn.put(physical, pack_leaf(physical, leaf), db=databases.leaves)
        assert change_value(key, record, head)


def test_a_record_that_was_changed_with_its_checksum_is_found_by_its_sum_alone(
    state: State, tmp_path: Path
) -> None:
    state.apply(*WORK)
    assert state.problems() == []
    tamper(state)
    assert state.problems() == ["1 of 256 buckets of the hash tree are not the records' sums"]
    with (tmp_path / "copy").open("wb") as file:
        state.machine.copy_to(file.fileno())
    with pytest.raises(CorruptRecord, match="1 of 256 buckets"):
        examine_file(tmp_path / "copy")


def test_a_copy_that_is_whole_is_examined_without_complaint(state: State, tmp_path: Path) -> None:
    state.apply(*WORK)
    with (tmp_path / "copy").open("wb") as file:
        state.machine.copy_to(file.fileno())
    paced: list[int] = []
    found = examine_file(tmp_path / "copy", 1 << 10, lambda size: bool(paced.append(size)) or True)
    assert found > 20
    assert len(paced) > 3
    assert examine_file(tmp_path / "copy", 1 << 10, lambda size: False) < found


def test_a_tree_that_does_not_verify_is_damage(state: State) -> None:
    state.apply(put(1))
    with state.store.write() as txn:
        txn.put(DIGESTS_KEY, b"\x00" * 2052, db=state.store.databases.meta)
    with pytest.raises(CorruptRecord, match="checksum"):
        state.apply(put(2))


def test_a_scan_goes_on_where_it_stopped(state: State) -> None:
    state.apply(*WORK)
    whole: list[tuple[int, bytes]] = []
    parts: list[tuple[int, bytes]] = []
    with state.store.read() as snapshot:
        for _ in pieces(
            snapshot.txn, snapshot.databases, 1 << 30, lambda n, key, value: whole.append((n, key))
        ):
            pass
    position: Position | None = Position()
    while position is not None:
        with state.store.read() as snapshot:
            piece = scan(
                snapshot.txn, snapshot.databases, position, 1, lambda n, k, v: parts.append((n, k))
            )
        assert piece.records <= 1
        position = piece.end
    assert parts == whole
    assert len(parts) == len(set(parts))


def test_a_bucket_is_a_sum_modulo_two_to_the_64th() -> None:
    sums: Deltas = {}
    for value in (b"a", b"b", b"c"):
        change(sums, 2, b"k", None, value)
    change(sums, 2, b"k", b"a", None)
    change(sums, 2, b"k", b"b", b"c")
    other: Deltas = {}
    change(other, 2, b"k", None, b"c")
    change(other, 2, b"k", None, b"c")
    assert {k: v % (1 << 64) for k, v in sums.items()} == {
        k: v % (1 << 64) for k, v in other.items()
    }
    assert place_of(2, b"k") != place_of(3, b"k") != place_of(3, b"l")
    assert change({}, 2, b"k", None, b"a") != change({}, 3, b"k", None, b"a")


def test_keys_are_spread_over_all_buckets() -> None:
    assert {place_of(4, b"%d" % number) >> 56 for number in range(4000)} == set(range(BUCKETS))


def test_what_was_noted_of_changes_adds_up(state: State) -> None:
    """For who adds up records while they change."""
    sums = state.sums()
    state.machine.on_records = lambda watched: total(watched, sums)
    state.apply(*WORK)
    assert differing(state.buckets(), sums) == []


def test_the_tree_survives_a_copy(state: State, tmp_path: Path) -> None:
    state.apply(*WORK)
    with (tmp_path / "copy").open("wb") as file:
        index, term = state.machine.copy_to(file.fileno())
    other = State(tmp_path / "other")
    (tmp_path / "copy").rename(tmp_path / "other" / "copy")
    other.machine.replace(tmp_path / "other" / "copy", index, term, thorough=True)
    assert other.buckets() == state.buckets()


def test_buckets_are_stored_alike_on_every_machine(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.apply(*WORK)
    databases = state.store.databases
    with state.store.write() as txn:
        buckets = load_buckets(txn, databases)
        stored = bytes(txn.get(DIGESTS_KEY, db=databases.meta) or b"")
        assert stored[4:12] == buckets[0].to_bytes(8, "little")
        save_buckets(txn, databases, buckets, {})
        assert bytes(txn.get(DIGESTS_KEY, db=databases.meta) or b"") == stored
