"""SQL over items against SQLite in memory, with everything that may happen in between."""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from engines.check import check
from engines.interfaces import CollectionResult
from engines.relational import RELATIONAL
from tests.property.test_text_model import replace
from tests.unit.engine_state import State

KEYS = st.integers(0, 30)
VALUES = st.none() | st.integers(-9, 9) | st.text("ab'\0", max_size=4) | st.just("x" * 3000)
STATEMENTS = st.one_of(
    st.tuples(st.just("INSERT INTO t VALUES (?, ?)"), st.tuples(KEYS, VALUES)),
    st.tuples(st.just("INSERT OR REPLACE INTO t VALUES (?, ?)"), st.tuples(KEYS, VALUES)),
    st.tuples(st.just("INSERT OR IGNORE INTO t VALUES (?, ?)"), st.tuples(KEYS, VALUES)),
    st.tuples(st.just("UPDATE t SET b = ? WHERE a < ?"), st.tuples(VALUES, KEYS)),
    st.tuples(st.just("UPDATE t SET a = a + 1 WHERE a > ?"), st.tuples(KEYS)),
    st.tuples(st.just("DELETE FROM t WHERE a BETWEEN ? AND ?"), st.tuples(KEYS, KEYS)),
    st.tuples(st.just("CREATE INDEX IF NOT EXISTS i ON t (b)"), st.just(())),
    st.tuples(st.just("DROP INDEX IF EXISTS i"), st.just(())),
)
STEPS = st.lists(
    st.lists(STATEMENTS, min_size=1, max_size=4) | st.sampled_from(["reopen", "replace"]),
    max_size=12,
)
ALL = "SELECT a, b FROM t ORDER BY a"
CREATE = "CREATE TABLE t (a INTEGER PRIMARY KEY, b)"


def plain(oracle: sqlite3.Connection, statements: list[tuple[str, tuple[Any, ...]]]) -> bool:
    """The same, all or nothing; did it succeed?"""
    oracle.execute("BEGIN")
    try:
        for sql, params in statements:
            oracle.execute(sql, params)
    except sqlite3.IntegrityError:
        oracle.execute("ROLLBACK")
        return False
    oracle.execute("COMMIT")
    return True


def write(state: State, statements: list[tuple[str, tuple[Any, ...]]]) -> bool:
    listed = [{"sql": sql, "params": list(params)} for sql, params in statements]
    body = RELATIONAL.prepare("sql_execute", {"statements": listed})
    return isinstance(state.collection("sql_execute", "c", body), CollectionResult)


@given(STEPS)
@settings(max_examples=40)
def test_it_answers_as_sqlite_does(steps: list[Any]) -> None:
    oracle = sqlite3.connect(":memory:", isolation_level=None)
    oracle.execute(CREATE)
    with tempfile.TemporaryDirectory() as folder:
        state = State(Path(folder) / "one")
        twin = State(Path(folder) / "two")
        for each in (state, twin):
            each.collection("collection_create", "c", {"engine": "relational", "settings": {}})
            write(each, [(CREATE, ())])
        for step in steps:
            if step == "reopen":
                state.reopen()
            elif step == "replace":
                replace(state, Path(folder))
            else:
                succeeded = plain(oracle, step)
                assert write(state, step) is succeeded
                assert write(twin, step) is succeeded
            found = state.query("c", "sql_query", sql=ALL)["rows"]
            assert [tuple(row) for row in found] == oracle.execute(ALL).fetchall()
        # The bytes, too: what either connection had cached shows nowhere.
        assert state.digest() == twin.digest()
        with state.store.read() as snapshot:
            assert check(snapshot) == []
        state.machine.close()
        twin.machine.close()
    oracle.close()
