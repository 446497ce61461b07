"""An apply writes once, at its end; nobody may be able to tell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from engines.change_log import WAITING_BYTES_MAX
from engines.check import check
from engines.command import Command, Delete, Put, encode
from engines.errors import CorruptRecord
from engines.interfaces import ChangeId, Limits
from engines.layout import pack_change_id, seal
from tests.unit.engine_state import NOW, Entry, State

SMALL = replace(
    Limits(), watch_window_changes_max=4, history_versions_max=2, watch_window_bytes_max=1 << 30
)


def commands(count: int, value_bytes: int, seed: int) -> list[Command]:
    """Writes and deletions of few keys, some of them long enough for directories."""
    rng = Random(seed)
    keys = [b"a", b"b", b"d" * 500, b"d" * 500 + b"e", b"d" * 1000]
    return [
        Put("n", "s", rng.choice(keys), rng.randbytes(value_bytes), "", NOW)
        if rng.random() < 0.7
        else Delete("n", "s", rng.choice(keys), NOW)
        for _ in range(count)
    ]


@pytest.mark.parametrize(
    ("count", "value_bytes"), [(200, 10), (30, WAITING_BYTES_MAX // 7), (8, WAITING_BYTES_MAX + 1)]
)
def test_one_apply_writes_what_one_per_command_does(
    tmp_path: Path, count: int, value_bytes: int
) -> None:
    """Also where the window is shorter than the apply, and where values wait no longer."""
    for seed in range(10):
        made = commands(count, value_bytes, seed)
        together = State(tmp_path / f"{seed}-together", SMALL)
        entry = Entry(1, 1, [encode(command) for command in made])
        (results,) = together.machine.apply([entry])
        alone = State(tmp_path / f"{seed}-alone", SMALL)
        assert [alone.apply(command)[0] for command in made] == results, seed
        # An entry each ends at another index: give both the same.
        last = [Entry(count + 1, 1, [encode(Put("n", "s", b"z", b"", "", NOW))])]
        together.machine.apply(last)
        alone.machine.apply(last)
        assert together.digest() == alone.digest(), seed
        assert list(together.heard) == list(alone.heard), seed
        with together.store.read() as snapshot:
            assert check(snapshot) == [], seed
        together.machine.close()
        alone.machine.close()


def damaged(tmp_path: Path) -> State:
    """A state whose next change makes the sweep pass the deletion of k, revision 2."""
    state = State(tmp_path / "live", replace(SMALL, watch_window_changes_max=3))
    state.put(b"k", b"1")
    state.delete(b"k")
    state.put(b"other")
    state.put(b"other")
    return state


@pytest.mark.parametrize("database", ["leaving", "graves"])
def test_a_damaged_record_of_what_goes_stops_the_apply(tmp_path: Path, database: str) -> None:
    state = damaged(tmp_path)
    handle = getattr(state.store.databases, database)
    with state.store.write() as txn:
        with txn.cursor(db=handle) as cursor:
            assert cursor.first()
            key, record = bytes(cursor.key()), bytearray(cursor.value())
        record[-1] ^= 1
        txn.put(key, bytes(record), db=handle)
    before = state.digest()
    with pytest.raises(CorruptRecord, match=database):
        state.put(b"one")
    assert state.digest() == before
    state.machine.close()


def test_a_change_that_is_gone_already_stops_the_apply(tmp_path: Path) -> None:
    state = damaged(tmp_path)
    # It is retained by the grave, which is forgotten with all that it retains.
    with state.store.write() as txn:
        assert txn.delete(pack_change_id(1, 0), db=state.store.databases.changes)
    with pytest.raises(CorruptRecord, match="to be dropped is missing"):
        state.put(b"one")
    state.machine.close()


def test_a_newer_change_than_the_counters_know_stops_the_apply(tmp_path: Path) -> None:
    state = damaged(tmp_path)
    newer = pack_change_id(99, 0)
    with state.store.write() as txn:
        txn.put(newer, seal(newer, b""), db=state.store.databases.changes)
    with pytest.raises(CorruptRecord, match="newer change"):
        state.put(b"one")
    state.machine.close()


def test_check_notices_what_leaves_wrongly(tmp_path: Path) -> None:
    state = damaged(tmp_path)
    retained = pack_change_id(4, 0)
    with state.store.write() as txn:
        txn.put(retained, seal(retained, b""), db=state.store.databases.leaving)
        txn.delete(pack_change_id(2, 0), db=state.store.databases.leaving)
    with state.store.read() as snapshot:
        found = "\n".join(check(snapshot))
    assert "leaving (4, 0): the change is retained" in found
    assert "its deletion is not in leaving" in found
    state.machine.close()


def test_changes_are_heard_as_a_sequence(tmp_path: Path) -> None:
    state = State(tmp_path / "live")
    state.apply(*(Put("n", "s", b"%d" % n, b"v", "text/plain", NOW, NOW + 5) for n in range(3)))
    assert [change.id for change in state.heard] == [ChangeId(n, 0) for n in (1, 2, 3)]
    heard = state.heard[1]
    assert (heard.key, heard.value, heard.content_type) == (b"1", b"v", "text/plain")
    assert (heard.size, heard.version, heard.expires_ms) == (1, 1, NOW + 5)
    state.machine.close()
