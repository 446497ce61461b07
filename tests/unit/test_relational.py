"""The relational engine: SQL, what it may not do, and that replicas stay equal."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engines.check import check
from engines.codec import pack_value, unpack_value
from engines.collection_requests import QueryCollection
from engines.errors import CorruptRecord, InvalidArgument, QueryCancelled
from engines.interfaces import CollectionResult, RejectCode, Rejected
from engines.kv import KvReader
from engines.relational import RELATIONAL, Connections
from engines.space import View
from engines.tuning import Tuning
from tests.unit.engine_state import State

PEOPLE = "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, age INT)"


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = State(tmp_path / "state")
    state.collection("collection_create", "c", {"engine": "sqlite", "settings": {}})
    yield state
    with state.store.read() as snapshot:
        assert check(snapshot) == []
    state.machine.close()


def write(state: State, *statements: Any, seed: int = 1) -> Any:
    """Texts, or (text, params). The results, or the refusal."""
    pairs = [(each, []) if isinstance(each, str) else each for each in statements]
    listed = [{"sql": sql, "params": params} for sql, params in pairs]
    body = RELATIONAL.prepare("sql_execute", {"statements": listed})
    result = state.collection("sql_execute", "c", body, seed=seed)
    if isinstance(result, CollectionResult):
        return unpack_value(result.answer)["results"]
    return result


def rows(state: State, sql: str, params: Any = (), **more: Any) -> list[list[Any]]:
    found: list[list[Any]] = state.query(
        "c",
        "sql_query",
        sql=sql,
        params=params if isinstance(params, dict) else list(params),
        **more,
    )["rows"]
    return found


def test_tables_rows_and_queries(state: State) -> None:
    write(state, PEOPLE)
    made = write(
        state,
        ("INSERT INTO people (name, age) VALUES (?, ?)", ["Ann", 30]),
        ("INSERT INTO people (name, age) VALUES (:name, :age)", {"name": "Bob", "age": None}),
        "INSERT INTO people (name, age) VALUES ('Cid', 50) RETURNING id, name",
    )
    assert made[0] == {"changes": 1, "last_insert_rowid": 1}
    assert (made[2]["columns"], made[2]["rows"]) == (["id", "name"], [[3, "Cid"]])
    assert rows(state, "SELECT name FROM people WHERE age > ? ORDER BY name", [20]) == [
        ["Ann"], ["Cid"],
    ]  # fmt: skip
    assert rows(state, "SELECT count(*), avg(age) FROM people") == [[3, 40.0]]
    state.reopen()
    assert rows(state, "SELECT name FROM people WHERE name = :n", {"n": "Bob"}) == [["Bob"]]
    tables = state.query("c", "sql_tables")
    assert [row[0] for row in tables["rows"]] == ["people"]


def test_statements_happen_together_or_not_at_all(state: State) -> None:
    write(state, PEOPLE, "INSERT INTO people (name) VALUES ('Ann')")
    before = rows(state, "SELECT * FROM people")
    refused = write(
        state,
        "INSERT INTO people (name) VALUES ('Bob')",
        "CREATE TABLE other (x)",
        "INSERT INTO people (name) VALUES ('Ann')",
    )
    assert refused == Rejected(
        RejectCode.ITEM_EXISTS, "UNIQUE constraint failed: people.name", None,
        "parameters.statements[2].sql",
    )  # fmt: skip
    assert rows(state, "SELECT * FROM people") == before
    assert len(state.query("c", "sql_tables")["rows"]) == 1
    assert write(state, "INSERT INTO people (name) VALUES ('Bob')")[0]["last_insert_rowid"] == 2


def test_a_read_sees_its_own_snapshot_while_writes_go_on(state: State) -> None:
    write(state, PEOPLE)
    for number in range(50):
        write(state, ("INSERT INTO people (name) VALUES (?)", [f"p{number}"]))
    with state.reader() as old:
        for number in range(50, 300):
            write(state, ("INSERT INTO people (name) VALUES (?)", [f"p{number}"]))
        assert rows(state, "SELECT count(*) FROM people") == [[300]]
        answer, _ = old.collections.query(
            "n", "c", "sql_query", {"sql": "SELECT count(*), max(id) FROM people"}
        )
        assert answer["rows"] == [[50, 50]]  # type: ignore[call-overload, index]
    assert rows(state, "SELECT count(*) FROM people") == [[300]]


def test_time_and_randomness_are_those_of_the_command(state: State, tmp_path: Path) -> None:
    twin = State(tmp_path / "twin")
    twin.collection("collection_create", "c", {"engine": "sqlite", "settings": {}})
    state.now = twin.now = 1_700_000_000_123
    sql = "INSERT INTO t VALUES (random(), hex(randomblob(8)), datetime('now'), CURRENT_TIMESTAMP)"
    for each in (state, twin):
        write(each, "CREATE TABLE t (a, b, c, d)", sql, sql)
    assert rows(state, "SELECT * FROM t") == rows(twin, "SELECT * FROM t")
    assert rows(state, "SELECT DISTINCT c, d FROM t") == [["2023-11-14 22:13:20"] * 2]
    assert len(rows(state, "SELECT DISTINCT a FROM t UNION SELECT b FROM t")) == 4
    assert state.digest() == twin.digest()
    twin.machine.close()
    with pytest.raises(InvalidArgument, match="a read has no clock"):
        rows(state, "SELECT datetime('now')")


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("ATTACH 'x.db' AS x", "ATTACH is not allowed"),
        ("PRAGMA journal_mode = WAL", "PRAGMA journal_mode is not allowed"),
        ("PRAGMA writable_schema = 1", "PRAGMA writable_schema is not allowed"),
        ("BEGIN", "a command is one transaction"),
        ("COMMIT", "a command is one transaction"),
        ("SAVEPOINT s", "a command is one transaction"),
        ("VACUUM", "cannot VACUUM"),
        ("CREATE TEMP TABLE x (a)", "temporary tables"),
        ("SELECT load_extension('x')", "not authorized|not allowed|no such function"),
        ("CREATE VIRTUAL TABLE v USING csv(filename='/etc/passwd')", "virtual tables of csv"),
        ("INSERT INTO nowhere VALUES (1)", "no such table: nowhere"),
        ("SELEC 1", "syntax error"),
        ("INSERT INTO people (name) VALUES (?)", "[Ii]ncorrect number of bindings"),
        ("INSERT INTO people (age) VALUES (1)", "NOT NULL constraint failed"),
        ("WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c) "
         "INSERT INTO people (name) SELECT x FROM c", "takes more than|bytes_max"),
    ],
)  # fmt: skip
def test_what_sql_may_not_do(
    state: State, sql: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.relational.STEPS_MAX", 200_000)
    write(state, PEOPLE)
    before = rows(state, "SELECT * FROM people")
    refused = write(state, sql)
    assert isinstance(refused, Rejected), refused
    assert re.search(reason, refused.message), refused
    assert refused.field == "parameters.sql"
    assert rows(state, "SELECT * FROM people") == before


def test_a_read_does_not_write(state: State) -> None:
    write(state, PEOPLE)
    for sql in ("INSERT INTO people (name) VALUES ('x')", "DROP TABLE people"):
        with pytest.raises(InvalidArgument) as refused:
            rows(state, sql)
        assert refused.value.field == "parameters.sql"
    assert rows(state, "SELECT count(*) FROM people") == [[0]]


def test_blobs_numbers_and_texts_come_back(state: State) -> None:
    write(state, "CREATE TABLE v (a)")
    values = [{"base64": "AP8="}, -(1 << 63), 1.5, "ä\0b", None, True]
    for value in values:
        write(state, ("INSERT INTO v VALUES (?)", [value]))
    assert [row[0] for row in rows(state, "SELECT a FROM v ORDER BY rowid")] == [*values[:-1], 1]
    assert rows(state, "SELECT 9e999, x'00ff'") == [["inf", {"base64": "AP8="}]]


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({}, "parameters.sql"),
        ({"sql": 5}, "parameters.sql"),
        ({"sql": "SELECT 1", "params": 5}, "parameters.params"),
        ({"sql": "SELECT ?", "params": [[1]]}, "parameters.params[0]"),
        ({"sql": "SELECT ?", "params": [1 << 63]}, "parameters.params[0]"),
        ({"sql": "SELECT ?", "params": [{"base64": "!"}]}, "parameters.params[0]"),
        ({"statements": []}, "parameters.statements"),
        ({"statements": [{"sql": "SELECT 1"}, {}]}, "parameters.statements[1].sql"),
        ({"sql": "SELECT 1", "database": "x"}, "parameters.database"),
    ],
)
def test_parameters_that_are_refused(parameters: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        RELATIONAL.prepare("sql_execute", parameters)
    assert refused.value.field == field


def test_answers_are_bounded(state: State) -> None:
    write(state, "CREATE TABLE n (x)")
    write(state, "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c LIMIT 3000) "
                 "INSERT INTO n SELECT x FROM c")  # fmt: skip
    answer = state.query("c", "sql_query", sql="SELECT x FROM n", limit=10)
    assert (len(answer["rows"]), answer["truncated"]) == (10, True)
    answer = state.query("c", "sql_query", sql="SELECT x FROM n WHERE x < 5", limit=10)
    assert (answer["rows"], answer["truncated"]) == ([[1], [2], [3], [4]], False)
    with state.reader() as reader:
        reader.stop = lambda: True
        sql = "SELECT count(*) FROM n a, n b, n c"
        with pytest.raises(QueryCancelled):
            reader.collections.query("n", "c", "sql_query", {"sql": sql})


def test_a_database_does_not_grow_beyond_its_bytes(tmp_path: Path) -> None:
    state = State(tmp_path / "state")
    created = {"engine": "sqlite", "settings": {"bytes_max": 1 << 20}}
    state.collection("collection_create", "c", created)
    write(state, "CREATE TABLE t (x)")
    refused = write(state, ("INSERT INTO t VALUES (zeroblob(?))", [2 << 20]))
    assert (refused.code, refused.message) == (
        RejectCode.LIMIT_EXCEEDED, "the database has reached bytes_max",
    )  # fmt: skip
    assert rows(state, "SELECT count(*) FROM t") == [[0]]
    state.machine.close()


def test_dropped_tables_give_their_pages_back_to_others(state: State) -> None:
    fill = ("WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c LIMIT 2000) "
            "INSERT INTO t SELECT x, hex(zeroblob(50)) FROM c")  # fmt: skip
    write(state, "CREATE TABLE t (x, y)", fill)
    size = rows(state, "PRAGMA page_count")
    write(state, "DROP TABLE t")
    write(state, "CREATE TABLE t (x, y)", fill)
    assert rows(state, "PRAGMA page_count")[0][0] <= size[0][0] + 1


def test_kept_connections_hold_no_snapshot(tmp_path: Path) -> None:
    state = State(tmp_path / "state")  # of 16 readers
    for number in range(20):
        name = f"c{number}"
        state.collection("collection_create", name, {"engine": "relational", "settings": {}})
        for _ in range(2):
            assert state.query(name, "sql_query", sql="SELECT 1")["rows"] == [[1]]
    state.machine.close()


@pytest.mark.parametrize("missing", [False, True])
def test_a_damaged_page_is_damage_and_no_answer(state: State, missing: bool) -> None:
    write(state, PEOPLE, "INSERT INTO people (name) VALUES ('Ann')")
    with state.store.read() as held, held.txn.cursor(db=held.databases.items) as cursor:
        entries = [(bytes(key), bytes(value)) for key, value in cursor]
    pages = [(key, value) for key, value in entries if key[8:9] == b"p"]
    assert len(pages) == 3
    for key, value in pages:
        state.reopen()  # connections have cached the page
        with state.store.write() as txn:
            if missing:
                txn.delete(key, db=state.store.databases.items)
            else:
                txn.put(key, value[:-1] + b"\x55", db=state.store.databases.items)
        with pytest.raises(CorruptRecord):
            rows(state, "SELECT * FROM people WHERE name = 'Ann'")  # by the index, then the table
        with pytest.raises(CorruptRecord):
            write(state, "INSERT INTO people (name) VALUES ('Bob')")
        with state.store.write() as txn:
            txn.put(key, value, db=state.store.databases.items)
    assert rows(state, "SELECT name FROM people") == [["Ann"]]


def test_randomness_is_not_kept(state: State) -> None:
    request = QueryCollection("n", "c", "sql_query", pack_value({"sql": "SELECT random()"}))
    assert len({state.read(request.run).found.answer for _ in range(5)}) == 5
    assert state.machine.indexes.results.figures().entries == 0
    request = QueryCollection("n", "c", "sql_query", pack_value({"sql": "SELECT 1"}))
    assert len({state.read(request.run).found.answer for _ in range(5)}) == 1
    assert state.machine.indexes.results.figures().hits == 4


def test_a_view_that_becomes_random_is_not_kept(state: State) -> None:
    """Statements stay prepared, so that SQLite asks the rules anew only when the schema changes."""
    write(state, "CREATE VIEW v AS SELECT 1 AS n")
    request = QueryCollection("n", "c", "sql_query", pack_value({"sql": "SELECT n FROM v"}))
    assert len({state.read(request.run).found.answer for _ in range(3)}) == 1
    write(state, "DROP VIEW v", "CREATE VIEW v AS SELECT random() AS n")
    assert len({state.read(request.run).found.answer for _ in range(5)}) == 5


def test_a_connection_that_knows_many_random_statements_is_not_kept(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.relational.REMEMBERED_MAX", 10)
    for number in range(30):
        sql = f"SELECT random(), {number}"
        request = QueryCollection("n", "c", "sql_query", pack_value({"sql": sql}))
        assert len({state.read(request.run).found.answer for _ in range(2)}) == 2


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 'x' LIKE '%y%'",
        "SELECT hex(zeroblob(10))",
        "SELECT replace('aaa', 'a', 'b')",
        # Values that double, which no function makes.
        "WITH RECURSIVE c(x) AS (SELECT 'abcdefgh' UNION ALL SELECT x || x FROM c LIMIT 15) "
        "SELECT max(length(x)) FROM c",
    ],
)
def test_what_may_take_long_in_one_step_is_not_brief(state: State, sql: str) -> None:
    def ask(*, brief: bool) -> Any:
        with state.reader() as reader:
            reader.tuning = Tuning(brief=brief)
            return reader.collections.query("n", "c", "sql_query", {"sql": sql})[0]

    rows(state, "SELECT 1")  # so that there is a connection
    for _ in range(2):
        with pytest.raises(QueryCancelled):
            ask(brief=True)
        assert len(ask(brief=False)["rows"]) == 1


def test_a_statement_that_was_brief_is_not_when_its_view_changes(state: State) -> None:
    write(state, "CREATE VIEW v AS SELECT 1 AS n")
    rows(state, "SELECT 1")  # so that there is a connection

    def ask() -> Any:
        with state.reader() as reader:
            reader.tuning = Tuning(brief=True)
            return reader.collections.query("n", "c", "sql_query", {"sql": "SELECT n FROM v"})[0]

    assert ask()["rows"] == [[1]]
    write(state, "DROP VIEW v", "CREATE VIEW v AS SELECT upper('x') AS n")
    with pytest.raises(QueryCancelled):
        ask()


NOT_TEXT = "cast(x'ff00fe' AS TEXT)"


@pytest.mark.parametrize(
    "failing",
    [
        # Rows before and behind the one that cannot be shown.
        f"SELECT name FROM people UNION ALL SELECT {NOT_TEXT} UNION ALL SELECT name FROM people",
        f"SELECT {NOT_TEXT} FROM people",
        "SELECT abs(-9223372036854775808) FROM people",
        "SELECT name FROM people WHERE age = :age",
        "SELECT 1; SELECT 2",
    ],
)
def test_a_read_that_fails_leaves_no_snapshot_behind(state: State, failing: str) -> None:
    """The next read on its connection would be answered from it: an acknowledged write would be
    missing."""
    write(state, PEOPLE, *(f"INSERT INTO people (name) VALUES ('n{n}')" for n in range(5)))
    held: list[Exception] = []  # as whoever answers holds them for a while, with all their frames
    for number in range(3):
        with pytest.raises(InvalidArgument) as refused:
            rows(state, failing)
        held.append(refused.value)
        write(state, f"INSERT INTO people (name) VALUES ('later {number}')")
        assert rows(state, "SELECT count(*) FROM people") == [[6 + number]]


def test_a_connection_that_holds_a_snapshot_is_not_kept(state: State) -> None:
    """Whatever forgot to end a statement."""
    write(state, PEOPLE, *(f"INSERT INTO people (name) VALUES ('n{n}')" for n in range(5)))
    with state.store.read() as snapshot:
        collection = KvReader(snapshot, state.machine.registry).collections.find("n", "c")
        items = snapshot.databases.items
        view = View(snapshot.txn, items, collection, state.machine.applied_index)
        pool = Connections()
        reader = pool.take(view)
        cursor = reader.database.connection.execute("SELECT name FROM people")
        next(cursor)
        pool.give(reader)
        assert pool.take(view) is not reader


def test_text_that_is_not_utf8_says_how_to_see_it(state: State) -> None:
    write(state, PEOPLE, f"INSERT INTO people (name) VALUES ({NOT_TEXT})")
    with pytest.raises(InvalidArgument, match="CAST") as refused:
        rows(state, "SELECT name FROM people")
    assert refused.value.field == "parameters.sql"
    assert rows(state, "SELECT cast(name AS BLOB) FROM people") == [[{"base64": "/wD+"}]]


def test_one_statement_is_read_at_a_time(state: State) -> None:
    write(state, PEOPLE)
    with pytest.raises(InvalidArgument, match="one statement"):
        rows(state, "SELECT 1, 2; SELECT 3")
    assert rows(state, "SELECT 1; -- and no more\n ;") == [[1]]


def test_rows_of_two_statements_are_not_mixed(state: State) -> None:
    refused = write(
        state, f"{PEOPLE}; INSERT INTO people (name) VALUES ('a') RETURNING id; SELECT 1, 2"
    )
    assert isinstance(refused, Rejected)
    assert "statements" in refused.message
    (made,) = write(state, f"{PEOPLE}; INSERT INTO people (name) VALUES ('a') RETURNING id")
    assert (made["columns"], made["rows"]) == (["id"], [[1]])
