"""The store beneath the state: formats, limits, snapshots, threads, crashes, bit flips."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from engines import environment
from engines import store as store_module
from engines.check import check
from engines.command import TxnGet, TxnPut
from engines.environment import Databases, Transaction
from engines.errors import (
    CorruptRecord,
    ReadersBusy,
    StoreFailed,
    StoreFull,
    UnknownFormat,
)
from engines.interfaces import ChangeId, Limits
from engines.kv import KvReader
from engines.layout import seal
from engines.registry import BUILT_IN, Registry
from engines.state_machine import StateMachine
from engines.store import Store
from tests.example_engine.hivemem_tally import TALLY
from tests.unit.engine_state import MAP_BYTES, NOW, State

REGISTRY = Registry((*BUILT_IN, TALLY))


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = State(tmp_path / "live", registry=REGISTRY)
    yield state
    state.machine.close()


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll with a deadline of 10 s."""
    ready = threading.Event()
    for _ in range(10_000):
        if condition():
            return
        ready.wait(0.001)
    raise AssertionError("not within 10 s")


# -- opening and closing -----------------------------------------------------------------


def test_a_store_of_another_format_is_refused(state: State) -> None:
    with state.store.write() as txn:
        other = seal(b"format", b"hivemem state 0")
        txn.put(b"format", other, db=state.store.databases.meta)
    state.machine.close()
    with pytest.raises(UnknownFormat, match="hivemem state 0"):
        Store(state.path, MAP_BYTES, 8)
    # Refusing left nothing open: it can be tried again.
    with pytest.raises(UnknownFormat):
        Store(state.path, MAP_BYTES, 8)


def test_somebody_elses_lmdb_is_refused_and_left_alone(tmp_path: Path) -> None:
    import lmdb

    with lmdb.open(str(tmp_path / "x"), max_dbs=2) as env:
        env.open_db(b"theirs")
    with pytest.raises(UnknownFormat, match="None"):
        Store(tmp_path / "x", MAP_BYTES, 8)
    with lmdb.open(str(tmp_path / "x"), max_dbs=2) as env:
        assert env.dbs() == [b"theirs"]


def test_a_refused_file_is_as_long_as_before(state: State) -> None:
    with state.store.write() as txn:
        other = seal(b"format", b"hivemem state 0")
        txn.put(b"format", other, db=state.store.databases.meta)
    state.machine.close()
    before = (state.path / "data.mdb").read_bytes()
    with pytest.raises(UnknownFormat):
        Store(state.path, MAP_BYTES, 8)
    assert (state.path / "data.mdb").read_bytes() == before


def test_a_closed_store_leaves_a_file_of_what_is_used(state: State) -> None:
    state.put(b"k", b"x" * 100_000)
    assert (state.path / "data.mdb").stat().st_size == MAP_BYTES
    state.machine.close()
    assert 100_000 < (state.path / "data.mdb").stat().st_size < 1 << 20
    again = State(state.path)
    assert again.value(b"k") == b"x" * 100_000
    again.put(b"l", b"y" * 100_000)
    again.machine.close()
    assert State(state.path).value(b"l") == b"y" * 100_000


def test_a_disk_without_room_is_named_and_nothing_of_the_entry_is_kept(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.put(b"k", b"1")

    def full(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    # What is had already may still be used.
    state.put(b"k", b"2")

    def fill() -> None:
        for number in range(1_000):
            state.put(b"%d" % number, b"x" * 10_000)

    with pytest.raises(StoreFailed, match="No space left"):
        fill()
    kept = state.machine.applied_index
    state.machine.close()
    monkeypatch.undo()
    again = State(state.path)
    assert (again.machine.applied_index, again.value(b"k")) == (kept, b"2")
    again.put(b"k", b"3")
    again.machine.close()


def test_a_call_that_is_refused_later_only_is_named(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", refused)
    with pytest.raises(StoreFailed, match=os.strerror(errno.EOPNOTSUPP)):
        state.put(b"k", bytes(6_000_000))


def test_a_file_system_without_writable_maps_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lmdb

    opened = lmdb.open

    def refusing(*args: object, writemap: bool = False, **given: object) -> object:
        if writemap:
            raise lmdb.Error("mmap: No such device")
        return opened(*args, **given)

    monkeypatch.setattr(lmdb, "open", refusing)
    state = State(tmp_path / "live")
    state.put(b"k", b"1")
    assert (state.path / "data.mdb").stat().st_size < MAP_BYTES
    state.machine.close()
    monkeypatch.undo()
    assert State(state.path).value(b"k") == b"1"


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EMFILE])
def test_a_state_whose_file_cannot_be_given_room_is_as_long_as_before(
    state: State, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    state.put(b"k", b"1")
    state.machine.close()
    before = (state.path / "data.mdb").stat().st_size

    def refused(fd: int, offset: int, length: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refused)
    if number == errno.EOPNOTSUPP:  # written by calls, then
        again = State(state.path)
        again.put(b"k", b"2")
        again.machine.close()
        assert (state.path / "data.mdb").stat().st_size < 1 << 20
    else:
        with pytest.raises(StoreFailed, match=os.strerror(number)):
            State(state.path)
        assert (state.path / "data.mdb").stat().st_size == before
    monkeypatch.undo()
    assert State(state.path).value(b"k") == (b"2" if number == errno.EOPNOTSUPP else b"1")


def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"not a database" * 1000)
    with pytest.raises(UnknownFormat):
        Store(tmp_path, MAP_BYTES, 8)


def test_a_place_that_cannot_hold_a_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreFailed, match="file"):
        Store(tmp_path / "file" / "live", MAP_BYTES, 8)


def test_a_closed_store_refuses_and_closing_twice_is_fine(state: State) -> None:
    state.machine.close()
    state.machine.close()
    with pytest.raises(StoreFailed, match="closed"), state.store.read():
        pass
    with pytest.raises(StoreFailed, match="closed"):
        state.put(b"k")


def test_close_waits_for_a_snapshot_of_another_thread(state: State) -> None:
    state.put(b"k", b"1")
    reading, finish = threading.Event(), threading.Event()
    seen: list[object] = []

    def read() -> None:
        with state.reader() as reader:
            reading.set()
            finish.wait(10)
            seen.append(reader.get("n", "s", b"k"))

    def refused() -> bool:
        try:
            with state.store.read():
                return False
        except StoreFailed:
            return True

    reader, closer = threading.Thread(target=read), threading.Thread(target=state.machine.close)
    reader.start()
    assert reading.wait(10)
    closer.start()
    wait_until(refused)  # Nobody new gets in while it waits.
    assert closer.is_alive()
    finish.set()
    reader.join(10)
    closer.join(10)
    assert not closer.is_alive()
    assert len(seen) == 1


def test_close_gives_up_on_a_snapshot_that_never_ends(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "CLOSE_WAIT_SECONDS", 0.01)
    with state.store.read(), pytest.raises(StoreFailed, match="1 snapshots"):
        state.machine.close()


# -- limits ------------------------------------------------------------------------------


def test_a_full_store_says_which_limit_and_keeps_nothing_of_the_entry(tmp_path: Path) -> None:
    path = tmp_path / "live"
    state = State(path, replace(Limits(), watch_window_changes_max=10**6))
    state.machine.close()
    state.store = Store(path, 1 << 20, 8)
    state.machine = StateMachine(state.store, Limits(), None)

    def fill() -> None:
        for number in range(1000):
            state.put(b"%d" % number, b"x" * 10_000)

    with pytest.raises(StoreFull, match="map_bytes = 1048576") as caught:
        fill()
    assert caught.value.map_bytes == 1 << 20
    applied = state.machine.applied_index
    assert 0 < applied < 1000
    assert state.get(b"%d" % applied) is None
    with state.store.read() as snapshot:
        assert check(snapshot, REGISTRY) == []
    # With more room the same entry goes in.
    state.reopen()
    assert state.machine.applied_index == applied
    assert state.put(b"%d" % applied, b"x" * 10_000).revision == applied + 1
    state.machine.close()


def test_snapshots_are_bounded_and_come_back(tmp_path: Path) -> None:
    store = Store(tmp_path / "live", MAP_BYTES, 3)
    for _ in range(3):
        with ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(store.read())
            with pytest.raises(ReadersBusy, match="3 readers"), store.read():
                pass
    store.close()


def test_a_snapshot_ends_with_its_block_even_if_it_is_kept(tmp_path: Path) -> None:
    store = Store(tmp_path / "live", MAP_BYTES, 3)
    kept = []
    for _ in range(20):
        with store.read() as snapshot:
            kept.append((snapshot, KvReader(snapshot)))
    with pytest.raises(AttributeError):
        kept[0][1].get("n", "s", b"k")
    store.close()


def test_what_lmdb_says_in_a_snapshot_becomes_an_error_of_this_package(state: State) -> None:
    with pytest.raises(StoreFailed, match="live"), state.store.read() as snapshot:
        snapshot.txn.get(b"", db=snapshot.databases.leaves)


def test_the_file_stops_growing_when_the_window_is_full(tmp_path: Path) -> None:
    limits = replace(Limits(), watch_window_changes_max=20, history_versions_max=2)
    state = State(tmp_path / "live", limits)
    sizes = []
    for number in range(1500):
        state.put(b"k%d" % (number % 10), b"x" * 3000)
        state.get(b"k1")
        if number % 500 == 499:
            sizes.append((state.path / "data.mdb").stat().st_size)
    # A snapshot that is left open would pin pages: the file would then grow with each put.
    assert sizes[0] == sizes[1] == sizes[2]
    state.machine.close()


# -- snapshots and threads ---------------------------------------------------------------


def test_a_snapshot_does_not_move_and_apply_does_not_wait_for_it(state: State) -> None:
    state.put(b"k", b"1")
    with state.reader() as old:
        state.put(b"k", b"2")
        with state.reader() as new:
            for reader, value in ((old, b"1"), (new, b"2")):
                record = reader.get("n", "s", b"k")
                assert record is not None
                assert record.value == value
            assert (old.revision, new.revision) == (1, 2)


def test_a_second_write_transaction_is_refused_rather_than_waited_for(state: State) -> None:
    with state.store.write(), pytest.raises(RuntimeError, match="open already"):
        state.put(b"k")
    state.put(b"k")


def test_an_exception_aborts_the_whole_transaction(state: State) -> None:
    before = state.digest()

    def fail() -> None:
        with state.store.write() as txn:
            txn.put(b"x", b"y", db=state.store.databases.meta)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert state.digest() == before


def test_readers_in_other_threads_see_whole_commits(state: State) -> None:
    pair = (b"a", b"b" * 1000)
    torn: list[object] = []
    stop = threading.Event()
    rounds = [0, 0]

    def read(place: int) -> None:
        while not stop.is_set():
            with state.reader() as reader:
                records = [reader.get("n", "s", key) for key in pair]
                page = reader.scan("n", "s", b"", None, 10, 1 << 20, True)
            values = {record and record.value for record in (*records, *page.records)}
            if len(values) > 1:
                torn.append(values)
            rounds[place] += 1

    threads = [threading.Thread(target=read, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for number in range(200):
        state.txn(*(TxnPut(key, b"%d" % number, "") for key in pair))
    wait_until(lambda: min(rounds) > 10)
    stop.set()
    for thread in threads:
        thread.join(10)
    assert torn == []


# -- copies and replacement --------------------------------------------------------------


def copy_of(state: State, path: Path) -> tuple[int, int]:
    with path.open("wb") as file:
        return state.machine.copy_to(file.fileno())


def accept(txn: Transaction, databases: Databases) -> None:
    """Any state will do."""


def leftovers(state: State) -> list[str]:
    return sorted(path.name for path in state.path.parent.glob("live?*"))


@pytest.fixture
def other(state: State, tmp_path: Path) -> Path:
    """The data file of another state: of index 3, with the one key b."""
    donor = State(tmp_path / "donor")
    for value in (b"1", b"2", b"3"):
        donor.put(b"b", value)
    assert copy_of(donor, tmp_path / "copy") == (3, 1)
    donor.machine.close()
    return tmp_path / "copy"


def test_a_copy_is_of_one_moment_and_without_free_pages(state: State, tmp_path: Path) -> None:
    for number in range(200):
        state.put(b"%d" % number, b"x" * 5000)
    with state.store.read() as snapshot, (tmp_path / "copy").open("wb") as file:
        state.put(b"later", b"y")
        snapshot.copy_to(file.fileno())
    state.machine.replace(tmp_path / "copy", 200, 1)
    assert state.value(b"later") is None
    assert state.value(b"199") == b"x" * 5000
    with state.store.read() as snapshot:
        assert check(snapshot, REGISTRY) == []
    state.store.sync()
    assert copy_of(state, tmp_path / "copy") == (200, 1)
    with state.store.write() as txn:
        txn.drop(state.store.databases.changes, delete=False)
    copy_of(state, tmp_path / "smaller")
    assert (tmp_path / "smaller").stat().st_size < (tmp_path / "copy").stat().st_size / 2


@pytest.mark.parametrize("share", [0.25, 0.0])
def test_a_copy_has_the_file_read_ahead_unless_it_is_large(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    state.put(b"k", b"x" * 3_000_000)
    asked: list[tuple[int, int]] = []

    def advise(fd: int, offset: int, length: int, advice: int) -> None:
        if advice == os.POSIX_FADV_WILLNEED:
            asked.append((offset, offset + length))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    monkeypatch.setattr(environment, "PREFETCH_SHARE", share)
    with (tmp_path / "copy").open("wb") as file:
        state.machine.copy_to(file.fileno())
    assert (tmp_path / "copy").stat().st_size > 3_000_000
    assert [first for first, _ in asked] == ([0] if share else [])
    assert all(end >= 3_000_000 for _, end in asked)


def test_copies_are_made_beside_writes(state: State, tmp_path: Path) -> None:
    for number in range(100):
        state.put(b"%d" % number, b"x" * 10_000)
    read_end, write_end = os.pipe()
    positions: list[tuple[int, int]] = []

    def copy() -> None:
        positions.append(state.machine.copy_to(write_end))
        os.close(write_end)

    thread = threading.Thread(target=copy)
    thread.start()
    data = os.read(read_end, 1)  # The copy has begun, and cannot end: a pipe holds little.
    for number in range(50):
        state.put(b"%d" % number, b"y" * 10_000)
    while chunk := os.read(read_end, 1 << 16):
        data += chunk
    thread.join(20)
    os.close(read_end)
    assert positions == [(100, 1)]
    (tmp_path / "copy").write_bytes(data)
    state.machine.replace(tmp_path / "copy", 100, 1)
    assert state.value(b"7") == b"x" * 10_000


def test_a_copy_that_nobody_reads_fails_and_harms_nothing(state: State) -> None:
    state.put(b"k", b"x" * 100_000)
    read_end, write_end = os.pipe()
    os.close(read_end)
    with pytest.raises(StoreFailed, match="live"):
        state.machine.copy_to(write_end)
    os.close(write_end)
    assert state.value(b"k") == b"x" * 100_000


def test_a_replaced_state_is_the_other_one_for_good(state: State, other: Path) -> None:
    state.put(b"a", b"1")
    state.machine.replace(other, 3, 1)
    assert not other.exists()
    assert (state.value(b"a"), state.value(b"b")) == (None, b"3")
    assert state.machine.applied_index == 3
    assert state.put(b"c").revision == 4
    state.reopen()
    assert (state.value(b"b"), state.machine.applied_index) == (b"3", 4)
    with state.store.read() as snapshot:
        assert check(snapshot, REGISTRY) == []
    assert leftovers(state) == []


def test_open_snapshots_keep_the_state_they_see(state: State, other: Path) -> None:
    state.put(b"a", b"1")
    with state.reader() as old:
        state.machine.replace(other, 3, 1)
        with state.reader() as new:
            for reader, known, unknown in ((old, b"a", b"b"), (new, b"b", b"a")):
                assert reader.get("n", "s", known) is not None
                assert reader.get("n", "s", unknown) is None
                assert reader.stats().map_bytes_used > 0
        state.put(b"a", b"2")
        record = old.get("n", "s", b"a")
        assert record is not None
        assert record.value == b"1"
        assert len(leftovers(state)) == 1
    wait_until(lambda: leftovers(state) == [])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is mapped")
def test_many_replacements_leave_no_file_open(state: State, tmp_path: Path) -> None:
    state.put(b"a", b"1")
    copy_of(state, tmp_path / "first")
    with state.reader() as first:
        for number in range(5):
            (tmp_path / "next").write_bytes((tmp_path / "first").read_bytes())
            state.machine.replace(tmp_path / "next", 1, 1)
            assert state.put(b"b", b"%d" % number).revision == 2
        assert first.get("n", "s", b"a") is not None
    wait_until(lambda: leftovers(state) == [])
    state.machine.close()
    maps = Path("/proc/self/maps").read_text().splitlines()
    assert [line for line in maps if str(tmp_path) in line] == []


def test_a_snapshot_taken_before_and_entered_after_sees_the_new_state(
    state: State, other: Path
) -> None:
    snapshot = state.store.read()
    state.machine.replace(other, 3, 1)
    with snapshot:
        assert KvReader(snapshot).get("n", "s", b"b") is not None


def test_close_waits_for_snapshots_of_a_replaced_state(state: State, other: Path) -> None:
    reading, finish = threading.Event(), threading.Event()

    def read() -> None:
        with state.reader():
            reading.set()
            finish.wait(10)

    reader = threading.Thread(target=read)
    reader.start()
    assert reading.wait(10)
    state.machine.replace(other, 3, 1)
    closer = threading.Thread(target=state.machine.close)
    closer.start()
    assert closer.is_alive()
    finish.set()
    closer.join(10)
    reader.join(10)
    assert not closer.is_alive()
    assert leftovers(state) == []


@pytest.mark.parametrize("position", [(2, 1), (3, 2)])
def test_a_state_of_another_position_is_refused_and_nothing_changes(
    state: State, other: Path, position: tuple[int, int]
) -> None:
    state.put(b"a", b"1")
    with pytest.raises(CorruptRecord, match="expected"):
        state.machine.replace(other, *position)
    assert state.value(b"a") == b"1"
    state.put(b"a", b"2")
    state.reopen()
    assert state.value(b"a") == b"2"
    assert leftovers(state) == []


def test_a_file_that_is_no_state_is_refused_and_nothing_changes(
    state: State, tmp_path: Path
) -> None:
    state.put(b"a", b"1")
    (tmp_path / "copy").write_bytes(b"not a database" * 1000)
    with pytest.raises(UnknownFormat):
        state.machine.replace(tmp_path / "copy", 1, 1)
    with pytest.raises(StoreFailed, match="No such file"):
        state.machine.replace(tmp_path / "absent", 1, 1)
    (tmp_path / "copy").touch()
    with pytest.raises(CorruptRecord, match="missing"):
        state.machine.replace(tmp_path / "copy", 1, 1)
    assert state.value(b"a") == b"1"
    state.put(b"a", b"2")


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_replacement_cut_short_leaves_the_old_state_or_none(
    state: State, other: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    """The process dies before rename number `renames` of: take the file, old away, new in."""
    state.put(b"a", b"1")
    real = os.rename
    left = [renames]

    def rename(source: Path, target: Path) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError("died")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename)
        with pytest.raises(StoreFailed, match="died"):
            state.machine.replace(other, 3, 1)
    state.reopen()
    assert leftovers(state) == []
    expected = (0, None) if renames == 2 else (1, b"1")
    assert (state.machine.applied_index, state.value(b"a")) == expected


def test_a_store_is_not_replaced_in_a_transaction_or_after_its_end(
    state: State, other: Path
) -> None:
    with state.store.write(), pytest.raises(RuntimeError, match="transaction"):
        state.store.replace(other, accept)
    state.machine.close()
    with pytest.raises(StoreFailed, match="closed"):
        state.store.replace(other, accept)
    with pytest.raises(StoreFailed, match="closed"):
        state.store.release_memory()


def resident_bytes(path: Path) -> int:
    """Bytes of the file's mapping that count as this process's memory."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    for line in lines:
        if line.endswith(f"{path}/data.mdb"):
            return next(int(each.split()[1]) << 10 for each in lines if each.startswith("Rss:"))
    raise AssertionError(f"{path} is not mapped")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells where a file is mapped")
@pytest.mark.parametrize("replaced", [False, True])
def test_memory_of_pages_that_were_read_can_be_given_back(
    state: State, tmp_path: Path, replaced: bool
) -> None:
    for number in range(300):
        state.put(b"%d" % number, b"x" * 20_000)
    if replaced:
        copy_of(state, tmp_path / "copy")
        state.machine.replace(tmp_path / "copy", 300, 1)
    with state.reader() as reader:
        every = reader.scan("n", "s", b"", None, 300, 1 << 30, True)
        assert resident_bytes(state.path) > 5 << 20
        state.machine.release_memory()
        assert resident_bytes(state.path) < 1 << 20
        # Snapshots and writes go on as if nothing had happened.
        assert reader.scan("n", "s", b"", None, 300, 1 << 30, True) == every
    state.put(b"new", b"y")
    state.machine.release_memory()
    assert state.value(b"new") == b"y"
    with state.store.read() as snapshot:
        assert check(snapshot, REGISTRY) == []


# -- crashes and corruption --------------------------------------------------------------

CRASH = """
import os, signal, sys
from pathlib import Path
from tests.unit.engine_state import State
state = State(Path(sys.argv[1]))
for number in range(200):
    state.put(b"%d" % number, b"x" * 5000)
with state.store.write() as txn:
    txn.put(b"half", b"done", db=state.store.databases.meta)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_applied_survives_the_death_of_the_process(tmp_path: Path) -> None:
    path = tmp_path / "live"
    died = subprocess.run(
        [sys.executable, "-c", CRASH, str(path)], env={**os.environ, "PYTHONPATH": "."}, check=False
    )
    assert died.returncode == -signal.SIGKILL
    state = State(path)
    assert state.machine.applied_index == 200
    assert state.value(b"199") == b"x" * 5000
    with state.store.read() as snapshot:
        assert check(snapshot, REGISTRY) == []
    state.put(b"200")
    state.machine.close()


def populate(state: State) -> None:
    """At least one record in each database, and a directory."""
    state.put(b"k", b"value", ttl=100)
    state.put(b"d" * 1000, b"deep")
    state.put(b"gone")
    state.delete(b"gone")
    state.txn(TxnGet(b"k"), request_id="r")
    state.collection("collection_create", "c", {"engine": "tally", "settings": {}})
    state.collection("tally_add", "c", ["a", 5])


def every_read(state: State) -> None:
    with state.reader() as reader:
        reader.stats()
        reader.changes(ChangeId(0, 0), 100, 1 << 20, True)
        reader.scan("n", "s", b"", None, 100, 1 << 20, True)
        for key in (b"k", b"d" * 1000, b"gone"):
            reader.get("n", "s", key)
            reader.history("n", "s", key, None, 10, 1 << 20, True)
        reader.collections.query("n", "c", "tally_get", {"name": "a"})
    state.txn(TxnGet(b"k"), request_id="r")


@pytest.mark.parametrize("name", [name for name in Databases._fields if name != "expiry"])
def test_a_flipped_bit_is_noticed_wherever_it_is(state: State, name: str) -> None:
    populate(state)
    database = getattr(state.store.databases, name)
    every_read(state)
    entries = contents(state, name)
    assert entries
    for key, value in entries:
        for place in {0, 3, 4, len(value) // 2, len(value) - 1}:
            flipped = bytearray(value)
            flipped[place] ^= 0x10
            with state.store.write() as txn:
                txn.put(key, bytes(flipped), db=database)
            with state.store.read() as snapshot:
                assert check(snapshot, REGISTRY) != [], (key, place)
            # These are read at start, when an id is forgotten, and when the window moves on.
            if name not in ("request_order", "leaving") and key not in (b"format", b"limits"):
                with pytest.raises(CorruptRecord):
                    every_read(state)
            with state.store.write() as txn:
                txn.put(key, value, db=database)
    every_read(state)


@pytest.mark.parametrize("key", [b"format", b"limits", b"counters"])
def test_a_store_whose_own_records_are_damaged_does_not_open(state: State, key: bytes) -> None:
    populate(state)
    (value,) = (value for name, value in contents(state, "meta") if name == key)
    with state.store.write() as txn:
        txn.put(key, value[:-1] + b"\xff", db=state.store.databases.meta)
    state.machine.close()
    with pytest.raises(CorruptRecord, match="meta"):
        state.open()
    state.machine.close()


def contents(state: State, name: str) -> list[tuple[bytes, bytes]]:
    database = getattr(state.store.databases, name)
    with state.store.read() as snapshot, snapshot.txn.cursor(db=database) as cursor:
        return [(bytes(key), bytes(value)) for key, value in cursor]


def test_a_record_under_another_key_is_noticed(state: State) -> None:
    state.put(b"mine", b"secret", session="one")
    state.put(b"mine", b"other", session="two")
    databases = state.store.databases
    with state.store.write() as txn:
        # Session two is led to session one's records.
        root = bytes(txn.get(b"n\x00one", db=databases.sessions) or b"")
        txn.put(b"n\x00two", root, db=databases.sessions)
    with pytest.raises(CorruptRecord, match="sessions"):
        state.get(b"mine", session="two")
    with state.store.write() as txn:
        # Even where every checksum holds, a value must name the record that it is shown as.
        txn.put(b"n\x00two", seal(b"n\x00two", root[4:]), db=databases.sessions)
    with pytest.raises(CorruptRecord, match="another record"):
        state.get(b"mine", session="two")
    with state.store.read() as snapshot:
        assert check(snapshot, REGISTRY) != []


@pytest.mark.parametrize("name", Databases._fields)
def test_check_misses_no_missing_record(tmp_path: Path, name: str) -> None:
    state = State(tmp_path / "live", registry=REGISTRY)
    populate(state)
    database = getattr(state.store.databases, name)
    for key, value in contents(state, name):
        if key in (b"format", b"limits"):
            continue  # Without them a store is refused, or gets new ones, when it is opened.
        with state.store.write() as txn:
            assert txn.delete(key, db=database)
        with state.store.read() as snapshot:
            assert check(snapshot, REGISTRY) != [], key
        with state.store.write() as txn:
            txn.put(key, value, db=database)
    state.machine.close()


def test_check_counts_and_names_what_is_wrong(state: State) -> None:
    populate(state)
    databases = state.store.databases
    with state.store.write() as txn:
        txn.put(b"\x00" * 20, b"", db=databases.expiry)
        empty = (99).to_bytes(8)
        txn.put(b"n\x00empty", seal(b"n\x00empty", empty), db=databases.sessions)
        entry = empty + b"p" * 480 + b"\x01"
        txn.put(entry, seal(entry, (98).to_bytes(8)), db=databases.leaves)
    with state.store.read() as snapshot:
        problems = "\n".join(check(snapshot, REGISTRY))
    for words in ("expiry has 2 entries", "session b'n\\x00empty' is empty", "is empty"):
        assert words in problems


def test_reads_on_an_empty_state_find_nothing(state: State) -> None:
    with state.reader() as reader:
        assert reader.get("n", "s", b"k") is None
        assert reader.get_at("n", "s", b"k", 0) is None
        assert reader.scan("n", "s", b"", None, 10, 10, True).records == ()
        assert reader.namespaces(None, 10) == reader.sessions("n", None, 10) == []
        assert reader.due(NOW, 10) == []
        assert reader.changes(ChangeId(0, 0), 10, 10, True) == []
        assert isinstance(reader, KvReader)


def test_names_that_cannot_be_are_not_found(state: State) -> None:
    state.put(b"k")
    long = "x" * 5000
    with state.reader() as reader:
        for namespace, session, key in (
            (long, "s", b"k"),
            ("n", long, b"k"),
            ("n", "s", b"k" * 70_000),
            ("n", "s", b""),
            ("", "", b"k"),
            ("n\x00s", "", b"k"),
        ):
            assert reader.get(namespace, session, key) is None
            assert reader.get_at(namespace, session, key, 0) is None
            assert reader.history(namespace, session, key, None, 1, 1, True).changes == ()
        assert reader.scan(long, "s", b"", None, 1, 1, True).records == ()
        assert reader.scan("n", "s", b"z" * 70_000, None, 1, 1, True).records == ()
        assert reader.scan("n", "s", b"", b"z" * 70_000, 1, 1, True).records == ()
        assert len(reader.scan("n", "s", b"", b"a" * 70_000, 1, 1, True).records) == 1
        assert reader.namespaces(long, 10) == reader.sessions(long, None, 10) == []
        assert reader.namespaces("a" * 5000, 10) == ["n"]
        assert reader.sessions("n", long, 10) == []
        assert reader.sessions("n", "a" * 5000, 10) == ["s"]
