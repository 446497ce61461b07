"""`explain` and `GET /v1/optimizer`, over real HTTP, and the commands that show them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from node import cli
from node.client import HivememClient
from tests.engine_samples import SAMPLES, Sample
from tests.unit.client_nodes import addressed_door, door_address
from tests.unit.http_door import OpenDoor, Reply, open_door


async def post(door: OpenDoor, path: str, body: Any) -> Reply:
    return await door.request("POST", path, json.dumps(body).encode())


async def query(door: OpenDoor, collection: str, operation: str, **more: Any) -> Reply:
    body = {"collection": collection, "operation": operation, **more}
    return await post(door, "/v1/query", body)


async def filled(door: OpenDoor, sample: Sample) -> None:
    made = {"name": sample.engine, "engine": sample.engine, "settings": sample.settings}
    assert (await post(door, "/v1/collections", made)).status == 201
    for operation, parameters in [*sample.setup, *map(sample.write, range(3))]:
        reply = await query(door, sample.engine, operation, parameters=parameters)
        assert reply.status == 200, reply.body


READS: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    # engine: operation, parameters, what its plan says
    "document": (
        "document_find", {"filter": {"x": 1}}, {"plan", "index", "examined_documents"},
    ),
    "vector": (
        "vector_search", {"vector": [1, 0, 0, 0]}, {"strategy", "candidates", "rows", "width"},
    ),
    "text": ("text_search", {"query": "fox dog"}, {"match", "candidates"}),
    "relational": ("sql_query", {"sql": "SELECT 1"}, {"steps"}),
    "timeseries": (
        "series_downsample", {"metric": "cpu", "window_ms": 1000, "aggregates": ["avg"]},
        {"chunks", "points_scanned", "rollup_window_ms"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "sample", [each for each in SAMPLES if each.engine in READS], ids=lambda each: each.engine
)
async def test_explain_answers_the_same_and_says_how(tmp_path: Path, sample: Sample) -> None:
    operation, parameters, plan = READS[sample.engine]
    async with open_door(tmp_path) as door:
        await filled(door, sample)
        if sample.engine == "vector":
            parameters = {"vector": [1] * sample.settings["dimensions"]}
        plain = await query(door, sample.engine, operation, parameters=parameters)
        assert plain.status == 200, plain.body
        assert "explain" not in plain.json()
        reply = await query(door, sample.engine, operation, parameters=parameters, explain=True)
        assert reply.status == 200, reply.body
        explained = reply.json()["explain"]
        assert reply.json()["result"] == plain.json()["result"]
        assert plan <= set(explained["plan"])
        assert (explained["engine"], explained["node"]) == (sample.engine, "one")
        assert explained["cache"] == {"cacheable": True, "kept": True}
        assert explained["pattern"]["operation"] == operation
        assert explained["pattern"]["computed"] == 2


async def test_a_walk_says_what_it_visited(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        await post(door, "/v1/collections", {"name": "g", "engine": "graph"})
        for node in "abc":
            await query(door, "g", "graph_create_node", parameters={"id": node})
        for ends in ("ab", "bc"):
            edge = {"from": ends[0], "to": ends[1], "type": "t"}
            await query(door, "g", "graph_create_edge", parameters=edge)
        walk = {"start": "a"}
        reply = await query(door, "g", "graph_traverse", parameters=walk, explain=True)
        assert reply.json()["explain"]["plan"] == {"visited_nodes": 2, "followed_edges": 2}


async def test_sql_says_what_it_searches(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        await post(door, "/v1/collections", {"name": "s", "engine": "relational"})
        make = {"sql": "CREATE TABLE t (id INTEGER PRIMARY KEY, n TEXT)"}
        await query(door, "s", "sql_execute", parameters=make)
        for sql, params, word in (
            ("SELECT * FROM t WHERE id = ?", [1], "SEARCH t USING INTEGER PRIMARY KEY"),
            ("SELECT * FROM t WHERE n = :n", {"n": "x"}, "SCAN t"),
        ):
            parameters = {"sql": sql, "params": params}
            reply = await query(door, "s", "sql_query", parameters=parameters, explain=True)
            assert reply.json()["explain"]["plan"]["steps"][0].startswith(word)


async def test_writes_are_not_explained_nor_done(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        await post(door, "/v1/collections", {"name": "d", "engine": "document"})
        insert = {"documents": [{"_id": "a"}]}
        reply = await query(door, "d", "document_insert", parameters=insert, explain=True)
        assert (reply.status, reply.json()["error"]["field"]) == (400, "explain")
        reply = await query(door, "d", "document_count")
        assert reply.json()["result"] == {"count": 0}
        reply = await query(door, "d", "document_count", explain=1)
        assert (reply.status, reply.json()["error"]["field"]) == (400, "explain")


async def test_what_the_optimizer_has_seen(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        await post(door, "/v1/collections", {"name": "d", "engine": "document"})
        for n in (1, 1, 2):
            await query(door, "d", "document_count", parameters={"filter": {"a": n}})
        await query(door, "d", "document_get", parameters={"id": "a"})
        view = (await door.request("GET", "/v1/optimizer")).json()
        assert view["enabled"] is True
        assert (view["executions"], view["cache_hits"]) == (4, 1)
        assert view["patterns"] == {"count": 2, "max": 1000, "forgotten": 0}
        (cache,) = view["cache"]
        assert (cache["hits"], cache["misses"], cache["hit_rate"]) == (1, 3, 0.25)
        assert view["recommendations"] == []
        assert {each["operation"] for each in view["items"]} == {"document_count", "document_get"}
        some = (await door.request("GET", "/v1/optimizer?limit=1")).json()
        assert len(some["items"]) == 1
        reply = await door.request("GET", "/v1/optimizer?limit=0")
        assert (reply.status, reply.json()["error"]["field"]) == (400, "limit")


async def run(capture: pytest.CaptureFixture[str], *arguments: str) -> str:
    capture.readouterr()
    assert await asyncio.to_thread(cli.main, arguments) == 0
    return capture.readouterr().out


async def test_the_commands_show_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with addressed_door(tmp_path) as door:
        monkeypatch.setenv("HIVEMEM_ENDPOINTS", door_address(door))
        await post(door, "/v1/collections", {"name": "d", "engine": "document"})
        shown = await run(
            capsys, "query", "d", "document_find", '{"filter": {"a": 1}}', "--explain"
        )
        assert "cacheable" in shown
        assert "all_documents" in shown
        asked = ("query", "d", "document_find", '{"filter": {"a": 1}}', "--explain", "-o", "json")
        answer = json.loads(await run(capsys, *asked))
        assert answer["result"]["items"] == []
        assert answer["explain"]["pattern"]["computed"] == 2
        table = await run(capsys, "optimizer")
        assert "1 patterns, 2 executions" in table
        assert "{filter:{a:? } }" in table
        whole = json.loads(await run(capsys, "optimizer", "-o", "json"))
        assert whole["items"][0]["executions"] == 2


async def test_the_client_asks_for_it(tmp_path: Path) -> None:
    async with addressed_door(tmp_path) as door:
        await post(door, "/v1/collections", {"name": "d", "engine": "document"})
        async with HivememClient([door_address(door)]) as client:
            answer = await client.query("default", "d", "document_count", explain=True)
            assert answer["result"] == {"count": 0}
            assert answer["explain"]["engine"] == "document"
            assert "explain" not in await client.query("default", "d", "document_count")
            assert (await client.optimizer(limit=5))["executions"] == 2
