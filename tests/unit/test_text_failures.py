"""Full-text indexes that fail, are put away while they are used, or would take too much."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from engines import session_indexes, session_search, text_changes, text_index
from engines.errors import BuilderBusy, EngineError, QueryCancelled
from engines.record_text import key_text
from engines.session_search import SearchSession
from engines.text import TEXT
from engines.text_changes import Changes
from engines.text_index import TextIndex
from tests.unit.engine_state import State, checked_state

SECONDS = 20.0
FULL = sqlite3.OperationalError("database or disk is full")
DAMAGED = sqlite3.DatabaseError("database disk image is malformed")
FAULTS = [("INSERT INTO texts (", FULL), ("DELETE FROM texts", FULL), ("SELECT items.key", DAMAGED)]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with checked_state(tmp_path / "state") as made:
        yield made


def keys(state: State, query: str = "bee", session: str = "s") -> list[bytes]:
    hits = state.read(SearchSession("n", session, query).run).found.hits
    return [hit.record.key for hit in hits]


def indexes(state: State) -> session_indexes.SessionIndexes:
    return state.machine.indexes.sessions


def only(state: State) -> TextIndex:
    (entry,) = indexes(state)._found.values()
    return entry.index


class Faulty:
    """A database whose first statement that begins so fails, and takes the transaction along."""

    def __init__(self, database: Any, statement: str, error: sqlite3.Error) -> None:
        self._database = database
        self._statement = statement
        self._error = error
        self.failed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def execute(self, statement: str, *values: Any) -> Any:
        if statement.startswith(self._statement) and not self.failed:
            self.failed = True
            if self._database.in_transaction:
                self._database.execute("COMMIT")
            raise self._error
        return self._database.execute(statement, *values)


@contextmanager
def faulty(statement: str, error: sqlite3.Error) -> Iterator[list[Faulty]]:
    """The next database fails; others do not."""
    made: list[Faulty] = []
    connect = sqlite3.connect

    def connected(*details: Any, **more: Any) -> Any:
        database = connect(*details, **more)
        if made:
            return database
        made.append(Faulty(database, statement, error))
        return made[0]

    with patch.object(text_index.sqlite3, "connect", connected):
        yield made


def is_closed(database: Any) -> bool:
    try:
        database.execute("SELECT 1")
    except sqlite3.ProgrammingError:
        return True
    return False


# --- What failed is made again -----------------------------------------------------------


@pytest.mark.parametrize(("statement", "error"), FAULTS)
def test_a_session_is_searched_again_once_its_index_has_failed(
    state: State, statement: str, error: sqlite3.Error
) -> None:
    """While it takes in what changed, or finds."""
    for name in (b"a", b"b", b"c"):
        state.put(name, b"bee")
    assert keys(state) == [b"a", b"b", b"c"]
    failing = only(state)
    failing._database = Faulty(failing._database, statement, error)  # type: ignore[assignment]
    state.put(b"b", b"cat")
    state.put(b"d", b"bee")
    with pytest.raises(EngineError, match=str(error)):
        keys(state)
    assert is_closed(failing._database)
    assert keys(state) == [b"a", b"c", b"d"]
    assert only(state) is not failing


@pytest.mark.parametrize(("statement", "error"), [FAULTS[0], FAULTS[2], ("COMMIT", FULL)])
def test_a_session_is_searched_again_once_building_has_failed(
    state: State, statement: str, error: sqlite3.Error
) -> None:
    state.put(b"a", b"bee")
    with faulty(statement, error) as made:
        with pytest.raises(EngineError, match=str(error)):
            keys(state)
        assert is_closed(made[0]._database)
        assert keys(state) == [b"a"]


@pytest.mark.parametrize(("statement", "error"), FAULTS)
def test_a_collection_is_searched_again_once_its_index_has_failed(
    state: State, statement: str, error: sqlite3.Error
) -> None:
    def write(name: str, text: str) -> None:
        parameters = {"documents": [{"id": name, "text": text}]}
        state.collection("text_upsert", "c", TEXT.prepare("text_upsert", parameters))

    def found() -> list[str]:
        hits = state.query("c", "text_search", query="bee")["hits"]
        return sorted(hit["id"] for hit in hits)

    state.collection("collection_create", "c", {"engine": "text", "settings": {}})
    write("1", "bee")
    write("2", "bee")
    with faulty(statement, error) as made:
        if statement == "DELETE FROM texts":
            assert found() == ["1", "2"]
        write("1", "cat")
        write("3", "bee")
        with pytest.raises(EngineError, match=str(error)):
            found()
        assert made[0].failed
        assert is_closed(made[0]._database)
        assert found() == ["2", "3"]


# --- Put away while it is used -----------------------------------------------------------


@contextmanager
def building(state: State, answers: list[Any]) -> Iterator[threading.Event]:
    """A search of the session `s` that builds its index until the event is set."""
    begun, done = threading.Event(), threading.Event()

    def slow(key: bytes) -> str:
        begun.set()
        assert done.wait(SECONDS)
        return key_text(key)

    with patch.object(session_indexes, "key_text", slow):
        builder = threading.Thread(target=lambda: answers.append(keys(state)))
        builder.start()
        try:
            assert begun.wait(SECONDS)
            yield done
        finally:
            done.set()
            builder.join(SECONDS)
        assert not builder.is_alive()


def at_once(work: Callable[[], object]) -> None:
    """It does not wait for what goes on until this has returned."""
    ended: list[bool] = []

    def run() -> None:
        work()
        ended.append(True)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(SECONDS / 4)
    assert ended


def test_who_puts_an_index_away_does_not_wait_for_its_search(state: State) -> None:
    state.put(b"a", b"bee")
    answers: list[Any] = []
    with building(state, answers):
        used = only(state)
        at_once(indexes(state).clear)
        assert not indexes(state)
        assert not is_closed(used._database)
    assert answers == [[b"a"]]
    assert is_closed(used._database)
    assert only(state) is not used


def test_a_large_index_is_freed_by_a_thread(state: State) -> None:
    state.put(b"a", b"bee")
    assert keys(state) == [b"a"]
    database = only(state)._database
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def noted(thread: threading.Thread) -> None:
        started.append(thread)
        start(thread)

    with (
        patch.object(text_index, "_PAGES_CLOSED_AT_ONCE", 0),
        patch.object(threading.Thread, "start", noted),
    ):
        indexes(state).clear()
    (thread,) = started
    thread.join(SECONDS)
    assert is_closed(database)


def test_an_index_beside_is_put_away_without_waiting(state: State) -> None:
    """That of an older snapshot, which is being searched."""
    state.put(b"a", b"bee")
    assert keys(state) == [b"a"]
    used = only(state)
    with used._aside_lock:
        at_once(used.close)
    assert is_closed(used._database)


# --- Bounds ------------------------------------------------------------------------------


def test_an_index_goes_when_too_many_bytes_of_keys_wait(state: State) -> None:
    state.put(b"a", b"bee")
    assert keys(state) == [b"a"]
    with patch.object(session_indexes, "WAITING_BYTES_MAX", 20):
        for _ in range(3):
            state.put(b"k" * 20, b"bee")
            assert len(indexes(state)) == 1
        state.put(b"b", b"bee")
        assert not indexes(state)
    assert keys(state) == [b"a", b"b", b"k" * 20]


def test_what_was_taken_in_waits_no_more() -> None:
    changes = Changes()
    for place in range(3):
        changes.changed(b"key%d" % place, place)
        changes.changed(b"key%d" % place, place)
    assert changes.waiting == (3, 12)
    changes.taking([b"key0", b"key1", b"other"])
    assert changes.waiting == (4, 17)
    changes.taken([b"key0", b"key1", b"other"], 5)
    assert changes.waiting == (1, 4)
    changes.changed(b"key0", 6)
    assert changes.waiting == (2, 8)


def test_keys_that_were_taken_in_are_remembered_up_to_so_many_bytes() -> None:
    changes = Changes()
    names = [b"%04d" % place for place in range(1, 11)]
    for place, name in enumerate(names, 1):
        changes.changed(name, place)
    changes.taking(names)
    with patch.object(text_changes, "REMEMBERED_BYTES_MAX", 12):
        changes.taken(names, 10)
    assert not changes.knows(6)
    assert changes.due(7) == names[7:]


def test_a_key_that_changes_again_counts_once_where_it_is_remembered() -> None:
    changes = Changes()
    with patch.object(text_changes, "REMEMBERED_BYTES_MAX", 4):
        for place in range(1, 9):
            changes.changed(b"name", place)
            changes.taking([b"name"])
            changes.taken([b"name"], place)
    assert changes.knows(0)


def test_too_many_bytes_of_keys_are_not_looked_up_in_the_log_of_changes(state: State) -> None:
    state.put(b"a", b"bee")
    with state.reader() as old, patch.object(session_search, "WAITING_BYTES_MAX", 9):
        state.put(b"k" * 10, b"bee")
        with patch.object(TextIndex, "hear", autospec=True, side_effect=TextIndex.hear) as hear:
            found = SearchSession("n", "s", "bee").run(old).found.hits
        assert [hit.record.key for hit in found] == [b"a"]
        assert all(not list(call.args[1]) for call in hear.call_args_list)
    assert keys(state) == [b"a", b"k" * 10]


def test_changes_are_told_while_a_search_looks_at_those_before(state: State) -> None:
    state.put(b"a", b"bee")
    assert keys(state) == [b"a"]
    state.put(b"b", b"bee")
    used = only(state)
    due = Changes.due

    def looked(changes: Changes, applied: int) -> list[bytes]:
        at_once(lambda: used.hear([b"c"], applied + 1))
        return due(changes, applied)

    with patch.object(Changes, "due", looked):
        assert keys(state) == [b"a", b"b"]


# --- Callers -----------------------------------------------------------------------------


@pytest.mark.parametrize("lock", ["_lock", "_aside_lock"])
def test_who_waits_for_a_search_leaves_with_the_deadline(state: State, lock: str) -> None:
    state.put(b"a", b"bee")

    def late() -> None:
        with pytest.raises(QueryCancelled):
            SearchSession("n", "s", "bee").run(reader)

    with state.reader() as reader:
        reader.stop = lambda: True
        assert keys(state) == [b"a"]
        if lock == "_aside_lock":
            only(state)._changes.begin(1_000_000)  # no snapshot is new enough
        with getattr(only(state), lock):
            at_once(late)


def refused(state: State, session: str) -> None:
    with pytest.raises(BuilderBusy):
        keys(state, session=session)


def test_a_second_index_is_not_built_meanwhile(state: State) -> None:
    state.put(b"a", b"bee")
    state.put(b"b", b"bee", session="t")
    state.put(b"c", b"bee", session="u")
    assert keys(state, session="u") == [b"c"]
    answers: list[Any] = []
    with building(state, answers):
        for _ in range(2):
            at_once(lambda: refused(state, "t"))
        assert len(indexes(state)) == 2
        # What is built already is searched.
        assert keys(state, session="u") == [b"c"]
    assert answers == [[b"a"]]
    assert keys(state, session="t") == [b"b"]


def test_what_was_begun_is_not_gone_on_with_beside_another(state: State) -> None:
    state.put(b"a", b"bee")
    state.put(b"b", b"bee", session="t")
    with state.reader() as reader:
        reader.stop = lambda: True
        with pytest.raises(QueryCancelled):
            SearchSession("n", "t", "bee").run(reader)
    assert len(indexes(state)) == 1
    answers: list[Any] = []
    with building(state, answers):
        at_once(lambda: refused(state, "t"))
    assert (answers, keys(state, session="t")) == ([[b"a"]], [b"b"])


def test_an_index_that_was_put_away_keeps_no_other_from_being_built(state: State) -> None:
    for place in range(2):
        state.put(b"%d" % place, b"bee")
    state.put(b"b", b"bee", session="t")
    used: list[TextIndex] = []
    begun, done = threading.Event(), threading.Event()
    answers: list[Any] = []

    def slow(key: bytes) -> str:
        if key == b"0" and not used:
            used.append(only(state))
            begun.set()
            assert done.wait(SECONDS)
        return key_text(key)

    with patch.object(session_indexes, "key_text", slow):
        builder = threading.Thread(target=lambda: answers.append(keys(state)))
        builder.start()
        try:
            assert begun.wait(SECONDS)
            indexes(state).clear()
            assert keys(state, session="t") == [b"b"]
        finally:
            done.set()
            builder.join(SECONDS)
    assert answers == [[b"0", b"1"]]
