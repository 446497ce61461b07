"""What one step of SQLite may take, and what it may not decide for one replica alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.collection_writes import MESSAGE_CHARACTERS_MAX
from engines.errors import InvalidArgument
from engines.interfaces import CollectionResult, RejectCode, Rejected
from engines.relational_functions import (
    CALL_BYTES,
    PRODUCT_MAX,
    WORK_BYTES_MAX,
    Work,
    counted_functions,
)
from engines.relational_pages import Database
from tests.unit.engine_state import State, checked_state
from tests.unit.test_poison_commands import create, sql

OWN = apsw.Connection(":memory:")
FUNCTIONS = [
    (each.name, 2 if each.arguments < 0 else each.arguments)
    for each in counted_functions(lambda *_: None, Work())
]
VALUES = st.one_of(
    st.text(st.sampled_from("ab \x00é😀"), max_size=6),
    st.text(st.sampled_from("abAB%_*?"), max_size=8),
    st.binary(max_size=4),
    st.none(),
    st.integers(-100, 100),
    st.sampled_from([0.5, 1e20, -0.0, 1e300]),
)


@pytest.fixture
def crm(tmp_path: Path) -> Iterator[State]:
    with checked_state(tmp_path / "state") as state:
        create(state, "relational")
        sql(state, "CREATE TABLE t (n INTEGER PRIMARY KEY, v)")
        yield state


class NoPages:
    def get(self, key: bytes) -> bytes | None:
        return None


@pytest.mark.parametrize(("name", "arguments"), FUNCTIONS)
@given(values=st.tuples(VALUES, VALUES, VALUES))
def test_functions_answer_as_sqlites_own_do(
    name: str, arguments: int, values: tuple[object, ...]
) -> None:
    """Those of writes: reads have some of the same."""
    given = values[:arguments]
    database = connections.setdefault("one", Database(NoPages(), writable=True))
    statement = f"SELECT {name}({', '.join('?' * len(given))})"

    def answer(connection: apsw.Connection) -> object:
        try:
            ((found,),) = connection.execute(statement, given)
        except apsw.SQLError as error:
            return str(error)
        except UnicodeDecodeError:  # a blob that was taken for text
            return "no text"
        return found, type(found)

    assert answer(database.connection) == answer(OWN)


connections: dict[str, Database] = {}


@pytest.mark.parametrize(
    "text",
    [
        "trim(printf('%.*c', 8000000, 'a'), printf('%.*c', 8000000, 'b'))",
        "instr(printf('%.*c', 8000000, 'a'), printf('%.*c', 4000000, 'a') || 'b')",
        "replace(printf('%.*c', 8000000, 'a'), printf('%.*c', 4000000, 'a') || 'b', '')",
        "replace(printf('%.*c', 8000000, 'a'), 'a', printf('%.*c', 8000000, 'b'))",
        "unhex(printf('%.*c', 8000000, 'a'), printf('%.*c', 8000000, 'b'))",
        "unhex(zeroblob(8000000), zeroblob(8000000))",
        "'a' LIKE printf('%.*c', 300, 'a')",
        "'a' GLOB printf('%.*c', 300, 'a')",
    ],
)
def test_a_step_that_would_take_for_ever_is_refused(crm: State, text: str) -> None:
    """Nothing would interrupt it, and every replica would be at it again after its restart."""
    refused = sql(crm, f"INSERT INTO t VALUES (1, {text})")
    assert isinstance(refused, Rejected)
    with pytest.raises(InvalidArgument) as error:
        crm.query("c", "sql_query", sql=f"SELECT {text}")
    assert error.value.field == "parameters.sql"


ROWS = (
    "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < {}) "
    "INSERT INTO t (v) SELECT sum({}) FROM c"
)


@pytest.mark.parametrize(
    ("expression", "params", "calls"),
    [
        ("length(hex(? || (i % 2)))", ["0" * 4_000_000], 5),
        ("length(quote(? || (i % 2)))", ["0" * 4_000_000], 8),
        ("length(upper(? || (i % 2)))", ["a" * 4_000_000], 8),
        ("length(replace(? || (i % 2), 'b', 'c'))", ["a" * 4_000_000], 7),
        ("length(trim(? || (i % 2)))", ["a" * 4_000_000], 8),
        ("length(printf('%.*c', 4000000 + i % 2, 'a'))", [], 16),
        ("'a' LIKE '%' || i", [], 128_000),
        ("? LIKE ?2 || (i % 2)", ["0" * 500_000, "%" + "0" * 250], 4),
        ("? GLOB ?2 || (i % 2)", ["0" * 500_000, "*" + "0" * 250], 4),
        ("random() < 0", [], 130_000),
        ("length(randomblob(1000000))", [], 4),
    ],
)
def test_functions_of_a_write_have_a_budget_together(
    crm: State, expression: str, params: list[str], calls: int
) -> None:
    """A call is one step of SQLite's machine, however large what it goes through."""
    assert isinstance(sql(crm, ROWS.format(calls, expression), params), CollectionResult)
    refused = sql(crm, ROWS.format(calls + 1 + calls // 50, expression), params)
    assert isinstance(refused, Rejected)
    assert (refused.code, refused.field) == (RejectCode.LIMIT_EXCEEDED, "parameters.sql")
    assert f"over {WORK_BYTES_MAX} bytes" in refused.message


def test_statements_of_a_write_share_the_budget(crm: State) -> None:
    half = [ROWS.format(WORK_BYTES_MAX // CALL_BYTES // 2, "random() < 0"), []]
    assert isinstance(crm.collection("sql_execute", "c", [half]), CollectionResult)
    refused = crm.collection("sql_execute", "c", [half, half, half])
    assert isinstance(refused, Rejected)
    assert refused.code is RejectCode.LIMIT_EXCEEDED


def test_sizes_below_the_bound_are_no_matter(crm: State) -> None:
    half = int(PRODUCT_MAX**0.5)
    text = f"SELECT instr(printf('%.*c', {half}, 'a'), printf('%.*c', {half}, 'a'))"
    assert crm.query("c", "sql_query", sql=text)["rows"] == [[1]]


def test_functions_may_stand_in_a_schema(crm: State) -> None:
    for statement in (
        "CREATE TABLE s (v, w AS (trim(v, ' ')) STORED, r DEFAULT (random()), "
        "CHECK (instr(v, 'x') = 0))",
        "CREATE INDEX i ON s (replace(v, 'a', 'b'))",
        "CREATE TRIGGER g AFTER INSERT ON s BEGIN UPDATE t SET v = hex(randomblob(4)); END",
        "INSERT INTO t VALUES (1, NULL)",
        "INSERT INTO s (v) VALUES (' abc ')",
    ):
        assert isinstance(sql(crm, statement), CollectionResult), statement
    found = crm.query("c", "sql_query", sql="SELECT w FROM s WHERE replace(v, 'a', 'b') = ' bbc '")
    assert found["rows"] == [["abc"]]
    ((drawn,),) = crm.query("c", "sql_query", sql="SELECT length(v) FROM t")["rows"]
    assert drawn == 8


def test_a_lack_of_memory_is_no_refusal(crm: State) -> None:
    """It is of this replica alone: the others would do the write."""
    statement = "INSERT INTO t VALUES (1, zeroblob(4000000))"
    apsw.hard_heap_limit(apsw.memory_used() + (2 << 20))
    try:
        with pytest.raises(apsw.NoMemError):
            sql(crm, statement)
        with pytest.raises(apsw.NoMemError):
            crm.query("c", "sql_query", sql="SELECT hex(zeroblob(3000000))")
    finally:
        apsw.hard_heap_limit(0)
    assert isinstance(sql(crm, statement), CollectionResult)


@pytest.mark.parametrize("kind", ["EXPLAIN", "EXPLAIN QUERY PLAN"])
def test_addresses_of_a_process_are_no_answer_of_a_write(crm: State, kind: str) -> None:
    sql(crm, "CREATE VIRTUAL TABLE f USING fts5(a)")
    refused = sql(crm, f"{kind} SELECT * FROM f")
    assert isinstance(refused, Rejected)
    assert "EXPLAIN is for sql_query" in refused.message
    assert crm.query("c", "sql_query", sql=f"{kind} SELECT * FROM f")["rows"]


def test_a_message_of_megabytes_is_not_kept(crm: State) -> None:
    """Refusals are kept with request ids."""
    text = "SELECT RAISE(ABORT, CAST(x'ff' AS TEXT) || new.v)"
    sql(crm, f"CREATE TRIGGER g AFTER INSERT ON t BEGIN {text}; END")
    body = [["INSERT INTO t VALUES (1, printf('%.*c', 3000000, 'x'))", []]]
    refused = crm.collection("sql_execute", "c", body, request_id="r")
    assert isinstance(refused, Rejected)
    assert len(refused.message) == MESSAGE_CHARACTERS_MAX
    assert crm.collection("sql_execute", "c", body, request_id="r") == refused


def test_words_and_boxes_are_indexed(crm: State) -> None:
    """fts5 and rtree ask for pragmas of their own; a connection that is kept sees what changed."""
    for statement in (
        "CREATE VIRTUAL TABLE f USING fts5(a)",
        "CREATE VIRTUAL TABLE r USING rtree(id, low, high)",
        "INSERT INTO f VALUES ('bees dance'), ('flowers')",
        "INSERT INTO r VALUES (1, 0, 5), (2, 4, 9)",
    ):
        assert isinstance(sql(crm, statement), CollectionResult), statement
    words = "SELECT rowid FROM f WHERE f MATCH 'bees' ORDER BY rank"
    boxes = "SELECT id FROM r WHERE high > 6"
    assert crm.query("c", "sql_query", sql=words)["rows"] == [[1]]
    sql(crm, "INSERT INTO f VALUES ('flies and bees')")
    assert crm.query("c", "sql_query", sql=words)["rows"] == [[1], [3]]
    assert crm.query("c", "sql_query", sql=boxes)["rows"] == [[2]]
    sql(crm, "DELETE FROM r WHERE id = 2")
    assert crm.query("c", "sql_query", sql=boxes)["rows"] == []
    refused = sql(crm, "PRAGMA page_size = 4096")
    assert isinstance(refused, Rejected)
