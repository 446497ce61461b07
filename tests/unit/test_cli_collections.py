"""Collections on the command line: what a query's answer looks like, how a write is repeated."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from node.cli_answers import cell
from node.errors import Unavailable
from tests.unit.cli_shell import Shell, open_shell

LOST = Unavailable("lost", code="OUTCOME_UNKNOWN", definite=False)


@pytest.fixture
async def run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> AsyncIterator[Shell]:
    async with open_shell(tmp_path, monkeypatch, capsysbinary) as shell:
        yield shell


async def shown(run: Shell, collection: str, operation: str, **parameters: Any) -> list[str]:
    """Lines, without the space that aligns them."""
    ran = await run("query", collection, operation, json.dumps(parameters))
    assert (ran.status, ran.err) == (0, "")
    return [re.sub(r"  +", "  ", line) for line in ran.text.splitlines()]


async def test_a_write_of_unknown_outcome_names_its_request_id(run: Shell):
    await run.client.create_collection("default", "t", "text")
    run.door.router.error = LOST
    insert = ("query", "t", "text_insert", '{"documents": [{"text": "bees"}]}')
    ran = await run(*insert, "--timeout-ms", "300")
    assert ran.status == 5
    found = re.search(r"--request-id (\S+)\)", ran.err)
    assert found
    told = await run(*insert, "--timeout-ms", "300", "--request-id", found[1], "-o", "json")
    error = json.loads(told.err)["error"]
    assert (error["code"], error["definite"]) == ("OUTCOME_UNKNOWN", False)
    assert error["request_id"] == found[1]
    run.door.router.error = None
    for _ in range(2):
        assert (await run(*insert, "--request-id", found[1])).status == 0
    assert await shown(run, "t", "text_count") == ["count: 1"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("create", "c", "text"), "created"),
        (("alter", "t", "--settings", '{"language": "none"}'), "changed"),
        (("drop", "t"), "dropped"),
    ],
)
async def test_a_change_of_a_collection_can_be_repeated(
    run: Shell, arguments: tuple[str, ...], said: str
):
    await run.client.create_collection("default", "t", "text")
    run.door.router.error = LOST
    ran = await run("collection", *arguments, "--timeout-ms", "300")
    found = re.search(r"--request-id (\S+)\)", ran.err)
    assert found
    run.door.router.error = None
    for _ in range(2):
        again = await run("collection", *arguments, "--request-id", found[1])
        assert again.text.startswith(said)


async def test_a_read_has_no_request_id(run: Shell):
    await run.client.create_collection("default", "t", "text")
    run.door.router.barrier_error = LOST
    ran = await run("query", "t", "text_count", "--timeout-ms", "300", "-o", "json")
    assert ran.status == 5
    assert json.loads(ran.err)["error"]["request_id"] is None


async def test_every_column_of_a_join_is_shown(run: Shell):
    await run.client.create_collection("default", "crm", "relational")
    statements = ["CREATE TABLE a (id, name)", "CREATE TABLE b (id, a)"]
    statements += ["INSERT INTO a VALUES (1, 'Ann')", "INSERT INTO b VALUES (7, 1)"]
    await shown(run, "crm", "sql_execute", statements=[{"sql": each} for each in statements])
    joined = "SELECT * FROM a JOIN b ON b.a = a.id"
    assert await shown(run, "crm", "sql_query", sql=joined) == [
        "ID  NAME  ID  A",
        "1  Ann  7  1",
        "truncated: false",
    ]
    nothing = await shown(run, "crm", "sql_query", sql="SELECT * FROM a WHERE id = 9")
    assert nothing == ["nothing found", "truncated: false"]


@pytest.mark.parametrize("statement", ["MATCH (a:P) RETURN a.id", "CREATE (:P {id: 'b'})"])
async def test_a_plan_is_shown_as_a_table(run: Shell, statement: str):
    await run.client.create_collection("default", "g", "graph")
    explained = await shown(run, "g", "graph_query", query=statement, explain=True)
    assert "OPERATOR" in explained[0]
    assert await shown(run, "g", "graph_query", query=f"EXPLAIN {statement}") == explained


async def test_a_write_says_what_it_did(run: Shell):
    await run.client.create_collection("default", "g", "graph")
    (line,) = await shown(run, "g", "graph_execute", query="CREATE (:P {id: 'ann'})")
    assert line.startswith("summary: ")
    assert '"nodes_created": 1' in line
    lines = await shown(run, "g", "graph_execute", query="MATCH (a:P) SET a.n = 1 RETURN a.n AS n")
    assert lines[:2] == ["N", "1"]
    assert '"properties_set": 1' in lines[2]
    none = await shown(run, "g", "graph_execute", query="MATCH (a:Q) SET a.n = 1 RETURN a.n AS n")
    assert [line.partition(":")[0] for line in none] == ["summary"]


async def test_an_answer_with_nothing_in_it_says_so(run: Shell):
    for engine in ("graph", "document", "text", "timeseries"):
        await run.client.create_collection("default", engine, engine)
    for engine, operation, parameters in (
        ("graph", "graph_get", {"id": "nobody"}),
        ("graph", "graph_query", {"query": "MATCH (a) RETURN a"}),
        ("graph", "graph_list_nodes", {}),
        ("document", "document_get", {"id": "nobody"}),
        ("document", "document_get", {"ids": ["nobody", "none"]}),
        ("document", "document_find", {}),
        ("document", "document_distinct", {"field": "a"}),
        ("text", "text_get", {"ids": ["none"]}),
        ("timeseries", "series_range", {"metric": "m", "from": 0, "to": 9}),
    ):
        assert await shown(run, engine, operation, **parameters) == ["nothing found"], operation
    lines = await shown(run, "text", "text_search", query="bees")
    assert lines == ["nothing found", "exhaustive: true"]


async def test_one_of_several_that_is_not_there_keeps_its_row(run: Shell):
    await run.client.create_collection("default", "d", "document")
    await run.client.query("default", "d", "document_insert", {"document": {"_id": "a"}})
    lines = await shown(run, "d", "document_get", ids=["none", "a"])
    assert lines[0].startswith("ID  VERSION")
    assert set(lines[1].split()) == {"-"}
    assert lines[2].startswith("a  1  ")
    await run.client.query("default", "d", "document_insert", {"document": {"n": None}})
    assert await shown(run, "d", "document_distinct", field="n") == ["VALUE", "null"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (2e-06, "0.000002"),
        (1.23456789e-06, "0.00000123457"),
        (-4.5e-07, "-0.00000045"),
        (0.1 + 0.2, "0.3"),
        (12.34567891, "12.3457"),
        (99999.96, "100000"),
        (123456789.4, "123456789"),
        (3e-15, "3e-15"),
        (2.5e20, "2.5e+20"),
    ],
)
def test_numbers_keep_what_can_be_read_of_them(value: float, text: str):
    assert cell(value) == text
