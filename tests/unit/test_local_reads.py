"""Which thread answers a query: the event loop's, while it is brief."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engines.codec import pack_value, unpack_value
from engines.collection_requests import QueryCollection
from engines.kv import KvReader
from engines.space import STOP_ITEMS
from node.clock import SystemClock
from node.local_reads import LocalReads, ReaderThreads
from tests.unit.engine_state import State, checked_state

CLOCK = SystemClock()


@contextmanager
def watched(state: State) -> Iterator[tuple[LocalReads, list[str]]]:
    """Reads of a state, and the names of the threads that opened it."""
    opened: list[str] = []

    @contextmanager
    def readers() -> Iterator[KvReader]:
        opened.append(threading.current_thread().name)
        with state.reader() as reader:
            yield reader

    with ThreadPoolExecutor(1, thread_name_prefix="reader") as executor:
        yield LocalReads(readers, ReaderThreads(executor, CLOCK)), opened


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with checked_state(tmp_path) as state:
        state.collection("collection_create", "docs", {"engine": "document", "settings": {}})
        state.collection("collection_create", "sql", {"engine": "relational", "settings": {}})
        state.collection("collection_create", "words", {"engine": "text", "settings": {}})
        yield state


def write(state: State, name: str, operation: str, **parameters: Any) -> None:
    engine = state.machine.registry.operations[operation].engine
    state.collection(operation, name, engine.prepare(operation, parameters))


def insert(state: State, count: int, text: str = "") -> None:
    documents = [{"_id": f"d{number:04}", "text": text} for number in range(count)]
    write(state, "docs", "document_upsert", documents=documents)


async def ask(reads: LocalReads, name: str, operation: str, **parameters: Any) -> Any:
    request = QueryCollection("n", name, operation, pack_value(parameters))
    return unpack_value((await reads.run(request, CLOCK.monotonic() + 10)).found.answer)


async def test_a_brief_query_is_answered_by_the_loop(state: State) -> None:
    insert(state, 10)
    with watched(state) as (reads, opened):
        (item,) = (await ask(reads, "docs", "document_get", id="d0003"))["items"]
        assert item["id"] == "d0003"
        assert opened == ["MainThread"]


@pytest.mark.parametrize(("count", "text"), [(STOP_ITEMS * 2, ""), (8, "x" * 100_000)])
async def test_one_that_looks_at_much_goes_on_elsewhere(
    state: State, count: int, text: str
) -> None:
    """By their number, or by their bytes."""
    insert(state, count, text)
    with watched(state) as (reads, opened):
        answer = await ask(reads, "docs", "document_count", filter={"text": {"$ne": 1}})
        assert answer == {"count": count}
        assert opened[0] == "MainThread"
        assert opened[1].startswith("reader")
        await ask(reads, "docs", "document_count", filter={"text": {"$ne": 1}})
        assert opened[2:] == ["MainThread"]  # out of the cache


async def test_statements_that_take_long_go_on_elsewhere(state: State) -> None:
    write(state, "sql", "sql_execute", sql="CREATE TABLE t (n)")
    slow = (
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 100000) "
        "SELECT count(*) FROM c"
    )
    with watched(state) as (reads, opened):
        await ask(reads, "sql", "sql_query", sql="SELECT 1")  # which opens a connection elsewhere
        opened.clear()
        assert (await ask(reads, "sql", "sql_query", sql="SELECT 2"))["rows"] == [[2]]
        assert opened == ["MainThread"]
        assert (await ask(reads, "sql", "sql_query", sql=slow))["rows"] == [[100000]]
        assert opened[1] == "MainThread"
        assert opened[2].startswith("reader")
        opened.clear()
        for number in range(500):  # whose steps SQLite adds up
            await ask(reads, "sql", "sql_query", sql="SELECT ?", params=[number])
        assert set(opened) == {"MainThread"}


async def test_an_index_is_not_built_by_the_loop(state: State) -> None:
    write(state, "words", "text_insert", documents=[{"id": "a", "fields": {"text": "fox"}}])
    with watched(state) as (reads, opened):
        answer = await ask(reads, "words", "text_search", query="fox")
        assert [hit["id"] for hit in answer["hits"]] == ["a"]
        assert [name == "MainThread" for name in opened] == [True, False]


@pytest.mark.parametrize(
    ("operation", "given"),
    [
        ("document_count", {"filter": {"text": {"$regex": "^f"}}}),
        ("document_aggregate", {"pipeline": [{"$match": {"text": {"$regex": "^f"}}}]}),
        ("document_aggregate", {"pipeline": [{"$skip": 1}, {"$match": {"t": {"$regex": "x"}}}]}),
        ("document_get", {"ids": [f"d{n:09}" for n in range(900)]}),  # a large request
    ],
)
async def test_what_may_take_long_for_one_item_is_not_begun_on_the_loop(
    state: State, operation: str, given: dict[str, Any]
) -> None:
    insert(state, 3, "fox")
    with watched(state) as (reads, opened):
        await ask(reads, "docs", operation, **given)
        assert [name == "MainThread" for name in opened] == [True, False]
